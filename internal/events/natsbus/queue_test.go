package natsbus_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"iam-service/internal/dev/await"
	"iam-service/internal/events/natsbus"
	"iam-service/internal/events/outbox"
)

// readOnly is a queue that is read, and accepts no changes, for some sessions.
type readOnly struct {
	outbox.Queue
	sessions atomic.Int64 // that are to fail
	failed   atomic.Int64
}

func (q *readOnly) Lead(ctx context.Context) (outbox.Session, error) {
	s, err := q.Queue.Lead(ctx)
	if err != nil || q.sessions.Add(-1) < 0 {
		return s, err
	}
	return &readOnlySession{s, q}, nil
}

type readOnlySession struct {
	outbox.Session
	queue *readOnly
}

func (s *readOnlySession) Stream(context.Context, time.Time) (time.Time, error) {
	s.queue.failed.Add(1)
	return time.Time{}, errors.New("cannot execute UPDATE in a read-only transaction")
}

// A database that accepts no changes is no failure of the bus, and is tried again with a pause.
func TestAQueueThatFailsIsNoFailureOfTheBus(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.up()
	l.write(0, 1, "a")
	bus, err := natsbus.Connect(ctx, natsbus.Config{URL: l.url(), Log: slog.New(slog.DiscardHandler)})
	l.ok(err)
	queue := &readOnly{Queue: l.db}
	queue.sessions.Store(2)
	var blamed atomic.Int64
	r := outbox.New(outbox.Config{Queue: queue, Bus: bus, Log: slog.New(slog.DiscardHandler), OnError: func(string) { blamed.Add(1) }})
	running, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	began := time.Now()
	done.Go(func() { r.Run(running) })
	t.Cleanup(func() { cancel(); done.Wait(); bus.Close() })
	await.True(t, "the queue is used again", func() bool { return queue.sessions.Load() < 0 })
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("two sessions have failed within %s", took)
	}
	l.drained(0)
	if queue.failed.Load() != 2 || blamed.Load() != 0 {
		t.Errorf("%d sessions failed, and %d failures of the bus were counted", queue.failed.Load(), blamed.Load())
	}
}
