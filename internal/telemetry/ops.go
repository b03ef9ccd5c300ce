// Package telemetry owns the log, the registry of metrics and the listener for operators:
// /metrics, /healthz, /readyz, /policy/status and, on request, pprof.
//
// It does not know what a metric means: each package registers its own.
package telemetry

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/pprof"
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Check is one thing that readiness looks at.
type Check struct {
	Name string
	// Ask returns nil when all is well.
	Ask func() error
	// Degraded: a failure is shown where details are requested (?verbose), but does not make the service not ready. A
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
	// Tokens are bearer tokens (RFC 6750) of which a request must have one, but for the probes /healthz and /readyz
	// without details; none: no request needs one.
	Tokens   [][]byte
	stopping atomic.Bool
}

// Stopping makes the service not ready, for good.
func (o *Ops) Stopping() { o.stopping.Store(true) }

// Handler returns the operators' handler.
func (o *Ops) Handler() http.Handler {
	mux := http.NewServeMux()
	// OpenMetrics, for a scraper that accepts it: the text format has no exemplars.
	mux.Handle("GET /metrics", promhttp.HandlerFor(o.Registry, promhttp.HandlerOpts{EnableOpenMetrics: true}))
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
	return o.authenticated(mux)
}

// authenticated lets only requests with a token pass, and probes. Hashes are compared, all of them, so that the time
// says nothing of a token, nor of its length.
func (o *Ops) authenticated(next http.Handler) http.Handler {
	if len(o.Tokens) == 0 {
		return next
	}
	var known [][sha256.Size]byte
	for _, t := range o.Tokens {
		known = append(known, sha256.Sum256(t))
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		probe := r.URL.Path == "/healthz" || r.URL.Path == "/readyz" && r.URL.RawQuery == ""
		scheme, sent, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		sum, equal := sha256.Sum256([]byte(sent)), 0
		for i := range known {
			equal |= subtle.ConstantTimeCompare(sum[:], known[i][:])
		}
		if probe || strings.EqualFold(scheme, "Bearer") && equal == 1 {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("WWW-Authenticate", "Bearer")
		http.Error(w, "a bearer token is required: OPS_TOKEN", http.StatusUnauthorized)
	})
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

// readyz reports whether the replica is ready, and which checks fail.
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
	_ = e.Encode(v) // the operator has disconnected: there is no reader of the error
}
