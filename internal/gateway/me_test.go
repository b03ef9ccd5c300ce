package gateway_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"iam-service/internal/dev/world"
	"iam-service/internal/gateway"
	"iam-service/internal/iam"
	"iam-service/internal/problem"
	"iam-service/internal/token"
)

func TestOwnTenantsAreListed(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{})
	ask := func(lines ...string) (int, string) {
		status, _, body := w.Ask("GET /v1/me/tenants", lines...)
		return status, strings.TrimSpace(body)
	}
	_, err := w.DB.PutUser(ctx, iam.User{Issuer: w.RAuth.Issuer, Subject: "bob", Status: iam.UserActive, TokensNotBefore: time.Now().Add(-time.Hour)})
	w.OK(err)
	status, body := ask(world.Bearer(w.Mint("alice", nil)))
	if want := `{"tenants":[{"id":"acme","slug":"acme","name":"Acme Corp","default":true},{"id":"globex","slug":"globex","name":"Globex","default":false},{"id":"umbrella","slug":"umbrella","name":"Umbrella","default":false}]}`; status != 200 || body != want {
		t.Errorf("%d %s", status, body)
	}
	for name, c := range map[string]struct {
		lines  []string
		status int
		want   string
	}{
		"a member of nothing": {[]string{world.Bearer(w.Mint("carol", nil))}, 200, `{"tenants":[]}`},
		"an unknown user":     {[]string{world.Bearer(w.Mint("stranger", nil))}, 200, `{"tenants":[]}`},
		"another realm":       {[]string{world.Bearer(w.MintBy(w.Other, "alice", nil))}, 200, `{"tenants":[]}`},
		"no token":            {nil, 401, "unauthenticated"},
		"a bad token":         {[]string{world.Bearer("nonsense")}, 401, "invalid_token"},
		"a program":           {[]string{world.Bearer(w.Mint("web", nil))}, 403, "only a user"},
		"a revoked user":      {[]string{world.Bearer(w.Mint("bob", map[string]any{"iat": 1}))}, 401, "token_revoked"},
		"two tokens":          {[]string{world.Bearer("a"), world.Bearer("b")}, 403, "malformed_request"},
	} {
		status, body := ask(c.lines...)
		if status != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
}

func TestAUserWithManyTenantsCostsNoManyLookUps(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{})
	id, err := w.DB.PutUser(ctx, iam.User{Issuer: w.RAuth.Issuer, Subject: "busy", Status: iam.UserActive})
	w.OK(err)
	for i := range 50 {
		tenant := fmt.Sprintf("many-%d", i)
		status := iam.TenantSuspended
		if i == 7 {
			status = iam.TenantActive
		}
		w.OK(w.DB.PutTenant(ctx, iam.Tenant{ID: tenant, Slug: tenant, Name: tenant, Status: status}))
		w.OK(w.DB.PutMembership(ctx, iam.Membership{Tenant: tenant, User: id, Status: iam.MembershipActive}))
	}
	_, err = w.DB.PutUser(ctx, iam.User{Issuer: w.RAuth.Issuer, Subject: "busy", Status: iam.UserActive, DefaultTenant: "many-7"})
	w.OK(err)
	before := w.Facts.Stats().Loads
	status, lines, _ := w.Ask(world.Get, world.Bearer(w.Mint("busy", nil)))
	if status != 200 || world.Value(lines, "X-Tenant-ID") != "many-7" {
		t.Errorf("the default tenant: %d %s", status, world.Value(lines, "X-Tenant-ID"))
	}
	if n := w.Facts.Stats().Loads - before; n > 3 {
		t.Errorf("%d loads, want one each for user, client and tenant", n)
	}
}

// slowTenants reports who is asked for, and answers when it is released.
type slowTenants struct {
	entered chan string
	release chan struct{}
}

func (s slowTenants) TenantsOf(_ context.Context, _, subject string) ([]iam.TenantMembership, error) {
	s.entered <- subject
	<-s.release
	return nil, nil
}

// Lists share the connections of enrichment: few are read at once, and one for all requests of a subject.
func TestFewListsOfTenantsAreReadAtOnce(t *testing.T) {
	t.Parallel()
	slow := slowTenants{make(chan string, 100), make(chan struct{})}
	handler := gateway.New(gateway.Config{
		Tenants: slow, Log: slog.New(slog.DiscardHandler), Observe: func(context.Context, problem.Observation) {},
		Identify: func(_ context.Context, raw string) (*token.Token, string, error) {
			return &token.Token{Issuer: "i", Subject: raw}, "", nil
		},
	}).Handler()
	ask := func(subject string) int {
		req := httptest.NewRequest(http.MethodGet, "/v1/me/tenants", nil)
		req.Header.Set("Authorization", "Bearer "+subject)
		rec := httptest.NewRecorder()
		handler.ServeHTTP(rec, req)
		return rec.Code
	}
	var waiting sync.WaitGroup
	for _, subject := range []string{"flooder", "alice"} {
		waiting.Go(func() {
			if status := ask(subject); status != http.StatusOK {
				t.Errorf("%s: %d", subject, status)
			}
		})
		<-slow.entered
	}
	for range 20 {
		waiting.Go(func() {
			if status := ask("flooder"); status != http.StatusOK {
				t.Errorf("the flooder, once more: %d", status)
			}
		})
	}
	if status := ask("bob"); status != http.StatusServiceUnavailable {
		t.Errorf("a third subject: %d", status)
	}
	close(slow.release)
	waiting.Wait()
	if status := ask("bob"); status != http.StatusOK {
		t.Errorf("afterwards: %d", status)
	}
}
