package adminapi_test

import (
	"slices"
	"testing"
	"time"

	"iam-service/internal/dev/devstack"
	"iam-service/internal/iam"
)

func texts(v any) []string {
	list, _ := v.([]any) // absent: none
	out := make([]string, len(list))
	for i, x := range list {
		out[i], _ = x.(string)
	}
	return out
}

// What /v1/me says is what the matrix of all requests says, for each kind of caller: it comes from the policy.
func TestACallerLearnsWhatTheyAreAuthorizedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	tokens := w.cast()
	for who, may := range callers {
		t.Run(who, func(t *testing.T) {
			if may("tenant:list", "") == 401 {
				w.want(401, tokens[who], "GET", "/v1/me", nil)
				return
			}
			own := w.want(200, tokens[who], "GET", "/v1/me?tenant=acme", nil)
			platform, within := texts(own.field("actions")), texts(own.field("tenant_actions"))
			foreign := texts(w.want(200, tokens[who], "GET", "/v1/me?tenant=globex", nil).field("tenant_actions"))
			for _, action := range platformActions {
				if got := slices.Contains(platform, action); got != (may(action, "") == 200) {
					t.Errorf("%s on the platform: got %v", action, got)
				}
			}
			for _, action := range tenantActions {
				if got := slices.Contains(within, action); got != (may(action, "own") == 200) {
					t.Errorf("%s in their tenant: got %v", action, got)
				}
				if got := slices.Contains(foreign, action); got != (may(action, "foreign") == 200) {
					t.Errorf("%s in another tenant: got %v", action, got)
				}
			}
			if none := w.want(200, tokens[who], "GET", "/v1/me", nil); none.field("tenant_actions") != nil {
				t.Errorf("actions in no tenant: %s", none)
			}
		})
	}
}

// A tenant that does not exist and one of others look the same.
func TestNothingOfATenantIsLearntFromTheCallersActions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	tokens := w.cast()
	for _, who := range []string{"tenant admin", "tenant admin by program", "member", "stranger", "service", "policy admin", "platform admin"} {
		foreign := w.want(200, tokens[who], "GET", "/v1/me?tenant=globex", nil)
		nowhere := w.want(200, tokens[who], "GET", "/v1/me?tenant=nowhere", nil)
		if string(foreign.body) != string(nowhere.body) {
			t.Errorf("%s: %s, and of a tenant that does not exist %s", who, foreign, nowhere)
		}
	}
	r := w.want(422, "tina", "GET", "/v1/me?tenant=%00", nil)
	if !slices.Equal(r.pointers(), []string{"tenant"}) {
		t.Errorf("%s", r)
	}
}

func TestACallerLearnsWhoTheyAre(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	tokens := w.cast()
	tenants := func(r reply) map[string]map[string]any {
		all := map[string]map[string]any{}
		list, _ := r.field("tenants").([]any)
		for _, x := range list {
			x, _ := x.(map[string]any)
			id, _ := x["tenant"].(string)
			all[id] = x
		}
		return all
	}
	w.member("globex", "tina", "viewer")
	tina := w.want(200, "tina", "GET", "/v1/me", nil)
	at, err := time.Parse(time.RFC3339, tina.field("expires_at").(string))
	if err != nil || time.Until(at) <= 0 || tina.field("user") != w.user("tina") || tina.field("subject") != "tina" || tina.field("issuer") != w.RAuth.Issuer ||
		tina.field("status") != "active" || tina.field("more") != false {
		t.Errorf("%s", tina)
	}
	if mine := tenants(tina); len(mine) != 2 || mine["acme"]["name"] == "" || mine["acme"]["status"] != "active" ||
		!slices.Equal(texts(mine["acme"]["roles"]), []string{"editor", iam.RoleTenantAdmin}) {
		t.Errorf("%s", tina)
	}
	for who, status := range map[string]string{"suspended tenant admin": "suspended", "expired tenant admin": "expired"} {
		r := w.want(200, tokens[who], "GET", "/v1/me?tenant=acme", nil)
		if tenants(r)["acme"]["membership_status"] != status || len(texts(r.field("tenant_actions"))) != 0 {
			t.Errorf("%s: %s", who, r)
		}
	}
	if r := w.want(200, tokens["blocked platform admin"], "GET", "/v1/me", nil); r.field("status") != "blocked" || len(texts(r.field("actions"))) != 0 {
		t.Errorf("%s", r)
	}
	if r := w.want(200, tokens["stranger"], "GET", "/v1/me", nil); r.field("status") != "unknown" || r.field("user") != nil || len(tenants(r)) != 0 {
		t.Errorf("%s", r)
	}
	if r := w.want(200, tokens["tenant admin by program"], "GET", "/v1/me", nil); len(tenants(r)) != 1 || tenants(r)["acme"]["status"] != "active" ||
		r.field("client_id") != "bot" || len(texts(r.field("actions"))) != 0 {
		t.Errorf("%s", r)
	}
	// By way of a tenant's own client, a person is in that tenant alone, and lends it no platform role.
	theirs := w.client("globex", nil)
	through := func(who string) string {
		return w.Mint(who, map[string]any{"aud": devstack.AdminAudience, "client_id": theirs})
	}
	if r := w.want(200, through("tina"), "GET", "/v1/me?tenant=acme", nil); len(tenants(r)) != 1 || tenants(r)["globex"] == nil || len(texts(r.field("tenant_actions"))) != 0 {
		t.Errorf("%s", r)
	}
	r := w.want(200, through("root"), "GET", "/v1/me?tenant=globex", nil)
	if within := texts(r.field("tenant_actions")); len(texts(r.field("actions"))) != 0 || slices.Contains(within, "member:create") || !slices.Contains(within, "member:list") {
		t.Errorf("%s", r)
	}
}

// More than 200 tenants are not all listed.
func TestManyTenantsOfACallerAreCutOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	_, err := w.sql().Exec(ctx, `
		WITH t AS (INSERT INTO tenants (id, slug, name) SELECT 'many-'||i, 'many-'||i, 'Many' FROM generate_series(1, 250) i RETURNING id)
		INSERT INTO memberships (user_id, tenant, roles) SELECT u.id, t.id, '{}' FROM t, users u WHERE u.issuer = $1 AND u.subject = 'alice'`, w.RAuth.Issuer)
	w.OK(err)
	r := w.want(200, "alice", "GET", "/v1/me", nil)
	if list, _ := r.field("tenants").([]any); len(list) != 200 || r.field("more") != true {
		t.Errorf("%d tenants: %v", len(list), r.field("more"))
	}
}

// Without the policy or the database there is no answer, and never an empty one.
func TestTheCallersActionsAreNeverMissingBecauseSomethingFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{adminRego: "package iam.admin\n\ndecision := {\"allow\": \"yes\"} if input.action == \"user:list\" else := {\"allow\": true}\n"})
	if r := w.call("root", "GET", "/v1/me", nil); r.status < 500 {
		t.Errorf("a broken policy: %s", r)
	}
	w = newWorld(t, settings{})
	root := w.Mint("root", map[string]any{"aud": devstack.AdminAudience})
	tx, err := w.sql().Begin(ctx)
	w.OK(err)
	defer tx.Rollback(ctx)
	_, err = tx.Exec(ctx, `LOCK TABLE users`)
	w.OK(err)
	if r := w.call(root, "GET", "/v1/me", nil); r.status != 503 {
		t.Errorf("%s", r)
	}
}

func BenchmarkMe(b *testing.B) {
	w := newWorld(b, settings{})
	for name, path := range map[string]string{"platform": "/v1/me", "tenant": "/v1/me?tenant=acme"} {
		for _, who := range []string{"root", "tina", "stranger"} {
			token := w.Mint(who, map[string]any{"aud": devstack.AdminAudience})
			b.Run(name+"/"+who, func(b *testing.B) {
				for b.Loop() {
					w.want(200, token, "GET", path, nil)
				}
			})
		}
	}
}
