package gateway_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"iam-service/internal/dev/await"
	"iam-service/internal/dev/world"
	"iam-service/internal/gateway"
)

// ofProfile is a request as a gateway of a profile sends it.
type ofProfile struct {
	line, host string
	lines      []string
}

var (
	byForwarded = []string{
		"X-Forwarded-Method: PUT", "X-Forwarded-Proto: https", "X-Forwarded-Host: api.example.com",
		"X-Forwarded-Uri: /orders/1?x=y", "X-Forwarded-For: 203.0.113.7",
	}
	byOriginal = []string{"X-Original-Method: PUT", "X-Original-URL: https://api.example.com/orders/1?x=y", "X-Forwarded-For: 203.0.113.7"}
	byAppended = []string{"X-Forwarded-Proto: https", "X-Forwarded-For: 203.0.113.7"}

	asSent = map[string]ofProfile{
		"traefik":       {"GET /system/enrich-token", "iam", byForwarded},
		"nginx":         {"GET /system/auth-request", "iam", byOriginal},
		"ingress-nginx": {"GET /system/auth-request/ingress-nginx", "iam", byOriginal},
		"caddy":         {"GET /system/forward-auth", "iam", byForwarded},
		"apisix":        {"GET /system/forward-auth/apisix", "iam", byForwarded},
		"haproxy":       {"GET /system/forward-auth/haproxy", "iam", byForwarded},
		"kong":          {"GET /system/forward-auth/kong", "iam", byForwarded},
		"envoy-http":    {"PUT /system/ext-authz/orders/1?x=y", "api.example.com", byAppended},
		"gateway-api":   {"PUT /system/external-auth/orders/1?x=y", "api.example.com", byAppended},
	}
)

func TestEachProfileReadsTheFactsThatItsGatewaySends(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{Policy: world.Policy{Rego: recording}})
	for _, name := range gateway.ProfileNames() {
		t.Run(name, func(t *testing.T) {
			if name == "opa" {
				return // TestTheDataAPI…: it has a body
			}
			sent, ok := asSent[name]
			if !ok {
				t.Fatal("no request of this profile is tested")
			}
			status, got, body := w.AskHost(sent.line, sent.host, append(sent.lines, world.Bearer(w.Mint("alice", nil)))...)
			var seen map[string]any
			if err := json.Unmarshal([]byte(world.Value(got, "X-User-ID")), &seen); err != nil {
				t.Fatalf("%d %s: %v", status, body, err)
			}
			want := map[string]any{
				"anonymous": false, "gateway": name, "method": "PUT", "scheme": "https", "host": "api.example.com",
				"path": "/orders/1", "raw_path": "/orders/1", "client_ip": "203.0.113.7",
			}
			if diff := cmp.Diff(want, seen); diff != "" {
				t.Error(diff)
			}
			if method, _, _ := strings.Cut(sent.line, " "); !slices.Contains(w.Observed(), fmt.Sprintf("/system/enrich-token %s %s 200", name, method)) {
				t.Errorf("counted as %v", w.Observed())
			}
		})
	}
}

// A client sends the headers that another kind of gateway would set.
func TestASourceOfAnotherProfileIsNotTrustedAndMustNotDisagree(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{Policy: world.Policy{Rego: readsThePath}})
	alice := world.Bearer(w.Mint("alice", nil))
	for _, c := range []struct {
		name string
		line string
		said []string
		code string
	}{
		{"nginx, only X-Forwarded-Uri", "GET /system/auth-request", []string{"X-Forwarded-Uri: /public"}, "request_facts_missing"},
		{"nginx, only X-Original-URI", "GET /system/auth-request", []string{"X-Original-URI: /public"}, "request_facts_missing"},
		{"nginx, X-Forwarded-Uri disagrees", "GET /system/auth-request", []string{"X-Original-URL: https://a.example/internal", "X-Forwarded-Uri: /public"}, "malformed_request"},
		{"nginx, X-Original-URI disagrees", "GET /system/auth-request", []string{"X-Original-URL: https://a.example/internal", "X-Original-URI: /public"}, "malformed_request"},
		{"nginx, X-Forwarded-Method disagrees", "GET /system/auth-request", []string{"X-Original-URL: https://a.example/a", "X-Original-Method: PUT", "X-Forwarded-Method: GET"}, "malformed_request"},
		{"nginx, X-Forwarded-Host disagrees", "GET /system/auth-request", []string{"X-Original-URL: https://a.example/a", "X-Forwarded-Host: b.example"}, "malformed_request"},
		{"nginx, X-Forwarded-Proto disagrees", "GET /system/auth-request", []string{"X-Original-URL: https://a.example/a", "X-Forwarded-Proto: http"}, "malformed_request"},
		{"nginx, a path is appended", "GET /system/auth-request/public", []string{"X-Original-URL: https://a.example/internal"}, "malformed_request"},
		{"caddy, only X-Original-URL", "GET /system/forward-auth", []string{"X-Original-URL: https://a.example/public"}, "request_facts_missing"},
		{"caddy, only an appended path", "GET /system/forward-auth/public", nil, "request_facts_missing"},
		{"traefik, only an appended path", "GET /system/enrich-token/public", nil, "request_facts_missing"},
		{"envoy-http, X-Forwarded-Uri disagrees", "GET /system/ext-authz/internal", []string{"X-Forwarded-Uri: /public"}, "malformed_request"},
		{"envoy-http, nothing is appended", "GET /system/ext-authz", []string{"X-Forwarded-Uri: /public"}, "request_facts_missing"},
		{"gateway-api, X-Original-URL disagrees", "GET /system/external-auth/internal", []string{"X-Original-URL: https://iam/public"}, "malformed_request"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if status, _, body := w.Ask(c.line, append(c.said, alice)...); status != 403 || !strings.Contains(body, `"code":"`+c.code+`"`) {
				t.Errorf("%d %s, want 403 %s", status, body, c.code)
			}
		})
	}
}

func TestAnEndpointOfAProfileThatIsNotEnabledIsNotFoundAndLogged(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{Profiles: []string{"haproxy", "caddy"}})
	alice := world.Bearer(w.Mint("alice", nil))
	for endpoint, want := range map[string]int{
		"/system/forward-auth": 200, "/system/forward-auth/caddy": 200, "/system/forward-auth/haproxy": 200,
		"/system/enrich-token": 404, "/system/auth-request": 404, "/system/ext-authz/": 404, "/system/external-auth/x": 404,
	} {
		if status, lines, body := w.Ask("GET "+endpoint, alice); status != want || want == 404 && world.Value(lines, "X-User-Subject") != "0 lines" {
			t.Errorf("%s: %d %s, want %d", endpoint, status, body, want)
		}
	}
	if !slices.Contains(w.Observed(), "/system/enrich-token haproxy GET 200") {
		t.Errorf("the first profile of an endpoint does not have it: %v", w.Observed())
	}
	await.True(t, "one line for the peer", func() bool {
		return strings.Count(w.Logs.String(), `"msg":"gateway profile not enabled"`) == 1
	})
}

func TestAnUnknownProfileIsReportedWithAllThatExist(t *testing.T) {
	t.Parallel()
	_, err := gateway.Profiles("traefik", "netscaler", "envoy")
	if err == nil || !strings.Contains(err.Error(), `"netscaler", "envoy": no such profile`) || !strings.Contains(err.Error(), "ingress-nginx") {
		t.Error(err)
	}
	if _, err := gateway.Profiles(); err == nil {
		t.Error("no profile at all is accepted")
	}
}
