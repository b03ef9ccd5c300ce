package policy

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"iam-service/internal/directory"
	"iam-service/policies"
)

// authzenOf prepares the default policy with other rules for AuthZEN; nil: its own.
func authzenOf(t *testing.T, rules *string, cases ...Case) (*Engine, *Revision, error) {
	t.Helper()
	engine, err := NewEngine(Config{Log: slog.New(slog.DiscardHandler), VerifyShare: 1})
	if err != nil {
		t.Fatal(err)
	}
	c, err := FromFS("test", policies.FS)
	if err != nil {
		t.Fatal(err)
	}
	const file = "iam/authzen/authzen.rego"
	if rules != nil {
		if c.Modules[file] = *rules; *rules == "" {
			delete(c.Modules, file)
		}
	}
	c.Cases = cases
	r, err := engine.Prepare(t.Context(), c)
	return engine, r, err
}

// The machine evaluates the default policy's rules, and a decision depends on what they name alone.
func TestTheDefaultPolicyDecidesAuthZENByTheMachine(t *testing.T) {
	t.Parallel()
	_, r, err := authzenOf(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Authzen.Engine.Name != EngineMachine || !slices.Equal(r.Authzen.Searches, []string{"subject", "resource", "action"}) {
		t.Errorf("%+v", r.Authzen)
	}
	for _, path := range r.Authzen.CacheKey {
		if strings.HasPrefix(path, "input.context") || strings.HasPrefix(path, "input.client") || path == "input" {
			t.Errorf("the key has %s", path)
		}
	}
	input := func(text string) AuthzenQuestion {
		return r.AuthzenQuestion(ast.MustParseTerm(text).Value.(ast.Object))
	}
	base := input(`{"subject": {"type": "user", "id": "alice", "issuer": "i", "properties": {}}, "tenant": "acme", "context": {"time": "1"}}`)
	for name, c := range map[string]struct {
		input string
		same  bool
	}{
		"another context":   {input: `{"subject": {"type": "user", "id": "alice", "issuer": "i", "properties": {}}, "tenant": "acme", "context": {"time": "2"}}`, same: true},
		"another client":    {input: `{"subject": {"type": "user", "id": "alice", "issuer": "i", "properties": {}}, "tenant": "acme", "client": {"client_id": "x"}}`, same: true},
		"another tenant":    {input: `{"subject": {"type": "user", "id": "alice", "issuer": "i", "properties": {}}, "tenant": "globex"}`},
		"another subject":   {input: `{"subject": {"type": "user", "id": "bob", "issuer": "i", "properties": {}}, "tenant": "acme"}`},
		"another property":  {input: `{"subject": {"type": "user", "id": "alice", "issuer": "i", "properties": {"x": 1}}, "tenant": "acme"}`},
		"an absent tenant":  {input: `{"subject": {"type": "user", "id": "alice", "issuer": "i", "properties": {}}}`},
		"id and issuer":     {input: `{"subject": {"type": "user", "id": "i", "issuer": "alice", "properties": {}}, "tenant": "acme"}`},
		"a tenant of a set": {input: `{"subject": {"type": "user", "id": "alice", "issuer": "i", "properties": {}}, "tenant": ["acme"]}`},
	} {
		if got := input(c.input); (got.Key == base.Key) != c.same {
			t.Errorf("%s: the key is the same: %v", name, !c.same)
		}
	}
}

// The gate: AuthZEN's rules are optional, must be whole, and their acceptance cases are evaluated.
func TestTheGateChecksTheRulesForAuthZEN(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	head := "package iam.authzen\n\n"
	about := func(want *bool, input map[string]any) Case {
		return Case{File: "c.yaml", Title: "a case", Entrypoint: "authzen", Input: input, Want: Want{Allow: want}}
	}
	alice := map[string]any{"subject": map[string]any{"type": "user", "id": "alice"}}
	for name, c := range map[string]struct {
		rules string
		cases []Case
		err   string
	}{
		"without the rules":               {rules: ""},
		"with a decision alone":           {rules: head + `decision := {"allow": input.subject.id == "alice"}`, cases: []Case{about(&yes, alice)}},
		"candidates without a decision":   {rules: head + `candidates := {"actions": []}`, err: "data.iam.authzen.candidates without data.iam.authzen.decision"},
		"a case that fails":               {rules: head + `decision := {"allow": input.subject.id == "alice"}`, cases: []Case{about(&no, alice)}, err: "allow is true, want false"},
		"a case of a rule that is absent": {rules: "", cases: []Case{about(&no, alice)}, err: "the policy has no rule data.iam.authzen.decision"},
		"a case with a misspelt part":     {rules: head + `decision := {"allow": true}`, cases: []Case{about(&yes, map[string]any{"sbject": 1})}, err: "unknown input.sbject: subject, action"},
		"a case whose decision is broken": {rules: head + `decision := {"allow": true, "status": 403}`, cases: []Case{about(&yes, alice)}, err: "it allows with the status 403"},
		"properties are there":            {rules: head + `decision := {"allow": input.subject.properties == {}}`, cases: []Case{about(&yes, alice)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, r, err := authzenOf(t, &c.rules, c.cases...)
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Fatalf("%v, want %q", err, c.err)
			}
			if err == nil && (r.Authzen != nil) != (c.rules != "") {
				t.Errorf("%+v", r.Authzen)
			}
		})
	}
}

// Topdown judges the machine's AuthZEN decisions too: a wrong one is not used, and switches the machine off.
func TestAWrongAuthZENDecisionOfTheMachineIsNotUsed(t *testing.T) {
	t.Parallel()
	engine, err := NewEngine(Config{Log: slog.New(slog.DiscardHandler), VerifyShare: 1, MachineMutant: true})
	if err != nil {
		t.Fatal(err)
	}
	c, err := FromFS("test", policies.FS)
	if err != nil {
		t.Fatal(err)
	}
	c.Modules["iam/authzen/authzen.rego"] = "package iam.authzen\n\nok if input.subject.properties.admin\n\ndecision := {\"allow\": ok} if ok\n\nelse := {\"allow\": false}\n"
	c.Cases = nil
	r, err := engine.Prepare(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if r.machine.activeAuthzen() == nil {
		t.Fatalf("topdown evaluates: %+v", r.Engine())
	}
	facts, err := directory.NewStatic(nil)
	if err != nil {
		t.Fatal(err)
	}
	q := r.AuthzenQuestion(ast.MustParseTerm(`{"subject": {"properties": {"admin": false}}}`).Value.(ast.Object))
	d, err := engine.Authorize(t.Context(), q, Basis{Revision: r, Facts: facts, Deadline: time.Now().Add(10 * time.Second)})
	if err != nil || d.Allow {
		t.Errorf("%+v, %v", d, err)
	}
	if r.Engine().Name != EngineTopdown || engine.mismatches.Load() != 1 {
		t.Errorf("%+v, %d mismatches", r.Engine(), engine.mismatches.Load())
	}
}
