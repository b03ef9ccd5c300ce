package authoring

import (
	"bytes"
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"
	"github.com/open-policy-agent/opa/v1/rego"

	"iam-service/internal/policy"
)

// Finding is one thing to fix.
type Finding struct {
	File    string   `json:"file,omitempty"`
	Line    int      `json:"line,omitempty"`
	Column  int      `json:"column,omitempty"`
	Rule    string   `json:"rule"` // one of checks
	Text    string   `json:"text"`
	Details []string `json:"details,omitempty"` // of the compiler: the actual and the expected types
}

func (f Finding) String() string {
	where := f.File
	if f.Line > 0 {
		where += fmt.Sprintf(":%d", f.Line)
	}
	if f.Line > 0 && f.Column > 0 {
		where += fmt.Sprintf(":%d", f.Column)
	}
	if where != "" {
		where += ": "
	}
	text := fmt.Sprintf("%s%s [%s]", where, f.Text, f.Rule)
	for _, line := range f.Details {
		text += "\n    " + line
	}
	return text
}

func compareFindings(a, b Finding) int {
	return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), strings.Compare(a.Rule, b.Rule), strings.Compare(a.Text, b.Text))
}

// at is a finding at a location.
func at(l *ast.Location, rule, text string) Finding {
	f := Finding{Rule: rule, Text: text}
	if l != nil {
		f.File, f.Line, f.Column = l.File, l.Row, l.Col
	}
	return f
}

// CheckOptions are the settings of the service that a policy must fit.
type CheckOptions struct {
	Headers []string // GATEWAY_HEADERS; none: the default set
	Admin   bool     // there is an admin API
	Child   []string // as in policy.Config, for bundles of other authors
}

// Check reports every finding in a folder, and the revision of a valid one.
func (f *Folder) Check(ctx context.Context, o CheckOptions) ([]Finding, *policy.Revision, error) {
	found, err := f.compiles()
	if err != nil {
		return nil, nil, err
	}
	found = append(found, f.notLoaded()...)
	for _, file := range slices.Sorted(maps.Keys(f.Modules)) {
		m := f.Modules[file]
		pretty, err := format.SourceWithOpts(file, f.Sources[file], format.Opts{RegoVersion: ast.RegoV1})
		if err != nil {
			return nil, nil, err
		}
		if !bytes.Equal(pretty, f.Sources[file]) {
			found = append(found, Finding{File: file, Rule: "format", Text: "is not formatted: iam-service policy fmt"})
		}
		if !isTest(file) {
			found = append(found, undescribed(m)...)
			found = append(found, f.walks(file, m)...)
		}
		style, err := f.style(ctx, file, m)
		if err != nil {
			return nil, nil, err
		}
		found = append(found, style...)
	}
	revision, err := gate(ctx, o, (*policy.Engine).Check, func(e *policy.Engine) (*policy.Candidate, error) { return e.FromPath(f.Path) })
	if strict := slices.ContainsFunc(found, func(f Finding) bool { return f.Rule == "strict" }); err != nil && !strict { // strict reports the same
		found = append(found, f.gateFindings(err)...)
	}
	for _, x := range unvalidated(revision) {
		x.File = f.dataFile(x.Text)
		found = append(found, x)
	}
	slices.SortStableFunc(found, compareFindings)
	return slices.CompactFunc(found, func(a, b Finding) bool { return compareFindings(a, b) == 0 }), revision, nil
}

// unvalidated finds the data of a revision that no schema describes. The gate accepts them with a warning, since a bundle
// that OPA's own tools have packed carries no schemas.
func unvalidated(r *policy.Revision) (found []Finding) {
	if r == nil {
		return nil
	}
	for _, text := range r.Unvalidated {
		found = append(found, Finding{Rule: "schema", Text: text})
	}
	return found
}

// compiles reports the errors of OPA's strict compiler, with types for all policy input, and
// unreachable rules and undefined references.
func (f *Folder) compiles() (found []Finding, err error) {
	rules := f.rules()
	var by map[*ast.Rule]int
	if plain, err := f.compile(rules); err == nil {
		by = reachedBy(plain)
		found = append(f.unreached(plain, by), f.undefined(plain)...)
	}
	typed, err := f.contract(by)
	if err != nil {
		return nil, err
	}
	maps.Copy(typed, rules)
	for _, modules := range []map[string]*ast.Module{typed, f.Modules} {
		if _, err := f.compileStrictly(modules); err != nil {
			found = append(found, compilerFindings(err, "strict")...)
		}
	}
	return found, nil
}

// Check checks a folder, of which all errors of parsing are findings too, or asks the gate
// about a bundle.
func Check(ctx context.Context, name string, o CheckOptions) ([]Finding, *policy.Revision, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, nil, err
	}
	if !info.IsDir() {
		revision, err := CheckBundle(ctx, name, o)
		if err != nil {
			return compilerFindings(err, "gate"), nil, nil
		}
		return unvalidated(revision), revision, nil
	}
	f, err := Load(name)
	if many, ok := errors.AsType[ast.Errors](err); ok {
		return compilerFindings(many, "parse"), nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	return f.Check(ctx, o)
}

// gate runs the service's own gate: by Prepare with the acceptance cases, by Check without, since policy test runs them.
func gate(ctx context.Context, o CheckOptions, check gateFunc, read func(*policy.Engine) (*policy.Candidate, error)) (*policy.Revision, error) {
	engine, err := policy.NewEngine(policy.Config{Headers: o.Headers, Admin: o.Admin, Child: o.Child, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	c, err := read(engine)
	if err != nil {
		return nil, err
	}
	return check(engine, ctx, c)
}

type gateFunc func(*policy.Engine, context.Context, *policy.Candidate) (*policy.Revision, error)

// gateFindings turns the errors of the gate into findings. The gate knows files by their names in the bundle,
// and reports of data.iam.config only what is invalid.
func (f *Folder) gateFindings(err error) (found []Finding) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range joined.Unwrap() {
			found = append(found, f.gateFindings(one)...)
		}
		return found
	}
	found = compilerFindings(err, "gate")
	for i, x := range found {
		switch {
		case x.File != "":
			found[i].File = f.display(x.File)
		case strings.HasPrefix(x.Text, "data.iam.config"):
			_, rest, _ := strings.Cut(x.Text, ": ")
			word, _, _ := strings.Cut(rest, " ")
			found[i].File, found[i].Line, found[i].Column = f.whereData("iam/config", word)
		}
	}
	return found
}

// dataFile is the file of the data that a text begins with, as in "data.iam.limits is …".
func (f *Folder) dataFile(text string) string {
	ref, _, _ := strings.Cut(text, " ")
	for at := strings.ReplaceAll(strings.TrimPrefix(ref, "data."), ".", "/"); at != "."; at = path.Dir(at) {
		if file, _, _ := f.whereData(at, ""); file != "" {
			return file
		}
	}
	return f.Path
}

// whereData finds a word in the data file of a folder; the file alone where it is not there.
func (f *Folder) whereData(folder, word string) (file string, line, column int) {
	for _, name := range []string{"data.json", "data.yaml", "data.yml"} {
		text, err := os.ReadFile(filepath.Join(f.Path, folder, name))
		if err != nil {
			continue
		}
		file = f.display(path.Join(folder, name))
		for i, l := range strings.Split(string(text), "\n") {
			if at := strings.Index(l, word); at >= 0 && word != "" {
				return file, i + 1, at + 1
			}
		}
	}
	return file, 0, 0
}

// compilerFindings makes findings of errors that name file and line.
func compilerFindings(err error, rule string) (found []Finding) {
	many, ok := errors.AsType[ast.Errors](err)
	if !ok {
		return []Finding{{Rule: rule, Text: err.Error()}}
	}
	for _, e := range many {
		f := at(e.Location, rule, e.Message)
		if e.Details != nil {
			f.Details = e.Details.Lines()
		}
		if strings.HasPrefix(e.Message, "undefined ref: input.token.") {
			f.Details = append(f.Details, `a claim of your provider's is declared in schemas/claims.json: {"properties": {"auth_time": {"type": "number"}}}`)
		}
		found = append(found, f)
	}
	return found
}

// Decisive are the names of the sets whose elements grant or deny.
var decisive = []string{"grants", "denials", "refusals"}

var codeShape = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)

// undescribed finds rules that grant or deny without METADATA: title and code are part of every
// decision, the description explains it to later readers.
func undescribed(m *ast.Module) (found []Finding) {
	set, errs := ast.BuildAnnotationSet([]*ast.Module{m})
	if len(errs) > 0 {
		return compilerFindings(errs, "metadata")
	}
	for _, r := range m.Rules {
		name := setOf(r)
		if !slices.Contains(decisive, name) {
			continue
		}
		var missing []string
		a := ruleAnnotations(set, r)
		code, _ := a.Custom["code"].(string) // absent: ""
		for what, has := range map[string]bool{"title": a.Title != "", "description": a.Description != "", "custom.code": code != ""} {
			if !has {
				missing = append(missing, what)
			}
		}
		if len(missing) > 0 {
			slices.Sort(missing)
			found = append(found, at(r.Location, "metadata", fmt.Sprintf("a rule of %s needs METADATA with %s", name, strings.Join(missing, ", "))))
		} else if !codeShape.MatchString(code) {
			found = append(found, at(r.Location, "metadata", fmt.Sprintf("the code %q must be of a-z 0-9 _", code)))
		}
	}
	return found
}

// setOf is the name of the set or object that a rule adds to, in any package:
// grants of "grants contains x", "claims.grants contains x" and "claims[\"grants\"][x]".
func setOf(r *ast.Rule) string {
	for _, t := range slices.Backward(r.Head.Ref()) {
		switch v := t.Value.(type) {
		case ast.Var:
			if slices.Contains(decisive, string(v)) {
				return string(v)
			}
		case ast.String:
			if slices.Contains(decisive, string(v)) {
				return string(v)
			}
		}
	}
	return ""
}

// ruleAnnotations are the annotations of a rule itself, as rego.metadata.rule() has them.
func ruleAnnotations(set *ast.AnnotationSet, r *ast.Rule) ast.Annotations {
	for _, a := range set.Chain(r) {
		if a.Annotations != nil && a.Annotations.Scope == "rule" {
			return *a.Annotations
		}
	}
	return ast.Annotations{}
}

//go:embed style/style.rego
var styleFS embed.FS

// style evaluates the rules of house style.
func (f *Folder) style(ctx context.Context, file string, m *ast.Module) ([]Finding, error) {
	text, err := styleFS.ReadFile("style/style.rego")
	if err != nil {
		return nil, err
	}
	input := styleInput(path.Join(path.Base(f.Path), f.rel(file)), m, f.Sources[file])
	rs, err := rego.New(rego.Query("data.style.findings"), rego.Module("style.rego", string(text)), rego.Input(input)).Eval(ctx)
	if err != nil {
		return nil, fmt.Errorf("house style: %w", err)
	}
	var found []Finding
	list, _ := rs[0].Expressions[0].Value.([]any) // a set
	for _, x := range list {
		finding, _ := x.(map[string]any) // as style.rego makes it
		line := 0
		_, _ = fmt.Sscan(fmt.Sprint(finding["line"]), &line) // a number
		found = append(found, Finding{File: file, Line: line, Rule: fmt.Sprint(finding["rule"]), Text: fmt.Sprint(finding["text"])})
	}
	return found, nil
}

// styleInput is a module as the rules of style see it.
func styleInput(file string, m *ast.Module, source []byte) map[string]any {
	rules, named := []any{}, map[ast.Var]bool{}
	for _, r := range m.Rules {
		if head, ok := r.Head.Ref()[0].Value.(ast.Var); ok && len(r.Head.Args) == 0 {
			named[head] = true
		}
	}
	for _, r := range m.Rules {
		name := string(r.Head.Name)
		if name == "" {
			name = strings.TrimPrefix(r.Head.Reference[0].Value.String(), "data.")
		}
		arguments, negations := []any{}, []any{}
		for _, a := range r.Head.Args {
			if v, ok := a.Value.(ast.Var); ok && !v.IsWildcard() {
				arguments = append(arguments, string(v))
			}
		}
		prints := false
		ast.WalkExprs(r, func(e *ast.Expr) bool {
			prints = prints || e.IsCall() && e.Operator().String() == "print"
			if e.Negated && e.IsCall() && !e.IsEquality() && e.Operator().String() != "equal" && slices.ContainsFunc(e.Operands(), canBeUndefined(named)) {
				negations = append(negations, map[string]any{"line": e.Location.Row, "text": strings.TrimPrefix(string(e.Location.Text), "not ")})
			}
			return false
		})
		rules = append(rules, map[string]any{"name": name, "line": r.Location.Row, "arguments": arguments, "prints": prints, "negations": negations})
	}
	return map[string]any{
		"file": file, "package": strings.TrimPrefix(m.Package.Path.String(), "data."),
		"lines": strings.Split(strings.TrimSuffix(string(source), "\n"), "\n"), "rules": rules,
	}
}

// canBeUndefined reports whether a term can be undefined: somewhere in it stands the input, or
// a rule.
func canBeUndefined(rules map[ast.Var]bool) func(*ast.Term) bool {
	return func(t *ast.Term) (found bool) {
		ast.WalkTerms(t, func(t *ast.Term) bool {
			switch v := t.Value.(type) {
			case ast.Ref:
				head, _ := v[0].Value.(ast.Var) // a call has no head of this sort
				found = found || v.HasPrefix(ast.InputRootRef) || rules[head]
			case ast.Var:
				found = found || rules[v]
			}
			return found
		})
		return found
	}
}
