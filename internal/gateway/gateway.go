// Package gateway serves the gateways' listener: a decision about each request of a client, and
// GET /v1/me/tenants.
//
// It owns the gateway profiles (profile.go), how a gateway's request is read: one trusted source of
// each fact, and 403 malformed_request where two disagree (facts.go), which status a decision is
// (decide.go), and the response of each protocol (http.go; extauthz.go for Envoy's gRPC; dataapi.go for
// OPA's data API). It does not know tokens, policies or facts:
// package enrich decides.
//
// Gateways append the client's path to ours. So this listener serves nothing that changes anything,
// and matches /system/ on the raw path, before any router has interpreted it.
package gateway

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"iam-service/internal/iam"
	"iam-service/internal/problem"
	"iam-service/internal/telemetry"
	"iam-service/internal/telemetry/tracing"
	"iam-service/internal/token"
)

// Tenants lists the tenants a user may enter.
type Tenants interface {
	TenantsOf(ctx context.Context, issuer, subject string) ([]iam.TenantMembership, error)
}

// Config of the gateways' listener.
type Config struct {
	Enricher Enricher
	Profiles []Profile // the enabled ones; the endpoints of others are 404
	Spelled  []string  // the headers as the settings spell them; nil: as Headers does
	Headers  []string  // canonical names, parallel to the values of an enrich.Response
	Tenants  Tenants
	Trusted  problem.Proxies // whose X-Forwarded-… is trusted (TRUSTED_PROXIES)

	EmptyValue string // of a header without a value, as in enrich.Config

	// Identify verifies a token for endpoints about its bearer. bound is the only tenant that
	// it can act in; empty: its client binds it to none.
	Identify func(ctx context.Context, raw string) (t *token.Token, bound string, err error)

	Secrets [][]byte      // of which gateways send one (GATEWAY_SECRET); none: they need not
	MaxAge  time.Duration // for which gateways may cache a 200 (GATEWAY_CACHE), in whole seconds; 0: not at all

	Decisions string // what comes before the id of a decision in the instance of a denial; "": /decisions/

	DenyAmbiguous bool // an ambiguous path is denied also where the policy does not read it (AMBIGUOUS_PATHS=always_deny)
	Log           *slog.Logger
	Observe       problem.Observe
	Tracing       *tracing.Tracing // nil: off
}

// Service serves gateways, by every protocol that they speak. It is safe for concurrent use.
type Service struct {
	Config
	routes      []route
	lacking     *perMinute // log lines about requests that lacked facts that the policy reads
	ages        []string   // Cache-Control of a 200 that is reusable for as many seconds
	secrets     [][sha256.Size]byte
	strangers   *perMinute         // log lines about peers that did not send the secret
	disabled    *perMinute         // log lines about endpoints of profiles that are not enabled
	unavailable problem.PerSecond  // log lines about requests that failed closed
	listing     chan struct{}      // a place for each list of tenants that is read now
	lists       singleflight.Group // one read for all requests of a subject

	unauthenticated atomic.Int64 // requests without the secret
}

// maxListing is how many lists of tenants are read at once: few of the connections that
// enrichment has.
const maxListing = 2

// New returns a service.
func New(cfg Config) *Service {
	cfg.Decisions = cmp.Or(cfg.Decisions, "/decisions/")
	s := &Service{
		Config:    cfg,
		routes:    routesOf(cfg.Profiles),
		lacking:   newPerMinute(),
		strangers: newPerMinute(),
		disabled:  newPerMinute(),
		listing:   make(chan struct{}, maxListing),
	}
	for _, secret := range cfg.Secrets {
		s.secrets = append(s.secrets, sha256.Sum256(secret))
	}
	for seconds := range int(cfg.MaxAge/time.Second) + 1 {
		s.ages = append(s.ages, fmt.Sprintf("private, max-age=%d", seconds))
	}
	return s
}

// Register registers the metrics of the listener that are not about a request's status.
func (s *Service) Register(r prometheus.Registerer) {
	telemetry.Counter(r, "iam_gateway_unauthenticated_total", "Enrichments that were denied for want of GATEWAY_SECRET.", nil,
		func() float64 { return float64(s.unauthenticated.Load()) })
}

// Handler serves the gateways' listener.
func (s *Service) Handler() http.Handler {
	failures := &problem.Reporter{Logger: s.Log}
	r := chi.NewRouter()
	r.Use(middleware.GetHead)
	r.Get("/v1/me/tenants", s.traced("/v1/me/tenants", problem.Observed("/me/tenants", s.Observe, problem.Handle(failures, s.myTenants))))
	notFound := problem.Observed("", s.Observe, problem.Handle(failures, problem.NotFound))
	r.NotFound(notFound)
	r.MethodNotAllowed(problem.Observed("", s.Observe, problem.Handle(failures, problem.MethodNotAllowed)))

	bodiless := ignoreBody(func(w http.ResponseWriter, req *http.Request) {
		// On the raw path and before the router, which rejects unknown methods.
		path := req.URL.EscapedPath()
		if p, rest, ok := match(s.routes, path); ok {
			s.enrichHTTP(w, req, p, rest)
			return
		}
		if strings.HasPrefix(path, "/system/") || strings.HasPrefix(path, "/v1/system/") {
			s.logDisabled(req, path)
			notFound(w, req)
			return
		}
		r.ServeHTTP(w, req)
	})
	data := dataProfile(s.Profiles)
	if data == nil {
		return bodiless
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodPost && req.URL.EscapedPath() == DataPath {
			s.decideData(w, req, data)
			return
		}
		bodiless(w, req)
	})
}

// traced is h with a span.
func (s *Service) traced(route string, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, span := s.Tracing.Begin(r.Context(), tracing.FromHeader(route, r.Header, s.callerOf(r).trusted))
		defer span.End()
		rec := problem.NewRecorder(w)
		h(rec, r.WithContext(ctx))
		tracing.Served(span, tracing.Response{Method: r.Method, Route: route, Status: rec.Status})
	}
}

// logDisabled logs that a gateway requests the endpoint of a profile that is not enabled: once a
// minute for each peer.
func (s *Service) logDisabled(r *http.Request, path string) {
	p, _, ok := match(allRoutes, path)
	if peer := problem.Peer(r); ok && s.disabled.first(peer, time.Now()) {
		s.Log.LogAttrs(r.Context(), slog.LevelWarn, "gateway profile not enabled", slog.String("endpoint", p.Endpoint),
			slog.String("peer", peer.String()), slog.String("variable", "GATEWAY_PROFILE"))
	}
}

// ignoreBody serves requests whose bodies are not read.
func ignoreBody(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength == 0 {
			h(w, r)
			return
		}
		// On a connection that is to live on, net/http would wait for the body before it
		// sends the response. HTTP/2 ends the stream alone; a close would end all of them.
		if r.ProtoMajor < 2 {
			w.Header().Set("Connection", "close")
		}
		h(w, r)
		// After the response, net/http reads what is left of the body, so that closing the
		// connection does not cut the response off. A body that never comes holds nothing for long.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyPatience)) // the connection is gone
	}
}

// bodyPatience is how long the server waits for the body of a request after the response.
const bodyPatience = time.Second
