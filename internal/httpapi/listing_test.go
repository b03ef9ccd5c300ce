package httpapi_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"iam-service/internal/httpapi"
	"iam-service/internal/iam"
	"iam-service/internal/token"
)

// slowTenants answers when it is released.
type slowTenants struct{ entered, release chan struct{} }

func (s slowTenants) TenantsOf(context.Context, string, string) ([]iam.TenantMembership, error) {
	s.entered <- struct{}{}
	<-s.release
	return nil, nil
}

// They share the connections of enrichment.
func TestFewListsOfTenantsAreReadAtOnce(t *testing.T) {
	t.Parallel()
	slow := slowTenants{make(chan struct{}, 10), make(chan struct{})}
	handler := httpapi.Gateway{
		Tenants: slow, Log: discard, Observe: func(string, string, string, int, time.Duration) {},
		Identify: func(context.Context, string) (*token.Token, string, error) {
			return &token.Token{Issuer: "i", Subject: "s"}, "", nil
		},
	}.Handler()
	ask := func() int {
		req := httptest.NewRequest(http.MethodGet, "/v1/me/tenants", nil)
		req.Header.Set("Authorization", "Bearer x")
		rec := httptest.NewRecorder()
		handler.ServeHTTP(rec, req)
		return rec.Code
	}
	var two sync.WaitGroup
	for range 2 {
		two.Go(func() {
			if status := ask(); status != http.StatusOK {
				t.Errorf("one of two: %d", status)
			}
		})
	}
	<-slow.entered
	<-slow.entered
	if status := ask(); status != http.StatusServiceUnavailable {
		t.Errorf("a third: %d", status)
	}
	close(slow.release)
	two.Wait()
	if status := ask(); status != http.StatusOK {
		t.Errorf("afterwards: %d", status)
	}
}
