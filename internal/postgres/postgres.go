// Package postgres keeps the facts: it is the only package that speaks SQL.
//
// It owns pools, transactions, limits that need other rows to be checked
// (cycles, counts, references) and the translation of driver errors into kinds
// of package iam. It does not know Rego, HTTP or caches. An exported store
// method is one transaction.
//
// There are two pools, so that admin work cannot starve enrichment: facts, with
// short limits, answers the look-ups of the hot path; admin does the rest. Both
// insist on the primary, since a lagging standby would bring an old fact back, and
// admin on one that accepts writes.
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

	"iam-service/internal/iam"
)

// Limits of the pools.
const (
	adminLimit     = 2 * time.Second // longest statement or transaction of the admin pool
	connectTimeout = 2 * time.Second
)

// Config of a store.
type Config struct {
	URL        string      // as libpq takes it; may lead to a transaction pooler
	Listen     string      // for the feed: must be direct; "": URL
	Issuers    iam.Issuers // whom a written fact may speak of
	Conns      int32       // connections of each pool; 0: 10
	AdminConns int32       // connections of the admin pool; 0: Conns
	MinConns   int32       // connections that each pool keeps open, and that Warm opens; 0: none

	FactsAcquire time.Duration // longest wait of a look-up for a connection; 0: 50 ms
	FactsLimit   time.Duration // longest look-up; 0: 100 ms
}

// DB is the store. It is safe for concurrent use.
type DB struct {
	facts, admin             *pgxpool.Pool
	minConns                 int32
	issuers                  iam.Issuers
	listenURL                string
	listenServer             atomic.Pointer[time.Time] // start time of the server that the listener is connected to; nil: no listener
	factsAcquire, factsLimit time.Duration
	outside                  *tracer // of connections past the pools
}

// Open returns a store without waiting for a server: connections are made when
// they are needed. onError, if given, is called for each failure of the
// database itself with its reason (see Reasons).
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
		// A statement ends with its context: the server is asked to cancel it. Not by
		// statement_timeout as a start-up parameter, which transaction poolers refuse.
		pc.ConnConfig.BuildContextWatcherHandler = func(c *pgconn.PgConn) ctxwatch.Handler {
			return &pgconn.CancelRequestContextWatcherHandler{Conn: c, DeadlineDelay: 250 * time.Millisecond}
		}
		pc.ConnConfig.RuntimeParams["application_name"] = "iam-service " + name
		pc.ConnConfig.Tracer = &tracer{name: name, log: log, onError: onError}
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

// Ping asks the server for an answer, over a new connection if need be.
func (db *DB) Ping(ctx context.Context) error {
	_, err := db.admin.Exec(ctx, `SELECT 1`) // a ping of the driver is not traced
	return err
}

// Warm opens the connections that the pools keep open, and does a look-up of each kind over each of
// those that look-ups use: their statements are prepared then, so that the first requests wait
// for neither. One connection of each pool is enough: missing counts the others that could not be
// opened (a server at its max_connections), which the pools go on trying to open.
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

// warm opens the connections that a pool keeps open and calls do with each; it returns what went wrong, for each.
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
			tried.Wait() // none is released before all were tried, or one would be warmed twice
			conn.Release()
		})
	}
	done.Wait()
	return faults
}

// warmFacts does a look-up of each kind over a connection.
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
	return err
}

// CheckWrites fails where changes would: it commits a change of a row of its own, which grows
// nothing and notifies nobody, and has a sort write some hundred kilobytes to a temporary file, since a
// row can be replaced on a disk that has no room left. It costs the server about 15 ms.
func (db *DB) CheckWrites(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	return wrap("test a write", pgx.BeginFunc(ctx, db.admin, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE write_probe SET at = now()`)
		if err == nil {
			_, err = tx.Exec(ctx, `SELECT set_config('work_mem', '64kB', true)`)
		}
		if err == nil {
			_, err = tx.Exec(ctx, `SELECT count(*) FROM (SELECT repeat('x', 100) || i FROM generate_series(1, 3000) AS i ORDER BY 1 OFFSET 1) AS s`)
		}
		return err
	}))
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
