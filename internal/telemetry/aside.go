package telemetry

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Aside writes log records in a goroutine of its own: whoever logs never waits for
// a slow reader of our output. What does not fit into the queue is dropped and
// counted.
type Aside struct {
	mu      sync.RWMutex // closed under it, so that nothing is sent on a closed channel
	closed  bool
	queue   chan queued
	done    chan struct{}
	dropped atomic.Int64
}

type queued struct {
	to     slog.Handler
	record slog.Record
}

// NewAside starts the goroutine; size is the length of the queue.
func NewAside(size int) *Aside {
	a := &Aside{queue: make(chan queued, size), done: make(chan struct{})}
	go func() {
		defer close(a.done)
		for q := range a.queue {
			_ = q.to.Handle(context.Background(), q.record) // a log that cannot be written has nowhere to say so
		}
	}()
	return a
}

// Logger returns a logger that writes where log does, aside.
func (a *Aside) Logger(log *slog.Logger) *slog.Logger {
	return slog.New(&asideHandler{a, log.Handler()})
}

// Dropped is how many records did not fit.
func (a *Aside) Dropped() int64 { return a.dropped.Load() }

// closeLimit is how long Close waits for a reader that does not read.
const closeLimit = time.Second

// Close writes what is in the queue, unless its reader is too slow for that. What is
// logged later is dropped.
func (a *Aside) Close() {
	a.mu.Lock()
	if !a.closed {
		a.closed = true
		close(a.queue)
	}
	a.mu.Unlock()
	select {
	case <-a.done:
	case <-time.After(closeLimit):
	}
}

type asideHandler struct {
	aside *Aside
	to    slog.Handler
}

func (h *asideHandler) Enabled(ctx context.Context, l slog.Level) bool { return h.to.Enabled(ctx, l) }

func (h *asideHandler) Handle(_ context.Context, r slog.Record) error {
	h.aside.mu.RLock()
	defer h.aside.mu.RUnlock()
	if h.aside.closed {
		h.aside.dropped.Add(1)
		return nil
	}
	select {
	case h.aside.queue <- queued{h.to, r}:
	default:
		h.aside.dropped.Add(1)
	}
	return nil
}

func (h *asideHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &asideHandler{h.aside, h.to.WithAttrs(attrs)}
}

func (h *asideHandler) WithGroup(name string) slog.Handler {
	return &asideHandler{h.aside, h.to.WithGroup(name)}
}
