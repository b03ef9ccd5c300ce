package iam

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Graph is all roles that one tenant sees, with what each of them grants.
type Graph struct {
	roles   []Role
	closure map[string][]string
}

// NewGraph computes what each role grants.
func NewGraph(roles []Role) Graph { return Graph{roles, Closure(roles)} }

// Holding is what a caller holds in one tenant, and so the most that they can grant to others or
// revoke from them.
type Holding struct {
	Everything  bool
	Roles       map[string]bool // with all that they inherit
	Permissions map[string]bool
}

// Hold computes what the named roles grant.
func (g Graph) Hold(names []string) Holding {
	h := Holding{Roles: map[string]bool{}, Permissions: map[string]bool{}}
	for _, name := range names {
		for _, n := range g.closure[name] {
			h.Roles[n] = true
		}
	}
	for _, r := range g.roles {
		if !h.Roles[r.Name] {
			continue
		}
		for _, p := range r.Permissions {
			h.Permissions[p] = true
		}
	}
	return h
}

// Has reports whether the tenant sees a role of a name.
func (g Graph) Has(name string) bool {
	return slices.ContainsFunc(g.roles, func(r Role) bool { return r.Name == name })
}

// With returns what h and another holding hold together.
func (h Holding) With(other Holding) Holding {
	both := Holding{Everything: h.Everything || other.Everything, Roles: maps.Clone(other.Roles), Permissions: maps.Clone(other.Permissions)}
	if both.Roles == nil {
		both.Roles, both.Permissions = map[string]bool{}, map[string]bool{}
	}
	maps.Copy(both.Roles, h.Roles)
	maps.Copy(both.Permissions, h.Permissions)
	return both
}

// Replacing returns the graph with a role in place of that of its name.
func (g Graph) Replacing(r Role) Graph {
	others := slices.DeleteFunc(slices.Clone(g.roles), func(x Role) bool { return x.Name == r.Name })
	return NewGraph(append(others, r))
}

// Beyond names what the named roles of g grant and h does not hold; "" if nothing. A role of the
// tenant grants its permissions. A global one, a template of a
// service or a reserved one, can grant more, so h must hold the role itself.
func (h Holding) Beyond(g Graph, names []string) string {
	if h.Everything {
		return ""
	}
	granted := g.Hold(names)
	var more []string
	for _, r := range g.roles {
		if !granted.Roles[r.Name] {
			continue
		}
		if r.Tenant == "" && !h.Roles[r.Name] {
			more = append(more, fmt.Sprintf("the role %q", r.Name))
		}
		for _, p := range r.Permissions {
			if !h.Permissions[p] {
				more = append(more, fmt.Sprintf("the permission %q", p))
			}
		}
	}
	slices.Sort(more)
	more = slices.Compact(more)
	if len(more) > 5 {
		more = append(more[:5], fmt.Sprintf("and %d more", len(more)-5))
	}
	return strings.Join(more, ", ")
}
