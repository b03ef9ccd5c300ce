package gateway_test

import (
	"encoding/json"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/google/go-cmp/cmp"

	"iam-service/internal/dev/world"
)

func TestTheFactsOfACheckAreThoseThatEnvoyNames(t *testing.T) {
	t.Parallel()
	trusted := newEnvoy(world.New(t, world.Settings{Policy: world.Policy{Rego: recording}}))
	stranger := newEnvoy(world.New(t, world.Settings{Untrusted: true, Policy: world.Policy{Rego: recording}}))
	direct := func(in *authv3.CheckRequest, from string) *authv3.CheckRequest {
		in.GetAttributes().GetSource().GetAddress().GetSocketAddress().Address = from
		return in
	}
	facts := func(client string) map[string]any {
		return map[string]any{
			"anonymous": false, "gateway": "envoy-grpc", "method": "GET", "scheme": "http", "host": "192.168.99.100",
			"path": "/api/v1/products", "raw_path": "/api/v1/products", "client_ip": client,
		}
	}
	query := asRecorded(t, istio)
	query.GetAttributes().GetRequest().GetHttp().Path = "/api/v1/products?x=/internal"
	query.GetAttributes().GetRequest().GetHttp().Headers[":path"] = "/api/v1/products?x=/internal"
	h2 := asRecorded(t, istio) // a client chooses :scheme, and Envoy sets X-Forwarded-Proto
	h2.GetAttributes().GetRequest().GetHttp().Scheme = "https"
	noProto := asRecorded(t, istio)
	delete(noProto.GetAttributes().GetRequest().GetHttp().GetHeaders(), "x-forwarded-proto")
	pipe := asRecorded(t, istio)
	pipe.GetAttributes().GetSource().Address = &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: "/x"}}}
	for name, c := range map[string]struct {
		e    *envoy
		in   *authv3.CheckRequest
		want map[string]any
	}{
		"behind a trusted balancer":       {trusted, asRecorded(t, istio), facts("203.0.113.7")},
		"a query":                         {trusted, query, facts("203.0.113.7")},
		"the source is the client":        {trusted, direct(asRecorded(t, istio), "198.51.100.9"), facts("198.51.100.9")},
		"an IPv6 source":                  {trusted, direct(asRecorded(t, istio), "2001:db8::1"), facts("2001:db8::1")},
		"a source that is mapped to IPv6": {trusted, direct(asRecorded(t, istio), "::ffff:198.51.100.9"), facts("198.51.100.9")},
		"a source without an address":     {trusted, pipe, nil},
		"another :scheme":                 {trusted, h2, facts("203.0.113.7")},
		"the scheme alone":                {trusted, noProto, facts("203.0.113.7")},
		"a peer that is not trusted":      {stranger, asRecorded(t, istio), nil},
	} {
		t.Run(name, func(t *testing.T) {
			c.in.GetAttributes().GetRequest().GetHttp().Headers["authorization"] = "Bearer " + c.e.Mint("alice", nil)
			out := c.e.check(c.in)
			if c.want == nil { // the policy reads all facts
				if c.e.status(out) != 403 || !strings.Contains(out.GetDeniedResponse().GetBody(), `"code":"request_facts_missing"`) {
					t.Errorf("%v", out)
				}
				return
			}
			var seen map[string]any
			if err := json.Unmarshal([]byte(c.e.upstream(c.in, out)["x-user-id"]), &seen); err != nil {
				t.Fatalf("%v: %v", out, err)
			}
			if diff := cmp.Diff(c.want, seen); diff != "" {
				t.Error(diff)
			}
		})
	}
	stranger.Load(world.Policy{Rego: `package iam.claims

decision := {"allow": true, "tenant": "", "headers": {"X-User-ID": concat(" ", [input.request.method, input.request.path])}}
`})
	in := asRecorded(t, istio, world.Bearer(stranger.Mint("alice", nil)))
	if got := stranger.upstream(in, stranger.check(in))["x-user-id"]; got != "GET /api/v1/products" {
		t.Errorf("method and path of a peer that is not trusted: %q", got)
	}
	for _, fact := range []string{"host", "scheme", "client_ip"} {
		stranger.Load(world.Policy{Rego: strings.ReplaceAll(readsThePath, "input.request.path", "input.request."+fact)})
		if out := stranger.check(in); stranger.status(out) != 403 || !strings.Contains(out.GetDeniedResponse().GetBody(), `"code":"request_facts_missing"`) {
			t.Errorf("%s of a peer that is not trusted: %v", fact, out)
		}
	}
}

func TestASourceThatDisagreesWithEnvoyIsRejected(t *testing.T) {
	t.Parallel()
	e := newEnvoy(world.New(t, world.Settings{}))
	alice := world.Bearer(e.Mint("alice", nil))
	for name, change := range map[string]func(*authv3.AttributeContext_HttpRequest){
		"X-Forwarded-Uri":         func(h *authv3.AttributeContext_HttpRequest) { h.Headers["x-forwarded-uri"] = "/public" },
		"X-Forwarded-Method":      func(h *authv3.AttributeContext_HttpRequest) { h.Headers["x-forwarded-method"] = "PUT" },
		"X-Forwarded-Host":        func(h *authv3.AttributeContext_HttpRequest) { h.Headers["x-forwarded-host"] = "b.example" },
		"X-Original-URL":          func(h *authv3.AttributeContext_HttpRequest) { h.Headers["x-original-url"] = "/public" },
		"X-Original-URI":          func(h *authv3.AttributeContext_HttpRequest) { h.Headers["x-original-uri"] = "/public" },
		"X-Original-Method":       func(h *authv3.AttributeContext_HttpRequest) { h.Headers["x-original-method"] = "PUT" },
		"X-Original-Host":         func(h *authv3.AttributeContext_HttpRequest) { h.Headers["x-original-host"] = "b.example" },
		":path":                   func(h *authv3.AttributeContext_HttpRequest) { h.Headers[":path"] = "/public" },
		":method":                 func(h *authv3.AttributeContext_HttpRequest) { h.Headers[":method"] = "PUT" },
		":authority":              func(h *authv3.AttributeContext_HttpRequest) { h.Headers[":authority"] = "b.example" },
		"host":                    func(h *authv3.AttributeContext_HttpRequest) { h.Headers["host"] = "b.example" },
		"a method in lower case":  func(h *authv3.AttributeContext_HttpRequest) { h.Method = "get"; delete(h.Headers, ":method") },
		"no host":                 func(h *authv3.AttributeContext_HttpRequest) { h.Host = "a b" },
		"two X-Forwarded-Proto":   func(h *authv3.AttributeContext_HttpRequest) { h.Headers["x-forwarded-proto"] = "https,http" },
		"an address that is none": func(h *authv3.AttributeContext_HttpRequest) { h.Headers["x-forwarded-for"] = "unknown" },
	} {
		t.Run(name, func(t *testing.T) {
			in := asRecorded(t, istio, alice)
			change(in.GetAttributes().GetRequest().GetHttp())
			if out := e.check(in); e.status(out) != 403 || !strings.Contains(out.GetDeniedResponse().GetBody(), `"code":"malformed_request"`) {
				t.Errorf("%v", out)
			}
		})
	}
}

func TestAnAmbiguousPathOfACheckIsRejected(t *testing.T) {
	t.Parallel()
	e := newEnvoy(world.New(t, world.Settings{Policy: world.Policy{Rego: readsThePath}}))
	alice := world.Bearer(e.Mint("alice", nil))
	for path, want := range map[string]int{"/orders/1": 200, "/a%2f..%2fb": 403, "//x": 403, "/../admin": 403, "/a;b": 403, "*": 403, "": 403, "?x=1": 403, "/x?y=//": 200} {
		in := asRecorded(t, istio, alice)
		in.GetAttributes().GetRequest().GetHttp().Path = path
		delete(in.GetAttributes().GetRequest().GetHttp().GetHeaders(), ":path")
		if out := e.check(in); e.status(out) != want {
			t.Errorf("%q: %v, want %d", path, out, want)
		}
	}
}
