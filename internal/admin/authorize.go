package admin

import (
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"iam-service/internal/directory"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/telemetry/tracing"
	"iam-service/internal/token"
)

// policyTime is how long the facts of one decision may take. The evaluation itself has a limit
// of its engine.
const policyTime = 2 * time.Second

// errNotFound is the one error for an object that does not exist and for one that the caller
// is not authorized to see: no caller learns which.
var errNotFound = &iam.Error{Kind: iam.NotFound, Detail: "not found"}

// admit identifies the caller, authorizes the task and takes its locks. Authorization runs
// before any lock is acquired, so that a denied caller cannot block a tenant or learn that it
// exists; a task that writes is authorized again under the locks.
func (w *Work) admit(ctx context.Context) error {
	t := w.caller.Token
	if w.task.Client {
		c, _, err := w.tx.Client(ctx, w.s.cfg.Issuer, w.task.Object)
		if err != nil {
			return err
		}
		w.task.Tenant = c.Tenant // empty: of the platform, or unknown
	}
	if actor := w.task.For; actor != nil {
		w.actorKind, w.actor, w.decisionID = actor.kind, actor.id, actor.decision
		return w.lock(ctx)
	}
	switch {
	case w.caller.Stream != "":
		w.actorKind, w.actor = "stream", w.caller.Stream
	case t == nil:
		w.actorKind, w.actor = "operator", w.caller.Operator
	default:
		if err := w.identify(ctx, t); err != nil || w.task.Self {
			return err
		}
		if err := w.authorize(ctx, t); err != nil {
			return err
		}
	}
	if !w.task.Writes {
		return nil
	}
	if err := w.lock(ctx); err != nil || t == nil {
		return err
	}
	if err := w.tx.LockCaller(ctx, t.Issuer, t.Subject, t.ClientID); err != nil {
		return err
	}
	if err := w.identify(ctx, t); err != nil {
		return err
	}
	return w.authorize(ctx, t)
}

// authorize evaluates the policy for each action of the task.
func (w *Work) authorize(ctx context.Context, t *token.Token) error {
	w.decisions = nil
	for _, action := range append([]string{w.task.Action}, w.task.Also...) {
		if err := w.decide(ctx, t, action); err != nil {
			return err
		}
	}
	return nil
}

// lock locks the tenant, or the platform, before anything else: changes of one tenant are
// serialized. A missing tenant is no error here: the use case reports it.
func (w *Work) lock(ctx context.Context) error {
	if w.task.Tenant == "" {
		err := w.tx.LockPlatform(ctx)
		if err == nil && w.task.Client {
			err = w.tx.LockGlobalRolesShared(ctx) // before the client: it may be the one that a concurrent caller uses
		}
		return err
	}
	err := w.tx.LockRoles(ctx, w.task.Tenant)
	if iam.KindOf(err) == iam.NotFound {
		return nil
	}
	return err
}

// identify reads the caller within the transaction and rejects a revoked token, whatever the
// policy decides.
func (w *Work) identify(ctx context.Context, t *token.Token) error {
	w.user, w.client, w.bound, w.clientTenant = nil, nil, false, ""
	if err := w.identifyClient(ctx, t); err != nil {
		return err
	}
	if t.Program() {
		w.actorKind, w.actor = "client", t.ClientID
		return nil
	}
	u, known, err := w.tx.User(ctx, t.Issuer, t.Subject)
	if err != nil {
		return err
	}
	if !known {
		// A policy may authorize unknown users by their token. The audit names no subject.
		w.actorKind, w.actor = "user", "unknown:"+hex.EncodeToString(w.caller.hash()[:8])
		return nil
	}
	if err := t.CheckRevocation(token.Principal{Known: true, Status: u.Status, TokensNotBefore: u.TokensNotBefore}); err != nil {
		return err
	}
	if w.bound {
		u.PlatformRoles = nil // the client's owner must not gain the person's platform roles
	}
	w.user, w.actorKind, w.actor = &u, "user", u.ID
	return nil
}

// identifyClient reads the client of the caller's token. A client that has a tenant acts in
// that tenant only.
func (w *Work) identifyClient(ctx context.Context, t *token.Token) error {
	if t.ClientID == "" {
		return nil
	}
	c, known, err := w.tx.Client(ctx, t.Issuer, t.ClientID)
	if err != nil || !known {
		return err
	}
	if err := t.CheckRevocation(token.Principal{Known: true, Client: true, Status: c.Status, TokensNotBefore: c.TokensNotBefore}); err != nil {
		return err
	}
	if c.Tenant != "" && c.Tenant != w.task.Tenant && !w.task.Self {
		// Before the object is read: the error must not depend on whether it exists.
		if w.task.Client || w.task.Tenant != "" {
			return errNotFound
		}
		return &iam.Error{Kind: iam.Forbidden, Code: policy.CodeOtherTenant, Detail: "the token's client acts in its own tenant only"}
	}
	w.bound, w.clientTenant = c.Tenant != "", c.Tenant
	if t.Program() {
		w.client = &c
	}
	return nil
}

// withoutPlatformRoles are facts in which no user has a platform role.
type withoutPlatformRoles struct{ directory.Loader }

func (f withoutPlatformRoles) User(ctx context.Context, issuer, subject string) (iam.UserFacts, bool, error) {
	u, known, err := f.Loader.User(ctx, issuer, subject)
	u.PlatformRoles = nil
	return u, known, err
}

// decide evaluates the policy for one action, over the facts that this transaction sees.
func (w *Work) decide(ctx context.Context, t *token.Token, action string) error {
	if w.s.cfg.Engine == nil {
		return errors.New("no policy engine")
	}
	w.decisionID = policy.NewDecisionID()
	var loader directory.Loader = w.tx
	if w.bound && w.task.Writes { // the client must not change its tenant by the person's platform roles
		loader = withoutPlatformRoles{w.tx}
	}
	facts := directory.NewDirect(loader, w.s.cfg.Issuers, t.Issuer)
	deadline := time.Now().Add(policyTime)
	evaluating, span := tracing.Start(ctx, "evaluate policy", attribute.String("iam.action", action))
	d, err := w.s.cfg.Engine.Administer(evaluating, w.policyInput(t, action), facts, deadline)
	tracing.End(span, iam.CodeOf(err), err)
	if err != nil {
		return err
	}
	w.recordDecision(action, d)
	switch {
	case d.Allow && w.task.Tenant != "" && !w.s.cfg.Issuers.Reaches(t.Issuer, w.task.Tenant):
		return errNotFound // whatever the policy decides
	case d.Allow:
		return nil
	case d.Status == http.StatusNotFound:
		return errNotFound
	case w.task.Client:
		// A caller who is not authorized to read a client does not learn that it exists.
		reads, err := w.s.cfg.Engine.Administer(ctx, w.policyInput(t, "client:read"), facts, deadline)
		if err != nil || !reads.Allow {
			return errors.Join(err, errNotFound)
		}
	}
	return denied(d)
}

// policyInput is the policy input for an action on the task's object.
func (w *Work) policyInput(t *token.Token, action string) policy.AdminInput {
	return policy.AdminInput{
		Claims:   t.Claims,
		Action:   action,
		Tenant:   w.task.Tenant,
		Object:   w.task.Object,
		Method:   w.caller.Method,
		ClientIP: w.caller.Address,
	}
}

// recordDecision adds a decision to those that are logged when the transaction is over.
func (w *Work) recordDecision(action string, d policy.AdminDecision) {
	codes := make([]string, len(d.Reasons))
	for i, r := range d.Reasons {
		codes[i] = r.Code
	}
	w.decisions = append(w.decisions, []slog.Attr{
		slog.Bool("allow", d.Allow),
		slog.String("action", action),
		slog.String("tenant", w.task.Tenant),
		slog.String("actor_kind", w.actorKind),
		slog.String("actor", w.actor),
		slog.Any("codes", codes),
		slog.String("decision_id", w.decisionID),
		slog.String("revision", d.Revision),
		slog.String("request_id", w.caller.RequestID),
	})
}

// denied is the error of a decision that does not allow.
func denied(d policy.AdminDecision) error {
	e := &iam.Error{Kind: iam.Forbidden, Code: "not_granted", Detail: "the caller is not authorized"}
	if d.Status == http.StatusUnauthorized {
		e.Kind = iam.Unauthenticated
	}
	if len(d.Reasons) > 0 {
		e.Code, e.Detail = d.Reasons[0].Code, d.Reasons[0].Title
	}
	return e
}
