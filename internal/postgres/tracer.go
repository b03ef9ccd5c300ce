package postgres

import (
	"context"
	"errors"
	"log/slog"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// tracer counts each failure of the database once, at the place that every way of asking it
// passes: queries and statements (those that begin and end transactions, LISTEN and pings among
// them), batches, COPY, prepared statements, connecting, and waiting for a free connection.
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

// traced is one request to the database. What it is made of is not counted apart: a query that
// is prepared first fails twice.
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
	if d.SQL == "rollback" && conn.IsClosed() { // what broke the connection was counted
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

// TraceBatchQuery implements pgx.BatchTracer: the end of the batch says the same.
func (t *tracer) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

// TraceBatchEnd implements pgx.BatchTracer. A batch that could not be sent ends twice.
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

// TraceConnectStart implements pgx.ConnectTracer. What is asked to validate a connection is part
// of connecting.
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

// TraceAcquireEnd implements pgxpool.AcquireTracer. A connection that could not be made was
// counted when it was tried.
func (t *tracer) TraceAcquireEnd(ctx context.Context, _ *pgxpool.Pool, d pgxpool.TraceAcquireEndData) {
	if _, connecting := errors.AsType[*pgconn.ConnectError](d.Err); !connecting {
		t.count(ctx, "acquire", d.Err)
	}
}

// count counts err, if it is a failure of the database, and logs it.
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
