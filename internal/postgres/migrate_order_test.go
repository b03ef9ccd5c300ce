package postgres_test

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"iam-service/internal/dev/pgtest"
	"iam-service/internal/postgres"
	"iam-service/migrations"
)

// The steps from 15 on were written at the same time, so a database may have applied them in another order than that of their
// numbers. Each grants its own tables alone: after every one, up or down, iam_grant works, and a role that runs the service
// already has what the steps so far need.
func TestStepsOfOneReleaseAreAppliedAndRevertedInAnyOrder(t *testing.T) {
	t.Parallel()
	tables := map[int64]string{
		15: "role_end_notices", 16: "role_requests", 17: "membership_roles", 18: "signal_streams", 19: "membership_usage", 20: "scim_users",
		21: "console_sessions", 22: "client_comparison",
	}
	for _, c := range []struct {
		name     string
		up, down []int64
	}{
		{name: "in order", up: []int64{15, 16, 17, 18, 19, 20, 21, 22}, down: []int64{22, 21, 20, 19, 18, 17, 16, 15}},
		{name: "the last ones first, reverted by number", up: []int64{15, 18, 22, 19, 20, 16, 21, 17}, down: []int64{22, 21, 20, 19, 18, 17, 16, 15}},
		{name: "backwards, reverted by number", up: []int64{22, 21, 20, 19, 18, 17, 16, 15}, down: []int64{22, 21, 20, 19, 18, 17, 16, 15}},
		{name: "in order, reverted otherwise", up: []int64{15, 16, 17, 18, 19, 20, 21, 22}, down: []int64{16, 19, 22, 17, 21, 20, 18, 15}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			owner := pgtest.EmptyURL(t)
			s := newServiceRole(t, owner)
			db := stdlib.OpenDB(*s.conn.Config())
			defer db.Close()
			p, err := goose.NewProvider(goose.DialectPostgres, db, migrations.FS, goose.WithDisableGlobalRegistry(true))
			must(t, err)
			functions := func() (names []string) {
				t.Helper()
				must(t, s.conn.QueryRow(ctx, `SELECT coalesce(array_agg(proname::text ORDER BY proname), '{}') FROM pg_proc
					WHERE pronamespace = current_schema()::regnamespace AND starts_with(proname, 'iam_grant')`).Scan(&names))
				return names
			}
			readable := func(table string) (ok bool) {
				t.Helper()
				must(t, s.conn.QueryRow(ctx, `SELECT has_table_privilege($1, $2, 'SELECT')`, s.name, table).Scan(&ok))
				return ok
			}
			_, err = p.UpTo(ctx, 14)
			must(t, err)
			before := functions()
			must(t, postgres.Grant(ctx, owner, s.name))
			run := func(version int64, up bool) {
				t.Helper()
				if _, err := p.ApplyVersion(ctx, version, up); err != nil {
					t.Fatalf("step %d, up %v: %v", version, up, err)
				}
				if err := postgres.Grant(ctx, owner, s.name); err != nil {
					t.Fatalf("after step %d, up %v: %v", version, up, err)
				}
			}
			for _, again := range []bool{false, true} {
				applied := []int64{}
				for _, version := range c.up {
					if _, err := p.ApplyVersion(ctx, version, true); err != nil {
						t.Fatalf("step %d: %v", version, err)
					}
					if !readable(tables[version]) {
						t.Errorf("step %d (again: %v) does not grant %s to the role that runs the service", version, again, tables[version])
					}
					applied = append(applied, version)
					s.exec(`REVOKE ALL ON ` + tables[version] + ` FROM ` + s.name)
					must(t, postgres.Grant(ctx, owner, s.name))
					if slices.Contains(applied, 15) && !readable(tables[version]) {
						t.Errorf("iam_grant does not grant %s after step %d", tables[version], version)
					}
				}
				if r := s.rights(); len(r.Missing) > 0 || len(r.Excess) > 0 {
					t.Errorf("after all steps: %+v", r)
				}
				for _, version := range c.down {
					run(version, false)
				}
				if after := functions(); !slices.Equal(after, before) {
					t.Errorf("after all downs there are %v, want %v", after, before)
				}
			}
			steps, err := postgres.Migrate(ctx, owner, postgres.Up)
			if err != nil || len(steps) != len(tables) {
				t.Errorf("up again: %v, %v", steps, err)
			}
			for range 14 + len(tables) {
				_, err := postgres.Migrate(ctx, owner, postgres.Down)
				must(t, err)
			}
			if left := functions(); len(left) > 0 {
				t.Errorf("after the last down there are %v", left)
			}
		})
	}
}
