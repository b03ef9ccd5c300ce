package main

import (
	"fmt"
	"net/http"
	"slices"
	"testing"

	"iam-service/internal/dev/devhydra"
	"iam-service/internal/dev/devstack"
	"iam-service/internal/dev/freeport"
)

// The life of a client and of its tokens, with Ory Hydra as R-Auth: what Hydra really
// issues must be what enrichment takes.
func TestClientsAndTokensOfOryHydra(t *testing.T) {
	h := devhydra.ForTest(t)
	gateway, err := freeport.Addrs(1)
	if err != nil {
		t.Fatal(err)
	}
	p := newPlant(t, func(p *plant) {
		p.ok(h.Client(p.ctx, devhydra.Person("web", devstack.Audience, devstack.AdminAudience)))
		p.settings = []string{"RAUTH_URL=" + h.Issuer, "RAUTH_ADMIN_URL=" + h.Admin, "RAUTH_TOKEN_TYPES=at+jwt,JWT", "GATEWAY_ADDR=" + gateway[0]}
		var kept string
		p.root = func() (string, error) {
			var err error
			if kept == "" {
				kept, err = h.ByCode(p.ctx, "web", "root", devstack.AdminAudience)
			}
			return kept, err
		}
	})
	enrich := func(token string) (int, http.Header) {
		t.Helper()
		return p.enrich(gateway[0], token)
	}
	want := func(status int, r said) said {
		t.Helper()
		if r.status != status {
			t.Fatalf("answered %d %v, want %d", r.status, r.body, status)
		}
		return r
	}
	want(201, p.call("POST", "/v1/tenants", map[string]any{"id": "acme", "slug": "acme", "name": "Acme"}))
	want(201, p.call("POST", "/v1/tenants/acme/roles", map[string]any{"name": "reader", "permissions": []string{"document:read"}}))

	// A person.
	user := want(201, p.call("POST", "/v1/users", map[string]any{"issuer": h.Issuer, "subject": "alice"})).text("id")
	want(201, p.call("POST", "/v1/tenants/acme/members", map[string]any{"subject": "alice", "roles": []string{"reader"}}))
	token, err := h.ByCode(p.ctx, "web", "alice", devstack.Audience)
	p.ok(err)
	if status, got := enrich(token); status != http.StatusOK || got.Get("X-User-ID") != user || got.Get("X-User-Roles") != "reader" {
		t.Errorf("a person is answered %d %v", status, got)
	}

	// A program: registered here, it obtains a token there at once.
	wanted := map[string]any{"tenant": "acme", "client_name": "billing", "grant_types": []string{"client_credentials"}, "roles": []string{"reader"}, "scopes": []string{"document:read"}}
	made := want(201, p.call("POST", "/v1/clients", wanted))
	id, secret := made.text("client_id"), made.text("client_secret")
	token, err = h.ByCredentials(p.ctx, id, secret, devstack.Audience, "document:read")
	p.ok(err)
	status, got := enrich(token)
	if status != http.StatusOK || got.Get("X-Service-ID") != id || got.Get("X-Tenant-ID") != "acme" || got.Get("X-Scopes") != "document:read" || got.Get("X-User-Roles") != "reader" {
		t.Errorf("a program is answered %d %v", status, got)
	}
	if _, err := h.ByCredentials(p.ctx, id, secret, devstack.AdminAudience, ""); err == nil {
		t.Error("a program has a token for the admin API, which it was not given")
	}
	token, err = h.ByCredentials(p.ctx, id, secret, "", "document:read")
	p.ok(err)
	if status, _ := enrich(token); status != http.StatusUnauthorized {
		t.Errorf("a token for no audience is answered %d", status)
	}

	// A change keeps what others have set in Hydra, and what of it matters is reported.
	there, err := h.Metadata(p.ctx, id)
	p.ok(err)
	there["owner"], there["skip_consent"], there["client_credentials_grant_access_token_lifespan"] = "finance", true, "30m0s"
	p.ok(h.Client(p.ctx, there))
	wanted["client_name"] = "invoices"
	delete(wanted, "tenant") // it stays
	want(200, p.call("PUT", "/v1/clients/"+id, wanted, "If-Match: *"))
	there, err = h.Metadata(p.ctx, id)
	p.ok(err)
	if there["client_name"] != "invoices" || there["owner"] != "finance" || there["skip_consent"] != true || there["client_credentials_grant_access_token_lifespan"] != "30m0s" {
		t.Errorf("after a change Hydra has %v", there)
	}
	drift := want(200, p.call("GET", "/v1/clients/drift", nil))
	differences, _ := drift.body["differences"].([]any)
	if !slices.ContainsFunc(differences, func(d any) bool { return d.(map[string]any)["kind"] == "unmanaged" }) || len(differences) != 1 {
		t.Errorf("the drift is %v", drift.body)
	}

	// This Hydra has no rotation: a secret with an overlap is refused, another one takes its place at once.
	if r := want(422, p.call("POST", "/v1/clients/"+id+"/secrets:rotate", map[string]any{"overlap": "1h"})); r.text("code") != "rotation_unsupported" {
		t.Errorf("a rotation with overlap is answered %v", r.body)
	}
	second := want(200, p.call("POST", "/v1/clients/"+id+"/secrets:rotate", map[string]any{"overlap": "0"})).text("client_secret")
	if _, err := h.ByCredentials(p.ctx, id, secret, devstack.Audience, ""); err == nil {
		t.Error("the old secret still works")
	}
	token, err = h.ByCredentials(p.ctx, id, second, devstack.Audience, "")
	p.ok(err)
	if status, _ := enrich(token); status != http.StatusOK {
		t.Errorf("with the new secret it is answered %d", status)
	}

	// Deleted here, it is gone there, and its tokens are refused.
	want(204, p.call("DELETE", "/v1/clients/"+id, nil))
	there, err = h.Metadata(p.ctx, id)
	p.ok(err)
	if there != nil {
		t.Errorf("after its deletion Hydra has %v", there)
	}
	if status, _ := enrich(token); status != http.StatusUnauthorized {
		t.Errorf("after its deletion it is answered %d", status)
	}
	if failures := p.count(`SELECT count(*) FROM registrations WHERE sync = 'failed'`); failures > 0 {
		t.Error(fmt.Sprint(failures, " clients failed"))
	}
}
