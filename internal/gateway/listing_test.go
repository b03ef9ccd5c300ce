package gateway_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"iam-service/internal/gateway"
	"iam-service/internal/iam"
	"iam-service/internal/token"
)

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
		Tenants: slow, Log: slog.New(slog.DiscardHandler), Observe: func(string, string, string, int, time.Duration) {},
		Identify: func(_ context.Context, raw string) (*token.Token, string, error) {
			return &token.Token{Issuer: "i", Subject: raw}, "", nil
		},
	})
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
