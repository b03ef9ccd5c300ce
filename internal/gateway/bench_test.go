package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/dev/pgtest"
	"iam-service/internal/dev/world"
)

// BenchmarkFirstAnswer measures the first answers to users of which nothing is cached, each in a tenant of its own and
// through a client that is known, over a database at a round-trip time of 1 ms.
func BenchmarkFirstAnswer(b *testing.B) {
	const users = 1000
	url := pgtest.URL(b)
	proxy := pgtest.NewProxy(b, url)
	w := world.New(b, world.Settings{DatabaseURL: proxy.URL})
	conn, err := pgx.Connect(context.Background(), url)
	w.OK(err)
	defer conn.Close(context.Background())
	for _, q := range []struct {
		sql  string
		args []any
	}{
		{`INSERT INTO tenants (id, slug, name) SELECT 'first-' || i, 'first-' || i, 'First ' || i FROM generate_series(1, $1::int) i`, []any{users}},
		{`INSERT INTO users (issuer, subject, default_tenant) SELECT $1, 'first-' || i, 'first-' || i FROM generate_series(1, $2::int) i`, []any{w.RAuth.Issuer, users}},
		{`INSERT INTO memberships (user_id, tenant, roles) SELECT id, default_tenant, '{}' FROM users WHERE subject LIKE 'first-%'`, nil},
		{`ANALYZE`, nil},
	} {
		_, err := conn.Exec(context.Background(), q.sql, q.args...)
		w.OK(err)
	}
	tokens := make([]string, users+1)
	for i := range tokens {
		tokens[i] = w.Mint(fmt.Sprintf("first-%d", i), nil)
	}
	w.Settle()
	for _, c := range []struct {
		name  string
		named bool
	}{{"the request names the tenant", true}, {"only the user's document does", false}} {
		b.Run(c.name, func(b *testing.B) {
			var took []time.Duration
			loads := w.Facts.Stats().Loads
			for b.Loop() {
				w.Facts.InvalidateAll()
				proxy.Latency(time.Millisecond)
				for i := 1; i <= users; i++ {
					r, err := http.NewRequest(http.MethodGet, w.URL+"/system/enrich-token", http.NoBody)
					w.OK(err)
					r.Header.Set("Authorization", "Bearer "+tokens[i])
					if c.named {
						r.Header.Set("X-Active-Tenant-ID", fmt.Sprintf("first-%d", i))
					}
					began := time.Now()
					response, err := http.DefaultClient.Do(r)
					w.OK(err)
					took = append(took, time.Since(began))
					_, err = io.Copy(io.Discard, response.Body)
					w.OK(errors.Join(err, response.Body.Close()))
					if tenant := response.Header.Get("X-Tenant-ID"); tenant != fmt.Sprintf("first-%d", i) {
						b.Fatal(response.StatusCode, tenant)
					}
				}
				proxy.Latency(0)
			}
			slices.Sort(took)
			b.ReportMetric(float64(w.Facts.Stats().Loads-loads)/float64(len(took)), "round-trips/answer")
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-p50")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "ms-p99")
		})
	}
}
