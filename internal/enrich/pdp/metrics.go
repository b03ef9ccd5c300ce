package pdp

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"iam-service/internal/bounded"
	"iam-service/internal/telemetry"
)

// DecisionCounter registers iam_authzen_decisions_total and iam_authzen_evaluation_seconds, and returns what counts a
// decision; took is 0 where nothing was evaluated. Codes come from the METADATA of policies, so they are few.
func DecisionCounter(r prometheus.Registerer) func(outcome, code string, took time.Duration) {
	decisions := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "iam_authzen_decisions_total",
		Help: "AuthZEN evaluations by outcome (allowed, denied, error) and the code of the first reason of a deny; those of searches only where they fail.",
	}, []string{"outcome", "code"})
	evaluation := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "iam_authzen_evaluation_seconds",
		Help:    "Seconds of policy evaluations for AuthZEN, without waiting for facts.",
		Buckets: []float64{.00005, .0001, .0002, .0005, .001, .002, .005, .01, .02, .05},
	})
	r.MustRegister(decisions, evaluation)
	for _, code := range []string{"policy_error", "policy_timeout"} {
		decisions.WithLabelValues("error", code) // alerts look at increases, which need a value before
	}
	type key struct{ outcome, code string }
	var series telemetry.Series[key, prometheus.Counter]
	return func(outcome, code string, took time.Duration) {
		series.Get(key{outcome, code}, func() prometheus.Counter { return decisions.WithLabelValues(outcome, code) }).Inc()
		if took > 0 {
			evaluation.Observe(took.Seconds())
		}
	}
}

// Register registers the metrics of the cache.
func (s *Service) Register(r prometheus.Registerer) { bounded.Register(r, "authzen", s.Stats) }
