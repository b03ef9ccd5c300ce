package postgres_test

import (
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/dev/pgtest"
	"iam-service/internal/postgres"
)

func TestMigrationsGoUpAndDownAndUpAgain(t *testing.T) {
	t.Parallel()
	url := pgtest.EmptyURL(t)
	up := func() int {
		steps, err := postgres.Migrate(ctx, url, postgres.Up)
		must(t, err)
		return len(steps)
	}
	n := up()
	if n == 0 {
		t.Fatal("no step was applied")
	}
	if again := up(); again != 0 {
		t.Errorf("a second up applied %d steps", again)
	}
	for range n {
		steps, err := postgres.Migrate(ctx, url, postgres.Down)
		must(t, err)
		if len(steps) != 1 {
			t.Errorf("down rolled back %d steps", len(steps))
		}
	}
	conn, err := pgx.Connect(ctx, url)
	must(t, err)
	defer conn.Close(ctx)
	var left int
	must(t, conn.QueryRow(ctx, `SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = current_schema() AND c.relkind = 'r' AND c.relname <> 'goose_db_version'`).Scan(&left))
	if left != 0 {
		t.Errorf("%d tables are left after all downs", left)
	}
	if again := up(); again != n {
		t.Errorf("the second time %d steps were applied, not %d", again, n)
	}
	steps, err := postgres.Status(ctx, url)
	must(t, err)
	if len(steps) != n || steps[0].AppliedAt.IsZero() {
		t.Errorf("status: %v", steps)
	}
}

func TestConcurrentMigrationsAreSerialized(t *testing.T) {
	t.Parallel()
	url := pgtest.EmptyURL(t)
	var wg sync.WaitGroup
	applied := make([]int, 3)
	for i := range applied {
		wg.Go(func() {
			steps, err := postgres.Migrate(ctx, url, postgres.Up)
			if err != nil {
				t.Error(err)
			}
			applied[i] = len(steps)
		})
	}
	wg.Wait()
	if sum := applied[0] + applied[1] + applied[2]; sum == 0 || max(applied[0], applied[1], applied[2]) != sum {
		t.Errorf("steps applied by each: %v", applied)
	}
}

func TestCheckSchemaRejectsAnOldSchema(t *testing.T) {
	t.Parallel()
	open := func(url string) *postgres.DB {
		db, err := postgres.Open(ctx, postgres.Config{URL: url, FactsAcquire: 10 * time.Second, FactsLimit: 10 * time.Second}, slog.New(slog.DiscardHandler), func(r string) { t.Errorf("counted as a database error: %s", r) })
		must(t, err)
		t.Cleanup(db.Close)
		return db
	}
	err := open(pgtest.EmptyURL(t)).CheckSchema(ctx)
	if _, old := errors.AsType[*postgres.OldSchemaError](err); !old {
		t.Errorf("an empty schema: %v", err)
	}
	url := pgtest.URL(t)
	must(t, open(url).CheckSchema(ctx))
	conn, err := pgx.Connect(ctx, url)
	must(t, err)
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, true)`)
	must(t, err)
	must(t, open(url).CheckSchema(ctx)) // a newer one is fine
}
