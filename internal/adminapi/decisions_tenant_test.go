package adminapi_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/policies"
)

// leaks are the words in an answer that are about another tenant, or about the user beyond it.
func leaks(r reply) (found []string) {
	for _, word := range []string{"globex", "umbrella", "sales", "department", "platform-admin", "elsewhere-group"} {
		if strings.Contains(strings.ToLower(string(r.body)), word) {
			found = append(found, word)
		}
	}
	return found
}

// An administrator or auditor of a tenant sees its decisions, and why its members are allowed or
// not; nothing of another tenant is in any of it.
func TestATenantsAdministratorSeesItsDecisions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{decisions: true})
	w.member("acme", "tess", iam.RoleTenantAuditor)
	_, err := w.DB.PutUser(ctx, iam.User{
		Issuer: w.RAuth.Issuer, Subject: "alice", Status: iam.UserActive, DefaultTenant: "globex", Attributes: map[string]any{"department": "sales"}, PlatformRoles: []string{iam.PlatformAdmin},
	})
	w.OK(err)
	theirs := w.client("globex", nil)
	groups := map[string]any{"groups": []string{"auditors", "elsewhere-group"}}
	alice := w.decidedOf("alice", "acme", groups)
	viaTheirs := w.decidedOf("alice", "acme", map[string]any{"client_id": theirs})
	outsider := w.decidedOf("bob", "acme")
	w.decidedOf("bob", "acme", map[string]any{"client_id": "another"}) // so that there would be a next page
	foreign := w.decidedOf("alice", "globex")
	bySomebody := func(who, id string) reply { return w.call(who, "GET", "/v1/decisions/"+id+"?tenant=acme", nil) }

	for _, who := range []string{"tina", "tess"} {
		r := w.want(200, who, "GET", "/v1/decisions?tenant=acme", nil)
		var ids []string
		for _, d := range r.items() {
			id, _ := d["decision"].(string)
			ids = append(ids, id)
			if id == outsider && (d["subject"] != nil || d["issuer"] != nil) {
				t.Errorf("%s learns of a user who is no member: %v", who, d)
			}
			if id == alice && d["subject"] != "alice" {
				t.Errorf("%s does not learn which member: %v", who, d)
			}
		}
		if !slices.Contains(ids, alice) || !slices.Contains(ids, outsider) || slices.Contains(ids, foreign) || len(leaks(r)) > 0 {
			t.Errorf("%s: %s leaks %v", who, r, leaks(r))
		}
		if r := w.want(200, who, "GET", "/v1/decisions?tenant=acme&subject=bob&limit=1", nil); len(r.items()) != 0 || r.field("next") != nil {
			t.Errorf("%s finds a user by a name that is not shown: %s", who, r)
		}
		if r := w.want(200, who, "GET", "/v1/decisions?tenant=acme&client_id="+theirs, nil); len(r.items()) != 0 {
			t.Errorf("%s finds another tenant's client: %s", who, r)
		}
		if r := w.want(200, who, "GET", "/v1/decisions?tenant=acme&subject=alice&limit=1", nil); len(r.items()) != 1 || r.field("next") == nil {
			t.Errorf("%s: %s", who, r)
		}
		w.want(403, who, "GET", "/v1/decisions", nil)
		w.want(404, who, "GET", "/v1/decisions?tenant=globex", nil)

		one := bySomebody(who, alice)
		if one.status != 200 || len(leaks(one)) > 0 || one.field("event", "input", "request") == nil || one.field("event", "custom") != nil || one.field("event", "input", "token") != nil {
			t.Errorf("%s: %s leaks %v", who, one, leaks(one))
		}
		if r := bySomebody(who, outsider); r.status != 200 || strings.Contains(string(r.body), "bob") {
			t.Errorf("%s: %s", who, r)
		}
		if r := bySomebody(who, viaTheirs); r.status != 200 || strings.Contains(string(r.body), theirs) {
			t.Errorf("%s: %s", who, r)
		}
		if r := bySomebody(who, foreign); r.status != 404 || r.field("detail") != bySomebody(who, "none").field("detail") {
			t.Errorf("%s: %s", who, r)
		}
		w.want(403, who, "GET", "/v1/decisions/"+alice, nil)

		for _, body := range []map[string]any{
			{"subject": "alice"}, {"decision": alice}, {"subject": "alice", "tenant": "acme"}, {"subject": "alice", "claims": map[string]any{"groups": []string{"auditors"}}},
			{"subject": "alice", "claims": map[string]any{"sub": "bob"}},
		} {
			r := w.want(200, who, "POST", "/v1/policy/explain?tenant=acme", body)
			if r.field("allow") != true || len(r.field("rules").([]any)) == 0 || len(leaks(r)) > 0 {
				t.Errorf("%s %v: %s leaks %v", who, body, r, leaks(r))
			}
		}
		for _, body := range []map[string]any{
			{"subject": "bob"}, {"subject": "nobody-at-all"}, {"decision": outsider}, {"decision": foreign}, {"client_id": theirs}, {"client_id": "nobody-at-all"},
			{"subject": "alice", "client_id": theirs}, {"subject": "alice", "claims": map[string]any{"client_id": theirs}}, {"subject": "alice", "claims": map[string]any{"azp": theirs}},
		} {
			if r := w.call(who, "POST", "/v1/policy/explain?tenant=acme", body); r.status != 404 || r.field("detail") != "not found" {
				t.Errorf("%s %v: %s", who, body, r)
			}
		}
		for pointer, body := range map[string]map[string]any{
			"/token": {"token": w.Mint("alice", nil)}, "/revision": {"subject": "alice", "revision": "000000000000"}, "/tenant": {"subject": "alice", "tenant": "globex"},
		} {
			if r := w.call(who, "POST", "/v1/policy/explain?tenant=acme", body); r.status != 422 || !slices.Contains(r.pointers(), pointer) {
				t.Errorf("%s %v: %s", who, body, r)
			}
		}
		w.want(403, who, "POST", "/v1/policy/explain", map[string]any{"subject": "alice"})
		w.want(404, who, "POST", "/v1/policy/explain?tenant=globex", map[string]any{"subject": "alice"})
	}
	// A caller with permission everywhere is shown everything, in a tenant too.
	if r := w.want(200, "audrey", "GET", "/v1/decisions?tenant=acme&subject=bob", nil); len(r.items()) != 2 || r.items()[0]["subject"] != "bob" {
		t.Errorf("%s", r)
	}
	if r := bySomebody("audrey", alice); r.field("event", "input", "token") == nil {
		t.Errorf("%s", r)
	}
}

// The question that an administrator has: why was my member refused?
func TestATenantAdministratorSeesWhyAMemberIsDenied(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{decisions: true})
	frank := w.user("frank")
	w.want(200, "root", "PATCH", "/v1/tenants/acme/members/"+frank, map[string]any{"status": "suspended"})
	id := w.decidedOf("frank", "acme")
	for _, body := range []map[string]any{{"decision": id}, {"subject": "frank"}} {
		r := w.want(200, "tina", "POST", "/v1/policy/explain?tenant=acme", body)
		text, _ := r.field("text").(string)
		if r.field("allow") != false || r.field("status") != 403.0 || !strings.Contains(text, "suspended") {
			t.Errorf("%v: %s", body, r)
		}
	}
	// What depends on another tenant's facts is explained without them: here the client.
	theirs := w.client("globex", nil)
	via := w.decidedOf("alice", "acme", map[string]any{"client_id": theirs})
	w.want(200, "root", "PATCH", "/v1/clients/"+theirs, map[string]any{"status": "blocked"})
	r := w.want(200, "tina", "POST", "/v1/policy/explain?tenant=acme", map[string]any{"decision": via})
	detail, _ := r.field("detail").(string)
	if r.field("allow") != false || len(r.field("rules").([]any)) != 0 || !strings.Contains(detail, "not this tenant's") || strings.Contains(string(r.body), theirs) {
		t.Errorf("%s", r)
	}
}

// Which of a policy's data are about another tenant is unknown: an explanation within a tenant
// shows values of the request and of the tenant's facts, however rules name them, and no others.
func TestAnExplanationWithinATenantShowsNoDataOfThePolicy(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	c, err := policy.FromFS("test", policies.FS)
	w.OK(err)
	maps.DeleteFunc(c.Modules, func(_, text string) bool { return strings.Contains(text, "package iam.claims") })
	c.Modules["iam/claims/p.rego"] = `package iam.claims

# METADATA
# entrypoint: true
decision := {"allow": true, "tenant": "acme", "headers": {"X-User-ID": _user.id, "X-Tenant-ID": "acme"}, "reasons": grants} if {
	count(grants) > 0
} else := {"allow": false, "status": 403, "reasons": set()}

# METADATA
# title: Known
# custom:
#   code: known
grants contains {"code": "known", "title": "Known"} if {
	_membership.status == "active"
	not input.token.sub in _blocked
	sub := input.token.sub
	sub != _blocked[1]
}

# METADATA
# title: Fails late
# custom:
#   code: late
grants contains {"code": "late", "title": "Late"} if {
	other = _blocked[_]
	other = input.token.sub
	other == "nobody"
}

_blocked := ["globex-user-0", "globex-user-1"]

_user := data.directory.users[input.token.iss][input.token.sub]

_membership := m if m := _user.memberships.acme
`
	w.OK(w.Engine.Submit(ctx, c))
	r := w.want(200, "tina", "POST", "/v1/policy/explain?tenant=acme", map[string]any{"subject": "alice"})
	text, _ := r.field("text").(string)
	if r.field("allow") != true || strings.Contains(string(r.body), "globex-user") {
		t.Errorf("%s", r)
	}
	for _, want := range []string{`_membership.status is "active"`, "_blocked is not shown", `input.token.sub is "alice"`} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in %s", want, text)
		}
	}
	if r := w.want(200, "audrey", "POST", "/v1/policy/explain", map[string]any{"subject": "alice", "tenant": "acme"}); !strings.Contains(string(r.body), "globex-user-1") {
		t.Errorf("who may see all is not shown all: %s", r)
	}
}
