package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"iam-service/internal/iam"
	"iam-service/internal/token"
)

// slowLists reads a list when it may.
type slowLists struct {
	mu    sync.Mutex
	reads map[string]int
	let   map[string]chan struct{}
}

func (s *slowLists) TenantsOf(_ context.Context, _, subject string) ([]iam.TenantMembership, error) {
	s.mu.Lock()
	s.reads[subject]++
	wait := s.let[subject]
	s.mu.Unlock()
	if wait != nil {
		<-wait
	}
	return []iam.TenantMembership{{ID: "of-" + subject}}, nil
}

// However often one subject asks, others are answered.
func TestOneSubjectOccupiesOnePlaceOfThoseThatListTenants(t *testing.T) {
	t.Parallel()
	lists := &slowLists{reads: map[string]int{}, let: map[string]chan struct{}{"flooder": make(chan struct{})}}
	h := Gateway{
		Tenants: lists, Log: slog.New(slog.DiscardHandler), Observe: func(string, string, string, int, time.Duration) {},
		Identify: func(_ context.Context, raw string) (*token.Token, string, error) {
			return &token.Token{Issuer: "https://rauth.test", Subject: raw}, "", nil
		},
	}.Handler()
	ask := func(subject string) int {
		r := httptest.NewRequest(http.MethodGet, "/v1/me/tenants", nil)
		r.Header.Set("Authorization", "Bearer "+subject)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	var flood sync.WaitGroup
	for range 50 {
		flood.Go(func() {
			if got := ask("flooder"); got != http.StatusOK {
				t.Errorf("the flooder: %d", got)
			}
		})
	}
	for range 20 {
		if got := ask("alice"); got != http.StatusOK {
			t.Errorf("another subject: %d", got)
		}
	}
	close(lists.let["flooder"])
	flood.Wait()
	if got := lists.reads["alice"]; got != 20 {
		t.Errorf("alice's list was read %d times", got)
	}
}
