package console_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/dev/devhydra"
	"iam-service/internal/dev/devrauth"
	"iam-service/internal/dev/devstack"
	"iam-service/internal/dev/logbuffer"
	"iam-service/internal/dev/world"
)

// The whole life of a session with Ory Hydra as R-Auth: the development one must be no kinder.
func TestAPersonSignsInByOryHydra(t *testing.T) {
	t.Parallel()
	h := devhydra.ForTest(t)
	s := &site{TB: t, database: world.SampleURL(t, h.Issuer), key: strings.Repeat("key-of-the-tests.", 3), logs: &logbuffer.Buffer{}}
	s.rauth = &devrauth.Server{Issuer: h.Issuer, Clients: []devrauth.Client{{}}} // its addresses alone
	console := s.replica("RAUTH_TOKEN_TYPES=at+jwt,JWT", "START_TIMEOUT=60s")    // Hydra creates its keys when they are first asked for
	s.ok(h.Client(t.Context(), map[string]any{
		"client_id": "console", "grant_types": []string{"authorization_code", "refresh_token"}, "response_types": []string{"code"},
		"redirect_uris": []string{console + "/callback"}, "post_logout_redirect_uris": []string{console + "/"},
		"token_endpoint_auth_method": "none", "scope": "openid offline_access", "audience": []string{devstack.AdminAudience},
		"authorization_code_grant_access_token_lifespan": "8s", // so short that each request finds it due
	}))
	b := s.browser(console)
	person, err := h.Person("tina")
	s.ok(err)
	back, err := person.Allow(t.Context(), b.begin("?return=%23/tenants").String())
	s.ok(err)
	if r := b.visit(back.String()); r.status != http.StatusSeeOther || r.header.Get("Location") != "./#/tenants" {
		t.Fatalf("callback responded %d %s\n%s", r.status, r.header.Get("Location"), s.logs.String())
	}
	sealed := func() (text string) {
		conn, err := pgx.Connect(t.Context(), s.database)
		s.ok(err)
		defer conn.Close(t.Context())
		s.ok(conn.QueryRow(t.Context(), `SELECT encode(sealed, 'hex') FROM console_sessions`).Scan(&text))
		return text
	}
	before := sealed()
	if r := b.send("GET", "/api/v1/me", ""); r.status != 200 || r.json()["subject"] != "tina" {
		t.Fatalf("me responded %d %s\n%s", r.status, r.body, s.logs.String())
	}
	if sealed() == before {
		t.Error("the access token was not refreshed")
	}
	if r := b.send("GET", "/api/v1/tenants/acme/members", ""); r.status != 200 { // the rotated refresh token works
		t.Errorf("members responded %d %s", r.status, r.body)
	}
	out := b.send("POST", "/logout", "")
	redirect, _ := out.json()["redirect"].(string)
	end, err := person.Logout(t.Context(), redirect)
	if err != nil || end.String() != console+"/" {
		t.Errorf("Hydra's logout of %s leads to %v, %v", redirect, end, err)
	}
	b.ended("logout")
}
