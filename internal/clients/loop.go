package clients

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// Limits of the loop.
const (
	atOnce     = 8                // concurrent operations: all that are claimed are begun
	loopLease  = 30 * time.Second // of operations that the loop takes over
	stepTime   = 20 * time.Second // timeout of one operation in the identity provider
	checkEvery = 5 * time.Second  // of the lock: it may be lost
	waitOthers = 3 * time.Second  // while another replica leads
	forgetPace = time.Hour

	compareTime = 5 * time.Minute
)

// loop is the caller of operations that are finished in the background.
var loop = admin.Caller{Operator: "reconciler", Via: "loop"}

// Run finishes interrupted operations, retires old secrets and compares the two systems, on
// one replica at a time, until ctx ends.
func (s *Service) Run(ctx context.Context) {
	if s.cfg.Copied {
		s.cfg.Log.ErrorContext(ctx, "database copied or moved: clients are not managed until an operator runs iam-service instance keep or renew", slog.String("instance", s.cfg.Instance))
		return
	}
	for ctx.Err() == nil {
		lock, got, err := s.cfg.DB.TryLock(ctx, "clients")
		switch {
		case err != nil:
			s.cfg.Log.InfoContext(ctx, "client loop failed to take its lock", slog.Any("err", err))
		case got:
			func() {
				defer lock.Close() // also after a panic: else no replica can lead
				s.lead(ctx, lock)
			}()
		}
		select {
		case <-ctx.Done():
		case <-time.After(waitOthers):
		}
	}
}

func (s *Service) lead(ctx context.Context, lock *postgres.SessionLock) {
	tick := time.NewTicker(s.cfg.Tick)
	defer tick.Stop()
	var checked, compared, forgot time.Time
	rounds := newRounds()
	ctx, cancel := context.WithCancel(ctx)
	comparing := make(chan struct{}, 1) // in the background: pending operations do not wait for it
	defer func() {
		cancel()
		comparing <- struct{}{}
		s.cfg.OnCompared(Report{}) // the next leader reports
	}()
	for {
		if time.Since(checked) > checkEvery {
			if err := lock.Check(ctx); err != nil {
				return
			}
			checked = time.Now()
		}
		n, err := s.Finish(ctx)
		if err != nil {
			s.cfg.Log.InfoContext(ctx, "failed to claim client operations", slog.Any("err", err))
		}
		if n == atOnce && ctx.Err() == nil {
			continue // there may be more
		}
		if time.Since(compared) > s.cfg.CompareEvery {
			select {
			case comparing <- struct{}{}:
				compared = time.Now()
				go func() {
					defer func() { <-comparing }()
					ctx, cancel := context.WithTimeout(ctx, compareTime)
					defer cancel()
					if err := iam.Try(func() { s.round(ctx, rounds) }); err != nil {
						s.cfg.OnPanic(err)
					}
				}()
			default: // the previous one is still running
			}
		}
		if time.Since(forgot) > forgetPace {
			forgot = time.Now()
			s.forget(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Finish takes over what is due and has no valid lease: operations, and old secrets to retire.
// It returns how many it took over.
func (s *Service) Finish(ctx context.Context) (int, error) { return s.finish(ctx, time.Time{}) }

// finish is Finish, and also takes over operations that wait for their next attempt, if the
// last one was before retried.
func (s *Service) finish(ctx context.Context, retried time.Time) (int, error) {
	lease := leaseFor(loopLease)
	due, err := s.claim(ctx, retried) // what was claimed is taken over also after an error
	var group sync.WaitGroup
	for _, c := range due {
		group.Go(func() { s.takeOver(ctx, c, lease) })
	}
	group.Wait()
	return len(due), err
}

// claim leases operations to this replica. Where nothing is due it is two statements that
// change nothing.
func (s *Service) claim(ctx context.Context, retried time.Time) ([]iam.ManagedClient, error) {
	due, err := s.cfg.DB.ClaimClients(ctx, postgres.Claim{Issuer: s.cfg.Issuer, Lease: loopLease, RetryOlder: retried, Limit: atOnce})
	if err != nil {
		return nil, err
	}
	old, err := s.cfg.DB.DueOverlaps(ctx, s.cfg.Issuer, atOnce-len(due))
	for _, id := range old {
		op, err := s.endOverlap(ctx, id, loopLease)
		switch {
		case err != nil: // it stays due, and must not delay the others
			s.cfg.Log.InfoContext(ctx, "failed to retire an old secret", slog.String("client", id), slog.Any("err", err))
		case op.Begun:
			due = append(due, op.Client)
		}
	}
	return due, err
}

// endOverlap begins to retire an old secret, if its overlap is over.
func (s *Service) endOverlap(ctx context.Context, id string, lease time.Duration) (admin.Begun, error) {
	task := admin.Task{Action: "client:retire-secret", Object: id, Client: true, Writes: true}
	return admin.Do(ctx, s.cfg.Admin, loop, task, func(ctx context.Context, w *admin.Work) (admin.Begun, error) {
		return w.EndOverlap(ctx, id, lease)
	})
}

// takeOver works on an operation for which no caller waits. A panic postpones it, and fails no other.
func (s *Service) takeOver(ctx context.Context, c iam.ManagedClient, l lease) (after iam.ManagedClient, done bool) {
	ctx, cancel := context.WithTimeout(ctx, min(stepTime, l.left()))
	defer cancel()
	o := operation{s: s, caller: loop, task: admin.Task{Action: "client:" + c.Operation, Tenant: c.Tenant, Object: c.ClientID, Writes: true}, client: c}
	after = c
	err := iam.Try(func() { after, done = o.proceed(ctx, l) })
	if err == nil {
		return after, done
	}
	s.cfg.OnPanic(err)
	if err := iam.Try(func() { after = o.postpone(ctx, err) }); err != nil {
		s.cfg.OnPanic(err) // it is taken over when the lease expires
	}
	return after, false
}

func (o operation) proceed(ctx context.Context, l lease) (after iam.ManagedClient, done bool) {
	s, c := o.s, o.client
	if c.Operation == iam.OperationRotate {
		// The request that began it was interrupted, and may have obtained a secret.
		_ = o.notRotated(ctx, errors.New("interrupted"), admin.FailedRotation{Unknown: true}) // no caller waits for the error
		return c, true
	}
	d, err := s.step(ctx, c, l, inBackground)
	switch {
	case err == nil:
		return o.finish(ctx, d)
	case rejected(c, err):
		if after, err = o.reject(ctx, err, admin.Rejection{}); err != nil {
			return c, false
		}
		return after, false
	}
	return o.postpone(ctx, err), false
}

func (s *Service) forget(ctx context.Context) {
	var err error
	for n := int64(1); n > 0 && err == nil; {
		err = s.cfg.DB.Change(ctx, func(ctx context.Context, tx *postgres.Tx) (err error) {
			n, err = tx.PurgeDeletedClients(ctx, s.cfg.TokenLifetime)
			return err
		})
	}
	if err != nil && ctx.Err() == nil {
		s.cfg.Log.InfoContext(ctx, "failed to forget deleted clients", slog.Any("err", err))
	}
}
