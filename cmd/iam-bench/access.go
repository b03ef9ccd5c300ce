package main

import (
	"context"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/dev/devstack"
)

// accessAim is how long a page of a list of access may take.
const accessAim = 100 * time.Millisecond

// access fills one tenant with many members and measures pages of who holds what over the admin API, the export of
// all members, and what the index of roles costs a write.
func access(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("iam-bench access", flag.ContinueOnError)
	service := flags.String("service", "bin/iam-service", "the program to measure")
	members := flags.Int("members", 1_000_000, "members of the tenant")
	dir := flags.String("dir", ".dev/access", "folder of the database, reused by the next run")
	if err := flags.Parse(args); err != nil {
		return err
	}
	stack, stop, err := seeded(ctx, filepath.Join(*dir, strconv.Itoa(*members)), "127.0.0.1:8096", *members, 1)
	if err != nil {
		return err
	}
	defer stop()
	conn, err := pgx.Connect(ctx, stack.Postgres.URL)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := seedRoles(ctx, conn, stack.RAuth.Issuer); err != nil {
		return err
	}
	all, err := startReplicas(ctx, stack, *service, 1, "ADMIN_AUDIENCE="+devstack.AdminAudience)
	if err != nil {
		return err
	}
	defer stopReplicas(all)
	token, err := stack.RAuth.Mint("ES256", map[string]any{"sub": "user-0", "client_id": "console", "aud": devstack.AdminAudience})
	if err != nil {
		return err
	}
	a := accessReader{base: "http://" + all[0].admin, token: token}
	fmt.Printf("%d members in one tenant, pages of 50 and of 500 over the admin API, median and slowest of 50 places in the list\n\n", *members)
	fmt.Printf("%-46s %14s %14s %14s %14s\n", "who holds", "50: p50, ms", "50: max, ms", "500: p50, ms", "500: max, ms")
	missed := false
	for _, q := range []struct{ name, query string }{
		{"a role that all have", "role=all"},
		{"a role that 3 have", "role=rare"},
		{"a role that none has", "role=none"},
		{"a permission through 500 roles, all members", "permission=spread:read"},
		{"a permission through 500 roles, no member", "permission=unused:read"},
		{"a permission through a dense and 499 rare roles", "permission=skewed:read"},
	} {
		var cells []any
		for _, limit := range []int{50, 500} {
			times, err := a.pages(ctx, q.query, limit)
			if err != nil {
				return fmt.Errorf("%s: %w", q.name, err)
			}
			slices.Sort(times)
			slowest := times[len(times)-1]
			missed = missed || limit == 50 && slowest > accessAim
			cells = append(cells, float64(times[len(times)/2].Microseconds())/1000, float64(slowest.Microseconds())/1000)
		}
		fmt.Printf("%-46s %14.1f %14.1f %14.1f %14.1f\n", append([]any{q.name}, cells...)...)
	}
	began := time.Now()
	bytes, err := a.read(ctx, "/v1/tenants/t0/access?role=all", "text/csv")
	if err != nil {
		return err
	}
	fmt.Printf("\nexport of all members as CSV: %d MB in %s, %d MB resident after it\n", bytes>>20, time.Since(began).Round(100*time.Millisecond), all[0].resident())
	if err := writes(ctx, conn); err != nil {
		return err
	}
	if missed {
		return fmt.Errorf("a page of 50 took more than %s", accessAim)
	}
	return nil
}

// seedRoles gives the members roles of each kind, unless an earlier run has.
func seedRoles(ctx context.Context, conn *pgx.Conn, issuer string) error {
	var have bool
	if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM roles WHERE name = 'all')`).Scan(&have); err != nil || have {
		return err
	}
	for _, sql := range []string{
		`INSERT INTO roles (tenant, name, permissions) VALUES ('t0', 'all', '{skewed:read}'), ('t0', 'rare', '{}'), ('t0', 'none', '{}')`,
		`INSERT INTO roles (tenant, name, permissions) SELECT 't0', 'spread-' || i, '{spread:read}' FROM generate_series(0, 499) i`,
		`INSERT INTO roles (tenant, name, permissions) SELECT 't0', 'unused-' || i, '{unused:read,skewed:read}' FROM generate_series(0, 498) i`,
		`UPDATE memberships SET roles = ARRAY ['all', 'spread-' || n % 500] || CASE WHEN n < 3 THEN ARRAY ['rare'] ELSE '{}' END
		   FROM (SELECT user_id AS id, row_number() OVER () - 1 AS n FROM memberships WHERE tenant = 't0') x WHERE user_id = x.id AND tenant = 't0'`,
		`VACUUM ANALYZE`,
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("seed: %w", err)
		}
	}
	_, err := conn.Exec(ctx, `UPDATE users SET platform_roles = '{auditor}' WHERE issuer = $1 AND subject = 'user-0'`, issuer)
	return err
}

// accessReader reads lists over the admin API.
type accessReader struct{ base, token string }

func (a accessReader) read(ctx context.Context, path, accept string) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.base+path, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+a.token)
	req.Header.Set("Accept", accept)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New("the response is " + resp.Status)
	}
	return n, err
}

// pages reads pages that begin at 50 places of the list, as the cursor of a page names them.
func (a accessReader) pages(ctx context.Context, query string, limit int) ([]time.Duration, error) {
	var times []time.Duration
	for i := range 51 {
		path := fmt.Sprintf("/v1/tenants/t0/access?%s&limit=%d", query, limit)
		if i > 0 {
			path += "&after=" + url.QueryEscape(cursorAt(i*5))
		}
		began := time.Now()
		if _, err := a.read(ctx, path, "application/json"); err != nil {
			return nil, err
		}
		if i > 0 { // the first one opens a connection
			times = append(times, time.Since(began))
		}
	}
	return times, nil
}

// writes measures batches of 1,000 memberships with and without the index of roles.
func writes(ctx context.Context, conn *pgx.Conn) error {
	const batches, batch = 20, 1000
	measure := func(do string) (time.Duration, error) {
		tx, err := conn.Begin(ctx)
		if err != nil {
			return 0, err
		}
		defer func() { _ = tx.Rollback(ctx) }() // nothing of it stays
		var took time.Duration
		for i := range batches {
			began := time.Now()
			if _, err := tx.Exec(ctx, do, i*batch, batch); err != nil {
				return 0, err
			}
			took += time.Since(began)
		}
		return took / batches, nil
	}
	const (
		change = `UPDATE memberships SET roles = roles || 'rare'::text WHERE tenant = 't0'
		             AND user_id IN (SELECT user_id FROM memberships WHERE tenant = 't0' ORDER BY user_id OFFSET $1 LIMIT $2)`
		join = `WITH u AS (INSERT INTO users (issuer, subject) SELECT 'https://new.example.com', 'n' || i FROM generate_series($1::int, $1::int + $2::int - 1) i RETURNING id)
		        INSERT INTO memberships (user_id, tenant, roles) SELECT id, 't0', '{all,spread-1}' FROM u`
	)
	for _, do := range []string{join, change} { // the first of each warms the caches
		if _, err := measure(do); err != nil {
			return err
		}
	}
	var cells [2][2]time.Duration
	for i, triggers := range []string{"ENABLE", "DISABLE"} {
		for _, name := range []string{"iam_roles_inserted", "iam_roles_updated", "iam_roles_deleted"} {
			if _, err := conn.Exec(ctx, `ALTER TABLE memberships `+triggers+` TRIGGER `+name); err != nil {
				return err
			}
		}
		for j, do := range []string{join, change} {
			took, err := measure(do)
			if err != nil {
				return err
			}
			cells[i][j] = took
		}
	}
	for _, name := range []string{"iam_roles_inserted", "iam_roles_updated", "iam_roles_deleted"} {
		if _, err := conn.Exec(ctx, `ALTER TABLE memberships ENABLE TRIGGER `+name); err != nil {
			return err
		}
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	fmt.Printf("\nstatements of %d memberships with two roles each, mean of %d: %.1f ms to insert (%.1f without the index), %.1f ms to add a role (%.1f)\n",
		batch, batches, ms(cells[0][0]), ms(cells[1][0]), ms(cells[0][1]), ms(cells[1][1]))
	return nil
}

// cursorAt is the cursor of a page that begins after a place in the list, of 256: ids of users are random.
func cursorAt(place int) string {
	key := fmt.Sprintf(`["user","","%02x000000-0000-4000-8000-000000000000",""]`, place)
	return base64.RawURLEncoding.EncodeToString([]byte(key))
}
