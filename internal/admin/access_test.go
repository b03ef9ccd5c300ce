package admin_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"iam-service/internal/admin"
	"iam-service/internal/dev/pgtest"
	"iam-service/internal/iam"
)

// view runs a question as the operator.
func view[T any](o *office, tenant string, do func(context.Context, *admin.Work) (T, error)) T {
	o.Helper()
	x, err := admin.Do(ctx, o.s, operator, admin.Task{Action: "access:list", Tenant: tenant}, do)
	o.ok(err)
	return x
}

// who are all pages of a list of access, as text: kind and name. Each item must have paths that the graph explains.
func (o *office) who(tenant string, q admin.AccessQuestion, limit int) []string {
	o.Helper()
	names := []string{}
	for after := (admin.AccessCursor{}); ; {
		page := view(o, tenant, func(ctx context.Context, w *admin.Work) (admin.AccessPage, error) {
			return w.Access(ctx, tenant, q, after, limit)
		})
		if len(page.Items) > limit {
			o.Fatalf("%d items in a page of %d", len(page.Items), limit)
		}
		for _, x := range page.Items {
			names = append(names, x.Kind+" "+x.User+x.ClientID+x.Mapping.Claim+"="+x.Mapping.Value)
			if len(x.Paths) == 0 {
				o.Fatalf("%+v has no path", x)
			}
		}
		if !page.More {
			return names
		}
		after = page.Next
	}
}

// empty empties the database.
func (o *office) empty() {
	o.Helper()
	o.sql(`TRUNCATE tenants, users, memberships, mappings, clients, registrations, roles, services, manifests, attribute_schemas, audit, audit_heads, retired_tenants, outbox CASCADE`)
}

// Who holds a permission or a role equals asking what is effective for each member, and for each mapping and client what
// their roles grant; whatever the graph, the statuses, the ends and the size of a page.
func TestWhoHoldsAPermissionEqualsWhatIsEffectiveForEachMember(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	rapid.Check(t, func(rt *rapid.T) {
		o.empty()
		o.tenant("acme")
		o.tenant("globex")
		names, permissions := []string{}, []string{"p:1", "p:2", "p:3", "p:4"}
		some := func(of []string, label string) []string {
			if len(of) == 0 {
				return nil
			}
			return rapid.SliceOfNDistinct(rapid.SampledFrom(of), 0, 3, rapid.ID).Draw(rt, label)
		}
		for i := range rapid.IntRange(1, 8).Draw(rt, "roles") {
			r := iam.Role{Tenant: "acme", Name: fmt.Sprint("r", i), Inherits: some(names, "inherits"), Permissions: some(permissions, "permissions")}
			if !slices.ContainsFunc(r.Inherits, func(n string) bool { return strings.HasPrefix(n, "r") }) && rapid.Bool().Draw(rt, "global") {
				r.Tenant, r.Name = "", fmt.Sprint("g", i)
			}
			o.ok(o.db.PutRole(ctx, r))
			names = append(names, r.Name)
		}
		end := func(label string) time.Time {
			return rapid.SampledFrom([]time.Time{{}, {}, time.Now().Add(-time.Hour), time.Now().Add(time.Hour)}).Draw(rt, label)
		}
		var users []string
		for i := range rapid.IntRange(0, 9).Draw(rt, "users") {
			u := iam.User{Issuer: pgtest.Issuer, Subject: fmt.Sprint("u", i), Status: rapid.SampledFrom([]string{iam.UserActive, iam.UserActive, iam.UserBlocked}).Draw(rt, "status")}
			id, err := o.db.PutUser(ctx, u)
			o.ok(err)
			m := iam.Membership{
				Tenant: "acme", User: id, Roles: some(names, "held"), ExpiresAt: end("end"),
				Status: rapid.SampledFrom([]string{iam.MembershipActive, iam.MembershipActive, iam.MembershipSuspended}).Draw(rt, "membership"),
			}
			m.Terms = map[string]iam.RoleTerm{}
			for _, r := range m.Roles {
				if rapid.Bool().Draw(rt, "term") {
					m.Terms[r] = rapid.SampledFrom([]iam.RoleTerm{
						{ExpiresAt: time.Now().Add(-time.Minute)}, {ExpiresAt: time.Now().Add(time.Minute)},
						{StartsAt: time.Now().Add(time.Minute)}, {StartsAt: time.Now().Add(-time.Minute)},
					}).Draw(rt, "term of")
				}
			}
			o.ok(o.db.PutMembership(ctx, m))
			if rapid.Bool().Draw(rt, "again") { // what was held before must leave nothing
				m.Roles, m.Terms = some(names, "held then"), nil
				o.ok(o.db.PutMembership(ctx, m))
			}
			if rapid.Bool().Draw(rt, "elsewhere") { // what is held elsewhere counts there
				o.ok(o.db.PutMembership(ctx, iam.Membership{Tenant: "globex", User: id, Status: iam.MembershipActive}))
			}
			users = append(users, id)
		}
		var mappings []iam.Mapping
		for i := range rapid.IntRange(0, 4).Draw(rt, "mappings") {
			m := iam.Mapping{Tenant: "acme", Issuer: pgtest.Issuer, Claim: "groups", Value: fmt.Sprint(i), Roles: append(some(names, "mapped"), names[0])}
			m.Roles = slices.Compact(slices.Sorted(slices.Values(m.Roles)))
			o.ok(o.db.PutMapping(ctx, m))
			mappings = append(mappings, m)
		}
		var clients []iam.Client
		for i := range rapid.IntRange(0, 4).Draw(rt, "clients") {
			c := iam.Client{
				Issuer: pgtest.Issuer, ClientID: fmt.Sprint("c", i), Tenant: "acme", Roles: some(names, "of a client"), Scopes: some(permissions, "scopes"),
				Status: rapid.SampledFrom([]string{iam.ClientActive, iam.ClientActive, iam.ClientBlocked, iam.ClientDeleted}).Draw(rt, "client"),
			}
			o.ok(o.db.PutClient(ctx, c))
			clients = append(clients, c)
		}
		closed := rapid.IntRange(0, 5).Draw(rt, "closed") == 0
		if closed {
			o.ok(o.do("acme", func(ctx context.Context, w *admin.Work) error {
				_, err := w.SetTenantStatus(ctx, "acme", iam.TenantSuspended, admin.Condition{})
				return err
			}))
		}
		limit := rapid.SampledFrom([]int{1, 2, 3, 50}).Draw(rt, "limit")

		graph := iam.NewGraph(view(o, "acme", func(ctx context.Context, w *admin.Work) ([]iam.Role, error) { return w.Roles(ctx, "acme") }))
		effective := map[string]admin.Effective{}
		for _, u := range users {
			effective[u] = view(o, "acme", func(ctx context.Context, w *admin.Work) (admin.Effective, error) { return w.Effective(ctx, u, "acme") })
			sameAsEffective(rt, effective[u], view(o, "acme", func(ctx context.Context, w *admin.Work) (admin.UserAccess, error) {
				return w.MemberAccess(ctx, "acme", u, time.Time{})
			}))
		}
		for _, p := range permissions {
			want := []string{}
			for _, u := range slices.Sorted(slices.Values(users)) {
				if slices.ContainsFunc(effective[u].Permissions, func(x admin.EffectivePermission) bool { return x.Name == p }) {
					want = append(want, "user "+u+"=")
				}
			}
			for _, c := range clients {
				if !closed && c.Status == iam.ClientActive && (graph.Hold(c.Roles).Permissions[p] || slices.Contains(c.Scopes, p)) {
					want = append(want, "client "+c.ClientID+"=")
				}
			}
			for _, m := range mappings {
				if !closed && graph.Hold(m.Roles).Permissions[p] {
					want = append(want, "mapping groups="+m.Value)
				}
			}
			if got := o.who("acme", admin.AccessQuestion{Goal: iam.Goal{Permission: p}}, limit); !slices.Equal(got, want) {
				rt.Fatalf("who holds %s: %q, want %q", p, got, want)
			}
		}
		for _, r := range names {
			want := []string{}
			for _, u := range slices.Sorted(slices.Values(users)) {
				if slices.ContainsFunc(effective[u].Roles, func(x admin.EffectiveRole) bool { return x.Name == r }) {
					want = append(want, "user "+u+"=")
				}
			}
			for _, c := range clients {
				if !closed && c.Status == iam.ClientActive && graph.Hold(c.Roles).Roles[r] {
					want = append(want, "client "+c.ClientID+"=")
				}
			}
			for _, m := range mappings {
				if !closed && graph.Hold(m.Roles).Roles[r] {
					want = append(want, "mapping groups="+m.Value)
				}
			}
			if got := o.who("acme", admin.AccessQuestion{Goal: iam.Goal{Role: r}}, limit); !slices.Equal(got, want) {
				rt.Fatalf("who holds the role %s: %q, want %q", r, got, want)
			}
		}
	})
}

// sameAsEffective compares what a member holds with what is effective.
func sameAsEffective(t interface{ Fatalf(string, ...any) }, e admin.Effective, a admin.UserAccess) {
	var roles, permissions, gotRoles, gotPermissions []string
	for _, r := range e.Roles {
		roles = append(roles, r.Name)
	}
	for _, p := range e.Permissions {
		permissions = append(permissions, p.Name)
	}
	for _, h := range a.Roles {
		gotRoles = append(gotRoles, h.Name)
	}
	for _, h := range a.Permissions {
		gotPermissions = append(gotPermissions, h.Name)
	}
	if a.InForce != e.InForce || !slices.Equal(a.Why, e.Why) || !slices.Equal(gotRoles, roles) || !slices.Equal(gotPermissions, permissions) {
		t.Fatalf("%s in %s holds %v %v (%v), and what is effective is %v %v (%v)", e.User, e.Tenant, gotRoles, gotPermissions, a.Why, roles, permissions, e.Why)
	}
}
