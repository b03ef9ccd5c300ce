// Package tracing owns distributed tracing: the exporter of spans, the trace context of a request (W3C Trace
// Context), and what a span may say.
//
// It is off by default. Off means that there is no Tracing: every method of a nil *Tracing works, and does nothing.
// A caller's traceparent is then only remembered as it was sent, and read where a log line, a problem document or an
// event is written, so that these lead to the traces of a gateway that has some.
//
//	request ─▶ Begin ──▶ not sampled: the ids alone ──────────────▶ log lines, problems, events
//	             │
//	             └─────▶ sampled: a span ─▶ Start: its parts ─▶ End ─▶ batch ─▶ exporter
//
// A span never carries a token, a header, an address of a caller, a subject or an argument of a statement: packages
// set attributes of their own choice only. It does not know what is measured: each package starts its own spans.
package tracing

import (
	"context"
	"net/http"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// scope names what creates the spans.
const scope = "iam-service"

// Tracing creates spans. It is safe for concurrent use; nil: tracing is off.
type Tracing struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
}

// New returns a Tracing over a provider, which Close shuts down.
func New(provider *sdktrace.TracerProvider) *Tracing {
	return &Tracing{provider: provider, tracer: provider.Tracer(scope)}
}

// On reports whether spans are created at all.
func (t *Tracing) On() bool { return t != nil }

// Provider is what libraries create their spans with; nil where tracing is off.
func (t *Tracing) Provider() trace.TracerProvider {
	if t == nil {
		return nil
	}
	return t.provider
}

// Close exports what is pending. It returns when ctx ends at the latest.
func (t *Tracing) Close(ctx context.Context) error {
	if t == nil {
		return nil
	}
	return t.provider.Shutdown(ctx)
}

// Client returns a copy of an HTTP client whose calls are spans and carry the trace context.
func (t *Tracing) Client(c *http.Client) *http.Client {
	if t == nil {
		return c
	}
	traced := *c
	if traced.Transport == nil {
		traced.Transport = http.DefaultTransport
	}
	traced.Transport = otelhttp.NewTransport(traced.Transport, otelhttp.WithTracerProvider(t.provider), otelhttp.WithPropagators(w3c))
	return &traced
}

// w3c is the only propagator: baggage (W3C Baggage) can hold anything, personal data among it, and is not passed on.
var w3c propagation.TraceContext

// Incoming is a request as a caller sent it.
type Incoming struct {
	Name        string // of the span: a route, never a path
	TraceParent string // as it was sent; may be empty or invalid
	TraceState  string
	// Trusted callers continue their own trace, and decide whether it is sampled. Others get a trace of their own,
	// which is linked to what they sent: any client could have every request recorded otherwise.
	Trusted bool
}

// FromHeader reads the trace context of a request. A repeated traceparent is none.
func FromHeader(name string, h http.Header, trusted bool) Incoming {
	in := Incoming{Name: name, Trusted: trusted}
	if sent := h["Traceparent"]; len(sent) == 1 {
		in.TraceParent = sent[0]
		if state := h["Tracestate"]; len(state) == 1 {
			in.TraceState = state[0]
		}
	}
	return in
}

// extract returns ctx with what was sent. Its receiver is a copy, so that a request without a trace allocates nothing.
func (in Incoming) extract(ctx context.Context) context.Context { return w3c.Extract(ctx, &in) }

// Get implements propagation.TextMapCarrier.
func (in *Incoming) Get(key string) string {
	switch key {
	case "traceparent":
		return in.TraceParent
	case "tracestate":
		return in.TraceState
	}
	return ""
}

// Set implements propagation.TextMapCarrier.
func (in *Incoming) Set(string, string) {}

// Keys implements propagation.TextMapCarrier.
func (in *Incoming) Keys() []string { return nil }

var asServer = []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindServer)}

// Begin begins the span of a request, which its caller must end. Where tracing is off, the context only remembers
// what was sent.
func (t *Tracing) Begin(ctx context.Context, in Incoming) (context.Context, trace.Span) {
	if t == nil {
		return remember(ctx, in.TraceParent), none
	}
	if in.TraceParent == "" {
		return t.tracer.Start(ctx, in.Name, asServer...)
	}
	remote := in.extract(ctx)
	if in.Trusted {
		return t.tracer.Start(remote, in.Name, asServer...)
	}
	ctx, span := t.tracer.Start(ctx, in.Name, asServer...)
	if sent := trace.SpanContextFromContext(remote); span.IsRecording() && sent.IsValid() {
		span.AddLink(trace.Link{SpanContext: sent})
	}
	return ctx, span
}

// Response describes the response to a request.
type Response struct {
	Method string
	Route  string // never a path
	Status int
}

// methods are those that a span names; callers can invent others.
var methods = map[string]bool{
	http.MethodGet: true, http.MethodHead: true, http.MethodPost: true, http.MethodPut: true, http.MethodPatch: true,
	http.MethodDelete: true, http.MethodOptions: true, http.MethodConnect: true, http.MethodTrace: true,
}

// Served records the response to a request, by OpenTelemetry's conventions for HTTP servers. An empty attribute is
// left out.
func Served(span trace.Span, a Response, more ...attribute.KeyValue) {
	if !span.IsRecording() {
		return
	}
	if !methods[a.Method] {
		a.Method = "_OTHER"
	}
	attributes := []attribute.KeyValue{attribute.String("http.request.method", a.Method), attribute.Int("http.response.status_code", a.Status)}
	if a.Route != "" {
		span.SetName(a.Route)
		more = append(more, attribute.String("http.route", a.Route))
	}
	for _, kv := range more {
		if kv.Value.AsString() != "" {
			attributes = append(attributes, kv)
		}
	}
	span.SetAttributes(attributes...)
	if a.Status >= http.StatusInternalServerError {
		span.SetStatus(codes.Error, "")
	}
}

// none is the span that does nothing.
var none = trace.SpanFromContext(context.Background())

// Start begins a part of what ctx's span is about, if that is recorded. The caller must end it.
func Start(ctx context.Context, name string, attributes ...attribute.KeyValue) (context.Context, trace.Span) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, none
	}
	return parent.TracerProvider().Tracer(scope).Start(ctx, name, trace.WithAttributes(attributes...))
}

// End ends a part, as failed where err is not nil. Of err it records the code alone: its text may hold what a caller
// sent.
func End(span trace.Span, code string, err error) {
	if err != nil && span.IsRecording() {
		span.SetStatus(codes.Error, code)
	}
	span.End()
}

// Continue begins a span of work that a request left behind, such as an event, under its stored traceparent; a span
// that does nothing where that was not sampled, or tracing is off. The header is what to pass on.
func (t *Tracing) Continue(ctx context.Context, name, traceparent string, attributes ...attribute.KeyValue) (header string, span trace.Span) {
	if t == nil || traceparent == "" {
		return traceparent, none
	}
	remote := Incoming{TraceParent: traceparent}.extract(ctx)
	if !trace.SpanContextFromContext(remote).IsSampled() {
		return traceparent, none
	}
	ctx, span = t.tracer.Start(remote, name, trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(attributes...))
	return TraceParent(ctx), span
}

// Detached returns a context without deadline and values that continues the span of ctx, for work that others may
// wait for as well.
func Detached(ctx context.Context) context.Context {
	return trace.ContextWithSpan(context.Background(), trace.SpanFromContext(ctx))
}
