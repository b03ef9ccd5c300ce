package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"iam-service/internal/dev/pgtest"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

var ctx = context.Background()

const issuer = pgtest.Issuer

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wrong fails unless err is of the kind and says want.
func wrong(t *testing.T, err error, kind iam.Kind, want string) {
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

func TestMigrationsGoUpAndDownAndUpAgain(t *testing.T) {
	t.Parallel()
	url := pgtest.EmptyURL(t)
	up := func() int {
		steps, err := postgres.Migrate(ctx, url, postgres.Up)
		must(t, err)
		return len(steps)
	}
	n := up()
	if n == 0 {
		t.Fatal("no step was applied")
	}
	if again := up(); again != 0 {
		t.Errorf("a second up applied %d steps", again)
	}
	for range n {
		steps, err := postgres.Migrate(ctx, url, postgres.Down)
		must(t, err)
		if len(steps) != 1 {
			t.Errorf("down took back %d steps", len(steps))
		}
	}
	conn, err := pgx.Connect(ctx, url)
	must(t, err)
	defer conn.Close(ctx)
	var left int
	must(t, conn.QueryRow(ctx, `SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = current_schema() AND c.relkind = 'r' AND c.relname <> 'goose_db_version'`).Scan(&left))
	if left != 0 {
		t.Errorf("%d tables are left after all downs", left)
	}
	if again := up(); again != n {
		t.Errorf("the second time %d steps were applied, not %d", again, n)
	}
	steps, err := postgres.Status(ctx, url)
	must(t, err)
	if len(steps) != n || steps[0].AppliedAt.IsZero() {
		t.Errorf("status: %v", steps)
	}
}

func TestTheOnlyMembershipOfAnOlderUserBecomesTheDefault(t *testing.T) {
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

// What a transaction has changed is a list of keys, and everything where the list would be very long.
func TestWhatATransactionHasChangedStaysShort(t *testing.T) {
	t.Parallel()
	conn, err := pgx.Connect(ctx, pgtest.URL(t))
	must(t, err)
	defer conn.Close(ctx)
	for statements, all := range map[int]bool{3000: false, 4000: true} {
		tx, err := conn.Begin(ctx)
		must(t, err)
		_, err = tx.Exec(ctx, fmt.Sprintf(`DO $$ BEGIN FOR i IN 1..%d LOOP INSERT INTO users (issuer, subject) VALUES ('i', 's' || i); END LOOP; END $$`, statements))
		must(t, err)
		var changed string
		must(t, tx.QueryRow(ctx, `SELECT current_setting('iam.changed')`).Scan(&changed))
		if keys := strings.Count(changed, ",") + 1; (changed == "all") != all || !all && keys != statements {
			t.Errorf("%d statements: %d keys, %d bytes", statements, keys, len(changed))
		}
		must(t, tx.Rollback(ctx))
	}
}

func TestTwoMigrationsAtOnceAreOneAfterTheOther(t *testing.T) {
	t.Parallel()
	url := pgtest.EmptyURL(t)
	var wg sync.WaitGroup
	applied := make([]int, 3)
	for i := range applied {
		wg.Go(func() {
			steps, err := postgres.Migrate(ctx, url, postgres.Up)
			if err != nil {
				t.Error(err)
			}
			applied[i] = len(steps)
		})
	}
	wg.Wait()
	if sum := applied[0] + applied[1] + applied[2]; sum == 0 || max(applied[0], applied[1], applied[2]) != sum {
		t.Errorf("steps applied by each: %v", applied)
	}
}

func TestServingNeedsASchemaThatIsNewEnough(t *testing.T) {
	t.Parallel()
	open := func(url string) *postgres.DB {
		db, err := postgres.Open(ctx, postgres.Config{URL: url, FactsAcquire: 10 * time.Second, FactsLimit: 10 * time.Second}, slog.New(slog.DiscardHandler), func(r string) { t.Errorf("counted as an error of the database: %s", r) })
		must(t, err)
		t.Cleanup(db.Close)
		return db
	}
	err := open(pgtest.EmptyURL(t)).CheckSchema(ctx)
	if _, old := errors.AsType[*postgres.OldSchemaError](err); !old {
		t.Errorf("an empty schema: %v", err)
	}
	url := pgtest.URL(t)
	must(t, open(url).CheckSchema(ctx))
	conn, err := pgx.Connect(ctx, url)
	must(t, err)
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, true)`)
	must(t, err)
	must(t, open(url).CheckSchema(ctx)) // a newer one runs
}

func TestFactsComeBackAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	must(t, db.PutTenant(ctx, iam.Tenant{ID: "acme", Slug: "acme", Name: "Acme", Status: iam.TenantActive, Attributes: map[string]any{"limit": 12345678901234567}}))
	must(t, db.PutTenant(ctx, tenant("globex")))
	must(t, db.PutRole(ctx, iam.Role{Name: "viewer", Permissions: []string{"doc:read"}}))
	must(t, db.PutRole(ctx, iam.Role{Tenant: "acme", Name: "editor", Permissions: []string{"doc:write"}, Inherits: []string{"viewer"}}))
	must(t, db.PutRole(ctx, iam.Role{Tenant: "globex", Name: "other"}))
	must(t, db.PutMapping(ctx, iam.Mapping{Tenant: "acme", Issuer: issuer, Claim: "groups", Value: "Ünïcode", Roles: []string{"editor"}}))
	expires := time.Now().Add(time.Hour).Truncate(time.Microsecond)
	id, err := db.PutUser(ctx, iam.User{
		Issuer: issuer, Subject: "alice", Status: iam.UserActive, PlatformRoles: []string{"auditor"}, DefaultTenant: "acme",
		TokensNotBefore: expires, Attributes: map[string]any{"a": "b"},
	})
	must(t, err)
	must(t, db.PutMembership(ctx, iam.Membership{Tenant: "acme", User: id, Status: iam.MembershipActive, Roles: []string{"editor", "viewer"}, ExpiresAt: expires}))
	must(t, db.PutClient(ctx, iam.Client{Issuer: issuer, ClientID: "c1", Tenant: "acme", Status: iam.ClientActive, Roles: []string{"editor"}, Scopes: []string{"s"}}))

	u, found, err := db.User(ctx, issuer, "alice")
	must(t, err)
	if !found || u.ID != id || u.DefaultTenant != "acme" || !u.TokensNotBefore.Equal(expires) || u.AsOf.IsZero() || u.Attributes["a"] != "b" {
		t.Errorf("user: %+v", u)
	}
	if len(u.Memberships) != 1 || !u.Memberships[0].ExpiresAt.Equal(expires) || !cmp.Equal(u.Memberships[0].Roles, []string{"editor", "viewer"}) {
		t.Errorf("memberships: %+v", u.Memberships)
	}
	te, found, err := db.Tenant(ctx, "acme")
	must(t, err)
	if !found || fmt.Sprint(te.Attributes["limit"]) != "12345678901234567" {
		t.Errorf("a number lost digits: %v", te.Attributes)
	}
	if len(te.Roles) != 4 /* the two reserved ones too */ || len(te.Mappings) != 1 || te.Mappings[0].Value != "Ünïcode" {
		t.Errorf("tenant: %+v", te)
	}
	c, found, err := db.Client(ctx, issuer, "c1")
	must(t, err)
	if !found || c.Tenant != "acme" || !cmp.Equal(c.Scopes, []string{"s"}) {
		t.Errorf("client: %+v", c)
	}
	for what, absent := range map[string]func() (bool, error){
		"user":   func() (bool, error) { _, found, err := db.User(ctx, issuer, "nobody"); return found, err },
		"tenant": func() (bool, error) { _, found, err := db.Tenant(ctx, "nowhere"); return found, err },
		"client": func() (bool, error) { _, found, err := db.Client(ctx, issuer, "none"); return found, err },
	} {
		if found, err := absent(); found || err != nil {
			t.Errorf("absent %s: %v, %v", what, found, err)
		}
	}
}

func TestIdentifiersAreComparedByteByByte(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	first := user(t, db, "admin")
	for _, other := range []string{"Admin", "ADMIN", "admin.", "admi"} {
		if _, found, err := db.User(ctx, issuer, other); found || err != nil {
			t.Errorf("%q finds %q (%v)", other, "admin", err)
		}
		if id := user(t, db, other); id == first {
			t.Errorf("%q and %q are one user", other, "admin")
		}
	}
	for _, bad := range []string{"admin ", "cafe\u0301", "caf\u00e9"} { // NFD and NFC: neither is written
		_, err := db.PutUser(ctx, iam.User{Issuer: issuer, Subject: bad, Status: iam.UserActive})
		wrong(t, err, iam.Invalid, "/subject")
	}
}

func TestWritesAreRefusedWithTheFieldThatIsWrong(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	must(t, db.PutTenant(ctx, tenant("acme")))
	must(t, db.PutTenant(ctx, tenant("globex")))
	must(t, db.PutRole(ctx, iam.Role{Name: "viewer"}))
	must(t, db.PutRole(ctx, iam.Role{Tenant: "globex", Name: "theirs"}))
	alice := user(t, db, "alice")
	limited, err := db.PutUser(ctx, iam.User{Issuer: pgtest.LimitedIssuer, Subject: "alice", Status: iam.UserActive})
	must(t, err)

	taken := tenant("other")
	taken.Slug = "acme"
	wrong(t, db.PutTenant(ctx, taken), iam.Conflict, `slug "acme"`)
	wrong(t, db.PutRole(ctx, iam.Role{Tenant: "nowhere", Name: "r"}), iam.NotFound, `no tenant "nowhere"`)
	wrong(t, db.PutRole(ctx, iam.Role{Tenant: "acme", Name: "viewer"}), iam.Conflict, "global role")
	wrong(t, db.PutRole(ctx, iam.Role{Name: "theirs"}), iam.Conflict, "a tenant already has")
	wrong(t, db.PutRole(ctx, iam.Role{Tenant: "acme", Name: "r", Inherits: []string{"theirs"}}), iam.Invalid, `no role named "theirs"`)
	wrong(t, db.PutMembership(ctx, iam.Membership{Tenant: "acme", User: alice, Status: "active", Roles: []string{"viewer", "theirs"}}), iam.Invalid, "/roles/1")
	wrong(t, db.PutMembership(ctx, iam.Membership{Tenant: "acme", User: "nobody", Status: "active"}), iam.NotFound, `no user "nobody"`)
	wrong(t, db.PutMembership(ctx, iam.Membership{Tenant: "none", User: alice, Status: "active"}), iam.NotFound, `no tenant "none"`)
	wrong(t, db.PutMapping(ctx, iam.Mapping{Tenant: "acme", Issuer: issuer, Claim: "groups", Value: "g", Roles: []string{"theirs"}}), iam.Invalid, "/roles/0")

	// An issuer reaches only its tenants, and platform roles only where it is trusted with them.
	wrong(t, db.PutMembership(ctx, iam.Membership{Tenant: "acme", User: limited, Status: "active"}), iam.Invalid, "may not speak for")
	must(t, db.PutMembership(ctx, iam.Membership{Tenant: "globex", User: limited, Status: "active"}))
	wrong(t, db.PutMapping(ctx, iam.Mapping{Tenant: "acme", Issuer: pgtest.LimitedIssuer, Claim: "groups", Value: "g", Roles: []string{"viewer"}}), iam.Invalid, "may not speak for")
	wrong(t, db.PutClient(ctx, iam.Client{Issuer: pgtest.LimitedIssuer, ClientID: "c", Tenant: "acme", Status: "active"}), iam.Invalid, "may not speak for")
	wrong(t, db.PutClient(ctx, iam.Client{Issuer: pgtest.LimitedIssuer, ClientID: "c", Status: "active"}), iam.Invalid, "need a tenant")
	_, err = db.PutUser(ctx, iam.User{Issuer: pgtest.LimitedIssuer, Subject: "x", Status: "active", PlatformRoles: []string{"auditor"}, DefaultTenant: "acme"})
	wrong(t, err, iam.Invalid, "/platform_roles")
	wrong(t, err, iam.Invalid, "/default_tenant")
	_, err = db.PutUser(ctx, iam.User{Issuer: "https://nobody.test", Subject: "x", Status: "active"})
	wrong(t, err, iam.Invalid, "not a trusted issuer")
	_, err = db.PutUser(ctx, iam.User{Issuer: issuer, Subject: "x", Status: "active", DefaultTenant: "nowhere"})
	wrong(t, err, iam.Invalid, `no tenant "nowhere"`)
}

// Two edits, each fine by itself, can make a cycle: one of them must lose.
func TestTwoEditsAtOnceCannotMakeACycle(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	for _, scope := range []string{"acme", ""} {
		if scope != "" {
			must(t, db.PutTenant(ctx, tenant(scope)))
		}
		for round := range 10 {
			a, b := fmt.Sprintf("a%d%s", round, scope), fmt.Sprintf("b%d%s", round, scope)
			must(t, db.PutRole(ctx, iam.Role{Tenant: scope, Name: a}))
			must(t, db.PutRole(ctx, iam.Role{Tenant: scope, Name: b}))
			var wg sync.WaitGroup
			errs := make([]error, 2)
			wg.Go(func() { errs[0] = db.PutRole(ctx, iam.Role{Tenant: scope, Name: a, Inherits: []string{b}}) })
			wg.Go(func() { errs[1] = db.PutRole(ctx, iam.Role{Tenant: scope, Name: b, Inherits: []string{a}}) })
			wg.Wait()
			if (errs[0] == nil) == (errs[1] == nil) {
				t.Fatalf("exactly one must win: %v, %v", errs[0], errs[1])
			}
			wrong(t, errors.Join(errs...), iam.Invalid, "cycle")
		}
	}
}

func TestLimitsHoldAtTheirEdge(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	db := pgtest.OpenURL(t, url)
	must(t, db.PutTenant(ctx, tenant("acme")))
	id := user(t, db, "busy")
	conn, err := pgx.Connect(ctx, url)
	must(t, err)
	defer conn.Close(ctx)
	exec := func(sql string, args ...any) {
		_, err := conn.Exec(ctx, sql, args...)
		must(t, err)
	}
	exec(`INSERT INTO roles (tenant, name) SELECT 'acme', 'r' || i FROM generate_series(1, 999) i`)
	must(t, db.PutRole(ctx, iam.Role{Tenant: "acme", Name: "the-1000th"}))
	wrong(t, db.PutRole(ctx, iam.Role{Tenant: "acme", Name: "one-more"}), iam.Conflict, "1000 roles")
	must(t, db.PutRole(ctx, iam.Role{Tenant: "acme", Name: "the-1000th", Permissions: []string{"a:b"}})) // a change is no addition

	exec(`INSERT INTO tenants (id, slug, name) SELECT 't' || i, 't' || i, 'T' FROM generate_series(1, 1001) i`)
	exec(`INSERT INTO memberships (user_id, tenant) SELECT $1::uuid, 't' || i FROM generate_series(1, 999) i`, id)
	must(t, db.PutMembership(ctx, iam.Membership{Tenant: "t1000", User: id, Status: "active"}))
	wrong(t, db.PutMembership(ctx, iam.Membership{Tenant: "t1001", User: id, Status: "active"}), iam.Conflict, "any more tenants")
	must(t, db.PutMembership(ctx, iam.Membership{Tenant: "t1000", User: id, Status: "suspended"}))

	exec(`INSERT INTO mappings (tenant, issuer, claim, value, roles) SELECT 'acme', $1, 'groups', 'g' || i, '{r1}' FROM generate_series(1, 1000) i`, issuer)
	wrong(t, db.PutMapping(ctx, iam.Mapping{Tenant: "acme", Issuer: issuer, Claim: "groups", Value: "x", Roles: []string{"r1"}}), iam.Conflict, "1000 mappings")
}

func TestOwnTenantsAreThoseThatAreOpen(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	db := pgtest.OpenURL(t, url)
	for _, id := range []string{"acme", "globex", "gone", "past", "held"} {
		x := tenant(id)
		if id == "gone" {
			x.Status = iam.TenantSuspended
		}
		must(t, db.PutTenant(ctx, x))
	}
	id, err := db.PutUser(ctx, iam.User{Issuer: issuer, Subject: "alice", Status: iam.UserActive, DefaultTenant: "globex"})
	must(t, err)
	for tenant, m := range map[string]iam.Membership{
		"acme": {}, "globex": {}, "gone": {}, "past": {ExpiresAt: time.Now().Add(-time.Second)}, "held": {Status: iam.MembershipSuspended},
	} {
		m.Tenant, m.User = tenant, id
		if m.Status == "" {
			m.Status = iam.MembershipActive
		}
		must(t, db.PutMembership(ctx, m))
	}
	list, err := db.TenantsOf(ctx, issuer, "alice")
	must(t, err)
	want := []iam.TenantMembership{{ID: "acme", Slug: "acme", Name: "ACME"}, {ID: "globex", Slug: "globex", Name: "GLOBEX", Default: true}}
	if diff := cmp.Diff(want, list); diff != "" {
		t.Error(diff)
	}
	// The reach of its issuer was narrowed since.
	narrow, err := postgres.Open(ctx, postgres.Config{
		URL: url, Issuers: iam.Issuers{{URL: issuer, Tenants: []string{"globex"}}}, FactsAcquire: 10 * time.Second, FactsLimit: 10 * time.Second,
	}, slog.New(slog.DiscardHandler), nil)
	must(t, err)
	defer narrow.Close()
	if list, err := narrow.TenantsOf(ctx, issuer, "alice"); err != nil || len(list) != 1 || list[0].ID != "globex" {
		t.Errorf("beyond the issuer's reach: %v, %v", list, err)
	}
	_, err = db.PutUser(ctx, iam.User{Issuer: issuer, Subject: "alice", Status: iam.UserBlocked})
	must(t, err)
	if list, err := db.TenantsOf(ctx, issuer, "alice"); err != nil || len(list) != 0 {
		t.Errorf("a blocked user has tenants: %v, %v", list, err)
	}
}

func TestKeysAreKeptForAStartWithoutTheirIssuer(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	if _, _, at, err := db.LoadKeys(ctx, issuer); err != nil || !at.IsZero() {
		t.Errorf("nothing was kept: %v, %v", at, err)
	}
	now := time.Now().Truncate(time.Microsecond)
	must(t, db.SaveKeys(ctx, issuer, []byte(`{"a": 1}`), []byte(`{"keys": []}`), now))
	must(t, db.SaveKeys(ctx, issuer, []byte(`{"a": 0}`), []byte(`{}`), now.Add(-time.Minute))) // a slower replica's older ones
	d, k, at, err := db.LoadKeys(ctx, issuer)
	must(t, err)
	if string(d) != `{"a": 1}` || string(k) != `{"keys": []}` || !at.Equal(now) {
		t.Errorf("kept %s %s %v", d, k, at)
	}
}

// What counts as an error of the database, and what does not.
func TestOnlyRealFailuresAreCounted(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t)
	_, err := postgres.Migrate(ctx, server.URL, postgres.Up)
	must(t, err)
	var mu sync.Mutex
	counted := map[string]int{}
	db, err := postgres.Open(ctx, postgres.Config{URL: server.URL, Issuers: iam.Issuers{{URL: issuer, Tenants: []string{"*"}}}, FactsAcquire: 10 * time.Second, FactsLimit: 10 * time.Second}, slog.New(slog.DiscardHandler), func(r string) {
		mu.Lock()
		defer mu.Unlock()
		counted[r]++
	})
	must(t, err)
	defer db.Close()

	_, _, err = db.User(ctx, issuer, "nobody")
	must(t, err)
	must(t, db.PutTenant(ctx, tenant("acme")))
	taken := tenant("other")
	taken.Slug = "acme"
	if db.PutTenant(ctx, taken) == nil {
		t.Error("a taken slug was accepted")
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, _, e := db.User(cancelled, issuer, "nobody"); e == nil {
		t.Error("a cancelled look-up succeeded")
	}
	mu.Lock()
	if len(counted) != 0 {
		t.Errorf("counted %v before anything failed", counted)
	}
	mu.Unlock()

	conn, err := pgx.Connect(ctx, server.URL)
	must(t, err)
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, `ALTER TABLE clients RENAME TO gone`)
	must(t, err)
	if _, _, err := db.Client(ctx, issuer, "c"); err == nil {
		t.Error("a look-up in a table that is not there succeeded")
	}
	mu.Lock()
	if counted["query"] != 1 || len(counted) != 1 {
		t.Errorf("counted %v after one look-up that cannot work", counted)
	}
	mu.Unlock()

	server.Kill()
	until := time.Now().Add(10 * time.Second)
	for err == nil { // a backend outlives its postmaster by a moment
		if _, _, err = db.User(ctx, issuer, "nobody"); err == nil && time.Now().After(until) {
			t.Fatal("look-ups without a server succeed")
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if counted["connection"] == 0 {
		t.Errorf("counted %v, want a connection error", counted)
	}
}

func TestAPasswordIsNeverShown(t *testing.T) {
	t.Parallel()
	for u, good := range map[string]bool{
		"postgres://u:s3cret@h/db?sslmode=disable": true, "postgres://h/db?user=u&password=s3cret": true, "host=h password=s3cret": true,
		"postgres://u:5/s3cret@h/db": false, "postgres://u:12#s3cret@h/db": false, "postgres://u:s3cret@h:port/db": false, "s3cret": false,
	} {
		err := postgres.CheckURL(u)
		if (err == nil) != good {
			t.Errorf("%s: %v", u, err)
		}
		if shown := fmt.Sprint(postgres.Server(u), err); strings.Contains(shown, "s3cret") {
			t.Errorf("%s shows the password", shown)
		}
	}
}
