// Package admin is the use cases of administration: tenants, roles, users, members,
// mappings, what services declare, the audit.
//
// It owns the order of things in one administrative request, which is one
// transaction from its beginning to its end:
//
//	the caller, as they are now ─▶ may they? (Rego) ─▶ locks ─▶ both again ─▶ read, check, write ─▶ audit, events ─▶ commit
//	         │ blocked, revoked         │ no: 403, or 404 where nothing shall be seen
//	         └── 401                    └──────────── nothing was changed
//
// and what no policy decides, held under the same locks: nobody gives away or takes
// away more than they hold, looked at before and after; the last platform
// administrator stays; what somebody else changed meanwhile is not overwritten. Rego
// can only refuse more.
//
// It does not know HTTP, SQL or Rego's syntax. It does know package postgres: a change
// is a transaction, and an interface between the two would be as wide as both.
package admin

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"iam-service/internal/directory"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/postgres"
	"iam-service/internal/token"
)

// Config of a Service.
type Config struct {
	DB      *postgres.DB
	Engine  *policy.Engine // nil: only operators are served
	Issuers iam.Issuers
	Issuer  string // of the clients that are managed here: R-Auth
	Log     *slog.Logger

	// Audiences of the gateways' tokens: what a client gets that names none, and all that an administrator of a tenant can grant.
	Audiences []string

	MaxMembers  int64 // most members of one tenant; 0: 1,000,000
	JoinsPerDay int64 // most members that a tenant's own administrators add in 24 hours; 0: 100,000

	PoliciesKept int // bundles of superseded policies that stay stored; 0: 20

	// Invalidate drops what this replica has cached of what a transaction changed; may be nil.
	Invalidate func([]directory.Change)

	// Embedded is the policy that is part of the program, packed: what is in force where nothing was activated yet; nil: unknown.
	Embedded func() (iam.PolicyRevision, []byte, error)
}

// Service runs administrative requests. It is safe for concurrent use.
type Service struct{ cfg Config }

// New returns a service.
func New(cfg Config) *Service {
	cfg.MaxMembers, cfg.JoinsPerDay = cmp.Or(cfg.MaxMembers, 1_000_000), cmp.Or(cfg.JoinsPerDay, 100_000)
	cfg.PoliciesKept = cmp.Or(cfg.PoliciesKept, 20)
	if cfg.Invalidate == nil {
		cfg.Invalidate = func([]directory.Change) {}
	}
	return &Service{cfg}
}

// Caller is who asks.
type Caller struct {
	Token     *token.Token // verified, for the admin API; nil: an operator, who has the database
	Operator  string       // what an operator is called
	Via       string       // "api", "command", "bootstrap", "loop"
	Method    string       // of the request, for the policy
	Address   string       // where they ask from, if that is known
	RequestID string
}

// Task is what is asked.
type Task struct {
	Action string // "member:create": what it is about, and what is done
	Tenant string // that it is about; empty: the platform
	Object string // id or name, for the policy
	Client bool   // the object is a client, which says what the tenant is
	Writes bool

	Also        []string // further actions that the caller must be allowed, on the same object
	LeaveTenant bool     // the caller knows that a tenant can be left without an administrator

	For *Actor // who requested what is only finished here, and is not authorized again; nil: the caller

	Patient bool // it may take minutes
}

// IdempotencyKey identifies a request that a caller may send again.
type IdempotencyKey struct {
	Key     string
	Request [sha256.Size]byte // hash of the request: a key is not reused for another one
}

// Actor is who asked for something, as the audit names them.
type Actor struct{ kind, id, decision string }

// Actor is who asks for this.
func (w *Work) Actor() *Actor { return &Actor{w.actorKind, w.actor, w.decisionID} }

// Begun reports whether an operation in the identity provider was begun: it is for the
// caller to go on with it.
func (w *Work) Begun() bool { return w.begun }

// errGone is what everybody hears of what is not there, and of what is not theirs to
// see: nobody learns which.
var errGone = &iam.Error{Kind: iam.NotFound, Detail: "there is no such thing, or not for you"}

// Do runs one task in one transaction, after its caller is authorized, and returns what do
// returns. What do changed is active on this replica when Do returns. A conflicting
// transaction is retried, so do must have no side effect outside its Work.
func Do[T any](ctx context.Context, s *Service, c Caller, t Task, do func(context.Context, *Work) (T, error)) (T, error) {
	var result, none T
	err := s.run(ctx, c, t, nil, func(ctx context.Context, w *Work) (err error) {
		result, err = do(ctx, w)
		return err
	})
	if err != nil {
		return none, err
	}
	return result, nil
}

// DoOnce is Do for a request with an idempotency key: the result of the first one is stored
// as JSON with the change itself, and a repeated one returns it.
func DoOnce[T any](ctx context.Context, s *Service, c Caller, t Task, key IdempotencyKey, do func(context.Context, *Work) (T, error)) (result T, replayed bool, err error) {
	r := &repeatable{
		IdempotencyKey: key,
		encode:         func() (json.RawMessage, error) { return json.Marshal(result) },
		decode: func(stored json.RawMessage) error {
			replayed = true
			d := json.NewDecoder(bytes.NewReader(stored))
			d.UseNumber()
			return d.Decode(&result)
		},
	}
	err = s.run(ctx, c, t, r, func(ctx context.Context, w *Work) (err error) {
		replayed = false
		result, err = do(ctx, w)
		return err
	})
	if err != nil {
		var none T
		return none, false, err
	}
	return result, replayed, nil
}

// Do is Do for a task without a result.
func (s *Service) Do(ctx context.Context, c Caller, t Task, do func(context.Context, *Work) error) error {
	return s.run(ctx, c, t, nil, do)
}

// Authorize reports whether a caller is authorized for a task, and changes nothing.
func (s *Service) Authorize(ctx context.Context, c Caller, t Task) error {
	t.Writes = false
	return s.run(ctx, c, t, nil, func(context.Context, *Work) error { return nil })
}

// repeatable is a request with an idempotency key, and how its result is stored.
type repeatable struct {
	IdempotencyKey
	encode func() (json.RawMessage, error)
	decode func(json.RawMessage) error
}

// run is one transaction from beginning to end.
func (s *Service) run(ctx context.Context, c Caller, t Task, once *repeatable, do func(context.Context, *Work) error) error {
	transaction := s.cfg.DB.View
	if t.Writes {
		transaction = s.cfg.DB.Change
	}
	if t.Patient {
		ctx = postgres.Patient(ctx)
	}
	var changed []directory.Change
	var w *Work
	err := transaction(ctx, func(ctx context.Context, tx *postgres.Tx) error {
		changed = nil // an attempt that was rolled back leaves nothing
		w = &Work{tx: tx, s: s, caller: c, task: t}
		var stored *postgres.Answered
		if once != nil {
			// Before any other lock: a request that waits for its twin holds none.
			var err error
			if stored, err = tx.Begin(ctx, c.hash(), once.Key, once.Request[:]); err != nil {
				return err
			}
		}
		if err := w.admit(ctx); err != nil {
			return err
		}
		if stored != nil {
			return once.replay(stored)
		}
		if err := do(ctx, w); err != nil {
			return err
		}
		if err := tx.Append(ctx, w.entries, w.events); err != nil {
			return err
		}
		if once != nil {
			result, err := once.encode()
			if err != nil {
				return err
			}
			if err := tx.Finish(ctx, c.hash(), once.Key, result, w.about()); err != nil {
				return err
			}
		}
		if len(w.entries)+len(w.events) == 0 {
			return nil
		}
		var err error
		changed, err = tx.Changed(ctx)
		return err
	})
	if w != nil { // the last attempt, after its locks are released
		for _, decision := range w.decisions {
			s.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "admin decision", decision...)
		}
	}
	// Also after an error: the outcome of a commit may be unknown.
	s.cfg.Invalidate(changed)
	return err
}

// about is which users a change is about.
func (w *Work) about() []string {
	var users []string
	for _, e := range w.entries {
		if e.Kind == iam.KindUser || e.Kind == iam.KindMember {
			users = append(users, e.Object)
		}
	}
	return users
}

// replay returns the stored result of the first request.
func (r *repeatable) replay(stored *postgres.Answered) error {
	if !slices.Equal(stored.Request, r.Request[:]) {
		return &iam.Error{Kind: iam.Invalid, Code: "idempotency_key_reused", Detail: "this Idempotency-Key was used for another request"}
	}
	if len(stored.Answer) == 0 {
		return &iam.Error{Kind: iam.Conflict, Code: "answer_forgotten", Detail: "the first request succeeded; its user has been erased since, and the stored response with them"}
	}
	return r.decode(stored.Answer)
}

// hash names a caller without saying who it is.
func (c Caller) hash() []byte {
	name := c.Operator
	if c.Token != nil {
		name = c.Token.Issuer + "\x00" + c.Token.Subject + "\x00" + c.Token.ClientID
	}
	sum := sha256.Sum256([]byte(name))
	return sum[:]
}

// Work is one request under way. Its methods are the use cases; they fail with an
// iam.Error for what is wrong with the request.
type Work struct {
	tx     *postgres.Tx
	s      *Service
	caller Caller
	task   Task

	actorKind, actor string
	decisionID       string
	decisions        [][]slog.Attr    // of the policy, one for each action that it was asked about last
	user             *iam.UserFacts   // the caller, where it is a known person
	client           *iam.ClientFacts // the caller, where it is a known program
	bound            bool             // the token's client has a tenant: the one that this is about

	begun    bool                           // an operation in the identity provider
	nested   bool                           // within keepingAnAdministrator
	declared map[string]iam.AttributeSchema // once it was read
	entries  []iam.AuditEntry
	events   []iam.Event
}

// admit finds out who the caller is now and asks the policy. Who changes something is
// looked at again under the locks; who may not is turned away without one, so that
// nobody holds up a tenant, or learns that it is there, by asking for what they may not.
func (w *Work) admit(ctx context.Context) error {
	t := w.caller.Token
	if w.task.Client {
		c, _, err := w.tx.Client(ctx, w.s.cfg.Issuer, w.task.Object)
		if err != nil {
			return err
		}
		w.task.Tenant = c.Tenant // empty: of the platform, or there is none
	}
	if who := w.task.For; who != nil {
		w.actorKind, w.actor, w.decisionID = who.kind, who.id, who.decision
		return w.lock(ctx)
	}
	if t == nil {
		w.actorKind, w.actor = "operator", w.caller.Operator
	} else if err := w.mayThey(ctx, t, false); err != nil {
		return err
	}
	if !w.task.Writes {
		return nil
	}
	if err := w.lock(ctx); err != nil || t == nil {
		return err
	}
	return w.mayThey(ctx, t, true)
}

func (w *Work) mayThey(ctx context.Context, t *token.Token, locked bool) error {
	if err := w.identify(ctx, t, locked); err != nil {
		return err
	}
	w.decisions = nil
	for _, action := range append([]string{w.task.Action}, w.task.Also...) {
		if err := w.ask(ctx, t, action); err != nil {
			return err
		}
	}
	return nil
}

// lock takes the tenant, or the platform, before anything else: all changes of one
// happen one after the other. A tenant that is not there is found out later, by who
// may know it.
func (w *Work) lock(ctx context.Context) error {
	if w.task.Tenant == "" {
		err := w.tx.LockPlatform(ctx)
		if err == nil && w.task.Client {
			err = w.tx.ShareGlobalRoles(ctx) // before the client, which somebody may be calling by
		}
		return err
	}
	err := w.tx.LockRoles(ctx, w.task.Tenant)
	if iam.KindOf(err) == iam.NotFound {
		return nil
	}
	return err
}

// identify reads the caller within the transaction and refuses who is not welcome any
// more, whatever the policy says.
func (w *Work) identify(ctx context.Context, t *token.Token, lock bool) error {
	w.user, w.client, w.bound = nil, nil, false
	if lock {
		if err := w.tx.LockCaller(ctx, t.Issuer, t.Subject, t.ClientID); err != nil {
			return err
		}
	}
	if t.ClientID != "" {
		c, known, err := w.tx.Client(ctx, t.Issuer, t.ClientID)
		switch {
		case err != nil:
			return err
		case known && c.Status != iam.ClientActive:
			return t.Reject(token.ByClient, "client_"+c.Status)
		case known && t.RevokedBy(c.TokensNotBefore):
			return t.Reject(token.Revoked, "token_revoked")
		case known && c.Tenant != "" && c.Tenant != w.task.Tenant:
			// Before anything of the object is looked at: it says nothing of what is there. Of another
			// tenant there is nothing to see, as for that tenant's strangers.
			if w.task.Client || w.task.Tenant != "" {
				return errGone
			}
			return &iam.Error{Kind: iam.Forbidden, Code: policy.CodeOtherTenant, Detail: "the token's client acts in its own tenant only"}
		case known:
			w.bound = c.Tenant != ""
			if t.Program() {
				w.client = &c
			}
		}
	}
	if t.Program() {
		w.actorKind, w.actor = "client", t.ClientID
		return nil
	}
	u, known, err := w.tx.User(ctx, t.Issuer, t.Subject)
	switch {
	case err != nil:
		return err
	case !known:
		// A policy may let strangers in by what their token says. The audit names no subject.
		w.actorKind, w.actor = "user", "unknown:"+hex.EncodeToString(w.caller.hash()[:8])
		return nil
	case t.RevokedBy(u.TokensNotBefore):
		return t.Reject(token.Revoked, "token_revoked")
	}
	if w.bound {
		u.PlatformRoles = nil // the client's owner must not gain by what the person is on the platform
	}
	w.user, w.actorKind, w.actor = &u, "user", u.ID
	return nil
}

// withoutPlatform are facts in which nobody has a platform role.
type withoutPlatform struct{ directory.Loader }

func (f withoutPlatform) User(ctx context.Context, issuer, subject string) (iam.UserFacts, bool, error) {
	u, known, err := f.Loader.User(ctx, issuer, subject)
	u.PlatformRoles = nil
	return u, known, err
}

// ask asks the policy, over what this transaction sees.
func (w *Work) ask(ctx context.Context, t *token.Token, action string) error {
	if w.s.cfg.Engine == nil {
		return errors.New("no policy engine")
	}
	w.decisionID = policy.NewDecisionID()
	var loader directory.Loader = w.tx
	if w.bound && w.task.Writes { // the client must not change its tenant by what the person is on the platform
		loader = withoutPlatform{w.tx}
	}
	facts := directory.NewDirect(loader, w.s.cfg.Issuers, t.Issuer)
	deadline := time.Now().Add(2 * time.Second) // the policy's own time is limited by its engine
	d, err := w.s.cfg.Engine.Administer(ctx, policy.AdminQuestion{
		Claims: t.Claims, Action: action, Tenant: w.task.Tenant, Object: w.task.Object, Method: w.caller.Method, ClientIP: w.caller.Address,
	}, facts, deadline)
	if err != nil {
		return err
	}
	codes := make([]string, len(d.Reasons))
	for i, r := range d.Reasons {
		codes[i] = r.Code
	}
	w.decisions = append(w.decisions, []slog.Attr{
		slog.Bool("allow", d.Allow), slog.String("action", action), slog.String("tenant", w.task.Tenant),
		slog.String("actor_kind", w.actorKind), slog.String("actor", w.actor), slog.Any("codes", codes), slog.String("decision_id", w.decisionID),
		slog.String("revision", d.Revision), slog.String("request_id", w.caller.RequestID),
	})
	switch {
	case d.Allow && w.task.Tenant != "" && !w.s.cfg.Issuers.Reaches(t.Issuer, w.task.Tenant):
		return errGone // whatever the policy says
	case d.Allow:
		return nil
	case d.Status == http.StatusNotFound:
		return errGone
	case w.task.Client:
		// Whoever may not read a client does not learn that it is there.
		reads, err := w.s.cfg.Engine.Administer(ctx, policy.AdminQuestion{
			Claims: t.Claims, Action: "client:read", Tenant: w.task.Tenant, Object: w.task.Object, Method: w.caller.Method, ClientIP: w.caller.Address,
		}, facts, deadline)
		if err != nil || !reads.Allow {
			return errors.Join(err, errGone)
		}
	}
	e := &iam.Error{Kind: iam.Forbidden, Code: "not_granted", Detail: "the caller may not do this"}
	if d.Status == http.StatusUnauthorized {
		e.Kind = iam.Unauthenticated
	}
	if len(d.Reasons) > 0 {
		e.Code, e.Detail = d.Reasons[0].Code, d.Reasons[0].Title
	}
	return e
}

// holding is what the caller holds in a tenant that sees these roles, as they are
// before any change.
func (w *Work) holding(tenant string, roles iam.Graph) iam.Holding {
	everything := iam.Holding{Everything: true}
	switch {
	case w.caller.Token == nil:
		return everything
	case w.user != nil:
		issuer, _ := w.s.cfg.Issuers.Find(w.user.Issuer) // unknown: trusted with nothing
		if w.user.Status != iam.UserActive {
			return iam.Holding{}
		}
		if issuer.Platform && slices.Contains(w.user.PlatformRoles, iam.PlatformAdmin) {
			return everything
		}
		for _, m := range w.user.Memberships {
			inForce := m.Status == iam.MembershipActive && m.TenantStatus == iam.TenantActive && (m.ExpiresAt.IsZero() || m.ExpiresAt.After(w.user.AsOf))
			if tenant != "" && m.Tenant == tenant && inForce && issuer.Reaches(tenant) {
				return roles.Hold(m.Roles)
			}
		}
	case w.client != nil:
		issuer, _ := w.s.cfg.Issuers.Find(w.client.Issuer) // as above
		if w.client.Tenant == "" && issuer.Platform && slices.Contains(w.client.Scopes, iam.ScopePlatformAdmin) &&
			slices.Contains(w.caller.Token.Scopes(), iam.ScopePlatformAdmin) { // a token can be for less than its program may
			return everything
		}
		if tenant != "" && w.client.Tenant == tenant {
			return roles.Hold(w.client.Roles)
		}
	}
	return iam.Holding{}
}

// everything is whether the caller holds all there is.
func (w *Work) everything() bool { return w.holding("", iam.Graph{}).Everything }

// mayGive refuses named roles of a graph that mean more than is held; verb says what is
// tried.
func mayGive(h iam.Holding, g iam.Graph, names []string, verb, pointer string) error {
	more := h.Beyond(g, names)
	if more == "" {
		return nil
	}
	e := &iam.Error{Kind: iam.Forbidden, Code: "more_than_held", Detail: "nobody can " + verb + " more than they hold"}
	e.Fields = []iam.FieldError{{Pointer: pointer, Detail: "means " + more + ", which the caller does not hold"}}
	return e
}

// checkAttributes holds values to what services declare.
func (w *Work) checkAttributes(ctx context.Context, at string, values map[string]any) ([]iam.FieldError, error) {
	if len(values) == 0 {
		return nil, nil
	}
	if w.declared == nil {
		var err error
		if w.declared, err = w.tx.AttributeSchemas(ctx); err != nil {
			return nil, err
		}
	}
	return iam.CheckAttributes(at, values, w.declared), nil
}

// record notes a change for the audit. Before and after are documents of record.go;
// nil is for what was not there, or is no more.
func (w *Work) record(chain, kind, object string, before, after any) error {
	e := iam.AuditEntry{
		Chain: chain, ActorKind: w.actorKind, Actor: w.actor, Via: w.caller.Via, Address: w.caller.Address, RequestID: w.caller.RequestID,
		DecisionID: w.decisionID, Action: w.task.Action, Kind: kind, Object: object,
	}
	var err error
	if before != nil {
		if e.Before, err = json.Marshal(before); err != nil {
			return err
		}
	}
	if after != nil {
		if e.After, err = json.Marshal(after); err != nil {
			return err
		}
	}
	w.entries = append(w.entries, e)
	return nil
}

// emit adds an event to the outbox, with the change itself.
func (w *Work) emit(e iam.Event) { w.events = append(w.events, e) }

// Condition is what a caller believes of what it changes: If-Match and If-None-Match.
type Condition struct {
	Absent   bool    // it must not be there: If-None-Match: *
	Present  bool    // it must be there, in any version: If-Match: *
	Versions []int64 // it must be there, in one of these
}

// given reports whether the caller said anything.
func (c Condition) given() bool { return c.Absent || c.Present || len(c.Versions) > 0 }

// hold compares with what is there. Where it is needed, saying nothing is refused.
func (c Condition) hold(exists bool, version int64, needed bool) error {
	switch {
	case !c.given() && needed:
		return &iam.Error{Kind: iam.PreconditionRequired, Code: "if_match_required", Detail: "say which version this replaces: If-Match with the ETag that was read, or If-None-Match: * for a new one"}
	case c.Absent && exists:
		return &iam.Error{Kind: iam.PreconditionFailed, Code: "exists", Detail: "it is there already"}
	case (c.Present || len(c.Versions) > 0) && !exists:
		return &iam.Error{Kind: iam.PreconditionFailed, Code: "absent", Detail: "it is not there"}
	case len(c.Versions) > 0 && !slices.Contains(c.Versions, version):
		return &iam.Error{Kind: iam.PreconditionFailed, Code: "changed", Detail: "somebody has changed it since it was read: read it again"}
	}
	return nil
}
