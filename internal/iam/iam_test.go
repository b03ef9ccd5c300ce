package iam_test

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"iam-service/internal/iam"
)

func TestNamesKeepTheirShape(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 65)
	for what, c := range map[string]struct {
		valid    func(string) bool
		good     []string
		bad      []string
		boundary string
	}{
		"role": {iam.ValidRoleName, []string{"admin", "a.b-c_d", "0", "iam:tenant-admin"},
			[]string{"", "Admin", "admin ", " admin", "-a", "a,b", "a\r\n", "é", "iam:", "x:y", "iam:iam:x"}, long[:64]},
		"tenant": {iam.ValidTenantID, []string{"acme", "t-1", "0_0"},
			[]string{"", "a.b", "A", "a/b", "a\x00", "_a", "a b", "..", "аcme"}, long[:64]},
		"permission": {iam.ValidPermission, []string{"invoice:read", "a.b:c"}, []string{"", ":a", "A:b", "a b", "a,b"}, long[:64]},
		"scope":      {iam.ValidScope, []string{"s2s:internal", "https://x/y", "A"}, []string{"", "a b", "a,b", `a"`, `a\`, "é", "a\n"}, strings.Repeat("a", 255)},
		"subject":    {iam.ValidSubject, []string{"alice", "auth0|1 2", "a,b"}, []string{"", " a", "a ", "a\nb", "é", "a\x00"}, strings.Repeat("a", 255)},
		"issuer":     {iam.ValidIssuer, []string{"https://a.test/x"}, []string{"", "https://a b", "é"}, strings.Repeat("a", 512)},
	} {
		for _, s := range append(c.good, c.boundary) {
			if !c.valid(s) {
				t.Errorf("%s: %q is refused", what, s)
			}
		}
		for _, s := range append(c.bad, c.boundary+"a") {
			if c.valid(s) {
				t.Errorf("%s: %q is accepted", what, s)
			}
		}
	}
}

func TestAllInvalidFieldsAreNamedAtOnce(t *testing.T) {
	t.Parallel()
	wrong := iam.Membership{
		Tenant: "Acme", Status: "expired", Roles: []string{"ok", "Not Ok", "ok"}, Attributes: map[string]any{"a": strings.Repeat("x", 5000)},
	}.Check()
	var pointers []string
	for _, w := range wrong {
		pointers = append(pointers, w.Pointer)
	}
	want := []string{"/tenant", "/status", "/roles/1", "/roles/2", "/attributes"}
	if !slices.Equal(pointers, want) {
		t.Errorf("named %v, want %v", pointers, want)
	}
}

func TestInheritanceIsRejectedWhereItCannotWork(t *testing.T) {
	t.Parallel()
	chain := func(n int) []iam.Role {
		roles := []iam.Role{{Name: "r0"}}
		for i := 1; i <= n; i++ {
			roles = append(roles, iam.Role{Name: "r" + string(rune('a'+i)), Inherits: []string{roles[i-1].Name}})
		}
		return roles
	}
	for name, c := range map[string]struct {
		roles []iam.Role
		at    string
		want  string // part of the first detail; "" is fine
	}{
		"a diamond is fine":                     {[]iam.Role{{Name: "a", Inherits: []string{"b", "c"}}, {Name: "b", Inherits: []string{"d"}}, {Name: "c", Inherits: []string{"d"}}, {Name: "d"}}, "a", ""},
		"no such role":                          {[]iam.Role{{Name: "a", Inherits: []string{"b"}}}, "a", `no role named "b"`},
		"a cycle of two":                        {[]iam.Role{{Name: "a", Inherits: []string{"b"}}, {Name: "b", Inherits: []string{"a"}}}, "a", "a inherits b inherits a"},
		"a cycle of three":                      {[]iam.Role{{Name: "a", Inherits: []string{"b"}}, {Name: "b", Inherits: []string{"c"}}, {Name: "c", Inherits: []string{"a"}}}, "b", "b inherits c inherits a inherits b"},
		"16 steps are fine":                     {chain(16), "ra", ""},
		"17 are too many, wherever the edit is": {chain(17), "rf", "chain of 17"},
	} {
		invalid := iam.CheckInheritance(c.roles, c.at)
		switch {
		case c.want == "" && len(invalid) > 0:
			t.Errorf("%s: %v", name, invalid)
		case c.want != "" && (len(invalid) == 0 || !strings.Contains(invalid[0].Detail, c.want)):
			t.Errorf("%s: got %v, want %q", name, invalid, c.want)
		}
	}
}

// Closure equals a walk, for any graph, cycles included.
func TestClosureIsReachability(t *testing.T) {
	t.Parallel()
	names := []string{"a", "b", "c", "d", "e", "f"}
	rapid.Check(t, func(t *rapid.T) {
		var roles []iam.Role
		for _, n := range names[:5] { // f is inherited but does not exist
			roles = append(roles, iam.Role{Name: n, Inherits: rapid.SliceOfNDistinct(rapid.SampledFrom(names), 0, 3, rapid.ID).Draw(t, n)})
		}
		reach := map[string]map[string]bool{}
		for _, r := range roles {
			reach[r.Name] = map[string]bool{r.Name: true}
		}
		for range names { // a fixed point after so many rounds
			for _, r := range roles {
				for _, p := range r.Inherits {
					for q := range reach[p] {
						reach[r.Name][q] = true
					}
				}
			}
		}
		for name, got := range iam.Closure(roles) {
			var want []string
			for q := range reach[name] {
				want = append(want, q)
			}
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Fatalf("closure of %s is %v, want %v", name, got, want)
			}
		}
	})
}

func TestAnUnclassifiedErrorIsOurs(t *testing.T) {
	t.Parallel()
	if k := iam.KindOf(iam.Errorf(iam.Conflict, "x")); k != iam.Conflict {
		t.Errorf("kind %s", k)
	}
	if k := iam.KindOf(nil); k != iam.Internal {
		t.Errorf("kind %s", k)
	}
}
