package postgres

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// direct returns a connection of its own to the primary, past any pooler: a standby hears
// nothing and gives no locks.
func (db *DB) direct(ctx context.Context, params map[string]string) (*pgx.Conn, error) {
	pool, err := pgxpool.ParseConfig(db.listenURL) // as the pools do: it knows their settings
	if err != nil {
		return nil, errors.New("the connection string cannot be read") // why could show a password
	}
	cfg := pool.ConnConfig
	cfg.ConnectTimeout = connectTimeout
	cfg.ValidateConnect = primary
	cfg.Tracer = db.outside
	maps.Copy(cfg.RuntimeParams, params)
	return pgx.ConnectConfig(ctx, cfg)
}

// hold takes a lock of a session of its own on the direct connection, or reports that
// another replica has it.
func (db *DB) hold(ctx context.Context, name string) (*pgx.Conn, bool, error) {
	conn, err := db.direct(ctx, map[string]string{
		"application_name": "iam-service " + name,
		// One that vanishes without a word gives its lock back within half a minute.
		"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3", "tcp_user_timeout": "25000",
	})
	if err != nil {
		return nil, false, err
	}
	var got bool
	err = conn.QueryRow(ctx, `SELECT pg_try_advisory_lock(hashtextextended('iam ' || $1 || ' ' || current_schema(), 0))`, name).Scan(&got)
	if err != nil || !got {
		closeNow(conn)
		return nil, false, err
	}
	return conn, true, nil
}

// TryLock takes a lock that only one replica has, or reports that another one has it.
func (db *DB) TryLock(ctx context.Context, name string) (h *SessionLock, got bool, err error) {
	conn, got, err := db.hold(ctx, name)
	if err != nil || !got {
		return nil, false, err
	}
	return &SessionLock{conn}, true, nil
}

// SessionLock is a lock that lasts as long as a connection of its own to the primary.
type SessionLock struct{ conn *pgx.Conn }

// Check fails where the lock is lost.
func (h *SessionLock) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, relayLimit)
	defer cancel()
	_, err := h.conn.Exec(ctx, `SELECT 1`) // as in DB.Ping
	return err
}

// Close gives the lock back.
func (h *SessionLock) Close() { closeNow(h.conn) }

// closeNow ends a connection without waiting for a server that does not answer.
func closeNow(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_ = conn.Close(ctx) // it is of no more use
}
