package telemetry

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// NewRegistry returns a registry with the metrics of the Go runtime, the process and the build.
func NewRegistry(b Build) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	Gauge(r, "iam_build_info", "Version, commit and Go version of the program; always 1.",
		prometheus.Labels{"version": b.Version, "revision": b.Revision, "go": b.Go}, func() float64 { return 1 })
	return r
}

// Gauge registers a value that is read at each scrape. labels may be nil.
func Gauge(r prometheus.Registerer, name, help string, labels prometheus.Labels, read func() float64) {
	r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, read))
}

// Counter is Gauge for a value that only grows.
func Counter(r prometheus.Registerer, name, help string, labels prometheus.Labels, read func() float64) {
	r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels}, read))
}

// CounterVec registers a counter with a label, and its series for the values that are known: an
// alert on increase() misses the first increment of a series that did not exist before.
func CounterVec(r prometheus.Registerer, name, help, label string, values ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	r.MustRegister(v)
	for _, value := range values {
		v.WithLabelValues(value)
	}
	return v
}

// Series caches the series of label values, so that a request finds its own without an
// allocation. There are few, so the map is copied for each new one. Its zero value is ready.
type Series[K comparable, V any] struct {
	mu  sync.Mutex
	all atomic.Pointer[map[K]V]
}

// Get returns the series of k, which resolve looks up the first time.
func (s *Series[K, V]) Get(k K, resolve func() V) V {
	if all := s.all.Load(); all != nil {
		if v, ok := (*all)[k]; ok {
			return v
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	next := map[K]V{}
	if all := s.all.Load(); all != nil {
		maps.Copy(next, *all)
	}
	v, ok := next[k]
	if !ok {
		v = resolve()
		next[k] = v
		s.all.Store(&next)
	}
	return v
}

// Decisions are the metrics of one kind of decisions of a policy.
type Decisions struct {
	Name, Help                     string   // of a counter by outcome and code
	EvaluationName, EvaluationHelp string   // of a histogram of seconds
	Denied, Errors                 []string // codes whose increase alerts look at, which needs a value before
}

// Register registers them, and returns what counts a decision; took is 0 where nothing was evaluated.
func (d Decisions) Register(r prometheus.Registerer) func(outcome, code string, took time.Duration) {
	decisions := prometheus.NewCounterVec(prometheus.CounterOpts{Name: d.Name, Help: d.Help}, []string{"outcome", "code"})
	evaluation := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: d.EvaluationName, Help: d.EvaluationHelp, Buckets: []float64{.00005, .0001, .0002, .0005, .001, .002, .005, .01, .02, .05},
	})
	r.MustRegister(decisions, evaluation)
	for _, code := range d.Denied {
		decisions.WithLabelValues("denied", code)
	}
	for _, code := range d.Errors {
		decisions.WithLabelValues("error", code)
	}
	type key struct{ outcome, code string }
	var series Series[key, prometheus.Counter]
	return func(outcome, code string, took time.Duration) {
		series.Get(key{outcome, code}, func() prometheus.Counter { return decisions.WithLabelValues(outcome, code) }).Inc()
		if took > 0 {
			evaluation.Observe(took.Seconds())
		}
	}
}
