package policy

import (
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/cover"
	"github.com/open-policy-agent/opa/v1/rego"

	"iam-service/policies"
)

// worlds writes random directories and requests: mostly plausible, some odd.
type worlds struct{ *rand.Rand }

var (
	worldIssuers  = []string{"https://a.example.com", "https://b.example.com"}
	worldTenants  = []string{"acme", "globex", "initech"}
	worldSubjects = []string{"alice", "bob", "müller", "web", "ops"}
	worldRoles    = []string{"viewer", "editor", "named", "gone"}
	worldGroups   = []string{"staff", "Größe", "read"}
)

func (w worlds) of(list ...string) string { return list[w.IntN(len(list))] }

func (w worlds) some(list []string) []any {
	out := []any{}
	for _, s := range list {
		if w.IntN(2) == 0 {
			out = append(out, s)
		}
	}
	return out
}

// maybe sets a field most of the time.
func (w worlds) maybe(o map[string]any, key string, v any) {
	if w.IntN(5) > 0 {
		o[key] = v
	}
}

func (w worlds) attributes() map[string]any {
	a := map[string]any{}
	w.maybe(a, "department", w.of("sales", "Vertrieb Süd", ""))
	w.maybe(a, "level", w.IntN(3))
	return a
}

func (w worlds) directory() map[string]any {
	tenants, users, clients := map[string]any{}, map[string]any{}, map[string]any{}
	for _, id := range worldTenants {
		roles := map[string]any{
			"viewer": map[string]any{"permissions": []any{"document:read"}, "inherits": []any{}, "closure": []any{"viewer"}},
			"editor": map[string]any{"permissions": []any{"document:write"}, "inherits": []any{"viewer"}, "closure": []any{"editor", "viewer"}},
			"named":  map[string]any{"permissions": []any{}, "inherits": []any{}, "closure": []any{"named"}},
		}
		mappings := map[string]any{}
		for _, issuer := range worldIssuers {
			claims := map[string]any{}
			for _, claim := range []string{"groups", "roles", "entitlements"} {
				if w.IntN(2) == 0 {
					claims[claim] = map[string]any{w.of(worldGroups...): w.some(worldRoles), w.of(worldGroups...): w.some(worldRoles)}
				}
			}
			w.maybe(mappings, issuer, claims)
		}
		w.maybe(tenants, id, map[string]any{"id": id, "slug": id, "name": "Tenant", "status": w.of("active", "active", "active", "suspended", "archived"),
			"attributes": w.attributes(), "roles": roles, "mappings": mappings})
	}
	for _, issuer := range worldIssuers {
		people, programs := map[string]any{}, map[string]any{}
		for _, name := range worldSubjects {
			memberships := map[string]any{}
			for _, id := range worldTenants {
				if w.IntN(2) == 0 {
					memberships[id] = map[string]any{"status": w.of("active", "active", "active", "suspended", "expired"), "roles": w.some(worldRoles),
						"attributes": map[string]any{}, "tenant_status": w.of("active", "active", "active", "suspended", "archived")}
				}
			}
			user := map[string]any{"id": "u-" + name, "status": w.of("active", "active", "active", "blocked"), "attributes": w.attributes(),
				"platform_roles": []any{}, "memberships": memberships}
			if w.IntN(2) == 0 {
				user["default_tenant"] = w.of(worldTenants...)
			}
			if w.IntN(9) == 0 {
				user["tokens_not_before"] = 1_700_000_000
			}
			client := map[string]any{"client_id": name, "status": w.of("active", "active", "blocked"), "roles": w.some(worldRoles), "scopes": w.some(worldGroups)}
			if w.IntN(3) > 0 {
				client["tenant"] = w.of(worldTenants...)
			}
			if w.IntN(3) > 0 {
				people[name] = user
			}
			if w.IntN(2) == 0 {
				programs[name] = client
			}
		}
		users[issuer], clients[issuer] = people, programs
	}
	return map[string]any{"tenants": tenants, "users": users, "clients": clients}
}

func (w worlds) claim() any {
	switch w.IntN(6) {
	case 0:
		return w.of(worldGroups...)
	case 1:
		return []any{w.of(worldGroups...), 7, nil}
	case 2:
		return map[string]any{"x": w.of(worldGroups...)}
	}
	return w.some(worldGroups)
}

func (w worlds) input() map[string]any {
	request := map[string]any{"anonymous": w.IntN(3) == 0}
	if w.IntN(2) == 0 {
		request["tenant_hint"] = w.of(append(slices.Clone(worldTenants), "nowhere")...)
	}
	in := map[string]any{"request": request, "settings": map[string]any{"unknown_users": w.of("deny", "mapped")}, "now": w.number(1_700_000_000, 1_700_000_001, 0)}
	if w.IntN(8) == 0 {
		return in
	}
	token := map[string]any{}
	token["iss"] = w.of(worldIssuers...)
	name := w.of(append(slices.Clone(worldSubjects), "stranger")...)
	w.maybe(token, "sub", name)
	switch w.IntN(3) {
	case 0:
		token["client_id"] = name
	case 1:
		token["client_id"] = w.of(worldSubjects...)
	}
	for _, claim := range []string{"groups", "roles", "entitlements"} {
		if w.IntN(2) == 0 {
			token[claim] = w.claim()
		}
	}
	switch w.IntN(5) {
	case 0:
		token["scope"] = w.claim()
	case 1, 2:
		token["scope"] = w.of("document:read", "document:read document:write read", "", "staff read")
	}
	if w.IntN(2) == 0 {
		token["email"] = []any{"alice@example.com", 7, nil}[w.IntN(3)]
	}
	in["token"] = token
	return in
}

func (w worlds) number(list ...int) int { return list[w.IntN(len(list))] }

// The default policy was rewritten to cost less. It decides as before, with the same reasons and headers, by topdown
// and by the machine, and the worlds reach each line of both policies.
func TestTheDefaultPolicyDecidesAsItDid(t *testing.T) {
	t.Parallel()
	n := 6000 // nightly
	if testing.Short() {
		n = 1500
	}
	before, err := os.ReadFile("testdata/claims_before.rego")
	if err != nil {
		t.Fatal(err)
	}
	usual := []any{"X-User-ID", "X-User-Subject", "X-Service-ID", "X-Tenant-ID", "X-Active-Tenant-ID", "X-User-Roles", "X-Scopes",
		"X-User-Attributes", "X-Tenant-Attributes", "X-Principal-Type"}
	configs := map[string]map[string]any{
		"the usual headers": {"headers": usual, "user_attributes": []any{}, "tenant_attributes": []any{}, "attributes_encoding": "base64"},
		"all headers": {
			"headers":         slices.Concat(usual, []any{"X-Enriched-Tenant-ID", "X-User-Permissions", "X-Client-ID", "X-Email"}),
			"user_attributes": []any{"department", "level"}, "tenant_attributes": []any{"level"}, "attributes_encoding": "base64",
			"allow_without_tenant": true, "narrow_roles_by_scope": true,
		},
		"few headers, attributes as JSON": {
			"headers": []any{"X-Enriched-Tenant-ID", "X-User-Attributes", "X-Tenant-Attributes"}, "user_attributes": []any{"level"},
			"tenant_attributes": []any{"department"}, "attributes_encoding": "json", "allow_without_tenant": true,
		},
		"headers alone": {"headers": usual},
	}
	const file = "iam/claims/claims.rego"
	all := []string{}
	for _, name := range configs["all headers"]["headers"].([]any) {
		all = append(all, name.(string))
	}
	engine, err := NewEngine(Config{Log: slog.New(slog.DiscardHandler), Limit: 10 * time.Second, Headers: all})
	if err != nil {
		t.Fatal(err)
	}
	var covers [2]*cover.Cover
	var compiled [2]*ast.Module
	for i := range covers {
		covers[i] = cover.New()
	}
	outcomes := map[bool]int{}
	for i, name := range slices.Sorted(maps.Keys(configs)) {
		var revisions [2]*Revision
		for i := range revisions {
			c, err := FromFS("test", policies.FS)
			if err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				c.Modules[file] = string(before)
			}
			c.Data = map[string]any{"iam": map[string]any{"config": configs[name]}}
			if revisions[i], err = engine.Prepare(t.Context(), c); err != nil {
				t.Fatal(name, err)
			}
			compiled[i] = revisions[i].compiler.Modules[file]
		}
		compiledProgram := revisions[1].machine.program
		if compiledProgram == nil {
			t.Fatalf("topdown evaluates the policy: %+v", revisions[1].Engine())
		}
		w := worlds{rand.New(rand.NewPCG(uint64(i), 7))}
		for range n / len(configs) {
			c := Case{Title: name, Input: w.input(), Directory: w.directory()}
			was, errWas := engine.EvaluateCase(t.Context(), revisions[0], c, rego.EvalQueryTracer(covers[0]))
			is, errIs := engine.EvaluateCase(t.Context(), revisions[1], c, rego.EvalQueryTracer(covers[1]))
			if (errWas != nil) != (errIs != nil) || !reflect.DeepEqual(was, is) {
				t.Fatalf("%s: the decision was\n%v, %v\nand is\n%v, %v\nof %v\nover %v", name, was, errWas, is, errIs, c.Input, c.Directory)
			}
			if !engine.agreesOnCase(t.Context(), revisions[1], program{compiledProgram, entrypoint{Entrypoint, revisions[1].query}}, c) {
				t.Fatalf("%s: the machine decides otherwise about %v\nover %v", name, c.Input, c.Directory)
			}
			allow, _ := is["allow"].(bool)
			outcomes[allow]++
		}
	}
	for i, c := range covers {
		reached := c.Report(map[string]*ast.Module{file: compiled[i]}).Files[file]
		if reached == nil || len(reached.Covered) < 100 {
			t.Fatalf("policy %d has no coverage: %+v", i, reached)
		}
		for _, missed := range reached.NotCovered {
			t.Errorf("policy %d: the worlds do not reach line %d, column %d", i, missed.Start.Row, missed.Start.Col)
		}
	}
	if outcomes[true] < n/10 || outcomes[false] < n/10 {
		t.Errorf("of %d decisions, %v allow", n, outcomes)
	}
}
