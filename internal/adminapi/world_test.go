package adminapi_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"iam-service/internal/admin"
	"iam-service/internal/adminapi"
	"iam-service/internal/clients"
	"iam-service/internal/clients/rauth"
	"iam-service/internal/decisions"
	"iam-service/internal/dev/devrauth"
	"iam-service/internal/dev/devstack"
	"iam-service/internal/dev/pgtest"
	"iam-service/internal/directory"
	"iam-service/internal/enrich"
	"iam-service/internal/feed"
	"iam-service/internal/gateway"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/policyops/explain"
	"iam-service/internal/policyops/preview"
	"iam-service/internal/policyops/rollout"
	"iam-service/internal/postgres"
	"iam-service/internal/token"
	"iam-service/policies"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

var (
	ctx     = context.Background()
	discard = slog.New(slog.DiscardHandler)
)

// world is a gateway's view of the service: real PostgreSQL, real Rego, real
// tokens, a real listener. Loopback is a trusted proxy unless change says
// otherwise.
type world struct {
	testing.TB
	rauth, other *devrauth.Server
	db           *postgres.DB
	engine       *policy.Engine
	facts        *directory.Store
	feed         *feed.Feed
	unsettled    bool // ask does not wait for what was changed before
	url          string
	admin        string // URL of the admin API
	service      *admin.Service
	clients      *clients.Service
	policies     *rollout.Service
	issuers      iam.Issuers
	database     string // URL
	pool         *pgxpool.Pool
	logs         *syncBuffer

	mu       sync.Mutex
	observed []string
}

type settings struct {
	conns     int32    // of the service to the database; 0: 4
	decisions bool     // they can be found again
	fields    []string // of them that are written down
	untrusted bool
	ambiguous bool // paths are refused whatever the policy reads
	unknown   string
	headers   []string
	headerMax int
	config    map[string]any // over data.iam.config
	rego      string         // instead of the default policy
	adminRego string         // instead of the default policy of administration
	url       string         // of a database
	beside    *world         // another replica: the same database and issuers
	facts     directory.Config
	writes    int   // of a caller in a minute
	joins     int64 // of a tenant in a day
	panics    bool  // when it is asked for the policy
	noClients bool  // are managed
	loop      bool  // of clients runs
}

type syncBuffer struct {
	mu   sync.Mutex
	b    bytes.Buffer
	hook func(line []byte) // called while a line is logged; may be nil
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	hook := s.hook
	s.mu.Unlock()
	if hook != nil {
		hook(p)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func provider(t testing.TB) *devrauth.Server {
	t.Helper()
	var handler http.Handler
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	t.Cleanup(srv.Close)
	p, err := devrauth.New(srv.URL, devstack.Audience)
	if err != nil {
		t.Fatal(err)
	}
	handler = p.Handler()
	return p
}

func newWorld(t testing.TB, s settings) *world {
	t.Helper()
	w := &world{TB: t, logs: &syncBuffer{}}
	if s.beside != nil {
		w.rauth, w.other, s.url = s.beside.rauth, s.beside.other, s.beside.database
	} else {
		w.rauth, w.other = provider(t), provider(t)
	}
	log := slog.New(slog.NewJSONHandler(w.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	issuers := iam.Issuers{
		{URL: w.rauth.Issuer, Tenants: []string{"*"}, Platform: true},
		{URL: w.other.Issuer, Tenants: []string{"globex"}},
	}
	if s.url == "" {
		s.url = pgtest.URL(t)
	}
	var err error
	if w.db, err = postgres.Open(ctx, postgres.Config{URL: s.url, Issuers: issuers, Conns: cmp.Or(s.conns, 4), FactsAcquire: 10 * time.Second, FactsLimit: 10 * time.Second}, slog.New(slog.DiscardHandler), nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.db.Close)
	w.ok(devstack.LoadSample(ctx, w.db, w.rauth.Issuer))

	verifier, err := token.New(token.Config{
		Issuers: []token.Issuer{
			{ID: "rauth", URL: w.rauth.Issuer, Audiences: []string{devstack.Audience}},
			{ID: "other", URL: w.other.Issuer, Audiences: []string{devstack.Audience}},
		},
		Log: log, Wait: 5 * time.Second, // the machine may be slow
	})
	w.ok(err)
	running, stop := context.WithCancel(ctx)
	t.Cleanup(stop)
	w.ok(verifier.Start(running, time.Now().Add(5*time.Second)))

	w.engine, err = policy.NewEngine(policy.Config{Headers: s.headers, Settings: map[string]string{"unknown_users": s.unknown}, Log: log, Limit: 2 * time.Second})
	w.ok(err)
	w.load(s)
	s.facts.Issuers = issuers
	if s.facts.Wait == 0 {
		s.facts.Wait = 5 * time.Second
	}
	w.facts = directory.New(w.db, s.facts)
	w.feed = feed.New(feed.Config{Source: w.db, Store: w.facts, Log: log})
	var hearing sync.WaitGroup
	hearing.Go(func() { w.feed.Run(running) })
	t.Cleanup(hearing.Wait)
	t.Cleanup(stop)
	w.ok(w.feed.Started(ctx))
	sinks := []decisions.Sink{decisions.Console(log)}
	var findable adminapi.Decisions
	if s.decisions {
		_, err = postgres.MigrateDecisions(ctx, s.url, postgres.Up)
		w.ok(err)
		kept, err := postgres.OpenDecisions(ctx, s.url, time.Hour, log, nil)
		w.ok(err)
		t.Cleanup(kept.Close)
		sinks, findable = append(sinks, decisions.Keep(kept.Add)), kept
	}
	recorded := decisions.New(decisions.Config{Fields: s.fields, Headers: w.engine.Headers(), Log: log, Sinks: sinks})
	t.Cleanup(recorded.Close)
	enricher := enrich.New(enrich.Config{
		Record:   recorded.Record,
		Verifier: verifier, Directory: w.facts, Engine: w.engine, Issuers: issuers, Deadline: 10 * time.Second,
		HeaderMax: s.headerMax, SampleLog: 1, Log: log,
	})
	var trusted []netip.Prefix
	if !s.untrusted {
		trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}
	}
	srv := httptest.NewServer(gateway.New(gateway.Config{
		Enricher: enricher, Headers: w.engine.Headers(), Identify: enricher.Identify, Tenants: w.db, Trusted: trusted, DenyAmbiguous: s.ambiguous, Log: log,
		Observe: func(handler, gateway, method string, status int, _ time.Duration) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.observed = append(w.observed, fmt.Sprint(handler, " ", gateway, " ", method, " ", status))
		},
	}))
	t.Cleanup(srv.Close)
	w.url = srv.URL
	w.issuers, w.database = issuers, s.url
	w.service = admin.New(admin.Config{DB: w.db, Engine: w.engine, Issuers: issuers, Issuer: w.rauth.Issuer, Audiences: []string{devstack.Audience}, Invalidate: w.facts.Invalidate, JoinsPerDay: s.joins, Log: log})
	instance, _, err := w.db.Instance(ctx)
	w.ok(err)
	managed := clients.Config{Admin: w.service, DB: w.db, Issuer: w.rauth.Issuer, Instance: instance, Log: log, Tick: 20 * time.Millisecond, CompareEvery: 100 * time.Millisecond, Patience: 4 * time.Second}
	if !s.noClients {
		managed.Provider, err = rauth.New(rauth.Config{URL: w.rauth.Issuer, Pause: time.Millisecond, Open: 100 * time.Millisecond, Log: log})
		w.ok(err)
	}
	w.clients = clients.New(managed)
	if s.loop {
		hearing.Go(func() { w.clients.Run(running) })
	}
	if s.writes == 0 {
		s.writes = 1_000_000
	}
	w.policies = rollout.New(rollout.Config{DB: w.db, Admin: w.service, Engine: w.engine, Managed: true, Follows: true, Unsigned: true, Replica: "test", Log: log})
	previews := &preview.Jobs{Snapshot: func(ctx context.Context) (preview.Moment, error) { return w.db.Snapshot(ctx) }, Note: w.db.PreviewProgress, Log: log}
	t.Cleanup(previews.Wait)
	shadow := preview.NewShadow(enricher, w.engine.Headers(), w.policies.Shadow)
	enricher.SetShadow(shadow)
	hearing.Go(func() { shadow.Run(running) })
	api := httptest.NewServer(adminapi.New(adminapi.Config{
		Shadow: shadow, Previews: previews, PreviewEngine: w.engine, Issuers: issuers, Background: running,
		Service: w.service, Clients: w.clients, Policies: w.policies, Explain: &explain.Service{Engine: w.engine, Enricher: enricher}, VerifyGateway: verifier.Verify, Decisions: findable, Verify: verifier.ForAudience(devstack.AdminAudience).Verify, Policy: func() any {
			if s.panics {
				panic("a secret")
			}
			return w.engine.Status()
		},
		Issuer: w.rauth.Issuer, Writes: s.writes, Trusted: trusted, Version: "test", Log: log, Observe: func(handler, gateway, method string, status int, _ time.Duration) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.observed = append(w.observed, fmt.Sprint(handler, " ", gateway, " ", method, " ", status))
		},
	}))
	t.Cleanup(api.Close)
	w.admin = api.URL
	return w
}

func (w *world) ok(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// load puts the default policy in force, with what s changes.
func (w *world) load(s settings) {
	w.Helper()
	c, err := policy.FromFS("embedded", policies.FS)
	w.ok(err)
	config := c.Data["iam"].(map[string]any)["config"].(map[string]any)
	maps.Copy(config, s.config)
	if s.headers != nil {
		list := make([]any, len(s.headers))
		for i, h := range s.headers {
			list[i] = h
		}
		config["headers"] = list
	}
	if s.rego != "" {
		c.Modules = map[string]string{"p.rego": s.rego}
	}
	if s.adminRego != "" {
		for name, text := range c.Modules {
			if strings.Contains(text, "package iam.admin") {
				c.Modules[name] = s.adminRego
			}
		}
	}
	w.ok(w.engine.Submit(ctx, c))
}

func (w *world) mint(user string, more map[string]any) string {
	w.Helper()
	return mintBy(w, w.rauth, user, more)
}

func mintBy(w *world, p *devrauth.Server, user string, more map[string]any) string {
	w.Helper()
	claims := map[string]any{"sub": user, "client_id": "web"}
	if user == "frank" {
		claims["groups"] = []string{"auditors", "everyone"}
	}
	maps.Copy(claims, more)
	t, err := p.Mint("ES256", claims)
	w.ok(err)
	return t
}

// settle waits until every change made before it has been received, and where that takes too
// long, it drops everything.
func (w *world) settle() {
	began, end := w.facts.Now(), time.Now().Add(250*time.Millisecond)
	for ctx, cancel := context.WithDeadline(ctx, end); ; {
		now := w.facts.Now()
		age, once := w.facts.Age()
		if once && now-age >= began {
			cancel()
			return
		}
		if ctx.Err() != nil || w.db.SendHeartbeat(ctx, "settle") != nil {
			cancel()
			w.facts.InvalidateAll()
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// ask sends a request as it stands, without a client that tidies it up, and
// returns the status, the header lines as they came, and the body.
func (w *world) ask(requestLine string, lines ...string) (int, []string, string) {
	w.Helper()
	return w.askHost(requestLine, "iam", lines...)
}

// askHost is ask with another Host.
func (w *world) askHost(requestLine, host string, lines ...string) (int, []string, string) {
	w.Helper()
	if !w.unsettled {
		w.settle()
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	w.ok(err)
	defer conn.Close()
	w.ok(conn.SetDeadline(time.Now().Add(20 * time.Second)))
	_, err = fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n%s\r\n", requestLine, host, strings.Join(slices.Concat(lines, []string{""}), "\r\n"))
	w.ok(err)
	text, err := io.ReadAll(conn)
	w.ok(err)
	head, body, _ := strings.Cut(string(text), "\r\n\r\n")
	var status int
	sc := bufio.NewScanner(strings.NewReader(head))
	sc.Scan()
	if _, err := fmt.Sscanf(sc.Text(), "HTTP/1.1 %d", &status); err != nil {
		w.Fatalf("no status in %q", head)
	}
	var got []string
	for sc.Scan() {
		got = append(got, sc.Text())
	}
	return status, got, body
}

func bearer(token string) string { return "Authorization: Bearer " + token }

// claims are the header lines that speak of an identity.
func claims(lines []string) map[string][]string {
	got := map[string][]string{}
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ":")
		if strings.HasPrefix(name, "X-") {
			got[name] = append(got[name], strings.TrimSpace(value))
		}
	}
	return got
}

func value(lines []string, name string) string {
	v := claims(lines)[http.CanonicalHeaderKey(name)]
	if len(v) != 1 {
		return fmt.Sprintf("%d lines", len(v))
	}
	return v[0]
}
