package server

import (
	"cmp"
	"net/http"
	"strings"

	"iam-service/internal/enrich/pdp"
	"iam-service/internal/gateway/authzen"
	"iam-service/internal/problem"
)

// authzenShare is the share of MEMORY_AIM that cached AuthZEN decisions may take.
const authzenShare = 0.05

// authzenUsersShare is that of the ids of users that it was asked about.
const authzenUsersShare = 0.01

// checkAuthzen validates the URL of the AuthZEN API, which is part of what clients compare.
func (cfg *Config) checkAuthzen(fault func(string, ...any)) {
	if cfg.AuthzenURL == "" {
		return
	}
	if why := badIssuerURL(cfg.AuthzenURL, false); why != "" {
		fault("AUTHZEN_URL %s", strings.TrimSuffix(why, ", or with RAUTH_INSECURE_HTTP=1"))
	}
	if strings.HasSuffix(cfg.AuthzenURL, "/") {
		fault("AUTHZEN_URL must not end with /")
	}
}

// withAuthzen serves the AuthZEN API besides what a listener serves, where AUTHZEN_URL is set.
func (s *service) withAuthzen(next http.Handler) (http.Handler, error) {
	cfg := &s.cfg
	count := pdp.DecisionCounter(s.registry) // alerts read its series, also where the API is off
	if cfg.AuthzenURL == "" {
		return next, nil
	}
	decider := pdp.New(pdp.Config{
		Identify:   s.enricher.Identify,
		Directory:  s.facts,
		Engine:     s.engine,
		Issuers:    cfg.Issuers,
		Subjects:   s.db,
		Deadline:   cfg.EnrichDeadline,
		Entries:    cmp.Or(cfg.DecisionEntries, -1),
		Bytes:      share(cfg.MemoryAim, authzenShare),
		Users:      cfg.FactsEntries,
		UserBytes:  share(cfg.MemoryAim, authzenUsersShare),
		SampleLog:  cfg.DecisionSample,
		Record:     s.decisionLog.Record,
		OnDecision: count,
	})
	decider.Register(s.registry)
	api, err := authzen.New(authzen.Config{
		URL:     cfg.AuthzenURL,
		Decider: decider,
		Trusted: problem.Proxies(cfg.TrustedProxies),
		Log:     s.log,
		Observe: s.requests.Observe,
		Tracing: s.tracing,
	})
	if err != nil {
		return nil, err
	}
	return api.Handler(next), nil
}
