package adminapi

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/swaggest/swgui"
	"github.com/swaggest/swgui/v5emb"
	yamlv3 "go.yaml.in/yaml/v3"
	"golang.org/x/time/rate"
	"sigs.k8s.io/yaml"

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

// Limits of the admin API.
const (
	maxBody      = 64 << 10
	maxBatchBody = 4 << 20
	verifyWait   = 2 * time.Second // for an issuer's keys
	maxLimiters  = 10_000          // callers whose rate is remembered
	maxUploads   = 2               // bundles that are read at once
	uploadWait   = 25 * time.Second
)

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

// config is how requests are read and what the document says of the whole.
func (a *server) config() huma.Config {
	c := huma.DefaultConfig("iam-service", a.Version)
	c.Info.Description = apiDescription
	c.DocsPath, c.OpenAPIPath, c.SchemasPath = "", "", ""
	c.CreateHooks = nil // no $schema in bodies
	c.RejectUnknownQueryParameters = true
	c.Formats = map[string]huma.Format{"application/json": jsonFormat, "json": jsonFormat}
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"bearer": {Type: "http", Scheme: "bearer", BearerFormat: "JWT", Description: "An access token for ADMIN_AUDIENCE."},
	}
	c.Security = []map[string][]string{{"bearer": {}}}
	c.Tags = apiTags
	return c
}

// jsonFormat keeps numbers as they are written: an attribute is not a float64.
var jsonFormat = huma.Format{
	Marshal: huma.DefaultJSONFormat.Marshal,
	Unmarshal: func(b []byte, v any) error {
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		if err := d.Decode(v); err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
				return errors.New("the JSON ends too early")
			}
			return err
		}
		if _, err := d.Token(); !errors.Is(err, io.EOF) {
			return errors.New("the body holds more than one value")
		}
		d = json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		if err := noTwice(d); err != nil {
			return err
		}
		if whole, ok := v.(*any); ok {
			*whole = asFloats(*whole) // what huma only validates: it knows no json.Number
		}
		return nil
	},
}

func asFloats(v any) any {
	switch v := v.(type) {
	case json.Number:
		f, _ := v.Float64() // out of range: infinite, which no bound allows
		return f
	case map[string]any:
		for k, x := range v {
			v[k] = asFloats(x)
		}
	case []any:
		for i, x := range v {
			v[i] = asFloats(x)
		}
	}
	return v
}

// noTwice refuses an object with one name twice (RFC 8259, section 4): two programs
// could read it differently. The JSON is known to be well-formed.
func noTwice(d *json.Decoder) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	open, ok := t.(json.Delim)
	if !ok {
		return nil
	}
	names := map[any]bool{}
	for d.More() {
		if open == '{' {
			name, err := d.Token()
			if err != nil {
				return err
			}
			if names[name] {
				return fmt.Errorf("the name %q stands twice in an object", name)
			}
			names[name] = true
		}
		if err := noTwice(d); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

// describe serves the document and a page to browse it, without a token: they are the
// same for everybody.
func (a *server) describe(r chi.Router) {
	document := sync.OnceValue(a.document)
	r.Get("/openapi.json", problem.Observed("/openapi.json", a.Observe, conditional(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/vnd.oai.openapi+json;version=3.1")
		_, _ = w.Write(document()) // the client is gone; nothing left to report
	})).ServeHTTP))
	page := v5emb.NewWithConfig(swgui.Config{SettingsUI: map[string]string{"tryItOutEnabled": "true"}})("iam-service", "/openapi.json", "/docs/")
	docs := problem.Observed("/docs", a.Observe, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'self'; style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		page.ServeHTTP(w, req)
	})
	r.Get("/docs", docs)
	r.Get("/docs/*", docs)
}

// around gives each request an id, a line in the log and its figures.
func (a *server) around(next http.Handler) http.Handler {
	return problem.Handle(a.failures, func(w http.ResponseWriter, r *http.Request) error {
		began := time.Now()
		rec := problem.NewRecorder(w)
		rec.Header().Set("Cache-Control", "no-store")
		line := &logLine{}
		a.survive(rec, r.WithContext(context.WithValue(r.Context(), logLineKey{}, line)), next)
		route := strings.TrimPrefix(chi.RouteContext(r.Context()).RoutePattern(), "/v1")
		took := time.Since(began)
		a.Observe(route, "", r.Method, rec.Status, took)
		a.Log.LogAttrs(r.Context(), slog.LevelInfo, "admin request", append(line.attrs,
			slog.String("method", r.Method), slog.String("route", route), slog.String("path", token.Hide(r.URL.Path)), slog.Int("status", rec.Status),
			slog.Duration("took", took), slog.String("request_id", problem.RequestID(r)))...)
		return nil
	})
}

// survive answers a request that makes us panic as any other fault of ours.
func (a *server) survive(w *problem.Recorder, r *http.Request, next http.Handler) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if p == http.ErrAbortHandler { //nolint:errorlint // it is the value itself
			panic(p)
		}
		a.Log.ErrorContext(r.Context(), "a request made us panic", slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
		if w.Wrote {
			panic(http.ErrAbortHandler) // half an answer is none: the connection is cut
		}
		a.failures.Write(w, r, fmt.Errorf("panic: %v", p))
	}()
	next.ServeHTTP(w, r)
}

// logLine gathers what is said of a request when it is over.
type logLine struct{ attrs []slog.Attr }

type (
	logLineKey struct{}
	callerKey  struct{}
	requestKey struct{}
)

// authenticate lets nobody pass without a token that is for the admin API.
func (a *server) authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := a.caller(r)
		if err != nil {
			a.failures.Write(w, r, err)
			return
		}
		if line, ok := r.Context().Value(logLineKey{}).(*logLine); ok {
			line.attrs = append(line.attrs, slog.String("issuer", c.Token.Issuer), slog.String("subject", c.Token.Subject),
				slog.String("client_id", c.Token.ClientID), slog.String("address", c.Address))
		}
		ctx := context.WithValue(r.Context(), callerKey{}, c)
		next.ServeHTTP(w, r.WithContext(context.WithValue(ctx, requestKey{}, request{w, r})))
	})
}

// request is what handlers behind huma need of it.
type request struct {
	w http.ResponseWriter
	r *http.Request
}

func (a *server) caller(r *http.Request) (admin.Caller, error) {
	c := admin.Caller{Via: "api", Method: r.Method, RequestID: problem.RequestID(r)}
	if c.Method == http.MethodHead {
		c.Method = http.MethodGet // what a policy says of one holds for the other
	}
	raw, err := problem.Bearer(r.Header)
	if err != nil {
		return c, &iam.Error{Kind: iam.Malformed, Code: "malformed_request", Detail: problem.DetailOf(err)}
	}
	if raw == "" {
		return c, iam.Errorf(iam.Unauthenticated, "a bearer token for the admin API is needed")
	}
	peer := problem.Peer(r)
	address, err := a.Trusted.ClientIP(r.Header, peer)
	if err != nil {
		return c, &iam.Error{Kind: iam.Malformed, Code: "malformed_request", Detail: problem.DetailOf(err)}
	}
	if address = cmp.Or(address, peer); address.IsValid() {
		c.Address = address.String()
	}
	c.Token, err = a.Verify(r.Context(), raw, "", time.Now().Add(verifyWait))
	if iam.KindOf(err) == iam.Unauthenticated {
		a.rejected(r.Context(), err, c.RequestID) // why goes to our log alone
		err = &iam.Error{Kind: iam.Unauthenticated, Code: "invalid_token", Detail: "the token is expired, revoked, malformed or not for the admin API"}
	}
	return c, err
}

func (a *server) rejected(ctx context.Context, err error, request string) {
	if a.Rejected != nil {
		a.Rejected(ctx, err, slog.String("request_id", request))
	}
}

// limit holds what one caller writes to a rate, on this replica.
func (a *server) limit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			next.ServeHTTP(w, r)
			return
		}
		c := callerOf(r.Context())
		left, wait := a.rates.take(c.Token.Issuer+"\x00"+c.Token.Subject+"\x00"+c.Token.ClientID, time.Now())
		h := w.Header()
		h.Set("RateLimit-Policy", fmt.Sprintf(`"writes";q=%d;w=60`, a.Writes))
		h.Set("RateLimit", fmt.Sprintf(`"writes";r=%d;t=%d`, left, int(math.Ceil(a.rates.full(left).Seconds()))))
		if wait > 0 {
			h.Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
			a.failures.Write(w, r, &iam.Error{Kind: iam.TooManyRequests, Code: "rate_limited", Detail: fmt.Sprintf("more than %d writes a minute, as this replica counts them", a.Writes)})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// uploads asks whether somebody may send a bundle before its body is read, and lets few do
// so at once: bundles are large, and the gate is work that not everybody can have done.
func (a *server) uploads(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.URL.Path != "/v1/policy/revisions" {
			next.ServeHTTP(w, r)
			return
		}
		err := a.Service.Authorize(r.Context(), callerOf(r.Context()), admin.Task{Action: "policy:upload"})
		if err != nil {
			a.failures.Write(w, r, err)
			return
		}
		select {
		case a.uploading <- struct{}{}:
			defer func() { <-a.uploading }()
			next.ServeHTTP(w, r)
		default:
			a.failures.Write(w, r, &iam.Error{Kind: iam.Unavailable, Code: "busy", Detail: "other bundles are being sent: try again"})
		}
	})
}

// rates are the buckets of callers, those seen last.
type rates struct {
	mu     sync.Mutex
	writes int
	byName *simplelru.LRU[string, *rate.Limiter]
}

func newRates(writes int) *rates {
	lru, err := simplelru.NewLRU[string, *rate.Limiter](maxLimiters, nil)
	if err != nil {
		panic(err) // the size is a constant
	}
	return &rates{writes: writes, byName: lru}
}

// take takes one write. It returns how many are left, and how long to wait where
// there was none.
func (r *rates) take(name string, now time.Time) (left int, wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l, ok := r.byName.Get(name)
	if !ok {
		l = rate.NewLimiter(rate.Limit(float64(r.writes)/60), r.writes)
		r.byName.Add(name, l)
	}
	if !l.AllowN(now, 1) {
		missing := 1 - l.TokensAt(now)
		return 0, time.Duration(missing / float64(l.Limit()) * float64(time.Second))
	}
	return int(l.TokensAt(now)), 0
}

// full is how long it takes until all can be written again.
func (r *rates) full(left int) time.Duration {
	return time.Duration(float64(r.writes-left) / float64(r.writes) * float64(time.Minute))
}

func callerOf(ctx context.Context) admin.Caller {
	c, _ := ctx.Value(callerKey{}).(admin.Caller) // authenticate puts it there
	return c
}

// yamlToJSON lets manifests be YAML, as they are in their repositories.
func yamlToJSON(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		manifest := r.URL.Path == "/s2s/system/sync" || strings.HasSuffix(r.URL.Path, "/manifest")
		if media, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); manifest && (media == "application/yaml" || media == "application/x-yaml" || media == "text/yaml") {
			body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
			if err == nil {
				err = noAliases(body)
			}
			if err == nil {
				body, err = yaml.YAMLToJSONStrict(body)
			}
			if err != nil {
				e := &iam.Error{Kind: iam.Malformed, Detail: "the body is not the YAML that is expected: " + strings.Join(strings.Fields(err.Error()), " ")}
				if _, large := errors.AsType[*http.MaxBytesError](err); large {
					e.Kind, e.Detail = iam.TooLarge, fmt.Sprintf("at most %d bytes are allowed", maxBody)
				}
				problem.Write(w, problem.New(e, problem.RequestID(r)))
				return
			}
			r = r.Clone(r.Context())
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
			r.Header.Set("Content-Type", "application/json")
		}
		next.ServeHTTP(w, r)
	})
}

// noAliases refuses YAML that refers to itself: a few bytes of it can be gigabytes when
// they are written out.
func noAliases(body []byte) error {
	var doc, more yamlv3.Node
	d := yamlv3.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(&doc); err != nil {
		return err
	}
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		return errors.New("one document is taken, and there are more")
	}
	var walk func(n *yamlv3.Node) error
	walk = func(n *yamlv3.Node) error {
		if n.Kind == yamlv3.AliasNode || n.Anchor != "" {
			return fmt.Errorf("line %d: anchors and aliases are not taken", n.Line)
		}
		for _, c := range n.Content {
			if err := walk(c); err != nil {
				return err
			}
		}
		return nil
	}
	return walk(&doc)
}

// route is one line of the API.
type route struct {
	method, path, action string
	summary, description string
	tag                  string
	status               int // 0: 200
	maxBody              int64
}

// about is what every input says: the tenant that it is about, "" for the platform.
type about[I any] interface {
	*I
	tenant() string
}

// once is an input whose request can be repeated.
type once interface {
	key() string
	raw() []byte
}

// add registers a route: h runs within one transaction, in which its caller was found
// to be allowed what the route is about.
func add[I, O any, P about[I]](a *server, rt route, h func(context.Context, *admin.Work, P) (*O, error)) {
	register(a, rt, func(ctx context.Context, r asked, p P) (*O, error) {
		do := func(ctx context.Context, w *admin.Work) (*O, error) { return h(ctx, w, p) }
		if r.once == nil {
			return admin.Do(ctx, a.Service, r.caller, r.task, do)
		}
		out, replayed, err := admin.DoOnce(ctx, a.Service, r.caller, r.task, *r.once, do)
		if replayed {
			r.header.Set("Idempotency-Replayed", "true")
		}
		return out, err
	})
}

// asked is a request of the admin API.
type asked struct {
	caller admin.Caller
	task   admin.Task
	once   *admin.IdempotencyKey // nil: it has no key
	header http.Header           // of the answer
}

// register adds a route to the API: h sees to it that its caller may.
func register[I, O any, P about[I]](a *server, rt route, h func(context.Context, asked, P) (*O, error)) {
	op := huma.Operation{
		OperationID: operationID(rt), Method: rt.method, Path: rt.path, Summary: rt.summary, Description: rt.description,
		Tags: []string{rt.tag}, DefaultStatus: rt.status, MaxBodyBytes: rt.maxBody,
		Errors:     []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusServiceUnavailable},
		Extensions: map[string]any{"x-action": rt.action},
	}
	if op.MaxBodyBytes == 0 {
		op.MaxBodyBytes = maxBody
	}
	if op.MaxBodyBytes > maxBatchBody {
		op.BodyReadTimeout = uploadWait
	}
	writes := rt.method != http.MethodGet
	if writes {
		op.Errors = append(op.Errors, http.StatusBadRequest, http.StatusConflict, http.StatusPreconditionFailed, http.StatusPreconditionRequired,
			http.StatusUnprocessableEntity, http.StatusTooManyRequests, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType)
	} else {
		op.Errors = append(op.Errors, http.StatusBadRequest, http.StatusUnprocessableEntity)
	}
	huma.Register(a.api, op, func(ctx context.Context, in *I) (*O, error) {
		p := P(in)
		req, _ := ctx.Value(requestKey{}).(request) // authenticate puts it there
		r := asked{
			caller: callerOf(ctx), header: req.w.Header(),
			task: admin.Task{Action: rt.action, Tenant: p.tenant(), Writes: writes, Patient: rt.action == "tenant:delete"},
		}
		if o, ok := any(p).(interface{ object() string }); ok {
			r.task.Object = o.object()
		}
		_, r.task.Client = any(p).(interface{ client() })
		if l, ok := any(p).(interface{ leaves() bool }); ok {
			r.task.LeaveTenant = l.leaves()
		}
		if c, ok := any(p).(interface{ actions() []string }); ok {
			r.task.Action, r.task.Also = c.actions()[0], c.actions()[1:]
		}
		if k, ok := any(p).(once); ok && k.key() != "" {
			r.once = &admin.IdempotencyKey{Key: k.key(), Request: sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s", req.r.Method, req.r.URL.RequestURI(), k.raw()))}
		}
		out, err := h(ctx, r, p)
		if found, ok := errors.AsType[*problem.Document](err); ok {
			return nil, found
		}
		if err != nil {
			pr := problem.New(err, problem.RequestID(req.r))
			a.rejected(ctx, err, problem.RequestID(req.r))
			a.failures.Report(req.w, req.r, pr, err)
			return nil, &pr
		}
		return out, nil
	})
}

// operationID is the method and the path, as one word.
func operationID(rt route) string {
	path := strings.TrimPrefix(strings.TrimPrefix(rt.path, "/v1"), "/")
	return strings.ToLower(rt.method) + "-" + strings.NewReplacer("/", "-", "{", "", "}", "", ":", "-").Replace(path)
}

// useProblems makes huma speak of its own findings as we do. It is set once for the
// program: huma has no other place for it.
var useProblems = sync.OnceFunc(func() {
	huma.ValidateStrictCasing = true
	huma.DefaultArrayNullable = false // an absent list is left out; none of ours is null
	huma.NewErrorWithContext = func(ctx huma.Context, status int, _ string, errs ...error) huma.StatusError {
		return found(requestIDOf(ctx), status, errs)
	}
	huma.NewError = func(status int, _ string, errs ...error) huma.StatusError { return found("", status, errs) }
})

func requestIDOf(ctx huma.Context) string {
	if ctx == nil {
		return ""
	}
	req, _ := ctx.Context().Value(requestKey{}).(request) // "" where it is not
	if req.r == nil {
		return ""
	}
	return problem.RequestID(req.r)
}

// found makes a problem of what huma found wrong with a request.
func found(id string, status int, errs []error) *problem.Document {
	e := &iam.Error{Kind: problem.KindOf(status)}
	switch status {
	case http.StatusUnsupportedMediaType, http.StatusNotAcceptable, http.StatusRequestTimeout:
		e.Kind = iam.Malformed
	}
	e.Detail = map[iam.Kind]string{iam.Invalid: "some fields are not valid", iam.Malformed: "the request cannot be read", iam.TooLarge: "the body is too large"}[e.Kind]
	for _, err := range errs {
		d, ok := errors.AsType[*huma.ErrorDetail](err)
		if !ok {
			continue // nothing of ours that the outside needs to know
		}
		e.Fields = append(e.Fields, iam.FieldError{Pointer: pointerOf(d.Location), Detail: d.Message})
	}
	p := problem.New(e, id)
	if e.Kind == iam.Malformed {
		p.Status = status // 415 is closer than 400
	}
	return &p
}

// pointerOf makes a JSON Pointer of body.roles[1], and a name of query.limit.
func pointerOf(location string) string {
	where, rest, _ := strings.Cut(location, ".")
	if where != "body" && !strings.HasPrefix(where, "body[") {
		return rest
	}
	location = strings.TrimPrefix(location, "body")
	location = strings.NewReplacer("[", "/", "]", "", ".", "/").Replace(location)
	return location
}

// Parts of inputs and outputs. Those that inputs embed are exported, since huma looks
// into no others.

// OnPlatform is an input about no tenant.
type OnPlatform struct{}

func (OnPlatform) tenant() string { return "" }

// OnTenant is an input about a tenant.
type OnTenant struct {
	Tenant string `path:"tenant" maxLength:"64" doc:"id of the tenant"`
}

func (i OnTenant) tenant() string { return i.Tenant }

// Repeatable is an input of a POST that can be sent again.
type Repeatable struct {
	IdempotencyKey string `header:"Idempotency-Key" maxLength:"255" doc:"the same key and request within 24 hours: the same answer, and nothing is done twice"`
	RawBody        []byte
}

func (i Repeatable) key() string { return i.IdempotencyKey }
func (i Repeatable) raw() []byte { return i.RawBody }

// Conditional is an input that says what the caller believes.
type Conditional struct {
	IfMatch     string `header:"If-Match" maxLength:"1000" doc:"ETag of what was read; * for any"`
	IfNoneMatch string `header:"If-None-Match" maxLength:"10" doc:"* where nothing must be there yet"`
}

// condition reads RFC 9110, section 13.1. A weak tag never matches.
func (i Conditional) condition() (admin.Condition, error) {
	var c admin.Condition
	switch i.IfNoneMatch {
	case "":
	case "*":
		c.Absent = true
	default:
		return c, &iam.Error{Kind: iam.Malformed, Detail: "the request cannot be read", Fields: []iam.FieldError{{Pointer: "If-None-Match", Detail: "only * is understood"}}}
	}
	if i.IfMatch == "" {
		return c, nil
	}
	if c.Absent {
		return c, &iam.Error{Kind: iam.Malformed, Detail: "the request cannot be read", Fields: []iam.FieldError{{Pointer: "If-Match", Detail: "goes not together with If-None-Match"}}}
	}
	if i.IfMatch == "*" {
		c.Present = true
		return c, nil
	}
	for tag := range strings.SplitSeq(i.IfMatch, ",") {
		tag = strings.TrimSpace(tag)
		inner, strong := strings.CutPrefix(tag, `"`)
		inner, whole := strings.CutSuffix(inner, `"`)
		version, _, _ := strings.Cut(inner, "-") // of the whole tag; see conditional
		n, err := strconv.ParseInt(version, 10, 64)
		switch {
		case strings.HasPrefix(tag, `W/"`):
			n = -1
		case !strong || !whole:
			return c, &iam.Error{Kind: iam.Malformed, Detail: "the request cannot be read", Fields: []iam.FieldError{{Pointer: "If-Match", Detail: `is a list of ETags, as in "3"`}}}
		case err != nil:
			n = -1 // no tag of ours
		}
		c.Versions = append(c.Versions, n)
	}
	return c, nil
}

// Leaving is an input of a change after which a tenant could be without an administrator.
type Leaving struct {
	LeaveWithoutAdministrator bool `query:"leave_without_administrator" doc:"also where it leaves the tenant without an administrator, which is 409 last_tenant_admin otherwise"`
}

func (i Leaving) leaves() bool { return i.LeaveWithoutAdministrator }

// Paged is an input that asks for one page.
type Paged struct {
	Limit int    `query:"limit" minimum:"1" maximum:"500" default:"50" doc:"entries of a page"`
	After string `query:"after" maxLength:"500" doc:"where to go on: next of the page before"`
}

// cursor reads what next wrote.
func (p Paged) cursor(into ...any) error {
	if p.After == "" {
		return nil
	}
	b, err := base64.RawURLEncoding.DecodeString(p.After)
	if err == nil {
		err = json.Unmarshal(b, &into)
	}
	if err != nil {
		return badCursor()
	}
	return nil
}

func badCursor() error {
	return &iam.Error{Kind: iam.Invalid, Detail: "some fields are not valid", Fields: []iam.FieldError{{Pointer: "after", Detail: "is not what a page before had in next"}}}
}

// one is an answer with one thing.
type one[T any] struct {
	Status   int
	Location string `header:"Location"`
	ETag     string `header:"ETag"`
	Body     T
}

// many is an answer with a page of things.
type many[T any] struct {
	Link string `header:"Link" doc:"rel=\"next\" where there is more (RFC 8288)"`
	Body page[T]
}

type page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty" doc:"the value of after for the next page; absent: this is the last"`
}

// pageOf makes a page of one entry more than was asked for: whether there is more.
func pageOf[S, T any](ctx context.Context, p Paged, list []S, wire func(S) T, key func(S) []any) (*many[T], error) {
	out := &many[T]{Body: page[T]{Items: []T{}}}
	more := len(list) > p.Limit
	if more {
		list = list[:p.Limit]
	}
	for _, x := range list {
		out.Body.Items = append(out.Body.Items, wire(x))
	}
	if !more {
		return out, nil
	}
	b, err := json.Marshal(key(list[len(list)-1]))
	if err != nil {
		return nil, err
	}
	out.Body.Next = base64.RawURLEncoding.EncodeToString(b)
	req, _ := ctx.Value(requestKey{}).(request) // authenticate puts it there
	q := req.r.URL.Query()
	q.Set("after", out.Body.Next)
	out.Link = "<" + (&url.URL{Path: req.r.URL.Path, RawQuery: q.Encode()}).String() + `>; rel="next"`
	return out, nil
}

func etag(version int64) string { return `"` + strconv.FormatInt(version, 10) + `"` }
