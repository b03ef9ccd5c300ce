package tracing

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// Config are the variables of OpenTelemetry that we read, see
// https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/. The exporter and the SDK read the
// others by themselves.
type Config struct {
	Disabled bool   // OTEL_SDK_DISABLED
	Exporter string // OTEL_TRACES_EXPORTER: otlp, console or none; "": otlp where an endpoint is set, else none
	Protocol string // OTEL_EXPORTER_OTLP_PROTOCOL: http/protobuf or grpc
	Endpoint string // OTEL_EXPORTER_OTLP_ENDPOINT: of all signals
	Traces   string // OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: of traces, as it is
	Headers  string // OTEL_EXPORTER_OTLP_HEADERS: name=value,…
	Sampler  string // OTEL_TRACES_SAMPLER
	Ratio    string // OTEL_TRACES_SAMPLER_ARG
	Service  string // OTEL_SERVICE_NAME
	Version  string

	Log      *slog.Logger
	Console  io.Writer // of the exporter "console"
	Registry prometheus.Registerer
}

// enabled is the exporter; "none": tracing is off.
func (c *Config) enabled() string {
	switch {
	case c.Disabled:
		return "none"
	case c.Exporter != "":
		return c.Exporter
	case c.Endpoint != "" || c.Traces != "":
		return "otlp"
	}
	return "none"
}

// Check reports each invalid setting, by variable.
func (c *Config) Check(fault func(format string, args ...any)) {
	switch c.Exporter {
	case "", "otlp", "console", "none":
	default:
		fault("OTEL_TRACES_EXPORTER must be otlp, console or none, is %q", c.Exporter)
	}
	switch c.Protocol {
	case "http/protobuf", "grpc":
	default:
		fault("OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf or grpc, is %q", c.Protocol)
	}
	for name, v := range map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": c.Endpoint, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": c.Traces} {
		if u, err := url.Parse(v); v != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
			fault("%s must be a URL such as http://collector:4318", name)
		}
	}
	if _, err := headersOf(c.Headers); err != nil {
		fault("OTEL_EXPORTER_OTLP_HEADERS %v", err)
	}
	if _, err := c.sampler(); err != nil {
		fault("%v", err)
	}
}

// headersOf parses name=value,… with percent-encoded values (the format of W3C Baggage).
func headersOf(list string) (map[string]string, error) {
	if strings.TrimSpace(list) == "" {
		return nil, nil
	}
	headers := map[string]string{}
	for pair := range strings.SplitSeq(list, ",") {
		name, value, ok := strings.Cut(pair, "=")
		name = strings.TrimSpace(name)
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if !ok || name == "" || err != nil {
			return nil, errors.New("must be name=value, comma-separated, with percent-encoded values")
		}
		headers[name] = value
	}
	return headers, nil
}

// sampler decides which requests are recorded.
func (c *Config) sampler() (sdktrace.Sampler, error) {
	ratio := 1.
	if c.Ratio != "" {
		var err error
		if ratio, err = strconv.ParseFloat(c.Ratio, 64); err != nil || ratio < 0 || ratio > 1 {
			return nil, fmt.Errorf("OTEL_TRACES_SAMPLER_ARG must be a share of all requests, 0 to 1, is %q", c.Ratio)
		}
	}
	byRatio := sdktrace.TraceIDRatioBased(ratio)
	switch c.Sampler {
	case "always_on":
		return sdktrace.AlwaysSample(), nil
	case "always_off":
		return sdktrace.NeverSample(), nil
	case "traceidratio":
		return byRatio, nil
	case "parentbased_always_on":
		return sdktrace.ParentBased(sdktrace.AlwaysSample()), nil
	case "parentbased_always_off":
		return sdktrace.ParentBased(sdktrace.NeverSample()), nil
	case "parentbased_traceidratio":
		return sdktrace.ParentBased(byRatio), nil
	}
	return nil, fmt.Errorf("OTEL_TRACES_SAMPLER must be always_on, always_off, traceidratio, parentbased_always_on, parentbased_always_off or "+
		"parentbased_traceidratio, is %q", c.Sampler)
}

// Open returns a Tracing; nil where the settings leave it off. It does not wait for a collector.
func Open(ctx context.Context, c Config) (*Tracing, error) {
	kind := c.enabled()
	if kind == "none" {
		return nil, nil //nolint:nilnil // off
	}
	sampler, err := c.sampler()
	if err != nil {
		return nil, err
	}
	exporter, err := c.exporter(ctx, kind)
	if err != nil {
		return nil, err
	}
	host, _ := os.Hostname() // "": not known
	about, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithAttributes(attribute.String("service.version", c.Version), attribute.String("service.instance.id", host)),
		resource.WithFromEnv(), // OTEL_RESOURCE_ATTRIBUTES
		resource.WithAttributes(attribute.String("service.name", c.Service)),
	)
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	report := &reporter{SpanExporter: exporter, log: c.Log, spans: spanCounter(c.Registry)}
	// What the SDK itself finds wrong. It is one for the process, and would write to stderr by itself.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(report.warn))
	return New(sdktrace.NewTracerProvider(sdktrace.WithBatcher(report), sdktrace.WithSampler(sampler), sdktrace.WithResource(about))), nil
}

func (c *Config) exporter(ctx context.Context, kind string) (sdktrace.SpanExporter, error) {
	if kind == "console" {
		return stdouttrace.New(stdouttrace.WithWriter(c.Console))
	}
	headers, err := headersOf(c.Headers)
	if err != nil {
		return nil, err
	}
	if c.Protocol == "grpc" {
		var options []otlptracegrpc.Option
		if at := firstOf(c.Traces, c.Endpoint); at != "" {
			options = append(options, otlptracegrpc.WithEndpointURL(at))
		}
		if headers != nil {
			options = append(options, otlptracegrpc.WithHeaders(headers))
		}
		return otlptracegrpc.New(ctx, options...)
	}
	at := c.Traces
	if at == "" && c.Endpoint != "" {
		at = strings.TrimSuffix(c.Endpoint, "/") + "/v1/traces"
	}
	var options []otlptracehttp.Option
	if at != "" {
		options = append(options, otlptracehttp.WithEndpointURL(at))
	}
	if headers != nil {
		options = append(options, otlptracehttp.WithHeaders(headers))
	}
	return otlptracehttp.New(ctx, options...)
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// spanCounter registers iam_trace_spans_total.
func spanCounter(r prometheus.Registerer) *prometheus.CounterVec {
	spans := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "iam_trace_spans_total",
		Help: "Spans that were handed to the exporter, by result: exported, failed.",
	}, []string{"result"})
	r.MustRegister(spans)
	for _, result := range []string{"exported", "failed"} {
		spans.WithLabelValues(result)
	}
	return spans
}

// reporter counts spans, and logs failures of the exporter: a line a minute, since each batch fails alike.
type reporter struct {
	sdktrace.SpanExporter
	log    *slog.Logger
	spans  *prometheus.CounterVec
	logged atomic.Int64 // when, in Unix seconds
}

// ExportSpans implements sdktrace.SpanExporter.
func (r *reporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if err := r.SpanExporter.ExportSpans(ctx, spans); err != nil {
		r.spans.WithLabelValues("failed").Add(float64(len(spans)))
		r.warn(err)
		return nil // reported
	}
	r.spans.WithLabelValues("exported").Add(float64(len(spans)))
	return nil
}

func (r *reporter) warn(err error) {
	now, last := time.Now().Unix(), r.logged.Load()
	if now-last >= 60 && r.logged.CompareAndSwap(last, now) {
		r.log.Warn("traces are not exported", slog.Any("err", err))
	}
}
