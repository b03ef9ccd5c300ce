package adminapi_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"iam-service/internal/iam"
)

// provisioner is a provisioning client of a tenant in a test.
type provisioner struct {
	*adminWorld
	tenant string
	token  string
}

// provision creates a client of a tenant with the scope scim.
func (w *adminWorld) provision(tenant string) *provisioner {
	w.Helper()
	id := "scim-" + tenant
	w.OK(w.DB.PutClient(ctx, iam.Client{Issuer: w.RAuth.Issuer, ClientID: id, Tenant: tenant, Scopes: []string{iam.ScopeSCIM}, Status: iam.ClientActive}))
	return &provisioner{w, tenant, w.program(id, iam.ScopeSCIM)}
}

// send sends a request below /scim/v2/{tenant}. Each response must be of SCIM's form.
func (p *provisioner) send(method, path string, body any, headers ...string) reply {
	p.Helper()
	req := p.request(method, "/scim/v2/"+p.tenant+path, "application/scim+json", body)
	if p.token != "" {
		req.Header.Set("Authorization", "Bearer "+p.token)
	}
	r := p.do(req, headers)
	switch {
	case len(r.body) == 0 && r.status != 204 && r.status != 304:
		p.Errorf("%s %s: %d without a body", method, path, r.status)
	case len(r.body) > 0 && r.header.Get("Content-Type") != "application/scim+json":
		p.Errorf("%s %s: %d as %q", method, path, r.status, r.header.Get("Content-Type"))
	case r.status >= 400 && (r.field("status") != fmt.Sprint(r.status) || !strings.Contains(string(r.body), "urn:ietf:params:scim:api:messages:2.0:Error")):
		p.Errorf("%s %s: %d is no SCIM error: %s", method, path, r.status, r.body)
	}
	return r
}

func (p *provisioner) must(status int, method, path string, body any, headers ...string) reply {
	p.Helper()
	r := p.send(method, path, body, headers...)
	if r.status != status {
		p.Fatalf("%s %s %.1000s: got %.1000s, want %d", method, path, fmt.Sprint(body), r, status)
	}
	return r
}

// user provisions a user, and returns its id.
func (p *provisioner) user(name string) string {
	p.Helper()
	id, _ := p.must(201, "POST", "/Users", map[string]any{"schemas": []string{"urn:ietf:params:scim:schemas:core:2.0:User"}, "userName": name}).field("id").(string)
	return id
}

func refs(ids ...string) []map[string]any {
	list := []map[string]any{}
	for _, id := range ids {
		list = append(list, map[string]any{"value": id})
	}
	return list
}

// group provisions a group, and returns its id.
func (p *provisioner) group(name string, members ...string) string {
	p.Helper()
	id, _ := p.must(201, "POST", "/Groups", map[string]any{"displayName": name, "members": refs(members...)}).field("id").(string)
	return id
}

// role creates a role of the tenant.
func (p *provisioner) role(name string, permissions ...string) string {
	p.Helper()
	p.want(201, "root", "POST", "/v1/tenants/"+p.tenant+"/roles", map[string]any{"name": name, "permissions": permissions})
	return name
}

// maps maps a group to roles, as an administrator.
func (p *provisioner) maps(group string, roles ...string) {
	p.Helper()
	at := "/v1/tenants/" + p.tenant + "/scim-groups/" + group
	tag := p.want(200, "root", "GET", at, nil).header.Get("ETag")
	if roles == nil {
		roles = []string{}
	}
	p.want(200, "root", "PUT", at, map[string]any{"roles": roles}, "If-Match: "+tag)
}

// roles are those of a member, as administrators see them.
func (p *provisioner) roles(user string) string {
	p.Helper()
	list, _ := p.want(200, "root", "GET", "/v1/tenants/"+p.tenant+"/members/"+user, nil).field("roles").([]any)
	return strings.Trim(fmt.Sprint(list), "[]")
}

// memberIDs are the values of a group's members.
func memberIDs(r reply) []string {
	ids := []string{}
	list, _ := r.field("members").([]any)
	for _, m := range list {
		one, _ := m.(map[string]any)
		id, _ := one["value"].(string)
		ids = append(ids, id)
	}
	return ids
}

func escape(filter string) string { return url.QueryEscape(filter) }

func patchOps(ops ...map[string]any) map[string]any {
	return map[string]any{"schemas": []string{"urn:ietf:params:scim:api:messages:2.0:PatchOp"}, "Operations": ops}
}

func op(op, path string, value any) map[string]any {
	o := map[string]any{"op": op}
	if path != "" {
		o["path"] = path
	}
	if value != nil {
		o["value"] = value
	}
	return o
}

func TestAUserIsProvisionedChangedAndRemoved(t *testing.T) {
	t.Parallel()
	p := newWorld(t, settings{}).provision("acme")
	r := p.must(201, "POST", "/Users", `{"schemas":["urn:ietf:params:scim:schemas:core:2.0:User"],"userName":"u1","externalId":"00u1","active":true,
		"name":{"givenName":"Ada"},"emails":[{"value":"ada@example.com"}],"password":"secret"}`)
	id, _ := r.field("id").(string)
	if r.field("userName") != "u1" || r.field("externalId") != "00u1" || r.field("active") != true || strings.Contains(r.String(), "ada@") || strings.Contains(r.String(), "Ada") {
		t.Errorf("got %s", r)
	}
	if got, want := r.header.Get("Location"), "/scim/v2/acme/Users/"+id; got != want || r.field("meta", "location") != want {
		t.Errorf("location %q, %v, want %q", got, r.field("meta", "location"), want)
	}
	tag := r.header.Get("ETag")
	if tag == "" || r.field("meta", "version") != tag {
		t.Errorf("version %v, ETag %q", r.field("meta", "version"), tag)
	}
	p.must(304, "GET", "/Users/"+id, nil, "If-None-Match: "+tag)
	p.must(200, "PATCH", "/Users/"+id, patchOps(op("replace", "active", false)), "If-Match: "+tag)
	p.must(412, "PATCH", "/Users/"+id, patchOps(op("replace", "active", true)), "If-Match: "+tag)
	if m := p.want(200, "root", "GET", "/v1/tenants/acme/members/"+id, nil); m.field("status") != "suspended" {
		t.Errorf("deactivated: %s", m)
	}
	p.must(200, "PUT", "/Users/"+id, map[string]any{"userName": "u1", "active": true})
	if r := p.must(200, "GET", "/Users/"+id, nil); r.field("active") != true || r.field("externalId") != nil {
		t.Errorf("replaced: %s", r)
	}
	p.must(204, "DELETE", "/Users/"+id, nil)
	p.must(404, "GET", "/Users/"+id, nil)
	p.must(404, "DELETE", "/Users/"+id, nil)
	p.want(404, "root", "GET", "/v1/tenants/acme/members/"+id, nil)
	if again := p.user("u1"); again != id {
		t.Errorf("provisioned again as %s, was %s", again, id)
	}
}

func TestTheRolesOfAGroupFollowItsMembers(t *testing.T) {
	t.Parallel()
	p := newWorld(t, settings{}).provision("acme")
	ada, bob := p.user("ada"), p.user("bob")
	p.role("writer", "text:write")
	p.role("reader")
	g := p.group("Editors", ada)
	if got := p.roles(ada); got != "" {
		t.Errorf("an unmapped group grants %q", got)
	}
	p.maps(g, "writer")
	if got := p.roles(ada); got != "writer" {
		t.Errorf("mapped: %q", got)
	}
	p.must(204, "PATCH", "/Groups/"+g, patchOps(op("Add", "members", refs(bob)), op("Remove", `members[value eq "`+ada+`"]`, nil)))
	if a, b := p.roles(ada), p.roles(bob); a != "" || b != "writer" {
		t.Errorf("after the change: %q, %q", a, b)
	}
	r := p.must(200, "GET", "/Users/"+bob, nil)
	if groups, _ := r.field("groups").([]any); len(groups) != 1 {
		t.Errorf("groups of bob: %s", r)
	}
	p.maps(g)
	if b := p.roles(bob); b != "" {
		t.Errorf("unmapped: %q", b)
	}
	p.maps(g, "writer", "reader")
	p.must(204, "DELETE", "/Groups/"+g, nil)
	if b := p.roles(bob); b != "" {
		t.Errorf("deleted: %q", b)
	}
	p.must(404, "GET", "/Groups/"+g, nil)
}
