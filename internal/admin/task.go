package admin

import (
	"context"
	"crypto/sha256"
	"log/slog"

	"iam-service/internal/directory"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
	"iam-service/internal/token"
)

// Caller is the origin of a request.
type Caller struct {
	Token     *token.Token // verified, for the admin API; nil: an operator, who has the database
	Operator  string       // name of the operator
	Stream    string       // name of the stream whose signal it is, instead of an operator: see ReceiveSignal
	Reach     []string     // issuers whose users the stream reaches
	Via       string       // "api", "command", "bootstrap", "loop", "signal"
	Method    string       // of the request, for the policy
	Address   string       // of the client, if known
	RequestID string
}

// hash identifies a caller without naming them.
func (c Caller) hash() []byte {
	name := c.Operator
	if c.Token != nil {
		name = c.Token.Issuer + "\x00" + c.Token.Subject + "\x00" + c.Token.ClientID
	}
	sum := sha256.Sum256([]byte(name))
	return sum[:]
}

func (c Caller) idempotencyKey(key string) postgres.IdempotencyKey {
	return postgres.IdempotencyKey{Caller: c.hash(), Key: key}
}

// Task is what is requested.
type Task struct {
	Action string // "member:create": kind of the object, and verb
	Tenant string // of the object; empty: the platform
	Object string // id or name, for the policy
	Client bool   // the object is a client, which determines the tenant
	Writes bool

	Also        []string // further actions that the caller must be authorized for, on the same object
	LeaveTenant bool     // the caller accepts that a tenant is left without an administrator

	Self bool // it is about the caller alone, who is identified and not authorized

	For *Actor // who requested what is only finished here, and is not authorized again; nil: the caller

	Patient bool // it may take minutes
	Bulk    bool // it may take a minute, in many short statements
}

// Actor is who requested something, as the audit names them.
type Actor struct{ kind, id, decision string }

// Do runs one task in one transaction, after its caller is authorized, and returns what do
// returns. What do changed is visible on this replica when Do returns. A conflicting
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

// Do is Do for a task without a result.
func (s *Service) Do(ctx context.Context, c Caller, t Task, do func(context.Context, *Work) error) error {
	return s.run(ctx, c, t, nil, do)
}

// Authorize reports whether a caller is authorized for a task, and changes nothing.
func (s *Service) Authorize(ctx context.Context, c Caller, t Task) error {
	t.Writes = false
	return s.run(ctx, c, t, nil, func(context.Context, *Work) error { return nil })
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
	if t.Bulk {
		ctx = postgres.Bulk(ctx)
	}
	var changed []directory.Change
	var w *Work
	err := transaction(ctx, func(ctx context.Context, tx *postgres.Tx) error {
		changed = nil // an attempt that was rolled back leaves nothing
		w = &Work{tx: tx, s: s, caller: c, task: t}
		var stored *postgres.StoredResponse
		if once != nil {
			// Before any other lock: a request that waits for its duplicate holds none.
			var err error
			if stored, err = tx.BeginRequest(ctx, c.idempotencyKey(once.Key), once.Request[:]); err != nil {
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
			if err := tx.StoreResponse(ctx, c.idempotencyKey(once.Key), result, w.users()); err != nil {
				return err
			}
		}
		if len(w.entries)+len(w.events) == 0 && !w.flushed {
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
	if err == nil {
		s.cfg.Committed(w.events)
	}
	return err
}

// Work is one request in progress. Its methods are the use cases; they fail with an
// iam.Error where the request is at fault.
type Work struct {
	tx     *postgres.Tx
	s      *Service
	caller Caller
	task   Task

	actorKind, actor string
	decisionID       string
	decisions        [][]slog.Attr    // of the policy, the last one for each action
	user             *iam.UserFacts   // the caller, if it is a known person
	client           *iam.ClientFacts // the caller, if it is a known program
	bound            bool             // the token's client has a tenant: the task's, unless it is about the caller alone
	clientTenant     string           // of the token's client; empty: none

	begun    bool                           // an operation in the identity provider
	nested   bool                           // within requireAdministrator
	declared map[string]iam.AttributeSchema // nil until it is read
	entries  []iam.AuditEntry
	events   []iam.Event
	flushed  bool // some of both are written already
}

// flush writes the audit entries and events so far, so that a change of very many objects does not collect them. It locks the
// heads of their chains, so the task has acquired all other locks.
func (w *Work) flush(ctx context.Context) error {
	if err := w.tx.Append(ctx, w.entries, w.events); err != nil {
		return err
	}
	w.flushed = w.flushed || len(w.entries)+len(w.events) > 0
	w.entries, w.events = nil, nil
	return nil
}

// Actor is who requests this.
func (w *Work) Actor() *Actor { return &Actor{w.actorKind, w.actor, w.decisionID} }

// Begun reports whether an operation in the identity provider was begun, which the caller
// is to finish.
func (w *Work) Begun() bool { return w.begun }

// users are the users that a change is about.
func (w *Work) users() []string {
	var users []string
	for _, e := range w.entries {
		if e.Kind == iam.KindUser || e.Kind == iam.KindMember {
			users = append(users, e.Object)
		}
	}
	return users
}
