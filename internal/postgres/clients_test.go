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

// A claim returns at most the requested number of operations, also from a table that was never analysed,
// and of the operations that wait for a retry only those whose last attempt is old enough.
func TestClaimIsBounded(t *testing.T) {
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
		got, err := db.ClaimClients(ctx, postgres.Claim{Issuer: issuer, Lease: time.Minute, RetryOlder: retried, Limit: most})
		must(t, err)
		return got
	}
	if got := claim(time.Time{}, most); len(got) != most {
		t.Errorf("claimed %d, want %d", len(got), most)
	}
	for _, none := range []int{0, -1} {
		if got := claim(time.Time{}, none); len(got) != 0 {
			t.Errorf("claimed %d, want none", len(got))
		}
		if _, err := db.DueOverlaps(ctx, issuer, none); err != nil {
			t.Error(err)
		}
	}

	// Operations that wait for a retry are due early only if their last attempt was before retried.
	// One without an attempt belongs to the request that began it, and is not due early.
	conn, err := pgx.Connect(ctx, url)
	must(t, err)
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, `UPDATE registrations SET lease_until = NULL, next_try = now() + interval '1 hour', updated_at = now() - interval '1 minute'`)
	must(t, err)
	if got := claim(time.Time{}, all); len(got) != 0 {
		t.Errorf("claimed %d before their retry", len(got))
	}
	if got := claim(time.Now().Add(-time.Hour), all); len(got) != 0 {
		t.Errorf("claimed %d with a newer attempt", len(got))
	}
	if got := claim(time.Now(), all); len(got) != all/2 {
		t.Errorf("claimed %d with an older attempt, want %d", len(got), all/2)
	}
}
