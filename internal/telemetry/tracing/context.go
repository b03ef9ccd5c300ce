package tracing

import (
	"context"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// remembered is a context with a traceparent that is not parsed before it is needed: most requests need none.
type remembered struct {
	context.Context //nolint:containedctx // it is one
	traceparent     string
}

type rememberedKey struct{}

func remember(ctx context.Context, traceparent string) context.Context {
	if traceparent == "" {
		return ctx
	}
	return &remembered{ctx, traceparent}
}

// Value implements context.Context.
func (r *remembered) Value(key any) any {
	if key == (rememberedKey{}) {
		return r.traceparent
	}
	return r.Context.Value(key)
}

// spanContext is that of the span of ctx, or of the caller's where tracing is off; it may be invalid.
func spanContext(ctx context.Context) trace.SpanContext {
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		return sc
	}
	sent, ok := ctx.Value(rememberedKey{}).(string)
	if !ok {
		return trace.SpanContext{}
	}
	return trace.SpanContextFromContext(Incoming{TraceParent: sent}.extract(context.Background()))
}

// IDs are the ids of a span, in hexadecimal; empty: there is none.
type IDs struct{ Trace, Span string }

// Of returns the ids that log lines and problem documents carry. Where tracing is off, they are those that the caller
// sent.
func Of(ctx context.Context) IDs {
	sc := spanContext(ctx)
	if !sc.IsValid() {
		return IDs{}
	}
	return IDs{sc.TraceID().String(), sc.SpanID().String()}
}

// Sampled returns the id of a trace that is recorded, for an exemplar; else "".
func Sampled(ctx context.Context) string {
	if sc := trace.SpanContextFromContext(ctx); sc.IsSampled() {
		return sc.TraceID().String()
	}
	return ""
}

// TraceParent is the context of ctx as the header carries it (W3C Trace Context, section 3.2); "" where there is none.
func TraceParent(ctx context.Context) string {
	sc := spanContext(ctx)
	if !sc.IsValid() {
		return ""
	}
	header := propagation.MapCarrier{}
	w3c.Inject(trace.ContextWithSpanContext(context.Background(), sc), header)
	return header["traceparent"]
}
