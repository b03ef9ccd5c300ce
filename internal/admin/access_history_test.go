package admin_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"iam-service/internal/admin"
	"iam-service/internal/dev/pgtest"
	"iam-service/internal/iam"
)

// said is what was effective at a moment: by tenant and user; and who held what then.
type said struct {
	at        time.Time
	effective map[[2]string]admin.Effective
	who       map[string][]string // by tenant and permission
}

// What the audit tells of an earlier moment equals what was effective then, whatever was changed since: members, their
// roles and terms, roles and their inheritance, global roles, mappings, the status of users and tenants, erasures.
func TestWhatWasEffectiveIsToldByTheAudit(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	rapid.Check(t, func(rt *rapid.T) {
		o.empty()
		tenants, names, users, permissions := []string{"acme", "globex"}, []string{"a", "b", "c"}, []string{"u0", "u1", "u2"}, []string{"p:1", "p:2"}
		for _, id := range tenants {
			o.tenant(id)
		}
		ids := map[string]string{}
		for _, u := range users {
			o.ok(o.do("", func(ctx context.Context, w *admin.Work) error {
				created, err := w.CreateUser(ctx, iam.User{Issuer: pgtest.Issuer, Subject: u})
				ids[u] = created.ID
				return err
			}))
		}
		for _, r := range []iam.Role{
			{Name: "g", Permissions: []string{"p:1"}}, {Tenant: "acme", Name: "a", Permissions: []string{"p:1"}}, {Tenant: "acme", Name: "b", Inherits: []string{"g"}},
			{Tenant: "acme", Name: "c", Permissions: []string{"p:2"}}, {Tenant: "globex", Name: "a", Permissions: []string{"p:2"}},
		} {
			o.ok(o.do(r.Tenant, func(ctx context.Context, w *admin.Work) error {
				_, _, err := w.PutRole(ctx, r, admin.Condition{Absent: true})
				return err
			}))
		}
		for _, u := range users[:2] {
			o.ok(o.do("acme", func(ctx context.Context, w *admin.Work) error {
				m := iam.Membership{Status: iam.MembershipActive, Roles: []string{"a", "b"}}
				_, err := w.PutMembers(ctx, "acme", admin.Batch{Rows: []admin.Row{{Issuer: pgtest.Issuer, Subject: u, Membership: m}}})
				return err
			}))
		}
		history := []said{o.saidNow(tenants, users, ids, permissions)}
		some := func(of []string, label string) []string {
			return rapid.SliceOfNDistinct(rapid.SampledFrom(of), 0, 2, rapid.ID).Draw(rt, label)
		}
		gone := map[string]bool{}
		steps := rapid.IntRange(3, 10).Draw(rt, "steps")
		moments := rapid.SliceOfNDistinct(rapid.IntRange(0, steps-1), 2, 2, rapid.ID).Draw(rt, "moments")
		for n := range steps {
			tenant, user := rapid.SampledFrom(tenants).Draw(rt, "tenant"), rapid.SampledFrom(users).Draw(rt, "user")
			step := func(owner string, do func(context.Context, *admin.Work) error) {
				_ = o.do(owner, do) // what is not valid changes nothing
			}
			switch rapid.SampledFrom([]string{"role", "role", "global", "delete", "member", "member", "member", "leave", "sleep", "block", "close", "map", "unmap", "erase"}).Draw(rt, "what") {
			case "role", "global":
				r := iam.Role{Tenant: tenant, Name: rapid.SampledFrom(names).Draw(rt, "role"), Inherits: some([]string{"g", "c"}, "inherits"), Permissions: some(permissions, "permissions")}
				if rapid.IntRange(0, 2).Draw(rt, "global") == 0 {
					r.Tenant, r.Name, r.Inherits = "", "g", nil
				}
				step(r.Tenant, func(ctx context.Context, w *admin.Work) error {
					if _, _, err := w.PutRole(ctx, r, admin.Condition{Absent: true}); err == nil {
						return nil
					}
					_, _, err := w.PutRole(ctx, r, admin.Condition{Present: true})
					return err
				})
			case "delete":
				role := rapid.SampledFrom(names).Draw(rt, "role")
				step(tenant, func(ctx context.Context, w *admin.Work) error {
					return w.DeleteRole(ctx, tenant, role, admin.RevokeHeld, admin.Condition{})
				})
			case "member":
				m := iam.Membership{Status: iam.MembershipActive, Roles: some([]string{"a", "g", "b"}[:map[string]int{"acme": 3, "globex": 2}[tenant]], "held"), Terms: map[string]iam.RoleTerm{}}
				soon := func(label string) time.Time {
					return time.Now().Add(time.Duration(rapid.IntRange(10, 80).Draw(rt, label)) * time.Millisecond)
				}
				if rapid.IntRange(0, 3).Draw(rt, "ends") == 0 {
					m.ExpiresAt = soon("end")
				}
				for _, r := range m.Roles {
					switch rapid.IntRange(0, 4).Draw(rt, "term") {
					case 0:
						m.Terms[r] = iam.RoleTerm{StartsAt: soon("start")}
					case 1:
						m.Terms[r] = iam.RoleTerm{ExpiresAt: soon("role's end")}
					}
				}
				if !gone[user] {
					step(tenant, func(ctx context.Context, w *admin.Work) error {
						_, err := w.PutMembers(ctx, tenant, admin.Batch{Rows: []admin.Row{{Issuer: pgtest.Issuer, Subject: user, Membership: m, Restored: true}}})
						return err
					})
				}
			case "leave":
				step(tenant, func(ctx context.Context, w *admin.Work) error {
					return w.DeleteMember(ctx, tenant, ids[user], admin.Condition{})
				})
			case "sleep":
				status := rapid.SampledFrom([]string{iam.MembershipSuspended, iam.MembershipActive}).Draw(rt, "membership")
				step(tenant, func(ctx context.Context, w *admin.Work) error {
					_, err := w.EditMember(ctx, tenant, ids[user], admin.Condition{}, memberStatus(status))
					return err
				})
			case "block":
				status := rapid.SampledFrom([]string{iam.UserBlocked, iam.UserActive}).Draw(rt, "status")
				step("", func(ctx context.Context, w *admin.Work) error {
					_, err := w.EditUser(ctx, ids[user], admin.Condition{}, userStatus(status))
					return err
				})
			case "close":
				status := rapid.SampledFrom([]string{iam.TenantSuspended, iam.TenantActive}).Draw(rt, "status")
				step(tenant, func(ctx context.Context, w *admin.Work) error {
					_, err := w.SetTenantStatus(ctx, tenant, status, admin.Condition{})
					return err
				})
			case "map":
				m := iam.Mapping{Tenant: tenant, Issuer: pgtest.Issuer, Claim: "groups", Value: rapid.SampledFrom([]string{"x", "y"}).Draw(rt, "value"), Roles: []string{rapid.SampledFrom(names).Draw(rt, "mapped")}}
				step(tenant, func(ctx context.Context, w *admin.Work) error {
					if _, err := w.CreateMapping(ctx, m); err == nil {
						return nil
					}
					_, err := w.SetMappingRoles(ctx, tenant, m.ID(), m.Roles, admin.Condition{Present: true})
					return err
				})
			case "unmap":
				m := iam.Mapping{Issuer: pgtest.Issuer, Claim: "groups", Value: "x"}
				step(tenant, func(ctx context.Context, w *admin.Work) error {
					return w.DeleteMapping(ctx, tenant, m.ID(), admin.Condition{})
				})
			case "erase":
				if rapid.IntRange(0, 3).Draw(rt, "really") == 0 {
					step("", func(ctx context.Context, w *admin.Work) error { return w.EraseUser(ctx, ids[user], admin.Condition{}) })
					gone[user] = true
				}
			}
			if slices.Contains(moments, n) {
				history = append(history, o.saidNow(tenants, users, ids, permissions))
			}
		}
		o.changed(rt, tenants, history[0], history[1])
		o.changed(rt, tenants, history[1], history[2])
		for i, s := range history {
			for _, tenant := range tenants {
				for _, user := range users {
					var a admin.UserAccess
					err := o.s.Do(ctx, operator, admin.Task{Tenant: tenant}, func(ctx context.Context, w *admin.Work) (err error) {
						a, err = w.MemberAccess(ctx, tenant, ids[user], s.at)
						return err
					})
					e, member := s.effective[[2]string{tenant, user}]
					if member != (err == nil) {
						rt.Fatalf("moment %d: %s in %s: %v, was a member: %v", i, user, tenant, err, member)
					}
					if member {
						sameAsEffective(rt, e, a)
					}
				}
				for _, p := range permissions {
					got := o.who(tenant, admin.AccessQuestion{Goal: iam.Goal{Permission: p}, At: s.at}, 2)
					if want := s.who[tenant+p]; !slices.Equal(got, want) {
						rt.Fatalf("moment %d: who held %s in %s: %q, want %q", i, p, tenant, got, want)
					}
				}
			}
			for _, user := range users {
				list, err := admin.Do(ctx, o.s, operator, admin.Task{}, func(ctx context.Context, w *admin.Work) ([]admin.UserAccess, error) {
					return w.UserAccess(ctx, ids[user], s.at, "", 10)
				})
				var want []string
				for _, tenant := range tenants {
					if _, member := s.effective[[2]string{tenant, user}]; member {
						want = append(want, tenant)
					}
				}
				var got []string
				for _, a := range list {
					got = append(got, a.Tenant)
				}
				if err != nil && (iam.KindOf(err) != iam.NotFound || len(want) > 0) || !slices.Equal(got, want) {
					rt.Fatalf("moment %d: tenants of %s: %q, want %q (%v)", i, user, got, want, err)
				}
			}
		}
	})
}

// names are what a user held in a tenant.
func (s said) names(tenant, user string) (names admin.Names) {
	for _, r := range s.effective[[2]string{tenant, user}].Roles {
		names.Roles = append(names.Roles, r.Name)
	}
	for _, p := range s.effective[[2]string{tenant, user}].Permissions {
		names.Permissions = append(names.Permissions, p.Name)
	}
	return names
}

// changed compares the changes between two moments with what was effective at each; and each change must have a cause.
func (o *office) changed(rt *rapid.T, tenants []string, from, to said) {
	period := admin.AccessPeriod{From: from.at, To: to.at}
	minus := func(a, b []string) []string {
		return slices.DeleteFunc(append([]string{}, a...), func(x string) bool { return slices.Contains(b, x) })
	}
	for _, tenant := range tenants {
		want := map[string]string{}
		for key := range maps.Keys(from.effective) {
			want[key[1]] = ""
		}
		for key := range maps.Keys(to.effective) {
			want[key[1]] = ""
		}
		ids := map[string]string{}
		for _, s := range []said{from, to} {
			for key, e := range s.effective {
				ids[key[1]] = e.User
			}
		}
		text := func(gained, lost admin.Names) string {
			return fmt.Sprintf("+%v%v -%v%v", gained.Roles, gained.Permissions, lost.Roles, lost.Permissions)
		}
		for user := range want {
			before, after := from.names(tenant, user), to.names(tenant, user)
			want[user] = text(admin.Names{Roles: minus(after.Roles, before.Roles), Permissions: minus(after.Permissions, before.Permissions)},
				admin.Names{Roles: minus(before.Roles, after.Roles), Permissions: minus(before.Permissions, after.Permissions)})
		}
		got := map[string]string{}
		err := o.s.Do(ctx, operator, admin.Task{Tenant: tenant}, func(ctx context.Context, w *admin.Work) error {
			for after := (admin.AccessCursor{}); ; {
				page, err := w.AccessChanges(ctx, tenant, period, after, 1)
				if err != nil {
					return err
				}
				for _, c := range page.Items {
					if len(c.Entries) == 0 && !c.ByTime {
						rt.Fatalf("a change without a cause: %+v", c)
					}
					if c.Kind == admin.AccessUser {
						got[c.User] = text(c.Gained, c.Lost)
					}
				}
				if !page.More {
					return nil
				}
				after = page.Next
			}
		})
		o.ok(err)
		for user, w := range want {
			g, changed := got[ids[user]]
			if none := w == "+[][] -[][]"; none == changed || changed && g != w {
				rt.Fatalf("what %s gained and lost in %s: %q, want %q", user, tenant, g, w)
			}
		}
	}
}

// saidNow asks everything in one transaction, so that all of it is of one moment.
func (o *office) saidNow(tenants, users []string, ids map[string]string, permissions []string) said {
	o.Helper()
	s := said{effective: map[[2]string]admin.Effective{}, who: map[string][]string{}}
	view(o, "", func(ctx context.Context, w *admin.Work) (struct{}, error) {
		for _, tenant := range tenants {
			for _, user := range users {
				if e, err := w.Effective(ctx, ids[user], tenant); err == nil {
					s.effective[[2]string{tenant, user}] = e
				}
			}
			for _, p := range permissions {
				list := []string{}
				err := w.EachAccess(ctx, tenant, admin.AccessQuestion{Goal: iam.Goal{Permission: p}}, func(x admin.Access, _ time.Time) error {
					list = append(list, x.Kind+" "+x.User+x.ClientID+x.Mapping.Claim+"="+x.Mapping.Value)
					return nil
				})
				if err != nil {
					return struct{}{}, err
				}
				s.who[tenant+p] = list
			}
			page, err := w.Access(ctx, tenant, admin.AccessQuestion{Goal: iam.Goal{Role: "a"}}, admin.AccessCursor{}, 1)
			if err != nil {
				return struct{}{}, err
			}
			s.at = page.AsOf
		}
		return struct{}{}, nil
	})
	return s
}

func TestAMomentThatTheAuditDoesNotReachIsRejected(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.tenant("acme")
	cut := time.Now().Add(-30 * 24 * time.Hour).UTC().Truncate(time.Second)
	ask := func(at time.Time) error {
		return o.s.Do(ctx, operator, admin.Task{Tenant: "acme"}, func(ctx context.Context, w *admin.Work) error {
			_, err := w.Access(ctx, "acme", admin.AccessQuestion{Goal: iam.Goal{Role: "a"}, At: at}, admin.AccessCursor{}, 1)
			return err
		})
	}
	if err := ask(cut.Add(-time.Hour)); iam.KindOf(err) != iam.NotFound {
		t.Errorf("before the tenant was created: %v", err)
	}
	o.sql(`INSERT INTO audit_cuts (chain, seq, hash, until) VALUES ('globex', 7, '', $1)`, cut)
	if err := ask(cut.Add(-time.Microsecond)); iam.CodeOf(err) != "before_retention" || iam.KindOf(err) != iam.Invalid ||
		!slices.Contains(fieldsOf(err), "at must not be earlier than "+cut.Format(time.RFC3339)+", the earliest moment that the audit tells everything of") {
		t.Errorf("before the cut: %v", err)
	}
	if err := ask(time.Now().Add(time.Hour)); iam.KindOf(err) != iam.Invalid {
		t.Errorf("in the future: %v", err)
	}
	if err := ask(time.Now()); err != nil {
		t.Errorf("now: %v", err)
	}
}

func fieldsOf(err error) (out []string) {
	for _, f := range err.(*iam.Error).Fields { //nolint:errorlint // a test
		out = append(out, fmt.Sprint(f.Pointer, " ", f.Detail))
	}
	return out
}
