package policy

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/dependencies"

	"iam-service/policies"
)

// heads are rules that begin in all ways that Rego has.
var heads = []string{
	"_h[\"X-Email\"] := \"a\"\n\n_h[\"X-Email\"] := input.token.email if input.token.email\n\ndecision := {\"headers\": _h}",
	"_h[\"X-Email\"] := \"a\"\n\n_h[k] := \"a\" if some k in input.token.groups\n\ndecision := {\"headers\": _h}",
	"_h[\"X\"] := \"a\"\n\n_h[\"X\"] := \"a\"\n\ndecision := {\"headers\": _h}",
	"_h.a[\"X\"].c := 1\n\n_h.a[x].d contains x if some x in input.token.groups\n\ndecision := {\"headers\": _h}",
	"_h contains \"a\"\n\n_h contains x if x := input.token.x\n\ndecision := {\"headers\": _h}",
	"_h[\"a\"]\n\n_h[\"b\"] if input.token.x\n\ndecision := {\"headers\": _h}",
	"_h := 1 if input.token.x\n\nelse := input.token.y\n\ndefault _h := {}\n\ndecision := {\"headers\": _h}",
	"_f(\"a\") := 1\n\n_f(x) := x if x == input.token.x\n\n_f([x, {\"y\": _}]) := x\n\ndecision := {\"headers\": _f(input.token.z)}",
	"_h[input.token.x] := 1\n\n_h[\"y\"] := 2\n\ndecision := {\"headers\": _h}",
	"_h[[input.token.x, 1]] := 1\n\n_h[{1}] := 2\n\ndecision := {\"headers\": _h}",
	"decision[\"allow\"] := true\n\ndecision[k] := input.token[k] if k := input.token.k",
}

func gated(t testing.TB, body string) (*Revision, error) {
	t.Helper()
	e, err := NewEngine(Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return e.Check(context.Background(), &Candidate{
		Roots: []string{"iam"}, Modules: map[string]string{"iam/claims/p.rego": "package iam.claims\n\n" + body + "\n"},
		Data: map[string]any{"iam": map[string]any{"config": map[string]any{"headers": []any{"X-User-ID"}}}},
	})
}

// A header that is a constant next to a rule for the same one was a panic of OPA's.
func TestAConstantHeaderPassesTheGate(t *testing.T) {
	t.Parallel()
	r, err := gated(t, heads[0])
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(r.CacheKey, []string{"input.token.email"}) {
		t.Errorf("it sees %v", r.CacheKey)
	}
}

// Our walk finds what OPA's finds, where that does not panic.
func TestDependenciesOfAPolicyMatchOPA(t *testing.T) {
	t.Parallel()
	embedded, err := FromFS("embedded", policies.FS)
	if err != nil {
		t.Fatal(err)
	}
	candidates := map[string]*Candidate{"embedded": embedded}
	for _, body := range heads {
		candidates[body] = &Candidate{Roots: []string{"iam"}, Modules: map[string]string{"iam/claims/p.rego": "package iam.claims\n\n" + body + "\n"}}
	}
	compared := 0
	for name, c := range candidates {
		compiler, err := compile(c)
		if err != nil {
			continue // TestEveryHeadPassesTheGateOrIsRefused has it
		}
		for _, entrypoint := range []string{Entrypoint, AdminEntrypoint} {
			if entrypoint == AdminEntrypoint && name != "embedded" {
				continue
			}
			q, err := compiler.QueryCompiler().Compile(ast.MustParseBody(entrypoint))
			if err != nil {
				t.Fatal(err)
			}
			theirs, panics := basePanics(compiler, q)
			if panics {
				continue
			}
			compared++
			ours, err := baseRefs(compiler, q, map[*ast.Rule]bool{})
			if err != nil {
				t.Fatal(err)
			}
			if a, b := refNames(ours), refNames(theirs); name == "embedded" && len(a) < 5 || !slices.Equal(a, b) {
				t.Errorf("%s of %s: we find %v, OPA %v", entrypoint, name, a, b)
			}
		}
	}
	if compared < 7 {
		t.Errorf("only %d policies were compared", compared)
	}
}

// basePanics is dependencies.Base, which panics over some heads.
func basePanics(compiler *ast.Compiler, q ast.Body) (refs []ast.Ref, panics bool) {
	defer func() { panics = recover() != nil }()
	refs, err := dependencies.Base(compiler, q)
	if err != nil {
		panic(err)
	}
	return refs, false
}

func refNames(refs []ast.Ref) []string {
	m := map[string]bool{}
	for _, r := range refs {
		m[r.String()] = true
	}
	return slices.Sorted(maps.Keys(m))
}

// FuzzGate: no policy makes the gate panic. What does is refused all the same, and would
// keep a good policy out.
func FuzzGate(f *testing.F) {
	for _, text := range heads {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, body string) {
		if len(body) > 2000 {
			return // a long one takes long
		}
		if _, err := gated(t, body); err != nil && strings.Contains(err.Error(), "panic") {
			t.Error(err)
		}
	})
}
