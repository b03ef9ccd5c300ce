package iam

import (
	"fmt"
	"slices"
	"strings"
)

// Closure returns, for each role, the sorted names of all roles that it grants:
// itself and those that it inherits, transitively. Names without a role are left out. It
// terminates on cycles too: a table that was written by other means must not stop the reader.
func Closure(roles []Role) map[string][]string {
	inherits := make(map[string][]string, len(roles))
	for _, r := range roles {
		inherits[r.Name] = r.Inherits
	}
	all := make(map[string][]string, len(roles))
	for name := range inherits {
		seen := map[string]bool{name: true}
		todo := []string{name}
		for len(todo) > 0 {
			next := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			for _, parent := range inherits[next] {
				if _, exists := inherits[parent]; exists && !seen[parent] {
					seen[parent] = true
					todo = append(todo, parent)
				}
			}
		}
		names := make([]string, 0, len(seen))
		for n := range seen {
			names = append(names, n)
		}
		slices.Sort(names)
		all[name] = names
	}
	return all
}

// CheckInheritance validates the inheritance of the named role among
// roles, in both directions: the roles that it inherits must exist, no role may inherit
// itself, also transitively, and no chain through it may be deeper than
// MaxInheritanceDepth.
func CheckInheritance(roles []Role, name string) []FieldError {
	byName := make(map[string]Role, len(roles))
	for _, r := range roles {
		byName[r.Name] = r
	}
	var c check
	for i, parent := range byName[name].Inherits {
		_, ok := byName[parent]
		c.that(ok, fmt.Sprintf("/inherits/%d", i), "there is no role named %q", parent)
	}
	if cycle := cycleFrom(byName, name, []string{name}, map[string]bool{}); cycle != nil {
		c.that(false, "/inherits", "would make a cycle: %s", strings.Join(cycle, " inherits "))
		return c
	}
	up := longest(name, func(n string) []string { return byName[n].Inherits }, map[string]int{})
	heirs := make(map[string][]string)
	for _, r := range roles {
		for _, parent := range r.Inherits {
			heirs[parent] = append(heirs[parent], r.Name)
		}
	}
	down := longest(name, func(n string) []string { return heirs[n] }, map[string]int{})
	c.that(up+down <= MaxInheritanceDepth, "/inherits",
		"would make a chain of %d inheritances, at most %d are allowed", up+down, MaxInheritanceDepth)
	return c
}

// cycleFrom returns a path from the last of path back to the first, if any.
func cycleFrom(byName map[string]Role, start string, path []string, seen map[string]bool) []string {
	for _, parent := range byName[path[len(path)-1]].Inherits {
		if parent == start {
			return append(path, start)
		}
		if seen[parent] {
			continue
		}
		seen[parent] = true
		if cycle := cycleFrom(byName, start, append(slices.Clone(path), parent), seen); cycle != nil {
			return cycle
		}
	}
	return nil
}

// longest counts the steps of the longest way from name. A node that is on the
// way already counts as the end, so that it returns on cycles elsewhere.
func longest(name string, next func(string) []string, known map[string]int) int {
	if n, ok := known[name]; ok {
		return n
	}
	known[name] = 0
	most := 0
	for _, n := range next(name) {
		most = max(most, 1+longest(n, next, known))
	}
	known[name] = most
	return most
}

func weight(roles []Role) (permissions, names int) {
	for _, r := range roles {
		permissions += len(r.Permissions)
	}
	for _, all := range Closure(roles) {
		names += len(all)
	}
	return permissions, names
}

// Lighter reports whether roles weigh no more than before: roles beyond a limit can still
// be reduced.
func Lighter(roles, before []Role) bool {
	permissions, names := weight(roles)
	wasPermissions, wasNames := weight(before)
	return permissions <= wasPermissions && names <= wasNames
}

// CheckWeight limits all roles that one tenant sees together, by the size of its document.
func CheckWeight(roles []Role) []FieldError {
	var c check
	permissions, names := weight(roles)
	c.that(permissions <= MaxPermissionsPerTenant, "/permissions", "would make %d permissions in the tenant, at most %d are allowed", permissions, MaxPermissionsPerTenant)
	c.that(names <= MaxClosurePerTenant, "/inherits", "would make %d inherited roles in the tenant, at most %d are allowed", names, MaxClosurePerTenant)
	return c
}
