package server

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"iam-service/internal/events/natsbus"
	"iam-service/internal/events/outbox"
	"iam-service/internal/postgres"
	"iam-service/internal/telemetry"
)

// openBus connects to NATS in the background, if NATS_URL is set.
func (s *service) openBus(context.Context) error {
	cfg := &s.cfg
	if cfg.NATSURL == "" {
		return nil
	}
	bus, err := natsbus.Connect(s.work, natsbus.Config{
		URL:             cfg.NATSURL,
		CredentialsFile: cfg.NATSCredentialsFile,
		CAFile:          cfg.NATSCAFile,
		CertFile:        cfg.NATSCertFile,
		KeyFile:         cfg.NATSKeyFile,
		Stream:          cfg.NATSStream,
		Replicas:        cfg.NATSStreamReplicas,
		Log:             s.log,
	})
	if err != nil {
		return errors.New("NATS_URL, or one of the files of NATS, cannot be used") // the reason could show a password
	}
	s.bus = bus
	s.onClose(bus.Close)
	s.check(telemetry.Check{Name: "nats", Degraded: true, Ask: bus.State})
	return nil
}

// openEvents relays events to the bus; without one, it deletes them after OUTBOX_RETENTION.
func (s *service) openEvents(start context.Context) error {
	var backlog refreshed[postgres.OutboxState]
	s.loops.run("outbox_figures", func() { backlog.run(s.work, s.db.Outbox) })
	outbox.RegisterBacklog(s.registry, func() outbox.Backlog { return outbox.Backlog(backlog.get()) })
	metrics := outbox.NewMetrics(s.registry)
	var expired atomic.Int64
	telemetry.Counter(s.registry, "iam_outbox_expired_total", "Events that were deleted unpublished, since no replica relays events (NATS_URL).", nil,
		func() float64 { return float64(expired.Load()) })
	if s.bus == nil {
		s.log.WarnContext(start, "events are not published: NATS_URL is not set", slog.String("deleted_unsent_after", s.cfg.OutboxRetention.String()))
		s.loops.run("outbox_expiry", func() { s.expireEvents(&expired) })
		return nil
	}
	relay := outbox.New(outbox.Config{
		Queue:   s.db,
		Bus:     s.bus,
		Log:     s.log,
		Tracing: s.tracing,
		OnSent:  metrics.Published,
		OnError: metrics.Error,
	})
	relay.Register(s.registry)
	s.loops.run("relay", func() { relay.Run(s.work) })
	return nil
}

// expireEvents deletes events that no replica relays and that are older than OUTBOX_RETENTION, at once and hourly.
func (s *service) expireEvents(expired *atomic.Int64) {
	for {
		n, err := s.db.ExpireEvents(s.work, time.Now().Add(-s.cfg.OutboxRetention))
		expired.Add(n)
		switch {
		case err != nil && s.work.Err() == nil:
			s.log.WarnContext(s.work, "unsent events could not be deleted", slog.Any("err", err))
		case n > 0:
			s.log.WarnContext(s.work, "unsent events deleted: NATS_URL is not set", slog.Int64("events", n))
		}
		select {
		case <-s.work.Done():
			return
		case <-time.After(time.Hour):
		}
	}
}
