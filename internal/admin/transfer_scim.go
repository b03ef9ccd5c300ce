package admin

import (
	"context"
	"maps"
	"slices"
	"strings"

	"iam-service/internal/iam"
)

// LeftToSCIM is what an import leaves as the tenant's provisioning client says, since it has groups, and says who is active.
type LeftToSCIM struct {
	managed  []string        // roles
	inactive map[string]bool // ids of users

	roles     map[string]int // members whose line differs, by role
	suspended int            // members whose line resumes them
}

// read reads what SCIM decides of some users.
func (l *LeftToSCIM) read(ctx context.Context, w *Work, tenant string, users []string) (err error) {
	if l.managed, err = w.tx.SCIMRoles(ctx, tenant); err != nil {
		return err
	}
	inactive, err := w.tx.SCIMInactive(ctx, tenant, users)
	l.inactive, l.roles, l.suspended = idSet(inactive), map[string]int{}, 0
	return err
}

// of is a membership as it is to be, with what SCIM decides of it as it is. A nil l leaves nothing.
func (l *LeftToSCIM) of(before *iam.Member, m iam.Membership) iam.Membership {
	if l == nil {
		return m
	}
	var was iam.Membership
	if before != nil {
		was = before.Membership
	}
	for _, role := range l.managed {
		held := slices.Contains(was.Roles, role)
		_, limited := m.Terms[role]
		if held == slices.Contains(m.Roles, role) && !limited {
			continue
		}
		l.roles[role]++
		m.Terms = maps.Clone(m.Terms)
		delete(m.Terms, role)
		m.Roles = slices.DeleteFunc(slices.Clone(m.Roles), func(r string) bool { return r == role })
		if held {
			m.Roles = append(m.Roles, role)
		}
	}
	if before != nil && was.Status != m.Status && m.Status == iam.MembershipActive && l.inactive[m.User] {
		m.Status = was.Status
		l.suspended++
	}
	return m
}

// add sums up what was left of several batches.
func (l *LeftToSCIM) add(batch LeftToSCIM) {
	if l.roles == nil {
		l.roles = map[string]int{}
	}
	for role, n := range batch.roles {
		l.roles[role] += n
	}
	l.suspended += batch.suspended
}

// warning says what was left; "" where that is nothing.
func (l *LeftToSCIM) warning() string {
	var parts []string
	if len(l.roles) > 0 {
		names := make([]string, 0, len(l.roles))
		for _, role := range slices.Sorted(maps.Keys(l.roles)) {
			names = append(names, role+" ("+plural(l.roles[role], "member", "members")+")")
		}
		parts = append(parts, "roles that SCIM groups manage are left as the groups say: "+strings.Join(names, ", "))
	}
	if l.suspended > 0 {
		parts = append(parts, plural(l.suspended, "member whom the provisioning client calls inactive is", "members whom the provisioning client calls inactive are")+" left suspended")
	}
	return strings.Join(parts, "; ")
}
