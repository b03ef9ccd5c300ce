package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"iam-service/internal/dev/devstack"
	"iam-service/internal/dev/world"
	"iam-service/internal/directory"
	"iam-service/internal/enrich"
	"iam-service/internal/gateway"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/token"
	"iam-service/policies"
)

// Whatever a gateway or a client sends, a 200 is for the bearer of the one valid token, and names nobody else.
func FuzzEnrich(f *testing.F) {
	for _, p := range []string{"/system/enrich-token", "/v1/system/auth-request", "/system/forward-auth/haproxy", "/system/ext-authz/a/b", "/system/external-auth/%2e%2e"} {
		f.Add("GET", p, "Bearer "+valid, "acme", "X-Forwarded-Uri", "/a", "1.2.3.4")
		f.Add("OPTIONS", p, "Bearer x", "a b", "X-Original-URL", "https://a.example/b?c", "x")
	}
	f.Add("GET", "/system/enrich-token", "Basic x", "", "X-Forwarded-Method", "get", "[::1]:1")
	f.Add("PUT", "/system/ext-authz/x", valid, "acme", "X-Original-Uri", "/x", "")
	s := newFuzzed(f)
	f.Fuzz(func(t *testing.T, method, path, authorization, hint, name, value, forwardedFor string) {
		req, err := http.NewRequest(method, "http://iam"+path, nil)
		if err != nil {
			return // net/http would not read it either
		}
		req.RemoteAddr = "127.0.0.1:1"
		for k, v := range map[string]string{"Authorization": authorization, "X-Active-Tenant-Id": hint, "X-Forwarded-For": forwardedFor, http.CanonicalHeaderKey(name): value} {
			req.Header[k] = []string{strings.ReplaceAll(v, valid, s.token)}
		}
		s.check(t, req)
	})
}

// FuzzRequestBytes reads requests as they come over a connection.
func FuzzRequestBytes(f *testing.F) {
	for _, text := range []string{
		"GET /system/enrich-token HTTP/1.1\r\nHost: iam\r\nAuthorization: Bearer " + valid + "\r\n\r\n",
		"GET /system/enrich-token HTTP/1.1\r\nHost: iam\r\nAuthorization: Bearer " + valid + "\r\nAuthorization: Bearer x\r\n\r\n",
		"PUT /system/ext-authz//a/../b HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-Proto: https\r\nauthorization: bearer " + valid + "\r\n\r\n",
		"GET http://x/system/auth-request HTTP/1.0\r\nX-Original-URL: https://a/b\r\nX_User_ID: forged\r\n\r\n",
		"OPTIONS /v1/system/forward-auth HTTP/1.1\r\nHost: iam\r\nOrigin: a\r\nAccess-Control-Request-Method: PUT\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-User-ID: forged\r\n\r\n",
	} {
		f.Add([]byte(text))
	}
	s := newFuzzed(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(bytes.ReplaceAll(text, []byte(valid), []byte(s.token)))))
		if err != nil {
			return
		}
		req.RemoteAddr = "127.0.0.1:1"
		s.check(t, req)
	})
}

// valid stands for the valid token, which is another one in each run.
const valid = "VALID"

// fuzzed is a service in which one token is valid, alice's.
type fuzzed struct {
	handler http.Handler
	headers []string
	token   string
	service *gateway.Service // by all protocols
}

func (s *fuzzed) check(t *testing.T, req *http.Request) {
	rec := &recorder{header: http.Header{}}
	s.handler.ServeHTTP(rec, req)
	switch rec.status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed:
		for _, h := range s.headers {
			if rec.header[h] != nil {
				t.Errorf("%d with %s", rec.status, h)
			}
		}
		return
	case http.StatusOK:
	default:
		t.Fatalf("%d for %s %s", rec.status, req.Method, req.URL)
	}
	if v := req.Header["Authorization"]; len(v) != 1 || !strings.HasSuffix(strings.TrimRight(v[0], " "), s.token) {
		t.Fatalf("200 for %s %s with %q", req.Method, req.URL, v)
	}
	if strings.HasSuffix(req.URL.Path, "/me/tenants") {
		return
	}
	if got := rec.header["X-User-Subject"]; len(got) != 1 || got[0] != "alice" {
		t.Errorf("200 for %q", got)
	}
	for name, values := range rec.header {
		if !slices.Contains(s.headers, name) && name != "Cache-Control" && name != "Content-Length" && name != "Connection" || len(values) != 1 {
			t.Errorf("the header %s: %q", name, values)
		}
	}
}

type recorder struct {
	header http.Header
	status int
}

func (r *recorder) Header() http.Header { return r.header }

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return io.Discard.Write(b)
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}

// aliceAlone is a database that knows alice, a member of acme, and nobody else.
type aliceAlone struct{}

func (aliceAlone) User(_ context.Context, issuer, subject string) (iam.UserFacts, bool, error) {
	if subject != "alice" {
		return iam.UserFacts{}, false, nil
	}
	return iam.UserFacts{
		User:        iam.User{ID: "1", Issuer: issuer, Subject: subject, Status: iam.UserActive, DefaultTenant: "acme"},
		Memberships: []iam.Membership{{Tenant: "acme", User: "1", Status: iam.MembershipActive}},
	}, true, nil
}

func (aliceAlone) Tenant(_ context.Context, id string) (iam.TenantFacts, bool, error) {
	if id != "acme" {
		return iam.TenantFacts{}, false, nil
	}
	return iam.TenantFacts{Tenant: iam.Tenant{ID: id, Slug: id, Name: id, Status: iam.TenantActive}}, true, nil
}

func (aliceAlone) Client(context.Context, string, string) (iam.ClientFacts, bool, error) {
	return iam.ClientFacts{}, false, nil
}

func (aliceAlone) TenantsOf(context.Context, string, string) ([]iam.TenantMembership, error) {
	return nil, nil
}

// newFuzzed is the gateways' handler over a world of one user.
func newFuzzed(f *testing.F) *fuzzed {
	f.Helper()
	p := world.Provider(f)
	log := slog.New(slog.DiscardHandler)
	issuers := iam.Issuers{{URL: p.Issuer, Tenants: []string{"*"}}}
	v, err := token.New(token.Config{Issuers: []token.Issuer{{URL: p.Issuer, Audiences: []string{devstack.Audience}}}, Log: log})
	if err != nil {
		f.Fatal(err)
	}
	running, stop := context.WithCancel(context.Background())
	f.Cleanup(stop)
	if err := v.Start(running, time.Now().Add(5*time.Second)); err != nil {
		f.Fatal(err)
	}
	e, err := policy.NewEngine(policy.Config{Log: log, Limit: 10 * time.Second})
	if err != nil {
		f.Fatal(err)
	}
	c, err := policy.FromFS("embedded", policies.FS)
	if err != nil {
		f.Fatal(err)
	}
	if err := e.Submit(context.Background(), c); err != nil {
		f.Fatal(err)
	}
	store := directory.New(aliceAlone{}, directory.Config{Issuers: issuers, MaxStale: 1000 * time.Hour})
	store.MarkFresh(store.Now())
	enricher := enrich.New(enrich.Config{Verifier: v, Directory: store, Engine: e, Issuers: issuers, Log: log, Deadline: 10 * time.Second})
	all, err := gateway.Profiles(gateway.ProfileNames()...)
	if err != nil {
		f.Fatal(err)
	}
	raw, err := p.Mint("ES256", map[string]any{"sub": "alice", "client_id": "web", "exp": time.Now().Add(24 * time.Hour).Unix()})
	if err != nil {
		f.Fatal(err)
	}
	cfg := gateway.Config{
		Enricher: enricher, Profiles: all, Headers: e.Headers(), Identify: enricher.Identify, Tenants: aliceAlone{}, Log: log, Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Observe: func(string, string, string, int, time.Duration) {},
	}
	data := gateway.New(cfg)
	cfg.Profiles = slices.DeleteFunc(slices.Clone(all), func(p gateway.Profile) bool { return p.Name == "opa" }) // which answers 200 to all
	return &fuzzed{gateway.New(cfg).Handler(), e.Headers(), raw, data}
}
