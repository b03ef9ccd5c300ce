package postgres_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/open-policy-agent/opa/v1/storage"

	"iam-service/internal/dev/devpg"
	"iam-service/internal/dev/pgtest"
	"iam-service/internal/directory"
	"iam-service/internal/feed"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

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

// What is read from another server than the one that is listened to could change
// unheard.
func TestFactsOfAnotherServerAreRefused(t *testing.T) {
	t.Parallel()
	a, b := pgtest.Server(t), pgtest.Server(t)
	for _, s := range []*devpg.Server{a, b} {
		_, err := postgres.Migrate(ctx, s.URL, postgres.Up)
		must(t, err)
	}
	rename(t, pgtest.OpenURL(t, a.URL), "of a")
	rename(t, pgtest.OpenURL(t, b.URL), "of b")
	split, err := postgres.Open(ctx, postgres.Config{URL: b.URL, Listen: a.URL, Issuers: pgtest.Issuers, FactsAcquire: 10 * time.Second, FactsLimit: 10 * time.Second}, slog.New(slog.DiscardHandler), nil)
	must(t, err)
	defer split.Close()
	if _, _, err := split.Tenant(ctx, "acme"); err != nil {
		t.Errorf("before anything is listened to: %v", err)
	}
	l, err := split.Listen(ctx)
	must(t, err)
	defer l.Close()
	for _, id := range []string{"acme", "nobody"} {
		if got, found, err := split.Tenant(ctx, id); iam.KindOf(err) != iam.Unavailable || found {
			t.Errorf("%s: %+v, %v, %v", id, got, found, err)
		}
	}
	if _, _, err := split.Client(ctx, issuer, "nobody"); iam.KindOf(err) != iam.Unavailable {
		t.Errorf("an absent client: %v", err)
	}
}

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

// replica is a store of facts on a real database, kept true by a real feed.
type replica struct {
	db    *postgres.DB
	store *directory.Store
	feed  *feed.Feed
	stop  func()
}

func startReplica(t *testing.T, url, listen string, maxStale time.Duration) *replica {
	t.Helper()
	db, err := postgres.Open(ctx, postgres.Config{URL: url, Listen: listen, Issuers: pgtest.Issuers, Conns: 4, FactsAcquire: time.Second, FactsLimit: 2 * time.Second}, slog.New(slog.DiscardHandler), nil)
	must(t, err)
	r := &replica{db: db, store: directory.New(db, directory.Config{Issuers: pgtest.Issuers, Wait: 3 * time.Second, MaxStale: maxStale})}
	r.feed = feed.New(feed.Config{Source: db, Store: r.store, Log: slog.New(slog.DiscardHandler)})
	running, stop := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() { r.feed.Run(running) })
	r.stop = sync.OnceFunc(func() { stop(); done.Wait(); db.Close() })
	t.Cleanup(r.stop)
	return r
}

func (r *replica) started(t *testing.T) *replica {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	must(t, r.feed.Started(ctx))
	return r
}

// name returns the name of the tenant acme as the replica knows it, or an error's
// code.
func (r *replica) name(t *testing.T) string {
	t.Helper()
	v, err := r.store.Reading(directory.Asker{Issuer: issuer}, time.Now().Add(10*time.Second)).Read(ctx, storage.Path{"directory", "tenants", "acme", "name"})
	if err != nil {
		if c := iam.CodeOf(err); c != "" {
			return c
		}
		return err.Error()
	}
	return strings.Trim(v.String(), `"`)
}

func rename(t *testing.T, db *postgres.DB, name string) {
	t.Helper()
	must(t, db.PutTenant(ctx, iam.Tenant{ID: "acme", Slug: "acme", Name: name, Status: iam.TenantActive}))
}

// until waits for ok and fails where it takes longer than limit.
func until(t *testing.T, what string, limit time.Duration, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %s", what, limit)
		}
	}
}

func TestAChangeIsSeenByAllReplicas(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	db := pgtest.OpenURL(t, url)
	rename(t, db, "n0")
	var replicas []*replica
	for range 3 {
		replicas = append(replicas, startReplica(t, url, "", time.Minute).started(t))
	}
	for i := range 50 {
		want := fmt.Sprintf("n%d", i)
		rename(t, db, want)
		for _, r := range replicas {
			until(t, want, 5*time.Second, func() bool { return r.name(t) == want })
		}
	}
	for _, r := range replicas {
		if n := r.store.Drops(directory.Tenant); n < 49 && r.feed.Stats().Sessions == 1 {
			t.Errorf("%d changes were heard", n)
		}
	}
}

// neverOld watches a replica whose feed is cut off while facts change: an old
// answer only until MAX_STALENESS after the cut, then an error, and when all is
// well again the new one.
func neverOld(t *testing.T, r *replica, direct *postgres.DB, maxStale time.Duration, breakIt, mend func()) {
	t.Helper()
	rename(t, direct, "old")
	until(t, "the first answer", 5*time.Second, func() bool { return r.name(t) == "old" })
	breakIt()
	cut := time.Now()
	rename(t, direct, "new")
	for time.Since(cut) < maxStale+2*time.Second {
		asked := time.Now()
		if got := r.name(t); got == "old" && asked.Sub(cut) > maxStale {
			t.Fatalf("an old answer %s after the cut", asked.Sub(cut))
		}
		time.Sleep(20 * time.Millisecond)
	}
	if got := r.name(t); !strings.HasPrefix(got, "facts_") {
		t.Errorf("past MAX_STALENESS the answer is %q", got)
	}
	if s := r.feed.State(); s != feed.Stale {
		t.Errorf("the feed is %s", s)
	}
	mend()
	until(t, "the new answer", 15*time.Second, func() bool {
		got := r.name(t)
		if got == "old" {
			t.Fatal("an old answer after it was mended")
		}
		return got == "new"
	})
}

// Packets vanish and nobody is told: the listener alone, and all connections.
func TestAListenerThatIsDeadInSilenceIsFoundOut(t *testing.T) {
	t.Parallel()
	for name, both := range map[string]bool{"the listener": false, "all connections": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.URL(t)
			direct, proxy := pgtest.OpenURL(t, url), pgtest.NewProxy(t, url)
			main := url
			if both {
				main = proxy.URL
			}
			rename(t, direct, "old")
			r := startReplica(t, main, proxy.URL, 4*time.Second).started(t)
			neverOld(t, r, direct, 4*time.Second, func() { proxy.Swallow(true) }, func() { proxy.Swallow(false); proxy.Cut() })
		})
	}
}

// A notification is lost, and with it the connection: everything is dropped.
func TestAChangeDuringAGapIsNotMissed(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	direct, proxy := pgtest.OpenURL(t, url), pgtest.NewProxy(t, url)
	rename(t, direct, "n0")
	r := startReplica(t, url, proxy.URL, time.Minute).started(t)
	for i := range 5 {
		until(t, "before the gap", 5*time.Second, func() bool { return r.name(t) == fmt.Sprintf("n%d", i) })
		proxy.Swallow(true)
		rename(t, direct, fmt.Sprintf("n%d", i+1))
		time.Sleep(50 * time.Millisecond) // the notification is gone
		proxy.Swallow(false)
		proxy.Cut()
	}
	until(t, "after the gap", 5*time.Second, func() bool { return r.name(t) == "n5" })
}

// A pooler that breaks LISTEN: at the start it is told; later it ends in an error.
func TestAPoolerThatBreaksListenIsFoundOut(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	direct, proxy := pgtest.OpenURL(t, url), pgtest.NewProxy(t, url)
	rename(t, direct, "old")
	proxy.Deafen(true)
	deaf := startReplica(t, url, proxy.URL, 4*time.Second)
	within, cancel := context.WithTimeout(ctx, 8*time.Second)
	defer cancel()
	if err := deaf.feed.Started(within); !errors.Is(err, feed.ErrDeaf) {
		t.Errorf("the start: %v", err)
	}
	if got := deaf.name(t); got != "facts_stale" {
		t.Errorf("an answer without a proof: %q", got)
	}
	proxy.Deafen(false)
	deaf.started(t)
	neverOld(t, deaf, direct, 4*time.Second, func() { proxy.Deafen(true) }, func() { proxy.Deafen(false) })
}

// A standby takes over: what the old primary said last is not believed, and what
// is changed on the new one is heard.
func TestANewPrimaryIsFollowed(t *testing.T) {
	t.Parallel()
	primary := pgtest.Server(t)
	_, err := postgres.Migrate(ctx, primary.URL, postgres.Up)
	must(t, err)
	standby := standbyOf(t, &primary)
	both := strings.Replace(primary.URL, "/iam?", ","+hostOf(t, standby.URL)+"/iam?", 1) + "&target_session_attrs=read-write"
	db := pgtest.OpenURL(t, primary.URL)
	rename(t, db, "old")
	r := startReplica(t, both, "", 8*time.Second).started(t)
	until(t, "the first answer", 5*time.Second, func() bool { return r.name(t) == "old" })
	caughtUp(t, primary.URL, standby.URL)
	lagging := pgtest.OpenURL(t, standby.URL)
	if _, _, err := lagging.Tenant(ctx, "acme"); err == nil || !strings.Contains(err.Error(), "the server is read-only") {
		t.Errorf("a look-up on a standby: %v", err)
	}
	if l, err := lagging.Listen(ctx); err == nil {
		l.Close()
		t.Error("a standby is listened to")
	}

	primary.Kill()
	gone := time.Now()
	conn, err := pgx.Connect(ctx, standby.URL)
	must(t, err)
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, `SELECT pg_promote(true, 20)`)
	must(t, err)
	promoted := pgtest.OpenURL(t, standby.URL)
	until(t, "a write on the new primary", 10*time.Second, func() bool {
		return promoted.PutTenant(ctx, iam.Tenant{ID: "acme", Slug: "acme", Name: "new", Status: iam.TenantActive}) == nil
	})
	until(t, "the new answer", 20*time.Second, func() bool {
		asked := time.Now()
		got := r.name(t)
		if got == "old" && asked.Sub(gone) > 8*time.Second {
			t.Fatalf("an old answer %s after the primary went", asked.Sub(gone))
		}
		return got == "new"
	})
	rename(t, promoted, "newer")
	until(t, "a change on the new primary", 5*time.Second, func() bool { return r.name(t) == "newer" })
}

func hostOf(t *testing.T, databaseURL string) string {
	t.Helper()
	cfg, err := pgx.ParseConfig(databaseURL)
	must(t, err)
	return fmt.Sprintf("%s:%d", cfg.Host, cfg.Port)
}

// standbyOf copies a server and starts the copy as its standby.
func standbyOf(t *testing.T, primary **devpg.Server) *devpg.Server {
	t.Helper()
	(*primary).Stop()
	dir, err := os.MkdirTemp("", "iam-pg-standby-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // a leftover in the temporary folder harms nobody
	out, err := exec.Command("cp", "-a", (*primary).Dir+"/.", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("copy the server: %v: %s", err, out)
	}
	again, err := (*primary).Restart(ctx)
	must(t, err)
	*primary = again
	t.Cleanup(again.Stop)
	signal := filepath.Join(dir, "cluster", "standby.signal")
	must(t, os.WriteFile(signal, nil, 0o600))
	if out, err := exec.Command("chown", "--reference="+filepath.Join(dir, "cluster"), signal).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cfg, err := pgx.ParseConfig(again.URL)
	must(t, err)
	standby, err := devpg.Start(ctx, devpg.Options{Dir: dir, Settings: []string{
		fmt.Sprintf("primary_conninfo=host=%s port=%d user=%s password=%s", cfg.Host, cfg.Port, cfg.User, cfg.Password), "hot_standby=on",
		"max_connections=200", // not fewer than the primary had
	}})
	must(t, err)
	t.Cleanup(standby.Stop)
	return standby
}

// caughtUp waits until the standby has all that the primary has.
func caughtUp(t *testing.T, primary, standby string) {
	t.Helper()
	p, err := pgx.Connect(ctx, primary)
	must(t, err)
	defer p.Close(ctx)
	s, err := pgx.Connect(ctx, standby)
	must(t, err)
	defer s.Close(ctx)
	var at string
	must(t, p.QueryRow(ctx, `SELECT pg_current_wal_lsn()::text`).Scan(&at))
	until(t, "the standby", 20*time.Second, func() bool {
		var there bool
		must(t, s.QueryRow(ctx, `SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn`, at).Scan(&there))
		return there
	})
}

// A primary that is cut off from its synchronous standby may have been replaced by it: it proves
// nothing any more, though it still answers and notifies, and though the wait for the standby is cancelled.
func TestAPrimaryWithoutItsSynchronousStandbyProvesNothing(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t)
	_, err := postgres.Migrate(ctx, server.URL, postgres.Up)
	must(t, err)
	rename(t, pgtest.OpenURL(t, server.URL), "acme")
	one, two := startReplica(t, server.URL, "", 3*time.Second).started(t), startReplica(t, server.URL, "", 3*time.Second).started(t)
	conn, err := pgx.Connect(ctx, server.URL)
	must(t, err)
	defer conn.Close(ctx)
	standbys := func(names string) {
		t.Helper()
		_, err := conn.Exec(ctx, `ALTER SYSTEM SET synchronous_standby_names = '`+names+`'`)
		must(t, err)
		_, err = conn.Exec(ctx, `SELECT pg_reload_conf()`)
		must(t, err)
	}
	standbys("gone")
	until(t, "both are stale", 30*time.Second, func() bool { return one.feed.State() == feed.Stale && two.feed.State() == feed.Stale })
	for _, r := range []*replica{one, two} {
		if got := r.name(t); got != "facts_stale" {
			t.Errorf("it answers %s", got)
		}
	}
	standbys("")
	until(t, "both are fresh", 30*time.Second, func() bool { return one.feed.State() == feed.Fresh && two.feed.State() == feed.Fresh })
	if got := one.name(t); got != "acme" {
		t.Errorf("it answers %s", got)
	}
}
