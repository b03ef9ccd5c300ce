package policy

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"

	"iam-service/internal/directory"
)

// Rule is one that can grant or deny, and what became of it.
type Rule struct {
	Set         string `json:"set"` // that it is a rule of: grants, denials, refusals
	Code        string `json:"code"`
	Title       string `json:"title"`
	Description string `json:"description,omitempty"`
	File        string `json:"file"`
	Line        int    `json:"line"`
	Fired       bool   `json:"fired"`

	Held []Condition `json:"held,omitempty"` // of one that fired: its conditions

	// Failed is the first condition that was not so; nil where it fired, or where that is
	// not known.
	Failed *Condition `json:"failed,omitempty"`
	Error  string     `json:"error,omitempty"` // it cannot be evaluated; who decides may not have needed it
}

// Condition is one that was so, or was not.
type Condition struct {
	Text    string  `json:"text"` // as it is written
	File    string  `json:"file"`
	Line    int     `json:"line"`
	Values  []Value `json:"values,omitempty"`  // of what it is about
	Because []Cause `json:"because,omitempty"` // of what is undefined in it
}

// Value is what a name in a condition stands for.
type Value struct {
	Name    string `json:"name"`
	Value   any    `json:"value,omitempty"` // absent: undefined, or not shown
	Defined bool   `json:"defined"`
	Hidden  bool   `json:"hidden,omitempty" doc:"it holds what a claim says that may be a secret, or, within a tenant, what is neither of the request nor of the tenant's facts"`

	FromFacts bool `json:"-"` // it is a part of the input or of the directory, also where rules name it
}

// shownClaims are claims whose texts are shown. What others say may be a secret: a text is not
// shown that holds one of theirs, wherever it comes from. Numbers and booleans always are.
var shownClaims = []string{"iss", "sub", "aud", "azp", "client_id", "scope", "scp", "acr", "amr", "roles", "groups", "entitlements"}

// Cause is why something is undefined: the condition of each rule that would define it.
type Cause struct {
	Name   string      `json:"name"`
	Failed []Condition `json:"failed"`
}

const (
	explainDepth  = 4               // how far it is followed why something is undefined
	explainCauses = 5               // rules of one name that are told of
	explainTime   = 2 * time.Second // for all of it: it is asked for by people
	valueLongest  = 500             // bytes of a value that are shown
	claimsPrefix  = "data.iam.claims"
)

// Explain says of each rule with a code that the answer to q may rest on whether it fired,
// and where not, which of its conditions was the first that was not so. Rules are evaluated
// that Decide need not look at. Facts must be the ones that the answer was worked out from.
func (e *Engine) Explain(ctx context.Context, r *Revision, q *Question, facts Facts) ([]Rule, error) {
	ctx, cancel := context.WithTimeout(ctx, explainTime)
	defer cancel()
	x := &explaining{r: r, ctx: ctx, input: r.input(q, e.settings), facts: facts, now: q.Now, seen: map[string]*trace{}}
	x.private = privateTexts(x.input)
	var all []Rule
	for _, path := range r.decisive() {
		t, err := x.trace(path)
		for _, rule := range r.compiler.GetRulesExact(path) {
			told, ok := r.told(rule)
			if !ok {
				continue
			}
			if err != nil {
				told.Error = plain(err).Error()
			} else if exit := t.fired[rule]; exit != nil {
				told.Fired, told.Held = true, x.held(exit)
			} else if t.failed[rule] != nil {
				told.Failed = x.condition(t.failed[rule], explainDepth)
			}
			all = append(all, told)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("explain: %w", err)
	}
	slices.SortStableFunc(all, func(a, b Rule) int { return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line)) })
	return all, nil
}

// decisive are the paths of rules with codes below the package of the entrypoint.
func (r *Revision) decisive() []ast.Ref {
	found := map[string]ast.Ref{}
	for _, m := range r.compiler.Modules {
		if path := m.Package.Path.String(); path != claimsPrefix && !strings.HasPrefix(path, claimsPrefix+".") {
			continue
		}
		for _, rule := range m.Rules {
			if _, ok := r.told(rule); ok && len(rule.Head.Args) == 0 { // a function answers nothing by itself
				path := rule.Ref().GroundPrefix()
				found[keyOf(path)] = path
			}
		}
	}
	var paths []ast.Ref
	for _, key := range slices.Sorted(maps.Keys(found)) {
		paths = append(paths, found[key])
	}
	return paths
}

// told is what the METADATA of a rule says; false where it has no code.
func (r *Revision) told(rule *ast.Rule) (Rule, bool) {
	set := r.compiler.GetAnnotationSet()
	if set == nil {
		return Rule{}, false
	}
	for _, a := range set.GetRuleScope(rule) {
		if code, ok := a.Custom["code"].(string); ok {
			path := rule.Ref().GroundPrefix()
			name, _ := path[len(path)-1].Value.(ast.String) // a rule has a name
			return Rule{
				Set: string(name), Code: code, Title: a.Title, Description: strings.TrimSpace(a.Description), File: rule.Location.File, Line: rule.Location.Row,
			}, true
		}
	}
	return Rule{}, false
}

// explaining is one explanation under way.
type explaining struct {
	r     *Revision
	ctx   context.Context //nolint:containedctx // it lives as long as the call that made it
	input ast.Value
	facts Facts
	now   time.Time
	seen  map[string]*trace // by what was evaluated

	private []string // texts of claims that are not shown
}

// trace is what was seen of one evaluation. It is a topdown.QueryTracer.
type trace struct {
	inside map[uint64]*ast.Rule   // whose body a query is
	fired  map[*ast.Rule]*failure // where they were left; of no expression
	failed map[*ast.Rule]*failure
	value  ast.Value // nil: undefined
	err    error     // it cannot be evaluated
}

// failure is an expression that was not so, with what was known there.
type failure struct {
	expr   *ast.Expr
	rule   *ast.Rule
	locals *ast.ValueMap
	names  map[ast.Var]topdown.VarMetadata
}

// Enabled, Config and TraceEvent are topdown.QueryTracer.
func (t *trace) Enabled() bool { return true }

// Config asks for the values of local variables.
func (t *trace) Config() topdown.TraceConfig { return topdown.TraceConfig{PlugLocalVars: true} }

// TraceEvent notes which rules fired, and of the others the last expression that was come to:
// all before it were so.
func (t *trace) TraceEvent(evt topdown.Event) {
	switch evt.Op {
	case topdown.EnterOp:
		if rule, ok := evt.Node.(*ast.Rule); ok {
			t.inside[evt.QueryID] = rule
		}
	case topdown.ExitOp:
		if rule, ok := evt.Node.(*ast.Rule); ok && t.fired[rule] == nil {
			t.fired[rule] = &failure{nil, rule, evt.Locals, evt.LocalMetadata}
		}
	case topdown.FailOp:
		rule := t.inside[evt.QueryID]
		expr, ok := evt.Node.(*ast.Expr)
		if rule == nil || !ok {
			return
		}
		if last := t.failed[rule]; last == nil || expr.Index > last.expr.Index {
			t.failed[rule] = &failure{expr, rule, evt.Locals, evt.LocalMetadata}
		}
	default: // the rest is on the way
	}
}

// keyOf tells references apart: no two are written alike.
func keyOf(ref ast.Ref) string {
	var b []byte
	for _, t := range ref {
		b = appendString(b, t.Value.String())
	}
	return string(b)
}

// trace evaluates a reference. It is never made a text of: what is in it comes from whoever
// asked.
func (x *explaining) trace(ref ast.Ref) (*trace, error) {
	key := keyOf(ref)
	if t := x.seen[key]; t != nil {
		return t, t.err
	}
	t := &trace{inside: map[uint64]*ast.Rule{}, fired: map[*ast.Rule]*failure{}, failed: map[*ast.Rule]*failure{}}
	x.seen[key] = t
	t.err = x.run(t, ref)
	return t, t.err
}

func (x *explaining) run(t *trace, ref ast.Ref) error {
	query, err := rego.New(rego.ParsedQuery(ast.NewBody(ast.NewExpr(ast.NewTerm(ref)))), rego.Compiler(x.r.compiler), rego.Store(x.r.store), rego.StrictBuiltinErrors(true)).PrepareForEval(x.ctx)
	if err != nil {
		return fmt.Errorf("prepare %s: %w", ref, err)
	}
	began := time.Now()
	ev := &evaluation{facts: x.facts, ctx: x.ctx, began: began, waited: x.facts.Waited(), limit: explainTime, deadline: began.Add(explainTime)}
	rs, err := x.r.eval(x.ctx, "a rule", query, x.input, ev,
		rego.EvalTime(x.now), rego.EvalQueryTracer(t), rego.EvalRuleIndexing(false), rego.EvalEarlyExit(false))
	if err != nil {
		return err
	}
	if len(rs) > 0 && len(rs[0].Expressions) > 0 {
		if term, ok := rs[0].Expressions[0].Value.(*ast.Term); ok {
			t.value = term.Value
		}
	}
	return nil
}

// held are the conditions of a rule that fired, as its author wrote them.
func (x *explaining) held(exit *failure) (all []Condition) {
	head := exit.rule.Head.Location
	var begins []int // of all, in the file
	for _, expr := range exit.rule.Body {
		at := expr.Location
		if at == nil || len(at.Text) == 0 || head != nil && at.Offset < head.Offset+len(head.Text) { // of its head, or the compiler's own
			continue
		}
		c := x.condition(&failure{expr, exit.rule, exit.locals, exit.names}, 2)
		from := at.Offset
		for last := len(all) - 1; last >= 0 && begins[last] >= from && begins[last] < from+len(at.Text); last-- { // a part of it, that the compiler took out
			c.Values = append(all[last].Values, slices.DeleteFunc(c.Values, func(v Value) bool {
				return slices.ContainsFunc(all[last].Values, func(w Value) bool { return w.Name == v.Name })
			})...)
			c.Because = append(all[last].Because, c.Because...)
			all, begins = all[:last], begins[:last]
		}
		all, begins = append(all, *c), append(begins, from)
	}
	return all
}

// privateTexts are the texts of claims that are not shown, in lower case.
func privateTexts(input ast.Value) (all []string) {
	token, err := input.Find(ast.Ref{ast.StringTerm("token")})
	claims, ok := token.(ast.Object)
	if err != nil || !ok {
		return nil
	}
	claims.Foreach(func(k, v *ast.Term) {
		if name, ok := k.Value.(ast.String); ok && slices.Contains(shownClaims, string(name)) {
			return
		}
		ast.WalkTerms(v, func(t *ast.Term) bool {
			if s, ok := t.Value.(ast.String); ok && s != "" {
				all = append(all, strings.ToLower(string(s)))
			}
			return false
		})
	})
	return all
}

// hides reports whether a value holds what a claim says that is not shown, or a part of it.
func (x *explaining) hides(v ast.Value) (found bool) {
	const part = 4 // bytes by which one is known; less is in too many texts
	ast.WalkTerms(ast.NewTerm(v), func(t *ast.Term) bool {
		s, ok := t.Value.(ast.String)
		text := strings.ToLower(string(s))
		found = found || ok && slices.ContainsFunc(x.private, func(p string) bool {
			return p == text || len(p) >= part && strings.Contains(text, p) || len(text) >= part && strings.Contains(p, text)
		})
		return found
	})
	return found
}

// condition tells of an expression: its text, what its names stand for, and why those that
// stand for nothing do.
func (x *explaining) condition(f *failure, depth int) *Condition {
	c := &Condition{}
	if at := f.expr.Location; at != nil {
		c.Text, c.File, c.Line = strings.Join(strings.Fields(string(at.Text)), " "), at.File, at.Row
	}
	if c.Text == "" {
		c.Text = f.expr.String()
	}
	told := map[string]bool{}
	tell := func(name string, v ast.Value, fromFacts bool) {
		if told[name] {
			return
		}
		told[name] = true
		value := x.valueOf(name, v)
		value.FromFacts = fromFacts
		c.Values = append(c.Values, value)
	}
	for _, ref := range f.refs() {
		ground, name := f.plug(ref), f.nameOf(ref)
		if !ground.IsGround() {
			continue // it is found, not looked up
		}
		t, err := x.trace(ground)
		if err != nil {
			continue // it is not known what it stands for
		}
		tell(name, t.value, x.fromFacts(ground, explainDepth))
		if t.value != nil || depth == 0 {
			continue
		}
		if cause := x.cause(name, ground, depth-1); len(cause.Failed) > 0 {
			c.Because = append(c.Because, cause)
		}
	}
	for _, v := range f.vars() {
		if meta, known := f.names[v]; known && f.locals != nil {
			if value := f.locals.Get(v); value != nil && ast.IsConstant(value) {
				if name := f.sourceOf(v, string(meta.Name)); !strings.HasPrefix(name, "__") {
					tell(name, value, x.copies(f, v, value))
				}
			}
		}
	}
	return c
}

// cause finds the rule that a reference goes through, and why it has no value.
func (x *explaining) cause(name string, ref ast.Ref, depth int) Cause {
	cause := Cause{Name: name, Failed: []Condition{}} // as JSON it is a list
	for n := len(ref); n > 1; n-- {
		rules := x.r.compiler.GetRulesExact(ref[:n])
		if len(rules) == 0 {
			continue
		}
		t, err := x.trace(ref[:n])
		if err != nil || t.value != nil {
			return cause // it has a value, and what is asked for is not in it
		}
		if n < len(ref) {
			cause.Name = short(ref[:n])
		}
		for _, rule := range rules {
			for ; rule != nil && len(cause.Failed) < explainCauses; rule = rule.Else {
				if f := t.failed[rule]; f != nil && t.fired[rule] == nil {
					cause.Failed = append(cause.Failed, *x.condition(f, depth))
				}
			}
		}
		return cause
	}
	return cause
}

// refs are what an expression reads: not what it calls.
func (f *failure) refs() []ast.Ref {
	var refs []ast.Ref
	operator := func(t *ast.Term) *ast.Ref {
		if ref, ok := t.Value.(ast.Ref); ok {
			return &ref
		}
		return nil
	}
	called := map[string]bool{}
	if terms, ok := f.expr.Terms.([]*ast.Term); ok {
		if op := operator(terms[0]); op != nil {
			called[op.String()] = true
		}
	}
	ast.WalkTerms(f.expr, func(t *ast.Term) bool {
		switch v := t.Value.(type) {
		case ast.Call:
			if op := operator(v[0]); op != nil {
				called[op.String()] = true
			}
		case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension:
			return true // a question of its own
		case ast.Ref:
			head, _ := v[0].Value.(ast.Var) // a call: none
			if (head == "data" || head == "input") && !called[v.String()] {
				refs = append(refs, v)
			}
		}
		return false
	})
	return refs
}

// vars are the local variables of an expression.
func (f *failure) vars() []ast.Var {
	var vars []ast.Var
	ast.WalkVars(f.expr, func(v ast.Var) bool {
		if !slices.Contains(vars, v) {
			vars = append(vars, v)
		}
		return false
	})
	return vars
}

// sourceOf is what a variable that the compiler has made stands for, as its author would
// write it.
func (f *failure) sourceOf(v ast.Var, name string) string {
	if !strings.HasPrefix(name, "__local") {
		return name // its author's
	}
	if refs := equals(f.rule.Body, v); len(refs) > 0 {
		return f.nameOf(refs[0])
	}
	return name
}

// equals are the references that a body says are equal to a variable.
func equals(body ast.Body, v ast.Var) (refs []ast.Ref) {
	for _, e := range body {
		if !e.IsEquality() || e.Negated || len(e.With) > 0 {
			continue
		}
		for i := range 2 {
			ref, isRef := e.Operand(1 - i).Value.(ast.Ref)
			if e.Operand(i).Value.Compare(v) == 0 && isRef {
				refs = append(refs, ref)
			}
		}
	}
	return refs
}

// fromFacts reports whether what a reference stands for can only be a part of the input or of
// the directory: it leads there, or to rules whose values are such references.
func (x *explaining) fromFacts(ref ast.Ref, depth int) bool {
	if ref.HasPrefix(ast.InputRootRef) || ref.HasPrefix(ast.DefaultRootRef.Append(ast.StringTerm(directory.Root))) {
		return true
	}
	for n := len(ref); n > 1 && depth > 0; n-- {
		rules := x.r.compiler.GetRulesExact(ref[:n])
		for _, rule := range rules {
			for ; rule != nil; rule = rule.Else {
				if rule.Head.RuleKind() != ast.SingleValue || len(rule.Head.Args) > 0 {
					return false
				}
				var refs []ast.Ref
				switch v := rule.Head.Value.Value.(type) {
				case ast.Ref:
					refs = []ast.Ref{v}
				case ast.Var:
					refs = equals(rule.Body, v)
				default: // it is made there
				}
				if !slices.ContainsFunc(refs, func(ref ast.Ref) bool { return x.fromFacts(ref, depth-1) }) {
					return false
				}
			}
		}
		if len(rules) > 0 {
			return true
		}
	}
	return false
}

// copies reports whether the value of a local variable is what a reference that it should be
// equal to stands for, in the input or in the directory. In a rule that failed it may not be.
func (x *explaining) copies(f *failure, v ast.Var, value ast.Value) bool {
	return slices.ContainsFunc(equals(f.rule.Body, v), func(ref ast.Ref) bool {
		ground := f.plug(ref)
		if !ground.IsGround() || !x.fromFacts(ground, explainDepth) {
			return false
		}
		t, err := x.trace(ground)
		return err == nil && t.value != nil && t.value.Compare(value) == 0
	})
}

// plug puts the values of local variables into a reference.
func (f *failure) plug(ref ast.Ref) ast.Ref {
	plugged := ref.Copy()
	for i, t := range plugged[1:] {
		if v, ok := t.Value.(ast.Var); ok && f.locals != nil {
			if value := f.locals.Get(v); value != nil {
				plugged[i+1] = ast.NewTerm(value)
			}
		}
	}
	return plugged
}

// nameOf is a reference as its author would write it.
func (f *failure) nameOf(ref ast.Ref) string {
	named := ref.Copy()
	for i, t := range named[1:] {
		if v, ok := t.Value.(ast.Var); ok {
			name := string(v)
			if meta, known := f.names[v]; known {
				name = string(meta.Name)
			}
			named[i+1] = ast.VarTerm(f.sourceOf(v, name))
		}
	}
	return short(named)
}

// short leaves the package of the entrypoint out of a name.
func short(ref ast.Ref) string {
	return strings.TrimPrefix(ref.String(), claimsPrefix+".")
}

func (x *explaining) valueOf(name string, v ast.Value) Value {
	if v == nil {
		return Value{Name: name}
	}
	if x.hides(v) {
		return Value{Name: name, Defined: true, Hidden: true}
	}
	js, err := ast.JSON(v)
	if err != nil {
		js = v.String()
	}
	if text := v.String(); len(text) > valueLongest {
		js = text[:valueLongest] + "…"
	}
	return Value{Name: name, Value: js, Defined: true}
}
