package setup_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"iam-service/internal/dev/world"
	"iam-service/internal/policy"
)

// Each gateway runs the configuration that the generator prints for it.
func TestAGatewayWithItsGeneratedConfiguration(t *testing.T) {
	t.Parallel()
	for _, p := range programs {
		t.Run(p.kind, func(t *testing.T) {
			t.Parallel()
			s := start(t, p, options{})
			for _, row := range matrix {
				t.Run(row.name, func(t *testing.T) {
					sub := *s
					sub.T = t
					row.test(&sub)
				})
			}
		})
	}
}

// matrix is what each gateway must do. The last rows take the service away.
var matrix = []struct {
	name string
	test func(*stage)
}{
	{"passes the claims of an allowed user", (*stage).allows},
	{"switches to the tenant that the client names", (*stage).switchesTenants},
	{"lets no forged header through", (*stage).stripsForged},
	{"lets no Connection header remove a claim", (*stage).cleansConnection},
	{"passes on nothing that a client says of its request", (*stage).stripsForeign},
	{"passes denials on", (*stage).denies},
	{"denies a user without a tenant", (*stage).deniesWithoutTenant},
	{"lets anonymous callers reach what is open to them", (*stage).allowsAnonymous},
	{"sends the headers of a preflight", (*stage).sendsPreflights},
	{"sends the facts of the request, and no body", (*stage).sendsFacts},
	{"reuses connections to the service", (*stage).reusesConnections},
	{"passes a WebSocket on", (*stage).upgrades},
	{"serves a user's own tenants", (*stage).servesTenants},
	{"answers 503 while the service fails closed", (*stage).failsClosed},
	{"denies while the service hangs", func(s *stage) { s.deniesWithoutAnAnswer(hanging) }},
	{"denies while the service closes connections", func(s *stage) { s.deniesWithoutAnAnswer(away) }},
	{"denies while the service is down", func(s *stage) {
		s.world.OK(s.front.Close())
		s.deniesWithoutAnAnswer(away) // connections that are still open
	}},
}

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
		lines = append(lines, strings.ReplaceAll(h, "-", "_")+": forged", strings.ReplaceAll(h, "-", ".")+": forged", strings.Replace(h, "-", "_", 1)+": forged",
			strings.ToLower(strings.ReplaceAll(h, "-", "_"))+": forged", strings.ToUpper(strings.ReplaceAll(h, "-", "."))+": forged")
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

func (s *stage) allows() {
	a := s.send("GET /orders/1?x=y", s.bearer("alice"))
	if a.status != 200 || a.seen == nil {
		s.Fatalf("%d %s\n%s", a.status, a.body, s.log)
	}
	if h := a.seen.Header; h.Get("X-User-Subject") != "alice" || h.Get("X-Tenant-ID") != "acme" || h.Get("X-User-Roles") != "editor,viewer" || a.seen.Target != "/orders/1?x=y" {
		s.Errorf("the backend got %v", a.seen)
	}
}

func (s *stage) switchesTenants() {
	a := s.send("POST /orders", s.bearer("alice"), "X-Active-Tenant-ID: globex", "Content-Length: 0")
	if a.status != 200 || a.seen == nil {
		s.Fatalf("%d %s", a.status, a.body)
	}
	if h := a.seen.Header; h.Get("X-Tenant-ID") != "globex" || h.Get("X-Active-Tenant-ID") != "globex" || h.Get("X-User-Roles") != "viewer" || a.seen.Method != http.MethodPost {
		s.Errorf("the backend got %v", a.seen)
	}
}

func (s *stage) stripsForged() {
	without := world.Bearer(s.world.Mint("frank", map[string]any{"groups": nil}))
	for name, c := range map[string]struct {
		line  string
		lines []string
	}{
		"of a user":                {"GET /a", append(forged(), s.bearer("alice"))},
		"of a user without roles":  {"GET /a", append(forged(), without)},
		"of an anonymous caller":   {"GET /public", forged()},
		"aliases, of a user":       {"GET /a", append(aliased(), s.bearer("alice"))},
		"aliases, without roles":   {"GET /a", append(aliased(), without)},
		"aliases, anonymous":       {"GET /public", aliased()},
		"twice":                    {"GET /a", append(append(forged(), forged()...), s.bearer("alice"))},
		"in lower case, anonymous": {"GET /public", lower(forged())},
	} {
		a := s.send(c.line, c.lines...)
		if a.status != 200 && a.status != 400 || a.status == 200 && a.seen == nil {
			s.Errorf("%s: %d %s", name, a.status, a.body)
		}
		s.noForged(a)
	}
}

func lower(lines []string) []string {
	all := make([]string, len(lines))
	for i, l := range lines {
		all[i] = strings.ToLower(l)
	}
	return all
}

func (s *stage) cleansConnection() {
	for _, connection := range []string{"X-Tenant-ID", "close, x-tenant-id, X-User-Roles", "keep-alive, X-User-Subject"} {
		a := s.send("GET /a", s.bearer("alice"), "Connection: "+connection)
		if a.status == 400 { // refused
			continue
		}
		if a.status != 200 || a.seen == nil {
			s.Errorf("Connection: %s: %d %s", connection, a.status, a.body)
			continue
		}
		if h := a.seen.Header; h.Get("X-Tenant-ID") != "acme" || h.Get("X-User-Subject") != "alice" || h.Get("X-User-Roles") == "" {
			s.Errorf("Connection: %s removed claims: %v", connection, h)
		}
	}
}

func (s *stage) stripsForeign() {
	a := s.send("GET /a", s.bearer("alice"), "X-Forwarded-Uri: /public", "X-Original-URL: http://app.example.com/public", "X-Original-URI: /public", "X-Forwarded-Method: OPTIONS",
		"X-Upstream-IdP-ID: other", "Forwarded: for=6.6.6.6", "X-Forwarded-For: 6.6.6.6", "X-Forwarded-Host: evil.example.com", "X-Forwarded-Proto: https", "X-Original-Method: OPTIONS")
	if a.status != 200 || a.seen == nil {
		s.Fatalf("what a client says of its request is not removed: %d %s", a.status, a.body)
	}
	for _, name := range []string{"X-Forwarded-Uri", "X-Forwarded-Method", "X-Original-Url", "X-Original-Uri", "X-Original-Method", "X-Upstream-Idp-Id", "Forwarded"} {
		if v := a.seen.Header.Get(name); v != "" {
			s.Errorf("the backend got %s: %s of the client", name, v)
		}
	}
	if strings.Contains(a.seen.Header.Get("X-Forwarded-Host"), "evil") || strings.Contains(a.seen.Header.Get("X-Forwarded-For"), "6.6.6.6") || a.seen.Header.Get("X-Forwarded-Proto") == "https" {
		s.Errorf("the backend got what the client says of itself: %v", a.seen.Header)
	}
}

func (s *stage) denies() {
	before := s.backend.seen.Load()
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
		if a.status != c.status || a.seen != nil {
			s.Errorf("%s: %d %s, want %d", name, a.status, a.body, c.status)
			continue
		}
		if got := a.header.Values("WWW-Authenticate"); c.challenge != "" && (len(got) != 1 || !strings.HasPrefix(got[0], c.challenge)) {
			s.Errorf("%s: WWW-Authenticate is %q", name, got)
		}
		if !strings.HasPrefix(a.header.Get("Content-Type"), "application/problem+json") || !strings.Contains(a.body, fmt.Sprintf(`"status":%d`, c.status)) {
			s.Errorf("%s: no problem document: %v %s", name, a.header, a.body)
		}
		if name == "no member of the tenant" && !strings.Contains(a.body, `"instance":"/decisions/`) {
			s.Errorf("%s: no id of the decision: %s", name, a.body)
		}
		for _, h := range policy.DefaultHeaders {
			if a.header.Get(h) != "" {
				s.Errorf("%s: the denial has %s", name, h)
			}
		}
	}
	if now := s.backend.seen.Load(); now != before {
		s.Errorf("%d denied requests reached the backend", now-before)
	}
}

func (s *stage) deniesWithoutTenant() {
	if a := s.send("GET /a", append(forged(), s.bearer("carol"))...); a.status != 403 || a.seen != nil {
		s.Errorf("%d %s", a.status, a.body)
	}
}

func (s *stage) allowsAnonymous() {
	a := s.send("GET /public")
	if a.status != 200 || a.seen == nil {
		s.Fatalf("%d %s", a.status, a.body)
	}
	if h := a.seen.Header; h.Get("X-Principal-Type") != "anonymous" || h.Get("X-User-ID") != "" || h.Get("X-Tenant-ID") != "" {
		s.Errorf("the backend got %v", h)
	}
	if a := s.send("GET /public", "Authorization: Bearer bad"); a.status != 401 {
		s.Errorf("a bad token on an open path: %d", a.status)
	}
}

func (s *stage) sendsPreflights() {
	if a := s.send("OPTIONS /a", "Origin: https://a.example", "Access-Control-Request-Method: PUT"); a.status != 200 || a.seen == nil || a.seen.Method != http.MethodOptions {
		s.Errorf("%d %s", a.status, a.body)
	}
	if a := s.send("OPTIONS /a"); a.status != 401 || a.seen != nil {
		s.Errorf("OPTIONS that is no preflight: %d", a.status)
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

func (s *stage) sendsFacts() {
	s.world.Load(world.Policy{Rego: readsFacts})
	defer s.world.Load(public)
	s.front.requests()
	a := s.send("PUT /a%20b/c?d=e", s.bearer("alice"), "Content-Length: 13", "X-Forwarded-For: 6.6.6.6", "", "only-for-them")
	if a.status != 200 || a.seen == nil {
		s.Fatalf("%d %s\n%s", a.status, a.body, s.world.Logs)
	}
	if a.seen.Body != "only-for-them" || a.seen.Target != "/a%20b/c?d=e" || a.seen.Method != http.MethodPut {
		s.Errorf("the backend got %+v", a.seen)
	}
	if sent := s.front.requests(); strings.Contains(sent, "only-for-them") || !strings.Contains(sent, "uthorization: Bearer") {
		s.Errorf("the service was sent %q", sent)
	}
	if a = s.send("PUT /a/c", s.bearer("alice"), "Content-Length: 0"); a.status != 403 {
		s.Errorf("another path: %d %s", a.status, a.body)
	}
}

func (s *stage) reusesConnections() {
	before := s.front.accepted.Load()
	for range 20 {
		if a := s.send("GET /a", s.bearer("alice")); a.status != 200 {
			s.Fatalf("%d %s", a.status, a.body)
		}
	}
	if n := s.front.accepted.Load() - before; n > 10 {
		s.Errorf("%d connections for 20 requests", n)
	}
}

func (s *stage) upgrades() {
	upgrade := []string{"Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"}
	a := s.send("GET /socket", append(upgrade, s.bearer("alice"), "Connection: Upgrade, X-Tenant-ID")...)
	if a.status != http.StatusSwitchingProtocols || a.header.Get("X-Seen-Tenant") != "acme" || a.header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		s.Errorf("%d %v %s", a.status, a.header, a.body)
	}
	if a.body != ping {
		s.Errorf("the backend sent %q back", a.body)
	}
	if a := s.send("GET /socket", append(upgrade, "Connection: Upgrade")...); a.status != 401 {
		s.Errorf("without a token: %d", a.status)
	}
	if a := s.send("GET /socket", append(forged(), s.bearer("alice"), "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA", "Connection: Upgrade, HTTP2-Settings")...); a.status == http.StatusSwitchingProtocols {
		s.Errorf("h2c: %d", a.status)
	}
}

func (s *stage) servesTenants() {
	before := s.backend.seen.Load()
	if a := s.send("GET /v1/me/tenants", s.bearer("alice")); a.status != 200 || !strings.Contains(a.body, `"slug":"globex"`) {
		s.Errorf("%d %s", a.status, a.body)
	}
	if a := s.send("GET /v1/me/tenants"); a.status != 401 {
		s.Errorf("without a token: %d", a.status)
	}
	if s.backend.seen.Load() != before {
		s.Errorf("the backend was asked for them")
	}
}

func (s *stage) failsClosed() {
	s.world.Load(world.Policy{Rego: "package iam.claims\n\ndecision := {\"allow\": true} if input.token.sub\n\ndecision := {\"allow\": false} if input.token.iss\n"})
	defer s.world.Load(public)
	a := s.send("GET /a", append(forged(), s.bearer("alice"))...)
	if a.status != 503 || a.seen != nil {
		s.Fatalf("%d %s", a.status, a.body)
	}
	if s.without503 == "" && (a.header.Get("Retry-After") == "" || !strings.HasPrefix(a.header.Get("Content-Type"), "application/problem+json") || !strings.Contains(a.body, `"status":503`)) {
		s.Errorf("%v %s", a.header, a.body)
	}
}

func (s *stage) deniesWithoutAnAnswer(mode int32) {
	defer s.front.mode.Store(passing)
	s.front.mode.Store(mode)
	before := s.backend.seen.Load()
	for _, line := range []string{"GET /a", "GET /public", "POST /a"} {
		a := s.send(line, append(forged(), s.bearer("alice"), "Content-Length: 0")...)
		if a.status < 500 || a.seen != nil {
			s.Errorf("%s: %d %s", line, a.status, a.body)
		}
		if s.kind == "haproxy" && (a.status != 503 || a.header.Get("Retry-After") == "") { // the others answer as they do by themselves
			s.Errorf("%s: %d %v", line, a.status, a.header)
		}
		if a.took > 2*time.Second {
			s.Errorf("%s: the caller waited %s", line, a.took)
		}
	}
	if now := s.backend.seen.Load(); now != before {
		s.Errorf("%d requests reached the backend", now-before)
	}
}
