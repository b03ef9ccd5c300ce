package server

import (
	"context"
	"crypto/rand"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"iam-service/internal/enrich"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/policyops/explain"
	"iam-service/internal/telemetry"
)

// openOps creates the handler of the operators' listener, which shows all checks. What all replicas share only degrades
// while this one can serve.
func (s *service) openOps(context.Context) error {
	s.ops = &telemetry.Ops{
		Registry: s.registry,
		Checks:   s.checks,
		Policy:   func() any { return s.engine.Status() },
		Build:    s.build,
		Pprof:    s.cfg.OpsPprof,
		Tokens:   s.cfg.opsTokens,
	}
	s.servers = append(s.servers, newListener("ops", s.opsListener, s.ops.Handler(), s.log))
	return nil
}

// warm opens connections and evaluates once before the first request, which would have to wait for both.
func (s *service) warm(start context.Context) error {
	if err := s.warmPools(start); err != nil {
		return err
	}
	first := &rehearsal{engine: s.engine, enricher: s.enricher, issuer: s.cfg.RAuthURL}
	s.check(telemetry.Check{Name: "evaluation", Ask: first.try})
	if err := first.try(); err != nil {
		s.log.InfoContext(start, "not ready: the first evaluation failed", slog.Any("err", err)) // each probe tries again
	}
	return nil
}

// rehearsal serves one synthetic request before the first real one: it looks an unknown user up and evaluates the
// active policy.
type rehearsal struct {
	engine   *policy.Engine
	enricher *enrich.Service
	issuer   string
	done     atomic.Bool
}

// try returns nil once facts were read and the policy was evaluated. The decision does not matter: a policy may deny a
// synthetic request, or fail for it.
func (r *rehearsal) try() error {
	revision := r.engine.Revision()
	if r.done.Load() || revision == nil { // without a policy another check fails
		return nil
	}
	now := time.Now()
	t, err := explain.Of(r.issuer, "rehearsal-"+rand.Text(), "", nil, now)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	deadline := now.Add(time.Second)
	_, err = r.enricher.Ask(ctx, enrich.Question{Revision: revision, Token: t, Facts: r.enricher.View(t, deadline), Now: now}, deadline)
	if iam.KindOf(err) == iam.Unavailable && !strings.HasPrefix(iam.CodeOf(err), "policy_") {
		return err
	}
	r.done.Store(true)
	return nil
}

// atMostEvery calls check at most once in a period, and returns its last result otherwise.
func atMostEvery(period time.Duration, check func() error) func() error {
	var mu sync.Mutex
	var next time.Time
	var last error
	return func() error {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Now(); now.After(next) {
			last, next = check(), now.Add(period)
		}
		return last
	}
}
