package server

import (
	"context"
	"fmt"

	"iam-service/internal/directory"
	"iam-service/internal/directory/feed"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
	"iam-service/internal/telemetry"
)

// factsShare is the share of MEMORY_AIM that documents of facts may take.
const factsShare = 0.35

// openFacts returns when changes are received.
func (s *service) openFacts(start context.Context) error {
	cfg := &s.cfg
	s.facts = directory.New(s.db, directory.Config{
		Issuers:  cfg.Issuers,
		Entries:  cfg.FactsEntries,
		Bytes:    share(cfg.MemoryAim, factsShare),
		MaxStale: cfg.MaxStaleness,
		Wait:     cfg.Part(60),
	})
	s.facts.Register(s.registry)
	s.policyChanged = make(chan struct{}, 1)
	s.changes = feed.New(feed.Config{
		Source:          s.db,
		Store:           s.facts,
		Log:             s.log,
		OnDelay:         feed.DelayHistogram(s.registry),
		OnPolicy:        s.notifyPolicyChange,
		OnAssertionKeys: s.notifyAssertionKeys,
		OnPanic:         s.loops.panicked("feed"),
	})
	s.changes.Register(s.registry)
	s.check(
		telemetry.Check{Name: "facts", Ask: s.changes.Ready},
		telemetry.Check{Name: "feed of changes", Degraded: true, Ask: s.changes.Problem},
	)
	s.loops.run("feed", func() { s.changes.Run(s.work) })
	err := s.changes.Started(start)
	if err == nil {
		return nil
	}
	name, url := "DATABASE_LISTEN_URL", cfg.ListenURL
	if url == "" {
		name, url = "DATABASE_URL, since DATABASE_LISTEN_URL is not set", cfg.DatabaseURL
	}
	return fmt.Errorf("cannot receive changes (%s, at %s): %w", name, postgres.Server(url), OneLine(err))
}

// factsReport is what this replica reports of its facts to all.
func (s *service) factsReport() iam.ReplicaFacts {
	recent := s.changes.Recent()
	r := iam.ReplicaFacts{State: string(s.changes.State()), Window: recent.Window.Seconds(), Probes: recent.Probes, Changes: recent.Changes}
	if age, once := s.facts.Age(); once {
		seconds := age.Seconds()
		r.Age = &seconds
	}
	if recent.Probes > 0 {
		seconds := recent.P99.Seconds()
		r.Propagation99 = &seconds
	}
	return r
}

// notifyPolicyChange wakes the loop of policies, unless it is about to look already.
func (s *service) notifyPolicyChange() {
	select {
	case s.policyChanged <- struct{}{}:
	default:
	}
}
