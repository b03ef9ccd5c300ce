// Package gateway serves the gateways' listener: what they ask about each request, and
// GET /v1/me/tenants.
//
// It owns how a gateway's request is read: one believed source of each fact, and 403
// malformed_request where two disagree. It owns the headers of the response, and which
// status a decision is. It does not know tokens, policies or facts: package enrich decides.
//
// Gateways append the client's path to ours. So this listener serves nothing that changes
// anything, and takes /system/ on the raw path, before any router has interpreted it.
package gateway

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"golang.org/x/sync/singleflight"

	"iam-service/internal/iam"
	"iam-service/internal/problem"
	"iam-service/internal/token"
)

// Tenants lists the tenants a user may enter.
type Tenants interface {
	TenantsOf(ctx context.Context, issuer, subject string) ([]iam.TenantMembership, error)
}

// Config of the gateways' listener.
type Config struct {
	Enricher Enricher
	Headers  []string // canonical names, parallel to the values of an enrich.Answer
	Tenants  Tenants
	Trusted  problem.Proxies // whose X-Forwarded-… is believed (TRUSTED_PROXIES)

	// Identify verifies a token for endpoints about its bearer. bound is the only tenant that
	// it can act in; empty: its client binds it to none.
	Identify func(ctx context.Context, raw string) (t *token.Token, bound string, err error)

	DenyAmbiguous bool // an ambiguous path is denied also where the policy does not read it (AMBIGUOUS_PATHS=always_deny)
	Log           *slog.Logger
	Observe       problem.Observe
}

// server is the listener's handler.
type server struct {
	Config
	listing chan struct{}      // a place for each list of tenants that is read now
	lists   singleflight.Group // one read for all requests of a subject
}

// maxListing is how many lists of tenants are read at once: few of the connections that
// enrichment has.
const maxListing = 2

// New returns the handler of the gateways' listener.
func New(cfg Config) http.Handler {
	g := &server{Config: cfg, listing: make(chan struct{}, maxListing)}
	e := &enrichHandler{
		enricher: g.Enricher, headers: g.Headers, trusted: g.Trusted, log: g.Log, lacking: newPerMinute(), denyAmbiguous: g.DenyAmbiguous,
		observe: func(gateway, method string, status int, took time.Duration) {
			g.Observe(EnrichPath, gateway, method, status, took)
		},
	}
	failures := &problem.Reporter{Logger: g.Log}
	r := chi.NewRouter()
	r.Use(middleware.GetHead)
	r.Get("/v1/me/tenants", problem.Observed("/me/tenants", g.Observe, problem.Handle(failures, g.myTenants)))
	r.NotFound(problem.Observed("", g.Observe, problem.Handle(failures, problem.NotFound)))
	r.MethodNotAllowed(problem.Observed("", g.Observe, problem.Handle(failures, problem.MethodNotAllowed)))

	return ignoreBody(func(w http.ResponseWriter, req *http.Request) {
		// On the raw path and before the router, which refuses unknown methods.
		if rest, ok := belowEnrich(req); ok {
			e.serve(w, req, rest)
			return
		}
		if strings.HasPrefix(req.URL.EscapedPath(), "/system/") || strings.HasPrefix(req.URL.EscapedPath(), "/v1/system/") {
			problem.Observed("", g.Observe, problem.Handle(failures, problem.NotFound))(w, req)
			return
		}
		r.ServeHTTP(w, req)
	})
}

// ignoreBody serves requests whose bodies are not read.
func ignoreBody(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength == 0 {
			h(w, r)
			return
		}
		// On a connection that is to live on, net/http would wait for the body before it
		// sends the response.
		w.Header().Set("Connection", "close")
		h(w, r)
		// After the response, net/http reads what is left of the body, so that closing the
		// connection does not cut the response off. A body that never comes holds nothing for long.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyPatience)) // the connection is gone
	}
}

// bodyPatience is how long the server waits for the body of a request after the response.
const bodyPatience = time.Second

type myTenant struct {
	ID      string `json:"id"`
	Slug    string `json:"slug"`
	Name    string `json:"name"`
	Default bool   `json:"default"`
}

// myTenants serves GET /v1/me/tenants: the bearer's own tenants, for a tenant
// switcher. At most 1,000, the limit of memberships, so it has no pages.
func (g *server) myTenants(w http.ResponseWriter, r *http.Request) error {
	raw, err := problem.Bearer(r.Header)
	if err != nil {
		return err
	}
	if raw == "" {
		return iam.Errorf(iam.Unauthenticated, "a bearer token is needed")
	}
	t, bound, err := g.Identify(r.Context(), raw)
	if err != nil {
		return err
	}
	if t.Program() {
		return iam.Errorf(iam.Forbidden, "only a user has tenants to switch between")
	}
	list, err := g.tenantsOf(r.Context(), t)
	if err != nil {
		return err
	}
	out := struct {
		Tenants []myTenant `json:"tenants"`
	}{Tenants: []myTenant{}}
	for _, m := range list {
		if bound == "" || m.ID == bound {
			out.Tenants = append(out.Tenants, myTenant(m))
		}
	}
	w.Header().Set("Cache-Control", "no-store")
	return problem.Encode(w, http.StatusOK, out)
}

// tenantsOf reads the list of a subject. Lists share the connections of enrichment, which must not wait
// for them: few are read at once, and one subject occupies one place however many requests it sends.
func (g *server) tenantsOf(ctx context.Context, t *token.Token) ([]iam.TenantMembership, error) {
	read := g.lists.DoChan(t.Issuer+"\x00"+t.Subject, func() (any, error) {
		ctx := context.WithoutCancel(ctx) // other requests of the subject may wait for it
		patience := time.NewTimer(time.Second)
		defer patience.Stop()
		select {
		case g.listing <- struct{}{}:
			defer func() { <-g.listing }()
		case <-patience.C:
			return nil, &iam.Error{Kind: iam.Unavailable, Code: "busy", Detail: "too many lists of tenants are requested at once"}
		}
		list, err := g.Tenants.TenantsOf(ctx, t.Issuer, t.Subject)
		if err != nil {
			return nil, &iam.Error{Kind: iam.Unavailable, Code: "facts_unavailable", Detail: "the facts cannot be read now", Cause: err}
		}
		return list, nil
	})
	select {
	case result := <-read:
		list, _ := result.Val.([]iam.TenantMembership)
		return list, result.Err
	case <-ctx.Done():
		return nil, &iam.Error{Kind: iam.Unavailable, Code: "busy", Detail: "the caller has left"}
	}
}
