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

// evaluatorNeeds are the settings that an evaluator reads.
var evaluatorNeeds = server.Needs{Database: true, Issuers: true, Gate: true, Budgets: true}

// trustSubject trusts the issuer of the subjects where RAUTH_URL is not set. One that is not trusted is an error, since
// all of its subjects would be denied for that reason alone.
func trustSubject(cfg *server.Config, issuer string) error {
	if err := cfg.TrustAsRAuth(issuer); err != nil {
		return err
	}
	if _, known := cfg.Issuers.Find(issuer); !known && issuer != "" {
		return server.Faults(issuer + " is not trusted: set RAUTH_URL and TRUSTED_ISSUERS as for serve")
	}
	return nil
}

// openEvaluator opens a snapshot.
func openEvaluator(ctx context.Context, cfg *server.Config) (*evaluator, error) {
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
	o, err := openOperator(ctx, cfg)
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
	orders, err := a.db.PolicyOrders(ctx, "")
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
	stored, packed, err := a.db.PolicyBundle(ctx, orders.InForce)
	if err != nil {
		return nil, err
	}
	c, err := a.engine.UnpackVerified(stored.Source, packed)
	if err != nil {
		return nil, err
	}
	return a.engine.Prepare(ctx, c)
}

// openDecisionStore opens the database of decisions, which must be set.
func openDecisionStore(ctx context.Context, cfg *server.Config) (*postgres.Decisions, error) {
	if cfg.DecisionsURL == "" {
		return nil, server.Faults("DECISIONS_DATABASE_URL is missing: the database that decisions are stored in")
	}
	store, err := postgres.OpenDecisions(ctx, cfg.DecisionsURL, cfg.DecisionsKeep, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return nil, errors.New("DECISIONS_DATABASE_URL cannot be used") // the reason could show a password
	}
	return store, nil
}
