package admin_test

import (
	"context"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"iam-service/internal/admin"
	"iam-service/internal/dev/pgtest"
	"iam-service/internal/iam"
)

// model is what the tables must say, in the plainest way.
type model struct {
	roles   map[string]map[string]iam.Role // tenant, "" for global ones → name
	members map[string]map[string][]string // tenant → user → roles
	blocked map[string]bool
	closed  map[string]bool // tenants
	asleep  map[[2]string]bool
}

// sees are the roles of a tenant and the global ones.
func (m *model) sees(tenant string) map[string]iam.Role {
	all := maps.Clone(m.roles[""])
	maps.Copy(all, m.roles[tenant])
	return all
}

// held is reachability, by walking until nothing new is found.
func (m *model) held(tenant, user string) (roles, permissions []string) {
	if m.blocked[user] || m.closed[tenant] || m.asleep[[2]string{tenant, user}] {
		return nil, nil
	}
	sees := m.sees(tenant)
	found, rights := map[string]bool{}, map[string]bool{}
	for _, r := range m.members[tenant][user] {
		found[r] = true
	}
	for again := true; again; {
		again = false
		for name := range found {
			for _, p := range sees[name].Permissions {
				rights[p] = true
			}
			for _, p := range sees[name].Inherits {
				if !found[p] {
					found[p], again = true, true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(found)), slices.Sorted(maps.Keys(rights))
}

// reaches reports whether one gets from a role to another by inheritance.
func (m *model) reaches(tenant, from, to string) bool {
	sees := m.sees(tenant)
	seen := map[string]bool{}
	var walk func(string) bool
	walk = func(at string) bool {
		for _, p := range sees[at].Inherits {
			if p == to || !seen[p] && walk(p) {
				return true
			}
			seen[p] = true
		}
		return false
	}
	return walk(from)
}

// After any sequence of changes, what is effective equals what the model says, and no
// role inherits itself.
func TestWhatIsEffectiveEqualsAPlainModel(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	rapid.Check(t, func(rt *rapid.T) {
		o.sql(`TRUNCATE tenants, users, memberships, signal_accounts, mappings, clients, registrations, roles, services, manifests, attribute_schemas, audit, audit_heads, retired_tenants, outbox CASCADE`)
		tenants, names, users := []string{"acme", "globex"}, []string{"a", "b", "c", "d"}, []string{"u0", "u1", "u2"}
		global := []string{"g", "h"}
		ids := map[string]string{}
		m := &model{map[string]map[string]iam.Role{"": {}, "acme": {}, "globex": {}}, map[string]map[string][]string{"acme": {}, "globex": {}}, map[string]bool{}, map[string]bool{}, map[[2]string]bool{}}
		for _, id := range tenants {
			o.tenant(id)
		}
		for _, u := range users {
			id, err := o.db.PutUser(ctx, iam.User{Issuer: pgtest.Issuer, Subject: u, Status: iam.UserActive})
			o.ok(err)
			ids[u] = id
		}
		some := func(of []string, label string) []string {
			if len(of) == 0 {
				return nil
			}
			return rapid.SliceOfNDistinct(rapid.SampledFrom(of), 0, 3, rapid.ID).Draw(rt, label)
		}
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			tenant := rapid.SampledFrom(tenants).Draw(rt, "tenant")
			user := rapid.SampledFrom(users).Draw(rt, "user")
			switch rapid.SampledFrom([]string{"role", "role", "global", "delete", "member", "member", "leave", "sleep", "block", "close"}).Draw(rt, "what") {
			case "role", "global":
				owner, own := tenant, names
				can := slices.Concat(names, global)
				if rapid.Bool().Draw(rt, "global") {
					owner, own, can = "", global, global
				}
				r := iam.Role{
					Tenant: owner, Name: rapid.SampledFrom(own).Draw(rt, "role"), Inherits: some(can, "inherits"),
					Permissions: some([]string{"p:1", "p:2", "p:3"}, "permissions"),
				}
				err := o.do(owner, func(ctx context.Context, w *admin.Work) error {
					c := admin.Condition{Absent: true}
					if _, there := m.roles[owner][r.Name]; there {
						c = admin.Condition{Present: true}
					}
					_, _, err := w.PutRole(ctx, r, c)
					return err
				})
				// It is valid if all it inherits is there, and no cycle comes of it.
				valid := true
				after := *m
				after.roles = map[string]map[string]iam.Role{}
				for k, v := range m.roles {
					after.roles[k] = maps.Clone(v)
				}
				after.roles[owner][r.Name] = r
				for _, p := range r.Inherits {
					_, there := m.sees(owner)[p]
					valid = valid && (there || p == r.Name)
				}
				valid = valid && !after.reaches(owner, r.Name, r.Name)
				if valid != (err == nil) {
					rt.Fatalf("put %+v: %v, valid is %v", r, err, valid)
				}
				if err == nil {
					m.roles = after.roles
				}
			case "delete":
				name := rapid.SampledFrom(names).Draw(rt, "role")
				err := o.do(tenant, func(ctx context.Context, w *admin.Work) error {
					return w.DeleteRole(ctx, tenant, name, admin.RevokeHeld, admin.Condition{})
				})
				if _, there := m.roles[tenant][name]; there != (err == nil) {
					rt.Fatalf("delete %s: %v", name, err)
				}
				delete(m.roles[tenant], name)
				without := func(list []string) []string {
					return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s == name })
				}
				for u, held := range m.members[tenant] {
					m.members[tenant][u] = without(held)
				}
				for n, r := range m.roles[tenant] {
					r.Inherits = without(r.Inherits)
					m.roles[tenant][n] = r
				}
			case "member":
				held := some(slices.Sorted(maps.Keys(m.sees(tenant))), "held")
				o.ok(o.do(tenant, func(ctx context.Context, w *admin.Work) error {
					_, err := w.PutMembers(ctx, tenant, admin.Batch{Rows: []admin.Row{{Issuer: pgtest.Issuer, Subject: user, Membership: iam.Membership{Status: iam.MembershipActive, Roles: held}}}})
					return err
				}))
				m.members[tenant][user] = held
				delete(m.asleep, [2]string{tenant, user})
			case "leave":
				err := o.do(tenant, func(ctx context.Context, w *admin.Work) error {
					return w.DeleteMember(ctx, tenant, ids[user], admin.Condition{})
				})
				if _, there := m.members[tenant][user]; there != (err == nil) {
					rt.Fatalf("leave: %v", err)
				}
				delete(m.members[tenant], user)
				delete(m.asleep, [2]string{tenant, user})
			case "sleep":
				_, there := m.members[tenant][user]
				err := o.do(tenant, func(ctx context.Context, w *admin.Work) error {
					_, err := w.EditMember(ctx, tenant, ids[user], admin.Condition{}, memberStatus(iam.MembershipSuspended))
					return err
				})
				if there != (err == nil) {
					rt.Fatalf("suspend: %v", err)
				}
				if there {
					m.asleep[[2]string{tenant, user}] = true
				}
			case "block":
				status := map[bool]string{false: iam.UserBlocked, true: iam.UserActive}[m.blocked[user]]
				o.ok(o.do("", func(ctx context.Context, w *admin.Work) error {
					_, err := w.EditUser(ctx, ids[user], admin.Condition{}, userStatus(status))
					return err
				}))
				m.blocked[user] = !m.blocked[user]
			case "close":
				status := map[bool]string{false: iam.TenantSuspended, true: iam.TenantActive}[m.closed[tenant]]
				o.ok(o.do(tenant, func(ctx context.Context, w *admin.Work) error {
					_, err := w.SetTenantStatus(ctx, tenant, status, admin.Condition{})
					return err
				}))
				m.closed[tenant] = !m.closed[tenant]
			}
		}
		for _, tenant := range tenants {
			for name := range m.sees(tenant) {
				if m.reaches(tenant, name, name) {
					rt.Fatalf("%s inherits itself in %s", name, tenant)
				}
			}
			for _, user := range users {
				var e admin.Effective
				err := o.s.Do(ctx, operator, admin.Task{Tenant: tenant}, func(ctx context.Context, w *admin.Work) (err error) {
					e, err = w.Effective(ctx, ids[user], tenant)
					return err
				})
				if _, member := m.members[tenant][user]; member != (err == nil) {
					rt.Fatalf("%s in %s: %v", user, tenant, err)
				}
				var roles, permissions []string
				for _, r := range e.Roles {
					roles = append(roles, r.Name)
					from := r.Assigned || len(r.Through) > 0
					if !from || r.Assigned != slices.Contains(m.members[tenant][user], r.Name) {
						rt.Fatalf("where %+v comes from", r)
					}
					for _, heir := range r.Through {
						if !slices.Contains(m.sees(tenant)[heir].Inherits, r.Name) {
							rt.Fatalf("%s does not inherit %s", heir, r.Name)
						}
					}
				}
				for _, p := range e.Permissions {
					permissions = append(permissions, p.Name)
				}
				wantRoles, wantPermissions := m.held(tenant, user)
				if !slices.Equal(roles, wantRoles) || !slices.Equal(permissions, wantPermissions) {
					rt.Fatalf("%s in %s: %v and %v, want %v and %v", user, tenant, roles, permissions, wantRoles, wantPermissions)
				}
			}
		}
		for v := range o.verify(nil) {
			if v.Fault != "" {
				rt.Fatalf("the audit: %+v", v)
			}
		}
	})
}
