package postgres_test

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/dev/pgtest"
	"iam-service/internal/postgres"
)

func TestMigrationMakesTheOnlyMembershipTheDefault(t *testing.T) {
	t.Parallel()
	url := pgtest.EmptyURL(t)
	_, err := postgres.Migrate(ctx, url, postgres.Up)
	must(t, err)
	for version := int64(0); version != 7; {
		steps, err := postgres.Migrate(ctx, url, postgres.Down)
		must(t, err)
		version = steps[0].Version
	}
	conn, err := pgx.Connect(ctx, url)
	must(t, err)
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, `
		INSERT INTO tenants (id, slug, name) VALUES ('a', 'a', 'A'), ('b', 'b', 'B');
		INSERT INTO users (issuer, subject, default_tenant) VALUES ('i', 'none', NULL), ('i', 'one', NULL), ('i', 'two', NULL), ('i', 'chosen', 'b');
		INSERT INTO memberships (user_id, tenant, status)
		SELECT id, t, 'suspended' FROM users, unnest(ARRAY['a', 'b']) AS t WHERE subject = 'two' OR subject IN ('one', 'chosen') AND t = 'a'`)
	must(t, err)
	_, err = postgres.Migrate(ctx, url, postgres.Up)
	must(t, err)
	rows, err := conn.Query(ctx, `SELECT subject || ' ' || coalesce(default_tenant, '-') FROM users ORDER BY 1`)
	must(t, err)
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	must(t, err)
	if want := []string{"chosen b", "none -", "one a", "two -"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
