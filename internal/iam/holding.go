package iam

import (
	"fmt"
	"slices"
	"strings"
)

// Holding is what somebody holds in one tenant, and so the most that they may give
// to others or take from them.
type Holding struct {
	Everything  bool
	Roles       map[string]bool // with all that they inherit
	Permissions map[string]bool
}

// Hold works out what the named roles mean among all roles of a tenant.
func Hold(roles []Role, names []string) Holding {
	h := Holding{Roles: map[string]bool{}, Permissions: map[string]bool{}}
	closure := Closure(roles)
	for _, name := range names {
		for _, n := range closure[name] {
			h.Roles[n] = true
		}
	}
	for _, r := range roles {
		if !h.Roles[r.Name] {
			continue
		}
		for _, p := range r.Permissions {
			h.Permissions[p] = true
		}
	}
	return h
}

// Beyond says what the named roles mean that h does not hold; "" if nothing. What a
// role of the tenant's own means is its permissions; a global one, a template of a
// service or a reserved one, is more than that, so it must be held itself.
func (h Holding) Beyond(roles []Role, names []string) string {
	if h.Everything {
		return ""
	}
	given := Hold(roles, names)
	var more []string
	for _, r := range roles {
		if !given.Roles[r.Name] {
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
