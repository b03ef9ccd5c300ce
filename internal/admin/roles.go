package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// maxRemoved is the largest number of holders from which one request removes a role.
const maxRemoved = 1000

// Roles lists the roles that a tenant sees, or the global ones with "".
func (w *Work) Roles(ctx context.Context, tenant string) ([]iam.Role, error) {
	if tenant != "" {
		if _, err := w.Tenant(ctx, tenant); err != nil {
			return nil, err
		}
	}
	return w.tx.Roles(ctx, tenant)
}

// Role returns one role that a tenant sees, its own or a global one.
func (w *Work) Role(ctx context.Context, tenant, name string) (iam.Role, error) {
	roles, err := w.Roles(ctx, tenant)
	if err != nil {
		return iam.Role{}, err
	}
	if r := findRole(roles, name); r != nil {
		return *r, nil
	}
	return iam.Role{}, errNotFound
}

func findRole(roles []iam.Role, name string) *iam.Role {
	if i := slices.IndexFunc(roles, func(r iam.Role) bool { return r.Name == name }); i >= 0 {
		return &roles[i]
	}
	return nil
}

// PutRole creates a role of a tenant, or a global one, or replaces its permissions, inheritance
// and description. The caller must hold what it grants before and after.
func (w *Work) PutRole(ctx context.Context, r iam.Role, c Condition) (iam.Role, bool, error) {
	roles, before, err := w.lockRole(ctx, r.Tenant, r.Name)
	if err != nil {
		return r, false, err
	}
	if before == nil {
		err = c.mandatory().checkNew()
	} else {
		r.Service = before.Service
		err = c.mandatory().check(before.Version)
	}
	if err != nil {
		return r, false, err
	}
	if strings.HasPrefix(r.Name, "iam:") {
		return r, false, iam.InvalidFields([]iam.FieldError{{Pointer: "/name", Detail: "names that begin with iam: are reserved"}})
	}
	if err := checkNotDeclared(before); err != nil {
		return r, false, err
	}
	if err := iam.InvalidFields(r.Check()); err != nil {
		return r, false, err
	}
	graph := iam.NewGraph(roles)
	holding := w.holding(r.Tenant, graph) // before the change: a holder of this role does not hold what is added to it
	if before != nil {
		if err := checkHeld(holding, graph, []string{r.Name}, "change", ""); err != nil {
			return r, false, err
		}
	}
	// What it grants after, by itself and through inheritance.
	if err := checkHeld(holding, graph.Replacing(r), []string{r.Name}, "add to a role", "/permissions"); err != nil {
		return r, false, err
	}
	if before != nil {
		// Its holders can hold it for longer than the caller holds what is added to it.
		was, is := graph.Hold([]string{r.Name}), graph.Replacing(r)
		beyond := func(h iam.Holding) string { return h.With(was).Beyond(is, []string{r.Name}) }
		if more := beyond(w.holdingUntil(r.Tenant, graph, withoutEnd)); more != "" {
			end := w.heldUntil(r.Tenant, graph, func(h iam.Holding) bool { return beyond(h) == "" })
			return r, false, &iam.Error{
				Kind: iam.Forbidden, Code: "more_than_held",
				Detail: "a role never expires, and the caller holds what is added to it until " + timestamp(end) + " only",
				Fields: []iam.FieldError{{Pointer: "/permissions", Detail: "adds " + more + ", which the caller holds for a time only"}},
			}
		}
	}
	if err := w.checkRequestable(r, graph); err != nil {
		return r, false, err
	}
	err = w.requireAdministrator(ctx, r.Tenant, func() (err error) {
		r, err = w.putRole(ctx, before, r)
		return err
	})
	return r, before == nil, err
}

// checkRequestable checks who can ask for a role. Without an approval it is granted to each caller who asks, at any time: so the
// caller must hold what it grants without an end.
func (w *Work) checkRequestable(r iam.Role, graph iam.Graph) error {
	if r.Request == nil {
		return nil
	}
	var wrong []iam.FieldError
	for i, by := range r.Request.By {
		if by != r.Name && !graph.Has(by) {
			wrong = append(wrong, iam.FieldError{Pointer: fmt.Sprintf("/request/by/%d", i), Detail: fmt.Sprintf("there is no role named %q", by)})
		}
	}
	if err := iam.InvalidFields(wrong); err != nil || r.Request.Approval != iam.ApprovalBreakGlass {
		return err
	}
	return w.checkLasting(r.Tenant, graph.Replacing(r), []string{r.Name}, "a break-glass role", "/request")
}

// lockRole locks and returns the roles that a tenant sees, and its own role of the name; nil
// where there is none.
func (w *Work) lockRole(ctx context.Context, tenant, name string) ([]iam.Role, *iam.Role, error) {
	if err := w.tx.LockRoles(ctx, tenant); err != nil {
		if iam.KindOf(err) == iam.NotFound {
			err = errNotFound
		}
		return nil, nil, err
	}
	roles, err := w.tx.Roles(ctx, tenant)
	if err != nil {
		return nil, nil, err
	}
	r := findRole(roles, name)
	if r != nil && r.Tenant != tenant {
		return roles, nil, &iam.Error{Kind: iam.Conflict, Code: "role_is_global", Detail: fmt.Sprintf("%q is a global role: a tenant cannot change it", name)}
	}
	return roles, r, nil
}

func checkNotDeclared(r *iam.Role) error {
	if r == nil || r.Service == "" {
		return nil
	}
	return &iam.Error{Kind: iam.Conflict, Code: "role_is_declared", Detail: fmt.Sprintf("the service %q declares this role: change its manifest", r.Service)}
}

func (w *Work) putRole(ctx context.Context, before *iam.Role, r iam.Role) (iam.Role, error) {
	changes := []roleChange{{before: before, after: r}}
	err := w.putRoles(ctx, r.Tenant, changes)
	return changes[0].after, iam.Rebase(err, "/0", "")
}

// roleChange is a role before and after; nil: there was none.
type roleChange struct {
	before *iam.Role
	after  iam.Role
}

// putRoles writes what has changed. Each role comes after those that it inherits.
func (w *Work) putRoles(ctx context.Context, tenant string, changes []roleChange) error {
	var puts []*iam.Role
	var places []int
	for i := range changes {
		c := &changes[i]
		if c.before != nil && sameJSON(auditOfRole(*c.before), auditOfRole(c.after)) {
			c.after = *c.before
			continue
		}
		puts, places = append(puts, &c.after), append(places, i)
	}
	if len(puts) == 0 {
		return nil
	}
	if err := w.tx.PutRoles(ctx, tenant, puts); err != nil {
		return restorePositions(err, places)
	}
	for _, i := range places {
		c := changes[i]
		var was any
		r := c.after
		state := iam.RoleState{
			Tenant:      r.Tenant,
			Role:        r.Name,
			Permissions: sorted(r.Permissions),
			Inherits:    sorted(r.Inherits),
			Service:     r.Service,
			Version:     r.Version,
		}
		if c.before != nil {
			was = auditOfRole(*c.before)
			w.emit(iam.RoleUpdatedEvent{RoleState: state})
		} else {
			w.emit(iam.RoleCreatedEvent{RoleState: state})
		}
		if err := w.record(r.Tenant, iam.KindRole, r.Name, was, auditOfRole(r)); err != nil {
			return err
		}
	}
	return nil
}

// restorePositions translates pointers into a part of a list to positions in the whole list.
func restorePositions(err error, places []int) error {
	e, ok := errors.AsType[*iam.Error](err)
	if !ok || len(e.Fields) == 0 {
		return err
	}
	moved := *e
	moved.Fields = slices.Clone(e.Fields)
	for i, f := range moved.Fields {
		first, rest, deeper := strings.Cut(strings.TrimPrefix(f.Pointer, "/"), "/")
		n, err := strconv.Atoi(first)
		if err != nil || n >= len(places) {
			continue
		}
		moved.Fields[i].Pointer = fmt.Sprintf("/%d", places[n])
		if deeper {
			moved.Fields[i].Pointer += "/" + rest
		}
	}
	return &moved
}

// HeldRole is how to delete a role that members, mappings, clients or other roles hold.
type HeldRole int

// The values of HeldRole.
const (
	RejectHeld HeldRole = iota // it is a conflict
	RevokeHeld                 // it is revoked from its holders first
)

// DeleteRole deletes a role, and treats one that has holders as held says.
func (w *Work) DeleteRole(ctx context.Context, tenant, name string, held HeldRole, c Condition) error {
	roles, r, err := w.lockRole(ctx, tenant, name)
	switch {
	case err != nil:
		return err
	case r == nil:
		return errNotFound
	case strings.HasPrefix(name, "iam:"):
		return &iam.Error{Kind: iam.Conflict, Code: "role_is_reserved", Detail: "the role is reserved by the service"}
	}
	if err := c.check(r.Version); err != nil {
		return err
	}
	if err := checkNotDeclared(r); err != nil {
		return err
	}
	graph := iam.NewGraph(roles)
	holding := w.holding(tenant, graph)
	if err := checkHeld(holding, graph, []string{name}, "delete", ""); err != nil {
		return err
	}
	return w.requireAdministrator(ctx, tenant, func() error {
		return w.deleteRole(ctx, roleDeletion{role: *r, held: held, roles: roles, holding: holding, graph: graph})
	})
}

// roleDeletion is a role to delete, and what is needed to revoke it from its holders.
type roleDeletion struct {
	role    iam.Role
	held    HeldRole
	roles   []iam.Role  // all that the tenant sees
	holding iam.Holding // of the caller
	graph   iam.Graph   // of roles
}

func (w *Work) deleteRole(ctx context.Context, d roleDeletion) error {
	tenant, name := d.role.Tenant, d.role.Name
	h, err := w.tx.HoldersOf(ctx, tenant, name, nil)
	if err != nil {
		return err
	}
	if held := holders(h); held != "" {
		switch {
		case d.held == RejectHeld:
			return &iam.Error{Kind: iam.Conflict, Code: "role_held", Detail: "the role is held by " + held + ": remove it first, or delete with ?remove=true"}
		case tenant == "":
			return &iam.Error{Kind: iam.Conflict, Code: "role_held", Detail: "the global role is held by " + held + ": remove it in each tenant first"}
		case h.Members > maxRemoved || h.Clients > maxRemoved:
			return &iam.Error{Kind: iam.Conflict, Code: "role_held", Detail: fmt.Sprintf("the role is held by %s: one request removes it from at most %d", held, maxRemoved)}
		}
		if err := w.revokeRole(ctx, d); err != nil {
			return err
		}
	}
	if err := w.tx.DeleteRole(ctx, tenant, name); err != nil {
		return err
	}
	w.emit(iam.RoleDeletedEvent{RoleGone: iam.RoleGone{Tenant: tenant, Role: name}})
	return w.record(tenant, iam.KindRole, name, auditOfRole(d.role), nil)
}

// revokeRole revokes a role of a tenant from all its holders. If one holds more than the caller,
// nothing is revoked.
func (w *Work) revokeRole(ctx context.Context, d roleDeletion) error {
	tenant, name := d.role.Tenant, d.role.Name
	without := func(list []string) []string {
		return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s == name })
	}
	if err := w.unmapRole(ctx, d); err != nil {
		return err
	}
	members, err := w.tx.Members(ctx, tenant, postgres.MemberFilter{Role: name, Limit: maxRemoved})
	if err != nil {
		return err
	}
	changes := make([]memberChange, len(members))
	for i := range members {
		m := members[i].WithRoles(without(members[i].Roles))
		changes[i] = memberChange{row: i, before: &members[i], after: m}
	}
	if err := w.putMembers(ctx, tenant, d.roles, changes); err != nil {
		return err
	}
	mappings, err := w.tx.Mappings(ctx, tenant)
	if err != nil {
		return err
	}
	var changed []mappingChange
	for _, m := range mappings {
		if !slices.Contains(m.Roles, name) {
			continue
		}
		before := m
		if m.Roles = without(m.Roles); len(m.Roles) > 0 {
			changed = append(changed, mappingChange{before: &before, after: m})
			continue
		}
		if err := w.deleteMapping(ctx, before, d.holding, d.graph); err != nil {
			return err
		}
	}
	if err := w.putMappings(ctx, tenant, changed, d.holding, d.graph); err != nil {
		return err
	}
	clients, err := w.tx.ManagedClients(ctx, postgres.ClientFilter{Tenant: tenant, Role: name, Limit: maxRemoved})
	if err != nil {
		return err
	}
	for _, c := range clients {
		if err := w.changeClientRoles(ctx, c, without(c.Roles)); err != nil {
			return err
		}
	}
	for _, r := range d.roles {
		asks := r.Request != nil && slices.Contains(r.Request.By, name)
		if r.Tenant != tenant || r.Name == name || !asks && !slices.Contains(r.Inherits, name) {
			continue
		}
		before := r
		if asks {
			if by := without(r.Request.By); len(by) > 0 {
				r.Request = &iam.Requestable{By: by, Approval: r.Request.Approval, MaxSeconds: r.Request.MaxSeconds}
			} else {
				r.Request = nil
			}
		}
		if err := checkHeld(d.holding, d.graph, []string{r.Name}, "change", ""); err != nil {
			return err
		}
		r.Inherits = without(r.Inherits)
		if _, err := w.putRole(ctx, &before, r); err != nil {
			return err
		}
	}
	return nil
}

// holders describes the holders of a role; empty: there are none.
func holders(h postgres.Holders) string {
	var who []string
	for _, x := range []struct {
		n         int
		one, many string
	}{{h.Members, "member", "members"}, {h.Mappings, "mapping", "mappings"}, {h.Clients, "client", "clients"}, {h.Groups, "SCIM group", "SCIM groups"}} {
		if x.n > 0 {
			who = append(who, plural(x.n, x.one, x.many))
		}
	}
	if len(h.Tenants) > 0 {
		who[len(who)-1] += " in " + strings.Join(h.Tenants, ", ")
	}
	if len(h.RequestedBy) > 0 {
		who = append(who, "the roles "+strings.Join(h.RequestedBy, ", ")+", which name it in request.by")
	}
	if len(h.InheritedBy) > 0 {
		who = append(who, "the roles "+strings.Join(h.InheritedBy, ", ")+", which inherit it")
	}
	return strings.Join(who, ", ")
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
