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
	return telemetry.Decisions{
		Name:           "iam_authzen_decisions_total",
		Help:           "AuthZEN evaluations by outcome (allowed, denied, error) and the code of the first reason of a deny; those of searches only where they fail.",
		EvaluationName: "iam_authzen_evaluation_seconds",
		EvaluationHelp: "Seconds of policy evaluations for AuthZEN, without waiting for facts.",
		Errors:         []string{"policy_error", "policy_timeout"},
	}.Register(r)
}

// Register registers the metrics of the cache.
func (s *Service) Register(r prometheus.Registerer) { bounded.Register(r, "authzen", s.Stats) }
