package gateway_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"iam-service/internal/dev/await"
	"iam-service/internal/dev/world"
)

func TestDuplicateOrMalformedInputIsRejected(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{})
	alice := world.Bearer(w.Mint("alice", nil))
	for name, lines := range map[string][]string{
		"two Authorization headers":    {alice, alice},
		"two, one of another scheme":   {alice, "Authorization: Basic YTpi"},
		"two tenant hints":             {alice, "X-Active-Tenant-ID: acme", "X-Active-Tenant-ID: globex"},
		"two equal tenant hints":       {alice, "X-Active-Tenant-ID: acme", "x-active-tenant-id: acme"},
		"a list of hints":              {alice, "X-Active-Tenant-ID: acme, globex"},
		"two tokens in one header":     {alice + ", Bearer x"},
		"Bearer without a token":       {"Authorization: Bearer "},
		"Bearer and nothing":           {"Authorization: Bearer"},
		"a token with a tab":           {"Authorization: Bearer a\tb"},
		"two forwarded URIs":           {alice, "X-Forwarded-Uri: /a", "X-Forwarded-Uri: /b"},
		"two providers":                {alice, "X-Upstream-IdP-ID: rauth", "X-Upstream-IdP-ID: other"},
		"a forwarded URI of nothing":   {alice, "X-Forwarded-Uri: ?x"},
		"a forwarded name, no address": {alice, "X-Forwarded-For: no-address"},
	} {
		status, got, body := w.Ask(world.Get, lines...)
		if status != 403 || !strings.Contains(body, "malformed_request") || len(world.Claims(got)) != 0 {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	if status, _, _ := w.Ask(world.Get, alice, "X_Active_Tenant_ID: globex", "X-Active_Tenant-ID: initech"); status != 200 {
		t.Error("names with underscores are not ignored")
	}
}

// readsThePath denies no request, and would by the path.
const readsThePath = `package iam.claims

decision := {"allow": count(denied) == 0, "tenant": "acme", "headers": {"X-Tenant-ID": "acme"}}

denied contains "internal" if startswith(input.request.path, "/internal")
`

// Two programs must not read one path differently.
func TestAnAmbiguousPathIsRejectedWhereThePolicyReadsThePath(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{Policy: world.Policy{Rego: readsThePath}})
	alice := world.Bearer(w.Mint("alice", nil))
	for _, path := range []string{
		"//", "/a//b", "/a/../b", "/..", "/a/.", "/./a", "/a%2fb", "/a%2Fb", "/%2e%2e/a", "/a%2e%2e", "/a/%2e%2e/b", "/%2E/a", "/a;b=c", "/a%3bb", "/a%00", "/a%0d%0a", "/a%7f",
		"/a%5cb", "/a\\b", "/a%23b", "/a%3fb", "/a%252fb", "/a%252e%252e", "/a%25zz%252f", "/%", "/a%zz", "/a%ff", "/%c0%ae", "/a#b", "a", "*",
	} {
		status, _, body := w.Ask(world.Get, alice, "X-Forwarded-Uri: "+path)
		// "/a%2e%2e" is a file name of its own, not a step up.
		if want := path != "/a%2e%2e"; (status == 403 && strings.Contains(body, "malformed_request")) != want {
			t.Errorf("X-Forwarded-Uri %q: %d %s", path, status, body)
		}
	}
	for _, path := range []string{"/", "/a", "/a/", "/a/b.c", "/a%20b", "/caf%C3%A9", "/100%25", "/a%25z", "/~x/$y@z", "/a?b=//..;", "/.well-known/x", "/..."} {
		if status, _, body := w.Ask(world.Get, alice, "X-Forwarded-Uri: "+path); status != 200 {
			t.Errorf("X-Forwarded-Uri %q: %d %s", path, status, body)
		}
	}
	if status, _, _ := w.Ask("GET /system/enrich-token/admin", alice, "X-Forwarded-Uri: /public"); status != 403 {
		t.Errorf("a client's own X-Forwarded-Uri next to an appended path: %d", status)
	}
	// Envoy appends the path to ours.
	for path, want := range map[string]int{"/orders/1": 200, "/a%2f..%2fb": 403, "//x": 403, "/../admin": 403, "/%2e%2e/%2e%2e/v1/tenants/x": 403, "": 403, "?x=1": 403} {
		if status, _, _ := w.Ask("DELETE /system/ext-authz"+path, alice); status != want {
			t.Errorf("DELETE %q below the endpoint: %d, want %d", path, status, want)
		}
	}
}

func TestAnAmbiguousPathIsAllowedWhereThePolicyDoesNotReadIt(t *testing.T) {
	t.Parallel()
	ambiguous := []string{"/projects/a%2Fb", "/a;b", "/a%23b", "/a%ff", "//a", "/a/../b"}
	usual := world.New(t, world.Settings{Policy: world.Policy{Config: map[string]any{"anonymous": map[string]any{"paths": []any{"/"}}}}})
	strict := world.New(t, world.Settings{DenyAmbiguous: true})
	for _, path := range ambiguous {
		for _, appended := range []bool{false, true} {
			where, lines := world.Get, []string{"X-Forwarded-Uri: " + path}
			if appended {
				where, lines = "GET /system/ext-authz"+path, nil
			}
			if status, _, body := usual.Ask(where, append(lines, world.Bearer(usual.Mint("alice", nil)))...); status != 200 {
				t.Errorf("%s %s: %d %s", where, lines, status, body)
			}
			if status, _, _ := usual.Ask(where, lines...); status != 401 {
				t.Errorf("%s %s without a token: %d, though an ambiguous path is not anonymous", where, lines, status)
			}
			if status, _, body := strict.Ask(where, append(lines, world.Bearer(strict.Mint("alice", nil)))...); status != 403 || !strings.Contains(body, "malformed_request") {
				t.Errorf("%s %s, where all are refused: %d %s", where, lines, status, body)
			}
		}
	}
}

// A denial that reads what is undefined never fires.
func TestAnUnknownFactThatThePolicyReadsDenies(t *testing.T) {
	t.Parallel()
	trusted, stranger := world.New(t, world.Settings{}), world.New(t, world.Settings{Untrusted: true})
	for field, header := range map[string]string{
		"method": "X-Forwarded-Method: DELETE", "path": "X-Forwarded-Uri: /other", "raw_path": "X-Forwarded-Uri: /other", "host": "X-Forwarded-Host: api.example.com",
		"scheme": "X-Forwarded-Proto: https", "client_ip": "X-Forwarded-For: 203.0.113.7",
	} {
		missing := func(w *world.World, lines ...string) {
			t.Helper()
			status, got, body := w.Ask(world.Get, append(lines, world.Bearer(w.Mint("alice", nil)))...)
			if status != 403 || !strings.Contains(body, `"code":"request_facts_missing"`) || strings.Contains(body, "input.") || len(world.Claims(got)) != 0 {
				t.Errorf("%s, where %q is said: %d %s", field, lines, status, body)
			}
		}
		s := world.Policy{Rego: strings.ReplaceAll(readsThePath, "input.request.path", "input.request."+field)}
		trusted.Load(s)
		stranger.Load(s)
		missing(trusted)
		missing(stranger)
		missing(stranger, header)
		if status, _, body := trusted.Ask(world.Get, world.Bearer(trusted.Mint("alice", nil)), header); status != 200 {
			t.Errorf("%s, by a trusted gateway: %d %s", field, status, body)
		}
	}
	for w, n := range map[*world.World]int{trusted: 6, stranger: 12} {
		await.True(t, "the line is logged", func() bool { return strings.Count(w.Logs.String(), `"codes":["request_facts_missing"]`) == n })
		if logs := w.Logs.String(); strings.Count(logs, `"msg":"request facts missing","peer":"127.0.0.1"`) != 1 || strings.Contains(logs, `"msg":"request rejected"`) || strings.Contains(logs, `"decision_id":""`) {
			t.Errorf("not one line for one peer within a minute: %s", logs)
		}
	}
}

// An address with a trailing slash, in a gateway that appends no path, would otherwise be the path "/"
// of every request.
func TestATrailingSlashOfAGatewayThatAppendsNothingIsNoPath(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		endpoint  string
		untrusted bool
		want      int
	}{
		"appends nothing":              {endpoint: "/system/enrich-token/", want: 403},
		"appends nothing, unbelieved":  {endpoint: "/system/enrich-token/", untrusted: true, want: 403},
		"appends the path":             {endpoint: "/system/ext-authz/", want: 200},
		"appends the path, unbelieved": {endpoint: "/system/ext-authz/", untrusted: true, want: 200},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := world.New(t, world.Settings{Untrusted: c.untrusted, Policy: world.Policy{Rego: readsThePath}})
			status, _, body := w.Ask("GET "+c.endpoint, world.Bearer(w.Mint("alice", nil)))
			if status != c.want || (status == 403) != strings.Contains(body, `"code":"request_facts_missing"`) {
				t.Errorf("%d %s, want %d", status, body, c.want)
			}
		})
	}
}

// What a client sends through a gateway that does not overwrite it must not win.
func TestTwoSourcesOfOneFactMustAgree(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{Policy: world.Policy{Rego: recording, Config: map[string]any{"anonymous": map[string]any{"preflight": true}}}})
	alice := world.Bearer(w.Mint("alice", nil))
	all := []string{
		alice, "X-Forwarded-Method: DELETE", "X-Forwarded-Proto: https", "X-Forwarded-Host: api.example.com", "X-Forwarded-Uri: /orders/1?x=y", "X-Forwarded-For: 203.0.113.7",
	}
	const appended = "DELETE /system/ext-authz/orders/1"
	for name, c := range map[string]struct {
		line  string
		host  string
		lines []string
		want  int
	}{
		"nothing disagrees":                       {world.Get, "iam", nil, 200},
		"X-Original says the same":                {world.Get, "iam", []string{"X-Original-Method: DELETE", "X-Original-Uri: /orders/1?other", "X-Original-Host: API.example.com:443", "X-Original-Url: https://api.example.com/orders/1?x"}, 200},
		"X-Original-URL is a path":                {world.Get, "iam", []string{"X-Original-URL: /orders/1"}, 200},
		"another X-Original-Method":               {world.Get, "iam", []string{"X-Original-Method: GET"}, 403},
		"another X-Original-URI":                  {world.Get, "iam", []string{"X-Original-URI: /public"}, 403},
		"another X-Original-Host":                 {world.Get, "iam", []string{"X-Original-Host: evil.example.com"}, 403},
		"another path in X-Original-URL":          {world.Get, "iam", []string{"X-Original-URL: https://api.example.com/public"}, 403},
		"another host in X-Original-URL":          {world.Get, "iam", []string{"X-Original-URL: https://evil.example.com/orders/1"}, 403},
		"another scheme in X-Original-URL":        {world.Get, "iam", []string{"X-Original-URL: http://api.example.com/orders/1"}, 403},
		"no path in X-Original-URL":               {world.Get, "iam", []string{"X-Original-URL: https://api.example.com"}, 403},
		"no URL in X-Original-URL":                {world.Get, "iam", []string{"X-Original-URL: orders"}, 403},
		"two X-Original-URI":                      {world.Get, "iam", []string{"X-Original-URI: /orders/1", "X-Original-URI: /orders/1"}, 403},
		"appended, and all agree":                 {appended, "API.example.com.:443", nil, 200},
		"appended, another method":                {"GET /system/ext-authz/orders/1", "api.example.com", nil, 403},
		"appended, another host":                  {appended, "other.example.com", nil, 403},
		"appended, another path":                  {"DELETE /system/ext-authz/public", "api.example.com", nil, 403},
		"appended, another path in X-Original":    {appended, "api.example.com", []string{"X-Original-URI: /public"}, 403},
		"a preflight only by X-Forwarded-Method":  {"DELETE /system/ext-authz/orders/1", "api.example.com", []string{"Origin: https://a.example", "Access-Control-Request-Method: PUT"}, 200},
		"a preflight by a header that disagrees":  {"OPTIONS /system/ext-authz/orders/1", "api.example.com", []string{"Origin: https://a.example", "Access-Control-Request-Method: PUT"}, 403},
		"appended, one that is no host":           {appended, "api..example.com", nil, 403},
		"X-Original-URI where it is not compared": {world.Get, "iam", []string{"X-Original-Urn: /public"}, 200},
	} {
		status, _, body := w.AskHost(c.line, c.host, append(c.lines, all...)...)
		if status != c.want || status == 403 && !strings.Contains(body, "malformed_request") {
			t.Errorf("%s: %d %s, want %d", name, status, body, c.want)
		}
	}
	// Without X-Forwarded-…, X-Original-… says nothing.
	w.Load(world.Policy{Rego: readsThePath})
	if status, _, body := w.Ask(world.Get, alice, "X-Original-URI: /other", "X-Original-URL: https://a.example/other"); status != 403 || !strings.Contains(body, "request_facts_missing") {
		t.Errorf("X-Original-… alone is trusted: %d %s", status, body)
	}
}

func TestAMethodIsAnUpperCaseToken(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{})
	alice := world.Bearer(w.Mint("alice", nil))
	for method, want := range map[string]int{"GET": 200, "M-SEARCH": 200, "X!#$%&'*+.^_`|~9": 200, "get": 403, "Get": 403, "GET,POST": 403, "G ET": 403, "GÉT": 403, strings.Repeat("A", 256): 403} {
		if status, _, _ := w.Ask(world.Get, alice, "X-Forwarded-Method: "+method); status != want {
			t.Errorf("X-Forwarded-Method %q: %d", method, status)
		}
	}
	for method, want := range map[string]int{"get": 403, "PoST": 403, "POST": 200} {
		if status, _, _ := w.Ask(method+" /system/ext-authz/x", alice); status != want {
			t.Errorf("%s with an appended path: %d", method, status)
		}
	}
	if status, _, _ := w.Ask("get /system/enrich-token", alice); status != 200 {
		t.Errorf("the gateway's own method is no fact of the request: %d", status)
	}
}

func TestHostsSchemesAndAddressesComeInOneForm(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{Policy: world.Policy{Rego: recording}})
	alice := world.Bearer(w.Mint("alice", nil))
	usual := map[string]string{"X-Forwarded-Method": "GET", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "a.example", "X-Forwarded-Uri": "/", "X-Forwarded-For": "203.0.113.7"}
	for _, c := range []struct{ header, said, field, want string }{
		{"X-Forwarded-Host", "API.Example.COM", "host", "api.example.com"},
		{"X-Forwarded-Host", "api.example.com.", "host", "api.example.com"},
		{"X-Forwarded-Host", "api.example.com.:8443", "host", "api.example.com"},
		{"X-Forwarded-Host", "[2001:DB8::1]:8443", "host", "2001:db8::1"},
		{"X-Forwarded-Host", "[::1]", "host", "::1"},
		{"X-Forwarded-Host", "192.0.2.1:80", "host", "192.0.2.1"},
		{"X-Forwarded-Host", "a.example, b.example", "host", ""},
		{"X-Forwarded-Host", "::1", "host", ""},
		{"X-Forwarded-Host", "[::1", "host", ""},
		{"X-Forwarded-Host", "[192.0.2.1]", "host", ""},
		{"X-Forwarded-Host", "[::1]x", "host", ""},
		{"X-Forwarded-Host", "a.example:port", "host", ""},
		{"X-Forwarded-Host", "a..example", "host", ""},
		{"X-Forwarded-Host", ".", "host", ""},
		{"X-Forwarded-Host", ":80", "host", ""},
		{"X-Forwarded-Host", "a.example/x", "host", ""},
		{"X-Forwarded-Host", "user@a.example", "host", ""},
		{"X-Forwarded-Host", strings.Repeat("a", 256), "host", ""},
		{"X-Forwarded-Proto", "HTTPS", "scheme", "https"},
		{"X-Forwarded-Proto", "https,http", "scheme", ""},
		{"X-Forwarded-For", "203.0.113.7:5123", "client_ip", "203.0.113.7"},
		{"X-Forwarded-For", "[2001:db8::7]:5123", "client_ip", "2001:db8::7"},
		{"X-Forwarded-For", "[2001:db8::7]", "client_ip", "2001:db8::7"},
		{"X-Forwarded-For", "2001:db8::7", "client_ip", "2001:db8::7"},
		{"X-Forwarded-For", "fe80::7%eth0", "client_ip", "fe80::7"},
		{"X-Forwarded-For", "::ffff:203.0.113.7", "client_ip", "203.0.113.7"},
		{"X-Forwarded-For", "6.6.6.6, 203.0.113.7:80, 10.1.2.3:81,", "client_ip", "203.0.113.7"},
		{"X-Forwarded-For", "10.1.2.3", "client_ip", "10.1.2.3"},
		{"X-Forwarded-For", "[203.0.113.7", "client_ip", ""},
		{"X-Forwarded-For", "unknown", "client_ip", ""},
	} {
		lines := []string{alice, c.header + ": " + c.said}
		for name, v := range usual {
			if name != c.header {
				lines = append(lines, name+": "+v)
			}
		}
		status, got, body := w.Ask(world.Get, lines...)
		var seen map[string]any
		if c.want == "" {
			if status != 403 || !strings.Contains(body, "malformed_request") {
				t.Errorf("%s %q: %d %s", c.header, c.said, status, body)
			}
		} else if err := json.Unmarshal([]byte(world.Value(got, "X-User-ID")), &seen); err != nil || seen[c.field] != c.want {
			t.Errorf("%s %q: %d %v, want %s", c.header, c.said, status, seen, c.want)
		}
	}
}

// Any client can forge hints.
func TestWithoutATokenTheTenantHintIsIgnored(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{Policy: world.Policy{Rego: "package iam.claims\n\ndecision := {\"allow\": false, \"status\": 403, \"reasons\": [{\"code\": input.request.tenant_hint, \"title\": \"\"} | input.request.tenant_hint]}\n"}})
	ids := map[string]bool{}
	for i := range 5 {
		status, _, body := w.Ask(world.Get, fmt.Sprintf("X-Active-Tenant-ID: made-up-%d", i))
		if status != 401 {
			t.Errorf("status %d", status)
		}
		ids[body] = true
	}
	if len(ids) != 1 {
		t.Errorf("%d decisions for one question: %v", len(ids), ids)
	}
	if strings.Contains(w.Logs.String(), "made-up") {
		t.Error("an unknown tenant hint is logged")
	}
	if status, _, body := w.Ask(world.Get, "X-Active-Tenant-ID: made up"); status != 403 {
		t.Errorf("a malformed hint: %d %s", status, body)
	}
}

const recording = `package iam.claims

decision := {"allow": true, "tenant": "", "headers": {"X-User-ID": json.marshal(input.request)}}
`

func TestForwardedHeadersAreTrustedFromTrustedPeersOnly(t *testing.T) {
	t.Parallel()
	lines := []string{
		"X-Forwarded-Method: DELETE", "X-Forwarded-Proto: https", "X-Forwarded-Host: api.example.com", "X-Forwarded-Uri: /orders/1?x=y", "X-Forwarded-For: 6.6.6.6, 203.0.113.7, 10.1.2.3",
		"X-Rewrite-URL: /evil", "Forwarded: for=6.6.6.6;host=evil;proto=evil", "X-Real-IP: 6.6.6.6",
		"X-Forwarded-Path: /evil", "X-Envoy-Original-Path: /evil", "True-Client-IP: 6.6.6.6",
	}
	evil := []string{"X-Original-URI: /evil", "X-Original-URL: /evil", "X-Original-Method: EVIL", "X-Original-Host: evil"} // from a trusted peer: TestTwoSourcesOfOneFactMustAgree
	seen := func(w *world.World, endpoint, below string) map[string]any {
		status, got, body := w.Ask("GET "+endpoint+below, append(lines, world.Bearer(w.Mint("alice", nil)))...)
		var seen map[string]any
		if err := json.Unmarshal([]byte(world.Value(got, "X-User-ID")), &seen); err != nil {
			t.Fatalf("%d %s: %v", status, body, err)
		}
		return seen
	}
	want := map[string]any{
		"anonymous": false, "gateway": "traefik", "method": "DELETE", "scheme": "https", "host": "api.example.com", "path": "/orders/1", "raw_path": "/orders/1", "client_ip": "203.0.113.7",
	}
	if diff := cmp.Diff(want, seen(world.New(t, world.Settings{Policy: world.Policy{Rego: recording}}), "/system/enrich-token", "")); diff != "" {
		t.Error("trusted:", diff)
	}
	lines = append(lines, evil...)
	some := strings.ReplaceAll(recording, "json.marshal(input.request)", `json.marshal({"method": input.request.method, "path": input.request.path, "raw_path": input.request.raw_path})`)
	want = map[string]any{"method": "GET", "path": "/below", "raw_path": "/below"}
	if diff := cmp.Diff(want, seen(world.New(t, world.Settings{Untrusted: true, Policy: world.Policy{Rego: some}}), "/system/ext-authz", "/below")); diff != "" {
		t.Error("untrusted, and the path is appended:", diff)
	}
}
