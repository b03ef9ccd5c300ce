package admin

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// ClientEdit is what can be replaced of a client.
type ClientEdit struct {
	Registration  iam.Registration // without ClientID, Scope and marks
	Roles, Scopes []string
}

// wanted is the registration of an edit. Without audiences it gets those of the gateways:
// otherwise none of its tokens would be accepted.
func (w *Work) wanted(e ClientEdit) iam.Registration {
	r := e.Registration.WithDefaults()
	r.ClientID, r.Metadata, r.Scope = "", nil, strings.Join(sorted(e.Scopes), " ")
	if len(r.Audience) == 0 {
		r.Audience = w.s.cfg.Audiences
	}
	return r
}

// Audiences are the default audiences of a client.
func (s *Service) Audiences() []string { return s.cfg.Audiences }

// Clients lists clients by id.
func (w *Work) Clients(ctx context.Context, f postgres.ClientFilter) ([]iam.ManagedClient, error) {
	f.Issuer = w.s.cfg.Issuer
	return w.tx.ManagedClients(ctx, f)
}

// Client returns one client. One that is deleted here and in the provider is not found.
func (w *Work) Client(ctx context.Context, id string) (iam.ManagedClient, error) {
	if !iam.ValidClientID(id) {
		return iam.ManagedClient{}, errNotFound
	}
	read := w.tx.ManagedClient
	if w.task.Writes {
		read = w.tx.ManagedClientForUpdate
	}
	c, found, err := read(ctx, w.s.cfg.Issuer, id)
	if err == nil && (!found || c.Gone()) {
		err = errNotFound
	}
	return c, err
}

// CreateClient begins to create a client, under an id of ours. The caller works on the
// operation until the lease expires.
func (w *Work) CreateClient(ctx context.Context, tenant string, e ClientEdit, lease time.Duration) (iam.ManagedClient, error) {
	c := iam.ManagedClient{
		Client:  iam.Client{Issuer: w.s.cfg.Issuer, ClientID: uuid.NewString(), Tenant: tenant, Status: iam.ClientActive, Roles: e.Roles, Scopes: e.Scopes},
		Managed: true, Wanted: w.wanted(e), SecretState: iam.SecretNone,
	}
	if c.Wanted.HasSecret() {
		c.SecretState = iam.SecretNotIssued
	}
	if err := iam.InvalidFields(slices.Concat(c.Wanted.Check(), c.Check())); err != nil {
		return c, err
	}
	c.Wanted = c.Wanted.Tidy()
	if err := w.checkClientHeld(ctx, "create", c); err != nil {
		return c, err
	}
	if err := w.checkHeldUnlimited(ctx, c); err != nil {
		return c, err
	}
	var err error
	if c.Version, err = w.tx.PutClient(ctx, c.Client); err != nil {
		if iam.KindOf(err) == iam.NotFound {
			err = iam.InvalidFields([]iam.FieldError{{Pointer: "/tenant", Detail: "the tenant does not exist"}})
		}
		return c, err
	}
	c.WantedVersion, c.Before = c.Version, &iam.Before{Version: c.Version}
	c.CreatedAt = time.Now()
	c.UpdatedAt = c.CreatedAt
	if err := w.begin(ctx, &c, iam.OperationCreate, lease, 0); err != nil {
		return c, err
	}
	return c, w.record(tenant, iam.KindClient, c.ClientID, nil, auditOfClient(c))
}

// PutClient replaces a client. Roles and scopes are active at once; other metadata begin an
// operation in the identity provider, which Operation names.
func (w *Work) PutClient(ctx context.Context, id string, e ClientEdit, cond Condition, lease time.Duration) (iam.ManagedClient, error) {
	before, err := w.lockClient(ctx, id, cond.mandatory())
	if err != nil {
		return before, err
	}
	if !before.Managed {
		return before, errNotManaged
	}
	after := before
	after.Wanted, after.Roles, after.Scopes = w.wanted(e), e.Roles, e.Scopes
	if err := iam.InvalidFields(slices.Concat(after.Wanted.Check(), after.Check())); err != nil {
		return before, err
	}
	if after.Wanted = after.Wanted.Tidy(); sameJSON(auditOfClient(before), auditOfClient(after)) {
		return before, nil
	}
	// A caller who changes a client's redirect URIs or keys can act as the client.
	if err := w.checkClientHeld(ctx, "change", before, after); err != nil {
		return before, err
	}
	metadata := len(before.Wanted.Differs(after.Wanted)) > 0
	more := func(after, before []string) bool {
		return slices.ContainsFunc(after, func(s string) bool { return !slices.Contains(before, s) })
	}
	if metadata || more(after.Roles, before.Roles) {
		if err := w.checkHeldUnlimited(ctx, after); err != nil {
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
	return after, w.record(after.Tenant, iam.KindClient, id, auditOfClient(before), auditOfClient(after))
}

// rolesChanged emits changed roles. While a change of other metadata is pending, the event has
// the metadata before it: events are published only after confirmation.
func (w *Work) rolesChanged(ctx context.Context, before iam.ManagedClient, c *iam.ManagedClient) error {
	if c.Before != nil {
		published := slices.DeleteFunc(slices.Clone(c.Before.Roles), func(r string) bool {
			return slices.Contains(before.Roles, r) && !slices.Contains(c.Roles, r)
		})
		for _, r := range c.Roles {
			if !slices.Contains(before.Roles, r) && !slices.Contains(published, r) {
				published = append(published, r)
			}
		}
		if slices.Equal(sorted(published), sorted(c.Before.Roles)) {
			return nil
		}
		c.Before.Roles = published
		if err := w.tx.SavePublished(ctx, *c); err != nil {
			return err
		}
	}
	if c.Announced() {
		w.emit(iam.ClientUpdatedEvent{ClientState: stateOfClient(*c)})
	}
	return nil
}

// SetClientStatus blocks or unblocks a client, at once. The identity provider is not involved.
func (w *Work) SetClientStatus(ctx context.Context, id, status string, cond Condition) (iam.ManagedClient, error) {
	event := func(c iam.ManagedClient) iam.Event {
		if status == iam.ClientActive {
			return iam.ClientUnblockedEvent{ClientState: stateOfClient(c)}
		}
		return iam.ClientBlockedEvent{ClientState: stateOfClient(c)}
	}
	return w.changeClient(ctx, id, cond, event, func(c *iam.ManagedClient) { c.Status = status })
}

// RevokeClientTokens revokes all tokens of a client that were issued before a time, which never
// decreases. The zero time is now.
func (w *Work) RevokeClientTokens(ctx context.Context, id string, before time.Time) (iam.ManagedClient, error) {
	before, err := revokedBefore(before)
	if err != nil {
		return iam.ManagedClient{}, err
	}
	event := func(c iam.ManagedClient) iam.Event {
		return iam.ClientTokensRevokedEvent{ClientRevoked: iam.ClientRevoked{
			Client:          id,
			Tenant:          c.Tenant,
			TokensNotBefore: timestamp(c.TokensNotBefore),
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
	before, err := w.lockClient(ctx, id, cond)
	if err != nil {
		return before, err
	}
	after := before
	change(&after)
	if sameJSON(auditOfClient(before), auditOfClient(after)) {
		return before, nil
	}
	if err := w.checkClientHeld(ctx, "change", before); err != nil {
		return before, err
	}
	if after.Status == iam.ClientActive && before.Status != after.Status { // its roles are granted again, permanently
		if err := w.checkHeldUnlimited(ctx, after); err != nil {
			return before, err
		}
	}
	if after.Version, err = w.tx.PutClient(ctx, after.Client); err != nil {
		return before, err
	}
	if after.Announced() {
		w.emit(event(after))
	}
	return after, w.record(after.Tenant, iam.KindClient, id, auditOfClient(before), auditOfClient(after))
}

// changeClientRoles replaces the roles of a client.
func (w *Work) changeClientRoles(ctx context.Context, before iam.ManagedClient, roles []string) (err error) {
	if before.Status == iam.ClientDeleted {
		return nil
	}
	if err := w.checkClientHeld(ctx, "change", before); err != nil {
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
	return w.record(after.Tenant, iam.KindClient, after.ClientID, auditOfClient(before), auditOfClient(after))
}

// DeleteClient deletes a client here, at once, and begins to delete it in the identity
// provider. It replaces a pending operation, after that operation's lease.
func (w *Work) DeleteClient(ctx context.Context, id string, cond Condition, lease time.Duration) (iam.ManagedClient, error) {
	before, err := w.Client(ctx, id)
	if err != nil {
		return before, err
	}
	if before.Status == iam.ClientDeleted {
		return before, nil // its deletion is pending: emitted once
	}
	if err := cond.check(before.Version); err != nil {
		return before, err
	}
	if err := w.checkClientHeld(ctx, "delete", before); err != nil {
		return before, err
	}
	after := before
	after.Status = iam.ClientDeleted
	if after.Version, err = w.tx.PutClient(ctx, after.Client); err != nil {
		return before, err
	}
	if !before.Managed {
		w.emit(iam.ClientDeletedEvent{ClientGone: iam.ClientGone{Client: id, Tenant: after.Tenant}})
		return after, w.record(after.Tenant, iam.KindClient, id, auditOfClient(before), nil)
	}
	var wait time.Duration
	if before.Operation != "" && before.LeaseLeft > 0 {
		lease, wait = 0, before.LeaseLeft+time.Second
	}
	after.Before, after.OverlapFrom, after.RetireAt = &iam.Before{Version: after.Version}, time.Time{}, time.Time{}
	if err := w.begin(ctx, &after, iam.OperationDelete, lease, wait); err != nil {
		return before, err
	}
	return after, w.record(after.Tenant, iam.KindClient, id, auditOfClient(before), nil)
}

// lockClient locks and returns a client that is not deleted and fits the condition.
func (w *Work) lockClient(ctx context.Context, id string, cond Condition) (iam.ManagedClient, error) {
	c, err := w.Client(ctx, id)
	switch {
	case err != nil:
		return c, err
	case c.Status == iam.ClientDeleted:
		return c, &iam.Error{Kind: iam.Conflict, Code: "client_deleted", Detail: "the client is being deleted"}
	}
	return c, cond.check(c.Version)
}

var errNotManaged = &iam.Error{Kind: iam.Conflict, Code: "not_managed", Detail: "the client was not created here: change its metadata in the identity provider"}

func busy(c iam.ManagedClient) error {
	return &iam.Error{Kind: iam.Conflict, Code: "operation_pending", Detail: "the last change (" + c.Operation + ") is pending in the identity provider: wait until it is done"}
}

// checkClientHeld rejects a change of a client that has more than the caller holds, before or
// after the change: cs are both states. A scope is the permission of its name; an audience beyond
// the gateways' is the admin API, or a service that is unknown here.
func (w *Work) checkClientHeld(ctx context.Context, verb string, cs ...iam.ManagedClient) error {
	if w.holdsEverything() {
		return nil
	}
	tenant := cs[0].Tenant // it never changes
	e := &iam.Error{Kind: iam.Forbidden, Code: "more_than_held", Detail: "a caller can " + verb + " only a client that has no more than they hold"}
	if tenant == "" {
		e.Fields = []iam.FieldError{{Pointer: "/tenant", Detail: "only a platform administrator can manage clients of the platform"}}
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
			e.Fields = append(e.Fields, iam.FieldError{Pointer: "/roles", Detail: "grants " + more + ", which the caller does not hold"})
		}
		for i, s := range c.Scopes {
			if !holding.Permissions[s] && !slices.Contains(iam.StandardScopes, s) {
				e.Fields = append(e.Fields, iam.FieldError{Pointer: fmt.Sprintf("/scopes/%d", i), Detail: fmt.Sprintf("the caller does not hold the permission %q in the tenant", s)})
			}
		}
		for i, a := range c.Wanted.Audience {
			if !slices.Contains(w.s.cfg.Audiences, a) {
				e.Fields = append(e.Fields, iam.FieldError{
					Pointer: fmt.Sprintf("/audience/%d", i), Detail: fmt.Sprintf("only a platform administrator can grant the audience %q: others can grant %s", a, strings.Join(w.s.cfg.Audiences, ", ")),
				})
			}
		}
	}
	if len(e.Fields) > 0 {
		return e
	}
	return nil
}

// checkHeldUnlimited refuses to grant to a client, whose roles and scopes never expire, what the caller
// holds for a limited time.
func (w *Work) checkHeldUnlimited(ctx context.Context, c iam.ManagedClient) error {
	if w.user == nil || w.holdsEverything() {
		return nil
	}
	roles, err := w.tx.Roles(ctx, c.Tenant)
	if err != nil {
		return err
	}
	graph := iam.NewGraph(roles)
	if err := w.checkLasting(c.Tenant, graph, c.Roles, "a client", "/roles"); err != nil {
		return err
	}
	lasting := w.holdingUntil(c.Tenant, graph, withoutEnd)
	e := &iam.Error{Kind: iam.Forbidden, Code: "more_than_held", Detail: "the scopes of a client never expire"}
	for i, s := range c.Scopes {
		if !lasting.Permissions[s] && !slices.Contains(iam.StandardScopes, s) {
			e.Fields = append(e.Fields, iam.FieldError{Pointer: fmt.Sprintf("/scopes/%d", i), Detail: fmt.Sprintf("the caller holds the permission %q for a time only", s)})
		}
	}
	if len(e.Fields) > 0 {
		return e
	}
	return nil
}
