package admin

import (
	"context"
	"fmt"
	"slices"
	"time"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// MaxBatch is how many members one batch may have.
const MaxBatch = 1000

// Members lists the members of a tenant by our ids of the users.
func (w *Work) Members(ctx context.Context, tenant string, f postgres.MemberFilter) ([]iam.Member, error) {
	if _, err := w.Tenant(ctx, tenant); err != nil {
		return nil, err
	}
	return w.tx.Members(ctx, tenant, f)
}

// Member returns one member of a tenant.
func (w *Work) Member(ctx context.Context, tenant, user string) (iam.Member, error) {
	if !iam.ValidTenantID(tenant) || !canonical(user) {
		return iam.Member{}, errGone
	}
	list, err := w.tx.MembersByID(ctx, tenant, []string{user})
	if err != nil {
		return iam.Member{}, err
	}
	if len(list) == 0 {
		return iam.Member{}, errGone
	}
	return list[0], nil
}

// Row is one member of a batch: who it is by issuer and subject, and what they are.
type Row struct {
	Issuer, Subject string
	Membership      iam.Membership // without Tenant, User and Version
}

// Outcome is what became of a row.
type Outcome struct {
	Member  iam.Member
	Created bool // was no member before
	Changed bool
}

// PutMembers makes or replaces members of a tenant, all of them or none: one fault for
// each wrong row, with pointers that begin with the place of the row, as in /3/roles/0.
// A user that is not known becomes known; nobody learns which it was. With fresh, who is
// a member already is a conflict.
func (w *Work) PutMembers(ctx context.Context, tenant string, rows []Row, fresh bool) ([]Outcome, error) {
	roles, err := w.rolesForMembers(ctx, tenant)
	if err != nil {
		return nil, err
	}
	if err := w.checkRows(ctx, tenant, rows); err != nil {
		return nil, err
	}
	who := make([][2]string, len(rows))
	for i, r := range rows {
		who[i] = [2]string{r.Issuer, r.Subject}
	}
	users, created, err := w.tx.EnsureUsers(ctx, who)
	if err != nil {
		return nil, err
	}
	byName := make(map[[2]string]*iam.User, len(users))
	ids := make([]string, len(users))
	for i := range users {
		u := &users[i]
		byName[[2]string{u.Issuer, u.Subject}], ids[i] = u, u.ID
		if created[u.ID] {
			if err := w.userCreated(*u); err != nil {
				return nil, err
			}
		}
	}
	members, err := w.tx.MembersByID(ctx, tenant, ids)
	if err != nil {
		return nil, err
	}
	before := make(map[string]*iam.Member, len(members))
	for i := range members {
		before[members[i].User] = &members[i]
	}
	if fresh {
		for i, name := range who {
			if before[byName[name].ID] != nil {
				return nil, &iam.Error{Kind: iam.Conflict, Code: "already_member", Detail: "the user is a member already", Fields: []iam.FieldError{{Pointer: fmt.Sprintf("/%d/subject", i), Detail: "is a member already"}}}
			}
		}
	}
	changes := make([]memberChange, len(rows))
	for i, r := range rows {
		m := r.Membership
		m.Tenant, m.User = tenant, byName[who[i]].ID
		m.ExpiresAt = m.ExpiresAt.Truncate(time.Microsecond)
		changes[i] = memberChange{before: before[m.User], after: m}
	}
	if err := w.putMembers(ctx, tenant, roles, changes); err != nil {
		return nil, err
	}
	if err := w.mayJoin(ctx, tenant, changes); err != nil {
		return nil, err
	}
	outcomes := make([]Outcome, len(rows))
	for i, c := range changes {
		m := iam.Member{Membership: c.after, Issuer: rows[i].Issuer, Subject: rows[i].Subject}
		outcomes[i] = Outcome{Member: m, Created: c.before == nil, Changed: c.changed}
	}
	return outcomes, nil
}

// mayJoin holds a tenant to its share of what all tenants use. That it counts who joins, and not
// who became known by it, tells nobody who was known before.
func (w *Work) mayJoin(ctx context.Context, tenant string, changes []memberChange) error {
	var joined int64
	for _, c := range changes {
		if c.before == nil {
			joined++
		}
	}
	if joined == 0 {
		return nil
	}
	members, joins, err := w.tx.CountJoins(ctx, tenant, joined, w.s.cfg.MaxMembers, w.everything())
	switch {
	case err != nil:
		return err
	case members > w.s.cfg.MaxMembers:
		return &iam.Error{Kind: iam.Conflict, Code: "too_many_members", Detail: fmt.Sprintf("a tenant can have %d members at most", w.s.cfg.MaxMembers)}
	case joins > w.s.cfg.JoinsPerDay && !w.everything():
		return &iam.Error{
			Kind: iam.TooManyRequests, Code: "too_many_joins",
			Detail: fmt.Sprintf("a tenant's administrators can add %d members in 24 hours at most; a platform administrator can add more", w.s.cfg.JoinsPerDay),
		}
	}
	return nil
}

// rolesForMembers locks a tenant and returns the roles that it sees.
func (w *Work) rolesForMembers(ctx context.Context, tenant string) ([]iam.Role, error) {
	if err := w.tx.LockRoles(ctx, tenant); err != nil {
		if iam.KindOf(err) == iam.NotFound {
			err = errGone
		}
		return nil, err
	}
	return w.tx.Roles(ctx, tenant)
}

// checkRows looks at all that can be said of rows before anybody is made known.
func (w *Work) checkRows(ctx context.Context, tenant string, rows []Row) error {
	var wrong []iam.FieldError
	if len(rows) > MaxBatch {
		return iam.Refuse([]iam.FieldError{{Pointer: "", Detail: fmt.Sprintf("has %d rows, at most %d are allowed", len(rows), MaxBatch)}})
	}
	seen := make(map[[2]string]int, len(rows))
	for i, r := range rows {
		at := fmt.Sprintf("/%d", i)
		m := r.Membership
		m.Tenant = tenant
		u := iam.User{Issuer: r.Issuer, Subject: r.Subject, Status: iam.UserActive}
		for _, f := range slices.Concat(u.Check(), m.Check()) {
			wrong = append(wrong, iam.FieldError{Pointer: at + f.Pointer, Detail: f.Detail})
		}
		if !w.s.cfg.Issuers.Reaches(r.Issuer, tenant) {
			wrong = append(wrong, iam.FieldError{Pointer: at + "/issuer", Detail: "is not an issuer that may speak for this tenant"})
		}
		if j, twice := seen[[2]string{r.Issuer, r.Subject}]; twice {
			wrong = append(wrong, iam.FieldError{Pointer: at + "/subject", Detail: fmt.Sprintf("the row %d has the same issuer and subject", j)})
		}
		seen[[2]string{r.Issuer, r.Subject}] = i
		more, err := w.checkAttributes(ctx, at+"/attributes", r.Membership.Attributes)
		if err != nil {
			return err
		}
		wrong = append(wrong, more...)
	}
	return iam.Refuse(wrong)
}

// PutMember replaces what a member is. Only who is a member already is found by our
// id: others are added by issuer and subject.
func (w *Work) PutMember(ctx context.Context, m iam.Membership, c Condition) (iam.Member, error) {
	return w.changeMember(ctx, m.Tenant, m.User, c, true, func(iam.Member) iam.Membership {
		m.ExpiresAt = m.ExpiresAt.Truncate(time.Microsecond)
		return m
	})
}

// SetMemberStatus suspends or resumes a membership.
func (w *Work) SetMemberStatus(ctx context.Context, tenant, user, status string, c Condition) (iam.Member, error) {
	return w.changeMember(ctx, tenant, user, c, false, func(before iam.Member) iam.Membership {
		m := before.Membership
		m.Status = status
		return m
	})
}

func (w *Work) changeMember(ctx context.Context, tenant, user string, c Condition, needed bool, change func(iam.Member) iam.Membership) (iam.Member, error) {
	roles, err := w.rolesForMembers(ctx, tenant)
	if err != nil {
		return iam.Member{}, err
	}
	before, err := w.Member(ctx, tenant, user)
	if err != nil {
		return before, err
	}
	if err := c.hold(true, before.Version, needed); err != nil {
		return before, err
	}
	after := change(before)
	wrong := after.Check()
	if !sameAttributes(after.Attributes, before.Attributes) {
		more, err := w.checkAttributes(ctx, "/attributes", after.Attributes)
		if err != nil {
			return before, err
		}
		wrong = append(wrong, more...)
	}
	if err := iam.Refuse(wrong); err != nil {
		return before, err
	}
	changes := []memberChange{{before: &before, after: after}}
	if err := w.putMembers(ctx, tenant, roles, changes); err != nil {
		return before, iam.Rebase(err, "/0", "")
	}
	return iam.Member{Membership: changes[0].after, Issuer: before.Issuer, Subject: before.Subject}, nil
}

// memberChange is a membership before and after; nil: there was none.
type memberChange struct {
	before  *iam.Member
	after   iam.Membership
	changed bool
}

// putMembers writes what has changed, if the caller holds what each was and is to be.
func (w *Work) putMembers(ctx context.Context, tenant string, roles []iam.Role, changes []memberChange) error {
	graph := iam.NewGraph(roles)
	holding := w.holding(tenant, graph)
	known := map[string]string{} // what a list of roles means beyond that; lists repeat
	beyond := func(names []string) string {
		key := fmt.Sprintf("%q", some(names))
		more, ok := known[key]
		if !ok {
			more = holding.Beyond(graph, names)
			known[key] = more
		}
		return more
	}
	var wrong []iam.FieldError
	var puts []*iam.Membership
	var places []int
	for i := range changes {
		c := &changes[i]
		c.changed = c.before == nil || !same(docOfMember(c.before.Membership), docOfMember(c.after))
		if !c.changed {
			c.after = c.before.Membership
			continue
		}
		if c.before != nil {
			if more := beyond(c.before.Roles); more != "" {
				wrong = append(wrong, iam.FieldError{Pointer: fmt.Sprintf("/%d", i), Detail: "the member holds " + more + ", which the caller does not hold"})
			}
		}
		if more := beyond(c.after.Roles); more != "" {
			wrong = append(wrong, iam.FieldError{Pointer: fmt.Sprintf("/%d/roles", i), Detail: "means " + more + ", which the caller does not hold"})
		}
		if end := w.heldUntil(tenant); !end.IsZero() && outlasts(c, end) {
			wrong = append(wrong, iam.FieldError{Pointer: fmt.Sprintf("/%d/expires_at", i), Detail: "must not be later than the caller's own, " + stamp(end)})
		}
		puts, places = append(puts, &c.after), append(places, i)
	}
	if len(wrong) > 0 {
		return &iam.Error{Kind: iam.Forbidden, Code: "more_than_held", Detail: "nobody can give or take away more than they hold", Fields: wrong}
	}
	if len(puts) == 0 {
		return nil
	}
	if err := w.tx.PutMembers(ctx, tenant, puts); err != nil {
		return moveBack(err, places)
	}
	for _, i := range places {
		if err := w.memberChanged(changes[i]); err != nil {
			return err
		}
	}
	return nil
}

// heldUntil is when what the caller holds in a tenant ends; zero: never.
func (w *Work) heldUntil(tenant string) time.Time {
	if w.user == nil || w.everything() {
		return time.Time{}
	}
	for _, m := range w.user.Memberships {
		if m.Tenant == tenant {
			return m.ExpiresAt
		}
	}
	return time.Time{}
}

// outlasts reports whether a change gives something for longer than until end.
func outlasts(c *memberChange, end time.Time) bool {
	if !c.after.ExpiresAt.IsZero() && !c.after.ExpiresAt.After(end) {
		return false
	}
	if c.before == nil {
		return true
	}
	longer := !c.before.ExpiresAt.IsZero() && (c.after.ExpiresAt.IsZero() || c.after.ExpiresAt.After(c.before.ExpiresAt))
	if longer || c.before.Status != c.after.Status && c.after.Status == iam.MembershipActive {
		return true
	}
	return slices.ContainsFunc(c.after.Roles, func(r string) bool { return !slices.Contains(c.before.Roles, r) })
}

// memberChanged records and announces one membership that was written: an event for
// each thing about it that is different.
func (w *Work) memberChanged(c memberChange) error {
	m := c.after
	state := iam.MemberState{Tenant: m.Tenant, User: m.User, Status: m.Status, Roles: some(m.Roles), ExpiresAt: stamp(m.ExpiresAt), Version: m.Version}
	var was any
	var held []string
	announce := func(what string, data any) { w.announce(iam.KindMember, m.Tenant, m.User, what, data) }
	if c.before == nil {
		announce("MemberAdded.v1", state)
	} else {
		before := c.before.Membership
		was, held = docOfMember(before), before.Roles
		switch {
		case before.Status == m.Status:
		case m.Status == iam.MembershipSuspended:
			announce("MemberSuspended.v1", state)
		default:
			announce("MemberResumed.v1", state)
		}
		if !before.ExpiresAt.Equal(m.ExpiresAt) || !sameAttributes(before.Attributes, m.Attributes) {
			announce("MemberUpdated.v1", state)
		}
	}
	added := slices.DeleteFunc(some(m.Roles), func(r string) bool { return slices.Contains(held, r) })
	removed := slices.DeleteFunc(some(held), func(r string) bool { return slices.Contains(m.Roles, r) })
	if len(added)+len(removed) > 0 {
		announce("UserRolesAssigned.v1", iam.RolesAssigned{Tenant: m.Tenant, User: m.User, Roles: some(m.Roles), Added: added, Removed: removed, Version: m.Version})
	}
	return w.record(m.Tenant, iam.KindMember, m.User, was, docOfMember(m))
}

// DeleteMember ends a membership.
func (w *Work) DeleteMember(ctx context.Context, tenant, user string, c Condition) error {
	roles, err := w.rolesForMembers(ctx, tenant)
	if err != nil {
		return err
	}
	m, err := w.Member(ctx, tenant, user)
	if err != nil {
		return err
	}
	if err := c.hold(true, m.Version, false); err != nil {
		return err
	}
	graph := iam.NewGraph(roles)
	if err := mayGive(w.holding(tenant, graph), graph, m.Roles, "take away", ""); err != nil {
		return err
	}
	if err := w.tx.DeleteMember(ctx, tenant, user); err != nil {
		return err
	}
	w.announce(iam.KindMember, tenant, user, "MemberRemoved.v1", iam.MemberGone{Tenant: tenant, User: user})
	return w.record(tenant, iam.KindMember, user, docOfMember(m.Membership), nil)
}
