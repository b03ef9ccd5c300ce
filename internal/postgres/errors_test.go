package postgres_test

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/dev/pgtest"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// What may be better later is unavailable and says why; what is broken is not.
func TestEachSQLSTATESaysWhetherItMayBeBetterLater(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	conn, err := pgx.Connect(ctx, url)
	must(t, err)
	defer conn.Close(ctx)
	exec := func(sql string, args ...any) {
		t.Helper()
		_, err := conn.Exec(ctx, sql, args...)
		must(t, err)
	}
	exec(`CREATE TABLE failure (code text)`)
	exec(`INSERT INTO failure VALUES ('')`)
	exec(`CREATE FUNCTION fail() RETURNS boolean LANGUAGE plpgsql AS $$
		DECLARE c text := (SELECT code FROM failure);
		BEGIN IF c <> '' THEN RAISE EXCEPTION 'as asked' USING ERRCODE = c; END IF; RETURN true; END $$`)
	exec(`CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM fail(); RETURN NULL; END $$`)
	exec(`CREATE TRIGGER fails BEFORE INSERT ON outbox FOR EACH STATEMENT EXECUTE FUNCTION fails()`)
	exec(`INSERT INTO clients (issuer, client_id) VALUES ($1, 'c')`, issuer)
	exec(`ALTER TABLE clients RENAME TO clients_`)
	exec(`CREATE VIEW clients AS SELECT * FROM clients_ WHERE fail()`)
	var counted counter
	db := openCounted(t, url, &counted)
	for sqlstate, want := range map[string]struct{ code, reason string }{
		"53000": {"database_overloaded", "overloaded"}, "53100": {"database_full", "full"}, "53200": {"database_overloaded", "overloaded"},
		"53300": {"database_overloaded", "overloaded"}, "53400": {"database_overloaded", "overloaded"},
		"57000": {"database_unavailable", "connection"}, "57014": {"database_unavailable", "timeout"}, "57P01": {"database_unavailable", "connection"},
		"57P02": {"database_unavailable", "connection"}, "57P03": {"database_unavailable", "connection"}, "57P05": {"database_unavailable", "connection"},
		"58000": {"database_unavailable", "connection"}, "58030": {"database_unavailable", "connection"}, "58P01": {"database_unavailable", "connection"},
		"08000": {"database_unavailable", "connection"}, "08006": {"database_unavailable", "connection"}, "08P01": {"database_unavailable", "connection"},
		"25006": {"database_read_only", "read_only"}, "25P03": {"database_unavailable", "timeout"},
		"40000": {"busy", ""}, "40001": {"busy", ""}, "40002": {"busy", ""}, "40003": {"busy", ""}, "40P01": {"busy", ""}, "55P03": {"busy", ""},
		"42501": {"", "query"}, "XX000": {"", "query"}, "XX001": {"", "query"},
	} {
		exec(`UPDATE failure SET code = $1`, sqlstate)
		kind := iam.Unavailable
		if want.code == "" {
			kind = iam.Internal
		}
		for path, ask := range map[string]func() error{
			"a change": func() error {
				return db.Change(ctx, func(ctx context.Context, tx *postgres.Tx) error {
					return tx.Append(ctx, nil, []iam.Event{iam.UserErasedEvent{UserGone: iam.UserGone{User: "u"}}})
				})
			},
			"a look-up": func() error { _, _, err := db.Client(ctx, issuer, "c"); return err },
		} {
			before := counted.get()
			err := ask()
			if iam.KindOf(err) != kind || iam.CodeOf(err) != want.code && want.reason != "connection" {
				t.Errorf("%s at %s: %s %q, want %s %q", sqlstate, path, iam.KindOf(err), iam.CodeOf(err), kind, want.code)
			}
			if want.reason != "" {
				if before == nil {
					before = map[string]int{}
				}
				before[want.reason]++
			}
			if !counted.is(before) {
				t.Errorf("%s at %s: counted %v, want %v", sqlstate, path, counted.get(), before)
			}
		}
	}
	exec(`UPDATE failure SET code = ''`)
}

// The test of a write says why it fails, and a success leaves nothing behind.
func TestATestOfAWriteSaysWhyItFails(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	db := pgtest.OpenURL(t, url)
	conn, err := pgx.Connect(ctx, url)
	must(t, err)
	defer conn.Close(ctx)
	l, err := db.Listen(ctx)
	must(t, err)
	defer l.Close()
	for range 100 {
		must(t, db.CheckWrites(ctx))
	}
	if got := said(t, db, l); len(got) != 0 {
		t.Errorf("it notified %v", got)
	}
	var rows, pages int
	must(t, conn.QueryRow(ctx, `SELECT count(*), pg_relation_size('write_probe') / 8192 FROM write_probe`).Scan(&rows, &pages))
	if rows != 1 || pages > 2 {
		t.Errorf("%d rows in %d pages", rows, pages)
	}
	_, err = conn.Exec(ctx, `CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no space' USING ERRCODE = '53100'; END $$;
		CREATE TRIGGER full_disk BEFORE UPDATE ON write_probe FOR EACH STATEMENT EXECUTE FUNCTION full_disk()`)
	must(t, err)
	if got := iam.CodeOf(db.CheckWrites(ctx)); got != "database_full" {
		t.Errorf("without room: %q", got)
	}
	readOnly := pgtest.OpenURL(t, url+"&default_transaction_read_only=on")
	if got := iam.CodeOf(readOnly.CheckWrites(ctx)); got != "database_read_only" {
		t.Errorf("read-only: %q", got)
	}
	if got := iam.CodeOf(readOnly.PutTenant(ctx, tenant("acme"))); got != "database_read_only" {
		t.Errorf("a change of a read-only database: %q", got)
	}
}

// A primary that takes no changes answers look-ups over new connections, and its heartbeats are heard.
func TestAReadOnlyPrimaryAnswersLookUps(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	must(t, pgtest.OpenURL(t, url).PutTenant(ctx, tenant("acme")))
	db := pgtest.OpenURL(t, url+"&default_transaction_read_only=on")
	if _, found, err := db.Tenant(ctx, "acme"); err != nil || !found {
		t.Errorf("a look-up: %v %v", found, err)
	}
	l, err := db.Listen(ctx)
	must(t, err)
	defer l.Close()
	must(t, db.Beat(ctx, "nonce"))
	soon, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if m, err := l.Next(soon); err != nil || m.Beat == nil || m.Beat.Nonce != "nonce" {
		t.Errorf("received %+v, %v", m, err)
	}
	if got := iam.CodeOf(db.PutTenant(ctx, tenant("globex"))); got != "database_read_only" {
		t.Errorf("a change: %q", got)
	}
}

// counter counts the errors of a database by reason.
type counter struct {
	mu  sync.Mutex
	all map[string]int
}

func (c *counter) add(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = map[string]int{}
	}
	c.all[reason]++
}

func (c *counter) is(want map[string]int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Equal(c.all, want)
}

func (c *counter) get() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.all)
}

func openCounted(t *testing.T, url string, c *counter) *postgres.DB {
	t.Helper()
	db, err := postgres.Open(ctx, postgres.Config{URL: url, Issuers: pgtest.Issuers, Conns: 1, FactsAcquire: 10 * time.Second, FactsLimit: 10 * time.Second}, slog.New(slog.DiscardHandler), c.add)
	must(t, err)
	t.Cleanup(db.Close)
	return db
}

// Whatever way the database is asked, a connection that breaks is counted, and once.
func TestEveryKindOfStatementThatFailsIsCountedOnce(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	_, err := postgres.MigrateDecisions(ctx, url, postgres.Up)
	must(t, err)
	must(t, pgtest.OpenURL(t, url).PutTenant(ctx, tenant("acme")))
	connection := map[string]int{"connection": 1}
	inside := func(ask func(context.Context, *postgres.Tx) error) func(*testing.T, *postgres.DB, *pgtest.Proxy, *counter) error {
		return func(_ *testing.T, db *postgres.DB, p *pgtest.Proxy, _ *counter) error {
			return db.Change(ctx, func(ctx context.Context, tx *postgres.Tx) error {
				p.Cut()
				return ask(ctx, tx)
			})
		}
	}
	for name, c := range map[string]struct {
		want map[string]int
		ask  func(*testing.T, *postgres.DB, *pgtest.Proxy, *counter) error
	}{
		"a statement": {connection, inside(func(ctx context.Context, tx *postgres.Tx) error { return tx.LockPlatform(ctx) })},
		"a query of one row": {connection, inside(func(ctx context.Context, tx *postgres.Tx) error {
			_, _, err := tx.Tenant(ctx, "acme")
			return err
		})},
		"a query of many rows": {connection, inside(func(ctx context.Context, tx *postgres.Tx) error {
			_, err := tx.Mappings(ctx, "acme")
			return err
		})},
		"a COPY": {connection, inside(func(ctx context.Context, tx *postgres.Tx) error {
			return tx.Append(ctx, nil, []iam.Event{iam.UserErasedEvent{UserGone: iam.UserGone{User: "u"}}})
		})},
		"a rollback": {connection, inside(func(context.Context, *postgres.Tx) error { return errors.New("something else") })},
		"a commit": {connection, func(_ *testing.T, db *postgres.DB, p *pgtest.Proxy, _ *counter) error {
			p.OnCommit(func(done bool) {
				if !done {
					p.Cut()
				}
			})
			defer p.OnCommit(nil)
			return db.PutTenant(ctx, tenant("acme"))
		}},
		"a beginning": {connection, func(_ *testing.T, db *postgres.DB, p *pgtest.Proxy, _ *counter) error {
			p.Cut()
			return db.PutTenant(ctx, tenant("acme"))
		}},
		"a batch": {connection, func(_ *testing.T, db *postgres.DB, p *pgtest.Proxy, _ *counter) error {
			p.Cut()
			_, _, err := db.User(ctx, issuer, "nobody")
			return err
		}},
		"a ping": {connection, func(_ *testing.T, db *postgres.DB, p *pgtest.Proxy, _ *counter) error {
			p.Cut()
			return db.Ping(ctx)
		}},
		"a notification that is waited for": {connection, func(t *testing.T, db *postgres.DB, p *pgtest.Proxy, _ *counter) error {
			l, err := db.Listen(ctx)
			must(t, err)
			defer l.Close()
			p.Cut()
			_, err = l.Next(ctx)
			return err
		}},
		"the relay": {connection, func(t *testing.T, db *postgres.DB, p *pgtest.Proxy, _ *counter) error {
			s, err := db.Lead(ctx)
			must(t, err)
			defer s.Close()
			p.Cut()
			return s.Wait(ctx)
		}},
		"a lock that is held": {connection, func(t *testing.T, db *postgres.DB, p *pgtest.Proxy, _ *counter) error {
			h, got, err := db.TryLock(ctx, t.Name())
			must(t, err)
			if !got {
				t.Fatal("another has it")
			}
			defer h.Close()
			p.Cut()
			return h.Check(ctx)
		}},
		"a snapshot": {connection, func(t *testing.T, db *postgres.DB, p *pgtest.Proxy, _ *counter) error {
			s, err := db.Snapshot(ctx)
			must(t, err)
			defer s.Close()
			p.Cut()
			_, err = s.Tenants(ctx, "", 1)
			return err
		}},
		"a COPY of decisions": {connection, func(t *testing.T, _ *postgres.DB, p *pgtest.Proxy, c *counter) error {
			d, err := postgres.OpenDecisions(ctx, p.URL, time.Hour, slog.New(slog.DiscardHandler), c.add)
			must(t, err)
			defer d.Close()
			must(t, d.Check(ctx))
			p.Cut()
			return d.Add(ctx, []iam.RecordedDecision{{ID: "x", At: time.Now(), Event: []byte("{}")}}, func(int) bool { return false })
		}},
		"a free connection that is waited for in vain": {map[string]int{"timeout": 1}, func(_ *testing.T, db *postgres.DB, _ *pgtest.Proxy, _ *counter) error {
			return db.Change(ctx, func(ctx context.Context, _ *postgres.Tx) error {
				ctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
				defer cancel()
				return db.Ping(ctx)
			})
		}},
		"a request that was cancelled": {nil, func(_ *testing.T, db *postgres.DB, _ *pgtest.Proxy, _ *counter) error {
			ctx, cancel := context.WithCancel(ctx)
			return db.Change(ctx, func(ctx context.Context, tx *postgres.Tx) error {
				cancel()
				return tx.LockPlatform(ctx)
			})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := pgtest.NewProxy(t, url)
			var counted counter
			db := openCounted(t, p.URL, &counted)
			_, _, err := db.User(ctx, issuer, "nobody") // each pool has a connection
			must(t, err)
			must(t, db.Ping(ctx))
			if !counted.is(nil) {
				t.Fatalf("counted %v before anything failed", counted.get())
			}
			if err := c.ask(t, db, p, &counted); err == nil {
				t.Error("it did not fail")
			}
			until(t, "counted", 10*time.Second, func() bool { return counted.is(c.want) || len(counted.get()) > 0 })
			if !counted.is(c.want) {
				t.Errorf("counted %v, want %v", counted.get(), c.want)
			}
		})
	}
	t.Run("a connection that cannot be made", func(t *testing.T) {
		t.Parallel()
		var counted counter
		db := openCounted(t, "postgres://nobody@127.0.0.1:1/none", &counted)
		err := db.Ping(ctx)
		if err == nil || !counted.is(connection) {
			t.Errorf("%v, counted %v", err, counted.get())
		}
	})
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
