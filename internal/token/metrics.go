package token

import (
	"github.com/prometheus/client_golang/prometheus"

	"iam-service/internal/bounded"
	"iam-service/internal/telemetry"
)

// Operations and Failures are the labels with which Config.OnError is called.
var (
	Operations = []string{"discovery", "jwks", "introspect"}
	Failures   = []string{"timeout", "connection", "unauthorized", "forbidden", "rate_limited", "server_error", "bad_response"}
)

// RejectionCounter registers iam_tokens_rejected_total, and returns what counts one.
func RejectionCounter(r prometheus.Registerer) func(Reason) {
	reasons := make([]string, len(Reasons))
	for i, reason := range Reasons {
		reasons[i] = string(reason)
	}
	rejected := telemetry.CounterVec(r, "iam_tokens_rejected_total",
		"Access tokens that were rejected (401), by reason; docs/configuration.md explains each.", "reason", reasons...)
	return func(reason Reason) { rejected.WithLabelValues(string(reason)).Inc() }
}

// Register registers the metrics of the cache of verified tokens and of the issuers' keys.
func (v *Verifier) Register(r prometheus.Registerer) {
	bounded.Register(r, "token", v.Stats)
	for i, k := range v.Keys() {
		telemetry.Gauge(r, "iam_issuer_keys_age_seconds", "Age of an issuer's keys in seconds; -1: there are none.",
			prometheus.Labels{"issuer": k.Issuer}, func() float64 {
				s := v.Keys()[i]
				if !s.Available {
					return -1
				}
				return s.Age.Seconds()
			})
	}
}
