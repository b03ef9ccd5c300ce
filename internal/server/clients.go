package server

import (
	"context"
	"fmt"

	"iam-service/internal/clients"
	"iam-service/internal/clients/rauth"
	"iam-service/internal/postgres"
	"iam-service/internal/telemetry"
	"iam-service/internal/token"
)

// openClients opens the saga of clients. Without RAUTH_ADMIN_URL it has no provider.
func (s *service) openClients(start context.Context) error {
	cfg := &s.cfg
	c := clients.Config{
		Admin:         s.administration,
		DB:            s.db,
		Issuer:        cfg.RAuthURL,
		Log:           s.log,
		TokenLifetime: cfg.MaxTokenLifetime,
		MaxRepairs:    cfg.ReconcileMaxChanges,
		OnPanic:       s.loops.panicked("clients"),
		OnCompared:    clients.NewMetrics(s.registry).Compared,
	}
	if cfg.RAuthAdminURL == "" {
		s.clients = clients.New(c)
		return nil
	}
	provider, err := NewProvider(*cfg, s.verifier, rauth.Config{Log: s.log, OnError: s.providerError, HTTP: s.tracing.Client(rauth.NewHTTP())})
	if err != nil {
		return fmt.Errorf("RAUTH_ADMIN_URL: %w", err)
	}
	s.provider, c.Provider = provider, provider
	if c.Instance, c.Copied, err = s.db.Instance(start); err != nil {
		return s.databaseFault("cannot read the instance from PostgreSQL", err)
	}
	s.clients = clients.New(c)
	s.check(
		telemetry.Check{Name: "admin API of R-Auth", Degraded: true, Ask: provider.State},
		telemetry.Check{Name: "instance", Degraded: true, Ask: s.clients.Problem},
	)
	var backlog refreshed[postgres.ClientsState]
	clients.RegisterBacklog(s.registry, func() clients.Backlog { return clients.Backlog(backlog.get()) })
	s.loops.run("clients_figures", func() { backlog.run(s.work, s.db.Clients) })
	s.loops.run("provider", func() { provider.Watch(s.work) })
	s.loops.run("clients", func() { s.clients.Run(s.work) })
	return nil
}

// NewProvider returns the adapter of R-Auth's admin API: c with the settings.
func NewProvider(cfg Config, verifier *token.Verifier, c rauth.Config) (*rauth.Client, error) {
	c.URL = cfg.RAuthAdminURL
	c.TokenFile = cfg.RAuthAdminTokenFile
	c.ClientID = cfg.RAuthAdminClientID
	c.SecretFile = cfg.adminSecretFile
	c.TokenURL = func(context.Context) (string, error) { return verifier.TokenEndpoint() }
	if c.SecretFile == "" {
		c.Secret = cfg.RAuthAdminClientSecret
	}
	return rauth.New(c)
}
