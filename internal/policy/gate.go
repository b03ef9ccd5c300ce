package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"

	"iam-service/internal/directory"
)

// Prepare takes c through the gate: it returns a revision, which it does not activate, or
// an error that names every fault.
func (e *Engine) Prepare(ctx context.Context, c *Candidate) (*Revision, error) {
	return e.gate(ctx, c, c.Digest())
}

func (e *Engine) gate(ctx context.Context, c *Candidate, digest string) (*Revision, error) {
	// A candidate is compiled here only after a child has compiled it within the limits.
	checked := len(e.cfg.Child) > 0 && !c.Embedded
	left := "" // why topdown must evaluate it
	if checked {
		var err error
		if left, err = e.inChild(ctx, gateJob{Candidate: c}); err != nil {
			return nil, err
		}
	}
	r, err := e.compile(ctx, c, digest)
	if err == nil && !checked {
		err = casesError(e.failingCases(ctx, r, c.Cases))
	}
	switch {
	case err != nil:
		return nil, err
	case left != "":
		r.machine = &machine{}
		r.machine.switchOff(left)
	case checked:
		e.planned(ctx, r, nil) // the child has compared the cases
	default:
		e.planned(ctx, r, c.Cases)
	}
	e.applyOff(r)
	return r, nil
}

// Check is Prepare without the acceptance cases.
func (e *Engine) Check(ctx context.Context, c *Candidate) (*Revision, error) {
	return e.compile(ctx, c, c.Digest())
}

// compile is the gate without the acceptance cases. A candidate that makes the compiler
// panic is rejected like any other.
func (e *Engine) compile(ctx context.Context, c *Candidate, digest string) (_ *Revision, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it makes the compiler panic: %v", p)
		}
	}()
	if err := checkRoots(c.Roots); err != nil {
		return nil, err
	}
	compiler, err := compile(c)
	if err != nil {
		return nil, err
	}
	if len(compiler.GetRulesExact(ast.MustParseRef(Entrypoint))) == 0 {
		return nil, fmt.Errorf("it has no rule %s, the entrypoint", Entrypoint)
	}
	administers := len(compiler.GetRulesExact(ast.MustParseRef(AdminEntrypoint))) > 0
	if e.cfg.Admin && !administers {
		return nil, fmt.Errorf("it has no rule %s: all administration would be denied; add policies/iam/admin to it", AdminEntrypoint)
	}
	data, err := ast.InterfaceToValue(c.Data)
	if err != nil {
		return nil, fmt.Errorf("its data: %w", err)
	}
	if n := invalidNumber(data); n != nil {
		return nil, fmt.Errorf("its data: %w", errOutOfBounds(n))
	}
	unvalidated, err := c.checkData(compiler.Modules)
	if err != nil {
		return nil, err
	}
	r := &Revision{Digest: digest, ID: digest[:12], Name: c.Name, Source: c.Source, Since: time.Now().UTC(), number: revisions.Add(1), administers: administers,
		Cases: len(c.Cases), compiler: compiler, store: &revisionStore{data}}
	if err := e.readConfig(r, c.Data); err != nil {
		return nil, err
	}
	if err := r.analyze(compiler); err != nil {
		return nil, err
	}
	r.Unvalidated = unvalidated
	prepare := func(entrypoint string) (rego.PreparedEvalQuery, error) {
		q, err := rego.New(
			rego.Query(entrypoint),
			rego.Compiler(compiler),
			rego.Store(r.store),
			rego.StrictBuiltinErrors(true), // a builtin that fails is an error, never an undefined that a "not" turns into a yes
		).PrepareForEval(ctx)
		if err != nil {
			return q, fmt.Errorf("prepare %s: %w", entrypoint, err)
		}
		return q, nil
	}
	if r.query, err = prepare(Entrypoint); err != nil {
		return nil, err
	}
	if err := r.prepareAuthzen(prepare); err != nil {
		return nil, err
	}
	if len(c.Cases) == 0 && !c.Embedded {
		r.Warnings = append(r.Warnings, "it has no acceptance cases (cases/*.yaml, which iam-service policy build includes)")
	}
	if !administers {
		r.Warnings = append(r.Warnings, "it has no rule "+AdminEntrypoint+": a service with an admin API rejects it")
		return r, nil
	}
	if r.admin, err = prepare(AdminEntrypoint); err != nil {
		return nil, err
	}
	return r, nil
}

// checkRoots rejects roots that belong to the service.
func checkRoots(roots []string) error {
	var errs []error
	for _, root := range roots {
		first, _, _ := strings.Cut(strings.Trim(root, "/"), "/")
		switch first {
		case "":
			errs = append(errs, errors.New(`it claims the root "", all of data: add a .manifest with its roots, such as {"roots": ["iam"]}`))
		case directory.Root, "system":
			errs = append(errs, fmt.Errorf("it claims the root %q, which belongs to the service", root))
		}
	}
	return errors.Join(errs...)
}

// compile compiles the modules under the allow-list. Its errors name file and line.
func compile(c *Candidate) (*ast.Compiler, error) {
	modules := make(map[string]*ast.Module, len(c.Modules))
	var errs ast.Errors
	for _, file := range slices.Sorted(maps.Keys(c.Modules)) {
		m, err := ast.ParseModuleWithOpts(file, c.Modules[file], ast.ParserOptions{
			RegoVersion: ast.RegoV1, ProcessAnnotation: true, Capabilities: Capabilities(),
		})
		if err != nil {
			if many, ok := errors.AsType[ast.Errors](err); ok {
				errs = append(errs, many...)
				continue
			}
			return nil, err
		}
		if err := ownPackage(m, c.Roots); err != nil {
			return nil, err
		}
		if n := invalidNumber(m); n != nil {
			return nil, fmt.Errorf("%s: %w", n.Location, errOutOfBounds(n))
		}
		modules[file] = m
	}
	if len(errs) > 0 {
		return nil, errs
	}
	compiler := ast.NewCompiler().WithCapabilities(Capabilities()).WithPathConflictsCheck(func(path []string) (bool, error) {
		return hasData(c.Data, path), nil
	})
	if compiler.Compile(modules); compiler.Failed() {
		return nil, SuggestSubstitutes(compiler.Errors)
	}
	return compiler, nil
}

// ownPackage rejects a module outside of the roots.
func ownPackage(m *ast.Module, roots []string) error {
	path := strings.TrimPrefix(strings.ReplaceAll(m.Package.Path.String(), ".", "/"), "data/")
	for _, root := range roots {
		if root = strings.Trim(root, "/"); path == root || strings.HasPrefix(path, root+"/") {
			return nil
		}
	}
	return fmt.Errorf("%s: package %s is outside of the roots %q", m.Package.Location, path, roots)
}

// hasData reports whether data has something at path.
func hasData(data map[string]any, path []string) bool {
	var at any = data
	for _, step := range path {
		m, ok := at.(map[string]any)
		if !ok {
			return at != nil
		}
		if at, ok = m[step]; !ok {
			return false
		}
	}
	m, ok := at.(map[string]any)
	return !ok || len(m) > 0
}

// readConfig reads data.iam.config: the headers, and which requests are anonymous.
func (e *Engine) readConfig(r *Revision, data map[string]any) error {
	const where = "data.iam.config.headers"
	root, _ := data["iam"].(map[string]any)
	config, _ := root["config"].(map[string]any) // a nil map has no keys
	list, ok := config["headers"].([]any)
	if !ok || len(list) == 0 {
		return fmt.Errorf("%s must be a list of the headers it sets", where)
	}
	r.declares = make([]bool, len(e.names))
	var errs []error
	for n, x := range list {
		where := fmt.Sprintf("%s[%d]", where, n)
		name, ok := x.(string)
		if !ok {
			errs = append(errs, fmt.Errorf("%s: %v is not the name of a header", where, x))
			continue
		}
		if err := e.checkDeclared(name, r.compiler.Modules); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", where, err))
			continue
		}
		r.declares[e.index[http.CanonicalHeaderKey(name)]] = true
		r.Headers = append(r.Headers, name)
	}
	anonymous, _ := config["anonymous"].(map[string]any) // absent: no request is
	r.preflight, _ = anonymous["preflight"].(bool)
	paths, _ := anonymous["paths"].([]any)
	for _, x := range paths {
		prefix, ok := x.(string)
		if !ok || !strings.HasPrefix(prefix, "/") {
			errs = append(errs, fmt.Errorf("data.iam.config.anonymous.paths: %v must be a path that begins with /", x))
		}
		r.anonymousPaths = append(r.anonymousPaths, prefix)
	}
	return errors.Join(errs...)
}
