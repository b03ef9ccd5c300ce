package postgres

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"iam-service/internal/telemetry/tracing"
)

// A message of the server can quote what was to be stored, such as a subject.
func TestASpanOfAFailedStatementQuotesNoValue(t *testing.T) {
	t.Parallel()
	exporter := tracetest.NewInMemoryExporter()
	traces := tracing.New(sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter)))
	s := newSpans(traces.Provider(), &pgx.ConnConfig{}, "facts")
	ctx, root := traces.Begin(context.Background(), tracing.Incoming{Name: "/route"})
	for _, err := range []error{
		&pgconn.PgError{Severity: "ERROR", Code: "22P02", Message: `invalid input syntax for type uuid: "canary"`, Detail: "canary"},
		fmt.Errorf("write canary: %w", context.DeadlineExceeded),
	} {
		started := s.TraceQueryStart(ctx, nil, pgx.TraceQueryStartData{SQL: "SELECT $1::uuid", Args: []any{"canary"}})
		s.TraceQueryEnd(started, nil, pgx.TraceQueryEndData{Err: err})
		started = s.TraceCopyFromStart(ctx, nil, pgx.TraceCopyFromStartData{TableName: pgx.Identifier{"outbox"}})
		s.TraceCopyFromEnd(started, nil, pgx.TraceCopyFromEndData{Err: err})
		started = s.TraceBatchStart(ctx, nil, pgx.TraceBatchStartData{})
		s.TraceBatchQuery(started, nil, pgx.TraceBatchQueryData{SQL: "SELECT $1", Args: []any{"canary"}, Err: err})
		s.TraceBatchEnd(started, nil, pgx.TraceBatchEndData{Err: err})
		started = s.TracePrepareStart(ctx, nil, pgx.TracePrepareStartData{SQL: "SELECT $1"})
		s.TracePrepareEnd(started, nil, pgx.TracePrepareEndData{Err: err})
		started = s.TraceConnectStart(ctx, pgx.TraceConnectStartData{ConnConfig: &pgx.ConnConfig{}})
		s.TraceConnectEnd(started, pgx.TraceConnectEndData{Err: err})
	}
	root.End()
	spans := exporter.GetSpans()
	all := fmt.Sprint(spans)
	if len(spans) < 11 || !strings.Contains(all, "22P02") || !strings.Contains(all, "SELECT $1::uuid") {
		t.Errorf("%d spans: %s", len(spans), all)
	}
	if strings.Contains(all, "canary") {
		t.Errorf("a span quotes a value: %s", all)
	}
}
