package authoring

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/cover"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"
	"github.com/open-policy-agent/opa/v1/topdown"

	"iam-service/internal/policy"
)

// TestOptions of Test.
type TestOptions struct {
	Timeout   time.Duration // processor time of one test; 0: 30 s
	Run       string        // only tests whose names match; coverage is not checked then
	Threshold float64       // minimum coverage of each file of rules, in percent
	Verbose   bool
	Decisions bool // print the decision of each case
}

// TestReport is the result of Test.
type TestReport struct {
	Ran, Failed, Cases, CasesFailed int
	Uncovered                       []string // files below the threshold
}

// Passed reports whether all tests and cases pass with enough coverage.
func (r TestReport) Passed() bool { return r.Failed+r.CasesFailed+len(r.Uncovered) == 0 }

// compile compiles modules in the sandbox.
func (f *Folder) compile(modules map[string]*ast.Module) (*ast.Compiler, error) {
	return compileBy(sandboxed(), modules)
}

// compileStrictly also checks types by the schemas.
func (f *Folder) compileStrictly(modules map[string]*ast.Module) (*ast.Compiler, error) {
	return compileBy(sandboxed().WithStrict(true).WithSchemas(f.schemaSet()).WithUseTypeCheckAnnotations(true), modules)
}

func sandboxed() *ast.Compiler {
	return ast.NewCompiler().WithCapabilities(policy.Capabilities()).WithEnablePrintStatements(true).SetErrorLimit(0)
}

func compileBy(c *ast.Compiler, modules map[string]*ast.Module) (*ast.Compiler, error) {
	copies := make(map[string]*ast.Module, len(modules))
	for file, m := range modules {
		copies[file] = m.Copy() // the compiler writes into what it compiles
	}
	if c.Compile(copies); c.Failed() {
		return nil, policy.SuggestSubstitutes(c.Errors)
	}
	return c, nil
}

// Test runs the tests and the acceptance cases, and prints failures and lines that none of
// them covers.
func (f *Folder) Test(ctx context.Context, out io.Writer, o TestOptions) (TestReport, error) {
	var report TestReport
	coverage := cover.New()
	results, err := f.runTests(ctx, o, coverage)
	if err != nil {
		return report, err
	}
	if len(results) == 0 {
		return report, fmt.Errorf("no test ran: rules named test_… in files named …_test.rego are tests")
	}
	all := make(chan *tester.Result, len(results))
	for _, r := range results {
		report.Ran++
		if !r.Pass() && !r.Skip {
			report.Failed++
		}
		all <- r
	}
	close(all)
	if err := (tester.PrettyReporter{Output: out, Verbose: o.Verbose, FailureLine: true, LocalVars: true}).Report(all); err != nil {
		return report, err
	}
	report.Cases = len(f.Cases)
	if report.CasesFailed, err = f.RunCases(ctx, out, o.Decisions, rego.EvalQueryTracer(coverage)); err != nil || o.Run != "" {
		return report, err
	}
	files := coverage.Report(f.Modules).Files
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if isTest(file) || len(files[file].Covered)+len(files[file].NotCovered) == 0 || files[file].Coverage >= o.Threshold {
			continue
		}
		report.Uncovered = append(report.Uncovered, file)
		fmt.Fprintf(out, "coverage of %s is %.1f %%, %.1f %% are required; no test and no case covers:\n", file, files[file].Coverage, o.Threshold)
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

// runTests runs the tests sequentially. A test that exceeds its processor time is cancelled, and
// the others continue. Failed tests run again with a trace, for the values in it: the trace of a
// test that never ends would fill the memory.
func (f *Folder) runTests(ctx context.Context, o TestOptions, coverage topdown.QueryTracer) ([]*tester.Result, error) {
	names, err := f.testNames(o.Run)
	if err != nil {
		return nil, err
	}
	var done []*tester.Result
	for len(names) > 0 {
		some, err := f.runUntilTimeout(ctx, o, testRun{names: names, coverage: coverage})
		if err != nil {
			return nil, err
		}
		before := len(names)
		for _, r := range some {
			names = slices.DeleteFunc(names, func(name string) bool { return name == nameOf(r) })
		}
		done = append(done, some...)
		if len(names) == before {
			break
		}
	}
	var failed []string
	for _, r := range done {
		if r.Fail {
			failed = append(failed, nameOf(r))
		}
	}
	if len(failed) > 0 {
		traced, err := f.runUntilTimeout(ctx, o, testRun{names: failed, trace: true})
		if err != nil {
			return nil, err
		}
		done = append(slices.DeleteFunc(done, func(r *tester.Result) bool {
			return slices.ContainsFunc(traced, func(t *tester.Result) bool { return t.Location.Compare(r.Location) == 0 })
		}), traced...)
	}
	slices.SortFunc(done, func(a, b *tester.Result) int { return a.Location.Compare(b.Location) })
	return done, nil
}

func nameOf(r *tester.Result) string { return r.Package + "." + r.Name }

// testNames are those of the tests that match.
func (f *Folder) testNames(match string) (names []string, err error) {
	pattern, err := regexp.Compile(match)
	if err != nil {
		return nil, fmt.Errorf("--run: %w", err)
	}
	for _, m := range f.Modules {
		for _, r := range m.Rules {
			path := m.Package.Path.Copy()
			for _, t := range r.Head.Ref().GroundPrefix() {
				name, _ := t.Value.(ast.String) // of what is below a rule
				if v, ok := t.Value.(ast.Var); ok {
					name = ast.String(v)
				}
				path = path.Append(ast.StringTerm(string(name)))
				if strings.HasPrefix(string(name), tester.TestPrefix) || strings.HasPrefix(string(name), tester.SkipTestPrefix) {
					if pattern.MatchString(path.String()) {
						names = append(names, path.String())
					}
					break
				}
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// testRun is which tests run, and what is recorded of them.
type testRun struct {
	names    []string
	coverage topdown.QueryTracer // nil: not recorded
	trace    bool
}

// runUntilTimeout runs tests until all are done, or until one is cancelled.
func (f *Folder) runUntilTimeout(ctx context.Context, o TestOptions, r testRun) ([]*tester.Result, error) {
	store := inmem.NewFromObject(maps.Clone(f.Data))
	txn, err := store.NewTransaction(ctx)
	if err != nil {
		return nil, err
	}
	defer store.Abort(ctx, txn)
	copies := make(map[string]*ast.Module, len(f.Modules))
	for file, m := range f.Modules {
		copies[file] = m.Copy()
	}
	exactly := make([]string, len(r.names))
	for i, name := range r.names {
		exactly[i] = regexp.QuoteMeta(name)
	}
	limit := cmp.Or(o.Timeout, 30*time.Second)
	runner := tester.NewRunner().SetStore(store).SetCompiler(ast.NewCompiler().WithCapabilities(policy.Capabilities()).WithEnablePrintStatements(true)).
		SetModules(copies).CapturePrintOutput(true).SetParallel(1).SetTimeout(time.Hour).EnableTracing(r.trace).Filter("^(" + strings.Join(exactly, "|") + ")$")
	if r.coverage != nil {
		runner = runner.SetCoverageQueryTracer(r.coverage)
	}
	running, cut := context.WithCancel(ctx)
	defer cut()
	var began atomic.Int64 // processor time at the start of the current test
	began.Store(int64(policy.CPUTime()))
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-running.Done():
				return
			case <-tick.C:
				if policy.CPUTime()-time.Duration(began.Load()) > limit {
					cut()
				}
			}
		}
	}()
	results, err := runner.RunTests(running, txn)
	if err != nil {
		if many, ok := errors.AsType[ast.Errors](err); ok {
			err = policy.SuggestSubstitutes(many)
		}
		return nil, err
	}
	var done []*tester.Result
	for r := range results {
		began.Store(int64(policy.CPUTime()))
		if r.Error != nil && running.Err() != nil {
			r.Error = fmt.Errorf("it was cancelled: it exceeded %s of processor time (--timeout)", limit)
		}
		done = append(done, r)
	}
	return done, ctx.Err()
}
