// Package clients makes two systems agree about OAuth2 clients: our database, which says
// what should be, and the identity provider, which must be made to.
//
// It owns the saga of one change, which is two transactions and what lies between them:
//
//	begin (package admin)               in the identity provider       finish (package admin)
//	who may, facts, audit,  ─commit──▶  create, update, delete,  ──▶  in_sync, and the event
//	operation, a lease                  rotate, retire                 │ refused for good: undone, 422
//	                                                                   │ not now: pending, 202, tried again
//	                                                                   └ rotation unknown: 503, rotate again
//
// and the states of a client between the two:
//
//	           ┌─ POST ─▶ pending(create) ─made──────▶ in_sync ◀──┐
//	(nothing) ◀┴─ refused ─────┘   │                    │ │ │ ▲   │done, refused (failed)
//	                               │                    │ │ └─┼─ pending(update) ◀─ PUT
//	                               │ DELETE             │ │   │done, not done, unknown (secret_state)
//	                               ▼                    │ └───┴─ pending(rotate), pending(retire)
//	(forgotten) ◀─ a day ─ deleted ◀─done─ pending(delete) ◀─ DELETE, at any time
//
// Whoever began an operation is at it until its lease ends; then the loop, on one replica
// at a time, takes it up. Every step can be done once more: a create finds what it made by
// the id, which we choose; an update is read back; only a rotation is never repeated.
//
// It also compares the two systems, and repairs what differs. It does not know HTTP, SQL,
// or who the provider is.
package clients

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"strconv"
	"time"

	"iam-service/internal/admin"
	"iam-service/internal/directory/clock"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// Provider is the identity provider, as package rauthtest holds it to. A failure says by
// its kind what can be done: Invalid is for good, Unavailable is for now, and
// iam.ErrOutcomeUnknown in its chain says that it may have been done.
type Provider interface {
	Create(ctx context.Context, r iam.Registration) (iam.Secret, error)
	Get(ctx context.Context, id string) (iam.Registration, error)
	Update(ctx context.Context, r iam.Registration) error
	Delete(ctx context.Context, id string) error
	Rotate(ctx context.Context, id string) (iam.Secret, error)
	SetSecret(ctx context.Context, r iam.Registration, secret iam.Secret) error
	Retire(ctx context.Context, id string) error
	List(ctx context.Context, each func(iam.Registration) error) error
}

// Config of a Service.
type Config struct {
	Admin    *admin.Service
	DB       *postgres.DB
	Provider Provider // nil: clients are not managed
	Issuer   string   // that the provider is
	Instance string   // who we are among all that share the provider
	Copied   bool     // another database may be the same instance: nothing is done in the provider
	Log      *slog.Logger

	Patience      time.Duration // with the provider while a caller waits; 0: 1.4 s, for 202 is promised within 2 s
	TokenLifetime time.Duration // of the longest token; 0: 24 h
	Confirmed     bool          // somebody has looked: Newer stops no repair
	MaxRepairs    int           // of one comparison; more are done by hand; 0: 10
	CompareEvery  time.Duration // 0: 10 min
	Tick          time.Duration // of the loop; 0: 500 ms
	OnCompared    func(Report)  // told of each comparison of the loop; may be nil
	OnPanic       func(error)   // called with a panic over one client or one comparison, which ends nothing else; may be nil
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

const (
	settlePatience = 3 * time.Second // for writing down what became of an operation
	settleTries    = 3
	callerLease    = 8 * time.Second // while a caller waits: their patience, that, and some
	leaseRest      = 4 * time.Second // of a lease, in which nothing is begun any more
)

// Result is what became of a request.
type Result struct {
	Client       iam.ManagedClient
	Secret       iam.Secret // only here: it is kept nowhere
	SecretStatus string     // "given", "not_issued"; empty: nothing was to be said
	Pending      bool       // it will be finished later
	Replayed     bool       // it was asked before
}

// What is said of the secret that a request was to obtain.
const (
	Given     = "given"
	NotIssued = "not_issued"
)

// Request is who asks for what, and how.
type Request struct {
	Caller admin.Caller
	Task   admin.Task
	Key    *admin.IdempotencyKey // nil: a repeated request is another one
	Later  bool                  // the caller does not want to wait
}

// lease is until when nobody else takes up an operation, by a clock that runs while the
// machine is suspended.
type lease time.Duration

func leaseFor(d time.Duration) lease { return lease(clock.Now() + d) }

// left is how long one may be at it.
func (l lease) left() time.Duration { return time.Duration(l) - leaseRest - clock.Now() }

// over reports whether somebody else may be at it soon.
func (l lease) over() bool { return l.left() <= 0 }

var errLeaseOver = &iam.Error{Kind: iam.Unavailable, Code: "busy", Detail: "it took too long to begin"}

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

// errOff is for an installation that does not manage clients.
var errOff = &iam.Error{Kind: iam.Unavailable, Code: "clients_not_managed", Detail: "clients are not managed here: RAUTH_ADMIN_URL is not set"}

// errCopied is for a database that may be a copy of another one's.
var errCopied = &iam.Error{
	Kind: iam.Unavailable, Code: "instance_copied",
	Detail: "the database was copied or moved: clients are not managed until an operator has said which (iam-service instance keep, or renew)",
}

// Problem says why clients are not managed though they should be; nil where they are.
func (s *Service) Problem() error {
	if s.cfg.Copied {
		return errCopied
	}
	return nil
}

// Create makes a client.
func (s *Service) Create(ctx context.Context, r Request, tenant string, e admin.ClientEdit) (Result, error) {
	return s.change(ctx, r, true, func(ctx context.Context, w *admin.Work) (iam.ManagedClient, error) {
		return w.CreateClient(ctx, tenant, e, s.lease(r))
	})
}

// Put replaces what a client is.
func (s *Service) Put(ctx context.Context, r Request, id string, e admin.ClientEdit, c admin.Condition) (Result, error) {
	return s.change(ctx, r, false, func(ctx context.Context, w *admin.Work) (iam.ManagedClient, error) {
		return w.PutClient(ctx, id, e, c, s.lease(r))
	})
}

// Delete deletes a client: here at once.
func (s *Service) Delete(ctx context.Context, r Request, id string, c admin.Condition) (Result, error) {
	return s.change(ctx, r, false, func(ctx context.Context, w *admin.Work) (iam.ManagedClient, error) {
		return w.DeleteClient(ctx, id, c, s.lease(r))
	})
}

// change is a request that can be finished later.
func (s *Service) change(ctx context.Context, r Request, secret bool, begin func(context.Context, *admin.Work) (iam.ManagedClient, error)) (Result, error) {
	if s.cfg.Provider == nil && secret {
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
	// The caller may go: what was begun is brought to an end.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Patience)
	defer cancel()
	o := s.operation(r, c, b.by)
	d, err := s.step(ctx, c, lease, true)
	if err == nil {
		after, settled := o.finish(ctx, d)
		res.Client, res.Pending = after, !settled
		if settled && (c.Operation == iam.OperationCreate || d.Made) {
			res.tell(d)
		}
		if settled && d.Late {
			res.Client = s.endNow(ctx, after)
		}
		o.answered(ctx, res)
		return res, nil
	}
	if refused(c, err) {
		if _, err := o.refuse(ctx, err, true); err != nil {
			s.cfg.Log.WarnContext(ctx, "a refusal was not written down; it will be tried again", slog.Any("err", err), slog.String("client", c.ClientID))
			return res, nil
		}
		return Result{}, err
	}
	res.Client = o.postpone(ctx, err)
	return res, nil
}

// tell says what the caller learns of a secret.
func (res *Result) tell(d admin.Done) {
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
func (s *Service) begin(ctx context.Context, r Request, secret bool, do func(context.Context, *admin.Work) (iam.ManagedClient, error)) (begun, error) {
	first := func(ctx context.Context, w *admin.Work) (begun, error) {
		c, err := do(ctx, w)
		b := begun{Client: c.ClientID, client: c}
		if w.Begun() {
			b.by = w.Actor()
		}
		if secret && c.Wanted.HasSecret() {
			b.Status = NotIssued
		}
		return b, err
	}
	if r.Key == nil {
		return admin.Do(ctx, s.cfg.Admin, r.Caller, r.Task, first)
	}
	b, replayed, err := admin.DoOnce(ctx, s.cfg.Admin, r.Caller, r.Task, *r.Key, first)
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

// Rotation is how a secret is rotated.
type Rotation struct {
	Overlap   time.Duration // that the old one works for; 0: it ends at once
	RetireOld bool          // ends an overlap that is running
}

// Rotate gives a client another secret. It fails with Unavailable where none was
// obtained, which is never made up for: whoever wants a secret asks again.
func (s *Service) Rotate(ctx context.Context, r Request, id string, cond admin.Condition, rot Rotation) (Result, error) {
	if s.cfg.Provider == nil {
		return Result{}, errOff
	}
	if s.cfg.Copied {
		return Result{}, errCopied
	}
	if rot.Overlap < 0 || rot.Overlap > maxOverlap {
		return Result{}, iam.Refuse([]iam.FieldError{{Pointer: "/overlap", Detail: "must be 0 to 720h"}})
	}
	lease := leaseFor(callerLease)
	b, err := s.begin(ctx, r, true, func(ctx context.Context, w *admin.Work) (iam.ManagedClient, error) {
		return w.RotateClientSecret(ctx, id, cond, rot.RetireOld, callerLease)
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
			return Result{}, o.notRotated(ctx, errLeaseOver, false, false)
		}
		if err := s.cfg.Provider.Retire(ctx, c.ClientID); err != nil {
			return Result{}, o.notRotated(ctx, err, false, false)
		}
		retired = true
	}
	if lease.over() {
		return Result{}, o.notRotated(ctx, errLeaseOver, false, retired)
	}
	secret, beside, err := s.newSecret(ctx, c, rot.Overlap > 0)
	if err != nil {
		return Result{}, o.notRotated(ctx, err, errors.Is(err, iam.ErrOutcomeUnknown), retired)
	}
	// The old secret is ended when the new one is written down, and not before: until then
	// somebody may need it.
	d := admin.Done{Secret: secret, Overlap: rot.Overlap, Retired: retired, Late: beside && rot.Overlap == 0}
	after, settled := o.finish(ctx, d)
	if !settled {
		// Nobody knows whether it was written down; the loop says it is unknown, unless it was.
		return Result{}, rotateAgain(errors.New("what became of it was not written down"))
	}
	res := Result{Client: after}
	res.tell(d)
	if d.Late {
		res.Client = s.endNow(ctx, after)
	}
	o.answered(ctx, res)
	return res, nil
}

// endNow ends an old secret whose time is over while the caller waits; what cannot be done
// now the loop does.
func (s *Service) endNow(ctx context.Context, c iam.ManagedClient) iam.ManagedClient {
	lease := leaseFor(callerLease)
	if op, begun, err := s.endOverlap(ctx, c.ClientID, callerLease); err == nil && begun {
		c, _ = s.takeUp(ctx, op, lease)
	}
	return c
}

func rotateAgain(cause error) error {
	return &iam.Error{Kind: iam.Unavailable, Code: "secret_unknown", Detail: "it is not known whether the secret was rotated: rotate it again", Cause: cause}
}

// newSecret obtains another secret, and reports whether the old one still works beside it.
// Where the provider cannot keep two, one of ours takes the place of the old one.
func (s *Service) newSecret(ctx context.Context, c iam.ManagedClient, overlap bool) (secret iam.Secret, beside bool, err error) {
	secret, err = s.cfg.Provider.Rotate(ctx, c.ClientID)
	if iam.CodeOf(err) != iam.CodeCannotRotate {
		return secret, true, err
	}
	if overlap {
		return "", false, &iam.Error{
			Kind: iam.Invalid, Code: iam.CodeCannotRotate, Detail: "some fields are not valid", Cause: err,
			Fields: []iam.FieldError{{Pointer: "/overlap", Detail: "must be 0: the identity provider cannot keep two secrets of a client"}},
		}
	}
	secret = iam.Secret(rand.Text() + rand.Text())
	return secret, false, s.cfg.Provider.SetSecret(ctx, c.Marked(s.cfg.Instance), secret)
}

// step does in the identity provider what is under way.
func (s *Service) step(ctx context.Context, c iam.ManagedClient, l lease, waits bool) (d admin.Done, err error) {
	if l.over() {
		return d, errLeaseOver // and not done: somebody else is at it by the time the provider hears of it
	}
	p := s.cfg.Provider
	switch c.Operation {
	case iam.OperationCreate:
		return s.create(ctx, c, l, waits)
	case iam.OperationUpdate:
		err = s.update(ctx, c)
		if iam.KindOf(err) == iam.NotFound {
			return s.create(ctx, c, l, false) // somebody has deleted it there
		}
	case iam.OperationDelete:
		err = p.Delete(ctx, c.ClientID)
	case iam.OperationRetire:
		if err = p.Retire(ctx, c.ClientID); iam.KindOf(err) == iam.NotFound {
			err = nil // with the client, its secrets are gone
		}
	}
	return d, err
}

// create makes a client, or finds that it was made: an answer that was lost is not asked
// for again. The secret is lost with it; whoever waits is given another one.
func (s *Service) create(ctx context.Context, c iam.ManagedClient, l lease, waits bool) (admin.Done, error) {
	p, wanted := s.cfg.Provider, c.Marked(s.cfg.Instance)
	secret, err := p.Create(ctx, wanted)
	if iam.KindOf(err) != iam.Conflict {
		if !waits {
			secret = "" // nobody is there to be given it
		}
		return admin.Done{Secret: secret, Made: err == nil}, err
	}
	got, err := p.Get(ctx, c.ClientID)
	switch {
	case iam.KindOf(err) == iam.NotFound:
		return admin.Done{}, &iam.Error{Kind: iam.Unavailable, Code: "idp_bad_response", Detail: "the identity provider has the client and has it not"}
	case err != nil:
		return admin.Done{}, err
	case !s.ours(got):
		return admin.Done{}, &iam.Error{Kind: iam.Conflict, Code: "client_id_taken", Detail: "the identity provider has a client of that id, which is not ours"}
	}
	made := got.Metadata[iam.MarkVersion] == wanted.Metadata[iam.MarkVersion] // by a try before
	if !made || len(got.Drift(wanted)) > 0 {
		if err := s.update(ctx, c); err != nil {
			// Also where it is refused for good: there is a client, and it must not be forgotten.
			return admin.Done{}, &iam.Error{Kind: iam.Unavailable, Code: reasonOf(err), Detail: "the client was made and cannot be brought up to date", Cause: err}
		}
	}
	found := admin.Done{Made: made}
	if !waits || !c.Wanted.HasSecret() || l.over() {
		return found, nil
	}
	secret, beside, err := s.newSecret(ctx, c, false)
	if err != nil {
		return found, nil //nolint:nilerr // the client is made; who gets no secret rotates
	}
	// The secret before was in the answer that was lost: nobody uses it.
	return admin.Done{Made: made, Secret: secret, Late: beside && p.Retire(ctx, c.ClientID) != nil}, nil
}

// ours reports whether a client of the provider was made by this instance.
func (s *Service) ours(r iam.Registration) bool {
	return r.Metadata[iam.MarkInstance] == s.cfg.Instance && r.Metadata[iam.MarkClient] == r.ClientID
}

// update replaces a client's metadata. Where the answer was lost, it is read back.
func (s *Service) update(ctx context.Context, c iam.ManagedClient) error {
	err := s.cfg.Provider.Update(ctx, c.Marked(s.cfg.Instance))
	if err == nil || !errors.Is(err, iam.ErrOutcomeUnknown) {
		return err
	}
	got, readErr := s.cfg.Provider.Get(ctx, c.ClientID)
	if readErr == nil && got.Metadata[iam.MarkVersion] == strconv.FormatInt(c.WantedVersion, 10) && len(got.Drift(c.Wanted)) == 0 {
		return nil
	}
	return err
}

// refused reports whether an operation failed for good. Whoever deletes a client waits for
// as long as it takes.
func refused(c iam.ManagedClient, err error) bool {
	k := iam.KindOf(err)
	return c.Operation != iam.OperationDelete && (k == iam.Invalid || k == iam.Conflict)
}

// operation is one that was begun, with who asked for it.
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

func (o operation) refuse(ctx context.Context, cause error, waits bool) (c iam.ManagedClient, err error) {
	o.s.cfg.Log.WarnContext(ctx, "the identity provider refuses a client", slog.Any("err", cause), slog.String("client", o.client.ClientID), slog.String("operation", o.client.Operation))
	c, err = settle(ctx, o, func(ctx context.Context, w *admin.Work) (iam.ManagedClient, error) {
		return w.Refused(ctx, o.client, reasonOf(cause), waits)
	})
	if err == nil {
		o.forgetKey(ctx)
	}
	return c, err
}

// forgetKey lets a request be sent again that came to nothing. It is a transaction of its
// own: whoever repeats a request holds its key before anything else.
func (o operation) forgetKey(ctx context.Context) {
	if o.key == nil {
		return
	}
	if err := o.s.cfg.Admin.ForgetKey(context.WithoutCancel(ctx), o.caller, o.key.Key); err != nil {
		o.s.cfg.Log.InfoContext(ctx, "a key could not be forgotten: the request is not to be sent again under it", slog.Any("err", err))
	}
}

// answered notes that a secret is about to be given: whoever asks again is told so.
func (o operation) answered(ctx context.Context, res Result) {
	if o.key == nil || res.SecretStatus != Given {
		return
	}
	answer, err := json.Marshal(begun{Client: res.Client.ClientID, Status: Given})
	if err == nil {
		err = o.s.cfg.Admin.SetResult(context.WithoutCancel(ctx), o.caller, o.key.Key, answer)
	}
	if err != nil {
		o.s.cfg.Log.InfoContext(ctx, "it could not be noted that a secret is given: a replay will say that it was not", slog.Any("err", err))
	}
}

// reasonOf is a code, with the field that it is about.
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

// postpone returns the client as it is.
func (o operation) postpone(ctx context.Context, cause error) iam.ManagedClient {
	c, err := settle(ctx, o, func(ctx context.Context, w *admin.Work) (iam.ManagedClient, error) {
		return w.Postponed(ctx, o.client, reasonOf(cause))
	})
	if err != nil {
		return o.client // when the lease is over it is taken up
	}
	return c
}

// notRotated returns what the caller hears.
func (o operation) notRotated(ctx context.Context, cause error, unknown, retired bool) error {
	_, err := settle(ctx, o, func(ctx context.Context, w *admin.Work) (struct{}, error) {
		return struct{}{}, w.NotRotated(ctx, o.client, unknown, retired, reasonOf(cause))
	})
	if err == nil { // else the loop says that it is unknown
		o.forgetKey(ctx)
	}
	switch {
	case unknown:
		return rotateAgain(cause)
	case iam.KindOf(cause) == iam.NotFound:
		return &iam.Error{Kind: iam.Conflict, Code: "client_missing", Detail: "the identity provider does not know this client any more; it is made again when the two are compared", Cause: cause}
	}
	return cause
}
