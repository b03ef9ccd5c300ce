package server

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"iam-service/internal/iam"
	"iam-service/internal/telemetry"
)

// startLoops lets loops run.
func (s *service) startLoops(context.Context) error {
	s.loops = newLoops(s.work, s.log, s.registry)
	s.onClose(func() {
		s.endWork()
		s.loops.running.Wait()
	})
	s.loops.run("garbage", func() { TuneGC(s.work, s.cfg.MemoryAim) })
	return nil
}

// loops run in the background until their context ends. A panic ends its piece of work, and not
// the process: its cause may be one row, which would end every replica.
type loops struct {
	ctx     context.Context //nolint:containedctx // of all loops
	log     *slog.Logger
	running sync.WaitGroup
	panics  *prometheus.CounterVec
}

func newLoops(ctx context.Context, log *slog.Logger, r prometheus.Registerer) *loops {
	return &loops{ctx: ctx, log: log, panics: telemetry.CounterVec(r, "iam_panics_total",
		"Panics in the background that were recovered, by place; each is a fault of this program.", "where",
		"shadow", "preview", "decision_log")}
}

// loopPause is how long a loop waits after a panic before it starts again.
const loopPause = time.Second

// run runs do, which returns at the end of the context, and again after a panic.
func (l *loops) run(name string, do func()) {
	l.running.Go(func() {
		for {
			err := iam.Try(do)
			if err == nil {
				return
			}
			l.panicked(name)(err)
			select {
			case <-time.After(loopPause):
			case <-l.ctx.Done():
				return
			}
		}
	})
}

// panicked returns what reports a recovered panic of a place.
func (l *loops) panicked(where string) func(error) {
	return func(err error) {
		l.panics.WithLabelValues(where).Inc()
		attrs := []slog.Attr{slog.String("where", where), slog.Any("err", err)}
		if p, ok := errors.AsType[*iam.PanicError](err); ok {
			attrs = append(attrs, slog.String("stack", string(p.Stack)))
		}
		l.log.LogAttrs(l.ctx, slog.LevelError, "panic in the background", attrs...)
	}
}

// refreshed is a value that is read from the database every two seconds, for metrics: a scrape
// queries no database.
type refreshed[T any] struct{ value atomic.Pointer[T] }

// run reads until ctx ends. A read that fails leaves the value as it is; the database counts its errors.
func (r *refreshed[T]) run(ctx context.Context, read func(context.Context) (T, error)) {
	every := time.NewTicker(2 * time.Second)
	defer every.Stop()
	for {
		if x, err := read(ctx); err == nil {
			r.value.Store(&x)
		}
		select {
		case <-every.C:
		case <-ctx.Done():
			return
		}
	}
}

// get returns what was read last; the zero value if nothing was.
func (r *refreshed[T]) get() (x T) {
	if value := r.value.Load(); value != nil {
		x = *value
	}
	return x
}
