// Package bench measures what an enrichment costs beside a bare net/http answer
// with as many headers, in one run and in turn, over real connections.
//
// It reports CPU of the process, client included (both variants pay the same for
// it), since wall-clock times on shared machines say little.
package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"iam-service/internal/devstack"
	"iam-service/internal/devstack/devrauth"
	"iam-service/internal/directory"
	"iam-service/internal/enrich"
	"iam-service/internal/httpapi"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/telemetry"
	"iam-service/internal/token"
	"iam-service/policies"
)

const (
	users   = 10_000
	tenants = 100
	rounds  = 11
	perTurn = 2000 // requests of one variant in one round
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

// variant is one kind of request to one server.
type variant struct {
	name   string
	addr   string
	tokens []string
	next   int
}

type world struct {
	rauth    *devrauth.Server
	verifier *token.Verifier
	handler  http.Handler
}

func newWorld(b *testing.B, tokenEntries int) *world {
	b.Helper()
	ok := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	log := slog.New(slog.DiscardHandler)
	w := &world{}
	var handler http.Handler
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	b.Cleanup(srv.Close)
	var err error
	w.rauth, err = devrauth.New(srv.URL, devstack.Audience)
	ok(err)
	handler = w.rauth.Handler()
	issuers := iam.Issuers{{URL: srv.URL, Tenants: []string{"*"}, Platform: true}}
	w.verifier, err = token.New(token.Config{Issuers: []token.Issuer{{URL: srv.URL, Audiences: []string{devstack.Audience}}}, Log: log, Entries: tokenEntries})
	ok(err)
	ctx, stop := context.WithCancel(context.Background())
	b.Cleanup(stop)
	ok(w.verifier.Start(ctx, time.Now().Add(5*time.Second)))
	metrics := telemetry.NewMetrics(telemetry.Build{}, nil)
	engine, err := policy.NewEngine(policy.Config{Log: log, Limit: 5 * time.Second})
	ok(err)
	c, err := policy.FromFS("embedded", policies.FS)
	ok(err)
	ok(engine.Offer(ctx, c))
	store := directory.New(memory{srv.URL}, directory.Config{Issuers: issuers, Entries: 2 * users, Wait: 5 * time.Second, MaxStale: 1000 * time.Hour})
	store.Proved(store.Now())
	enricher := enrich.New(enrich.Config{
		Directory: store, Verifier: w.verifier, Issuers: issuers, Engine: engine, Log: log, SampleLog: .01, Deadline: 10 * time.Second, OnDecision: metrics.Decision,
	})
	w.handler = httpapi.Gateway{
		Enricher: enricher, Headers: engine.Headers(), Identify: enricher.Identify, Log: log, Observe: metrics.Request,
	}.Handler()
	return w
}

func (w *world) mint(b *testing.B, n int) []string {
	b.Helper()
	tokens := make([]string, n)
	for i := range tokens {
		var err error
		if tokens[i], err = w.rauth.Mint("ES256", map[string]any{"sub": fmt.Sprintf("user-%d", i%users), "client_id": "web"}); err != nil {
			b.Fatal(err)
		}
	}
	return tokens
}

// bare answers as an enrichment does, without doing any of it.
func bare(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	for _, name := range policy.DefaultHeaders {
		h[http.CanonicalHeaderKey(name)] = []string{"value"}
	}
	h["Content-Length"] = []string{"0"}
	w.WriteHeader(http.StatusOK)
}

// BenchmarkEnrich prints CPU per request of each variant and the ratio to bare
// net/http: the median of the rounds, and the interval that holds the middle half.
func BenchmarkEnrich(b *testing.B) {
	cached, uncached := newWorld(b, 10_000), newWorld(b, 1)
	serve := func(h http.Handler) string {
		srv := httptest.NewServer(h)
		b.Cleanup(srv.Close)
		return strings.TrimPrefix(srv.URL, "http://")
	}
	variants := []*variant{
		{name: "bare net/http", addr: serve(http.HandlerFunc(bare)), tokens: []string{"x"}},
		{name: "token cached, policy evaluated", addr: serve(cached.handler), tokens: cached.mint(b, 1000)},
		{name: "nothing cached but facts", addr: serve(uncached.handler), tokens: uncached.mint(b, 1000)},
	}
	cpu := make([][]float64, len(variants))
	for b.Loop() {
		for i := range cpu {
			cpu[i] = nil
		}
		for round := range rounds + 1 {
			for i, v := range variants {
				took := v.run(b)
				if round > 0 { // the first fills the caches
					cpu[i] = append(cpu[i], took)
				}
			}
		}
	}
	fmt.Printf("\n%-34s %14s %22s\n", "CPU per request (client included)", "µs, median", "throughput of bare")
	for i, v := range variants {
		ratios := make([]float64, len(cpu[i]))
		for r := range ratios {
			ratios[r] = cpu[0][r] / cpu[i][r]
		}
		slices.Sort(ratios)
		slices.Sort(cpu[i])
		fmt.Printf("%-34s %14.1f %9.2f× (%.2f–%.2f)\n", v.name, median(cpu[i]), median(ratios), ratios[len(ratios)/4], ratios[len(ratios)*3/4])
	}
	b.ReportMetric(median(cpu[1]), "cpu-µs/enrichment")
}

func median(sorted []float64) float64 { return sorted[len(sorted)/2] }

// run sends perTurn requests over one connection and returns µs of CPU for each.
func (v *variant) run(b *testing.B) float64 {
	b.Helper()
	conn, err := net.Dial("tcp", v.addr)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	before := cpuTime(b)
	for range perTurn {
		t := v.tokens[v.next%len(v.tokens)]
		v.next++
		if _, err := io.WriteString(conn, "GET /system/enrich-token HTTP/1.1\r\nHost: iam\r\nAuthorization: Bearer "+t+"\r\n\r\n"); err != nil {
			b.Fatal(err)
		}
		line, err := r.ReadSlice('\n')
		if err != nil || !strings.HasPrefix(string(line), "HTTP/1.1 200 ") {
			b.Fatalf("%s: %q, %v", v.name, line, err)
		}
		for len(line) > 2 {
			if line, err = r.ReadSlice('\n'); err != nil {
				b.Fatal(err)
			}
		}
	}
	return float64((cpuTime(b) - before).Nanoseconds()) / 1000 / perTurn
}

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkEnrichAllocations is the handler alone: its bytes and allocations are
// exact.
func BenchmarkEnrichAllocations(b *testing.B) {
	w := newWorld(b, 10_000)
	tokens := w.mint(b, 100)
	requests := make([]*http.Request, len(tokens))
	for i, t := range tokens {
		requests[i] = httptest.NewRequest(http.MethodGet, "/system/enrich-token", nil)
		requests[i].Header.Set("Authorization", "Bearer "+t)
	}
	answer := &discard{header: http.Header{}}
	for _, r := range requests { // fills the caches
		w.handler.ServeHTTP(answer, r)
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		clear(answer.header)
		w.handler.ServeHTTP(answer, requests[n%len(requests)])
		if n++; answer.status != http.StatusOK {
			b.Fatalf("status %d", answer.status)
		}
	}
}

type discard struct {
	header http.Header
	status int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(status int)      { d.status = status }
