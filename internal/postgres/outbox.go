package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"iam-service/internal/events/outbox"
)

// Lead makes this replica the relay: it acquires a session lock on a direct connection. It fails
// with outbox.ErrFollower while another replica holds the lock.
func (db *DB) Lead(ctx context.Context) (outbox.Session, error) {
	conn, leads, err := db.lock(ctx, "relay")
	if err != nil {
		return nil, err
	}
	if !leads {
		return nil, outbox.ErrFollower
	}
	s := &relaySession{conn, db.outside.count}
	var schema string
	if err = conn.QueryRow(ctx, `SELECT current_schema()`).Scan(&schema); err == nil {
		// A change of a fact is notified there, and its event is in the same transaction. Other
		// events are found after the next heartbeat.
		_, err = conn.Exec(ctx, `LISTEN `+pgx.Identifier{"iam_directory_" + schema}.Sanitize())
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// relaySession is the leader's connection. If it fails, the leadership ends: the server releases
// the lock.
type relaySession struct {
	conn   *pgx.Conn
	broken func(ctx context.Context, what string, err error)
}

const relayLimit = 5 * time.Second

func (s *relaySession) Pending(ctx context.Context, most int) ([]outbox.Event, error) {
	s.drain() // the query below covers all earlier notifications
	ctx, cancel := context.WithTimeout(ctx, relayLimit)
	defer cancel()
	rows, err := s.conn.Query(ctx, `
		SELECT o.seq, o.id::text, o.type, coalesce(o.tenant, ''), o.kind, o.object, o.data, o.occurred_at, o.tries, o.round, coalesce(o.traceparent, '') FROM outbox o
		 WHERE o.sent_at IS NULL AND NOT o.parked
		   AND NOT EXISTS (SELECT FROM outbox p WHERE p.parked AND p.sent_at IS NULL AND p.kind = o.kind AND p.object = o.object
		                      AND p.tenant IS NOT DISTINCT FROM o.tenant AND p.seq < o.seq)
		 ORDER BY o.seq LIMIT $1`, most)
	if err != nil {
		return nil, wrap("read pending events", err)
	}
	events, err := pgx.CollectRows(rows, pgx.RowToStructByPos[outbox.Event])
	return events, wrap("read pending events", err)
}

func (s *relaySession) Sent(ctx context.Context, seqs []int64) error {
	ctx, cancel := context.WithTimeout(ctx, relayLimit)
	defer cancel()
	_, err := s.conn.Exec(ctx, `UPDATE outbox SET sent_at = now() WHERE seq = ANY ($1)`, seqs)
	return wrap("mark events as sent", err)
}

func (s *relaySession) Refused(ctx context.Context, seq int64, why string, then outbox.AfterRefusal) error {
	ctx, cancel := context.WithTimeout(ctx, relayLimit)
	defer cancel()
	_, err := s.conn.Exec(ctx, `UPDATE outbox SET tries = tries + 1, refused = $2, parked = $3 WHERE seq = $1`, seq, why, then == outbox.Park)
	return wrap("record a rejected event", err)
}

func (s *relaySession) Stream(ctx context.Context, created time.Time) (before time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, relayLimit)
	defer cancel()
	err = s.conn.QueryRow(ctx, `
		UPDATE relay SET stream_created = coalesce(stream_created, $1) RETURNING stream_created`, created).Scan(&before)
	return before, wrap("record the stream", err)
}

func (s *relaySession) Replay(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, 12*relayLimit)
	defer cancel()
	var since time.Time
	err := s.conn.QueryRow(ctx, `SELECT replay_since FROM relay WHERE replay_since IS NOT NULL`).Scan(&since)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, wrap("read the replay request", err)
	}
	// The leader replays between two batches, while no event is in flight, so that the events of an
	// object keep their order. A concurrent request for an earlier time is not lost: it changes replay_since.
	tag, err := s.conn.Exec(ctx, `
		WITH done AS (UPDATE relay SET replay_since = NULL, stream_created = NULL WHERE replay_since = $1 RETURNING 1)
		UPDATE outbox SET sent_at = NULL, round = round + 1, tries = 0
		 WHERE EXISTS (SELECT FROM done) AND sent_at IS NOT NULL AND NOT skipped AND occurred_at >= $1`, since)
	return tag.RowsAffected(), wrap("replay events", err)
}

func (s *relaySession) Wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, err := s.conn.WaitForNotification(ctx)
	if pgconn.Timeout(err) && !s.conn.IsClosed() {
		return nil
	}
	s.broken(ctx, "listen", err)
	return err
}

// drain discards buffered notifications: one query of the table covers them all.
func (s *relaySession) drain() {
	ended, cancel := context.WithCancel(context.Background())
	cancel() // so that WaitForNotification returns buffered notifications only
	for {
		if _, err := s.conn.WaitForNotification(ended); err != nil {
			return
		}
	}
}

func (s *relaySession) Close() { closeNow(s.conn) }

// OutboxState is the backlog of the outbox.
type OutboxState struct {
	Pending int64
	Oldest  time.Duration // age of the oldest pending event
	Parked  int64
}

// MaxCounted is where counting stops: beyond it the exact figure does not matter.
const MaxCounted = 100_000

// Outbox returns the backlog of the outbox.
func (db *DB) Outbox(ctx context.Context) (s OutboxState, err error) {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	return outboxState(ctx, db.admin)
}

// Outbox is DB.Outbox in a transaction.
func (tx *Tx) Outbox(ctx context.Context) (OutboxState, error) { return outboxState(ctx, tx.tx) }

// querier is a pool or a transaction.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func outboxState(ctx context.Context, q querier) (s OutboxState, err error) {
	var seconds float64
	err = q.QueryRow(ctx, `
		SELECT (SELECT count(*) FROM (SELECT FROM outbox WHERE sent_at IS NULL LIMIT $1) x),
		       coalesce((SELECT extract(epoch FROM now() - occurred_at) FROM outbox WHERE sent_at IS NULL ORDER BY seq LIMIT 1), 0)::float8,
		       (SELECT count(*) FROM outbox WHERE parked AND sent_at IS NULL)`, MaxCounted).
		Scan(&s.Pending, &seconds, &s.Parked)
	s.Oldest = time.Duration(max(0, seconds) * float64(time.Second))
	return s, wrap("count pending events", err)
}

// ReplayEvents requests that the relay sends the events since a time again, except skipped ones. It
// returns how many that are now.
func (tx *Tx) ReplayEvents(ctx context.Context, since time.Time) (n int64, err error) {
	_, err = tx.tx.Exec(ctx, `UPDATE relay SET replay_since = least(replay_since, $1)`, since)
	if err == nil {
		_, err = tx.look(ctx, `SELECT count(*) FROM outbox WHERE sent_at IS NOT NULL AND NOT skipped AND occurred_at >= $1`, []any{since}, &n)
	}
	return n, wrap("request a replay", err)
}

// ParkedEvent is an event that the bus rejected; it blocks later events of its object.
type ParkedEvent struct {
	ID, Type, Tenant, Kind, Object, Why string
	OccurredAt                          time.Time
}

// ParkedEvents lists the parked events, the oldest first.
func (tx *Tx) ParkedEvents(ctx context.Context) ([]ParkedEvent, error) {
	return collect(ctx, tx, statement{doing: "read parked events", sql: `
		SELECT id::text, type, coalesce(tenant, ''), kind, object, refused, occurred_at FROM outbox WHERE parked AND sent_at IS NULL ORDER BY seq`},
		pgx.RowToStructByPos[ParkedEvent])
}

// RetryParked makes the relay send a parked event again.
func (tx *Tx) RetryParked(ctx context.Context, id string) error {
	return tx.unpark(ctx, `UPDATE outbox SET parked = false, tries = 0 WHERE id::text = $1 AND parked AND sent_at IS NULL`, id)
}

// SkipParked gives a parked event up: it is marked as sent without being sent.
func (tx *Tx) SkipParked(ctx context.Context, id string) error {
	return tx.unpark(ctx, `
		UPDATE outbox SET parked = false, skipped = true, sent_at = now() WHERE id::text = $1 AND parked AND sent_at IS NULL`, id)
}

func (tx *Tx) unpark(ctx context.Context, sql, id string) error {
	tag, err := tx.tx.Exec(ctx, sql, id)
	if err == nil && tag.RowsAffected() == 0 {
		return fmt.Errorf("no event %q is parked", id)
	}
	return wrap("unpark an event", err)
}

// PurgeSentEvents deletes a batch of events that were sent before a time, and returns how many.
func (tx *Tx) PurgeSentEvents(ctx context.Context, before time.Time) (int64, error) {
	tag, err := tx.tx.Exec(ctx, `
		WITH old AS MATERIALIZED (SELECT seq FROM outbox WHERE sent_at < $1 ORDER BY sent_at LIMIT 20000)
		DELETE FROM outbox WHERE seq IN (SELECT seq FROM old)`, before)
	return tag.RowsAffected(), wrap("purge sent events", err)
}

// ExpireEvents deletes events that occurred before a time and were never sent. It deletes none
// while a replica relays: they wait for the bus. It returns how many it deleted.
func (db *DB) ExpireEvents(ctx context.Context, before time.Time) (n int64, err error) {
	l, acquired, err := db.TryLock(ctx, "relay")
	if err != nil || !acquired {
		return 0, wrap("check for a relay", err)
	}
	defer l.Close()
	for {
		tag, err := l.conn.Exec(ctx, `
			WITH old AS MATERIALIZED (SELECT seq FROM outbox WHERE sent_at IS NULL AND occurred_at < $1 ORDER BY seq LIMIT 20000)
			DELETE FROM outbox WHERE seq IN (SELECT seq FROM old)`, before)
		n += tag.RowsAffected()
		if err != nil || tag.RowsAffected() == 0 {
			return n, wrap("expire events", err)
		}
	}
}
