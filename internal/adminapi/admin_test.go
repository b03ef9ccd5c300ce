package adminapi_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/dev/devstack"
	"iam-service/internal/iam"
)

var (
	long = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC) // ago
	soon = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC) // in the future
)

func TestInvalidInputIsReportedFieldByField(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	for name, c := range map[string]struct {
		method, path string
		body         any
		headers      []string
		status       int
		pointers     []string
	}{
		"several at once":        {"POST", "/v1/tenants/acme/roles", map[string]any{"name": "Bad Name", "permissions": []string{"ok:a", "not ok", "ok:a"}}, nil, 422, []string{"/name", "/permissions/1", "/permissions/2"}},
		"unknown and missing":    {"POST", "/v1/tenants", map[string]any{"id": "x", "nme": "y", "slug": "x"}, nil, 422, []string{"", "/nme"}},
		"wrong types":            {"POST", "/v1/tenants", map[string]any{"id": 1, "slug": []int{}, "name": "n"}, nil, 422, []string{"/id", "/slug"}},
		"a name twice":           {"POST", "/v1/tenants", `{"id":"x","slug":"x","name":"x","name":"y"}`, nil, 400, []string{""}},
		"a name deep down twice": {"POST", "/v1/tenants", `{"id":"x","slug":"x","name":"x","attributes":{"plan":"a","plan":"b"}}`, nil, 400, []string{""}},
		"names in capitals":      {"POST", "/v1/tenants", `{"ID":"x","slug":"x","name":"x"}`, nil, 422, []string{"", "/ID"}},
		"a name and its capital": {"POST", "/v1/tenants", `{"id":"x","slug":"x","name":"x","Name":"y"}`, nil, 422, []string{"/Name"}},
		"attributes that swell":  {"PUT", "/v1/services/s/manifest", map[string]any{"attributes": many(60, func(i int) any { return map[string]any{"key": fmt.Sprint("n", i), "type": "number"} })}, nil, 200, nil},
		"the year 1":             {"POST", "/v1/tenants/acme/members", `{"subject":"n","expires_at":"0001-01-01T00:00:00Z"}`, nil, 422, []string{"/expires_at"}},
		"the year 1 in a batch":  {"POST", "/v1/tenants/acme/members:batch", `{"members":[{"subject":"n"},{"subject":"m","expires_at":"0001-01-01T00:00:00Z"}]}`, nil, 422, []string{"/members/1/expires_at"}},
		"a claim about a person": {"POST", "/v1/tenants/acme/mappings", map[string]any{"claim": "email", "value": "x", "roles": []string{"viewer"}}, nil, 422, []string{"/claim"}},
		"YAML that swells":       {"PUT", "/v1/services/s/manifest", "a: &a " + strings.Repeat("x", 30_000) + "\nroles: [*a" + strings.Repeat(",*a", 5000) + "]", []string{"Content-Type: application/yaml"}, 400, nil},
		"null":                   {"POST", "/v1/tenants", `{"id":"x","slug":"x","name":null}`, nil, 422, []string{"/name"}},
		"no JSON":                {"POST", "/v1/tenants", `{"id":`, nil, 400, []string{""}},
		"more than one value":    {"POST", "/v1/tenants", `{"id":"x","slug":"x","name":"x"} {}`, nil, 400, []string{""}},
		"no body":                {"POST", "/v1/tenants", nil, nil, 400, nil},
		"another media type":     {"POST", "/v1/tenants", "a=b", []string{"Content-Type: text/plain"}, 415, []string{""}},
		"YAML where JSON is":     {"POST", "/v1/tenants", "id: x", []string{"Content-Type: application/yaml"}, 415, []string{""}},
		"too large":              {"POST", "/v1/tenants", `{"id":"` + strings.Repeat("x", 70_000) + `"}`, nil, 413, nil},
		"undeclared attribute":   {"POST", "/v1/tenants", map[string]any{"id": "x", "slug": "x", "name": "x", "attributes": map[string]any{"shoe/size": 1, "plan": 3}}, nil, 422, []string{"/attributes/plan", "/attributes/shoe~1size"}},
		"attributes too large":   {"POST", "/v1/tenants", map[string]any{"id": "x", "slug": "x", "name": "x", "attributes": map[string]any{"plan": strings.Repeat("x", 5000)}}, nil, 422, []string{"/attributes"}},
		"unknown parameter":      {"GET", "/v1/tenants?statsu=active", nil, nil, 422, []string{"statsu"}},
		"wrong parameter":        {"GET", "/v1/tenants?status=open&limit=0", nil, nil, 422, []string{"limit", "status"}},
		"made-up cursor":         {"GET", "/v1/tenants?after=x", nil, nil, 422, []string{"after"}},
		"cursor of another":      {"GET", "/v1/users?after=WyJhY21lIl0", nil, nil, 422, []string{"after"}},
		"malformed If-Match":     {"PUT", "/v1/tenants/acme", map[string]any{"slug": "acme", "name": "x"}, []string{"If-Match: 3"}, 400, []string{"If-Match"}},
		"NUL":                    {"GET", "/v1/users?subject=%00", nil, nil, 422, nil},
		"NUL in an attribute":    {"POST", "/v1/tenants", `{"id":"x","slug":"x","name":"x","attributes":{"plan":"\u0000"}}`, nil, 422, nil},
		"a number without end":   {"POST", "/v1/tenants", `{"id":"x","slug":"x","name":"x","attributes":{"plan":1e99999}}`, nil, 422, []string{"/attributes", "/attributes/plan"}},
		"no such role":           {"POST", "/v1/tenants/acme/members", map[string]any{"subject": "new", "roles": []string{"viewer", "none"}}, nil, 422, []string{"/roles/1"}},
		"foreign issuer":         {"POST", "/v1/tenants/acme/members", map[string]any{"subject": "new", "issuer": "https://else.test"}, nil, 422, []string{"/issuer"}},
		"rows of a batch":        {"POST", "/v1/tenants/acme/members:batch", map[string]any{"members": []any{map[string]any{"subject": "n1"}, map[string]any{"subject": " n2", "roles": []string{"None"}}, map[string]any{"subject": "n1"}}}, nil, 422, []string{"/members/1/roles/0", "/members/1/subject", "/members/2/subject"}},
		"roles of a batch":       {"POST", "/v1/tenants/acme/members:batch", map[string]any{"members": []any{map[string]any{"subject": "alice", "roles": []string{"editor"}}, map[string]any{"subject": "n2", "roles": []string{"none"}}}}, nil, 422, []string{"/members/1/roles/0"}},
		"reserved role":          {"POST", "/v1/roles", map[string]any{"name": "iam:mine"}, nil, 422, []string{"/name"}},
		"a cycle":                {"PUT", "/v1/roles/viewer", map[string]any{"inherits": []string{"editor"}}, []string{"If-Match: *"}, 422, []string{"/inherits"}},
		"revoked in the future":  {"POST", "/v1/users/" + w.user("carol") + ":revoke", map[string]any{"before": "2100-01-01T00:00:00Z"}, nil, 422, []string{"/before"}},
		"an unknown default":     {"POST", "/v1/users", map[string]any{"subject": "n", "default_tenant": "nowhere"}, nil, 422, []string{"/default_tenant"}},
		"a manifest in capitals": {"PUT", "/v1/services/s/manifest", `{"ROLES":[{"name":"x"}]}`, nil, 422, []string{""}},
		"YAML of two documents":  {"PUT", "/v1/services/s/manifest", "roles: []\n---\nroles: []", []string{"Content-Type: application/yaml"}, 400, nil},
		"a manifest that drops":  {"PUT", "/v1/services/s/manifest", map[string]any{"rolse": []any{}}, nil, 422, []string{""}},
		"permissions of others":  {"PUT", "/v1/services/s/manifest", map[string]any{"roles": []any{map[string]any{"name": "r", "permissions": []string{"s:a", "t:a"}}}}, nil, 422, []string{"/roles/0/permissions/1"}},
		"a manifest's cycle":     {"PUT", "/v1/services/s/manifest", map[string]any{"roles": []any{map[string]any{"name": "a", "inherits": []string{"b"}}, map[string]any{"name": "b", "inherits": []string{"a"}}}}, nil, 422, []string{"/roles/0/inherits"}},
	} {
		r := w.call("root", c.method, c.path, c.body, c.headers...)
		got := r.pointers()
		slices.Sort(got)
		if r.status != c.status || c.pointers != nil && !slices.Equal(got, c.pointers) {
			t.Errorf("%s: got %s\nwith %q, want %d with %q", name, r, got, c.status, c.pointers)
		}
		if r.status >= 400 && r.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: answered as %s", name, r.header.Get("Content-Type"))
		}
	}
}

func many(n int, what func(int) any) []any {
	list := make([]any, n)
	for i := range list {
		list[i] = what(i)
	}
	return list
}

// What an administrator has changed is true in the very next enrichment.
func TestAChangeIsTrueInTheNextEnrichment(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	w.Unsettled = true
	alice := w.user("alice")
	token := "Authorization: Bearer " + w.Mint("alice", nil)
	roles := func() string {
		_, lines, _ := w.Ask("GET /system/enrich-token", token)
		for _, l := range lines {
			if v, ok := strings.CutPrefix(l, "X-User-Roles: "); ok {
				return v
			}
		}
		return "none"
	}
	if got := roles(); got != "editor,viewer" {
		t.Fatalf("before: %s", got)
	}
	for range 5 {
		w.want(200, "root", "PUT", "/v1/tenants/acme/members/"+alice, map[string]any{"roles": []string{"auditor"}}, "If-Match: *")
		if got := roles(); got != "auditor,viewer" {
			t.Fatalf("after a change of the member: %s", got)
		}
		w.want(200, "root", "PUT", "/v1/tenants/acme/roles/auditor", map[string]any{}, "If-Match: *")
		if got := roles(); got != "auditor" {
			t.Fatalf("after a change of the role: %s", got)
		}
		w.want(200, "root", "PATCH", "/v1/tenants/acme", map[string]any{"status": "suspended"})
		if got := roles(); got != "none" && !strings.HasPrefix(got, "viewer") {
			t.Fatalf("in a suspended tenant: %s", got)
		}
		w.want(200, "root", "PATCH", "/v1/tenants/acme", map[string]any{"status": "active"})
		w.want(200, "root", "PATCH", "/v1/users/"+alice, map[string]any{"status": "blocked"})
		if status, _, _ := w.Ask("GET /system/enrich-token", token); status != 403 {
			t.Fatalf("blocked: %d", status)
		}
		w.want(200, "root", "PATCH", "/v1/users/"+alice, map[string]any{"status": "active"})
		w.want(200, "root", "PUT", "/v1/tenants/acme/roles/auditor", map[string]any{"inherits": []string{"viewer"}}, "If-Match: *")
		w.want(200, "root", "PUT", "/v1/tenants/acme/members/"+alice, map[string]any{"roles": []string{"editor"}}, "If-Match: *")
		if got := roles(); got != "editor,viewer" {
			t.Fatalf("at the end: %s", got)
		}
	}
	w.want(200, "root", "POST", "/v1/users/"+alice+":revoke", nil)
	if status, _, _ := w.Ask("GET /system/enrich-token", token); status != 401 {
		t.Fatalf("revoked: %d", status)
	}
}

// And on another replica within a second, while no caller waits for it.
func TestAChangeIsTrueOnAnotherReplicaWithinASecond(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	other := newWorld(t, settings{replicaOf: w})
	other.Unsettled = true
	alice := w.user("alice")
	token := "Authorization: Bearer " + w.Mint("alice", nil)
	for i, roles := range [][]string{{"auditor"}, {"editor"}, {}, {"editor", "auditor"}} {
		want := map[int]string{0: "auditor,viewer", 1: "editor,viewer", 2: "", 3: "auditor,editor,viewer"}[i]
		w.want(200, "root", "PUT", "/v1/tenants/acme/members/"+alice, map[string]any{"roles": roles}, "If-Match: *")
		changed := time.Now()
		for {
			_, lines, _ := other.Ask("GET /system/enrich-token", token)
			if slices.Contains(lines, "X-User-Roles: "+want) {
				break
			}
			if time.Since(changed) > 10*time.Second { // the promise is measured by make propagation, on a machine that does nothing else
				t.Fatalf("after %s it still answers %q", time.Since(changed), lines)
			}
		}
	}
}

func TestPagesLeaveNothingOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	rows := []any{}
	for i := range 25 {
		rows = append(rows, map[string]any{"subject": fmt.Sprintf("page%d", i), "roles": []string{"viewer"}})
	}
	w.want(200, "root", "POST", "/v1/tenants/umbrella/members:batch", map[string]any{"members": rows})
	for path, want := range map[string]int{"/v1/tenants/umbrella/members?role=viewer&limit=7": 26, "/v1/users?limit=10": 36, "/v1/audit?tenant=umbrella&limit=4": 25, "/v1/tenants?limit=2": 5, "/v1/services?limit=1": 1} {
		seen := map[string]bool{}
		pages := 0
		for next := path; next != ""; pages++ {
			r := w.want(200, "root", "GET", next, nil)
			for _, x := range r.items() {
				key := fmt.Sprint(x["user"], x["id"], x["seq"], x["name"])
				if seen[key] {
					t.Fatalf("%s: %s comes twice", path, key)
				}
				seen[key] = true
			}
			link := r.header.Get("Link")
			if (link == "") != (r.field("next") == nil) {
				t.Fatalf("%s: Link %q and next %v", path, link, r.field("next"))
			}
			next, _, _ = strings.Cut(strings.TrimPrefix(link, "<"), ">")
		}
		if len(seen) != want {
			t.Errorf("%s: %d in %d pages, want %d", path, len(seen), pages, want)
		}
	}
}

func TestWritesAreLimitedForEachCaller(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{writes: 3})
	for i := range 3 {
		r := w.want(409, "root", "POST", "/v1/tenants", map[string]any{"id": "acme", "slug": "acme", "name": "x"})
		if got := r.header.Get("RateLimit"); !strings.HasPrefix(got, fmt.Sprintf(`"writes";r=%d;t=`, 2-i)) {
			t.Errorf("RateLimit: %s", got)
		}
		if got := r.header.Get("RateLimit-Policy"); got != `"writes";q=3;w=60` {
			t.Errorf("RateLimit-Policy: %s", got)
		}
	}
	r := w.want(429, "root", "POST", "/v1/tenants", map[string]any{"id": "acme", "slug": "acme", "name": "x"})
	if r.header.Get("Retry-After") == "" || r.field("code") != "rate_limited" {
		t.Errorf("got %v %s", r.header, r)
	}
	w.want(200, "root", "GET", "/v1/tenants", nil)                                           // reading goes on
	w.want(409, "tina", "POST", "/v1/tenants/acme/roles", map[string]any{"name": "auditor"}) // and so do others
}

// A database that cannot take a change is not a fault of ours: the caller comes back later.
func TestAChangeThatTheDatabaseHasNoRoomForIs503(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	conn, err := pgx.Connect(ctx, w.DatabaseURL)
	w.OK(err)
	defer conn.Close(ctx)
	for sqlstate, code := range map[string]string{"53100": "database_full", "53300": "database_overloaded", "25006": "database_read_only", "57P01": "database_unavailable", "40001": "busy"} {
		_, err = conn.Exec(ctx, `CREATE OR REPLACE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'as asked' USING ERRCODE = '`+sqlstate+`'; END $$;
			CREATE OR REPLACE TRIGGER fails BEFORE INSERT ON audit FOR EACH STATEMENT EXECUTE FUNCTION fails()`)
		w.OK(err)
		r := w.want(503, "root", "POST", "/v1/tenants", map[string]any{"id": "new", "slug": "new", "name": "New"})
		if r.field("code") != code || r.header.Get("Retry-After") == "" {
			t.Errorf("%s: %v %s", sqlstate, r.header, r)
		}
	}
}

// A rejection does not reveal which users existed before. The platform's administrators add
// whom they like, and replacing is not joining.
func TestATenantsAdministratorsAddABoundedNumberOfMembersADay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{joins: 3})
	add := func(want int, who string, subjects ...string) reply {
		t.Helper()
		rows := make([]any, len(subjects))
		for i, s := range subjects {
			rows[i] = map[string]any{"subject": s}
		}
		return w.want(want, who, "POST", "/v1/tenants/acme/members:batch", map[string]any{"members": rows})
	}
	add(200, "tina", "n1", "n2")
	add(200, "tina", "n1", "n2")
	for _, subjects := range [][]string{{"n3", "n4"}, {"root", "grace"}} {
		if r := add(429, "tina", subjects...); r.field("code") != "too_many_joins" {
			t.Errorf("%v: %s", subjects, r)
		}
	}
	add(200, "root", "n5", "n6")
	add(200, "tina", "n3")
	add(429, "tina", "n4")
	add(200, "root", "n4")
}

func TestARequestsIDGoesInAndOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	r := w.want(200, "root", "GET", "/v1/tenants", nil, "X-Request-ID: my-id.1")
	if r.header.Get("X-Request-ID") != "my-id.1" || !strings.Contains(w.Logs.String(), `"request_id":"my-id.1"`) {
		t.Errorf("header %q", r.header.Get("X-Request-ID"))
	}
	for _, bad := range []string{"a b", strings.Repeat("x", 65), `"`} {
		if r := w.want(200, "root", "GET", "/v1/tenants", nil, "X-Request-ID: "+bad); len(r.header.Get("X-Request-ID")) != 36 {
			t.Errorf("%q came back as %q", bad, r.header.Get("X-Request-ID"))
		}
	}
	w.want(200, "tina", "POST", "/v1/tenants/acme/members:batch", map[string]any{"members": []any{map[string]any{"subject": "n"}}}, "X-Request-ID: my-id.2")
	if got := w.want(200, "tina", "GET", "/v1/audit?tenant=acme&limit=1", nil).items()[0]; got["request_id"] != "my-id.2" || got["decision_id"] == nil || got["address"] != "127.0.0.1" {
		t.Errorf("audited as %v", got)
	}
}

// A service's manifest becomes roles and attributes of every tenant, and what is in use
// is not taken away.
func TestAServiceDeclaresWhatItNeeds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	w.cast()
	ci := w.program("ci", "s2s:internal")
	w.OK(w.DB.PutClient(ctx, iam.Client{Issuer: w.RAuth.Issuer, ClientID: "ci2", Scopes: []string{"s2s:internal"}, Status: iam.ClientActive}))
	manifest := `
apiVersion: citadel/v1   # of others
service: billing
roles:
  - {name: billing-viewer, description: Sees invoices, permissions: ["billing:read"]}
  - {name: billing-admin, permissions: ["billing:write"], inherits: [billing-viewer]}
attributes:
  - {key: cost-center, type: integer, description: Whom to charge}
`
	yaml := []string{"Content-Type: application/yaml"}
	r := w.want(200, ci, "POST", "/s2s/system/sync", manifest, yaml...)
	if r.field("version") != 1.0 {
		t.Errorf("got %s", r)
	}
	r = w.want(200, ci, "PUT", "/v1/services/billing/manifest", manifest, yaml...)
	if r.field("version") != 1.0 {
		t.Errorf("the same again: %s", r)
	}
	if n := len(w.want(200, "root", "GET", "/v1/audit?object=billing", nil).items()); n != 1 {
		t.Errorf("the same again was audited: %d entries", n)
	}
	// Another program does not sync it; a person may, and sets it free.
	if r := w.want(403, w.program("ci2", "s2s:internal"), "POST", "/s2s/system/sync", manifest, yaml...); r.field("code") != "service_of_another" {
		t.Errorf("got %s", r)
	}
	w.want(200, "root", "PUT", "/v1/services/billing/manifest", manifest, yaml...)
	w.want(200, w.program("ci2", "s2s:internal"), "POST", "/s2s/system/sync", manifest, yaml...)
	ci = w.program("ci2", "s2s:internal")

	// It is there in every tenant, and values are checked.
	w.want(200, "tina", "GET", "/v1/tenants/acme/roles/billing-admin", nil)
	w.want(409, "root", "PUT", "/v1/roles/billing-admin", map[string]any{}, "If-Match: *")
	carol := w.user("carol")
	r = w.want(422, "root", "PUT", "/v1/users/"+carol, map[string]any{"attributes": map[string]any{"cost-center": "x"}}, "If-Match: *")
	if !slices.Equal(r.pointers(), []string{"/attributes/cost-center"}) {
		t.Errorf("got %s", r)
	}
	w.want(200, "root", "PUT", "/v1/users/"+carol, map[string]any{"attributes": map[string]any{"cost-center": 7}}, "If-Match: *")
	w.want(201, "root", "POST", "/v1/tenants/acme/members", map[string]any{"subject": "carol", "roles": []string{"billing-admin"}})

	// What is in use stays, and the response names its users.
	for name, c := range map[string]struct{ body, says string }{
		"a role":                  {"service: billing\nroles: [{name: billing-viewer, permissions: ['billing:read']}]\nattributes: [{key: cost-center, type: integer}]", `"billing-admin" is held by 1 member in acme`},
		"an attribute":            {"service: billing\nroles: [{name: billing-viewer}, {name: billing-admin}]", `1 user, 0 tenants and 0 memberships have the attribute \"cost-center\"`},
		"a type":                  {"service: billing\nroles: [{name: billing-viewer}, {name: billing-admin}]\nattributes: [{key: cost-center, type: string}]", `a value of \"cost-center\" that is no string`},
		"a role of another":       {"service: other\nroles: [{name: billing-viewer}]", `the service \"billing\" declares it`},
		"a role of no service":    {"service: other\nroles: [{name: viewer}]", `an administrator created it`},
		"a role of a tenant":      {"service: other\nroles: [{name: auditor}]", `a tenant already has a role of its own named \"auditor\"`},
		"an attribute of another": {"service: other\nattributes: [{key: plan, type: string}]", `is declared by the service \"sample\"`},
	} {
		before := w.dump()
		if r := w.call(ci, "POST", "/s2s/system/sync", c.body, yaml...); r.status != 409 || !strings.Contains(strings.ReplaceAll(string(r.body), `\"billing-admin\"`, `"billing-admin"`), c.says) {
			t.Errorf("%s: got %s, want 409 with %s", name, r, c.says)
		}
		if w.dump() != before {
			t.Errorf("%s: something was changed", name)
		}
	}
	// A wider type fits; and when no longer in use they are removed.
	w.want(200, ci, "POST", "/s2s/system/sync", strings.Replace(manifest, "type: integer", "type: number", 1), yaml...)
	w.want(204, "root", "DELETE", "/v1/tenants/acme/members/"+carol, nil)
	w.want(200, "root", "PUT", "/v1/users/"+carol, map[string]any{}, "If-Match: *")
	w.want(200, ci, "POST", "/s2s/system/sync", "service: billing\nroles: []\nattributes: []", yaml...)
	w.want(404, "root", "GET", "/v1/roles/billing-admin", nil)
	w.want(404, "root", "GET", "/v1/roles/billing-viewer", nil)
	// What was declared before is still known.
	if r := w.want(200, "root", "GET", "/v1/services/billing/manifest?version=1", nil); !strings.Contains(string(r.body), "billing-admin") {
		t.Errorf("version 1: %s", r)
	}
	w.want(404, "root", "GET", "/v1/services/billing/manifest?version=99", nil)
}

// A tenant's administrator who adds a user does not learn whether the user existed.
func TestAddingAMemberDoesNotTellWhetherTheyWereKnown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	known := w.want(201, "tina", "POST", "/v1/tenants/acme/members", map[string]any{"subject": "carol", "roles": []string{"viewer"}})
	unknown := w.want(201, "tina", "POST", "/v1/tenants/acme/members", map[string]any{"subject": "newcomer", "roles": []string{"viewer"}})
	shape := func(r reply) string {
		s := string(r.body)
		for _, x := range []any{r.field("user"), r.field("subject"), fmt.Sprintf(`"version":%v`, r.field("version"))} {
			s = strings.ReplaceAll(s, fmt.Sprint(x), "…")
		}
		return s
	}
	if shape(known) != shape(unknown) {
		t.Errorf("%s and %s", known, unknown)
	}
	// No user is added by our id: that would reveal which users exist.
	w.want(404, "tina", "PUT", "/v1/tenants/acme/members/"+w.user("root"), map[string]any{}, "If-None-Match: *")
	w.want(404, "tina", "GET", "/v1/users/"+w.user("root")+"/effective?tenant=acme", nil)
}

func TestTheAdminAPIIsOffWithoutAnAudience(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	for _, path := range []string{"/system/ext-authz/../../v1/tenants/acme", "/v1/system/enrich-token/%2e%2e/%2e%2e/tenants/acme", "//v1/tenants/acme"} {
		if status, _, _ := w.Ask("DELETE "+path, "Authorization: Bearer "+w.Mint("root", map[string]any{"aud": devstack.AdminAudience})); status/100 == 2 {
			t.Errorf("the gateways' listener answers %s with %d", path, status)
		}
	}
	w.want(200, "root", "GET", "/v1/tenants/acme", nil)
}
