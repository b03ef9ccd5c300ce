package postgres_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/dev/await"
	"iam-service/internal/dev/pgtest"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// Instances of the release before write while the schema is migrated: what one of them has not committed yet when the index
// of roles is filled is in it all the same.
func TestTheIndexOfRolesHasWhatIsWrittenDuringItsMigration(t *testing.T) {
	t.Parallel()
	url := pgtest.EmptyURL(t)
	steps, err := postgres.Migrate(ctx, url, postgres.Up)
	must(t, err)
	const indexed = 17 // the step that fills the index
	for i := len(steps) - 1; steps[i].Version >= indexed; i-- {
		_, err := postgres.Migrate(ctx, url, postgres.Down)
		must(t, err)
	}
	conn, err := pgx.Connect(ctx, url)
	must(t, err)
	defer conn.Close(ctx)
	watch, err := pgx.Connect(ctx, url)
	must(t, err)
	defer watch.Close(ctx)
	tx, err := conn.Begin(ctx)
	must(t, err)
	for _, sql := range []string{
		`INSERT INTO tenants (id, slug, name) VALUES ('acme', 'acme', 'Acme')`,
		`INSERT INTO roles (name) VALUES ('viewer')`,
		`INSERT INTO users (id, issuer, subject) VALUES ('00000000-0000-4000-8000-000000000001', 'https://i.example', 's')`,
		`INSERT INTO memberships (user_id, tenant, roles) VALUES ('00000000-0000-4000-8000-000000000001', 'acme', '{viewer}')`,
	} {
		_, err := tx.Exec(ctx, sql)
		must(t, err)
	}
	migrated := make(chan error, 1)
	go func() {
		_, err := postgres.Migrate(ctx, url, postgres.Up)
		migrated <- err
	}()
	await.True(t, "the migration waits for the writer", func() bool {
		var waits bool
		must(t, watch.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'memberships'::regclass)`).Scan(&waits))
		return waits
	})
	must(t, tx.Commit(ctx))
	must(t, <-migrated)
	x, err := pgtest.OpenURL(t, url).CheckRoleIndex(ctx)
	must(t, err)
	if x != (postgres.RoleIndex{All: true}) {
		t.Errorf("compared with memberships: %+v", x)
	}
}

func TestTheIndexOfRolesIsComparedAndARowThatItHasAlreadyFailsNoChange(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	db := pgtest.OpenURL(t, url)
	must(t, db.PutTenant(ctx, iam.Tenant{ID: "acme", Slug: "acme", Name: "Acme", Status: iam.TenantActive}))
	for _, r := range []string{"viewer", "editor"} {
		must(t, db.PutRole(ctx, iam.Role{Name: r}))
	}
	user, err := db.PutUser(ctx, iam.User{Issuer: pgtest.Issuer, Subject: "s", Status: iam.UserActive})
	must(t, err)
	conn, err := pgx.Connect(ctx, url)
	must(t, err)
	defer conn.Close(ctx)
	exec := func(sql string) {
		t.Helper()
		_, err := conn.Exec(ctx, sql, user)
		must(t, err)
	}
	compared := func(want postgres.RoleIndex) {
		t.Helper()
		x, err := db.CheckRoleIndex(ctx)
		must(t, err)
		if want.All = true; x != want {
			t.Errorf("compared: %+v, want %+v", x, want)
		}
	}
	put := func(roles ...string) {
		t.Helper()
		must(t, db.PutMembership(ctx, iam.Membership{Tenant: "acme", User: user, Status: iam.MembershipActive, Roles: roles}))
	}
	exec(`INSERT INTO membership_roles (tenant, role, user_id) VALUES ('acme', 'viewer', $1)`)
	compared(postgres.RoleIndex{Excess: 1})
	put("viewer")
	compared(postgres.RoleIndex{})
	exec(`INSERT INTO membership_roles (tenant, role, user_id) VALUES ('acme', 'editor', $1)`)
	put("viewer", "editor")
	compared(postgres.RoleIndex{})
	exec(`DELETE FROM membership_roles WHERE user_id = $1`)
	compared(postgres.RoleIndex{Missing: 2})
}
