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
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"
	"github.com/open-policy-agent/opa/v1/rego"

	"iam-service/internal/policy"
)

// Finding is one thing to mend.
type Finding struct {
	File string
	Line int
	Rule string // what is asked for
	Text string
}

func (f Finding) String() string {
	where := f.File
	if f.Line > 0 {
		where = fmt.Sprintf("%s:%d", f.File, f.Line)
	}
	if where != "" {
		where += ": "
	}
	return fmt.Sprintf("%s%s [%s]", where, f.Text, f.Rule)
}

// CheckOptions are the settings of the service that a policy must fit.
type CheckOptions struct {
	Headers []string // GATEWAY_HEADERS; none: the default set
	Admin   bool     // there is an admin API
}

// Check says all that is to be mended in a folder, and of a good one what comes into force.
func (f *Folder) Check(ctx context.Context, o CheckOptions) ([]Finding, *policy.Revision, error) {
	var found []Finding
	if _, err := f.compile(f.Modules, true); err != nil {
		found = append(found, ofCompiler(err, "strict")...)
	}
	for _, file := range slices.Sorted(maps.Keys(f.Modules)) {
		m := f.Modules[file]
		pretty, err := format.SourceWithOpts(file, f.Sources[file], format.Opts{RegoVersion: ast.RegoV1})
		if err != nil {
			return nil, nil, err
		}
		if !bytes.Equal(pretty, f.Sources[file]) {
			found = append(found, Finding{file, 0, "format", "is not formatted: iam-service policy fmt"})
		}
		if !isTest(file) {
			found = append(found, undescribed(file, m)...)
			found = append(found, f.walks(file, m)...)
		}
		style, err := f.style(ctx, file, m)
		if err != nil {
			return nil, nil, err
		}
		found = append(found, style...)
	}
	revision, err := f.gate(ctx, o)
	if err != nil && len(found) == 0 { // else it may say the same in other words
		found = append(found, ofCompiler(err, "gate")...)
	}
	slices.SortStableFunc(found, func(a, b Finding) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), strings.Compare(a.Rule, b.Rule))
	})
	return slices.Compact(found), revision, nil
}

// gate asks what will decide when it is to come into force.
func (f *Folder) gate(ctx context.Context, o CheckOptions) (*policy.Revision, error) {
	engine, err := policy.NewEngine(policy.Config{Headers: o.Headers, Admin: o.Admin, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	if err := engine.OfferPath(ctx, f.Path); err != nil {
		return nil, err
	}
	return engine.Revision(), nil
}

// ofCompiler makes findings of errors that name file and line.
func ofCompiler(err error, rule string) (found []Finding) {
	many, ok := errors.AsType[ast.Errors](err)
	if !ok {
		return []Finding{{Rule: rule, Text: err.Error()}}
	}
	for _, e := range many {
		f := Finding{Rule: rule, Text: e.Message}
		if e.Location != nil {
			f.File, f.Line = e.Location.File, e.Location.Row
		}
		found = append(found, f)
	}
	return found
}

// Decisive are the names of the sets whose elements grant or deny.
var decisive = []string{"grants", "denials", "refusals"}

var codeShape = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)

// undescribed finds rules that grant or deny and do not say why: title and code are in every
// decision, the description is what who reads one in a year has.
func undescribed(file string, m *ast.Module) (found []Finding) {
	set, errs := ast.BuildAnnotationSet([]*ast.Module{m})
	if len(errs) > 0 {
		return ofCompiler(errs, "metadata")
	}
	for _, r := range m.Rules {
		if len(r.Head.Reference) < 1 || !slices.Contains(decisive, r.Head.Reference[0].Value.String()) && !slices.Contains(decisive, string(r.Head.Name)) {
			continue
		}
		name := cmp.Or(string(r.Head.Name), r.Head.Reference[0].Value.String())
		var missing []string
		a := annotated(set, r)
		code, _ := a.Custom["code"].(string) // none: ""
		for what, has := range map[string]bool{"title": a.Title != "", "description": a.Description != "", "custom.code": code != ""} {
			if !has {
				missing = append(missing, what)
			}
		}
		if len(missing) > 0 {
			slices.Sort(missing)
			found = append(found, Finding{file, r.Location.Row, "metadata", fmt.Sprintf("a rule of %s needs METADATA with %s", name, strings.Join(missing, ", "))})
		} else if !codeShape.MatchString(code) {
			found = append(found, Finding{file, r.Location.Row, "metadata", fmt.Sprintf("the code %q must be of a-z 0-9 _", code)})
		}
	}
	return found
}

// annotated are the annotations of a rule itself, as rego.metadata.rule() has them.
func annotated(set *ast.AnnotationSet, r *ast.Rule) ast.Annotations {
	for _, a := range set.Chain(r) {
		if a.Annotations != nil && a.Annotations.Scope == "rule" {
			return *a.Annotations
		}
	}
	return ast.Annotations{}
}

// collections are those of the directory, with how many keys name one document.
var collections = map[string]int{"users": 2, "clients": 2, "tenants": 1}

// walks finds where a policy would go through a collection of the directory: a document
// must be named by its keys. What it does not find the store refuses.
func (f *Folder) walks(file string, m *ast.Module) (found []Finding) {
	aliases, named := map[string]bool{}, map[ast.Var]bool{} // what is a name of something is no variable
	for _, i := range m.Imports {
		named[i.Name()] = true
		if i.Path.String() == "data.directory" {
			aliases[cmp.Or(string(i.Alias), "directory")] = true
		}
	}
	for _, other := range f.Modules {
		if !other.Package.Equal(m.Package) {
			continue
		}
		for _, r := range other.Rules {
			if head, ok := r.Head.Ref()[0].Value.(ast.Var); ok {
				named[head] = true
			}
		}
	}
	for _, r := range m.Rules {
		bound := boundIn(r)
		maps.Copy(bound, named)
		ast.WalkRefs(r, func(ref ast.Ref) bool {
			rest, ok := ofDirectory(ref, aliases)
			if !ok {
				return false
			}
			finding := Finding{file, ref[0].Location.Row, "walk", fmt.Sprintf("%s is a walk over the directory, which the service refuses: name a document by its keys", ref)}
			if len(rest) == 0 {
				found = append(found, finding)
				return false
			}
			name, _ := rest[0].Value.(ast.String) // a variable: it could be any of them
			keys, known := collections[string(name)]
			switch {
			case !known && name != "":
			case !known, len(rest)-1 < keys:
				found = append(found, finding)
			default:
				for _, key := range rest[1 : 1+keys] {
					if v, isVar := key.Value.(ast.Var); isVar && !bound[v] {
						found = append(found, finding)
						break
					}
				}
			}
			return false
		})
	}
	return found
}

// ofDirectory is what follows data.directory in a reference.
func ofDirectory(ref ast.Ref, aliases map[string]bool) (ast.Ref, bool) {
	head, ok := ref[0].Value.(ast.Var)
	if ok && aliases[string(head)] {
		return ref[1:], true
	}
	if len(ref) >= 2 && head == "data" && ref[1].Value.Compare(ast.String("directory")) == 0 {
		return ref[2:], true
	}
	return nil, false
}

// boundIn are the variables of a rule that something but the directory gives a value:
// arguments, assignments, and elements of other collections.
func boundIn(r *ast.Rule) map[ast.Var]bool {
	bound := map[ast.Var]bool{}
	take := func(x any) {
		vis := ast.NewVarVisitor().WithParams(ast.VarVisitorParams{SkipRefHead: true})
		vis.Walk(x)
		for v := range vis.Vars() {
			bound[v] = true
		}
	}
	for _, arg := range r.Head.Args {
		take(arg)
	}
	ast.WalkExprs(r, func(e *ast.Expr) bool {
		decl, isDecl := e.Terms.(*ast.SomeDecl)
		switch {
		case e.IsAssignment(), e.IsEquality():
			for i := range 2 {
				if v, ok := e.Operand(i).Value.(ast.Var); ok {
					bound[v] = true
				} else if _, ref := e.Operand(i).Value.(ast.Ref); !ref {
					take(e.Operand(i))
				}
			}
		case isDecl:
			for _, s := range decl.Symbols {
				call, ok := s.Value.(ast.Call)
				if !ok {
					continue
				}
				if collection, isRef := call[len(call)-1].Value.(ast.Ref); isRef {
					if _, walk := ofDirectory(collection, nil); walk {
						continue
					}
				}
				for _, v := range call[1 : len(call)-1] {
					take(v)
				}
			}
		}
		return false
	})
	return bound
}

//go:embed style/style.rego
var styleFS embed.FS

// style asks the rules of house style.
func (f *Folder) style(ctx context.Context, file string, m *ast.Module) ([]Finding, error) {
	text, err := styleFS.ReadFile("style/style.rego")
	if err != nil {
		return nil, err
	}
	rs, err := rego.New(rego.Query("data.style.findings"), rego.Module("style.rego", string(text)), rego.Input(prepared(path.Join(path.Base(f.Path), file), m, f.Sources[file]))).Eval(ctx)
	if err != nil {
		return nil, fmt.Errorf("house style: %w", err)
	}
	var found []Finding
	list, _ := rs[0].Expressions[0].Value.([]any) // a set
	for _, x := range list {
		finding, _ := x.(map[string]any) // as style.rego makes it
		line := 0
		_, _ = fmt.Sscan(fmt.Sprint(finding["line"]), &line) // a number
		found = append(found, Finding{file, line, fmt.Sprint(finding["rule"]), fmt.Sprint(finding["text"])})
	}
	return found, nil
}

// prepared is a module as the rules of style see it.
func prepared(file string, m *ast.Module, source []byte) map[string]any {
	rules := []any{}
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
			if e.Negated && e.IsCall() && slices.ContainsFunc(e.Operands(), ofInput) && ast.BuiltinMap[e.Operator().String()] == nil {
				negations = append(negations, map[string]any{"line": e.Location.Row, "text": strings.TrimPrefix(e.String(), "not ")})
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

func ofInput(t *ast.Term) bool {
	ref, ok := t.Value.(ast.Ref)
	return ok && ref.HasPrefix(ast.InputRootRef)
}
