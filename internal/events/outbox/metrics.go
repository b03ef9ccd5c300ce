package outbox

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"iam-service/internal/telemetry"
)

// Metrics counts what the relay does.
type Metrics struct {
	published *prometheus.CounterVec
	errors    *prometheus.CounterVec
}

// NewMetrics registers them.
func NewMetrics(r prometheus.Registerer) *Metrics {
	return &Metrics{
		published: telemetry.CounterVec(r, "iam_events_published_total", "Events that the bus acknowledged, by type.", "type"),
		errors: telemetry.CounterVec(r, "event_bus_errors_total",
			"Failures of the bus: unavailable, refused (one event), stream (missing or unfit).", "reason", "unavailable", "refused", "stream"),
	}
}

// Published counts an event that the bus acknowledged.
func (m *Metrics) Published(kind string) { m.published.WithLabelValues(kind).Inc() }

// Error counts a failure of the bus.
func (m *Metrics) Error(reason string) { m.errors.WithLabelValues(reason).Inc() }

// Register registers the metrics of the relay.
func (r *Relay) Register(reg prometheus.Registerer) {
	telemetry.Gauge(reg, "iam_event_stream_recreated", "1: the stream is younger than its last acknowledgement; events are missing from it.", nil,
		func() float64 {
			if r.Recreated() {
				return 1
			}
			return 0
		})
}

// Backlog is what waits in the outbox.
type Backlog struct {
	Pending int64
	Oldest  time.Duration // how long the oldest pending event has waited
	Parked  int64
}

// RegisterBacklog registers the metrics of the outbox. read is called at each scrape, so it must not query the database.
func RegisterBacklog(r prometheus.Registerer, read func() Backlog) {
	telemetry.Gauge(r, "outbox_pending_count", "Events that are not published yet.", nil,
		func() float64 { return float64(read().Pending) })
	telemetry.Gauge(r, "outbox_oldest_seconds", "Seconds that the oldest unpublished event has waited.", nil,
		func() float64 { return read().Oldest.Seconds() })
	telemetry.Gauge(r, "iam_outbox_parked", "Events that the bus rejects and that hold back those of the same object.", nil,
		func() float64 { return float64(read().Parked) })
}
