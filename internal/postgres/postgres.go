// Package postgres keeps the facts: it is the only package that speaks SQL.
//
// It owns pools, transactions, limits that need other rows to be checked
// (cycles, counts, references) and the translation of driver errors into kinds
// of package iam. It does not know Rego, HTTP or caches. An exported store
// method is one transaction.
//
// There are two pools, so that admin work cannot starve enrichment: facts, with
// short limits, answers the look-ups of the hot path; admin does the rest. Both
// insist on a server that accepts writes: a lagging standby would bring an old
// fact back.
package postgres

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"iam-service/internal/iam"
)

// Limits of the pools.
const (
	adminLimit     = 2 * time.Second // longest statement or transaction of the admin pool
	connectTimeout = 2 * time.Second
)

// Config of a store.
type Config struct {
	URL     string      // as libpq takes it; may lead to a transaction pooler
	Listen  string      // for the feed: must be direct; "": URL
	Issuers iam.Issuers // whom a written fact may speak of
	Conns   int32       // connections of each pool; 0: 10
	Admin   int32       // connections of the admin pool; 0: Conns
	Keep    int32       // connections that each pool keeps open, and Warm opens; 0: none

	FactsAcquire time.Duration // longest wait of a look-up for a connection; 0: 50 ms
	FactsLimit   time.Duration // longest look-up; 0: 100 ms
}

// DB is the store. It is safe for concurrent use.
type DB struct {
	facts, admin             *pgxpool.Pool
	keep                     int32
	issuers                  iam.Issuers
	listenURL                string
	heard                    atomic.Pointer[time.Time] // when the server that we listen to was started; nil: we do not
	factsAcquire, factsLimit time.Duration
}

// Open returns a store without waiting for a server: connections are made when
// they are needed. onError, if given, is called for each failure of the
// database itself with its reason (see Reasons); a missing row, a broken
// constraint, a cancelled request or a serialization failure is none.
func Open(ctx context.Context, cfg Config, log *slog.Logger, onError func(reason string)) (*DB, error) {
	if onError == nil {
		onError = func(string) {}
	}
	open := func(name string, conns int32) (*pgxpool.Pool, error) {
		pc, err := pgxpool.ParseConfig(cfg.URL)
		if err != nil {
			return nil, err
		}
		pc.MaxConns = cmp.Or(conns, 10)
		pc.MinConns = min(cfg.Keep, pc.MaxConns)
		pc.MaxConnLifetime = 30 * time.Minute
		pc.MaxConnLifetimeJitter = 5 * time.Minute
		pc.MaxConnIdleTime = 5 * time.Minute
		pc.HealthCheckPeriod = 5 * time.Second
		pc.ConnConfig.ConnectTimeout = connectTimeout
		pc.ConnConfig.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
		// A statement ends with its context: the server is asked to cancel it. Not by
		// statement_timeout as a start-up parameter, which transaction poolers refuse.
		pc.ConnConfig.BuildContextWatcherHandler = func(c *pgconn.PgConn) ctxwatch.Handler {
			return &pgconn.CancelRequestContextWatcherHandler{Conn: c, DeadlineDelay: 250 * time.Millisecond}
		}
		pc.ConnConfig.RuntimeParams["application_name"] = "iam-service " + name
		pc.ConnConfig.Tracer = &tracer{name: name, log: log, onError: onError}
		return pgxpool.NewWithConfig(ctx, pc)
	}
	facts, err := open("facts", cfg.Conns)
	if err != nil {
		return nil, err
	}
	admin, err := open("admin", cmp.Or(cfg.Admin, cfg.Conns))
	if err != nil {
		facts.Close()
		return nil, err
	}
	return &DB{
		facts: facts, admin: admin, keep: cfg.Keep, issuers: cfg.Issuers, listenURL: cmp.Or(cfg.Listen, cfg.URL),
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
	return db.admin.Ping(ctx)
}

// Warm opens the connections that the pools keep, and does a look-up of each kind over each of
// those that look-ups use: their statements are prepared then, so that the first requests wait
// for neither.
func (db *DB) Warm(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, pool := range []*pgxpool.Pool{db.facts, db.admin} {
		var open sync.WaitGroup // none is released before all are open, or one would be warmed twice
		open.Add(int(min(db.keep, pool.Config().MaxConns)))
		for range min(db.keep, pool.Config().MaxConns) {
			g.Go(func() error {
				conn, err := pool.Acquire(ctx)
				open.Done()
				if err != nil {
					return wrap("open a connection", err)
				}
				defer conn.Release()
				open.Wait()
				if pool == db.admin {
					return wrap("use a connection", conn.Ping(ctx))
				}
				look := func(ctx context.Context, sql string, args []any, dest ...any) (bool, error) {
					return db.lookOver(ctx, conn, sql, args, dest...)
				}
				_, _, err = userFacts(ctx, look, "", "")
				if err == nil {
					_, _, err = tenantFacts(ctx, look, "")
				}
				if err == nil {
					_, _, err = clientFacts(ctx, look, "", "")
				}
				return err
			})
		}
	}
	return g.Wait()
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

// Server names the server that a connection string leads to, and nothing else of
// it: a password that was not percent-encoded ends up in any other part.
func Server(connString string) string {
	cfg, err := pgconn.ParseConfig(connString)
	if err != nil {
		return "(a connection string that cannot be read)"
	}
	return net.JoinHostPort(cfg.Host, strconv.Itoa(int(cfg.Port)))
}

// CheckURL says what is wrong with a connection string, without showing it.
func CheckURL(connString string) error {
	cfg, err := pgconn.ParseConfig(connString)
	switch {
	case err != nil:
		return errors.New("it is neither postgres://user:password@host:port/database nor key=value pairs; a password in a URL must be percent-encoded")
	case strings.Contains(cfg.Database, "@") || strings.Contains(connString, "#"):
		return errors.New("it looks as if the password were not percent-encoded (# is %23, / is %2F, @ is %40)")
	}
	return nil
}

// Reasons are the values of the label that counts database errors.
var Reasons = []string{"connection", "timeout", "query"}

// tracer counts what really fails, at the one place that all queries pass.
type tracer struct {
	name    string
	log     *slog.Logger
	onError func(reason string)
}

type tracedSQL struct{}

func (t *tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	return context.WithValue(ctx, tracedSQL{}, d.SQL)
}

func (t *tracer) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryEndData) {
	sql, _ := ctx.Value(tracedSQL{}).(string)
	t.count(ctx, "query", d.Err, slog.String("sql", firstLine(sql)))
}

type batchCounted struct{}

func (t *tracer) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return context.WithValue(ctx, batchCounted{}, new(bool))
}

func (t *tracer) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {} // the end of the batch tells

func (t *tracer) TraceBatchEnd(ctx context.Context, _ *pgx.Conn, d pgx.TraceBatchEndData) {
	// pgx ends a batch that could not be sent twice: then, and when it is closed.
	if counted, ok := ctx.Value(batchCounted{}).(*bool); ok && d.Err != nil {
		if *counted {
			return
		}
		*counted = true
	}
	t.count(ctx, "look-up", d.Err)
}

func (t *tracer) TraceConnectStart(ctx context.Context, _ pgx.TraceConnectStartData) context.Context {
	return ctx
}

func (t *tracer) TraceConnectEnd(ctx context.Context, d pgx.TraceConnectEndData) {
	t.count(ctx, "connect", d.Err)
}

func (t *tracer) count(ctx context.Context, what string, err error, attrs ...slog.Attr) {
	reason := reasonOf(ctx, err)
	if reason == "" {
		return
	}
	t.onError(reason)
	attrs = append(attrs, slog.String("pool", t.name), slog.String("during", what), slog.String("reason", reason), slog.Any("err", err))
	t.log.LogAttrs(ctx, slog.LevelWarn, "database error", attrs...)
}

// reasonOf sorts err; "" is for what is no failure of the database.
func reasonOf(ctx context.Context, err error) string {
	if err == nil || errors.Is(err, pgx.ErrNoRows) || errors.Is(ctx.Err(), context.Canceled) {
		return ""
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch {
		case pg.Code[:2] == "23", // integrity constraint violation
			pg.Code[:2] == "22",                    // data exception: bad input
			pg.Code == "40001", pg.Code == "40P01", // serialization failure, deadlock: tried again
			pg.Code == "55P03",                     // lock not available: somebody else is at it
			pg.Code == "42P04", pg.Code == "42P06": // duplicate database, schema
			return ""
		case pg.Code == "57014": // query_canceled: our statement_timeout
			return "timeout"
		case pg.Code[:2] == "57", pg.Code[:2] == "08": // operator intervention, connection exception
			return "connection"
		}
		return "query"
	}
	if errors.Is(err, context.DeadlineExceeded) || pgconn.Timeout(err) {
		return "timeout"
	}
	return "connection"
}

func firstLine(sql string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(sql), "\n")
	return line
}

// violates reports whether err breaks the named constraint. Every constraint
// in migrations/ has a name we chose, so that this is a lookup and not a guess.
func violates(err error, constraint string) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.ConstraintName == constraint
}
