package postgres

import (
	"context"
	"errors"

	"github.com/exaring/otelpgx"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/multitracer"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// spans are the spans of statements, of requests that are recorded. They have the SQL, which holds no values, and of
// an error its code alone: a message of the server can quote a value.
type spans struct{ *otelpgx.Tracer }

// newSpans returns the tracer of a pool's connections.
func newSpans(provider trace.TracerProvider, c *pgx.ConnConfig, pool string) spans {
	return spans{otelpgx.NewTracer(
		otelpgx.WithTracerProvider(provider),
		otelpgx.WithDisableConnectionDetailsInAttributes(), // else the configuration is copied for each statement
		otelpgx.WithTracerAttributes(
			attribute.String("server.address", c.Host),
			attribute.Int("server.port", int(c.Port)),
			attribute.String("db.namespace", c.Database),
			attribute.String("iam.pool", pool),
		),
	)}
}

// traceWith returns what traces connections: counted counts failures, and provider, which may be nil, has spans.
func traceWith(counted *tracer, provider trace.TracerProvider, c *pgx.ConnConfig) pgx.QueryTracer {
	if provider == nil {
		return counted
	}
	return multitracer.New(counted, newSpans(provider, c, counted.name))
}

// withoutText is an error without what a message of the server may quote.
func withoutText(err error) error {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return &pgconn.PgError{Severity: pg.Severity, Code: pg.Code, Message: "see the log"}
	}
	if err == nil || errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	return errSeeLog
}

var errSeeLog = errors.New("failed: see the log")

// TraceQueryEnd implements pgx.QueryTracer.
func (s spans) TraceQueryEnd(ctx context.Context, conn *pgx.Conn, d pgx.TraceQueryEndData) {
	d.Err = withoutText(d.Err)
	s.Tracer.TraceQueryEnd(ctx, conn, d)
}

// TraceBatchQuery implements pgx.BatchTracer.
func (s spans) TraceBatchQuery(ctx context.Context, conn *pgx.Conn, d pgx.TraceBatchQueryData) {
	d.Err = withoutText(d.Err)
	s.Tracer.TraceBatchQuery(ctx, conn, d)
}

// TraceBatchEnd implements pgx.BatchTracer.
func (s spans) TraceBatchEnd(ctx context.Context, conn *pgx.Conn, d pgx.TraceBatchEndData) {
	d.Err = withoutText(d.Err)
	s.Tracer.TraceBatchEnd(ctx, conn, d)
}

// TraceCopyFromEnd implements pgx.CopyFromTracer.
func (s spans) TraceCopyFromEnd(ctx context.Context, conn *pgx.Conn, d pgx.TraceCopyFromEndData) {
	d.Err = withoutText(d.Err)
	s.Tracer.TraceCopyFromEnd(ctx, conn, d)
}

// TracePrepareEnd implements pgx.PrepareTracer.
func (s spans) TracePrepareEnd(ctx context.Context, conn *pgx.Conn, d pgx.TracePrepareEndData) {
	d.Err = withoutText(d.Err)
	s.Tracer.TracePrepareEnd(ctx, conn, d)
}

// TraceConnectEnd implements pgx.ConnectTracer.
func (s spans) TraceConnectEnd(ctx context.Context, d pgx.TraceConnectEndData) {
	d.Err = withoutText(d.Err)
	s.Tracer.TraceConnectEnd(ctx, d)
}

// TraceAcquireEnd implements pgxpool.AcquireTracer.
func (s spans) TraceAcquireEnd(ctx context.Context, pool *pgxpool.Pool, d pgxpool.TraceAcquireEndData) {
	d.Err = withoutText(d.Err)
	s.Tracer.TraceAcquireEnd(ctx, pool, d)
}
