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

// begin notes an operation. Without a lease nobody is at it: it is taken up after a time.
func (w *Work) begin(ctx context.Context, c *iam.ManagedClient, operation string, lease, after time.Duration) error {
	c.Operation, c.OperationID, c.Sync, c.Reason, c.Tries = operation, uuid.NewString(), iam.SyncPending, "", 0
	w.begun = lease > 0
	return w.tx.PutRegistration(ctx, *c, postgres.Schedule{Lease: lease, Retry: after})
}

// Done is what was achieved in the identity provider.
type Done struct {
	Secret  iam.Secret    // that was obtained, and that the caller gets; empty: none
	Overlap time.Duration // that an old one works for; 0: it does not any more
	Retired bool          // the one of an overlap before does not work any more
	Late    bool          // what should not work any more still does: it is to be ended
	Made    bool          // the client was made anew there, and with it a secret
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
	change := c.Before != nil // somebody asked for it: it is no repair
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
		case c.Wanted.HasSecret() && c.SecretState == iam.SecretNone: // one that it had before works on
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

// operation returns a client, locked, if the operation is still under way.
func (w *Work) operation(ctx context.Context, op iam.ManagedClient) (c iam.ManagedClient, ours bool, err error) {
	c, found, err := w.tx.ManagedClientForUpdate(ctx, op.Issuer, op.ClientID)
	if err == nil && !found {
		return op, false, nil
	}
	return c, err == nil && c.OperationID == op.OperationID, err
}

// Refused says that the identity provider refuses the operation for good: it is undone. A
// caller who waits is told that nothing was changed; for one who does not, what was taken
// away meanwhile is not given back.
func (w *Work) Refused(ctx context.Context, op iam.ManagedClient, reason string, waits bool) (iam.ManagedClient, error) {
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
		nothingSince := waits && c.Before.Version == c.Version
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
		told := *c.Before
		c.Before = nil
		if !slices.Equal(sorted(told.Roles), sorted(c.Roles)) || !slices.Equal(sorted(told.Scopes), sorted(c.Scopes)) {
			w.emit(iam.ClientUpdatedEvent{ClientState: stateOfClient(c)})
		}
	}
	var pause time.Duration
	if c.Operation == iam.OperationRetire {
		pause = retrySlow
	}
	c.Operation, c.OperationID, c.Sync, c.Reason, c.Before = "", "", iam.SyncFailed, reason, nil
	return c, w.tx.PutRegistration(ctx, c, postgres.Schedule{Retry: pause})
}

// retrySlow is the pause before an old secret is ended once more that the identity
// provider refuses to end.
const retrySlow = 10 * time.Minute

// Longest pause between two tries of an operation.
const maxPause = 30 * time.Second

// Postponed says that the operation could not be done now: it will be tried again.
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

// Repair begins an operation that nobody asked for: the identity provider differs from
// what should be. It reports whether that can be done now.
func (w *Work) Repair(ctx context.Context, seen iam.ManagedClient, operation string, lease time.Duration) (c iam.ManagedClient, can bool, err error) {
	c, found, err := w.tx.ManagedClientForUpdate(ctx, seen.Issuer, seen.ClientID)
	if err != nil || !found || c.Operation != "" || c.WantedVersion != seen.WantedVersion || c.Status != seen.Status {
		return c, false, err
	}
	c.Before = nil
	if len(c.Wanted.Audience) == 0 {
		c.Wanted.Audience = seen.Wanted.Audience // of a client from a version that did not manage it
	}
	if operation == iam.OperationCreate {
		// Another mark, by which one that is made now is told from one that was there all along.
		if c.Version, err = w.tx.BumpClientVersion(ctx, c.Issuer, c.ClientID); err != nil {
			return c, false, err
		}
		c.WantedVersion = c.Version
	}
	if err := w.begin(ctx, &c, operation, lease, 0); err != nil {
		return c, false, err
	}
	return c, true, w.record(c.Tenant, iam.KindClient, c.ClientID, auditOfClient(c), auditOfClient(c))
}

// stateOfClient is what is told of a client: what was told before, while a change of it is
// only tried.
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
