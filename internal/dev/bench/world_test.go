//go:build linux

package bench

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/pprof"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/prometheus/client_golang/prometheus"

	"iam-service/internal/decisions"
	"iam-service/internal/dev/devrauth"
	"iam-service/internal/dev/devstack"
	"iam-service/internal/directory"
	"iam-service/internal/enrich"
	"iam-service/internal/gateway"
	"iam-service/internal/gateway/assertion"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/problem"
	"iam-service/internal/server"
	"iam-service/internal/telemetry/tracing"
	"iam-service/internal/token"
	"iam-service/policies"
)

const (
	users   = 10_000
	tenants = 100
	minted  = 1000 // tokens, each of another user

	audience = devstack.Audience
)

// memory is a database of 10,000 users in 100 tenants with 20 roles each.
type memory struct{ issuer string }

func (m memory) User(_ context.Context, _, subject string) (iam.UserFacts, bool, error) {
	var n int
	if _, err := fmt.Sscanf(subject, "user-%d", &n); err != nil {
		return iam.UserFacts{}, false, nil //nolint:nilerr // of another shape: not there
	}
	tenant := fmt.Sprintf("tenant-%d", n%tenants)
	return iam.UserFacts{
		User: iam.User{ID: "id-" + subject, Issuer: m.issuer, Subject: subject, Status: "active", DefaultTenant: tenant},
		Memberships: []iam.Membership{
			{Tenant: tenant, Status: "active", Roles: []string{"role-19", "role-7"}, TenantStatus: "active"},
			{Tenant: fmt.Sprintf("tenant-%d", (n+1)%tenants), Status: "active", Roles: []string{"role-0"}, TenantStatus: "active"},
		},
		AsOf: time.Now(),
	}, true, nil
}

func (memory) Tenant(_ context.Context, id string) (iam.TenantFacts, bool, error) {
	t := iam.TenantFacts{Tenant: iam.Tenant{ID: id, Slug: id, Name: id, Status: "active"}}
	for i := range 20 {
		r := iam.Role{Tenant: id, Name: fmt.Sprintf("role-%d", i), Permissions: []string{fmt.Sprintf("p%d:read", i), fmt.Sprintf("p%d:write", i)}}
		if i >= 4 {
			r.Inherits = []string{fmt.Sprintf("role-%d", i-4)}
		}
		t.Roles = append(t.Roles, r)
	}
	return t, true, nil
}

func (memory) Client(context.Context, string, string) (iam.ClientFacts, bool, error) {
	return iam.ClientFacts{}, false, nil
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// service is a gateway's listener over memory.
type service struct {
	rauth   *devrauth.Server
	store   *directory.Store
	handler http.Handler
	gateway *gateway.Service
}

// options say what is cached.
type options struct {
	tokens, decisions int
	unlogged          bool // no decision is logged
	signed            bool // responses carry an assertion
	traced            bool // 1 % of the requests are traced, to the collector at IAM_BENCH_COLLECTOR
}

// keyStore holds the keys of assertions.
type keyStore struct {
	mu  sync.Mutex
	set iam.AssertionKeys
}

func (k *keyStore) AssertionKeys(context.Context) (iam.AssertionKeys, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.set.Now = time.Now()
	return k.set, nil
}

func (k *keyStore) ChangeAssertionKeys(_ context.Context, decide func(iam.AssertionKeys) (iam.AssertionKeyChange, error)) (iam.AssertionKeys, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	change, err := decide(k.set)
	k.set.Keys, k.set.Seq = append(k.set.Keys, change.Put...), k.set.Seq+1
	return k.set, err
}

// newSigner signs by ES256, for one audience.
func newSigner(tb testing.TB, headers []string, log *slog.Logger) *assertion.Signer {
	tb.Helper()
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)
	encryption, err := assertion.NewEncryption(secret, nil)
	check(tb, err)
	keys := assertion.NewKeys(&keyStore{}, assertion.Rules{Encryption: encryption, Algorithm: "ES256", Rotation: 24 * time.Hour}, log)
	check(tb, keys.Start(context.Background()))
	signer, err := assertion.NewSigner(assertion.Config{Keys: keys, Issuer: "https://iam.example.com", Audience: "bench", Headers: headers, HeaderMax: 3500})
	check(tb, err)
	return signer
}

func newService(tb testing.TB, o options) *service {
	tb.Helper()
	log := slog.New(slog.NewJSONHandler(io.Discard, nil)) //nolint:sloglint // written as in production, to nowhere
	s := &service{}
	var handler http.Handler
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	tb.Cleanup(srv.Close)
	var err error
	s.rauth, err = devrauth.New(srv.URL, devstack.Audience)
	check(tb, err)
	handler = s.rauth.Handler()
	issuers := iam.Issuers{{URL: srv.URL, Tenants: []string{"*"}, Platform: true}}
	verifier, err := token.New(token.Config{
		Issuers: []token.Issuer{{URL: srv.URL, Audiences: []string{devstack.Audience}}}, Log: log, Entries: o.tokens, Wait: 5 * time.Second,
	})
	check(tb, err)
	ctx, stop := context.WithCancel(context.Background())
	tb.Cleanup(stop)
	check(tb, verifier.Start(ctx, time.Now().Add(5*time.Second)))
	registry := prometheus.NewRegistry()
	headers := policy.DefaultHeaders
	if o.signed {
		headers = append(slices.Clone(headers), assertion.Header)
	}
	engine, err := policy.NewEngine(policy.Config{Log: log, Limit: 5 * time.Second, Headers: headers, Settings: map[string]string{"unknown_users": "deny"}})
	check(tb, err)
	var asserter enrich.Asserter
	if o.signed {
		asserter = newSigner(tb, engine.Headers(), log)
	}
	c, err := policy.FromFS("embedded", policies.FS)
	check(tb, err)
	check(tb, engine.Submit(ctx, c))
	s.store = directory.New(memory{srv.URL}, directory.Config{Issuers: issuers, Entries: 2 * users, Wait: 5 * time.Second, MaxStale: 24 * time.Hour})
	s.store.MarkFresh(s.store.Now())
	record, sample := func(*enrich.Evaluated) {}, 0.
	if !o.unlogged {
		recorded := decisions.New(decisions.Config{Headers: engine.Headers(), Log: log, Sinks: []decisions.Sink{decisions.Console(log)}})
		tb.Cleanup(recorded.Close)
		record, sample = recorded.Record, .01
	}
	enricher := enrich.New(enrich.Config{
		Verifier: verifier, Directory: s.store, Issuers: issuers, Engine: engine, Log: log, Record: record, SampleLog: sample, Deadline: 10 * time.Second,
		Assert: asserter, Entries: o.decisions, OnDecision: enrich.DecisionCounter(registry),
	})
	profiles, err := gateway.Profiles("traefik")
	check(tb, err)
	metrics := problem.NewMetrics(registry)
	var traces *tracing.Tracing
	if o.traced {
		traces, err = tracing.Open(ctx, tracing.Config{
			Exporter: "otlp", Protocol: "http/protobuf", Traces: os.Getenv("IAM_BENCH_COLLECTOR"), Sampler: "parentbased_traceidratio", Ratio: "0.01",
			Service: "iam-service", Log: log, Registry: registry,
		})
		check(tb, err)
		tb.Cleanup(func() { _ = traces.Close(context.Background()) })
		metrics.Exemplars = true
	}
	s.gateway = gateway.New(gateway.Config{
		Profiles: profiles, Enricher: enricher, Headers: engine.Headers(), Identify: enricher.Identify, Log: log, Observe: metrics.Observe, Tracing: traces,
	})
	s.handler = s.gateway.Handler()
	return s
}

func (s *service) mint(tb testing.TB, n int) []string {
	tb.Helper()
	tokens := make([]string, n)
	for i := range tokens {
		var err error
		tokens[i], err = s.rauth.Mint("ES256", map[string]any{"sub": fmt.Sprintf("user-%d", i*(users/minted)%users), "client_id": "web"})
		check(tb, err)
	}
	return tokens
}

// bare answers as an enrichment does, without doing any of it: the same headers
// with the same values, or six short ones.
func bare(headers http.Header) http.HandlerFunc {
	names := slices.Sorted(maps.Keys(headers))
	values := make([]string, len(names))
	for i, n := range names {
		values[i] = headers.Get(n)
	}
	return func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		for i, name := range names {
			h[name] = []string{values[i]}
		}
		w.WriteHeader(http.StatusOK)
	}
}

// sixHeaders are as few as such an answer has elsewhere.
func sixHeaders() http.Header {
	h := http.Header{"Content-Length": {"0"}}
	for _, name := range policy.DefaultHeaders[:6] {
		h.Set(name, "value")
	}
	return h
}

// ourHeaders are those of a real answer.
func ourHeaders(tb testing.TB) http.Header {
	tb.Helper()
	s := newService(tb, options{tokens: 10, decisions: 10})
	r := httptest.NewRequest(http.MethodGet, "/system/enrich-token", nil)
	r.Header.Set("Authorization", "Bearer "+s.mint(tb, 1)[0])
	rec := httptest.NewRecorder()
	s.handler.ServeHTTP(rec, r)
	if rec.Code != http.StatusOK || rec.Header().Get("X-User-Roles") == "" {
		tb.Fatalf("%d %v", rec.Code, rec.Header())
	}
	return rec.Header()
}

// variants are the servers that are measured, each a process of its own.
var variants = map[string]func(tb testing.TB) (http.Handler, *service){
	"bare":     func(tb testing.TB) (http.Handler, *service) { return bare(ourHeaders(tb)), nil },
	"bare-six": func(testing.TB) (http.Handler, *service) { return bare(sixHeaders()), nil },
	"decision": func(tb testing.TB) (http.Handler, *service) {
		s := newService(tb, options{tokens: 10_000, decisions: 10_000})
		return s.handler, s
	},
	"facts": func(tb testing.TB) (http.Handler, *service) {
		s := newService(tb, options{tokens: 1, decisions: -1})
		return s.handler, s
	},
	"token": func(tb testing.TB) (http.Handler, *service) {
		s := newService(tb, options{tokens: 10_000, decisions: -1})
		return s.handler, s
	},
	"decision-unlogged": func(tb testing.TB) (http.Handler, *service) {
		s := newService(tb, options{tokens: 10_000, decisions: 10_000, unlogged: true})
		return s.handler, s
	},
	"decision-traced": func(tb testing.TB) (http.Handler, *service) {
		s := newService(tb, options{tokens: 10_000, decisions: 10_000, traced: true})
		return s.handler, s
	},
	"token-unlogged": func(tb testing.TB) (http.Handler, *service) {
		s := newService(tb, options{tokens: 10_000, decisions: -1, unlogged: true})
		return s.handler, s
	},
	"bare-check": func(tb testing.TB) (http.Handler, *service) {
		s := newService(tb, options{tokens: 10_000, decisions: 10_000})
		return s.handler, s
	},
	"check": func(tb testing.TB) (http.Handler, *service) {
		s := newService(tb, options{tokens: 10_000, decisions: 10_000})
		return s.handler, s
	},
	"nothing": func(tb testing.TB) (http.Handler, *service) {
		s := newService(tb, options{tokens: 1, decisions: -1})
		return s.handler, s
	},
}

// announcement is what a server's process says first.
type announcement struct {
	Addr   string
	GRPC   string // where checks are served
	Tokens []string
	Issuer string
	JWKS   string
	Data   json.RawMessage // the directory, for OPA
}

// BenchmarkServe is the process of one variant, IAM_BENCH_SERVE, for the other
// benchmarks. It announces itself on its file 3.
func BenchmarkServe(t *testing.B) {
	name := os.Getenv("IAM_BENCH_SERVE")
	if variants[name] == nil {
		t.Fatal("it serves for the other benchmarks only")
	}
	go server.TuneGC(context.Background(), 128<<20) // as "iam-service serve" does
	h, s := variants[name](t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	a := announcement{Addr: l.Addr().String()}
	if s != nil {
		a.Tokens, a.Issuer = s.mint(t, minted), s.rauth.Issuer
	}
	if strings.HasSuffix(name, "check") {
		a.GRPC = serveChecks(t, name, s)
	}
	if name == "facts" { // what OPA gets: such tokens, and all facts
		rec := httptest.NewRecorder()
		s.rauth.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/jwks", nil))
		a.JWKS, a.Data = rec.Body.String(), dump(t, s)
	}
	check(t, json.NewEncoder(os.NewFile(3, "announcement")).Encode(a))
	mux := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/cpu":
			fmt.Fprint(w, cpuTime(t).Nanoseconds())
		case "/profile":
			pprof.Profile(w, r)
		default:
			h.ServeHTTP(w, r)
		}
	})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // its end is the parent's
		os.Exit(0)
	}()
	check(t, http.Serve(l, mux))
}

// dump writes all users and tenants as documents.
func dump(tb testing.TB, s *service) json.RawMessage {
	tb.Helper()
	read := func(path ...string) any {
		r := s.store.View(directory.Caller{Issuer: s.rauth.Issuer}, time.Now().Add(time.Minute))
		v, err := r.Read(context.Background(), append([]string{"directory"}, path...))
		check(tb, err)
		doc, err := ast.JSON(v)
		check(tb, err)
		return doc
	}
	people, places := map[string]any{}, map[string]any{}
	for i := range users {
		name := fmt.Sprintf("user-%d", i)
		people[name] = read("users", s.rauth.Issuer, name)
	}
	for i := range tenants {
		name := fmt.Sprintf("tenant-%d", i)
		places[name] = read("tenants", name)
	}
	b, err := json.Marshal(map[string]any{"users": map[string]any{s.rauth.Issuer: people}, "tenants": places, "clients": map[string]any{}})
	check(tb, err)
	return b
}

// cpuTime is what this process has used.
func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	check(tb, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
