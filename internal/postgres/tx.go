package postgres

import (
	"context"
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

// look reads one row; see lookUp.
func (tx *Tx) look(ctx context.Context, sql string, args []any, dest ...any) (bool, error) {
	err := tx.tx.QueryRow(ctx, sql, args...).Scan(dest...)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// User, Tenant and Client make a transaction a directory.Loader.

// User returns what is known of one subject of one issuer.
func (tx *Tx) User(ctx context.Context, issuer, subject string) (iam.UserFacts, bool, error) {
	return userFacts(ctx, tx.look, issuer, subject)
}

// Tenant returns one tenant with its roles, the global roles and its mappings.
func (tx *Tx) Tenant(ctx context.Context, id string) (iam.TenantFacts, bool, error) {
	return tenantFacts(ctx, tx.look, id)
}

// Client returns one client of one issuer.
func (tx *Tx) Client(ctx context.Context, issuer, clientID string) (iam.ClientFacts, bool, error) {
	return clientFacts(ctx, tx.look, issuer, clientID)
}

// LockCaller keeps what a user and a client are from changing until the transaction
// ends.
func (tx *Tx) LockCaller(ctx context.Context, issuer, subject, clientID string) error {
	_, err := tx.tx.Exec(ctx, `SELECT FROM users WHERE issuer = $1 AND subject = $2 FOR SHARE`, issuer, subject)
	if err == nil {
		_, err = tx.tx.Exec(ctx, `SELECT FROM clients WHERE issuer = $1 AND client_id = $2 FOR SHARE`, issuer, clientID)
	}
	return wrap("lock a caller", err)
}

// LockUserWhole keeps a user from being changed, and from becoming a member of anything,
// until the transaction ends.
func (tx *Tx) LockUserWhole(ctx context.Context, id string) error {
	_, err := tx.tx.Exec(ctx, `SELECT FROM users WHERE id = $1::uuid FOR UPDATE`, id)
	return wrap("lock a user", err)
}

// LockPlatform makes changes of who administers the platform happen one after the
// other. Take it before any user.
func (tx *Tx) LockPlatform(ctx context.Context) error {
	_, err := tx.tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('iam platform '||current_schema(), 0))`)
	return wrap("lock the platform's roles", err)
}

// LockRoles makes edits of one tenant's roles, or with "" of the global ones, happen
// one after the other: two edits, each fine, can make a cycle. It fails where there
// is no such tenant. Take it before any user.
func (tx *Tx) LockRoles(ctx context.Context, tenant string) error {
	return wrap("lock roles", lockRoles(ctx, tx.tx, tenant))
}

// TryLoop takes the lock that keeps two replicas from doing the same chore, or
// reports that it is taken. It ends with the transaction.
func (tx *Tx) TryLoop(ctx context.Context, name string) (bool, error) {
	var got bool
	_, err := tx.look(ctx, `SELECT pg_try_advisory_xact_lock(hashtextextended('iam loop '||$1||' '||current_schema(), 0))`, []any{name}, &got)
	return got, wrap("lock a chore", err)
}
