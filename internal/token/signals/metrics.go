package signals

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"iam-service/internal/iam"
	"iam-service/internal/telemetry"
)

// Counters registers the counters of signals, and returns what counts an accepted and a rejected one. Each stream has
// all of them from the start: a first rejection must be an increase.
func Counters(r prometheus.Registerer, streams []Stream) (accepted func(string, iam.SignalOutcome), rejected func(string, Reason)) {
	in := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "iam_signals_accepted_total",
		Help: "Security event tokens that were acknowledged (202), by stream and by what they have led to; docs/signals.md explains each.",
	}, []string{"stream", "outcome"})
	out := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "iam_signals_rejected_total",
		Help: "Security event tokens that were rejected, by stream and reason; docs/signals.md explains each. The stream unknown is every one that is not configured.",
	}, []string{"stream", "reason"})
	r.MustRegister(in, out)
	out.WithLabelValues("unknown", string(ReasonAuthentication))
	for _, s := range streams {
		for _, o := range iam.SignalOutcomes {
			in.WithLabelValues(s.Name, string(o))
		}
		for _, reason := range Reasons {
			out.WithLabelValues(s.Name, string(reason))
		}
	}
	return func(stream string, o iam.SignalOutcome) { in.WithLabelValues(stream, string(o)).Inc() },
		func(stream string, reason Reason) { out.WithLabelValues(stream, string(reason)).Inc() }
}

// Register registers the gauges of the streams: the age of their keys at this replica, and, of all replicas, when a SET
// was accepted last and whether the stream is silent for too long.
func (r *Receiver) Register(registry prometheus.Registerer, state func(stream string) iam.SignalStream) {
	for i := range r.cfg.Streams {
		s := &r.cfg.Streams[i]
		labels := prometheus.Labels{"stream": s.Name}
		telemetry.Gauge(registry, "iam_signals_keys_age_seconds", "Age of the keys of a stream's transmitter in seconds; -1: there are none.", labels, func() float64 {
			keys := r.Keys()[i]
			if !keys.Available {
				return -1
			}
			return keys.Age.Seconds()
		})
		telemetry.Gauge(registry, "iam_signals_last_accepted_timestamp_seconds", "When a security event token of a stream was accepted last, by any replica; 0: never.",
			labels, func() float64 {
				if at := state(s.Name).AcceptedAt; !at.IsZero() {
					return float64(at.Unix())
				}
				return 0
			})
		telemetry.Gauge(registry, "iam_signals_silent", "1 where a stream that has worked before is silent for longer than its silent_after, or its transmitter has paused or disabled it.",
			labels, func() float64 {
				if s.silent(state(s.Name), r.cfg.Now()) {
					return 1
				}
				return 0
			})
	}
}

// silent reports whether signals of a stream are missing. One that has never worked is not silent: it is being set up.
func (s *Stream) silent(state iam.SignalStream, now time.Time) bool {
	switch {
	case state.AcceptedAt.IsZero():
		return false
	case state.Status == "paused" || state.Status == "disabled":
		return true
	}
	return s.SilentAfter > 0 && now.Sub(state.AcceptedAt) > s.SilentAfter
}
