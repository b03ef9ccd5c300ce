package adminapi_test

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"iam-service/internal/iam"
)

// names are who the items of a page are about.
func (r reply) names() []string {
	out := []string{}
	for _, x := range r.items() {
		for _, field := range []string{"subject", "client_id", "value"} {
			if s, ok := x[field].(string); ok && s != "" {
				out = append(out, s)
			}
		}
	}
	return out
}

func TestWhoHoldsAPermissionIsListedWithThePaths(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	w.OK(w.DB.PutRole(ctx, iam.Role{Tenant: "acme", Name: "payer", Permissions: []string{"money:pay"}}))
	w.OK(w.DB.PutRole(ctx, iam.Role{Tenant: "acme", Name: "chief", Inherits: []string{"payer"}}))
	end := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	w.member("acme", "dora", "payer", "chief")
	id := w.member("acme", "emil", "chief")
	w.OK(w.DB.PutMembership(ctx, iam.Membership{Tenant: "acme", User: id, Status: iam.MembershipActive, Roles: []string{"chief"}, ExpiresAt: end}))
	w.OK(w.DB.PutMapping(ctx, iam.Mapping{Tenant: "acme", Issuer: w.RAuth.Issuer, Claim: "groups", Value: "cashiers", Roles: []string{"payer"}}))
	w.OK(w.DB.PutClient(ctx, iam.Client{Issuer: w.RAuth.Issuer, ClientID: "till", Tenant: "acme", Status: iam.ClientActive, Scopes: []string{"money:pay"}}))
	for _, c := range []struct {
		name, query string
		want        []string
	}{
		{name: "a permission", query: "permission=money:pay", want: []string{"dora", "emil", "till", "cashiers"}},
		{name: "a role", query: "role=payer", want: []string{"dora", "emil", "cashiers"}},
		{name: "a role that no other inherits", query: "role=chief", want: []string{"dora", "emil"}},
		{name: "what nothing grants", query: "permission=no:such", want: []string{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := w.want(200, "tina", "GET", "/v1/tenants/acme/access?"+c.query, nil)
			if got := r.names(); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(c.want))) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	for _, x := range w.want(200, "tina", "GET", "/v1/tenants/acme/access?permission=money:pay", nil).items() {
		paths := fmt.Sprint(x["paths"])
		switch x["subject"] {
		case "dora":
			if !strings.Contains(paths, "kind:inherited roles:[chief payer]") || !strings.Contains(paths, "kind:direct roles:[payer]") || x["expires_at"] != nil {
				t.Errorf("dora: %v", x)
			}
		case "emil":
			if x["expires_at"] != end.Format(time.RFC3339) {
				t.Errorf("emil's access ends with the membership: %v", x)
			}
		}
		if x["client_id"] == "till" && paths != "[map[kind:scope scope:money:pay]]" {
			t.Errorf("the client: %v", x)
		}
	}
	client := w.want(200, "tina", "GET", "/v1/tenants/acme/access?client=till", nil)
	if len(client.items()) != 1 || client.items()[0]["permission"] != "money:pay" {
		t.Errorf("what a client holds: %s", client)
	}
	w.want(404, "tina", "GET", "/v1/tenants/acme/access?client=unknown", nil)
	for _, query := range []string{"", "?role=a&permission=b", "?role=%00"} {
		w.want(422, "tina", "GET", "/v1/tenants/acme/access"+query, nil)
	}
	one := w.want(200, "root", "GET", "/v1/users/"+id+"/access", nil)
	member := w.want(200, "tina", "GET", "/v1/tenants/acme/members/"+id+"/access", nil)
	if len(one.items()) != 1 || one.items()[0]["tenant"] != "acme" || fmt.Sprint(one.items()[0]) != fmt.Sprint(member.field()) {
		t.Errorf("of a user: %s, of a member: %s", one, member)
	}
	w.want(403, "tina", "GET", "/v1/users/"+id+"/access", nil)
}

// raw requests a response that is no JSON document.
func (w *adminWorld) raw(who, path, accept string) (*http.Response, string) {
	w.Helper()
	r := w.call(who, "GET", path, nil, "Accept: "+accept)
	return &http.Response{StatusCode: r.status, Header: r.header}, string(r.body)
}

// The whole list is exported in one response, whatever the size of a page, and no cell is a formula.
func TestAListOfAccessIsExportedWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	w.OK(w.DB.PutRole(ctx, iam.Role{Tenant: "acme", Name: "payer", Permissions: []string{"money:pay"}}))
	var want []string
	for i := range 120 {
		subject := fmt.Sprintf("=SUM(A%d)", i)
		w.member("acme", subject, "payer")
		want = append(want, subject)
	}
	slices.Sort(want)
	page := w.want(200, "tina", "GET", "/v1/tenants/acme/access?permission=money:pay", nil)
	if next, _ := page.field("next").(string); len(page.items()) != 50 || next == "" || page.header.Get("Link") == "" {
		t.Fatalf("a page: %d items, next %q", len(page.items()), next)
	}
	for _, media := range []string{"application/jsonl", "application/x-ndjson"} {
		resp, body := w.raw("tina", "/v1/tenants/acme/access?permission=money:pay&limit=1", media)
		var got []string
		for line := range strings.Lines(body) {
			var x struct {
				Subject string
				AsOf    string `json:"as_of"`
			}
			w.OK(json.Unmarshal([]byte(line), &x))
			if x.AsOf == "" {
				t.Errorf("a line does not say of when it is: %s", line)
			}
			got = append(got, x.Subject)
		}
		if slices.Sort(got); resp.Header.Get("Content-Type") != media || !slices.Equal(got, want) {
			t.Errorf("%s: %d lines as %s, want %d", media, len(got), resp.Header.Get("Content-Type"), len(want))
		}
	}
	for path, column := range map[string]int{
		"/v1/tenants/acme/access?permission=money:pay": 5,
		"/v1/tenants/acme/matrix?of=members":           2,
	} {
		_, body := w.raw("tina", path, "text/csv")
		rows, err := csv.NewReader(strings.NewReader(body)).ReadAll()
		w.OK(err)
		var got []string
		for _, row := range rows[1:] {
			if name, quoted := strings.CutPrefix(row[column], "'"); quoted {
				got = append(got, name)
			}
			if strings.HasPrefix(row[column], "=") {
				t.Errorf("%s: a cell is a formula: %q", path, row)
			}
		}
		if slices.Sort(got); rows[0][column] != "subject" || !slices.Equal(got, want) {
			t.Errorf("%s: %d rows, want %d", path, len(got), len(want))
		}
	}
	_, body := w.raw("tina", "/v1/tenants/acme/matrix", "text/csv")
	if !strings.Contains(body, "\npayer,") || !strings.Contains(body, ",money:pay") {
		t.Errorf("the matrix of roles: %s", body)
	}
	_, body = w.raw("root", "/v1/users/"+w.user("alice")+"/access", "text/csv")
	if !strings.HasPrefix(body, "as_of,user,tenant,") || strings.Count(body, "\n") < 3 {
		t.Errorf("of a user: %s", body)
	}
	for path, status := range map[string]int{"/v1/tenants/globex/access?role=viewer": 404, "/v1/tenants/acme/access": 422, "/v1/users/" + w.user("alice") + "/access": 403} {
		if resp, body := w.raw("tina", path, "text/csv"); resp.StatusCode != status || resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %s, want %d", path, resp.StatusCode, body, status)
		}
	}
}

// searched are the lines of a search, and the subjects that it lists.
func (w *adminWorld) searched(who string, body any) (first, last map[string]any, names []string) {
	w.Helper()
	r := w.want(200, who, "POST", "/v1/access/search", body)
	if r.header.Get("Content-Type") != "application/jsonl" {
		w.Errorf("a search is %s", r.header.Get("Content-Type"))
	}
	for line := range strings.Lines(string(r.body)) {
		var x map[string]any
		w.OK(json.Unmarshal([]byte(line), &x))
		switch x["type"] {
		case "search":
			first = x
		case "end":
			last = x
		case "allowed":
			for _, field := range []string{"subject", "client_id"} {
				if s, _ := x[field].(string); s != "" {
					names = append(names, s)
				}
			}
		}
	}
	if first == nil || last == nil {
		w.Fatalf("a search without beginning or end: %s", r)
	}
	slices.Sort(names)
	return first, last, names
}

// A search lists exactly the members and clients of the tenant whom the gateway would get a 200 for.
func TestASearchListsWhomTheActivePolicyLetsIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	suspended := w.member("acme", "sue", "editor")
	w.OK(w.DB.PutMembership(ctx, iam.Membership{Tenant: "acme", User: suspended, Status: iam.MembershipSuspended, Roles: []string{"editor"}}))
	w.member("acme", "dora", "editor")
	w.OK(w.DB.PutClient(ctx, iam.Client{Issuer: w.RAuth.Issuer, ClientID: "robot", Tenant: "acme", Status: iam.ClientActive, Roles: []string{"viewer"}}))
	w.OK(w.DB.PutClient(ctx, iam.Client{Issuer: w.RAuth.Issuer, ClientID: "blocked-robot", Tenant: "acme", Status: iam.ClientBlocked, Roles: []string{"viewer"}}))
	ask := map[string]any{"tenant": "acme", "request": map[string]any{"method": "GET", "path": "/"}}
	first, last, names := w.searched("tina", ask)
	var want []string
	for _, m := range w.want(200, "tina", "GET", "/v1/tenants/acme/members?limit=500", nil).items() {
		subject, _ := m["subject"].(string)
		status, _, _ := w.Ask("GET /system/enrich-token", "Authorization: Bearer "+w.Mint(subject, nil), "X-Active-Tenant-ID: acme")
		if status == 200 {
			want = append(want, subject)
		}
	}
	clients := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return slices.Contains(want, n) })
	if len(names)-len(clients) != len(want) || slices.Contains(names, "sue") || !slices.Contains(names, "dora") {
		t.Errorf("let in: %q, want %q and clients", names, want)
	}
	if !slices.Contains(clients, "robot") || slices.Contains(clients, "blocked-robot") {
		t.Errorf("clients that are let in: %q", clients)
	}
	if first["as_of"] == nil || first["exact"] == nil || first["as_asked"] == nil || first["revision"] == nil {
		t.Errorf("the label: %v", first)
	}
	if last["complete"] != true || last["allowed"] != float64(len(names)) || last["asked"].(float64) < float64(len(names)) {
		t.Errorf("the end: %v", last)
	}
	// One page after the other is the same list.
	ask["limit"], ask["of"] = 1, []string{"users"}
	var paged []string
	for {
		_, last, one := w.searched("tina", ask)
		paged = append(paged, one...)
		next, _ := last["next"].(string)
		if next == "" {
			break
		}
		ask["after"] = next
	}
	if slices.Sort(paged); !slices.Equal(paged, slices.Sorted(slices.Values(want))) {
		t.Errorf("in pages: %q, at once: %q", paged, want)
	}
	for _, c := range []struct {
		name, who string
		status    int
		body      map[string]any
	}{
		{name: "of another tenant", who: "tina", status: 404, body: map[string]any{"tenant": "globex"}},
		{name: "of no tenant", who: "root", status: 422, body: map[string]any{}},
		{name: "of a tenant that does not exist", who: "root", status: 404, body: map[string]any{"tenant": "none"}},
		{name: "with a subject in the token", who: "tina", status: 422, body: map[string]any{"tenant": "acme", "token": map[string]any{"sub": "root"}}},
		{name: "after no user", who: "tina", status: 422, body: map[string]any{"tenant": "acme", "after": "x"}},
		{name: "by a member", who: "dora", status: 403, body: map[string]any{"tenant": "acme"}},
	} {
		t.Run(c.name, func(*testing.T) { w.want(c.status, c.who, "POST", "/v1/access/search", c.body) })
	}
}

// then is a moment before whatever comes next, by the database's clock.
func (w *adminWorld) then() string {
	w.Helper()
	var at time.Time
	w.OK(w.sql().QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&at))
	return at.UTC().Format(time.RFC3339Nano)
}

// An earlier moment includes clients, erased users and deleted tenants: an erased user by our id alone.
func TestAnEarlierMomentIsToldOfWhatIsGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	client := w.client("acme", map[string]any{"roles": []string{"viewer"}})
	w.want(201, "root", "POST", "/v1/tenants", map[string]any{"id": "brief", "slug": "brief", "name": "Brief"})
	w.want(201, "root", "POST", "/v1/tenants/brief/roles", map[string]any{"name": "reader", "permissions": []string{"brief:read"}})
	member := func(tenant, subject string, roles ...string) string {
		r := w.want(201, "root", "POST", "/v1/tenants/"+tenant+"/members", map[string]any{"subject": subject, "roles": roles})
		id, _ := r.field("user").(string)
		return id
	}
	erased, left := member("acme", "erna", "editor"), member("brief", "lena", "reader")
	at := w.then()
	w.want(200, "root", "PATCH", "/v1/clients/"+client, map[string]any{"status": "blocked"})
	w.want(204, "root", "DELETE", "/v1/users/"+erased, nil)
	w.want(200, "root", "PATCH", "/v1/tenants/brief", map[string]any{"status": "suspended"}, "Content-Type: application/merge-patch+json")
	w.want(204, "root", "DELETE", "/v1/tenants/brief", nil)

	held := func(tenant, query string) (found map[string]map[string]any) {
		found = map[string]map[string]any{}
		for _, x := range w.want(200, "root", "GET", "/v1/tenants/"+tenant+"/access?"+query+"&limit=500", nil).items() {
			for _, field := range []string{"user", "client_id"} {
				if s, _ := x[field].(string); s != "" {
					found[s] = x
				}
			}
		}
		return found
	}
	if now := held("acme", "role=viewer"); now[client] != nil || now[erased] != nil {
		t.Errorf("what is gone is held now: %v", now)
	}
	then := held("acme", "role=viewer&at="+at)
	if then[client] == nil || then[erased] == nil || then[erased]["subject"] != nil || then[erased]["issuer"] != nil {
		t.Errorf("then: %v and %v", then[client], then[erased])
	}
	w.want(404, "root", "GET", "/v1/tenants/brief/access?permission=brief:read", nil)
	if then := held("brief", "permission=brief:read&at="+at); then[left] == nil || then[left]["subject"] != "lena" {
		t.Errorf("in a tenant that was deleted since: %v", then)
	}
	if r := w.want(200, "root", "GET", "/v1/users/"+left+"/access?at="+at, nil); len(r.items()) != 1 || r.items()[0]["tenant"] != "brief" {
		t.Errorf("what a user held in it: %s", r)
	}
	lost := map[string]string{}
	for _, x := range w.want(200, "root", "GET", "/v1/tenants/acme/access/changes?from="+at, nil).items() {
		who, _ := x["user"].(string)
		id, _ := x["client_id"].(string)
		lost[who+id] = fmt.Sprint(x["lost"], x["entries"])
	}
	if !strings.Contains(lost[client], "viewer") || !strings.Contains(lost[client], "client:set-status") || !strings.Contains(lost[erased], "editor") || !strings.Contains(lost[erased], "user:erase") {
		t.Errorf("what was lost, and by what: %v", lost)
	}
	_, body := w.raw("root", "/v1/tenants/brief/access/changes?from="+at, "text/csv")
	if !strings.Contains(body, ",lost,,brief:read,brief/") {
		t.Errorf("what the deletion of a tenant took away: %s", body)
	}
	_, err := w.sql().Exec(ctx, `INSERT INTO audit_cuts (chain, seq, hash, until) VALUES ('brief', 0, '', '2020-01-01T00:00:00Z')`)
	w.OK(err)
	for _, path := range []string{"access?permission=brief:read&at=" + at, "access/changes?from=" + at} {
		if r := w.want(422, "root", "GET", "/v1/tenants/brief/"+path, nil); r.field("code") != "before_retention" {
			t.Errorf("of a deleted tenant whose audit was cut: %s", r)
		}
	}
	for path, pointer := range map[string]string{
		"/v1/tenants/acme/access?role=viewer&at=2999-01-01T00:00:00Z":                                     "at",
		"/v1/tenants/acme/access/changes?from=2999-01-01T00:00:00Z":                                       "from",
		"/v1/tenants/acme/access/changes?from=2020-01-02T00:00:00Z&to=2020-01-01T00:00:00Z":               "from",
		"/v1/tenants/acme/access/changes":                                                                 "from",
		"/v1/users/" + w.user("alice") + "/access?at=2999-01-01T00:00:00Z":                                "at",
		"/v1/tenants/acme/members/" + w.user("alice") + "/access?at=2999-01-01T00:00:00Z":                 "at",
		"/v1/users/" + w.user("alice") + "/access/changes?from=" + at + "&to=2999-01-01T00:00:00%2B00:00": "to",
	} {
		if got := w.want(422, "root", "GET", path, nil).pointers(); !slices.Equal(got, []string{pointer}) {
			t.Errorf("%s: the error is of %q, want %q", path, got, pointer)
		}
	}
}

// A change of access names the entries that did it. Those of the platform are another's business: who added a person to
// another tenant, and who blocked one, is not shown to a caller who reads the tenant alone.
func TestATenantLearnsNotWhoActedOnThePlatform(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	blocked := w.member("acme", "berta", "editor")
	at := w.then()
	w.want(201, "root", "POST", "/v1/tenants/globex/members", map[string]any{"subject": "nina", "roles": []string{}})
	w.want(201, "tina", "POST", "/v1/tenants/acme/members", map[string]any{"subject": "nina", "roles": []string{"editor"}})
	w.want(200, "root", "PATCH", "/v1/users/"+blocked, map[string]any{"status": "blocked"}, "Content-Type: application/merge-patch+json")
	causes := func(who string) (all []map[string]any) {
		for _, x := range w.want(200, who, "GET", "/v1/tenants/acme/access/changes?from="+at, nil).items() {
			list, _ := x["entries"].([]any)
			for _, e := range list {
				if entry, _ := e.(map[string]any); entry["kind"] == "user" {
					all = append(all, entry)
				}
			}
		}
		return all
	}
	for _, e := range causes("tina") {
		if e["object"] != blocked || e["actor_kind"] != "platform" || e["actor"] != "" || e["via"] != "" || e["seq"] != float64(0) {
			t.Errorf("the tenant's administrator sees %v", e)
		}
	}
	if n := len(causes("tina")); n != 1 {
		t.Errorf("the tenant's administrator sees %d entries of users, want that of the block alone", n)
	}
	whole := causes("root")
	if len(whole) != 2 || whole[0]["actor"] == "" || whole[1]["seq"] == float64(0) {
		t.Errorf("the platform's administrator sees %v", whole)
	}
}
