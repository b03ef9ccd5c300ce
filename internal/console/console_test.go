package console_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/dev/devstack"
	"iam-service/internal/dev/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

func TestAPersonSignsInCallsTheAPIAndSignsOut(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1)
	b := s.browser(s.replicas[0])
	if r := b.send("GET", "/session", ""); r.status != 200 || r.json()["authenticated"] != false {
		t.Fatalf("session responded %d %s", r.status, r.body)
	}
	at := b.begin("?return=" + url.QueryEscape("#/tenants/acme?tab=roles"))
	q := at.Query()
	for name, want := range map[string]string{
		"response_type": "code", "client_id": "console", "redirect_uri": b.console + "/callback", "scope": "openid offline_access",
		"code_challenge_method": "S256", "audience": devstack.AdminAudience,
	} {
		if q.Get(name) != want {
			t.Errorf("%s is %q, want %q", name, q.Get(name), want)
		}
	}
	r := b.visit(b.consent(at, "tina"))
	if r.status != http.StatusSeeOther || r.header.Get("Location") != "./#/tenants/acme?tab=roles" {
		t.Fatalf("callback responded %d %s\n%s", r.status, r.header.Get("Location"), s.logs.String())
	}
	for _, c := range (&http.Response{Header: r.header}).Cookies() {
		if c.Name == "iam-console" && (!c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/console/" || c.MaxAge != 8*3600) {
			t.Errorf("the cookie is %v", c)
		}
	}
	if b.cookie("iam-console-login") != nil {
		t.Error("the login cookie is still there")
	}
	if r := b.send("GET", "/session", "").json(); r["authenticated"] != true || r["subject"] != "tina" || r["issuer"] != s.rauth.Issuer {
		t.Errorf("session is %v", r)
	}
	me := b.send("GET", "/api/v1/me", "")
	if me.status != 200 || me.json()["subject"] != "tina" || me.header.Get("Content-Type") != "application/json" || me.header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("me responded %d %s %v", me.status, me.body, me.header)
	}
	if r := b.send("GET", "/api/openapi.json", ""); r.status != 200 || r.json()["openapi"] == nil {
		t.Errorf("the document responded %d", r.status)
	}
	created := b.send("PUT", "/api/v1/tenants/acme/roles/console-made", `{"permissions":["document:read"]}`, "If-None-Match", "*")
	if created.status != http.StatusCreated {
		t.Errorf("PUT of a role responded %d %s", created.status, created.body)
	}
	out := b.send("POST", "/logout", "")
	to, err := url.Parse(out.json()["redirect"].(string))
	if err != nil || !strings.HasPrefix(to.String(), s.rauth.Issuer+"/logout?") {
		t.Fatalf("logout responded %d %s", out.status, out.body)
	}
	if r := b.visit(to.String()); r.status != http.StatusSeeOther || r.header.Get("Location") != b.console+"/" {
		t.Errorf("the provider's logout responded %d %s", r.status, r.body)
	}
}

func TestThePageHasAStrictPolicyAndNoOtherOriginInIt(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1)
	b := s.browser(s.replicas[0])
	if r := b.visit(b.console); r.status != http.StatusTemporaryRedirect || r.header.Get("Location") != "console/" {
		t.Errorf("without the slash: %d %s", r.status, r.header.Get("Location"))
	}
	first, second := b.visit(b.console+"/"), b.visit(b.console+"/")
	policy := first.header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "script-src 'self';", "frame-ancestors 'none'", "base-uri 'none'", "connect-src 'self'", "form-action 'self'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("the policy %q lacks %s", policy, want)
		}
	}
	_, once, _ := strings.Cut(policy, "'nonce-")
	once, _, _ = strings.Cut(once, "'")
	if len(once) < 20 || !strings.Contains(first.body, `nonce="`+once+`"`) || strings.Contains(first.body, "__CSP_NONCE__") || strings.Contains(second.body, once) {
		t.Errorf("the nonce %q is not that of the page, or not new for each response", once)
	}
	if first.header.Get("Cache-Control") != "no-store" || first.header.Get("Referrer-Policy") != "no-referrer" || first.header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("headers of the page: %v", first.header)
	}
}

// writes are requests with an effect, or with something to read, each with a path of the page.
var writes = []struct{ method, path, body string }{
	{"GET", "/session?extend=1", ""}, {"POST", "/logout", ""}, {"GET", "/api/v1/me", ""}, {"GET", "/api/openapi.json", ""},
	{"PUT", "/api/v1/tenants/acme/roles/forged", `{"permissions":[]}`}, {"DELETE", "/api/v1/tenants/acme/roles/auditor", ""}, {"OPTIONS", "/api/v1/tenants", ""},
}

func TestAnotherOriginCannotActWithThePersonsCookie(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1)
	b := s.signedIn("tina")
	for name, headers := range map[string][]string{
		"no custom header":         {"X-Requested-With", ""},
		"another custom header":    {"X-Requested-With", "XMLHttpRequest"},
		"another origin":           {"Origin", "https://evil.example", "Sec-Fetch-Site", ""},
		"another site":             {"Sec-Fetch-Site", "cross-site"},
		"a sibling host":           {"Sec-Fetch-Site", "same-site"},
		"an opaque origin":         {"Origin", "null", "Sec-Fetch-Site", ""},
		"an origin of the host":    {"Origin", "https://" + strings.TrimPrefix(strings.TrimSuffix(b.console, "/console"), "http://"), "Sec-Fetch-Site", ""},
		"a navigation of the user": {"Sec-Fetch-Site", "none"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, w := range writes {
				r := b.send(w.method, w.path, w.body, headers...)
				if r.status != http.StatusForbidden || r.code() != "csrf" || r.header.Get("Access-Control-Allow-Origin") != "" {
					t.Errorf("%s %s responded %d %s", w.method, w.path, r.status, r.body)
				}
			}
		})
	}
	if r := b.send("GET", "/api/v1/tenants/acme/roles/forged", ""); r.status != http.StatusNotFound {
		t.Errorf("a role was created: %d", r.status)
	}
	if r := b.send("GET", "/session", "", "Origin", strings.TrimSuffix(b.console, "/console")); r.json()["authenticated"] != true {
		t.Errorf("the session ended, or the own origin is rejected: %s", r.body)
	}
	for _, dest := range []string{"image", "iframe", "empty"} {
		if r := b.send("GET", "/login", "", "Sec-Fetch-Dest", dest); r.status != http.StatusForbidden {
			t.Errorf("a login as %s responded %d", dest, r.status)
		}
	}
}

func TestASessionCookieIsUselessAfterItsEnd(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1)
	for name, end := range map[string]func(b *browser){
		"logout":             func(b *browser) { b.send("POST", "/logout", "") },
		"the idle limit":     func(b *browser) { b.only(`UPDATE console_sessions SET idle_ends_at = clock_timestamp()`) },
		"the absolute limit": func(b *browser) { b.only(`UPDATE console_sessions SET ends_at = clock_timestamp()`) },
		"the row is deleted": func(b *browser) { b.only(`DELETE FROM console_sessions`) },
		"ten newer logins": func(*browser) {
			for range 10 {
				s.signedIn("audrey")
			}
		},
	} {
		t.Run(name, func(t *testing.T) { // one after the other: sessions of one person are bounded together
			b := s.signedIn("audrey")
			value := b.session()
			if r := b.send("GET", "/api/v1/me", ""); r.status != 200 {
				t.Fatalf("before: %d %s", r.status, r.body)
			}
			end(b)
			b.setSession(value).ended(name)
		})
	}
}

// only runs a statement for the newest session.
func (b *browser) only(statement string) {
	b.Helper()
	b.sql(statement + ` WHERE created_at = (SELECT max(created_at) FROM console_sessions)`)
}

func TestUseExtendsTheIdleLimitAndReportingItDoesNot(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1)
	b := s.signedIn("tina")
	for _, c := range []struct {
		name, path string
		headers    []string
		extends    bool
	}{
		{name: "session", path: "/session"},
		{name: "a request of the page's own", path: "/api/v1/me", headers: []string{"X-Console-Background", "1"}},
		{name: "extend", path: "/session?extend=1", extends: true},
		{name: "a request", path: "/api/v1/me", extends: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.only(`UPDATE console_sessions SET idle_ends_at = clock_timestamp() + interval '1 min'`)
			before := b.send("GET", "/session", "").json()["idle_ends_at"]
			if r := b.send("GET", c.path, "", c.headers...); r.status != 200 {
				t.Fatalf("%d %s", r.status, r.body)
			}
			if after := b.send("GET", "/session", "").json()["idle_ends_at"]; (after != before) != c.extends {
				t.Errorf("the idle limit was %v, is %v", before, after)
			}
		})
	}
}

func TestASessionCookieOpensNothingElsewhereOrChanged(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1)
	alice, bob := s.signedIn("alice"), s.signedIn("bob")
	t.Run("one byte changed", func(t *testing.T) {
		value := alice.session()
		for i := range value {
			for _, c := range "Ab_" {
				if value[i] == byte(c) {
					continue
				}
				if r := s.browser(s.replicas[0]).setSession(value[:i]+string(c)+value[i+1:]).send("GET", "/session", ""); r.json()["authenticated"] != false {
					t.Fatalf("changed at %d, it is valid", i)
				}
				break
			}
		}
	})
	t.Run("another instance's key", func(*testing.T) {
		key := s.key
		s.key = strings.Repeat("another-key-of-another-one", 2)
		s.replica("CONSOLE_URL=" + s.replicas[0])
		s.key = key
		s.browser(s.replicas[1]).setSession(alice.session()).ended("another key")
	})
	t.Run("another person's row", func(*testing.T) {
		// An attacker that can write to the database puts bob's sealed tokens below the id of alice's cookie.
		s.sql(`UPDATE console_sessions a SET sealed = b.sealed FROM console_sessions b WHERE a.id <> b.id`)
		alice.ended("alice with bob's row")
		bob.ended("bob with alice's row")
	})
	t.Run("a login cookie", func(*testing.T) {
		b := s.browser(s.replicas[0])
		b.begin("")
		b.setSession(b.cookie("iam-console-login").Value).ended("a login cookie as a session")
	})
}

func TestAKeyIsReplacedWhileSessionsGoOn(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1)
	old := s.signedIn("tina")
	s.key = strings.Repeat("a-new-key-for-all-replicas", 2) + "," + s.key
	s.replica("CONSOLE_URL=" + s.replicas[0])
	b := s.browser(s.replicas[1]).setSession(old.session())
	if r := b.send("GET", "/api/v1/me", ""); r.status != 200 {
		t.Errorf("the old session responded %d %s", r.status, r.body)
	}
}

func TestARefreshTokenIsUsedOnceOverAllReplicas(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1)
	s.replica("CONSOLE_URL=" + s.replicas[0]) // the same console, on another address
	s.rauth.TTL = 5 * time.Second             // so short that every request finds it due
	b := s.signedIn("tina")
	s.rauth.TTL = 0 // what is refreshed is not
	other := s.browser(s.replicas[1]).setSession(b.session())
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			from := b
			if i%2 == 1 {
				from = other
			}
			r := from.send("GET", "/api/v1/me", "")
			if r.status != 200 {
				t.Errorf("a request responded %d %s", r.status, r.body)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.Log(s.logs.String())
	}
	if n := s.rauth.Refreshes(); n != 1 {
		t.Errorf("the refresh token was used %d times", n)
	}
}

func TestARejectedRefreshEndsTheSessionAndAnAbsentProviderDoesNot(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1)
	s.rauth.TTL = 5 * time.Second
	b := s.signedIn("tina")
	s.rauth.SetGone(true)
	if r := b.send("GET", "/api/v1/me", ""); r.status != 200 { // valid yet
		t.Errorf("with a valid token and no provider: %d %s", r.status, r.body)
	}
	s.rauth.SetGone(false)
	s.rauth.RevokeAll()
	b.ended("revoked at the provider")
}

func TestHeadersOfTheRequestAreNotThePersons(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1)
	root, err := s.rauth.Mint("ES256", map[string]any{"sub": "root", "aud": devstack.AdminAudience})
	s.ok(err)
	b := s.signedIn("alice")
	r := b.send("GET", "/api/v1/me", "", "Authorization", "Bearer "+root, "X-Forwarded-For", "203.0.113.9", "X-User-Id", "root", "X-Forwarded-Host", "evil.example")
	if r.status != 200 || r.json()["subject"] != "alice" {
		t.Errorf("as alice with root's token: %d %s", r.status, r.body)
	}
	if r := s.browser(s.replicas[0]).send("GET", "/api/v1/me", "", "Authorization", "Bearer "+root); r.status != http.StatusUnauthorized {
		t.Errorf("without a session, a token of the request responded %d", r.status)
	}
	if strings.Contains(s.logs.String(), "203.0.113.9") {
		t.Error("the address that the request claims reached the log")
	}
}

func TestOnlyTheAdminAPIIsBelowTheConsole(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1)
	b := s.signedIn("root")
	host := strings.TrimSuffix(strings.TrimPrefix(b.console, "http://"), "/console")
	for _, path := range []string{
		"/console/api/v1/../../metrics", "/console/api/v1/%2e%2e/scim/v2/Users", "/console/api/v1/..%2fscim/v2/Users", "/console/api//v1/tenants", "/console/api/v1//tenants",
		"/console/api/v1/./tenants", "/console/api/v1/%2E/tenants", `/console/api/v1/..\tenants`, "/console/api/v1/%5c..%5ctenants", "/console/api/scim/v2/Users", "/console/api/docs",
		"/console/api/clients", "/console/api/", "/console/api/v1", "/console/api/v1/", "/console/api/openapi.json/", "/console/api/.well-known/jwks.json", "/console/api/v1/tenants/%2e%2e/%2e%2e/docs",
	} {
		status := s.raw(host, "GET "+path+" HTTP/1.1\r\nHost: "+host+"\r\nCookie: iam-console="+b.session()+"\r\nX-Requested-With: iam-console\r\nConnection: close\r\n\r\n")
		if !slices.Contains([]string{"404", "400"}, status) {
			t.Errorf("%s responded %s", path, status)
		}
	}
}

// raw sends bytes and returns the status of the response.
func (s *site) raw(host, request string) string {
	s.Helper()
	conn, err := net.Dial("tcp", host)
	s.ok(err)
	defer conn.Close()
	_, err = conn.Write([]byte(request))
	s.ok(err)
	text, err := io.ReadAll(conn)
	s.ok(err)
	_, status, _ := strings.Cut(string(text), " ")
	return status[:min(3, len(status))]
}

func TestATenantsAdministratorSeesNothingOfAnotherTenant(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1)
	b := s.signedIn("tina") // of acme
	for _, path := range []string{
		"/tenants/globex", "/tenants/globex/members", "/tenants/globex/roles", "/tenants/globex/mappings", "/audit?tenant=globex", "/tenants", "/users", "/clients?tenant=globex", "/overview",
	} {
		if r := b.send("GET", "/api/v1"+path, ""); r.status != http.StatusForbidden && r.status != http.StatusNotFound || strings.Contains(r.body, "Globex") {
			t.Errorf("%s responded %d %s", path, r.status, r.body)
		}
	}
	if r := b.send("GET", "/api/v1/me", ""); strings.Contains(r.body, "globex") {
		t.Errorf("me is %s", r.body)
	}
}

func TestTextsOfTheAPIStayData(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1)
	b := s.signedIn("root")
	const script = "<script>alert(1)</script>"
	made := b.send("PUT", "/api/v1/tenants/xss", `{"slug":"xss","name":"`+script+`"}`, "If-None-Match", "*")
	if made.status != http.StatusCreated {
		t.Fatalf("%d %s", made.status, made.body)
	}
	for path, media := range map[string]string{"/api/v1/tenants/xss": "application/json", "/api/v1/tenants/" + url.PathEscape(script): "application/problem+json"} {
		r := b.send("GET", path, "")
		if r.header.Get("Content-Type") != media || r.header.Get("X-Content-Type-Options") != "nosniff" || !strings.Contains(r.header.Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("%s responded %d %v", path, r.status, r.header)
		}
	}
}

func TestNoTokenOrCookieIsLoggedOrStoredInPlainText(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1)
	s.rauth.TTL = 5 * time.Second
	b := s.browser(s.replicas[0])
	at := b.begin("")
	back := b.consent(at, "tina")
	b.visit(back)
	secrets := []string{b.session(), at.Query().Get("state"), at.Query().Get("nonce")}
	code, err := url.Parse(back)
	s.ok(err)
	secrets = append(secrets, code.Query().Get("code"))
	b.send("GET", "/api/v1/me", "")
	secrets = append(secrets, s.rauth.RefreshTokens()...)
	s.rauth.RevokeAll()
	b.send("GET", "/api/v1/me", "")
	s.browser(s.replicas[0]).visit(back)
	conn, err := pgx.Connect(t.Context(), s.database)
	s.ok(err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	s.signedIn("tina")
	var rows string
	s.ok(conn.QueryRow(t.Context(), `SELECT string_agg(encode(sealed, 'escape') || encode(id, 'hex') || encode(person, 'escape'), ' ') FROM console_sessions`).Scan(&rows))
	text := s.logs.String()
	for _, where := range []string{text, rows} {
		if where == "" || strings.Contains(where, "eyJ") {
			t.Error("there is nothing, or a JWT in it")
		}
		for i, secret := range append(secrets, s.key) {
			if secret == "" || strings.Contains(where, secret) {
				t.Errorf("secret %d (%d bytes) is in the log or the table", i, len(secret))
			}
		}
	}
	if !strings.Contains(text, "console login") {
		t.Error("the log has no line of the login")
	}
}

func TestADenialLeadsToItsExplanation(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1)
	token, err := s.rauth.Mint("ES256", map[string]any{"sub": "alice"})
	s.ok(err)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.gateway+"/system/enrich-token", http.NoBody)
	s.ok(err)
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("X-Active-Tenant-Id", "initech")
	r := s.browser(s.replicas[0]).do(req)
	if instance, _ := r.json()["instance"].(string); r.status != http.StatusForbidden || !strings.HasPrefix(instance, s.replicas[0]+"/#/decisions/") {
		t.Errorf("%d %s", r.status, r.body)
	}
}
