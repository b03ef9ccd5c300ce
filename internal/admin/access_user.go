package admin

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// UserAccess is what a user holds in one tenant, and by which paths.
type UserAccess struct {
	Tenant       string
	TenantStatus string
	Status       string // of the membership, as it is stored
	InForce      bool   // if not, nothing is held
	Why          []string
	ExpiresAt    time.Time // of the membership; zero: never
	Roles        []Held
	Permissions  []Held
	AsOf         time.Time
}

// Held is a role or a permission that is held.
type Held struct {
	Name  string
	Paths []iam.Path
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func heldBy(paths map[string][]iam.Path) []Held {
	held := make([]Held, 0, len(paths))
	for _, name := range sortedKeys(paths) {
		held = append(held, Held{name, paths[name]})
	}
	return held
}

// of computes what a membership grants at the moment of the facts.
func (f *accessFacts) of(h postgres.Holder) UserAccess {
	a := UserAccess{
		Tenant: f.tenant.ID, TenantStatus: f.tenant.Status, Status: h.Status, Why: f.why(h), ExpiresAt: h.ExpiresAt,
		Roles: []Held{}, Permissions: []Held{}, AsOf: f.asOf,
	}
	if a.InForce = len(a.Why) == 0; a.InForce {
		reached := f.graph.Reach(h.RolesAt(f.asOf), h.EndOf)
		a.Roles, a.Permissions = heldBy(reached.Roles), heldBy(reached.Permissions)
	}
	return a
}

// MemberAccess is what a member of a tenant holds there, at a moment; zero: now. Who was no member then is not found.
func (w *Work) MemberAccess(ctx context.Context, tenant, user string, at time.Time) (UserAccess, error) {
	if !canonical(user) {
		return UserAccess{}, errNotFound
	}
	f, err := w.accessFacts(ctx, tenant, at)
	if err != nil {
		return UserAccess{}, err
	}
	holders, err := f.holders(ctx, []string{user})
	if err == nil && len(holders) == 0 {
		err = errNotFound
	}
	if err != nil {
		return UserAccess{}, err
	}
	return f.of(holders[0]), nil
}

// UserAccess lists what a user holds in each tenant, by tenant, after one: one more than limit if there are more.
func (w *Work) UserAccess(ctx context.Context, user string, at time.Time, after string, limit int) ([]UserAccess, error) {
	tenants, err := w.tenantsOf(ctx, user, at)
	if err != nil {
		return nil, err
	}
	var list []UserAccess
	for _, tenant := range tenants {
		if cmp.Compare(tenant, after) <= 0 {
			continue
		}
		a, err := w.MemberAccess(ctx, tenant, user, at)
		switch {
		case iam.KindOf(err) == iam.NotFound: // at that moment
			continue
		case err != nil:
			return nil, err
		}
		if list = append(list, a); len(list) == limit {
			break
		}
	}
	return list, nil
}

// tenantsOf are the tenants that a user may have been a member of at a moment, by id.
func (w *Work) tenantsOf(ctx context.Context, user string, at time.Time) ([]string, error) {
	if !canonical(user) {
		return nil, errNotFound
	}
	memberships, err := w.MembershipsOf(ctx, user)
	if err != nil && (at.IsZero() || iam.KindOf(err) != iam.NotFound) {
		return nil, err
	}
	tenants := make([]string, len(memberships))
	for i, m := range memberships {
		tenants[i] = m.Tenant
	}
	if at.IsZero() {
		return tenants, nil
	}
	if err := w.checkMoment(ctx, "at", at); err != nil {
		return nil, err
	}
	chains, checked := w.tx.ChainsOf(ctx, iam.KindMember, user)
	if checked == nil && err != nil && len(chains) == 0 { // neither is there now nor was in a tenant
		checked = err
	}
	tenants = append(tenants, chains...)
	slices.Sort(tenants)
	return slices.Compact(tenants), checked
}

// EachUserAccess calls each with what a user holds in each tenant, by tenant.
func (w *Work) EachUserAccess(ctx context.Context, user string, at time.Time, each func(UserAccess) error) error {
	for after := ""; ; {
		list, err := w.UserAccess(ctx, user, at, after, holdersRead)
		if err != nil {
			return err
		}
		for _, a := range list {
			if err := each(a); err != nil {
				return err
			}
			after = a.Tenant
		}
		if len(list) < holdersRead {
			return nil
		}
	}
}

// MemberAccess is what a member holds, with issuer and subject; they are empty for a user who was erased.
type MemberAccess struct {
	User, Issuer, Subject string
	UserAccess
}

// EachMemberAccess calls each with what every member of a tenant holds, by user id.
func (w *Work) EachMemberAccess(ctx context.Context, tenant string, at time.Time, each func(MemberAccess) error) error {
	f, err := w.accessFacts(ctx, tenant, at)
	if err != nil {
		return err
	}
	for after := ""; ; {
		ids, err := f.candidates(ctx, nil, after, exportPage)
		if err != nil {
			return err
		}
		holders, err := f.holders(ctx, ids)
		if err != nil {
			return err
		}
		for _, h := range holders {
			if err := each(MemberAccess{h.User, h.Issuer, h.Subject, f.of(h)}); err != nil {
				return err
			}
		}
		if len(ids) < exportPage {
			return nil
		}
		after = ids[len(ids)-1]
	}
}
