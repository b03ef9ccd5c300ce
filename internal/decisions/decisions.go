// Package decisions is the decision log: it records every evaluation, and a sample of the cache
// hits, in sinks, in the background.
//
// It owns which parts of a decision are recorded (an allow-list of fields of the input, so that
// masking cannot be forgotten), the queues, and that no request waits for a slow sink: decisions
// that do not fit are dropped and counted, separately for each sink.
//
//	                 ┌▶ usage: which memberships, roles and clients were used, by day
//	enrich ─▶ queue ─▶ masked event ─▶ queue of each sink ─▶ console, file, NATS, OPA's log, PostgreSQL
//	              └ full: dropped          └ full: dropped
//
// It does not know NATS, SQL or OPA's plugins: a sink is a function.
package decisions

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"iam-service/internal/enrich"
	"iam-service/internal/iam"
)

// Config of a Log.
type Config struct {
	Fields  []string          // of the input that are recorded; nil: DefaultFields
	Headers []string          // canonical names, parallel to the values of responses
	Labels  map[string]string // in each event: the replica that decided
	Queue   int               // capacity in decisions, of each sink too; 0: 4,096
	Sinks   []Sink
	Log     *slog.Logger
	Observe func(*enrich.Evaluated) // called with each decision before it is masked, by the log's goroutine; may be nil
	OnPanic func(error)             // called with a panic while a decision was recorded, which drops it; may be nil
}

// Sink records decisions.
type Sink struct {
	Name  string
	Write func(ctx context.Context, batch []Entry) error
	Text  bool // it needs Entry.Text
}

// Entry is one decision, masked.
type Entry struct {
	Event  *Event
	Text   json.RawMessage      // the event as JSON, where a sink needs it
	Record iam.RecordedDecision // for queries
}

// Log records decisions until Close.
type Log struct {
	cfg   Config
	masks *masks
	queue chan *enrich.Evaluated
	half  chan struct{} // received from when the queue is half full
	sinks []*running
	text  bool // a sink needs Entry.Text

	mu      sync.RWMutex // guards closed and sends on queue
	closed  bool
	dropped atomic.Int64
	done    chan struct{}
}

// running is a sink with its queue.
type running struct {
	Sink
	queue           chan Entry
	dropped, failed atomic.Int64
	log             *slog.Logger
	onPanic         func(error)
	loggedAt        time.Time // of the last failure that was logged
}

const (
	batchMost  = 2000
	maskWait   = 50 * time.Millisecond // before a batch is masked, unless the queue is half full
	batchWait  = 5 * time.Millisecond  // of a sink, while the batch is masked
	writeLimit = 5 * time.Second
	closeLimit = 2 * time.Second // how long Close waits for slow sinks
)

// New starts the workers.
func New(cfg Config) *Log {
	if cfg.Fields == nil {
		cfg.Fields = DefaultFields
	}
	if cfg.Queue <= 0 {
		cfg.Queue = 4096
	}
	if cfg.OnPanic == nil {
		cfg.OnPanic = func(error) {}
	}
	l := &Log{cfg: cfg, masks: newMasks(cfg.Fields, cfg.Headers, cfg.Labels), queue: make(chan *enrich.Evaluated, cfg.Queue), half: make(chan struct{}, 1), done: make(chan struct{})}
	var writing sync.WaitGroup
	for _, s := range cfg.Sinks {
		r := &running{Sink: s, queue: make(chan Entry, cfg.Queue), log: cfg.Log, onPanic: cfg.OnPanic}
		l.sinks, l.text = append(l.sinks, r), l.text || s.Text
		writing.Go(r.run)
	}
	go func() {
		defer close(l.done)
		inBatches(l.queue, batches{cfg.Queue, maskWait, l.half}, func(batch []*enrich.Evaluated) {
			for _, e := range batch {
				if err := l.tryDistribute(e); err != nil {
					l.dropped.Add(1)
					cfg.OnPanic(err)
				}
			}
		})
		for _, s := range l.sinks {
			close(s.queue)
		}
		writing.Wait()
	}()
	return l
}

// Record queues one decision. It does not block.
func (l *Log) Record(e *enrich.Evaluated) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		l.dropped.Add(1)
		return
	}
	select {
	case l.queue <- e:
	default:
		l.dropped.Add(1)
	}
	if len(l.queue) > cap(l.queue)/2 {
		select {
		case l.half <- struct{}{}:
		default: // it is known
		}
	}
}

// tryDistribute returns a panic as an error: it must not end the loop.
func (l *Log) tryDistribute(e *enrich.Evaluated) (err error) {
	defer iam.Recovered(&err)
	l.distribute(e)
	return nil
}

// distribute masks a decision and queues it for each sink.
func (l *Log) distribute(e *enrich.Evaluated) {
	if l.cfg.Observe != nil {
		l.cfg.Observe(e)
	}
	ev := l.masks.event(e)
	var text json.RawMessage
	if l.text {
		var err error
		if text, err = json.Marshal(ev); err != nil {
			l.dropped.Add(1)
			l.cfg.Log.Error("decision not recorded", slog.Any("err", err), slog.String("decision_id", ev.DecisionID))
			return
		}
	}
	entry := Entry{ev, text, l.masks.record(e, ev, text)}
	for _, s := range l.sinks {
		select {
		case s.queue <- entry:
		default:
			s.dropped.Add(1)
		}
	}
}

// run writes batches until the queue is closed.
func (s *running) run() { inBatches(s.queue, batches{most: batchMost, wait: batchWait}, s.write) }

// batches are how large and how late batches are.
type batches struct {
	most  int
	wait  time.Duration   // after the first element arrived
	early <-chan struct{} // ends a wait; may be nil
}

// inBatches passes the content of a queue to do until the queue is closed. At 1,000 decisions a second the wake-ups cost more
// than what is done in them, so that one is for many.
func inBatches[T any](queue <-chan T, size batches, do func([]T)) {
	var batch []T
	for first := range queue {
		wait := time.NewTimer(size.wait)
		select {
		case <-wait.C:
		case <-size.early:
			wait.Stop()
		}
		batch = append(batch[:0], first)
	gather:
		for len(batch) < size.most {
			select {
			case next, ok := <-queue:
				if !ok {
					break gather
				}
				batch = append(batch, next)
			default:
				break gather
			}
		}
		do(batch)
		clear(batch) // for the garbage collector
	}
}

func (s *running) tryWrite(ctx context.Context, batch []Entry) (err error) {
	defer iam.Recovered(&err)
	return s.Write(ctx, batch)
}

func (s *running) write(batch []Entry) {
	ctx, cancel := context.WithTimeout(context.Background(), writeLimit)
	defer cancel()
	err := s.tryWrite(ctx, batch)
	if err == nil {
		return
	}
	if _, is := errors.AsType[*iam.PanicError](err); is {
		s.onPanic(err)
	}
	s.failed.Add(int64(len(batch)))
	if time.Since(s.loggedAt) > time.Minute { // the metric counts all
		s.loggedAt = time.Now()
		s.log.Warn("decisions not recorded", slog.String("sink", s.Name), slog.Int("decisions", len(batch)), slog.Any("err", err))
	}
}

// Dropped counts the decisions that were not recorded since the start, by sink: full queues and
// failed writes. "" is for all sinks.
func (l *Log) Dropped() map[string]int64 {
	n := map[string]int64{"": l.dropped.Load()}
	for _, s := range l.sinks {
		n[s.Name] = s.dropped.Load() + s.failed.Load()
	}
	return n
}

// Close records the queued decisions, unless a sink is too slow.
func (l *Log) Close() {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.queue)
	}
	l.mu.Unlock()
	select {
	case <-l.done:
	case <-time.After(closeLimit):
	}
}

// Console writes to the log of the service.
func Console(log *slog.Logger) Sink {
	return Sink{Name: "console", Write: func(ctx context.Context, batch []Entry) error {
		for _, w := range batch {
			outcome := "denied"
			if w.Record.Allow {
				outcome = "allowed"
			}
			attrs := []slog.Attr{
				slog.String("outcome", outcome), slog.String("decision_id", w.Record.ID), slog.String("revision", w.Record.Revision), slog.String("tenant", w.Record.Tenant),
				slog.Any("codes", w.Record.Codes), object("input", w.Event.Input),
			}
			if w.Event.Custom.Repeated {
				attrs = append(attrs, slog.Bool("repeated", true), slog.Int64("hits", w.Event.Custom.Hits))
			} else {
				attrs = append(attrs, slog.Any("facts", w.Event.Custom.Facts), slog.Duration("took", time.Duration(w.Event.Metrics["timer_rego_query_eval_ns"])))
			}
			if w.Event.TraceID != "" {
				attrs = append(attrs, slog.String("trace_id", w.Event.TraceID), slog.String("span_id", w.Event.SpanID))
			}
			log.LogAttrs(ctx, slog.LevelInfo, "decision", attrs...)
		}
		return nil
	}}
}

// object is a JSON object as a group of attributes, which the log writes as it would by slog.Any, without reflection: names
// sorted, and an empty object as one, where slog leaves out an empty group.
func object(name string, members map[string]any) slog.Attr {
	if len(members) == 0 || name == "" { // a group without a name would be part of the object around it
		return slog.Any(name, members)
	}
	list := make([]slog.Attr, 0, len(members))
	for member, v := range members {
		switch v := v.(type) {
		case map[string]any:
			list = append(list, object(member, v))
		case string, bool, int64, json.Number, []any, nil:
			if member == "" && v == nil { // slog leaves it out
				return slog.Any(name, members)
			}
			list = append(list, slog.Any(member, v))
		default: // slog writes some types in its own way
			return slog.Any(name, members)
		}
	}
	slices.SortFunc(list, func(a, b slog.Attr) int { return strings.Compare(a.Key, b.Key) })
	return slog.Attr{Key: name, Value: slog.GroupValue(list...)}
}

// File appends JSON lines to a file. It opens the file for each batch, so that the file can be
// rotated.
func File(name string) Sink {
	return Sink{Name: "file", Text: true, Write: func(_ context.Context, batch []Entry) error {
		f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		var lines bytes.Buffer
		for _, w := range batch {
			lines.Write(w.Text)
			lines.WriteByte('\n')
		}
		_, err = f.Write(lines.Bytes())
		if closed := f.Close(); err == nil {
			err = closed
		}
		return err
	}}
}

// Database stores decisions for queries.
func Database(add func(ctx context.Context, list []iam.RecordedDecision, repeated func(i int) bool) error) Sink {
	return Sink{Name: "database", Text: true, Write: func(ctx context.Context, batch []Entry) error {
		rows := make([]iam.RecordedDecision, len(batch))
		for i, w := range batch {
			rows[i] = w.Record
		}
		return add(ctx, rows, func(i int) bool { return batch[i].Event.Custom.Repeated })
	}}
}
