package postgres_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/dev/pgtest"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// A claim takes as many operations as it was asked for, also from a table that was never
// analysed, and no more of those that wait for their next try than it was told.
func TestAClaimTakesNoMoreThanItWasAskedFor(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	db := pgtest.OpenURL(t, url)
	const all, most = 40, 8
	must(t, db.Change(ctx, func(ctx context.Context, tx *postgres.Tx) error {
		for i := range all {
			c := iam.ManagedClient{
				Client:  iam.Client{Issuer: issuer, ClientID: fmt.Sprintf("client-%02d", i), Status: iam.ClientActive},
				Managed: true, Wanted: iam.Registration{TokenEndpointAuthMethod: "client_secret_basic"}, Sync: iam.SyncPending,
				Operation: iam.OperationCreate, OperationID: fmt.Sprintf("00000000-0000-4000-8000-%012d", i), SecretState: iam.SecretNotIssued, Tries: i % 2,
			}
			if _, err := tx.PutClient(ctx, c.Client); err != nil {
				return err
			}
			if err := tx.PutRegistration(ctx, c, 0, 0); err != nil {
				return err
			}
		}
		return nil
	}))
	claim := func(retried time.Time, most int) []iam.ManagedClient {
		t.Helper()
		got, err := db.ClaimClients(ctx, issuer, time.Minute, retried, most)
		must(t, err)
		return got
	}
	if got := claim(time.Time{}, most); len(got) != most {
		t.Errorf("%d were claimed, want %d", len(got), most)
	}
	for _, none := range []int{0, -1} {
		if got := claim(time.Time{}, none); len(got) != 0 {
			t.Errorf("%d were claimed, want none", len(got))
		}
		if _, err := db.DueOverlaps(ctx, issuer, none); err != nil {
			t.Error(err)
		}
	}

	// Those that were tried wait: they are due only if the last try was before a time. One
	// that was never tried waits for somebody else, and is not.
	conn, err := pgx.Connect(ctx, url)
	must(t, err)
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, `UPDATE registrations SET lease_until = NULL, next_try = now() + interval '1 hour', updated_at = now() - interval '1 minute'`)
	must(t, err)
	if got := claim(time.Time{}, all); len(got) != 0 {
		t.Errorf("%d that wait were claimed", len(got))
	}
	if got := claim(time.Now().Add(-time.Hour), all); len(got) != 0 {
		t.Errorf("%d that were tried since were claimed", len(got))
	}
	if got := claim(time.Now(), all); len(got) != all/2 {
		t.Errorf("%d that were tried were claimed, want %d", len(got), all/2)
	}
}

// A database knows that it is not where its instance was made, as a dump that was restored
// elsewhere is not, and is told whether it was moved or is a copy.
func TestACopyOfADatabaseIsNoticed(t *testing.T) {
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
			t.Errorf("it is %s, want %s", got, id)
		}
	}
	restore()
	must(t, db.Change(ctx, func(ctx context.Context, tx *postgres.Tx) error {
		_, err := tx.KeepInstance(ctx)
		return err
	}))
	if got := instance(false); got != id {
		t.Errorf("kept is %s, want %s", got, id)
	}
	restore()
	must(t, db.Change(ctx, func(ctx context.Context, tx *postgres.Tx) error {
		_, _, err := tx.RenewInstance(ctx)
		return err
	}))
	if got := instance(false); got == id {
		t.Error("renewed, it is the same")
	}

	// The role that serves owns nothing, and can look.
	tx, err := to.Begin(ctx)
	must(t, err)
	defer func() { must(t, tx.Rollback(ctx)) }()
	for _, sql := range []string{
		`CREATE ROLE only_looks`, `DO $$ BEGIN EXECUTE format('GRANT USAGE ON SCHEMA %I TO only_looks', current_schema()); END $$`,
		`GRANT SELECT ON instance TO only_looks`, `SET LOCAL ROLE only_looks`,
	} {
		_, err := tx.Exec(ctx, sql)
		must(t, err)
	}
	var same bool
	must(t, tx.QueryRow(ctx, `SELECT home = iam_home() FROM instance`).Scan(&same))
	if !same {
		t.Error("another role sees another home")
	}
}
