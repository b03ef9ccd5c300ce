package adminapi_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"iam-service/internal/dev/devrauth"
	"iam-service/internal/dev/devstack"
	"iam-service/internal/dev/world"
	"iam-service/internal/iam"
)

// Roles are a matter of ours: they change while R-Auth is away, and nothing is pending.
func TestRolesOfAClientNeedNoProvider(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	id := w.client("acme", map[string]any{"roles": []string{"viewer"}})
	w.RAuth.Break(func(string, string) devrauth.Fault { return devrauth.Fault500 })
	r := w.want(200, "root", "PUT", "/v1/clients/"+id, service(map[string]any{"roles": []string{"editor"}}), "If-Match: *")
	if r.text("sync") != "in_sync" {
		t.Errorf("got %s", r)
	}
	w.announced(id, "ClientCreated", "ClientUpdated")
	// With the role goes what a client has of it.
	w.want(201, "root", "POST", "/v1/tenants/acme/roles", map[string]any{"name": "temp"})
	w.want(200, "root", "PUT", "/v1/clients/"+id, service(map[string]any{"roles": []string{"temp", "viewer"}}), "If-Match: *")
	w.want(409, "root", "DELETE", "/v1/tenants/acme/roles/temp", nil)
	w.want(204, "root", "DELETE", "/v1/tenants/acme/roles/temp?remove=true", nil)
	if r := w.want(200, "root", "GET", "/v1/clients/"+id, nil); !slices.Equal(r.field("roles").([]any), []any{"viewer"}) {
		t.Errorf("it is %s", r)
	}
}

// No caller creates or becomes a client that holds more than they do.
func TestAClientGrantsItsCreatorNothingMore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	refused := func(who, method, path string, body any, headers ...string) {
		t.Helper()
		if r := w.want(403, who, method, path, body, headers...); r.text("code") != "more_than_held" {
			t.Errorf("%s %s: %s", method, path, r)
		}
	}
	in := func(more map[string]any) map[string]any { more["tenant"] = "acme"; return service(more) }
	refused("tina", "POST", "/v1/clients", in(map[string]any{"roles": []string{"auditor"}}))
	refused("tina", "POST", "/v1/clients", in(map[string]any{"scopes": []string{"s2s:internal"}}))
	refused("tina", "POST", "/v1/clients", in(map[string]any{"scopes": []string{iam.ScopePlatformAdmin}}))
	w.want(403, "tina", "POST", "/v1/clients", service(nil)) // of the platform
	w.want(404, "tina", "POST", "/v1/clients", service(map[string]any{"tenant": "globex"}))

	strong := w.client("acme", map[string]any{"roles": []string{"auditor"}})
	scoped := w.client("acme", map[string]any{"scopes": []string{"s2s:internal"}})
	before := w.RAuth.Provisioned()
	for _, id := range []string{strong, scoped} {
		refused("tina", "POST", "/v1/clients/"+id+"/secrets:rotate", nil)
		refused("tina", "PUT", "/v1/clients/"+id, map[string]any{"client_name": "mine", "redirect_uris": []string{"https://attacker.example.com/"}}, "If-Match: *")
		refused("tina", "PUT", "/v1/clients/"+id, service(nil), "If-Match: *")
		refused("tina", "PATCH", "/v1/clients/"+id, map[string]any{"status": "blocked"})
		refused("tina", "POST", "/v1/clients/"+id+":revoke", nil)
		refused("tina", "DELETE", "/v1/clients/"+id, nil)
	}
	weak := w.client("acme", nil)
	refused("tina", "PUT", "/v1/clients/"+weak, service(map[string]any{"roles": []string{"auditor"}}), "If-Match: *")
	for id, m := range before {
		if got := w.RAuth.Provisioned()[id]; got["client_name"] != m["client_name"] || len(w.RAuth.Secrets(id)) != 1 {
			t.Errorf("%s was changed to %v", id, got)
		}
	}
	// Whose membership ends gives nothing that does not.
	w.member("acme", "temp", iam.RoleTenantAdmin, "viewer")
	user := w.user("temp")
	w.OK(w.DB.PutMembership(ctx, iam.Membership{Tenant: "acme", User: user, Status: iam.MembershipActive, Roles: []string{iam.RoleTenantAdmin, "viewer"}, ExpiresAt: time.Now().Add(time.Hour)}))
	refused("temp", "POST", "/v1/clients", in(map[string]any{"roles": []string{"viewer"}}))
	lasting := w.client("acme", map[string]any{"roles": []string{"viewer"}})
	refused("temp", "POST", "/v1/clients/"+lasting+"/secrets:rotate", nil)
	w.want(201, "temp", "POST", "/v1/clients", in(map[string]any{}))
	w.want(200, "temp", "PATCH", "/v1/clients/"+lasting, map[string]any{"status": "blocked"})
	refused("temp", "PATCH", "/v1/clients/"+lasting, map[string]any{"status": "active"})
	if r := w.want(200, "root", "GET", "/v1/clients/"+lasting, nil); r.text("status") != "blocked" {
		t.Errorf("it is %s", r)
	}
	w.want(200, "temp", "POST", "/v1/clients/"+lasting+":revoke", nil)
	w.want(200, "temp", "PATCH", "/v1/clients/"+weak, map[string]any{"status": "blocked"})
	w.want(200, "temp", "PATCH", "/v1/clients/"+weak, map[string]any{"status": "active"}) // it means nothing

	// Another's client is not there, whatever is tried; nor is one of the platform.
	foreign, platform := w.client("globex", nil), w.client("", nil)
	for _, id := range []string{foreign, platform, "3f6f0c1e-0000-4000-8000-000000000000", "x", "drift2"} {
		r := w.want(404, "tina", "GET", "/v1/clients/"+id, nil)
		if r.text("detail") != "not found" {
			t.Errorf("%s: %s", id, r)
		}
		w.want(404, "tina", "DELETE", "/v1/clients/"+id, nil)
	}
}

// What a generous policy allows is held to what its caller holds: a client of the platform
// is the platform administrator's.
func TestAPermissivePolicyGrantsNoPlatformClients(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{adminRego: "package iam.admin\n\n# METADATA\n# entrypoint: true\ndecision := {\"allow\": true, \"reasons\": []}\n"})
	platform := w.client("", nil)
	for _, who := range []string{"tina", "stranger"} {
		for _, r := range []reply{
			w.call(who, "POST", "/v1/clients", service(nil)), w.call(who, "POST", "/v1/clients/"+platform+"/secrets:rotate", nil),
			w.call(who, "PATCH", "/v1/clients/"+platform, map[string]any{"status": "blocked"}), w.call(who, "DELETE", "/v1/clients/"+platform, nil),
		} {
			if r.status != 403 || r.text("code") != "more_than_held" {
				t.Errorf("%s: %s", who, r)
			}
		}
	}
}

// grant asks the token endpoint as a program does, and returns the status and the token.
func (w *adminWorld) grant(id, secret, audience string) (int, string) {
	w.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {secret}}
	if audience != "" {
		form.Set("audience", audience)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.RAuth.Issuer+"/token", strings.NewReader(form.Encode()))
	w.OK(err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(req)
	w.OK(err)
	defer resp.Body.Close()
	var got struct {
		Token string `json:"access_token"`
	}
	w.OK(json.NewDecoder(resp.Body).Decode(&got))
	return resp.StatusCode, got.Token
}

// A program that is made here gets a token that the gateway accepts, if it asks for the
// gateway's audience. Other audiences are the platform administrator's to grant, and so is
// everything about a client that has one.
func TestAClientGetsTokensForItsAudiences(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	r := w.want(201, "tina", "POST", "/v1/clients", service(map[string]any{"tenant": "acme"}))
	id, secret := r.text("client_id"), r.text("client_secret")
	if fmt.Sprint(r.field("audience")) != "["+devstack.Audience+"]" || fmt.Sprint(w.RAuth.Provisioned()[id]["audience"]) != "["+devstack.Audience+"]" {
		t.Errorf("it is %s, and there %v", r, w.RAuth.Provisioned()[id])
	}
	for audience, want := range map[string][2]int{devstack.Audience: {200, 200}, "": {200, 401}, devstack.AdminAudience: {400, 0}} {
		status, token := w.grant(id, secret, audience)
		gateway := 0
		if token != "" {
			gateway, _, _ = w.Ask("GET /system/enrich-token", world.Bearer(token))
		}
		if status != want[0] || gateway != want[1] {
			t.Errorf("%q: the token endpoint answers %d, the gateway %d, want %v", audience, status, gateway, want)
		}
	}

	path := "/v1/clients/" + id
	both := service(map[string]any{"audience": []string{devstack.Audience, devstack.AdminAudience}})
	if r = w.want(403, "tina", "PUT", path, both, "If-Match: *"); r.text("code") != "more_than_held" || !slices.Equal(r.pointers(), []string{"/audience/1"}) {
		t.Errorf("tina grants the admin audience: %s", r)
	}
	for _, wrong := range [][]string{{"two words"}, {""}, {strings.Repeat("x", 256)}, {"a", "a"}, {`"`}, {"ä"}} {
		if r = w.want(422, "root", "PUT", path, service(map[string]any{"audience": wrong}), "If-Match: *"); len(r.pointers()) != 1 || !strings.HasPrefix(r.pointers()[0], "/audience/") {
			t.Errorf("%q: %s", wrong, r)
		}
	}
	w.want(200, "root", "PUT", path, both, "If-Match: *")
	if status, _ := w.grant(id, secret, devstack.AdminAudience); status != 200 {
		t.Errorf("the admin audience: %d", status)
	}
	w.want(403, "tina", "PUT", path, service(nil), "If-Match: *")
	w.want(403, "tina", "POST", path+"/secrets:rotate", nil)
	w.want(403, "tina", "PATCH", path, map[string]any{"status": "blocked"})
	w.want(200, "root", "PUT", path, service(nil), "If-Match: *")
	if r = w.want(200, "tina", "GET", path, nil); fmt.Sprint(r.field("audience")) != "["+devstack.Audience+"]" {
		t.Errorf("it is %s", r)
	}
	w.want(200, "tina", "PATCH", path, map[string]any{"status": "blocked"})
}
