package postgres_test

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/dev/pgtest"
	"iam-service/internal/postgres"
)

// What iam_grant grants is what Rights looks for: no more is missing, and nothing is left out.
func TestTheRightsThatAreGrantedAreThoseThatAreNeeded(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	owner := pgtest.URL(t)
	conn, err := pgx.Connect(ctx, owner)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(ctx) })
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatal(sql, err)
		}
	}
	u, _ := url.Parse(owner)
	role := "rights_of_" + u.Query().Get("search_path")
	exec(`CREATE ROLE ` + role + ` LOGIN PASSWORD 'secret'`)
	t.Cleanup(func() {
		exec(`DROP OWNED BY ` + role)
		exec(`DROP ROLE ` + role)
	})
	u.User = url.UserPassword(role, "secret")
	rights := func() postgres.Rights {
		t.Helper()
		r, err := pgtest.OpenURL(t, u.String()).Rights(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if err := postgres.Grant(ctx, owner, role); err != nil {
		t.Fatal(err)
	}
	if r := rights(); r.Role != role || len(r.Missing) > 0 || len(r.Excess) > 0 {
		t.Errorf("after the grant: %+v", r)
	}
	rows, err := conn.Query(ctx, `SELECT privilege_type || ' on ' || table_name FROM information_schema.role_table_grants
		WHERE grantee = $1 AND table_schema = current_schema()`, role)
	if err != nil {
		t.Fatal(err)
	}
	granted, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range granted {
		privilege, table, _ := strings.Cut(g, " on ")
		exec(`REVOKE ` + privilege + ` ON ` + table + ` FROM ` + role)
	}
	if r := rights(); !slices.Equal(sortedCopy(granted), sortedCopy(tablesOf(r.Missing))) {
		t.Errorf("granted and not looked for, or the other way round:\n%v\n%v", sortedCopy(granted), sortedCopy(tablesOf(r.Missing)))
	}
	exec(`GRANT DELETE ON audit TO ` + role)
	exec(`GRANT CREATE ON SCHEMA ` + u.Query().Get("search_path") + ` TO ` + role)
	if r := rights(); !slices.Equal(r.Excess, []string{"can create tables in the schema", "can DELETE the audit"}) {
		t.Errorf("too many rights: %v", r.Excess)
	}
	r, err := pgtest.OpenURL(t, owner).Rights(ctx)
	if err != nil || !slices.Contains(r.Excess, "owns tables of the schema") || len(r.Missing) > 0 {
		t.Errorf("the owner: %+v, %v", r, err)
	}
}

func sortedCopy(all []string) []string { return slices.Sorted(slices.Values(all)) }

// tablesOf are the privileges on tables.
func tablesOf(all []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool {
		return strings.Contains(s, "sequence") || strings.Contains(s, "schema ") || strings.Contains(s, "()") || strings.Contains(s, "UPDATE of")
	})
}
