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

// Moment is facts of one moment, until it is closed.
type Moment interface {
	Facts
	Close()
}

// Jobs runs previews aside, one at a time on this replica.
type Jobs struct {
	Snapshot func(context.Context) (Moment, error)
	Note     func(context.Context, iam.PolicyPreview) (bool, error) // how far one is, or with a report that it is over; false: it was cancelled
	Log      *slog.Logger
	OnPanic  func(error) // called with a panic in a preview, which fails by it; may be nil

	busy    atomic.Bool
	running sync.WaitGroup
}

const (
	noteEvery = 2 * time.Second
	jobLimit  = 30 * time.Minute // a snapshot keeps PostgreSQL from cleaning up behind it
)

// Start begins a preview that is noted as p, and returns. It works until ctx ends, or until
// it is cancelled. c lacks its Facts.
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
				j.Log.WarnContext(ctx, "how far a preview is could not be noted", slog.String("preview", p.ID), slog.Any("err", err))
			}
		}
		over := make(chan struct{})
		var noting sync.WaitGroup
		noting.Go(func() {
			tick := time.NewTicker(noteEvery)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					note(p)
				case <-over:
					return
				}
			}
		})
		report, err := j.run(working, c)
		close(over)
		noting.Wait()
		if working.Err() != nil && ctx.Err() == nil {
			j.Log.InfoContext(ctx, "a preview was cancelled", slog.String("preview", p.ID))
			return
		}
		p.State = "done"
		var say any = report
		if err != nil {
			j.Log.WarnContext(ctx, "a preview failed", slog.String("preview", p.ID), slog.Any("err", err))
			p.State, say = "failed", map[string]string{"error": "the facts or decisions could not be read to the end; the log says why"}
		}
		if p.Report, err = json.Marshal(say); err != nil {
			j.Log.ErrorContext(ctx, "a preview could not be written down", slog.Any("err", err))
			return
		}
		note(p)
	})
}

// note does not panic: it runs in a goroutine of its own.
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

// Take reserves the place of the one preview.
func (j *Jobs) Take() error {
	if !j.busy.CompareAndSwap(false, true) {
		return &iam.Error{Kind: iam.Conflict, Code: "preview_running", Detail: "another preview is running on this replica: one at a time"}
	}
	return nil
}

// Free gives back the place that Take has reserved, where no preview was started.
func (j *Jobs) Free() { j.busy.Store(false) }

// Wait waits until none is running.
func (j *Jobs) Wait() { j.running.Wait() }
