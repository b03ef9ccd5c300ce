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

// Lead makes this replica the one that relays: it holds a lock of a session of its own
// on the direct connection. It fails with outbox.ErrFollower where another replica does.
func (db *DB) Lead(ctx context.Context) (outbox.Session, error) {
	conn, leads, err := db.hold(ctx, "relay")
	if err != nil {
		return nil, err
	}
	if !leads {
		return nil, outbox.ErrFollower
	}
	s := &relaySession{conn, db.outside.count}
	var schema string
	if err = conn.QueryRow(ctx, `SELECT current_schema()`).Scan(&schema); err == nil {
		// Who changes a fact says so there, and writes an event with it. What is no change of
		// a fact comes to light with the next beat.
		_, err = conn.Exec(ctx, `LISTEN `+pgx.Identifier{"iam_directory_" + schema}.Sanitize())
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// relaySession is the leader's connection. A failure of it ends the leadership: the
// server gives the lock back.
type relaySession struct {
	conn   *pgx.Conn
	broken func(ctx context.Context, what string, err error)
}

const relayLimit = 5 * time.Second

func (s *relaySession) Pending(ctx context.Context, most int) ([]outbox.Event, error) {
	s.drain() // what was heard before is what is read now
	ctx, cancel := context.WithTimeout(ctx, relayLimit)
	defer cancel()
	rows, err := s.conn.Query(ctx, `
		SELECT o.seq, o.id::text, o.type, coalesce(o.tenant, ''), o.kind, o.object, o.data, o.occurred_at, o.tries, o.round FROM outbox o
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

func (s *relaySession) Refused(ctx context.Context, seq int64, why string, park bool) error {
	ctx, cancel := context.WithTimeout(ctx, relayLimit)
	defer cancel()
	_, err := s.conn.Exec(ctx, `UPDATE outbox SET tries = tries + 1, refused = $2, parked = $3 WHERE seq = $1`, seq, why, park)
	return wrap("note a refused event", err)
}

func (s *relaySession) Stream(ctx context.Context, created time.Time) (before time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, relayLimit)
	defer cancel()
	err = s.conn.QueryRow(ctx, `UPDATE relay SET stream_created = coalesce(stream_created, $1) RETURNING stream_created`, created).Scan(&before)
	return before, wrap("note the stream", err)
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
		return 0, wrap("read whether events are to be replayed", err)
	}
	// The leader does it between two batches: nothing of an object is under way, so that its
	// events keep their order. Whoever asks for more meanwhile is not passed over.
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

// drain takes what was heard and not looked at: one look at the table answers it all.
func (s *relaySession) drain() {
	over, cancel := context.WithCancel(context.Background())
	cancel()
	for {
		if _, err := s.conn.WaitForNotification(over); err != nil {
			return
		}
	}
}

func (s *relaySession) Close() { closeNow(s.conn) }

// OutboxState is what waits in the outbox.
type OutboxState struct {
	Pending int64
	Oldest  time.Duration // how long the oldest one has waited
	Parked  int64
}

// MaxCounted is where counting ends: more than that is too much anyway.
const MaxCounted = 100_000

// Outbox returns what waits.
func (db *DB) Outbox(ctx context.Context) (s OutboxState, err error) {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	var seconds float64
	err = db.admin.QueryRow(ctx, `
		SELECT (SELECT count(*) FROM (SELECT FROM outbox WHERE sent_at IS NULL LIMIT $1) x),
		       coalesce((SELECT extract(epoch FROM now() - occurred_at) FROM outbox WHERE sent_at IS NULL ORDER BY seq LIMIT 1), 0)::float8,
		       (SELECT count(*) FROM outbox WHERE parked AND sent_at IS NULL)`, MaxCounted).
		Scan(&s.Pending, &seconds, &s.Parked)
	s.Oldest = time.Duration(max(0, seconds) * float64(time.Second))
	return s, wrap("count pending events", err)
}

// ReplayEvents asks the relay to send again what occurred since a time, but for what was
// given up. It returns how many that are now.
func (tx *Tx) ReplayEvents(ctx context.Context, since time.Time) (n int64, err error) {
	_, err = tx.tx.Exec(ctx, `UPDATE relay SET replay_since = least(replay_since, $1)`, since)
	if err == nil {
		_, err = tx.look(ctx, `SELECT count(*) FROM outbox WHERE sent_at IS NOT NULL AND NOT skipped AND occurred_at >= $1`, []any{since}, &n)
	}
	return n, wrap("ask for a replay", err)
}

// ParkedEvent is an event that holds back its object.
type ParkedEvent struct {
	ID, Type, Tenant, Kind, Object, Why string
	OccurredAt                          time.Time
}

// ParkedEvents lists what is parked, the oldest first.
func (tx *Tx) ParkedEvents(ctx context.Context) ([]ParkedEvent, error) {
	return collect(ctx, tx, "read parked events", `
		SELECT id::text, type, coalesce(tenant, ''), kind, object, refused, occurred_at FROM outbox WHERE parked AND sent_at IS NULL ORDER BY seq`, nil,
		pgx.RowToStructByPos[ParkedEvent])
}

// RetryParked makes the relay send a parked event again.
func (tx *Tx) RetryParked(ctx context.Context, id string) error {
	return tx.unpark(ctx, `UPDATE outbox SET parked = false, tries = 0 WHERE id::text = $1 AND parked AND sent_at IS NULL`, id)
}

// SkipParked gives a parked event up: it is marked as sent and never was.
func (tx *Tx) SkipParked(ctx context.Context, id string) error {
	return tx.unpark(ctx, `UPDATE outbox SET parked = false, skipped = true, sent_at = now() WHERE id::text = $1 AND parked AND sent_at IS NULL`, id)
}

func (tx *Tx) unpark(ctx context.Context, sql, id string) error {
	tag, err := tx.tx.Exec(ctx, sql, id)
	if err == nil && tag.RowsAffected() == 0 {
		return fmt.Errorf("no event %q is parked", id)
	}
	return wrap("unpark an event", err)
}

// PurgeSentEvents forgets some events that were sent before a time. It returns how many.
func (tx *Tx) PurgeSentEvents(ctx context.Context, before time.Time) (int64, error) {
	tag, err := tx.tx.Exec(ctx, `WITH old AS MATERIALIZED (SELECT seq FROM outbox WHERE sent_at < $1 ORDER BY sent_at LIMIT 20000) DELETE FROM outbox WHERE seq IN (SELECT seq FROM old)`, before)
	return tag.RowsAffected(), wrap("forget events that were sent", err)
}

// ExpireEvents deletes events that occurred before a time and were never sent, unless a replica
// relays: then they wait for the bus. It returns how many.
func (db *DB) ExpireEvents(ctx context.Context, before time.Time) (n int64, err error) {
	h, nobodyRelays, err := db.TryLock(ctx, "relay")
	if err != nil || !nobodyRelays {
		return 0, wrap("look for a relay", err)
	}
	defer h.Close()
	for {
		tag, err := h.conn.Exec(ctx, `
			WITH old AS MATERIALIZED (SELECT seq FROM outbox WHERE sent_at IS NULL AND occurred_at < $1 ORDER BY seq LIMIT 20000)
			DELETE FROM outbox WHERE seq IN (SELECT seq FROM old)`, before)
		n += tag.RowsAffected()
		if err != nil || tag.RowsAffected() == 0 {
			return n, wrap("delete events that nobody relays", err)
		}
	}
}
