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

	"iam-service/internal/dev/await"
	"iam-service/internal/dev/pgtest"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// A temporary failure is of kind Unavailable and has a code; a defect is Internal.
func TestSQLSTATEDecidesWhetherAFailureIsTemporary(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	conn, err := pgx.Connect(ctx, url)
	must(t, err)
	defer conn.Close(ctx)
	exec := func(t *testing.T, sql string, args ...any) {
		t.Helper()
		_, err := conn.Exec(ctx, sql, args...)
		must(t, err)
	}
	exec(t, `CREATE TABLE failure (code text)`)
	exec(t, `INSERT INTO failure VALUES ('')`)
	exec(t, `CREATE FUNCTION fail() RETURNS boolean LANGUAGE plpgsql AS $$
		DECLARE c text := (SELECT code FROM failure);
		BEGIN IF c <> '' THEN RAISE EXCEPTION 'injected' USING ERRCODE = c; END IF; RETURN true; END $$`)
	exec(t, `CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM fail(); RETURN NULL; END $$`)
	exec(t, `CREATE TRIGGER fails BEFORE INSERT ON outbox FOR EACH STATEMENT EXECUTE FUNCTION fails()`)
	exec(t, `INSERT INTO clients (issuer, client_id) VALUES ($1, 'c')`, issuer)
	exec(t, `ALTER TABLE clients RENAME TO clients_`)
	exec(t, `CREATE VIEW clients AS SELECT * FROM clients_ WHERE fail()`)
	var counted counter
	db := openCounted(t, url, &counted)
	type outcome struct{ code, reason string }
	lost := outcome{code: "database_unavailable", reason: "connection"}
	timeout := outcome{code: "database_unavailable", reason: "timeout"}
	overloaded := outcome{code: "database_overloaded", reason: "overloaded"}
	busy := outcome{code: "busy"}
	broken := outcome{reason: "query"}
	for sqlstate, want := range map[string]outcome{
		"53000": overloaded,
		"53100": {code: "database_full", reason: "full"},
		"53200": overloaded,
		"53300": overloaded,
		"53400": overloaded,
		"57000": lost,
		"57014": timeout,
		"57P01": lost,
		"57P02": lost,
		"57P03": lost,
		"57P05": lost,
		"58000": lost,
		"58030": lost,
		"58P01": lost,
		"08000": lost,
		"08006": lost,
		"08P01": lost,
		"25006": {code: "database_read_only", reason: "read_only"},
		"25P03": timeout,
		"40000": busy,
		"40001": busy,
		"40002": busy,
		"40003": busy,
		"40P01": busy,
		"55P03": busy,
		"42501": broken,
		"XX000": broken,
		"XX001": broken,
	} {
		t.Run(sqlstate, func(t *testing.T) {
			exec(t, `UPDATE failure SET code = $1`, sqlstate)
			kind := iam.Unavailable
			if want.code == "" {
				kind = iam.Internal
			}
			for operation, run := range map[string]func() error{
				"change": func() error {
					return db.Change(ctx, func(ctx context.Context, tx *postgres.Tx) error {
						return tx.Append(ctx, nil, []iam.Event{iam.UserErasedEvent{UserGone: iam.UserGone{User: "u"}}})
					})
				},
				"look-up": func() error { _, _, err := db.Client(ctx, issuer, "c"); return err },
			} {
				before := counted.get()
				err := run()
				if iam.KindOf(err) != kind || iam.CodeOf(err) != want.code && want.reason != "connection" {
					t.Errorf("%s: %s %q, want %s %q", operation, iam.KindOf(err), iam.CodeOf(err), kind, want.code)
				}
				if want.reason != "" {
					if before == nil {
						before = map[string]int{}
					}
					before[want.reason]++
				}
				if !counted.is(before) {
					t.Errorf("%s: counted %v, want %v", operation, counted.get(), before)
				}
			}
		})
	}
	exec(t, `UPDATE failure SET code = ''`)
}

// CheckWrites returns the reason of a failure. A success sends no notification and does not grow the table.
func TestCheckWritesReturnsTheReason(t *testing.T) {
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
	if got := notified(t, db, l); len(got) != 0 {
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
		t.Errorf("full disk: %q", got)
	}
	readOnly := pgtest.OpenURL(t, url+"&default_transaction_read_only=on")
	if got := iam.CodeOf(readOnly.CheckWrites(ctx)); got != "database_read_only" {
		t.Errorf("read-only: %q", got)
	}
	if got := iam.CodeOf(readOnly.PutTenant(ctx, tenant("acme"))); got != "database_read_only" {
		t.Errorf("change of a read-only database: %q", got)
	}
}

// A read-only primary serves look-ups over new connections, and its heartbeats are received.
func TestReadOnlyPrimaryServesLookUps(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	must(t, pgtest.OpenURL(t, url).PutTenant(ctx, tenant("acme")))
	db := pgtest.OpenURL(t, url+"&default_transaction_read_only=on")
	if _, found, err := db.Tenant(ctx, "acme"); err != nil || !found {
		t.Errorf("look-up: %v %v", found, err)
	}
	l, err := db.Listen(ctx)
	must(t, err)
	defer l.Close()
	must(t, db.SendHeartbeat(ctx, "nonce"))
	soon, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if m, err := l.Next(soon); err != nil || m.Heartbeat == nil || m.Heartbeat.Nonce != "nonce" {
		t.Errorf("received %+v, %v", m, err)
	}
	if got := iam.CodeOf(db.PutTenant(ctx, tenant("globex"))); got != "database_read_only" {
		t.Errorf("change: %q", got)
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

// A lost connection is counted exactly once, whatever operation it interrupts.
func TestEachFailureIsCountedOnce(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	_, err := postgres.MigrateDecisions(ctx, url, postgres.Up)
	must(t, err)
	must(t, pgtest.OpenURL(t, url).PutTenant(ctx, tenant("acme")))
	connection := map[string]int{"connection": 1}
	inside := func(do func(context.Context, *postgres.Tx) error) func(*testing.T, *postgres.DB, *pgtest.Proxy, *counter) error {
		return func(_ *testing.T, db *postgres.DB, p *pgtest.Proxy, _ *counter) error {
			return db.Change(ctx, func(ctx context.Context, tx *postgres.Tx) error {
				p.Cut()
				return do(ctx, tx)
			})
		}
	}
	for name, c := range map[string]struct {
		want map[string]int
		run  func(*testing.T, *postgres.DB, *pgtest.Proxy, *counter) error
	}{
		"statement": {want: connection, run: inside(func(ctx context.Context, tx *postgres.Tx) error { return tx.LockPlatform(ctx) })},
		"query of one row": {want: connection, run: inside(func(ctx context.Context, tx *postgres.Tx) error {
			_, _, err := tx.Tenant(ctx, "acme")
			return err
		})},
		"query of many rows": {want: connection, run: inside(func(ctx context.Context, tx *postgres.Tx) error {
			_, err := tx.Mappings(ctx, "acme")
			return err
		})},
		"COPY": {want: connection, run: inside(func(ctx context.Context, tx *postgres.Tx) error {
			return tx.Append(ctx, nil, []iam.Event{iam.UserErasedEvent{UserGone: iam.UserGone{User: "u"}}})
		})},
		"rollback": {want: connection, run: inside(func(context.Context, *postgres.Tx) error { return errors.New("something else") })},
		"commit": {want: connection, run: func(_ *testing.T, db *postgres.DB, p *pgtest.Proxy, _ *counter) error {
			p.OnCommit(func(phase pgtest.CommitPhase) {
				if phase == pgtest.CommitRequested {
					p.Cut()
				}
			})
			defer p.OnCommit(nil)
			return db.PutTenant(ctx, tenant("acme"))
		}},
		"begin": {want: connection, run: func(_ *testing.T, db *postgres.DB, p *pgtest.Proxy, _ *counter) error {
			p.Cut()
			return db.PutTenant(ctx, tenant("acme"))
		}},
		"batch": {want: connection, run: func(_ *testing.T, db *postgres.DB, p *pgtest.Proxy, _ *counter) error {
			p.Cut()
			_, _, err := db.User(ctx, issuer, "nobody")
			return err
		}},
		"ping": {want: connection, run: func(_ *testing.T, db *postgres.DB, p *pgtest.Proxy, _ *counter) error {
			p.Cut()
			return db.Ping(ctx)
		}},
		"wait for a notification": {want: connection, run: func(t *testing.T, db *postgres.DB, p *pgtest.Proxy, _ *counter) error {
			l, err := db.Listen(ctx)
			must(t, err)
			defer l.Close()
			p.Cut()
			_, err = l.Next(ctx)
			return err
		}},
		"relay": {want: connection, run: func(t *testing.T, db *postgres.DB, p *pgtest.Proxy, _ *counter) error {
			s, err := db.Lead(ctx)
			must(t, err)
			defer s.Close()
			p.Cut()
			return s.Wait(ctx)
		}},
		"session lock": {want: connection, run: func(t *testing.T, db *postgres.DB, p *pgtest.Proxy, _ *counter) error {
			l, acquired, err := db.TryLock(ctx, t.Name())
			must(t, err)
			if !acquired {
				t.Fatal("the lock is held")
			}
			defer l.Close()
			p.Cut()
			return l.Check(ctx)
		}},
		"snapshot": {want: connection, run: func(t *testing.T, db *postgres.DB, p *pgtest.Proxy, _ *counter) error {
			s, err := db.Snapshot(ctx)
			must(t, err)
			defer s.Close()
			p.Cut()
			_, err = s.Tenants(ctx, "", 1)
			return err
		}},
		"COPY of decisions": {want: connection, run: func(t *testing.T, _ *postgres.DB, p *pgtest.Proxy, c *counter) error {
			d, err := postgres.OpenDecisions(ctx, p.URL, time.Hour, slog.New(slog.DiscardHandler), c.add)
			must(t, err)
			defer d.Close()
			must(t, d.Check(ctx))
			p.Cut()
			return d.Add(ctx, []iam.RecordedDecision{{ID: "x", At: time.Now(), Event: []byte("{}")}}, func(int) bool { return false })
		}},
		"wait for a free connection": {want: map[string]int{"timeout": 1}, run: func(_ *testing.T, db *postgres.DB, _ *pgtest.Proxy, _ *counter) error {
			return db.Change(ctx, func(ctx context.Context, _ *postgres.Tx) error {
				ctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
				defer cancel()
				return db.Ping(ctx)
			})
		}},
		"cancelled request": {want: nil, run: func(_ *testing.T, db *postgres.DB, _ *pgtest.Proxy, _ *counter) error {
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
			_, _, err := db.User(ctx, issuer, "nobody") // so that each pool has a connection
			must(t, err)
			must(t, db.Ping(ctx))
			if !counted.is(nil) {
				t.Fatalf("counted %v before anything failed", counted.get())
			}
			if err := c.run(t, db, p, &counted); err == nil {
				t.Error("no error")
			}
			await.Within(t, 10*time.Second, "counted", func() bool { return counted.is(c.want) || len(counted.get()) > 0 })
			if !counted.is(c.want) {
				t.Errorf("counted %v, want %v", counted.get(), c.want)
			}
		})
	}
	t.Run("failure to connect", func(t *testing.T) {
		t.Parallel()
		var counted counter
		db := openCounted(t, "postgres://nobody@127.0.0.1:1/none", &counted)
		err := db.Ping(ctx)
		if err == nil || !counted.is(connection) {
			t.Errorf("%v, counted %v", err, counted.get())
		}
	})
}

// A missing row, a violated constraint and a cancelled request are no errors of the database.
func TestOnlyDatabaseFailuresAreCounted(t *testing.T) {
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
		t.Error("a look-up in a missing table succeeded")
	}
	mu.Lock()
	if counted["query"] != 1 || len(counted) != 1 {
		t.Errorf("counted %v after one failing look-up", counted)
	}
	mu.Unlock()

	server.Kill()
	deadline := time.Now().Add(10 * time.Second)
	for err == nil { // a backend outlives its postmaster by a moment
		if _, _, err = db.User(ctx, issuer, "nobody"); err == nil && time.Now().After(deadline) {
			t.Fatal("look-ups without a server succeed")
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if counted["connection"] == 0 {
		t.Errorf("counted %v, want a connection error", counted)
	}
}
