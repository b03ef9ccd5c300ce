package directory

import (
	"github.com/prometheus/client_golang/prometheus"

	"iam-service/internal/bounded"
	"iam-service/internal/telemetry"
)

// Register registers the metrics of the documents and their invalidation.
func (s *Store) Register(r prometheus.Registerer) {
	bounded.Register(r, "facts", func() bounded.Stats { return s.Stats().Present })
	bounded.RegisterSize(r, "absent", func() bounded.Stats { return s.Stats().Absent }) // looked up together with facts, and counted there
	for cause, kind := range Causes {
		telemetry.Counter(r, "iam_facts_invalidations_total", "Change notifications by what they invalidated.",
			prometheus.Labels{"cause": cause}, func() float64 { return float64(s.Invalidations(kind)) })
	}
	telemetry.Counter(r, "iam_facts_loads_total", "Documents loaded from the database.", nil,
		func() float64 { return float64(s.Stats().Loads) })
	telemetry.Counter(r, "iam_facts_load_failures_total", "Loads of documents that failed.", nil,
		func() float64 { return float64(s.Stats().Failures) })
	telemetry.Gauge(r, "iam_facts_age_seconds", "Seconds since the facts were last confirmed fresh; -1: never.", nil, func() float64 {
		age, once := s.Age()
		if !once {
			return -1
		}
		return age.Seconds()
	})
}

// Stats are figures since the start; those of the caches are partly of now.
type Stats struct {
	Present, Absent bounded.Stats
	Loads, Failures int64
}

// Stats returns the figures of the store.
func (s *Store) Stats() Stats {
	return Stats{Present: s.present.Stats(), Absent: s.absent.Stats(), Loads: s.loads.Load(), Failures: s.failures.Load()}
}

// Causes are the names of what invalidates facts, for metrics.
var Causes = map[string]Kind{
	"user": User, "tenant": Tenant, "client": Client, "members": Members, "global_roles": GlobalRoles, "everything": everything,
}

// Invalidations counts the invalidations by cause.
func (s *Store) Invalidations(cause Kind) int64 { return s.invalidations[cause].Load() }
