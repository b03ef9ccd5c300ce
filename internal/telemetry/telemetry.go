// Package telemetry owns logs, metrics and the listener for operators: /metrics,
// /healthz, /readyz, /policy/status and, if that is asked for, pprof.
//
// It does not know what the figures mean: owners of figures hand them in.
package telemetry

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/pprof"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Build says what program this is.
type Build struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Go       string `json:"go"`
}

// ReadBuild reads what the Go tool has noted, unless version says otherwise.
func ReadBuild(version string) Build {
	b := Build{Version: version, Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if b.Version == "" {
		b.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			b.Revision = s.Value
		}
	}
	return b
}

// Metrics are the figures that are counted as things happen. Their names are part
// of what operators rely on.
type Metrics struct {
	Registry *prometheus.Registry

	requests  *prometheus.CounterVec
	durations *prometheus.HistogramVec
	database  *prometheus.CounterVec
	idp       *prometheus.CounterVec
	published *prometheus.CounterVec
	drift     *prometheus.GaugeVec
	repairs   *prometheus.CounterVec
	eventBus  *prometheus.CounterVec
	decisions *prometheus.CounterVec
	evaluated prometheus.Histogram
	offers    *prometheus.CounterVec
	panics    *prometheus.CounterVec
	rejected  *prometheus.CounterVec

	requestSeries  resolved[requestKey, requestSeries]
	decisionSeries resolved[decisionKey, prometheus.Counter]
	delay          prometheus.Histogram
}

// resolved keeps what label values lead to, so that a request looks it up without
// garbage. There are few, so the map is copied for each new one.
type resolved[K comparable, V any] struct {
	mu  sync.Mutex
	all atomic.Pointer[map[K]V]
}

func (r *resolved[K, V]) get(k K, resolve func() V) V {
	if all := r.all.Load(); all != nil {
		if v, ok := (*all)[k]; ok {
			return v
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	next := map[K]V{}
	if all := r.all.Load(); all != nil {
		maps.Copy(next, *all)
	}
	v, ok := next[k]
	if !ok {
		v = resolve()
		next[k] = v
		r.all.Store(&next)
	}
	return v
}

// NewMetrics registers all metrics on a registry of its own, those of errors with
// the value 0 from the start: an alert cannot fire on a series that is not there.
func NewMetrics(b Build, databaseReasons []string) *Metrics {
	m := &Metrics{
		Registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "http_requests_total", Help: "Requests by route without its version, gateway profile, method and status.",
		}, []string{"handler", "gateway", "method", "code"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "http_request_duration_seconds", Help: "Time from the first byte read to the last one written.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .2, .5, 1, 5},
		}, []string{"handler"}),
		database: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "database_errors_total", Help: "Failures of the database itself; a missing row or a broken constraint is none.",
		}, []string{"reason"}),
		idp: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "idp_adapter_errors_total", Help: "Failed calls to an identity provider.",
		}, []string{"operation", "reason"}),
		published: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "iam_events_published_total", Help: "Events that the bus has taken, by type.",
		}, []string{"type"}),
		eventBus: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "event_bus_errors_total", Help: "Failures of the bus: unavailable, refused (an event for itself), stream (missing or unfit).",
		}, []string{"reason"}),
		drift: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "iam_client_drift", Help: "Clients that differ from the identity provider, by kind, as this replica has seen it last.",
		}, []string{"kind"}),
		repairs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "iam_client_repairs_total", Help: "Clients that differed from the identity provider: repaired, failed, or stopped because there were too many at once.",
		}, []string{"outcome"}),
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "iam_decisions_total", Help: "Enrichments by outcome (allowed, denied, error) and the first reason's code.",
		}, []string{"outcome", "code"}),
		evaluated: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "iam_policy_evaluation_seconds", Help: "Own time of policy evaluations, without waiting for facts.",
			Buckets: []float64{.00005, .0001, .0002, .0005, .001, .002, .005, .01, .02, .05},
		}),
		offers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "iam_policy_candidates_total", Help: "Policies that were offered to the gate.",
		}, []string{"result"}),
		panics: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "iam_panics_total", Help: "Panics in the background that were recovered, by where; each is a fault of this program.",
		}, []string{"where"}),
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "iam_tokens_rejected_total", Help: "Access tokens that were rejected (401), by reason; docs/configuration.md says what each means.",
		}, []string{"reason"}),
	}
	m.delay = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "iam_feed_delay_seconds", Help: "Time from sending a beat of our own through the pool to hearing it, its durable commit included: how late a change is heard.",
		Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2},
	})
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "iam_build_info", Help: "What program this is; always 1.",
		ConstLabels: prometheus.Labels{"version": b.Version, "revision": b.Revision, "go": b.Go},
	})
	info.Set(1)
	m.Registry.MustRegister(m.requests, m.durations, m.database, m.idp, m.published, m.eventBus, m.drift, m.repairs, m.decisions, m.evaluated, m.offers, m.panics, m.rejected, m.delay, info,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, r := range databaseReasons {
		m.database.WithLabelValues(r)
	}
	m.IdPErrors([]string{"discovery", "jwks", "introspect"}, []string{"timeout", "connection", "unauthorized", "forbidden", "rate_limited", "server_error", "bad_response"})
	m.idp.WithLabelValues("jwks", "no_usable_key")
	for _, r := range []string{"unavailable", "refused", "stream"} {
		m.eventBus.WithLabelValues(r)
	}
	for _, r := range []string{"repaired", "failed", "stopped"} {
		m.repairs.WithLabelValues(r)
	}
	for _, where := range []string{"shadow", "preview", "decision_log"} {
		m.panics.WithLabelValues(where)
	}
	for _, r := range []string{"accepted", "refused"} {
		m.offers.WithLabelValues(r)
	}
	return m
}

type requestKey struct {
	handler, gateway, method string
	status                   int
}

type decisionKey struct{ outcome, code string }

type requestSeries struct {
	count prometheus.Counter
	took  prometheus.Observer
}

// methods that are labels by their own name; any client can make up others.
var methods = map[string]bool{
	http.MethodGet: true, http.MethodHead: true, http.MethodPost: true, http.MethodPut: true, http.MethodPatch: true,
	http.MethodDelete: true, http.MethodOptions: true, http.MethodConnect: true, http.MethodTrace: true,
}

// Request counts one request and its duration.
func (m *Metrics) Request(handler, gateway, method string, status int, took time.Duration) {
	if !methods[method] {
		method = "other"
	}
	s := m.requestSeries.get(requestKey{handler, gateway, method, status}, func() requestSeries {
		return requestSeries{
			m.requests.WithLabelValues(handler, gateway, method, strconv.Itoa(status)), m.durations.WithLabelValues(handler),
		}
	})
	s.count.Inc()
	s.took.Observe(took.Seconds())
}

// DatabaseError counts one.
func (m *Metrics) DatabaseError(reason string) { m.database.WithLabelValues(reason).Inc() }

// IdPErrors makes the series of operations and reasons, so that a first failure is an
// increase.
func (m *Metrics) IdPErrors(operations, reasons []string) {
	for _, op := range operations {
		for _, r := range reasons {
			m.idp.WithLabelValues(op, r)
		}
	}
}

// IdPError counts one.
func (m *Metrics) IdPError(operation, reason string) { m.idp.WithLabelValues(operation, reason).Inc() }

// TokenRejections makes the series of a reason, so that a first rejection is an increase.
func (m *Metrics) TokenRejections(reason string) { m.rejected.WithLabelValues(reason) }

// TokenRejected counts one.
func (m *Metrics) TokenRejected(reason string) { m.rejected.WithLabelValues(reason).Inc() }

// Repaired counts what became of a difference between us and the identity provider.
func (m *Metrics) Repaired(outcome string) { m.repairs.WithLabelValues(outcome).Inc() }

// Drift notes how many clients differ in one way.
func (m *Metrics) Drift(kind string, n int) { m.drift.WithLabelValues(kind).Set(float64(n)) }

// Published counts an event that the bus has taken.
func (m *Metrics) Published(kind string) { m.published.WithLabelValues(kind).Inc() }

// EventBusError counts a failure of the bus.
func (m *Metrics) EventBusError(reason string) { m.eventBus.WithLabelValues(reason).Inc() }

// Decision counts one. Codes come from the METADATA of policies, so they are few.
func (m *Metrics) Decision(outcome, code string, took time.Duration) {
	m.decisionSeries.get(decisionKey{outcome, code}, func() prometheus.Counter {
		return m.decisions.WithLabelValues(outcome, code)
	}).Inc()
	if took > 0 {
		m.evaluated.Observe(took.Seconds())
	}
}

// FeedDelay observes how long a beat was under way.
func (m *Metrics) FeedDelay(d time.Duration) { m.delay.Observe(d.Seconds()) }

// Candidate counts a policy that was offered.
func (m *Metrics) Candidate(accepted bool) {
	result := "refused"
	if accepted {
		result = "accepted"
	}
	m.offers.WithLabelValues(result).Inc()
}

// Panic counts one that was recovered.
func (m *Metrics) Panic(where string) { m.panics.WithLabelValues(where).Inc() }

// Gauge registers a figure that is read when it is asked for.
func (m *Metrics) Gauge(name, help string, labels prometheus.Labels, read func() float64) {
	m.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, read))
}

// Counter is Gauge for a figure that only grows.
func (m *Metrics) Counter(name, help string, labels prometheus.Labels, read func() float64) {
	m.Registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels}, read))
}

// Check is one thing that readiness looks at.
type Check struct {
	Name string
	// Ask returns nil when all is well.
	Ask func() error
	// Degraded: a failure is shown where details are asked for (?verbose), but does not make the service not ready. A
	// dependency that all replicas share is of this kind while the replica can still
	// answer: taking them all away would help nobody.
	Degraded bool
}

// Ops serves the operators' listener.
type Ops struct {
	Metrics  *Metrics
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
	mux.Handle("GET /metrics", promhttp.HandlerFor(o.Metrics.Registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", o.readyz)
	mux.HandleFunc("GET /policy/status", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, o.Policy()) })
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, o.Build) })
	if o.Pprof { // whoever may ask for a profile may make us work, and sees what is in memory
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
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
