package admin

import (
	"context"
	"time"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// SecretRotation is how a secret is rotated.
type SecretRotation struct {
	If        Condition
	RetireOld bool // the old secret ends now, where one still overlaps; else that is a conflict
	Lease     time.Duration
}

// RotateClientSecret begins a rotation.
func (w *Work) RotateClientSecret(ctx context.Context, id string, r SecretRotation) (iam.ManagedClient, error) {
	c, err := w.lockClient(ctx, id, r.If)
	switch {
	case err != nil:
		return c, err
	case !c.Managed:
		return c, errNotManaged
	case !c.Wanted.HasSecret():
		return c, &iam.Error{Kind: iam.Conflict, Code: "no_secret", Detail: "the client has no secret: it is public, or authenticates with a key"}
	case c.Operation != "":
		return c, busy(c)
	}
	if err := w.checkClientHeld(ctx, "rotate the secret of", c); err != nil {
		return c, err
	}
	if err := w.checkHeldUnlimited(ctx, c); err != nil {
		return c, err
	}
	if !c.RetireAt.IsZero() && !r.RetireOld {
		return c, &iam.Error{
			Kind: iam.Conflict, Code: "overlap_running",
			Detail: "an old secret works until " + timestamp(c.RetireAt) + ": wait until then, or rotate with retire_old, which retires it now",
		}
	}
	was := auditOfSecret(c)
	if err := w.begin(ctx, &c, iam.OperationRotate, r.Lease, 0); err != nil {
		return c, err
	}
	return c, w.record(c.Tenant, iam.KindClient, id, was, secretDoc{c.Secrets, "rotating", was.OldUntil})
}

// secretChanged records a change of the secret, and creates a version for the condition of the
// next rotation.
func (w *Work) secretChanged(ctx context.Context, was secretDoc, c *iam.ManagedClient) (err error) {
	if c.Version, err = w.tx.BumpClientVersion(ctx, c.Issuer, c.ClientID); err != nil {
		return err
	}
	return w.record(c.Tenant, iam.KindClient, c.ClientID, was, auditOfSecret(*c))
}

// issued updates the state of a secret: returned to the caller, or not issued.
func (w *Work) issued(ctx context.Context, c *iam.ManagedClient, d Done) error {
	c.SecretState, c.OverlapFrom, c.RetireAt, c.Warned = iam.SecretNone, time.Time{}, time.Time{}, false
	if !c.Wanted.HasSecret() {
		return nil
	}
	c.SecretState = iam.SecretNotIssued
	if d.Secret != "" {
		c.SecretState = iam.SecretIssued
		c.Secrets++
	}
	if d.Overlap == 0 && !d.Late {
		return nil
	}
	now, err := w.tx.Now(ctx)
	c.OverlapFrom, c.RetireAt = now, now.Add(d.Overlap)
	return err
}

func (w *Work) retired(c *iam.ManagedClient) {
	if c.RetireAt.IsZero() {
		return
	}
	c.OverlapFrom, c.RetireAt, c.Warned = time.Time{}, time.Time{}, false
	w.emit(iam.ClientSecretRetiredEvent{ClientSecret: secretOf(*c)})
}

// FailedRotation is what is known of a rotation that obtained no secret.
type FailedRotation struct {
	Unknown bool // whether the provider created a secret
	Retired bool // the old secrets were removed
	Reason  string
}

// NotRotated persists a failed rotation, or one with an unknown outcome. After that, all secrets
// that may be in use work until another one is obtained.
func (w *Work) NotRotated(ctx context.Context, op iam.ManagedClient, f FailedRotation) error {
	c, ours, err := w.operation(ctx, op)
	if err != nil || !ours {
		return err
	}
	was := auditOfSecret(c)
	c.Operation, c.OperationID, c.Sync, c.Reason = "", "", iam.SyncDone, f.Reason
	if f.Retired {
		w.retired(&c)
	}
	if f.Unknown {
		c.SecretState, c.OverlapFrom, c.RetireAt, c.Warned = iam.SecretUnknown, time.Time{}, time.Time{}, false
	}
	if f.Unknown || !sameJSON(was, auditOfSecret(c)) {
		if err := w.secretChanged(ctx, was, &c); err != nil {
			return err
		}
	}
	return w.tx.PutRegistration(ctx, c, postgres.Schedule{})
}

// EndOverlap begins to retire an old secret whose overlap is over, or emits that it soon is; it
// reports whether an operation in the identity provider is due.
func (w *Work) EndOverlap(ctx context.Context, id string, lease time.Duration) (Begun, error) {
	c, err := w.Client(ctx, id)
	if err != nil || c.Operation != "" || c.RetireAt.IsZero() || c.Status == iam.ClientDeleted || !c.Wanted.HasSecret() {
		return Begun{Client: c}, err
	}
	now, err := w.tx.Now(ctx)
	if err != nil {
		return Begun{Client: c}, err
	}
	left := c.RetireAt.Sub(now)
	if left <= 0 {
		err = w.begin(ctx, &c, iam.OperationRetire, lease, 0)
		return Begun{Client: c, Begun: true}, err
	}
	if !c.Warned && left <= c.RetireAt.Sub(c.OverlapFrom)/4 {
		c.Warned = true
		w.emit(iam.ClientSecretExpiringEvent{ClientSecret: secretOf(c)})
		return Begun{Client: c}, w.tx.PutRegistration(ctx, c, postgres.Schedule{})
	}
	return Begun{Client: c}, nil
}

func secretOf(c iam.ManagedClient) iam.ClientSecret {
	return iam.ClientSecret{Client: c.ClientID, Tenant: c.Tenant, OldUntil: timestamp(c.RetireAt)}
}
