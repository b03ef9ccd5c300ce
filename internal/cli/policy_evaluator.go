package cli

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"iam-service/internal/policy"
	"iam-service/internal/postgres"
	"iam-service/internal/server"
	embedded "iam-service/policies"
)

// evaluator evaluates policies over one snapshot of the database, without a service that runs.
type evaluator struct {
	*operator
	facts     *postgres.Snapshot
	engine    *policy.Engine
	headerMax int
	limit     time.Duration // of an evaluation where it is served
}

// openEvaluator opens a snapshot. issuer is that of the subjects, if it is known: an issuer that is not trusted is an
// error, since every subject of it would be denied for that reason alone.
func openEvaluator(ctx context.Context, environ []string, issuer string) (*evaluator, error) {
	environ, err := withIssuer(environ, issuer)
	if err != nil {
		return nil, err
	}
	cfg, err := server.ReadConfig(environ, server.Needs{Database: true, Issuers: true, Gate: true, Budgets: true})
	if err != nil {
		return nil, err
	}
	if _, known := cfg.Issuers.Find(issuer); !known && issuer != "" {
		return nil, server.Faults(issuer + " is not trusted: set RAUTH_URL and TRUSTED_ISSUERS as for serve")
	}
	engine, err := policy.NewEngine(policy.Config{
		Headers:  cfg.GatewayHeaders,
		Admin:    cfg.AdminAudience != "",
		Settings: map[string]string{"unknown_users": cfg.UnknownUsers},
		Limit:    time.Second,
		Log:      slog.New(slog.DiscardHandler),
		Child:    []string{os.Args[0], policy.ChildCommand},
	})
	if err != nil {
		return nil, server.Faults("GATEWAY_HEADERS: " + err.Error())
	}
	o, err := openOperator(ctx, environ)
	if err != nil {
		return nil, err
	}
	facts, err := o.db.Snapshot(ctx)
	if err != nil {
		o.db.Close()
		return nil, err
	}
	return &evaluator{operator: o, facts: facts, engine: engine, headerMax: cfg.HeaderBudget, limit: cfg.Part(50)}, nil
}

// withIssuer is environ with issuer as RAUTH_URL, where that is not set and TRUSTED_ISSUERS does not name it: with
// DATABASE_URL alone, it is R-Auth.
func withIssuer(environ []string, issuer string) ([]string, error) {
	if issuer == "" {
		return environ, nil
	}
	cfg, err := server.ReadConfig(environ, server.Needs{Issuers: true})
	if err != nil || cfg.RAuthURL != "" {
		return environ, err
	}
	if _, named := cfg.Issuers.Find(issuer); named {
		return environ, nil
	}
	return append(environ[:len(environ):len(environ)], "RAUTH_URL="+issuer), nil
}

func (a *evaluator) close() {
	a.facts.Close()
	a.db.Close()
}

// revision is the policy at a path; without one, the active one by the database, or else the
// embedded one.
func (a *evaluator) revision(ctx context.Context, path string) (*policy.Revision, error) {
	if path != "" {
		c, err := a.engine.FromPath(path)
		if err != nil {
			return nil, err
		}
		return a.engine.Prepare(ctx, c)
	}
	orders, err := a.db.PolicyOrders(ctx)
	if err != nil {
		return nil, err
	}
	if orders.InForce == "" {
		c, err := policy.FromFS("embedded", embedded.FS)
		if err != nil {
			return nil, err
		}
		return a.engine.Prepare(ctx, c)
	}
	kept, packed, err := a.db.PolicyBundle(ctx, orders.InForce)
	if err != nil {
		return nil, err
	}
	c, err := a.engine.Unpack(kept.Source, packed, true)
	if err != nil {
		return nil, err
	}
	return a.engine.Prepare(ctx, c)
}

// openDecisionStore opens the database of decisions, which must be set.
func openDecisionStore(ctx context.Context, environ []string) (*postgres.Decisions, error) {
	cfg, err := server.ReadConfig(environ, server.Needs{Decisions: true})
	if err != nil {
		return nil, err
	}
	if cfg.DecisionsURL == "" {
		return nil, server.Faults("DECISIONS_DATABASE_URL is missing: the database that decisions are stored in")
	}
	store, err := postgres.OpenDecisions(ctx, cfg.DecisionsURL, cfg.DecisionsKeep, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return nil, errors.New("DECISIONS_DATABASE_URL cannot be used") // the reason could show a password
	}
	return store, nil
}
