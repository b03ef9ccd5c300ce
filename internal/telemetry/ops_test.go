package telemetry_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"iam-service/internal/telemetry"
)

func TestOperatorsNeedTheTokenAndProbesDoNot(t *testing.T) {
	t.Parallel()
	old, current := strings.Repeat("o", 32), strings.Repeat("c", 32)
	ops := &telemetry.Ops{
		Registry: telemetry.NewRegistry(telemetry.Build{}), Policy: func() any { return nil }, Pprof: true, Tokens: [][]byte{[]byte(old), []byte(current)},
	}
	for name, c := range map[string]struct {
		path, sent string
		status     int
	}{
		"liveness probe":             {path: "/healthz", status: 200},
		"readiness probe":            {path: "/readyz", status: 200},
		"details":                    {path: "/readyz?verbose", status: 401},
		"metrics":                    {path: "/metrics", status: 401},
		"policy":                     {path: "/policy/status", status: 401},
		"version":                    {path: "/version", status: 401},
		"profiles":                   {path: "/debug/pprof/cmdline", status: 401},
		"an unknown path":            {path: "/nothing", status: 401},
		"metrics, with the token":    {path: "/metrics", sent: "Bearer " + current, status: 200},
		"metrics, with the old one":  {path: "/metrics", sent: "bearer " + old, status: 200},
		"metrics, with another":      {path: "/metrics", sent: "Bearer " + strings.Repeat("x", 32), status: 401},
		"metrics, with a part of it": {path: "/metrics", sent: "Bearer " + current[:31], status: 401},
		"metrics, as a password":     {path: "/metrics", sent: "Basic " + current, status: 401},
		"metrics, with nothing":      {path: "/metrics", sent: "Bearer ", status: 401},
	} {
		r := httptest.NewRequest(http.MethodGet, c.path, nil)
		if c.sent != "" {
			r.Header.Set("Authorization", c.sent)
		}
		w := httptest.NewRecorder()
		ops.Handler().ServeHTTP(w, r)
		if w.Code != c.status || c.status == 401 && w.Header().Get("WWW-Authenticate") != "Bearer" {
			t.Errorf("%s: %d", name, w.Code)
		}
	}
	open := &telemetry.Ops{Registry: ops.Registry, Policy: ops.Policy}
	w := httptest.NewRecorder()
	open.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != 200 {
		t.Errorf("without OPS_TOKEN: %d", w.Code)
	}
}
