package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"iam-service/internal/iam"
	"iam-service/internal/telemetry/tracing"
)

// Limits of a transaction.
const (
	changeLimit  = 10 * time.Second
	bulkLimit    = time.Minute     // see Bulk
	patientLimit = 5 * time.Minute // see Patient
	changeTries  = 5               // attempts after conflicts; see lostRace
)

// limits bound one statement, its wait for a lock included. They are set for the transaction, not the
// session: there may be a transaction pooler.
const limits = `SELECT set_config('statement_timeout', '2s', true), set_config('lock_timeout', '1500ms', true)`

type patient struct{}

// Patient allows a transaction and its statements to take minutes. It is for those that read or delete
// very many rows.
func Patient(ctx context.Context) context.Context { return context.WithValue(ctx, patient{}, true) }

type bulk struct{}

// Bulk allows a transaction to take a minute, in statements that each keep the usual limits: nothing waits long for a lock.
func Bulk(ctx context.Context) context.Context { return context.WithValue(ctx, bulk{}, true) }

// Tx is one transaction of the admin pool. Its methods are the steps of an administrative change. The
// comment of each names the locks that it needs; see the package comment for their order.
type Tx struct {
	tx      pgx.Tx
	issuers iam.Issuers
}

// Change runs do in a transaction and commits it, unless do fails. Conflicting transactions are
// retried, so do must have no side effect outside the transaction. It fails with an iam.Error of
// kind Unavailable if the database is unavailable or the outcome of the commit is unknown.
func (db *DB) Change(ctx context.Context, do func(context.Context, *Tx) error) error {
	return db.transact(ctx, pgx.TxOptions{}, do)
}

// View runs do in a read-only transaction over one consistent snapshot.
func (db *DB) View(ctx context.Context, do func(context.Context, *Tx) error) error {
	return db.transact(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, do)
}

func (db *DB) transact(ctx context.Context, options pgx.TxOptions, do func(context.Context, *Tx) error) error {
	limit, long := changeLimit, ctx.Value(patient{}) != nil
	switch {
	case long:
		limit = patientLimit
	case ctx.Value(bulk{}) != nil:
		limit = bulkLimit
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for try := 1; ; try++ {
		err := pgx.BeginTxFunc(ctx, db.admin, options, func(tx pgx.Tx) error {
			if !long {
				if _, err := tx.Exec(ctx, limits); err != nil {
					return err
				}
			}
			return do(ctx, &Tx{tx, db.issuers})
		})
		switch {
		case err == nil:
			return nil
		case lostRace(err) && try < changeTries:
			time.Sleep(time.Duration(1+rand.IntN(20*try)) * time.Millisecond) //nolint:gosec // jitter is no secret
			continue
		case lostRace(err):
			return &iam.Error{Kind: iam.Unavailable, Code: "busy", Detail: "too many concurrent changes of the same object", Cause: err}
		}
		if _, ours := errors.AsType[*iam.Error](err); ours {
			return err
		}
		if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
			switch {
			case pg.Code[:2] == "22": // data exception
				return &iam.Error{Kind: iam.Invalid, Detail: "a value contains a character that cannot be stored, such as NUL", Cause: err}
			case pg.Code == "23514": // check_violation
				return &iam.Error{Kind: iam.Invalid, Detail: "a value is not allowed, or is too large once encoded", Cause: err}
			}
		}
		return unavailable(err)
	}
}

// lostRace reports whether a transaction failed only because of a concurrent one.
func lostRace(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return errors.Is(err, errLostRace) ||
		ok && (pg.Code == "40001" || pg.Code == "40P01" || pg.ConstraintName == "memberships_user_fkey" || // the user was erased concurrently
			pg.ConstraintName == "scim_group_members_membership_fkey" || pg.ConstraintName == "scim_users_membership_fkey")
}

// errLostRace means that a row was deleted while the transaction ran.
var errLostRace = errors.New("a row was deleted concurrently")

// TryLoop acquires the lock that lets one replica at a time do a chore; false: another one holds it. The
// end of the transaction releases it.
func (tx *Tx) TryLoop(ctx context.Context, name string) (acquired bool, err error) {
	_, err = tx.look(ctx, `SELECT pg_try_advisory_xact_lock(hashtextextended('iam loop '||$1||' '||current_schema(), 0))`, []any{name}, &acquired)
	return acquired, wrap("lock a chore", err)
}

// Now returns the database's clock, for times that several replicas compare.
func (tx *Tx) Now(ctx context.Context) (now time.Time, err error) {
	err = tx.tx.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&now)
	return now, wrap("read the clock", err)
}

// Append writes audit entries and events. It locks the heads of the entries' chains, so it comes
// last in a transaction.
func (tx *Tx) Append(ctx context.Context, entries []iam.AuditEntry, events []iam.Event) error {
	if err := tx.appendAudit(ctx, entries); err != nil {
		return wrap("append audit entries", err)
	}
	rows := make([][]any, len(events))
	var traceparent any
	if sent := tracing.TraceParent(ctx); sent != "" {
		traceparent = sent
	}
	for i, e := range events {
		data, err := json.Marshal(e)
		if err != nil {
			return wrap("encode "+e.EventType(), err)
		}
		key := e.EventKey()
		var tenant any
		if key.Tenant != "" {
			tenant = key.Tenant
		}
		rows[i] = []any{e.EventType(), tenant, key.Kind, key.Object, data, traceparent}
	}
	if len(rows) == 0 {
		return nil
	}
	_, err := tx.tx.CopyFrom(ctx, pgx.Identifier{"outbox"}, []string{"type", "tenant", "kind", "object", "data", "traceparent"}, pgx.CopyFromRows(rows))
	return wrap("append events", err)
}

// Chores does the hourly work: it expires idempotent requests, reports of previews, ids of signals and sessions of
// the console, and publishes
// checkpoints, the heads of the audit chains that have grown since their last one. It returns the
// checkpoints; an event of each is in the outbox.
func (tx *Tx) Chores(ctx context.Context) (heads []iam.Checkpoint, err error) {
	if err := tx.expireRequests(ctx); err != nil {
		return nil, err
	}
	if err := tx.expirePreviewReports(ctx); err != nil {
		return nil, err
	}
	if err := tx.expireSignals(ctx); err != nil {
		return nil, err
	}
	if err := tx.expireUsage(ctx); err != nil {
		return nil, err
	}
	if err := tx.expireConsoleSessions(ctx); err != nil {
		return nil, err
	}
	if heads, err = tx.takeCheckpoints(ctx); err != nil {
		return nil, err
	}
	events := make([]iam.Event, len(heads))
	for i, h := range heads {
		events[i] = iam.AuditCheckpointEvent{Checkpoint: h}
	}
	return heads, tx.Append(ctx, nil, events)
}
