package server

import (
	"cmp"
	"context"
	"crypto/tls"
	"log/slog"
	"net/http"

	"iam-service/internal/enrich"
	"iam-service/internal/gateway"
	"iam-service/internal/policyops/preview"
)

// decisionsShare is the share of MEMORY_AIM that cached decisions may take.
const decisionsShare = 0.20

// openEnrichment creates the service that decides, and its shadow.
func (s *service) openEnrichment(context.Context) error {
	cfg := &s.cfg
	asserter, err := s.asserter()
	if err != nil {
		return err
	}
	s.enricher = enrich.New(enrich.Config{
		Assert:     asserter,
		Verifier:   s.verifier,
		Directory:  s.facts,
		Engine:     s.engine,
		Issuers:    cfg.Issuers,
		Deadline:   cfg.EnrichDeadline,
		EmptyValue: cfg.GatewayEmpty,
		HeaderMax:  cfg.HeaderBudget,
		Entries:    cmp.Or(cfg.DecisionEntries, -1),
		Bytes:      share(cfg.MemoryAim, decisionsShare),
		SampleLog:  cfg.DecisionSample,
		Log:        s.log,
		Record:     s.decisionLog.Record,
		OnDecision: enrich.DecisionCounter(s.registry),
	})
	s.enricher.Register(s.registry)
	s.shadow = preview.NewShadow(s.enricher, s.engine.Headers(), s.policies.Shadow)
	s.shadow.OnPanic = s.loops.panicked("shadow")
	s.shadow.Register(s.registry)
	s.enricher.SetShadow(s.shadow)
	s.loops.run("shadow", func() { s.shadow.Run(s.work) })
	return nil
}

// openGateways creates the handler of the gateways' listener.
func (s *service) openGateways(start context.Context) error {
	if _, unable := s.cfg.profilesBySecret(); unable != nil && s.cfg.gatewaySecrets != nil {
		s.log.WarnContext(start, "gateway profile cannot send GATEWAY_SECRET: its requests are denied", slog.Any("profiles", unable),
			slog.String("variable", "GATEWAY_PROFILE"))
	}
	s.gateway = gateway.New(gateway.Config{
		Enricher:      s.enricher,
		Profiles:      s.cfg.Profiles,
		Headers:       s.engine.Headers(),
		Spelled:       s.cfg.spelledHeaders(),
		Identify:      s.enricher.Identify,
		Tenants:       s.db,
		Trusted:       s.cfg.TrustedProxies,
		EmptyValue:    s.cfg.GatewayEmpty,
		Secrets:       s.cfg.gatewaySecrets,
		MaxAge:        s.cfg.GatewayCache,
		Decisions:     s.cfg.decisionsURL(),
		DenyAmbiguous: s.cfg.AmbiguousPaths == "always_deny",
		Log:           s.log,
		Observe:       s.requests.Observe,
		Tracing:       s.tracing,
	})
	s.gateway.Register(s.registry)
	for _, p := range s.cfg.Profiles {
		s.requests.Prepare(gateway.EnrichPath, p.Name, http.MethodGet, http.StatusOK, http.StatusUnauthorized, http.StatusForbidden, http.StatusServiceUnavailable)
	}
	handler, err := s.withAuthzen(s.withJWKS(s.gateway.Handler()))
	if err != nil {
		return err
	}
	l, err := s.gatewayServer(handler)
	if err != nil {
		return err
	}
	s.servers = append(s.servers, l)
	return nil
}

// gatewayServer serves the gateways' listener by HTTP/1.1 and HTTP/2: in TLS, by ALPN, where the settings name files for
// it; else in plain text, with prior knowledge (RFC 9113, section 3.3).
func (s *service) gatewayServer(handler http.Handler) (*listener, error) {
	l := newListener("gateway", s.gatewayListener, handler, s.log)
	l.http.Protocols = new(http.Protocols)
	l.http.Protocols.SetHTTP1(true)
	files := s.cfg.gatewayTLS()
	l.http.Protocols.SetHTTP2(files.enabled())
	l.http.Protocols.SetUnencryptedHTTP2(!files.enabled())
	if files.enabled() {
		certs, err := files.open(s.log, "h2", "http/1.1")
		if err != nil {
			return nil, err
		}
		l.l = tls.NewListener(l.l, certs.config())
		s.loops.run("gateway_certificate", func() { certs.run(s.work) })
	}
	return l, nil
}
