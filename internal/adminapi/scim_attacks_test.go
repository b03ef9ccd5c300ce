package adminapi_test

import (
	"strings"
	"testing"

	"iam-service/internal/admin"
	"iam-service/internal/dev/devstack"
	"iam-service/internal/iam"
)

// scimRequests are one request of each kind that SCIM answers. They would change nothing if they were let through: what they
// name does not exist, or what they say is not valid.
var scimRequests = []struct{ method, path, body string }{
	{"GET", "/ServiceProviderConfig", ""},
	{"GET", "/ResourceTypes", ""},
	{"GET", "/ResourceTypes/User", ""},
	{"GET", "/Schemas", ""},
	{"GET", "/Users", ""},
	{"POST", "/Users", `{"userName":""}`},
	{"POST", "/Users/.search", `{}`},
	{"GET", "/Users/00000000-0000-0000-0000-000000000000", ""},
	{"PUT", "/Users/00000000-0000-0000-0000-000000000000", `{"userName":"x"}`},
	{"PATCH", "/Users/00000000-0000-0000-0000-000000000000", `{"Operations":[{"op":"replace","path":"active","value":false}]}`},
	{"DELETE", "/Users/00000000-0000-0000-0000-000000000000", ""},
	{"GET", "/Groups", ""},
	{"POST", "/Groups", `{"displayName":"\u0000"}`},
	{"POST", "/Groups/.search", `{}`},
	{"GET", "/Groups/00000000-0000-0000-0000-000000000000", ""},
	{"PUT", "/Groups/00000000-0000-0000-0000-000000000000", `{"displayName":"x"}`},
	{"PATCH", "/Groups/00000000-0000-0000-0000-000000000000", `{"Operations":[{"op":"add","path":"members","value":[]}]}`},
	{"DELETE", "/Groups/00000000-0000-0000-0000-000000000000", ""},
}

func TestNoCallerButTheProvisioningClientIsServedBySCIM(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	tokens := w.cast()
	w.OK(w.DB.PutClient(ctx, iam.Client{Issuer: w.RAuth.Issuer, ClientID: "unscoped", Tenant: "acme", Roles: []string{iam.RoleTenantAdmin}, Status: iam.ClientActive}))
	w.OK(w.DB.PutClient(ctx, iam.Client{Issuer: w.RAuth.Issuer, ClientID: "wide", Scopes: []string{iam.ScopeSCIM, iam.ScopePlatformAdmin}, Status: iam.ClientActive}))
	w.OK(w.DB.PutClient(ctx, iam.Client{Issuer: w.RAuth.Issuer, ClientID: "halted", Tenant: "acme", Scopes: []string{iam.ScopeSCIM}, Status: iam.ClientBlocked}))
	tokens["without the scope in the registration"] = w.program("unscoped", iam.ScopeSCIM)
	tokens["without the scope in the token"] = w.program("scim", "openid")
	tokens["a platform program with the scope"] = w.program("wide", iam.ScopeSCIM+" "+iam.ScopePlatformAdmin)
	tokens["a blocked client with the scope"] = w.program("halted", iam.ScopeSCIM)
	tokens["a person by the provisioning client"] = w.Mint("tina", map[string]any{"aud": devstack.AdminAudience, "client_id": "scim", "scope": iam.ScopeSCIM})
	gateway, err := w.RAuth.Mint("ES256", map[string]any{"sub": "scim", "client_id": "scim", "aud": devstack.Audience, "scope": iam.ScopeSCIM})
	w.OK(err)
	tokens["the provisioning client's token for gateways"] = gateway
	if len(tokens) < 20 {
		t.Fatalf("only %d callers", len(tokens))
	}
	for who, token := range tokens {
		t.Run(who, func(t *testing.T) {
			for _, tenant := range []string{"acme", "globex", "nowhere"} {
				p := &provisioner{w, tenant, token}
				for _, q := range scimRequests {
					r := p.send(q.method, q.path, q.body)
					if who == "provisioning client" && tenant == "acme" {
						if r.status == 401 || r.status == 403 || r.status >= 500 || strings.HasSuffix(q.path, "/Users") && q.method == "GET" && r.status != 200 {
							t.Errorf("%s %s: got %s", q.method, q.path, r)
						}
						continue
					}
					if r.status != 401 && r.status != 403 && r.status != 404 {
						t.Errorf("%s %s in %s: got %s", q.method, q.path, tenant, r)
					}
					if who == "provisioning client" && r.status != 404 {
						t.Errorf("%s %s in another tenant: got %s", q.method, q.path, r)
					}
				}
			}
		})
	}
}

// A policy that allows everything lets no caller provision a tenant but its client.
func TestNoPolicyLetsAnotherCallerProvisionATenant(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{adminRego: "package iam.admin\n\ndecision := {\"allow\": true}\n"})
	tokens := w.cast()
	for who, token := range tokens {
		if who == "provisioning client" {
			continue
		}
		p := &provisioner{w, "acme", token}
		for _, q := range scimRequests {
			if r := p.send(q.method, q.path, q.body); r.status != 401 && r.status != 403 {
				t.Errorf("%s: %s %s: got %s", who, q.method, q.path, r)
			}
		}
	}
	p := &provisioner{w, "globex", tokens["provisioning client"]}
	for _, q := range scimRequests {
		if r := p.send(q.method, q.path, q.body); r.status != 404 {
			t.Errorf("another tenant's client: %s %s: got %s", q.method, q.path, r)
		}
	}
}

func TestAProvisioningClientReachesNothingOfAnotherTenant(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	acme, globex := w.provision("acme"), w.provision("globex")
	ada, theirs := acme.user("ada"), globex.user("theirs")
	mine, group := acme.group("Mine", ada), globex.group("Theirs", theirs)
	foreign, err := w.DB.PutUser(ctx, iam.User{Issuer: w.Other.Issuer, Subject: "of-another-issuer", Status: iam.UserActive})
	w.OK(err)
	w.OK(w.DB.PutMembership(ctx, iam.Membership{Tenant: "globex", User: foreign, Status: iam.MembershipActive}))
	for _, q := range []struct{ method, path, body string }{
		{"GET", "/Users/" + theirs, ""},
		{"PUT", "/Users/" + theirs, `{"userName":"theirs","active":false}`},
		{"PATCH", "/Users/" + theirs, `{"Operations":[{"op":"replace","path":"active","value":false}]}`},
		{"DELETE", "/Users/" + theirs, ""},
		{"GET", "/Groups/" + group, ""},
		{"PUT", "/Groups/" + group, `{"displayName":"x"}`},
		{"PATCH", "/Groups/" + group, `{"Operations":[{"op":"add","path":"members","value":[{"value":"` + ada + `"}]}]}`},
		{"DELETE", "/Groups/" + group, ""},
	} {
		acme.must(404, q.method, q.path, q.body)
	}
	for _, id := range []string{theirs, foreign, "00000000-0000-0000-0000-000000000000", "x", ""} {
		r := acme.must(400, "PATCH", "/Groups/"+mine, patchOps(op("add", "members", refs(id))))
		if r.field("scimType") != "invalidValue" {
			t.Errorf("member %q: %s", id, r)
		}
		acme.must(400, "PUT", "/Groups/"+mine, map[string]any{"displayName": "Mine", "members": refs(ada, id)})
		acme.must(400, "POST", "/Groups", map[string]any{"displayName": "New", "members": refs(id)})
	}
	globex.must(404, "GET", "/Users/"+foreign, nil) // of another issuer than the client's
	globex.must(400, "PATCH", "/Groups/"+group, patchOps(op("add", "members", refs(foreign))))
	for _, filter := range []string{`id eq "` + theirs + `"`, `userName eq "theirs"`, `not (userName eq "ada")`, `id pr`, `userName sw "the" or userName pr`} {
		r := acme.must(200, "GET", "/Users?count=200&filter="+escape(filter), nil)
		if strings.Contains(string(r.body), theirs) || strings.Contains(string(r.body), foreign) {
			t.Errorf("%s finds a user of another tenant: %s", filter, r)
		}
	}
	if r := acme.must(200, "GET", "/Groups?filter="+escape(`displayName pr or id pr`), nil); strings.Contains(string(r.body), group) {
		t.Errorf("a list has a group of another tenant: %s", r)
	}
	if r := acme.must(200, "GET", "/Groups/"+mine, nil); len(memberIDs(r)) != 1 {
		t.Errorf("a rejected change has had an effect: %s", r)
	}
}

func TestNamesOfGroupsAndAttributesOfUsersGrantNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	p := w.provision("acme")
	r := p.must(201, "POST", "/Users", `{"userName":"eve","displayName":"iam:tenant-admin","userType":"iam:tenant-admin","title":"editor",
		"roles":[{"value":"iam:tenant-admin","primary":true}],"entitlements":[{"value":"editor"}],"groups":[{"value":"editor"}],
		"urn:ietf:params:scim:schemas:extension:enterprise:2.0:User":{"department":"iam:tenant-admin"}}`)
	eve, _ := r.field("id").(string)
	g := p.group("iam:tenant-admin", eve)
	p.group("editor", eve)
	p.must(204, "PATCH", "/Groups/"+g, patchOps(op("add", "roles", []string{"iam:tenant-admin"}), op("replace", "", map[string]any{"roles": []string{"editor"}})))
	p.must(200, "PUT", "/Groups/"+g, map[string]any{"displayName": "iam:tenant-admin", "roles": []string{"editor"}, "members": refs(eve)})
	p.must(200, "PATCH", "/Users/"+eve, patchOps(op("add", `roles[primary eq "True"].value`, "iam:tenant-admin"), op("add", "roles", refs("editor"))))
	if got := p.roles(eve); got != "" {
		t.Errorf("eve holds %q", got)
	}
	// What only administrators do, the client does not: map groups, grant roles, create clients.
	for _, q := range []struct {
		method, path string
		body         any
	}{
		{"GET", "/v1/tenants/acme/scim-groups", nil},
		{"PUT", "/v1/tenants/acme/scim-groups/" + g, map[string]any{"roles": []string{"editor"}}},
		{"DELETE", "/v1/tenants/acme/scim-groups/" + g, nil},
		{"PUT", "/v1/tenants/acme/members/" + eve, map[string]any{"roles": []string{"editor"}}},
		{"POST", "/v1/tenants/acme/members", map[string]any{"subject": "x", "roles": []string{"editor"}}},
		{"POST", "/v1/clients", map[string]any{"client_name": "x", "tenant": "acme", "grant_types": []string{"client_credentials"}}},
	} {
		w.want(403, p.token, q.method, q.path, q.body, "If-Match: *")
	}
}

func TestOnlyAnAdministratorWhoHoldsARoleMapsAGroupToIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	p := w.provision("acme")
	p.role("payer", "money:send")
	g := p.group("Payers", p.user("ada"))
	at := "/v1/tenants/acme/scim-groups/" + g
	for name, roles := range map[string][]string{"a permission that one does not hold": {"payer"}, "a reserved role that one does not hold": {iam.RoleTenantAuditor}} {
		if r := w.call("tina", "PUT", at, map[string]any{"roles": roles}, "If-Match: *"); r.status != 403 || r.field("code") != "more_than_held" {
			t.Errorf("%s: got %s", name, r)
		}
	}
	p.maps(g, "payer")
	for _, method := range []string{"PUT", "DELETE"} { // what the group grants before the change counts too
		var body any
		if method == "PUT" {
			body = map[string]any{"roles": []string{}}
		}
		if r := w.call("tina", method, at, body, "If-Match: *"); r.status != 403 || r.field("code") != "more_than_held" {
			t.Errorf("%s: got %s", method, r)
		}
	}
	w.want(428, "root", "PUT", at, map[string]any{"roles": []string{}})
	w.want(412, "root", "PUT", at, map[string]any{"roles": []string{}}, `If-Match: "1"`)
	w.want(422, "root", "PUT", at, map[string]any{"roles": []string{"none"}}, "If-Match: *")
	w.want(404, "root", "PUT", "/v1/tenants/globex/scim-groups/"+g, map[string]any{"roles": []string{}}, "If-Match: *")
}

func TestARoleOfAGroupIsNotChangedByHand(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	p := w.provision("acme")
	p.role("writer", "text:write")
	p.role("reader")
	ada, bob := p.user("ada"), p.user("bob")
	w.want(200, "root", "PUT", "/v1/tenants/acme/members/"+bob, map[string]any{"roles": []string{"writer", "reader"}}, "If-Match: *")
	g := p.group("Writers", ada)
	at := "/v1/tenants/acme/scim-groups/" + g
	if r := w.call("root", "PUT", at, map[string]any{"roles": []string{"writer"}}, "If-Match: *"); r.status != 409 || r.field("code") != "role_held" {
		t.Fatalf("a role that another member holds: %s", r)
	}
	w.want(200, "root", "PUT", at+"?remove=true", map[string]any{"roles": []string{"writer"}}, "If-Match: *")
	if a, b := p.roles(ada), p.roles(bob); a != "writer" || b != "reader" {
		t.Errorf("after the mapping: %q and %q", a, b)
	}
	for name, r := range map[string]reply{
		"granted": w.call("root", "PUT", "/v1/tenants/acme/members/"+bob, map[string]any{"roles": []string{"writer", "reader"}}, "If-Match: *"),
		"revoked": w.call("root", "PUT", "/v1/tenants/acme/members/"+ada, map[string]any{"roles": []string{"reader"}}, "If-Match: *"),
		"limited": w.call("root", "PUT", "/v1/tenants/acme/members/"+ada, map[string]any{"roles": []string{"writer"}, "role_terms": map[string]any{"writer": map[string]any{"expires_at": "2099-01-01T00:00:00Z"}}}, "If-Match: *"),
		"added":   w.call("root", "POST", "/v1/tenants/acme/members", map[string]any{"subject": "new", "roles": []string{"writer"}}),
		"batch":   w.call("root", "POST", "/v1/tenants/acme/members:batch", map[string]any{"members": []any{map[string]any{"subject": "new", "roles": []string{"writer"}}}}),
	} {
		if r.status != 409 || r.field("code") != "role_managed_by_scim" {
			t.Errorf("%s: got %s", name, r)
		}
	}
	// Other roles are granted by hand as before, and stay when the groups change.
	w.want(200, "root", "PUT", "/v1/tenants/acme/members/"+ada, map[string]any{"roles": []string{"writer", "reader"}}, "If-Match: *")
	p.must(204, "DELETE", "/Groups/"+g, nil)
	if a := p.roles(ada); a != "reader" {
		t.Errorf("after the deletion: %q", a)
	}
	g = p.group("Writers", ada)
	p.maps(g, "writer")
	if r := w.call("root", "DELETE", "/v1/tenants/acme/roles/writer", nil); r.status != 409 || !strings.Contains(r.String(), "1 SCIM group") {
		t.Errorf("deleting a role of a group: %s", r)
	}
	w.want(204, "root", "DELETE", "/v1/tenants/acme/roles/writer?remove=true", nil)
	if a := p.roles(ada); a != "reader" {
		t.Errorf("after the deletion of the role: %q", a)
	}
	w.want(204, "root", "DELETE", at[:len(at)-len(g)]+g, nil)
	p.must(404, "GET", "/Groups/"+g, nil)
}

func TestTheLastAdministratorIsNotRemovedBySCIM(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	p := w.provision("acme")
	var admins []string
	for _, m := range w.want(200, "root", "GET", "/v1/tenants/acme/members?role="+iam.RoleTenantAdmin+"&status=active", nil).items() {
		id, _ := m["user"].(string)
		admins = append(admins, id)
	}
	for i, id := range admins[:len(admins)-1] {
		if i%2 == 0 {
			p.must(204, "DELETE", "/Users/"+id, nil)
		} else {
			p.must(200, "PATCH", "/Users/"+id, patchOps(op("replace", "active", false)))
		}
	}
	last := admins[len(admins)-1]
	for name, r := range map[string]reply{
		"removed":     p.send("DELETE", "/Users/"+last, nil),
		"deactivated": p.send("PATCH", "/Users/"+last, patchOps(op("replace", "active", false))),
		"replaced":    p.send("PUT", "/Users/"+last, map[string]any{"userName": "tina", "active": false}),
	} {
		if r.status != 409 && r.status != 400 || r.status == 400 && name != "replaced" || strings.Contains(r.String(), "leave_without") {
			t.Errorf("%s: got %s", name, r)
		}
	}
	w.want(200, "root", "GET", "/v1/tenants/acme/members/"+last, nil)
}

func TestAnAdministratorsSuspensionIsNotEndedBySCIM(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	p := w.provision("acme")
	ada := p.user("ada")
	member := "/v1/tenants/acme/members/" + ada
	resume := patchOps(op("replace", "active", true))
	p.must(200, "PATCH", "/Users/"+ada, patchOps(op("replace", "active", false)))
	p.must(200, "PATCH", "/Users/"+ada, resume) // its own
	w.want(200, "root", "PATCH", member, map[string]any{"status": "suspended"})
	if r := p.send("PATCH", "/Users/"+ada, resume); r.status != 409 {
		t.Errorf("resumed: %s", r)
	}
	p.must(409, "PUT", "/Users/"+ada, map[string]any{"userName": "ada", "active": true})
	p.must(200, "PATCH", "/Users/"+ada, patchOps(op("replace", "active", false))) // the suspension stays the administrator's
	p.must(409, "PATCH", "/Users/"+ada, resume)
	p.must(200, "PUT", "/Users/"+ada, map[string]any{"userName": "ada", "externalId": "1"}) // active stays as it is
	w.want(200, "root", "PATCH", member, map[string]any{"status": "active"})
	p.must(200, "PATCH", "/Users/"+ada, patchOps(op("replace", "active", false)))
	w.want(200, "root", "PATCH", member, map[string]any{"status": "suspended"}) // now the administrator's
	if r := p.must(409, "PATCH", "/Users/"+ada, resume); !strings.Contains(r.String(), "an administrator of the tenant has suspended") {
		t.Errorf("resumed: %s", r)
	}
	audited := w.want(200, "root", "GET", "/v1/audit?tenant=acme&object="+ada, nil).String()
	if !strings.Contains(audited, `"suspended_by":"administrator"`) {
		t.Errorf("the audit: %s", audited)
	}
	if r := p.must(200, "GET", "/Users/"+ada, nil); r.field("active") != false {
		t.Errorf("suspended by both: %s", r)
	}
	w.want(200, "root", "PATCH", member, map[string]any{"status": "active"}) // both say so now
	if r := p.must(200, "GET", "/Users/"+ada, nil); r.field("active") != true {
		t.Errorf("resumed: %s", r)
	}
}

func TestWhomTheIdentityProviderDeactivatedIsNotResumedByHand(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	p := w.provision("acme")
	ada := p.user("ada")
	members := "/v1/tenants/acme/members"
	says := func(active bool) map[string]any { return patchOps(op("replace", "active", active)) }
	rejected := func(what string) {
		t.Helper()
		if r := w.want(409, "root", "PATCH", members+"/"+ada, map[string]any{"status": "active"}); r.field("code") != "inactive_by_scim" {
			t.Errorf("%s: %s", what, r)
		}
	}
	w.want(200, "root", "PATCH", members+"/"+ada, map[string]any{"status": "suspended"})
	p.must(200, "PATCH", "/Users/"+ada, says(false))
	rejected("suspended by an administrator, then deactivated")
	tag := w.want(200, "root", "GET", members+"/"+ada, nil).header.Get("ETag")
	w.want(409, "root", "PUT", members+"/"+ada, map[string]any{"status": "active"}, "If-Match: "+tag)
	w.want(200, "root", "PATCH", members+"/"+ada, map[string]any{"attributes": map[string]any{}}) // all else can be changed
	p.must(409, "PATCH", "/Users/"+ada, says(true))
	w.want(200, "root", "PATCH", members+"/"+ada, map[string]any{"status": "active"})
	p.must(200, "PUT", "/Users/"+ada, map[string]any{"userName": "ada", "active": false})
	rejected("deactivated")
	p.must(200, "PATCH", "/Users/"+ada, says(true))
	if r := p.must(201, "POST", "/Users", map[string]any{"userName": "bob", "active": false}); r.field("active") != false {
		t.Errorf("created: %s", r)
	} else {
		bob, _ := r.field("id").(string)
		ada = bob
		rejected("provisioned as inactive")
		p.must(200, "PATCH", "/Users/"+bob, says(true))
	}
}

func TestAMembershipThatHasEndedIsNotActiveInSCIM(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	p := w.provision("acme")
	ada := p.user("ada")
	before := p.must(200, "GET", "/Users/"+ada, nil).header.Get("ETag")
	_, err := w.sql().Exec(ctx, `UPDATE memberships SET expires_at = now() - interval '1 minute', version = version WHERE user_id = $1::uuid`, ada)
	w.OK(err)
	if r := p.must(200, "GET", "/Users/"+ada, nil, "If-None-Match: "+before); r.field("active") != false {
		t.Errorf("expired: %s", r)
	}
	for filter, want := range map[string]float64{`userName eq "ada" and active eq true`: 0, `userName eq "ada" and active eq false`: 1} {
		if r := p.must(200, "GET", "/Users?filter="+escape(filter), nil); r.field("totalResults") != want {
			t.Errorf("%s: %s", filter, r)
		}
	}
	p.must(200, "PUT", "/Users/"+ada, map[string]any{"userName": "ada", "externalId": "1"}) // active stays as it is
	for _, active := range []bool{true, false} {
		if r := p.must(409, "PATCH", "/Users/"+ada, patchOps(op("replace", "active", true))); !strings.Contains(r.String(), "the membership ended at 2") {
			t.Errorf("activated: %s", r)
		}
		if active {
			p.must(200, "PATCH", "/Users/"+ada, patchOps(op("replace", "active", false)))
		}
	}
	if m := w.want(200, "root", "GET", "/v1/tenants/acme/members/"+ada, nil); m.field("status") != "suspended" {
		t.Errorf("deactivated: %s", m)
	}
}

func TestAUsersETagCoversTheirGroups(t *testing.T) {
	t.Parallel()
	p := newWorld(t, settings{}).provision("acme")
	ada := p.user("ada")
	at := "/Users/" + ada
	tags := []string{p.must(200, "GET", at, nil).header.Get("ETag")}
	changed := func(what string) {
		t.Helper()
		for _, tag := range tags {
			r := p.must(200, "GET", at, nil, "If-None-Match: "+tag)
			if r.header.Get("ETag") == tag || r.field("meta", "version") != r.header.Get("ETag") {
				t.Fatalf("%s: %s %s", what, r.header.Get("ETag"), r)
			}
		}
		tag := p.must(200, "GET", at, nil).header.Get("ETag")
		p.must(304, "GET", at, nil, "If-None-Match: "+tag)
		tags = append(tags, tag)
	}
	first := p.group("First", ada)
	changed("joined")
	second := p.group("Second", ada)
	changed("joined another")
	p.must(204, "PATCH", "/Groups/"+second, patchOps(op("replace", "displayName", "Renamed")))
	changed("renamed")
	p.must(204, "DELETE", "/Groups/"+first, nil)
	changed("deleted")
	p.must(200, "PATCH", at, patchOps(op("replace", "externalId", "x")), "If-Match: "+tags[len(tags)-1])
	changed("changed")
	p.must(412, "PATCH", at, patchOps(op("replace", "externalId", "y")), "If-Match: "+tags[0])
}

func TestAPatchGoesThroughAllMembersOfAGroupTenTimesAtMost(t *testing.T) {
	t.Parallel()
	p := newWorld(t, settings{}).provision("acme")
	ada, bob := p.user("ada"), p.user("bob")
	g := p.group("Many", ada, bob)
	for name, one := range map[string]map[string]any{
		"filter":      op("remove", `members[value ne "`+ada+`"]`, nil),
		"replacement": op("replace", "members", refs(ada)),
		"removal":     op("remove", "members", nil),
	} {
		t.Run(name, func(t *testing.T) {
			ops := []map[string]any{op("add", "members", refs(ada))}
			for range admin.MaxSCIMWholeEdits {
				ops = append(ops, one)
			}
			p.must(204, "PATCH", "/Groups/"+g, patchOps(ops...))
			r := p.must(400, "PATCH", "/Groups/"+g, patchOps(append(ops, one)...))
			if r.field("scimType") != "invalidValue" || !strings.Contains(r.String(), "at most 10 are allowed") {
				t.Errorf("one more: %s", r)
			}
		})
	}
	named := []map[string]any{} // each names its members: as many as a PATCH may have
	for range 500 {
		named = append(named, op("add", "members", refs(ada)), op("remove", `members[value eq "`+bob+`"]`, nil))
	}
	p.must(204, "PATCH", "/Groups/"+g, patchOps(named...))
}

func TestAProvisioningClientReachesNoGroupOfAnotherIssuer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	p := w.provision("acme")
	ada := p.user("ada")
	p.role("writer")
	g := p.group("Editors", ada)
	p.maps(g, "writer")
	_, err := w.sql().Exec(ctx, `UPDATE scim_groups SET issuer = 'https://other.example', external_id = 'x' WHERE id = $1::uuid`, g)
	w.OK(err)
	if r := p.must(200, "GET", "/Groups", nil); r.field("totalResults") != 0.0 || strings.Contains(r.String(), g) {
		t.Errorf("listed: %s", r)
	}
	if r := p.must(200, "GET", "/Groups?filter="+escape(`id eq "`+g+`" or members.value eq "`+ada+`"`), nil); r.field("totalResults") != 0.0 {
		t.Errorf("found: %s", r)
	}
	p.must(404, "GET", "/Groups/"+g, nil)
	p.must(404, "PUT", "/Groups/"+g, map[string]any{"displayName": "Mine"})
	p.must(404, "PATCH", "/Groups/"+g, patchOps(op("remove", "members", nil)))
	p.must(404, "DELETE", "/Groups/"+g, nil)
	if got := p.roles(ada); got != "writer" {
		t.Errorf("ada holds %q", got)
	}
	mine := p.group("editors") // its names are those of its issuer alone
	p.must(204, "PATCH", "/Groups/"+mine, patchOps(op("replace", "externalId", "x")))
	if r := w.want(200, "root", "GET", "/v1/tenants/acme/scim-groups/"+g, nil); r.field("issuer") != "https://other.example" {
		t.Errorf("to an administrator: %s", r)
	}
	if n := len(w.want(200, "root", "GET", "/v1/tenants/acme/scim-groups", nil).items()); n != 2 {
		t.Errorf("an administrator sees %d groups", n)
	}
}
