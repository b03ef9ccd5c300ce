package admin

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// What administrators do with the groups of a tenant's provisioning client: they map them to roles.

// MappedGroups lists the groups of a tenant by id.
func (w *Work) MappedGroups(ctx context.Context, q postgres.SCIMQuery) ([]iam.SCIMGroup, error) {
	if _, err := w.Tenant(ctx, q.Tenant); err != nil {
		return nil, err
	}
	return w.tx.SCIMGroups(ctx, q)
}

// MappedGroup returns one group of a tenant.
func (w *Work) MappedGroup(ctx context.Context, tenant, id string) (iam.SCIMGroup, error) {
	return w.findGroup(ctx, tenant, anyIssuer, id)
}

// SetSCIMGroupRoles maps a group to roles, which its members hold at once. The caller must hold what the group grants before
// and after. A role that is mapped belongs to the groups: members outside them who hold it are a conflict, or lose it, as
// held says.
func (w *Work) SetSCIMGroupRoles(ctx context.Context, tenant, id string, names []string, held HeldRole, c Condition) (iam.SCIMGroup, error) {
	roles, err := w.lockRoles(ctx, tenant)
	if err != nil {
		return iam.SCIMGroup{}, err
	}
	before, err := w.findGroup(ctx, tenant, anyIssuer, id)
	if err != nil {
		return before, err
	}
	if err := c.mandatory().check(before.Version); err != nil {
		return before, err
	}
	after := before
	after.Roles = names
	wrong := after.Check()
	for i, name := range names {
		if iam.ValidRoleName(name) && findRole(roles, name) == nil {
			wrong = append(wrong, iam.FieldError{Pointer: fmt.Sprintf("/roles/%d", i), Detail: fmt.Sprintf("there is no role named %q", name)})
		}
	}
	if err := iam.InvalidFields(wrong); err != nil {
		return before, err
	}
	return w.mapGroup(ctx, before, names, roles, held)
}

// mapGroup replaces the roles of a group.
func (w *Work) mapGroup(ctx context.Context, before iam.SCIMGroup, names []string, roles []iam.Role, held HeldRole) (iam.SCIMGroup, error) {
	tenant := before.Tenant
	after := before
	after.Roles = sorted(names)
	if slices.Equal(sorted(before.Roles), after.Roles) {
		return before, nil
	}
	graph := iam.NewGraph(roles)
	holding := w.holding(tenant, graph)
	if err := checkHeld(holding, graph, before.Roles, "change", ""); err != nil {
		return before, err
	}
	if err := checkHeld(holding, graph, after.Roles, "map", "/roles"); err != nil {
		return before, err
	}
	added := slices.DeleteFunc(slices.Clone(after.Roles), func(r string) bool { return slices.Contains(before.Roles, r) })
	if err := w.checkLasting(tenant, graph, added, "a group", "/roles"); err != nil {
		return before, err
	}
	managed, err := w.tx.SCIMRoles(ctx, tenant)
	if err != nil {
		return before, err
	}
	taken := slices.DeleteFunc(slices.Clone(after.Roles), func(r string) bool { return slices.Contains(managed, r) })
	users, err := w.holdersOutside(ctx, before, taken, held)
	if err != nil {
		return before, err
	}
	members, err := w.tx.SCIMGroupMembers(ctx, before)
	if err != nil {
		return before, err
	}
	users = append(users, members...)
	if err := w.tx.LockMemberships(ctx, tenant, users); err != nil {
		return before, err
	}
	if err := w.tx.PutSCIMGroup(ctx, &after); err != nil {
		return before, err
	}
	err = w.grantGroupRoles(ctx, tenant, groupRoles{managed: append(managed, taken...), users: users})
	if err != nil {
		return before, err
	}
	w.emit(iam.SCIMGroupUpdatedEvent{SCIMGroupState: stateOfGroup(after)})
	return after, w.record(tenant, iam.KindSCIMGroup, after.ID, auditOfGroup(before), auditOfGroup(after))
}

// holdersOutside returns the members outside a group who hold by hand what the group takes over.
func (w *Work) holdersOutside(ctx context.Context, g iam.SCIMGroup, taken []string, held HeldRole) ([]string, error) {
	if len(taken) == 0 {
		return nil, nil
	}
	users, err := w.tx.HoldersOutside(ctx, g, taken)
	switch {
	case err != nil || len(users) == 0:
		return nil, err
	case held == RejectHeld:
		return nil, &iam.Error{
			Kind: iam.Conflict, Code: "role_held",
			Detail: fmt.Sprintf("a role of a group is held by its members alone, and %s outside it: add them to the group, revoke the role, or repeat with ?remove=true, which revokes it",
				plural(len(users), "member holds "+strings.Join(taken, " or "), "members hold "+strings.Join(taken, " or "))),
		}
	case len(users) > iam.MaxSCIMGroupMembers:
		return nil, &iam.Error{Kind: iam.Conflict, Code: "role_held", Detail: fmt.Sprintf("one request revokes a role from %d members at most", iam.MaxSCIMGroupMembers)}
	}
	return users, nil
}

// DeleteMappedGroup deletes a group that its client does not delete, such as one of a client that no longer exists.
func (w *Work) DeleteMappedGroup(ctx context.Context, tenant, id string, c Condition) error {
	roles, err := w.lockRoles(ctx, tenant)
	if err != nil {
		return err
	}
	g, err := w.findGroup(ctx, tenant, anyIssuer, id)
	if err != nil {
		return err
	}
	if err := c.check(g.Version); err != nil {
		return err
	}
	graph := iam.NewGraph(roles)
	if err := checkHeld(w.holding(tenant, graph), graph, g.Roles, "revoke", ""); err != nil {
		return err
	}
	return w.deleteGroup(ctx, g)
}

// unmapRole removes a role from all groups of a tenant, and so from their members.
func (w *Work) unmapRole(ctx context.Context, d roleDeletion) error {
	groups, err := w.tx.SCIMGroupsWith(ctx, d.role.Tenant, d.role.Name)
	if err != nil {
		return err
	}
	var users []string // of all groups, before the first of them is changed
	for _, g := range groups {
		members, err := w.tx.SCIMGroupMembers(ctx, g)
		if err != nil {
			return err
		}
		users = append(users, members...)
	}
	if err := w.tx.LockMemberships(ctx, d.role.Tenant, users); err != nil {
		return err
	}
	for _, g := range groups {
		left := slices.DeleteFunc(slices.Clone(g.Roles), func(r string) bool { return r == d.role.Name })
		if _, err := w.mapGroup(ctx, g, left, d.roles, RejectHeld); err != nil {
			return err
		}
	}
	return nil
}

func managedRole(pointer, role string) iam.FieldError {
	return iam.FieldError{Pointer: pointer, Detail: fmt.Sprintf("the role %q belongs to SCIM groups: change the members of the groups, or their mapping", role)}
}

func rowPointer(row int) string { return fmt.Sprintf("/%d", row) }
