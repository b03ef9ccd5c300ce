package policy_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"pgregory.net/rapid"

	"iam-service/internal/policy"
)

// What a policy can see, in all the ways that Rego has to look at something.
func TestTheKeyHoldsWhatThePolicyCanSee(t *testing.T) {
	t.Parallel()
	const sub, path = "input.token.sub", "input.request.path"
	all := []string{
		"input.request.anonymous", "input.request.client_ip", "input.request.gateway", "input.request.host", "input.request.method",
		"input.request.path", "input.request.raw_path", "input.request.scheme", "input.request.tenant_hint", "input.token",
	}
	allRequest := all[:9]
	for body, want := range map[string][]string{
		`input.token.sub == "s"`:                                      {sub},
		`input["token"]["sub"] == "s"`:                                {sub},
		`t := input.token; t.sub == "s"`:                              {sub},
		`x := input; x.token.sub == "s"`:                              {sub},
		`k := "sub"; input.token[k] == "s"`:                           {"input.token"},
		`some k; input.token[k] == "s"`:                               {"input.token"},
		`some k; input[k].sub == "s"`:                                 all,
		`input.token.act.sub == "s"`:                                  {"input.token.act"},
		`input.token["https://x/y"] == "s"`:                           {`input.token["https://x/y"]`},
		`some g in input.token.groups; g == "s"`:                      {"input.token.groups"},
		`"s" in input.token.groups`:                                   {"input.token.groups"},
		`every g in input.token.groups { g != input.request.path }`:   {path, "input.token.groups"},
		`count([g | some g in input.token.groups; g != ""]) > 0`:      {"input.token.groups"},
		`f(input.token.sub)`:                                          {sub},
		`g(input)`:                                                    all,
		`object.get(input, ["token", "sub"], "") == "s"`:              all,
		`object.get(input.token, "sub", "") == "s"`:                   {"input.token"},
		`inner with input.request.path as "/x"`:                       {path, "input.token"}, // of all that stands anywhere: OPA's account of "with" has gaps
		`data.iam.claims.inner with input as {"token": {"sub": "s"}}`: all,
		`not input.token.sub`:                                         {sub},
		`input.request.tenant_hint != ""`:                             {"input.request.tenant_hint"},
		`count(input.request) > 0`:                                    allRequest,
		`input.now > 0`:                                               {},
		`input.settings.unknown_users == "deny"`:                      {},
		`data.directory.users[input.token.iss][input.token.sub].id`:   {"input.token.iss", sub},
		`partial["x"]`:                                                {path},
		`partial[input.token.sub]`:                                    {path, sub},
		`input.request.anonymous`:                                     {"input.request.anonymous"},
		`walked`:                                                      {"input.token"},
	} {
		e := engine(t)
		err := offer(t, e, rule("decision := {\"allow\": true} if { "+body+" } else := {\"allow\": false}\n"+
			"f(x) if x == \"s\"\n\ng(x) if x.token.sub == \"s\"\n\ninner if {\n\tinput.request.path == \"/x\"\n\tinput.token.sub == \"s\"\n}\n"+
			"partial contains \"x\" if input.request.path\n\nwalked if {\n\tsome i, _ in input.token\n\ti == \"s\"\n}\n"))
		if err != nil {
			t.Errorf("%s: %v", body, err)
			continue
		}
		if diff := cmp.Diff(want, e.Revision().CacheKey); diff != "" {
			t.Errorf("%s: %s", body, diff)
		}
		facts := slices.DeleteFunc(slices.Clone(want), func(path string) bool {
			name, ok := strings.CutPrefix(path, "input.request.")
			return !ok || slices.Contains([]string{"anonymous", "gateway", "tenant_hint"}, name)
		})
		if diff := cmp.Diff(facts, e.Revision().RequestFacts); diff != "" {
			t.Errorf("%s: request facts: %s", body, diff)
		}
	}
}

// Two questions that differ in anything that the policy can see have two keys, and
// those that do not have one.
func TestNoTwoInputsShareAKey(t *testing.T) {
	t.Parallel()
	e := engine(t)
	if err := offer(t, e, rule("decision := {\"allow\": count(input.token) + count(input.request) > 0}")); err != nil {
		t.Fatal(err)
	}
	r := e.Revision()
	// Values that look alike when they are written one after the other.
	values := []any{nil, true, false, 1, "1", "", "a", "ab", "b", []any{}, []any{"a", "b"}, []any{"ab"}, []any{[]any{"a"}, "b"}, []any{nil},
		map[string]any{}, map[string]any{"a": "b"}, map[string]any{"a": map[string]any{}}, json.Number("1e3"), json.Number("1000.0"), "null", "true", "[]", "{}"}
	names := []string{"a", "b", "ab", "sub"}
	rapid.Check(t, func(t *rapid.T) {
		question := func(label string) (policy.Input, string) {
			claims := map[string]any{}
			for _, n := range names {
				if v := rapid.IntRange(-1, len(values)-1).Draw(t, label+n); v >= 0 {
					claims[n] = values[v]
				}
			}
			q := policy.Input{Now: time.Now(), Anonymous: rapid.Bool().Draw(t, label+"anonymous")}
			text := fmt.Sprint("anonymous ", q.Anonymous)
			if rapid.IntRange(0, 5).Draw(t, label+"token") > 0 {
				part := rapid.SampledFrom([]string{"", "a", "b", "ab"})
				iss, sub, id := part.Draw(t, label+"iss"), part.Draw(t, label+"sub"), part.Draw(t, label+"client")
				v := ast.MustInterfaceToValue(claims)
				q.Token = r.Token(iss, sub, id, v)
				text += fmt.Sprintf(" token %q %q %q %s", iss, sub, id, v)
			}
			for f := range policy.NumFields {
				q.Fields[f] = rapid.SampledFrom([]string{"", "a", "b", "ab"}).Draw(t, fmt.Sprint(label, f))
				text += fmt.Sprintf(" %q", q.Fields[f])
			}
			return q, text
		}
		a, aText := question("a")
		b, bText := a, aText
		if rapid.Bool().Draw(t, "two") {
			b, bText = question("b")
		}
		if same := r.Key(&a) == r.Key(&b); same != (aText == bText) {
			t.Fatalf("one key is %v for\n%s\n%s", same, aText, bText)
		}
	})
	// Neighbours that only lengths tell apart.
	one := policy.Input{}
	one.Fields[policy.Gateway], one.Fields[policy.Method] = "ab", "c"
	other := policy.Input{}
	other.Fields[policy.Gateway], other.Fields[policy.Method] = "a", "bc"
	if r.Key(&one) == r.Key(&other) {
		t.Error("ab, c and a, bc have one key")
	}
	for i, v := range values {
		for j, w := range values {
			x := policy.Input{Token: r.Token("", "", "", ast.MustInterfaceToValue(map[string]any{"a": v}))}
			y := policy.Input{Token: r.Token("", "", "", ast.MustInterfaceToValue(map[string]any{"a": w}))}
			if (r.Key(&x) == r.Key(&y)) != (i == j) {
				t.Errorf("%#v and %#v have one key", v, w)
			}
		}
	}
	split := [2]policy.Input{{Token: r.Token("ab", "c", "", ast.NewObject())}, {Token: r.Token("a", "bc", "", ast.NewObject())}}
	if r.Key(&split[0]) == r.Key(&split[1]) {
		t.Error("issuer and subject run into each other")
	}
}

// The policy is given what its key holds and nothing else, and that is enough: OPA
// itself, over all of the input, answers the same.
func TestAnInputReducedToItsKeyIsDecidedTheSame(t *testing.T) {
	t.Parallel()
	const text = `
a := input.token.groups[_]
b := {k: v | some k, v in input.token.act}
c(x) := y if { y := x.sub } else := "none"
default d := "nothing"
d := input.request.path if startswith(input.request.path, "/x")
e contains x if { some x in input.token.groups; x != input.request.method }
f := object.get(input.token, ["act", "sub"], "none")
g := [input.request[k] | some k in ["path", "host"]]
h if { every x in input.token.groups { x != "never" } }
i := count(input.token) if not input.token.act
k := $"{input.token.sub}-{input.request.tenant_hint}"
l := input["request"].scheme`
	// OPA's account of what is read has gaps where there is a "with": another way is taken then.
	const with = `
who := {"sub": "nobody"}
m := x if { x := who.sub with who as input.token }
t1 := input.request
n := x if { x := who with who as t1 }
o(_) := "o"
p(_) := input.request.host
q := o(1)
r := x if { x := q with o as p }
s := upper("s")
v := x if { x := s with upper as p }
y := x if { x := data.iam.config.nothing with data.iam.config.nothing as input.token.act }
j := x if { x := e with input.token.groups as ["w", "x"] }`
	plain := strings.Fields(`b c(input.token.act) d e f h k l g i`)
	rapid.Check(t, func(t *rapid.T) {
		all, expressions := text, plain
		if rapid.Bool().Draw(t, "with") {
			all, expressions = text+with, slices.Concat(plain, strings.Fields(`j m n r v y`))
		}
		uses := rapid.SliceOfNDistinct(rapid.SampledFrom(expressions), 1, 4, rapid.ID[string]).Draw(t, "uses")
		var answer []string
		for n, u := range uses {
			answer = append(answer, fmt.Sprintf("%q: [z | z := %s]", fmt.Sprint("r", n), u))
		}
		module := "package iam.claims\n" + all + "\ndecision := {\"allow\": true, \"tenant\": \"\", \"headers\": {\"X-User-ID\": base64.encode(json.marshal({" + strings.Join(answer, ", ") + "}))}}\n"
		e, err := policy.NewEngine(policy.Config{Log: discard, Limit: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Submit(ctx, &policy.Candidate{
			Roots: []string{"iam"}, Modules: map[string]string{"p.rego": module}, Data: map[string]any{"iam": map[string]any{"config": map[string]any{"headers": []any{"X-User-ID"}}}},
		}); err != nil {
			t.Fatal(err)
		}
		claims := map[string]any{"sub": "s"}
		if rapid.Bool().Draw(t, "groups") {
			claims["groups"] = []any{"x", "y"}
		}
		if rapid.Bool().Draw(t, "act") {
			claims["act"] = map[string]any{"sub": "a"}
		}
		q := policy.Input{Token: e.Revision().Token("", "s", "", ast.MustInterfaceToValue(claims)), Now: time.Now()}
		request := map[string]any{"anonymous": false}
		for f, name := range []string{"gateway", "method", "scheme", "host", "path", "raw_path", "client_ip", "tenant_hint"} {
			if v := rapid.SampledFrom([]string{"", "x", "/x/y"}).Draw(t, name); v != "" {
				q.Fields[f], request[name] = v, v
			}
		}
		d, err := e.Decide(ctx, &q, policy.Basis{Revision: e.Revision(), Facts: facts{}, Deadline: time.Now().Add(time.Minute)})
		if err != nil {
			t.Fatal(err)
		}
		input := map[string]any{"token": claims, "request": request, "now": q.Now.Unix(), "settings": map[string]any{}}
		rs, err := rego.New(rego.Query("x = data.iam.claims.decision.headers[\"X-User-ID\"]"), rego.Module("p.rego", module), rego.Input(input)).Eval(ctx)
		if err != nil || len(rs) != 1 {
			t.Fatal(rs, err)
		}
		if want, _ := rs[0].Bindings["x"].(string); !slices.Contains(d.Values, want) {
			t.Fatalf("%v: answered %q, OPA says %q", uses, d.Values, want)
		}
	})
}
