package main

import (
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"iam-service/internal/dev/await"
)

// traceCollector receives spans as an OpenTelemetry collector does: OTLP over HTTP, in protobuf.
type traceCollector struct {
	mu    sync.Mutex
	raw   strings.Builder // everything, as text
	spans map[string]*tracev1.Span
}

func (c *traceCollector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := uncompressed(r)
	var sent collectorv1.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(body, &sent)
	}
	if err != nil || r.URL.Path != "/v1/traces" || r.Header.Get("Authorization") != "Bearer of the collector" {
		http.Error(w, fmt.Sprint("no spans: ", err), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raw.WriteString(prototext.Format(&sent))
	for _, rs := range sent.GetResourceSpans() {
		for _, ss := range rs.GetScopeSpans() {
			for _, s := range ss.GetSpans() {
				c.spans[hex.EncodeToString(s.GetSpanId())] = s
			}
		}
	}
	answer, _ := proto.Marshal(&collectorv1.ExportTraceServiceResponse{}) // of an empty message
	w.Header().Set("Content-Type", "application/x-protobuf")
	_, _ = w.Write(answer)
}

// trace is a line for each span of a trace: where it came from, its ancestors and its name, its attributes.
func (c *traceCollector) trace(id string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var lines []string
	for _, s := range c.spans {
		if hex.EncodeToString(s.GetTraceId()) != id {
			continue
		}
		path, at := s.GetName(), s
		for {
			parent := c.spans[hex.EncodeToString(at.GetParentSpanId())]
			if parent == nil {
				break
			}
			path, at = parent.GetName()+" > "+path, parent
		}
		lines = append(lines, fmt.Sprintf("%x: %s [%s] %s", at.GetParentSpanId(), path,
			strings.ToLower(strings.TrimPrefix(s.GetKind().String(), "SPAN_KIND_")), attributesOf(s.GetAttributes())))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

func attributesOf(all []*commonv1.KeyValue) string {
	var b strings.Builder
	for _, kv := range all {
		switch v := kv.GetValue().GetValue().(type) {
		case *commonv1.AnyValue_StringValue:
			fmt.Fprintf(&b, "%s=%q ", kv.GetKey(), v.StringValue)
		case *commonv1.AnyValue_IntValue:
			fmt.Fprintf(&b, "%s=%d ", kv.GetKey(), v.IntValue)
		}
	}
	return b.String()
}

// tracingCommands are the commands of scripts about traces.
func tracingCommands() map[string]func(*testscript.TestScript, bool, []string) {
	return map[string]func(*testscript.TestScript, bool, []string){
		"traces": func(ts *testscript.TestScript, _ bool, _ []string) { // traces: a collector at OTEL_EXPORTER_OTLP_ENDPOINT
			c := ts.Value("traces").(*traceCollector)
			srv := httptest.NewServer(c)
			ts.Defer(srv.Close)
			ts.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", srv.URL)
		},
		"spans": func(ts *testscript.TestScript, _ bool, args []string) { // spans TRACE FILE REGEXP...: its spans, once a line matches each
			c := ts.Value("traces").(*traceCollector)
			var text string
			var missing []string
			found := await.Until(time.Minute, 20*time.Millisecond, func() bool {
				text = c.trace(args[0])
				missing = slices.DeleteFunc(slices.Clone(args[2:]), func(p string) bool { return regexp.MustCompile(`(?m)` + p).MatchString(text) })
				return len(missing) == 0
			})
			ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(text), 0o600))
			if !found {
				ts.Fatalf("no span %q in:\n%s", missing, text)
			}
		},
		"exported": func(ts *testscript.TestScript, _ bool, args []string) { // exported FILE: all that was exported, as text
			c := ts.Value("traces").(*traceCollector)
			c.mu.Lock()
			defer c.mu.Unlock()
			ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(c.raw.String()), 0o600))
		},
	}
}
