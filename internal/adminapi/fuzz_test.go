package adminapi_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"iam-service/internal/dev/devstack"
	"iam-service/internal/directory"
	"iam-service/internal/enrich"
	"iam-service/internal/gateway"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/token"
	"iam-service/policies"
)

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
	p := provider(f)
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
	return gateway.New(gateway.Config{
		Enricher: enricher, Headers: e.Headers(), Identify: enricher.Identify, Tenants: emptyFacts{}, Log: log, Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Observe: func(string, string, string, int, time.Duration) {},
	})
}
