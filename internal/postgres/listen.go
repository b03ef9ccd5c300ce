package postgres

import (
	"context"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/directory"
	"iam-service/internal/directory/feed"
)

// Listen opens a direct connection that receives the notifications of the triggers of
// migrations/00002_change_feed.sql.
func (db *DB) Listen(ctx context.Context) (feed.Listener, error) {
	conn, err := db.direct(ctx, map[string]string{"application_name": "iam-service feed"})
	if err != nil {
		return nil, err
	}
	l := &listener{conn: conn, broken: db.outside.count}
	var server time.Time
	err = conn.QueryRow(ctx, `SELECT current_schema(), pg_postmaster_start_time()`).Scan(&l.schema, &server)
	if err == nil {
		_, err = conn.Exec(ctx, `LISTEN `+pgx.Identifier{"iam_directory_" + l.schema}.Sanitize())
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	db.listenServer.Store(&server)
	return l, nil
}

type listener struct {
	conn   *pgx.Conn
	schema string
	broken func(ctx context.Context, what string, err error)
}

// Next waits for the next message of this schema.
func (l *listener) Next(ctx context.Context) (feed.Message, error) {
	for {
		n, err := l.conn.WaitForNotification(ctx)
		if err != nil {
			l.broken(ctx, "listen", err)
			return feed.Message{}, err
		}
		if m, ours := parse(n.Payload, l.schema); ours {
			return m, nil
		}
	}
}

// Close closes the connection.
func (l *listener) Close() { closeNow(l.conn) }

// parse reads a payload: "v1 <schema> <kind> <key in hex>", "v1 <schema> all", "v1 <schema>
// policy", "v1 <schema> assertion" or "v1 <schema> beat <nonce> <clock in µs> <queue>". An unknown payload, such as one of a
// newer version, is a change of everything.
func parse(payload, schema string) (m feed.Message, ours bool) {
	all := feed.Message{All: true}
	f := strings.Fields(payload)
	if len(f) < 3 || f[0] != "v1" {
		return all, true
	}
	if f[1] != schema {
		return feed.Message{}, false // cannot happen: each schema has its own channel
	}
	switch {
	case f[2] == "beat" && len(f) == 6:
		µs, err := strconv.ParseInt(f[4], 10, 64)
		queue, err2 := strconv.ParseFloat(f[5], 64)
		if err != nil || err2 != nil {
			return all, true
		}
		return feed.Message{Heartbeat: &feed.Heartbeat{Nonce: f[3], At: time.Duration(µs) * time.Microsecond, Queue: queue}}, true
	case f[2] == "policy" && len(f) == 3:
		return feed.Message{Policy: true}, true
	case f[2] == "assertion" && len(f) == 3:
		return feed.Message{AssertionKeys: true}, true
	}
	if m, err := parseKey(f[2:]); err == nil {
		return m, true
	}
	return all, true
}

// parseKey reads "<kind> <key in hex>" or "all", split into words.
func parseKey(f []string) (m feed.Message, err error) {
	switch {
	case len(f) == 1 && f[0] == "all":
		return feed.Message{All: true}, nil
	case len(f) == 2 && len(f[0]) == 1 && strings.Contains("utcmg", f[0]) && len(f[1]) == hex.EncodedLen(len(m.Key)):
		m.Kind = directory.Kind(f[0][0])
		_, err = hex.Decode(m.Key[:], []byte(f[1]))
		return m, err
	}
	return m, fmt.Errorf("%q is not the key of a fact", strings.Join(f, " "))
}

// SendHeartbeat sends a heartbeat through the facts pool, in two transactions. The first commits a WAL record
// durably: flushed on this server and, with synchronous_standby_names, on the required standbys, whatever
// the session's synchronous_commit is. The second notifies, with the clock from before the first. So a
// receiver knows that this server was still the primary at that time: a server that is cut off from its
// synchronous standbys, one of which may have been promoted, sends no heartbeat. A NOTIFY alone is not
// enough: it writes no WAL, so its commit waits for no standby.
func (db *DB) SendHeartbeat(ctx context.Context, nonce string) error {
	conn, err := db.facts.Acquire(ctx)
	if err != nil {
		return wrap("send a heartbeat", err)
	}
	defer conn.Release()
	var clock int64
	err = conn.QueryRow(ctx, `
		SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
		  FROM set_config('synchronous_commit', 'on', true), pg_logical_emit_message(true, 'iam-service', 'heartbeat')`).Scan(&clock)
	if err == nil {
		err = ctx.Err() // cancelling the wait for a standby commits locally, without an error
	}
	if err != nil {
		return wrap("commit a heartbeat", err)
	}
	_, err = conn.Exec(ctx, `
		SELECT set_config('synchronous_commit', 'off', true),
		       pg_notify('iam_directory_' || current_schema(),
		                 concat_ws(' ', 'v1', current_schema(), 'beat', $1::text, $2::text, pg_notification_queue_usage()))`,
		nonce, strconv.FormatInt(clock, 10))
	return wrap("send a heartbeat", err)
}

// Reset discards the connections of both pools: they may lead to a former primary.
func (db *DB) Reset() {
	db.facts.Reset()
	db.admin.Reset()
}

var _ feed.Source = (*DB)(nil)
