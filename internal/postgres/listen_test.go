package postgres_test

import (
	"context"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"iam-service/internal/dev/pgtest"
	"iam-service/internal/directory"
	"iam-service/internal/directory/feed"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// The URL may hold settings of the pools.
func TestListenerAcceptsTheURLOfThePools(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	db := pgtest.OpenURL(t, url+"&pool_max_conns=5")
	l, err := db.Listen(ctx)
	must(t, err)
	l.Close()
}

func TestSchemaNameMustFitAChannelName(t *testing.T) {
	t.Parallel()
	url := pgtest.EmptyURL(t)
	conn, err := pgx.Connect(ctx, url)
	must(t, err)
	defer conn.Close(ctx)
	schema := schemaOf(t, conn)
	_, err = conn.Exec(ctx, `CREATE SCHEMA "odd-`+schema+`"`)
	must(t, err)
	_, err = postgres.Migrate(ctx, strings.Replace(url, "search_path="+schema, "search_path=%22odd-"+schema+"%22", 1), postgres.Up)
	if err == nil || !strings.Contains(err.Error(), "cannot be used") {
		t.Errorf("got %v", err)
	}
}

// notified returns what a listener receives until a heartbeat.
func notified(t *testing.T, db *postgres.DB, l feed.Listener) []string {
	t.Helper()
	must(t, db.SendHeartbeat(ctx, "end"))
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var all []string
	for {
		m, err := l.Next(ctx)
		must(t, err)
		switch {
		case m.Heartbeat != nil:
			slices.Sort(all)
			return all
		case m.All:
			all = append(all, "all")
		default:
			all = append(all, string(rune(m.Kind))+" "+hex.EncodeToString(m.Key[:]))
		}
	}
}

func key(k directory.Kind, a, b string) string {
	h := directory.KeyOf(k, a, b)
	return string(rune(k)) + " " + hex.EncodeToString(h[:])
}

// Every change of a fact notifies exactly the keys that it invalidates.
func TestEachChangeNotifiesWhatItInvalidates(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	db := pgtest.OpenURL(t, url)
	conn, err := pgx.Connect(ctx, url)
	must(t, err)
	defer conn.Close(ctx)
	exec := func(sql string, args ...any) func(*testing.T) {
		return func(t *testing.T) {
			t.Helper()
			if _, err := conn.Exec(ctx, sql, args...); err != nil {
				t.Fatalf("%s: %v", sql, err)
			}
		}
	}
	exec(`INSERT INTO tenants (id, slug, name) SELECT x, x, x FROM unnest(ARRAY['acme', 'globex', 'doomed']) x`)(t)
	exec(`INSERT INTO users (issuer, subject, default_tenant) SELECT $1, 'u' || i, CASE WHEN i = 9 THEN 'doomed' END FROM generate_series(1, 9) i`, issuer)(t)
	exec(`INSERT INTO users (issuer, subject) SELECT $1, 'many' || i FROM generate_series(1, 1200) i`, issuer)(t)
	exec(`INSERT INTO memberships (user_id, tenant) SELECT id, 'acme' FROM users WHERE subject = 'u1'`)(t)
	exec(`INSERT INTO memberships (user_id, tenant) SELECT id, 'doomed' FROM users WHERE subject = 'u2'`)(t)
	exec(`INSERT INTO memberships (user_id, tenant) SELECT id, 'globex' FROM users WHERE subject LIKE 'many%'`)(t)
	some := func(n int, of string) string {
		return `id IN (SELECT id FROM users WHERE subject LIKE '` + of + `%' ORDER BY subject LIMIT ` + strconv.Itoa(n) + `)`
	}
	u := func(subject string) string { return key(directory.User, issuer, subject) }
	tn := func(id string) string { return key(directory.Tenant, id, "") }
	members := func(id string) string { return key(directory.Members, id, "") }
	global := key(directory.GlobalRoles, "", "")
	each := []string{"each"} // as many users as the name says, each by its key
	l, err := db.Listen(ctx)
	must(t, err)
	defer l.Close()
	for _, c := range []struct {
		name string
		do   func(*testing.T)
		want []string
	}{
		{name: "a new tenant", do: func(t *testing.T) { must(t, db.PutTenant(ctx, tenant("new"))) }, want: []string{tn("new")}},
		{name: "a tenant's name", do: exec(`UPDATE tenants SET name = 'A' WHERE id = 'acme'`), want: []string{tn("acme")}},
		{name: "a tenant's status", do: exec(`UPDATE tenants SET status = 'suspended' WHERE id = 'acme'`), want: []string{tn("acme"), members("acme")}},
		{name: "a new role", do: func(t *testing.T) { must(t, db.PutRole(ctx, iam.Role{Tenant: "acme", Name: "r"})) }, want: []string{tn("acme")}},
		{name: "a role's permissions", do: func(t *testing.T) {
			must(t, db.PutRole(ctx, iam.Role{Tenant: "acme", Name: "r", Permissions: []string{"a:b"}}))
		}, want: []string{tn("acme")}},
		{name: "a global role", do: func(t *testing.T) { must(t, db.PutRole(ctx, iam.Role{Name: "g"})) }, want: []string{global}},
		{name: "a role moves to another tenant", do: exec(`UPDATE roles SET tenant = 'globex' WHERE name = 'r'`), want: []string{tn("acme"), tn("globex")}},
		{name: "deleted roles", do: exec(`DELETE FROM roles`), want: []string{tn("globex"), global}},
		{name: "a mapping", do: exec(`INSERT INTO mappings (tenant, issuer, claim, value, roles) VALUES ('acme', 'i', 'c', 'v', '{x}')`), want: []string{tn("acme")}},
		{name: "a mapping's roles", do: exec(`UPDATE mappings SET roles = '{y}'`), want: []string{tn("acme")}},
		{name: "a deleted mapping", do: exec(`DELETE FROM mappings`), want: []string{tn("acme")}},
		{name: "a new user", do: func(t *testing.T) { user(t, db, "new") }, want: []string{u("new")}},
		{name: "a user again", do: func(t *testing.T) { user(t, db, "new") }, want: []string{u("new")}},
		{name: "a user's names", do: exec(`UPDATE users SET subject = 'newer' WHERE subject = 'new'`), want: []string{u("new"), u("newer")}},
		{name: "a deleted user", do: exec(`DELETE FROM users WHERE subject IN ('newer', 'nobody')`), want: []string{u("newer")}},
		{name: "a deleted member", do: exec(`DELETE FROM users WHERE subject = 'u1'`), want: []string{u("u1")}},
		{name: "a membership", do: exec(`INSERT INTO memberships (user_id, tenant) SELECT id, 'acme' FROM users WHERE subject = 'u3'`), want: []string{u("u3")}},
		{name: "a membership's roles", do: exec(`UPDATE memberships SET roles = '{x}' WHERE tenant = 'acme'`), want: []string{u("u3")}},
		{name: "a membership moves to another user", do: exec(`UPDATE memberships SET user_id = (SELECT id FROM users WHERE subject = 'u4') WHERE tenant = 'acme'`), want: []string{u("u3"), u("u4")}},
		{name: "a deleted membership", do: exec(`DELETE FROM memberships WHERE tenant = 'acme'`), want: []string{u("u4")}},
		{name: "a client", do: exec(`INSERT INTO clients (issuer, client_id) VALUES ('i', 'c')`), want: []string{key(directory.Client, "i", "c")}},
		{name: "a client's status", do: exec(`UPDATE clients SET status = 'blocked'`), want: []string{key(directory.Client, "i", "c")}},
		{name: "a deleted client", do: exec(`DELETE FROM clients`), want: []string{key(directory.Client, "i", "c")}},
		{name: "a deleted tenant with members", do: exec(`DELETE FROM tenants WHERE id = 'doomed'`), want: []string{tn("doomed"), members("doomed"), u("u2"), u("u9")}},
		{name: "no row", do: exec(`UPDATE users SET status = 'blocked' WHERE subject = 'nobody'`), want: nil},
		{name: "a rollback", do: exec(`DO $$ BEGIN UPDATE users SET status = 'blocked'; RAISE EXCEPTION 'no'; EXCEPTION WHEN others THEN NULL; END $$`), want: nil},
		{name: "201 users, each by key", do: exec(`UPDATE users SET version = version + 1 WHERE ` + some(201, "many")), want: each},
		{name: "201 members, each by key", do: exec(`UPDATE memberships SET roles = '{}' WHERE user_` + some(201, "many")), want: each},
		{name: "1,000 users, each by key", do: exec(`UPDATE users SET version = version + 1 WHERE ` + some(1000, "many")), want: each},
		{name: "1,000 members who leave, each by key", do: exec(`DELETE FROM memberships WHERE user_` + some(1000, "many")), want: each},
		{name: "1,000 users who join, each by key", do: exec(`INSERT INTO memberships (user_id, tenant) SELECT id, 'globex' FROM users WHERE ` + some(1000, "many")), want: each},
		{name: "1,200 users", do: exec(`UPDATE users SET version = version + 1 WHERE subject LIKE 'many%'`), want: []string{"all"}},
		{name: "1,200 users who get a default tenant", do: exec(`UPDATE users SET default_tenant = 'globex' WHERE subject LIKE 'many%'`), want: []string{"all"}},
		{name: "1,200 users whose default tenant is cleared", do: exec(`UPDATE users SET default_tenant = NULL, version = version + 1 WHERE subject LIKE 'many%'`), want: []string{members("globex")}},
		{name: "1,200 members of one tenant", do: exec(`UPDATE memberships SET roles = '{}'`), want: []string{members("globex")}},
		{name: "1,200 members who leave", do: exec(`DELETE FROM memberships`), want: []string{members("globex")}},
		{name: "1,200 users who join", do: exec(`INSERT INTO memberships (user_id, tenant) SELECT id, 'globex' FROM users WHERE subject LIKE 'many%'`), want: []string{"all"}},
		{name: "1,200 members who move", do: exec(`UPDATE memberships SET tenant = 'acme'`), want: []string{"all"}},
		{name: "1,200 clients without a tenant", do: exec(`INSERT INTO clients (issuer, client_id) SELECT 'i', 'many' || i FROM generate_series(1, 1200) i`), want: []string{"all"}},
		{name: "1,200 clients who get a tenant", do: exec(`UPDATE clients SET tenant = 'acme'`), want: []string{"all"}},
		{name: "1,200 clients of one tenant", do: exec(`UPDATE clients SET status = 'blocked'`), want: []string{members("acme")}},
		{name: "1,200 deleted clients", do: exec(`DELETE FROM clients`), want: []string{members("acme")}},
		{name: "a message for another schema", do: exec(`SELECT pg_notify('iam_directory_' || current_schema(), 'v1 another all')`), want: nil},
		{name: "an unknown version", do: exec(`SELECT pg_notify('iam_directory_' || current_schema(), 'v2 what')`), want: []string{"all"}},
		{name: "an unknown kind", do: exec(`SELECT pg_notify('iam_directory_' || current_schema(), 'v1 ' || current_schema() || ' x 00')`), want: []string{"all"}},
		{name: "TRUNCATE", do: exec(`TRUNCATE clients, registrations, client_usage`), want: []string{"all"}},
		{name: "a purge", do: exec(`SELECT iam_purge()`), want: []string{"all"}},
		{name: "a change of no fact", do: exec(`UPDATE instance SET id = gen_random_uuid()`), want: nil},
		{name: "keys of issuers", do: func(t *testing.T) { must(t, db.SaveKeys(ctx, "i", []byte("{}"), []byte("{}"), time.Now())) }, want: nil},
		{name: "a session with another search_path", do: func(t *testing.T) {
			schema := schemaOf(t, conn)
			exec(`SET search_path = public`)(t)
			exec(`UPDATE ` + schema + `.tenants SET name = 'B' WHERE id = 'acme'`)(t)
			exec(`SET search_path = ` + schema)(t)
		}, want: []string{tn("acme")}},
		{name: "a session with tables of the same names", do: func(t *testing.T) {
			schema := schemaOf(t, conn)
			exec(`CREATE TEMP TABLE users (id uuid, issuer text, subject text)`)(t)
			exec(`CREATE TEMP TABLE memberships (a int)`)(t)
			exec(`UPDATE ` + schema + `.memberships SET roles = '{z}' WHERE user_id = (SELECT id FROM ` + schema + `.users WHERE subject = 'many1')`)(t)
			exec(`DROP TABLE pg_temp.users, pg_temp.memberships`)(t)
		}, want: []string{u("many1")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.do(t)
			got := notified(t, db, l)
			if slices.Equal(c.want, each) {
				n, err := strconv.Atoi(strings.ReplaceAll(strings.Fields(c.name)[0], ",", ""))
				must(t, err)
				if len(got) != n || slices.ContainsFunc(got, func(m string) bool { return !strings.HasPrefix(m, "u ") }) {
					t.Errorf("%d messages", len(got))
				}
				return
			}
			slices.Sort(c.want)
			if diff := cmp.Diff(c.want, slices.Compact(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func schemaOf(t *testing.T, conn *pgx.Conn) (schema string) {
	t.Helper()
	must(t, conn.QueryRow(ctx, `SELECT current_schema()`).Scan(&schema))
	return schema
}

// A notification contains no name, and a schema receives only its own.
func TestNotificationsCarryHashesOnly(t *testing.T) {
	t.Parallel()
	url, other := pgtest.URL(t), pgtest.Open(t)
	db := pgtest.OpenURL(t, url)
	conn, err := pgx.Connect(ctx, url)
	must(t, err)
	defer conn.Close(ctx)
	schema := schemaOf(t, conn)
	_, err = conn.Exec(ctx, `LISTEN iam_directory_`+schema)
	must(t, err)
	user(t, other, "elsewhere")
	user(t, db, "alice@example.com")
	within, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	n, err := conn.WaitForNotification(within)
	must(t, err)
	if want := "v1 " + schema + " " + key(directory.User, issuer, "alice@example.com"); n.Payload != want {
		t.Errorf("notified %q, want %q", n.Payload, want)
	}
}
