package enrich

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"iam-service/internal/bounded"
	"iam-service/internal/policy"
	"iam-service/internal/telemetry"
)

// DecisionCounter registers iam_decisions_total and iam_policy_evaluation_seconds, and returns
// what counts a decision; took is 0 where nothing was evaluated. Codes come from the METADATA of
// policies, so they are few.
func DecisionCounter(r prometheus.Registerer) func(outcome, code string, took time.Duration) {
	decisions := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "iam_decisions_total",
		Help: "Enrichments by outcome (allowed, denied, error) and the code of the first reason.",
	}, []string{"outcome", "code"})
	evaluation := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "iam_policy_evaluation_seconds",
		Help:    "Seconds of policy evaluations, without waiting for facts.",
		Buckets: []float64{.00005, .0001, .0002, .0005, .001, .002, .005, .01, .02, .05},
	})
	r.MustRegister(decisions, evaluation)
	type key struct{ outcome, code string }
	// Alerts look at the first one of these, and an increase needs a value before.
	decisions.WithLabelValues("denied", policy.CodeFactsMissing)
	for _, code := range []string{"policy_error", "policy_timeout", "assertion_unavailable"} {
		decisions.WithLabelValues("error", code)
	}
	var series telemetry.Series[key, prometheus.Counter]
	return func(outcome, code string, took time.Duration) {
		series.Get(key{outcome, code}, func() prometheus.Counter { return decisions.WithLabelValues(outcome, code) }).Inc()
		if took > 0 {
			evaluation.Observe(took.Seconds())
		}
	}
}

// Register registers the metrics of the decision cache.
func (s *Service) Register(r prometheus.Registerer) {
	bounded.Register(r, "decision", func() bounded.Stats { return s.Stats().Allowed })
	bounded.RegisterSize(r, "denial", func() bounded.Stats { return s.Stats().Denied }) // looked up together with decisions, and counted there
	for cause := range s.Stats().Lost {
		telemetry.Counter(r, "iam_decisions_outdated_total", "Cached decisions that were found invalid, by cause.",
			prometheus.Labels{"cause": cause}, func() float64 { return float64(s.Stats().Lost[cause]) })
	}
}
