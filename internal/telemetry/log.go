package telemetry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"iam-service/internal/telemetry/tracing"
)

// handler writes JSON lines. A duration is a number of milliseconds, and its key ends in _ms: took_ms.
func handler(w io.Writer, level slog.Level) slog.Handler {
	return traced{slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Value.Kind() == slog.KindDuration {
			return slog.Float64(a.Key+"_ms", float64(a.Value.Duration().Microseconds())/1000)
		}
		return a
	}})}
}

// traced adds the ids of the request's trace to its lines.
type traced struct{ slog.Handler }

// Handle implements slog.Handler.
func (t traced) Handle(ctx context.Context, r slog.Record) error {
	if ids := tracing.Of(ctx); ids.Trace != "" {
		r.AddAttrs(slog.String("trace_id", ids.Trace), slog.String("span_id", ids.Span))
	}
	return t.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (t traced) WithAttrs(attrs []slog.Attr) slog.Handler { return traced{t.Handler.WithAttrs(attrs)} }

// WithGroup implements slog.Handler.
func (t traced) WithGroup(name string) slog.Handler { return traced{t.Handler.WithGroup(name)} }

// NewLogger writes JSON lines at once, for commands, which serve no requests.
func NewLogger(w io.Writer, level slog.Level) *slog.Logger { return slog.New(handler(w, level)) }

// Log is a logger whose lines are written in the background: a caller never waits for a
// slow reader of our output, or for one that has stopped to read. Lines that find no room are
// dropped and counted, and a line says how many there were once there is room again.
type Log struct {
	*slog.Logger

	out   io.Writer
	level slog.Level
	wake  chan struct{}
	stop  func()          // ends the writer
	end   <-chan struct{} // closed by stop

	mu      sync.Mutex
	taken   sync.Cond       // on mu: pending was taken to be written
	pending []byte          // whole lines
	flushes []chan struct{} // closed when what was pending at their time is written

	dropped atomic.Int64
}

// pendingMost is how many bytes of lines wait to be written. As many again are being written.
const pendingMost = 4 << 20

var errNoRoom = errors.New("the reader of the log is too slow")

// NewLog returns a log that writes to out until Close.
func NewLog(out io.Writer, level slog.Level) *Log {
	ctx, stop := context.WithCancel(context.Background())
	l := &Log{out: out, level: level, wake: make(chan struct{}, 1), stop: stop, end: ctx.Done()}
	l.taken.L = &l.mu
	l.Logger = slog.New(handler(lines{l, pendingMost, false}, level))
	go l.write()
	return l
}

// Blocking returns a logger for background goroutines that write very many lines.
// It waits for room, and has half of it, so that its lines never crowd out the others.
func (l *Log) Blocking() *slog.Logger {
	return slog.New(handler(lines{l, pendingMost / 2, true}, l.level))
}

// lines takes lines for a Log.
type lines struct {
	l    *Log
	most int // bytes that are pending
	wait bool
}

func (x lines) Write(line []byte) (int, error) {
	l := x.l
	l.mu.Lock()
	for x.wait && len(l.pending) > 0 && len(l.pending)+len(line) > x.most {
		l.taken.Wait()
	}
	fits := len(l.pending)+len(line) <= x.most
	if fits {
		l.pending = append(l.pending, line...)
	}
	l.mu.Unlock()
	if !fits {
		l.dropped.Add(1)
		return 0, errNoRoom
	}
	l.wakeUp()
	return len(line), nil
}

func (l *Log) wakeUp() {
	select {
	case l.wake <- struct{}{}:
	default: // it will look
	}
}

// write writes what is pending, all of it at once.
func (l *Log) write() {
	var batch []byte
	var reported int64
	for {
		select {
		case <-l.wake:
		case <-l.end:
			return
		}
		l.mu.Lock()
		var flushes []chan struct{}
		batch, l.pending = l.pending, batch[:0]
		flushes, l.flushes = l.flushes, nil
		l.taken.Broadcast()
		l.mu.Unlock()
		if n, err := l.out.Write(batch); err != nil {
			l.dropped.Add(int64(bytes.Count(batch[n:], []byte("\n")))) // a log that cannot be written has no other output
		} else if dropped := l.dropped.Load(); dropped > reported {
			l.Warn("log lines were dropped", slog.Int64("lines", dropped-reported))
			reported = dropped
		}
		for _, f := range flushes {
			close(f)
		}
	}
}

// Register registers the metrics of the log.
func (l *Log) Register(r prometheus.Registerer) {
	Counter(r, "iam_log_dropped_total", "Log lines that were dropped because their reader was too slow or gone.", nil,
		func() float64 { return float64(l.Dropped()) })
}

// Dropped is how many lines were not written.
func (l *Log) Dropped() int64 { return l.dropped.Load() }

// flushLimit is how long Flush waits for a reader that does not read.
const flushLimit = time.Second

// Flush returns when everything that was logged before is written, or its reader is too slow
// for that.
func (l *Log) Flush() {
	done := make(chan struct{})
	l.mu.Lock()
	l.flushes = append(l.flushes, done)
	l.mu.Unlock()
	l.wakeUp()
	select {
	case <-done:
	case <-time.After(flushLimit):
	}
}

// Close is Flush, and then ends the log: a program calls it last. Lines after it are not written. Where the
// reader does not read, the writer ends with its last write.
func (l *Log) Close() {
	l.Flush()
	l.stop()
}
