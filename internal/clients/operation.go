package clients

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
)

// operation is one that was begun, with its caller.
type operation struct {
	s      *Service
	caller admin.Caller
	task   admin.Task
	key    *admin.IdempotencyKey
	client iam.ManagedClient
}

func (s *Service) operation(r Request, c iam.ManagedClient, by *admin.Actor) operation {
	return operation{s, r.Caller, admin.Task{Action: r.Task.Action, Tenant: c.Tenant, Object: c.ClientID, Writes: true, For: by}, r.Key, c}
}

// settle persists the outcome of an operation, also after the operation's own deadline.
func settle[T any](ctx context.Context, o operation, do func(context.Context, *admin.Work) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settlePatience)
	defer cancel()
	var result T
	var err error
	for try := range settleTries {
		if try > 0 {
			time.Sleep(100 * time.Millisecond << try)
		}
		if result, err = admin.Do(ctx, o.s.cfg.Admin, o.caller, o.task, do); iam.KindOf(err) != iam.Unavailable || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		o.s.cfg.Log.WarnContext(ctx, "failed to persist the outcome of a provider operation", slog.Any("err", err),
			slog.String("client", o.client.ClientID), slog.String("operation", o.client.Operation))
	}
	return result, err
}

// finish reports whether the operation is known to be done, and how the client is then.
func (o operation) finish(ctx context.Context, d admin.Done) (c iam.ManagedClient, settled bool) {
	attempts := 0
	f, err := settle(ctx, o, func(ctx context.Context, w *admin.Work) (admin.Finish, error) {
		attempts++
		return w.Finished(ctx, o.client, d)
	})
	switch {
	case err != nil:
		return o.client, false
	case f.Ours:
		return f.Client, true
	case attempts > 1 && d.Secret != "" && f.Client.Secrets == o.client.Secrets+1:
		return f.Client, true // an earlier attempt was committed, and its response was lost
	}
	return f.Client, f.Client.Operation == "" && d.Secret == "" // another one has finished it
}

// reject persists a permanent rejection, and returns the client without the operation.
func (o operation) reject(ctx context.Context, cause error, r admin.Rejection) (iam.ManagedClient, error) {
	r.Reason = reasonOf(cause)
	o.s.cfg.Log.WarnContext(ctx, "client rejected by the identity provider", slog.Any("err", cause), slog.String("client", o.client.ClientID), slog.String("operation", o.client.Operation))
	c, err := settle(ctx, o, func(ctx context.Context, w *admin.Work) (iam.ManagedClient, error) {
		return w.Rejected(ctx, o.client, r)
	})
	if err == nil {
		o.forgetKey(ctx)
	}
	return c, err
}

// forgetKey lets a request without effect be sent again. It is a transaction of its own: a
// repeated request locks its key first.
func (o operation) forgetKey(ctx context.Context) {
	if o.key == nil {
		return
	}
	if err := o.s.cfg.Admin.ForgetKey(context.WithoutCancel(ctx), o.caller, o.key.Key); err != nil {
		o.s.cfg.Log.InfoContext(ctx, "failed to free an idempotency key: the request needs another one", slog.Any("err", err))
	}
}

// persistResult records that the secret is returned now, for a repeated request.
func (o operation) persistResult(ctx context.Context, res Result) {
	if o.key == nil || res.SecretStatus != Given {
		return
	}
	result, err := json.Marshal(begun{Client: res.Client.ClientID, Status: Given})
	if err == nil {
		err = o.s.cfg.Admin.SetResult(context.WithoutCancel(ctx), o.caller, o.key.Key, result)
	}
	if err != nil {
		o.s.cfg.Log.InfoContext(ctx, "failed to persist that a secret is returned: a replay reports not_issued", slog.Any("err", err))
	}
}

// reasonOf is the code of an error, with the field that it is about.
func reasonOf(err error) string {
	e, ok := errors.AsType[*iam.Error](err)
	if !ok {
		return "failed"
	}
	if len(e.Fields) > 0 {
		return e.Code + ":" + e.Fields[0].Pointer
	}
	return e.Code
}

// postpone schedules another attempt, and returns the client.
func (o operation) postpone(ctx context.Context, cause error) iam.ManagedClient {
	c, err := settle(ctx, o, func(ctx context.Context, w *admin.Work) (iam.ManagedClient, error) {
		return w.Postponed(ctx, o.client, reasonOf(cause))
	})
	if err != nil {
		return o.client // the loop takes it over when the lease expires
	}
	return c
}

// notRotated persists a failed rotation, and returns the error for the caller.
func (o operation) notRotated(ctx context.Context, cause error, f admin.FailedRotation) error {
	f.Reason = reasonOf(cause)
	_, err := settle(ctx, o, func(ctx context.Context, w *admin.Work) (struct{}, error) {
		return struct{}{}, w.NotRotated(ctx, o.client, f)
	})
	if err == nil { // else the loop marks the secret unknown
		o.forgetKey(ctx)
	}
	switch {
	case f.Unknown:
		return rotateAgain(cause)
	case iam.KindOf(cause) == iam.NotFound:
		return &iam.Error{Kind: iam.Conflict, Code: "client_missing", Detail: "the identity provider no longer has this client; the next comparison creates it again", Cause: cause}
	}
	return cause
}
