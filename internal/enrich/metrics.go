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
	return telemetry.Decisions{
		Name:           "iam_decisions_total",
		Help:           "Enrichments by outcome (allowed, denied, error) and the code of the first reason.",
		EvaluationName: "iam_policy_evaluation_seconds",
		EvaluationHelp: "Seconds of policy evaluations, without waiting for facts.",
		Denied:         []string{policy.CodeFactsMissing},
		Errors:         []string{"policy_error", "policy_timeout", "assertion_unavailable"},
	}.Register(r)
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
