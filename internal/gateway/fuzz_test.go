package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"iam-service/internal/dev/devstack"
	"iam-service/internal/dev/world"
	"iam-service/internal/directory"
	"iam-service/internal/enrich"
	"iam-service/internal/gateway"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/problem"
	"iam-service/internal/token"
	"iam-service/policies"
)

// Whatever a gateway or a client sends, a 200 is for the bearer of the one valid token, and names no other.
func FuzzEnrich(f *testing.F) {
	for _, p := range []string{"/system/enrich-token", "/v1/system/auth-request", "/system/forward-auth/haproxy", "/system/ext-authz/a/b", "/system/external-auth/%2e%2e"} {
		f.Add("GET", p, "Bearer "+valid, "acme", "X-Forwarded-Uri", "/a", "1.2.3.4")
		f.Add("OPTIONS", p, "Bearer x", "a b", "X-Original-URL", "https://a.example/b?c", "x")
	}
	f.Add("GET", "/system/enrich-token", "Basic x", "", "X-Forwarded-Method", "get", "[::1]:1")
	f.Add("PUT", "/system/ext-authz/x", valid, "acme", "X-Original-Uri", "/x", "")
	f.Add("GET", "/system/forward-auth", "Bearer "+valid, "acme\nglobex", "X-Forwarded-Proto", "https\nhttp", "1.2.3.4\n::1,x")
	f.Add("GET", "/system/enrich-token", "Bearer "+valid+"\nBearer x", "acme", "X-User-ID", "forged", "1.2.3.4:5, [::1]:6")
	s := newFuzzed(f)
	f.Fuzz(func(t *testing.T, method, path, authorization, hint, name, value, forwardedFor string) {
		req, err := http.NewRequest(method, "http://iam"+path, nil)
		if err != nil {
			return // net/http would not read it either
		}
		req.RemoteAddr = "127.0.0.1:1"
		for k, v := range map[string]string{"Authorization": authorization, "X-Active-Tenant-Id": hint, "X-Forwarded-For": forwardedFor, http.CanonicalHeaderKey(name): value} {
			req.Header[k] = strings.Split(strings.ReplaceAll(v, valid, s.token), "\n") // each line a field of its own
		}
		s.check(t, req)
	})
}

// FuzzRequestBytes serves bytes as a connection brings them: several requests, bodies, trailers, and what net/http refuses.
func FuzzRequestBytes(f *testing.F) {
	seeds := []string{
		"GET /system/enrich-token HTTP/1.1\r\nHost: iam\r\nAuthorization: Bearer " + valid + "\r\n\r\n",
		"GET /system/enrich-token HTTP/1.1\r\nHost: iam\r\nAuthorization: Bearer " + valid + "\r\nAuthorization: Bearer x\r\n\r\n",
		"GET /system/enrich-token HTTP/1.1\r\nHost: iam\r\nX-Active-Tenant-ID: acme\r\nx-active-tenant-id: globex\r\nAuthorization: Bearer " + valid + "\r\n\r\n",
		"PUT /system/ext-authz//a/../b HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-Proto: https\r\nauthorization: bearer " + valid + "\r\n\r\n",
		"GET http://x/system/auth-request HTTP/1.0\r\nX-Original-URL: https://a/b\r\nX_User_ID: forged\r\n\r\n",
		"GET /system/auth-request/ingress-nginx HTTP/1.1\r\nHost: iam\r\nX-Original-Method: GET\r\nX-Original-URI: /a%2fb\r\nX-User-Roles: admin\r\nAuthorization: Bearer " + valid + "\r\n\r\n",
		"OPTIONS /v1/system/forward-auth HTTP/1.1\r\nHost: iam\r\nOrigin: a\r\nAccess-Control-Request-Method: PUT\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-User-ID: forged\r\n\r\n",
		// A request within the body of another, and two in a row of which one has the token.
		"POST /system/external-auth/x HTTP/1.1\r\nHost: iam\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /system/enrich-token HTTP/1.1\r\nHost: iam\r\n\r\n",
		"GET /system/enrich-token HTTP/1.1\r\nHost: iam\r\nAuthorization: Bearer " + valid + "\r\n\r\nGET /system/enrich-token HTTP/1.1\r\nHost: iam\r\n\r\n",
		"GET /v1/me/tenants HTTP/1.1\r\nHost: iam\r\nConnection: X-User-ID, close\r\nAuthorization: Bearer " + valid + "\r\n\r\n",
		"GET /system/enrich-token HTTP/1.1\r\nHost: iam\r\nAuthorization: Bearer\r\n " + valid + "\r\n\r\n",
	}
	for _, text := range seeds {
		f.Add([]byte(text))
	}
	s := newFuzzed(f)
	if s.serve(f, []byte(seeds[0])); s.allowed.Load() != 1 {
		f.Fatal("the valid token is not allowed, so nothing is tested")
	}
	f.Fuzz(func(t *testing.T, text []byte) { s.serve(t, text) })
}

// serve serves text as a connection brings it, and checks each request in it.
func (s *fuzzed) serve(t testing.TB, text []byte) {
	conn := newFakeConn(bytes.ReplaceAll(text, []byte(valid), []byte(s.token)))
	server := &http.Server{
		ReadHeaderTimeout: time.Minute, // which is over as soon as there are no more bytes
		IdleTimeout:       time.Minute,
		ErrorLog:          log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer func() { // net/http would log it, and go on
				if v := recover(); v != nil {
					t.Errorf("panic: %v", v)
				}
			}()
			s.checked(t, &recorder{header: w.Header(), next: w}, r)
		}),
	}
	if err := server.Serve(&oneConn{conn: conn}); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	<-conn.closed
}

// oneConn is a listener that has one connection.
type oneConn struct{ conn net.Conn }

func (l *oneConn) Accept() (net.Conn, error) {
	if l.conn == nil {
		return nil, io.EOF
	}
	conn := l.conn
	l.conn = nil
	return conn, nil
}

func (*oneConn) Close() error   { return nil }
func (*oneConn) Addr() net.Addr { return &net.TCPAddr{} }

// fakeConn is a connection whose client sends text and then nothing more, without closing. Waiting for more takes no time:
// a deadline for it has passed at once.
type fakeConn struct {
	closed chan struct{}

	mu       sync.Mutex
	changed  sync.Cond
	text     []byte
	deadline bool // a read must not wait
	ended    bool
}

func newFakeConn(text []byte) *fakeConn {
	c := &fakeConn{text: text, closed: make(chan struct{})}
	c.changed.L = &c.mu
	return c
}

func (c *fakeConn) Read(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.ended:
			return 0, net.ErrClosed
		case len(c.text) > 0:
			n := copy(b, c.text)
			c.text = c.text[n:]
			return n, nil
		case c.deadline:
			return 0, os.ErrDeadlineExceeded
		}
		c.changed.Wait()
	}
}

func (c *fakeConn) Write(b []byte) (int, error) { return len(b), nil }

func (c *fakeConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		c.ended = true
		close(c.closed)
	}
	c.changed.Broadcast()
	return nil
}

func (c *fakeConn) SetReadDeadline(at time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = !at.IsZero()
	c.changed.Broadcast()
	return nil
}

func (c *fakeConn) SetDeadline(at time.Time) error { return c.SetReadDeadline(at) }
func (*fakeConn) SetWriteDeadline(time.Time) error { return nil }
func (*fakeConn) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2} }
func (*fakeConn) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// valid stands for the valid token, which is another one in each run.
const valid = "VALID"

// fuzzed is a service in which one token is valid, alice's.
type fuzzed struct {
	handler http.Handler
	headers []string
	token   string
	service *gateway.Service // by all protocols
	allowed atomic.Int64     // responses with 200
}

func (s *fuzzed) check(t testing.TB, req *http.Request) {
	s.checked(t, &recorder{header: http.Header{}}, req)
}

// checked serves a request, and checks the response.
func (s *fuzzed) checked(t testing.TB, rec *recorder, req *http.Request) {
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
		s.allowed.Add(1)
	default:
		t.Errorf("%d for %s %s", rec.status, req.Method, req.URL)
		return
	}
	if v := req.Header["Authorization"]; len(v) != 1 || !strings.HasSuffix(strings.TrimRight(v[0], " "), s.token) {
		t.Errorf("200 for %s %s with %q", req.Method, req.URL, v)
	}
	if strings.HasSuffix(req.URL.Path, "/me/tenants") {
		return
	}
	if got := rec.header["X-User-Subject"]; len(got) != 1 || got[0] != "alice" {
		t.Errorf("200 for %q", got)
	}
	for _, h := range s.headers {
		if len(rec.header[h]) != 1 {
			t.Errorf("200 with %s: %q", h, rec.header[h])
		}
	}
	for name, values := range rec.header {
		if !slices.Contains(s.headers, name) && name != "Cache-Control" && name != "Content-Length" && name != "Connection" || len(values) != 1 {
			t.Errorf("the header %s: %q", name, values)
		}
	}
}

// recorder records what a handler responds.
type recorder struct {
	header http.Header
	status int
	next   http.ResponseWriter // gets it too; may be nil
}

func (r *recorder) Header() http.Header { return r.header }

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	if r.next != nil {
		return r.next.Write(b)
	}
	return len(b), nil
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	if r.next != nil {
		r.next.WriteHeader(status)
	}
}

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.next }

// aliceAlone is a database that knows alice, a member of acme, and no other user.
type aliceAlone struct{}

func (aliceAlone) User(_ context.Context, issuer, subject string) (iam.UserFacts, bool, error) {
	if subject != "alice" {
		return iam.UserFacts{}, false, nil
	}
	return iam.UserFacts{
		User:        iam.User{ID: "1", Issuer: issuer, Subject: subject, Status: iam.UserActive, DefaultTenant: "acme"},
		Memberships: []iam.Membership{{Tenant: "acme", User: "1", Status: iam.MembershipActive, TenantStatus: iam.TenantActive, Roles: []string{"viewer"}}},
	}, true, nil
}

func (aliceAlone) Tenant(_ context.Context, id string) (iam.TenantFacts, bool, error) {
	if id != "acme" {
		return iam.TenantFacts{}, false, nil
	}
	return iam.TenantFacts{Tenant: iam.Tenant{ID: id, Slug: id, Name: id, Status: iam.TenantActive}, Roles: []iam.Role{{Tenant: id, Name: "viewer"}}}, true, nil
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
	p := world.Provider(f, "main")
	logger := slog.New(slog.DiscardHandler)
	issuers := iam.Issuers{{URL: p.Issuer, Tenants: []string{"*"}}}
	v, err := token.New(token.Config{Issuers: []token.Issuer{{URL: p.Issuer, Audiences: []string{devstack.Audience}}}, Log: logger,
		Wait: 10 * time.Second}) // for keys, at a token with an unknown one: the machine may be slow
	if err != nil {
		f.Fatal(err)
	}
	running, stop := context.WithCancel(context.Background())
	f.Cleanup(stop)
	if err := v.Start(running, time.Now().Add(5*time.Second)); err != nil {
		f.Fatal(err)
	}
	e, err := policy.NewEngine(policy.Config{Log: logger, Limit: 10 * time.Second})
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
	store := directory.New(aliceAlone{}, directory.Config{Issuers: issuers, MaxStale: 1000 * time.Hour, Wait: 10 * time.Second}) // for loads, too
	store.MarkFresh(store.Now())
	enricher := enrich.New(enrich.Config{Verifier: v, Directory: store, Engine: e, Issuers: issuers, Log: logger, Deadline: 10 * time.Second})
	all, err := gateway.Profiles(gateway.ProfileNames()...)
	if err != nil {
		f.Fatal(err)
	}
	raw, err := p.Mint("ES256", map[string]any{"sub": "alice", "client_id": "web", "exp": time.Now().Add(24 * time.Hour).Unix()})
	if err != nil {
		f.Fatal(err)
	}
	cfg := gateway.Config{
		Enricher: enricher, Profiles: all, Headers: e.Headers(), Identify: enricher.Identify, Tenants: aliceAlone{}, Log: logger, Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Observe: func(context.Context, problem.Observation) {},
	}
	data := gateway.New(cfg)
	cfg.Profiles = slices.DeleteFunc(slices.Clone(all), func(p gateway.Profile) bool { return p.Name == "opa" }) // which answers 200 to all
	return &fuzzed{handler: gateway.New(cfg).Handler(), headers: e.Headers(), token: raw, service: data}
}
