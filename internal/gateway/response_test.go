package gateway_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"iam-service/internal/dev/await"
	"iam-service/internal/dev/world"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
)

// A header that is missing lets the client's own forged one through.
func TestA200CarriesEveryHeaderOnceAndADenyNone(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{})
	forged := []string{"X-Upstream-IdP-ID: rauth"}
	for _, h := range policy.DefaultHeaders {
		if h != "X-Active-Tenant-ID" {
			forged = append(forged, h+": forged", strings.ReplaceAll(h, "-", "_")+": forged", strings.ToLower(h)+": forged")
		}
	}
	for _, user := range []string{"alice", "frank", "carol", "dave", "stranger"} {
		status, lines, body := w.Ask(world.Get, append(forged, world.Bearer(w.Mint(user, map[string]any{"groups": nil})))...)
		got := world.Claims(lines)
		if strings.Contains(fmt.Sprint(got)+body, "forged") {
			t.Errorf("%s: a forged value came back: %v %s", user, got, body)
		}
		if status != http.StatusOK {
			if len(got) != 0 {
				t.Errorf("%s: a deny carries %v", user, got)
			}
			continue
		}
		for _, h := range policy.DefaultHeaders {
			if n := len(got[http.CanonicalHeaderKey(h)]); n != 1 {
				t.Errorf("%s: %s stands on %d lines", user, h, n)
			}
		}
		if len(got) != len(policy.DefaultHeaders) {
			t.Errorf("%s: %v", user, got)
		}
	}
	for _, status := range []struct {
		name  string
		lines []string
	}{{"no token", nil}, {"a bad token", []string{world.Bearer("nonsense")}}} {
		code, lines, _ := w.Ask(world.Get, append(forged, status.lines...)...)
		if code != http.StatusUnauthorized || len(world.Claims(lines)) != 0 {
			t.Errorf("%s: %d %v", status.name, code, world.Claims(lines))
		}
	}
}

func TestEveryHeaderThatGatewaysCopyIsSentAlsoWhenTheBundleDoesNotDeclareIt(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{Headers: []string{"X-User-ID", "X-Email", "X-User-Permissions"}})
	c := world.Policy{Config: map[string]any{"headers": []any{"X-User-ID"}}}
	w.Load(c)
	_, lines, _ := w.Ask(world.Get, world.Bearer(w.Mint("alice", map[string]any{"email": "a@example.com"})))
	if diff := cmp.Diff(map[string][]string{"X-User-Id": {world.Value(lines, "X-User-ID")}, "X-Email": {""}, "X-User-Permissions": {""}}, world.Claims(lines)); diff != "" {
		t.Error(diff)
	}
}

func TestOptionalHeadersAndAttributesAreSentWhereTheBundleEnablesThem(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{Headers: []string{"X-User-Permissions", "X-Client-ID", "X-Email", "X-Enriched-Tenant-ID", "X-Tenant-Attributes", "X-User-Attributes"}, Policy: world.Policy{Config: map[string]any{"user_attributes": []any{"department"}, "tenant_attributes": []any{"plan"}, "attributes_encoding": "json"}}})
	_, lines, _ := w.Ask(world.Get, world.Bearer(w.Mint("alice", map[string]any{"email": "a@example.com"})))
	want := map[string][]string{
		"X-User-Permissions": {"document:read,document:write"}, "X-Client-Id": {"web"}, "X-Email": {"a@example.com"}, "X-Enriched-Tenant-Id": {"acme"},
		"X-Tenant-Attributes": {`{"plan":"gold"}`}, "X-User-Attributes": {`{"department":"sales"}`},
	}
	if diff := cmp.Diff(want, world.Claims(lines)); diff != "" {
		t.Error(diff)
	}
}

func TestA401ExplainsHowToAuthenticate(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{})
	for name, c := range map[string]struct {
		lines []string
		want  string
	}{
		"no token":       {nil, "Www-Authenticate: Bearer"},
		"another scheme": {[]string{"Authorization: Basic YTpi"}, "Www-Authenticate: Bearer"},
		"a bad token":    {[]string{world.Bearer("nonsense")}, `Www-Authenticate: Bearer error="invalid_token", error_description=`},
		"an expired one": {[]string{world.Bearer(w.Mint("alice", map[string]any{"exp": 1}))}, `Www-Authenticate: Bearer error="invalid_token", error_description=`},
	} {
		status, lines, _ := w.Ask(world.Get, c.lines...)
		if status != 401 || !slices.ContainsFunc(lines, func(l string) bool {
			return l == c.want || strings.HasSuffix(c.want, "=") && strings.HasPrefix(l, c.want)
		}) {
			t.Errorf("%s: %d %v", name, status, lines)
		}
	}
	status, _, _ := w.Ask(world.Get, "authorization: bEARER  "+w.Mint("alice", nil))
	if status != 200 {
		t.Errorf("the scheme in other letters: %d", status)
	}
}

func TestEveryMethodIsDecided(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{})
	alice := world.Bearer(w.Mint("alice", nil))
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "X-OWN"} {
		for _, prefix := range []string{"", "/v1"} {
			if status, _, _ := w.Ask(method+" "+prefix+"/system/enrich-token/x", alice); status != 200 {
				t.Errorf("%s %s: %d", method, prefix, status)
			}
			if status, _, _ := w.Ask(method + " " + prefix + "/system/enrich-token"); status != 401 {
				t.Errorf("%s %s without a token: %d", method, prefix, status)
			}
		}
	}
	if status, _, _ := w.Ask(world.Get, alice, "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x"); status != 200 {
		t.Errorf("a websocket upgrade: %d", status)
	}
	for _, o := range w.Observed() {
		if !strings.HasPrefix(o, "/system/enrich-token traefik ") {
			t.Errorf("observed as %q", o)
		}
	}
}

// Gateways append the client's path to ours: it leads nowhere else.
func TestTheGatewaysListenerServesNothingElse(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{})
	alice := world.Bearer(w.Mint("alice", nil))
	for _, line := range []string{
		"DELETE /v1/tenants/x", "GET /v1/tenants",
		"GET /metrics", "GET /debug/pprof/", "GET /policy/status", "GET /system", "GET /system/", "GET /v1/system/enrich-tokens", "GET //system/enrich-token",
		"GET /system//enrich-token", "GET /v1/v1/system/enrich-token", "GET /v1/me/tenants/..", "GET /system/enrich-token%2fx", "GET /SYSTEM/enrich-token",
	} {
		if status, _, body := w.Ask(line, alice); status != 404 {
			t.Errorf("%s: %d %s", line, status, body)
		}
	}
	// Below an endpoint, a path is a fact of the client's request, whatever it looks like.
	for _, path := range []string{"/../../v1/tenants/x", "/%2e%2e/%2e%2e/v1/tenants/x"} {
		status, lines, body := w.Ask("DELETE /system/ext-authz"+path, alice)
		if status != 200 || body != "" || world.Value(lines, "X-User-Subject") != "alice" {
			t.Errorf("DELETE /system/ext-authz%s: %d %s, not an enrichment", path, status, body)
		}
	}
	for _, method := range []string{"POST", "PROPFIND"} {
		if status, lines, _ := w.Ask(method+" /v1/me/tenants", alice); status != 405 || !slices.Contains(lines, "Allow: GET, HEAD") {
			t.Errorf("%s /v1/me/tenants: %d %v", method, status, lines)
		}
	}
	if status, _, body := w.Ask("HEAD /v1/me/tenants", alice); status != 200 || body != "" {
		t.Errorf("HEAD /v1/me/tenants: %d %q", status, body)
	}
}

func TestHeadersThatAreTooLargeAreADenyNotACut(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{HeaderMax: 400, Policy: world.Policy{Config: map[string]any{"tenant_attributes": []any{"long"}}}})
	w.OK(w.DB.PutTenant(ctx, iam.Tenant{ID: "acme", Slug: "acme", Name: "Acme", Status: "active", Attributes: map[string]any{"long": strings.Repeat("x", 300)}}))
	status, lines, body := w.Ask(world.Get, world.Bearer(w.Mint("alice", nil)))
	if status != 403 || len(world.Claims(lines)) != 0 || strings.Contains(body, "xxx") {
		t.Errorf("%d %v %s", status, lines, body)
	}
	if log := w.Logs.String(); !strings.Contains(log, "headers_too_large") || !strings.Contains(log, "X-Tenant-Attributes 4") {
		t.Error("the log does not say what is too large")
	}
}

// A peer that has stopped sending still reads: it must receive 503, not the 200 of a handler that writes nothing.
func TestACallerThatHalfClosesStillGetsTheResponse(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{Policy: world.Policy{Rego: "package iam.claims\n\nn := [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]\n\ndecision := {\"allow\": count([1 | n[_]; n[_]; n[_]; n[_]; n[_]; n[_]; n[_]; n[_]; n[_]; n[_]]) > 0}\n"}})
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.URL, "http://"))
	w.OK(err)
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: iam\r\n%s\r\n\r\n", world.Get, world.Bearer(w.Mint("alice", nil)))
	w.OK(err)
	w.OK(conn.(*net.TCPConn).CloseWrite())
	answer, err := io.ReadAll(conn)
	w.OK(err)
	if !strings.HasPrefix(string(answer), "HTTP/1.1 503 ") {
		t.Errorf("got %q", answer)
	}
}

func TestABodyThatNeverArrivesDoesNotDelayTheResponse(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{})
	for _, c := range []struct {
		request, line string
		status        int
	}{
		{"POST /system/enrich-token", "Content-Length: 10", 200}, {"POST /system/enrich-token", "Transfer-Encoding: chunked", 200},
		{"GET /v1/me/tenants", "Content-Length: 10", 200}, {"GET /nowhere", "Content-Length: 10", 404}, {"POST /v1/me/tenants", "Transfer-Encoding: chunked", 405},
		{"GET /system/nothing", "Content-Length: 10", 404},
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(w.URL, "http://"))
		w.OK(err)
		defer conn.Close()
		w.OK(conn.SetDeadline(time.Now().Add(20 * time.Second)))
		_, err = fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: iam\r\n%s\r\n%s\r\n\r\n", c.request, world.Bearer(w.Mint("alice", nil)), c.line)
		w.OK(err)
		from := bufio.NewReader(conn)
		resp, err := http.ReadResponse(from, nil)
		if err != nil || resp.StatusCode != c.status || !resp.Close {
			t.Errorf("%s, %s: %v, %v", c.request, c.line, resp, err)
			continue
		}
		_, err = io.Copy(io.Discard, resp.Body)
		w.OK(err)
		if _, err := from.ReadByte(); !errors.Is(err, io.EOF) {
			t.Errorf("%s, %s: the connection is held for a body that never comes: %v", c.request, c.line, err)
		}
	}
}

func TestTheTenantOfTheHeadersIsTheTenantOfTheDecision(t *testing.T) {
	t.Parallel()
	names := []string{"X-Tenant-ID", "X-Active-Tenant-ID", "X-Enriched-Tenant-ID", "X-Citadel-Tenant-ID", "X-Tenant", "X-User-Tenant"}
	w := world.New(t, world.Settings{Headers: names})
	for _, header := range names {
		w.Load(world.Policy{Headers: names, Rego: "package iam.claims\n\ndecision := {\"allow\": true, \"tenant\": \"globex\", \"headers\": {\"" + header + "\": \"acme\"}}\n"})
		if status, _, _ := w.Ask(world.Get, world.Bearer(w.MintBy(w.Other, "alice", nil))); status != 503 {
			t.Errorf("%s: %d", header, status)
		}
	}
}

// What the decision log masks is in no other log line either.
func TestARejectionIsLoggedAsMaskedAsADecision(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{Fields: []string{"token.iss", "request.method"}})
	_, err := w.DB.PutUser(ctx, iam.User{Issuer: w.RAuth.Issuer, Subject: "planted-subject", Status: iam.UserActive, TokensNotBefore: time.Now().Add(time.Minute)})
	w.OK(err)
	raw := world.Bearer(w.Mint("planted-subject", map[string]any{"client_id": "planted-client"}))
	const link = "eyJhbGciOiJub25lIn0.eyJwIjoxfQ.c2ln"
	status, _, body := w.Ask(world.Get, raw, "X-Forwarded-Uri: /reset/"+link, "X-Forwarded-Method: "+strings.ToUpper(link), "X-Active-Tenant-ID: planted-tenant")
	_, id, _ := strings.Cut(strings.TrimSuffix(body, "\"}\n"), `"instance":"/decisions/`)
	if status != 401 || id == "" {
		t.Fatalf("%d %s", status, body)
	}
	await.True(t, "the line is logged", func() bool { return strings.Contains(w.Logs.String(), `"msg":"decision"`) })
	logs := w.Logs.String()
	if !regexp.MustCompile(`"msg":"request rejected","gateway":"traefik","issuer":"` + w.RAuth.Issuer + `","decision_id":"` + id + `","code":"token_revoked"`).MatchString(logs) {
		t.Errorf("the log does not say what was refused: %s", logs)
	}
	for _, secret := range []string{"planted", "/reset", link} {
		if strings.Contains(logs, secret) {
			t.Errorf("the log tells %s: %s", secret, logs)
		}
	}
}

// Gateways that drop empty headers would let the client's own through.
func TestAnEmptyHeaderCarriesThePlaceholder(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{
		EmptyValue: "-", Headers: append([]string{"Remote-User"}, policy.DefaultHeaders...),
		Policy: world.Policy{Config: map[string]any{"anonymous": map[string]any{"paths": []any{"/public"}}}},
	})
	for range 2 { // evaluated, and cached
		status, lines, _ := w.Ask(world.Get, world.Bearer(w.Mint("alice", nil)), "X-Forwarded-Uri: /a")
		if status != 200 || world.Value(lines, "X-Service-ID") != "-" || !slices.Contains(lines, "Remote-User: -") || world.Value(lines, "X-User-Subject") != "alice" {
			t.Errorf("%d %v", status, lines)
		}
	}
	status, lines, _ := w.Ask(world.Get, "X-Forwarded-Uri: /public")
	if status != 200 || world.Value(lines, "X-User-Subject") != "-" || world.Value(lines, "X-Tenant-ID") != "-" || world.Value(lines, "X-Principal-Type") != "anonymous" {
		t.Errorf("anonymous: %d %v", status, lines)
	}
	if status, _, body := w.Ask(world.Get, world.Bearer(w.Mint("-", nil)), "X-Active-Tenant-ID: acme"); status != 403 {
		t.Errorf("a subject that reads as none: %d %s", status, body)
	}
	w.Load(world.Policy{Rego: "package iam.claims\n\ndecision := {\"allow\": true, \"tenant\": \"\", \"headers\": {\"X-User-Subject\": input.token.sub}}\n"})
	if status, lines, body := w.Ask(world.Get, world.Bearer(w.Mint("-", nil))); status != 403 || !strings.Contains(w.Logs.String(), "GATEWAY_EMPTY_VALUE") {
		t.Errorf("a value that equals the placeholder: %d %v %s", status, lines, body)
	}
}
