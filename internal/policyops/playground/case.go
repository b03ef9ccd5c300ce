package playground

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/open-policy-agent/opa/v1/ast"

	"iam-service/internal/policy"
	"iam-service/internal/policyops/explain"
)

var (
	escape   = strings.NewReplacer("~", "~0", "/", "~1")
	unescape = strings.NewReplacer("~1", "/", "~0", "~")
)

// DraftCase is the acceptance case that would pin a decision.
type DraftCase struct {
	YAML   string `json:"yaml,omitempty" doc:"an item of the list cases: of cases/*.yaml, indented by two spaces. It holds the facts that the decision depends on"`
	Reason string `json:"reason,omitempty" doc:"why no case can be written"`
}

// byService are headers that the service fills, and no case can expect.
var byService = []string{"X-Decision-ID", "X-Policy-Revision"}

// writeCase writes the decision as an acceptance case, with the facts that it has read. The draft evaluates the case once more:
// what a case cannot state (a claim that is masked, a rule of the service itself) makes the result differ, and then there is no case.
func (s *Service) writeCase(ctx context.Context, x *policy.Draft, q explain.Question, out *Answer) DraftCase {
	d := x.Decision()
	if d == nil {
		return DraftCase{Reason: "the policy did not decide: " + out.Explained.Detail}
	}
	if out.Explained.Allow != d.Allow {
		return DraftCase{Reason: "the service denies what the policy allows (" + out.Explained.Code + "), and an acceptance case is about the policy alone"}
	}
	c := policy.Case{Title: title(q, out), Input: inputOf(q, out), Directory: directoryOf(out.Facts)}
	want, err := x.Expect(ctx, c)
	if err != nil {
		return DraftCase{Reason: "the case would not be decided as the request is: " + err.Error()}
	}
	if *want.Allow != d.Allow || want.Tenant != d.Tenant || !sameCodes(want.Codes, d.Reasons) {
		reason := "the case would be decided differently: the decision depends on what a case cannot hold"
		if masked(out) {
			reason += ", such as claims and facts that are not shown"
		}
		return DraftCase{Reason: reason}
	}
	for _, name := range byService {
		for key := range want.Headers {
			if http.CanonicalHeaderKey(key) == http.CanonicalHeaderKey(name) {
				delete(want.Headers, key)
			}
		}
	}
	c.Want = want
	text, err := yaml.Marshal([]policy.Case{c})
	if err == nil {
		_, err = policy.ParseCases("cases/new.yaml", append([]byte("cases:\n"), text...))
	}
	if err != nil {
		return DraftCase{Reason: "the case is not valid: " + err.Error()}
	}
	return DraftCase{YAML: indented(string(text))}
}

func masked(out *Answer) bool {
	return len(out.Masked) > 0 || slices.ContainsFunc(out.Facts, func(f FactRead) bool { return len(f.Masked) > 0 })
}

func sameCodes(codes []string, reasons []policy.Reason) bool {
	var all []string
	for _, r := range reasons {
		if r.Code != "" {
			all = append(all, r.Code)
		}
	}
	slices.Sort(all)
	return slices.Equal(codes, slices.Compact(all))
}

func title(q explain.Question, out *Answer) string {
	who := "a caller without a token"
	if q.Token != nil {
		if who = q.Token.Subject; who == "" {
			who = q.Token.ClientID
		}
	}
	word := "is denied"
	if out.Explained.Allow {
		word = "is allowed"
	}
	text := who + " " + word
	if q.Request.Path != "" {
		text += " " + strings.TrimSpace(q.Request.Method+" "+q.Request.Path)
	}
	if tenant := q.Tenant; tenant != "" {
		text += " in " + tenant
	}
	if out.Explained.Code != "" {
		text += ": " + out.Explained.Code
	}
	return text
}

// inputOf is the input that the policy saw, without what is masked, and with all facts of the request: a rule that begins to
// read one must not deny the case for its absence.
func inputOf(q explain.Question, out *Answer) map[string]any {
	input := map[string]any{}
	saw, _ := out.Input.(map[string]any) // nil: none
	for name, part := range saw {
		input[name] = withoutNulls(part)
	}
	if claims, ok := input["token"].(map[string]any); ok && q.Token != nil {
		for _, name := range []string{"iss", "sub", "client_id"} {
			if v, err := q.Token.Claims.Find(ast.Ref{ast.StringTerm(name)}); err == nil {
				if s, ok := v.(ast.String); ok {
					claims[name] = string(s)
				}
			}
		}
	}
	request, _ := input["request"].(map[string]any) // always present
	if request == nil {
		request = map[string]any{}
	}
	r := q.Request
	for name, v := range map[string]string{"gateway": r.Gateway, "method": r.Method, "scheme": r.Scheme, "host": r.Host, "path": r.Path, "raw_path": r.RawPath, "tenant_hint": q.Tenant} {
		if v != "" {
			request[name] = v
		}
	}
	if r.ClientIP.IsValid() {
		request["client_ip"] = r.ClientIP.String()
	}
	input["request"] = request
	return input
}

// withoutNulls removes what was masked.
func withoutNulls(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, e := range v {
			if e != nil {
				out[k] = withoutNulls(e)
			}
		}
		return out
	case []any:
		out := []any{} // as JSON it is a list
		for _, e := range v {
			if e != nil {
				out = append(out, withoutNulls(e))
			}
		}
		return out
	}
	return v
}

// directoryOf is data.directory with the documents that were read.
func directoryOf(facts []FactRead) map[string]any {
	root := map[string]any{}
	for _, f := range facts {
		if !f.Found {
			continue
		}
		steps := strings.Split(f.Path, "/")
		at := root
		for _, step := range steps[:len(steps)-1] {
			name := unescape.Replace(step)
			next, ok := at[name].(map[string]any)
			if !ok {
				next = map[string]any{}
				at[name] = next
			}
			at = next
		}
		at[unescape.Replace(steps[len(steps)-1])] = plain(f.Value)
	}
	return root
}

// plain is a value without its masked parts.
func plain(v any) any {
	text, err := json.Marshal(withoutNulls(v))
	if err != nil {
		return fmt.Sprint(v) // it was JSON
	}
	var out any
	_ = json.Unmarshal(text, &out) // as above
	return out
}

func indented(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("  " + line)
	}
	return b.String()
}
