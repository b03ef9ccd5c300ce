// Package httpapi speaks HTTP: routes, headers, JSON, problem documents
// (RFC 9457).
//
// It owns how a request is read and an answer is written, and nothing else: what
// the answer is comes from the packages it was given. There are two handlers, for
// two listeners: the gateways' and the admins'. Gateways append the client's path
// to ours; so the gateways' listener serves nothing that changes anything, and
// takes /system/ before any router has interpreted the path.
package httpapi

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/google/uuid"
	"golang.org/x/sync/singleflight"

	"iam-service/internal/iam"
	"iam-service/internal/token"
)

// Observe is told of every request: the route without its version, "" for none.
type Observe func(handler, gateway, method string, status int, took time.Duration)

// Tenants lists the tenants a user may enter.
type Tenants interface {
	TenantsOf(ctx context.Context, issuer, subject string) ([]iam.TenantMembership, error)
}

// Gateway is what the gateways' listener serves.
type Gateway struct {
	Enricher Enricher
	Headers  []string                                                                        // canonical names, parallel to the answers' values
	Identify func(ctx context.Context, raw string) (t *token.Token, bound string, err error) // for endpoints about the bearer: the only tenant that it can act in, if any
	Tenants  Tenants
	Trusted  []netip.Prefix // whose X-Forwarded-… is believed

	listing chan struct{}       // a place for each list of tenants that is read now
	lists   *singleflight.Group // one read for all requests of a subject

	DenyAmbiguous bool // a path that can be read in two ways is refused also where the policy does not read it
	Log           *slog.Logger
	Observe       Observe
}

// maxListing is how many lists of tenants are read at once: few of the connections that
// enrichment has.
const maxListing = 2

// Handler returns the handler of the gateways' listener.
func (g Gateway) Handler() http.Handler {
	g.listing, g.lists = make(chan struct{}, maxListing), &singleflight.Group{}
	e := &enrichHandler{
		enricher: g.Enricher, headers: g.Headers, trusted: g.Trusted, log: g.Log, lacking: newPerMinute(), denyAmbiguous: g.DenyAmbiguous,
		observe: func(gateway, method string, status int, took time.Duration) {
			g.Observe(EnrichPath, gateway, method, status, took)
		},
	}
	failures := &failures{log: g.Log}
	r := chi.NewRouter()
	r.Use(middleware.GetHead)
	r.Get("/v1/me/tenants", observed("/me/tenants", g.Observe, handle(failures, g.myTenants)))
	r.NotFound(observed("", g.Observe, handle(failures, nowhere)))
	r.MethodNotAllowed(observed("", g.Observe, handle(failures, notThisMethod)))

	return ignoreBody(func(w http.ResponseWriter, req *http.Request) {
		// On the raw path and before the router, which refuses unknown methods.
		if rest, ok := belowEnrich(req); ok {
			e.serve(w, req, rest)
			return
		}
		if strings.HasPrefix(req.URL.EscapedPath(), "/system/") || strings.HasPrefix(req.URL.EscapedPath(), "/v1/system/") {
			observed("", g.Observe, handle(failures, nowhere))(w, req)
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

func nowhere(http.ResponseWriter, *http.Request) error {
	return iam.Errorf(iam.NotFound, "no such path")
}

// notThisMethod answers 405 with the methods that the path takes (RFC 9110, section 15.5.6).
func notThisMethod(w http.ResponseWriter, r *http.Request) error {
	var takes []string
	if routed := chi.RouteContext(r.Context()); routed != nil {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
			if !routed.Routes.Match(chi.NewRouteContext(), method, cmp.Or(r.URL.RawPath, r.URL.Path)) {
				continue
			}
			if takes = append(takes, method); method == "GET" {
				takes = append(takes, "HEAD") // whatever takes GET takes HEAD
			}
		}
	}
	w.Header().Set("Allow", strings.Join(takes, ", "))
	writeProblem(w, Problem{
		Type: "/problems/method-not-allowed", Title: "The path does not take this method", Status: http.StatusMethodNotAllowed,
	})
	return nil
}

type myTenant struct {
	ID      string `json:"id"`
	Slug    string `json:"slug"`
	Name    string `json:"name"`
	Default bool   `json:"default"`
}

// myTenants serves GET /v1/me/tenants: the bearer's own tenants, for a tenant
// switcher. At most 1,000, the limit of memberships, so it has no pages.
func (g Gateway) myTenants(w http.ResponseWriter, r *http.Request) error {
	raw, err := bearer(r.Header)
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
	return encode(w, http.StatusOK, out)
}

// tenantsOf reads the list of a subject. Lists share the connections of enrichment, which must not wait
// for them: few are read at once, and one subject occupies one place however many requests it sends.
func (g Gateway) tenantsOf(ctx context.Context, t *token.Token) ([]iam.TenantMembership, error) {
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

// handle adapts a handler that can fail to one that cannot.
func handle(f *failures, h func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id := newRequestID(r)
		w.Header().Set("X-Request-ID", id)
		r = r.WithContext(context.WithValue(r.Context(), requestIDKey{}, id))
		if err := h(w, r); err != nil {
			f.write(w, r, err)
		}
	}
}

// requestIDShape is what a caller's own id of a request may look like: it goes into
// logs and answers.
var requestIDShape = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// newRequestID is the caller's own id of a request, or a new one.
func newRequestID(r *http.Request) string {
	if id := r.Header.Get("X-Request-ID"); requestIDShape.MatchString(id) {
		return id
	}
	return uuid.NewString()
}

type requestIDKey struct{}

func requestID(r *http.Request) string {
	id, _ := r.Context().Value(requestIDKey{}).(string) // "" where none was given
	return id
}

// observed counts and times h under the name of its route.
func observed(route string, observe Observe, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		rec := &recorder{ResponseWriter: w, status: http.StatusOK}
		h(rec, r)
		observe(route, "", r.Method, rec.status, time.Since(began))
	}
}

// recorder remembers the status that was sent.
type recorder struct {
	http.ResponseWriter
	status int
	wrote  bool
}

func (r *recorder) WriteHeader(status int) {
	r.status, r.wrote = status, true
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	r.wrote = true
	return r.ResponseWriter.Write(b)
}

func encode(w http.ResponseWriter, status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // the client is gone; nothing left to tell
	return nil
}
