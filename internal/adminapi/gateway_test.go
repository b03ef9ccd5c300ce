package adminapi_test

import (
	"bufio"
	"encoding/json"
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

	"iam-service/internal/dev/pgtest"
	"iam-service/internal/directory"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/postgres"
)

const get = "GET /system/enrich-token"

func TestWhoACallerIsHere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	for name, c := range map[string]struct {
		user, hint string
		more       map[string]any
		status     int
		want       map[string]string // of a 200
		code       string            // of a deny, in the log
	}{
		"her default tenant":               {user: "alice", status: 200, want: map[string]string{"X-Tenant-ID": "acme", "X-User-Roles": "editor,viewer", "X-Principal-Type": "user", "X-User-Subject": "alice"}},
		"her other tenant":                 {user: "alice", hint: "globex", status: 200, want: map[string]string{"X-Tenant-ID": "globex", "X-Active-Tenant-ID": "globex", "X-User-Roles": "viewer"}},
		"his only tenant, nested roles":    {user: "bob", status: 200, want: map[string]string{"X-Tenant-ID": "globex", "X-User-Roles": "admin,editor,viewer"}},
		"a role by group":                  {user: "frank", status: 200, want: map[string]string{"X-Tenant-ID": "acme", "X-User-Roles": "auditor,viewer"}},
		"no role without the group":        {user: "frank", more: map[string]any{"groups": nil}, status: 200, want: map[string]string{"X-Tenant-ID": "acme", "X-User-Roles": ""}},
		"not a member":                     {user: "bob", hint: "acme", status: 403, code: "not_a_member"},
		"no such tenant":                   {user: "bob", hint: "nowhere", status: 403, code: "not_a_member"},
		"a member of nothing":              {user: "carol", status: 403, code: "no_active_tenant"},
		"blocked":                          {user: "dave", status: 403, code: "user_blocked"},
		"an expired membership":            {user: "erin", status: 403, code: "no_active_tenant"},
		"an expired membership, asked for": {user: "erin", hint: "acme", status: 403, code: "membership_not_in_force"},
		"a suspended tenant":               {user: "grace", hint: "initech", status: 403, code: "tenant_not_active"},
		"an archived tenant":               {user: "grace", hint: "hooli", status: 403, code: "tenant_not_active"},
		"nobody knows them":                {user: "stranger", status: 403, code: "user_unknown"},
		"case matters":                     {user: "Alice", status: 403, code: "user_unknown"},
		"a hint in capitals":               {user: "alice", hint: "ACME", status: 403},
		"a hint that is no id":             {user: "alice", hint: "acme,globex", status: 403},
		"a program": {user: "3f6f0c1e-6f0a-4c59-9a8e-0d6a5f1b2c3d", more: map[string]any{"client_id": "3f6f0c1e-6f0a-4c59-9a8e-0d6a5f1b2c3d", "scope": "invoices:read s2s:internal"}, status: 200,
			want: map[string]string{"X-Service-ID": "3f6f0c1e-6f0a-4c59-9a8e-0d6a5f1b2c3d", "X-Scopes": "invoices:read", "X-User-ID": "", "X-Tenant-ID": "acme", "X-Principal-Type": "client"}},
		"a program nobody knows": {user: "evil", more: map[string]any{"client_id": "evil"}, status: 403, code: "client_unknown"},
	} {
		lines := []string{bearer(w.mint(c.user, c.more))}
		if c.hint != "" {
			lines = append(lines, "X-Active-Tenant-ID: "+c.hint)
		}
		status, got, body := w.ask(get, lines...)
		if status != c.status {
			t.Errorf("%s: status %d, want %d", name, status, c.status)
			continue
		}
		for h, want := range c.want {
			if v := value(got, h); v != want {
				t.Errorf("%s: %s is %q, want %q", name, h, v, want)
			}
		}
		if _, id, ok := strings.Cut(body, `"instance":"/decisions/`); c.code != "" {
			if !ok {
				t.Errorf("%s: the answer names no decision: %s", name, body)
				continue
			}
			line := regexp.MustCompile(`"decision_id":"` + id[:22] + `".*"codes":\["` + c.code + `"`)
			w.eventually(func() bool { return line.MatchString(w.logs.String()) }) // it is written aside
		}
		if c.code != "" && strings.Contains(body, c.code) {
			t.Errorf("%s: the answer tells the client why: %s", name, body)
		}
	}
}

// A header that is missing lets the client's own forged one through.
func TestA200CarriesEveryHeaderOnceAndADenyNone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	forged := []string{"X-Upstream-IdP-ID: rauth"}
	for _, h := range policy.DefaultHeaders {
		if h != "X-Active-Tenant-ID" {
			forged = append(forged, h+": forged", strings.ReplaceAll(h, "-", "_")+": forged", strings.ToLower(h)+": forged")
		}
	}
	for _, user := range []string{"alice", "frank", "carol", "dave", "stranger"} {
		status, lines, body := w.ask(get, append(forged, bearer(w.mint(user, map[string]any{"groups": nil})))...)
		got := claims(lines)
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
	}{{"no token", nil}, {"a bad token", []string{bearer("nonsense")}}} {
		code, lines, _ := w.ask(get, append(forged, status.lines...)...)
		if code != http.StatusUnauthorized || len(claims(lines)) != 0 {
			t.Errorf("%s: %d %v", status.name, code, claims(lines))
		}
	}
}

func TestEveryHeaderThatGatewaysCopyIsSentAlsoWhenTheBundleDoesNotDeclareIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{headers: []string{"X-User-ID", "X-Email", "X-User-Permissions"}})
	c := settings{config: map[string]any{"headers": []any{"X-User-ID"}}}
	w.load(c)
	_, lines, _ := w.ask(get, bearer(w.mint("alice", map[string]any{"email": "a@example.com"})))
	if diff := cmp.Diff(map[string][]string{"X-User-Id": {value(lines, "X-User-ID")}, "X-Email": {""}, "X-User-Permissions": {""}}, claims(lines)); diff != "" {
		t.Error(diff)
	}
}

func TestOptionalHeadersAndAttributesTravelWhereTheBundleSaysSo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{
		headers: []string{"X-User-Permissions", "X-Client-ID", "X-Email", "X-Enriched-Tenant-ID", "X-Tenant-Attributes", "X-User-Attributes"},
		config:  map[string]any{"user_attributes": []any{"department"}, "tenant_attributes": []any{"plan"}, "attributes_encoding": "json"},
	})
	_, lines, _ := w.ask(get, bearer(w.mint("alice", map[string]any{"email": "a@example.com"})))
	want := map[string][]string{
		"X-User-Permissions": {"document:read,document:write"}, "X-Client-Id": {"web"}, "X-Email": {"a@example.com"}, "X-Enriched-Tenant-Id": {"acme"},
		"X-Tenant-Attributes": {`{"plan":"gold"}`}, "X-User-Attributes": {`{"department":"sales"}`},
	}
	if diff := cmp.Diff(want, claims(lines)); diff != "" {
		t.Error(diff)
	}
}

func TestA401SaysHowToDoBetter(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	for name, c := range map[string]struct {
		lines []string
		want  string
	}{
		"no token":       {nil, "Www-Authenticate: Bearer"},
		"another scheme": {[]string{"Authorization: Basic YTpi"}, "Www-Authenticate: Bearer"},
		"a bad token":    {[]string{bearer("nonsense")}, `Www-Authenticate: Bearer error="invalid_token", error_description=`},
		"an expired one": {[]string{bearer(w.mint("alice", map[string]any{"exp": 1}))}, `Www-Authenticate: Bearer error="invalid_token", error_description=`},
	} {
		status, lines, _ := w.ask(get, c.lines...)
		if status != 401 || !slices.ContainsFunc(lines, func(l string) bool {
			return l == c.want || strings.HasSuffix(c.want, "=") && strings.HasPrefix(l, c.want)
		}) {
			t.Errorf("%s: %d %v", name, status, lines)
		}
	}
	status, _, _ := w.ask(get, "authorization: bEARER  "+w.mint("alice", nil))
	if status != 200 {
		t.Errorf("the scheme in other letters: %d", status)
	}
}

func TestWhatComesTwiceOrIsMalformedIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	alice := bearer(w.mint("alice", nil))
	for name, lines := range map[string][]string{
		"two Authorization headers":     {alice, alice},
		"two, one of another scheme":    {alice, "Authorization: Basic YTpi"},
		"two tenant hints":              {alice, "X-Active-Tenant-ID: acme", "X-Active-Tenant-ID: globex"},
		"two equal tenant hints":        {alice, "X-Active-Tenant-ID: acme", "x-active-tenant-id: acme"},
		"a list of hints":               {alice, "X-Active-Tenant-ID: acme, globex"},
		"two tokens in one header":      {alice + ", Bearer x"},
		"Bearer without a token":        {"Authorization: Bearer "},
		"Bearer and nothing":            {"Authorization: Bearer"},
		"a token with a tab":            {"Authorization: Bearer a\tb"},
		"two forwarded URIs":            {alice, "X-Forwarded-Uri: /a", "X-Forwarded-Uri: /b"},
		"two providers":                 {alice, "X-Upstream-IdP-ID: rauth", "X-Upstream-IdP-ID: other"},
		"a forwarded URI of nothing":    {alice, "X-Forwarded-Uri: ?x"},
		"a forwarded address of nobody": {alice, "X-Forwarded-For: nobody"},
	} {
		status, got, body := w.ask(get, lines...)
		if status != 403 || !strings.Contains(body, "malformed_request") || len(claims(got)) != 0 {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	if status, _, _ := w.ask(get, alice, "X_Active_Tenant_ID: globex", "X-Active_Tenant-ID: initech"); status != 200 {
		t.Error("names with underscores are not ignored")
	}
}

// readsThePath denies nobody, and would by the path.
const readsThePath = `package iam.claims

decision := {"allow": count(denied) == 0, "tenant": "acme", "headers": {"X-Tenant-ID": "acme"}}

denied contains "internal" if startswith(input.request.path, "/internal")
`

// Two programs must not read one path differently.
func TestAnAmbiguousPathIsRefusedWhereThePolicyReadsThePath(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{rego: readsThePath})
	alice := bearer(w.mint("alice", nil))
	for _, path := range []string{
		"//", "/a//b", "/a/../b", "/..", "/a/.", "/./a", "/a%2fb", "/a%2Fb", "/%2e%2e/a", "/a%2e%2e", "/a/%2e%2e/b", "/%2E/a", "/a;b=c", "/a%3bb", "/a%00", "/a%0d%0a", "/a%7f",
		"/a%5cb", "/a\\b", "/a%23b", "/a%3fb", "/a%252fb", "/a%252e%252e", "/a%25zz%252f", "/%", "/a%zz", "/a%ff", "/%c0%ae", "/a#b", "a", "*",
	} {
		status, _, body := w.ask(get, alice, "X-Forwarded-Uri: "+path)
		// "/a%2e%2e" is a file name of its own, not a step up.
		if want := path != "/a%2e%2e"; (status == 403 && strings.Contains(body, "malformed_request")) != want {
			t.Errorf("X-Forwarded-Uri %q: %d %s", path, status, body)
		}
	}
	for _, path := range []string{"/", "/a", "/a/", "/a/b.c", "/a%20b", "/caf%C3%A9", "/100%25", "/a%25z", "/~x/$y@z", "/a?b=//..;", "/.well-known/x", "/..."} {
		if status, _, body := w.ask(get, alice, "X-Forwarded-Uri: "+path); status != 200 {
			t.Errorf("X-Forwarded-Uri %q: %d %s", path, status, body)
		}
	}
	if status, _, _ := w.ask("GET /system/enrich-token/admin", alice, "X-Forwarded-Uri: /public"); status != 403 {
		t.Errorf("a client's own X-Forwarded-Uri beside an appended path: %d", status)
	}
	// Envoy appends the path to ours.
	for path, want := range map[string]int{"/orders/1": 200, "/a%2f..%2fb": 403, "//x": 403, "/../admin": 403, "/%2e%2e/%2e%2e/v1/tenants/x": 403, "": 403, "?x=1": 403} {
		if status, _, _ := w.ask("DELETE /system/enrich-token"+path, alice); status != want {
			t.Errorf("DELETE %q below the endpoint: %d, want %d", path, status, want)
		}
	}
}

func TestAnAmbiguousPathIsNoFaultWhereNobodyReadsIt(t *testing.T) {
	t.Parallel()
	ambiguous := []string{"/projects/a%2Fb", "/a;b", "/a%23b", "/a%ff", "//a", "/a/../b"}
	usual := newWorld(t, settings{config: map[string]any{"anonymous": map[string]any{"paths": []any{"/"}}}})
	strict := newWorld(t, settings{ambiguous: true})
	for _, path := range ambiguous {
		for _, appended := range []bool{false, true} {
			where, lines := get, []string{"X-Forwarded-Uri: " + path}
			if appended {
				where, lines = "GET /system/enrich-token"+path, nil
			}
			if status, _, body := usual.ask(where, append(lines, bearer(usual.mint("alice", nil)))...); status != 200 {
				t.Errorf("%s %s: %d %s", where, lines, status, body)
			}
			if status, _, _ := usual.ask(where, lines...); status != 401 {
				t.Errorf("%s %s without a token: %d, though an ambiguous path is not anonymous", where, lines, status)
			}
			if status, _, body := strict.ask(where, append(lines, bearer(strict.mint("alice", nil)))...); status != 403 || !strings.Contains(body, "malformed_request") {
				t.Errorf("%s %s, where all are refused: %d %s", where, lines, status, body)
			}
		}
	}
}

// A denial that reads what is undefined never fires.
func TestARequestOfWhichThePolicyReadsWhatNobodyHasSaidIsDenied(t *testing.T) {
	t.Parallel()
	believed, stranger := newWorld(t, settings{}), newWorld(t, settings{untrusted: true})
	for field, header := range map[string]string{
		"method": "X-Forwarded-Method: DELETE", "path": "X-Forwarded-Uri: /other", "raw_path": "X-Forwarded-Uri: /other", "host": "X-Forwarded-Host: api.example.com",
		"scheme": "X-Forwarded-Proto: https", "client_ip": "X-Forwarded-For: 203.0.113.7",
	} {
		missing := func(w *world, lines ...string) {
			t.Helper()
			status, got, body := w.ask(get, append(lines, bearer(w.mint("alice", nil)))...)
			if status != 403 || !strings.Contains(body, `"code":"request_facts_missing"`) || strings.Contains(body, "input.") || len(claims(got)) != 0 {
				t.Errorf("%s, where %q is said: %d %s", field, lines, status, body)
			}
		}
		s := settings{rego: strings.ReplaceAll(readsThePath, "input.request.path", "input.request."+field)}
		believed.load(s)
		stranger.load(s)
		missing(believed)
		missing(stranger)
		missing(stranger, header)
		if status, _, body := believed.ask(get, bearer(believed.mint("alice", nil)), header); status != 200 {
			t.Errorf("%s, by a believed gateway: %d %s", field, status, body)
		}
	}
	for w, n := range map[*world]int{believed: 6, stranger: 12} {
		w.eventually(func() bool { return strings.Count(w.logs.String(), `"codes":["request_facts_missing"]`) == n })
		if logs := w.logs.String(); strings.Count(logs, `"msg":"request facts missing","peer":"127.0.0.1"`) != 1 || strings.Contains(logs, `"msg":"refused"`) || strings.Contains(logs, `"decision_id":""`) {
			t.Errorf("not one line for one peer within a minute: %s", logs)
		}
	}
}

// An address with a trailing slash, in a gateway that appends no path, says "/" of every request.
func TestATrailingSlashOfAGatewayThatIsNotBelievedIsNoPath(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		untrusted bool
		want      int
	}{"believed": {false, 200}, "not believed": {true, 403}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, settings{rego: readsThePath, untrusted: c.untrusted})
			status, _, body := w.ask("GET /system/enrich-token/", bearer(w.mint("alice", nil)))
			if status != c.want || (status == 403) != strings.Contains(body, `"code":"request_facts_missing"`) {
				t.Errorf("%d %s, want %d", status, body, c.want)
			}
		})
	}
}

// What a client sends through a gateway that does not overwrite it must not win.
func TestTwoSourcesOfOneFactMustAgree(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{rego: recording, config: map[string]any{"anonymous": map[string]any{"preflight": true}}})
	alice := bearer(w.mint("alice", nil))
	all := []string{
		alice, "X-Forwarded-Method: DELETE", "X-Forwarded-Proto: https", "X-Forwarded-Host: api.example.com", "X-Forwarded-Uri: /orders/1?x=y", "X-Forwarded-For: 203.0.113.7",
	}
	const appended = "DELETE /system/enrich-token/orders/1"
	for name, c := range map[string]struct {
		line  string
		host  string
		lines []string
		want  int
	}{
		"nothing disagrees":                       {get, "iam", nil, 200},
		"X-Original says the same":                {get, "iam", []string{"X-Original-Method: DELETE", "X-Original-Uri: /orders/1?other", "X-Original-Host: API.example.com:443", "X-Original-Url: https://api.example.com/orders/1?x"}, 200},
		"X-Original-URL is a path":                {get, "iam", []string{"X-Original-URL: /orders/1"}, 200},
		"another X-Original-Method":               {get, "iam", []string{"X-Original-Method: GET"}, 403},
		"another X-Original-URI":                  {get, "iam", []string{"X-Original-URI: /public"}, 403},
		"another X-Original-Host":                 {get, "iam", []string{"X-Original-Host: evil.example.com"}, 403},
		"another path in X-Original-URL":          {get, "iam", []string{"X-Original-URL: https://api.example.com/public"}, 403},
		"another host in X-Original-URL":          {get, "iam", []string{"X-Original-URL: https://evil.example.com/orders/1"}, 403},
		"another scheme in X-Original-URL":        {get, "iam", []string{"X-Original-URL: http://api.example.com/orders/1"}, 403},
		"no path in X-Original-URL":               {get, "iam", []string{"X-Original-URL: https://api.example.com"}, 403},
		"no URL in X-Original-URL":                {get, "iam", []string{"X-Original-URL: orders"}, 403},
		"two X-Original-URI":                      {get, "iam", []string{"X-Original-URI: /orders/1", "X-Original-URI: /orders/1"}, 403},
		"appended, and all agree":                 {appended, "API.example.com.:443", nil, 200},
		"appended, another method":                {"GET /system/enrich-token/orders/1", "api.example.com", nil, 403},
		"appended, another host":                  {appended, "other.example.com", nil, 403},
		"appended, another path":                  {"DELETE /system/enrich-token/public", "api.example.com", nil, 403},
		"appended, another path in X-Original":    {appended, "api.example.com", []string{"X-Original-URI: /public"}, 403},
		"a preflight only by X-Forwarded-Method":  {"DELETE /system/enrich-token/orders/1", "api.example.com", []string{"Origin: https://a.example", "Access-Control-Request-Method: PUT"}, 200},
		"a preflight by a header that disagrees":  {"OPTIONS /system/enrich-token/orders/1", "api.example.com", []string{"Origin: https://a.example", "Access-Control-Request-Method: PUT"}, 403},
		"appended, one that is no host":           {appended, "api..example.com", nil, 403},
		"X-Original-URI where it is not compared": {get, "iam", []string{"X-Original-Urn: /public"}, 200},
	} {
		status, _, body := w.askHost(c.line, c.host, append(c.lines, all...)...)
		if status != c.want || status == 403 && !strings.Contains(body, "malformed_request") {
			t.Errorf("%s: %d %s, want %d", name, status, body, c.want)
		}
	}
	// Without X-Forwarded-…, X-Original-… says nothing.
	w.load(settings{rego: readsThePath})
	if status, _, body := w.ask(get, alice, "X-Original-URI: /other", "X-Original-URL: https://a.example/other"); status != 403 || !strings.Contains(body, "request_facts_missing") {
		t.Errorf("X-Original-… alone is believed: %d %s", status, body)
	}
}

func TestAMethodIsAnUpperCaseToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	alice := bearer(w.mint("alice", nil))
	for method, want := range map[string]int{"GET": 200, "M-SEARCH": 200, "X!#$%&'*+.^_`|~9": 200, "get": 403, "Get": 403, "GET,POST": 403, "G ET": 403, "GÉT": 403, strings.Repeat("A", 256): 403} {
		if status, _, _ := w.ask(get, alice, "X-Forwarded-Method: "+method); status != want {
			t.Errorf("X-Forwarded-Method %q: %d", method, status)
		}
	}
	for method, want := range map[string]int{"get": 403, "PoST": 403, "POST": 200} {
		if status, _, _ := w.ask(method+" /system/enrich-token/x", alice); status != want {
			t.Errorf("%s with an appended path: %d", method, status)
		}
	}
	if status, _, _ := w.ask("get /system/enrich-token", alice); status != 200 {
		t.Errorf("the gateway's own method is no fact of the request: %d", status)
	}
}

func TestHostsSchemesAndAddressesComeInOneForm(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{rego: recording})
	alice := bearer(w.mint("alice", nil))
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
		status, got, body := w.ask(get, lines...)
		var seen map[string]any
		if c.want == "" {
			if status != 403 || !strings.Contains(body, "malformed_request") {
				t.Errorf("%s %q: %d %s", c.header, c.said, status, body)
			}
		} else if err := json.Unmarshal([]byte(value(got, "X-User-ID")), &seen); err != nil || seen[c.field] != c.want {
			t.Errorf("%s %q: %d %v, want %s", c.header, c.said, status, seen, c.want)
		}
	}
}

// Anybody can make hints up.
func TestWithoutATokenAHintIsNoPartOfTheQuestion(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{rego: "package iam.claims\n\ndecision := {\"allow\": false, \"status\": 403, \"reasons\": [{\"code\": input.request.tenant_hint, \"title\": \"\"} | input.request.tenant_hint]}\n"})
	ids := map[string]bool{}
	for i := range 5 {
		status, _, body := w.ask(get, fmt.Sprintf("X-Active-Tenant-ID: made-up-%d", i))
		if status != 401 {
			t.Errorf("status %d", status)
		}
		ids[body] = true
	}
	if len(ids) != 1 {
		t.Errorf("%d decisions for one question: %v", len(ids), ids)
	}
	if strings.Contains(w.logs.String(), "made-up") {
		t.Error("a hint that means nothing is written down")
	}
	if status, _, body := w.ask(get, "X-Active-Tenant-ID: made up"); status != 403 {
		t.Errorf("a malformed hint: %d %s", status, body)
	}
}

func TestEveryMethodIsAnswered(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	alice := bearer(w.mint("alice", nil))
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "X-OWN"} {
		for _, prefix := range []string{"", "/v1"} {
			if status, _, _ := w.ask(method+" "+prefix+"/system/enrich-token/x", alice); status != 200 {
				t.Errorf("%s %s: %d", method, prefix, status)
			}
			if status, _, _ := w.ask(method + " " + prefix + "/system/enrich-token"); status != 401 {
				t.Errorf("%s %s without a token: %d", method, prefix, status)
			}
		}
	}
	if status, _, _ := w.ask(get, alice, "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x"); status != 200 {
		t.Errorf("a websocket upgrade: %d", status)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range w.observed {
		if !strings.HasPrefix(o, "/system/enrich-token generic ") {
			t.Errorf("observed as %q", o)
		}
	}
}

// Gateways append the client's path to ours: it leads nowhere else.
func TestTheGatewaysListenerServesNothingElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	alice := bearer(w.mint("alice", nil))
	for _, line := range []string{
		"DELETE /system/ext-authz/../../v1/tenants/x", "DELETE /system/ext-authz/%2e%2e/%2e%2e/v1/tenants/x", "DELETE /v1/tenants/x", "GET /v1/tenants",
		"GET /metrics", "GET /debug/pprof/", "GET /policy/status", "GET /system", "GET /system/", "GET /v1/system/enrich-tokens", "GET //system/enrich-token",
		"GET /system//enrich-token", "GET /v1/v1/system/enrich-token", "GET /v1/me/tenants/..", "GET /system/enrich-token%2fx", "GET /SYSTEM/enrich-token",
	} {
		if status, _, body := w.ask(line, alice); status != 404 {
			t.Errorf("%s: %d %s", line, status, body)
		}
	}
	for _, method := range []string{"POST", "PROPFIND"} {
		if status, lines, _ := w.ask(method+" /v1/me/tenants", alice); status != 405 || !slices.Contains(lines, "Allow: GET, HEAD") {
			t.Errorf("%s /v1/me/tenants: %d %v", method, status, lines)
		}
	}
	if status, _, body := w.ask("HEAD /v1/me/tenants", alice); status != 200 || body != "" {
		t.Errorf("HEAD /v1/me/tenants: %d %q", status, body)
	}
}

const recording = `package iam.claims

decision := {"allow": true, "tenant": "", "headers": {"X-User-ID": json.marshal(input.request)}}
`

func TestWhatAProxySaysIsBelievedFromTrustedPeersOnly(t *testing.T) {
	t.Parallel()
	lines := []string{
		"X-Forwarded-Method: DELETE", "X-Forwarded-Proto: https", "X-Forwarded-Host: api.example.com", "X-Forwarded-Uri: /orders/1?x=y", "X-Forwarded-For: 6.6.6.6, 203.0.113.7, 10.1.2.3",
		"X-Rewrite-URL: /evil", "Forwarded: for=6.6.6.6;host=evil;proto=evil", "X-Real-IP: 6.6.6.6",
		"X-Forwarded-Path: /evil", "X-Envoy-Original-Path: /evil", "True-Client-IP: 6.6.6.6",
	}
	evil := []string{"X-Original-URI: /evil", "X-Original-URL: /evil", "X-Original-Method: EVIL", "X-Original-Host: evil"} // from a believed peer: TestTwoSourcesOfOneFactMustAgree
	seen := func(w *world, below string) map[string]any {
		status, got, body := w.ask("GET /system/enrich-token"+below, append(lines, bearer(w.mint("alice", nil)))...)
		var seen map[string]any
		if err := json.Unmarshal([]byte(value(got, "X-User-ID")), &seen); err != nil {
			t.Fatalf("%d %s: %v", status, body, err)
		}
		return seen
	}
	want := map[string]any{
		"anonymous": false, "gateway": "generic", "method": "DELETE", "scheme": "https", "host": "api.example.com", "path": "/orders/1", "raw_path": "/orders/1", "client_ip": "203.0.113.7",
	}
	if diff := cmp.Diff(want, seen(newWorld(t, settings{rego: recording}), "")); diff != "" {
		t.Error("trusted:", diff)
	}
	lines = append(lines, evil...)
	some := strings.ReplaceAll(recording, "json.marshal(input.request)", `json.marshal({"method": input.request.method, "path": input.request.path, "raw_path": input.request.raw_path})`)
	want = map[string]any{"method": "GET", "path": "/below", "raw_path": "/below"}
	if diff := cmp.Diff(want, seen(newWorld(t, settings{rego: some, untrusted: true}), "/below")); diff != "" {
		t.Error("untrusted, and the path is appended:", diff)
	}
}

func TestTheGatewaysChoiceOfProviderBinds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	alice := bearer(w.mint("alice", nil))
	for idp, want := range map[string]int{"rauth": 200, "other": 401, "unknown": 401} {
		if status, _, _ := w.ask(get, alice, "X-Upstream-IdP-ID: "+idp); status != want {
			t.Errorf("%s: %d", idp, status)
		}
	}
	w = newWorld(t, settings{untrusted: true})
	if status, _, _ := w.ask(get, bearer(w.mint("alice", nil)), "X-Upstream-IdP-ID: other"); status != 200 {
		t.Errorf("an untrusted peer's choice was believed: %d", status)
	}
}

func TestNobodyIsLetInUnlessTheBundleDeclaresThePath(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{config: map[string]any{"anonymous": map[string]any{"paths": []any{"/public"}, "preflight": false}}})
	for path, want := range map[string]int{"/public": 200, "/public/a": 200, "/publicity": 401, "/": 401, "/private": 401, "/public/../private": 401, "/public/%2e%2e/private": 401} {
		status, lines, _ := w.ask(get, "X-Forwarded-Uri: "+path)
		if status != want {
			t.Errorf("%s: %d, want %d", path, status, want)
		}
		if status != 200 {
			continue
		}
		for name, v := range claims(lines) {
			quiet := v[0] == "" || name == "X-Decision-Id" || name == "X-Policy-Revision"
			if !quiet && (name != "X-Principal-Type" || v[0] != "anonymous") {
				t.Errorf("%s: anonymous carries %s: %s", path, name, v)
			}
		}
		if value(lines, "X-Principal-Type") != "anonymous" {
			t.Errorf("%s: X-Principal-Type is %q", path, value(lines, "X-Principal-Type"))
		}
	}
	if status, _, _ := w.ask(get, "X-Forwarded-Uri: /public", bearer("nonsense")); status != 401 {
		t.Errorf("a bad token on a public path: %d", status)
	}
	preflight := []string{"Origin: https://app.example.com", "Access-Control-Request-Method: PUT"}
	if status, _, _ := w.ask("OPTIONS /system/enrich-token", preflight...); status != 401 {
		t.Errorf("a preflight that nothing allows: %d", status)
	}
	w.load(settings{config: map[string]any{"anonymous": map[string]any{"preflight": true}}})
	for name, c := range map[string]struct {
		line  string
		lines []string
		want  int
	}{
		"a preflight":                         {"OPTIONS /system/enrich-token/x", preflight, 200},
		"a method of the gateway's own":       {"OPTIONS /system/enrich-token", preflight, 401},
		"a preflight that a gateway forwards": {get, append([]string{"X-Forwarded-Method: OPTIONS"}, preflight...), 200},
		"OPTIONS alone":                       {"OPTIONS /system/enrich-token", preflight[:1], 401},
		"another method":                      {get, preflight, 401},
	} {
		if status, _, _ := w.ask(c.line, c.lines...); status != c.want {
			t.Errorf("%s: %d, want %d", name, status, c.want)
		}
	}
	// A policy alone cannot let nobody in, and an untrusted peer's path is no path.
	w.load(settings{rego: "package iam.claims\n\ndecision := {\"allow\": true, \"anonymous\": true, \"headers\": {\"X-User-ID\": \"u1\", \"X-User-Roles\": [\"admin\"]}}\n"})
	if status, lines, _ := w.ask(get); status != 503 || len(claims(lines)) != 0 {
		t.Errorf("a policy let nobody in: %d %v", status, lines)
	}
}

func TestAnUntrustedPeerCannotClaimAnAnonymousPath(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{untrusted: true, config: map[string]any{"anonymous": map[string]any{"paths": []any{"/public"}}}})
	if status, _, _ := w.ask(get, "X-Forwarded-Uri: /public"); status != 401 {
		t.Errorf("status %d", status)
	}
}

func TestKillSwitchesWorkWhateverThePolicySays(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{rego: "package iam.claims\n\ndecision := {\"allow\": true, \"tenant\": \"acme\", \"headers\": {}}\n"})
	const id = "3f6f0c1e-6f0a-4c59-9a8e-0d6a5f1b2c3d"
	person, program := bearer(w.mint("alice", map[string]any{"client_id": id})), bearer(w.mint(id, map[string]any{"client_id": id}))
	expect := func(what string, want int) {
		t.Helper()
		for name, auth := range map[string]string{"a person's token": person, "a program's token": program} {
			if status, _, _ := w.ask(get, auth); status != want {
				t.Errorf("%s, %s: %d", what, name, status)
			}
		}
	}
	client := iam.Client{Issuer: w.rauth.Issuer, ClientID: id, Tenant: "acme", Status: iam.ClientActive}
	expect("an active client", 200)
	for _, s := range []string{iam.ClientBlocked, iam.ClientDeleted} {
		client.Status = s
		w.ok(w.db.PutClient(ctx, client))
		expect(s, 401)
	}
	client.Status, client.TokensNotBefore = iam.ClientActive, time.Now().Add(time.Minute)
	w.ok(w.db.PutClient(ctx, client))
	expect("tokens_not_before of the client", 401)
	client.TokensNotBefore = time.Now().Add(-time.Minute)
	w.ok(w.db.PutClient(ctx, client))
	expect("tokens_not_before that has passed", 200)

	_, err := w.db.PutUser(ctx, iam.User{Issuer: w.rauth.Issuer, Subject: "alice", Status: iam.UserActive, TokensNotBefore: time.Now().Add(time.Minute)})
	w.ok(err)
	if status, _, _ := w.ask(get, person); status != 401 {
		t.Errorf("tokens_not_before of the user: %d", status)
	}
	if status, _, _ := w.ask(get, bearer(w.mint("alice", map[string]any{"iat": nil}))); status != 401 {
		t.Error("a token without iat slips past tokens_not_before")
	}
}

// An issuer whose clock is ahead by what is tolerated dates a token after a revocation that came
// after it. This replica has never seen such a token while its iat was ahead.
func TestATokenOfAFastIssuerDoesNotOutliveARevocation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	const id = "3f6f0c1e-6f0a-4c59-9a8e-0d6a5f1b2c3d"
	revoked := time.Now().Add(-10 * time.Second)
	for _, subject := range []string{"root", "alice"} {
		user, _, err := w.db.User(ctx, w.rauth.Issuer, subject)
		w.ok(err)
		user.TokensNotBefore = revoked
		_, err = w.db.PutUser(ctx, user.User)
		w.ok(err)
	}
	w.ok(w.db.PutClient(ctx, iam.Client{Issuer: w.rauth.Issuer, ClientID: id, Tenant: "acme", Status: iam.ClientActive, TokensNotBefore: revoked}))
	mint := func(subject, client, audience string, after time.Duration) string {
		claims := map[string]any{"aud": audience, "iat": revoked.Add(after).Unix()}
		if client != "" {
			claims["client_id"] = client
		}
		return w.mint(subject, claims)
	}
	enrich := func(subject, client string) func(time.Duration) int {
		return func(after time.Duration) int {
			status, _, _ := w.ask(get, bearer(mint(subject, client, "iam-gateway", after)))
			return status
		}
	}
	for name, ask := range map[string]func(time.Duration) int{
		"a person":                  enrich("alice", ""),
		"a person through a client": enrich("tina", id),
		"a program":                 enrich(id, id),
		"a list of own tenants": func(after time.Duration) int {
			status, _, _ := w.ask("GET /v1/me/tenants", bearer(mint("alice", "", "iam-gateway", after)))
			return status
		},
		"an administrator": func(after time.Duration) int {
			return w.call(mint("root", "", "iam-admin", after), "GET", "/v1/tenants", nil).status
		},
		"an administrator through a client": func(after time.Duration) int {
			return w.call(mint("tina", id, "iam-admin", after), "GET", "/v1/tenants/acme", nil).status
		},
	} {
		for _, c := range []struct {
			after time.Duration
			want  int
		}{{4 * time.Second, 401}, {7 * time.Second, 200}, {4 * time.Second, 401}} { // the last one finds a cached decision
			if got := ask(c.after); got != c.want {
				t.Errorf("%s, issued %s after the revocation: %d, want %d", name, c.after, got, c.want)
			}
		}
	}
}

// Two issuers with one subject, one client id, one tenant.
func TestAnotherRealmGainsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	theirs := bearer(mintBy(w, w.other, "alice", nil))
	if status, _, _ := w.ask(get, bearer(w.mint("alice", nil))); status != 200 {
		t.Fatalf("ours: %d", status)
	}
	if status, _, _ := w.ask(get, theirs); status != 403 {
		t.Errorf("their alice: %d", status)
	}
	const id = "3f6f0c1e-6f0a-4c59-9a8e-0d6a5f1b2c3d"
	if status, _, _ := w.ask(get, bearer(mintBy(w, w.other, id, map[string]any{"client_id": id, "scope": "invoices:read"}))); status != 403 {
		t.Errorf("their program with our id: %d", status)
	}
	if status, _, _ := w.ask(get, bearer(mintBy(w, w.other, "frank", nil)), "X-Active-Tenant-ID: acme"); status != 403 {
		t.Errorf("their frank with our groups: %d", status)
	}
	// A policy that answers with a tenant out of reach is broken.
	w.load(settings{rego: "package iam.claims\n\ndecision := {\"allow\": true, \"tenant\": \"acme\", \"headers\": {}}\n"})
	if status, _, _ := w.ask(get, theirs); status != 503 {
		t.Errorf("a tenant out of the issuer's reach: %d", status)
	}
}

// A client of one tenant, and a person who has much to say in another.
func TestAClientOfATenantActsInThatTenantOnlyForPersonsToo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	const acmes = "3f6f0c1e-6f0a-4c59-9a8e-0d6a5f1b2c3d"
	w.ok(w.db.PutClient(ctx, iam.Client{Issuer: w.rauth.Issuer, ClientID: "globex-web", Tenant: "globex", Status: iam.ClientActive}))
	alice := func(client string) string { return bearer(w.mint("alice", map[string]any{"client_id": client})) }
	expect := func(what string, want int, tenant, auth string, lines ...string) {
		t.Helper()
		status, got, body := w.ask(get, append(lines, auth)...)
		if status != want || status == 200 && value(got, "X-Tenant-ID") != tenant {
			t.Errorf("%s: %d %v %s", what, status, got, body)
		}
	}
	const globex, acme = "X-Active-Tenant-ID: globex", "X-Active-Tenant-ID: acme"
	expect("another client", 200, "globex", alice("web"), globex)
	expect("globex's client", 200, "globex", alice("globex-web"))
	expect("globex's client, globex asked for", 200, "globex", alice("globex-web"), globex)
	expect("globex's client, acme asked for", 403, "", alice("globex-web"), acme)
	expect("a member of globex alone, through acme's client", 403, "", bearer(w.mint("bob", map[string]any{"client_id": acmes})))
	w.eventually(func() bool { return strings.Contains(w.logs.String(), `"codes":["client_of_another_tenant"]`) })

	for auth, want := range map[string]string{alice("web"): "acme globex umbrella", alice("globex-web"): "globex", alice(acmes): "acme"} {
		_, _, body := w.ask("GET /v1/me/tenants", auth)
		if got := strings.Join(regexp.MustCompile(`"id":"[a-z]+"`).FindAllString(body, -1), " "); got != `"id":"`+strings.ReplaceAll(want, " ", `" "id":"`)+`"` {
			t.Errorf("the tenants to switch between are %s, want %s", got, want)
		}
	}

	// Whatever the policy says.
	w.load(settings{rego: "package iam.claims\n\ndecision := {\"allow\": true, \"tenant\": t, \"headers\": {\"X-Tenant-ID\": t}}\n\ndefault t := \"\"\n\nt := input.request.tenant_hint\n"})
	expect("its own tenant", 200, "globex", alice("globex-web"), globex)
	expect("no tenant", 403, "", alice("globex-web"))
	expect("no tenant, of a client without one", 200, "", alice("web"))
	for range 2 { // from the cache too
		expect("a policy that lets it into another tenant", 403, "", alice("globex-web"), acme)
	}
	expect("a program in another tenant", 403, "", bearer(w.mint(acmes, map[string]any{"client_id": acmes})), globex)
	expect("a client that is not managed here", 200, "acme", alice("web"), acme)
	w.ok(w.db.PutClient(ctx, iam.Client{Issuer: w.rauth.Issuer, ClientID: "globex-web", Tenant: "acme", Status: iam.ClientActive}))
	expect("a client that was moved", 200, "acme", alice("globex-web"), acme)
	w.eventually(func() bool { return strings.Count(w.logs.String(), `"codes":["client_of_another_tenant"]`) >= 4 })
	if logs := w.logs.String(); strings.Contains(logs, "policy is broken") {
		t.Errorf("that it is refused is no fault of the policy: %s", logs)
	}

	// A policy that names no tenant and gives away what the user is in one.
	w.load(settings{rego: `package iam.claims

decision := {"allow": true, "headers": {"X-User-ID": u.id, "X-User-Roles": u.memberships.umbrella.roles}}

u := data.directory.users[input.token.iss][input.token.sub]
`})
	for range 2 {
		expect("roles of another tenant, with no tenant named", 403, "", alice("globex-web"))
		expect("the same through acme's client", 403, "", alice(acmes))
	}
	if status, got, body := w.ask(get, alice("web")); status != 200 || value(got, "X-User-Roles") == "" {
		t.Errorf("the same through a client without a tenant: %d %v %s", status, got, body)
	}
}

func TestUnknownUsersByMapping(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{unknown: "mapped"})
	auth := bearer(w.mint("newcomer", map[string]any{"groups": []string{"auditors"}}))
	status, lines, _ := w.ask(get, auth, "X-Active-Tenant-ID: acme")
	if status != 200 || value(lines, "X-User-Roles") != "auditor,viewer" || value(lines, "X-User-ID") != "" || value(lines, "X-User-Subject") != "newcomer" {
		t.Errorf("%d %v", status, lines)
	}
	for _, hint := range []string{"globex", "initech", "nowhere"} {
		if status, _, _ := w.ask(get, auth, "X-Active-Tenant-ID: "+hint); status != 403 {
			t.Errorf("%s: %d", hint, status)
		}
	}
}

func TestHeadersThatAreTooLargeAreADenyNotACut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{headerMax: 400, config: map[string]any{"tenant_attributes": []any{"long"}}})
	w.ok(w.db.PutTenant(ctx, iam.Tenant{ID: "acme", Slug: "acme", Name: "Acme", Status: "active", Attributes: map[string]any{"long": strings.Repeat("x", 300)}}))
	status, lines, body := w.ask(get, bearer(w.mint("alice", nil)))
	if status != 403 || len(claims(lines)) != 0 || strings.Contains(body, "xxx") {
		t.Errorf("%d %v %s", status, lines, body)
	}
	if log := w.logs.String(); !strings.Contains(log, "headers_too_large") || !strings.Contains(log, "X-Tenant-Attributes 4") {
		t.Error("the log does not say what is too large")
	}
}

func TestABrokenPolicyIsNeitherAYesNorANo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	first := ""
	for name, rego := range map[string]string{
		"undefined": "package iam.claims\n\ndecision := true if input.nothing\n", "no object": "package iam.claims\n\ndecision := true\n",
		"a walk": "package iam.claims\n\ndecision := {\"allow\": count(data.directory.users) > 0}\n",
	} {
		w.load(settings{rego: rego})
		status, lines, body := w.ask(get, bearer(w.mint("alice", nil)))
		if status != 503 || len(claims(lines)) != 0 || !slices.Contains(lines, "Retry-After: 1") || strings.Contains(body, "rego") || strings.Contains(body, "directory") {
			t.Errorf("%s: %d %v %s", name, status, lines, body)
		}
		if name == "undefined" {
			first = body
		}
	}
	// The line in the log and the answer have one id; the later ones of that second are counted in the next line.
	_, id, found := strings.Cut(first, `"instance":"/requests/`)
	if id, _, _ = strings.Cut(id, `"`); first != "" && (!found || id == "") {
		t.Errorf("an answer has no request id: %s", first)
	}
	if logs := w.logs.String(); !regexp.MustCompile(`"msg":"enrichment not answerable","code":"policy_error","count":1,"request_id":"[0-9a-f-]{36}"`).MatchString(logs) {
		t.Errorf("no line has the id of a request: %s", logs)
	}
}

func TestOwnTenantsAreListed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	ask := func(lines ...string) (int, string) {
		status, _, body := w.ask("GET /v1/me/tenants", lines...)
		return status, strings.TrimSpace(body)
	}
	_, err := w.db.PutUser(ctx, iam.User{Issuer: w.rauth.Issuer, Subject: "bob", Status: iam.UserActive, TokensNotBefore: time.Now().Add(-time.Hour)})
	w.ok(err)
	status, body := ask(bearer(w.mint("alice", nil)))
	if want := `{"tenants":[{"id":"acme","slug":"acme","name":"Acme Corp","default":true},{"id":"globex","slug":"globex","name":"Globex","default":false},{"id":"umbrella","slug":"umbrella","name":"Umbrella","default":false}]}`; status != 200 || body != want {
		t.Errorf("%d %s", status, body)
	}
	for name, c := range map[string]struct {
		lines  []string
		status int
		want   string
	}{
		"a member of nothing": {[]string{bearer(w.mint("carol", nil))}, 200, `{"tenants":[]}`},
		"nobody knows them":   {[]string{bearer(w.mint("stranger", nil))}, 200, `{"tenants":[]}`},
		"another realm":       {[]string{bearer(mintBy(w, w.other, "alice", nil))}, 200, `{"tenants":[]}`},
		"no token":            {nil, 401, "unauthenticated"},
		"a bad token":         {[]string{bearer("nonsense")}, 401, "invalid_token"},
		"a program":           {[]string{bearer(w.mint("web", nil))}, 403, "only a user"},
		"a revoked user":      {[]string{bearer(w.mint("bob", map[string]any{"iat": 1}))}, 401, "token_revoked"},
		"two tokens":          {[]string{bearer("a"), bearer("b")}, 403, "malformed_request"},
	} {
		status, body := ask(c.lines...)
		if status != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
}

// The database dies: never an allow with fewer roles, never a deny that says "not
// a member"; it comes back: all recover.
func TestADatabaseThatDiesMakesNobodySomebodyElse(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t)
	if _, err := postgres.Migrate(ctx, server.URL, postgres.Up); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, settings{url: server.URL, facts: directory.Config{MaxStale: 8 * time.Second}})
	w.unsettled = true
	alice, bob, carol := bearer(w.mint("alice", nil)), bearer(w.mint("bob", nil)), bearer(w.mint("carol", nil))
	expect := func(auth string, status int, roles string) {
		t.Helper()
		got, lines, body := w.ask(get, auth)
		if got != status || got == 200 && value(lines, "X-User-Roles") != roles {
			t.Errorf("%d %s %s, want %d %s", got, value(lines, "X-User-Roles"), body, status, roles)
		}
	}
	expect(alice, 200, "editor,viewer")
	expect(carol, 403, "")
	server.Kill()
	for gone := time.Now().Add(10 * time.Second); ; { // a backend outlives its postmaster by a moment
		if _, _, err := w.db.User(ctx, w.rauth.Issuer, "nobody"); err != nil {
			break
		}
		if time.Now().After(gone) {
			t.Fatal("the server does not die")
		}
	}
	for range 10 {
		expect(alice, 200, "editor,viewer") // cached: answered on, and right
		expect(carol, 403, "")
		if status, _, body := w.ask(get, bob); status != 503 || !strings.Contains(body, "facts_") {
			t.Fatalf("bob, who was never asked for: %d %s", status, body)
		}
	}
	until := time.Now().Add(30 * time.Second)
	for status := 0; status != 503; {
		status, _, _ = w.ask(get, alice)
		if status != 200 && status != 503 {
			t.Fatalf("alice past MAX_STALENESS: %d", status)
		}
		if time.Now().After(until) {
			t.Fatal("alice is answered for ever")
		}
	}
	again, err := server.Restart(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Stop()
	until = time.Now().Add(10 * time.Second)
	for status := 0; status != 200; {
		status, _, _ = w.ask(get, bob)
		if status != 200 && status != 503 {
			t.Fatalf("bob while it comes back: %d", status)
		}
		if time.Now().After(until) {
			t.Fatal("it never recovers")
		}
	}
	expect(alice, 200, "editor,viewer")
	expect(bob, 200, "admin,editor,viewer")
	expect(carol, 403, "")
}

// A peer that has stopped sending still listens: it must hear 503, not the 200 that
// a handler gives by writing nothing.
func TestACallerWhoStoppedSendingStillGetsTheAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{rego: "package iam.claims\n\nn := [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]\n\ndecision := {\"allow\": count([1 | n[_]; n[_]; n[_]; n[_]; n[_]; n[_]; n[_]; n[_]; n[_]; n[_]]) > 0}\n"})
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	w.ok(err)
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: iam\r\n%s\r\n\r\n", get, bearer(w.mint("alice", nil)))
	w.ok(err)
	w.ok(conn.(*net.TCPConn).CloseWrite())
	answer, err := io.ReadAll(conn)
	w.ok(err)
	if !strings.HasPrefix(string(answer), "HTTP/1.1 503 ") {
		t.Errorf("got %q", answer)
	}
}

func TestABodyThatNeverComesDoesNotHoldTheAnswerUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	for _, c := range []struct {
		request, line string
		status        int
	}{
		{"POST /system/enrich-token", "Content-Length: 10", 200}, {"POST /system/enrich-token", "Transfer-Encoding: chunked", 200},
		{"GET /v1/me/tenants", "Content-Length: 10", 200}, {"GET /nowhere", "Content-Length: 10", 404}, {"POST /v1/me/tenants", "Transfer-Encoding: chunked", 405},
		{"GET /system/nothing", "Content-Length: 10", 404},
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
		w.ok(err)
		defer conn.Close()
		w.ok(conn.SetDeadline(time.Now().Add(20 * time.Second)))
		_, err = fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: iam\r\n%s\r\n%s\r\n\r\n", c.request, bearer(w.mint("alice", nil)), c.line)
		w.ok(err)
		from := bufio.NewReader(conn)
		resp, err := http.ReadResponse(from, nil)
		if err != nil || resp.StatusCode != c.status || !resp.Close {
			t.Errorf("%s, %s: %v, %v", c.request, c.line, resp, err)
			continue
		}
		_, err = io.Copy(io.Discard, resp.Body)
		w.ok(err)
		if _, err := from.ReadByte(); !errors.Is(err, io.EOF) {
			t.Errorf("%s, %s: the connection is held for a body that never comes: %v", c.request, c.line, err)
		}
	}
}

func TestAUserWithManyTenantsCostsNoManyLookUps(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	id, err := w.db.PutUser(ctx, iam.User{Issuer: w.rauth.Issuer, Subject: "busy", Status: iam.UserActive})
	w.ok(err)
	for i := range 50 {
		tenant := fmt.Sprintf("many-%d", i)
		status := iam.TenantSuspended
		if i == 7 {
			status = iam.TenantActive
		}
		w.ok(w.db.PutTenant(ctx, iam.Tenant{ID: tenant, Slug: tenant, Name: tenant, Status: status}))
		w.ok(w.db.PutMembership(ctx, iam.Membership{Tenant: tenant, User: id, Status: iam.MembershipActive}))
	}
	_, err = w.db.PutUser(ctx, iam.User{Issuer: w.rauth.Issuer, Subject: "busy", Status: iam.UserActive, DefaultTenant: "many-7"})
	w.ok(err)
	before := w.facts.Stats().Loads
	status, lines, _ := w.ask(get, bearer(w.mint("busy", nil)))
	if status != 200 || value(lines, "X-Tenant-ID") != "many-7" {
		t.Errorf("the default tenant: %d %s", status, value(lines, "X-Tenant-ID"))
	}
	if n := w.facts.Stats().Loads - before; n > 3 {
		t.Errorf("%d loads, want one each for user, client and tenant", n)
	}
}

func TestTheTenantOfTheHeadersIsTheTenantOfTheDecision(t *testing.T) {
	t.Parallel()
	names := []string{"X-Tenant-ID", "X-Active-Tenant-ID", "X-Enriched-Tenant-ID", "X-Citadel-Tenant-ID", "X-Tenant", "X-User-Tenant"}
	w := newWorld(t, settings{headers: names})
	for _, header := range names {
		w.load(settings{headers: names, rego: "package iam.claims\n\ndecision := {\"allow\": true, \"tenant\": \"globex\", \"headers\": {\"" + header + "\": \"acme\"}}\n"})
		if status, _, _ := w.ask(get, bearer(mintBy(w, w.other, "alice", nil))); status != 503 {
			t.Errorf("%s: %d", header, status)
		}
	}
}

// Plant a token and see whether anything tells it.
func TestNoTokenIsLogged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	good, expired := w.mint("alice", map[string]any{"email": "alice@example.com", "birth": "planted-birth"}), w.mint("alice", map[string]any{"exp": 1})
	for _, raw := range []string{good, expired, "planted-opaque-token", good + "x"} {
		w.ask(get, bearer(raw))
		w.ask("GET /v1/me/tenants", bearer(raw))
	}
	for _, broken := range []string{`{"allow": time.parse_rfc3339_ns(input.token.birth) > 0}`, "true"} {
		w.load(settings{rego: "package iam.claims\n\ndecision := " + broken + "\n"})
		w.ask(get, bearer(good))
	}
	w.call("root", "GET", "/v1/tenants/"+good, nil)
	logs := w.logs.String()
	if !strings.Contains(logs, "p.rego:3: eval_builtin_error: time.parse_rfc3339_ns") {
		t.Error("the log does not say what is wrong with the policy")
	}
	for _, secret := range []string{good, expired, "planted-opaque-token", "planted-birth", strings.Split(good, ".")[1], strings.Split(good, ".")[2], "alice@example.com"} {
		if strings.Contains(logs, secret) {
			t.Errorf("the log tells %.30s…", secret)
		}
	}
}

// What is not to be written down of a decision stands in no other line either.
func TestARefusalIsLoggedAsMaskedAsADecision(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{fields: []string{"token.iss", "request.method"}})
	_, err := w.db.PutUser(ctx, iam.User{Issuer: w.rauth.Issuer, Subject: "planted-subject", Status: iam.UserActive, TokensNotBefore: time.Now().Add(time.Minute)})
	w.ok(err)
	raw := bearer(w.mint("planted-subject", map[string]any{"client_id": "planted-client"}))
	const link = "eyJhbGciOiJub25lIn0.eyJwIjoxfQ.c2ln"
	status, _, body := w.ask(get, raw, "X-Forwarded-Uri: /reset/"+link, "X-Forwarded-Method: "+strings.ToUpper(link), "X-Active-Tenant-ID: planted-tenant")
	_, id, _ := strings.Cut(strings.TrimSuffix(body, "\"}\n"), `"instance":"/decisions/`)
	if status != 401 || id == "" {
		t.Fatalf("%d %s", status, body)
	}
	w.eventually(func() bool { return strings.Contains(w.logs.String(), `"msg":"decision"`) }) // it is written aside
	logs := w.logs.String()
	if !regexp.MustCompile(`"msg":"refused","gateway":"generic","issuer":"` + w.rauth.Issuer + `","decision_id":"` + id + `","code":"token_revoked"`).MatchString(logs) {
		t.Errorf("the log does not say what was refused: %s", logs)
	}
	for _, secret := range []string{"planted", "/reset", link} {
		if strings.Contains(logs, secret) {
			t.Errorf("the log tells %s: %s", secret, logs)
		}
	}
}

// Whatever comes, 200 is for verified subjects.
func FuzzEnrich(f *testing.F) {
	f.Add("GET", "/system/enrich-token", "Bearer x", "acme", "/a", "1.2.3.4")
	f.Add("OPTIONS", "/v1/system/enrich-token/%2e%2e", "Basic x", "a b", "//", "x")
	handler := fuzzHandler(f)
	f.Fuzz(func(t *testing.T, method, path, authorization, hint, uri, forwardedFor string) {
		req, err := http.NewRequest(method, "http://iam"+path, nil)
		if err != nil {
			return // net/http would not read it either
		}
		req.RemoteAddr = "127.0.0.1:1"
		req.Header["Authorization"], req.Header["X-Active-Tenant-Id"] = []string{authorization}, []string{hint}
		req.Header["X-Forwarded-Uri"], req.Header["X-Forwarded-For"] = []string{uri}, []string{forwardedFor}
		rec := &recorder{header: http.Header{}}
		handler.ServeHTTP(rec, req)
		if rec.status == http.StatusOK {
			t.Errorf("200 for %s %q with %q", method, path, authorization)
		}
		if rec.status != 401 && rec.status != 403 && rec.status != 404 && rec.status != 405 {
			t.Errorf("%d for %s %q", rec.status, method, path)
		}
	})
}

type recorder struct {
	header http.Header
	status int
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) Write(b []byte) (int, error) { return io.Discard.Write(b) }
func (r *recorder) WriteHeader(status int)      { r.status = status }
