package admin

import (
	"context"
	"time"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// Overview is the state of the platform, over one snapshot of the database. It names no tenant and no client.
type Overview struct {
	Activation *iam.PolicyActivation // the last one; nil: none yet
	Replicas   []iam.PolicyReplica   // that are alive
	Outbox     postgres.OutboxState
	Clients    postgres.ClientsState
	Comparison *iam.ClientComparison // the last one; nil: none yet
	AuditSince time.Time             // the audit is whole since then; zero: since its beginning
}

// Overview reads the state of the platform. It compares and evaluates nothing.
func (w *Work) Overview(ctx context.Context) (o Overview, err error) {
	activations, err := w.tx.PolicyActivations(ctx, 1)
	if err != nil {
		return o, err
	}
	if len(activations) > 0 {
		o.Activation = &activations[0]
	}
	if o.Replicas, err = w.tx.PolicyReplicas(ctx); err != nil {
		return o, err
	}
	if o.Outbox, err = w.tx.Outbox(ctx); err != nil {
		return o, err
	}
	if o.Clients, err = w.tx.ClientsState(ctx); err != nil {
		return o, err
	}
	comparison, compared, err := w.tx.ClientComparison(ctx)
	if err != nil {
		return o, err
	}
	if compared {
		o.Comparison = &comparison
	}
	o.AuditSince, err = w.tx.EarliestMoment(ctx)
	return o, err
}
