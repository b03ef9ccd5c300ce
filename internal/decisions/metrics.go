package decisions

import (
	"maps"

	"github.com/prometheus/client_golang/prometheus"

	"iam-service/internal/telemetry"
)

// Register registers iam_decision_log_dropped_total. more are the counts of sinks that are not the Log's own; it may be nil.
func (l *Log) Register(r prometheus.Registerer, more map[string]func() int64) {
	counts := maps.Clone(more)
	if counts == nil {
		counts = map[string]func() int64{}
	}
	for sink := range l.Dropped() {
		counts[sink] = func() int64 { return l.Dropped()[sink] }
	}
	for sink, count := range counts {
		telemetry.Counter(r, "iam_decision_log_dropped_total",
			`Decisions that were not logged because a sink was too slow or unreachable; sink "": no sink received them.`,
			prometheus.Labels{"sink": sink}, func() float64 { return float64(count()) })
	}
}
