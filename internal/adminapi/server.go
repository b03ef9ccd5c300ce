// Package adminapi is the HTTP API for administrators: its routes, the wire format of requests and responses, and the OpenAPI
// document that describes both. It owns authentication of callers, rate limits, conditional requests, idempotency keys, paging
// and the translation of errors to problem documents.
//
// It does not know who is authorized for what, nor how anything is stored: each route names the action that package admin
// authorizes (but /v1/me, which is for any caller), and its handler runs in the transaction that package admin opened. It knows no gateway and makes no decision.
//
// A request passes, in this order:
//
//	record → authenticate → limit writes → admit uploads → YAML to JSON → ETag → decode and validate → authorize → handler
//
// Where to look: routes.go is the table of all routes, and register.go what a row means; each resource has a file of its own.
package adminapi

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"iam-service/internal/admin"
	"iam-service/internal/adminapi/scim"
	"iam-service/internal/clients"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/policyops/explain"
	"iam-service/internal/policyops/playground"
	"iam-service/internal/policyops/preview"
	"iam-service/internal/policyops/rollout"
	"iam-service/internal/problem"
	"iam-service/internal/telemetry/tracing"
	"iam-service/internal/token"
	"iam-service/internal/token/signals"
)

// Config of the admin API.
type Config struct {
	Log     *slog.Logger
	Observe problem.Observe
	Tracing *tracing.Tracing // nil: off
	Version string           // of the program

	// Verify verifies tokens for the admin API; nil: the API is off.
	Verify Verify
	// VerifyGateway verifies tokens for gateways, whose decisions can be explained.
	VerifyGateway Verify
	// Rejected is notified of errors, rejected tokens among them; it may be nil.
	Rejected func(ctx context.Context, err error, attrs ...slog.Attr)

	Issuers iam.Issuers
	Issuer  string          // of subjects for which a request names none
	Trusted problem.Proxies // whose X-Forwarded-For is trusted
	Writes  int             // of one caller in a minute; 0: 600

	SCIMWrites int // of one provisioning client in a minute; 0: 3,000

	Service *admin.Service
	Clients *clients.Service

	Policy   func() any // the active revision of this replica
	Policies *rollout.Service
	Explain  *explain.Service
	Shadow   *preview.Shadow
	Previews *preview.Jobs

	Playground *playground.Service // evaluates drafts of the policy

	Decisions Decisions                                           // the decision log; nil: it cannot be searched
	Signals   *signals.Receiver                                   // nil: none are received
	Searches  func(context.Context) (preview.SearchMoment, error) // opens the snapshot of a search

	Retention Retention

	PreviewEngine *policy.Engine // with the settings of the serving engine, and more time
	EvalLimit     time.Duration  // of one evaluation by the serving engine: a preview reports those that exceed it
	HeaderMax     int
	Background    context.Context //nolint:containedctx // of previews, which outlive their request
}

// Verify verifies an access token.
type Verify = func(ctx context.Context, raw, idp string, deadline time.Time) (*token.Token, error)

// server is the handler of the listener.
type server struct {
	Config
	failures *problem.Reporter
	api      huma.API
	table    map[string]route // by method and path
	actions  []admin.Action   // of the table
	limits   *writeLimits
	scim     *writeLimits
	uploads  chan struct{} // one element for each upload in progress
	streams  streams       // exports and searches in progress
}

// New returns the handler of the listener.
func New(cfg Config) http.Handler {
	if cfg.Writes <= 0 {
		cfg.Writes = 600
	}
	if cfg.SCIMWrites <= 0 {
		cfg.SCIMWrites = 3000
	}
	a := &server{
		Config:   cfg,
		failures: &problem.Reporter{Logger: cfg.Log},
		limits:   newWriteLimits(cfg.Writes),
		scim:     newWriteLimits(cfg.SCIMWrites),
		uploads:  make(chan struct{}, maxUploads),
	}
	r := chi.NewRouter()
	r.Use(middleware.GetHead)
	r.NotFound(problem.Observed("", a.Observe, problem.Handle(a.failures, problem.NotFound)))
	r.MethodNotAllowed(problem.Observed("", a.Observe, problem.Handle(a.failures, problem.MethodNotAllowed)))
	a.mountSignals(r)
	if a.Verify == nil {
		r.NotFound(problem.Observed("", a.Observe, problem.Handle(a.failures, func(http.ResponseWriter, *http.Request) error {
			return iam.Errorf(iam.NotFound, "the admin API is off: ADMIN_AUDIENCE is not set")
		})))
		return r
	}
	a.mount(r)
	r.With(a.record).Mount("/scim/v2", scim.New(scim.Config{
		Service:      a.Service,
		Log:          a.Log,
		Authenticate: a.identify,
		LimitWrite:   func(c admin.Caller, h http.Header) error { return a.scim.limit(c, h) },
		Failures:     a.failures,
		Rejected:     a.rejected,
	}))
	a.mountDocs(r)
	return withoutVersion(r)
}

// mount adds the routes and the middleware of the API.
func (a *server) mount(r chi.Router) {
	configureHuma()
	r.Group(func(r chi.Router) {
		r.Use(a.record, a.authenticate, a.limitWrites, a.admitUploads, a.yamlToJSON, a.tagged)
		a.api = humachi.New(r, a.humaConfig())
		a.table = map[string]route{}
		routes := a.routes()
		for _, rt := range routes {
			rt.handler(a, rt)
		}
		a.actions = actionsOf(routes)
		a.complete()
	})
}

// withoutVersion serves /v1/clients at /clients too, where the platform expects it.
func withoutVersion(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/clients" || strings.HasPrefix(r.URL.Path, "/clients/") {
			r = r.Clone(r.Context())
			r.URL.Path = "/v1" + r.URL.Path
			if r.URL.RawPath != "" {
				r.URL.RawPath = "/v1" + r.URL.RawPath
			}
		}
		next.ServeHTTP(w, r)
	})
}
