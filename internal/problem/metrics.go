package problem

import (
	"context"
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"iam-service/internal/telemetry"
	"iam-service/internal/telemetry/tracing"
)

// Metrics counts and times the requests of all listeners.
type Metrics struct {
	// Exemplars: durations of requests whose traces are recorded name them.
	Exemplars bool

	requests  *prometheus.CounterVec
	durations *prometheus.HistogramVec
	series    telemetry.Series[requestKey, requestSeries]
}

type requestKey struct {
	handler, gateway, method string
	status                   int
}

type requestSeries struct {
	count prometheus.Counter
	took  prometheus.Observer
}

// NewMetrics registers the metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "http_requests_total",
			Help: "Requests by route without its version, gateway profile, method and status.",
		}, []string{"handler", "gateway", "method", "code"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "http_request_duration_seconds",
			Help:    "Time from the first byte read to the last one written.",
			Buckets: []float64{.000025, .00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .2, .5, 1, 5},
		}, []string{"handler"}),
	}
	r.MustRegister(m.requests, m.durations)
	return m
}

// methods are those with a label value of their own; callers can invent others.
var methods = map[string]bool{
	http.MethodGet: true, http.MethodHead: true, http.MethodPost: true, http.MethodPut: true, http.MethodPatch: true,
	http.MethodDelete: true, http.MethodOptions: true, http.MethodConnect: true, http.MethodTrace: true,
}

// Observe counts one request and its duration.
func (m *Metrics) Observe(ctx context.Context, o Observation) {
	if !methods[o.Method] {
		o.Method = "other"
	}
	s := m.seriesOf(o.Handler, o.Gateway, o.Method, o.Status)
	s.count.Inc()
	if m.Exemplars {
		if trace := tracing.Sampled(ctx); trace != "" {
			s.took.(prometheus.ExemplarObserver).ObserveWithExemplar(o.Took.Seconds(), prometheus.Labels{"trace_id": trace}) //nolint:forcetypeassert // a histogram is one
			return
		}
	}
	s.took.Observe(o.Took.Seconds())
}

// Prepare creates series at 0: an alert on a drop to zero, or on the first failure, needs a value before.
func (m *Metrics) Prepare(handler, gateway, method string, statuses ...int) {
	for _, status := range statuses {
		m.seriesOf(handler, gateway, method, status)
	}
}

func (m *Metrics) seriesOf(handler, gateway, method string, status int) requestSeries {
	return m.series.Get(requestKey{handler, gateway, method, status}, func() requestSeries {
		return requestSeries{
			count: m.requests.WithLabelValues(handler, gateway, method, strconv.Itoa(status)),
			took:  m.durations.WithLabelValues(handler),
		}
	})
}
