package adminapi_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// scimModel is what a tenant should be: roles by hand, and groups with their members and roles.
type scimModel struct {
	byHand map[string]map[string]bool // user → roles
	groups map[string]*modelGroup     // id → group
}

type modelGroup struct {
	name    string
	members map[string]bool
	roles   map[string]bool
}

func (m *scimModel) managed(role string) bool {
	for _, g := range m.groups {
		if g.roles[role] {
			return true
		}
	}
	return false
}

// roles are those that a user should hold.
func (m *scimModel) roles(user string) string {
	all := maps.Clone(m.byHand[user])
	for _, g := range m.groups {
		if g.members[user] {
			maps.Copy(all, g.roles)
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(all)), " ")
}

// Any sequence of SCIM operations, and of what administrators do meanwhile, leaves each member with the roles that were granted
// by hand and those of their groups, and no others.
func TestAMemberHoldsTheRolesByHandAndThoseOfTheirGroups(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	p := w.provision("acme")
	roles := []string{"ra", "rb", "rc", "rd"}
	for _, r := range roles {
		p.role(r)
	}
	names := []string{"u0", "u1", "u2", "u3"}
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		for _, sql := range []string{`DELETE FROM scim_groups`, `UPDATE memberships SET roles = '{}', role_terms = '{}' WHERE roles && ARRAY ['ra', 'rb', 'rc', 'rd']`} {
			_, err := p.sql().Exec(ctx, sql)
			p.OK(err)
		}
		m := &scimModel{byHand: map[string]map[string]bool{}, groups: map[string]*modelGroup{}}
		pick := func(label string, from []string) string { return rapid.SampledFrom(from).Draw(rt, label) }
		some := func(label string, from []string) []string {
			if len(from) == 0 {
				return []string{}
			}
			return rapid.SliceOfNDistinct(rapid.SampledFrom(from), 0, len(from), rapid.ID).Draw(rt, label)
		}
		users := func() []string { return slices.Sorted(maps.Keys(m.byHand)) }
		groups := func() []string { return slices.Sorted(maps.Keys(m.groups)) }
		set := func(ids []string) map[string]bool {
			s := map[string]bool{}
			for _, id := range ids {
				s[id] = true
			}
			return s
		}
		need := func(ids []string) {
			if len(ids) == 0 {
				rt.Skip()
			}
		}
		ids := map[string]string{} // of names that are members
		rt.Repeat(map[string]func(*rapid.T){
			"create a user": func(*rapid.T) {
				name := pick("name", names)
				r := p.send("POST", "/Users", map[string]any{"userName": fmt.Sprint(name, "-", run)})
				if ids[name] != "" {
					if r.status != 409 || r.field("scimType") != "uniqueness" {
						rt.Fatalf("a user who exists: %s", r)
					}
					return
				}
				id, _ := r.field("id").(string)
				ids[name], m.byHand[id] = id, map[string]bool{}
			},
			"delete a user": func(*rapid.T) {
				need(users())
				id := pick("user", users())
				p.must(204, "DELETE", "/Users/"+id, nil)
				delete(m.byHand, id)
				for _, g := range m.groups {
					delete(g.members, id)
				}
				maps.DeleteFunc(ids, func(_, v string) bool { return v == id })
			},
			"suspend or resume a user": func(rt *rapid.T) {
				need(users())
				p.must(200, "PATCH", "/Users/"+pick("user", users()), patchOps(op("replace", "active", rapid.Bool().Draw(rt, "active"))))
			},
			"create a group": func(rt *rapid.T) {
				name, members := pick("group name", []string{"g0", "g1", "g2"}), some("members", users())
				r := p.send("POST", "/Groups", map[string]any{"displayName": fmt.Sprint(name, "-", run), "members": refs(members...)})
				for _, g := range m.groups {
					if g.name == name {
						if r.status != 409 {
							rt.Fatalf("a group that exists: %s", r)
						}
						return
					}
				}
				id, _ := r.field("id").(string)
				if r.status != 201 {
					rt.Fatal(r)
				}
				m.groups[id] = &modelGroup{name, set(members), map[string]bool{}}
			},
			"delete a group": func(rt *rapid.T) {
				need(groups())
				id := pick("group", groups())
				if rapid.Bool().Draw(rt, "by an administrator") {
					p.want(204, "root", "DELETE", "/v1/tenants/acme/scim-groups/"+id, nil)
				} else {
					p.must(204, "DELETE", "/Groups/"+id, nil)
				}
				delete(m.groups, id)
			},
			"replace a group": func(*rapid.T) {
				need(groups())
				id, members := pick("group", groups()), some("members", users())
				p.must(200, "PUT", "/Groups/"+id, map[string]any{"displayName": fmt.Sprint(m.groups[id].name, "-", run), "members": refs(members...)})
				m.groups[id].members = set(members)
			},
			"patch a group": func(rt *rapid.T) {
				need(groups())
				id := pick("group", groups())
				g := m.groups[id]
				var ops []map[string]any
				for range rapid.IntRange(1, 4).Draw(rt, "operations") {
					members := some("members", users())
					switch rapid.IntRange(0, 6).Draw(rt, "operation") {
					case 0:
						ops = append(ops, op("add", "members", refs(members...)))
						maps.Copy(g.members, set(members))
					case 1:
						ops = append(ops, op("Replace", "members", refs(members...)))
						g.members = set(members)
					case 2:
						ops = append(ops, op("remove", "members", nil))
						g.members = map[string]bool{}
					case 3:
						ops = append(ops, op("Remove", "members", refs(members...)))
						if len(members) == 0 {
							break // an empty list removes no member
						}
						maps.DeleteFunc(g.members, func(u string, _ bool) bool { return slices.Contains(members, u) })
					case 4:
						ops = append(ops, op("add", "", map[string]any{"members": refs(members...)}))
						maps.Copy(g.members, set(members))
					default:
						var is []string
						for _, u := range members {
							is = append(is, `value eq "`+u+`"`)
						}
						if len(is) == 0 {
							continue
						}
						ops = append(ops, op("remove", "members["+strings.Join(is, " or ")+"]", nil))
						maps.DeleteFunc(g.members, func(u string, _ bool) bool { return slices.Contains(members, u) })
					}
				}
				if len(ops) > 0 {
					p.must(204, "PATCH", "/Groups/"+id, patchOps(ops...))
				}
			},
			"map a group": func(rt *rapid.T) {
				need(groups())
				id, names := pick("group", groups()), some("roles", roles)
				take := rapid.Bool().Draw(rt, "take over")
				at := "/v1/tenants/acme/scim-groups/" + id
				if take {
					at += "?remove=true"
				}
				held := false
				for _, r := range names {
					for u, hand := range m.byHand {
						held = held || hand[r] && !m.managed(r) && !m.groups[id].members[u]
					}
				}
				r := p.call("root", "PUT", at, map[string]any{"roles": names}, "If-Match: *")
				if held && !take {
					if r.status != 409 {
						rt.Fatalf("a role that others hold: %s", r)
					}
					return
				}
				if r.status != 200 {
					rt.Fatal(r)
				}
				m.groups[id].roles = set(names)
				for _, hand := range m.byHand {
					maps.DeleteFunc(hand, func(r string, _ bool) bool { return slices.Contains(names, r) })
				}
			},
			"grant by hand": func(rt *rapid.T) {
				need(users())
				id, names := pick("user", users()), some("roles", roles)
				r := p.call("root", "PATCH", "/v1/tenants/acme/members/"+id, map[string]any{"roles": names}, "Content-Type: application/merge-patch+json")
				before, refused := strings.Fields(m.roles(id)), false
				for _, role := range roles {
					refused = refused || m.managed(role) && slices.Contains(before, role) != slices.Contains(names, role)
				}
				if refused {
					if r.status != 409 || r.field("code") != "role_managed_by_scim" {
						rt.Fatalf("a role of a group: %s", r)
					}
					return
				}
				if r.status != 200 {
					rt.Fatal(r)
				}
				m.byHand[id] = map[string]bool{}
				for _, role := range names {
					if !m.managed(role) {
						m.byHand[id][role] = true
					}
				}
			},
			"": func(rt *rapid.T) {
				for _, id := range users() {
					if got, want := p.roles(id), m.roles(id); got != want {
						rt.Fatalf("%s holds %q, want %q", id, got, want)
					}
				}
				for id, g := range m.groups {
					got := memberIDs(p.must(200, "GET", "/Groups/"+id, nil))
					if want := slices.Sorted(maps.Keys(g.members)); !slices.Equal(got, want) && len(got)+len(want) > 0 {
						rt.Fatalf("%s has %v, want %v", g.name, got, want)
					}
				}
			},
		})
	})
}
