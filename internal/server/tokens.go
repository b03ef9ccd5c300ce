package server

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"iam-service/internal/clients/rauth"
	"iam-service/internal/telemetry"
	"iam-service/internal/token"
)

// tokensShare is the share of MEMORY_AIM that verified tokens may take.
const tokensShare = 0.20

// openTokens returns when R-Auth's keys are known.
func (s *service) openTokens(start context.Context) error {
	cfg := &s.cfg
	s.providerError = s.registerProviderErrors()
	verifier, err := token.New(token.Config{
		Issuers:          cfg.Verified,
		Client:           s.tracing.Client(token.NewClient()),
		Entries:          cfg.TokenEntries,
		Bytes:            share(cfg.MemoryAim, tokensShare),
		MaxAge:           cfg.JWKSMaxAge,
		IntrospectionTTL: cfg.IntrospectionTTL,
		Introspections:   cfg.Introspections,
		Wait:             cfg.Part(60),
		KeyStore:         s.db,
		Log:              s.log,
		OnError:          s.providerError,
		OnRejected:       token.RejectionCounter(s.registry),
	})
	if err != nil {
		return err
	}
	s.onClose(verifier.Close)
	if err := verifier.Start(start, s.deadline); err != nil {
		return fmt.Errorf("cannot get the keys of R-Auth (RAUTH_URL=%s), and none that are young enough are stored: %w", cfg.RAuthURL, err)
	}
	s.verifier = verifier
	verifier.Register(s.registry)
	for i, k := range verifier.Keys() {
		s.check(telemetry.Check{Name: "keys of " + k.Issuer, Degraded: true, Ask: func() error {
			keys := verifier.Keys()[i]
			if !keys.Available {
				return errors.New("there are none")
			}
			return keys.Err
		}})
	}
	s.loops.run("keys", func() { verifier.KeepFresh(s.work) })
	return nil
}

// registerProviderErrors registers the one metric that the verifier of tokens and the adapter of the admin API share.
func (s *service) registerProviderErrors() func(operation, reason string) {
	errors := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "idp_adapter_errors_total",
		Help: "Failed calls to an identity provider, by operation and reason.",
	}, []string{"operation", "reason"})
	s.registry.MustRegister(errors)
	exist := func(operations, reasons []string) { // a first failure must be an increase
		for _, operation := range operations {
			for _, reason := range reasons {
				errors.WithLabelValues(operation, reason)
			}
		}
	}
	exist(token.Operations, token.Failures)
	exist([]string{"jwks"}, []string{"no_usable_key"})
	if s.cfg.RAuthAdminURL != "" {
		exist(rauth.Operations, rauth.Reasons)
	}
	return func(operation, reason string) { errors.WithLabelValues(operation, reason).Inc() }
}
