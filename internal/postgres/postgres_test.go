package postgres_test

import (
	"context"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"iam-service/internal/dev/pgtest"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main{M: m}) }

var ctx = context.Background()

const issuer = pgtest.Issuer

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantError fails unless err is of the kind and contains want.
func wantError(t *testing.T, err error, kind iam.Kind, want string) {
	t.Helper()
	if iam.KindOf(err) != kind || err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v (%s), want %s with %q", err, iam.KindOf(err), kind, want)
	}
}

func tenant(id string) iam.Tenant {
	return iam.Tenant{ID: id, Slug: id, Name: strings.ToUpper(id), Status: iam.TenantActive}
}

func user(t *testing.T, db *postgres.DB, subject string) string {
	t.Helper()
	id, err := db.PutUser(ctx, iam.User{Issuer: issuer, Subject: subject, Status: iam.UserActive})
	must(t, err)
	return id
}
