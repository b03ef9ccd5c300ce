// Package outbox relays events from the outbox table to the bus.
//
// It owns order and retries: one relay at a time leads; many events are in flight, but those of
// one object (tenant, kind, object) are sent one after the other; acknowledged events are marked;
// an outage is retried with exponential back-off and does not count as an attempt of an event; an
// event that the bus rejects is parked, and blocks its own object alone. It does not know SQL or
// NATS.
//
//	follower ──lock──▶ leader: pending? ─▶ published ─▶ acknowledged ─▶ marked sent
//	    ▲                 │                    │ outage: back off, retry
//	    └── session lost ─┘                    └ rejected: an attempt; after the last, parked
//
// Delivery is at least once: after a crash between acknowledged and marked an event is sent
// again, under the same id, and the stream drops duplicates within its window.
package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"go.opentelemetry.io/otel/attribute"

	"iam-service/internal/telemetry/tracing"
)

// Event is one row of the outbox.
type Event struct {
	Seq        int64
	ID         string
	Type       string
	Tenant     string // empty: of the platform
	Kind       string
	Object     string
	Data       json.RawMessage
	OccurredAt time.Time
	Tries      int
	Round      int // how often it was replayed

	TraceParent string // trace context of the request that changed something; empty: it has none
}

// MessageID is the id by which the stream detects duplicates. A replay must not be dropped as a
// duplicate, so each round has its own. The CloudEvents id stays.
func (e *Event) MessageID() string {
	if e.Round == 0 {
		return e.ID
	}
	return fmt.Sprintf("%s.%d", e.ID, e.Round)
}

// key identifies the object, whose events keep their order.
func (e *Event) key() string { return e.Tenant + "\x00" + e.Kind + "\x00" + e.Object }

// Subject is iam.<tenant or _>.<kind>.<object>.<type>. Characters that a token of a subject
// cannot have are percent-encoded.
func (e *Event) Subject() string {
	tenant := e.Tenant
	if tenant == "" {
		tenant = "_"
	}
	return "iam." + tenant + "." + e.Kind + "." + encode(e.Object) + "." + e.Type
}

func encode(object string) string {
	var b strings.Builder
	for i := range len(object) {
		switch c := object[i]; {
		case c <= ' ' || c > '~' || strings.IndexByte(".*>%", c) >= 0:
			fmt.Fprintf(&b, "%%%02X", c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// CloudEvent is the event as it is published (CloudEvents 1.0, JSON).
func (e *Event) CloudEvent() ([]byte, error) {
	ce := event.New()
	ce.SetID(e.ID)
	ce.SetSource("iam-service")
	ce.SetType(e.Type)
	ce.SetSubject(e.Object)
	ce.SetTime(e.OccurredAt.UTC())
	if e.TraceParent != "" { // the distributed tracing extension of CloudEvents
		ce.SetExtension("traceparent", e.TraceParent)
	}
	if err := ce.SetData(event.ApplicationJSON, e.Data); err != nil {
		return nil, err
	}
	return json.Marshal(ce)
}

// Queue is the outbox.
type Queue interface {
	// Lead returns a session in which this replica is the relay. It fails with ErrFollower where
	// another one is.
	Lead(ctx context.Context) (Session, error)
}

// ErrFollower is the error of Lead while another replica relays.
var ErrFollower = errors.New("another replica relays")

// AfterRefusal is what the relay does with an event that the bus has rejected.
type AfterRefusal int

// The ways to go on after a rejection.
const (
	TryAgain AfterRefusal = iota
	Park                  // until an operator acts; later events of its object wait
)

// Session is the leadership of a replica. It ends with its connection: then another one may lead.
type Session interface {
	// Pending returns unsent events, the oldest first, without those that a parked one blocks.
	Pending(ctx context.Context, most int) ([]Event, error)
	// Sent marks events that the bus has acknowledged.
	Sent(ctx context.Context, seqs []int64) error
	// Refused records that the bus rejected an event, and what follows.
	Refused(ctx context.Context, seq int64, why string, then AfterRefusal) error
	// Stream records when the stream was created, and returns when the previous one was: the same,
	// unless the stream was lost.
	Stream(ctx context.Context, created time.Time) (before time.Time, err error)
	// Replay makes events pending again, if an operator requested it. It returns how many.
	Replay(ctx context.Context) (int64, error)
	// Wait returns when there may be a new event, or after a second.
	Wait(ctx context.Context) error
	Close()
}

// Bus is where events are published.
type Bus interface {
	// Ready creates the stream if there is none, and returns when it was created.
	Ready(ctx context.Context) (created time.Time, err error)
	// Publish sends a message. The channel receives its acknowledgement: nil when it is stored.
	Publish(m Message) <-chan error
}

// Message is an event as the bus gets it.
type Message struct {
	Subject     string
	ID          string // by which the stream detects duplicates
	Body        []byte
	TraceParent string // of its header; empty: it has none
}

// RefusedError is a permanent rejection of one message by the bus.
type RefusedError struct{ Cause error }

func (e *RefusedError) Error() string { return "refused: " + e.Cause.Error() }
func (e *RefusedError) Unwrap() error { return e.Cause }

// AwayError is an outage of the bus.
type AwayError struct{ Cause error }

func (e *AwayError) Error() string { return "the bus is away: " + e.Cause.Error() }
func (e *AwayError) Unwrap() error { return e.Cause }

// AckWait is the timeout of an acknowledgement.
const AckWait = 10 * time.Second

// Limits.
const (
	batch    = 1000
	tries    = 5
	minPause = 200 * time.Millisecond
	maxPause = 5 * time.Second // events are late for no longer after an outage of the bus

	checkEvery = 10 * time.Second // of the stream
	markEvery  = time.Second      // of acknowledged events

	refusedPause = time.Second
	leadPause    = time.Second // after a failure of the queue: where it accepts no changes, it fails again at once
)

// Config of a Relay.
type Config struct {
	Queue   Queue
	Bus     Bus
	Log     *slog.Logger
	Tracing *tracing.Tracing    // nil: off
	OnSent  func(kind string)   // called for each acknowledged event; may be nil
	OnError func(reason string) // called for each failure of the bus: "unavailable", "refused", "stream"; may be nil
}

// Relay sends events while it leads.
type Relay struct {
	cfg Config

	mu       sync.Mutex
	recreate bool // the stream is younger than events that were sent to it
}

// New returns a relay.
func New(cfg Config) *Relay {
	if cfg.OnSent == nil {
		cfg.OnSent = func(string) {}
	}
	if cfg.OnError == nil {
		cfg.OnError = func(string) {}
	}
	return &Relay{cfg: cfg}
}

// Recreated reports whether the stream is younger than events that were sent to it: they are
// lost there, and "events replay" sends them again.
func (r *Relay) Recreated() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.recreate
}

// Run relays until ctx ends.
func (r *Relay) Run(ctx context.Context) {
	for ctx.Err() == nil {
		s, err := r.cfg.Queue.Lead(ctx)
		if err != nil {
			if !errors.Is(err, ErrFollower) && ctx.Err() == nil {
				r.cfg.Log.WarnContext(ctx, "cannot lead the relay of events", slog.Any("err", err))
			}
			pause(ctx, 2*time.Second)
			continue
		}
		r.cfg.Log.InfoContext(ctx, "relaying events")
		err = r.lead(ctx, s)
		s.Close()
		r.lost(false) // the next leader reports it
		if err != nil && ctx.Err() == nil {
			r.cfg.Log.WarnContext(ctx, "stopped relaying events", slog.Any("err", err))
			pause(ctx, leadPause)
		}
	}
}

// lead sends pending events until the session is lost.
func (r *Relay) lead(ctx context.Context, s Session) error {
	wait := minPause
	var checked time.Time // also without events: a lost stream is reported soon
	for ctx.Err() == nil {
		if time.Since(checked) > checkEvery {
			if err := r.check(ctx, s); err != nil {
				if _, queue := errors.AsType[*queueError](err); queue {
					return err
				}
				reason := "stream"
				if _, away := errors.AsType[*AwayError](err); away {
					reason = "unavailable"
				}
				r.cfg.OnError(reason)
				r.cfg.Log.WarnContext(ctx, "the stream of events cannot be used now", slog.String("reason", reason), slog.Any("err", err))
				if err := r.backOff(ctx, s, &wait); err != nil {
					return err
				}
				continue
			}
			checked = time.Now()
		}
		if n, err := s.Replay(ctx); err != nil {
			return err
		} else if n > 0 {
			r.cfg.Log.InfoContext(ctx, "sending events again", slog.Int64("events", n))
			checked = time.Time{} // the replay fills a lost stream
		}
		events, err := s.Pending(ctx, batch)
		if err != nil {
			return err
		}
		if len(events) == 0 {
			if err := s.Wait(ctx); err != nil {
				return err
			}
			continue
		}
		sent, refused, outage, err := r.send(ctx, s, events)
		if err != nil {
			return err
		}
		if outage == nil {
			wait = minPause
			if refused > 0 {
				pause(ctx, refusedPause) // an attempt needs a pause before it
			}
			continue
		}
		r.cfg.OnError("unavailable")
		r.cfg.Log.WarnContext(ctx, "the bus is away; events wait", slog.Int("sent", sent), slog.Any("err", outage))
		checked = time.Time{} // the stream may be another one afterwards
		if err := r.backOff(ctx, s, &wait); err != nil {
			return err
		}
	}
	return nil
}

// queueError is a failure of the queue: nothing is wrong with the bus.
type queueError struct{ error }

func (e *queueError) Unwrap() error { return e.error }

// check reads the stream, and reports whether it is the one that events were sent to before.
func (r *Relay) check(ctx context.Context, s Session) error {
	created, err := r.cfg.Bus.Ready(ctx)
	if err != nil {
		return err
	}
	created = created.Truncate(time.Microsecond) // the precision of the table
	before, err := s.Stream(ctx, created)
	if err != nil {
		return &queueError{err}
	}
	lost := !created.Equal(before)
	if was := r.lost(lost); lost && !was {
		r.cfg.Log.ErrorContext(ctx, "the stream of events is another one than before: events are gone from it; \"iam-service events replay --since\" sends them again",
			slog.Time("created", created), slog.Time("before", before))
	}
	return nil
}

// lost stores whether the stream was lost, and returns the previous value.
func (r *Relay) lost(is bool) (was bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	was, r.recreate = r.recreate, is
	return was
}

// backOff waits, longer each time, and then uses the session, so that a leader without a
// connection notices.
func (r *Relay) backOff(ctx context.Context, s Session, wait *time.Duration) error {
	pause(ctx, *wait/2+rand.N(*wait/2+1)) //nolint:gosec // jitter is no secret
	*wait = min(*wait*2, maxPause)
	_, err := s.Pending(ctx, 1)
	return err
}

// send publishes events, those of one object one after the other, and marks acknowledged ones
// about once a second: a leader without a connection notices. It returns how many were
// acknowledged, how many were rejected, and the outage of the bus; err is of the queue.
func (r *Relay) send(ctx context.Context, s Session, events []Event) (sent, refused int, outage, err error) {
	lanes := map[string][]*Event{}
	var order []string
	for i := range events {
		e := &events[i]
		k := e.key()
		if lanes[k] == nil {
			order = append(order, k)
		}
		lanes[k] = append(lanes[k], e)
	}
	var done []int64
	marked := time.Now()
	mark := func() error {
		if len(done) == 0 {
			return nil
		}
		// Also during a shutdown: acknowledged events must not be sent again.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		err := s.Sent(ctx, done)
		sent, done, marked = sent+len(done), done[:0], time.Now()
		return err
	}
	for len(order) > 0 && outage == nil && ctx.Err() == nil {
		acks := make([]<-chan error, len(order))
		for i, k := range order {
			acks[i] = r.publish(lanes[k][0])
		}
		var next []string
		deadline := time.After(AckWait)
		for i, k := range order {
			e := lanes[k][0]
			failed := await(ctx, acks[i], deadline)
			if _, is := errors.AsType[*RefusedError](failed); is {
				refused++
				r.cfg.OnError("refused")
				then := TryAgain
				if e.Tries+1 >= tries {
					then = Park
				}
				r.cfg.Log.ErrorContext(ctx, "event rejected by the bus", slog.String("id", e.ID), slog.String("type", e.Type), slog.Bool("parked", then == Park), slog.Any("err", failed))
				if err := s.Refused(ctx, e.Seq, failed.Error(), then); err != nil {
					return sent, refused, nil, err
				}
				continue
			}
			if failed != nil {
				outage = failed
				deadline = closed // of the others, only acknowledgements that have arrived count
				continue
			}
			done = append(done, e.Seq)
			r.cfg.OnSent(e.Type)
			if lanes[k] = lanes[k][1:]; len(lanes[k]) > 0 {
				next = append(next, k)
			}
		}
		order = next
		if time.Since(marked) > markEvery {
			if err := mark(); err != nil {
				return sent, refused, outage, err
			}
		}
	}
	return sent, refused, outage, mark()
}

func (r *Relay) publish(e *Event) <-chan error {
	body, err := e.CloudEvent()
	if err != nil {
		ack := make(chan error, 1)
		ack <- &RefusedError{err}
		return ack
	}
	header, span := r.cfg.Tracing.Continue(context.Background(), "publish event", e.TraceParent, attribute.String("messaging.system", "nats"),
		attribute.String("messaging.operation.type", "send"), attribute.String("messaging.message.id", e.ID), attribute.String("iam.event", e.Type))
	acknowledged := r.cfg.Bus.Publish(Message{Subject: e.Subject(), ID: e.MessageID(), Body: body, TraceParent: header})
	if !span.IsRecording() {
		return acknowledged
	}
	passed := make(chan error, 1)
	go func() {
		err := <-acknowledged
		tracing.End(span, "not acknowledged", err)
		passed <- err
	}()
	return passed
}

// closed is a deadline in the past.
var closed = func() <-chan time.Time {
	c := make(chan time.Time)
	close(c)
	return c
}()

// await waits for an acknowledgement. One that has arrived counts, however late.
func await(ctx context.Context, ack <-chan error, deadline <-chan time.Time) error {
	select {
	case err := <-ack:
		return err
	default:
	}
	select {
	case err := <-ack:
		return err
	case <-deadline:
		return errors.New("the bus does not acknowledge")
	case <-ctx.Done():
		return ctx.Err()
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
