package admin

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"iam-service/internal/iam"
)

// memberChange is a membership before and after; nil: there was none.
type memberChange struct {
	row     int // position in the request
	before  *iam.Member
	after   iam.Membership
	changed bool
}

// differs reports whether the membership changes.
func (c *memberChange) differs() bool {
	return c.before == nil || !sameJSON(auditOfMember(c.before.Membership), auditOfMember(c.after))
}

// endsInThePast rejects a new expiry in the past. An existing one may stay.
func (c *memberChange) endsInThePast(at string) (wrong []iam.FieldError) {
	now := time.Now()
	var before iam.Membership
	if c.before != nil {
		before = c.before.Membership
	}
	past := func(end, was time.Time) bool { return !end.IsZero() && !end.After(now) && !was.Equal(end) }
	if past(c.after.ExpiresAt, before.ExpiresAt) {
		wrong = append(wrong, iam.FieldError{Pointer: at + "/expires_at", Detail: "must be in the future; to end a membership now, suspend or remove it"})
	}
	for _, role := range slices.Sorted(maps.Keys(c.after.Terms)) {
		if past(c.after.Terms[role].ExpiresAt, before.Terms[role].ExpiresAt) {
			wrong = append(wrong, iam.FieldError{Pointer: at + "/role_terms/" + role + "/expires_at", Detail: "must be in the future; to end a role now, remove it"})
		}
	}
	return wrong
}

// beyondCaller reports all changes that grant or revoke more than the caller holds.
func (w *Work) beyondCaller(tenant string, graph iam.Graph, changes []memberChange) []iam.FieldError {
	holding := w.holding(tenant, graph)
	known := map[string]string{} // what a list of roles grants beyond that; lists repeat
	beyond := func(names []string) string {
		key := fmt.Sprintf("%q", sorted(names))
		more, ok := known[key]
		if !ok {
			more = holding.Beyond(graph, names)
			known[key] = more
		}
		return more
	}
	var wrong []iam.FieldError
	for i := range changes {
		c := &changes[i]
		if !c.differs() {
			continue
		}
		if c.before != nil {
			if more := beyond(c.before.Roles); more != "" {
				wrong = append(wrong, iam.FieldError{Pointer: fmt.Sprintf("/%d", c.row), Detail: "the member holds " + more + ", which the caller does not hold"})
			}
		}
		if more := beyond(c.after.Roles); more != "" {
			wrong = append(wrong, iam.FieldError{Pointer: fmt.Sprintf("/%d/roles", c.row), Detail: "grants " + more + ", which the caller does not hold"})
		}
		if end := w.memberUntil(tenant); !end.IsZero() && c.prolongs() && (c.after.ExpiresAt.IsZero() || c.after.ExpiresAt.After(end)) {
			wrong = append(wrong, iam.FieldError{Pointer: fmt.Sprintf("/%d/expires_at", c.row), Detail: "must not be later than that of the caller, " + timestamp(end)})
			continue // which limits the roles too
		}
		wrong = append(wrong, w.outlasting(tenant, graph, c)...)
	}
	return wrong
}

// outlasting reports the roles that a change grants for longer than the caller holds what they grant.
func (w *Work) outlasting(tenant string, graph iam.Graph, c *memberChange) (wrong []iam.FieldError) {
	if w.user == nil {
		return nil // what a program or an operator holds has no end
	}
	present := w.holding(tenant, graph)
	for i, role := range c.after.Roles {
		end := c.after.EndOf(role)
		if !c.extends(role) || w.holdingUntil(tenant, graph, until(end)).Beyond(graph, []string{role}) == "" ||
			present.Beyond(graph, []string{role}) != "" { // which is reported already
			continue
		}
		held := timestamp(w.rolesHeldUntil(tenant, graph, role))
		f := iam.FieldError{Pointer: fmt.Sprintf("/%d/role_terms/%s/expires_at", c.row, role), Detail: "must not be later than " + held + ", until when the caller holds what the role grants"}
		if !c.after.Terms[role].ExpiresAt.Equal(end) || end.IsZero() { // it has no end of its own
			f = iam.FieldError{
				Pointer: fmt.Sprintf("/%d/roles/%d", c.row, i),
				Detail:  fmt.Sprintf("the caller holds what %q grants until %s only: give it an expires_at in role_terms that is not later", role, held),
			}
		}
		wrong = append(wrong, f)
	}
	return wrong
}

// putMembers writes what has changed, if the caller holds what each grants before and after, and
// the tenant still has an administrator.
func (w *Work) putMembers(ctx context.Context, tenant string, roles []iam.Role, changes []memberChange) error {
	graph := iam.NewGraph(roles)
	if wrong := w.beyondCaller(tenant, graph, changes); len(wrong) > 0 {
		return &iam.Error{Kind: iam.Forbidden, Code: "more_than_held", Detail: "a caller can grant and revoke only what they hold", Fields: wrong}
	}
	if err := w.checkNotManaged(ctx, tenant, changes); err != nil {
		return err
	}
	if err := w.checkNotInactive(ctx, tenant, changes); err != nil {
		return err
	}
	return w.writeMembers(ctx, tenant, changes)
}

// writeMembers writes what has changed, if the tenant still has an administrator.
func (w *Work) writeMembers(ctx context.Context, tenant string, changes []memberChange) error {
	var puts []*iam.Membership
	var places []int // in changes
	var rows []int
	for i := range changes {
		c := &changes[i]
		if c.changed = c.differs(); !c.changed {
			c.after = c.before.Membership
			continue
		}
		puts, places, rows = append(puts, &c.after), append(places, i), append(rows, c.row)
	}
	if len(puts) == 0 {
		return nil
	}
	return w.requireAdministrator(ctx, tenant, func() error {
		settled, err := w.tx.PutMembers(ctx, tenant, puts)
		if err != nil {
			return restorePositions(err, rows)
		}
		for _, i := range places {
			if err := w.memberChanged(changes[i]); err != nil {
				return err
			}
		}
		return w.defaultTenantsChanged(settled, "")
	})
}

// prolongs reports whether the membership, or a role of it, is granted, is granted again, or ends later than before.
func (c *memberChange) prolongs() bool {
	return c.before == nil || c.resumes() || endsLater(c.after.ExpiresAt, c.before.ExpiresAt) || slices.ContainsFunc(c.after.Roles, c.extends)
}

func (c *memberChange) resumes() bool {
	return c.before.Status != c.after.Status && c.after.Status == iam.MembershipActive
}

// extends reports whether a role is granted that was not, is granted again, ends later than before, or starts earlier.
func (c *memberChange) extends(role string) bool {
	if c.before == nil || c.resumes() || !slices.Contains(c.before.Roles, role) {
		return true
	}
	return endsLater(c.after.EndOf(role), c.before.EndOf(role)) || c.after.Terms[role].StartsAt.Before(c.before.Terms[role].StartsAt)
}

// endsLater compares two ends; a zero one is none.
func endsLater(end, than time.Time) bool {
	return !than.IsZero() && (end.IsZero() || end.After(than))
}

// memberChanged records one membership that was written, and emits an event for each
// difference.
func (w *Work) memberChanged(c memberChange) error {
	m := c.after
	state := iam.MemberState{
		Tenant: m.Tenant, User: m.User, Status: m.Status, Roles: sorted(m.Roles), RoleTerms: termsOfEvent(m),
		ExpiresAt: timestamp(m.ExpiresAt), Version: m.Version,
	}
	var was any
	var held []string
	var terms map[string]iam.RoleTerm // before
	if c.before == nil {
		w.emit(iam.MemberAddedEvent{MemberState: state})
	} else {
		before := c.before.Membership
		was, held, terms = auditOfMember(before), before.Roles, before.Tidy().Terms
		switch {
		case before.Status == m.Status:
		case m.Status == iam.MembershipSuspended:
			w.emit(iam.MemberSuspendedEvent{MemberState: state})
		default:
			w.emit(iam.MemberResumedEvent{MemberState: state})
		}
		if !before.ExpiresAt.Equal(m.ExpiresAt) || !sameAttributes(before.Attributes, m.Attributes) {
			w.emit(iam.MemberUpdatedEvent{MemberState: state})
		}
	}
	added := slices.DeleteFunc(sorted(m.Roles), func(r string) bool { return slices.Contains(held, r) })
	removed := slices.DeleteFunc(sorted(held), func(r string) bool { return slices.Contains(m.Roles, r) })
	if len(added)+len(removed) > 0 || !sameJSON(terms, m.Tidy().Terms) {
		w.emit(iam.UserRolesAssignedEvent{RolesAssigned: iam.RolesAssigned{
			Tenant:  m.Tenant,
			User:    m.User,
			Roles:   sorted(m.Roles),
			Added:   added,
			Removed: removed,
			Version: m.Version,

			RoleTerms: termsOfEvent(m),
		}})
	}
	return w.record(m.Tenant, iam.KindMember, m.User, was, auditOfMember(m))
}

// termsOfEvent are the terms of a membership's roles without their reasons, which stay in the audit.
func termsOfEvent(m iam.Membership) map[string]iam.RoleLimits {
	if len(m.Terms) == 0 {
		return nil
	}
	limits := make(map[string]iam.RoleLimits, len(m.Terms))
	for role, t := range m.Terms {
		limits[role] = iam.RoleLimits{StartsAt: timestamp(t.StartsAt), ExpiresAt: timestamp(t.ExpiresAt)}
	}
	return limits
}
