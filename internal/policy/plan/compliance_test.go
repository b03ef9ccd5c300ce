package plan

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/test/cases"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// OPA's own compliance cases: a program answers each as topdown does, or leaves it to topdown.
func TestEveryComplianceCaseOfOPAEvaluatesAsInTopdownOrIsLeftToIt(t *testing.T) {
	t.Parallel()
	counts := map[string]int{}
	reasons := map[string]int{}
	for dir, version := range map[string]ast.RegoVersion{"v0": ast.RegoV0, "v1": ast.RegoV1} {
		for _, c := range cases.MustLoad(filepath.Join(moduleDir(t, "github.com/open-policy-agent/opa"), "v1/test/cases/testdata", dir)).Sorted().Cases {
			outcome, reason := comply(t, c, version)
			counts[outcome]++
			if reason != "" {
				reasons[reason]++
			}
			if outcome == "differs" {
				t.Errorf("%s/%s (%s): %s", dir, c.Note, filepath.Base(c.Filename), reason)
			}
		}
	}
	t.Logf("%v", counts)
	for r, n := range reasons {
		if n > 9 {
			t.Logf("%5d %s", n, r)
		}
	}
	if counts["equal"] < 2500 {
		t.Errorf("the machine answers %d cases, want 2500 or more", counts["equal"])
	}
}

// comply evaluates a case by both.
func comply(t *testing.T, c cases.TestCase, version ast.RegoVersion) (outcome, reason string) {
	t.Helper()
	modules := map[string]*ast.Module{}
	for i, text := range c.Modules {
		opts := ast.ParserOptions{RegoVersion: version}
		if c.ExperimentalKeywords {
			opts.Capabilities = ast.CapabilitiesForThisVersion(ast.CapabilitiesExperimentalKeywords(true))
		}
		m, err := ast.ParseModuleWithOpts(fmt.Sprintf("test-%d.rego", i), text, opts)
		if err != nil {
			t.Fatalf("%s: %v", c.Note, err)
		}
		modules[fmt.Sprintf("test-%d.rego", i)] = m
	}
	compiler := ast.NewCompiler()
	if compiler.Compile(modules); compiler.Failed() {
		if strings.Contains(compiler.Errors.Error(), "undefined function test.sleep") { // OPA's own tests define it
			return "left", "test.sleep"
		}
		t.Fatalf("%s: %v", c.Note, compiler.Errors)
	}
	data := map[string]any{}
	if c.Data != nil {
		data = *c.Data
	}
	var input *ast.Term
	if c.InputTerm != nil {
		input = ast.MustParseTerm(*c.InputTerm)
	} else if c.Input != nil {
		input = ast.NewTerm(ast.MustInterfaceToValue(*c.Input))
	}
	query := ast.MustParseBody(c.Query)
	now := time.Now()

	p, err := compileBody(t.Context(), query, compiler, Options{Data: ast.MustInterfaceToValue(data)})
	if err != nil {
		u, ok := errors.AsType[*UnsupportedError](err)
		if !ok {
			return "differs", err.Error()
		}
		reason, _, _ := strings.Cut(u.Reason, ":")
		return "left", reason
	}
	env := &Env{Context: t.Context(), Now: now}
	if input != nil {
		env.Input = input.Value
	}
	got, release, machineErr := p.run(env)
	defer release()

	compiled, err := compiler.QueryCompiler().Compile(query)
	if err != nil {
		t.Fatalf("%s: %v", c.Note, err)
	}
	store := inmem.NewFromObject(data)
	want, topdownErr := topdown.NewQuery(compiled).WithCompiler(compiler).WithStore(store).WithTransaction(storage.NewTransactionOrDie(t.Context(), store)).
		WithInput(input).WithStrictBuiltinErrors(true).WithTime(now).Run(t.Context())
	switch {
	case machineErr != nil:
		return "left at run time", machineErr.Error()
	case topdownErr != nil:
		return "differs", fmt.Sprintf("topdown fails, and the machine does not: %v", topdownErr)
	}
	wants, gots := ast.NewSet(), ast.NewSet()
	for _, b := range want {
		o := ast.NewObject()
		for k, v := range b {
			if name := string(k); !strings.HasPrefix(name, "__local") {
				o.Insert(ast.StringTerm(name), v)
			}
		}
		wants.Add(ast.NewTerm(o))
	}
	for _, r := range got {
		o := ast.NewObject()
		_, _ = EachField(r.Value, func(k, v *ast.Term) error {
			if name := string(k.Value.(ast.String)); !strings.HasPrefix(name, "^") && !strings.HasPrefix(name, "__local") {
				o.Insert(k, pure(v))
			}
			return nil
		})
		gots.Add(ast.NewTerm(o))
	}
	if wants.Compare(gots) != 0 || wants.String() != gots.String() {
		return "differs", fmt.Sprintf("got %v, topdown %v", gots, wants)
	}
	return "equal", ""
}

func moduleDir(t *testing.T, module string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		t.Fatalf("go list -m %s: %v", module, err)
	}
	return strings.TrimSpace(string(out))
}
