package server

import (
	"context"
	"fmt"
	"net/http"

	"iam-service/internal/enrich"
	"iam-service/internal/gateway/assertion"
	"iam-service/internal/iam"
	"iam-service/internal/problem"
	"iam-service/internal/telemetry"
)

// assertionsShare is the share of MEMORY_AIM that signed identities may take.
const assertionsShare = 0.05

// openAssertions returns when a key can sign, where identities are signed.
func (s *service) openAssertions(start context.Context) error {
	cfg := &s.cfg
	if cfg.AssertionIssuer == "" {
		return nil
	}
	keys := assertion.NewKeys(s.db, assertion.Rules{
		Encryption: cfg.AssertionEncryption,
		Algorithm:  cfg.AssertionAlg,
		Rotation:   cfg.AssertionRotation,
	}, s.log)
	switch err := keys.Start(start); {
	case iam.KindOf(err) == iam.Unavailable:
		return s.databaseFault("cannot read the keys of signed identities", err)
	case err != nil:
		return fmt.Errorf("no key can sign identities (ASSERTION_KEY_ENCRYPTION_KEY): %w", OneLine(err))
	}
	s.assertionKeys = keys
	s.check(telemetry.Check{Name: "assertion keys", Degraded: true, Ask: keys.Check})
	s.loops.run("assertion_keys", func() { keys.Run(s.work) })
	return nil
}

// notifyAssertionKeys wakes the loop that reads the keys of signed identities.
func (s *service) notifyAssertionKeys() {
	if s.assertionKeys != nil {
		s.assertionKeys.Changed()
	}
}

// asserter signs identities; nil: they are not signed.
func (s *service) asserter() (enrich.Asserter, error) {
	if s.assertionKeys == nil {
		return nil, nil //nolint:nilnil // off
	}
	signer, err := assertion.NewSigner(assertion.Config{
		Keys:       s.assertionKeys,
		Issuer:     s.cfg.AssertionIssuer,
		Audience:   s.cfg.AssertionAudience,
		Headers:    s.engine.Headers(),
		EmptyValue: s.cfg.GatewayEmpty,
		HeaderMax:  s.cfg.HeaderBudget,
		Entries:    s.cfg.DecisionEntries,
		Bytes:      share(s.cfg.MemoryAim, assertionsShare),
	})
	if err != nil {
		return nil, err
	}
	signer.Register(s.registry)
	return signer, nil
}

// withJWKS serves the public keys besides what a listener serves.
func (s *service) withJWKS(h http.Handler) http.Handler {
	if s.assertionKeys == nil {
		return h
	}
	keys := problem.Observed(assertion.JWKSPath, s.requests.Observe, s.assertionKeys.ServeHTTP)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.EscapedPath() == assertion.JWKSPath {
			keys(w, r)
			return
		}
		h.ServeHTTP(w, r)
	})
}
