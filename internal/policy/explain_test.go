package policy_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"iam-service/internal/directory"
	"iam-service/internal/policy"
)

// explained is what is said of a small policy; input.token is given.
func explained(t *testing.T, body string, token map[string]any, users map[string]any) map[string]policy.Rule {
	t.Helper()
	e := engine(t)
	if err := offer(t, e, files{"iam/claims/p.rego": "package iam.claims\n\ndecision := {\"allow\": count(grants) > 0}\n\n" + body}); err != nil {
		t.Fatal(err)
	}
	facts, err := directory.NewStatic(map[string]any{"users": map[string]any{"i": users}})
	if err != nil {
		t.Fatal(err)
	}
	r := e.Revision()
	q := policy.Input{Token: r.Token("", "", "", ast.MustInterfaceToValue(token)), Now: time.Unix(1000, 0)}
	rules, err := e.Explain(ctx, r, &q, facts)
	if err != nil {
		t.Fatal(err)
	}
	byCode := map[string]policy.Rule{}
	for _, rule := range rules {
		byCode[rule.Code] = rule
	}
	return byCode
}

const twoGrants = `# METADATA
# title: First
# custom:
#   code: first
grants contains "first" if {
	input.token.sub
	_user.level >= 3
	input.token.acr == "2"
}

# METADATA
# title: Second
# custom:
#   code: second
grants contains "second" if {
	some role in _user.roles
	role == "editor"
}

_user := data.directory.users[input.token.iss][input.token.sub]
`

func TestTheFirstConditionThatWasNotSoIsNamedWithItsValues(t *testing.T) {
	t.Parallel()
	alice := map[string]any{"alice": map[string]any{"level": 2, "roles": []any{"viewer", "author"}}}
	got := explained(t, twoGrants, map[string]any{"iss": "i", "sub": "alice"}, alice)
	first := got["first"]
	if first.Fired || first.Failed == nil || first.Failed.Text != "_user.level >= 3" || first.Failed.Line != 11 || first.Title != "First" || first.Set != "grants" {
		t.Fatalf("first: %+v, %+v", first, first.Failed)
	}
	if v := first.Failed.Values; len(v) != 1 || v[0].Name != "_user.level" || !v[0].Defined || v[0].Value.(interface{ String() string }).String() != "2" {
		t.Errorf("the value is %+v", v)
	}
	if second := got["second"]; second.Fired || second.Failed == nil || second.Failed.Text != `role == "editor"` {
		t.Errorf("second: %+v, %+v", second, second.Failed)
	}
}

func TestItIsFollowedWhySomethingIsUndefined(t *testing.T) {
	t.Parallel()
	got := explained(t, twoGrants, map[string]any{"iss": "i", "sub": "nobody"}, map[string]any{})
	f := got["first"].Failed
	if f == nil || f.Text != "_user.level" || len(f.Because) != 1 || f.Because[0].Name != "_user" || len(f.Because[0].Failed) != 1 {
		t.Fatalf("got %+v", f)
	}
	if why := f.Because[0].Failed[0]; why.Line != 24 || len(why.Values) == 0 || why.Values[0].Defined {
		t.Errorf("why there is no user: %+v", why)
	}
}

func TestARuleThatFiredIsExplained(t *testing.T) {
	t.Parallel()
	alice := map[string]any{"alice": map[string]any{"level": 3, "roles": []any{"viewer", "editor"}}}
	got := explained(t, twoGrants, map[string]any{"iss": "i", "sub": "alice", "acr": "2"}, alice)
	for code, rule := range got {
		if !rule.Fired || rule.Failed != nil {
			t.Errorf("%s: %+v", code, rule)
		}
	}
	if len(got) != 2 {
		t.Errorf("rules: %v", got)
	}
	// The rule is looked at although the decision's index would pass over it.
	got = explained(t, twoGrants, map[string]any{"iss": "i", "sub": "alice", "acr": "1"}, alice)
	if f := got["first"].Failed; f == nil || f.Text != `input.token.acr == "2"` || f.Values[0].Value != "1" {
		t.Errorf("first: %+v", f)
	}
}

// Names come from the caller: nothing of them is ever a query.
func TestNoQueryIsBuiltFromInput(t *testing.T) {
	t.Parallel()
	for _, sub := range []string{`x"]; print(1); y := ["`, `x"] ; data.iam.claims.decision ; z := ["`, `"`, "\\", "\x01\x7f", "]", "`", "ü\u2028"} {
		users := map[string]any{sub: map[string]any{"level": 1, "roles": []any{"viewer"}}, "x": map[string]any{"level": 9}}
		got := explained(t, twoGrants, map[string]any{"iss": "i", "sub": sub}, users)
		f := got["first"].Failed
		if f == nil || f.Text != "_user.level >= 3" || f.Values[0].Value.(interface{ String() string }).String() != "1" {
			t.Errorf("%q: %+v", sub, f)
		}
		// Here what the caller sends is a part of the reference itself.
		const direct = "data.directory.users[input.token.iss][input.token.sub].level >= 3"
		got = explained(t, strings.Replace(twoGrants, "_user.level >= 3", direct, 1), map[string]any{"iss": "i", "sub": sub}, users)
		if f = got["first"].Failed; f == nil || f.Text != direct || got["first"].Error != "" || len(f.Values) != 1 || !f.Values[0].FromFacts ||
			f.Values[0].Value.(interface{ String() string }).String() != "1" {
			t.Errorf("%q, within the reference: %+v, %s", sub, f, got["first"].Error)
		}
		got = explained(t, twoGrants, map[string]any{"iss": "i", "sub": sub}, map[string]any{"x": map[string]any{"level": 9}})
		if f = got["first"].Failed; f == nil || len(f.Because) != 1 || got["first"].Error != "" {
			t.Errorf("%q, who is not there: %+v, %s", sub, f, got["first"].Error)
		}
	}
}

// A rule that cannot be evaluated takes nothing away from what is said of the others; a
// function is no answer.
func TestOneBadRuleLeavesTheOthersExplained(t *testing.T) {
	t.Parallel()
	got := explained(t, twoGrants+`
# METADATA
# title: Bad
# custom:
#   code: bad
refusals contains "bad" if to_number(input.token.sub) > 1

# METADATA
# title: Function
# custom:
#   code: function
helps(x) if x == 1
`, map[string]any{"iss": "i", "sub": "alice"}, map[string]any{"alice": map[string]any{"level": 2, "roles": []any{}}})
	if got["bad"].Error == "" || got["first"].Failed == nil || got["first"].Error != "" {
		t.Errorf("bad: %+v; first: %+v", got["bad"], got["first"])
	}
	if _, reported := got["function"]; reported {
		t.Error("a function is reported")
	}
}

// Of a rule that fired its conditions are named, with their values; a text that may be a
// secret of the token is not, however it came to where it stands.
func TestConditionsThatHeldAreNamedWithWhatMayBeShown(t *testing.T) {
	t.Parallel()
	got := explained(t, `
# METADATA
# title: Closed
# custom:
#   code: closed
denials contains _reason(rego.metadata.rule()) if {
	_user.status != "active"
	input.token.auth_time < input.now
	_dear
	some part in split(input.token.ticket, ".")
	count(part) == 9
	not _strong
}

grants contains "g" if count(denials | refusals) >= 0

_reason(rule) := rule.custom.code

_user := data.directory.users[input.token.iss][input.token.sub]

_dear if input.token.ticket == _ticket

_ticket := input.token.ticket

_strong if input.token.acr == "2"

# METADATA
# title: Ticket
# custom:
#   code: ticket
refusals contains "ticket" if concat("-", ["a", _ticket]) == "b"
`, map[string]any{"iss": "i", "sub": "alice", "acr": "1", "auth_time": 7, "ticket": "TopSecret.Hello-123"}, map[string]any{"alice": map[string]any{"status": "blocked"}})
	closed := got["closed"]
	if !closed.Fired {
		t.Fatalf("%+v", closed)
	}
	text := ""
	for _, c := range closed.Held {
		text += fmt.Sprintf("%d %s:", c.Line, c.Text)
		for _, v := range c.Values {
			text += fmt.Sprintf(" %s=%v", v.Name, v.Value)
			if v.Hidden {
				text += "hidden"
			}
		}
		for _, b := range c.Because {
			text += fmt.Sprintf(" (%s: %s %v)", b.Name, b.Failed[0].Text, b.Failed[0].Values[0].Value)
		}
		text += "\n"
	}
	const want = `11 _user.status != "active": _user.status=blocked
12 input.token.auth_time < input.now: input.token.auth_time=7 input.now=1000
13 _dear: _dear=true
14 some part in split(input.token.ticket, "."): input.token.ticket=<nil>hidden part=<nil>hidden
15 count(part) == 9: part=<nil>hidden
16 not _strong: _strong=<nil> (_strong: input.token.acr == "2" 1)
`
	if text != want {
		t.Errorf("got:\n%s\nwant:\n%s", text, want)
	}
	if all, err := json.Marshal(got); err != nil || strings.Contains(strings.ToLower(string(all)), "topsecret") || strings.Contains(string(all), "Hello") {
		t.Errorf("%s, %v", all, err)
	}
}
