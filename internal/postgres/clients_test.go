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
			if err := tx.PutRegistration(ctx, c, postgres.Schedule{}); err != nil {
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
