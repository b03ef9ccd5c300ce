package console_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/dev/devrauth"
	"iam-service/internal/dev/devstack"
	"iam-service/internal/dev/freeport"
	"iam-service/internal/dev/logbuffer"
	"iam-service/internal/dev/pgtest"
	"iam-service/internal/dev/world"
	"iam-service/internal/server"
	"iam-service/internal/telemetry"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

// site is the service with its console, real PostgreSQL, and the development R-Auth over HTTP.
type site struct {
	testing.TB
	rauth    *devrauth.Server
	database string
	key      string
	logs     *logbuffer.Buffer
	replicas []string // CONSOLE_URL of each, on their own addresses
	gateway  string   // of the first
}

// newSite starts as many replicas. settings go over the usual ones.
func newSite(t testing.TB, replicas int, settings ...string) *site {
	t.Helper()
	s := &site{TB: t, rauth: world.Provider(t, "main"), key: strings.Repeat("key-of-the-tests.", 3), logs: &logbuffer.Buffer{}}
	s.database = world.SampleURL(t, s.rauth.Issuer)
	s.rauth.Users = map[string]map[string]any{}
	for _, name := range []string{"root", "tina", "alice", "bob", "audrey"} {
		s.rauth.Users[name] = map[string]any{"sub": name}
	}
	s.rauth.Clients = []devrauth.Client{{ID: "console", Scopes: []string{"openid", "offline_access"}, Audience: []string{devstack.AdminAudience, "elsewhere"}}}
	for range replicas {
		s.replica(settings...)
	}
	return s
}

func (s *site) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// replica starts one more and returns its CONSOLE_URL.
func (s *site) replica(settings ...string) string {
	s.Helper()
	addrs, err := freeport.Addrs(3)
	s.ok(err)
	consoleURL := "http://" + addrs[1] + "/console"
	s.rauth.Clients[0].RedirectURIs = append(s.rauth.Clients[0].RedirectURIs, consoleURL+"/callback")
	s.rauth.Clients[0].LogoutURIs = append(s.rauth.Clients[0].LogoutURIs, consoleURL+"/")
	environ := append([]string{
		"DATABASE_URL=" + s.database, "RAUTH_URL=" + s.rauth.Issuer, "RAUTH_AUDIENCES=" + devstack.Audience, "ADMIN_AUDIENCE=" + devstack.AdminAudience,
		"GATEWAY_ADDR=" + addrs[0], "ADMIN_ADDR=" + addrs[1], "OPS_ADDR=" + addrs[2], "SHUTDOWN_DELAY=0s", "TRUSTED_PROXIES=10.0.0.0/8",
		"CONSOLE_URL=" + consoleURL, "CONSOLE_CLIENT_ID=console", "CONSOLE_KEY=" + s.key, "DATABASE_FACTS_CONNS=3", "DATABASE_ADMIN_CONNS=6", "ENRICH_DEADLINE=10s", // on a busy machine
	}, settings...)
	cfg, err := server.ParseConfig(environ)
	s.ok(err)
	log := telemetry.NewLog(s.logs, slog.LevelDebug)
	ctx, stop := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- server.Serve(ctx, cfg, log, func(server.Addrs) { close(ready) }) }()
	s.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			s.Errorf("a replica ended with: %v", err)
		}
		log.Close()
	})
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		s.Fatalf("a replica did not start: %v\n%s", err, s.logs.String())
	}
	s.replicas = append(s.replicas, consoleURL)
	if s.gateway == "" {
		s.gateway = addrs[0]
	}
	return consoleURL
}

// sql runs a statement in the database.
func (s *site) sql(statement string, args ...any) {
	s.Helper()
	conn, err := pgx.Connect(s.Context(), s.database)
	s.ok(err)
	defer conn.Close(context.WithoutCancel(s.Context()))
	_, err = conn.Exec(s.Context(), statement, args...)
	s.ok(err)
}

// browser is one of a person, at one replica.
type browser struct {
	*site
	console string
	client  *http.Client
}

func (s *site) browser(console string) *browser {
	jar, err := cookiejar.New(nil)
	s.ok(err)
	return &browser{site: s, console: console, client: &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// response is what came back.
type response struct {
	status int
	header http.Header
	body   string
}

func (r response) json() (m map[string]any) {
	_ = json.Unmarshal([]byte(r.body), &m) // not an object: nil
	return m
}

func (r response) code() string { c, _ := r.json()["code"].(string); return c }

// send sends a request as the page does, unless headers say otherwise; "" removes one.
func (b *browser) send(method, path, body string, headers ...string) response {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), method, b.console+path, strings.NewReader(body))
	b.ok(err)
	req.Header.Set("X-Requested-With", "iam-console")
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		if req.Header.Del(headers[i]); headers[i+1] != "" {
			req.Header.Set(headers[i], headers[i+1])
		}
	}
	return b.do(req)
}

func (b *browser) do(req *http.Request) response {
	b.Helper()
	resp, err := b.client.Do(req)
	b.ok(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	b.ok(err)
	return response{resp.StatusCode, resp.Header, string(text)}
}

// visit is a navigation to a URL.
func (b *browser) visit(to string) response {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, to, http.NoBody)
	b.ok(err)
	return b.do(req)
}

// begin begins a login, and returns the URL at the provider.
func (b *browser) begin(query string) *url.URL {
	b.Helper()
	r := b.visit(b.console + "/login" + query)
	u, err := url.Parse(r.header.Get("Location"))
	if r.status != http.StatusFound || err != nil {
		b.Fatalf("login responded %d %s", r.status, r.header.Get("Location"))
	}
	return u
}

// consent is the provider's redirect back for a user.
func (b *browser) consent(at *url.URL, user string) string {
	b.Helper()
	q := at.Query()
	q.Set("dev_user", user)
	with := *at
	with.RawQuery = q.Encode()
	r := b.visit(with.String())
	if r.status != http.StatusSeeOther {
		b.Fatalf("the provider responded %d: %s", r.status, r.body)
	}
	return r.header.Get("Location")
}

// login signs a user in.
func (b *browser) login(user string) *browser {
	b.Helper()
	if r := b.visit(b.consent(b.begin(""), user)); r.status != http.StatusSeeOther || r.header.Get("Location") != "./#/" {
		b.Fatalf("callback responded %d %s\n%s", r.status, r.header.Get("Location"), b.logs.String())
	}
	return b
}

// signedIn returns a browser in which a user has signed in at the first replica.
func (s *site) signedIn(user string) *browser {
	s.Helper()
	return s.browser(s.replicas[0]).login(user)
}

func (b *browser) cookie(name string) *http.Cookie {
	u, err := url.Parse(b.console + "/")
	b.ok(err)
	for _, c := range b.client.Jar.Cookies(u) {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// setSession puts a value of a session cookie into the browser.
func (b *browser) setSession(value string) *browser {
	u, err := url.Parse(b.console + "/")
	b.ok(err)
	b.client.Jar.SetCookies(u, []*http.Cookie{{Name: "iam-console", Value: value, Path: "/console/"}})
	return b
}

func (b *browser) session() string { return b.cookie("iam-console").Value }

func (b *browser) ended(why string) {
	b.Helper()
	if r := b.send("GET", "/api/v1/me", ""); r.status != http.StatusUnauthorized || r.code() != "session_ended" {
		b.Errorf("%s: the API responded %d %s", why, r.status, r.body)
	}
	if r := b.send("GET", "/session", ""); r.json()["authenticated"] != false {
		b.Errorf("%s: session responded %s", why, r.body)
	}
}

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

func TestALoginThatWasNotBegunHereFails(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1)
	in := func(b *browser, back, want string) {
		t.Helper()
		r := b.visit(back)
		if r.status != http.StatusSeeOther || r.header.Get("Location") != "./#/signed-out?error="+want {
			t.Errorf("callback responded %d %s, want %s", r.status, r.header.Get("Location"), want)
		}
		b.ended(want)
	}
	change := func(back, name, value string) string {
		u, err := url.Parse(back)
		s.ok(err)
		q := u.Query()
		q.Set(name, value)
		u.RawQuery = q.Encode()
		return u.String()
	}
	fresh := func() *browser { return s.browser(s.replicas[0]) }
	t.Run("another browser's: login CSRF", func(*testing.T) {
		attacker, victim := fresh(), fresh()
		back := attacker.consent(attacker.begin(""), "bob")
		in(victim, back, "login_expired")
		victim.begin("") // with a login of the victim's own under way
		in(victim, back, "login_failed")
	})
	t.Run("another state", func(*testing.T) {
		b := fresh()
		in(b, change(b.consent(b.begin(""), "bob"), "state", "AAAAAAAAAAAAAAAAAAAAAAAAAA"), "login_failed")
	})
	t.Run("another login's code: PKCE", func(*testing.T) {
		attacker, victim := fresh(), fresh()
		stolen, err := url.Parse(attacker.consent(attacker.begin(""), "bob"))
		s.ok(err)
		in(victim, change(victim.consent(victim.begin(""), "alice"), "code", stolen.Query().Get("code")), "login_failed")
	})
	t.Run("another nonce", func(*testing.T) {
		b := fresh()
		at := b.begin("")
		q := at.Query()
		q.Set("nonce", "of-another-login")
		at.RawQuery = q.Encode()
		in(b, b.consent(at, "bob"), "login_failed")
	})
	t.Run("another provider's: mix-up", func(*testing.T) {
		b := fresh()
		in(b, change(b.consent(b.begin(""), "bob"), "iss", "https://evil.example"), "login_failed")
	})
	t.Run("a token for another audience", func(*testing.T) {
		b := fresh()
		at := b.begin("")
		q := at.Query()
		q.Set("audience", "elsewhere")
		at.RawQuery = q.Encode()
		in(b, b.consent(at, "bob"), "login_failed")
	})
	t.Run("denied", func(*testing.T) {
		b := fresh()
		in(b, b.consent(b.begin(""), "deny"), "access_denied")
	})
	t.Run("replayed", func(t *testing.T) {
		b := fresh()
		at := b.begin("")
		cookie, back := b.cookie("iam-console-login"), b.consent(at, "bob")
		if r := b.visit(back); r.header.Get("Location") != "./#/" {
			t.Fatalf("the first responded %s", r.header.Get("Location"))
		}
		in(fresh(), back, "login_expired")
		thief := fresh() // with the cookie too
		u, err := url.Parse(thief.console + "/")
		s.ok(err)
		cookie.Path = "/console/"
		thief.client.Jar.SetCookies(u, []*http.Cookie{cookie})
		in(thief, back, "login_failed")
	})
	t.Run("the provider is away", func(t *testing.T) {
		b := fresh()
		back := b.consent(b.begin(""), "bob")
		s.rauth.SetGone(true)
		defer s.rauth.SetGone(false)
		if r := b.visit(back); r.header.Get("Location") == "./#/" {
			t.Error("signed in without the provider")
		}
	})
}

func TestALoginReturnsToThePageAlone(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1)
	for _, to := range []string{"https://evil.example", "//evil.example", "/../evil", "#evil", "#//", "#/\r\nSet-Cookie: a=b", "#/<script>", "", "#/" + strings.Repeat("a", 3000), "./#/", "javascript:alert(1)", "#/ü"} {
		b := s.browser(s.replicas[0])
		r := b.visit(b.consent(b.begin("?return="+url.QueryEscape(to)), "tina"))
		got := r.header.Get("Location")
		if at, err := url.Parse(b.console + "/callback"); err != nil || got != "./#/" && (to != "#//" || got != "./#//") {
			t.Errorf("%q leads to %q", to, got)
		} else if end, err := at.Parse(got); err != nil || end.Host != at.Host || end.Path != "/console/" {
			t.Errorf("%q leads to %v", to, end)
		}
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
