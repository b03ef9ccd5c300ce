package httpapi_test

import (
	"context"
	"testing"
	"time"

	"iam-service/internal/iam"
)

// How long an administrator waits for the making of a client, the provider being well, and
// being silent: then it is 202.
func BenchmarkAClientIsMade(b *testing.B) {
	for name, status := range map[string]int{"well": 201, "silent": 202} {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b, settings{})
			if h := w.hook(); name == "silent" {
				h.create = func(ctx context.Context, _ iam.Registration) (iam.Secret, error) {
					<-ctx.Done()
					return "", &iam.Error{Kind: iam.Unavailable, Code: "idp_timeout", Cause: ctx.Err()}
				}
			}
			var longest time.Duration
			for b.Loop() {
				began := time.Now()
				w.want(status, "root", "POST", "/v1/clients", service(nil))
				longest = max(longest, time.Since(began))
			}
			b.ReportMetric(float64(longest.Milliseconds()), "ms-longest")
		})
	}
}
