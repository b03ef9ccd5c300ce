package preview

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"iam-service/internal/iam"
)

// Moment is a snapshot of the facts, until it is closed.
type Moment interface {
	Facts
	Close()
}

// Jobs runs previews in the background, one at a time on this replica.
type Jobs struct {
	Snapshot func(context.Context) (Moment, error)
	Note     func(context.Context, iam.PolicyPreview) (bool, error) // stores its progress, or its report once it is done; false: it was cancelled
	Log      *slog.Logger
	OnPanic  func(error) // called with a panic in a preview, which fails by it; may be nil

	busy    atomic.Bool
	running sync.WaitGroup
}

const (
	noteEvery = 2 * time.Second
	jobLimit  = 30 * time.Minute // a snapshot keeps PostgreSQL from vacuuming
)

// Start starts the preview that is stored as p, and returns. It runs until ctx ends, or until
// it is cancelled. c has no Facts.
func (j *Jobs) Start(ctx context.Context, p iam.PolicyPreview, c Config) {
	j.running.Go(func() {
		defer j.busy.Store(false)
		working, stop := context.WithCancel(ctx)
		defer stop()
		var done, total atomic.Int64
		c.OnProgress = func(n, of int64) {
			done.Store(n)
			total.Store(of)
		}
		note := func(p iam.PolicyPreview) {
			p.Done, p.Total = done.Load(), total.Load()
			going, err := j.note(ctx, p)
			if !going {
				stop()
			}
			if err != nil && ctx.Err() == nil {
				j.Log.WarnContext(ctx, "preview progress not stored", slog.String("preview", p.ID), slog.Any("err", err))
			}
		}
		finished := make(chan struct{})
		var noting sync.WaitGroup
		noting.Go(func() {
			tick := time.NewTicker(noteEvery)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					note(p)
				case <-finished:
					return
				}
			}
		})
		report, err := j.run(working, c)
		close(finished)
		noting.Wait()
		if working.Err() != nil && ctx.Err() == nil {
			j.Log.InfoContext(ctx, "preview cancelled", slog.String("preview", p.ID))
			return
		}
		p.State = "done"
		var result any = report
		if err != nil {
			j.Log.WarnContext(ctx, "preview failed", slog.String("preview", p.ID), slog.Any("err", err))
			p.State, result = "failed", map[string]string{"error": "the facts or decisions could not be read; see the log of the service"}
		}
		if p.Report, err = json.Marshal(result); err != nil {
			j.Log.ErrorContext(ctx, "preview report not stored", slog.Any("err", err))
			return
		}
		note(p)
	})
}

// note recovers panics: it runs in a goroutine of its own.
func (j *Jobs) note(ctx context.Context, p iam.PolicyPreview) (going bool, err error) {
	defer j.report(&err)
	defer iam.Recovered(&err)
	return j.Note(ctx, p)
}

// report reports a panic.
func (j *Jobs) report(err *error) {
	if _, is := errors.AsType[*iam.PanicError](*err); is && j.OnPanic != nil {
		j.OnPanic(*err)
	}
}

func (j *Jobs) run(ctx context.Context, c Config) (_ Report, err error) {
	defer j.report(&err)
	defer iam.Recovered(&err)
	ctx, cancel := context.WithTimeout(ctx, jobLimit)
	defer cancel()
	m, err := j.Snapshot(ctx)
	if err != nil {
		return Report{}, err
	}
	defer m.Close()
	c.Facts = m
	return Run(ctx, c)
}

// Take reserves the one preview.
func (j *Jobs) Take() error {
	if !j.busy.CompareAndSwap(false, true) {
		return &iam.Error{Kind: iam.Conflict, Code: "preview_running", Detail: "another preview is running on this replica: one at a time"}
	}
	return nil
}

// Free releases what Take has reserved, where no preview was started.
func (j *Jobs) Free() { j.busy.Store(false) }

// Wait waits until none is running.
func (j *Jobs) Wait() { j.running.Wait() }
