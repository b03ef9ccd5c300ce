// Package outbox relays events from the table in which they became true to the bus.
//
// It owns the order and the patience: one relay at a time leads; many events are under
// way, but of one object (tenant, kind, object) one after the other; what the bus has
// taken is marked; an outage is waited for with growing patience and costs no event a
// try; an event that the bus refuses for itself is parked and holds back its own object
// alone. It does not know SQL or NATS.
//
//	follower ──lock──▶ leader: pending? ─▶ published ─▶ acknowledged ─▶ marked sent
//	    ▲                 │                    │ outage: wait, again
//	    └── session lost ─┘                    └ refused: a try; after the last, parked
//
// Delivery is at least once: a crash between acknowledged and marked sends again, under
// the same id, and the stream drops what it has seen within its duplicate window.
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
}

// key is what keeps its order.
func (e *Event) key() string { return e.Tenant + "\x00" + e.Kind + "\x00" + e.Object }

// Subject is iam.<tenant or _>.<kind>.<object>.<type>. What cannot stand in one token of
// a subject is percent-encoded.
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

// CloudEvent is the event as it travels (CloudEvents 1.0, JSON).
func (e *Event) CloudEvent() ([]byte, error) {
	ce := event.New()
	ce.SetID(e.ID)
	ce.SetSource("iam-service")
	ce.SetType(e.Type)
	ce.SetSubject(e.Object)
	ce.SetTime(e.OccurredAt.UTC())
	if err := ce.SetData(event.ApplicationJSON, e.Data); err != nil {
		return nil, err
	}
	return json.Marshal(ce)
}

// Queue is where events wait.
type Queue interface {
	// Lead returns a session in which this replica is the one that relays. It fails with
	// ErrFollower where another one is.
	Lead(ctx context.Context) (Session, error)
}

// ErrFollower says that another replica relays.
var ErrFollower = errors.New("another replica relays")

// Session is a leader's. It ends when its connection does: then another may lead.
type Session interface {
	// Pending returns events that are to be sent, the oldest first, without those that are
	// held back by a parked one.
	Pending(ctx context.Context, most int) ([]Event, error)
	// Sent marks events that the bus has taken.
	Sent(ctx context.Context, seqs []int64) error
	// Refused notes that the bus refused an event for itself, and parks it if park is set.
	Refused(ctx context.Context, seq int64, why string, park bool) error
	// LastSent is when the last event was marked; zero: none ever was.
	LastSent(ctx context.Context) (time.Time, error)
	// Wait returns when something may have become true, or after a second.
	Wait(ctx context.Context) error
	Close()
}

// Bus takes events.
type Bus interface {
	// Ready makes the stream if there is none, and says since when there is one.
	Ready(ctx context.Context) (created time.Time, err error)
	// Publish hands a message over. The channel has the answer: nil when it is kept.
	Publish(subject, id string, body []byte) <-chan error
}

// RefusedError says that the bus will never take this very message.
type RefusedError struct{ Cause error }

func (e *RefusedError) Error() string { return "refused: " + e.Cause.Error() }
func (e *RefusedError) Unwrap() error { return e.Cause }

// Limits.
const (
	batch    = 1000
	tries    = 5
	ackWait  = 10 * time.Second
	minPause = 200 * time.Millisecond
	maxPause = 30 * time.Second

	checkEvery = 10 * time.Second // how often the stream is looked at
)

// Config of a Relay.
type Config struct {
	Queue   Queue
	Bus     Bus
	Log     *slog.Logger
	OnSent  func(kind string)   // told of each event that was taken; may be nil
	OnError func(reason string) // told of each failure of the bus: "unavailable", "refused", "stream"; may be nil
}

// Relay sends events while it leads.
type Relay struct {
	cfg Config

	mu       sync.Mutex
	recreate bool // the stream is younger than what it took
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

// Recreated reports whether the stream is younger than what it once took: events are
// gone from it, and "events replay" brings them back.
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
		if err := r.lead(ctx, s); err != nil && ctx.Err() == nil {
			r.cfg.Log.WarnContext(ctx, "stopped relaying events", slog.Any("err", err))
		}
		s.Close()
	}
}

// lead sends what is pending until the session is lost.
func (r *Relay) lead(ctx context.Context, s Session) error {
	wait := minPause
	var checked time.Time // also when there is nothing to send: a stream that was lost is told soon
	for ctx.Err() == nil {
		if time.Since(checked) > checkEvery {
			if err := r.check(ctx, s); err != nil {
				r.cfg.OnError("stream")
				r.cfg.Log.WarnContext(ctx, "the stream of events cannot be used now", slog.Any("err", err))
				if err := r.patience(ctx, s, &wait); err != nil {
					return err
				}
				continue
			}
			checked = time.Now()
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
		sent, outage, err := r.send(ctx, s, events)
		if err != nil {
			return err
		}
		if outage == nil {
			wait = minPause
			continue
		}
		r.cfg.OnError("unavailable")
		r.cfg.Log.WarnContext(ctx, "the bus is away; events wait", slog.Int("sent", sent), slog.Any("err", outage))
		checked = time.Time{} // it may come back as another one
		if err := r.patience(ctx, s, &wait); err != nil {
			return err
		}
	}
	return nil
}

// check looks at the stream, and says whether it has lost what it took.
func (r *Relay) check(ctx context.Context, s Session) error {
	created, err := r.cfg.Bus.Ready(ctx)
	if err != nil {
		return err
	}
	last, err := s.LastSent(ctx)
	if err != nil {
		return err
	}
	lost := !last.IsZero() && created.After(last)
	r.mu.Lock()
	was := r.recreate
	r.recreate = lost
	r.mu.Unlock()
	if lost && !was {
		r.cfg.Log.ErrorContext(ctx, "the stream of events is younger than the last event it took: events are gone from it; \"iam-service events replay --since\" sends them again",
			slog.Time("created", created), slog.Time("last_sent", last))
	}
	return nil
}

// patience waits, longer each time. The session is asked along, so that a leader that was
// cut off notices.
func (r *Relay) patience(ctx context.Context, s Session, wait *time.Duration) error {
	pause(ctx, *wait/2+rand.N(*wait/2+1)) //nolint:gosec // jitter is no secret
	*wait = min(*wait*2, maxPause)
	_, err := s.Pending(ctx, 1)
	return err
}

// send publishes events, of each object one after the other, and marks those that were
// taken. It returns how many were, and what was wrong with the bus; err is of the queue.
func (r *Relay) send(ctx context.Context, s Session, events []Event) (sent int, outage, err error) {
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
	for len(order) > 0 && outage == nil && ctx.Err() == nil {
		type flight struct {
			e   *Event
			ack <-chan error
		}
		flights := make([]flight, 0, len(order))
		for _, k := range order {
			e := lanes[k][0]
			body, err := e.CloudEvent()
			if err != nil {
				ack := make(chan error, 1)
				ack <- &RefusedError{err}
				flights = append(flights, flight{e, ack})
				continue
			}
			flights = append(flights, flight{e, r.cfg.Bus.Publish(e.Subject(), e.ID, body)})
		}
		var next []string
		deadline := time.NewTimer(ackWait)
		for i, f := range flights {
			k := order[i]
			var failed error
			select {
			case failed = <-f.ack:
			case <-deadline.C:
				failed = errors.New("the bus does not acknowledge")
				deadline.Reset(0)
			case <-ctx.Done():
				failed = ctx.Err()
			}
			var refused *RefusedError
			switch {
			case failed == nil:
				done = append(done, f.e.Seq)
				r.cfg.OnSent(f.e.Type)
				if lanes[k] = lanes[k][1:]; len(lanes[k]) > 0 {
					next = append(next, k)
				}
			case errors.As(failed, &refused):
				r.cfg.OnError("refused")
				park := f.e.Tries+1 >= tries
				r.cfg.Log.ErrorContext(ctx, "the bus refuses an event", slog.String("id", f.e.ID), slog.String("type", f.e.Type), slog.Bool("parked", park), slog.Any("err", failed))
				if err := s.Refused(ctx, f.e.Seq, failed.Error(), park); err != nil {
					deadline.Stop()
					return len(done), nil, err
				}
			default:
				outage = failed
			}
		}
		deadline.Stop()
		order = next
	}
	if len(done) == 0 {
		return 0, outage, nil
	}
	// Also when we are to stop: what was taken is not sent again.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return len(done), outage, s.Sent(ctx, done)
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
