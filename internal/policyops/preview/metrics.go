package preview

import (
	"github.com/prometheus/client_golang/prometheus"

	"iam-service/internal/telemetry"
)

// Register registers the metrics of the shadow.
func (s *Shadow) Register(r prometheus.Registerer) {
	telemetry.Counter(r, "iam_policy_shadow_evaluations_total", "Live requests that the shadow policy evaluated too.", nil,
		func() float64 { evaluated, _, _ := s.Figures(); return float64(evaluated) })
	telemetry.Counter(r, "iam_policy_shadow_differences_total", "Of those, the ones that a caller would notice as different.", nil,
		func() float64 { _, differences, _ := s.Figures(); return float64(differences) })
	telemetry.Counter(r, "iam_policy_shadow_dropped_total", "Live requests that the shadow policy did not evaluate: its queue was full.", nil,
		func() float64 { _, _, dropped := s.Figures(); return float64(dropped) })
}
