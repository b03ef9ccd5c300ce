package policy_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"iam-service/internal/directory"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
)

func TestADecisionOfAnotherShapeIsAnError(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"undefined":               `decision := {"allow": true} if input.nothing`,
		"no object":               `decision := true`,
		"no allow":                `decision := {"headers": {}}`,
		"allow is a string":       `decision := {"allow": "true"}`,
		"allow is a number":       `decision := {"allow": 1}`,
		"status is 200":           `decision := {"allow": false, "status": 200}`,
		"status is 500":           `decision := {"allow": false, "status": 500}`,
		"status is a string":      `decision := {"allow": false, "status": "403"}`,
		"anonymous is a string":   `decision := {"allow": true, "anonymous": "yes"}`,
		"tenant is a list":        `decision := {"allow": true, "tenant": ["a"]}`,
		"reasons are a string":    `decision := {"allow": false, "reasons": "no"}`,
		"a reason is a string":    `decision := {"allow": false, "reasons": ["no"]}`,
		"headers are a list":      `decision := {"allow": true, "headers": ["X-User-ID"]}`,
		"a header is a number":    `decision := {"allow": true, "headers": {"X-User-ID": 7}}`,
		"a header is an object":   `decision := {"allow": true, "headers": {"X-User-ID": {"a": "b"}}}`,
		"a header holds a number": `decision := {"allow": true, "headers": {"X-User-ID": ["a", 7]}}`,
		"an undeclared header":    `decision := {"allow": true, "headers": {"X-User-Shoe": "39"}}`,
		"a header of the gateways that the bundle does not declare": `decision := {"allow": true, "headers": {"X-Tenant-ID": "acme"}}`,
		"two rules contradict": "decision := {\"allow\": true} if input.token\n\ndecision := {\"allow\": false} if input.token",
		"a builtin fails":      `decision := {"allow": true} if not base64.decode(input.token.iss)`,
		"a division by zero":   `decision := {"allow": true} if { not 1 / (input.token.n - 1) == 0 } `,
		"the whole directory":  `decision := {"allow": true, "n": count(data.directory)}`,
		"all of data":          `decision := {"allow": true, "n": count([1 | data[_]])}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := engine(t)
			if err := offer(t, e, rule(body)); err != nil {
				if name == "all of data" { // OPA itself finds the recursion
					return
				}
				t.Fatal(err)
			}
			d, err := decideFor(e, map[string]any{"iss": "!", "n": 1}, facts{"directory": &iam.Error{Kind: iam.Internal, Code: "policy_error"}})
			if err == nil || iam.CodeOf(err) != "policy_error" {
				t.Errorf("got %+v, %v", d, err)
			}
		})
	}
}

// The text of an error is logged and stored. It names the place in the policy, and nothing of the token.
func TestAnErrorNamesNoValueOfTheToken(t *testing.T) {
	t.Parallel()
	const planted = "PLANTED-SECRET-1"
	store, err := directory.NewStatic(map[string]any{})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ body, want string }{
		"a date":              {`decision := {"allow": time.parse_rfc3339_ns(input.token.x) > 0}`, "p.rego:3: eval_builtin_error: time.parse_rfc3339_ns"},
		"a number":            {`decision := {"allow": to_number(input.token.x) > 0}`, "p.rego:3: eval_builtin_error: to_number"},
		"in a function":       {"f(x) := to_number(x)\n\ndecision := {\"allow\": f(input.token.x) > 0}", "p.rego:3: eval_builtin_error: to_number"},
		"another type":        {`decision := {"allow": sum(input.token.list) > 0}`, "p.rego:3: eval_type_error: sum"},
		"a contradiction":     {`decision := {"allow": count({input.token.x: v | some v in [1, 2]}) > 0}`, "p.rego:3: eval_conflict_error"},
		"a walk over a realm": {`decision := {"allow": count(data.directory.users[input.token.x]) > 0}`, "data.directory.users cannot be enumerated"},
	} {
		e := engine(t)
		if err := offer(t, e, rule(c.body)); err != nil {
			t.Fatal(err)
		}
		_, err := decideFor(e, map[string]any{"x": planted, "list": []any{planted}}, store)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), planted) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestAHeaderCarriesWhatItCan(t *testing.T) {
	t.Parallel()
	e := engine(t)
	if err := offer(t, e, files{
		"iam/config/data.json": `{"headers": ["X-User-ID", "X-User-Roles", "X-Scopes"]}`,
		"iam/claims/p.rego":    "package iam.claims\n\ndecision := {\"allow\": true, \"headers\": {\"x-user-id\": input.token.id, \"X-User-Roles\": input.token.roles, \"X-Scopes\": {s | some s in input.token.scopes}}}\n",
	}); err != nil {
		t.Fatal(err)
	}
	ask := func(id string, roles, scopes []string) (policy.Decision, error) {
		return decideFor(e, map[string]any{"id": id, "roles": anys(roles), "scopes": anys(scopes)}, facts{})
	}
	d, err := ask("a,b c", []string{"z", "a"}, []string{"z", "a", "z"})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for i, name := range e.Headers() {
		if d.Values[i] != "" {
			got[name] = d.Values[i]
		}
	}
	if diff := cmp.Diff(map[string]string{"X-User-Id": "a,b c", "X-User-Roles": "z,a", "X-Scopes": "a,z"}, got); diff != "" {
		t.Error(diff)
	}
	for name, bad := range map[string][2]string{
		"CR LF": {"a\r\nX-User-Roles: admin", "r"}, "LF": {"a\nb", "r"}, "non-ASCII": {"café", "r"}, "NUL": {"a\x00", "r"}, "DEL": {"a\x7f", "r"},
		"a comma in a role": {"a", "viewer,admin"}, "LF in a role": {"a", "viewer\nadmin"},
	} {
		if _, err := ask(bad[0], []string{bad[1]}, nil); iam.CodeOf(err) != "header_value" || iam.KindOf(err) != iam.Forbidden {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func anys(list []string) []any {
	out := make([]any, len(list))
	for i, s := range list {
		out[i] = s
	}
	return out
}

func TestAnEndlessPolicyIsCutOff(t *testing.T) {
	t.Parallel()
	e, err := policy.NewEngine(policy.Config{Log: slog.New(slog.DiscardHandler), Limit: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := offer(t, e, rule("n := [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]\n\ndecision := {\"allow\": true} if { count([1 | n[_]; n[_]; n[_]; n[_]; n[_]; n[_]; n[_]; n[_]; n[_]; n[_]; n[_]]) > 0 }")); err != nil {
		t.Fatal(err)
	}
	if _, err := decide(e, facts{}); iam.CodeOf(err) != "policy_timeout" || iam.KindOf(err) != iam.Unavailable {
		t.Errorf("got %v", err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	by := policy.Basis{Revision: e.Revision(), Facts: facts{}, Deadline: time.Now().Add(time.Hour)}
	if _, err := e.Decide(gone, &policy.Input{}, by); iam.CodeOf(err) != "policy_timeout" {
		t.Errorf("a caller who left: %v", err)
	}
	by.Deadline = time.Now()
	if _, err := e.Decide(ctx, &policy.Input{}, by); iam.CodeOf(err) != "policy_timeout" {
		t.Errorf("past the deadline: %v", err)
	}
}

// Each step of a policy that doubles something costs as much as all before it.
func TestAnExplodingPolicyIsCutOff(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ from, step string }{
		"lists": {"[1]", "array.concat(X, X)"}, "text": {`"a"`, `concat("", [X, X])`},
	} {
		var body strings.Builder
		body.WriteString("decision := {\"allow\": count(x40) > 0} if {\n\tx0 := " + c.from + "\n")
		for i := range 40 {
			fmt.Fprintf(&body, "\tx%d := %s\n", i+1, strings.ReplaceAll(c.step, "X", fmt.Sprint("x", i)))
		}
		body.WriteString("}\n")
		e, err := policy.NewEngine(policy.Config{Log: slog.New(slog.DiscardHandler)}) // the limit is the usual one
		if err != nil {
			t.Fatal(err)
		}
		if err := offer(t, e, rule(body.String())); err != nil {
			t.Fatal(err)
		}
		if d, err := decide(e, facts{}); iam.CodeOf(err) != "policy_timeout" {
			t.Errorf("%s: %+v, %v", name, d.Allow, err)
		}
	}
}

func TestFactsThatCannotBeReadFailTheDecision(t *testing.T) {
	t.Parallel()
	e := engine(t)
	away := &iam.Error{Kind: iam.Unavailable, Code: "facts_unavailable"}
	for name, body := range map[string]string{
		"used":             `decision := {"allow": data.directory.tenants.acme.open}`,
		"behind not":       `decision := {"allow": true} if not data.directory.tenants.acme.closed`,
		"behind a default": "default closed := false\n\nclosed := data.directory.tenants.acme.closed\n\ndecision := {\"allow\": true} if not closed",
		"in a collection":  `decision := {"allow": count([1 | data.directory.tenants.acme.closed]) == 0}`,
	} {
		if err := offer(t, e, rule(body)); err != nil {
			t.Fatal(name, err)
		}
		f := facts{"directory/tenants/acme": away}
		if d, err := decide(e, f); iam.CodeOf(err) != "facts_unavailable" {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
}

func TestWhatTheGuideOffersInsteadOfSprintfWorks(t *testing.T) {
	t.Parallel()
	e := engine(t)
	if err := offer(t, e, rule("decision := {\"allow\": true, \"headers\": {\"X-User-ID\": $\"{input.token.iss}/{input.token.sub}\"}}")); err != nil {
		t.Fatal(err)
	}
	if d, err := decide(e, facts{}); err != nil || !slices.Contains(d.Values, "i/s") {
		t.Errorf("%q, %v", d.Values, err)
	}
}

func TestWhatTheDecisionCanSeeIsReported(t *testing.T) {
	t.Parallel()
	e := engine(t)
	if err := offer(t, e, rule("decision := {\"allow\": x} if { x := input.token.acr == \"2\"; time.now_ns() > 0; every y in [1] { input.request.path != \"\"; y > 0 } }")); err != nil {
		t.Fatal(err)
	}
	r := e.Revision()
	if diff := cmp.Diff([]string{"input.request.path", "input.token.acr"}, r.CacheKey); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"time.now_ns"}, r.Nondeterministic); diff != "" {
		t.Error(diff)
	}
}

// What is undefined at a gateway is undefined in a case, and denied in both.
func TestACaseThatLacksAFactThatIsReadIsDenied(t *testing.T) {
	t.Parallel()
	e := engine(t)
	if err := offer(t, e, rule("decision := {\"allow\": count(denied) == 0}\n\ndenied contains 1 if startswith(input.request.path, \"/x\")")); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		input map[string]any
		want  string
	}{
		"no request": {map[string]any{}, "deny 403 because of request_facts_missing"},
		"no path":    {map[string]any{"request": map[string]any{"method": "GET"}}, "deny 403 because of request_facts_missing"},
		"no text":    {map[string]any{"request": map[string]any{"path": ""}}, "deny 403 because of request_facts_missing"},
		"a path":     {map[string]any{"request": map[string]any{"path": "/y"}}, "allow because of "},
		"another":    {map[string]any{"request": map[string]any{"path": "/x"}}, "deny because of "},
	} {
		answer, err := e.EvaluateCase(t.Context(), e.Revision(), policy.Case{Title: name, Input: c.input})
		if err != nil || answer.String() != c.want {
			t.Errorf("%s: %v, %v, want %s", name, answer, err, c.want)
		}
	}
}

func TestAPolicyThatReadsUntrustedRequestFactsGetsAWarning(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]int{`decision := {"allow": input.request.path == "/"}`: 1, `decision := {"allow": input.token.sub == "a"}`: 0} {
		for _, untold := range []bool{true, false} {
			var logs bytes.Buffer
			e, err := policy.NewEngine(policy.Config{Headers: []string{"X-User-ID"}, NoTrustedProxies: untold, Log: slog.New(slog.NewJSONHandler(&logs, nil))})
			if err != nil {
				t.Fatal(err)
			}
			if err := offer(t, e, rule(body)); err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(logs.String(), `"level":"WARN"`); untold && n != want || !untold && n != 0 {
				t.Errorf("%s, untold is %t: %d warnings: %s", body, untold, n, &logs)
			}
		}
	}
}

func TestAnonymousPathsMatchWholeSegments(t *testing.T) {
	t.Parallel()
	e := engine(t)
	if err := offer(t, e, files{"iam/config/data.json": `{"headers": ["X-User-ID"], "anonymous": {"paths": ["/public", "/assets/"]}}`}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{
		"/public": true, "/public/": true, "/public/x": true, "/publicity": false, "/assets": true, "/assets/a.css": true, "/": false, "": false, "/x/public": false,
	} {
		if got := e.Revision().Anonymous(path, false); got != want {
			t.Errorf("%q: %v", path, got)
		}
	}
	if e.Revision().Anonymous("/x", true) {
		t.Error("a preflight is anonymous although the bundle does not say so")
	}
}
