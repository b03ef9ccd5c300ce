package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// What is done to a client in the identity provider takes two of the transactions of this
// file: one that begins an operation, and one that says what became of it. Package clients
// does what lies between the two.

// ClientEdit is what can be replaced of a client.
type ClientEdit struct {
	Registration  iam.Registration // without ClientID, Scope and marks
	Roles, Scopes []string
}

// wanted is what an edit makes of a client's registration. One that names no audience gets
// those of the gateways: without one, no token of it would be accepted.
func (w *Work) wanted(e ClientEdit) iam.Registration {
	r := e.Registration.WithDefaults()
	r.ClientID, r.Metadata, r.Scope = "", nil, strings.Join(some(e.Scopes), " ")
	if len(r.Audience) == 0 {
		r.Audience = w.s.cfg.Audiences
	}
	return r
}

// Audiences are those that a client gets that names none.
func (s *Service) Audiences() []string { return s.cfg.Audiences }

// Clients lists clients by id.
func (w *Work) Clients(ctx context.Context, f postgres.ClientFilter) ([]iam.ManagedClient, error) {
	f.Issuer = w.s.cfg.Issuer
	return w.tx.ManagedClients(ctx, f)
}

// Client returns one client. One that is deleted everywhere is not there.
func (w *Work) Client(ctx context.Context, id string) (iam.ManagedClient, error) {
	if !iam.ValidClientID(id) {
		return iam.ManagedClient{}, errGone
	}
	c, found, err := w.tx.ManagedClient(ctx, w.s.cfg.Issuer, id, w.task.Writes)
	if err == nil && (!found || c.Gone()) {
		err = errGone
	}
	return c, err
}

// CreateClient begins to make a client, under an id of ours. Whoever asked is at it for
// the time of the lease.
func (w *Work) CreateClient(ctx context.Context, tenant string, e ClientEdit, lease time.Duration) (iam.ManagedClient, error) {
	c := iam.ManagedClient{
		Client:  iam.Client{Issuer: w.s.cfg.Issuer, ClientID: uuid.NewString(), Tenant: tenant, Status: iam.ClientActive, Roles: e.Roles, Scopes: e.Scopes},
		Managed: true, Wanted: w.wanted(e), SecretState: iam.SecretNone,
	}
	if c.Wanted.HasSecret() {
		c.SecretState = iam.SecretNotIssued
	}
	if err := iam.Refuse(slices.Concat(c.Wanted.Check(), c.Check())); err != nil {
		return c, err
	}
	c.Wanted = c.Wanted.Tidy()
	if err := w.mayHandle(ctx, "make", c); err != nil {
		return c, err
	}
	if err := w.endsNotBefore(c); err != nil {
		return c, err
	}
	var err error
	if c.Version, err = w.tx.PutClient(ctx, c.Client); err != nil {
		if iam.KindOf(err) == iam.NotFound {
			err = iam.Refuse([]iam.FieldError{{Pointer: "/tenant", Detail: "there is no such tenant"}})
		}
		return c, err
	}
	c.WantedVersion, c.Before = c.Version, &iam.Before{Version: c.Version}
	c.CreatedAt = time.Now()
	c.UpdatedAt = c.CreatedAt
	if err := w.begin(ctx, &c, iam.OperationCreate, lease, 0); err != nil {
		return c, err
	}
	return c, w.record(tenant, iam.KindClient, c.ClientID, nil, docOfClient(c))
}

// begin notes an operation. Without a lease nobody is at it: it is taken up after a time.
func (w *Work) begin(ctx context.Context, c *iam.ManagedClient, operation string, lease, after time.Duration) error {
	c.Operation, c.OperationID, c.Sync, c.Reason, c.Tries = operation, uuid.NewString(), iam.SyncPending, "", 0
	w.begun = lease > 0
	return w.tx.PutRegistration(ctx, *c, lease, after)
}

// PutClient replaces what a client is. Roles and scopes are in force at once; what the
// identity provider must know of begins an operation, and Operation says so.
func (w *Work) PutClient(ctx context.Context, id string, e ClientEdit, cond Condition, lease time.Duration) (iam.ManagedClient, error) {
	before, err := w.clientToChange(ctx, id, cond, true)
	if err != nil {
		return before, err
	}
	if !before.Managed {
		return before, errNotManaged
	}
	after := before
	after.Wanted, after.Roles, after.Scopes = w.wanted(e), e.Roles, e.Scopes
	if err := iam.Refuse(slices.Concat(after.Wanted.Check(), after.Check())); err != nil {
		return before, err
	}
	if after.Wanted = after.Wanted.Tidy(); same(docOfClient(before), docOfClient(after)) {
		return before, nil
	}
	// Whoever changes where a client's codes go, or its keys, can be the client.
	if err := w.mayHandle(ctx, "change", before, after); err != nil {
		return before, err
	}
	metadata := len(before.Wanted.Differs(after.Wanted)) > 0
	more := func(after, before []string) bool {
		return slices.ContainsFunc(after, func(s string) bool { return !slices.Contains(before, s) })
	}
	if metadata || more(after.Roles, before.Roles) {
		if err := w.endsNotBefore(after); err != nil {
			return before, err
		}
	}
	if metadata && before.Operation != "" {
		return before, busy(before)
	}
	if after.Version, err = w.tx.PutClient(ctx, after.Client); err != nil {
		return before, err
	}
	switch {
	case metadata:
		after.WantedVersion, after.Before = after.Version, &iam.Before{Version: after.Version, Roles: before.Roles, Scopes: before.Scopes}
		err = w.begin(ctx, &after, iam.OperationUpdate, lease, 0)
	default:
		err = w.rolesChanged(ctx, before, &after)
	}
	if err != nil {
		return before, err
	}
	return after, w.record(after.Tenant, iam.KindClient, id, docOfClient(before), docOfClient(after))
}

// rolesChanged tells of other roles. While a change of the rest is pending, what is told is
// what was, with these: they outlast that change, and what it has tried is not told.
func (w *Work) rolesChanged(ctx context.Context, before iam.ManagedClient, c *iam.ManagedClient) error {
	if c.Before != nil {
		told := slices.DeleteFunc(slices.Clone(c.Before.Roles), func(r string) bool {
			return slices.Contains(before.Roles, r) && !slices.Contains(c.Roles, r)
		})
		for _, r := range c.Roles {
			if !slices.Contains(before.Roles, r) && !slices.Contains(told, r) {
				told = append(told, r)
			}
		}
		if slices.Equal(some(told), some(c.Before.Roles)) {
			return nil
		}
		c.Before.Roles = told
		if err := w.tx.KeepBefore(ctx, *c); err != nil {
			return err
		}
	}
	if c.Announced() {
		w.emit(iam.ClientUpdatedEvent{ClientState: stateOfClient(*c)})
	}
	return nil
}

// SetClientStatus blocks or unblocks a client: here, and at once. The identity provider
// knows nothing of it.
func (w *Work) SetClientStatus(ctx context.Context, id, status string, cond Condition) (iam.ManagedClient, error) {
	event := func(c iam.ManagedClient) iam.Event {
		if status == iam.ClientActive {
			return iam.ClientUnblockedEvent{ClientState: stateOfClient(c)}
		}
		return iam.ClientBlockedEvent{ClientState: stateOfClient(c)}
	}
	return w.changeClient(ctx, id, cond, event, func(c *iam.ManagedClient) { c.Status = status })
}

// RevokeClientTokens refuses all tokens of a client that were issued before a time, which
// never goes back. The zero time is now.
func (w *Work) RevokeClientTokens(ctx context.Context, id string, before time.Time) (iam.ManagedClient, error) {
	before, err := revokedBefore(before)
	if err != nil {
		return iam.ManagedClient{}, err
	}
	event := func(c iam.ManagedClient) iam.Event {
		return iam.ClientTokensRevokedEvent{ClientRevoked: iam.ClientRevoked{
			Client:          id,
			Tenant:          c.Tenant,
			TokensNotBefore: stamp(c.TokensNotBefore),
			Version:         c.Version,
		}}
	}
	return w.changeClient(ctx, id, Condition{}, event, func(c *iam.ManagedClient) {
		if before.After(c.TokensNotBefore) {
			c.TokensNotBefore = before
		}
	})
}

// changeClient changes what only this database knows of a client.
func (w *Work) changeClient(ctx context.Context, id string, cond Condition, event func(iam.ManagedClient) iam.Event, change func(*iam.ManagedClient)) (iam.ManagedClient, error) {
	before, err := w.clientToChange(ctx, id, cond, false)
	if err != nil {
		return before, err
	}
	after := before
	change(&after)
	if same(docOfClient(before), docOfClient(after)) {
		return before, nil
	}
	if err := w.mayHandle(ctx, "change", before); err != nil {
		return before, err
	}
	if after.Status == iam.ClientActive && before.Status != after.Status { // it is what it was again, and for good
		if err := w.endsNotBefore(after); err != nil {
			return before, err
		}
	}
	if after.Version, err = w.tx.PutClient(ctx, after.Client); err != nil {
		return before, err
	}
	if after.Announced() {
		w.emit(event(after))
	}
	return after, w.record(after.Tenant, iam.KindClient, id, docOfClient(before), docOfClient(after))
}

// changeClientRoles gives a client other roles, and nothing else.
func (w *Work) changeClientRoles(ctx context.Context, before iam.ManagedClient, roles []string) (err error) {
	if before.Status == iam.ClientDeleted {
		return nil
	}
	if err := w.mayHandle(ctx, "change", before); err != nil {
		return err
	}
	after := before
	after.Roles = roles
	if after.Version, err = w.tx.PutClient(ctx, after.Client); err != nil {
		return err
	}
	if err := w.rolesChanged(ctx, before, &after); err != nil {
		return err
	}
	return w.record(after.Tenant, iam.KindClient, after.ClientID, docOfClient(before), docOfClient(after))
}

// DeleteClient makes a client deleted here, at once, and begins to delete it in the
// identity provider. What was under way gives way to it: whoever was at it is waited for.
func (w *Work) DeleteClient(ctx context.Context, id string, cond Condition, lease time.Duration) (iam.ManagedClient, error) {
	before, err := w.Client(ctx, id)
	if err != nil {
		return before, err
	}
	if before.Status == iam.ClientDeleted {
		return before, nil // being deleted: it is told of once
	}
	if err := cond.hold(true, before.Version, false); err != nil {
		return before, err
	}
	if err := w.mayHandle(ctx, "delete", before); err != nil {
		return before, err
	}
	after := before
	after.Status = iam.ClientDeleted
	if after.Version, err = w.tx.PutClient(ctx, after.Client); err != nil {
		return before, err
	}
	if !before.Managed {
		w.emit(iam.ClientDeletedEvent{ClientGone: iam.ClientGone{Client: id, Tenant: after.Tenant}})
		return after, w.record(after.Tenant, iam.KindClient, id, docOfClient(before), nil)
	}
	var wait time.Duration
	if before.Operation != "" && before.LeaseLeft > 0 {
		lease, wait = 0, before.LeaseLeft+time.Second
	}
	after.Before, after.OverlapFrom, after.RetireAt = &iam.Before{Version: after.Version}, time.Time{}, time.Time{}
	if err := w.begin(ctx, &after, iam.OperationDelete, lease, wait); err != nil {
		return before, err
	}
	return after, w.record(after.Tenant, iam.KindClient, id, docOfClient(before), nil)
}

// RotateClientSecret begins to give a client another secret.
func (w *Work) RotateClientSecret(ctx context.Context, id string, cond Condition, retireOld bool, lease time.Duration) (iam.ManagedClient, error) {
	c, err := w.clientToChange(ctx, id, cond, false)
	switch {
	case err != nil:
		return c, err
	case !c.Managed:
		return c, errNotManaged
	case !c.Wanted.HasSecret():
		return c, &iam.Error{Kind: iam.Conflict, Code: "no_secret", Detail: "the client has no secret: it is public, or signs with a key"}
	case c.Operation != "":
		return c, busy(c)
	}
	if err := w.mayHandle(ctx, "rotate the secret of", c); err != nil {
		return c, err
	}
	if err := w.endsNotBefore(c); err != nil {
		return c, err
	}
	if !c.RetireAt.IsZero() && !retireOld {
		return c, &iam.Error{
			Kind: iam.Conflict, Code: "overlap_running",
			Detail: "an old secret works until " + stamp(c.RetireAt) + ": wait for that, or rotate with retire_old, which ends it now",
		}
	}
	was := docOfSecret(c)
	if err := w.begin(ctx, &c, iam.OperationRotate, lease, 0); err != nil {
		return c, err
	}
	return c, w.record(c.Tenant, iam.KindClient, id, was, secretDoc{c.Secrets, "rotating", was.OldUntil})
}

// clientToChange returns a client, locked, that is not deleted and that the caller knows
// as it is.
func (w *Work) clientToChange(ctx context.Context, id string, cond Condition, needed bool) (iam.ManagedClient, error) {
	c, err := w.Client(ctx, id)
	switch {
	case err != nil:
		return c, err
	case c.Status == iam.ClientDeleted:
		return c, &iam.Error{Kind: iam.Conflict, Code: "client_deleted", Detail: "the client is being deleted"}
	}
	return c, cond.hold(true, c.Version, needed)
}

var errNotManaged = &iam.Error{Kind: iam.Conflict, Code: "not_managed", Detail: "the client was not made here: what the identity provider knows of it is changed there"}

func busy(c iam.ManagedClient) error {
	return &iam.Error{Kind: iam.Conflict, Code: "operation_pending", Detail: "the identity provider has yet to be told of the last change (" + c.Operation + "): one at a time"}
}

// mayHandle refuses to do something to a client that means more than the caller holds, as
// it is and as it is to be: cs are both. What a scope means is the permission of that name;
// an audience beyond the gateways' means the administration, or a service that we know
// nothing of.
func (w *Work) mayHandle(ctx context.Context, verb string, cs ...iam.ManagedClient) error {
	if w.everything() {
		return nil
	}
	tenant := cs[0].Tenant // for ever
	e := &iam.Error{Kind: iam.Forbidden, Code: "more_than_held", Detail: "nobody can " + verb + " a client that is more than they are"}
	if tenant == "" {
		e.Fields = []iam.FieldError{{Pointer: "/tenant", Detail: "only a platform administrator has clients of the platform"}}
		return e
	}
	roles, err := w.tx.Roles(ctx, tenant)
	if err != nil {
		return err
	}
	graph := iam.NewGraph(roles)
	holding := w.holding(tenant, graph)
	for _, c := range cs {
		if more := holding.Beyond(graph, c.Roles); more != "" {
			e.Fields = append(e.Fields, iam.FieldError{Pointer: "/roles", Detail: "means " + more + ", which the caller does not hold"})
		}
		for i, s := range c.Scopes {
			if !holding.Permissions[s] && !slices.Contains(iam.StandardScopes, s) {
				e.Fields = append(e.Fields, iam.FieldError{Pointer: fmt.Sprintf("/scopes/%d", i), Detail: fmt.Sprintf("the caller does not hold the permission %q in the tenant", s)})
			}
		}
		for i, a := range c.Wanted.Audience {
			if !slices.Contains(w.s.cfg.Audiences, a) {
				e.Fields = append(e.Fields, iam.FieldError{
					Pointer: fmt.Sprintf("/audience/%d", i), Detail: fmt.Sprintf("only a platform administrator has clients for %q: others have them for %s", a, strings.Join(w.s.cfg.Audiences, ", ")),
				})
			}
		}
	}
	if len(e.Fields) > 0 {
		return e
	}
	return nil
}

// endsNotBefore refuses to give a client, whose roles have no end, what the caller holds
// for a time only.
func (w *Work) endsNotBefore(c iam.ManagedClient) error {
	end := w.heldUntil(c.Tenant)
	means := len(c.Roles) > 0 || slices.ContainsFunc(c.Scopes, func(s string) bool { return !slices.Contains(iam.StandardScopes, s) })
	if end.IsZero() || !means {
		return nil
	}
	return &iam.Error{Kind: iam.Forbidden, Code: "more_than_held", Detail: "what a client is has no end, and the caller's membership ends at " + stamp(end)}
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
		err = w.secretChanged(ctx, docOfSecret(op), &c)
	case iam.OperationRetire:
		w.retired(&c)
		err = w.secretChanged(ctx, docOfSecret(op), &c)
	}
	if err != nil {
		return c, err
	}
	if operation == iam.OperationCreate || operation == iam.OperationUpdate {
		applied := c.Wanted
		c.Applied, c.AppliedMark = &applied, c.WantedVersion
	}
	return c, w.tx.PutRegistration(ctx, c, 0, 0)
}

// secretChanged audits it, and makes another version: whoever rotates says which one they
// have seen.
func (w *Work) secretChanged(ctx context.Context, was secretDoc, c *iam.ManagedClient) (err error) {
	if c.Version, err = w.tx.TouchClient(ctx, c.Issuer, c.ClientID); err != nil {
		return err
	}
	return w.record(c.Tenant, iam.KindClient, c.ClientID, was, docOfSecret(*c))
}

// issued notes a secret that somebody is given, or that there is one that nobody has.
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

// operation returns a client, locked, if the operation is still under way.
func (w *Work) operation(ctx context.Context, op iam.ManagedClient) (c iam.ManagedClient, ours bool, err error) {
	c, found, err := w.tx.ManagedClient(ctx, op.Issuer, op.ClientID, true)
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
	was := docOfClient(c)
	if c.Operation == iam.OperationCreate && c.Applied == nil {
		if err := w.tx.ForgetClient(ctx, c.Issuer, c.ClientID); err != nil {
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
		c.Roles = slices.DeleteFunc(keep(c.Before.Roles, c.Roles), func(r string) bool { return find(roles, r) == nil })
		c.Scopes = keep(c.Before.Scopes, c.Scopes)
		c.Wanted, c.WantedVersion = *c.Applied, c.AppliedMark
		if c.Version, err = w.tx.PutClient(ctx, c.Client); err != nil {
			return c, err
		}
		if err := w.record(c.Tenant, iam.KindClient, c.ClientID, was, docOfClient(c)); err != nil {
			return c, err
		}
		told := *c.Before
		c.Before = nil
		if !slices.Equal(some(told.Roles), some(c.Roles)) || !slices.Equal(some(told.Scopes), some(c.Scopes)) {
			w.emit(iam.ClientUpdatedEvent{ClientState: stateOfClient(c)})
		}
	}
	var pause time.Duration
	if c.Operation == iam.OperationRetire {
		pause = retrySlow
	}
	c.Operation, c.OperationID, c.Sync, c.Reason, c.Before = "", "", iam.SyncFailed, reason, nil
	return c, w.tx.PutRegistration(ctx, c, 0, pause)
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
	return c, w.tx.PutRegistration(ctx, c, 0, pause/2+rand.N(pause)) //nolint:gosec // jitter is no secret
}

// NotRotated says that a rotation was not done, or with unknown that nobody knows. Then
// all secrets work on that may be in use, until one is obtained.
func (w *Work) NotRotated(ctx context.Context, op iam.ManagedClient, unknown, retired bool, reason string) error {
	c, ours, err := w.operation(ctx, op)
	if err != nil || !ours {
		return err
	}
	was := docOfSecret(c)
	c.Operation, c.OperationID, c.Sync, c.Reason = "", "", iam.SyncDone, reason
	if retired {
		w.retired(&c)
	}
	if unknown {
		c.SecretState, c.OverlapFrom, c.RetireAt, c.Warned = iam.SecretUnknown, time.Time{}, time.Time{}, false
	}
	if unknown || !same(was, docOfSecret(c)) {
		if err := w.secretChanged(ctx, was, &c); err != nil {
			return err
		}
	}
	return w.tx.PutRegistration(ctx, c, 0, 0)
}

// ForgetKey lets a request be sent again that came to nothing.
func (s *Service) ForgetKey(ctx context.Context, c Caller, key string) error {
	return s.cfg.DB.Change(ctx, func(ctx context.Context, tx *postgres.Tx) error { return tx.ForgetKey(ctx, c.hash(), key) })
}

// Answer replaces what the replay of a request will find.
func (s *Service) Answer(ctx context.Context, c Caller, key string, answer json.RawMessage) error {
	return s.cfg.DB.Change(ctx, func(ctx context.Context, tx *postgres.Tx) error { return tx.Finish(ctx, c.hash(), key, answer, nil) })
}

// EndOverlap begins to end an old secret whose time has passed, or tells that it soon
// does; it reports whether there is something to do in the identity provider.
func (w *Work) EndOverlap(ctx context.Context, id string, lease time.Duration) (c iam.ManagedClient, due bool, err error) {
	c, err = w.Client(ctx, id)
	if err != nil || c.Operation != "" || c.RetireAt.IsZero() || c.Status == iam.ClientDeleted || !c.Wanted.HasSecret() {
		return c, false, err
	}
	now, err := w.tx.Now(ctx)
	if err != nil {
		return c, false, err
	}
	left := c.RetireAt.Sub(now)
	if left <= 0 {
		return c, true, w.begin(ctx, &c, iam.OperationRetire, lease, 0)
	}
	if !c.Warned && left <= c.RetireAt.Sub(c.OverlapFrom)/4 {
		c.Warned = true
		w.emit(iam.ClientSecretExpiringEvent{ClientSecret: secretOf(c)})
		return c, false, w.tx.PutRegistration(ctx, c, 0, 0)
	}
	return c, false, nil
}

// Repair begins an operation that nobody asked for: the identity provider differs from
// what should be. It reports whether that can be done now.
func (w *Work) Repair(ctx context.Context, seen iam.ManagedClient, operation string, lease time.Duration) (c iam.ManagedClient, can bool, err error) {
	c, found, err := w.tx.ManagedClient(ctx, seen.Issuer, seen.ClientID, true)
	if err != nil || !found || c.Operation != "" || c.WantedVersion != seen.WantedVersion || c.Status != seen.Status {
		return c, false, err
	}
	c.Before = nil
	if len(c.Wanted.Audience) == 0 {
		c.Wanted.Audience = seen.Wanted.Audience // of a client from a version that did not manage it
	}
	if operation == iam.OperationCreate {
		// Another mark, by which one that is made now is told from one that was there all along.
		if c.Version, err = w.tx.TouchClient(ctx, c.Issuer, c.ClientID); err != nil {
			return c, false, err
		}
		c.WantedVersion = c.Version
	}
	if err := w.begin(ctx, &c, operation, lease, 0); err != nil {
		return c, false, err
	}
	return c, true, w.record(c.Tenant, iam.KindClient, c.ClientID, docOfClient(c), docOfClient(c))
}

// stateOfClient is what is told of a client: what was told before, while a change of it is
// only tried.
func stateOfClient(c iam.ManagedClient) iam.ClientState {
	if c.Operation == iam.OperationUpdate && c.Before != nil && c.Applied != nil {
		c.Wanted, c.Roles, c.Scopes = *c.Applied, c.Before.Roles, c.Before.Scopes
	}
	s := iam.ClientState{Client: c.ClientID, Tenant: c.Tenant, Name: c.Wanted.ClientName, Status: c.Status, Roles: some(c.Roles), Scopes: some(c.Scopes), Version: c.Version}
	if c.Managed {
		s.Type = c.Wanted.Type()
	}
	return s
}

func secretOf(c iam.ManagedClient) iam.ClientSecret {
	return iam.ClientSecret{Client: c.ClientID, Tenant: c.Tenant, OldUntil: stamp(c.RetireAt)}
}
