package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/dependencies"
	"github.com/open-policy-agent/opa/v1/rego"
)

// revisions numbers the revisions of this process.
var revisions atomic.Uint64

// Revision is an accepted policy. It is immutable.
type Revision struct {
	ID     string    `json:"revision"` // the first 12 digits of Digest: the value of X-Policy-Revision
	Digest string    `json:"digest"`   // SHA-256 of modules and data
	Name   string    `json:"name,omitempty"`
	Source string    `json:"source"`
	Since  time.Time `json:"since"`

	Headers          []string `json:"headers"`          // declared
	CacheKey         []string `json:"cache_key"`        // the paths of input it can see: the key of its cache entries
	RequestFacts     []string `json:"request_facts"`    // of CacheKey, the facts of the request that gateways must send
	Nondeterministic []string `json:"nondeterministic"` // builtins it uses whose results can differ each time
	Capped           bool     `json:"cache_capped"`     // it reads the time or is nondeterministic: its decisions are cached for a second at most
	Warnings         []string `json:"warnings,omitempty"`
	Unvalidated      []string `json:"unvalidated,omitempty"` // data that no schema describes, and why: policy check rejects them
	Cases            int      `json:"cases"`                 // acceptance cases that pass

	Authzen *AuthzenStatus `json:"authzen,omitempty"` // nil: it decides no AuthZEN evaluations

	draft    *Draft // evaluates it, in a child; nil: it is no draft
	number   uint64 // within this process: what outlives a revision refers to it by number
	compiler *ast.Compiler
	store    *revisionStore
	query    rego.PreparedEvalQuery
	machine  *machine

	administers bool // it has AdminEntrypoint
	admin       rego.PreparedEvalQuery

	authzen authzen

	declares []bool // parallel to Engine.Headers
	view     view

	anonymousPaths []string
	preflight      bool
	codes          map[string]bool
}

// Number identifies the revision within this process, also among those of one digest.
func (r *Revision) Number() uint64 { return r.number }

// HasCode reports whether the METADATA of a rule has the code.
func (r *Revision) HasCode(code string) bool { return r.codes[code] }

// Anonymous reports whether the bundle declares (data.iam.config.anonymous) that
// a request may be allowed without a token: by whole segments of its normalised path,
// or because it is a CORS preflight.
func (r *Revision) Anonymous(path string, preflight bool) bool {
	if preflight && r.preflight {
		return true
	}
	return path != "" && slices.ContainsFunc(r.anonymousPaths, func(prefix string) bool {
		rest, ok := strings.CutPrefix(path, strings.TrimSuffix(prefix, "/"))
		return ok && (rest == "" || rest[0] == '/')
	})
}

// analyze finds what the entrypoint can see and whether its decisions can change over time.
func (r *Revision) analyze(compiler *ast.Compiler) error {
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
	r.codes = map[string]bool{"not_granted": true, CodeOtherTenant: true} // set by Go
	for _, m := range compiler.Modules {
		for _, a := range m.Annotations {
			if code, ok := a.Custom["code"].(string); ok {
				r.codes[code] = true
			}
		}
		// All references, since compiler.Required misses calls in "every" and "with".
		ast.WalkRefs(m, func(ref ast.Ref) bool {
			if b := ast.BuiltinMap[ref.String()]; b != nil && (b.Nondeterministic || slices.Contains(clockBuiltins, b.Name)) {
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

// baseRefs replaces dependencies.Base: the base documents that x depends on, through all rules.
// OPA's compares rules to find those that it has visited, and panics (ast.Head.Compare,
// OPA 1.22.2) where only one of two rules for one key, such as h["X"] := "a" and
// h["X"] := input.b if input.c, has the key in its head. This one compares pointers.
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

// usesWith reports whether an expression has a "with". OPA's dependencies miss the values
// and functions that "with" substitutes, and what is read through them.
func usesWith(compiler *ast.Compiler) (found bool) {
	for _, m := range compiler.Modules {
		ast.WalkExprs(m, func(e *ast.Expr) bool {
			found = found || len(e.With) > 0
			return found
		})
	}
	return found
}

// literalRefs are all references in the modules, reachable or not: every read of the input
// is one of them.
func literalRefs(compiler *ast.Compiler) (refs []ast.Ref) {
	for _, m := range compiler.Modules {
		ast.WalkRefs(m, func(ref ast.Ref) bool {
			refs = append(refs, ref)
			return false
		})
	}
	return refs
}

// clockBuiltins read the clock, although OPA does not mark them as nondeterministic. The
// sandbox excludes them now; the list matters once one is allowed.
var clockBuiltins = []string{
	"crypto.x509.parse_and_verify_certificates", "crypto.x509.parse_and_verify_certificates_with_options", "io.jwt.decode_verify",
}
