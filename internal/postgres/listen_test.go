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
	"iam-service/internal/feed"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// Settings of the pools stand in the same URL, and dead hosts before the live one.
func TestTheListenerTakesTheURLThatThePoolsTake(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	db := pgtest.OpenURL(t, url+"&pool_max_conns=5")
	l, err := db.Listen(ctx)
	must(t, err)
	l.Close()
}

func TestASchemaThatNoChannelCanBeNamedAfterIsRefused(t *testing.T) {
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

// said is what a listener hears until a beat.
func said(t *testing.T, db *postgres.DB, l feed.Listener) []string {
	t.Helper()
	must(t, db.Beat(ctx, "end"))
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var all []string
	for {
		m, err := l.Next(ctx)
		must(t, err)
		switch {
		case m.Beat != nil:
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

// Every way of changing a fact tells exactly what it makes untrue.
func TestEachChangeTellsWhatItMakesUntrue(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	db := pgtest.OpenURL(t, url)
	conn, err := pgx.Connect(ctx, url)
	must(t, err)
	defer conn.Close(ctx)
	exec := func(sql string, args ...any) func() {
		return func() {
			t.Helper()
			if _, err := conn.Exec(ctx, sql, args...); err != nil {
				t.Fatalf("%s: %v", sql, err)
			}
		}
	}
	exec(`INSERT INTO tenants (id, slug, name) SELECT x, x, x FROM unnest(ARRAY['acme', 'globex', 'doomed']) x`)()
	exec(`INSERT INTO users (issuer, subject, default_tenant) SELECT $1, 'u' || i, CASE WHEN i = 9 THEN 'doomed' END FROM generate_series(1, 9) i`, issuer)()
	exec(`INSERT INTO users (issuer, subject) SELECT $1, 'many' || i FROM generate_series(1, 1200) i`, issuer)()
	exec(`INSERT INTO memberships (user_id, tenant) SELECT id, 'acme' FROM users WHERE subject = 'u1'`)()
	exec(`INSERT INTO memberships (user_id, tenant) SELECT id, 'doomed' FROM users WHERE subject = 'u2'`)()
	exec(`INSERT INTO memberships (user_id, tenant) SELECT id, 'globex' FROM users WHERE subject LIKE 'many%'`)()
	some := func(n int, of string) string {
		return `id IN (SELECT id FROM users WHERE subject LIKE '` + of + `%' ORDER BY subject LIMIT ` + strconv.Itoa(n) + `)`
	}
	u := func(subject string) string { return key(directory.User, issuer, subject) }
	tn := func(id string) string { return key(directory.Tenant, id, "") }
	members := func(id string) string { return key(directory.Members, id, "") }
	global := key(directory.GlobalRoles, "", "")
	each := []string{"each"} // as many as the name says, each a user of its own
	l, err := db.Listen(ctx)
	must(t, err)
	defer l.Close()
	for _, c := range []struct {
		name string
		do   func()
		want []string
	}{
		{"a new tenant", func() { must(t, db.PutTenant(ctx, tenant("new"))) }, []string{tn("new")}},
		{"a tenant's name", exec(`UPDATE tenants SET name = 'A' WHERE id = 'acme'`), []string{tn("acme")}},
		{"a tenant's state", exec(`UPDATE tenants SET status = 'suspended' WHERE id = 'acme'`), []string{tn("acme"), members("acme")}},
		{"a new role", func() { must(t, db.PutRole(ctx, iam.Role{Tenant: "acme", Name: "r"})) }, []string{tn("acme")}},
		{"a role's permissions", func() {
			must(t, db.PutRole(ctx, iam.Role{Tenant: "acme", Name: "r", Permissions: []string{"a:b"}}))
		}, []string{tn("acme")}},
		{"a global role", func() { must(t, db.PutRole(ctx, iam.Role{Name: "g"})) }, []string{global}},
		{"a role that moves", exec(`UPDATE roles SET tenant = 'globex' WHERE name = 'r'`), []string{tn("acme"), tn("globex")}},
		{"roles that go", exec(`DELETE FROM roles`), []string{tn("globex"), global}},
		{"a mapping", exec(`INSERT INTO mappings (tenant, issuer, claim, value, roles) VALUES ('acme', 'i', 'c', 'v', '{x}')`), []string{tn("acme")}},
		{"a mapping's roles", exec(`UPDATE mappings SET roles = '{y}'`), []string{tn("acme")}},
		{"no mapping", exec(`DELETE FROM mappings`), []string{tn("acme")}},
		{"a new user", func() { user(t, db, "new") }, []string{u("new")}},
		{"a user again", func() { user(t, db, "new") }, []string{u("new")}},
		{"a user's names", exec(`UPDATE users SET subject = 'newer' WHERE subject = 'new'`), []string{u("new"), u("newer")}},
		{"a user who goes", exec(`DELETE FROM users WHERE subject IN ('newer', 'nobody')`), []string{u("newer")}},
		{"a member who goes", exec(`DELETE FROM users WHERE subject = 'u1'`), []string{u("u1")}},
		{"a membership", exec(`INSERT INTO memberships (user_id, tenant) SELECT id, 'acme' FROM users WHERE subject = 'u3'`), []string{u("u3")}},
		{"a membership's roles", exec(`UPDATE memberships SET roles = '{x}' WHERE tenant = 'acme'`), []string{u("u3")}},
		{"a membership given to another", exec(`UPDATE memberships SET user_id = (SELECT id FROM users WHERE subject = 'u4') WHERE tenant = 'acme'`), []string{u("u3"), u("u4")}},
		{"no membership", exec(`DELETE FROM memberships WHERE tenant = 'acme'`), []string{u("u4")}},
		{"a client", exec(`INSERT INTO clients (issuer, client_id) VALUES ('i', 'c')`), []string{key(directory.Client, "i", "c")}},
		{"a client's state", exec(`UPDATE clients SET status = 'blocked'`), []string{key(directory.Client, "i", "c")}},
		{"no client", exec(`DELETE FROM clients`), []string{key(directory.Client, "i", "c")}},
		{"a tenant that goes, with its members", exec(`DELETE FROM tenants WHERE id = 'doomed'`), []string{tn("doomed"), members("doomed"), u("u2"), u("u9")}},
		{"nothing", exec(`UPDATE users SET status = 'blocked' WHERE subject = 'nobody'`), nil},
		{"what is taken back", exec(`DO $$ BEGIN UPDATE users SET status = 'blocked'; RAISE EXCEPTION 'no'; EXCEPTION WHEN others THEN NULL; END $$`), nil},
		{"201 users, each by key", exec(`UPDATE users SET version = version + 1 WHERE ` + some(201, "many")), each},
		{"201 members, each by key", exec(`UPDATE memberships SET roles = '{}' WHERE user_` + some(201, "many")), each},
		{"1,000 users, each by key", exec(`UPDATE users SET version = version + 1 WHERE ` + some(1000, "many")), each},
		{"1,000 members who leave, each by key", exec(`DELETE FROM memberships WHERE user_` + some(1000, "many")), each},
		{"1,000 users who join, each by key", exec(`INSERT INTO memberships (user_id, tenant) SELECT id, 'globex' FROM users WHERE ` + some(1000, "many")), each},
		{"1,200 users", exec(`UPDATE users SET version = version + 1 WHERE subject LIKE 'many%'`), []string{"all"}},
		{"1,200 users who get a default tenant", exec(`UPDATE users SET default_tenant = 'globex' WHERE subject LIKE 'many%'`), []string{"all"}},
		{"1,200 users whose default tenant goes", exec(`UPDATE users SET default_tenant = NULL, version = version + 1 WHERE subject LIKE 'many%'`), []string{members("globex")}},
		{"1,200 members of one tenant", exec(`UPDATE memberships SET roles = '{}'`), []string{members("globex")}},
		{"1,200 members who leave", exec(`DELETE FROM memberships`), []string{members("globex")}},
		{"1,200 users who join", exec(`INSERT INTO memberships (user_id, tenant) SELECT id, 'globex' FROM users WHERE subject LIKE 'many%'`), []string{"all"}},
		{"1,200 members who move", exec(`UPDATE memberships SET tenant = 'acme'`), []string{"all"}},
		{"1,200 clients of nobody", exec(`INSERT INTO clients (issuer, client_id) SELECT 'i', 'many' || i FROM generate_series(1, 1200) i`), []string{"all"}},
		{"1,200 clients who join", exec(`UPDATE clients SET tenant = 'acme'`), []string{"all"}},
		{"1,200 clients of one tenant", exec(`UPDATE clients SET status = 'blocked'`), []string{members("acme")}},
		{"1,200 clients who go", exec(`DELETE FROM clients`), []string{members("acme")}},
		{"what is meant for another schema", exec(`SELECT pg_notify('iam_directory_' || current_schema(), 'v1 another all')`), nil},
		{"a version that is not known", exec(`SELECT pg_notify('iam_directory_' || current_schema(), 'v2 what')`), []string{"all"}},
		{"a kind that is not known", exec(`SELECT pg_notify('iam_directory_' || current_schema(), 'v1 ' || current_schema() || ' x 00')`), []string{"all"}},
		{"everything cut off", exec(`TRUNCATE clients, registrations`), []string{"all"}},
		{"a purge", exec(`SELECT iam_purge()`), []string{"all"}},
		{"what is no fact", exec(`UPDATE instance SET id = gen_random_uuid()`), nil},
		{"keys of issuers", func() { must(t, db.SaveKeys(ctx, "i", []byte("{}"), []byte("{}"), time.Now())) }, nil},
		{"a session with another search_path", func() {
			schema := schemaOf(t, conn)
			exec(`SET search_path = public`)()
			exec(`UPDATE ` + schema + `.tenants SET name = 'B' WHERE id = 'acme'`)()
			exec(`SET search_path = ` + schema)()
		}, []string{tn("acme")}},
		{"a session with tables of the same names", func() {
			schema := schemaOf(t, conn)
			exec(`CREATE TEMP TABLE users (id uuid, issuer text, subject text)`)()
			exec(`CREATE TEMP TABLE memberships (a int)`)()
			exec(`UPDATE ` + schema + `.memberships SET roles = '{z}' WHERE user_id = (SELECT id FROM ` + schema + `.users WHERE subject = 'many1')`)()
			exec(`DROP TABLE pg_temp.users, pg_temp.memberships`)()
		}, []string{u("many1")}},
	} {
		c.do()
		got := said(t, db, l)
		if len(c.want) == 1 && c.want[0] == "each" {
			if n, _ := strconv.Atoi(strings.NewReplacer(",", "").Replace(strings.Fields(c.name)[0])); len(got) != n || slices.ContainsFunc(got, func(m string) bool { return !strings.HasPrefix(m, "u ") }) {
				t.Errorf("%s: %d messages", c.name, len(got))
			}
			continue
		}
		slices.Sort(c.want)
		if diff := cmp.Diff(c.want, slices.Compact(got)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

func schemaOf(t *testing.T, conn *pgx.Conn) (schema string) {
	t.Helper()
	must(t, conn.QueryRow(ctx, `SELECT current_schema()`).Scan(&schema))
	return schema
}

// What travels names nobody, and another schema's changes are not ours.
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
		t.Errorf("%q was told, want %q", n.Payload, want)
	}
}
