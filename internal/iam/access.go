package iam

import (
	"slices"
	"time"
)

// How a path grants: by the role itself, by one that inherits it, or by a scope of a client.
const (
	PathDirect    = "direct"
	PathInherited = "inherited"
	PathScope     = "scope"
)

// Path is one way by which a role or a permission is held: from what is assigned to what grants it.
type Path struct {
	Kind      string
	Roles     []string  // the assigned role first, then those that it inherits, to the one that grants; of a scope: none
	Scope     string    // of a client
	ExpiresAt time.Time // when the path ends; zero: never
}

// Goal is what a question about access asks for: a role or a permission.
type Goal struct{ Role, Permission string }

// Ways are the roles of a graph that lead to a goal, and how.
type Ways struct {
	goal  Goal
	chain map[string][]string // by the role that would be assigned
}

// Ways computes which roles lead to a goal. A chain is the shortest one; of those of one length, the first by name.
func (g Graph) Ways(goal Goal) Ways {
	w := Ways{goal: goal, chain: map[string][]string{}}
	heirs := map[string][]string{}
	var reached []string
	for _, r := range g.roles {
		for _, parent := range r.Inherits {
			heirs[parent] = append(heirs[parent], r.Name)
		}
		if goal.Role != "" && r.Name == goal.Role || goal.Permission != "" && slices.Contains(r.Permissions, goal.Permission) {
			w.chain[r.Name] = []string{r.Name}
			reached = append(reached, r.Name)
		}
	}
	for len(reached) > 0 { // one step of inheritance further each time
		slices.Sort(reached)
		var next []string
		for _, parent := range reached {
			for _, heir := range heirs[parent] {
				if w.chain[heir] == nil {
					w.chain[heir] = append([]string{heir}, w.chain[parent]...)
					next = append(next, heir)
				}
			}
		}
		reached = next
	}
	return w
}

// Roles are the names of the roles that lead to the goal, sorted.
func (w Ways) Roles() []string {
	names := make([]string, 0, len(w.chain))
	for name := range w.chain {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Known reports whether any role leads to the goal.
func (w Ways) Known() bool { return len(w.chain) > 0 }

// Paths returns one path for each assigned role that leads to the goal; end says when an assigned role ends.
func (w Ways) Paths(assigned []string, end func(role string) time.Time) []Path {
	var paths []Path
	for _, name := range slices.Sorted(slices.Values(assigned)) {
		chain := w.chain[name]
		if chain == nil {
			continue
		}
		p := Path{Kind: PathInherited, Roles: chain, ExpiresAt: end(name)}
		if len(chain) == 1 {
			p.Kind = PathDirect
		}
		paths = append(paths, p)
	}
	return paths
}

// EndOfPaths is when the last of some paths ends; zero: never.
func EndOfPaths(paths []Path) (end time.Time) {
	for _, p := range paths {
		if p.ExpiresAt.IsZero() {
			return time.Time{}
		}
		if p.ExpiresAt.After(end) {
			end = p.ExpiresAt
		}
	}
	return end
}

// Reached is what assigned roles lead to: the paths to each role and to each permission.
type Reached struct{ Roles, Permissions map[string][]Path }

// Reach computes what assigned roles lead to. Of each assigned role there is one path to a role or permission, a
// shortest one; end says when an assigned role ends.
func (g Graph) Reach(assigned []string, end func(role string) time.Time) Reached {
	byName := make(map[string]Role, len(g.roles))
	for _, r := range g.roles {
		byName[r.Name] = r
	}
	reached := Reached{Roles: map[string][]Path{}, Permissions: map[string][]Path{}}
	for _, name := range slices.Sorted(slices.Values(assigned)) {
		if _, known := byName[name]; !known {
			continue
		}
		chains, granted := map[string][]string{name: {name}}, map[string]bool{}
		for level := []string{name}; len(level) > 0; {
			slices.Sort(level)
			var next []string
			for _, at := range level {
				p := Path{Kind: PathInherited, Roles: chains[at], ExpiresAt: end(name)}
				if at == name {
					p.Kind = PathDirect
				}
				reached.Roles[at] = append(reached.Roles[at], p)
				for _, permission := range byName[at].Permissions {
					if !granted[permission] {
						granted[permission] = true
						reached.Permissions[permission] = append(reached.Permissions[permission], p)
					}
				}
				for _, parent := range byName[at].Inherits {
					if _, known := byName[parent]; known && chains[parent] == nil {
						chains[parent] = append(slices.Clone(chains[at]), parent)
						next = append(next, parent)
					}
				}
			}
			level = next
		}
	}
	return reached
}
