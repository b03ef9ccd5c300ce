package adminapi_test

import (
	"slices"
	"strings"
	"testing"

	"iam-service/internal/iam"
)

// tenantActions are what an administrator of a tenant does there.
var tenantActions = []string{
	"tenant:read", "role:list", "role:create", "role:read", "role:update", "role:delete",
	"member:list", "member:create", "member:batch", "member:read", "member:update", "member:set-status", "member:delete",
	"mapping:list", "mapping:create", "mapping:read", "mapping:update", "mapping:delete", "effective:read", "audit:read",
	"scim-group:list", "scim-group:read", "scim-group:update", "scim-group:delete",
	"client:list", "client:create", "client:read", "client:update", "client:set-status", "client:revoke", "client:rotate", "client:delete",
	"decision:list", "decision:read", "policy:explain", "access:list", "access:read", "access:search",
	"request:list", "request:create", "request:read", "request:approve", "request:reject", "request:cancel",
}

// platformActions are the rest.
var platformActions = []string{
	"tenant:list", "tenant:create", "tenant:update", "tenant:set-status", "tenant:delete",
	"global-role:list", "global-role:create", "global-role:read", "global-role:update", "global-role:delete",
	"user:list", "user:create", "user:read", "user:update", "user:set-status", "user:revoke", "user:erase",
	"service:list", "service:read", "service:sync", "audit:read",
	"policy:read", "policy:list", "policy:upload", "policy:activate", "policy:rollback", "policy:shadow", "policy:explain", "policy:preview",
	"policy:source", "policy:evaluate", "policy:draft",
	"decision:list", "decision:read",
	"client:list", "client:create", "drift:read", "access:read", "overview:read", "audit-chain:read",
}

func reads(action string) bool {
	return strings.HasSuffix(action, ":read") || strings.HasSuffix(action, ":list") || action == "policy:explain" || action == "access:search"
}

// asks are what a member may: for themselves.
func asks(action string) bool {
	return slices.Contains([]string{"request:create", "request:list", "request:read", "request:cancel"}, action)
}

// changesPolicy are what a platform administrator may not.
func changesPolicy(action string) bool {
	return action == "policy:upload" || action == "policy:activate" || action == "policy:shadow"
}

func platformAdmin(action, _ string) int {
	if changesPolicy(action) {
		return 403
	}
	return 200
}

// what each kind of caller may, in words of its own: action, and "own", "foreign" or
// "" for the platform. What is not allowed is 401, 403, or 404 where nothing is seen.
var callers = map[string]func(action, where string) int{
	"platform admin":            platformAdmin,
	"platform admin by program": platformAdmin,
	"policy admin": func(action, where string) int {
		switch {
		case strings.HasPrefix(action, "policy:") || strings.HasPrefix(action, "decision:") || action == "overview:read":
			return 200
		case where != "":
			return 404
		}
		return 403
	},
	"auditor": func(action, _ string) int {
		if reads(action) {
			return 200
		}
		return 403
	},
	"tenant admin":            ofTenant(func(string) bool { return true }),
	"tenant admin by program": ofTenant(func(string) bool { return true }),
	"tenant auditor":          ofTenant(func(action string) bool { return reads(action) || asks(action) }),
	"member":                  ofTenant(asks),
	"suspended tenant admin":  ofTenant(func(string) bool { return false }),
	"expired tenant admin":    ofTenant(func(string) bool { return false }),
	"blocked tenant admin":    ofTenant(func(string) bool { return false }),
	"blocked platform admin":  func(string, string) int { return 403 },
	"stranger": func(_, where string) int {
		if where != "" {
			return 404
		}
		return 403
	},
	"service": func(action, where string) int {
		switch {
		case action == "service:sync":
			return 200
		case where != "":
			return 404
		}
		return 403
	},
	"provisioning client": ofTenant(func(string) bool { return false }),
	"revoked client":      func(string, string) int { return 401 },
	"nobody":              func(string, string) int { return 401 },
	"token for gateways":  func(string, string) int { return 401 },
	"token for both":      func(string, string) int { return 401 },
	"blocked client":      func(string, string) int { return 401 },
	"revoked user":        func(string, string) int { return 401 },
}

func ofTenant(may func(action string) bool) func(action, where string) int {
	return func(action, where string) int {
		switch {
		case where == "foreign":
			return 404
		case where == "own" && slices.Contains(tenantActions, action) && may(action):
			return 200
		}
		return 403
	}
}

// Every route for every kind of caller, in a tenant of their own, in another, and on
// the platform. The routes are those of the document: a new one without a row fails.
func TestTheMatrixOfRolesAndActions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{decisions: true})
	gone := map[string]bool{}
	tokens := w.cast()
	users := map[string]string{"acme": w.member("acme", "target", "viewer"), "globex": w.member("globex", "other-target", "viewer")}
	w.OK(w.DB.PutMapping(ctx, iam.Mapping{Tenant: "globex", Issuer: w.RAuth.Issuer, Claim: "groups", Value: "auditors", Roles: []string{"viewer"}}))
	w.OK(w.DB.PutRole(ctx, iam.Role{Tenant: "acme", Name: "helper"}))
	w.OK(w.DB.PutRole(ctx, iam.Role{Tenant: "globex", Name: "helper"}))
	mapping := iam.Mapping{Issuer: w.RAuth.Issuer, Claim: "groups", Value: "auditors"}.ID()

	stored, seen := w.stored(), map[string]string{"": w.decided(), "own": w.decidedOf("alice", "acme"), "foreign": w.decidedOf("bob", "globex")}
	foreseen, _ := w.want(202, "paula", "POST", "/v1/policy/preview", map[string]any{"revision": stored}).field("id").(string)
	made := map[string]string{"acme": w.client("acme", nil), "globex": w.client("globex", nil)}
	groups := map[string]string{"acme": w.provision("acme").group("Helpers"), "globex": w.provision("globex").group("Helpers")}

	requests := map[string]string{"acme": w.asked("acme", w.member("acme", "mia", "editor")), "globex": w.asked("globex", users["globex"])}

	// What is sent is well-formed, and would change nothing if it were allowed: it names a
	// version that never was, or makes what is there already.
	bodies := map[string]any{
		"tenant:create": map[string]any{"id": "acme", "slug": "acme", "name": "x"}, "tenant:update": map[string]any{"slug": "acme", "name": "x"},
		"tenant:set-status": map[string]any{"status": "active"},
		"role:create":       map[string]any{"name": "helper"}, "role:update": map[string]any{},
		"global-role:create": map[string]any{"name": "viewer"}, "global-role:update": map[string]any{},
		"member:create": map[string]any{"subject": "target"}, "member:batch": map[string]any{"members": []any{map[string]any{"subject": "x", "roles": []string{"none"}}}},
		"member:update": map[string]any{}, "member:set-status": map[string]any{"status": "active"},
		"mapping:create": map[string]any{"claim": "groups", "value": "auditors", "roles": []string{"viewer"}}, "mapping:update": map[string]any{"roles": []string{"viewer"}},
		"user:create": map[string]any{"subject": "target"}, "user:update": map[string]any{}, "user:set-status": map[string]any{"status": "active"},
		"client:update": map[string]any{"client_name": "x", "redirect_uris": []string{"no URI"}}, "client:set-status": map[string]any{"status": "active"},
		"client:revoke": map[string]any{"before": "2001-01-01T00:00:00Z"}, "client:rotate": map[string]any{"overlap": "1s"},
		"scim-group:update": map[string]any{"roles": []string{"viewer"}},
		"request:create":    map[string]any{"role": "none", "seconds": 60, "reason": "x"}, "request:reject": map[string]any{"reason": "x"},
		"policy:upload": "no bundle", "policy:activate": map[string]any{"preview": "00000000-0000-0000-0000-000000000000"},
		"policy:shadow": map[string]any{"share": 0}, "policy:explain": map[string]any{"subject": "target"}, "policy:preview": map[string]any{"revision": stored},
		"policy:evaluate": map[string]any{"base": stored}, "policy:draft": map[string]any{"base": stored},
		"user:revoke": map[string]any{"before": "2001-01-01T00:00:00Z"}, "service:sync": map[string]any{"service": "sample", "roles": []any{map[string]any{"name": "x", "inherits": []string{"none"}}}},
	}
	cells, rows := 0, 0
	paths, _ := w.document()["paths"].(map[string]any)
	for template, item := range paths {
		for method, op := range item.(map[string]any) {
			action, _ := op.(map[string]any)["x-action"].(string)
			rows++
			wheres := []string{""}
			if strings.Contains(template, "{tenant}") || action == "effective:read" || action == "access:search" {
				wheres = []string{"own", "foreign"}
			}
			switch {
			case template == "/v1/me":
				continue // for each caller: see TestACallerLearnsWhatTheyAreAuthorizedFor
			case action == "audit:read", action == "client:list", action == "client:create", strings.HasPrefix(action, "decision:"), action == "policy:explain":
				wheres = []string{"", "own", "foreign"}
			case strings.HasPrefix(action, "client:"):
				wheres = []string{"own", "foreign"}
			}
			for _, where := range wheres {
				known := platformActions
				if where != "" {
					known = slices.Concat(tenantActions, []string{"tenant:update", "tenant:set-status", "tenant:delete"})
				}
				if !slices.Contains(known, action) {
					t.Errorf("%s %s: the action %q (%s) stands in no list of this test", method, template, action, where)
					continue
				}
				tenant := map[string]string{"": "acme", "own": "acme", "foreign": "globex"}[where]
				path := strings.NewReplacer("{tenant}", tenant, "{role}", "helper", "{user}", users[tenant], "{mapping}", mapping, "{group}", groups[tenant], "{request}", requests[tenant], "{service}", "sample").Replace(template)
				if where == "" {
					path = strings.ReplaceAll(path, "/roles/helper", "/roles/viewer")
				}
				path = strings.ReplaceAll(path, "{id}", made[tenant])
				path = strings.NewReplacer("{revision}", stored, "{decision}", seen[where], "{preview}", foreseen).Replace(path)
				if action == "effective:read" || (action == "audit:read" || action == "client:list" || action == "policy:explain" || strings.HasPrefix(action, "decision:")) && where != "" {
					path += "?tenant=" + tenant
				}
				if strings.HasSuffix(template, "/tenants/{tenant}/access") {
					path += "?role=viewer"
				}
				if strings.HasSuffix(template, "/access/changes") {
					path += "?from=2001-01-01T00:00:00Z"
				}
				if action == "client:create" {
					bodies[action] = map[string]any{"client_name": "x", "redirect_uris": []string{"no URI"}}
					if where != "" {
						bodies[action] = map[string]any{"client_name": "x", "tenant": tenant}
					}
				}
				if action == "access:search" {
					bodies[action] = map[string]any{"tenant": tenant}
				}
				if action == "policy:explain" {
					bodies[action] = map[string]any{"subject": map[string]string{"acme": "target", "globex": "other-target"}[tenant]}
				}
				type ask struct {
					action string
					body   any
				}
				asks := []ask{{action, bodies[action]}}
				if method == "patch" && action != "client:set-status" {
					update := strings.Replace(action, ":set-status", ":update", 1)
					asks = append(asks, ask{update, map[string]any{"attributes": map[string]any{}}}, ask{update, map[string]any{"attributes": map[string]any{}, "status": "active"}})
				}
				for who, may := range callers {
					for _, ask := range asks {
						action := ask.action
						cells++
						gone[who] = true
						r := w.call(tokens[who], strings.ToUpper(method), path, ask.body, `If-Match: "999"`)
						want := may(action, where)
						if strings.Contains(template, "/clients/{id}") && want == 403 && may("client:read", where) != 200 {
							want = 404 // a caller that cannot read a client does not learn that it exists
						}
						got := r.status
						if got != 401 && got != 403 && got != 404 && got < 500 {
							got = 200 // it was let through
						}
						if got != want {
							t.Errorf("%s: %s %s (%s): got %s, want %d", who, method, path, where, r, want)
						}
						if r.status == 404 && r.field("detail") != "not found" {
							t.Errorf("%s: %s %s: a 404 that says more than others: %s", who, method, path, r)
						}
					}
				}
			}
		}
	}
	if rows < 40 || len(gone) != len(callers) || cells < 40*len(callers) {
		t.Fatalf("only %d routes, %d callers and %d cells were looked at", rows, len(gone), cells)
	}
}

// cast is a token of each kind of caller.
func (w *adminWorld) cast() map[string]string {
	w.Helper()
	for _, c := range []iam.Client{
		{ClientID: "terraform", Scopes: []string{iam.ScopePlatformAdmin}, Status: iam.ClientActive},
		{ClientID: "ci", Scopes: []string{"s2s:internal"}, Status: iam.ClientActive},
		{ClientID: "bot", Tenant: "acme", Roles: []string{iam.RoleTenantAdmin, "viewer"}, Status: iam.ClientActive},
		{ClientID: "scim", Tenant: "acme", Scopes: []string{iam.ScopeSCIM}, Status: iam.ClientActive},
		{ClientID: "revoked", Tenant: "acme", Roles: []string{iam.RoleTenantAdmin}, Status: iam.ClientActive, TokensNotBefore: soon},
		{ClientID: "stopped", Tenant: "acme", Roles: []string{iam.RoleTenantAdmin}, Status: iam.ClientBlocked},
	} {
		c.Issuer = w.RAuth.Issuer
		w.OK(w.DB.PutClient(ctx, c))
	}
	admin := func(who string) string { return w.Mint(who, map[string]any{"aud": "iam-admin"}) }
	w.member("acme", "tess", iam.RoleTenantAuditor)
	w.member("acme", "mia", "editor")
	suspended, expired, blocked, revoked := w.member("acme", "sue", iam.RoleTenantAdmin), w.member("acme", "eve", iam.RoleTenantAdmin), w.member("acme", "bill", iam.RoleTenantAdmin), w.member("acme", "rex", iam.RoleTenantAdmin)
	w.OK(w.DB.PutMembership(ctx, iam.Membership{Tenant: "acme", User: suspended, Status: iam.MembershipSuspended, Roles: []string{iam.RoleTenantAdmin}}))
	w.OK(w.DB.PutMembership(ctx, iam.Membership{Tenant: "acme", User: expired, Status: iam.MembershipActive, Roles: []string{iam.RoleTenantAdmin}, ExpiresAt: long}))
	_ = blocked
	put := func(u iam.User) {
		u.Issuer = w.RAuth.Issuer
		_, err := w.DB.PutUser(ctx, u)
		w.OK(err)
	}
	put(iam.User{Subject: "bill", Status: iam.UserBlocked})
	put(iam.User{Subject: "rita", Status: iam.UserBlocked, PlatformRoles: []string{iam.PlatformAdmin}})
	put(iam.User{Subject: "rex", Status: iam.UserActive, TokensNotBefore: soon})
	_ = revoked
	return map[string]string{
		"platform admin": admin("root"), "platform admin by program": w.program("terraform", iam.ScopePlatformAdmin),
		"policy admin": admin("paula"), "auditor": admin("audrey"), "tenant admin": admin("tina"), "tenant admin by program": w.program("bot", ""),
		"tenant auditor": admin("tess"), "member": admin("mia"), "suspended tenant admin": admin("sue"), "expired tenant admin": admin("eve"),
		"blocked tenant admin": admin("bill"), "blocked platform admin": admin("rita"), "stranger": admin("stranger"), "service": w.program("ci", "s2s:internal"),
		"nobody": "", "token for gateways": w.Mint("root", nil), "token for both": w.Mint("root", map[string]any{"aud": []string{"iam-gateway", "iam-admin"}}),
		"provisioning client": w.program("scim", iam.ScopeSCIM),
		"revoked client":      w.program("revoked", ""), "blocked client": w.program("stopped", ""), "revoked user": admin("rex"),
	}
}
