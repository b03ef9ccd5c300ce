package policy

import (
	"github.com/prometheus/client_golang/prometheus"

	"iam-service/internal/telemetry"
)

// CandidateCounter registers iam_policy_candidates_total, and returns what counts one.
func CandidateCounter(r prometheus.Registerer) func(accepted bool) {
	candidates := telemetry.CounterVec(r, "iam_policy_candidates_total", "Candidates submitted to the gate, by result.", "result",
		"accepted", "refused")
	return func(accepted bool) {
		if accepted {
			candidates.WithLabelValues("accepted").Inc()
			return
		}
		candidates.WithLabelValues("refused").Inc()
	}
}

// Register registers the metrics of the active revision.
func (e *Engine) Register(r prometheus.Registerer) {
	telemetry.Gauge(r, "iam_policy_in_force_timestamp_seconds", "Unix time at which the active revision was activated; 0: none is active.", nil,
		func() float64 {
			if active := e.Revision(); active != nil {
				return float64(active.Since.Unix())
			}
			return 0
		})
}
