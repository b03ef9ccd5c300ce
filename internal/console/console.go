// Package console serves the console of administrators: the page itself, and the backend of the page ("backend for
// frontend", RFC 9700 and draft-ietf-oauth-browser-based-apps, section 6.1). It owns the login by OpenID Connect, sessions
// and their cookie, and the protection against requests of other origins. Tokens stay on the server.
//
// It has no rights of its own and decides nothing: a request of the page goes to the admin API in process, with the
// person's access token, as one that came from outside would. It knows no route of the API, and not what the page shows.
//
//	        login                     callback: code, ID token, access token valid for the admin API
//	none ──────────▶ login cookie ──────────────────────────────────────────────────────▶ session: row + cookie
//	                    │ 10 min over, another browser, wrong state: login_expired           │
//	                    ▼                                                                    │ request: idle limit moved, access token
//	                   none  ◀───────────────────────────────────────────────────────────────┘ refreshed under the row's lock
//	                           logout, idle limit, absolute limit, refresh token or access token rejected, newer logins
//
// The cookie is encrypted and holds an id and a secret; the row holds the hash of the id, and the tokens encrypted under a key
// derived from CONSOLE_KEY and that secret. So neither a dump of the database nor a stolen key alone reveals a token.
//
// Where to look: console.go has the routes and what each request must fulfil; login.go the login, provider.go what the
// identity provider says of itself; session.go sessions, and cookies.go how they are sealed; api.go the way to the admin
// API; files.go the page.
package console

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"iam-service/internal/iam"
	"iam-service/internal/problem"
	"iam-service/internal/token"
)

// Path is where the console is on its listener, whatever its external URL is.
const Path = "/console"

// MaxSessions of one person; a login more ends the oldest.
const MaxSessions = 10

// Config of the console.
type Config struct {
	URL      string        // CONSOLE_URL, without a slash at its end
	Issuer   string        // of the persons who sign in
	ClientID string        // of the console, registered there with URL/callback
	Secret   func() string // of the client; nil: it is public. It is called for each request to the token endpoint
	Scopes   []string
	Audience string // ADMIN_AUDIENCE
	Keys     [][]byte
	Idle     time.Duration
	Lifetime time.Duration

	Store   Store
	API     http.Handler // the admin API
	Verify  Verify       // access tokens, as the admin API does
	Trusted problem.Proxies

	Client   *http.Client // for the provider
	Log      *slog.Logger
	Observe  problem.Observe
	Registry prometheus.Registerer
}

// Store of sessions. Every method fails with an iam.Error of kind Unavailable.
type Store interface {
	CreateConsoleSession(ctx context.Context, s iam.ConsoleSession, limits iam.ConsoleLimits) (iam.ConsoleSession, error)
	ConsoleSession(ctx context.Context, id []byte) (iam.ConsoleSession, bool, error)
	ExtendConsoleSession(ctx context.Context, id []byte, limits iam.ConsoleLimits) (iam.ConsoleSession, bool, error)
	RenewConsoleSession(ctx context.Context, id []byte, renew func(context.Context, iam.ConsoleSession) ([]byte, error)) (bool, error)
	EndConsoleSession(ctx context.Context, id []byte) error
}

// Verify verifies an access token for the admin API.
type Verify = func(ctx context.Context, raw, idp string, deadline time.Time) (*token.Token, error)

// Console is the handler of everything below Path.
type Console struct {
	cfg        Config
	origin     string // of URL
	cookiePath string // of URL
	cookie     string // name of the session's cookie
	limits     iam.ConsoleLimits
	sealer     sealer
	files      *files
	provider   *provider
	foreign    *http.CrossOriginProtection
	failures   *problem.Reporter
	metrics    *metrics

	renewals singleflight.Group // by id of a session
	renewing chan struct{}      // one element for each connection to the database that a refresh holds
}

// New returns the handler. The settings are valid.
func New(cfg Config) (*Console, error) {
	external, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, err
	}
	c := &Console{
		cfg:        cfg,
		origin:     external.Scheme + "://" + external.Host,
		cookiePath: external.EscapedPath() + "/",
		cookie:     "iam-console",
		limits:     iam.ConsoleLimits{Idle: cfg.Idle, Lifetime: cfg.Lifetime, Sessions: MaxSessions},
		provider:   newProvider(&cfg),
		foreign:    http.NewCrossOriginProtection(),
		failures:   &problem.Reporter{Logger: cfg.Log},
		metrics:    newMetrics(cfg.Registry),
		renewing:   make(chan struct{}, 3),
	}
	if external.Scheme == "https" {
		c.cookie = "__Secure-" + c.cookie
	}
	if c.sealer, err = newSealer(cfg.Keys); err != nil {
		return nil, err
	}
	if c.files, err = readFiles(); err != nil {
		return nil, err
	}
	return c, c.foreign.AddTrustedOrigin(c.origin) // a gateway may have changed Host
}

// ServeHTTP serves a request whose raw path is Path or below it.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	secureHeaders(w.Header())
	route, ok := strings.CutPrefix(r.URL.EscapedPath(), Path+"/")
	switch {
	case !ok:
		c.observed("/console", []string{http.MethodGet}, redirectToSlash)(w, r)
	case strings.HasPrefix(route, "api/"):
		c.handle(c.own(c.api))(w, r) // observed by the admin API
	case route == "session":
		c.observed("/console/session", []string{http.MethodGet}, c.own(c.session))(w, r)
	case route == "logout":
		c.observed("/console/logout", []string{http.MethodPost}, c.own(c.logout))(w, r)
	case route == "login":
		c.observed("/console/login", []string{http.MethodGet}, c.login)(w, r)
	case route == "callback":
		c.observed("/console/callback", []string{http.MethodGet}, c.callback)(w, r)
	default:
		c.observed("/console/", []string{http.MethodGet}, func(w http.ResponseWriter, r *http.Request) error { return c.files.serve(w, r, route) })(w, r)
	}
}

type handler = func(http.ResponseWriter, *http.Request) error

// observed records the requests of a route, which has these methods; HEAD is a GET without the body.
func (c *Console) observed(route string, methods []string, h handler) http.HandlerFunc {
	return problem.Observed(route, c.cfg.Observe, c.handle(func(w http.ResponseWriter, r *http.Request) error {
		for _, m := range methods {
			if r.Method == m || r.Method == http.MethodHead && m == http.MethodGet {
				return h(w, r)
			}
		}
		w.Header().Set("Allow", strings.Join(methods, ", "))
		problem.Write(w, problem.Document{Type: "/problems/method-not-allowed", Title: "Method not allowed", Status: http.StatusMethodNotAllowed})
		return nil
	}))
}

// handle responds with the problem of an error. A browser needs no challenge: the page asks the person to sign in.
func (c *Console) handle(h handler) http.HandlerFunc {
	return problem.Handle(c.failures, func(w http.ResponseWriter, r *http.Request) error {
		if err := h(w, r); err != nil {
			p := problem.New(r.Context(), err, problem.RequestID(r))
			c.failures.Report(w, r, p, err)
			w.Header().Del("WWW-Authenticate")
			problem.Write(w, p)
		}
		return nil
	})
}

// own rejects requests that the console's own page has not sent. The header can be sent across origins after a preflight
// alone, which nothing here answers; Fetch Metadata and Origin say the same where the browser sends them.
func (c *Console) own(next handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		site := r.Header.Get("Sec-Fetch-Site")
		origin := r.Header.Get("Origin")
		switch {
		case r.Header.Get("X-Requested-With") != "iam-console",
			site != "" && site != "same-origin",
			origin != "" && origin != c.origin,
			c.foreign.Check(r) != nil:
			return &iam.Error{Kind: iam.Forbidden, Code: "csrf", Detail: "only the console's own page can send this request: it needs X-Requested-With: iam-console, from the origin " + c.origin}
		}
		return next(w, r)
	}
}

// secureHeaders are those of every response. What is no page may load and run nothing: a response that a browser is made to
// show as a document stays data.
func secureHeaders(h http.Header) {
	h.Set("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer") // the callback's URL has a code
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()")
}

// redirectToSlash makes relative URLs of the page lead below the console, with any prefix before it.
func redirectToSlash(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Location", strings.TrimPrefix(Path, "/")+"/")
	w.WriteHeader(http.StatusTemporaryRedirect)
	return nil
}
