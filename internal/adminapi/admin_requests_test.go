package adminapi_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"iam-service/internal/dev/await"
	"iam-service/internal/iam"
)

// Every route that takes GET takes HEAD, with the same status and headers and without a body,
// and answers 304 to a caller that knows the answer already.
func TestReadsSupportHEADAndETags(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{decisions: true})
	alice := w.user("alice")
	client, group := w.client("acme", nil), w.provision("acme").group("Editors")
	stored, seen := w.stored(), w.decided()
	request := w.asked("acme", alice)
	w.old(1)
	paths, _ := w.document()["paths"].(map[string]any)
	asked := 0
	for template, item := range paths {
		if _, gets := item.(map[string]any)["get"]; !gets || strings.Contains(template, "{preview}") || strings.Contains(template, "{mapping}") || strings.Contains(template, "{service}") {
			continue
		}
		asked++
		path := strings.NewReplacer("{tenant}", "acme", "{role}", "viewer", "{user}", alice, "{id}", client, "{group}", group, "{revision}", stored, "{decision}", seen, "{request}", request).Replace(template)
		if strings.HasPrefix(template, "/v1/tenants/{tenant}/roles/") {
			path = "/v1/tenants/acme/roles/editor"
		}
		if strings.HasSuffix(path, "/tenants/acme/access") {
			path += "?role=viewer"
		}
		if strings.HasSuffix(path, "/access/changes") {
			path += "?from=2001-01-01T00:00:00Z"
		}
		if strings.HasSuffix(path, "/effective") {
			path += "?tenant=acme"
		}
		got := w.want(200, "root", "GET", path, nil)
		tag := got.header.Get("ETag")
		if tag == "" {
			t.Errorf("GET %s: no ETag", path)
		}
		head := w.call("root", "HEAD", path, nil)
		if head.status != 200 || len(head.body) > 0 || head.header.Get("Content-Type") != got.header.Get("Content-Type") {
			t.Errorf("HEAD %s: %s %v", path, head, head.header)
		}
		if strings.HasPrefix(path, "/v1/policy") || slices.Contains([]string{"/v1/clients/drift", "/v1/me", "/v1/overview", "/v1/decisions/summary"}, path) {
			continue // says what time it is, when the token of this very call expires, or what has gone by since
		}
		for _, tags := range []string{tag, `"1-x", ` + tag, "*"} {
			for _, method := range []string{"GET", "HEAD"} {
				if r := w.call("root", method, path, nil, "If-None-Match: "+tags); r.status != 304 || len(r.body) > 0 || r.header.Get("ETag") != tag {
					t.Errorf("%s %s with If-None-Match %s: %s", method, path, tags, r)
				}
			}
		}
		if r := w.call("root", "GET", path, nil, `If-None-Match: "0"`); r.status != 200 {
			t.Errorf("GET %s with another tag: %s", path, r)
		}
	}
	if asked < 20 {
		t.Errorf("only %d routes were asked", asked)
	}
	if r := w.call("", "GET", "/openapi.json", nil); w.call("", "GET", "/openapi.json", nil, "If-None-Match: "+r.header.Get("ETag")).status != 304 {
		t.Error("the document is sent again to a caller that has it")
	}
	// A caller without read permission does not learn whether anything has changed.
	if r := w.call("mia", "GET", "/v1/users/"+alice, nil, "If-None-Match: *"); r.status != 403 {
		t.Errorf("a stranger: %s", r)
	}
}

// A tag changes with what is answered, also where there is no new version of it: here a
// membership that has expired. For If-Match it is still the same.
func TestAnETagChangesWithTheResponse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	user := w.member("acme", "brief", "viewer")
	path := "/v1/tenants/acme/members/" + user
	until := time.Now().Add(2 * time.Second)
	before := w.want(200, "root", "PUT", path, map[string]any{"roles": []string{"viewer"}, "expires_at": until}, "If-Match: *")
	tag := w.want(200, "root", "GET", path, nil).header.Get("ETag")
	await.True(w, "the membership has expired", func() bool { return w.want(200, "root", "GET", path, nil).field("status") == "expired" })
	if r := w.call("root", "GET", path, nil, "If-None-Match: "+tag); r.status != 200 || r.field("status") != "expired" {
		t.Errorf("what has expired is said to be unchanged: %s", r)
	}
	// Both are of one version: whichever was read, a change that is built on it is not lost.
	for _, known := range []string{tag, before.header.Get("ETag")} {
		w.want(200, "root", "PATCH", path, map[string]any{}, "If-Match: "+known)
	}
	w.want(200, "root", "PATCH", path, map[string]any{"roles": []string{"editor"}}, "If-Match: "+tag)
	w.want(412, "root", "PATCH", path, map[string]any{"roles": []string{"viewer"}}, "If-Match: "+tag)
}

func TestA405ListsTheAllowedMethods(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	for path, want := range map[string]string{
		"/v1/tenants":                      "GET, HEAD, POST",
		"/v1/tenants/acme":                 "GET, HEAD, PUT, PATCH, DELETE",
		"/v1/tenants/acme/members:batch":   "POST",
		"/clients":                         "GET, HEAD, POST",
		"/openapi.json":                    "GET, HEAD",
		"/v1/users/x/effective":            "GET, HEAD",
		"/v1/clients/x%2Fy/secrets:rotate": "POST",
	} {
		r := w.call("root", "TRACE", path, nil)
		if r.status != 405 || r.header.Get("Allow") != want || r.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("TRACE %s: %s, Allow %q, want %q", path, r, r.header.Get("Allow"), want)
		}
	}
	resp, err := http.Post(w.URL+"/v1/me/tenants", "application/json", nil) //nolint:noctx // a test
	w.OK(err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("the gateways' listener: %d, Allow %q", resp.StatusCode, resp.Header.Get("Allow"))
	}
}

// One response names every fault of a batch, whichever check finds it: the schema, the
// limits, the roles of the tenant, what services declare, and what the caller holds.
func TestABatchNamesAllInvalidRowsAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	w.OK(w.DB.PutRole(ctx, iam.Role{Tenant: "acme", Name: "owner", Permissions: []string{"acme:own"}}))
	w.member("acme", "stronger", "owner")
	row := func(subject string, more map[string]any) map[string]any {
		more["subject"] = subject
		return more
	}
	r := w.want(422, "tina", "POST", "/v1/tenants/acme/members:batch", map[string]any{"members": []any{
		row("fine", map[string]any{"roles": []string{"viewer"}}),
		row("two-faults", map[string]any{"roles": "viewer", "colour": "red"}),
		row("no-such-role", map[string]any{"roles": []string{"viewer", "none"}}),
		row("past", map[string]any{"expires_at": "2001-01-01T00:00:00Z"}),
		row("undeclared", map[string]any{"attributes": map[string]any{"not-declared": 1}}),
		row("fine", map[string]any{}),
		row("bad\x00subject", map[string]any{}),
		row("elsewhere", map[string]any{"issuer": "https://nobody.example"}),
		row("year-one", map[string]any{"expires_at": "0001-01-01T00:00:00Z"}),
	}})
	want := []string{
		"/members/1/colour", "/members/1/roles", "/members/2/roles/1", "/members/3/expires_at", "/members/4/attributes/not-declared", "/members/5/subject",
		"/members/6/subject", "/members/7/issuer", "/members/8/expires_at",
	}
	got := r.pointers()
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q\n%s", got, want, r)
	}
	// What the caller does not hold is named together with the rest.
	r = w.want(422, "tina", "POST", "/v1/tenants/acme/members:batch", map[string]any{"members": []any{
		row("too-much", map[string]any{"roles": []string{"owner"}}), row("stronger", map[string]any{}), row("past", map[string]any{"expires_at": "2001-01-01T00:00:00Z"}),
	}})
	if got := r.pointers(); !slices.Equal(got, []string{"/members/0/roles", "/members/1", "/members/2/expires_at"}) {
		t.Errorf("got %q: %s", got, r)
	}
	// Nothing of it has happened.
	if n := len(w.want(200, "root", "GET", "/v1/users?subject=fine", nil).items()); n != 0 {
		t.Errorf("an invalid batch has made %d users known", n)
	}
	// Of the whole, as ever.
	for body, status := range map[string]int{`{"members":[]}`: 422, `{"members":{}}`: 422, `{"members":[`: 400, `{"members":[{"subject":"a","subject":"b"}]}`: 400, `{"rows":[]}`: 422, ``: 400} {
		if r := w.call("tina", "POST", "/v1/tenants/acme/members:batch", body); r.status != status {
			t.Errorf("%s: %s, want %d", body, r, status)
		}
	}
	w.want(415, "tina", "POST", "/v1/tenants/acme/members:batch", `{"members":[]}`, "Content-Type: text/plain")
}

func TestAnExpiryInThePastIsRejected(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	user := w.member("acme", "brief", "viewer")
	path, past := "/v1/tenants/acme/members/"+user, map[string]any{"roles": []string{"viewer"}, "expires_at": "2001-01-01T00:00:00Z"}
	for _, r := range []reply{
		w.call("root", "PUT", path, past, "If-Match: *"),
		w.call("root", "PATCH", path, map[string]any{"expires_at": "2001-01-01T00:00:00Z"}),
		w.call("root", "POST", "/v1/tenants/acme/members", map[string]any{"subject": "new", "expires_at": "2001-01-01T00:00:00Z"}),
	} {
		if got := r.pointers(); r.status != 422 || !slices.Equal(got, []string{"/expires_at"}) {
			t.Errorf("%s", r)
		}
	}
	// One that has passed since can stay where something else is changed.
	w.OK(w.DB.PutMembership(ctx, iam.Membership{Tenant: "acme", User: user, Status: iam.MembershipActive, Roles: []string{"viewer"}, ExpiresAt: long}))
	w.want(200, "root", "PATCH", path, map[string]any{"roles": []string{"editor"}})
	w.want(200, "root", "PUT", path, map[string]any{"roles": []string{"viewer"}, "expires_at": long}, "If-Match: *")
}

// A merge patch (RFC 7396) changes what it names and leaves the rest.
func TestAMergePatchChangesWhatItNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	w.want(200, "root", "PUT", "/v1/services/crm/manifest", map[string]any{"attributes": []any{
		map[string]any{"key": "crm-tier", "type": "integer"}, map[string]any{"key": "crm-region", "type": "string"},
	}})
	w.OK(w.DB.PutRole(ctx, iam.Role{Tenant: "acme", Name: "owner", Permissions: []string{"acme:own"}}))
	user := w.member("acme", "patched", "viewer")
	w.want(200, "root", "PATCH", "/v1/tenants/acme", `{"attributes":null}`)
	merge := "Content-Type: application/merge-patch+json"
	for _, path := range []string{"/v1/tenants/acme", "/v1/users/" + user, "/v1/tenants/acme/members/" + user} {
		attributes := func(r reply) string { return fmt.Sprint(r.field("attributes")) }
		first := w.want(200, "root", "PATCH", path, map[string]any{"attributes": map[string]any{"crm-tier": 1, "crm-region": "eu"}}, merge)
		if attributes(first) != "map[crm-region:eu crm-tier:1]" {
			t.Errorf("%s: %s", path, first)
		}
		tag := "If-Match: " + first.header.Get("ETag")
		r := w.want(200, "root", "PATCH", path, map[string]any{"attributes": map[string]any{"crm-region": nil, "crm-tier": 2}}, merge, tag)
		if attributes(r) != "map[crm-tier:2]" || r.field("status") != "active" || fmt.Sprint(r.field("roles")) != fmt.Sprint(first.field("roles")) {
			t.Errorf("%s: %s", path, r)
		}
		w.want(412, "root", "PATCH", path, map[string]any{"attributes": map[string]any{"crm-tier": 3}}, merge, tag)
		for body, pointer := range map[string]string{
			`{"attributes":{"crm-tier":"high"}}`: "/attributes/crm-tier",
			`{"attributes":{"undeclared":true}}`: "/attributes/undeclared",
			`{"status":null}`:                    "/status",
			`{"status":"asleep"}`:                "/status",
			`{"colour":"red"}`:                   "/colour",
			`{"attributes":{"crm-region":"` + strings.Repeat("x", 5000) + `"}}`: "/attributes",
		} {
			if r := w.call("root", "PATCH", path, body, merge); r.status != 422 || !slices.Contains(r.pointers(), pointer) {
				t.Errorf("%s %.60s: %s, want %s", path, body, r, pointer)
			}
		}
		if r := w.want(200, "root", "PATCH", path, map[string]any{}, merge); r.field("version") != w.want(200, "root", "GET", path, nil).field("version") || attributes(r) != "map[crm-tier:2]" {
			t.Errorf("%s: an empty patch changes something: %s", path, r)
		}
		if r := w.want(200, "root", "PATCH", path, `{"attributes":null}`, merge); attributes(r) != "map[]" {
			t.Errorf("%s: %s", path, r)
		}
		w.want(415, "root", "PATCH", path, `{}`, "Content-Type: text/plain")
	}
	if r := w.want(200, "root", "PATCH", "/v1/tenants/acme", map[string]any{"name": "Acme & Co"}, merge); r.field("name") != "Acme & Co" || r.field("slug") != "acme" {
		t.Errorf("%s", r)
	}
	if r := w.call("root", "PATCH", "/v1/tenants/acme", `{"name":null}`, merge); r.status != 422 || !slices.Equal(r.pointers(), []string{"/name"}) {
		t.Errorf("%s", r)
	}
	end := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
	path := "/v1/tenants/acme/members/" + user
	if r := w.want(200, "root", "PATCH", path, map[string]any{"expires_at": end, "roles": []string{"editor"}}, merge); r.field("expires_at") == nil || fmt.Sprint(r.field("roles")) != "[editor]" {
		t.Errorf("%s", r)
	}
	if r := w.want(200, "root", "PATCH", path, `{"expires_at":null}`, merge); r.field("expires_at") != nil || fmt.Sprint(r.field("roles")) != "[editor]" {
		t.Errorf("%s", r)
	}
	// The administrator of a tenant gives no more by a patch than by a PUT.
	w.want(403, "tina", "PATCH", path, map[string]any{"roles": []string{"owner"}}, merge)
}

// The last administrator of a tenant leaves it without one only if they say so.
func TestATenantKeepsAnAdministratorUnlessTheCallerConfirms(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	w.want(201, "root", "POST", "/v1/tenants", map[string]any{"id": "solo", "slug": "solo", "name": "Solo"})
	w.want(201, "root", "POST", "/v1/tenants/solo/roles", map[string]any{"name": "boss", "inherits": []string{iam.RoleTenantAdmin}})
	w.OK(w.DB.PutClient(ctx, iam.Client{Issuer: w.RAuth.Issuer, ClientID: "solo-bot", Tenant: "solo", Roles: []string{iam.RoleTenantAdmin}, Status: iam.ClientActive}))
	ann := w.member("solo", "ann", "boss")
	path := "/v1/tenants/solo/members/" + ann
	soon := time.Now().Add(time.Hour)
	batch := map[string]any{"members": []any{map[string]any{"subject": "ann"}}}
	tries := []struct {
		who, method, path string
		body              any
	}{
		{"ann", "DELETE", path, nil},
		{"ann", "PATCH", path, map[string]any{"status": "suspended"}},
		{"ann", "PATCH", path, map[string]any{"roles": []string{}}},
		{"ann", "PATCH", path, map[string]any{"expires_at": soon}},
		{"ann", "PUT", path, map[string]any{}},
		{"ann", "POST", "/v1/tenants/solo/members:batch", batch},
		{"ann", "PUT", "/v1/tenants/solo/roles/boss", map[string]any{}},
		{"ann", "DELETE", "/v1/tenants/solo/roles/boss?remove=true", nil},
		{w.program("solo-bot", ""), "DELETE", path, nil},
	}
	for _, try := range tries {
		r := w.call(try.who, try.method, try.path, try.body, "If-Match: *")
		if detail, _ := r.field("detail").(string); r.status != 409 || r.field("code") != "last_tenant_admin" || !strings.Contains(detail, "leave_without_administrator=true") {
			t.Errorf("%s %s %v: %s", try.method, try.path, try.body, r)
		}
	}
	// A user who is blocked, suspended or a temporary member is no lasting administrator.
	blocked := w.member("solo", "blocked", "boss")
	w.want(200, "root", "PATCH", "/v1/users/"+blocked, map[string]any{"status": "blocked"})
	temp := w.member("solo", "temp", "boss")
	w.want(200, "root", "PATCH", "/v1/tenants/solo/members/"+temp, map[string]any{"expires_at": soon})
	w.want(409, "ann", "DELETE", path, nil)
	// With another one it is like anything else; so it is for one who says so, and for the platform.
	ben := w.member("solo", "ben", "boss")
	w.want(204, "ann", "DELETE", path, nil)
	w.want(204, "ben", "DELETE", "/v1/tenants/solo/members/"+ben+"?leave_without_administrator=true", nil)
	w.want(204, "root", "DELETE", "/v1/tenants/solo/members/"+temp, nil)
}

// Of two administrators who leave at once, one stays.
func TestTwoAdministratorsDoNotLeaveAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	w.want(201, "root", "POST", "/v1/tenants", map[string]any{"id": "duo", "slug": "duo", "name": "Duo"})
	for range 5 {
		names := []string{"castor", "pollux"}
		var left [2]int
		var both sync.WaitGroup
		for i, name := range names {
			id := w.member("duo", name, iam.RoleTenantAdmin)
			token := w.Mint(name, map[string]any{"aud": "iam-admin"})
			both.Go(func() { left[i] = w.call(token, "DELETE", "/v1/tenants/duo/members/"+id, nil).status })
		}
		both.Wait()
		slices.Sort(left[:])
		if left != [2]int{204, 409} {
			t.Fatalf("got %v", left)
		}
	}
}

// A search finds what begins with it, whatever its case, page by page, and in one's own tenant
// alone.
func TestASearchFindsWhatBeginsWithIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	for _, subject := range []string{"Search-One", "search-two", "SEARCH-three", "search_four", "research", "100%sure", `back\slash`} {
		w.member("acme", subject, "viewer")
	}
	w.member("globex", "search-elsewhere", "viewer")
	w.want(201, "root", "POST", "/v1/tenants", map[string]any{"id": "t-one", "slug": "quarry-one", "name": "Zebra Works"})
	w.want(201, "root", "POST", "/v1/tenants", map[string]any{"id": "t-two", "slug": "other", "name": "Quarry & Sons"})
	count := func(who, path string, want int) {
		t.Helper()
		got := map[string]bool{}
		for next := path; ; {
			r := w.want(200, who, "GET", next, nil)
			for _, x := range r.items() {
				got[fmt.Sprint(x["id"], x["user"])] = true
			}
			after, more := r.field("next").(string)
			if !more {
				break
			}
			next = path + "&after=" + after
		}
		if len(got) != want {
			t.Errorf("%s: %d found, want %d", path, len(got), want)
		}
	}
	count("root", "/v1/users?limit=2&search=SeArCh-", 4)
	count("root", "/v1/users?limit=2&search=search_", 1)
	count("root", "/v1/users?limit=2&search=100%25", 1)
	count("root", "/v1/users?limit=2&search=%25", 0)
	count("root", `/v1/users?limit=2&search=back%5Cs`, 1)
	count("tina", "/v1/tenants/acme/members?limit=1&search=search-", 3)
	count("tina", "/v1/tenants/acme/members?limit=1&search=search-&role=viewer&status=suspended", 0)
	count("root", "/v1/tenants?limit=1&search=QUARRY", 2)
	count("root", "/v1/tenants?limit=1&search=zebra+w", 1)
	w.want(404, "tina", "GET", "/v1/tenants/globex/members?search=search", nil)
	w.want(422, "root", "GET", "/v1/users?search=%00", nil)
}
