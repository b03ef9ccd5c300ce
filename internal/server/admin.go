package server

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"iam-service/internal/admin"
	"iam-service/internal/adminapi"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/policyops/explain"
	"iam-service/internal/policyops/playground"
	"iam-service/internal/policyops/preview"
	"iam-service/internal/telemetry"
)

// openAdministration opens the use cases of administrators, which commands of operators share.
func (s *service) openAdministration(context.Context) error {
	cfg := &s.cfg
	s.administration = admin.New(admin.Config{
		DB:            s.db,
		Engine:        s.engine,
		Issuers:       cfg.Issuers,
		Issuer:        cfg.RAuthURL,
		Audiences:     cfg.RAuthAudiences,
		Invalidate:    s.facts.Invalidate,
		PoliciesKept:  cfg.PoliciesKept,
		MaxMembers:    cfg.TenantMaxMembers,
		JoinsPerDay:   cfg.TenantJoinsPerDay,
		UnknownMapped: cfg.UnknownUsers == "mapped",
		Log:           s.log,
		Embedded:      PackedEmbedded,

		RequestLifetime: cfg.RoleRequestLifetime,
		Committed:       countRequests(s.registry),
	})
	var unpartitioned refreshed[int64]
	s.loops.run("audit_figures", func() { unpartitioned.run(s.work, s.db.CountUnpartitionedAudit) })
	telemetry.Gauge(s.registry, "iam_audit_default_rows",
		"Audit entries in the default partition: those of a month without a partition. They are moved within an hour.", nil,
		func() float64 { return float64(unpartitioned.get()) })
	s.keepTerms()
	return nil
}

// countRequests counts what becomes of requests for roles.
func countRequests(r prometheus.Registerer) func([]iam.Event) {
	requests := telemetry.CounterVec(r, "iam_role_requests_total", "Requests of members for a role, as this replica has handled them.", "event",
		"requested", "approved", "rejected", "cancelled", "expired", "break_glass")
	return func(events []iam.Event) {
		for _, e := range events {
			var what string
			switch e.(type) {
			case iam.RoleRequestedEvent:
				what = "requested"
			case iam.RoleRequestApprovedEvent:
				what = "approved"
			case iam.RoleRequestRejectedEvent:
				what = "rejected"
			case iam.RoleRequestCancelledEvent:
				what = "cancelled"
			case iam.RoleRequestExpiredEvent:
				what = "expired"
			case iam.BreakGlassUsedEvent:
				what = "break_glass"
			default:
				continue
			}
			requests.WithLabelValues(what).Inc()
		}
	}
}

// keepTerms removes roles that have ended, and announces those that end soon.
func (s *service) keepTerms() {
	ended := telemetry.CounterVec(s.registry, "iam_role_ends_total",
		"Roles of members that end, as this replica has handled them: removed, or announced ROLE_EXPIRY_NOTICE ahead.", "result", "removed", "announced")
	var overdue refreshed[int64]
	s.loops.run("terms_figures", func() {
		overdue.run(s.work, func(ctx context.Context) (int64, error) { return s.db.OverdueRoles(ctx, time.Minute) })
	})
	telemetry.Gauge(s.registry, "iam_role_ends_overdue",
		"Members with a role that ended more than a minute ago and is not removed, up to 10,000. It is in force for no request.", nil,
		func() float64 { return float64(overdue.get()) })
	s.loops.run("terms", func() {
		s.administration.KeepTerms(s.work, s.cfg.RoleExpiryNotice, func(r admin.TermsRound) {
			ended.WithLabelValues("removed").Add(float64(r.Removed))
			ended.WithLabelValues("announced").Add(float64(r.Announced))
		})
	})
}

// openAdminAPI creates the handler of the admins' listener.
func (s *service) openAdminAPI(start context.Context) error {
	cfg := &s.cfg
	if err := s.bootstrap(start); err != nil {
		return err
	}
	// After bootstrap: the first audit checkpoint covers it.
	s.loops.run("chores", func() { s.administration.KeepChores(s.work, cfg.OutboxRetention) })
	previewEngine, err := policy.NewEngine(policy.Config{
		Headers:  cfg.GatewayHeaders,
		Settings: map[string]string{"unknown_users": cfg.UnknownUsers},
		Limit:    time.Second,
		Log:      s.log,

		VerifyShare: cfg.PolicyVerifyShare,
	})
	if err != nil {
		return fmt.Errorf("GATEWAY_HEADERS: %w", err)
	}
	previewEngine.SetDisagreed(s.policies.Disagreed)
	previews := &preview.Jobs{
		Snapshot: func(ctx context.Context) (preview.Moment, error) { return s.db.Snapshot(ctx) },
		Note:     s.db.PreviewProgress,
		Log:      s.log,
		OnPanic:  s.loops.panicked("preview"),
	}
	s.loops.running.Go(func() {
		<-s.work.Done()
		previews.Wait()
	})
	explainer := &explain.Service{Engine: s.engine, Enricher: s.enricher}
	drafts := playground.New(explainer, s.cfg.engine().Child)
	s.onClose(drafts.Close)
	api := adminapi.Config{
		Service:       s.administration,
		Clients:       s.clients,
		VerifyGateway: s.verifier.Verify,
		Policy:        func() any { return s.engine.Status() },
		Policies:      s.policies,
		Explain:       explainer,
		Playground:    drafts,
		Shadow:        s.shadow,
		Previews:      previews,
		Searches:      func(ctx context.Context) (preview.SearchMoment, error) { return s.db.Snapshot(ctx) },
		PreviewEngine: previewEngine,
		EvalLimit:     cfg.Part(50),
		Retention:     adminapi.Retention{Decisions: cfg.DecisionsKeep, Events: cfg.OutboxRetention},
		Issuers:       cfg.Issuers,
		HeaderMax:     cfg.HeaderBudget,
		Background:    s.work,
		Issuer:        cfg.RAuthURL,
		Trusted:       cfg.TrustedProxies,
		Writes:        cfg.AdminWrites,
		SCIMWrites:    cfg.SCIMWrites,
		Version:       s.build.Version,
		Log:           s.log,
		Observe:       s.requests.Observe,
		Tracing:       s.tracing,
		Signals:       s.signals,
	}
	if s.decisionStore != nil {
		api.Decisions = s.decisionStore
	}
	if cfg.AdminAudience != "" {
		api.Verify, api.Rejected = s.verifier.ForAudience(cfg.AdminAudience).Verify, s.verifier.Rejected
	}
	handler, err := s.withConsole(adminapi.New(api), api.Verify)
	if err != nil {
		return err
	}
	s.servers = append(s.servers, newListener("admin", s.adminListener, s.withJWKS(handler), s.log))
	return nil
}

// bootstrap makes BOOTSTRAP_ADMIN the first platform administrator, if there is none.
func (s *service) bootstrap(start context.Context) error {
	if s.cfg.BootstrapAdmin == "" {
		return nil
	}
	caller := admin.Caller{Operator: "BOOTSTRAP_ADMIN", Via: "bootstrap"}
	granted, err := s.administration.GrantPlatformRole(start, caller, admin.Grant{
		Issuer:    s.cfg.RAuthURL,
		Subject:   s.cfg.BootstrapAdmin,
		Role:      iam.PlatformAdmin,
		OnlyFirst: true,
	})
	switch {
	case err != nil:
		return fmt.Errorf("BOOTSTRAP_ADMIN cannot be made an administrator: %w", err)
	case granted.Changed:
		s.log.WarnContext(start, "first platform administrator created from BOOTSTRAP_ADMIN", slog.String("user", granted.User))
	case granted.User == "":
		s.log.WarnContext(start, "BOOTSTRAP_ADMIN is ignored: there is another platform administrator already; unset it, or use iam-service grant-admin")
	}
	return nil
}
