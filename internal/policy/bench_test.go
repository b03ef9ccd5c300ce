package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"iam-service/internal/directory"
	"iam-service/internal/policy"
	"iam-service/policies"
)

const (
	benchIssuer = "https://auth.example.com"
	rounds      = 10
	perRound    = 300
)

func benchFacts(b *testing.B) policy.Facts {
	b.Helper()
	roles := map[string]any{}
	held := []any{}
	for i := range 20 {
		name := fmt.Sprintf("role-%d", i)
		roles[name] = map[string]any{"permissions": []any{name + ":use"}, "inherits": []any{}, "closure": []any{name}}
		if i < 5 {
			held = append(held, name)
		}
	}
	roles["role-3"] = map[string]any{"permissions": []any{}, "inherits": []any{"role-9"}, "closure": []any{"role-3", "role-9"}}
	tenant := map[string]any{"id": "acme", "slug": "acme", "name": "Acme", "status": "active", "attributes": map[string]any{}, "roles": roles,
		"mappings": map[string]any{benchIssuer: map[string]any{"groups": map[string]any{"staff": []any{"role-1"}}}}}
	f, err := directory.NewStatic(map[string]any{
		"users": map[string]any{benchIssuer: map[string]any{
			"alice": map[string]any{"id": "u1", "status": "active", "attributes": map[string]any{}, "platform_roles": []any{},
				"memberships": map[string]any{"acme": map[string]any{"status": "active", "tenant_status": "active", "roles": held, "attributes": map[string]any{}}}},
			"mallory": map[string]any{"id": "u2", "status": "blocked", "attributes": map[string]any{}, "platform_roles": []any{},
				"memberships": map[string]any{"acme": map[string]any{"status": "active", "tenant_status": "active", "roles": held, "attributes": map[string]any{}}}},
		}},
		"clients": map[string]any{benchIssuer: map[string]any{
			"billing": map[string]any{"client_id": "billing", "tenant": "acme", "status": "active", "roles": []any{"role-1"}, "scopes": []any{"document:read"}},
		}},
		"tenants": map[string]any{"acme": tenant},
	})
	if err != nil {
		b.Fatal(err)
	}
	return f
}

// pathRules is a policy with n rules about paths: each compares the path, or asks how it begins.
func pathRules(n int, condition string) *policy.Candidate {
	var text strings.Builder
	text.WriteString("package iam.claims\n\ndecision := {\"allow\": count(denied) == 0, \"tenant\": \"\", \"headers\": {\"X-User-ID\": input.token.sub}}\n\n")
	for i := range n {
		fmt.Fprintf(&text, "denied contains \"r%d\" if {\n\t%s\n\tinput.token.sub != \"alice\"\n}\n\n", i, fmt.Sprintf(condition, i))
	}
	return &policy.Candidate{Source: "test", Roots: []string{"iam"}, Modules: map[string]string{"iam/claims/p.rego": text.String()},
		Data: map[string]any{"iam": map[string]any{"config": map[string]any{"headers": []any{"X-User-ID"}}}}}
}

// BenchmarkEngines prints the CPU of one evaluation by the machine and by topdown, in turn within each round,
// for each kind of request under the default policy and for policies with many rules.
func BenchmarkEngines(b *testing.B) {
	embedded, err := policy.FromFS("embedded", policies.FS)
	if err != nil {
		b.Fatal(err)
	}
	facts := benchFacts(b)
	claims := func(sub, client string, more map[string]any) map[string]any {
		c := map[string]any{"iss": benchIssuer, "client_id": client, "aud": "api", "exp": 2e9}
		if sub != "" {
			c["sub"] = sub
		}
		for k, v := range more {
			c[k] = v
		}
		return c
	}
	member := claims("alice", "web", nil)
	for _, c := range []struct {
		name   string
		policy *policy.Candidate
		claims map[string]any // nil: no token
		hint   string
		allow  bool
	}{
		{"member", embedded, member, "", true},
		{"member, tenant requested", embedded, member, "acme", true},
		{"program", embedded, claims("billing", "billing", map[string]any{"scope": "document:read document:write"}), "", true},
		{"mapped", embedded, claims("stranger", "web", map[string]any{"groups": []any{"staff"}}), "acme", true},
		{"denied: user blocked", embedded, claims("mallory", "web", nil), "acme", false},
		{"denied: user unknown", embedded, claims("nobody", "web", nil), "acme", false},
		{"anonymous", embedded, nil, "", true},
		{"10 rules, equal paths", pathRules(10, `input.request.path == "/p/%d"`), member, "", true},
		{"200 rules, equal paths", pathRules(200, `input.request.path == "/p/%d"`), member, "", true},
		{"2000 rules, equal paths", pathRules(2000, `input.request.path == "/p/%d"`), member, "", true},
		{"10 rules, path prefixes", pathRules(10, `startswith(input.request.path, "/p/%d/")`), member, "", true},
		{"190 rules, path prefixes", pathRules(190, `startswith(input.request.path, "/p/%d/")`), member, "", true},
	} {
		var engines [2]*policy.Engine
		for i := range engines {
			engines[i] = configured(b, func(cfg *policy.Config) {
				cfg.Topdown, cfg.Settings = i == 1, map[string]string{"unknown_users": "mapped"}
			})
			if err := engines[i].Submit(ctx, c.policy); err != nil {
				b.Fatal(c.name, err)
			}
		}
		if got := engines[0].Status().Engine; got.Name != policy.EngineMachine {
			b.Fatalf("%s: %+v", c.name, got)
		}
		evaluate := func(e *policy.Engine, n int) (us, allocs float64) {
			r := e.Revision()
			q := policy.Input{Now: time.Now(), Anonymous: c.claims == nil}
			q.Fields[policy.Gateway], q.Fields[policy.Method], q.Fields[policy.Path], q.Fields[policy.TenantHint] = "traefik", "GET", "/p/7", c.hint
			if c.claims != nil {
				sub, _ := c.claims["sub"].(string)
				client, _ := c.claims["client_id"].(string)
				q.Token = r.Token(benchIssuer, sub, client, ast.MustInterfaceToValue(c.claims))
			}
			by := policy.Basis{Revision: r, Facts: facts, Deadline: time.Now().Add(time.Hour)}
			decide := func() {
				if d, err := e.Decide(ctx, &q, by); err != nil || d.Allow != c.allow {
					b.Fatalf("%s: %+v, %v", c.name, d, err)
				}
			}
			began := policy.CPUTime()
			for range n {
				decide()
			}
			us = float64((policy.CPUTime() - began).Nanoseconds()) / 1000 / float64(n)
			return us, testing.AllocsPerRun(10, decide)
		}
		var us [2][]float64
		var ratios []float64
		var allocs [2]float64
		for i := range rounds + 1 {
			var m, t float64
			m, allocs[0] = evaluate(engines[0], 5*perRound)
			t, allocs[1] = evaluate(engines[1], perRound)
			if i > 0 { // the first fills the caches
				us[0], us[1], ratios = append(us[0], m), append(us[1], t), append(ratios, t/m)
			}
		}
		for _, list := range [][]float64{us[0], us[1], ratios} {
			slices.Sort(list)
		}
		fmt.Printf("engine: %-26s machine %7.1f µs, topdown %8.1f µs: %6.1f× (middle half %.1f to %.1f), %.0f allocations, %.0f by topdown\n",
			c.name, us[0][rounds/2], us[1][rounds/2], ratios[rounds/2], ratios[rounds/4], ratios[3*rounds/4], allocs[0], allocs[1])
	}
}
