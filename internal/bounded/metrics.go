package bounded

import (
	"github.com/prometheus/client_golang/prometheus"

	"iam-service/internal/telemetry"
)

// Register registers the metrics of a cache under its name.
func Register(r prometheus.Registerer, cache string, stats func() Stats) {
	RegisterSize(r, cache, stats)
	l := prometheus.Labels{"cache": cache}
	telemetry.Counter(r, "iam_cache_hits_total", "Cache hits.", l, func() float64 { return float64(stats().Hits) })
	telemetry.Counter(r, "iam_cache_misses_total", "Cache misses.", l, func() float64 { return float64(stats().Misses) })
}

// RegisterSize registers those of a cache whose hits and misses another one counts.
func RegisterSize(r prometheus.Registerer, cache string, stats func() Stats) {
	l := prometheus.Labels{"cache": cache}
	telemetry.Gauge(r, "iam_cache_entries", "Cache entries.", l, func() float64 { return float64(stats().Entries) })
	telemetry.Gauge(r, "iam_cache_bytes", "Estimated bytes of the cache entries.", l, func() float64 { return float64(stats().Bytes) })
	telemetry.Counter(r, "iam_cache_evictions_total", "Cache entries that were evicted.", l, func() float64 { return float64(stats().Evictions) })
}
