package postgres_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/dev/pgtest"
	"iam-service/internal/postgres"
)

// A dump that is restored elsewhere is detected, until an operator confirms the instance or renews it.
func TestACopiedDatabaseIsDetected(t *testing.T) {
	t.Parallel()
	original, elsewhere := pgtest.URL(t), pgtest.URL(t)
	db := pgtest.OpenURL(t, elsewhere)
	instance := func(wantCopied bool) string {
		t.Helper()
		id, copied, err := db.Instance(ctx)
		must(t, err)
		if copied != wantCopied {
			t.Errorf("copied is %v", copied)
		}
		return id
	}
	instance(false)
	from, err := pgx.Connect(ctx, original)
	must(t, err)
	defer from.Close(ctx)
	var id, home string
	must(t, from.QueryRow(ctx, `SELECT id::text, home FROM instance`).Scan(&id, &home))
	to, err := pgx.Connect(ctx, elsewhere)
	must(t, err)
	defer to.Close(ctx)
	restore := func() {
		t.Helper()
		_, err := to.Exec(ctx, `UPDATE instance SET id = $1, home = $2`, id, home)
		must(t, err)
		if got := instance(true); got != id {
			t.Errorf("instance is %s, want %s", got, id)
		}
	}
	restore()
	must(t, db.Change(ctx, func(ctx context.Context, tx *postgres.Tx) error {
		_, err := tx.ConfirmInstance(ctx)
		return err
	}))
	if got := instance(false); got != id {
		t.Errorf("confirmed instance is %s, want %s", got, id)
	}
	restore()
	must(t, db.Change(ctx, func(ctx context.Context, tx *postgres.Tx) error {
		_, _, err := tx.RenewInstance(ctx)
		return err
	}))
	if got := instance(false); got == id {
		t.Error("the renewed instance has the same id")
	}

	// The service's role owns nothing, and can read the home.
	tx, err := to.Begin(ctx)
	must(t, err)
	defer func() { must(t, tx.Rollback(ctx)) }()
	for _, sql := range []string{
		`CREATE ROLE only_reads`, `DO $$ BEGIN EXECUTE format('GRANT USAGE ON SCHEMA %I TO only_reads', current_schema()); END $$`,
		`GRANT SELECT ON instance TO only_reads`, `SET LOCAL ROLE only_reads`,
	} {
		_, err := tx.Exec(ctx, sql)
		must(t, err)
	}
	var same bool
	must(t, tx.QueryRow(ctx, `SELECT home = iam_home() FROM instance`).Scan(&same))
	if !same {
		t.Error("another role reads another home")
	}
}
