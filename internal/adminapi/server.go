// Package adminapi is the HTTP API for administrators: its routes, the wire format of requests and responses, and the OpenAPI
// document that describes both. It owns authentication of callers, rate limits, conditional requests, idempotency keys, paging
// and the translation of errors to problem documents.
//
// It does not know who is authorized for what, nor how anything is stored: each route names the action that package admin
// authorizes, and its handler runs in the transaction that package admin opened. It knows no gateway and makes no decision.
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
	"iam-service/internal/clients"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/policyops/explain"
	"iam-service/internal/policyops/preview"
	"iam-service/internal/policyops/rollout"
	"iam-service/internal/problem"
	"iam-service/internal/token"
)

// Config of the admins' listener.
type Config struct {
	Service  *admin.Service
	Clients  *clients.Service
	Verify   func(ctx context.Context, raw, idp string, deadline time.Time) (*token.Token, error) // of tokens for the admin API; nil: it is off
	Rejected func(ctx context.Context, err error, attrs ...slog.Attr)                             // told of errors, tokens that are rejected among them; may be nil
	// VerifyGateway is Verify for tokens that gateways send: for what is to be explained.
	VerifyGateway func(ctx context.Context, raw, idp string, deadline time.Time) (*token.Token, error)

	Policy func() any // what is in force here

	Policies *rollout.Service // the life of policies
	Explain  *explain.Service
	Shadow   *preview.Shadow
	Previews *preview.Jobs

	PreviewEngine *policy.Engine // with the settings of what serves, and more time
	EvalLimit     time.Duration  // of an evaluation where it is served: what a preview holds answers to
	Issuers       iam.Issuers
	HeaderMax     int
	Background    context.Context //nolint:containedctx // of what goes on after an answer
	Decisions     Decisions       // where decisions can be found again; nil: nowhere
	Issuer        string          // of tokens where a request names none
	Trusted       problem.Proxies // whose X-Forwarded-For is believed
	Writes        int             // that one caller may ask for in a minute; 0: 600
	Version       string
	Log           *slog.Logger
	Observe       problem.Observe
}

// server is the listener's handler.
type server struct {
	Config
	failures  *problem.Reporter
	api       huma.API
	rates     *rates
	uploading chan struct{} // places for bundles that are being sent
}

// New returns the handler of the admins' listener.
func New(cfg Config) http.Handler {
	if cfg.Writes <= 0 {
		cfg.Writes = 600
	}
	a := &server{
		Config:    cfg,
		failures:  &problem.Reporter{Logger: cfg.Log},
		rates:     newRates(cfg.Writes),
		uploading: make(chan struct{}, maxUploads),
	}
	r := chi.NewRouter()
	r.Use(middleware.GetHead)
	r.NotFound(problem.Observed("", a.Observe, problem.Handle(a.failures, problem.Nowhere)))
	r.MethodNotAllowed(problem.Observed("", a.Observe, problem.Handle(a.failures, problem.NotThisMethod)))
	if a.Verify == nil {
		off := problem.Observed("", a.Observe, problem.Handle(a.failures, func(http.ResponseWriter, *http.Request) error {
			return iam.Errorf(iam.NotFound, "the admin API is off: ADMIN_AUDIENCE is not set")
		}))
		r.NotFound(off)
		return r
	}
	a.build(r)
	a.describe(r)
	return withoutVersion(r)
}

// build adds the routes of the API.
func (a *server) build(r chi.Router) {
	useProblems()
	r.Group(func(r chi.Router) {
		r.Use(a.around, a.authenticate, a.limit, a.uploads, yamlToJSON, conditional)
		a.api = humachi.New(r, a.config())
		a.routes()
	})
}

// withoutVersion lets clients be found at /clients too, as the platform calls it.
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
