package feed

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"iam-service/internal/telemetry"
)

// DelayHistogram registers iam_feed_delay_seconds, and returns what observes one delay.
func DelayHistogram(r prometheus.Registerer) func(time.Duration) {
	delay := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "iam_feed_delay_seconds",
		Help:    "Seconds from sending an own heartbeat through the pool to receiving it, its durable commit included: the delay of a change.",
		Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2},
	})
	r.MustRegister(delay)
	return func(d time.Duration) { delay.Observe(d.Seconds()) }
}

// Register registers the metrics of the feed.
func (f *Feed) Register(r prometheus.Registerer) {
	for _, state := range []State{Fresh, Suspect, Stale} {
		telemetry.Gauge(r, "iam_feed_state", "1 for the current state of the change feed.", prometheus.Labels{"state": string(state)}, func() float64 {
			if f.State() == state {
				return 1
			}
			return 0
		})
	}
	telemetry.Counter(r, "iam_feed_sessions_total", "Listener reconnects; each one clears the caches.", nil,
		func() float64 { return float64(f.Stats().Sessions) })
	telemetry.Counter(r, "iam_feed_beats_total", "Heartbeats sent by this replica.", nil,
		func() float64 { return float64(f.Stats().Heartbeats) })
	telemetry.Counter(r, "iam_feed_notifications_total", "Notifications received, heartbeats included.", nil,
		func() float64 { return float64(f.Stats().Received) })
	telemetry.Gauge(r, "iam_feed_queue_usage", "Usage of PostgreSQL's notification queue at the last heartbeat, 0 to 1.", nil,
		func() float64 { return f.Stats().Queue })
}
