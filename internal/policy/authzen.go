package policy

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"

	"iam-service/internal/policy/plan"
)

// The rules that decide evaluations of the AuthZEN Authorization API 1.0. A bundle can leave them out: then the service
// is no policy decision point under it.
const (
	// AuthzenEntrypoint decides whether a subject may do something to a resource.
	AuthzenEntrypoint = "data.iam.authzen.decision"
	// AuthzenCandidates names the actions and resources that searches evaluate with AuthzenEntrypoint.
	AuthzenCandidates = "data.iam.authzen.candidates"
)

// AuthzenStatus is what a revision has for AuthZEN.
type AuthzenStatus struct {
	CacheKey []string     `json:"cache_key"` // the paths of input that its decisions can see: the key of their cache entries
	Searches []string     `json:"searches"`  // what can be searched: subject; resource and action where it has AuthzenCandidates
	Engine   EngineStatus `json:"engine"`    // what evaluates it, when the revision was prepared
}

// authzen is what a revision evaluates for AuthZEN.
type authzen struct {
	decides, enumerates   bool // it has AuthzenEntrypoint, AuthzenCandidates
	decision, candidates  rego.PreparedEvalQuery
	sees, seesToEnumerate *visible
}

// Authorizes reports whether r decides AuthZEN evaluations.
func (r *Revision) Authorizes() bool { return r.authzen.decides }

// Enumerates reports whether r names what searches of resources and actions evaluate.
func (r *Revision) Enumerates() bool { return r.authzen.enumerates }

// visible is the part of an object that rules refer to.
type visible struct {
	all    bool
	fields map[string]*visible
}

// add adds what ref, without its first step, refers to. A step that is no string is everything there.
func (v *visible) add(ref ast.Ref) {
	for _, t := range ref[1:] {
		name, ok := t.Value.(ast.String)
		if !ok {
			break
		}
		if v.fields == nil {
			v.fields = map[string]*visible{}
		}
		next := v.fields[string(name)]
		if next == nil {
			next = &visible{}
			v.fields[string(name)] = next
		}
		v = next
	}
	v.all = true
}

// cut returns the visible part of x. What is no object is visible as a whole, since a rule refers into it.
func (v *visible) cut(x ast.Value) ast.Value {
	all, ok := x.(ast.Object)
	if v.all || !ok {
		return x
	}
	seen := ast.NewObjectWithCapacity(len(v.fields))
	for name, field := range v.fields {
		k := ast.InternedTerm(name)
		if t := all.Get(k); t != nil {
			seen.Insert(k, ast.NewTerm(field.cut(t.Value)))
		}
	}
	return seen
}

// paths are the largest visible parts, sorted.
func (v *visible) paths(at string) (all []string) {
	if v.all {
		return []string{at}
	}
	for _, name := range slices.Sorted(maps.Keys(v.fields)) {
		all = append(all, v.fields[name].paths(at+"."+name)...)
	}
	return all
}

// visibleTo returns what the rules of an entrypoint can see of the input.
func visibleTo(compiler *ast.Compiler, entrypoint string) (*visible, error) {
	q, err := compiler.QueryCompiler().Compile(ast.MustParseBody(entrypoint))
	if err != nil {
		return nil, fmt.Errorf("compile %s: %w", entrypoint, err)
	}
	refs, err := baseRefs(compiler, q, map[*ast.Rule]bool{})
	if err != nil {
		return nil, fmt.Errorf("find what %s depends on: %w", entrypoint, err)
	}
	if usesWith(compiler) {
		refs = append(refs, literalRefs(compiler)...)
	}
	v := &visible{}
	for _, ref := range refs {
		if ref.HasPrefix(ast.InputRootRef) {
			v.add(ref)
		}
	}
	return v, nil
}

// prepareAuthzen prepares the rules for AuthZEN, where the candidate has them.
func (r *Revision) prepareAuthzen(prepare func(entrypoint string) (rego.PreparedEvalQuery, error)) (err error) {
	has := func(entrypoint string) bool { return len(r.compiler.GetRulesExact(ast.MustParseRef(entrypoint))) > 0 }
	a := &r.authzen
	if a.decides, a.enumerates = has(AuthzenEntrypoint), has(AuthzenCandidates); !a.decides {
		if a.enumerates {
			return fmt.Errorf("it has %s without %s", AuthzenCandidates, AuthzenEntrypoint)
		}
		return nil
	}
	if a.decision, err = prepare(AuthzenEntrypoint); err != nil {
		return err
	}
	if a.sees, err = visibleTo(r.compiler, AuthzenEntrypoint); err != nil {
		return err
	}
	r.Authzen = &AuthzenStatus{CacheKey: a.sees.paths("input"), Searches: []string{"subject"}, Engine: EngineStatus{Name: EngineTopdown}}
	if !a.enumerates {
		return nil
	}
	r.Authzen.Searches = append(r.Authzen.Searches, "resource", "action")
	if a.candidates, err = prepare(AuthzenCandidates); err != nil {
		return err
	}
	a.seesToEnumerate, err = visibleTo(r.compiler, AuthzenCandidates)
	return err
}

// AuthzenQuestion is the part of an input that a revision sees.
type AuthzenQuestion struct {
	Input ast.Value
	Key   [sha256.Size]byte // questions with one key have one decision while the facts are the same
}

// AuthzenQuestion cuts the input of an evaluation to what r sees of it (schemas/authzen.json describes it).
func (r *Revision) AuthzenQuestion(input ast.Object) AuthzenQuestion {
	v := r.authzen.sees.cut(input)
	return AuthzenQuestion{Input: v, Key: sha256.Sum256(appendValue(make([]byte, 0, 512), v))}
}

// AuthzenDecision is the decision of AuthzenEntrypoint.
type AuthzenDecision struct {
	Allow   bool
	Refused bool // the client may not ask this: it gets 403, and no decision
	Reasons []Reason
	Context json.RawMessage // a JSON object for the response's context; nil: none
	TTL     time.Duration   // of the cache entry; negative: valid until invalidated
	Took    time.Duration   // evaluation time, without waiting for facts
}

// maxAuthzenContext bounds the context of a decision, in bytes of JSON.
const maxAuthzenContext = 16 << 10

// Authorize evaluates AuthzenEntrypoint. It fails with an iam.Error: Unavailable after a timeout or where facts could
// not be read, Internal where the policy is invalid. The revision of by must be one that Authorizes.
func (e *Engine) Authorize(ctx context.Context, q AuthzenQuestion, by Basis) (AuthzenDecision, error) {
	r, at := by.Revision, entrypoint{AuthzenEntrypoint, by.Revision.authzen.decision}
	now := time.Now()
	var d AuthzenDecision
	parse := func(t *ast.Term) (err error) {
		d, err = authzenDecision(t)
		return err
	}
	if p := r.machine.activeAuthzen(); p != nil {
		if took, ok := e.evaluateByProgram(ctx, program{p, at}, evalRequest{by, q.Input, now}, parse); ok {
			d.Took = took
			return r.cappedAuthzen(d), nil
		}
	}
	ev := e.evaluation(ctx, by)
	rs, err := r.eval(ctx, at, q.Input, ev, rego.EvalTime(now))
	if err != nil {
		return AuthzenDecision{}, err
	}
	took := ev.own(time.Now())
	t, err := result(rs)
	if err == nil {
		err = parse(t)
	}
	if err != nil {
		return AuthzenDecision{}, policyErrorAt(AuthzenEntrypoint, r, "%w", err)
	}
	d.Took = took
	return r.cappedAuthzen(d), nil
}

// cappedAuthzen bounds how long a decision of r is cached.
func (r *Revision) cappedAuthzen(d AuthzenDecision) AuthzenDecision {
	if len(r.Nondeterministic) > 0 && (d.TTL < 0 || d.TTL > cappedTTL) {
		d.TTL = cappedTTL
	}
	return d
}

var keyContext = ast.StringTerm("context")

// authzenDecision parses a decision strictly: any deviation from the agreed shape is an error.
func authzenDecision(t *ast.Term) (AuthzenDecision, error) {
	none := AuthzenDecision{}
	doc := t.Value
	if !plan.IsObject(doc) {
		return none, errors.New("the decision is not an object")
	}
	allow, ok := boolean(doc, keyAllow)
	if !ok {
		return none, errors.New("the decision has no boolean allow")
	}
	d := AuthzenDecision{Allow: allow, TTL: -1}
	if t := plan.Get(doc, keyStatus); t != nil {
		if n, _ := t.Value.(ast.Number); n != ast.Number(strconv.Itoa(http.StatusForbidden)) { // another type is ""
			return none, errors.New("status is not 403")
		}
		if allow {
			return none, errors.New("it allows with the status 403")
		}
		d.Refused = true
	}
	var err error
	if t := plan.Get(doc, keyTTL); t != nil {
		if d.TTL, err = ttl(t); err != nil {
			return none, err
		}
	}
	if d.Reasons, err = reasons(plan.Get(doc, keyReasons)); err != nil {
		return none, err
	}
	if t := plan.Get(doc, keyContext); t != nil {
		d.Context, err = authzenContext(plan.Pure(t))
	}
	return d, err
}

func authzenContext(t *ast.Term) (json.RawMessage, error) {
	if _, ok := t.Value.(ast.Object); !ok {
		return nil, errors.New("context is not an object")
	}
	v, err := ast.JSON(t.Value)
	if err != nil {
		return nil, errors.New("context cannot be written as JSON")
	}
	text, err := json.Marshal(v)
	switch {
	case err != nil:
		return nil, errors.New("context cannot be written as JSON")
	case len(text) > maxAuthzenContext:
		return nil, fmt.Errorf("context takes %d bytes, more than %d", len(text), maxAuthzenContext)
	}
	return text, nil
}

// Candidates are what a search evaluates: every action, or resource, that could be allowed.
type Candidates struct{ Actions, Resources []string }

// maxCandidates bounds each list of Candidates.
const maxCandidates = 10_000

// Enumerate evaluates AuthzenCandidates. It fails as Authorize does. The revision of by must be one that Enumerates.
func (e *Engine) Enumerate(ctx context.Context, input ast.Object, by Basis) (Candidates, error) {
	r := by.Revision
	rs, err := r.eval(ctx, entrypoint{AuthzenCandidates, r.authzen.candidates}, r.authzen.seesToEnumerate.cut(input), e.evaluation(ctx, by))
	if err != nil {
		return Candidates{}, err
	}
	doc, err := resultObject(rs)
	if err != nil {
		return Candidates{}, policyErrorAt(AuthzenCandidates, r, "%w", err)
	}
	var c Candidates
	for name, list := range map[string]*[]string{"actions": &c.Actions, "resources": &c.Resources} {
		if *list, err = names(doc.Get(ast.StringTerm(name))); err != nil {
			return Candidates{}, policyErrorAt(AuthzenCandidates, r, "%s: %w", name, err)
		}
	}
	return c, nil
}

// names are the strings of an array or a set, sorted, each once.
func names(t *ast.Term) (list []string, err error) {
	if t == nil {
		return nil, nil
	}
	err = each(t.Value, func(t *ast.Term) error {
		s, ok := t.Value.(ast.String)
		if !ok || s == "" {
			return errors.New("an item is not a string, or empty")
		}
		if len(list) == maxCandidates {
			return fmt.Errorf("it has more than %d items", maxCandidates)
		}
		list = append(list, string(s))
		return nil
	})
	slices.Sort(list)
	return slices.Compact(list), err
}

// authzenFields are the parts of the input of an evaluation.
var authzenFields = []string{"subject", "action", "resource", "context", "tenant", "client", "agent"}

// authzenCaseInput is what r sees of the input of an acceptance case. The properties that a case leaves out are empty,
// as in an evaluation.
func (r *Revision) authzenCaseInput(input ast.Value) (ast.Value, error) {
	all, ok := input.(ast.Object)
	if !ok {
		return input, nil
	}
	whole := ast.NewObject()
	err := all.Iter(func(k, x *ast.Term) error {
		name, _ := k.Value.(ast.String) // JSON has only string keys
		if !slices.Contains(authzenFields, string(name)) {
			return fmt.Errorf("unknown input.%s: %s are allowed", string(name), strings.Join(authzenFields, ", "))
		}
		if entity, ok := x.Value.(ast.Object); ok && slices.Contains(authzenFields[:3], string(name)) {
			x = ast.NewTerm(WithProperties(entity))
		}
		whole.Insert(k, x)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return r.authzen.sees.cut(whole), nil
}

var termProperties = ast.StringTerm("properties")

// WithProperties is an entity of an evaluation with properties, which are empty where it has none.
func WithProperties(entity ast.Object) ast.Object {
	if entity.Get(termProperties) != nil {
		return entity
	}
	with, _ := entity.Merge(ast.NewObject([2]*ast.Term{termProperties, ast.ObjectTerm()})) // no key in common: no conflict
	return with
}
