package admin

import (
	"context"
	"fmt"
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
func (c *memberChange) endsInThePast(at string) []iam.FieldError {
	end := c.after.ExpiresAt
	if end.IsZero() || end.After(time.Now()) || c.before != nil && c.before.ExpiresAt.Equal(end) {
		return nil
	}
	return []iam.FieldError{{Pointer: at + "/expires_at", Detail: "must be in the future; to end a membership now, suspend or remove it"}}
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
		if end := w.heldUntil(tenant); !end.IsZero() && outlasts(c, end) {
			wrong = append(wrong, iam.FieldError{Pointer: fmt.Sprintf("/%d/expires_at", c.row), Detail: "must not be later than that of the caller, " + timestamp(end)})
		}
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

// outlasts reports whether a change grants something beyond end.
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

// memberChanged records one membership that was written, and emits an event for each
// difference.
func (w *Work) memberChanged(c memberChange) error {
	m := c.after
	state := iam.MemberState{Tenant: m.Tenant, User: m.User, Status: m.Status, Roles: sorted(m.Roles), ExpiresAt: timestamp(m.ExpiresAt), Version: m.Version}
	var was any
	var held []string
	if c.before == nil {
		w.emit(iam.MemberAddedEvent{MemberState: state})
	} else {
		before := c.before.Membership
		was, held = auditOfMember(before), before.Roles
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
	if len(added)+len(removed) > 0 {
		w.emit(iam.UserRolesAssignedEvent{RolesAssigned: iam.RolesAssigned{
			Tenant:  m.Tenant,
			User:    m.User,
			Roles:   sorted(m.Roles),
			Added:   added,
			Removed: removed,
			Version: m.Version,
		}})
	}
	return w.record(m.Tenant, iam.KindMember, m.User, was, auditOfMember(m))
}
