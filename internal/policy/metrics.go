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
	telemetry.Gauge(r, "iam_policy_engine_machine", "1 while the active revision is evaluated by the machine, 0 while OPA's interpreter (topdown) does.", nil,
		func() float64 {
			if active := e.Revision(); active != nil && active.machine.active() != nil {
				return 1
			}
			return 0
		})
	telemetry.Counter(r, "iam_policy_left_to_topdown_total", "Evaluations that the machine began and left to topdown.", nil,
		func() float64 { return float64(e.left.Load()) })
	telemetry.Counter(r, "iam_policy_engine_mismatches_total", "Evaluations in which the machine and topdown differed. Each switches the machine off for the revision.", nil,
		func() float64 { return float64(e.mismatches.Load()) })
}
