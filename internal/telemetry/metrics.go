package telemetry

import (
	"maps"
	"sync"
	"sync/atomic"

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
