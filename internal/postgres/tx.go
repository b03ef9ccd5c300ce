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
)

// Limits of an admin's transaction.
const (
	changeLimit  = 10 * time.Second
	patientLimit = 5 * time.Minute // see Patient
	changeTries  = 5               // where it lost a race against another: a deadlock or a serialization failure
)

// What one statement may take, its wait for a lock included. They are set for the
// transaction, not the session: a pooler may be between.
const limits = `SELECT set_config('statement_timeout', '2s', true), set_config('lock_timeout', '1500ms', true)`

type patient struct{}

// Patient lets a transaction, and each statement of it, take minutes: for what looks at
// or deletes very much.
func Patient(ctx context.Context) context.Context { return context.WithValue(ctx, patient{}, true) }

// Tx is one transaction of the admin pool. Its methods are the statements that an
// administrative change is made of; what must be locked for them, and in which
// order, is said by each: a tenant before users, everything before the audit.
type Tx struct {
	tx      pgx.Tx
	issuers iam.Issuers
}

// Change runs do in a transaction and commits it, unless do fails. It is run again
// where it lost a race, so do must have no effect but on the database. It fails with
// an iam.Error of kind Unavailable where the database cannot be asked, or where it is
// not known whether the commit arrived.
func (db *DB) Change(ctx context.Context, do func(context.Context, *Tx) error) error {
	return db.transact(ctx, pgx.TxOptions{}, do)
}

// View runs do over one consistent snapshot. Nothing can be written.
func (db *DB) View(ctx context.Context, do func(context.Context, *Tx) error) error {
	return db.transact(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, do)
}

func (db *DB) transact(ctx context.Context, options pgx.TxOptions, do func(context.Context, *Tx) error) error {
	limit, long := changeLimit, ctx.Value(patient{}) != nil
	if long {
		limit = patientLimit
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
			return &iam.Error{Kind: iam.Unavailable, Code: "busy", Detail: "too many changes of the same thing at once", Cause: err}
		}
		if _, ours := errors.AsType[*iam.Error](err); ours {
			return err
		}
		if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
			switch {
			case pg.Code[:2] == "22": // data exception
				return &iam.Error{Kind: iam.Invalid, Detail: "a value holds what cannot be stored, such as a NUL", Cause: err}
			case pg.Code == "23514": // check_violation
				return &iam.Error{Kind: iam.Invalid, Detail: "a value is not allowed, or takes too much room when it is written out", Cause: err}
			}
		}
		return unavailable(err)
	}
}

// lostRace reports whether a transaction failed only because of another one.
func lostRace(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return errors.Is(err, errLostRace) ||
		ok && (pg.Code == "40001" || pg.Code == "40P01" || pg.ConstraintName == "memberships_user_fkey") // erased meanwhile
}

// errLostRace says that something went away while the transaction ran.
var errLostRace = errors.New("it went away meanwhile")

// TryLoop takes the lock that keeps two replicas from doing the same chore, or
// reports that it is taken. It ends with the transaction.
func (tx *Tx) TryLoop(ctx context.Context, name string) (bool, error) {
	var got bool
	_, err := tx.look(ctx, `SELECT pg_try_advisory_xact_lock(hashtextextended('iam loop '||$1||' '||current_schema(), 0))`, []any{name}, &got)
	return got, wrap("lock a chore", err)
}

// Now is the database's clock, by which times are kept that another replica judges.
func (tx *Tx) Now(ctx context.Context) (now time.Time, err error) {
	err = tx.tx.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&now)
	return now, wrap("read the clock", err)
}

// Append writes audit entries and events. It locks the heads of their chains, so it
// comes last in a transaction.
func (tx *Tx) Append(ctx context.Context, entries []iam.AuditEntry, events []iam.Event) error {
	if err := tx.appendAudit(ctx, entries); err != nil {
		return wrap("append to the audit", err)
	}
	rows := make([][]any, len(events))
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
		rows[i] = []any{e.EventType(), tenant, key.Kind, key.Object, data}
	}
	if len(rows) == 0 {
		return nil
	}
	_, err := tx.tx.CopyFrom(ctx, pgx.Identifier{"outbox"}, []string{"type", "tenant", "kind", "object", "data"}, pgx.CopyFromRows(rows))
	return wrap("append events", err)
}

// Chores does what is due once an hour: keys that have expired, and the heads of chains that
// have grown since they were last told. It returns those heads; an event of each is in the outbox.
func (tx *Tx) Chores(ctx context.Context) (heads []iam.Checkpoint, err error) {
	if err := tx.expireRequests(ctx); err != nil {
		return nil, err
	}
	// They name people: they are kept for a month.
	if _, err := tx.tx.Exec(ctx, `UPDATE policy_previews SET report = NULL WHERE report IS NOT NULL AND started_at < now() - interval '30 days'`); err != nil {
		return nil, wrap("forget reports of previews", err)
	}
	heads, err = collect(ctx, tx, "read the heads of the audit", `
		UPDATE audit_heads SET published = seq WHERE published < seq RETURNING chain, seq, encode(hash, 'hex')`, nil, pgx.RowToStructByPos[iam.Checkpoint])
	if err != nil {
		return nil, err
	}
	events := make([]iam.Event, len(heads))
	for i, h := range heads {
		events[i] = iam.AuditCheckpointEvent{Checkpoint: h}
	}
	return heads, tx.Append(ctx, nil, events)
}
