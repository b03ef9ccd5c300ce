package authoring

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	yamlv3 "go.yaml.in/yaml/v3"
	"sigs.k8s.io/yaml"

	"iam-service/internal/policy"
)

// Case is a question with facts, and the decision that is wanted: cases/*.yaml.
type Case struct {
	File  string `json:"-"`
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

func readCases(file string, text []byte) ([]Case, error) {
	var body struct {
		Cases []Case `json:"cases"`
	}
	var first, second yamlv3.Node
	docs := yamlv3.NewDecoder(bytes.NewReader(text))
	if docs.Decode(&first) == nil && docs.Decode(&second) == nil {
		return nil, fmt.Errorf("%s: one document is read, and there are more", file)
	}
	js, err := yaml.YAMLToJSONStrict(text)
	if err == nil {
		d := json.NewDecoder(bytes.NewReader(js))
		d.UseNumber()
		d.DisallowUnknownFields()
		err = d.Decode(&body)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for i := range body.Cases {
		c := &body.Cases[i]
		c.File = file
		switch {
		case c.Title == "":
			return nil, fmt.Errorf("%s: the case %d has no title", file, i+1)
		case c.Want.Allow == nil:
			return nil, fmt.Errorf("%s: %q does not say whether it wants allow: true or false", file, c.Title)
		case c.Entrypoint != "" && c.Entrypoint != "claims" && c.Entrypoint != "admin":
			return nil, fmt.Errorf("%s: %q: entrypoint must be claims or admin", file, c.Title)
		}
	}
	return body.Cases, nil
}

// caseTime is how long one case may take: far more than a request may.
const caseTime = 2 * time.Second

// Answer is a decision, as a policy has given it.
type Answer map[string]any

// Answer evaluates one case.
func (f *Folder) Answer(ctx context.Context, compiler *ast.Compiler, c Case) (Answer, error) {
	query := policy.Entrypoint
	if c.Entrypoint == "admin" {
		query = policy.AdminEntrypoint
	}
	data := maps.Clone(f.Data)
	directory := map[string]any{"users": map[string]any{}, "tenants": map[string]any{}, "clients": map[string]any{}}
	maps.Copy(directory, c.Directory)
	data["directory"] = directory
	ctx, cancel := context.WithTimeout(ctx, caseTime)
	defer cancel()
	rs, err := rego.New(rego.Query(query), rego.Compiler(compiler), rego.Store(&refusing{inmem.NewFromObject(data)}), rego.Input(c.Input), rego.StrictBuiltinErrors(true)).Eval(ctx)
	if err != nil {
		return nil, err
	}
	if len(rs) == 0 {
		return nil, fmt.Errorf("%s is undefined", query)
	}
	answer, ok := rs[0].Expressions[0].Value.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s is no object", query)
	}
	return answer, nil
}

// refusing is a store that refuses a walk over the directory, as the one that serves does.
type refusing struct{ storage.Store }

func (s *refusing) Read(ctx context.Context, txn storage.Transaction, p storage.Path) (any, error) {
	if len(p) > 0 && p[0] == "directory" && (len(p) < 2 || len(p)-2 < collections[p[1]]) {
		return nil, fmt.Errorf("data.%s cannot be walked over: name a document by its keys", strings.Join(p, "."))
	}
	return s.Store.Read(ctx, txn, p)
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

// differs says how an answer is not what is wanted; "" if it is.
func (w Want) differs(a Answer) string {
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

// RunCases runs all cases and prints those that fail, or with each what is decided in all.
func (f *Folder) RunCases(ctx context.Context, out io.Writer, each bool) (failed int, err error) {
	if len(f.Cases) == 0 {
		return 0, nil
	}
	compiler, err := f.compile(f.rules(), false)
	if err != nil {
		return 0, err
	}
	for _, c := range f.Cases {
		answer, err := f.Answer(ctx, compiler, c)
		why := c.Want.differs(answer)
		if err != nil {
			why = err.Error()
		}
		switch {
		case why != "":
			failed++
			fmt.Fprintf(out, "FAIL %s: %s: %s\n", c.File, c.Title, why)
		case each:
			fmt.Fprintf(out, "     %s: %s\n", c.Title, answer)
		}
	}
	return failed, nil
}
