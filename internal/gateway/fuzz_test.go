package gateway_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
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

// Whatever comes, 200 is for verified subjects.
func FuzzEnrich(f *testing.F) {
	f.Add("GET", "/system/enrich-token", "Bearer x", "acme", "/a", "1.2.3.4")
	f.Add("OPTIONS", "/v1/system/enrich-token/%2e%2e", "Basic x", "a b", "//", "x")
	handler := fuzzHandler(f)
	f.Fuzz(func(t *testing.T, method, path, authorization, hint, uri, forwardedFor string) {
		req, err := http.NewRequest(method, "http://iam"+path, nil)
		if err != nil {
			return // net/http would not read it either
		}
		req.RemoteAddr = "127.0.0.1:1"
		req.Header["Authorization"], req.Header["X-Active-Tenant-Id"] = []string{authorization}, []string{hint}
		req.Header["X-Forwarded-Uri"], req.Header["X-Forwarded-For"] = []string{uri}, []string{forwardedFor}
		rec := &recorder{header: http.Header{}}
		handler.ServeHTTP(rec, req)
		if rec.status == http.StatusOK {
			t.Errorf("200 for %s %q with %q", method, path, authorization)
		}
		if rec.status != 401 && rec.status != 403 && rec.status != 404 && rec.status != 405 {
			t.Errorf("%d for %s %q", rec.status, method, path)
		}
	})
}

type recorder struct {
	header http.Header
	status int
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) Write(b []byte) (int, error) { return io.Discard.Write(b) }
func (r *recorder) WriteHeader(status int)      { r.status = status }

// emptyFacts is a database that knows nobody.
type emptyFacts struct{}

func (emptyFacts) User(context.Context, string, string) (iam.UserFacts, bool, error) {
	return iam.UserFacts{}, false, nil
}

func (emptyFacts) Tenant(context.Context, string) (iam.TenantFacts, bool, error) {
	return iam.TenantFacts{}, false, nil
}

func (emptyFacts) Client(context.Context, string, string) (iam.ClientFacts, bool, error) {
	return iam.ClientFacts{}, false, nil
}

func (emptyFacts) TenantsOf(context.Context, string, string) ([]iam.TenantMembership, error) {
	return nil, nil
}

// fuzzHandler is the gateways' handler over an empty world.
func fuzzHandler(f *testing.F) http.Handler {
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
	store := directory.New(emptyFacts{}, directory.Config{Issuers: issuers, MaxStale: 1000 * time.Hour})
	store.MarkFresh(store.Now())
	enricher := enrich.New(enrich.Config{Verifier: v, Directory: store, Engine: e, Issuers: issuers, Log: log, Deadline: 10 * time.Second})
	all, err := gateway.Profiles(gateway.ProfileNames()...)
	if err != nil {
		f.Fatal(err)
	}
	return gateway.New(gateway.Config{
		Enricher: enricher, Profiles: all, Headers: e.Headers(), Identify: enricher.Identify, Tenants: emptyFacts{}, Log: log, Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Observe: func(string, string, string, int, time.Duration) {},
	}).Handler()
}
