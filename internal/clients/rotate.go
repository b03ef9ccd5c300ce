package clients

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
)

// Rotation is how a secret is rotated.
type Rotation struct {
	Overlap   time.Duration // how long the old one works; 0: it is retired at once
	RetireOld bool          // end a running overlap
}

// Rotate creates another secret of a client. It fails with Unavailable where none was obtained,
// which is never retried in the background: the caller sends another request.
func (s *Service) Rotate(ctx context.Context, r Request, id string, cond admin.Condition, rot Rotation) (Result, error) {
	if s.cfg.Provider == nil {
		return Result{}, errOff
	}
	if s.cfg.Copied {
		return Result{}, errCopied
	}
	if rot.Overlap < 0 || rot.Overlap > maxOverlap {
		return Result{}, iam.InvalidFields([]iam.FieldError{{Pointer: "/overlap", Detail: "must be 0 to 720h"}})
	}
	lease := leaseFor(callerLease)
	b, err := s.begin(ctx, r, withSecret, func(ctx context.Context, w *admin.Work) (iam.ManagedClient, error) {
		return w.RotateClientSecret(ctx, id, admin.SecretRotation{If: cond, RetireOld: rot.RetireOld, Lease: callerLease})
	})
	c := b.client
	switch {
	case err != nil:
		return Result{}, err
	case b.replayed && c.Operation == iam.OperationRotate:
		return Result{}, &iam.Error{Kind: iam.Conflict, Code: "operation_pending", Detail: "this request is still in progress"}
	case b.replayed:
		return b.result(), nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Patience)
	defer cancel()
	o := s.operation(r, c, b.by)
	retired := false
	if rot.RetireOld && !c.RetireAt.IsZero() {
		if lease.over() {
			return Result{}, o.notRotated(ctx, errLeaseOver, admin.FailedRotation{})
		}
		if err := s.cfg.Provider.Retire(ctx, c.ClientID); err != nil {
			return Result{}, o.notRotated(ctx, err, admin.FailedRotation{})
		}
		retired = true
	}
	if lease.over() {
		return Result{}, o.notRotated(ctx, errLeaseOver, admin.FailedRotation{Retired: retired})
	}
	secret, oldWorks, err := s.newSecret(ctx, c, rot.Overlap)
	if err != nil {
		return Result{}, o.notRotated(ctx, err, admin.FailedRotation{Unknown: errors.Is(err, iam.ErrOutcomeUnknown), Retired: retired})
	}
	// The old secret is retired after the new one is persisted: until then it may be needed.
	d := admin.Done{Secret: secret, Overlap: rot.Overlap, Retired: retired, Late: oldWorks && rot.Overlap == 0}
	after, settled := o.finish(ctx, d)
	if !settled {
		// Whether it was persisted is unknown; if it was not, the loop marks the secret unknown.
		return Result{}, rotateAgain(errors.New("failed to persist the outcome"))
	}
	res := Result{Client: after}
	res.setSecret(d)
	if d.Late {
		res.Client = s.endNow(ctx, after)
	}
	o.persistResult(ctx, res)
	return res, nil
}

// endNow retires an old secret while the caller waits; where that fails, the loop retries.
func (s *Service) endNow(ctx context.Context, c iam.ManagedClient) iam.ManagedClient {
	lease := leaseFor(callerLease)
	if op, err := s.endOverlap(ctx, c.ClientID, callerLease); err == nil && op.Begun {
		c, _ = s.takeOver(ctx, op.Client, lease)
	}
	return c
}

func rotateAgain(cause error) error {
	return &iam.Error{Kind: iam.Unavailable, Code: "secret_unknown", Detail: "the outcome of the rotation is unknown: rotate it again", Cause: cause}
}

// newSecret obtains another secret, and reports whether the old one still works. Where the
// provider cannot have two, a secret of ours replaces the old one.
func (s *Service) newSecret(ctx context.Context, c iam.ManagedClient, overlap time.Duration) (secret iam.Secret, oldWorks bool, err error) {
	secret, err = s.cfg.Provider.Rotate(ctx, c.ClientID)
	if iam.CodeOf(err) != iam.CodeCannotRotate {
		return secret, true, err
	}
	if overlap > 0 {
		return "", false, &iam.Error{
			Kind: iam.Invalid, Code: iam.CodeCannotRotate, Detail: "some fields are not valid", Cause: err,
			Fields: []iam.FieldError{{Pointer: "/overlap", Detail: "must be 0: the identity provider cannot have two secrets of a client"}},
		}
	}
	secret = iam.Secret(rand.Text() + rand.Text())
	return secret, false, s.cfg.Provider.SetSecret(ctx, c.Marked(s.cfg.Instance), secret)
}
