package console_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/dev/devrauth"
	"iam-service/internal/dev/devstack"
	"iam-service/internal/dev/freeport"
	"iam-service/internal/dev/logbuffer"
	"iam-service/internal/dev/world"
	"iam-service/internal/server"
	"iam-service/internal/telemetry"
)

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
