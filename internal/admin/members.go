package admin

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// MaxBatch is the largest number of members in a batch.
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
		return iam.Member{}, errNotFound
	}
	list, err := w.tx.MembersByID(ctx, tenant, []string{user})
	if err != nil {
		return iam.Member{}, err
	}
	if len(list) == 0 {
		return iam.Member{}, errNotFound
	}
	return list[0], nil
}

// Row is one member of a batch: issuer, subject and membership.
type Row struct {
	Issuer, Subject string
	Membership      iam.Membership // without Tenant, User and Version
	Invalid         bool           // it could not be decoded; the caller has the errors
	Restored        bool           // from an export: its expiry may be in the past
}

// Batch is the rows of one call of PutMembers.
type Batch struct {
	Rows     []Row
	Existing Existing
	Invalid  []iam.FieldError // the errors of rows that are Invalid
	Left     *LeftToSCIM      // not nil: what SCIM decides of the rows stays, and is counted here; nil: it is a conflict
}

// Existing is what a row does for a user who is a member already.
type Existing int

// The values of Existing.
const (
	ReplaceExisting Existing = iota
	RejectExisting           // it is a conflict
)

// Effect is what a write changed.
type Effect string

// The values of Effect. They are part of the API.
const (
	Added     Effect = "added" // it did not exist before
	Replaced  Effect = "replaced"
	Unchanged Effect = "unchanged"
)

// effect of a write on what existed before or not, and differs from it or not.
func effect(existed, differs bool) Effect {
	switch {
	case !existed:
		return Added
	case differs:
		return Replaced
	}
	return Unchanged
}

// Outcome is the result of a row.
type Outcome struct {
	Member iam.Member
	Effect Effect
}

// PutMembers creates or replaces members of a tenant, all or none: it reports an error for every
// invalid row, with pointers that begin with the position of the row, as in /3/roles/0. An unknown
// user is created, which the result does not reveal.
func (w *Work) PutMembers(ctx context.Context, tenant string, b Batch) ([]Outcome, error) {
	rows, wrong := b.Rows, b.Invalid
	roles, err := w.lockRoles(ctx, tenant)
	if err != nil {
		return nil, err
	}
	if len(rows) > MaxBatch {
		return nil, iam.InvalidFields([]iam.FieldError{{Pointer: "", Detail: fmt.Sprintf("has %d rows, at most %d are allowed", len(rows), MaxBatch)}})
	}
	who, more, err := w.checkRows(ctx, tenant, rows, roles)
	if err != nil {
		return nil, err
	}
	wrong = append(wrong, more...)
	// Of rows with a valid user only: where another row is invalid, the transaction is rolled back.
	users, created, err := w.tx.EnsureUsers(ctx, slices.Collect(maps.Values(who)), tenant)
	if err != nil {
		return nil, err
	}
	byName := make(map[postgres.Identity]*iam.User, len(users))
	ids := make([]string, len(users))
	for i := range users {
		u := &users[i]
		byName[postgres.Identity{Issuer: u.Issuer, Name: u.Subject}], ids[i] = u, u.ID
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
	if b.Left != nil {
		if err := b.Left.read(ctx, w, tenant, ids); err != nil {
			return nil, err
		}
	}
	changes := make([]memberChange, 0, len(who))
	for i, r := range rows {
		name, valid := who[i]
		if !valid {
			continue
		}
		m := r.Membership
		m.Tenant, m.User = tenant, byName[name].ID
		m = b.Left.of(before[m.User], m).Tidy()
		c := memberChange{row: i, before: before[m.User], after: m}
		if b.Existing == RejectExisting && c.before != nil {
			return nil, &iam.Error{Kind: iam.Conflict, Code: "already_member", Detail: "the user is a member already", Fields: []iam.FieldError{{Pointer: fmt.Sprintf("/%d/subject", i), Detail: "is a member already"}}}
		}
		if !r.Restored {
			wrong = append(wrong, c.endsInThePast(fmt.Sprintf("/%d", i))...)
		}
		changes = append(changes, c)
	}
	if len(wrong) > 0 {
		wrong = append(wrong, w.beyondCaller(tenant, iam.NewGraph(roles), changes)...)
		return nil, iam.InvalidFields(byRow(wrong))
	}
	if err := w.putMembers(ctx, tenant, roles, changes); err != nil {
		return nil, err
	}
	if err := w.checkMemberLimits(ctx, tenant, changes); err != nil {
		return nil, err
	}
	outcomes := make([]Outcome, len(rows))
	for i, c := range changes {
		m := iam.Member{Membership: c.after, Issuer: rows[i].Issuer, Subject: rows[i].Subject}
		outcomes[i] = Outcome{Member: m, Effect: effect(c.before != nil, c.changed)}
	}
	return outcomes, nil
}

// checkMemberLimits limits a tenant's share of what all tenants use. It counts memberships and not
// new users: the result must not reveal which users existed before.
func (w *Work) checkMemberLimits(ctx context.Context, tenant string, changes []memberChange) error {
	var joined int64
	for _, c := range changes {
		if c.before == nil {
			joined++
		}
	}
	if joined == 0 {
		return nil
	}
	j := postgres.Joins{Tenant: tenant, Users: joined, Daily: joined, MaxMembers: w.s.cfg.MaxMembers}
	if w.holdsEverything() {
		j.Daily = 0 // the daily limit binds the tenant's own administrators only
	}
	usage, err := w.tx.CountJoins(ctx, j)
	switch {
	case err != nil:
		return err
	case usage.Members > w.s.cfg.MaxMembers:
		return &iam.Error{Kind: iam.Conflict, Code: "too_many_members", Detail: fmt.Sprintf("a tenant can have %d members at most", w.s.cfg.MaxMembers)}
	case usage.Joins > w.s.cfg.JoinsPerDay && !w.holdsEverything():
		return &iam.Error{
			Kind: iam.TooManyRequests, Code: "too_many_joins",
			Detail: fmt.Sprintf("a tenant's administrators can add %d members in 24 hours at most; a platform administrator can add more", w.s.cfg.JoinsPerDay),
		}
	}
	return nil
}

// lockRoles locks a tenant and returns the roles that it sees.
func (w *Work) lockRoles(ctx context.Context, tenant string) ([]iam.Role, error) {
	if err := w.tx.LockRoles(ctx, tenant); err != nil {
		if iam.KindOf(err) == iam.NotFound {
			err = errNotFound
		}
		return nil, err
	}
	return w.tx.Roles(ctx, tenant)
}

// byRow sorts errors of a batch by the position of their row.
func byRow(wrong []iam.FieldError) []iam.FieldError {
	row := func(f iam.FieldError) int {
		first, _, _ := strings.Cut(strings.TrimPrefix(f.Pointer, "/"), "/")
		n, err := strconv.Atoi(first)
		if err != nil {
			return -1 // of the whole batch
		}
		return n
	}
	slices.SortStableFunc(wrong, func(a, b iam.FieldError) int { return cmp.Compare(row(a), row(b)) })
	return wrong
}

// checkRows validates what does not depend on the user of a row. It returns the users of rows
// with a valid one, by the position of the row.
func (w *Work) checkRows(ctx context.Context, tenant string, rows []Row, roles []iam.Role) (who map[int]postgres.Identity, wrong []iam.FieldError, err error) {
	who = make(map[int]postgres.Identity, len(rows))
	known := make(map[string]bool, len(roles))
	for _, r := range roles {
		known[r.Name] = true
	}
	seen := make(map[postgres.Identity]int, len(rows))
	for i, r := range rows {
		if r.Invalid {
			continue
		}
		at := fmt.Sprintf("/%d", i)
		m := r.Membership
		m.Tenant = tenant
		u := iam.User{Issuer: r.Issuer, Subject: r.Subject, Status: iam.UserActive}
		unnamed := u.Check()
		if !w.s.cfg.Issuers.Reaches(r.Issuer, tenant) {
			unnamed = append(unnamed, iam.FieldError{Pointer: "/issuer", Detail: "is not an issuer that is trusted for this tenant"})
		}
		name := postgres.Identity{Issuer: r.Issuer, Name: r.Subject}
		if j, twice := seen[name]; twice {
			unnamed = append(unnamed, iam.FieldError{Pointer: "/subject", Detail: fmt.Sprintf("the row %d has the same issuer and subject", j)})
		}
		seen[name] = i
		invalid := m.Check()
		for _, f := range slices.Concat(unnamed, invalid) {
			wrong = append(wrong, iam.FieldError{Pointer: at + f.Pointer, Detail: f.Detail})
		}
		if len(unnamed)+len(invalid) == 0 {
			who[i] = name
		}
		for j, role := range m.Roles {
			if iam.ValidRoleName(role) && !known[role] {
				wrong = append(wrong, iam.FieldError{Pointer: fmt.Sprintf("%s/roles/%d", at, j), Detail: fmt.Sprintf("there is no role named %q", role)})
			}
		}
		more, err := w.checkAttributes(ctx, at+"/attributes", r.Membership.Attributes)
		if err != nil {
			return nil, nil, err
		}
		wrong = append(wrong, more...)
	}
	return who, wrong, nil
}

// PutMember replaces a membership. Only an existing member is found by our id: others are added
// by issuer and subject.
func (w *Work) PutMember(ctx context.Context, m iam.Membership, c Condition) (iam.Member, error) {
	return w.changeMember(ctx, m.Tenant, m.User, c.mandatory(), func(iam.Membership) (iam.Membership, error) { return m, nil })
}

// EditMember changes a part of a membership: edit gets the current one.
func (w *Work) EditMember(ctx context.Context, tenant, user string, c Condition, edit func(iam.Membership) (iam.Membership, error)) (iam.Member, error) {
	return w.changeMember(ctx, tenant, user, c, edit)
}

func (w *Work) changeMember(ctx context.Context, tenant, user string, c Condition, change func(iam.Membership) (iam.Membership, error)) (iam.Member, error) {
	roles, err := w.lockRoles(ctx, tenant)
	if err != nil {
		return iam.Member{}, err
	}
	before, err := w.Member(ctx, tenant, user)
	if err != nil {
		return before, err
	}
	if err := c.check(before.Version); err != nil {
		return before, err
	}
	after, err := change(before.Membership)
	if err != nil {
		return before, err
	}
	after = after.Tidy()
	changes := []memberChange{{before: &before, after: after}}
	wrong := append(after.Check(), changes[0].endsInThePast("")...)
	if !sameAttributes(after.Attributes, before.Attributes) {
		more, err := w.checkAttributes(ctx, "/attributes", after.Attributes)
		if err != nil {
			return before, err
		}
		wrong = append(wrong, more...)
	}
	if err := iam.InvalidFields(wrong); err != nil {
		return before, err
	}
	if err := w.putMembers(ctx, tenant, roles, changes); err != nil {
		return before, iam.Rebase(err, "/0", "")
	}
	return iam.Member{Membership: changes[0].after, Issuer: before.Issuer, Subject: before.Subject}, nil
}

// DeleteMember removes a member.
func (w *Work) DeleteMember(ctx context.Context, tenant, user string, c Condition) error {
	roles, err := w.lockRoles(ctx, tenant)
	if err != nil {
		return err
	}
	m, err := w.Member(ctx, tenant, user)
	if err != nil {
		return err
	}
	if err := c.check(m.Version); err != nil {
		return err
	}
	graph := iam.NewGraph(roles)
	if err := checkHeld(w.holding(tenant, graph), graph, m.Roles, "revoke", ""); err != nil {
		return err
	}
	return w.removeMember(ctx, m)
}

// removeMember removes a member whose removal is authorized, and who is not the last administrator.
func (w *Work) removeMember(ctx context.Context, m iam.Member) error {
	return w.requireAdministrator(ctx, m.Tenant, func() error {
		cleared, err := w.tx.DeleteMember(ctx, m.Tenant, m.User)
		if err != nil {
			return err
		}
		w.emit(iam.MemberRemovedEvent{MemberGone: iam.MemberGone{Tenant: m.Tenant, User: m.User}})
		if err := w.record(m.Tenant, iam.KindMember, m.User, auditOfMember(m.Membership), nil); err != nil {
			return err
		}
		return w.defaultTenantsChanged(cleared, m.Tenant)
	})
}

// defaultTenantsChanged records users whose default tenant was changed by a membership, and
// emits their events; was is the one before.
func (w *Work) defaultTenantsChanged(users []iam.User, was string) error {
	for _, after := range users {
		before := after
		before.DefaultTenant = was
		w.userChanged(before, after)
		if err := w.record("", iam.KindUser, after.ID, auditOfUser(before), auditOfUser(after)); err != nil {
			return err
		}
	}
	return nil
}
