package authzen_test

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"iam-service/internal/dev/world"
	"iam-service/internal/iam"
)

// batch is a request of evaluations about alice and the actions, on record-1.
func batch(semantic string, actions ...string) string {
	body := map[string]any{
		"subject": map[string]any{"type": "user", "id": "alice"}, "resource": map[string]any{"type": "record", "id": "record-1"},
	}
	if semantic != "" {
		body["options"] = map[string]any{"evaluations_semantic": semantic, "another_option": "value"}
	}
	list := []any{}
	for _, name := range actions {
		if name == "" {
			list = append(list, map[string]any{"action": map[string]any{}})
			continue
		}
		list = append(list, map[string]any{"action": map[string]any{"name": name}})
	}
	body["evaluations"] = list
	text, _ := json.Marshal(body)
	return string(text)
}

// Section 7.1.2.1: a semantic that short-circuits ends with the result that decides.
func TestEvaluationsEndAsTheirSemanticSays(t *testing.T) {
	t.Parallel()
	a := certified(t)
	for name, c := range map[string]struct {
		body   string
		want   []bool
		reason string // of the last one
	}{
		"none is execute_all":                           {body: batch("", "read", "fly", "write"), want: []bool{true, false, true}},
		"execute_all":                                   {body: batch("execute_all", "fly", "read", "fly"), want: []bool{false, true, false}},
		"deny_on_first_deny":                            {body: batch("deny_on_first_deny", "read", "fly", "write"), want: []bool{true, false}, reason: "deny_on_first_deny"},
		"deny_on_first_deny without a deny":             {body: batch("deny_on_first_deny", "read", "write"), want: []bool{true, true}},
		"deny_on_first_deny ends with an error":         {body: batch("deny_on_first_deny", "read", "", "write"), want: []bool{true, false}, reason: "deny_on_first_deny"},
		"permit_on_first_permit":                        {body: batch("permit_on_first_permit", "fly", "read", "write"), want: []bool{false, true}},
		"permit_on_first_permit goes on after an error": {body: batch("permit_on_first_permit", "", "read", "write"), want: []bool{false, true}},
		"permit_on_first_permit without a permit":       {body: batch("permit_on_first_permit", "fly", "swim"), want: []bool{false, false}},
	} {
		t.Run(name, func(t *testing.T) {
			got := a.ask("evaluations", c.body)
			list, _ := got.body["evaluations"].([]any)
			var decisions []bool
			reason := ""
			for _, x := range list {
				one := x.(map[string]any)
				decisions = append(decisions, one["decision"].(bool))
				about, _ := one["context"].(map[string]any)
				reason, _ = about["reason"].(string)
				if one["decision"] == true && about != nil {
					t.Errorf("a permit has a context: %s", got.text)
				}
			}
			if _, there := got.body["decision"]; got.status != 200 || there || !slices.Equal(decisions, c.want) || reason != c.reason {
				t.Errorf("%d %v %q: %s", got.status, decisions, reason, got.text)
			}
		})
	}
}

// Errors of one evaluation are a deny with the error; errors of the request are statuses.
func TestAnInvalidEvaluationIsADenyAndAnInvalidRequestIs400(t *testing.T) {
	t.Parallel()
	a := certified(t)
	many := batch("", slices.Repeat([]string{"read"}, 101)...)
	for name, c := range map[string]struct {
		body    string
		status  int
		pointer string
		fault   float64 // status of the error of the last evaluation
		code    string
	}{
		"an evaluation without an action":  {body: batch("", "read", ""), status: 200, fault: 400, code: "invalid_evaluation"},
		"an evaluation of another tenant":  {body: `{"subject": {"type": "user", "id": "alice"}, "action": {"name": "read"}, "resource": {"type": "record", "id": "record-1"}, "evaluations": [{}, {"context": {"tenant": "acme"}}]}`, status: 200, fault: 403, code: "client_of_another_tenant"},
		"a subject of the wrong type":      {body: `{"action": {"name": "read"}, "resource": {"type": "record", "id": "record-1"}, "evaluations": [{"subject": "alice"}]}`, status: 200, fault: 400, code: "invalid_evaluation"},
		"a default of the wrong type":      {body: `{"subject": "alice", "evaluations": [{}]}`, status: 400, pointer: "/subject"},
		"an evaluation that is no object":  {body: `{"evaluations": [{}, "read"]}`, status: 400, pointer: "/evaluations/1"},
		"evaluations that are no list":     {body: `{"evaluations": {"1": {}}}`, status: 400, pointer: "/evaluations"},
		"an unknown semantic":              {body: batch("first_come", "read"), status: 400, pointer: "/options/evaluations_semantic"},
		"options that are no object":       {body: `{"options": "execute_all", "evaluations": [{}]}`, status: 400, pointer: "/options"},
		"101 evaluations":                  {body: many, status: 400, pointer: "/evaluations"},
		"100 evaluations":                  {body: batch("", slices.Repeat([]string{"read"}, 100)...), status: 200},
		"an unknown semantic of one":       {body: `{"subject": {"type": "user", "id": "alice"}, "action": {"name": "read"}, "resource": {"type": "record", "id": "record-1"}, "options": {"evaluations_semantic": 1}}`, status: 400, pointer: "/options/evaluations_semantic"},
		"no evaluations and no subject":    {body: `{"action": {"name": "read"}, "resource": {"type": "record", "id": "record-1"}, "evaluations": []}`, status: 400, pointer: "/subject"},
		"null counts as nothing":           {body: `{"subject": {"type": "user", "id": "alice"}, "action": {"name": "read", "properties": null}, "resource": {"type": "record", "id": "record-1"}, "context": null, "options": null, "evaluations": null}`, status: 200},
		"a default that is replaced whole": {body: `{"subject": {"type": "user", "id": "alice"}, "action": {"name": "write"}, "resource": {"type": "record", "id": "record-1", "properties": {"status": "archived"}}, "evaluations": [{"resource": {"id": "record-1"}}]}`, status: 200},
	} {
		t.Run(name, func(t *testing.T) {
			got := a.ask("evaluations", c.body)
			if got.status != c.status || c.pointer != "" && !strings.Contains(got.text, `"pointer":"`+c.pointer+`"`) {
				t.Fatalf("%d: %s", got.status, got.text)
			}
			list, _ := got.body["evaluations"].([]any)
			if len(list) == 0 {
				if c.status == 200 && got.decision() != true {
					t.Errorf("%s", got.text)
				}
				return
			}
			last := list[len(list)-1].(map[string]any)
			about, _ := last["context"].(map[string]any)
			fault, _ := about["error"].(map[string]any)
			if c.fault == 0 {
				if last["decision"] != true {
					t.Errorf("%s", got.text)
				}
				return
			}
			if last["decision"] != false || fault["status"] != c.fault || fault["code"] != c.code || fault["message"] == "" {
				t.Errorf("%s", got.text)
			}
		})
	}
}

// A body is read in one way alone (I-JSON, RFC 7493), and is bounded.
func TestABodyThatCanBeReadInTwoWaysIsRejected(t *testing.T) {
	t.Parallel()
	a := certified(t)
	valid := question("alice", "read", "record", "record-1")
	end := strings.TrimSuffix(valid, "}")
	for name, c := range map[string]struct {
		body   string
		status int
	}{
		"valid":                           {body: valid, status: 200},
		"a member twice":                  {body: end + `, "subject": {"type": "user", "id": "bob"}}`, status: 400},
		"a member twice, escaped":         {body: end + `, "subj\u0065ct": {"type": "user", "id": "bob"}}`, status: 400},
		"an id twice":                     {body: `{"subject": {"type": "user", "id": "bob", "id": "alice"}, "action": {"name": "write"}, "resource": {"type": "record", "id": "record-1"}}`, status: 400},
		"an unknown member twice, deep":   {body: end + `, "x": [{"a": {"b": 1, "b": 2}}]}`, status: 400},
		"members by case are different":   {body: end + `, "Subject": {"type": "user", "id": "bob"}}`, status: 200},
		"a byte that is no UTF-8":         {body: end + `, "x": "` + "\xff" + `"}`, status: 400},
		"half a surrogate pair":           {body: end + `, "x": "\ud800"}`, status: 400},
		"the other half":                  {body: end + `, "x": "\udc00a"}`, status: 400},
		"two first halves":                {body: end + `, "x": "\ud800\ud800"}`, status: 400},
		"a surrogate pair":                {body: end + `, "x": "\ud83d\ude00"}`, status: 200},
		"an escaped backslash":            {body: end + `, "x": "\\ud800"}`, status: 200},
		"a number beyond double":          {body: end + `, "x": 1e400}`, status: 400},
		"a number that never ends":        {body: end + `, "x": 1e-99999999}`, status: 400},
		"a long number":                   {body: end + `, "x": ` + strings.Repeat("9", 400) + `}`, status: 400},
		"nested 40 deep":                  {body: end + `, "x": ` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`, status: 400},
		"nested a hundred thousand deep":  {body: end + `, "x": ` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`, status: 400},
		"nested 30 deep":                  {body: end + `, "x": ` + strings.Repeat("[", 30) + strings.Repeat("]", 30) + `}`, status: 200},
		"something after it":              {body: valid + `{}`, status: 400},
		"a list":                          {body: "[" + valid + "]", status: 400},
		"null":                            {body: "null", status: 400},
		"a comma too many":                {body: end + `,}`, status: 400},
		"256 KiB and more":                {body: end + `, "x": "` + strings.Repeat("a", 256<<10) + `"}`, status: 413},
		"blanks":                          {body: "  \n ", status: 400},
		"a type of 300 bytes":             {body: question("alice", "read", strings.Repeat("a", 300), "x"), status: 400},
		"an id of 2,000 bytes":            {body: question("alice", "read", "record", strings.Repeat("a", 2000)), status: 400},
		"an empty id":                     {body: question("", "read", "record", "record-1"), status: 400},
		"an issuer that is none":          {body: `{"subject": {"type": "user", "id": "alice", "properties": {"issuer": 1}}, "action": {"name": "read"}, "resource": {"type": "record", "id": "record-1"}}`, status: 400},
		"an iat that is none":             {body: `{"subject": {"type": "user", "id": "alice", "properties": {"iat": "1"}}, "action": {"name": "read"}, "resource": {"type": "record", "id": "record-1"}}`, status: 400},
		"an agent that is none":           {body: end + `, "context": {"agent": {"type": "user", "id": "alice"}}}`, status: 400},
		"an agent that is a list":         {body: end + `, "context": {"agent": ["pep"]}}`, status: 400},
		"a subject with an id of a path":  {body: question("../../tenants/acme", "read", "record", "record-1"), status: 200},
		"a resource with an id of quotes": {body: question("alice", "read", "record", `"; drop table users`), status: 200},
	} {
		t.Run(name, func(t *testing.T) {
			if got := a.ask("evaluation", c.body); got.status != c.status {
				t.Errorf("%d, want %d: %s", got.status, c.status, got.text)
			}
		})
	}
	for name, c := range map[string]struct {
		method, path string
		status       int
		allow        string
	}{
		"GET":                            {method: "GET", path: "/access/v1/evaluation", status: 405, allow: "POST"},
		"a path with a slash at its end": {method: "POST", path: "/access/v1/evaluation/", status: 404},
		"an encoded path":                {method: "POST", path: "/access/v1/%65valuation", status: 404},
		"two slashes":                    {method: "POST", path: "//access/v1/evaluation", status: 404},
		"behind the gateway's prefix":    {method: "POST", path: "/system/enrich-token/access/v1/evaluation", status: 401},
		"POST of the metadata":           {method: "POST", path: "/.well-known/authzen-configuration", status: 405, allow: "GET, HEAD"},
		"the metadata of a tenant":       {method: "GET", path: "/.well-known/authzen-configuration/records", status: 404},
	} {
		t.Run(name, func(t *testing.T) {
			got := a.send(c.method, c.path, "", func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+a.token("nobody", nil)) })
			if got.status != c.status && !(c.status == 401 && got.status == 403) || got.header.Get("Allow") != c.allow {
				t.Errorf("%d %q: %s", got.status, got.header.Get("Allow"), got.text)
			}
		})
	}
}

// What cannot be decided now is 503 and no deny, for one evaluation, for a batch and for a search; so it is where the
// decision is cached.
func TestStaleFactsAreNoDeny(t *testing.T) {
	t.Parallel()
	a := certified(t)
	asked := map[string]string{
		"evaluation":      question("alice", "read", "record", "record-1"),
		"evaluations":     batch("", "read", "fly"),
		"search/subject":  `{"subject": {"type": "user"}, "action": {"name": "read"}, "resource": {"type": "record", "id": "record-1"}}`,
		"search/action":   `{"subject": {"type": "user", "id": "alice"}, "resource": {"type": "record", "id": "record-1"}}`,
		"search/resource": `{"subject": {"type": "user", "id": "alice"}, "action": {"name": "read"}, "resource": {"type": "record"}}`,
	}
	for at, body := range asked {
		if got := a.ask(at, body); got.status != 200 {
			t.Fatalf("%s: %d: %s", at, got.status, got.text)
		}
	}
	pep := a.as("pep")
	for at, body := range asked {
		stale := false
		for range 20 { // a heartbeat in between makes them fresh again
			a.late.Add(int64(time.Hour))
			req, err := http.NewRequestWithContext(a.Context(), http.MethodPost, a.URL+"/access/v1/"+at, strings.NewReader(body))
			a.OK(err)
			req.Header.Set("Content-Type", "application/json")
			pep(req)
			resp, err := http.DefaultClient.Do(req)
			a.OK(err)
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") != "" {
				stale = true
				break
			}
		}
		if !stale {
			t.Errorf("%s: stale facts are used", at)
		}
	}
}

// A cached decision repeats its id until a fact that it depends on changes; what no rule reads is not in its key.
func TestADecisionIsCachedUntilAFactChanges(t *testing.T) {
	t.Parallel()
	a := certified(t)
	at := func(time string) string {
		return strings.TrimSuffix(question("bob", "write", "record", "record-1"), "}") + `, "context": {"time": "` + time + `"}}`
	}
	first := a.ask("evaluation", at("10:00"))
	again := a.ask("evaluation", at("10:01"))
	if first.decision() != false || again.decision() != false || first.header.Get("X-Decision-ID") == "" || first.header.Get("X-Decision-ID") != again.header.Get("X-Decision-ID") {
		t.Fatalf("%s, %s", first.text, again.text)
	}
	a.member("bob", "records", nil, "author")
	if got := a.ask("evaluation", at("10:02")); got.decision() != true {
		t.Errorf("a role that was granted does not count: %s", got.text)
	}
	a.role("records", "author", []string{"record:read"}, nil)
	if got := a.ask("evaluation", at("10:03")); got.decision() != false {
		t.Errorf("a permission that was taken out of a role counts: %s", got.text)
	}
	a.OK(a.DB.PutTenant(context.Background(), iam.Tenant{ID: "records", Slug: "records", Name: "Records", Status: iam.TenantSuspended}))
	if got := a.ask("evaluation", question("bob", "read", "record", "record-1")); got.decision() != false || !slices.Contains(got.codes(), "tenant_not_active") {
		t.Errorf("a suspended tenant: %s", got.text)
	}
}

// A bundle without the rules is none for AuthZEN; one without candidates searches subjects alone.
func TestABundleWithoutTheRulesServesNoAuthZEN(t *testing.T) {
	t.Parallel()
	a := certified(t)
	body := question("alice", "read", "record", "record-1")
	metadata := func() *response { return a.send(http.MethodGet, "/.well-known/authzen-configuration", "") }
	a.rules("")
	for name, got := range map[string]*response{"metadata": metadata(), "evaluation": a.ask("evaluation", body), "search": a.ask("search/subject", body)} {
		if got.status != http.StatusNotFound || got.body["code"] != "authzen_not_in_policy" {
			t.Errorf("%s: %d: %s", name, got.status, got.text)
		}
	}
	if a.Engine.Status().Revision.Authzen != nil {
		t.Error("the status does not say so")
	}
	status, _, _ := a.Ask(world.Get, "Authorization: Bearer "+a.Mint("alice", nil))
	if status != http.StatusOK {
		t.Errorf("an enrichment is %d", status)
	}
	a.rules("# METADATA\n# scope: package\n# schemas:\n#   - input: schema.authzen\npackage iam.authzen\n\ndecision := {\"allow\": input.subject.id == \"alice\"}\n")
	if got := metadata(); got.status != 200 || got.body["search_subject_endpoint"] == nil || got.body["search_action_endpoint"] != nil {
		t.Errorf("%d: %s", got.status, got.text)
	}
	if got := a.ask("search/action", body); got.status != http.StatusNotFound {
		t.Errorf("%d: %s", got.status, got.text)
	}
	if got := a.ask("evaluation", question("bob", "read", "record", "record-1")); got.decision() != false {
		t.Errorf("%d: %s", got.status, got.text)
	}
}

// A policy adds a context, refuses a client, and sets how long a decision is cached; a broken one decides nothing.
func TestAPolicyOfOnesOwnDecides(t *testing.T) {
	t.Parallel()
	a := certified(t)
	head := "# METADATA\n# scope: package\n# schemas:\n#   - input: schema.authzen\npackage iam.authzen\n\n"
	for name, c := range map[string]struct {
		rego   string
		status int
		want   string // in the body
	}{
		"an obligation on a permit":     {rego: `decision := {"allow": true, "context": {"obligations": ["log"]}}`, status: 200, want: `{"decision":true,"context":{"obligations":["log"]}}`},
		"its own reasons win":           {rego: `decision := {"allow": false, "context": {"reasons": "mine"}}`, status: 200, want: `"reasons":"mine"`},
		"the client is refused":         {rego: `decision := {"allow": false, "status": 403, "reasons": [{"code": "not_you", "title": "Not you"}]}`, status: 403, want: `"code":"not_you"`},
		"what the caller is":            {rego: `decision := {"allow": input.client.client_id == "pep", "context": {"scopes": input.client.scopes, "tenant": input.client.tenant}}`, status: 200, want: `{"scopes":["authzen"],"tenant":"records"}`},
		"the context reaches it":        {rego: `decision := {"allow": input.context.purpose == "audit"}`, status: 200, want: `"decision":true`},
		"undefined is broken":           {rego: `decision := {"allow": true} if input.subject.id == "nobody"`, status: 500},
		"no boolean is broken":          {rego: `decision := {"allow": "yes"}`, status: 500},
		"a context that is no object":   {rego: `decision := {"allow": true, "context": "log"}`, status: 500},
		"a permit with a status":        {rego: `decision := {"allow": true, "status": 403}`, status: 500},
		"another status":                {rego: `decision := {"allow": false, "status": 401}`, status: 500},
		"a negative ttl":                {rego: `decision := {"allow": true, "ttl": -1}`, status: 500},
		"a walk over the directory":     {rego: `decision := {"allow": count(data.directory.users) > 0}`, status: 500},
		"a builtin that fails is no no": {rego: `decision := {"allow": to_number(input.subject.id) == 1}`, status: 500},
	} {
		t.Run(name, func(t *testing.T) {
			a.rules(head + c.rego + "\n")
			got := a.ask("evaluation", strings.TrimSuffix(question("alice", "read", "record", "record-1"), "}")+`, "context": {"purpose": "audit"}}`)
			if got.status != c.status || !strings.Contains(got.text, c.want) {
				t.Errorf("%d: %s", got.status, got.text)
			}
			if c.status == 500 && strings.Contains(got.text, "rego") {
				t.Errorf("a fault shows the policy: %s", got.text)
			}
			if got := a.ask("evaluations", batch("", "read", "read")); c.status == 500 && !strings.Contains(c.rego, "purpose") && got.status != 500 {
				t.Errorf("a batch: %d: %s", got.status, got.text)
			}
		})
	}
	t.Run("a ttl of 0 is not cached", func(t *testing.T) {
		a.rules(head + `decision := {"allow": true, "ttl": 0}` + "\n")
		body := question("alice", "read", "record", "record-1")
		first := a.ask("evaluation", body).header.Get("X-Decision-ID")
		if again := a.ask("evaluation", body).header.Get("X-Decision-ID"); first == again {
			t.Error("it is cached")
		}
	})
}

// An agent needs the permission itself, by its registered scopes or by its roles.
func TestAnAgentNeedsThePermissionItself(t *testing.T) {
	t.Parallel()
	a := certified(t)
	a.client("assistant", "records", "record:read")
	ask := func(action string) *response {
		return a.ask("evaluation", strings.TrimSuffix(question("alice", action, "record", "record-1"), "}")+`, "context": {"agent": "assistant"}}`)
	}
	if got := ask("read"); got.decision() != true {
		t.Errorf("%s", got.text)
	}
	if got := ask("write"); got.decision() != false || !slices.Equal(got.codes(), []string{"agent_not_permitted"}) {
		t.Errorf("%s", got.text)
	}
}

// The decision log has who asked what about whom, and nothing that the request says of them.
func TestEvaluationsAreLoggedWithoutProperties(t *testing.T) {
	t.Parallel()
	a := certified(t)
	a.ask("evaluation", `{"subject": {"type": "user", "id": "alice", "properties": {"email": "alice@example.com"}}, "action": {"name": "read"}, "resource": {"type": "record", "id": "record-1", "properties": {"title": "Private"}}, "context": {"ip": "203.0.113.7"}}`)
	a.ask("evaluation", question("nobody", "read", "record", "record-1"))
	a.Decisions.Close()
	logs := a.Logs.String()
	for _, want := range []string{
		`"subject":{"id":"alice","issuer":"` + a.RAuth.Issuer + `","type":"user"}`, `"action":{"name":"read"}`, `"resource":{"id":"record-1","type":"record"}`,
		`"tenant":"records"`, `"client_id":"pep"`, `"outcome":"allowed"`, `"outcome":"denied"`, `"not_in_tenant"`,
	} {
		if !strings.Contains(logs, want) {
			t.Errorf("%s is not logged", want)
		}
	}
	for _, never := range []string{"alice@example.com", "Private", "203.0.113.7"} {
		if strings.Contains(logs, never) {
			t.Errorf("%s is logged", never)
		}
	}
}
