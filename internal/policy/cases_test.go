package policy

import (
	"log/slog"
	"strings"
	"testing"
)

// A case is asked with what a request would bring: it does not hold by anything else.
func TestACaseHasTheInputOfARequest(t *testing.T) {
	t.Parallel()
	e, err := NewEngine(Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	revision := func(body string) *Revision {
		t.Helper()
		r, err := gated(t, body)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	all := map[string]any{
		"token":   map[string]any{"sub": "alice", "email": "a@example.com", "azp": "web"},
		"request": map[string]any{"path": "/x", "method": "GET", "anonymous": true},
		"now":     1, "settings": map[string]any{"unknown_users": "deny"},
	}
	for body, want := range map[string]string{
		"decision := {\"allow\": input.token.sub == \"alice\"}":                   `{"request": {}, "token": {"sub": "alice"}}`,
		"decision := {\"allow\": input.token.client_id == \"web\"}":               `{"request": {}, "token": {"client_id": "web"}}`,
		"decision := {\"allow\": input.request.path == input.now}":                `{"now": 1, "request": {"path": "/x"}, "token": {}}`,
		"decision := {\"allow\": input.request.anonymous, \"x\": input.settings}": `{"request": {"anonymous": true}, "settings": {"unknown_users": "deny"}, "token": {}}`,
	} {
		if got, err := revision(body).caseInput(Case{Input: all}); err != nil || got.String() != want {
			t.Errorf("%s: it is asked %v, %v; want %s", body, got, err, want)
		}
	}
	yes := true
	for name, c := range map[string]struct {
		body  string
		input map[string]any
		want  string
	}{
		"another part":  {"decision := {\"allow\": input.body.owner == \"alice\", \"headers\": {}}", map[string]any{"body": map[string]any{"owner": "alice"}}, "unknown input.body"},
		"another field": {"decision := {\"allow\": input.request.body == \"x\", \"headers\": {}}", map[string]any{"request": map[string]any{"body": "x"}}, "unknown field input.request.body"},
	} {
		if _, why := e.RunCase(t.Context(), revision(c.body), Case{Title: name, Input: c.input, Want: Want{Allow: &yes}}); !strings.Contains(why, c.want) {
			t.Errorf("%s: it holds by what no request brings: %q", name, why)
		}
	}
}
