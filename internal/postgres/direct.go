package postgres

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// direct opens a connection to the primary, past any pooler: a standby sends no notifications and
// grants no advisory locks.
func (db *DB) direct(ctx context.Context, params map[string]string) (*pgx.Conn, error) {
	pool, err := pgxpool.ParseConfig(db.listenURL) // as the pools do: the URL may hold settings of pools
	if err != nil {
		return nil, errors.New("the connection string is unreadable") // the cause could show a password
	}
	cfg := pool.ConnConfig
	cfg.ConnectTimeout = connectTimeout
	cfg.ValidateConnect = primary
	cfg.Tracer = db.outside
	maps.Copy(cfg.RuntimeParams, params)
	return pgx.ConnectConfig(ctx, cfg)
}

// lock opens a direct connection and acquires a session lock on it; false: another replica holds it.
func (db *DB) lock(ctx context.Context, name string) (*pgx.Conn, bool, error) {
	conn, err := db.direct(ctx, map[string]string{
		"application_name": "iam-service " + name,
		// The server releases the lock of a lost host within half a minute.
		"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3", "tcp_user_timeout": "25000",
		// And that of a replica that is frozen, or cut off by something that keeps its connection open: a live one uses it more often.
		"idle_session_timeout": "25000",
	})
	if err != nil {
		return nil, false, err
	}
	var acquired bool
	err = conn.QueryRow(ctx, `SELECT pg_try_advisory_lock(hashtextextended('iam ' || $1 || ' ' || current_schema(), 0))`, name).Scan(&acquired)
	if err != nil || !acquired {
		closeNow(conn)
		return nil, false, err
	}
	return conn, true, nil
}

// TryLock acquires a lock that only one replica can hold; false: another one holds it.
func (db *DB) TryLock(ctx context.Context, name string) (l *SessionLock, acquired bool, err error) {
	conn, acquired, err := db.lock(ctx, name)
	if err != nil || !acquired {
		return nil, false, err
	}
	return &SessionLock{conn}, true, nil
}

// SessionLock is a lock that is held as long as its connection to the primary lives.
type SessionLock struct{ conn *pgx.Conn }

// Check fails if the lock is lost.
func (l *SessionLock) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, relayLimit)
	defer cancel()
	_, err := l.conn.Exec(ctx, `SELECT 1`) // as in DB.Ping
	return err
}

// Close releases the lock.
func (l *SessionLock) Close() { closeNow(l.conn) }

// closeNow closes a connection without waiting for an unresponsive server.
func closeNow(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_ = conn.Close(ctx) // the connection is discarded either way
}
