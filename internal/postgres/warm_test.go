package postgres_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	neturl "net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/dev/pgtest"
	"iam-service/internal/postgres"
)

// After Warm, requests need no new connection: they succeed although the server accepts none.
func TestWarmPoolsNeedNoNewConnection(t *testing.T) {
	t.Parallel()
	proxy := pgtest.NewProxy(t, pgtest.URL(t))
	db, err := postgres.Open(ctx, postgres.Config{
		URL: proxy.URL, Issuers: pgtest.Issuers, Conns: 3, AdminConns: 10, MinConns: 4, FactsAcquire: 10 * time.Second, FactsLimit: 10 * time.Second,
	}, slog.New(slog.DiscardHandler), nil)
	must(t, err)
	t.Cleanup(db.Close)
	missing, err := db.Warm(ctx)
	must(t, err)
	if missing != 0 {
		t.Errorf("%d connections are missing", missing)
	}
	for _, s := range db.Stats() {
		if want := map[string]int32{"facts": 3, "admin": 4}[s.Name]; s.Total < want {
			t.Errorf("the pool %s has %d connections, want %d", s.Name, s.Total, want)
		}
	}
	proxy.Delay(time.Hour)
	var requests sync.WaitGroup
	for i := range 50 {
		requests.Go(func() {
			if _, _, err := db.User(ctx, pgtest.Issuer, fmt.Sprint("user-", i)); err != nil {
				t.Error(err)
			}
		})
	}
	requests.Wait()
	if err := db.Ping(ctx); err != nil {
		t.Error(err)
	}
}

// Warm succeeds with one connection for each pool, and fails with fewer.
func TestWarmNeedsOneConnectionOfEachPool(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	role := "limited_" + strings.ToLower(rand.Text()[:12])
	owner, err := pgx.Connect(ctx, url)
	must(t, err)
	defer owner.Close(ctx)
	limit := func(n int) {
		t.Helper()
		_, err := owner.Exec(ctx, fmt.Sprintf(`ALTER ROLE %s CONNECTION LIMIT %d`, role, n))
		must(t, err)
	}
	_, err = owner.Exec(ctx, `CREATE ROLE `+role+` LOGIN PASSWORD 'secret'`)
	must(t, err)
	t.Cleanup(func() {
		_, _ = owner.Exec(context.Background(), `DROP OWNED BY `+role)
	})
	must(t, postgres.Grant(ctx, url, role))
	as, err := neturl.Parse(url)
	must(t, err)
	as.User = neturl.UserPassword(role, "secret")
	open := func() *postgres.DB {
		db, err := postgres.Open(ctx, postgres.Config{
			URL: as.String(), Issuers: pgtest.Issuers, Conns: 10, MinConns: 4, FactsAcquire: 10 * time.Second, FactsLimit: 10 * time.Second,
		}, slog.New(slog.DiscardHandler), nil)
		must(t, err)
		t.Cleanup(db.Close)
		return db
	}
	limit(0)
	db := open()
	if _, err := db.Warm(ctx); err == nil || !strings.Contains(err.Error(), "too many connections for role") {
		t.Errorf("without a connection: %v", err)
	}
	limit(4)
	var missing int
	for range 1000 { // the pools also open connections in the background, and share four
		if missing, err = db.Warm(ctx); err == nil {
			break
		}
	}
	if err != nil || missing == 0 {
		t.Errorf("%d missing, %v", missing, err)
	}
	if _, _, err := db.User(ctx, pgtest.Issuer, "alice"); err != nil {
		t.Error(err)
	}
}
