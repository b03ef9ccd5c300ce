package preview

import (
	"strings"
	"testing"
)

func TestChangesAreClassified(t *testing.T) {
	t.Parallel()
	c := newComparer(nil, []string{"X-User-Roles", "X-Decision-Id", "X-Policy-Revision"})
	allow := func(roles, id string, codes ...string) Outcome {
		return Outcome{Allow: true, Status: 200, Codes: codes, values: []string{roles, id, id}}
	}
	deny := func(status int, codes ...string) Outcome { return Outcome{Status: status, Codes: codes} }
	broken := Outcome{Status: 503, Error: "policy_error", Codes: []string{"policy_error"}}
	for name, x := range map[string]struct {
		before, after Outcome
		want          string
	}{
		"the same":             {allow("a", "1", "m"), allow("a", "2", "m"), ""},
		"other roles":          {allow("a", "1", "m"), allow("b", "2", "m"), Headers},
		"another grant":        {allow("a", "1", "m"), allow("a", "2", "n"), Reasons},
		"allowed":              {deny(403, "x"), allow("a", "1", "m"), Gains},
		"denied":               {allow("a", "1", "m"), deny(403, "x"), Loses},
		"another status":       {deny(403, "x"), deny(401, "x"), Status},
		"another reason":       {deny(403, "x"), deny(403, "y"), Reasons},
		"fails":                {allow("a", "1", "m"), broken, Breaks},
		"fails, denied before": {deny(403, "x"), broken, Breaks},
		"fails no longer":      {broken, allow("a", "1", "m"), Fixes},
		"still fails":          {broken, broken, ""},
	} {
		if got := c.difference(x.before, x.after); got.Kind != x.want {
			t.Errorf("%s: %q, want %q", name, got.Kind, x.want)
		}
	}
}

func TestPreviewCasesAreValidated(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"questions: [{title: a, token: {sub: x}}]":            "sub is set for each caller",
		"questions: [{title: a}, {title: a}]":                 "two questions have the title",
		"questions: [{title: a, request: {client_ip: here}}]": "unable to parse IP",
		"questions: [{title: a, request: {method: get}}]":     "/request/method: must be an upper-case token",
		"questions: [{token: {}}]":                            "has no title",
		"questions: [{title: a, of: [people]}]":               "of must be users or clients",
		"questions: [{title: a, tokens: {}}]":                 "unknown field",
		"questions: [{title: a, request: {headers: {a: b}}}]": "unknown field",
	} {
		if _, err := ParseQuestions("f", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	list, err := ParseQuestions("f", []byte("questions: [{title: a, token: {acr: 2}, request: {method: PUT, path: /x, client_ip: 192.0.2.7}, of: [users]}]"))
	if err != nil || len(list) != 1 || list[0].of("clients") || !list[0].of("users") || list[0].Request.Path != "/x" {
		t.Errorf("%+v, %v", list, err)
	}
}
