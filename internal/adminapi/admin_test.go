package adminapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
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

func TestBadInputIsToldFieldByField(t *testing.T) {
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

// One changes, the other is told: nothing that either wrote is lost unseen.
func TestOfTwoWhoEditOneRoleAtOnceOneIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	r := w.want(200, "root", "GET", "/v1/tenants/acme/roles/auditor", nil)
	tag := r.header.Get("ETag")
	var mu sync.Mutex
	got := map[int][]string{}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			p := fmt.Sprintf("log:read%d", i)
			r := w.call("root", "PUT", "/v1/tenants/acme/roles/auditor", map[string]any{"permissions": []string{p}}, "If-Match: "+tag)
			mu.Lock()
			defer mu.Unlock()
			got[r.status] = append(got[r.status], p)
		})
	}
	all.Wait()
	if len(got[200]) != 1 || len(got[412]) != 7 {
		t.Fatalf("answers: %v", got)
	}
	r = w.want(200, "root", "GET", "/v1/tenants/acme/roles/auditor", nil)
	if fmt.Sprint(r.field("permissions")) != "["+got[200][0]+"]" || r.header.Get("ETag") == tag {
		t.Errorf("in force is %s, %s was told that it is", r, got[200][0])
	}
	w.want(428, "root", "PUT", "/v1/tenants/acme/roles/auditor", map[string]any{})
	w.want(412, "root", "PUT", "/v1/tenants/acme/roles/auditor", map[string]any{}, "If-None-Match: *")
	w.want(412, "root", "PUT", "/v1/tenants/acme/roles/newer", map[string]any{}, "If-Match: *")
	w.want(412, "root", "DELETE", "/v1/tenants/acme/roles/auditor", nil, "If-Match: "+tag)
	w.want(412, "root", "PUT", "/v1/tenants/acme/roles/auditor", map[string]any{}, "If-Match: W/"+r.header.Get("ETag"))
	made := w.want(201, "root", "PUT", "/v1/tenants/acme/roles/newer", map[string]any{}, "If-None-Match: *")
	if made.header.Get("Location") != "/v1/tenants/acme/roles/newer" {
		t.Errorf("Location is %q", made.header.Get("Location"))
	}
}

// Of those who make one thing at once, one has made it.
func TestOfManyWhoMakeOneThingAtOnceOneHasMadeIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	for _, c := range []struct {
		method, path string
		body         any
		headers      []string
		lost         int
	}{
		{"POST", "/v1/tenants", map[string]any{"id": "wayne", "slug": "wayne", "name": "W"}, nil, 409},
		{"PUT", "/v1/tenants/stark", map[string]any{"slug": "stark", "name": "S"}, []string{"If-None-Match: *"}, 412},
		{"POST", "/v1/users", map[string]any{"subject": "bruce"}, nil, 409},
		{"POST", "/v1/roles", map[string]any{"name": "hero"}, nil, 409},
		{"POST", "/v1/tenants/acme/members", map[string]any{"subject": "clark"}, nil, 409},
		{"POST", "/v1/tenants/acme/mappings", map[string]any{"claim": "groups", "value": "heroes", "roles": []string{"viewer"}}, nil, 409},
	} {
		var mu sync.Mutex
		got := map[int]int{}
		var all sync.WaitGroup
		for range 6 {
			all.Go(func() {
				r := w.call("root", c.method, c.path, c.body, c.headers...)
				mu.Lock()
				defer mu.Unlock()
				got[r.status]++
			})
		}
		all.Wait()
		if got[201] != 1 || got[c.lost] != 5 {
			t.Errorf("%s %s: answers %v", c.method, c.path, got)
		}
	}
}

// A caller whose connection was cut sends the same again: one thing is made, and the
// answer is the one that got lost.
func TestARepeatedPostMakesOneThing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	body := map[string]any{"name": "once", "permissions": []string{"a:b"}}
	b, err := json.Marshal(body)
	w.OK(err)
	token := w.Mint("root", map[string]any{"aud": devstack.AdminAudience})
	for i := range 20 { // cut at some moment, before or after the commit
		short, cancel := context.WithTimeout(ctx, time.Duration(i)*500*time.Microsecond)
		req, err := http.NewRequestWithContext(short, http.MethodPost, w.admin+"/v1/tenants/acme/roles", strings.NewReader(string(b)))
		w.OK(err)
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Idempotency-Key", "k")
		req.Header.Set("Content-Type", "application/json")
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close()
		}
		cancel()
	}
	var mu sync.Mutex
	answers := map[string]int{}
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			r := w.call(token, "POST", "/v1/tenants/acme/roles", body, "Idempotency-Key: k")
			mu.Lock()
			defer mu.Unlock()
			answers[fmt.Sprint(r.status, r.header.Get("Location"), r.header.Get("ETag"), string(r.body))]++
		})
	}
	all.Wait()
	if len(answers) != 1 {
		t.Errorf("different answers: %v", answers)
	}
	for a := range answers {
		if !strings.HasPrefix(a, `201/v1/tenants/acme/roles/once"`) {
			t.Errorf("answered %s", a)
		}
	}
	if n := len(w.want(200, "root", "GET", "/v1/audit?tenant=acme&object=once", nil).items()); n != 1 {
		t.Errorf("made %d times", n)
	}
	r := w.want(422, token, "POST", "/v1/tenants/acme/roles", map[string]any{"name": "twice"}, "Idempotency-Key: k")
	if r.field("code") != "idempotency_key_reused" {
		t.Errorf("got %s", r)
	}
	// A key is its caller's own, and what failed can be tried again under it.
	w.want(409, "tina", "POST", "/v1/tenants/acme/roles", map[string]any{"name": "once"}, "Idempotency-Key: k")
	w.want(201, "tina", "POST", "/v1/tenants/acme/roles", map[string]any{"name": "hers"}, "Idempotency-Key: k")
	if r := w.want(201, "tina", "POST", "/v1/tenants/acme/roles", map[string]any{"name": "hers"}, "Idempotency-Key: k"); r.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("not replayed: %s", r)
	}
}

// Ruling 30: nobody gives away or takes away more than they hold, looked at before and
// after; the last platform administrator stays.
func TestNobodyEscalates(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	// Tina administers acme and is editor there. The payer may more than she.
	w.want(201, "root", "POST", "/v1/tenants/acme/roles", map[string]any{"name": "payer", "permissions": []string{"payment:approve"}})
	w.want(201, "root", "POST", "/v1/tenants/acme/roles", map[string]any{"name": "clerk", "permissions": []string{"document:read"}})
	w.want(201, "root", "POST", "/v1/roles", map[string]any{"name": "support"})
	w.want(201, "root", "POST", "/v1/tenants/acme/mappings", map[string]any{"claim": "groups", "value": "payers", "roles": []string{"payer"}})
	paymap := w.want(200, "root", "GET", "/v1/tenants/acme/mappings", nil).items()[1]["id"].(string)
	tina := w.user("tina")
	owner := w.member("acme", "owner", "payer", "editor")
	clerk := w.member("acme", "clerk", "clerk")
	w.member("acme", "sub", iam.RoleTenantAdmin) // administers, and holds nothing else

	refused := func(name, who, method, path string, body any) {
		t.Helper()
		before := w.dump()
		r := w.call(who, method, path, body, "If-Match: *")
		if r.status != 403 || r.field("code") != "more_than_held" {
			t.Errorf("%s: got %s", name, r)
		}
		if after := w.dump(); after != before {
			t.Errorf("%s: something was changed:\n%s\n%s", name, before, after)
		}
	}
	w.member("acme", "boss", iam.RoleTenantAdmin, "clerk")
	refused("a permission into a role one holds", "boss", "PUT", "/v1/tenants/acme/roles/clerk", map[string]any{"permissions": []string{"document:read", "payment:approve"}})
	refused("a stronger role into a role one holds", "boss", "PUT", "/v1/tenants/acme/roles/clerk", map[string]any{"permissions": []string{"document:read"}, "inherits": []string{"payer"}})
	refused("a reserved role into a role one holds", "boss", "PUT", "/v1/tenants/acme/roles/clerk", map[string]any{"permissions": []string{"document:read"}, "inherits": []string{iam.RoleTenantAuditor}})
	refused("a permission into a role one inherits", "tina", "PUT", "/v1/tenants/acme/roles/clerk", map[string]any{"permissions": []string{"document:read", "payment:approve"}})
	refused("inheriting a stronger role", "tina", "PUT", "/v1/tenants/acme/roles/clerk", map[string]any{"permissions": []string{"document:read"}, "inherits": []string{"payer"}})
	refused("inheriting a global role that one does not hold", "tina", "PUT", "/v1/tenants/acme/roles/clerk", map[string]any{"inherits": []string{"support"}})
	refused("weakening a stronger role", "tina", "PUT", "/v1/tenants/acme/roles/payer", map[string]any{"permissions": []string{"document:read"}})
	refused("deleting a stronger role", "tina", "DELETE", "/v1/tenants/acme/roles/payer?remove=true", nil)
	refused("a stronger role for oneself", "tina", "PUT", "/v1/tenants/acme/members/"+tina, map[string]any{"roles": []string{iam.RoleTenantAdmin, "editor", "payer"}})
	refused("a stronger role for another", "tina", "PUT", "/v1/tenants/acme/members/"+clerk, map[string]any{"roles": []string{"payer"}})
	refused("a global role that one does not hold", "tina", "PUT", "/v1/tenants/acme/members/"+clerk, map[string]any{"roles": []string{"support"}})
	refused("a stronger role in a batch", "tina", "POST", "/v1/tenants/acme/members:batch", map[string]any{"members": []any{map[string]any{"subject": "fine"}, map[string]any{"subject": "strong", "roles": []string{"payer"}}}})
	refused("a stronger role for a newcomer", "tina", "POST", "/v1/tenants/acme/members", map[string]any{"subject": "strong", "roles": []string{"payer"}})
	refused("demoting a stronger member", "tina", "PUT", "/v1/tenants/acme/members/"+owner, map[string]any{"roles": []string{"editor"}})
	refused("suspending a stronger member", "tina", "PATCH", "/v1/tenants/acme/members/"+owner, map[string]any{"status": "suspended"})
	refused("removing a stronger member", "tina", "DELETE", "/v1/tenants/acme/members/"+owner, nil)
	refused("a mapping to a stronger role", "tina", "POST", "/v1/tenants/acme/mappings", map[string]any{"claim": "groups", "value": "everyone", "roles": []string{"payer"}})
	refused("changing a stronger mapping", "tina", "PUT", "/v1/tenants/acme/mappings/"+paymap, map[string]any{"roles": []string{"viewer"}})
	refused("deleting a stronger mapping", "tina", "DELETE", "/v1/tenants/acme/mappings/"+paymap, nil)
	refused("an auditor's role that one does not hold", "tina", "POST", "/v1/tenants/acme/members", map[string]any{"subject": "x", "roles": []string{iam.RoleTenantAuditor}})
	refused("giving what one only administers", "sub", "PUT", "/v1/tenants/acme/members/"+clerk, map[string]any{"roles": []string{"clerk"}, "expires_at": "2030-01-01T00:00:00Z"})
	refused("a role with a permission, by who holds none", "sub", "POST", "/v1/tenants/acme/roles", map[string]any{"name": "mine", "permissions": []string{"x:y"}})

	// What she holds she may give and take.
	w.want(200, "tina", "PUT", "/v1/tenants/acme/members/"+clerk, map[string]any{"roles": []string{"viewer", iam.RoleTenantAdmin}}, "If-Match: *")
	w.want(200, "tina", "PUT", "/v1/tenants/acme/roles/clerk", map[string]any{"permissions": []string{"document:write"}}, "If-Match: *")
	w.want(200, "tina", "PATCH", "/v1/tenants/acme/members/"+clerk, map[string]any{"status": "suspended"})

	// The last platform administrator stays.
	root := w.user("root")
	for name, r := range map[string]reply{
		"blocked":      w.call("root", "PATCH", "/v1/users/"+root, map[string]any{"status": "blocked"}),
		"demoted":      w.call("root", "PUT", "/v1/users/"+root, map[string]any{"platform_roles": []string{"auditor"}}, "If-Match: *"),
		"erased":       w.call("root", "DELETE", "/v1/users/"+root, nil),
		"by a program": w.call(w.platformProgram(), "DELETE", "/v1/users/"+root, nil),
	} {
		if r.status != 409 || r.field("code") != "last_platform_admin" {
			t.Errorf("the last platform administrator, %s: got %s", name, r)
		}
	}
	// One who is blocked is none, and one of an issuer that is not trusted with it neither.
	w.want(201, "root", "POST", "/v1/users", map[string]any{"subject": "second", "platform_roles": []string{"platform-admin"}})
	second := w.user("second")
	w.want(200, "root", "PATCH", "/v1/users/"+second, map[string]any{"status": "blocked"})
	w.want(409, "root", "PATCH", "/v1/users/"+root, map[string]any{"status": "blocked"})
	_, err := w.sql().Exec(ctx, `INSERT INTO users (issuer, subject, platform_roles) VALUES ($1, 'chief', '{platform-admin}')`, w.Other.Issuer)
	w.OK(err)
	w.want(409, "root", "PATCH", "/v1/users/"+root, map[string]any{"status": "blocked"})
	w.want(200, "root", "PATCH", "/v1/users/"+second, map[string]any{"status": "active"})
	w.want(200, "root", "PATCH", "/v1/users/"+root, map[string]any{"status": "blocked"})
	w.want(403, "root", "GET", "/v1/tenants", nil)
}

// A policy that allows everything to everybody gives nobody what they do not hold.
func TestWhateverThePolicySaysNobodyGivesAwayMoreThanTheyHold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{adminRego: "package iam.admin\n\ndecision := {\"allow\": true}\n"})
	tokens := w.cast()
	theirs := w.MintBy(w.Other, "chief", map[string]any{"aud": devstack.AdminAudience})
	_, err := w.sql().Exec(ctx, `INSERT INTO users (issuer, subject, platform_roles) VALUES ($1, 'chief', '{platform-admin}')`, w.Other.Issuer)
	w.OK(err)
	w.OK(w.DB.PutRole(ctx, iam.Role{Tenant: "globex", Name: "own", Permissions: []string{"a:b"}}))
	w.OK(w.DB.PutRole(ctx, iam.Role{Tenant: "acme", Name: "own", Permissions: []string{"a:b"}}))
	for _, subject := range []string{"sue", "eve"} { // suspended and expired: they held it once
		w.OK(w.DB.PutMembership(ctx, iam.Membership{
			Tenant: "acme", User: w.user(subject), Status: map[string]string{"sue": "suspended", "eve": "active"}[subject], Roles: []string{"own"},
			ExpiresAt: map[string]time.Time{"eve": long}[subject],
		}))
	}
	tokens["chief of another issuer"] = theirs
	for who, token := range tokens {
		if token == "" || strings.HasPrefix(who, "token for") || who == "blocked client" || strings.HasPrefix(who, "revoked") || strings.HasPrefix(who, "platform admin") {
			continue // not let in at all, or holding everything
		}
		tenant := "acme"
		if who == "chief of another issuer" {
			tenant = "globex"
			w.want(404, token, "POST", "/v1/tenants/acme/members", map[string]any{"subject": "new"})
		}
		for name, r := range map[string]reply{
			"a role":          w.call(token, "POST", "/v1/tenants/"+tenant+"/members", map[string]any{"subject": "new", "roles": []string{"own"}}),
			"changing a role": w.call(token, "PUT", "/v1/tenants/"+tenant+"/roles/own", map[string]any{"permissions": []string{"a:b"}, "description": "x"}, "If-Match: *"),
			"a platform role": w.call(token, "POST", "/v1/users", map[string]any{"subject": "new", "platform_roles": []string{"auditor"}}),
			"blocking":        w.call(token, "PATCH", "/v1/users/"+w.user("root"), map[string]any{"status": "blocked"}),
			"erasing":         w.call(token, "DELETE", "/v1/users/"+w.user("audrey"), nil),
			"a global role":   w.call(token, "POST", "/v1/roles", map[string]any{"name": "new", "permissions": []string{"x:y"}}),
		} {
			byClient := who == "tenant admin by program" && r.field("code") == "client_of_another_tenant" // before it is asked what they hold
			if r.status != 403 || r.field("code") != "more_than_held" && !byClient {
				t.Errorf("%s, %s: got %s", who, name, r)
			}
		}
	}
}

func (w *adminWorld) platformProgram() string {
	w.Helper()
	w.OK(w.DB.PutClient(ctx, iam.Client{Issuer: w.RAuth.Issuer, ClientID: "terraform", Scopes: []string{iam.ScopePlatformAdmin}, Status: iam.ClientActive}))
	return w.program("terraform", iam.ScopePlatformAdmin)
}

// dump is all facts as text, but for what may grow.
func (w *adminWorld) dump() string {
	w.Helper()
	var all string
	for _, table := range []string{"tenants", "roles", "users", "memberships", "mappings", "services", "audit", "outbox"} {
		w.OK(w.sql().QueryRow(ctx, "SELECT $1 || coalesce((SELECT string_agg(x::text, E'\n' ORDER BY x::text) FROM "+table+" x), '')", all+"\n"+table+"\n").Scan(&all))
	}
	return all
}

// Two administrators who remove each other, many times: one always stays.
func TestTwoWhoRemoveEachOtherDoNotBothSucceed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	w.want(201, "root", "POST", "/v1/users", map[string]any{"subject": "rival", "platform_roles": []string{"platform-admin"}})
	ids := map[string]string{"root": w.user("root"), "rival": w.user("rival")}
	for round := range 10 {
		ways := []func(who, whom string) reply{
			func(who, whom string) reply {
				return w.call(who, "PATCH", "/v1/users/"+ids[whom], map[string]any{"status": "blocked"})
			},
			func(who, whom string) reply {
				return w.call(who, "PUT", "/v1/users/"+ids[whom], map[string]any{}, "If-Match: *")
			},
		}
		var a, b reply
		var both sync.WaitGroup
		both.Go(func() { a = ways[round%2]("root", "rival") })
		both.Go(func() { b = ways[(round/2)%2]("rival", "root") })
		both.Wait()
		won := 0
		for _, r := range []reply{a, b} {
			switch r.status {
			case 200:
				won++
			case 403, 409:
			default:
				t.Fatalf("round %d: %s and %s", round, a, b)
			}
		}
		if won != 1 {
			t.Fatalf("round %d: %d succeeded: %s and %s", round, won, a, b)
		}
		for _, subject := range []string{"root", "rival"} { // and again
			_, err := w.DB.PutUser(ctx, iam.User{Issuer: w.RAuth.Issuer, Subject: subject, Status: iam.UserActive, PlatformRoles: []string{iam.PlatformAdmin}})
			w.OK(err)
		}
	}
	// The same of two administrators of a tenant: there is no last one there, but who has
	// been removed removes nobody any more.
	for range 5 {
		x, y := w.member("acme", "xenia", iam.RoleTenantAdmin), w.member("acme", "yves", iam.RoleTenantAdmin)
		var a, b reply
		var both sync.WaitGroup
		both.Go(func() { a = w.call("xenia", "DELETE", "/v1/tenants/acme/members/"+y, nil) })
		both.Go(func() { b = w.call("yves", "DELETE", "/v1/tenants/acme/members/"+x, nil) })
		both.Wait()
		if (a.status == 204) == (b.status == 204) {
			t.Fatalf("both or none: %s and %s", a, b)
		}
	}
}

// Two edits at once, each of which alone would be fine.
func TestTwoEditsAtOnceDoNotGiveAwayTogetherWhatNeitherMay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	for range 10 {
		// While root takes the permission from tina's role, tina gives it away: afterwards
		// nobody has it whom she gave it to when she did not hold it any more.
		w.OK(w.DB.PutRole(ctx, iam.Role{Tenant: "acme", Name: "boss", Permissions: []string{"x:y"}}))
		w.OK(w.DB.PutRole(ctx, iam.Role{Tenant: "acme", Name: "gift", Permissions: []string{"x:y"}}))
		w.member("acme", "tina", iam.RoleTenantAdmin, "boss")
		heir := w.member("acme", "heir")
		var taken, given reply
		var both sync.WaitGroup
		both.Go(func() { taken = w.call("root", "PUT", "/v1/tenants/acme/roles/boss", map[string]any{}, "If-Match: *") })
		both.Go(func() {
			given = w.call("tina", "PUT", "/v1/tenants/acme/members/"+heir, map[string]any{"roles": []string{"gift"}}, "If-Match: *")
		})
		both.Wait()
		if taken.status != 200 || given.status != 200 && given.status != 403 {
			t.Fatalf("%s and %s", taken, given)
		}
		list := w.want(200, "root", "GET", "/v1/audit?tenant=acme&limit=2", nil).items()
		if given.status == 200 && list[0]["object"] == heir {
			t.Fatalf("it was given after it was taken: %v", list)
		}
	}
}

// Ruling 2: an issuer reaches only its tenants, whoever asks for more.
func TestAnIssuerReachesOnlyItsTenants(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	other := w.Other.Issuer
	refused := func(pointer string, r reply) {
		t.Helper()
		if r.status != 422 || !slices.Contains(r.pointers(), pointer) {
			t.Errorf("got %s, want 422 at %s", r, pointer)
		}
	}
	refused("/issuer", w.call("root", "POST", "/v1/tenants/acme/members", map[string]any{"issuer": other, "subject": "alice"}))
	refused("/members/0/issuer", w.call("root", "POST", "/v1/tenants/acme/members:batch", map[string]any{"members": []any{map[string]any{"issuer": other, "subject": "alice"}}}))
	refused("/issuer", w.call("root", "POST", "/v1/tenants/acme/mappings", map[string]any{"issuer": other, "claim": "groups", "value": "x", "roles": []string{"viewer"}}))
	refused("/platform_roles", w.call("root", "POST", "/v1/users", map[string]any{"issuer": other, "subject": "alice", "platform_roles": []string{"auditor"}}))
	refused("/default_tenant", w.call("root", "POST", "/v1/users", map[string]any{"issuer": other, "subject": "alice", "default_tenant": "acme"}))
	w.want(201, "root", "POST", "/v1/tenants/globex/members", map[string]any{"issuer": other, "subject": "alice", "roles": []string{iam.RoleTenantAdmin}})

	// The alice of the other issuer administers globex, and nothing of ours.
	theirs := w.MintBy(w.Other, "alice", map[string]any{"aud": devstack.AdminAudience})
	w.want(200, theirs, "GET", "/v1/tenants/globex/members", nil)
	w.want(404, theirs, "GET", "/v1/tenants/acme/members", nil)
	w.want(403, theirs, "GET", "/v1/tenants", nil)
	// Even where the tables say otherwise: somebody wrote past us.
	_, err := w.sql().Exec(ctx, `UPDATE users SET platform_roles = '{platform-admin}' WHERE issuer = $1`, other)
	w.OK(err)
	_, err = w.sql().Exec(ctx, `INSERT INTO memberships (user_id, tenant, roles) SELECT id, 'acme', '{iam:tenant-admin}' FROM users WHERE issuer = $1`, other)
	w.OK(err)
	w.want(404, theirs, "GET", "/v1/tenants/acme/members", nil)
	w.want(404, theirs, "POST", "/v1/tenants/acme/members", map[string]any{"subject": "x"})
	w.want(403, theirs, "GET", "/v1/tenants", nil)
	// Nor does another issuer's root or tina mean anything.
	for _, who := range []string{"root", "tina"} {
		w.want(403, w.MintBy(w.Other, who, map[string]any{"aud": devstack.AdminAudience}), "GET", "/v1/tenants", nil)
	}
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

// And on another replica within a second, without anybody waiting for it.
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

// Whoever is refused does not learn by it who was known before. The platform's administrators add
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

	// What is in use stays, and who uses it is told.
	for name, c := range map[string]struct{ body, says string }{
		"a role":                  {"service: billing\nroles: [{name: billing-viewer, permissions: ['billing:read']}]\nattributes: [{key: cost-center, type: integer}]", `"billing-admin" is held by 1 member in acme`},
		"an attribute":            {"service: billing\nroles: [{name: billing-viewer}, {name: billing-admin}]", `1 user, 0 tenants and 0 memberships have the attribute \"cost-center\"`},
		"a type":                  {"service: billing\nroles: [{name: billing-viewer}, {name: billing-admin}]\nattributes: [{key: cost-center, type: string}]", `a value of \"cost-center\" that is no string`},
		"a role of another":       {"service: other\nroles: [{name: billing-viewer}]", `the service \"billing\" declares it`},
		"a role of nobody":        {"service: other\nroles: [{name: viewer}]", `an administrator created it`},
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
	// A wider type fits; and when nobody uses them any more they go.
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

// Erasing forgets whom it was; what they did stays, by our id.
func TestAnErasedUserLeavesOurIDAndNothingElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	const subject = "very-particular-subject"
	w.want(201, "root", "POST", "/v1/users", map[string]any{"subject": subject, "attributes": map[string]any{"department": "very-particular-value"}})
	id := w.user(subject)
	w.want(201, "tina", "POST", "/v1/tenants/acme/members", map[string]any{"subject": subject, "roles": []string{"editor"}})
	w.want(204, "root", "DELETE", "/v1/users/"+id, nil)
	w.want(404, "root", "GET", "/v1/users/"+id, nil)
	w.want(404, "tina", "GET", "/v1/tenants/acme/members/"+id, nil)
	if found := w.search(subject); len(found) > 0 {
		t.Errorf("the subject is still in %v", found)
	}
	if got := len(w.want(200, "root", "GET", "/v1/audit?object="+id, nil).items()); got != 5 { // made, a member, their default tenant, erased, no member
		t.Errorf("%d entries speak of them", got)
	}
	for _, e := range w.want(200, "root", "GET", "/v1/audit?action=user:erase", nil).items() {
		if strings.Contains(fmt.Sprint(e), "very-particular-value") {
			t.Errorf("erasing them wrote down what they were: %v", e)
		}
	}
	// Who comes again is somebody else.
	w.want(201, "root", "POST", "/v1/users", map[string]any{"subject": subject})
	if again := w.user(subject); again == id {
		t.Error("the id was used again")
	}
}

// search names the columns of all tables in which a text occurs.
func (w *adminWorld) search(text string) []string {
	w.Helper()
	rows, err := w.sql().Query(ctx, `SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') ORDER BY 1`)
	w.OK(err)
	var tables []string
	for rows.Next() {
		var name string
		w.OK(rows.Scan(&name))
		tables = append(tables, name)
	}
	w.OK(rows.Err())
	var found []string
	for _, table := range tables {
		var n int
		w.OK(w.sql().QueryRow(ctx, `SELECT count(*) FROM "`+table+`" x WHERE x::text LIKE '%' || $1 || '%'`, text).Scan(&n))
		if n > 0 {
			found = append(found, table)
		}
	}
	return found
}

func TestATenantIsDeletedOnlyWhenNothingNeedsIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	w.want(409, "root", "DELETE", "/v1/tenants/umbrella", nil)
	w.want(200, "root", "PATCH", "/v1/tenants/umbrella", map[string]any{"status": "archived"})
	w.OK(w.DB.PutClient(ctx, iam.Client{Issuer: w.RAuth.Issuer, ClientID: "c", Tenant: "umbrella", Status: iam.ClientActive}))
	if r := w.want(409, "root", "DELETE", "/v1/tenants/umbrella", nil); r.field("code") != "tenant_has_clients" {
		t.Errorf("got %s", r)
	}
	_, err := w.sql().Exec(ctx, `DELETE FROM clients WHERE tenant = 'umbrella'`)
	w.OK(err)
	w.want(204, "root", "DELETE", "/v1/tenants/umbrella", nil)
	w.want(404, "root", "GET", "/v1/tenants/umbrella", nil)
	w.want(404, "root", "GET", "/v1/tenants/umbrella/members", nil)
	if r := w.want(409, "root", "POST", "/v1/tenants", map[string]any{"id": "umbrella", "slug": "u", "name": "u"}); !strings.Contains(string(r.body), "never used again") {
		t.Errorf("got %s", r)
	}
	if n := len(w.want(200, "root", "GET", "/v1/audit?tenant=umbrella", nil).items()); n != 2 {
		t.Errorf("%d entries are left of it", n)
	}
}

func TestARoleIsDeletedOnlyWhenNobodyHoldsIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	w.want(201, "root", "POST", "/v1/tenants/acme/roles", map[string]any{"name": "chief", "inherits": []string{"auditor"}})
	m := w.member("acme", "max", "auditor", "viewer")
	if r := w.want(409, "root", "DELETE", "/v1/tenants/acme/roles/auditor", nil); !strings.Contains(string(r.body), "1 member, 1 mapping in acme, the roles acme/chief") {
		t.Errorf("got %s", r)
	}
	w.want(204, "root", "DELETE", "/v1/tenants/acme/roles/auditor?remove=true", nil)
	if got := w.want(200, "root", "GET", "/v1/tenants/acme/members/"+m, nil).field("roles"); fmt.Sprint(got) != "[viewer]" {
		t.Errorf("the member holds %v", got)
	}
	if n := len(w.want(200, "root", "GET", "/v1/tenants/acme/mappings", nil).items()); n != 0 {
		t.Errorf("%d mappings are left without a role", n)
	}
	if got := w.want(200, "root", "GET", "/v1/tenants/acme/roles/chief", nil).field("inherits"); fmt.Sprint(got) != "[]" {
		t.Errorf("chief inherits %v", got)
	}
	w.want(201, "root", "POST", "/v1/tenants/acme/roles", map[string]any{"name": "botrole"})
	w.OK(w.DB.PutClient(ctx, iam.Client{Issuer: w.RAuth.Issuer, ClientID: "b", Tenant: "acme", Roles: []string{"botrole"}, Status: iam.ClientActive}))
	w.want(409, "root", "DELETE", "/v1/tenants/acme/roles/botrole", nil)
	w.want(204, "root", "DELETE", "/v1/tenants/acme/roles/botrole?remove=true", nil)
	w.want(409, "root", "DELETE", "/v1/roles/viewer", nil)
	w.want(409, "root", "DELETE", "/v1/roles/iam:tenant-admin", nil)
	w.want(409, "tina", "DELETE", "/v1/tenants/acme/roles/viewer", nil) // a global one
}

// A tenant's administrator who adds somebody does not learn whether they were known.
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
	// By our id nobody is added: it would tell who exists.
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
