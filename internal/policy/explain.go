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
)

// Rule is a rule that can grant or deny, and whether it fired.
type Rule struct {
	Set         string `json:"set"` // its name: grants, denials, refusals
	Code        string `json:"code"`
	Title       string `json:"title"`
	Description string `json:"description,omitempty"`
	File        string `json:"file"`
	Line        int    `json:"line"`
	Fired       bool   `json:"fired"`

	Held []Condition `json:"held,omitempty"` // of one that fired: its conditions

	// Failed is the first condition that failed; nil where the rule fired, or where it is unknown.
	Failed *Condition `json:"failed,omitempty"`
	Error  string     `json:"error,omitempty"` // it cannot be evaluated; the decision may not have needed it
}

// Condition is a condition of a rule, which held or failed.
type Condition struct {
	Text    string  `json:"text"` // its source
	File    string  `json:"file"`
	Line    int     `json:"line"`
	Values  []Value `json:"values,omitempty"`  // of the names in it
	Because []Cause `json:"because,omitempty"` // of the undefined names in it
}

// Value is what a name in a condition stands for.
type Value struct {
	Name    string `json:"name"`
	Value   any    `json:"value,omitempty"` // absent: undefined, or not shown
	Defined bool   `json:"defined"`
	Hidden  bool   `json:"hidden,omitempty" doc:"it holds what a claim says that may be a secret, or, within a tenant, what is neither of the request nor of the tenant's facts"`

	FromFacts bool `json:"-"` // it is a part of the input or of the directory, also where rules name it
}

// Cause is why a name is undefined: the failed condition of each rule that would define it.
type Cause struct {
	Name   string      `json:"name"`
	Failed []Condition `json:"failed"`
}

const (
	explainDepth  = 4               // levels of causes
	explainCauses = 5               // rules of one name that are reported
	explainTime   = 2 * time.Second // of a whole explanation, which administrators request
	maxValueBytes = 500             // bytes of a value that are shown
	claimsPrefix  = "data.iam.claims"
)

// Explain reports for each rule with a code that the decision can depend on whether it fired,
// and otherwise which condition failed first. It also evaluates rules that Decide can skip.
// facts must be those of the decision.
func (e *Engine) Explain(ctx context.Context, r *Revision, q *Input, facts Facts) ([]Rule, error) {
	if r.draft != nil {
		return r.draft.explain(ctx, q, facts)
	}
	ctx, cancel := context.WithTimeout(ctx, explainTime)
	defer cancel()
	x := &explanation{r: r, ctx: ctx, input: r.input(q, e.settings), facts: facts, now: q.Now, seen: map[string]*trace{}}
	x.privateTexts = privateTextsOf(x.input)
	var all []Rule
	for _, path := range r.codedRules() {
		t, err := x.trace(path)
		for _, rule := range r.compiler.GetRulesExact(path) {
			explained, ok := r.describe(rule)
			if !ok {
				continue
			}
			if err != nil {
				explained.Error = causeOf(err).Error()
			} else if exit := t.fired[rule]; exit != nil {
				explained.Fired, explained.Held = true, x.conditionsOf(exit)
			} else if t.failed[rule] != nil {
				explained.Failed = x.condition(t.failed[rule], explainDepth)
			}
			all = append(all, explained)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("explain: %w", err)
	}
	slices.SortStableFunc(all, func(a, b Rule) int { return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line)) })
	return all, nil
}

// codedRules are the paths of rules with codes below the package of the entrypoint.
func (r *Revision) codedRules() []ast.Ref {
	found := map[string]ast.Ref{}
	for _, m := range r.compiler.Modules {
		if path := m.Package.Path.String(); path != claimsPrefix && !strings.HasPrefix(path, claimsPrefix+".") {
			continue
		}
		for _, rule := range m.Rules {
			if _, ok := r.describe(rule); ok && len(rule.Head.Args) == 0 { // a function decides nothing by itself
				path := rule.Ref().GroundPrefix()
				found[refKey(path)] = path
			}
		}
	}
	var paths []ast.Ref
	for _, key := range slices.Sorted(maps.Keys(found)) {
		paths = append(paths, found[key])
	}
	return paths
}

// describe returns a rule's METADATA; false where it has no code.
func (r *Revision) describe(rule *ast.Rule) (Rule, bool) {
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

// explanation is the state of one call of Explain.
type explanation struct {
	r     *Revision
	ctx   context.Context //nolint:containedctx // it lives as long as the call that created it
	input ast.Value
	facts Facts
	now   time.Time
	seen  map[string]*trace // by reference

	privateTexts []string // texts of claims that are not shown
}

// trace records one evaluation. It is a topdown.QueryTracer.
type trace struct {
	ruleOf map[uint64]*ast.Rule   // by query: the rule whose body it is
	fired  map[*ast.Rule]*failure // without an expression
	failed map[*ast.Rule]*failure
	value  ast.Value // nil: undefined
	err    error     // it cannot be evaluated
}

// Enabled, Config and TraceEvent are topdown.QueryTracer.
func (t *trace) Enabled() bool { return true }

// Config asks for the values of local variables.
func (t *trace) Config() topdown.TraceConfig { return topdown.TraceConfig{PlugLocalVars: true} }

// TraceEvent records which rules fired, and the last expression that the others reached: all
// before it held.
func (t *trace) TraceEvent(evt topdown.Event) {
	switch evt.Op {
	case topdown.EnterOp:
		if rule, ok := evt.Node.(*ast.Rule); ok {
			t.ruleOf[evt.QueryID] = rule
		}
	case topdown.ExitOp:
		if rule, ok := evt.Node.(*ast.Rule); ok && t.fired[rule] == nil {
			t.fired[rule] = &failure{nil, rule, evt.Locals, evt.LocalMetadata}
		}
	case topdown.FailOp:
		rule := t.ruleOf[evt.QueryID]
		expr, ok := evt.Node.(*ast.Expr)
		if rule == nil || !ok {
			return
		}
		if last := t.failed[rule]; last == nil || expr.Index > last.expr.Index {
			t.failed[rule] = &failure{expr, rule, evt.Locals, evt.LocalMetadata}
		}
	default: // other events are not needed
	}
}

// refKey is a unique encoding of a reference.
func refKey(ref ast.Ref) string {
	var b []byte
	for _, t := range ref {
		b = appendString(b, t.Value.String())
	}
	return string(b)
}

// trace evaluates a reference. The query is never built as text, since its parts can come from
// the caller.
func (x *explanation) trace(ref ast.Ref) (*trace, error) {
	key := refKey(ref)
	if t := x.seen[key]; t != nil {
		return t, t.err
	}
	t := &trace{ruleOf: map[uint64]*ast.Rule{}, fired: map[*ast.Rule]*failure{}, failed: map[*ast.Rule]*failure{}}
	x.seen[key] = t
	t.err = x.run(t, ref)
	return t, t.err
}

func (x *explanation) run(t *trace, ref ast.Ref) error {
	query, err := rego.New(
		rego.ParsedQuery(ast.NewBody(ast.NewExpr(ast.NewTerm(ref)))),
		rego.Compiler(x.r.compiler),
		rego.Store(x.r.store),
		rego.StrictBuiltinErrors(true),
	).PrepareForEval(x.ctx)
	if err != nil {
		return fmt.Errorf("prepare %s: %w", ref, err)
	}
	began := time.Now()
	ev := &evaluation{facts: x.facts, ctx: x.ctx, began: began, waited: x.facts.Waited(), limit: explainTime, deadline: began.Add(explainTime)}
	rs, err := x.r.eval(x.ctx, entrypoint{"a rule", query}, x.input, ev,
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

// conditionsOf returns the conditions of a rule that fired, as its author wrote them.
func (x *explanation) conditionsOf(exit *failure) (all []Condition) {
	head := exit.rule.Head.Location
	var begins []int // offsets of all in the file
	for _, expr := range exit.rule.Body {
		at := expr.Location
		if at == nil || len(at.Text) == 0 || head != nil && at.Offset < head.Offset+len(head.Text) { // from its head, or generated by the compiler
			continue
		}
		c := x.condition(&failure{expr, exit.rule, exit.locals, exit.names}, 2)
		from := at.Offset
		// The compiler splits expressions: merge the parts of this one.
		for last := len(all) - 1; last >= 0 && begins[last] >= from && begins[last] < from+len(at.Text); last-- {
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

// condition describes an expression: its source, the values of its names, and why some are
// undefined.
func (x *explanation) condition(f *failure, depth int) *Condition {
	c := &Condition{}
	if at := f.expr.Location; at != nil {
		c.Text, c.File, c.Line = strings.Join(strings.Fields(string(at.Text)), " "), at.File, at.Row
	}
	if c.Text == "" {
		c.Text = f.expr.String()
	}
	added := map[string]bool{}
	add := func(name string, v ast.Value, fromFacts bool) {
		if added[name] {
			return
		}
		added[name] = true
		value := x.valueOf(name, v)
		value.FromFacts = fromFacts
		c.Values = append(c.Values, value)
	}
	for _, ref := range f.refs() {
		ground, name := f.plug(ref), f.nameOf(ref)
		if !ground.IsGround() {
			continue // it iterates
		}
		t, err := x.trace(ground)
		if err != nil {
			continue // its value is unknown
		}
		add(name, t.value, x.fromFacts(ground, explainDepth))
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
					add(name, value, x.copies(f, v, value))
				}
			}
		}
	}
	return c
}

// cause finds the rule that a reference depends on, and why it is undefined.
func (x *explanation) cause(name string, ref ast.Ref, depth int) Cause {
	cause := Cause{Name: name, Failed: []Condition{}} // as JSON it is a list
	for n := len(ref); n > 1; n-- {
		rules := x.r.compiler.GetRulesExact(ref[:n])
		if len(rules) == 0 {
			continue
		}
		t, err := x.trace(ref[:n])
		if err != nil || t.value != nil {
			return cause // it is defined, but lacks the rest of the path
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
