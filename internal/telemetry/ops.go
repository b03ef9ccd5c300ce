// Package telemetry owns the log, the registry of metrics and the listener for operators:
// /metrics, /healthz, /readyz, /policy/status and, on request, pprof.
//
// It does not know what a metric means: each package registers its own.
package telemetry

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/pprof"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Check is one thing that readiness looks at.
type Check struct {
	Name string
	// Ask returns nil when all is well.
	Ask func() error
	// Degraded: a failure is shown where details are asked for (?verbose), but does not make the service not ready. A
	// dependency that all replicas share is of this kind while the replica can still
	// answer: removing all replicas would not help.
	Degraded bool
}

// Ops serves the operators' listener.
type Ops struct {
	Registry *prometheus.Registry
	Checks   []Check
	Policy   func() any // for /policy/status
	Build    Build
	Pprof    bool // serve /debug/pprof/
	stopping atomic.Bool
}

// Stopping makes the service not ready, for good.
func (o *Ops) Stopping() { o.stopping.Store(true) }

// Handler returns the operators' handler.
func (o *Ops) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(o.Registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", o.readyz)
	mux.HandleFunc("GET /policy/status", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, o.Policy()) })
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, o.Build) })
	if o.Pprof { // a profile costs CPU, and shows what is in memory
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// Ready reports whether requests should come here, as /readyz does.
func (o *Ops) Ready() bool {
	for _, c := range o.Checks {
		if !c.Degraded && c.Ask() != nil {
			return false
		}
	}
	return !o.stopping.Load()
}

type checkResult struct {
	Name   string `json:"name"`
	State  string `json:"state"` // ok, degraded, failed
	Detail string `json:"detail,omitempty"`
}

// readyz says whether requests should come here, and what is not well.
func (o *Ops) readyz(w http.ResponseWriter, r *http.Request) {
	status, state := http.StatusOK, "ready"
	results := make([]checkResult, 0, len(o.Checks)+1)
	if o.stopping.Load() {
		status, state = http.StatusServiceUnavailable, "stopping"
	}
	verbose := r.URL.Query().Has("verbose")
	for _, c := range o.Checks {
		if c.Degraded && !verbose {
			continue // it changes nothing, and a dependency that hangs must not hold the probe up
		}
		res := checkResult{Name: c.Name, State: "ok"}
		if err := c.Ask(); err != nil {
			res.State, res.Detail = "failed", err.Error()
			if c.Degraded {
				res.State = "degraded"
			} else if status == http.StatusOK {
				status, state = http.StatusServiceUnavailable, "not ready"
			}
		}
		if res.State != "ok" || verbose {
			results = append(results, res)
		}
	}
	writeJSON(w, status, map[string]any{"state": state, "checks": results})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(v) // the operator is gone; nothing left to tell
}
