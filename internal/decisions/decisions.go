// Package decisions is the decision log: every evaluation, and a sample of the answers from
// the cache, logged asynchronously to the configured sinks.
//
// It owns what of a decision is written down (an allow-list of fields of the input: masking
// cannot be forgotten), the queues, and that no request waits for a slow reader: what
// does not fit is dropped and counted, for each sink by itself.
//
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
	"sync"
	"sync/atomic"
	"time"

	"iam-service/internal/enrich"
	"iam-service/internal/iam"
)

// Config of a Log.
type Config struct {
	Fields  []string          // of the input that are written down; nil: DefaultFields
	Headers []string          // canonical names, parallel to the values of answers
	Labels  map[string]string // in each event: who decided
	Queue   int               // decisions that wait, for each sink too; 0: 4,096
	Sinks   []Sink
	Log     *slog.Logger
	OnPanic func(error) // called with a panic while a decision was written down, which drops it; may be nil
}

// Sink is a place where decisions are written down.
type Sink struct {
	Name  string
	Write func(ctx context.Context, batch []Written) error
	Text  bool // it wants the event as text
}

// Written is one decision, masked.
type Written struct {
	Event  *Event
	Text   json.RawMessage      // the event, where a sink wants it
	Record iam.RecordedDecision // how it is found again
}

// Log is made by New; Close ends it.
type Log struct {
	cfg   Config
	masks *masks
	queue chan *enrich.Evaluated
	sinks []*running
	text  bool // some sink wants it

	mu      sync.RWMutex // closed under it, so that nothing is sent on a closed channel
	closed  bool
	dropped atomic.Int64
	done    chan struct{}
}

// running is a sink with its queue.
type running struct {
	Sink
	queue           chan Written
	dropped, failed atomic.Int64
	log             *slog.Logger
	onPanic         func(error)
	complained      time.Time
}

const (
	batchMost  = 2000
	batchWait  = 50 * time.Millisecond
	pause      = 5 * time.Millisecond // before what has come is masked
	writeLimit = 5 * time.Second
	closeLimit = 2 * time.Second // how long Close waits for a sink that does not take what it is given
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
	l := &Log{cfg: cfg, masks: newMasks(cfg.Fields, cfg.Headers, cfg.Labels), queue: make(chan *enrich.Evaluated, cfg.Queue), done: make(chan struct{})}
	var writing sync.WaitGroup
	for _, s := range cfg.Sinks {
		r := &running{Sink: s, queue: make(chan Written, cfg.Queue), log: cfg.Log, onPanic: cfg.OnPanic}
		l.sinks, l.text = append(l.sinks, r), l.text || s.Text
		writing.Go(r.run)
	}
	go func() {
		defer close(l.done)
		together(l.queue, cfg.Queue, pause, func(batch []*enrich.Evaluated) {
			for _, e := range batch {
				if err := l.tryWrite(e); err != nil {
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

// Record takes one decision. It does not block.
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
}

// tryWrite fails where writing panics: the other decisions are written.
func (l *Log) tryWrite(e *enrich.Evaluated) (err error) {
	defer iam.Recovered(&err)
	l.write(e)
	return nil
}

func (l *Log) write(e *enrich.Evaluated) {
	ev := l.masks.event(e)
	var text json.RawMessage
	if l.text {
		var err error
		if text, err = json.Marshal(ev); err != nil {
			l.dropped.Add(1)
			l.cfg.Log.Error("a decision could not be written down", slog.Any("err", err), slog.String("decision_id", ev.DecisionID))
			return
		}
	}
	w := Written{ev, text, l.masks.record(e, ev, text)}
	for _, s := range l.sinks {
		select {
		case s.queue <- w:
		default:
			s.dropped.Add(1)
		}
	}
}

// run hands over what has come together, until the queue is closed.
func (s *running) run() { together(s.queue, batchMost, batchWait, s.hand) }

// together hands over what a queue holds, a while after the first came, until it is closed:
// one wake-up for many.
func together[T any](queue <-chan T, most int, wait time.Duration, hand func([]T)) {
	var batch []T
	for first := range queue {
		time.Sleep(wait)
		batch = append(batch[:0], first)
	gather:
		for len(batch) < most {
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
		hand(batch)
		clear(batch) // nothing is held that was written down
	}
}

func (s *running) tryWrite(ctx context.Context, batch []Written) (err error) {
	defer iam.Recovered(&err)
	return s.Write(ctx, batch)
}

func (s *running) hand(batch []Written) {
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
	if time.Since(s.complained) > time.Minute { // the metric has the rest
		s.complained = time.Now()
		s.log.Warn("decisions could not be written down", slog.String("sink", s.Name), slog.Int("decisions", len(batch)), slog.Any("err", err))
	}
}

// Dropped is how many decisions were not written down since the start, by sink: queues that
// were full, and writes that failed. "" is for all sinks.
func (l *Log) Dropped() map[string]int64 {
	n := map[string]int64{"": l.dropped.Load()}
	for _, s := range l.sinks {
		n[s.Name] = s.dropped.Load() + s.failed.Load()
	}
	return n
}

// Close writes what is in the queues, unless a sink is too slow for that.
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

// Console writes lines of our own log.
func Console(log *slog.Logger) Sink {
	return Sink{Name: "console", Write: func(ctx context.Context, batch []Written) error {
		for _, w := range batch {
			outcome := "denied"
			if w.Record.Allow {
				outcome = "allowed"
			}
			attrs := []slog.Attr{
				slog.String("outcome", outcome), slog.String("decision_id", w.Record.ID), slog.String("revision", w.Record.Revision), slog.String("tenant", w.Record.Tenant),
				slog.Any("codes", w.Record.Codes), slog.Any("input", w.Event.Input),
			}
			if w.Event.Custom.Repeated {
				attrs = append(attrs, slog.Bool("repeated", true), slog.Int64("hits", w.Event.Custom.Hits))
			} else {
				attrs = append(attrs, slog.Any("facts", w.Event.Custom.Facts), slog.Duration("took", time.Duration(w.Event.Metrics["timer_rego_query_eval_ns"])))
			}
			log.LogAttrs(ctx, slog.LevelInfo, "decision", attrs...)
		}
		return nil
	}}
}

// File appends JSON lines to a file. It is opened anew for each batch, so that it can be
// moved away.
func File(name string) Sink {
	return Sink{Name: "file", Text: true, Write: func(_ context.Context, batch []Written) error {
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

// Keep writes decisions down where they can be found again.
func Keep(add func(ctx context.Context, list []iam.RecordedDecision, repeated func(i int) bool) error) Sink {
	return Sink{Name: "database", Text: true, Write: func(ctx context.Context, batch []Written) error {
		rows := make([]iam.RecordedDecision, len(batch))
		for i, w := range batch {
			rows[i] = w.Record
		}
		return add(ctx, rows, func(i int) bool { return batch[i].Event.Custom.Repeated })
	}}
}
