package gateway_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc/metadata"

	"iam-service/internal/gateway"
	"iam-service/internal/iam"
	"iam-service/internal/problem"
	"iam-service/internal/telemetry/tracing"
)

const (
	traceID     = "4bf92f3577b34da6a3ce929d0e0e4736"
	traceparent = "00-" + traceID + "-00f067aa0ba902b7-01"
)

// A gateway's trace is continued in each protocol, if the gateway is trusted, and its problem document names the trace.
func TestAGatewaysTraceIsContinuedInEachProtocol(t *testing.T) {
	t.Parallel()
	profiles, err := gateway.Profiles("traefik", "opa")
	if err != nil {
		t.Fatal(err)
	}
	stale := failing(func(context.Context) error { return &iam.Error{Kind: iam.Unavailable, Code: "facts_stale"} })
	http503 := func(method, path, body string) func(*testing.T, *gateway.Service) string {
		return func(_ *testing.T, s *gateway.Service) string {
			r := httptest.NewRequest(method, path, strings.NewReader(body))
			r.RemoteAddr = "127.0.0.1:1"
			r.Header.Set("Traceparent", traceparent)
			w := httptest.NewRecorder()
			s.Handler().ServeHTTP(w, r)
			return w.Body.String()
		}
	}
	for name, c := range map[string]struct {
		span string
		ask  func(*testing.T, *gateway.Service) string
	}{
		"forward auth": {span: "/system/enrich-token", ask: http503(http.MethodGet, "/system/enrich-token", "")},
		"data API": {span: gateway.DataPath, ask: http503(http.MethodPost, gateway.DataPath,
			`{"input":{"request":{"http":{"method":"GET","path":"/","host":"a","scheme":"https","headers":{}}},"client_ip":"10.0.0.1"}}`)},
		"gRPC": {span: "/envoy.service.auth.v3.Authorization/Check", ask: func(t *testing.T, s *gateway.Service) string {
			t.Helper()
			conn := connect(t, s.NewExtAuthz(nil), nil)
			out, err := authv3.NewAuthorizationClient(conn).Check(metadata.AppendToOutgoingContext(context.Background(), "traceparent", traceparent), &authv3.CheckRequest{})
			if err != nil {
				t.Fatal(err)
			}
			return out.GetDeniedResponse().GetBody()
		}},
	} {
		for how, trusted := range map[string]bool{"trusted": true, "not trusted": false} {
			t.Run(name+"/"+how, func(t *testing.T) {
				t.Parallel()
				exporter := tracetest.NewInMemoryExporter()
				cfg := gateway.Config{
					Enricher: stale, Profiles: profiles, Headers: []string{"X-User-Id"}, Log: slog.New(slog.DiscardHandler),
					Observe: func(context.Context, problem.Observation) {},
					Tracing: tracing.New(sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter))),
				}
				if trusted {
					cfg.Trusted = problem.Proxies{netip.MustParsePrefix("127.0.0.0/8")}
				}
				body := c.ask(t, gateway.New(cfg))
				spans := exporter.GetSpans()
				if len(spans) != 1 || spans[0].Name != c.span {
					t.Fatalf("%+v", spans)
				}
				id := spans[0].SpanContext.TraceID().String()
				if (id == traceID) != trusted || !strings.Contains(body, `"trace_id":"`+id+`"`) {
					t.Errorf("the trace is %s, the response %s", id, body)
				}
				cfg.Tracing = nil
				if body := c.ask(t, gateway.New(cfg)); !strings.Contains(body, `"trace_id":"`+traceID+`"`) {
					t.Errorf("with tracing off: %s", body)
				}
			})
		}
	}
}
