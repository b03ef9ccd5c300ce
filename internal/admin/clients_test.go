package admin_test

import (
	"context"
	"testing"
	"time"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
)

// Of two operations on a client only the outcome of the last one counts, and a rotation that no caller
// knows the end of ends no secret.
func TestTheOutcomeOfAReplacedOperationIsIgnored(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.tenant("acme")
	var made, deleted iam.ManagedClient
	program := admin.ClientEdit{Registration: iam.Registration{ClientName: "x", GrantTypes: []string{"client_credentials"}}}
	step := func(do func(ctx context.Context, w *admin.Work) error) { t.Helper(); o.ok(o.do("acme", do)) }
	late := func(op iam.ManagedClient) {
		t.Helper()
		step(func(ctx context.Context, w *admin.Work) error {
			f, err := w.Finished(ctx, op, admin.Done{Secret: "x"})
			if f.Ours || f.Client.OperationID != deleted.OperationID {
				t.Errorf("a replaced operation was finished: %+v", f.Client)
			}
			return err
		})
		step(func(ctx context.Context, w *admin.Work) error {
			_, err := w.Rejected(ctx, op, admin.Rejection{Reason: "x"})
			return err
		})
		step(func(ctx context.Context, w *admin.Work) error {
			return w.NotRotated(ctx, op, admin.FailedRotation{Unknown: true, Retired: true, Reason: "x"})
		})
		step(func(ctx context.Context, w *admin.Work) error {
			c, err := w.Postponed(ctx, op, "x")
			if c.Tries != 0 {
				t.Errorf("its outcome was taken: %+v", c)
			}
			return err
		})
	}
	step(func(ctx context.Context, w *admin.Work) (err error) {
		made, err = w.CreateClient(ctx, "acme", program, time.Minute)
		return err
	})
	step(func(ctx context.Context, w *admin.Work) (err error) {
		deleted, err = w.DeleteClient(ctx, made.ClientID, admin.Condition{}, time.Minute)
		if w.Begun() {
			t.Error("it does not wait for who is making the client")
		}
		return err
	})
	late(made)
	step(func(ctx context.Context, w *admin.Work) error {
		c, err := w.Client(ctx, made.ClientID)
		if c.Operation != iam.OperationDelete || c.SecretState != iam.SecretNotIssued {
			t.Errorf("it is %+v", c)
		}
		return err
	})

	// Interrupted within an overlap: what works goes on working.
	step(func(ctx context.Context, w *admin.Work) (err error) {
		made, err = w.CreateClient(ctx, "acme", program, time.Minute)
		return err
	})
	step(func(ctx context.Context, w *admin.Work) error {
		_, err := w.Finished(ctx, made, admin.Done{Secret: "x", Overlap: time.Hour})
		return err
	})
	step(func(ctx context.Context, w *admin.Work) (err error) {
		made, err = w.RotateClientSecret(ctx, made.ClientID, admin.SecretRotation{RetireOld: true, Lease: time.Minute})
		return err
	})
	step(func(ctx context.Context, w *admin.Work) error {
		return w.NotRotated(ctx, made, admin.FailedRotation{Unknown: true, Reason: "x"})
	})
	step(func(ctx context.Context, w *admin.Work) error {
		c, err := w.Client(ctx, made.ClientID)
		if c.SecretState != iam.SecretUnknown || !c.RetireAt.IsZero() {
			t.Errorf("it is %+v", c)
		}
		return err
	})
}
