package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/iam"
)

// refreshLimits let a transaction wait for another replica's refresh of the same session, which calls the identity provider.
const refreshLimits = `SELECT set_config('statement_timeout', '7s', true), set_config('lock_timeout', '6s', true)`

// CreateConsoleSession stores a session, and ends the oldest of the same person where there would be too many. It returns the
// session with its ends.
func (db *DB) CreateConsoleSession(ctx context.Context, s iam.ConsoleSession, limits iam.ConsoleLimits) (iam.ConsoleSession, error) {
	err := db.Change(ctx, func(ctx context.Context, tx *Tx) error {
		err := tx.tx.QueryRow(ctx, `
			INSERT INTO console_sessions (id, person, sealed, idle_ends_at, ends_at)
			VALUES ($1, $2, $3, clock_timestamp() + make_interval(secs => $4), clock_timestamp() + make_interval(secs => $5))
			RETURNING least(idle_ends_at, ends_at), ends_at, clock_timestamp()`,
			s.ID, s.Person, s.Sealed, limits.Idle.Seconds(), limits.Lifetime.Seconds()).Scan(&s.IdleEndsAt, &s.EndsAt, &s.Now)
		if err != nil {
			return wrap("store a session of the console", err)
		}
		_, err = tx.tx.Exec(ctx, `DELETE FROM console_sessions WHERE id IN (
			SELECT id FROM console_sessions WHERE person = $1 ORDER BY created_at DESC, id OFFSET $2)`, s.Person, limits.Sessions)
		return wrap("end the oldest sessions of a person", err)
	})
	return s, err
}

const selectConsoleSession = `
	SELECT id, person, sealed, least(idle_ends_at, ends_at), ends_at, clock_timestamp()
	  FROM console_sessions WHERE id = $1 AND idle_ends_at > clock_timestamp() AND ends_at > clock_timestamp()`

func scanConsoleSession(row pgx.Row) (s iam.ConsoleSession, found bool, err error) {
	err = row.Scan(&s.ID, &s.Person, &s.Sealed, &s.IdleEndsAt, &s.EndsAt, &s.Now)
	if errors.Is(err, pgx.ErrNoRows) {
		return s, false, nil
	}
	return s, err == nil, wrap("read a session of the console", err)
}

// ConsoleSession returns a session that has not ended.
func (db *DB) ConsoleSession(ctx context.Context, id []byte) (iam.ConsoleSession, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	return scanConsoleSession(db.admin.QueryRow(ctx, selectConsoleSession, id))
}

// ExtendConsoleSession moves the idle limit of a session that has not ended, and returns the session.
func (db *DB) ExtendConsoleSession(ctx context.Context, id []byte, limits iam.ConsoleLimits) (iam.ConsoleSession, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	return scanConsoleSession(db.admin.QueryRow(ctx, `
		UPDATE console_sessions SET idle_ends_at = clock_timestamp() + make_interval(secs => $2)
		 WHERE id = $1 AND idle_ends_at > clock_timestamp() AND ends_at > clock_timestamp()
		RETURNING id, person, sealed, least(idle_ends_at, ends_at), ends_at, clock_timestamp()`, id, limits.Idle.Seconds()))
}

// RenewConsoleSession replaces what is sealed in a session, under the lock of its row: of several replicas one at a time
// calls renew, and each sees what the one before has stored. renew returns nil to leave it. False: it has ended.
// Unlike in other transactions, renew has an effect outside, since a refresh token can be used once: one row is locked
// and written, so no conflict makes the transaction run again.
func (db *DB) RenewConsoleSession(ctx context.Context, id []byte, renew func(context.Context, iam.ConsoleSession) ([]byte, error)) (found bool, err error) {
	err = db.Change(ctx, func(ctx context.Context, tx *Tx) error {
		if _, err := tx.tx.Exec(ctx, refreshLimits); err != nil {
			return wrap("set the limits of a refresh", err)
		}
		var s iam.ConsoleSession
		if s, found, err = scanConsoleSession(tx.tx.QueryRow(ctx, selectConsoleSession+` FOR UPDATE`, id)); err != nil || !found {
			return err
		}
		sealed, err := renew(ctx, s)
		if err != nil || sealed == nil {
			return err
		}
		_, err = tx.tx.Exec(ctx, `UPDATE console_sessions SET sealed = $2 WHERE id = $1`, id, sealed)
		return wrap("store the renewed tokens of a session", err)
	})
	return found, err
}

// EndConsoleSession deletes a session.
func (db *DB) EndConsoleSession(ctx context.Context, id []byte) error {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	_, err := db.admin.Exec(ctx, `DELETE FROM console_sessions WHERE id = $1`, id)
	return wrap("end a session of the console", err)
}

// CountConsoleSessions is the number of sessions that have not ended.
func (db *DB) CountConsoleSessions(ctx context.Context) (n int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	err = db.admin.QueryRow(ctx, `SELECT count(*) FROM console_sessions WHERE idle_ends_at > clock_timestamp() AND ends_at > clock_timestamp()`).Scan(&n)
	return n, wrap("count the sessions of the console", err)
}

// expireConsoleSessions deletes the sessions that have ended.
func (tx *Tx) expireConsoleSessions(ctx context.Context) error {
	_, err := tx.tx.Exec(ctx, `DELETE FROM console_sessions WHERE idle_ends_at < clock_timestamp() OR ends_at < clock_timestamp()`)
	return wrap("delete ended sessions of the console", err)
}
