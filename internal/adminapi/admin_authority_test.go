package adminapi_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"iam-service/internal/dev/devstack"
	"iam-service/internal/iam"
)

// Ruling 30: no caller grants or revokes more than they hold, checked before and
// after; the last platform administrator stays.
func TestNoAdministratorEscalates(t *testing.T) {
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

// A policy that allows everything to all callers lets none grant what they do not hold.
func TestNoPolicyLetsACallerGrantMoreThanTheyHold(t *testing.T) {
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
			byClient := (who == "tenant admin by program" || who == "provisioning client") && r.field("code") == "client_of_another_tenant" // before it is asked what they hold
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

// Ruling 2: an issuer reaches only its tenants, whatever is requested.
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
	// Even where the tables say otherwise, after a write that bypassed the service.
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
