package postgres

import (
	"context"
	"errors"
	"log/slog"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// tracer counts and logs each failure of the database once. Everything passes it: queries and statements
// (including begin, commit, LISTEN and pings), batches, COPY, prepared statements, connecting, and
// waiting for a free connection.
type tracer struct {
	name    string
	log     *slog.Logger
	onError func(reason string)
}

var (
	_ pgx.QueryTracer       = (*tracer)(nil)
	_ pgx.BatchTracer       = (*tracer)(nil)
	_ pgx.CopyFromTracer    = (*tracer)(nil)
	_ pgx.PrepareTracer     = (*tracer)(nil)
	_ pgx.ConnectTracer     = (*tracer)(nil)
	_ pgxpool.AcquireTracer = (*tracer)(nil)
)

// traced is one operation. Its parts are not counted separately: a failing query may fail at its
// preparation and at its end.
type traced struct {
	sql     string
	counted bool
}

type tracedKey struct{}

func begin(ctx context.Context, sql string) context.Context {
	if ctx.Value(tracedKey{}) != nil {
		return ctx
	}
	return context.WithValue(ctx, tracedKey{}, &traced{sql: sql})
}

// TraceQueryStart implements pgx.QueryTracer.
func (t *tracer) TraceQueryStart(ctx context.Context, conn *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	if d.SQL == "rollback" && conn.IsClosed() { // the failure of the connection is counted already
		return context.WithValue(ctx, tracedKey{}, &traced{counted: true})
	}
	return begin(ctx, d.SQL)
}

// TraceQueryEnd implements pgx.QueryTracer.
func (t *tracer) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryEndData) {
	t.count(ctx, "query", d.Err)
}

// TraceBatchStart implements pgx.BatchTracer.
func (t *tracer) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return begin(ctx, "")
}

// TraceBatchQuery implements pgx.BatchTracer. TraceBatchEnd gets the same error.
func (t *tracer) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

// TraceBatchEnd implements pgx.BatchTracer. An unsent batch ends twice.
func (t *tracer) TraceBatchEnd(ctx context.Context, _ *pgx.Conn, d pgx.TraceBatchEndData) {
	t.count(ctx, "look-up", d.Err)
}

// TraceCopyFromStart implements pgx.CopyFromTracer.
func (t *tracer) TraceCopyFromStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceCopyFromStartData) context.Context {
	return begin(ctx, "COPY "+d.TableName.Sanitize())
}

// TraceCopyFromEnd implements pgx.CopyFromTracer.
func (t *tracer) TraceCopyFromEnd(ctx context.Context, _ *pgx.Conn, d pgx.TraceCopyFromEndData) {
	t.count(ctx, "copy", d.Err)
}

// TracePrepareStart implements pgx.PrepareTracer.
func (t *tracer) TracePrepareStart(ctx context.Context, _ *pgx.Conn, d pgx.TracePrepareStartData) context.Context {
	return begin(ctx, d.SQL)
}

// TracePrepareEnd implements pgx.PrepareTracer.
func (t *tracer) TracePrepareEnd(ctx context.Context, _ *pgx.Conn, d pgx.TracePrepareEndData) {
	t.count(ctx, "prepare", d.Err)
}

// TraceConnectStart implements pgx.ConnectTracer. The query that validates a connection is
// part of connecting.
func (t *tracer) TraceConnectStart(ctx context.Context, _ pgx.TraceConnectStartData) context.Context {
	return begin(ctx, "")
}

// TraceConnectEnd implements pgx.ConnectTracer.
func (t *tracer) TraceConnectEnd(ctx context.Context, d pgx.TraceConnectEndData) {
	t.count(ctx, "connect", d.Err)
}

// TraceAcquireStart implements pgxpool.AcquireTracer.
func (t *tracer) TraceAcquireStart(ctx context.Context, _ *pgxpool.Pool, _ pgxpool.TraceAcquireStartData) context.Context {
	return ctx
}

// TraceAcquireEnd implements pgxpool.AcquireTracer. A failure to connect is counted by
// TraceConnectEnd.
func (t *tracer) TraceAcquireEnd(ctx context.Context, _ *pgxpool.Pool, d pgxpool.TraceAcquireEndData) {
	if _, connecting := errors.AsType[*pgconn.ConnectError](d.Err); !connecting {
		t.count(ctx, "acquire", d.Err)
	}
}

// count counts and logs err if the database has failed; see reasonOf.
func (t *tracer) count(ctx context.Context, what string, err error) {
	reason := reasonOf(ctx, err)
	if reason == "" {
		return
	}
	attrs := []slog.Attr{slog.String("pool", t.name), slog.String("during", what), slog.String("reason", reason)}
	if r, ok := ctx.Value(tracedKey{}).(*traced); ok {
		if r.counted {
			return
		}
		r.counted = true
		if r.sql != "" {
			attrs = append(attrs, slog.String("sql", firstLine(r.sql)))
		}
	}
	t.onError(reason)
	t.log.LogAttrs(ctx, slog.LevelWarn, "database error", append(attrs, slog.Any("err", err))...)
}
