package authoring

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/cover"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"

	"iam-service/internal/policy"
)

// TestOptions of Test.
type TestOptions struct {
	Timeout   time.Duration // of one test; 0: 30 s
	Run       string        // only tests whose names match; coverage is not judged then
	Threshold float64       // least coverage of each file of rules, in percent
	Verbose   bool
	Decisions bool // say what is decided in each case
}

// TestReport is what became of tests.
type TestReport struct {
	Ran, Failed, Cases, CasesFailed int
	Uncovered                       []string // files below the threshold
}

// Good reports whether nothing is to be mended.
func (r TestReport) Good() bool { return r.Failed+r.CasesFailed+len(r.Uncovered) == 0 }

// compile compiles modules under the sandbox; strict also under the schemas.
func (f *Folder) compile(modules map[string]*ast.Module, strict bool) (*ast.Compiler, error) {
	c := ast.NewCompiler().WithCapabilities(policy.Capabilities()).WithEnablePrintStatements(true).SetErrorLimit(0)
	if strict {
		c = c.WithStrict(true).WithSchemas(f.schemaSet()).WithUseTypeCheckAnnotations(true)
	}
	copies := make(map[string]*ast.Module, len(modules))
	for file, m := range modules {
		copies[file] = m.Copy() // the compiler writes into what it compiles
	}
	if c.Compile(copies); c.Failed() {
		return nil, c.Errors
	}
	return c, nil
}

// Test runs the tests beside the rules and the acceptance cases, and prints what fails, and
// which lines no test has seen.
func (f *Folder) Test(ctx context.Context, out io.Writer, o TestOptions) (TestReport, error) {
	var report TestReport
	store := inmem.NewFromObject(maps.Clone(f.Data))
	txn, err := store.NewTransaction(ctx)
	if err != nil {
		return report, err
	}
	defer store.Abort(ctx, txn)
	coverage := cover.New()
	copies := make(map[string]*ast.Module, len(f.Modules))
	for file, m := range f.Modules {
		copies[file] = m.Copy()
	}
	results, err := tester.NewRunner().SetStore(store).SetCompiler(ast.NewCompiler().WithCapabilities(policy.Capabilities()).WithEnablePrintStatements(true)).
		SetModules(copies).CapturePrintOutput(true).SetCoverageQueryTracer(coverage).SetTimeout(cmp.Or(o.Timeout, 30*time.Second)).Filter(o.Run).RunTests(ctx, txn)
	if err != nil {
		return report, err
	}
	kept := make(chan *tester.Result)
	go func() {
		defer close(kept)
		for r := range results {
			report.Ran++
			if !r.Pass() && !r.Skip {
				report.Failed++
			}
			kept <- r
		}
	}()
	if err := (tester.PrettyReporter{Output: out, Verbose: o.Verbose, FailureLine: true, LocalVars: true}).Report(kept); err != nil {
		return report, err
	}
	if report.Ran == 0 {
		return report, fmt.Errorf("no test ran: rules named test_… in files named …_test.rego are tests")
	}
	report.Cases = len(f.Cases)
	if report.CasesFailed, err = f.RunCases(ctx, out, o.Decisions); err != nil || o.Run != "" {
		return report, err
	}
	files := coverage.Report(f.Modules).Files
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if isTest(file) || len(files[file].Covered)+len(files[file].NotCovered) == 0 || files[file].Coverage >= o.Threshold {
			continue
		}
		report.Uncovered = append(report.Uncovered, file)
		fmt.Fprintf(out, "coverage of %s is %.1f %%, %.1f %% are wanted; no test has seen:\n", file, files[file].Coverage, o.Threshold)
		last := 0
		for _, r := range files[file].NotCovered {
			if r.Start.Row != last {
				fmt.Fprintf(out, "  %s:%d\n", file, r.Start.Row)
			}
			last = r.Start.Row
		}
	}
	return report, nil
}
