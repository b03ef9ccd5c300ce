package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"iam-service/internal/outbox"
)

// Lead makes this replica the one that relays: it holds a lock of a session of its own
// on the direct connection. It fails with outbox.ErrFollower where another replica does.
func (db *DB) Lead(ctx context.Context) (outbox.Session, error) {
	pool, err := pgxpool.ParseConfig(db.listenURL) // as the pools do: it knows their settings
	if err != nil {
		return nil, errors.New("the connection string cannot be read") // why could show a password
	}
	cfg := pool.ConnConfig
	cfg.ConnectTimeout = connectTimeout
	cfg.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	cfg.RuntimeParams["application_name"] = "iam-service relay"
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	s := &relaySession{conn}
	var leads bool
	var schema string
	err = conn.QueryRow(ctx, `SELECT pg_try_advisory_lock(hashtextextended('iam relay ' || current_schema(), 0)), current_schema()`).Scan(&leads, &schema)
	if err == nil && !leads {
		err = outbox.ErrFollower
	}
	if err == nil {
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
type relaySession struct{ conn *pgx.Conn }

const relayLimit = 5 * time.Second

func (s *relaySession) Pending(ctx context.Context, most int) ([]outbox.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, relayLimit)
	defer cancel()
	rows, err := s.conn.Query(ctx, `
		SELECT o.seq, o.id::text, o.type, coalesce(o.tenant, ''), o.kind, o.object, o.data, o.occurred_at, o.tries FROM outbox o
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

func (s *relaySession) LastSent(ctx context.Context) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, relayLimit)
	defer cancel()
	var last *time.Time
	err := s.conn.QueryRow(ctx, `SELECT max(sent_at) FROM outbox WHERE sent_at IS NOT NULL`).Scan(&last)
	return deref(last), wrap("read when the last event was sent", err)
}

func (s *relaySession) Wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, err := s.conn.WaitForNotification(ctx)
	if pgconn.Timeout(err) && !s.conn.IsClosed() {
		return nil
	}
	return err
}

func (s *relaySession) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_ = s.conn.Close(ctx) // it is of no more use
}

// OutboxState is what waits in the outbox.
type OutboxState struct {
	Pending int64
	Oldest  time.Duration // how long the oldest one has waited
	Parked  int64
}

// Outbox returns what waits.
func (db *DB) Outbox(ctx context.Context) (s OutboxState, err error) {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	var seconds float64
	err = db.admin.QueryRow(ctx, `
		SELECT count(*), coalesce(extract(epoch FROM now() - min(occurred_at)), 0)::float8, count(*) FILTER (WHERE parked) FROM outbox WHERE sent_at IS NULL`).
		Scan(&s.Pending, &seconds, &s.Parked)
	s.Oldest = time.Duration(max(0, seconds) * float64(time.Second))
	return s, wrap("count pending events", err)
}

// ReplayEvents makes events that occurred since a time pending again, under their ids. It
// returns how many.
func (tx *Tx) ReplayEvents(ctx context.Context, since time.Time) (int64, error) {
	tag, err := tx.tx.Exec(ctx, `UPDATE outbox SET sent_at = NULL WHERE sent_at IS NOT NULL AND occurred_at >= $1`, since)
	return tag.RowsAffected(), wrap("replay events", err)
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

// Unpark lets a parked event be tried again, or with skip gives it up: it is marked as
// sent without having been.
func (tx *Tx) Unpark(ctx context.Context, id string, skip bool) error {
	sql := `UPDATE outbox SET parked = false, tries = 0 WHERE id::text = $1 AND parked AND sent_at IS NULL`
	if skip {
		sql = `UPDATE outbox SET parked = false, sent_at = now() WHERE id::text = $1 AND parked AND sent_at IS NULL`
	}
	tag, err := tx.tx.Exec(ctx, sql, id)
	if err == nil && tag.RowsAffected() == 0 {
		return fmt.Errorf("no event %q is parked", id)
	}
	return wrap("unpark an event", err)
}
