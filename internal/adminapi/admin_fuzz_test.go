package adminapi_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"iam-service/internal/dev/devstack"
)

// internals are texts that no caller may see.
var internals = regexp.MustCompile(`(?i)sqlstate|pgx|postgres|goroutine|panic|\.go:[0-9]|reflect|internal/|duplicate key|constraint|syntax error at`)

// Whatever a caller with all permissions sends to any route: never a 500, never
// a text of ours inside.
func FuzzAdmin(f *testing.F) {
	w := newWorld(f, settings{})
	token := w.Mint("root", map[string]any{"aud": devstack.AdminAudience})
	base, err := url.Parse(w.admin)
	w.OK(err)
	methods := []string{"GET", "POST", "PUT", "PATCH", "DELETE"}
	for i, seed := range []struct{ path, body, match, key string }{
		{"/v1/tenants", `{"id":"x","slug":"x","name":"x"}`, "", "k"},
		{"/v1/tenants/acme", `{"slug":"acme","name":"A"}`, `"1"`, ""},
		{"/v1/tenants/acme/roles", `{"name":"r","permissions":["a:b"],"inherits":["viewer"]}`, "", ""},
		{"/v1/tenants/acme/roles/auditor?remove=true", `{}`, `*`, ""},
		{"/v1/tenants/acme/members", `{"subject":"x","roles":["viewer"],"expires_at":"2030-01-01T00:00:00Z","attributes":{"plan":"x"}}`, "", "k2"},
		{"/v1/tenants/acme/members:batch", `{"members":[{"subject":"a"},{"subject":"b","status":"suspended"}]}`, "", ""},
		{"/v1/tenants/acme/mappings", `{"claim":"groups","value":"\u00e4","roles":["viewer"]}`, "", ""},
		{"/v1/users?issuer=x&subject=%00&limit=3&after=WyJ4Il0", `{"subject":"n","platform_roles":["auditor"]}`, "", ""},
		{"/v1/users/00000000-0000-0000-0000-000000000000", `{"status":"blocked"}`, `"x", W/"1"`, ""},
		{"/v1/users/x:revoke", `{"before":"0001-01-01T00:00:00Z"}`, "", ""},
		{"/v1/users/x/effective?tenant=acme", ``, "", ""},
		{"/v1/services/s/manifest", `{"roles":[{"name":"a","inherits":["a"]}],"attributes":[{"key":"k","type":"string"}]}`, "", ""},
		{"/s2s/system/sync", `{"service":"s","roles":[]}`, "", ""},
		{"/v1/audit?from=2020-01-01T00:00:00Z&kind=role&after=WyJ4IiwxLDJd", ``, "", ""},
		{"/v1/roles/%2e%2e%2f%00", `{"permissions":[1,null,{"a":[]}]}`, "999999999999999999999", ""},
		{"/v1/tenants/acme", `{"status":"archived","status":"active"}`, "", ""},
	} {
		f.Add(uint8(i), seed.path, []byte(seed.body), seed.match, seed.key, false)
		f.Add(uint8(i+1), seed.path, []byte(seed.body), seed.match, seed.key, true)
	}
	f.Fuzz(func(t *testing.T, method uint8, path string, body []byte, match, key string, asYAML bool) {
		target, err := url.Parse(path)
		if err != nil || !strings.HasPrefix(target.Path, "/") {
			return
		}
		target.Scheme, target.Host, target.User, target.Fragment = base.Scheme, base.Host, nil, ""
		req, err := http.NewRequestWithContext(ctx, methods[int(method)%len(methods)], target.String(), strings.NewReader(string(body)))
		if err != nil {
			return
		}
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Content-Type", "application/json")
		if asYAML {
			req.Header.Set("Content-Type", "application/yaml")
		}
		set := func(name, value string) {
			if strings.IndexFunc(value, func(r rune) bool { return r < 0x20 || r > 0x7e }) < 0 && value != "" {
				req.Header.Set(name, value)
			}
		}
		set("If-Match", match)
		set("Idempotency-Key", key)
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err) // also a connection that is cut without an answer
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if string(answer) == "400 Bad Request" {
			return // net/http itself: what is no HTTP reaches no handler
		}
		if resp.StatusCode >= 500 {
			t.Fatalf("%s %s %q: %d %s\n%s", req.Method, target, body, resp.StatusCode, answer, w.Logs)
		}
		if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/scim+json") {
			return // errors of its own form: FuzzSCIM
		}
		if resp.StatusCode >= 400 {
			var problem map[string]any
			if err := json.Unmarshal(answer, &problem); err != nil || resp.Header.Get("Content-Type") != "application/problem+json" {
				t.Fatalf("%s %s: %d is no problem document: %s", req.Method, target, resp.StatusCode, answer)
			}
			delete(problem, "instance")
			said, err := json.Marshal(problem)
			if err != nil {
				t.Fatal(err)
			}
			// What the caller sent may come back: it is theirs.
			for _, own := range []string{string(body), path} {
				said = []byte(strings.ReplaceAll(string(said), own, ""))
			}
			if found := internals.FindString(string(said)); found != "" && !internals.Match(body) && !internals.MatchString(path) {
				t.Fatalf("%s %s %q: tells %q: %s", req.Method, target, body, found, answer)
			}
		}
	})
}

// Whatever a provisioning client sends, as a filter, a path or a body: never a 500, and never what another tenant has.
func FuzzSCIM(f *testing.F) {
	w := newWorld(f, settings{})
	p, other := w.provision("acme"), w.provision("globex")
	theirs := other.user("of-another-tenant")
	ada := p.user("ada")
	group := p.group("G", ada)
	paths := []string{"/Users", "/Users/" + ada, "/Groups", "/Groups/" + group, "/Users/.search", "/Groups/.search"}
	methods := []string{"GET", "POST", "PUT", "PATCH"}
	for i, seed := range []struct{ query, body string }{
		{"filter=" + escape(`userName eq "x" or not (externalId co "%" and meta.created gt "2020-01-01T00:00:00Z")`), `{"userName":"x"}`},
		{"filter=" + escape(`members[value eq "`+theirs+`"]`) + "&count=1&cursor=", `{"displayName":"x","members":[{"value":"` + theirs + `"}]}`},
		{"attributes=members.value&startIndex=3&count=-1", `{"Operations":[{"op":"remove","path":"members[value eq \"x\"]"}]}`},
		{"filter=" + escape(`id sw "a" and active ne true`), `{"filter":"id pr","attributes":["id"],"count":2}`},
		{"cursor=" + "YWFhYWFhYWEtYWFhYS1hYWFhLWFhYWEtYWFhYWFhYWFhYWFh", `{"Operations":[{"op":"replace","value":{"active":"False","externalId":"\u0000"}}]}`},
	} {
		f.Add(uint8(i), uint8(i), seed.query, []byte(seed.body))
	}
	f.Fuzz(func(t *testing.T, path, method uint8, query string, body []byte) {
		target, err := url.Parse(w.admin + "/scim/v2/acme" + paths[int(path)%len(paths)])
		if err != nil {
			t.Fatal(err)
		}
		target.RawQuery = query
		req, err := http.NewRequestWithContext(ctx, methods[int(method)%len(methods)], target.String(), strings.NewReader(string(body)))
		if err != nil {
			return
		}
		req.Header.Set("Authorization", "Bearer "+p.token)
		req.Header.Set("Content-Type", "application/scim+json")
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if string(answer) == "400 Bad Request" {
			return // net/http itself
		}
		if resp.StatusCode >= 500 && resp.StatusCode != http.StatusNotImplemented {
			t.Fatalf("%s %s %q: %d %s\n%s", req.Method, target, body, resp.StatusCode, answer, w.Logs)
		}
		if strings.Contains(string(answer), theirs) && !strings.Contains(string(body), theirs) && !strings.Contains(query, theirs) {
			t.Fatalf("%s %s %q tells of another tenant: %s", req.Method, target, body, answer)
		}
	})
}
