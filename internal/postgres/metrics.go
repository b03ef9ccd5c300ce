package postgres

import (
	"github.com/prometheus/client_golang/prometheus"

	"iam-service/internal/telemetry"
)

// ErrorCounter registers database_errors_total, and returns what counts one.
func ErrorCounter(r prometheus.Registerer) func(reason string) {
	errors := telemetry.CounterVec(r, "database_errors_total",
		"Failures of the database itself by reason; a missing row or a violated constraint is none.", "reason", Reasons...)
	return func(reason string) { errors.WithLabelValues(reason).Inc() }
}

// Register registers the metrics of the pools.
func (db *DB) Register(r prometheus.Registerer) {
	for i, s := range db.Stats() {
		pool := prometheus.Labels{"pool": s.Name}
		telemetry.Gauge(r, "iam_db_pool_connections", "Open connections of a pool.", pool,
			func() float64 { return float64(db.Stats()[i].Total) })
		telemetry.Gauge(r, "iam_db_pool_in_use", "Connections of a pool that are in use.", pool,
			func() float64 { return float64(db.Stats()[i].InUse) })
		telemetry.Gauge(r, "iam_db_pool_max", "Maximum of connections of a pool.", pool,
			func() float64 { return float64(db.Stats()[i].Max) })
		telemetry.Counter(r, "iam_db_pool_waits_total", "Acquisitions that found no idle connection.", pool,
			func() float64 { return float64(db.Stats()[i].EmptyAcquires) })
	}
}
