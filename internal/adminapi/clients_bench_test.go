package adminapi_test

import (
	"context"
	"testing"
	"time"

	"iam-service/internal/clients"
	"iam-service/internal/clients/rauth"
	"iam-service/internal/iam"
)

// How long an administrator waits for a client to be created, with the provider well, and
// silent: then it is 202. The adapter and the service have the times of production, not the
// patience of tests.
func BenchmarkAClientIsCreated(b *testing.B) {
	for name, status := range map[string]int{"well": 201, "silent": 202} {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b, settings{conns: 10})
			adapter, err := rauth.New(rauth.Config{URL: w.RAuth.Issuer, Log: discard})
			w.OK(err)
			h := &hooked{Provider: adapter}
			if name == "silent" {
				h.create = func(ctx context.Context, _ iam.Registration) (iam.Secret, error) {
					<-ctx.Done()
					return "", &iam.Error{Kind: iam.Unavailable, Code: "idp_timeout", Cause: ctx.Err()}
				}
			}
			*w.clients = *w.manage(func(c *clients.Config) { c.Provider, c.Patience = h, 0 })
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
