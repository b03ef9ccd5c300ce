// Package postgres stores all state of the service: facts, audit, outbox, policies and the
// decision log. It is the only package that contains SQL.
//
// It owns pools, transactions, locks, the limits that depend on other rows (cycles, counts,
// references), and the translation of driver errors into kinds of package iam. It does not
// know Rego, HTTP or caches, and it does not authorize: its callers do.
//
// A file holds the statements about one noun: tenants.go, roles.go, users.go and so on. The rest
// is machinery: postgres.go (pools), tx.go (transactions), direct.go (connections past the
// pools), listen.go (change notifications), query.go, errors.go, tracer.go, migrate.go, down.go.
//
// A method of DB is one transaction. A method of Tx is one step of a transaction, which
// DB.Change (read-write) or DB.View (read-only) runs:
//
//	Change ──▶ begin ──▶ the caller's steps ──▶ commit ──▶ nil
//	             ▲             │                  │
//	             │             │ any other error  │ connection lost
//	             │             ▼                  ▼
//	             │          rolled back         Unavailable: the outcome is unknown
//	             └── retried after a deadlock, a serialization failure or a row that vanished
//
// Locks are acquired in one order, so that two changes rarely deadlock: the idempotency key first, a
// tenant before users, and the heads of the audit chains last.
//
// There are two pools, so that admin work cannot starve enrichment: facts, with short
// limits, serves the look-ups of the hot path; admin serves the rest. Both accept only the primary,
// since a lagging standby would return stale facts; admin also requires that it accepts writes.
package postgres

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/trace"

	"iam-service/internal/directory"
	"iam-service/internal/iam"
)

// Limits of the pools.
const (
	adminLimit     = 2 * time.Second // limit of one statement of DB on the admin pool
	connectTimeout = 2 * time.Second
)

// Config of a store.
type Config struct {
	URL        string      // as libpq accepts it; may lead to a transaction pooler
	Listen     string      // for direct connections (feed, relay, locks): past any pooler; "": URL
	Issuers    iam.Issuers // trusted issuers: a fact of another one is invalid
	Conns      int32       // connections of each pool; 0: 10
	AdminConns int32       // connections of the admin pool; 0: Conns
	MinConns   int32       // connections that each pool keeps open, and that Warm opens; 0: none

	FactsAcquire time.Duration // limit of a look-up's wait for a connection; 0: 50 ms
	FactsLimit   time.Duration // limit of a look-up; 0: 100 ms

	Spans trace.TracerProvider // of statements; nil: there are none
}

// DB is the store. It is safe for concurrent use.
type DB struct {
	facts, admin             *pgxpool.Pool
	minConns                 int32
	issuers                  iam.Issuers
	listenURL                string
	listenServer             atomic.Pointer[time.Time] // start time of the server that the listener is connected to; nil: no listener
	factsAcquire, factsLimit time.Duration
	outside                  *tracer // for connections past the pools
}

// Open returns a store without waiting for a server: connections are opened on demand.
// onError, if given, is called with the reason (see Reasons) of each failure of the database.
func Open(ctx context.Context, cfg Config, log *slog.Logger, onError func(reason string)) (*DB, error) {
	if onError == nil {
		onError = func(string) {}
	}
	open := func(name string, conns int32, validate pgconn.ValidateConnectFunc) (*pgxpool.Pool, error) {
		pc, err := pgxpool.ParseConfig(cfg.URL)
		if err != nil {
			return nil, err
		}
		pc.MaxConns = cmp.Or(conns, 10)
		pc.MinConns = min(cfg.MinConns, pc.MaxConns)
		pc.MaxConnLifetime = 30 * time.Minute
		pc.MaxConnLifetimeJitter = 5 * time.Minute
		pc.MaxConnIdleTime = 5 * time.Minute
		pc.HealthCheckPeriod = 5 * time.Second
		pc.ConnConfig.ConnectTimeout = connectTimeout
		pc.ConnConfig.ValidateConnect = validate
		// A statement ends with its context: the server gets a request to cancel it. A
		// statement_timeout as a start-up parameter would not do: transaction poolers reject it.
		pc.ConnConfig.BuildContextWatcherHandler = func(c *pgconn.PgConn) ctxwatch.Handler {
			return &pgconn.CancelRequestContextWatcherHandler{Conn: c, DeadlineDelay: 250 * time.Millisecond}
		}
		pc.ConnConfig.RuntimeParams["application_name"] = "iam-service " + name
		pc.ConnConfig.Tracer = traceWith(&tracer{name: name, log: log, onError: onError}, cfg.Spans, pc.ConnConfig)
		return pgxpool.NewWithConfig(ctx, pc)
	}
	facts, err := open("facts", cfg.Conns, primary)
	if err != nil {
		return nil, err
	}
	admin, err := open("admin", cmp.Or(cfg.AdminConns, cfg.Conns), writable)
	if err != nil {
		facts.Close()
		return nil, err
	}
	return &DB{
		outside: &tracer{name: "direct", log: log, onError: onError},
		facts:   facts, admin: admin, minConns: cfg.MinConns, issuers: cfg.Issuers, listenURL: cmp.Or(cfg.Listen, cfg.URL),
		factsAcquire: cmp.Or(cfg.FactsAcquire, 50*time.Millisecond), factsLimit: cmp.Or(cfg.FactsLimit, 100*time.Millisecond),
	}, nil
}

// Close closes all connections.
func (db *DB) Close() {
	db.facts.Close()
	db.admin.Close()
}

// Ping checks that the server responds, over a new connection if none is idle.
func (db *DB) Ping(ctx context.Context) error {
	_, err := db.admin.Exec(ctx, `SELECT 1`) // the driver's ping is not traced
	return err
}

// Warm opens the connections that the pools keep open (MinConns) and prepares the statements of the
// look-ups on each connection of the facts pool, so that the first requests wait for neither. One
// connection of each pool is enough: missing counts the others that could not be opened (a server at
// its max_connections). The pools retry those in the background.
func (db *DB) Warm(ctx context.Context) (missing int, err error) {
	var facts, admin []error
	var warming sync.WaitGroup
	warming.Go(func() { facts = db.warm(ctx, db.facts, db.warmFacts) })
	warming.Go(func() {
		admin = db.warm(ctx, db.admin, func(ctx context.Context, conn *pgxpool.Conn) error {
			_, err := conn.Exec(ctx, `SELECT 1`)
			return wrap("use a connection", err)
		})
	})
	warming.Wait()
	for _, faults := range [][]error{facts, admin} {
		failed := slices.DeleteFunc(slices.Clone(faults), func(err error) bool { return err == nil })
		if len(failed) == len(faults) {
			return 0, failed[0]
		}
		missing += len(failed)
	}
	return missing, nil
}

// warm opens the connections that a pool keeps open and calls do with each. It returns one error, or nil,
// for each connection.
func (db *DB) warm(ctx context.Context, pool *pgxpool.Pool, do func(context.Context, *pgxpool.Conn) error) []error {
	faults := make([]error, max(1, min(db.minConns, pool.Config().MaxConns)))
	var tried, done sync.WaitGroup
	tried.Add(len(faults))
	for i := range faults {
		done.Go(func() {
			conn, err := pool.Acquire(ctx)
			if err != nil {
				tried.Done()
				faults[i] = wrap("open a connection", err)
				return
			}
			faults[i] = do(ctx, conn)
			tried.Done()
			tried.Wait() // none is released before all are acquired, or one would be warmed twice
			conn.Release()
		})
	}
	done.Wait()
	return faults
}

// warmFacts runs a look-up of each kind over a connection.
func (db *DB) warmFacts(ctx context.Context, conn *pgxpool.Conn) error {
	look := func(ctx context.Context, sql string, args []any, dest ...any) (bool, error) {
		return db.lookOver(ctx, conn, sql, args, dest...)
	}
	_, _, err := userFacts(ctx, look, "", "")
	if err == nil {
		_, _, err = tenantFacts(ctx, look, "")
	}
	if err == nil {
		_, _, err = clientFacts(ctx, look, "", "")
	}
	if err == nil {
		_, err = db.batchOver(ctx, conn, directory.Batch{ClientID: "-", Tenant: "-"})
	}
	return err
}

// CheckWrites fails where changes would fail. It updates a row of its own, which causes no growth and no
// notification, and makes a sort spill some hundred kilobytes to a temporary file, since an update
// may succeed on a full disk. It costs the server about 15 ms.
func (db *DB) CheckWrites(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	return wrap("test a write", pgx.BeginFunc(ctx, db.admin, func(tx pgx.Tx) error { return probeWrite(ctx, tx) }))
}

func probeWrite(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `UPDATE write_probe SET at = now()`)
	if err == nil {
		_, err = tx.Exec(ctx, `SELECT set_config('work_mem', '64kB', true)`)
	}
	if err == nil {
		_, err = tx.Exec(ctx, `SELECT count(*) FROM (SELECT repeat('x', 100) || i FROM generate_series(1, 3000) AS i ORDER BY 1 OFFSET 1) AS s`)
	}
	return err
}

// PoolStats are the figures of one pool.
type PoolStats struct {
	Name                            string
	Total, Idle, InUse, Max         int32
	Acquires, EmptyAcquires, Cancel int64
}

// Stats returns the figures of both pools.
func (db *DB) Stats() []PoolStats {
	stats := make([]PoolStats, 0, 2)
	for _, p := range []struct {
		name string
		pool *pgxpool.Pool
	}{{"facts", db.facts}, {"admin", db.admin}} {
		s := p.pool.Stat()
		stats = append(stats, PoolStats{
			Name: p.name, Total: s.TotalConns(), Idle: s.IdleConns(), InUse: s.AcquiredConns(), Max: s.MaxConns(),
			Acquires: s.AcquireCount(), EmptyAcquires: s.EmptyAcquireCount(), Cancel: s.CanceledAcquireCount(),
		})
	}
	return stats
}
