package policy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/dependencies"
	"github.com/open-policy-agent/opa/v1/rego"

	"iam-service/internal/directory"
)

// Candidate is a policy that might come into force.
type Candidate struct {
	Source  string            // where it came from, for people
	Name    string            // the revision that its manifest claims; may be empty
	Roots   []string          // what its manifests claim of data
	Modules map[string]string // file → Rego
	Data    map[string]any
	Cases   []Case         // what it must decide, or it does not come into force
	Schemas map[string]any // of its data, by name: schemas/NAME.json

	Verified string // by whom: iam.VerifiedByKey, …
	Packed   []byte `json:"-"` // as it was signed; nil: nobody has
	Embedded bool   `json:"-"` // part of the program: nothing that another replica should follow
}

// Digest is over what is evaluated and what is accepted, so that two names for the same
// bytes are one.
func (c *Candidate) Digest() string {
	h := sha256.New()
	for _, file := range slices.Sorted(maps.Keys(c.Modules)) {
		fmt.Fprintf(h, "%d %s %d %s", len(file), file, len(c.Modules[file]), c.Modules[file])
	}
	data, err := json.Marshal(c.Data) // sorts keys
	if err != nil {
		data = []byte(err.Error()) // not JSON: the gate says so
	}
	fmt.Fprintf(h, "%d %s %q", len(data), data, c.Roots)
	if len(c.Cases) > 0 {
		cases, err := json.Marshal(c.Cases)
		if err != nil {
			cases = []byte(err.Error()) // as above
		}
		fmt.Fprintf(h, "%d %s", len(cases), cases)
	}
	if len(c.Schemas) > 0 {
		schemas, err := json.Marshal(c.Schemas)
		if err != nil {
			schemas = []byte(err.Error()) // as above
		}
		fmt.Fprintf(h, "schemas %d %s", len(schemas), schemas)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// revisions counts those made by this process.
var revisions atomic.Uint64

// Revision is a policy that passed the gate. It never changes.
type Revision struct {
	ID     string    `json:"revision"` // the first 12 digits of Digest: the value of X-Policy-Revision
	Digest string    `json:"digest"`   // SHA-256 of modules and data
	Name   string    `json:"name,omitempty"`
	Source string    `json:"source"`
	Since  time.Time `json:"since"`

	Headers          []string `json:"headers"`          // declared
	CacheKey         []string `json:"cache_key"`        // the paths of input it can see: what a kept answer is found by
	RequestFacts     []string `json:"request_facts"`    // of CacheKey, the facts of the request that gateways must send
	Nondeterministic []string `json:"nondeterministic"` // builtins it uses that may answer differently each time
	Capped           bool     `json:"cache_capped"`     // its answers are kept for a second at most: it looks at the time, or is nondeterministic
	Warnings         []string `json:"warnings,omitempty"`
	Unvalidated      []string `json:"unvalidated,omitempty"` // data that no schema describes, and why: policy check refuses them
	Cases            int      `json:"cases"`                 // acceptance cases that hold

	number   uint64 // among all of this process: what outlives a revision keeps this, and not the revision
	compiler *ast.Compiler
	store    *revisionStore
	query    rego.PreparedEvalQuery

	administers bool // it has AdminEntrypoint
	admin       rego.PreparedEvalQuery

	declares []bool // parallel to Engine.Headers
	view     view

	anonymousPaths []string
	preflight      bool
	codes          map[string]bool
}

// Number tells revisions of this process apart, also those of one digest.
func (r *Revision) Number() uint64 { return r.number }

// HasCode reports whether the METADATA of a rule has the code.
func (r *Revision) HasCode(code string) bool { return r.codes[code] }

// Anonymous reports whether the bundle declares (data.iam.config.anonymous) that
// a request may be answered without a token: by its normalised path, a whole
// number of segments of which must match, or because it is a CORS preflight.
func (r *Revision) Anonymous(path string, preflight bool) bool {
	if preflight && r.preflight {
		return true
	}
	return path != "" && slices.ContainsFunc(r.anonymousPaths, func(prefix string) bool {
		rest, ok := strings.CutPrefix(path, strings.TrimSuffix(prefix, "/"))
		return ok && (rest == "" || rest[0] == '/')
	})
}

// Prepare takes c through the gate: it makes a revision of it, or says all that is wrong
// with it. It does not put it in force.
func (e *Engine) Prepare(ctx context.Context, c *Candidate) (*Revision, error) {
	return e.gate(ctx, c, c.Digest())
}

func (e *Engine) gate(ctx context.Context, c *Candidate, digest string) (*Revision, error) {
	// Only what a child has got through in its time and memory is compiled here.
	apart := len(e.cfg.Child) > 0 && !c.Embedded
	if apart {
		if err := e.inChild(ctx, job{Candidate: c}); err != nil {
			return nil, err
		}
	}
	r, err := e.compiled(ctx, c, digest)
	if err == nil && !apart {
		err = holding(e.failing(ctx, r, c.Cases))
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Check is Prepare without the acceptance cases.
func (e *Engine) Check(ctx context.Context, c *Candidate) (*Revision, error) {
	return e.compiled(ctx, c, c.Digest())
}

// compiled is the gate without the acceptance cases. A candidate that makes the compiler
// panic is refused like any other bad one.
func (e *Engine) compiled(ctx context.Context, c *Candidate, digest string) (_ *Revision, err error) {
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
		return nil, fmt.Errorf("it has no rule %s: nobody could administer anything; take policies/iam/admin into it", AdminEntrypoint)
	}
	data, err := ast.InterfaceToValue(c.Data)
	if err != nil {
		return nil, fmt.Errorf("its data: %w", err)
	}
	if n := wrongNumber(data); n != nil {
		return nil, fmt.Errorf("its data: %w", errOutOfBounds(n))
	}
	unvalidated, err := c.checkData(compiler.Modules)
	if err != nil {
		return nil, err
	}
	r := &Revision{Digest: digest, ID: digest[:12], Name: c.Name, Source: c.Source, Since: time.Now().UTC(), number: revisions.Add(1), administers: administers,
		Cases: len(c.Cases), compiler: compiler, store: &revisionStore{data}}
	if err := e.declared(r, c.Data); err != nil {
		return nil, err
	}
	if err := r.report(compiler); err != nil {
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
	if len(c.Cases) == 0 && !c.Embedded {
		r.Warnings = append(r.Warnings, "it carries no acceptance cases (cases/*.yaml, taken along by iam-service policy build)")
	}
	if !administers {
		r.Warnings = append(r.Warnings, "it has no rule "+AdminEntrypoint+": it is refused where there is an admin API")
		return r, nil
	}
	if r.admin, err = prepare(AdminEntrypoint); err != nil {
		return nil, err
	}
	return r, nil
}

// checkRoots refuses what belongs to the service.
func checkRoots(roots []string) error {
	var errs []error
	for _, root := range roots {
		first, _, _ := strings.Cut(strings.Trim(root, "/"), "/")
		switch first {
		case "":
			errs = append(errs, errors.New(`it claims the root "", all of data: give it a .manifest with its roots, such as {"roots": ["iam"]}`))
		case directory.Root, "system":
			errs = append(errs, fmt.Errorf("it claims the root %q, which belongs to the service", root))
		}
	}
	return errors.Join(errs...)
}

// compile compiles under the allow-list. Its errors name file and line.
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
		if n := wrongNumber(m); n != nil {
			return nil, fmt.Errorf("%s: %w", n.Location, errOutOfBounds(n))
		}
		modules[file] = m
	}
	if len(errs) > 0 {
		return nil, errs
	}
	compiler := ast.NewCompiler().WithCapabilities(Capabilities()).WithPathConflictsCheck(func(path []string) (bool, error) {
		return holds(c.Data, path), nil
	})
	if compiler.Compile(modules); compiler.Failed() {
		return nil, Substitutes(compiler.Errors)
	}
	return compiler, nil
}

// ownPackage refuses a module outside of the roots.
func ownPackage(m *ast.Module, roots []string) error {
	path := strings.TrimPrefix(strings.ReplaceAll(m.Package.Path.String(), ".", "/"), "data/")
	for _, root := range roots {
		if root = strings.Trim(root, "/"); path == root || strings.HasPrefix(path, root+"/") {
			return nil
		}
	}
	return fmt.Errorf("%s: package %s lies outside of the roots %q", m.Package.Location, path, roots)
}

// holds reports whether data has something at path.
func holds(data map[string]any, path []string) bool {
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

// declared reads data.iam.config: the headers, and what is anonymous.
func (e *Engine) declared(r *Revision, data map[string]any) error {
	const where = "data.iam.config.headers"
	root, _ := data["iam"].(map[string]any)
	config, _ := root["config"].(map[string]any) // a nil map has no keys
	list, ok := config["headers"].([]any)
	if !ok || len(list) == 0 {
		return fmt.Errorf("%s must be a list of the headers it sets", where)
	}
	r.declares = make([]bool, len(e.names))
	var errs []error
	for _, x := range list {
		name, ok := x.(string)
		if !ok || !headerShape.MatchString(name) {
			errs = append(errs, fmt.Errorf("%s: %v is not a header that may be declared: it must match %s", where, x, headerShape))
			continue
		}
		i, configured := e.index[http.CanonicalHeaderKey(name)]
		if !configured {
			errs = append(errs, fmt.Errorf("%s: %s is absent from GATEWAY_HEADERS: teach it to the gateways first, or a client's own would pass", where, name))
			continue
		}
		r.declares[i] = true
		r.Headers = append(r.Headers, name)
	}
	anonymous, _ := config["anonymous"].(map[string]any) // absent: nothing is
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

// report finds out what the entrypoint can see and how it may vary.
func (r *Revision) report(compiler *ast.Compiler) error {
	q, err := compiler.QueryCompiler().Compile(ast.MustParseBody(Entrypoint))
	if err != nil {
		return fmt.Errorf("compile %s: %w", Entrypoint, err)
	}
	refs, err := baseRefs(compiler, q, map[*ast.Rule]bool{})
	if err != nil {
		return fmt.Errorf("find what %s depends on: %w", Entrypoint, err)
	}
	if usesWith(compiler) {
		refs = append(refs, literalRefs(compiler)...)
	}
	for _, ref := range refs {
		if ref.HasPrefix(ast.InputRootRef) {
			r.view.see(ref)
		}
	}
	found := map[string]bool{}
	r.codes = map[string]bool{"not_granted": true, CodeOtherTenant: true} // what Go says itself
	for _, m := range compiler.Modules {
		for _, a := range m.Annotations {
			if code, ok := a.Custom["code"].(string); ok {
				r.codes[code] = true
			}
		}
		// All references, not compiler.Required: that misses calls in "every" and "with".
		ast.WalkRefs(m, func(ref ast.Ref) bool {
			if b := ast.BuiltinMap[ref.String()]; b != nil && (b.Nondeterministic || slices.Contains(unflagged, b.Name)) {
				found[b.Name] = true
			}
			return false
		})
	}
	r.Nondeterministic = slices.Sorted(maps.Keys(found))
	r.CacheKey, r.RequestFacts = r.view.paths(), r.view.facts.paths()
	r.Capped = r.view.now || len(r.Nondeterministic) > 0
	r.Warnings = r.warnings()
	return nil
}

// baseRefs is dependencies.Base: the base documents that x depends on, through all rules. OPA's
// remembers the rules that it has visited by comparing them, and panics (ast.Head.Compare,
// OPA 1.22.2) where only one of two rules for one key, such as h["X"] := "a" and
// h["X"] := input.b if input.c, has the key in its head. Here a rule is equal to itself.
func baseRefs(compiler *ast.Compiler, x any, visited map[*ast.Rule]bool) (all []ast.Ref, err error) {
	refs, err := dependencies.Minimal(x)
	if err != nil {
		return nil, err
	}
	for _, ref := range refs {
		ref = ref.ConstantPrefix()
		rules := compiler.GetRules(ref)
		if len(rules) == 0 {
			all = append(all, ref)
		}
		for _, rule := range rules {
			if visited[rule] {
				continue
			}
			visited[rule] = true
			more, err := baseRefs(compiler, rule, visited)
			if err != nil {
				return nil, err
			}
			all = append(all, more...)
		}
	}
	return all, nil
}

// usesWith reports whether some expression has a "with". OPA's account of what is
// read misses the values and functions that "with" puts in the place of others, and
// what is read through them.
func usesWith(compiler *ast.Compiler) (found bool) {
	for _, m := range compiler.Modules {
		ast.WalkExprs(m, func(e *ast.Expr) bool {
			found = found || len(e.With) > 0
			return found
		})
	}
	return found
}

// literalRefs are all references that stand anywhere, reachable or not. What is read
// of the input is read by one of them.
func literalRefs(compiler *ast.Compiler) (refs []ast.Ref) {
	for _, m := range compiler.Modules {
		ast.WalkRefs(m, func(ref ast.Ref) bool {
			refs = append(refs, ref)
			return false
		})
	}
	return refs
}

// unflagged look at the clock, and OPA does not say so. The sandbox has none of
// them now; whoever lets one in need not remember this.
var unflagged = []string{
	"crypto.x509.parse_and_verify_certificates", "crypto.x509.parse_and_verify_certificates_with_options", "io.jwt.decode_verify",
}
