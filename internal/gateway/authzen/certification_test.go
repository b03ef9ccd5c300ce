package authzen_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"slices"
	"testing"

	"sigs.k8s.io/yaml"

	"iam-service/internal/dev/world"
)

// fixture is section 1 of the certification scenario as configuration.
var fixture = map[string]any{"authzen": map[string]any{
	"default_permission": "type:action", "agents": "need_permission",
	"types": map[string]any{"record": map[string]any{
		"actions": map[string]any{
			"read": []any{map[string]any{"permission": "record:read"}},
			"write": []any{
				map[string]any{"permission": "record:write", "when": []any{map[string]any{"value": "resource.properties.status", "equals": "active"}}},
				map[string]any{"permission": "record:write-archived", "when": []any{map[string]any{"value": "resource.properties.status", "equals": "archived"}}},
				map[string]any{"permission": "record:read", "when": []any{
					map[string]any{"value": "resource.properties.status", "equals": "archived"}, map[string]any{"value": "subject.properties.role", "equals": "admin"},
				}},
			},
			"delete": []any{map[string]any{"permission": "record:delete", "when": []any{map[string]any{"value": "action.properties.soft", "equals": true}}}},
		},
		"resources": map[string]any{"record-1": map[string]any{"status": "active"}, "record-2": map[string]any{"status": "archived"}},
	}},
}}

// certified is a world with the fixture.
func certified(t testing.TB) *api {
	t.Helper()
	a := newAPI(t, world.Settings{Policy: world.Policy{Config: fixture}})
	a.member("alice", "records", nil, "author")
	a.member("bob", "records", nil, "archivist")
	return a
}

// The certification scenario of the AuthZEN working group, at all of its levels (testdata/SOURCES.md).
func TestTheCertificationScenarioPasses(t *testing.T) {
	t.Parallel()
	a := certified(t)
	text, err := os.ReadFile("testdata/certification.yaml")
	a.OK(err)
	var cases []struct {
		ID, At, Request, Content string
		Status                   int
		Decision                 *bool
		Decisions                []*bool
		Includes                 []string
		Empty, Pages             bool
	}
	a.OK(yaml.UnmarshalStrict(text, &cases))
	if len(cases) < 45 {
		t.Fatalf("%d cases", len(cases))
	}
	for _, c := range cases {
		t.Run(c.ID, func(t *testing.T) {
			got := a.ask(c.At, c.Request, func(r *http.Request) {
				r.Header.Set("X-Request-ID", c.ID)
				if c.Content != "" {
					r.Header.Set("Content-Type", c.Content)
				}
			})
			want := http.StatusOK
			if c.Status != 0 {
				want = c.Status
			}
			if got.status != want || got.header.Get("X-Request-ID") != c.ID {
				t.Fatalf("%d %v: %s", got.status, got.header, got.text)
			}
			if want != http.StatusOK {
				return
			}
			if got.header.Get("Content-Type") != "application/json" {
				t.Errorf("Content-Type is %q", got.header.Get("Content-Type"))
			}
			if c.Decision != nil && got.decision() != *c.Decision {
				t.Errorf("want %v: %s", *c.Decision, got.text)
			}
			list, _ := got.body["evaluations"].([]any)
			if len(list) != len(c.Decisions) {
				t.Fatalf("%d evaluations: %s", len(list), got.text)
			}
			for i, want := range c.Decisions {
				decision, ok := list[i].(map[string]any)["decision"].(bool)
				if !ok || want != nil && decision != *want {
					t.Errorf("evaluation %d: %s", i, got.text)
				}
			}
			if c.Includes == nil && !c.Empty {
				return
			}
			found, pages := a.all(t, c.At, c.Request, got)
			for _, name := range c.Includes {
				if !slices.Contains(found, name) {
					t.Errorf("%q lack %q: %s", found, name, got.text)
				}
			}
			if c.Empty && len(found) > 0 || c.Pages && pages < 2 {
				t.Errorf("%q on %d pages: %s", found, pages, got.text)
			}
		})
	}
}

// all follows the pages of a search (sections 4.5.2 and 4.5.3), without the limit, as the scenario does.
func (a *api) all(t *testing.T, at, request string, page *response) (found []string, pages int) {
	t.Helper()
	for pages = 1; ; pages++ {
		results, ok := page.body["results"].([]any)
		if !ok || page.status != http.StatusOK {
			t.Fatalf("%d: no results: %s", page.status, page.text)
		}
		for _, r := range results {
			one := r.(map[string]any)
			name, isAction := one["name"].(string)
			if !isAction {
				name = one["id"].(string)
				if one["type"] == "" {
					t.Errorf("a result without a type: %s", page.text)
				}
			}
			found = append(found, name)
		}
		about, paged := page.body["page"].(map[string]any)
		next, isString := about["next_token"].(string)
		if paged && !isString {
			t.Fatalf("next_token is no string: %s", page.text)
		}
		if next == "" {
			return found, pages
		}
		var body map[string]any
		a.OK(json.Unmarshal([]byte(request), &body))
		body["page"] = map[string]any{"token": next}
		text, err := json.Marshal(body)
		a.OK(err)
		page = a.ask(at, string(text))
		if _, paged := page.body["page"]; !paged {
			t.Fatalf("a page without a page object: %s", page.text)
		}
	}
}

// Sections 2.5 and 2.6, and 6: what is no request of its own.
func TestTheCertificationScenarioPassesBeyondItsRequests(t *testing.T) {
	t.Parallel()
	a := certified(t)
	allowed := question("alice", "read", "record", "record-1")
	t.Run("2.5.2 a request without an id", func(t *testing.T) {
		if got := a.ask("evaluation", allowed); got.status != http.StatusOK {
			t.Errorf("%d: %s", got.status, got.text)
		}
	})
	t.Run("2.6 the same decision each time", func(t *testing.T) {
		for range 5 {
			if got := a.ask("evaluation", allowed); got.decision() != true {
				t.Errorf("%d: %s", got.status, got.text)
			}
		}
	})
	t.Run("6 metadata", func(t *testing.T) {
		got := a.send(http.MethodGet, "/.well-known/authzen-configuration", "")
		want := map[string]any{
			"policy_decision_point":       publicURL,
			"access_evaluation_endpoint":  publicURL + "/access/v1/evaluation",
			"access_evaluations_endpoint": publicURL + "/access/v1/evaluations",
			"search_subject_endpoint":     publicURL + "/access/v1/search/subject",
			"search_resource_endpoint":    publicURL + "/access/v1/search/resource",
			"search_action_endpoint":      publicURL + "/access/v1/search/action",
		}
		if got.status != http.StatusOK || got.header.Get("Content-Type") != "application/json" || !maps.Equal(got.body, want) {
			t.Errorf("%d %v: %s", got.status, got.header, got.text)
		}
	})
}

// The interoperability scenario "Todo": its users, its roles and its decisions (testdata/SOURCES.md).
func TestTheTodoScenarioPasses(t *testing.T) {
	t.Parallel()
	owned := []any{map[string]any{"value": "resource.properties.ownerID", "same_as": "subject.attributes.owner_id"}}
	listed := func(permissions ...any) []any { return permissions }
	a := newAPI(t, world.Settings{Policy: world.Policy{Config: map[string]any{"authzen": map[string]any{
		"default_permission": "none", "agents": "need_permission",
		"types": map[string]any{
			"user": map[string]any{"actions": map[string]any{"can_read_user": listed(map[string]any{"permission": "can_read_user"})}},
			"todo": map[string]any{"actions": map[string]any{
				"can_read_todos":  listed(map[string]any{"permission": "can_read_todos"}),
				"can_create_todo": listed(map[string]any{"permission": "can_create_todo"}),
				"can_update_todo": listed(map[string]any{"permission": "can_update_todo:any"}, map[string]any{"permission": "can_update_todo", "when": owned}),
				"can_delete_todo": listed(map[string]any{"permission": "can_delete_todo:any"}, map[string]any{"permission": "can_delete_todo", "when": owned}),
			}},
		},
	}}}})
	for _, role := range []struct {
		name                  string
		permissions, inherits []string
	}{
		{name: "viewer", permissions: []string{"can_read_todos", "can_read_user"}},
		{name: "editor", permissions: []string{"can_create_todo", "can_update_todo", "can_delete_todo"}, inherits: []string{"viewer"}},
		{name: "admin", permissions: []string{"can_delete_todo:any"}, inherits: []string{"editor"}},
		{name: "evil_genius", permissions: []string{"can_update_todo:any"}, inherits: []string{"editor"}},
	} {
		name := role.name
		tenant := "records"
		if name == "viewer" || name == "editor" {
			tenant = "" // the sample data has global roles of these names, which they replace
		}
		a.role(tenant, name, role.permissions, role.inherits)
	}
	text, err := os.ReadFile("testdata/todo.json")
	a.OK(err)
	var scenario struct {
		Users map[string]struct {
			ID    string
			Roles []string
		}
		Evaluation []struct {
			Request  json.RawMessage
			Expected bool
		}
		Evaluations []struct {
			Request  json.RawMessage
			Expected []map[string]any
		}
	}
	a.OK(json.Unmarshal(text, &scenario))
	for subject, u := range scenario.Users {
		a.member(subject, "records", map[string]any{"owner_id": u.ID}, u.Roles...)
	}
	if len(scenario.Evaluation) != 40 || len(scenario.Evaluations) == 0 {
		t.Fatalf("%d evaluations", len(scenario.Evaluation))
	}
	for i, c := range scenario.Evaluation {
		if got := a.ask("evaluation", string(c.Request)); got.status != http.StatusOK || got.decision() != c.Expected {
			t.Errorf("%d: want %v: %d %s\nof %s", i, c.Expected, got.status, got.text, c.Request)
		}
	}
	for i, c := range scenario.Evaluations {
		got := a.ask("evaluations", string(c.Request))
		list, _ := got.body["evaluations"].([]any)
		if len(list) != len(c.Expected) {
			t.Fatalf("%d: %s", i, got.text)
		}
		for j := range c.Expected {
			if list[j].(map[string]any)["decision"] != c.Expected[j]["decision"] {
				t.Errorf("%d, %d: %s", i, j, got.text)
			}
		}
	}
}
