package postgres_test

import (
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
	owner := pgtest.URL(t)
	s := newServiceRole(t, owner)
	conn, role, exec, rights, u := s.conn, s.name, s.exec, s.rights, s.url
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

// serviceRole is a role that is to run the service, without a right so far.
type serviceRole struct {
	*testing.T
	conn *pgx.Conn // of the owner
	name string
	url  *url.URL // of the role
}

func newServiceRole(t *testing.T, owner string) serviceRole {
	t.Helper()
	conn, err := pgx.Connect(ctx, owner)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close(ctx) })
	u, err := url.Parse(owner)
	must(t, err)
	s := serviceRole{T: t, conn: conn, name: "rights_of_" + strings.TrimPrefix(u.Path, "/"), url: u}
	s.exec(`CREATE ROLE ` + s.name + ` LOGIN PASSWORD 'secret'`)
	t.Cleanup(func() {
		s.exec(`DROP OWNED BY ` + s.name)
		s.exec(`DROP ROLE ` + s.name)
	})
	u.User = url.UserPassword(s.name, "secret")
	return s
}

// exec runs a statement as the owner.
func (s serviceRole) exec(sql string) {
	s.Helper()
	if _, err := s.conn.Exec(ctx, sql); err != nil {
		s.Fatal(sql, err)
	}
}

func (s serviceRole) rights() postgres.Rights {
	s.Helper()
	r, err := pgtest.OpenURL(s.T, s.url.String()).Rights(ctx)
	must(s.T, err)
	return r
}

// iam_grant runs as the owner of the schema: a function that another role has created there is not a part of it.
func TestAGrantCallsNoFunctionOfAnotherRole(t *testing.T) {
	t.Parallel()
	owner := pgtest.URL(t)
	s := newServiceRole(t, owner)
	s.exec(`GRANT USAGE, CREATE ON SCHEMA ` + s.url.Query().Get("search_path") + ` TO ` + s.name)
	theirs, err := pgx.Connect(ctx, s.url.String())
	must(t, err)
	defer theirs.Close(ctx)
	_, err = theirs.Exec(ctx, `CREATE FUNCTION iam_grants_everything(to_role text) RETURNS void LANGUAGE plpgsql AS $$
		BEGIN EXECUTE 'GRANT DELETE ON audit TO ' || quote_ident(to_role); END $$`)
	must(t, err)
	must(t, postgres.Grant(ctx, owner, s.name))
	if r := s.rights(); len(r.Missing) > 0 || slices.Contains(r.Excess, "can DELETE the audit") {
		t.Errorf("after the grant: %+v", r)
	}
}

func sortedCopy(all []string) []string { return slices.Sorted(slices.Values(all)) }

// tablesOf are the privileges on tables.
func tablesOf(all []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool {
		return strings.Contains(s, "sequence") || strings.Contains(s, "schema ") || strings.Contains(s, "()") || strings.Contains(s, "UPDATE of")
	})
}
