package gateway_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"iam-service/internal/dev/world"
	"iam-service/internal/policy"
)

// kongs is the body of Kong's plugin: build_opa_input in Kong/kong plugins-ee/opa/kong/plugins/opa/handler.lua,
// with all of its include_… options. more are further members of the headers.
func kongs(token, more string) string {
	return `{"input": {"request": {"http": {"method": "PUT", "scheme": "https", "host": "api.example.com", "port": 8443, "path": "/orders/1",
		"headers": {"host": "api.example.com:8443", "user-agent": "curl/8.5.0", "accept": "*\/*", "x-many": ["a", "b"]` + authorization(token) + more + `},
		"querystring": {"x": "y", "flag": true}, "tls": {"version": "TLSv1.3", "cipher": "TLS_AES_256_GCM_SHA384", "client_verify": "NONE"},
		"body": "{}", "body_size": 2, "parsed_body": {}, "uri_captures": {"named": {}, "unnamed": ["orders"]}}},
		"client_ip": "203.0.113.7", "service": {"name": "app", "port": 80}, "route": {"paths": ["\/"]}, "consumer": {"username": "alice"}}}`
}

// apisixs is the body of APISIX's plugin: build_opa_input in apache/apisix apisix/plugins/opa/helper.lua, with all of its
// with_… options.
func apisixs(token, more string) string {
	return `{"input": {"type": "http", "request": {"scheme": "https", "method": "PUT", "host": "api.example.com", "port": 8443, "path": "\/orders\/1",
		"headers": {"host": "api.example.com:8443", "user-agent": "curl\/8.5.0", "accept": "*\/*"` + authorization(token) + more + `}, "query": {"x": "y"}},
		"var": {"server_addr": "10.0.0.5", "server_port": "9080", "remote_addr": "203.0.113.7", "remote_port": "41822", "timestamp": 1701234567},
		"route": {"id": "1", "plugins": {"opa": {}}}, "service": {"id": "2"}, "consumer": {"consumer_name": "alice"}}}`
}

func authorization(token string) string {
	if token == "" {
		return ""
	}
	return `, "authorization": "Bearer ` + token + `"`
}

// plugins are the two that ask.
var plugins = map[string]struct {
	body  func(token, more string) string
	judge func(t *testing.T, status int, body string) verdict
}{
	"kong":   {kongs, kong},
	"apisix": {apisixs, apisix},
}

// verdict is what a plugin does with a response.
type verdict struct {
	status  int               // of the response to the client; 200: the request goes on
	set     map[string]string // headers of the request to the backend
	headers map[string]string // of the response to the client
	body    any
}

// kong judges as OpaHandler:access in handler.lua with process_decision in decision.lua: a status that is not 200,
// JSON that is none, and a result that is neither a boolean nor an object with a boolean allow are 500.
func kong(t *testing.T, status int, body string) verdict {
	t.Helper()
	var sent struct{ Result any }
	if status != 200 || json.Unmarshal([]byte(body), &sent) != nil {
		return verdict{status: 500}
	}
	switch result := sent.Result.(type) {
	case bool:
		if result {
			return verdict{status: 200}
		}
		return verdict{status: 403}
	case map[string]any:
		allow, ok := result["allow"].(bool)
		switch {
		case !ok:
			return verdict{status: 500}
		case allow:
			return verdict{status: 200, set: texts(t, result["headers"])}
		}
		v := verdict{status: 403, headers: texts(t, result["headers"]), body: map[string]any{"message": "unauthorized"}}
		if n, ok := result["status"].(float64); ok {
			v.status = int(n)
		}
		return v
	}
	return verdict{status: 500}
}

// apisix judges as _M.access in apisix/plugins/opa.lua: the status of the response is not looked at.
func apisix(t *testing.T, _ int, body string) verdict {
	t.Helper()
	var sent map[string]any
	if json.Unmarshal([]byte(body), &sent) != nil {
		return verdict{status: 503}
	}
	result, _ := sent["result"].(map[string]any)
	if sent["result"] == nil || sent["result"] == false {
		return verdict{status: 503}
	}
	if truthy(result["allow"]) {
		v := verdict{status: 200, set: map[string]string{}}
		all := texts(t, result["headers"])
		for _, name := range policy.DefaultHeaders { // send_headers_upstream, as the documentation spells them
			if value, ok := all[name]; ok {
				v.set[name] = value
			}
		}
		return v
	}
	v := verdict{status: 403, headers: texts(t, result["headers"]), body: result["reason"]}
	if n, ok := result["status_code"].(float64); ok {
		v.status = int(n)
	}
	return v
}

// truthy is so in Lua.
func truthy(v any) bool { return v != nil && v != false }

func texts(t *testing.T, v any) map[string]string {
	t.Helper()
	all := map[string]string{}
	for name, value := range v.(map[string]any) {
		all[name] = value.(string)
	}
	return all
}

// askData sends a body as the plugins do.
func askData(w *world.World, body string) (int, string) {
	w.Helper()
	w.Settle()
	resp, err := http.Post(w.URL+"/v1/data/iam/claims/decision", "application/json", strings.NewReader(body))
	w.OK(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	w.OK(err)
	return resp.StatusCode, string(text)
}

func TestTheDataAPIServesTheOPAPluginsOfKongAndAPISIX(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{Profiles: []string{"traefik", "opa"}, Policy: world.Policy{Config: map[string]any{"anonymous": map[string]any{"paths": []any{"/public"}, "preflight": true}}}})
	alice, bob := w.Mint("alice", nil), w.Mint("bob", nil)
	for plugin, p := range plugins {
		for name, c := range map[string]struct {
			body   string
			status int
			set    map[string]string
		}{
			"allowed":              {body: p.body(alice, ""), status: 200, set: map[string]string{"X-Tenant-ID": "acme", "X-User-Roles": "editor,viewer", "X-Scopes": ""}},
			"another tenant":       {body: p.body(alice, `, "x-active-tenant-id": "globex"`), status: 200, set: map[string]string{"X-Tenant-ID": "globex"}},
			"not a member":         {body: p.body(bob, `, "x-active-tenant-id": "acme"`), status: 403},
			"no tenant":            {body: p.body(w.Mint("carol", nil), ""), status: 403},
			"no token":             {body: p.body("", ""), status: 401},
			"a bad token":          {body: p.body("x.y.z", ""), status: 401},
			"anonymous":            {body: strings.NewReplacer(`"/orders/1"`, `"/public"`, `"\/orders\/1"`, `"/public"`).Replace(p.body("", "")), status: 200, set: map[string]string{"X-Principal-Type": "anonymous", "X-User-Subject": ""}},
			"a preflight":          {body: strings.Replace(p.body("", `, "origin": "https://a.example", "access-control-request-method": "PUT"`), `"PUT", "`, `"OPTIONS", "`, 1), status: 200},
			"two tokens":           {body: p.body("", `, "authorization": ["Bearer `+alice+`", "Bearer `+bob+`"]`), status: 403},
			"two spellings":        {body: p.body(alice, `, "Authorization": "Bearer `+bob+`"`), status: 403},
			"the same name twice":  {body: p.body(alice, authorization(bob)), status: 403},
			"two hints":            {body: p.body(alice, `, "x-active-tenant-id": ["acme", "globex"]`), status: 403},
			"a header of numbers":  {body: p.body("", `, "authorization": 7`), status: 403},
			"another path":         {body: p.body(alice, `, "x-forwarded-uri": "/public"`), status: 403},
			"another method":       {body: p.body(alice, `, "x-original-method": "GET"`), status: 403},
			"another host":         {body: p.body(alice, `, "x-forwarded-host": "b.example"`), status: 403},
			"a balancer's scheme":  {body: p.body(alice, `, "x-forwarded-proto": "http"`), status: 200},
			"a provider not hers":  {body: p.body(alice, `, "x-upstream-idp-id": "other"`), status: 401},
			"a method in no form":  {body: strings.Replace(p.body(alice, ""), `"PUT"`, `"put"`, 1), status: 403},
			"a method of no type":  {body: strings.Replace(p.body(alice, ""), `"PUT"`, `7`, 1), status: 403},
			"no headers at all":    {body: strings.Replace(p.body("", ""), `"headers": {`, `"headers": [], "other": {`, 1), status: 401},
			"something after it":   {body: p.body(alice, "") + "{}", status: 403},
			"a body that is cut":   {body: p.body(alice, "")[:200], status: 403},
			"no input":             {body: `{}`, status: 403},
			"an input of no type":  {body: `{"input": true}`, status: 403},
			"a name in capitals":   {body: strings.Replace(p.body(alice, ""), `"input"`, `"Input"`, 1), status: 403},
			"a body that is large": {body: p.body(alice, `, "x": "`+strings.Repeat("a", 256<<10)+`"`), status: 403},
			"nothing":              {body: "", status: 403},
		} {
			t.Run(plugin+"/"+name, func(t *testing.T) {
				status, body := askData(w, c.body)
				if status != 200 {
					t.Errorf("HTTP %d: Kong makes 500 of it", status)
				}
				v := p.judge(t, status, body)
				if v.status != c.status {
					t.Fatalf("%d, want %d: %s", v.status, c.status, body)
				}
				if v.status == 200 {
					got := map[string]string{}
					for name, value := range v.set {
						got[http.CanonicalHeaderKey(name)] = value
					}
					for _, h := range policy.DefaultHeaders {
						if value, ok := got[http.CanonicalHeaderKey(h)]; !ok {
							t.Errorf("%s is not set: the client's own passes", h)
						} else if want, ok := c.set[h]; ok && value != want {
							t.Errorf("%s is %q, want %q", h, value, want)
						}
					}
					return
				}
				if len(v.set) != 0 || v.headers["Cache-Control"] != "no-store" || (v.status == 401) != strings.HasPrefix(v.headers["WWW-Authenticate"], "Bearer") {
					t.Errorf("%+v", v)
				}
			})
		}
	}
	for _, want := range []string{"PUT 200", "PUT 401", "PUT 403", "POST 403", "OPTIONS 200"} {
		if !slices.Contains(w.Observed(), "/system/enrich-token opa "+want) {
			t.Errorf("%s is not counted: %v", want, w.Observed())
		}
	}
}

func TestTheDataAPITakesRequestFactsFromTheInputOfATrustedPeer(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{Policy: world.Policy{Rego: recording}})
	stranger := world.New(t, world.Settings{Untrusted: true, Policy: world.Policy{Rego: recording}})
	for plugin, p := range plugins {
		t.Run(plugin, func(t *testing.T) {
			for address, want := range map[string]string{"203.0.113.7": "203.0.113.7", "10.1.2.3": "198.51.100.9"} {
				body := strings.Replace(p.body(w.Mint("alice", nil), `, "x-forwarded-for": "6.6.6.6, 198.51.100.9"`), "203.0.113.7", address, 1)
				v := p.judge(t, 200, second(askData(w, body)))
				var seen map[string]any
				text := v.set["X-User-ID"] + v.set["X-User-Id"]
				if v.status != 200 {
					t.Fatalf("%+v", v)
				}
				if plugin == "apisix" {
					text = v.set["X-User-ID"]
				}
				w.OK(json.Unmarshal([]byte(text), &seen))
				facts := map[string]any{
					"anonymous": false, "gateway": "opa", "method": "PUT", "scheme": "https", "host": "api.example.com",
					"path": "/orders/1", "raw_path": "/orders/1", "client_ip": want,
				}
				if diff := cmp.Diff(facts, seen); diff != "" {
					t.Error(diff)
				}
			}
			if _, body := askData(stranger, p.body(stranger.Mint("alice", nil), "")); !strings.Contains(body, `"code":"request_facts_missing"`) {
				t.Errorf("a peer that is not trusted: %s", body)
			}
		})
	}
}

func second(_ int, body string) string { return body }

func TestTheDataAPIIsOffUnlessItsProfileIsEnabled(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{Profiles: []string{"traefik"}})
	if status, body := askData(w, kongs(w.Mint("alice", nil), "")); status != 404 {
		t.Errorf("%d %s", status, body)
	}
	w = world.New(t, world.Settings{Profiles: []string{"opa"}})
	for _, line := range []string{"GET /v1/data/iam/claims/decision", "POST /v1/data/iam/claims", "POST /data/iam/claims/decision", "POST /v1/data/iam/claims/decision/x", "POST /v1/v1/data/iam/claims/decision"} {
		if status, _, body := w.Ask(line, "Content-Length: 0"); status != 404 && status != 405 {
			t.Errorf("%s: %d %s", line, status, body)
		}
	}
}

// A plugin must deny where nothing can be decided.
func TestTheDataAPIFailsClosedWith503(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{Policy: world.Policy{Rego: `package iam.claims

decision := {"allow": true, "tenant": "nowhere", "headers": {"X-Tenant-ID": "acme"}}
`}})
	for plugin, p := range plugins {
		status, body := askData(w, p.body(w.Mint("alice", nil), ""))
		v := p.judge(t, status, body)
		if v.status != 503 || v.headers["Retry-After"] != "1" || len(v.set) != 0 || strings.Contains(body, "acme") {
			t.Errorf("%s: %+v", plugin, v)
		}
		if reason := fmt.Sprint(v.body); plugin == "apisix" && !strings.Contains(reason, "/problems/unavailable") {
			t.Errorf("the body is %s", reason)
		}
	}
}
