package adminapi_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"iam-service/internal/iam"
)

const merge = "Content-Type: application/merge-patch+json"

func TestATermOfARoleIsWrittenReadAndPatched(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	ann := w.member("acme", "ann")
	path := "/v1/tenants/acme/members/" + ann
	start, end := time.Now().Add(time.Hour).UTC().Truncate(time.Second), time.Now().Add(2*time.Hour).UTC().Truncate(time.Second)
	term := map[string]any{"starts_at": start, "expires_at": end, "reason": "stands in for Bob"}
	r := w.want(200, "tina", "PUT", path, map[string]any{"roles": []string{"editor", "viewer"}, "role_terms": map[string]any{"editor": term, "viewer": map[string]any{}}}, "If-Match: *")
	if got := fmt.Sprint(r.field("role_terms")); got != fmt.Sprintf("map[editor:map[expires_at:%s reason:stands in for Bob starts_at:%s]]", end.Format(time.RFC3339), start.Format(time.RFC3339)) {
		t.Errorf("got %s", got)
	}
	version := r.field("version")
	if r = w.want(200, "tina", "PATCH", path, map[string]any{"role_terms": map[string]any{"editor": map[string]any{"reason": "stands in for Bob"}}}, merge); r.field("version") != version {
		t.Errorf("a patch that changes nothing has made a version: %s", r)
	}
	for _, c := range []struct{ name, patch, want string }{
		{name: "a field of a term", patch: `{"role_terms":{"editor":{"starts_at":null}}}`, want: "map[editor:map[expires_at:" + end.Format(time.RFC3339) + " reason:stands in for Bob]]"},
		{name: "a term of its own for another role", patch: `{"role_terms":{"viewer":{"reason":"audit"}}}`, want: "map[editor:map[expires_at:" + end.Format(time.RFC3339) + " reason:stands in for Bob] viewer:map[reason:audit]]"},
		{name: "a term that goes with its role", patch: `{"roles":["viewer"]}`, want: "map[viewer:map[reason:audit]]"},
		{name: "a term that is removed", patch: `{"role_terms":{"viewer":null}}`, want: "<nil>"},
	} {
		r := w.want(200, "tina", "PATCH", path, c.patch, merge)
		if got := fmt.Sprint(r.field("role_terms")); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
	past := time.Now().Add(-time.Hour)
	for name, c := range map[string]struct {
		body     map[string]any
		pointers []string
	}{
		"an end in the past":      {body: map[string]any{"roles": []string{"editor"}, "role_terms": map[string]any{"editor": map[string]any{"expires_at": past}}}, pointers: []string{"/role_terms/editor/expires_at"}},
		"a role it has not":       {body: map[string]any{"role_terms": map[string]any{"editor": map[string]any{"expires_at": end}}}, pointers: []string{"/role_terms/editor"}},
		"an end before its start": {body: map[string]any{"roles": []string{"editor"}, "role_terms": map[string]any{"editor": map[string]any{"starts_at": end, "expires_at": start}}}, pointers: []string{"/role_terms/editor/expires_at"}},
		"a misspelt field":        {body: map[string]any{"roles": []string{"editor"}, "role_terms": map[string]any{"editor": map[string]any{"expire_at": end}}}, pointers: []string{"/role_terms/editor/expire_at"}},
		"the year 1":              {body: map[string]any{"roles": []string{"editor"}, "role_terms": map[string]any{"editor": map[string]any{"expires_at": time.Time{}}}}, pointers: []string{"/role_terms/editor/expires_at"}},
		"a long reason":           {body: map[string]any{"roles": []string{"editor"}, "role_terms": map[string]any{"editor": map[string]any{"reason": strings.Repeat("é", 300)}}}, pointers: []string{"/role_terms/editor/reason"}},
	} {
		for method, headers := range map[string][]string{"PUT": {"If-Match: *"}, "PATCH": {merge}} {
			if r := w.call("tina", method, path, c.body, headers...); r.status != 422 || !slices.Equal(r.pointers(), c.pointers) {
				t.Errorf("%s, %s: got %s, want 422 at %v", name, method, r, c.pointers)
			}
		}
		row := map[string]any{"subject": "new"}
		for k, v := range c.body {
			row[k] = v
		}
		if r := w.call("tina", "POST", "/v1/tenants/acme/members:batch", map[string]any{"members": []any{row}}); r.status != 422 || !slices.Equal(r.pointers(), []string{"/members/0" + c.pointers[0]}) {
			t.Errorf("%s, in a batch: got %s", name, r)
		}
	}
}

// What is effective says until when, by the longest role that grants it, and leaves out what is not in force.
func TestWhatIsEffectiveSaysUntilWhen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	soon, later := time.Now().Add(time.Hour).UTC().Truncate(time.Second), time.Now().Add(2*time.Hour).UTC().Truncate(time.Second)
	ann := w.member("acme", "ann")
	w.OK(w.DB.PutMembership(ctx, iam.Membership{
		Tenant: "acme", User: ann, Status: iam.MembershipActive, ExpiresAt: later, Roles: []string{"editor", "viewer", "auditor", iam.RoleTenantAuditor},
		Terms: map[string]iam.RoleTerm{
			"editor": {ExpiresAt: soon}, "auditor": {StartsAt: soon}, iam.RoleTenantAuditor: {StartsAt: time.Now().Add(-2 * time.Hour), ExpiresAt: time.Now().Add(-time.Hour)},
		},
	}))
	r := w.want(200, "tina", "GET", "/v1/users/"+ann+"/effective?tenant=acme", nil)
	got := map[string]string{}
	for _, list := range []string{"roles", "permissions"} {
		items, _ := r.field(list).([]any)
		for _, x := range items {
			m, _ := x.(map[string]any)
			got[fmt.Sprint(m["name"])] = fmt.Sprint(m["expires_at"])
		}
	}
	want := map[string]string{
		"editor": soon.Format(time.RFC3339), "viewer": later.Format(time.RFC3339),
		"document:write": soon.Format(time.RFC3339), "document:read": later.Format(time.RFC3339),
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// What a caller holds until some time they grant until then at most: to others, to themselves, and not at all to
// what has no end.
func TestACallerExtendsNothingThatTheyHoldForATime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	w.OK(w.DB.PutRole(ctx, iam.Role{Tenant: "acme", Name: "payer", Permissions: []string{"payment:approve"}}))
	w.OK(w.DB.PutRole(ctx, iam.Role{Tenant: "acme", Name: "clerk", Permissions: []string{"document:read"}}))
	until := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	after, before := until.Add(time.Second), until.Add(-time.Second)
	// Temp administers for good, and holds the payer until a time.
	temp := w.member("acme", "temp")
	roles := []string{iam.RoleTenantAdmin, "clerk", "payer"}
	w.OK(w.DB.PutMembership(ctx, iam.Membership{
		Tenant: "acme", User: temp, Status: iam.MembershipActive, Roles: roles, Terms: map[string]iam.RoleTerm{"payer": {ExpiresAt: until}},
	}))
	ann := w.member("acme", "ann", "clerk")
	term := func(t time.Time) map[string]any { return map[string]any{"payer": map[string]any{"expires_at": t}} }
	member := "/v1/tenants/acme/members/"
	for _, c := range []struct {
		name, method, path string
		body               map[string]any
		pointers           []string
	}{
		{name: "oneself for longer", method: "PATCH", path: member + temp, body: map[string]any{"role_terms": term(after)}, pointers: []string{"/role_terms/payer/expires_at"}},
		{name: "oneself for good", method: "PATCH", path: member + temp, body: map[string]any{"role_terms": map[string]any{"payer": nil}}, pointers: []string{"/roles/2"}},
		{name: "oneself by a PUT that knows no terms", method: "PUT", path: member + temp, body: map[string]any{"roles": roles}, pointers: []string{"/roles/2"}},
		{name: "another for longer", method: "PATCH", path: member + ann, body: map[string]any{"roles": []string{"payer"}, "role_terms": term(after)}, pointers: []string{"/role_terms/payer/expires_at"}},
		{name: "another for good", method: "PATCH", path: member + ann, body: map[string]any{"roles": []string{"payer"}}, pointers: []string{"/roles/0"}},
		{name: "another until a membership ends that outlasts it", method: "PATCH", path: member + ann, body: map[string]any{"roles": []string{"payer"}, "expires_at": after}, pointers: []string{"/roles/0"}},
		{name: "one who joins", method: "POST", path: member[:len(member)-1], body: map[string]any{"subject": "n", "roles": []string{"payer"}}, pointers: []string{"/roles/0"}},
		{name: "a batch", method: "POST", path: "/v1/tenants/acme/members:batch", body: map[string]any{"members": []any{map[string]any{"subject": "n", "roles": []string{"payer"}, "role_terms": term(after)}}}, pointers: []string{"/members/0/role_terms/payer/expires_at"}},
		{name: "a permission into a role", method: "PUT", path: "/v1/tenants/acme/roles/clerk", body: map[string]any{"permissions": []string{"document:read", "payment:approve"}}, pointers: []string{"/permissions"}},
		{name: "a role into a role", method: "PUT", path: "/v1/tenants/acme/roles/clerk", body: map[string]any{"permissions": []string{"document:read"}, "inherits": []string{"payer"}}, pointers: []string{"/permissions"}},
		{name: "a mapping", method: "POST", path: "/v1/tenants/acme/mappings", body: map[string]any{"claim": "groups", "value": "payers", "roles": []string{"payer"}}, pointers: []string{"/roles"}},
		{name: "a client's role", method: "POST", path: "/v1/clients", body: map[string]any{"tenant": "acme", "client_name": "x", "grant_types": []string{"client_credentials"}, "token_endpoint_auth_method": "client_secret_basic", "roles": []string{"payer"}}, pointers: []string{"/roles"}},
		{name: "a client's scope", method: "POST", path: "/v1/clients", body: map[string]any{"tenant": "acme", "client_name": "x", "grant_types": []string{"client_credentials"}, "token_endpoint_auth_method": "client_secret_basic", "scopes": []string{"payment:approve"}}, pointers: []string{"/scopes/0"}},
	} {
		state := w.dump()
		headers := []string{"If-Match: *"}
		if c.method == "PATCH" {
			headers = append(headers, merge)
		}
		r := w.call("temp", c.method, c.path, c.body, headers...)
		if r.status != 403 || r.field("code") != "more_than_held" || !slices.Equal(r.pointers(), c.pointers) {
			t.Errorf("%s: got %s, want 403 at %v", c.name, r, c.pointers)
		}
		if !strings.Contains(string(r.body), until.Format(time.RFC3339)) && c.name != "a client's scope" {
			t.Errorf("%s: the error does not say until when the caller holds it: %s", c.name, r)
		}
		if w.dump() != state {
			t.Errorf("%s: something was changed", c.name)
		}
	}
	// Until then they can.
	w.want(200, "temp", "PATCH", member+ann, map[string]any{"roles": []string{"payer"}, "role_terms": term(until)}, merge)
	w.want(200, "temp", "PATCH", member+ann, map[string]any{"roles": []string{"payer"}, "role_terms": term(before)}, merge)
	w.want(403, "temp", "PATCH", member+ann, map[string]any{"role_terms": term(after)}, merge)
	// A membership's own end limits its roles.
	w.want(200, "temp", "PATCH", member+ann, map[string]any{"roles": []string{"payer"}, "role_terms": nil, "expires_at": until}, merge)
	// What another has granted for longer stays, whatever else is changed, and is not granted again.
	w.want(200, "root", "PATCH", member+ann, map[string]any{"role_terms": term(after), "expires_at": nil}, merge)
	w.want(200, "temp", "PATCH", member+ann, map[string]any{"roles": []string{"payer", "clerk"}}, merge)
	w.want(200, "temp", "PATCH", member+ann, map[string]any{"status": "suspended"}, merge)
	w.want(403, "temp", "PATCH", member+ann, map[string]any{"status": "active"}, merge)
	w.want(200, "root", "PATCH", member+ann, map[string]any{"status": "active", "role_terms": map[string]any{"payer": map[string]any{"starts_at": before}}}, merge)
	w.want(403, "temp", "PATCH", member+ann, map[string]any{"role_terms": map[string]any{"payer": map[string]any{"starts_at": nil}}}, merge)
	// A role that has ended, or has not started, is not held at all.
	for name, term := range map[string]iam.RoleTerm{"ended": {ExpiresAt: time.Now().Add(-time.Second)}, "not started": {StartsAt: until}} {
		w.OK(w.DB.PutMembership(ctx, iam.Membership{
			Tenant: "acme", User: temp, Status: iam.MembershipActive, Roles: roles, Terms: map[string]iam.RoleTerm{"payer": term},
		}))
		if r := w.call("temp", "POST", "/v1/tenants/acme/members", map[string]any{"subject": "n", "roles": []string{"payer"}, "role_terms": map[string]any{"payer": map[string]any{"expires_at": before}}}); r.status != 403 {
			t.Errorf("%s: got %s", name, r)
		}
		w.OK(w.DB.PutMembership(ctx, iam.Membership{
			Tenant: "acme", User: temp, Status: iam.MembershipActive, Roles: roles, Terms: map[string]iam.RoleTerm{iam.RoleTenantAdmin: term},
		}))
		if r := w.call("temp", "GET", "/v1/tenants/acme/members", nil); r.status != 403 {
			t.Errorf("an administrator whose role has %s: got %s", name, r)
		}
	}
}

// An administrator whose role ends is as temporary as one whose membership does.
func TestALastAdministratorIsOneWhoseRoleDoesNotEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	w.want(201, "root", "POST", "/v1/tenants", map[string]any{"id": "solo", "slug": "solo", "name": "Solo"})
	ann := w.member("solo", "ann", iam.RoleTenantAdmin)
	path := "/v1/tenants/solo/members/" + ann
	soon := time.Now().Add(time.Hour)
	for name, body := range map[string]map[string]any{
		"an end":   {"role_terms": map[string]any{iam.RoleTenantAdmin: map[string]any{"expires_at": soon}}},
		"a start":  {"role_terms": map[string]any{iam.RoleTenantAdmin: map[string]any{"starts_at": soon}}},
		"no reach": {"roles": []string{}},
	} {
		if r := w.call("ann", "PATCH", path, body, merge); r.status != 409 || r.field("code") != "last_tenant_admin" {
			t.Errorf("%s: got %s", name, r)
		}
	}
	for name, term := range map[string]iam.RoleTerm{"ends": {ExpiresAt: soon}, "has not started": {StartsAt: soon}} {
		ben := w.member("solo", "ben")
		w.OK(w.DB.PutMembership(ctx, iam.Membership{
			Tenant: "solo", User: ben, Status: iam.MembershipActive, Roles: []string{iam.RoleTenantAdmin}, Terms: map[string]iam.RoleTerm{iam.RoleTenantAdmin: term},
		}))
		if r := w.call("ann", "DELETE", path, nil); r.status != 409 {
			t.Errorf("with another administrator whose role %s: got %s", name, r)
		}
	}
	w.member("solo", "ben", iam.RoleTenantAdmin)
	w.want(204, "ann", "DELETE", path, nil)
}

// A list of what ends soon has what ends first first, page by page, and leaves out what ends later, never, or has
// ended with its membership.
func TestMembersAreListedByWhatEndsSoon(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	at := func(hours int) time.Time { return time.Now().Add(time.Duration(hours) * time.Hour) }
	var want []string
	for _, c := range []struct {
		subject string
		m       iam.Membership
		listed  bool
	}{
		{subject: "role-first", m: iam.Membership{Terms: map[string]iam.RoleTerm{"viewer": {ExpiresAt: at(1)}}, ExpiresAt: at(9)}, listed: true},
		{subject: "membership-second", m: iam.Membership{ExpiresAt: at(2)}, listed: true},
		{subject: "role-third", m: iam.Membership{Terms: map[string]iam.RoleTerm{"viewer": {ExpiresAt: at(3)}}}, listed: true},
		{subject: "role-fourth", m: iam.Membership{Terms: map[string]iam.RoleTerm{"viewer": {StartsAt: at(1), ExpiresAt: at(4)}, "editor": {StartsAt: at(1)}}}, listed: true},
		{subject: "later", m: iam.Membership{Terms: map[string]iam.RoleTerm{"viewer": {ExpiresAt: at(20)}}}},
		{subject: "never", m: iam.Membership{Terms: map[string]iam.RoleTerm{"viewer": {StartsAt: at(1)}}}},
		{subject: "ended", m: iam.Membership{ExpiresAt: at(-1)}},
	} {
		c.m.Tenant, c.m.User, c.m.Status, c.m.Roles = "acme", w.member("acme", c.subject), iam.MembershipActive, []string{"editor", "viewer"}
		w.OK(w.DB.PutMembership(ctx, c.m))
		if c.listed {
			want = append(want, c.subject)
		}
	}
	var got []string
	for path := "/v1/tenants/acme/members?ends_within=10h&limit=2"; path != ""; {
		r := w.want(200, "tina", "GET", path, nil)
		for _, m := range r.items() {
			got = append(got, fmt.Sprint(m["subject"]))
		}
		path = ""
		if next := r.text("next"); next != "" {
			path = "/v1/tenants/acme/members?ends_within=10h&limit=2&after=" + next
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if r := w.want(200, "tina", "GET", "/v1/tenants/acme/members?ends_within=10h&role=editor&search=role", nil); len(r.items()) != 3 {
		t.Errorf("with other filters: %s", r)
	}
	for _, wrong := range []string{"ends_within=x", "ends_within=-1h", "ends_within=0", "ends_within=1h&after=WyJ4Il0"} {
		if r := w.call("tina", "GET", "/v1/tenants/acme/members?"+wrong, nil); r.status != 422 {
			t.Errorf("%s: got %s", wrong, r)
		}
	}
}
