package tracing_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"iam-service/internal/telemetry"
	"iam-service/internal/telemetry/tracing"
)

const (
	sent    = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	sentID  = "4bf92f3577b34da6a3ce929d0e0e4736"
	sentSub = "00f067aa0ba902b7"
)

// recorded returns a Tracing and what it has exported.
func recorded(t *testing.T, sampler sdktrace.Sampler) (*tracing.Tracing, *tracetest.InMemoryExporter) {
	t.Helper()
	exporter := tracetest.NewInMemoryExporter()
	tr := tracing.New(sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter), sdktrace.WithSampler(sampler)))
	t.Cleanup(func() { _ = tr.Close(context.Background()) })
	return tr, exporter
}

func TestATrustedCallerContinuesItsTrace(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		header  http.Header
		trusted bool
		trace   string // "": a new one
		parent  string
		links   int
	}{
		"trusted":               {header: http.Header{"Traceparent": {sent}}, trusted: true, trace: sentID, parent: sentSub},
		"not trusted":           {header: http.Header{"Traceparent": {sent}}, links: 1},
		"trusted and malformed": {header: http.Header{"Traceparent": {"00-xyz"}}, trusted: true},
		"trusted and repeated":  {header: http.Header{"Traceparent": {sent, sent}}, trusted: true},
		"nothing sent":          {trusted: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr, exporter := recorded(t, sdktrace.ParentBased(sdktrace.AlwaysSample()))
			ctx, span := tr.Begin(context.Background(), tracing.FromHeader("/route", c.header, c.trusted))
			_, part := tracing.Start(ctx, "part")
			tracing.End(part, "code", errors.New("secret text"))
			tracing.Served(span, tracing.Response{Method: "BREW", Route: "/route", Status: 503})
			span.End()
			spans := exporter.GetSpans()
			if len(spans) != 2 {
				t.Fatalf("%d spans", len(spans))
			}
			inner, outer := spans[0], spans[1]
			if inner.Parent.SpanID() != outer.SpanContext.SpanID() || inner.SpanContext.TraceID() != outer.SpanContext.TraceID() {
				t.Error("the part is not below the request")
			}
			id := outer.SpanContext.TraceID().String()
			if c.trace != "" && id != c.trace || c.trace == "" && id == sentID {
				t.Errorf("the trace is %s", id)
			}
			if got := outer.Parent.SpanID(); got.IsValid() != (c.parent != "") || got.IsValid() && got.String() != c.parent {
				t.Errorf("the parent is %s", got)
			}
			if len(outer.Links) != c.links {
				t.Errorf("%d links", len(outer.Links))
			}
			if all := fmt.Sprint(spans); strings.Contains(all, "secret text") || strings.Contains(all, "BREW") {
				t.Errorf("a span says what a caller sent: %s", all)
			}
		})
	}
}

func TestARequestThatIsNotSampledHasNoPartsAndStillAnID(t *testing.T) {
	t.Parallel()
	tr, exporter := recorded(t, sdktrace.ParentBased(sdktrace.NeverSample()))
	ctx, span := tr.Begin(context.Background(), tracing.Incoming{Name: "/route"})
	inner, part := tracing.Start(ctx, "part")
	if inner != ctx || part.IsRecording() || tracing.Sampled(ctx) != "" {
		t.Error("a part is recorded")
	}
	part.End()
	span.End()
	if len(exporter.GetSpans()) != 0 || tracing.Of(ctx).Trace == "" {
		t.Errorf("%d spans, trace %q", len(exporter.GetSpans()), tracing.Of(ctx).Trace)
	}
}

func TestWithTracingOffTheSentContextIsRemembered(t *testing.T) {
	t.Parallel()
	var off *tracing.Tracing
	type key struct{}
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), key{}, "value"))
	ctx, span := off.Begin(ctx, tracing.FromHeader("/route", http.Header{"Traceparent": {sent}}, false))
	span.End()
	if got := tracing.Of(ctx); got.Trace != sentID || got.Span != sentSub {
		t.Errorf("it is %+v", got)
	}
	if got := tracing.TraceParent(ctx); got != sent {
		t.Errorf("it is passed on as %q", got)
	}
	if tracing.Sampled(ctx) != "" {
		t.Error("an exemplar would lead to a trace that has no span of ours")
	}
	var out bytes.Buffer
	telemetry.NewLogger(&out, slog.LevelInfo).With(slog.Int("n", 1)).InfoContext(ctx, "line")
	if !strings.Contains(out.String(), `"n":1,"trace_id":"`+sentID+`","span_id":"`+sentSub+`"}`) {
		t.Errorf("the log has %s", out.String())
	}
	child, end := context.WithTimeout(ctx, 1<<40)
	defer end()
	if cancel(); child.Err() == nil || ctx.Value(key{}) != "value" {
		t.Error("the context has lost its parent")
	}
	if empty, _ := off.Begin(context.Background(), tracing.Incoming{}); empty != context.Background() || tracing.Of(empty).Trace != "" {
		t.Error("a request without a trace has one")
	}
	client := &http.Client{}
	if off.Client(client) != client || off.Provider() != nil || off.Close(ctx) != nil || off.On() {
		t.Error("it is not off")
	}
}

func TestWorkLeftBehindContinuesItsTrace(t *testing.T) {
	t.Parallel()
	tr, exporter := recorded(t, sdktrace.AlwaysSample())
	for name, c := range map[string]struct {
		stored string
		spans  int
	}{
		"sampled":     {sent, 1},
		"not sampled": {sent[:len(sent)-1] + "0", 0},
		"none":        {"", 0},
	} {
		exporter.Reset()
		header, span := tr.Continue(context.Background(), "publish", c.stored)
		span.End()
		if got := exporter.GetSpans(); len(got) != c.spans || c.spans == 1 && got[0].Parent.SpanID().String() != sentSub {
			t.Errorf("%s: %v", name, got)
		}
		if c.spans == 0 && header != c.stored || c.spans == 1 && (header == c.stored || !strings.HasPrefix(header, "00-"+sentID)) {
			t.Errorf("%s: %q is passed on", name, header)
		}
	}
}

func TestEachInvalidSettingIsNamed(t *testing.T) {
	t.Parallel()
	good := tracing.Config{Protocol: "grpc", Sampler: "parentbased_traceidratio", Ratio: "0.01", Endpoint: "https://c:4317", Headers: "a=b%20c,d=e"}
	good.Check(func(format string, args ...any) { t.Errorf(format, args...) })
	for want, c := range map[string]tracing.Config{
		"OTEL_TRACES_EXPORTER":               {Exporter: "zipkin", Protocol: "grpc", Sampler: "always_on"},
		"OTEL_EXPORTER_OTLP_PROTOCOL":        {Protocol: "http/json", Sampler: "always_on"},
		"OTEL_EXPORTER_OTLP_ENDPOINT":        {Protocol: "grpc", Sampler: "always_on", Endpoint: "collector:4317"},
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": {Protocol: "grpc", Sampler: "always_on", Traces: "ftp://x"},
		"OTEL_EXPORTER_OTLP_HEADERS":         {Protocol: "grpc", Sampler: "always_on", Headers: "canary"},
		"OTEL_TRACES_SAMPLER":                {Protocol: "grpc", Sampler: "jaeger_remote"},
		"OTEL_TRACES_SAMPLER_ARG":            {Protocol: "grpc", Sampler: "traceidratio", Ratio: "1.1"},
	} {
		var got []string
		c.Check(func(format string, args ...any) { got = append(got, fmt.Sprintf(format, args...)) })
		if len(got) != 1 || !strings.HasPrefix(got[0], want+" ") || strings.Contains(got[0], "canary") {
			t.Errorf("%s: %q", want, got)
		}
	}
}
