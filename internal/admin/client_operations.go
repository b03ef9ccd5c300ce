package admin

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/google/uuid"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// An operation in the identity provider takes two transactions: one begins it, one persists
// its outcome. Package clients does what lies between the two.

// begin persists an operation. Without a lease, the loop takes it over after a time.
func (w *Work) begin(ctx context.Context, c *iam.ManagedClient, operation string, lease, after time.Duration) error {
	c.Operation, c.OperationID, c.Sync, c.Reason, c.Tries = operation, uuid.NewString(), iam.SyncPending, "", 0
	w.begun = lease > 0
	return w.tx.PutRegistration(ctx, *c, postgres.Schedule{Lease: lease, Retry: after})
}

// Done is the outcome of an operation in the identity provider.
type Done struct {
	Secret  iam.Secret    // for the caller; empty: none was obtained
	Overlap time.Duration // how long the old secret works; 0: it no longer works
	Retired bool          // the old secret of a previous overlap was retired
	Late    bool          // the old secret still works, and must be retired
	Made    bool          // the client was created, and with it a secret
}

// Finish is the client after an operation, and whether it was this call that finished it: it
// may have been finished already, or been replaced by another one.
type Finish struct {
	Client iam.ManagedClient
	Ours   bool
}

// Finished persists that the operation was done.
func (w *Work) Finished(ctx context.Context, op iam.ManagedClient, d Done) (Finish, error) {
	c, ours, err := w.operation(ctx, op)
	if err != nil || !ours {
		return Finish{Client: c}, err
	}
	c, err = w.finish(ctx, op, c, d)
	return Finish{c, true}, err
}

func (w *Work) finish(ctx context.Context, op, c iam.ManagedClient, d Done) (iam.ManagedClient, error) {
	var err error
	change := c.Before != nil // it was requested: it is no repair
	operation := c.Operation
	c.Operation, c.OperationID, c.Sync, c.Reason, c.Before = "", "", iam.SyncDone, "", nil
	announced := c.Announced()
	switch operation {
	case iam.OperationCreate:
		if !announced {
			w.emit(iam.ClientCreatedEvent{ClientState: stateOfClient(c)})
		}
		if change || d.Made {
			err = w.issued(ctx, &c, d)
		}
	case iam.OperationUpdate:
		if change {
			w.emit(iam.ClientUpdatedEvent{ClientState: stateOfClient(c)})
		}
		switch {
		case d.Made:
			err = w.issued(ctx, &c, d)
		case c.Wanted.HasSecret() && c.SecretState == iam.SecretNone: // an earlier secret works on
			c.SecretState = iam.SecretNotIssued
		}
	case iam.OperationDelete:
		if change && announced {
			w.emit(iam.ClientDeletedEvent{ClientGone: iam.ClientGone{Client: c.ClientID, Tenant: c.Tenant}})
		}
	case iam.OperationRotate:
		if d.Retired {
			w.retired(&c)
		}
		if err = w.issued(ctx, &c, d); err != nil {
			return c, err
		}
		w.emit(iam.ClientSecretRotatedEvent{ClientSecret: secretOf(c)})
		if d.Overlap == 0 && !d.Late {
			w.emit(iam.ClientSecretRetiredEvent{ClientSecret: secretOf(c)})
		}
		err = w.secretChanged(ctx, auditOfSecret(op), &c)
	case iam.OperationRetire:
		w.retired(&c)
		err = w.secretChanged(ctx, auditOfSecret(op), &c)
	}
	if err != nil {
		return c, err
	}
	if operation == iam.OperationCreate || operation == iam.OperationUpdate {
		applied := c.Wanted
		c.Applied, c.AppliedMark = &applied, c.WantedVersion
	}
	return c, w.tx.PutRegistration(ctx, c, postgres.Schedule{})
}

// operation returns a client, locked, if the operation is still pending.
func (w *Work) operation(ctx context.Context, op iam.ManagedClient) (c iam.ManagedClient, ours bool, err error) {
	c, found, err := w.tx.ManagedClientForUpdate(ctx, op.Issuer, op.ClientID)
	if err == nil && !found {
		return op, false, nil
	}
	return c, err == nil && c.OperationID == op.OperationID, err
}

// Rejection is a permanent rejection of an operation by the identity provider.
type Rejection struct {
	Reason string // its code, and the field that it is about
	Waits  bool   // the caller of the operation still waits for its outcome
}

// Rejected undoes an operation that the identity provider rejects permanently. Where the caller
// waits, nothing is changed; else roles and scopes that were revoked meanwhile stay revoked.
func (w *Work) Rejected(ctx context.Context, op iam.ManagedClient, r Rejection) (iam.ManagedClient, error) {
	c, ours, err := w.operation(ctx, op)
	if err != nil || !ours {
		return c, err
	}
	was := auditOfClient(c)
	if c.Operation == iam.OperationCreate && c.Applied == nil {
		if err := w.tx.DeleteClient(ctx, c.Issuer, c.ClientID); err != nil {
			return c, err
		}
		return c, w.record(c.Tenant, iam.KindClient, c.ClientID, was, nil)
	}
	if c.Operation == iam.OperationUpdate && c.Before != nil && c.Applied != nil {
		nothingSince := r.Waits && c.Before.Version == c.Version
		keep := func(before, now []string) []string {
			return slices.DeleteFunc(slices.Clone(before), func(s string) bool { return !nothingSince && !slices.Contains(now, s) })
		}
		roles, err := w.tx.Roles(ctx, c.Tenant)
		if err != nil {
			return c, err
		}
		c.Roles = slices.DeleteFunc(keep(c.Before.Roles, c.Roles), func(r string) bool { return findRole(roles, r) == nil })
		c.Scopes = keep(c.Before.Scopes, c.Scopes)
		c.Wanted, c.WantedVersion = *c.Applied, c.AppliedMark
		if c.Version, err = w.tx.PutClient(ctx, c.Client); err != nil {
			return c, err
		}
		if err := w.record(c.Tenant, iam.KindClient, c.ClientID, was, auditOfClient(c)); err != nil {
			return c, err
		}
		published := *c.Before
		c.Before = nil
		if !slices.Equal(sorted(published.Roles), sorted(c.Roles)) || !slices.Equal(sorted(published.Scopes), sorted(c.Scopes)) {
			w.emit(iam.ClientUpdatedEvent{ClientState: stateOfClient(c)})
		}
	}
	var pause time.Duration
	if c.Operation == iam.OperationRetire {
		pause = retrySlow
	}
	c.Operation, c.OperationID, c.Sync, c.Reason, c.Before = "", "", iam.SyncFailed, r.Reason, nil
	return c, w.tx.PutRegistration(ctx, c, postgres.Schedule{Retry: pause})
}

// retrySlow is the pause before the next attempt to retire a secret, after a rejection.
const retrySlow = 10 * time.Minute

// maxPause is the longest pause between two attempts of an operation.
const maxPause = 30 * time.Second

// Postponed schedules another attempt of an operation.
func (w *Work) Postponed(ctx context.Context, op iam.ManagedClient, reason string) (iam.ManagedClient, error) {
	c, ours, err := w.operation(ctx, op)
	if err != nil || !ours {
		return c, err
	}
	pause := min(maxPause, time.Second<<min(c.Tries, 10))
	c.Tries++
	c.Reason = reason
	pause = pause/2 + rand.N(pause) //nolint:gosec // jitter is no secret
	return c, w.tx.PutRegistration(ctx, c, postgres.Schedule{Retry: pause})
}

// Begun is a client, and whether an operation in the identity provider was begun for it.
type Begun struct {
	Client iam.ManagedClient
	Begun  bool
}

// Repair begins an operation without a request, because the identity provider differs from the
// wanted state, if the client allows one now.
func (w *Work) Repair(ctx context.Context, seen iam.ManagedClient, operation string, lease time.Duration) (Begun, error) {
	c, found, err := w.tx.ManagedClientForUpdate(ctx, seen.Issuer, seen.ClientID)
	if err != nil || !found || c.Operation != "" || c.WantedVersion != seen.WantedVersion || c.Status != seen.Status {
		return Begun{Client: c}, err
	}
	c.Before = nil
	if len(c.Wanted.Audience) == 0 {
		c.Wanted.Audience = seen.Wanted.Audience // of a client of a version that did not manage audiences
	}
	if operation == iam.OperationCreate {
		// Another mark distinguishes a client that is created now from an earlier one.
		if c.Version, err = w.tx.BumpClientVersion(ctx, c.Issuer, c.ClientID); err != nil {
			return Begun{Client: c}, err
		}
		c.WantedVersion = c.Version
	}
	if err := w.begin(ctx, &c, operation, lease, 0); err != nil {
		return Begun{Client: c}, err
	}
	err = w.record(c.Tenant, iam.KindClient, c.ClientID, auditOfClient(c), auditOfClient(c))
	return Begun{Client: c, Begun: true}, err
}

// stateOfClient is the state for events. Events are published only after confirmation: while a
// change is pending, it is the state before.
func stateOfClient(c iam.ManagedClient) iam.ClientState {
	if c.Operation == iam.OperationUpdate && c.Before != nil && c.Applied != nil {
		c.Wanted, c.Roles, c.Scopes = *c.Applied, c.Before.Roles, c.Before.Scopes
	}
	s := iam.ClientState{Client: c.ClientID, Tenant: c.Tenant, Name: c.Wanted.ClientName, Status: c.Status, Roles: sorted(c.Roles), Scopes: sorted(c.Scopes), Version: c.Version}
	if c.Managed {
		s.Type = c.Wanted.Type()
	}
	return s
}
