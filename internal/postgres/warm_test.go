package postgres_test

import (
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"iam-service/internal/postgres"
	"iam-service/internal/postgres/postgrestest"
)

// After Warm, requests wait for no connection to be made, even where the server takes none any more.
func TestAWarmPoolAnswersWithoutANewConnection(t *testing.T) {
	t.Parallel()
	proxy := postgrestest.NewProxy(t, postgrestest.URL(t))
	db, err := postgres.Open(ctx, postgres.Config{
		URL: proxy.URL, Issuers: postgrestest.Issuers, Conns: 3, Admin: 10, Keep: 4, FactsAcquire: 10 * time.Second, FactsLimit: 10 * time.Second,
	}, slog.New(slog.DiscardHandler), nil)
	must(t, err)
	t.Cleanup(db.Close)
	must(t, db.Warm(ctx))
	for _, s := range db.Stats() {
		if want := map[string]int32{"facts": 3, "admin": 4}[s.Name]; s.Total < want {
			t.Errorf("the pool %s has %d connections, want %d", s.Name, s.Total, want)
		}
	}
	proxy.Delay(time.Hour)
	var asking sync.WaitGroup
	for i := range 50 {
		asking.Go(func() {
			if _, _, err := db.User(ctx, postgrestest.Issuer, fmt.Sprint("user-", i)); err != nil {
				t.Error(err)
			}
		})
	}
	asking.Wait()
	if err := db.Ping(ctx); err != nil {
		t.Error(err)
	}
}
