package assertion

import (
	"github.com/prometheus/client_golang/prometheus"

	"iam-service/internal/bounded"
	"iam-service/internal/telemetry"
)

// Register registers the figures of assertions.
func (s *Signer) Register(r prometheus.Registerer) {
	telemetry.Counter(r, "iam_assertions_signed_total", "Assertions that were signed; others came from the cache.", nil,
		func() float64 { return float64(s.signatures.Load()) })
	telemetry.Counter(r, "iam_assertion_failures_total", "Assertions that could not be made: no key, no audience, or headers over the budget.", nil,
		func() float64 { return float64(s.failures.Load()) })
	telemetry.Gauge(r, "iam_assertion_key_remaining_seconds", "Time until the last known key must stop signing; 0: none can sign.", nil,
		func() float64 {
			k := s.cfg.Keys.current.Load().signer(s.now())
			if k == nil {
				return 0
			}
			return k.until.Sub(s.now()).Seconds()
		})
	bounded.Register(r, "assertions", s.cache.Stats)
}
