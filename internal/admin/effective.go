package admin

import (
	"context"
	"slices"
	"time"

	"iam-service/internal/iam"
)

// Effective is what a user holds in a tenant, after inheritance, and through which roles.
type Effective struct {
	User, Tenant string
	InForce      bool
	Why          []string // why not: "user_blocked", "tenant_suspended", "membership_expired", …
	Roles        []EffectiveRole
	Permissions  []EffectivePermission
	Mappings     []iam.Mapping // of the user's issuer: roles that claims of a token would add
}

// EffectiveRole is a role that is held.
type EffectiveRole struct {
	Name     string
	Global   bool
	Assigned bool     // by the membership itself
	Through  []string // held roles that inherit it directly

	ExpiresAt time.Time // until when it is held, by whichever role; zero: no end is set
}

// EffectivePermission is a permission that is held.
type EffectivePermission struct {
	Name  string
	Roles []string // that grant it

	ExpiresAt time.Time // as of a role
}

// Effective computes what a member of a tenant holds: nothing where the membership is not active.
// A user who is no member is not found. A role that has not started, or has ended, is not held.
func (w *Work) Effective(ctx context.Context, user, tenant string) (Effective, error) {
	e := Effective{User: user, Tenant: tenant, Why: []string{}, Roles: []EffectiveRole{}, Permissions: []EffectivePermission{}}
	t, err := w.Tenant(ctx, tenant)
	if err != nil {
		return e, err
	}
	m, err := w.Member(ctx, tenant, user)
	if err != nil {
		return e, err
	}
	u, err := w.User(ctx, user)
	if err != nil {
		return e, err
	}
	roles, err := w.tx.Roles(ctx, tenant)
	if err != nil {
		return e, err
	}
	mappings, err := w.tx.Mappings(ctx, tenant)
	if err != nil {
		return e, err
	}
	e.Mappings = slices.DeleteFunc(mappings, func(x iam.Mapping) bool { return x.Issuer != m.Issuer })
	for code, is := range map[string]bool{
		"user_blocked": u.Status != iam.UserActive, "tenant_" + t.Status: t.Status != iam.TenantActive,
		"membership_suspended": m.Status == iam.MembershipSuspended, "membership_expired": m.Expired,
		"issuer_does_not_reach_tenant": !w.s.cfg.Issuers.Reaches(m.Issuer, tenant),
	} {
		if is {
			e.Why = append(e.Why, code)
		}
	}
	slices.Sort(e.Why)
	if e.InForce = len(e.Why) == 0; !e.InForce {
		return e, nil
	}
	e.Roles, e.Permissions = effective(roles, m.Membership, m.AsOf)
	return e, nil
}

// effective computes what the roles of a membership grant at a moment, by name.
func effective(roles []iam.Role, m iam.Membership, at time.Time) ([]EffectiveRole, []EffectivePermission) {
	assigned := m.RolesAt(at)
	ends := endsOf(iam.Closure(roles), m, assigned)
	held := iam.NewGraph(roles).Hold(assigned)
	out := []EffectiveRole{}
	by := map[string][]string{}
	for _, r := range roles { // sorted by name
		if !held.Roles[r.Name] {
			continue
		}
		er := EffectiveRole{Name: r.Name, Global: r.Tenant == "", Assigned: slices.Contains(assigned, r.Name), Through: []string{}, ExpiresAt: ends[r.Name]}
		for _, heir := range roles {
			if held.Roles[heir.Name] && slices.Contains(heir.Inherits, r.Name) {
				er.Through = append(er.Through, heir.Name)
			}
		}
		out = append(out, er)
		for _, p := range r.Permissions {
			by[p] = append(by[p], r.Name)
		}
	}
	permissions := []EffectivePermission{}
	for p, from := range by {
		granted := EffectivePermission{Name: p, Roles: from, ExpiresAt: ends[from[0]]}
		for _, r := range from[1:] {
			granted.ExpiresAt = later(granted.ExpiresAt, ends[r])
		}
		permissions = append(permissions, granted)
	}
	slices.SortFunc(permissions, func(a, b EffectivePermission) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return out, permissions
}

// endsOf is until when each role is held by the assigned ones that grant it: the latest counts.
func endsOf(closure map[string][]string, m iam.Membership, assigned []string) map[string]time.Time {
	ends := map[string]time.Time{}
	for _, name := range assigned {
		for _, granted := range closure[name] {
			end, known := ends[granted]
			if !known {
				end = m.EndOf(name)
			}
			ends[granted] = later(end, m.EndOf(name))
		}
	}
	return ends
}

// later returns the later of two ends; a zero one is none.
func later(a, b time.Time) time.Time {
	if endsLater(b, a) {
		return b
	}
	return a
}
