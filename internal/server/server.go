// Package server is "iam-service serve": its settings, the wiring of all packages, readiness and
// shutdown.
//
// Serve is the table of contents: one function opens each concern, in the order in which they
// depend on each other, and registers what closes it. It decides nothing about authorization.
// cmd/iam-service and cmd/iam-dev are two ways in.
package server

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"iam-service/internal/admin"
	"iam-service/internal/clients"
	"iam-service/internal/clients/rauth"
	"iam-service/internal/decisions"
	"iam-service/internal/directory"
	"iam-service/internal/directory/feed"
	"iam-service/internal/enrich"
	"iam-service/internal/events/natsbus"
	"iam-service/internal/gateway"
	"iam-service/internal/gateway/assertion"
	"iam-service/internal/policy"
	"iam-service/internal/policyops/preview"
	"iam-service/internal/policyops/rollout"
	"iam-service/internal/postgres"
	"iam-service/internal/problem"
	"iam-service/internal/telemetry"
	"iam-service/internal/telemetry/tracing"
	"iam-service/internal/token"
	"iam-service/internal/token/signals"
)

// Version is what the linker sets; else what the Go tool has noted.
var Version string

// Addrs are the addresses of the listeners.
type Addrs struct{ Gateway, Admin, Ops, ExtAuthz string } // the last one is "" where it is off

// Serve runs the service until ctx ends and every request has been served, or a part fails. It
// calls ready, which may be nil, once requests are served.
func Serve(ctx context.Context, cfg Config, out *telemetry.Log, ready func(Addrs)) error {
	s := newService(ctx, cfg, out)
	defer s.close()
	start, cancel := context.WithDeadline(ctx, s.deadline) // all that a start waits for shares START_TIMEOUT
	defer cancel()
	for _, open := range []func(context.Context) error{
		s.openListeners, // first: an address that is in use is known before anything else is opened
		s.openTracing,
		s.openDatabase,
		s.openBus,
		s.startLoops, // from here on: they end before the database and the bus are closed
		s.openTokens,
		s.openAssertions,
		s.openFacts,
		s.openEvents,
		s.openEngine,
		s.openAdministration,
		s.openPolicies,
		s.openDecisionLog,
		s.openEnrichment,
		s.openClients,
		s.openSignals,
		s.warm,
		s.openGateways,
		s.openAdminAPI,
		s.openOps,
		s.openExtAuthz,
	} {
		if err := open(start); err != nil {
			return err
		}
	}
	return s.serve(ctx, ready)
}

// service is what a start has opened. Each field is set by the function that its group names.
type service struct {
	cfg      Config
	out      *telemetry.Log
	log      *slog.Logger
	build    telemetry.Build
	registry *prometheus.Registry
	deadline time.Time // of the start

	// work ends after the last request: what is in flight must go on after ctx has ended.
	work    context.Context //nolint:containedctx // of everything in the background
	endWork context.CancelFunc

	// checks are what readiness looks at, in the order in which they are opened.
	checks []telemetry.Check
	// closers run in the opposite order.
	closers []func()

	// openListeners
	gatewayListener, adminListener, opsListener net.Listener
	extAuthzListener                            net.Listener // nil without EXT_AUTHZ_ADDR
	servers                                     []answering
	requests                                    *problem.Metrics

	// openTracing
	tracing *tracing.Tracing // nil: off

	// openDatabase
	db            *postgres.DB
	databaseError func(reason string)

	// openTokens
	verifier      *token.Verifier
	providerError func(operation, reason string)

	// openAssertions
	assertionKeys *assertion.Keys // nil without ASSERTION_ISSUER

	// openFacts
	facts         *directory.Store
	changes       *feed.Feed
	policyChanged chan struct{}

	// openBus
	bus *natsbus.Bus // nil without NATS_URL

	// startLoops
	loops *loops

	// openEngine
	engine *policy.Engine

	// openAdministration
	administration *admin.Service

	// openPolicies
	policies *rollout.Service
	manager  *policy.Manager // nil without OPA_CONFIG

	// openDecisionLog
	decisionLog   *decisions.Log
	decisionStore *postgres.Decisions // nil without DECISIONS_DATABASE_URL

	// openEnrichment
	enricher *enrich.Service
	shadow   *preview.Shadow

	// openGateways
	gateway *gateway.Service

	// openClients
	clients  *clients.Service
	provider *rauth.Client // nil without RAUTH_ADMIN_URL

	// openSignals
	signals *signals.Receiver // nil without SIGNALS_FILE

	// openOps
	ops *telemetry.Ops
}

func newService(ctx context.Context, cfg Config, out *telemetry.Log) *service {
	work, endWork := context.WithCancel(context.WithoutCancel(ctx))
	build := telemetry.ReadBuild(Version)
	s := &service{
		cfg:      cfg,
		out:      out,
		log:      out.Logger,
		build:    build,
		registry: telemetry.NewRegistry(build),
		deadline: time.Now().Add(cfg.StartTimeout),
		work:     work,
		endWork:  endWork,
	}
	out.Register(s.registry)
	s.onClose(endWork)
	return s
}

// onClose registers what closes something that was opened.
func (s *service) onClose(do func()) { s.closers = append(s.closers, do) }

func (s *service) close() {
	for i := len(s.closers) - 1; i >= 0; i-- {
		s.closers[i]()
	}
}

// check adds checks of readiness.
func (s *service) check(checks ...telemetry.Check) { s.checks = append(s.checks, checks...) }
