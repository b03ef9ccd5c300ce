package directory_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"iam-service/internal/directory"
	"iam-service/internal/iam"
)

// loader is a database of maps.
type loader struct {
	mu      sync.Mutex
	users   map[string]iam.UserFacts // by subject
	tenants map[string]iam.TenantFacts
	clients map[string]iam.ClientFacts
	err     error
	delay   time.Duration
	loads   atomic.Int64
}

func (l *loader) wait(ctx context.Context) error {
	l.loads.Add(1)
	l.mu.Lock()
	delay, err := l.delay, l.err
	l.mu.Unlock()
	select {
	case <-time.After(delay):
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *loader) User(ctx context.Context, issuer, subject string) (iam.UserFacts, bool, error) {
	if err := l.wait(ctx); err != nil {
		return iam.UserFacts{}, false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	u, ok := l.users[subject]
	u.Issuer, u.Subject, u.AsOf = issuer, subject, time.Now()
	return u, ok, nil
}

func (l *loader) Tenant(ctx context.Context, id string) (iam.TenantFacts, bool, error) {
	if err := l.wait(ctx); err != nil {
		return iam.TenantFacts{}, false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	t, ok := l.tenants[id]
	return t, ok, nil
}

func (l *loader) Client(ctx context.Context, issuer, id string) (iam.ClientFacts, bool, error) {
	if err := l.wait(ctx); err != nil {
		return iam.ClientFacts{}, false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c, ok := l.clients[id]
	c.Issuer = issuer
	return c, ok, nil
}

func (l *loader) set(err error, delay time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err, l.delay = err, delay
}

func newLoader() *loader {
	acme := iam.TenantFacts{Tenant: iam.Tenant{ID: "acme", Slug: "acme", Name: "Acme", Status: "active"}}
	acme.Roles = []iam.Role{{Name: "viewer", Permissions: []string{"doc:read"}}, {Tenant: "acme", Name: "editor", Inherits: []string{"viewer"}}}
	acme.Mappings = []iam.Mapping{
		{Tenant: "acme", Issuer: issuer, Claim: "groups", Value: "g", Roles: []string{"viewer"}},
		{Tenant: "acme", Issuer: "https://limited.test", Claim: "groups", Value: "g", Roles: []string{"editor"}},
	}
	alice := iam.UserFacts{User: iam.User{ID: "u1", Status: "active", DefaultTenant: "acme", PlatformRoles: []string{"auditor"}}}
	alice.Memberships = []iam.Membership{
		{Tenant: "acme", Status: "active", Roles: []string{"viewer", "editor"}}, {Tenant: "globex", Status: "active"},
	}
	return &loader{
		users:   map[string]iam.UserFacts{"alice": alice},
		tenants: map[string]iam.TenantFacts{"acme": acme, "globex": {Tenant: iam.Tenant{ID: "globex", Status: "active"}}},
		clients: map[string]iam.ClientFacts{"c1": {Client: iam.Client{ClientID: "c1", Tenant: "acme", Status: "blocked"}}, "ops": {Client: iam.Client{ClientID: "ops", Status: "active"}}},
	}
}

// newStore returns a store that has been proved true now, by the clock of the test.
func newStore(l directory.Loader, cfg directory.Config) *directory.Store {
	began := time.Now()
	cfg.Clock = func() time.Duration { return time.Since(began) + time.Hour }
	if cfg.MaxStale == 0 {
		cfg.MaxStale = 24 * time.Hour
	}
	s := directory.New(l, cfg)
	s.MarkFresh(s.Now())
	return s
}

func read(s *directory.Store, path string) (ast.Value, error) {
	return readAs(s, directory.Caller{Issuer: issuer}, path)
}

func readAs(s *directory.Store, a directory.Caller, path string) (ast.Value, error) {
	r := s.View(a, time.Now().Add(time.Minute))
	return r.Read(context.Background(), strings.Split(path, "|"))
}

func code(err error) string { return iam.CodeOf(err) }
