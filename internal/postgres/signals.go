package postgres

import (
	"context"
	"crypto/sha256"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/iam"
)

// signalsKept is how long the ids of signals are stored: longer than any signal is accepted (signals.MaxAge), by a day for
// clocks that differ.
const signalsKept = 31 * 24 * time.Hour

// AddSignal records the id of a signal, and that its stream has sent it. False: it was received before. A concurrent
// transaction with the same id waits for this one.
func (tx *Tx) AddSignal(ctx context.Context, stream, id string) (added bool, err error) {
	hash := sha256.Sum256([]byte(id))
	tag, err := tx.tx.Exec(ctx, `INSERT INTO signals (stream, jti, received_at) VALUES ($1, $2, clock_timestamp())
		ON CONFLICT ON CONSTRAINT signals_pkey DO NOTHING`, stream, hash[:])
	if err != nil {
		return false, wrap("record a signal", err)
	}
	_, err = tx.tx.Exec(ctx, `INSERT INTO signal_streams AS s (stream, accepted_at) VALUES ($1, clock_timestamp())
		ON CONFLICT ON CONSTRAINT signal_streams_pkey DO UPDATE SET accepted_at = excluded.accepted_at`, stream)
	return tag.RowsAffected() == 1, wrap("record the time of a signal", err)
}

// VerifyStream records the verification event of a stream, whose row AddSignal has locked. False: it has a state other
// than the one that is expected. One without a state was begun by the transmitter, which knows none.
func (tx *Tx) VerifyStream(ctx context.Context, stream, state string) (expected bool, err error) {
	tag, err := tx.tx.Exec(ctx, `UPDATE signal_streams
		SET verified_at = clock_timestamp(), state = $2, expected = CASE WHEN $2 = '' THEN expected END
		WHERE stream = $1 AND ($2 = '' OR expected IS NULL OR expected = $2)`, stream, state)
	return tag.RowsAffected() == 1, wrap("record the verification of a stream", err)
}

// ExpectVerification records the state that the next verification event of a stream must have.
func (tx *Tx) ExpectVerification(ctx context.Context, stream, state string) error {
	_, err := tx.tx.Exec(ctx, `INSERT INTO signal_streams (stream, expected) VALUES ($1, $2)
		ON CONFLICT ON CONSTRAINT signal_streams_pkey DO UPDATE SET expected = excluded.expected`, stream, state)
	return wrap("record the expected verification of a stream", err)
}

// UpdateStream records the status of a stream as its transmitter says, and returns the one before.
func (tx *Tx) UpdateStream(ctx context.Context, stream string, u iam.StreamUpdate) (before string, err error) {
	err = tx.tx.QueryRow(ctx, `UPDATE signal_streams AS s SET status = $2, status_reason = $3, status_at = clock_timestamp()
		  FROM (SELECT stream, status FROM signal_streams WHERE stream = $1) AS b WHERE s.stream = b.stream
		RETURNING coalesce(b.status, '')`, stream, u.Status, u.Reason).Scan(&before)
	return before, wrap("record the status of a stream", err)
}

// SignalStreams returns what is known of all streams, by name.
func (tx *Tx) SignalStreams(ctx context.Context) ([]iam.SignalStream, error) {
	return collect(ctx, tx, statement{doing: "read the streams of signals", sql: `
		SELECT stream, accepted_at, verified_at, coalesce(state, ''), coalesce(expected, ''), coalesce(status, ''), coalesce(status_reason, ''), status_at
		  FROM signal_streams ORDER BY stream`}, func(row pgx.CollectableRow) (s iam.SignalStream, err error) {
		var accepted, verified, status *time.Time
		err = row.Scan(&s.Name, &accepted, &verified, &s.State, &s.Expected, &s.Status, &s.Reason, &status)
		s.AcceptedAt, s.VerifiedAt, s.StatusAt = deref(accepted), deref(verified), deref(status)
		return s, err
	})
}

// SignalStreams is Tx.SignalStreams in a transaction of its own.
func (db *DB) SignalStreams(ctx context.Context) (streams []iam.SignalStream, err error) {
	err = db.View(ctx, func(ctx context.Context, tx *Tx) error {
		streams, err = tx.SignalStreams(ctx)
		return err
	})
	return streams, err
}

// SignalAccount is what a stream has said last of a user's account.
type SignalAccount struct {
	Stream  string
	EventAt time.Time
	Blocks  bool // the user is blocked by it
}

// SignalAccounts returns what all streams have said of a user. The user is locked.
func (tx *Tx) SignalAccounts(ctx context.Context, user string) ([]SignalAccount, error) {
	return collect(ctx, tx, statement{doing: "read what signals have said of a user", sql: `
		SELECT stream, event_at, blocks FROM signal_accounts WHERE user_id = $1::uuid ORDER BY stream`, args: []any{user}},
		pgx.RowToStructByPos[SignalAccount])
}

// PutSignalAccount records what a stream has said of a user. The user is locked.
func (tx *Tx) PutSignalAccount(ctx context.Context, user string, a SignalAccount) error {
	_, err := tx.tx.Exec(ctx, `INSERT INTO signal_accounts (user_id, stream, event_at, blocks) VALUES ($1::uuid, $2, $3, $4)
		ON CONFLICT ON CONSTRAINT signal_accounts_pkey DO UPDATE SET event_at = excluded.event_at, blocks = excluded.blocks`,
		user, a.Stream, a.EventAt, a.Blocks)
	return wrap("record what a signal has said of a user", err)
}

// TakeSignalBlocks makes a user's block no longer one of signals: none of them lifts it. It reports whether it was one.
// The user is locked.
func (tx *Tx) TakeSignalBlocks(ctx context.Context, user string) (was bool, err error) {
	tag, err := tx.tx.Exec(ctx, `UPDATE signal_accounts SET blocks = false WHERE user_id = $1::uuid AND blocks`, user)
	return tag.RowsAffected() > 0, wrap("take over the blocks of signals", err)
}

// UserOf returns the id of the user of an issuer and subject, and whether there is one.
func (tx *Tx) UserOf(ctx context.Context, issuer, subject string) (id string, known bool, err error) {
	known, err = tx.look(ctx, `SELECT id::text FROM users WHERE issuer = $1 AND subject = $2`, []any{issuer, subject}, &id)
	return id, known, wrap("find a user", err)
}

// expireSignals deletes the ids of signals that are too old to be accepted again.
func (tx *Tx) expireSignals(ctx context.Context) error {
	_, err := tx.tx.Exec(ctx, `DELETE FROM signals WHERE received_at < clock_timestamp() - make_interval(secs => $1)`, signalsKept.Seconds())
	return wrap("delete the ids of old signals", err)
}
