package clients

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"iam-service/internal/telemetry"
)

// Metrics counts differences from the identity provider and their repairs.
type Metrics struct {
	drift   *prometheus.GaugeVec
	repairs *prometheus.CounterVec
}

// NewMetrics registers them.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		drift: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "iam_client_drift",
			Help: "Clients that differ from the identity provider, by kind, at this replica's last comparison.",
		}, []string{"kind"}),
		repairs: telemetry.CounterVec(r, "iam_client_repairs_total",
			"Repairs of clients that differed from the identity provider: repaired, failed, or stopped because there were too many at once.",
			"outcome", Repaired, Failed, Stopped),
	}
	r.MustRegister(m.drift)
	return m
}

// Compared counts what a comparison has found and repaired.
func (m *Metrics) Compared(r Report) {
	for _, kind := range DriftKinds {
		m.drift.WithLabelValues(kind).Set(float64(r.Of(kind)))
	}
	for _, d := range r.Differences {
		if d.Done == Repaired || d.Done == Failed {
			m.repairs.WithLabelValues(d.Done).Inc()
		}
	}
	if r.Stopped {
		m.repairs.WithLabelValues(Stopped).Inc()
	}
}

// Backlog is what the saga has not finished.
type Backlog struct {
	Pending, Failed, SecretUnknown int64
	Oldest                         time.Duration // how long the oldest pending operation has waited
}

// RegisterBacklog registers the metrics of the saga. read is called at each scrape, so it must not query the database.
func RegisterBacklog(r prometheus.Registerer, read func() Backlog) {
	telemetry.Gauge(r, "iam_clients_pending", "Clients with an operation that the identity provider has not confirmed.", nil,
		func() float64 { return float64(read().Pending) })
	telemetry.Gauge(r, "iam_clients_pending_oldest_seconds", "Seconds that the oldest of these operations has waited.", nil,
		func() float64 { return read().Oldest.Seconds() })
	telemetry.Gauge(r, "iam_clients_failed", "Clients whose last operation the identity provider rejected.", nil,
		func() float64 { return float64(read().Failed) })
	telemetry.Gauge(r, "iam_client_secrets_unknown", "Clients whose last rotation has an unknown outcome.", nil,
		func() float64 { return float64(read().SecretUnknown) })
}
