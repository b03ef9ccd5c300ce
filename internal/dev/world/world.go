// Package world is the service as gateways see it, for tests: real PostgreSQL with the sample
// data, real Rego, real tokens, a real listener.
//
// It owns what the tests of the gateway and of the admin API share. It does not know the admin API.
package world

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"iam-service/internal/decisions"
	"iam-service/internal/dev/devrauth"
	"iam-service/internal/dev/devstack"
	"iam-service/internal/dev/logbuffer"
	"iam-service/internal/dev/pgtest"
	"iam-service/internal/directory"
	"iam-service/internal/directory/feed"
	"iam-service/internal/enrich"
	"iam-service/internal/gateway"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/postgres"
	"iam-service/internal/problem"
	"iam-service/internal/token"
	"iam-service/policies"
)

// Settings of a World. The zero value is the default policy and a trusted loopback.
type Settings struct {
	DatabaseURL   string // "": a schema of its own
	Conns         int32  // to the database; 0: 4
	ReplicaOf     *World // the same database and issuers as those of another world
	Facts         directory.Config
	DecisionSinks []decisions.Sink // in addition to the log
	Fields        []string         // of a decision that are recorded
	Untrusted     bool             // loopback is no trusted proxy
	Profiles      []string         // names of the enabled gateway profiles; nil: all
	DenyAmbiguous bool
	UnknownUsers  string
	Headers       []string // GATEWAY_HEADERS
	EmptyValue    string
	Secrets       [][]byte      // GATEWAY_SECRET
	MaxAge        time.Duration // GATEWAY_CACHE
	HeaderMax     int
	Policy        Policy
	Assert        func(*World) enrich.Asserter // signs identities; nil: responses carry no assertion
}

// Policy is how the active policy differs from the default one.
type Policy struct {
	Headers   []string       // the headers that it declares
	Config    map[string]any // over data.iam.config
	Rego      string         // instead of all modules
	AdminRego string         // instead of the package iam.admin

	ClaimsRego string // instead of the package iam.claims
}

// World is one replica of the service.
type World struct {
	testing.TB
	RAuth, Other *devrauth.Server // the main issuer, and one that is trusted with globex alone
	Issuers      iam.Issuers
	DatabaseURL  string
	DB           *postgres.DB
	Verifier     *token.Verifier
	Engine       *policy.Engine
	Facts        *directory.Store
	Feed         *feed.Feed
	Enricher     *enrich.Service
	Trusted      []netip.Prefix
	Gateway      *gateway.Service
	URL          string // of the gateways' listener
	Logs         *logbuffer.Buffer
	Logger       *slog.Logger // into Logs
	Unsettled    bool         // Ask does not wait for changes made before it

	registry *prometheus.Registry
	mu       sync.Mutex
	observed []string
}

// Metric is the value of a counter of the gateways' listener that has no labels.
func (w *World) Metric(name string) float64 {
	w.Helper()
	families, err := w.registry.Gather()
	w.OK(err)
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	w.Fatalf("there is no metric %s", name)
	return 0
}

// Provider starts an identity provider. Its RSA key is that of all with the same name: two providers of one
// test have different names.
func Provider(t testing.TB, name string) *devrauth.Server {
	t.Helper()
	var handler http.Handler
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	t.Cleanup(srv.Close)
	p, err := devrauth.NewShared(srv.URL, devstack.Audience, name)
	if err != nil {
		t.Fatal(err)
	}
	handler = p.Handler()
	return p
}

// New starts a world, which ends with the test.
func New(t testing.TB, s Settings) *World {
	t.Helper()
	w := &World{TB: t, Logs: &logbuffer.Buffer{}, DatabaseURL: s.DatabaseURL, registry: prometheus.NewRegistry()}
	w.Logger = slog.New(slog.NewJSONHandler(w.Logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if s.ReplicaOf != nil {
		w.RAuth, w.Other, w.DatabaseURL = s.ReplicaOf.RAuth, s.ReplicaOf.Other, s.ReplicaOf.DatabaseURL
	} else {
		w.RAuth, w.Other = Provider(t, "main"), Provider(t, "other")
	}
	w.Issuers = iam.Issuers{
		{URL: w.RAuth.Issuer, Tenants: []string{"*"}, Platform: true},
		{URL: w.Other.Issuer, Tenants: []string{"globex"}},
	}
	if !s.Untrusted {
		w.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}
	}
	ctx := context.Background()
	running, stop := context.WithCancel(ctx)
	t.Cleanup(stop)
	w.openDatabase(ctx, s)
	w.openVerifier(running)
	w.openPolicy(s)
	w.openFeed(running, stop, s)
	w.openGateway(s)
	return w
}

func (w *World) openDatabase(ctx context.Context, s Settings) {
	w.Helper()
	if w.DatabaseURL == "" {
		w.DatabaseURL = SampleURL(w, w.RAuth.Issuer)
	}
	var err error
	w.DB, err = postgres.Open(ctx, postgres.Config{
		URL:          w.DatabaseURL,
		Issuers:      w.Issuers,
		Conns:        cmp.Or(s.Conns, 4),
		FactsAcquire: 10 * time.Second,
		FactsLimit:   10 * time.Second,
	}, slog.New(slog.DiscardHandler), nil)
	w.OK(err)
	w.Cleanup(w.DB.Close)
	if s.DatabaseURL != "" {
		w.OK(devstack.LoadSample(ctx, w.DB, w.RAuth.Issuer))
	}
}

// SampleURL returns the URL of a database with the sample data of an issuer, which lives as long as the test. The
// data is written once, for another issuer, and copied.
func SampleURL(t testing.TB, issuer string) string {
	t.Helper()
	const another = "https://issuer.invalid"
	fill := func(url string) error {
		db, err := postgres.Open(t.Context(), postgres.Config{URL: url, Issuers: iam.Issuers{{URL: another, Tenants: []string{"*"}, Platform: true}}}, slog.New(slog.DiscardHandler), nil)
		if err != nil {
			return err
		}
		defer db.Close()
		return devstack.LoadSample(t.Context(), db, another)
	}
	var adapt strings.Builder
	for _, table := range []string{"users", "mappings", "clients"} {
		fmt.Fprintf(&adapt, "UPDATE %s SET issuer = '%s'; ", table, issuer)
	}
	return pgtest.FilledURL(t, "sample", fill, adapt.String())
}

func (w *World) openVerifier(running context.Context) {
	w.Helper()
	var err error
	w.Verifier, err = token.New(token.Config{
		Issuers: []token.Issuer{
			{ID: "rauth", URL: w.RAuth.Issuer, Audiences: []string{devstack.Audience}},
			{ID: "other", URL: w.Other.Issuer, Audiences: []string{devstack.Audience}},
		},
		Log:  w.Logger,
		Wait: 5 * time.Second, // the machine may be slow
	})
	w.OK(err)
	w.OK(w.Verifier.Start(running, time.Now().Add(5*time.Second)))
}

func (w *World) openPolicy(s Settings) {
	w.Helper()
	var err error
	w.Engine, err = policy.NewEngine(policy.Config{
		Headers:  s.Headers,
		Settings: map[string]string{"unknown_users": s.UnknownUsers},
		Log:      w.Logger,
		Limit:    2 * time.Second,

		VerifyShare: 1,
	})
	w.OK(err)
	w.Engine.SetDisagreed(func(digest string) { w.Errorf("the policy machine disagrees with topdown about revision %s", digest) })
	if s.Policy.Headers == nil {
		s.Policy.Headers = s.Headers
	}
	w.Load(s.Policy)
}

func (w *World) openFeed(running context.Context, stop context.CancelFunc, s Settings) {
	w.Helper()
	s.Facts.Issuers = w.Issuers
	s.Facts.Wait = cmp.Or(s.Facts.Wait, 5*time.Second)
	w.Facts = directory.New(w.DB, s.Facts)
	w.Feed = feed.New(feed.Config{Source: w.DB, Store: w.Facts, Log: w.Logger})
	var loops sync.WaitGroup
	loops.Go(func() { w.Feed.Run(running) })
	w.Cleanup(loops.Wait)
	w.Cleanup(stop)
	w.OK(w.Feed.Started(running))
}

func (w *World) openGateway(s Settings) {
	w.Helper()
	recorded := decisions.New(decisions.Config{
		Fields:  s.Fields,
		Headers: w.Engine.Headers(),
		Log:     w.Logger,
		Sinks:   append([]decisions.Sink{decisions.Console(w.Logger)}, s.DecisionSinks...),
	})
	w.Cleanup(recorded.Close)
	var asserter enrich.Asserter
	if s.Assert != nil {
		asserter = s.Assert(w)
	}
	w.Enricher = enrich.New(enrich.Config{
		Assert:     asserter,
		Record:     recorded.Record,
		Verifier:   w.Verifier,
		Directory:  w.Facts,
		Engine:     w.Engine,
		Issuers:    w.Issuers,
		Deadline:   10 * time.Second,
		EmptyValue: s.EmptyValue,
		HeaderMax:  s.HeaderMax,
		SampleLog:  1,
		Log:        w.Logger,
	})
	if s.Profiles == nil {
		s.Profiles = gateway.ProfileNames()
	}
	profiles, err := gateway.Profiles(s.Profiles...)
	w.OK(err)
	w.Gateway = gateway.New(gateway.Config{
		Spelled:       spelled(s.Headers),
		Profiles:      profiles,
		Enricher:      w.Enricher,
		Headers:       w.Engine.Headers(),
		Identify:      w.Enricher.Identify,
		Tenants:       w.DB,
		Trusted:       w.Trusted,
		EmptyValue:    s.EmptyValue,
		DenyAmbiguous: s.DenyAmbiguous,
		Secrets:       s.Secrets,
		MaxAge:        s.MaxAge,
		Log:           w.Logger,
		Observe:       w.Observe,
	})
	w.Gateway.Register(w.registry)
	srv := httptest.NewUnstartedServer(w.Gateway.Handler())
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetHTTP1(true)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	w.Cleanup(srv.Close)
	w.URL = srv.URL
}

func spelled(headers []string) []string {
	if headers == nil {
		return policy.DefaultHeaders
	}
	return headers
}

// OK fails the test at an error.
func (w *World) OK(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// Observe records a request for Observed.
func (w *World) Observe(_ context.Context, o problem.Observation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.observed = append(w.observed, fmt.Sprint(o.Handler, " ", o.Gateway, " ", o.Method, " ", o.Status))
}

// Observed are the requests so far: handler, gateway profile, method, status.
func (w *World) Observed() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.observed)
}

// Load activates the default policy with the differences of p.
func (w *World) Load(p Policy) {
	w.Helper()
	c, err := policy.FromFS("embedded", policies.FS)
	w.OK(err)
	config := c.Data["iam"].(map[string]any)["config"].(map[string]any)
	maps.Copy(config, p.Config)
	if p.Headers != nil {
		list := make([]any, len(p.Headers))
		for i, h := range p.Headers {
			list[i] = h
		}
		config["headers"] = list
	}
	if p.Rego != "" {
		c.Modules = map[string]string{"p.rego": p.Rego}
	}
	for pkg, rego := range map[string]string{"package iam.admin\n": p.AdminRego, "package iam.claims\n": p.ClaimsRego} {
		for name, text := range c.Modules {
			if rego != "" && strings.Contains(text, pkg) {
				c.Modules[name] = rego
			}
		}
	}
	w.OK(w.Engine.Submit(context.Background(), c))
}

// Mint is a token of a user of the main issuer.
func (w *World) Mint(user string, more map[string]any) string {
	w.Helper()
	return w.MintBy(w.RAuth, user, more)
}

// MintBy is Mint by another issuer.
func (w *World) MintBy(p *devrauth.Server, user string, more map[string]any) string {
	w.Helper()
	claims := map[string]any{"sub": user, "client_id": "web"}
	if user == "frank" {
		claims["groups"] = []string{"auditors", "everyone"}
	}
	maps.Copy(claims, more)
	t, err := p.Mint("ES256", claims)
	w.OK(err)
	return t
}

// Settle waits until every change made before it has been received. Where that takes too
// long, it empties the caches.
func (w *World) Settle() {
	ctx, cancel := context.WithTimeout(context.Background(), 250*time.Millisecond)
	defer cancel()
	for began := w.Facts.Now(); ; time.Sleep(time.Millisecond) {
		now := w.Facts.Now()
		age, once := w.Facts.Age()
		if once && now-age >= began {
			return
		}
		if ctx.Err() != nil || w.DB.SendHeartbeat(ctx, "settle") != nil {
			w.Facts.InvalidateAll()
			return
		}
	}
}
