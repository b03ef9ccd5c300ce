package admin

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// scimChunk is how many members of a group one statement changes. It is above the 1,000 keys that one statement
// notifies, so that a large change invalidates the tenant once, and not each user.
const scimChunk = 2000

// SCIMGroupEdit is one step of a change of a group. A nil field stays as it is.
type SCIMGroupEdit struct {
	DisplayName, ExternalID *string

	Set    []string               // ids of users; not nil: they replace all members
	Add    []string               // ids of users
	Remove []string               // ids of users
	Where  func(user string) bool // the members to remove; nil: none
}

// SCIMGroups lists the groups of a tenant.
func (w *Work) SCIMGroups(ctx context.Context, q postgres.SCIMQuery) (page SCIMPage[iam.SCIMGroup], err error) {
	if q.Issuer, err = w.provisioner(q.Tenant); err != nil {
		return page, err
	}
	if page.Total, err = w.tx.CountSCIMGroups(ctx, q); err != nil || q.Limit == 0 {
		return page, err
	}
	page.Items, err = w.tx.SCIMGroups(ctx, q)
	return page, err
}

// SCIMGroup returns one group of a tenant.
func (w *Work) SCIMGroup(ctx context.Context, tenant, id string) (iam.SCIMGroup, error) {
	issuer, err := w.provisioner(tenant)
	if err != nil {
		return iam.SCIMGroup{}, err
	}
	return w.findGroup(ctx, tenant, issuer, id)
}

// anyIssuer finds a group for an administrator, whichever client has created it.
const anyIssuer = ""

func (w *Work) findGroup(ctx context.Context, tenant, issuer, id string) (iam.SCIMGroup, error) {
	if !canonical(id) || !iam.ValidTenantID(tenant) {
		return iam.SCIMGroup{}, errNotFound
	}
	g, found, err := w.tx.SCIMGroup(ctx, tenant, issuer, id)
	if err == nil && !found {
		err = errNotFound
	}
	return g, err
}

// SCIMGroupMembers lists the ids of the users of a group.
func (w *Work) SCIMGroupMembers(ctx context.Context, tenant, id string) ([]string, error) {
	issuer, err := w.provisioner(tenant)
	if err != nil {
		return nil, err
	}
	return w.tx.SCIMGroupMembers(ctx, iam.SCIMGroup{Tenant: tenant, ID: id, Issuer: issuer})
}

// CreateSCIMGroup creates a group that is mapped to no role.
func (w *Work) CreateSCIMGroup(ctx context.Context, tenant string, e SCIMGroupEdit) (iam.SCIMGroup, error) {
	issuer, err := w.provisioner(tenant)
	if err != nil {
		return iam.SCIMGroup{}, err
	}
	if _, err := w.lockRoles(ctx, tenant); err != nil {
		return iam.SCIMGroup{}, err
	}
	g := iam.SCIMGroup{Tenant: tenant, Issuer: issuer}
	e.rename(&g)
	if err := iam.InvalidFields(g.Check()); err != nil {
		return g, err
	}
	m := groupMembers{added: idSet(e.Set)}
	if err := w.tx.LockMemberships(ctx, tenant, m.users()); err != nil {
		return g, err
	}
	if err := w.tx.PutSCIMGroup(ctx, &g); err != nil {
		return g, err
	}
	if err := w.changeGroupMembers(ctx, &g, issuer, m); err != nil {
		return g, err
	}
	w.emit(iam.SCIMGroupCreatedEvent{SCIMGroupState: stateOfGroup(g)})
	return g, w.record(tenant, iam.KindSCIMGroup, g.ID, nil, auditOfGroup(g))
}

// EditSCIMGroup changes a group and its members, in one transaction.
func (w *Work) EditSCIMGroup(ctx context.Context, tenant, id string, c Condition, edits []SCIMGroupEdit) (iam.SCIMGroup, error) {
	issuer, err := w.provisioner(tenant)
	if err != nil {
		return iam.SCIMGroup{}, err
	}
	if _, err := w.lockRoles(ctx, tenant); err != nil {
		return iam.SCIMGroup{}, err
	}
	before, err := w.findGroup(ctx, tenant, issuer, id)
	if err != nil {
		return before, err
	}
	if err := c.check(before.Version); err != nil {
		return before, err
	}
	g := before
	m, err := w.planGroup(ctx, &g, edits)
	if err != nil {
		return before, err
	}
	if err := iam.InvalidFields(g.Check()); err != nil {
		return before, err
	}
	if err := w.tx.LockMemberships(ctx, tenant, m.users()); err != nil {
		return before, err
	}
	if g.DisplayName != before.DisplayName || g.ExternalID != before.ExternalID {
		if err := w.tx.PutSCIMGroup(ctx, &g); err != nil {
			return before, err
		}
	}
	if err := w.changeGroupMembers(ctx, &g, issuer, m); err != nil {
		return before, err
	}
	if g.Version == before.Version {
		return before, nil
	}
	w.emit(iam.SCIMGroupUpdatedEvent{SCIMGroupState: stateOfGroup(g)})
	return g, w.record(tenant, iam.KindSCIMGroup, id, auditOfGroup(before), auditOfGroup(g))
}

func (e SCIMGroupEdit) rename(g *iam.SCIMGroup) {
	if e.DisplayName != nil {
		g.DisplayName = *e.DisplayName
	}
	if e.ExternalID != nil {
		g.ExternalID = *e.ExternalID
	}
}

// groupMembers is a change of the members of a group: sets of ids.
type groupMembers struct{ added, removed map[string]bool }

// users are those that it concerns, without what is no id.
func (m groupMembers) users() []string {
	ids := slices.AppendSeq(slices.Collect(maps.Keys(m.added)), maps.Keys(m.removed))
	return slices.DeleteFunc(ids, func(id string) bool { return !canonical(id) })
}

func idSet(ids []string) map[string]bool {
	set := make(map[string]bool, len(ids))
	for _, id := range ids {
		set[id] = true
	}
	return set
}

// MaxSCIMWholeEdits is how many steps of one change of a group may go through all its members.
const MaxSCIMWholeEdits = 10

// ofAllMembers reports whether a step goes through all members of the group.
func (e SCIMGroupEdit) ofAllMembers() bool { return e.Set != nil || e.Where != nil }

// checkWhole limits the steps that go through all members: they are as many comparisons as the group has members, under the
// tenant's lock.
func checkWhole(edits []SCIMGroupEdit) error {
	n := 0
	for _, e := range edits {
		if e.ofAllMembers() {
			n++
		}
	}
	if n <= MaxSCIMWholeEdits {
		return nil
	}
	return iam.InvalidFields([]iam.FieldError{{Pointer: "/Operations", Detail: fmt.Sprintf(
		"has %d operations that replace all members or select them by a filter: at most %d are allowed in one PATCH; name the members to add and to remove", n, MaxSCIMWholeEdits)}})
}

// planGroup applies steps to g, and sums up what they change of its members. Members are read only where a step needs them.
func (w *Work) planGroup(ctx context.Context, g *iam.SCIMGroup, edits []SCIMGroupEdit) (groupMembers, error) {
	m := groupMembers{added: map[string]bool{}, removed: map[string]bool{}}
	if err := checkWhole(edits); err != nil {
		return m, err
	}
	var stored []string
	read := func() (err error) {
		if stored == nil && g.Members > 0 {
			stored, err = w.tx.SCIMGroupMembers(ctx, *g)
		}
		return err
	}
	remove := func(id string) { delete(m.added, id); m.removed[id] = true }
	add := func(id string) { delete(m.removed, id); m.added[id] = true }
	for _, e := range edits {
		if err := ctx.Err(); err != nil {
			return m, err
		}
		e.rename(g)
		if e.ofAllMembers() {
			if err := read(); err != nil {
				return m, err
			}
		}
		if e.Set != nil {
			m.added, m.removed = idSet(e.Set), idSet(stored)
			for id := range m.added {
				delete(m.removed, id)
			}
			for _, id := range stored {
				delete(m.added, id)
			}
		}
		if e.Where != nil {
			for i, id := range slices.AppendSeq(slices.Clone(stored), maps.Keys(m.added)) {
				if i%1024 == 0 && ctx.Err() != nil {
					return m, ctx.Err()
				}
				if e.Where(id) {
					remove(id)
				}
			}
		}
		for _, id := range e.Remove {
			remove(id)
		}
		for _, id := range e.Add {
			add(id)
		}
	}
	return m, nil
}

func keysOf(set map[string]bool) []string {
	ids := make([]string, 0, len(set))
	for id := range set {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// changeGroupMembers writes a change of the members of a group, grants and revokes the group's roles, and updates g.
func (w *Work) changeGroupMembers(ctx context.Context, g *iam.SCIMGroup, issuer string, m groupMembers) error {
	added, removed := keysOf(m.added), keysOf(m.removed)
	if len(added) > iam.MaxSCIMGroupMembers {
		return tooManyInGroup()
	}
	if i := slices.IndexFunc(added, func(id string) bool { return !canonical(id) }); i >= 0 {
		return unknownMembers(added[i : i+1])
	}
	removed = slices.DeleteFunc(removed, func(id string) bool { return !canonical(id) })
	var changed []string
	for chunk := range slices.Chunk(added, scimChunk) {
		done, unknown, err := w.tx.AddSCIMGroupMembers(ctx, *g, issuer, chunk)
		if err == nil && len(unknown) > 0 {
			err = unknownMembers(unknown)
		}
		if err != nil {
			return err
		}
		if err := w.groupMembersChanged(ctx, *g, done, nil); err != nil {
			return err
		}
		changed = append(changed, done...)
	}
	for chunk := range slices.Chunk(removed, scimChunk) {
		done, err := w.tx.RemoveSCIMGroupMembers(ctx, *g, chunk)
		if err != nil {
			return err
		}
		if err := w.groupMembersChanged(ctx, *g, nil, done); err != nil {
			return err
		}
		changed = append(changed, done...)
	}
	if len(changed) == 0 {
		return nil
	}
	if len(g.Roles) > 0 {
		managed, err := w.tx.SCIMRoles(ctx, g.Tenant)
		if err != nil {
			return err
		}
		if err := w.grantGroupRoles(ctx, g.Tenant, groupRoles{managed: managed, users: changed}); err != nil {
			return err
		}
	}
	now, err := w.findGroup(ctx, g.Tenant, g.Issuer, g.ID)
	if err == nil && now.Members > iam.MaxSCIMGroupMembers {
		err = tooManyInGroup()
	}
	*g = now
	return err
}

func tooManyInGroup() error {
	return &iam.Error{Kind: iam.Conflict, Code: "too_many_in_group", Detail: fmt.Sprintf("a group can have %d members at most", iam.MaxSCIMGroupMembers)}
}

func unknownMembers(ids []string) error {
	return iam.InvalidFields([]iam.FieldError{{Pointer: "/members", Detail: fmt.Sprintf("%s no user of this tenant: %s", plural(len(ids), "value is", "values are"), firstFew(ids))}})
}

func firstFew(ids []string) string {
	shown := ids[:min(len(ids), 3)]
	text := fmt.Sprintf("%.80q", shown)
	if len(ids) > len(shown) {
		text += " and more"
	}
	return text
}

// groupMembersChanged records who joined and left a group, so that the entries of a large change stay small.
func (w *Work) groupMembersChanged(ctx context.Context, g iam.SCIMGroup, added, removed []string) error {
	if len(added)+len(removed) == 0 {
		return nil
	}
	if err := w.record(g.Tenant, iam.KindSCIMGroup, g.ID, nil, groupMembersDoc{added, removed}); err != nil {
		return err
	}
	return w.flush(ctx)
}

// groupRoles is a change of the roles of groups.
type groupRoles struct {
	managed []string // that belonged to groups before the change, or do after it
	users   []string // whom it may concern
}

// grantGroupRoles writes into memberships what groups grant: a member holds the roles that were granted by hand, and those
// of their groups. It works in chunks, whose audit and events are written at once: its memory does not grow with the group.
func (w *Work) grantGroupRoles(ctx context.Context, tenant string, r groupRoles) error {
	slices.Sort(r.users)
	return w.requireAdministrator(ctx, tenant, func() error {
		for chunk := range slices.Chunk(slices.Compact(r.users), scimChunk) {
			if err := w.grantGroupRolesTo(ctx, tenant, r, chunk); err != nil {
				return err
			}
		}
		return nil
	})
}

func (w *Work) grantGroupRolesTo(ctx context.Context, tenant string, r groupRoles, users []string) error {
	members, err := w.tx.MembersByID(ctx, tenant, users)
	if err != nil {
		return err
	}
	groups, err := w.tx.SCIMGroupsOf(ctx, tenant, users)
	if err != nil {
		return err
	}
	changes := make([]memberChange, len(members))
	for i := range members {
		// A term goes with a role that the groups take over: theirs have none.
		m := members[i].WithRoles(slices.DeleteFunc(sorted(members[i].Roles), func(name string) bool { return slices.Contains(r.managed, name) }))
		granted := m.Roles
		for _, g := range groups[m.User] {
			granted = append(granted, g.Roles...)
		}
		m.Roles = slices.Compact(sorted(granted))
		if len(m.Roles) > iam.MaxRolesPerHolder {
			return &iam.Error{Kind: iam.Conflict, Code: "too_many_roles", Detail: fmt.Sprintf("the user %s would hold %d roles, at most %d are allowed", m.User, len(m.Roles), iam.MaxRolesPerHolder)}
		}
		changes[i] = memberChange{row: i, before: &members[i], after: m}
	}
	if err := w.writeMembers(ctx, tenant, changes); err != nil {
		return err
	}
	return w.flush(ctx)
}

// DeleteSCIMGroup deletes a group: its members lose its roles, unless another group grants them.
func (w *Work) DeleteSCIMGroup(ctx context.Context, tenant, id string, c Condition) error {
	issuer, err := w.provisioner(tenant)
	if err != nil {
		return err
	}
	if _, err := w.lockRoles(ctx, tenant); err != nil {
		return err
	}
	g, err := w.findGroup(ctx, tenant, issuer, id)
	if err != nil {
		return err
	}
	if err := c.check(g.Version); err != nil {
		return err
	}
	return w.deleteGroup(ctx, g)
}

func (w *Work) deleteGroup(ctx context.Context, g iam.SCIMGroup) error {
	managed, err := w.tx.SCIMRoles(ctx, g.Tenant)
	if err != nil {
		return err
	}
	members, err := w.tx.SCIMGroupMembers(ctx, g)
	if err != nil {
		return err
	}
	if err := w.tx.LockMemberships(ctx, g.Tenant, members); err != nil {
		return err
	}
	if err := w.tx.DeleteSCIMGroup(ctx, g.Tenant, g.ID); err != nil {
		return err
	}
	if len(g.Roles) > 0 {
		if err := w.grantGroupRoles(ctx, g.Tenant, groupRoles{managed: managed, users: members}); err != nil {
			return err
		}
	}
	w.emit(iam.SCIMGroupDeletedEvent{SCIMGroupGone: iam.SCIMGroupGone{Tenant: g.Tenant, Group: g.ID}})
	return w.record(g.Tenant, iam.KindSCIMGroup, g.ID, auditOfGroup(g), nil)
}
