package setup_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"iam-service/internal/dev/world"
	"iam-service/internal/policy"
)

// forged are all identity headers, as a client would set them.
func forged() []string {
	var lines []string
	for _, h := range policy.DefaultHeaders {
		if h != "X-Active-Tenant-ID" { // a hint of the client
			lines = append(lines, h+": forged")
		}
	}
	return lines
}

// aliased are spellings that a backend could fold to an identity header.
func aliased() []string {
	var lines []string
	for _, h := range policy.DefaultHeaders {
		lines = append(lines, strings.ReplaceAll(h, "-", "_")+": forged", strings.ReplaceAll(h, "-", ".")+": forged", strings.Replace(h, "-", "_", 1)+": forged")
	}
	return lines
}

// noForged fails if a value of the client reached the backend in an identity header or an alias of one.
func (s *stage) noForged(a answer) {
	s.Helper()
	if a.seen == nil {
		return
	}
	for name, values := range a.seen.Header {
		if strings.Contains(strings.Join(values, ","), "forged") {
			s.Errorf("%s: %s reached the backend", name, values)
		}
		if len(values) > 1 {
			s.Errorf("%s is there %d times", name, len(values))
		}
	}
}

// Each gateway runs the configuration that the generator prints for it.
func TestAGatewayWithItsGeneratedConfiguration(t *testing.T) {
	t.Parallel()
	for _, p := range programs {
		t.Run(p.kind, func(t *testing.T) {
			t.Parallel()
			s := start(t, p, "")
			t.Run("passes the claims of an allowed user", s.allows)
			t.Run("lets no forged header through", s.stripsForged)
			t.Run("passes denials on", s.denies)
			t.Run("sends the facts of the request", s.sendsFacts)
			t.Run("passes an upgrade on", s.upgrades)
			t.Run("serves a user's own tenants", s.servesTenants)
			t.Run("answers 503 while the service fails closed", s.failsClosed)
			t.Run("denies while the service hangs or is away", s.deniesWithoutAnAnswer)
		})
	}
}

func (s *stage) in(t *testing.T) *stage {
	sub := *s
	sub.T = t
	return &sub
}

func (s *stage) allows(t *testing.T) {
	s = s.in(t)
	a := s.send("GET /orders/1?x=y", s.bearer("alice"))
	if a.status != 200 || a.seen == nil {
		t.Fatalf("%d %s\n%s", a.status, a.body, s.log)
	}
	if h := a.seen.Header; h.Get("X-User-Subject") != "alice" || h.Get("X-Tenant-ID") != "acme" || h.Get("X-User-Roles") == "" || a.seen.Target != "/orders/1?x=y" {
		t.Errorf("the backend got %v", a.seen)
	}
	a = s.send("POST /orders", s.bearer("alice"), "X-Active-Tenant-ID: globex", "Content-Length: 0")
	if a.status != 200 || a.seen.Header.Get("X-Tenant-ID") != "globex" || a.seen.Header.Get("X-Active-Tenant-ID") != "globex" || a.seen.Method != "POST" {
		t.Errorf("a switch of the tenant: %d %v", a.status, a.seen)
	}
}

func (s *stage) stripsForged(t *testing.T) {
	s = s.in(t)
	for name, c := range map[string]struct {
		line  string
		lines []string
	}{
		"of a user":              {"GET /a", append(forged(), s.bearer("alice"))},
		"of an anonymous caller": {"GET /public", forged()},
		"aliases, of a user":     {"GET /a", append(aliased(), s.bearer("alice"))},
		"aliases, anonymous":     {"GET /public", aliased()},
		"twice":                  {"GET /a", append(append(forged(), forged()...), s.bearer("alice"))},
	} {
		a := s.send(c.line, c.lines...)
		if a.status != 200 && a.status != 400 || a.status == 200 && a.seen == nil {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
		s.noForged(a)
	}
	for _, connection := range []string{"X-Tenant-ID", "close, x-tenant-id, X-User-Roles", "keep-alive, X-User-Subject"} {
		a := s.send("GET /a", s.bearer("alice"), "Connection: "+connection)
		if a.status == 200 && (a.seen.Header.Get("X-Tenant-ID") != "acme" || a.seen.Header.Get("X-User-Subject") != "alice" || a.seen.Header.Get("X-User-Roles") == "") {
			t.Errorf("Connection: %s removed claims: %v", connection, a.seen.Header)
		}
	}
	a := s.send("GET /a", s.bearer("alice"), "X-Forwarded-Uri: /public", "X-Original-URL: http://app.example.com/public", "X-Original-URI: /public", "X-Forwarded-Method: OPTIONS",
		"X-Upstream-IdP-ID: other", "Forwarded: for=6.6.6.6", "X-Forwarded-For: 6.6.6.6", "X-Forwarded-Host: evil.example.com", "X-Forwarded-Proto: https", "X-Original-Method: OPTIONS")
	if a.status != 200 {
		t.Errorf("what a client says of its request is not removed: %d %s", a.status, a.body)
	} else {
		for _, name := range []string{"X-Forwarded-Uri", "X-Original-Url", "X-Original-Uri", "X-Upstream-Idp-Id", "Forwarded"} {
			if v := a.seen.Header.Get(name); v != "" {
				t.Errorf("the backend got %s: %s of the client", name, v)
			}
		}
		if strings.Contains(a.seen.Header.Get("X-Forwarded-Host"), "evil") || strings.Contains(a.seen.Header.Get("X-Forwarded-For"), "6.6.6.6") {
			t.Errorf("the backend got what the client says of itself: %v", a.seen.Header)
		}
	}
}

func (s *stage) denies(t *testing.T) {
	s = s.in(t)
	before := s.backend.requests()
	for name, c := range map[string]struct {
		lines     []string
		status    int
		challenge string
	}{
		"without a token":               {nil, 401, "Bearer"},
		"with a bad token":              {[]string{"Authorization: Bearer bad"}, 401, `Bearer error="invalid_token"`},
		"no member of the tenant":       {[]string{s.bearer("bob"), "X-Active-Tenant-ID: acme"}, 403, ""},
		"with two tenant hints":         {[]string{s.bearer("alice"), "X-Active-Tenant-ID: acme", "X-Active-Tenant-ID: globex"}, 403, ""},
		"with forged facts and a token": {append(forged(), "Authorization: Bearer bad", "X-Forwarded-Uri: /public"), 401, "Bearer"},
	} {
		a := s.send("GET /a", c.lines...)
		if name == "with two tenant hints" && a.status == 200 {
			if s.kind == "nginx" && a.seen != nil { // before 1.23, nginx passes the lines on and we refuse; since then it joins them
				t.Errorf("%s: 200", name)
			}
		}
		if a.status != c.status || a.seen != nil {
			t.Errorf("%s: %d %s, want %d", name, a.status, a.body, c.status)
			continue
		}
		if got := a.header.Values("WWW-Authenticate"); c.challenge != "" && (len(got) != 1 || !strings.HasPrefix(got[0], c.challenge)) {
			t.Errorf("%s: WWW-Authenticate is %q", name, got)
		}
		if s.keeps403 && (!strings.HasPrefix(a.header.Get("Content-Type"), "application/problem+json") || !strings.Contains(a.body, `"status":`)) {
			t.Errorf("%s: no problem document: %v %s", name, a.header, a.body)
		}
		if s.keeps403 && name == "no member of the tenant" && !strings.Contains(a.body, `"instance":"/decisions/`) {
			t.Errorf("%s: no id of the decision: %s", name, a.body)
		}
		for _, h := range policy.DefaultHeaders {
			if a.header.Get(h) != "" {
				t.Errorf("%s: the denial has %s", name, h)
			}
		}
	}
	if now := s.backend.requests(); now != before {
		t.Errorf("%d denied requests reached the backend", now-before)
	}
}

// readsFacts allows where every fact of the request is as the client sent it.
const readsFacts = `package iam.claims

decision := {"allow": ok, "tenant": "", "status": 403, "headers": {"X-User-Subject": "seen"}}

default ok := false

ok if {
	input.request.method == "PUT"
	input.request.path == "/a b/c"
	input.request.raw_path == "/a%20b/c"
	input.request.host == "app.example.com"
	input.request.scheme == "http"
	input.request.client_ip == "127.0.0.1"
}
`

func (s *stage) sendsFacts(t *testing.T) {
	s = s.in(t)
	s.world.Load(world.Policy{Rego: readsFacts})
	defer s.world.Load(s.usual())
	a := s.send("PUT /a%20b/c?d=e", s.bearer("alice"), "Content-Length: 4", "X-Forwarded-For: 6.6.6.6", "", "body")
	if a.status != 200 {
		t.Errorf("%d %s\n%s", a.status, a.body, s.world.Logs)
	}
	if a = s.send("PUT /a/c", s.bearer("alice"), "Content-Length: 0"); a.status != 403 {
		t.Errorf("another path: %d %s", a.status, a.body)
	}
}

func (s *stage) usual() world.Policy {
	return world.Policy{Config: map[string]any{"anonymous": map[string]any{"paths": []any{"/public"}, "preflight": true}}}
}

func (s *stage) upgrades(t *testing.T) {
	s = s.in(t)
	upgrade := []string{"Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"}
	a := s.send("GET /socket", append(upgrade, s.bearer("alice"), "Connection: Upgrade, X-Tenant-ID")...)
	if a.status != http.StatusSwitchingProtocols || a.header.Get("X-Seen-Tenant") != "acme" {
		t.Errorf("%d %v %s", a.status, a.header, a.body)
	}
	if a := s.send("GET /socket", append(upgrade, "Connection: Upgrade")...); a.status != 401 {
		t.Errorf("without a token: %d", a.status)
	}
	a = s.send("OPTIONS /a", "Origin: https://a.example", "Access-Control-Request-Method: PUT")
	if a.status != 200 || a.seen == nil {
		t.Errorf("a preflight: %d %s", a.status, a.body)
	}
}

func (s *stage) servesTenants(t *testing.T) {
	s = s.in(t)
	if a := s.send("GET /v1/me/tenants", s.bearer("alice")); a.status != 200 || !strings.Contains(a.body, `"slug":"globex"`) || a.seen != nil {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := s.send("GET /v1/me/tenants"); a.status != 401 {
		t.Errorf("without a token: %d", a.status)
	}
}

func (s *stage) failsClosed(t *testing.T) {
	s = s.in(t)
	s.world.Load(world.Policy{Rego: "package iam.claims\n\ndecision := {\"allow\": true} if input.token.sub\n\ndecision := {\"allow\": false} if input.token.iss\n"})
	defer s.world.Load(s.usual())
	a := s.send("GET /a", append(forged(), s.bearer("alice"))...)
	if a.status < 500 || a.seen != nil {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if s.keeps503 && (a.status != 503 || a.header.Get("Retry-After") == "" || !strings.Contains(a.body, `"status":503`)) {
		t.Errorf("%d %v %s", a.status, a.header, a.body)
	}
}

func (s *stage) deniesWithoutAnAnswer(t *testing.T) {
	s = s.in(t)
	defer s.front.mode.Store(passing)
	for name, mode := range map[string]int32{"hangs": hanging, "is away": away} {
		s.front.mode.Store(mode)
		for _, line := range []string{"GET /a", "GET /public"} {
			a := s.send(line, append(forged(), s.bearer("alice"))...)
			if a.status < 500 || a.seen != nil {
				t.Errorf("%s, %s: %d %s", name, line, a.status, a.body)
			}
			if a.took > 3*time.Second {
				t.Errorf("%s, %s: the caller waited %s", name, line, a.took)
			}
		}
	}
}
