package server

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/policyops/rollout"
	"iam-service/internal/telemetry"
	embedded "iam-service/policies"
)

// openEngine creates the engine, without a policy.
func (s *service) openEngine(context.Context) error {
	cfg := &s.cfg
	c := cfg.engine()
	c.Log, c.OnCandidate = s.log, policy.CandidateCounter(s.registry)
	engine, err := policy.NewEngine(c)
	if err != nil {
		return fmt.Errorf("GATEWAY_HEADERS: %w", err)
	}
	s.engine = engine
	engine.Register(s.registry)
	s.check(
		telemetry.Check{Name: "policy", Ask: func() error {
			if engine.Revision() == nil {
				return policy.ErrNoPolicy
			}
			return nil
		}},
		telemetry.Check{Name: "policy_candidate", Degraded: true, Ask: func() error {
			if r := engine.Status().Rejected; r != nil {
				return errors.New("the last one was rejected: " + r.Reason)
			}
			return nil
		}},
	)
	return nil
}

// engine is the configuration of the engine.
func (cfg *Config) engine() policy.Config {
	return policy.Config{
		Headers:          cfg.GatewayHeaders,
		Admin:            cfg.AdminAudience != "",
		NoTrustedProxies: cfg.trustsNoGateway(),
		Settings:         map[string]string{"unknown_users": cfg.UnknownUsers},
		Limit:            cfg.Part(50),
		SignedOnly:       !cfg.PolicyAllowUnsigned,
		Key:              cfg.PolicyKey,
		Child:            []string{os.Args[0], policy.ChildCommand},
		Topdown:          cfg.PolicyEngine == "topdown",
		VerifyShare:      cfg.PolicyVerifyShare,
	}
}

// trustsNoGateway: no gateway is trusted, so the facts of requests are not known.
func (cfg *Config) trustsNoGateway() bool {
	return len(cfg.TrustedProxies) == 0 && cfg.GatewayClientCA == "" && cfg.ExtAuthzClientCAFile == ""
}

// openPolicies activates the first policy and follows all later ones.
func (s *service) openPolicies(context.Context) error {
	cfg := &s.cfg
	ours, err := policy.FromFS("embedded", embedded.FS)
	if err != nil {
		return err
	}
	s.policies = rollout.New(rollout.Config{
		DB:       s.db,
		Admin:    s.administration,
		Engine:   s.engine,
		Embedded: ours,
		Managed:  cfg.PolicyActivation == "managed",
		Follows:  cfg.follows(),
		ByOPA:    cfg.opaFetches,
		Unsigned: cfg.PolicyAllowUnsigned,
		StateDir: cfg.StateDir,
		Replica:  replicaName(),
		Version:  s.build.Version,
		Log:      s.log,
		Facts:    s.factsReport,
		OnPanic:  s.loops.panicked("policies"),
	})
	s.engine.SetActivator(s.policies.Passed)
	s.engine.SetDisagreed(s.policies.Disagreed)
	s.check(
		telemetry.Check{Name: "policy_in_force", Ask: s.policies.Behind},
		telemetry.Check{Name: "policy_activation", Degraded: true, Ask: s.policies.Lost},
	)
	if err := s.loadPolicies(); err != nil {
		return err
	}
	s.loops.run("policies", func() { s.policies.Run(s.work, s.policyChanged) })
	return nil
}

// loadPolicies activates the first policy: what is active on the other replicas, else what STATE_DIR has, else what the
// source has, else the embedded one. It keeps looking at the source.
func (s *service) loadPolicies() error {
	cfg := &s.cfg
	first := s.policies.Sync(s.work) // what is active elsewhere and cannot be here
	if err := s.policies.FromState(s.work); err != nil {
		first = errors.Join(first, err)
	}
	if cfg.OPAConfig != "" {
		manager, err := policy.StartManager(s.work, s.engine, cfg.opaConfig, s.policies.Replica())
		if err != nil {
			return fmt.Errorf("OPA_CONFIG %s cannot be used: %w", cfg.OPAConfig, err)
		}
		s.manager = manager
		s.onClose(func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(s.work), 2*time.Second)
			defer cancel()
			manager.Stop(ctx)
		})
	}
	if cfg.PolicyBundle != "" {
		// A rejected bundle is fatal only where no other policy is active.
		if err := s.engine.SubmitPath(s.work, cfg.PolicyBundle); err != nil && s.engine.Revision() == nil && !s.policies.Managed() {
			return fmt.Errorf("POLICY_BUNDLE %s cannot be used: %w", cfg.PolicyBundle, err)
		}
		watching, cancel := context.WithCancel(s.work)
		s.onClose(cancel)
		s.loops.run("policy_bundle", func() { s.engine.Watch(watching, cfg.PolicyBundle) })
	}
	if s.engine.Revision() != nil || cfg.opaFetches && !s.policies.Managed() {
		return nil
	}
	if first != nil {
		return fmt.Errorf("the revision that is active elsewhere cannot be activated here (do GATEWAY_HEADERS, ADMIN_AUDIENCE and POLICY_KEY_FILE differ from the other replicas'?): %w", first)
	}
	return OfferEmbedded(s.work, s.engine)
}

// follows reports whether the database decides which policy is active: a folder, and the embedded policy, are this
// replica's own. Where nothing is there yet, it does; a folder that comes later is shared, as an unsigned one.
func (cfg *Config) follows() bool {
	if cfg.PolicyActivation == "managed" || cfg.opaFetches {
		return true
	}
	info, err := os.Stat(cfg.PolicyBundle)
	return cfg.PolicyBundle != "" && (err != nil || !info.IsDir()) // a missing one is reported when it is read
}

// replicaName differs between replicas, and between two runs of one.
func replicaName() string {
	host, _ := os.Hostname() // only a name
	return cmp.Or(host, "unknown") + "-" + strings.ToLower(rand.Text()[:6])
}

// OfferEmbedded submits the policy that is part of the program.
func OfferEmbedded(ctx context.Context, engine *policy.Engine) error {
	c, err := policy.FromFS("embedded", embedded.FS)
	if err == nil {
		err = engine.Submit(ctx, c)
	}
	if err != nil {
		return fmt.Errorf("the embedded policy cannot be used: %w", err)
	}
	return nil
}

// PackedEmbedded is the policy that is part of the program, as it is stored.
func PackedEmbedded() (iam.PolicyRevision, []byte, error) {
	c, err := policy.FromFS("embedded", embedded.FS)
	if err != nil {
		return iam.PolicyRevision{}, nil, err
	}
	packed, err := c.Pack()
	return iam.PolicyRevision{Digest: c.Digest(), Name: c.Name, Source: c.Source, Verified: iam.VerifiedByNobody}, packed, err
}
