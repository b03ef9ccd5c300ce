package policies_test

import (
	"context"
	"encoding/json"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/cover"
	"github.com/open-policy-agent/opa/v1/format"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"

	"iam-service/policies"
)

// modules are all Rego files, and schemas what they are checked against.
func load(t *testing.T) (modules map[string]*ast.Module, data map[string]any, schemas *ast.SchemaSet) {
	t.Helper()
	modules, schemas = map[string]*ast.Module{}, ast.NewSchemaSet()
	data = map[string]any{}
	err := fs.WalkDir(policies.FS, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(policies.FS, name)
		if err != nil {
			return err
		}
		switch {
		case strings.HasSuffix(name, ".rego"):
			m, err := ast.ParseModuleWithOpts(name, string(text), ast.ParserOptions{RegoVersion: ast.RegoV1, ProcessAnnotation: true})
			if err != nil {
				return err
			}
			modules[name] = m
		case strings.HasPrefix(name, "schemas/"):
			var schema any
			if err := json.Unmarshal(text, &schema); err != nil {
				return err
			}
			id := strings.TrimSuffix(strings.TrimPrefix(name, "schemas/"), ".json")
			schemas.Put(ast.MustParseRef("schema."+id), schema)
		case name == "iam/config/data.json":
			var config any
			if err := json.Unmarshal(text, &config); err != nil {
				return err
			}
			data["iam"] = map[string]any{"config": config}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return modules, data, schemas
}

func TestRego(t *testing.T) {
	modules, data, _ := load(t)
	store := inmem.NewFromObject(data)
	ctx := context.Background()
	coverage := cover.New()
	runner := tester.NewRunner().SetStore(store).SetModules(modules).SetCoverageQueryTracer(coverage).SetTimeout(10 * time.Second)
	txn, err := store.NewTransaction(ctx)
	if err != nil {
		t.Fatal(err)
	}
	results, err := runner.RunTests(ctx, txn)
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for r := range results {
		ran++
		t.Run(r.Name, func(t *testing.T) {
			if !r.Pass() {
				t.Errorf("%s", r)
			}
			for name, sub := range r.SubResults {
				if sub.Fail {
					t.Errorf("case failed: %s", name)
				}
			}
		})
	}
	if ran == 0 {
		t.Fatal("no Rego test ran")
	}
	for name, file := range coverage.Report(modules).Files {
		if !strings.HasSuffix(name, "_test.rego") && file.Coverage != 100 {
			t.Errorf("%s: coverage is %v %%, not 100; not covered: %+v", name, file.Coverage, file.NotCovered)
		}
	}
}

func TestTheDefaultPolicyCompilesStrictlyUnderItsSchemas(t *testing.T) {
	modules, _, schemas := load(t)
	for name := range modules {
		if strings.HasSuffix(name, "_test.rego") {
			delete(modules, name)
		}
	}
	c := ast.NewCompiler().WithStrict(true).WithSchemas(schemas).WithUseTypeCheckAnnotations(true)
	if c.Compile(modules); c.Failed() {
		t.Fatal(c.Errors)
	}
}

func TestAMisspeltInputIsFoundByTheSchemas(t *testing.T) {
	modules, _, schemas := load(t)
	m, err := ast.ParseModuleWithOpts("x.rego", `# METADATA
# scope: package
# schemas:
#   - input: schema.enrichment
package iam.x

y := input.request.tenant_hnit`, ast.ParserOptions{RegoVersion: ast.RegoV1, ProcessAnnotation: true})
	if err != nil {
		t.Fatal(err)
	}
	c := ast.NewCompiler().WithSchemas(schemas).WithUseTypeCheckAnnotations(true)
	if c.Compile(map[string]*ast.Module{"x.rego": m, "claims": modules["iam/claims/claims.rego"]}); !c.Failed() {
		t.Fatal("input.request.tenant_hnit passed the schema")
	}
}

func TestEveryRuleThatGrantsOrDeniesHasACode(t *testing.T) {
	modules, _, _ := load(t)
	found := 0
	for name, m := range modules {
		if strings.HasSuffix(name, "_test.rego") {
			continue
		}
		set, errs := ast.BuildAnnotationSet([]*ast.Module{m})
		if len(errs) > 0 {
			t.Fatal(errs)
		}
		for _, r := range m.Rules {
			if n := r.Head.Name.String(); n != "grants" && n != "denials" && n != "refusals" {
				continue
			}
			found++
			var code, title, description string
			for _, a := range set.Chain(r) {
				if a.Annotations != nil && a.Annotations.Scope == "rule" {
					code, _ = a.Annotations.Custom["code"].(string)
					title, description = a.Annotations.Title, a.Annotations.Description
				}
			}
			if code == "" || title == "" || description == "" {
				t.Errorf("%s: the rule needs METADATA with title, description and custom.code", r.Location)
			}
		}
	}
	if found < 10 {
		t.Fatalf("only %d rules were looked at", found)
	}
}

func TestRegoIsFormatted(t *testing.T) {
	err := fs.WalkDir(policies.FS, ".", func(name string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(name, ".rego") {
			return err
		}
		text, err := fs.ReadFile(policies.FS, name)
		if err != nil {
			return err
		}
		want, err := format.SourceWithOpts(name, text, format.Opts{RegoVersion: ast.RegoV1})
		if err != nil {
			return err
		}
		if string(want) != string(text) {
			t.Errorf("%s is not formatted as opa fmt does it; want:\n%s", name, want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
