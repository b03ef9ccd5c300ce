// Package clients reconciles OAuth2 clients between our database, which holds the wanted
// state, and the identity provider.
//
// It owns the saga of one change, which is two transactions and what lies between them:
//
//	begin (package admin)                in the identity provider       finish (package admin)
//	authorization, audit,    ─commit──▶  create, update, delete,  ──▶  in_sync, and the event
//	operation, a lease                   rotate, retire                 │ rejected: undone, 422
//	                                                                    │ unavailable: pending, 202, retried
//	                                                                    └ rotation unknown: 503, rotate again
//
// and the states of a client between the two:
//
//	           ┌─ POST ─▶ pending(create) ─created───▶ in_sync ◀──┐
//	(nothing) ◀┴─ rejected ────┘   │                    │ │ │ ▲   │done, rejected (failed)
//	                               │                    │ │ └─┼─ pending(update) ◀─ PUT
//	                               │ DELETE             │ │   │done, not done, unknown (secret_state)
//	                               ▼                    │ └───┴─ pending(rotate), pending(retire)
//	(forgotten) ◀─ a day ─ deleted ◀─done─ pending(delete) ◀─ DELETE, at any time
//
// The replica that began an operation works on it until its lease expires; then the loop, on
// one replica at a time, takes it over. Every step can be retried: a create finds an earlier
// one by the id, which we choose; an update is read back; only a rotation is never retried.
//
// It also compares the two systems, and repairs differences. It does not know HTTP, SQL, or
// which provider it is.
//
// clients.go has the requests, rotate.go the rotation of secrets, provider.go the steps in the
// provider, operation.go how an outcome is persisted, loop.go what runs in the background,
// compare.go the comparison.
package clients

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// Config of a Service.
type Config struct {
	Admin    *admin.Service
	DB       *postgres.DB
	Provider Provider // nil: clients are not managed
	Issuer   string   // of the provider
	Instance string   // our id among all that share the provider
	Copied   bool     // another database may be the same instance: no call to the provider
	Log      *slog.Logger

	Patience      time.Duration // timeout of the provider while a caller waits; 0: 1.4 s, for 202 is promised within 2 s
	TokenLifetime time.Duration // of the longest token; 0: 24 h
	Confirmed     bool          // an operator has confirmed: Newer stops no repair
	MaxRepairs    int           // of one comparison; more need an operator; 0: 10
	CompareEvery  time.Duration // 0: 10 min
	Tick          time.Duration // of the loop; 0: 500 ms
	OnCompared    func(Report)  // called after each comparison of the loop; may be nil
	OnPanic       func(error)   // called with a recovered panic of one client or one comparison; may be nil
}

// Service manages clients. It is safe for concurrent use.
type Service struct{ cfg Config }

// New returns a service.
func New(cfg Config) *Service {
	cfg.Patience = cmp.Or(cfg.Patience, 1400*time.Millisecond)
	cfg.TokenLifetime = cmp.Or(cfg.TokenLifetime, 24*time.Hour)
	cfg.CompareEvery = cmp.Or(cfg.CompareEvery, 10*time.Minute)
	cfg.Tick = cmp.Or(cfg.Tick, 500*time.Millisecond)
	cfg.MaxRepairs = cmp.Or(cfg.MaxRepairs, 10)
	if cfg.OnCompared == nil {
		cfg.OnCompared = func(Report) {}
	}
	if cfg.OnPanic == nil {
		cfg.OnPanic = func(error) {}
	}
	return &Service{cfg}
}

const maxOverlap = 720 * time.Hour // of two secrets

// Result is the outcome of a request.
type Result struct {
	Client       iam.ManagedClient
	Secret       iam.Secret // it is stored nowhere
	SecretStatus string     // "given", "not_issued"; empty: no secret was involved
	Pending      bool       // it is finished in the background
	Replayed     bool       // it is the result of an earlier request
}

// Values of Result.SecretStatus.
const (
	Given     = "given"
	NotIssued = "not_issued"
)

// Request is a caller, their task, and how it is to be done.
type Request struct {
	Caller admin.Caller
	Task   admin.Task
	Key    *admin.IdempotencyKey // nil: a repeated request is another one
	Later  bool                  // the caller does not want to wait
}

// begun is the outcome of the first transaction. A replay finds its exported fields alone.
type begun struct {
	Client string `json:"client"`
	Status string `json:"status,omitempty"` // of the secret, as it was returned

	client   iam.ManagedClient
	by       *admin.Actor // who requested an operation that was begun here; nil: none was
	replayed bool
}

func (s *Service) lease(r Request) time.Duration {
	if r.Later {
		return 0
	}
	return callerLease
}

// errOff is the error of an installation that does not manage clients.
var errOff = &iam.Error{Kind: iam.Unavailable, Code: "clients_not_managed", Detail: "clients are not managed here: RAUTH_ADMIN_URL is not set"}

// errCopied is the error of a database that may be a copy of another one.
var errCopied = &iam.Error{
	Kind: iam.Unavailable, Code: "instance_copied",
	Detail: "the database was copied or moved: clients are not managed until an operator runs iam-service instance keep, or renew",
}

// Problem is why clients are not managed though they should be; nil where they are.
func (s *Service) Problem() error {
	if s.cfg.Copied {
		return errCopied
	}
	return nil
}

// Create creates a client.
func (s *Service) Create(ctx context.Context, r Request, tenant string, e admin.ClientEdit) (Result, error) {
	return s.change(ctx, r, withSecret, func(ctx context.Context, w *admin.Work) (iam.ManagedClient, error) {
		return w.CreateClient(ctx, tenant, e, s.lease(r))
	})
}

// Put replaces a client.
func (s *Service) Put(ctx context.Context, r Request, id string, e admin.ClientEdit, c admin.Condition) (Result, error) {
	return s.change(ctx, r, withoutSecret, func(ctx context.Context, w *admin.Work) (iam.ManagedClient, error) {
		return w.PutClient(ctx, id, e, c, s.lease(r))
	})
}

// Delete deletes a client: in our database at once.
func (s *Service) Delete(ctx context.Context, r Request, id string, c admin.Condition) (Result, error) {
	return s.change(ctx, r, withoutSecret, func(ctx context.Context, w *admin.Work) (iam.ManagedClient, error) {
		return w.DeleteClient(ctx, id, c, s.lease(r))
	})
}

// secrecy is whether the response to a request carries a secret.
type secrecy int

const (
	withoutSecret secrecy = iota
	withSecret
)

// change is a request that may be finished in the background.
func (s *Service) change(ctx context.Context, r Request, secret secrecy, begin func(context.Context, *admin.Work) (iam.ManagedClient, error)) (Result, error) {
	if s.cfg.Provider == nil && secret == withSecret {
		return Result{}, errOff
	}
	if s.cfg.Copied {
		return Result{}, errCopied
	}
	lease := leaseFor(callerLease)
	b, err := s.begin(ctx, r, secret, begin)
	if err != nil {
		return Result{}, err
	}
	if b.replayed {
		return b.result(), nil
	}
	c := b.client
	res := Result{Client: c, Pending: c.Operation != ""}
	if b.by == nil || s.cfg.Provider == nil {
		return res, nil
	}
	// The operation goes on when the caller disconnects.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Patience)
	defer cancel()
	o := s.operation(r, c, b.by)
	d, err := s.step(ctx, c, lease, callerWaits)
	if err == nil {
		after, settled := o.finish(ctx, d)
		res.Client, res.Pending = after, !settled
		if settled && (c.Operation == iam.OperationCreate || d.Made) {
			res.setSecret(d)
		}
		if settled && d.Late {
			res.Client = s.endNow(ctx, after)
		}
		o.persistResult(ctx, res)
		return res, nil
	}
	if rejected(c, err) {
		if _, err := o.reject(ctx, err, admin.Rejection{Waits: true}); err != nil {
			s.cfg.Log.WarnContext(ctx, "failed to persist a rejection; it will be retried", slog.Any("err", err), slog.String("client", c.ClientID))
			return res, nil
		}
		return Result{}, err
	}
	res.Client = o.postpone(ctx, err)
	return res, nil
}

// setSecret adds the secret of an operation to a result.
func (res *Result) setSecret(d admin.Done) {
	if !res.Client.Wanted.HasSecret() {
		return
	}
	res.SecretStatus = NotIssued
	if d.Secret != "" {
		res.Secret, res.SecretStatus = d.Secret, Given
	}
}

// begin runs the first transaction, or finds the client that an earlier request with the
// same key was about.
func (s *Service) begin(ctx context.Context, r Request, secret secrecy, do func(context.Context, *admin.Work) (iam.ManagedClient, error)) (begun, error) {
	first := func(ctx context.Context, w *admin.Work) (begun, error) {
		c, err := do(ctx, w)
		b := begun{Client: c.ClientID, client: c}
		if w.Begun() {
			b.by = w.Actor()
		}
		if secret == withSecret && c.Wanted.HasSecret() {
			b.Status = NotIssued
		}
		return b, err
	}
	if r.Key == nil {
		return admin.Do(ctx, s.cfg.Admin, r.Caller, r.Task, first)
	}
	b, replayed, err := admin.DoOnce(ctx, s.cfg.Admin, admin.Repeatable{Caller: r.Caller, Task: r.Task, Key: *r.Key}, first)
	if err != nil || !replayed {
		return b, err
	}
	// The client as it is now. The caller was authorized to repeat the request.
	b.replayed = true
	read := admin.Task{Action: r.Task.Action, Tenant: r.Task.Tenant, Object: b.Client, Client: true}
	b.client, err = admin.Do(ctx, s.cfg.Admin, r.Caller, read, func(ctx context.Context, w *admin.Work) (iam.ManagedClient, error) {
		return w.Client(ctx, b.Client)
	})
	if iam.KindOf(err) == iam.NotFound {
		err = &iam.Error{
			Kind: iam.Conflict, Code: "answer_forgotten",
			Detail: "this request was sent before; its client has since been rejected by the identity provider, or deleted",
		}
	}
	return b, err
}

// result is the response to a request that was sent before.
func (b begun) result() Result {
	return Result{Client: b.client, Pending: b.client.Operation != "", Replayed: true, SecretStatus: b.Status}
}
