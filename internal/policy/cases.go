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

// Case is a question with facts, and the decision that is wanted: cases/*.yaml. A bundle
// carries them as data.iam.cases, which the gate takes out again.
type Case struct {
	File  string `json:"file,omitempty"`
	Title string `json:"title"`

	Entrypoint string         `json:"entrypoint,omitempty"` // "claims" (the default) or "admin"
	Input      map[string]any `json:"input"`
	Directory  map[string]any `json:"directory,omitempty"` // as data.directory: users, tenants, clients

	Want Want `json:"want"`
}

// Want is what must be true of a decision; what is not named may be anything.
type Want struct {
	Allow   *bool             `json:"allow"`
	Status  int               `json:"status,omitempty"`
	Tenant  string            `json:"tenant,omitempty"`
	Codes   []string          `json:"codes,omitempty"`   // each of them must be among the reasons
	Headers map[string]string `json:"headers,omitempty"` // a list is written with commas
}

// ParseCases reads a file of cases.
func ParseCases(file string, text []byte) ([]Case, error) {
	var first, second yamlv3.Node
	docs := yamlv3.NewDecoder(bytes.NewReader(text))
	if docs.Decode(&first) == nil && docs.Decode(&second) == nil {
		return nil, fmt.Errorf("%s: one document is read, and there are more", file)
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

// checkFacts says which facts of cases no directory has: a misspelt key would make a rule hold for a reason that no
// user has.
func checkFacts(cases []Case) error {
	schema, compiled := directorySchema()
	var errs []error
	for _, c := range cases {
		if c.Directory != nil {
			errs = append(errs, fits(fmt.Sprintf("%s: %q: directory", c.File, c.Title), schema, compiled, c.Directory))
		}
	}
	return errors.Join(distinct(errs)...)
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
			return fmt.Errorf("%s: the case %d has no title", c.File, i+1)
		case c.Want.Allow == nil:
			return fmt.Errorf("%s: %q does not say whether it wants allow: true or false", c.File, c.Title)
		case c.Entrypoint != "" && c.Entrypoint != "claims" && c.Entrypoint != "admin":
			return fmt.Errorf("%s: %q: entrypoint must be claims or admin", c.File, c.Title)
		}
	}
	return nil
}

// Where below data.iam a bundle carries what is no data of its rules.
const (
	casesKey   = "cases"
	schemasKey = "schemas"
)

// Carry writes what a bundle carries as data: cases, and schemas of its data.
func (c *Candidate) Carry(data map[string]any) error {
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
	root, _ := data["iam"].(map[string]any) // absent: made here
	root = maps.Clone(root)
	if root == nil {
		root = map[string]any{}
	}
	maps.Copy(root, carried)
	data["iam"] = root
	return nil
}

// takeCarried takes cases and schemas out of data, so that they are not in memory for as long
// as the policy is in force.
func (c *Candidate) takeCarried() error {
	root, _ := c.Data["iam"].(map[string]any) // absent: nothing to take
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
			return fmt.Errorf("data.iam.%s are no schemas by name", schemasKey)
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
		return fmt.Errorf("data.iam.%s are no acceptance cases: %w", casesKey, err)
	}
	return checkCases(c.Cases)
}

// Answer is a decision, as a policy has given it.
type Answer map[string]any

// caseTime is how long one case may take: far more than a request may.
const caseTime = 2 * time.Second

// Case asks r what a case asks. A request that lacks facts which r reads is denied before r is
// asked, as a gateway's would be. Its answer is as strict as that to a request: an error is
// what would be a 503.
func (e *Engine) Case(ctx context.Context, r *Revision, c Case, more ...rego.EvalOption) (Answer, error) {
	facts, err := directory.NewStatic(c.Directory)
	if err != nil {
		return nil, err
	}
	input, err := r.caseInput(c)
	if err != nil {
		return nil, fmt.Errorf("input: %w", err)
	}
	if missing := r.view.facts &^ said(c.Input); c.Entrypoint != "admin" && missing != 0 {
		return Answer{"allow": false, "status": http.StatusForbidden, "reasons": []any{map[string]any{"code": CodeFactsMissing, "title": "The policy reads " + missing.String()}}}, nil
	}
	entrypoint, query := Entrypoint, r.query
	if c.Entrypoint == "admin" {
		if !r.administers {
			return nil, fmt.Errorf("the policy has no rule %s", AdminEntrypoint)
		}
		entrypoint, query = AdminEntrypoint, r.admin
	}
	now, limit := time.Now(), cmp.Or(e.cfg.CaseTime, caseTime)
	ev := &evaluation{facts: facts, ctx: ctx, began: now, limit: limit, deadline: now.Add(limit)}
	rs, err := r.eval(ctx, entrypoint, query, input, ev, more...)
	if err != nil {
		return nil, plain(err)
	}
	if entrypoint == AdminEntrypoint {
		_, err = adminDecision(rs)
	} else {
		_, err = e.decision(rs, r)
	}
	if header, ok := errors.AsType[*HeaderError](err); ok {
		return nil, fmt.Errorf("%w: it sets %q", plain(err), header.Name) // the author's own, and no caller's
	}
	if err != nil {
		return nil, plain(err)
	}
	doc, err := answerOf(rs)
	if err != nil {
		return nil, err
	}
	return toAnswer(doc)
}

// said are the facts of the request that the input of a case names.
func said(input map[string]any) (facts FieldSet) {
	request, _ := input["request"].(map[string]any) // none: none
	for f := range NumFields {
		if v, ok := request[f.String()]; ok && v != "" {
			facts |= 1 << f
		}
	}
	return facts
}

// caseInput is what r sees of the input of a case, as it would of a request: what is cut
// off there is cut off here, so that a case does not hold by what no request brings. What no
// request can have at all is an error.
func (r *Revision) caseInput(c Case) (ast.Value, error) {
	input, err := ast.InterfaceToValue(c.Input)
	if err != nil {
		return nil, err
	}
	all, ok := input.(ast.Object)
	if !ok || c.Entrypoint == "admin" { // that one is not cut
		return input, nil
	}
	v, seen := r.view, ast.NewObject([2]*ast.Term{termRequest, ast.ObjectTerm()}) // which is always there
	err = all.Iter(func(k, x *ast.Term) error {
		switch {
		case k.Equal(termToken):
			seen.Insert(k, cut(withClient(x), func(claim *ast.Term) bool {
				name, _ := claim.Value.(ast.String) // no other key is in JSON
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
			return fmt.Errorf("there is no input.%s: token, request, settings and now are all", strings.Trim(k.String(), `"`))
		}
		return nil
	})
	return seen, err
}

// checkRequest says why no request is like the one of a case.
func checkRequest(x *ast.Term) error {
	fields, ok := x.Value.(ast.Object)
	if !ok {
		return nil
	}
	for _, field := range fields.Keys() {
		if !field.Equal(termAnon) && !slices.ContainsFunc(fieldTerms[:], field.Equal) {
			return fmt.Errorf("a request has no field %s", field)
		}
	}
	for f, name := range fieldTerms {
		v := fields.Get(name)
		if v == nil {
			continue
		}
		if text, ok := v.Value.(ast.String); ok && text != "" { // anything else is absent
			if err := checkFact(Field(f), string(text)); err != nil {
				return err
			}
		}
	}
	return nil
}

// withClient is a token whose client is called client_id also where its issuer names it in azp
// alone, as verification makes it: without it a program's token would be a person's.
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

// cut is the object x with the keys that are seen.
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

// plain is the reason of an error that would be hidden from a caller.
func plain(err error) error {
	if cause := errors.Unwrap(err); cause != nil {
		return cause
	}
	return err
}

func toAnswer(doc ast.Object) (Answer, error) {
	v, err := ast.JSON(doc)
	if err != nil {
		return nil, err
	}
	answer, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("the answer is no object")
	}
	return answer, nil
}

// Codes are those of the reasons.
func (a Answer) Codes() []string {
	var codes []string
	list, _ := a["reasons"].([]any) // none: none
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
func (a Answer) String() string {
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

// Differs says how an answer is not what is wanted; "" if it is.
func (w Want) Differs(a Answer) string {
	var wrong []string
	want := func(what string, ok bool, got, wanted any) {
		if !ok {
			g, _ := json.Marshal(got)    // from JSON
			x, _ := json.Marshal(wanted) // as above
			wrong = append(wrong, fmt.Sprintf("%s is %s, want %s", what, g, x))
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
	return strings.Join(wrong, "; ")
}

// Try runs a case. The second result is how it does not hold; "" if it does.
func (e *Engine) Try(ctx context.Context, r *Revision, c Case) (Answer, string) {
	answer, err := e.Case(ctx, r, c)
	if err != nil {
		return nil, err.Error()
	}
	return answer, c.Want.Differs(answer)
}

// failing says which cases do not hold, and why.
func (e *Engine) failing(ctx context.Context, r *Revision, cases []Case) []string {
	var all []string
	for _, c := range cases {
		if _, why := e.Try(ctx, r, c); why != "" {
			all = append(all, fmt.Sprintf("%s: %s: %s", c.File, c.Title, why))
		}
	}
	return all
}
