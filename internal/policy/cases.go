package policy

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	yamlv3 "go.yaml.in/yaml/v3"
	"sigs.k8s.io/yaml"

	"iam-service/internal/directory"
)

// Case is a policy input with facts, and the expected decision: cases/*.yaml. A bundle
// carries cases as data.iam.cases, which the gate removes from data.
type Case struct {
	File  string `json:"file,omitempty"`
	Title string `json:"title"`

	Entrypoint string         `json:"entrypoint,omitempty"` // "claims" (the default), "admin" or "authzen"
	Input      map[string]any `json:"input"`
	Directory  map[string]any `json:"directory,omitempty"` // as data.directory: users, tenants, clients

	Want Want `json:"want"`
}

// What Case.Entrypoint names besides the default.
const (
	caseClaims  = "claims"
	caseAdmin   = "admin"
	caseAuthzen = "authzen"
)

// Want is the expected decision; absent fields are not compared.
type Want struct {
	Allow   *bool             `json:"allow"`
	Status  int               `json:"status,omitempty"`
	Tenant  string            `json:"tenant,omitempty"`
	Codes   []string          `json:"codes,omitempty"`   // each of them must be among the reasons
	Headers map[string]string `json:"headers,omitempty"` // lists are joined by commas
}

// ParseCases reads a file of cases.
func ParseCases(file string, text []byte) ([]Case, error) {
	var first, second yamlv3.Node
	docs := yamlv3.NewDecoder(bytes.NewReader(text))
	if docs.Decode(&first) == nil && docs.Decode(&second) == nil {
		return nil, fmt.Errorf("%s: it must be one YAML document", file)
	}
	var cases []Case
	js, err := yaml.YAMLToJSONStrict(text)
	if err == nil {
		var body struct {
			Cases []Case `json:"cases"`
		}
		err = strictly(js, &body)
		cases = body.Cases
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for i := range cases {
		cases[i].File = file
	}
	return cases, errors.Join(checkCases(cases), checkFacts(cases))
}

// checkFacts validates the facts of cases by the directory's schema: with a misspelt key, a case could pass for a
// reason that no real user has.
func checkFacts(cases []Case) error {
	schema, compiled := directorySchema()
	var errs []error
	for _, c := range cases {
		if c.Directory != nil {
			errs = append(errs, checkAgainst(fmt.Sprintf("%s: %q: directory", c.File, c.Title), schema, compiled, c.Directory))
		}
	}
	return errors.Join(uniqueErrors(errs)...)
}

func strictly(js []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(js))
	d.UseNumber()
	d.DisallowUnknownFields()
	return d.Decode(into)
}

func checkCases(cases []Case) error {
	for i, c := range cases {
		switch {
		case c.Title == "":
			return fmt.Errorf("%s: case %d has no title", c.File, i+1)
		case c.Want.Allow == nil:
			return fmt.Errorf("%s: %q: want.allow must be true or false", c.File, c.Title)
		case c.Entrypoint != "" && c.Entrypoint != caseClaims && c.Entrypoint != caseAdmin && c.Entrypoint != caseAuthzen:
			return fmt.Errorf("%s: %q: entrypoint must be claims, admin or authzen", c.File, c.Title)
		}
	}
	return nil
}

// Keys of data.iam under which a bundle carries cases and schemas.
const (
	casesKey   = "cases"
	schemasKey = "schemas"
)

// AddExtras adds cases and schemas to data, as a bundle carries them.
func (c *Candidate) AddExtras(data map[string]any) error {
	carried := map[string]any{}
	if len(c.Cases) > 0 {
		text, err := json.Marshal(c.Cases)
		if err != nil {
			return err
		}
		var list any
		d := json.NewDecoder(bytes.NewReader(text))
		d.UseNumber()
		if err := d.Decode(&list); err != nil {
			return err
		}
		carried[casesKey] = list
	}
	if len(c.Schemas) > 0 {
		carried[schemasKey] = c.Schemas
	}
	if len(carried) == 0 {
		return nil
	}
	root, _ := data["iam"].(map[string]any) // absent: created below
	root = maps.Clone(root)
	if root == nil {
		root = map[string]any{}
	}
	maps.Copy(root, carried)
	data["iam"] = root
	return nil
}

// extractExtras moves cases and schemas out of data, so that an active policy does not hold
// them in memory.
func (c *Candidate) extractExtras() error {
	root, _ := c.Data["iam"].(map[string]any) // absent: nothing to extract
	cases, hasCases := root[casesKey]
	schemas, hasSchemas := root[schemasKey]
	if !hasCases && !hasSchemas {
		return nil
	}
	c.Data, root = maps.Clone(c.Data), maps.Clone(root)
	delete(root, casesKey)
	delete(root, schemasKey)
	c.Data["iam"] = root
	if hasSchemas {
		var ok bool
		if c.Schemas, ok = schemas.(map[string]any); !ok {
			return fmt.Errorf("data.iam.%s is not an object of schemas by name", schemasKey)
		}
	}
	if !hasCases {
		return nil
	}
	text, err := json.Marshal(cases)
	if err != nil {
		return err
	}
	if err := strictly(text, &c.Cases); err != nil {
		return fmt.Errorf("data.iam.%s is not a list of acceptance cases: %w", casesKey, err)
	}
	return checkCases(c.Cases)
}

// RawDecision is a decision as a policy returns it.
type RawDecision map[string]any

// caseTime bounds one case: far longer than a request.
const caseTime = 2 * time.Second

// EvaluateCase evaluates r for a case. As for a gateway's request, a case that lacks facts
// which r reads is denied before the evaluation, and an error means a 503.
func (e *Engine) EvaluateCase(ctx context.Context, r *Revision, c Case, more ...rego.EvalOption) (RawDecision, error) {
	facts, err := directory.NewStatic(c.Directory)
	if err != nil {
		return nil, err
	}
	at, err := r.entrypointOf(c)
	if err != nil {
		return nil, err
	}
	input, err := r.caseInput(c)
	if err != nil {
		return nil, fmt.Errorf("input: %w", err)
	}
	if missing := r.view.facts &^ factsIn(c.Input); at.name == Entrypoint && missing != 0 {
		reason := map[string]any{"code": CodeFactsMissing, "title": "The policy reads " + missing.String()}
		return RawDecision{"allow": false, "status": http.StatusForbidden, "reasons": []any{reason}}, nil
	}
	now, limit := time.Now(), cmp.Or(e.cfg.CaseTime, caseTime)
	ev := &evaluation{facts: facts, ctx: ctx, began: now, limit: limit, deadline: now.Add(limit)}
	rs, err := r.eval(ctx, at, input, ev, more...)
	if err != nil {
		return nil, causeOf(err)
	}
	switch at.name {
	case AdminEntrypoint:
		_, err = adminDecision(rs)
	case AuthzenEntrypoint:
		var t *ast.Term
		if t, err = result(rs); err == nil {
			_, err = authzenDecision(t)
		}
	default:
		_, err = e.decisionOf(rs, r)
	}
	if header, ok := errors.AsType[*HeaderError](err); ok {
		return nil, fmt.Errorf("%w: it sets %q", causeOf(err), header.Name) // written by the author of the case, not by a caller
	}
	if err != nil {
		return nil, causeOf(err)
	}
	doc, err := resultObject(rs)
	if err != nil {
		return nil, err
	}
	return toRawDecision(doc)
}

// entrypointOf is the entrypoint that a case is about.
func (r *Revision) entrypointOf(c Case) (entrypoint, error) {
	switch c.Entrypoint {
	case caseAdmin:
		if !r.administers {
			return entrypoint{}, fmt.Errorf("the policy has no rule %s", AdminEntrypoint)
		}
		return entrypoint{AdminEntrypoint, r.admin}, nil
	case caseAuthzen:
		if !r.Authorizes() {
			return entrypoint{}, fmt.Errorf("the policy has no rule %s", AuthzenEntrypoint)
		}
		return entrypoint{AuthzenEntrypoint, r.authzen.decision}, nil
	}
	return entrypoint{Entrypoint, r.query}, nil
}

// factsIn returns the request facts that the input of a case has.
func factsIn(input map[string]any) (facts FieldSet) {
	request, _ := input["request"].(map[string]any) // absent: no facts
	for f := range NumFields {
		if v, ok := request[f.String()]; ok && v != "" {
			facts |= 1 << f
		}
	}
	return facts
}

// caseInput is what r sees of the input of a case: reduced like a request's, so that a case
// cannot pass by parts that are missing there. Parts that no request can have are an error.
func (r *Revision) caseInput(c Case) (ast.Value, error) {
	input, err := ast.InterfaceToValue(c.Input)
	if err != nil {
		return nil, err
	}
	if c.Entrypoint == caseAuthzen {
		return r.authzenCaseInput(input)
	}
	all, ok := input.(ast.Object)
	if !ok || c.Entrypoint == caseAdmin { // admin input is not reduced
		return input, nil
	}
	v, seen := r.view, ast.NewObject([2]*ast.Term{termRequest, ast.ObjectTerm()}) // always present
	err = all.Iter(func(k, x *ast.Term) error {
		switch {
		case k.Equal(termToken):
			seen.Insert(k, cut(withClient(x), func(claim *ast.Term) bool {
				name, _ := claim.Value.(ast.String) // JSON has only string keys
				return v.allClaims || slices.Contains(v.claims, string(name))
			}))
		case k.Equal(termRequest):
			if err := checkRequest(x); err != nil {
				return err
			}
			seen.Insert(k, cut(x, func(field *ast.Term) bool {
				return v.anonymous && field.Equal(termAnon) || slices.ContainsFunc(v.fields, func(f Field) bool { return field.Equal(fieldTerms[f]) })
			}))
		case k.Equal(termNow) && v.now, k.Equal(termSettings) && v.settings:
			seen.Insert(k, x)
		case k.Equal(termNow), k.Equal(termSettings):
		default:
			return fmt.Errorf("unknown input.%s: token, request, settings and now are allowed", strings.Trim(k.String(), `"`))
		}
		return nil
	})
	return seen, err
}

// checkRequest rejects a request that no gateway can send.
func checkRequest(x *ast.Term) error {
	fields, ok := x.Value.(ast.Object)
	if !ok {
		return nil
	}
	for _, field := range fields.Keys() {
		if !field.Equal(termAnon) && !slices.ContainsFunc(fieldTerms[:], field.Equal) {
			return fmt.Errorf("unknown field input.request.%s", strings.Trim(field.String(), `"`))
		}
	}
	for f, name := range fieldTerms {
		v := fields.Get(name)
		if v == nil {
			continue
		}
		if text, ok := v.Value.(ast.String); ok && text != "" { // anything else counts as absent
			if err := checkFact(Field(f), string(text)); err != nil {
				return err
			}
		}
	}
	return nil
}

// withClient adds client_id to a token that has azp alone, as verification does: without it a
// program's token would count as a person's.
func withClient(x *ast.Term) *ast.Term {
	claims, ok := x.Value.(ast.Object)
	if !ok {
		return x
	}
	azp := claims.Get(ast.InternedTerm("azp"))
	if azp == nil || claims.Get(ast.InternedTerm("client_id")) != nil {
		return x
	}
	named, _ := claims.Merge(ast.NewObject([2]*ast.Term{ast.InternedTerm("client_id"), azp})) // no key in common: no conflict
	return ast.NewTerm(named)
}

// cut is the object x with the visible keys.
func cut(x *ast.Term, see func(key *ast.Term) bool) *ast.Term {
	all, ok := x.Value.(ast.Object)
	if !ok {
		return x
	}
	seen := ast.NewObject()
	all.Foreach(func(k, v *ast.Term) {
		if see(k) {
			seen.Insert(k, v)
		}
	})
	return ast.NewTerm(seen)
}

// causeOf unwraps an error whose cause is hidden from callers.
func causeOf(err error) error {
	if cause := errors.Unwrap(err); cause != nil {
		return cause
	}
	return err
}

func toRawDecision(doc ast.Object) (RawDecision, error) {
	v, err := ast.JSON(doc)
	if err != nil {
		return nil, err
	}
	decision, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("the decision is not an object")
	}
	return decision, nil
}

// Codes returns the codes of the reasons.
func (a RawDecision) Codes() []string {
	var codes []string
	list, _ := a["reasons"].([]any) // absent: none
	for _, r := range list {
		reason, _ := r.(map[string]any) // as above
		if code, ok := reason["code"].(string); ok {
			codes = append(codes, code)
		}
	}
	slices.Sort(codes)
	return codes
}

// String is a decision in one line.
func (a RawDecision) String() string {
	word := "deny"
	if a["allow"] == true {
		word = "allow"
	}
	if status := fmt.Sprint(a["status"]); a["status"] != nil {
		word += " " + status
	}
	if tenant, ok := a["tenant"].(string); ok && tenant != "" {
		word += " in " + tenant
	}
	word += " because of " + strings.Join(a.Codes(), ", ")
	headers, _ := a["headers"].(map[string]any) // a deny has none
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		if v := headerText(headers[name]); v != "" {
			word += "; " + name + ": " + v
		}
	}
	return word
}

func headerText(v any) string {
	list, ok := v.([]any)
	if !ok {
		return fmt.Sprint(v)
	}
	words := make([]string, len(list))
	for i, x := range list {
		words[i] = fmt.Sprint(x)
	}
	slices.Sort(words)
	return strings.Join(words, ",")
}

// Mismatch describes how a decision differs from the expected one; "" if it does not.
func (w Want) Mismatch(a RawDecision) string {
	var mismatches []string
	want := func(what string, ok bool, got, wanted any) {
		if !ok {
			g, _ := json.Marshal(got)    // from JSON
			x, _ := json.Marshal(wanted) // as above
			mismatches = append(mismatches, fmt.Sprintf("%s is %s, want %s", what, g, x))
		}
	}
	want("allow", a["allow"] == *w.Allow, a["allow"], *w.Allow)
	want("status", w.Status == 0 || fmt.Sprint(a["status"]) == fmt.Sprint(w.Status), a["status"], w.Status)
	want("tenant", w.Tenant == "" || a["tenant"] == w.Tenant, a["tenant"], w.Tenant)
	for _, code := range w.Codes {
		want("codes", slices.Contains(a.Codes(), code), a.Codes(), code)
	}
	headers, _ := a["headers"].(map[string]any) // a deny has none
	for _, name := range slices.Sorted(maps.Keys(w.Headers)) {
		got := ""
		if v, there := headers[name]; there {
			got = headerText(v)
		}
		want(name, got == w.Headers[name], got, w.Headers[name])
	}
	return strings.Join(mismatches, "; ")
}

// RunCase evaluates a case. The second result is why it fails; "" if it passes.
func (e *Engine) RunCase(ctx context.Context, r *Revision, c Case) (RawDecision, string) {
	decision, err := e.EvaluateCase(ctx, r, c)
	if err != nil {
		return nil, err.Error()
	}
	return decision, c.Want.Mismatch(decision)
}

// failingCases describes the cases that fail.
func (e *Engine) failingCases(ctx context.Context, r *Revision, cases []Case) []string {
	var all []string
	for _, c := range cases {
		if _, why := e.RunCase(ctx, r, c); why != "" {
			all = append(all, fmt.Sprintf("%s: %s: %s", c.File, c.Title, why))
		}
	}
	return all
}
