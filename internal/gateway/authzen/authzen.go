// Package authzen serves the OpenID AuthZEN Authorization API 1.0 (Final, January 2026,
// https://openid.net/specs/authorization-api-1_0.html) over HTTP: evaluations, searches and the metadata.
//
// It owns the protocol: the endpoints, how a body is read (I-JSON, RFC 7493: no name twice, no invalid Unicode, bounded),
// the defaults of evaluations and their semantics, the tokens of pages, the request's id, and statuses. A deny is 200;
// a request that is not valid is 400; a client that may not ask is 401 or 403; what cannot be decided now is 503, for a
// whole batch too, so that no enforcement point takes an outage for a deny. It does not know tokens, policies or
// facts: package pdp decides.
package authzen

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"iam-service/internal/enrich/pdp"
	"iam-service/internal/iam"
	"iam-service/internal/problem"
	"iam-service/internal/telemetry/tracing"
)

// The endpoints, by the default paths of section 10.1 of the specification.
const (
	WellKnown       = "/.well-known/authzen-configuration"
	PathEvaluation  = "/access/v1/evaluation"
	PathEvaluations = "/access/v1/evaluations"
	PathSubjects    = "/access/v1/search/subject"
	PathResources   = "/access/v1/search/resource"
	PathActions     = "/access/v1/search/action"
)

// Bounds of requests.
const (
	maxBody        = 256 << 10 // bytes
	maxEvaluations = 100       // of one request
	batchTime      = 2 * time.Second
	maxRequestID   = 512 // bytes of X-Request-ID
	bodyPatience   = 5 * time.Second
)

// Decider decides. *pdp.Service is one.
type Decider interface {
	Caller(ctx context.Context, token string) (*pdp.Caller, error)
	Searches() (kinds []string, ok bool)
	Batch(ctx context.Context, c *pdp.Caller) (release func(), err error)
	Evaluate(ctx context.Context, c *pdp.Caller, q pdp.Request) (pdp.Decision, error)
	Subjects(ctx context.Context, c *pdp.Caller, q pdp.Request, page pdp.Page) (pdp.Found, error)
	Resources(ctx context.Context, c *pdp.Caller, q pdp.Request, page pdp.Page) (pdp.Found, error)
	Actions(ctx context.Context, c *pdp.Caller, q pdp.Request, page pdp.Page) (pdp.Found, error)
}

// Config of a Service.
type Config struct {
	URL     string // of the policy decision point, as clients know it, without a final slash
	Decider Decider
	Trusted problem.Proxies // whose traceparent is continued
	Log     *slog.Logger
	Observe problem.Observe
	Tracing *tracing.Tracing // nil: off
}

// Service serves the API. It is safe for concurrent use.
type Service struct {
	Config
	wellKnown string // the path of the metadata: WellKnown, and the path of URL
	routes    map[string]http.HandlerFunc
}

// New returns a service. URL must be a valid URL.
func New(cfg Config) (*Service, error) {
	base, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, err
	}
	s := &Service{Config: cfg, wellKnown: WellKnown + base.EscapedPath()}
	failures := &problem.Reporter{Logger: cfg.Log}
	s.routes = map[string]http.HandlerFunc{}
	for path, h := range map[string]func(http.ResponseWriter, *http.Request) error{
		s.wellKnown:     s.metadata,
		PathEvaluation:  s.posted(s.evaluation),
		PathEvaluations: s.posted(s.evaluations),
		PathSubjects:    s.posted(s.search(subjects, cfg.Decider.Subjects)),
		PathResources:   s.posted(s.search(resources, cfg.Decider.Resources)),
		PathActions:     s.posted(s.search(actions, cfg.Decider.Actions)),
	} {
		route := strings.Replace(path, "/v1", "", 1)
		if path == s.wellKnown {
			route = WellKnown
		}
		s.routes[path] = s.traced(route, problem.Observed(route, cfg.Observe, problem.Handle(failures, withRequestID(h))))
	}
	return s, nil
}

// Handler serves the API, and next all other paths. Paths are compared as they were sent.
func (s *Service) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h, ok := s.routes[r.URL.EscapedPath()]; ok {
			h(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// traced is h with a span.
func (s *Service) traced(route string, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, span := s.Tracing.Begin(r.Context(), tracing.FromHeader(route, r.Header, s.Trusted.Trusts(problem.Peer(r))))
		defer span.End()
		rec := problem.NewRecorder(w)
		h(rec, r.WithContext(ctx))
		tracing.Served(span, tracing.Response{Method: r.Method, Route: route, Status: rec.Status})
	}
}

// malformed is a request that is not valid as a whole.
func malformed(detail string) error {
	return &iam.Error{Kind: iam.Malformed, Code: "malformed_request", Detail: detail}
}

// withRequestID responds with the id that the request has, whatever its form (section 10.1.3). problem.Handle has set
// one of ours, which the log and the problem document have.
func withRequestID(h func(http.ResponseWriter, *http.Request) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		sent := r.Header["X-Request-Id"]
		switch {
		case len(sent) > 1:
			return malformed("X-Request-ID is repeated")
		case len(sent) == 1 && len(sent[0]) > maxRequestID:
			return malformed("X-Request-ID is too long")
		case len(sent) == 1:
			w.Header()["X-Request-Id"] = slices.Clone(sent)
		}
		return h(w, r)
	}
}

// handler serves a request of a client whose body is read.
type handler func(w http.ResponseWriter, r *http.Request, c *pdp.Caller, body map[string]any) error

// posted authenticates the client and then reads the body.
func (s *Service) posted(h handler) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Cache-Control", "no-store")
		if r.Method != http.MethodPost {
			return notAllowed(w, r, "POST")
		}
		raw, err := problem.Bearer(r.Header)
		if err != nil {
			return malformed(problem.DetailOf(err))
		}
		c, err := s.Decider.Caller(r.Context(), raw)
		if err != nil {
			return err
		}
		body, err := readBody(w, r)
		if err != nil {
			return err
		}
		return h(w, r, c, body)
	}
}

func notAllowed(w http.ResponseWriter, r *http.Request, methods string) error {
	w.Header().Set("Allow", methods)
	problem.Write(w, problem.Document{
		Type: "/problems/method-not-allowed", Title: "Method not allowed", Status: http.StatusMethodNotAllowed, TraceID: tracing.Of(r.Context()).Trace,
	})
	return nil
}

// readBody reads a JSON object.
func readBody(w http.ResponseWriter, r *http.Request) (map[string]any, error) {
	sent := r.Header["Content-Type"]
	if len(sent) != 1 {
		return nil, malformed("Content-Type must be application/json, once")
	}
	if media, _, err := mime.ParseMediaType(sent[0]); err != nil || media != "application/json" {
		return nil, malformed("Content-Type must be application/json")
	}
	if r.Header.Get("Content-Encoding") != "" {
		return nil, malformed("the body must not be encoded")
	}
	// A body that never comes holds nothing for long; where the deadline cannot be set, the server's own holds.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyPatience))
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return nil, iam.Errorf(iam.TooLarge, "the body is larger than 256 KiB")
	} else if err != nil {
		return nil, malformed("the body cannot be read")
	}
	return parseObject(text)
}

// metadataBody is section 9.1 of the specification. It has no capabilities, since none is registered, and no
// signed_metadata: TLS protects it.
type metadataBody struct {
	PDP         string `json:"policy_decision_point"`
	Evaluation  string `json:"access_evaluation_endpoint"`
	Evaluations string `json:"access_evaluations_endpoint"`
	Subjects    string `json:"search_subject_endpoint,omitempty"`
	Resources   string `json:"search_resource_endpoint,omitempty"`
	Actions     string `json:"search_action_endpoint,omitempty"`
}

// metadata serves the metadata, unless the active policy decides no evaluations.
func (s *Service) metadata(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return notAllowed(w, r, "GET, HEAD")
	}
	kinds, ok := s.Decider.Searches()
	if !ok {
		return &iam.Error{Kind: iam.NotFound, Code: "authzen_not_in_policy", Detail: "the active policy decides no AuthZEN evaluations"}
	}
	body := metadataBody{PDP: s.URL, Evaluation: s.URL + PathEvaluation, Evaluations: s.URL + PathEvaluations}
	for _, kind := range kinds {
		switch kind {
		case "subject":
			body.Subjects = s.URL + PathSubjects
		case "resource":
			body.Resources = s.URL + PathResources
		case "action":
			body.Actions = s.URL + PathActions
		}
	}
	w.Header().Set("Cache-Control", "public, max-age=60") // an activation can change it
	return problem.Encode(w, http.StatusOK, body)
}

// decisionBody is section 5.5 of the specification.
type decisionBody struct {
	Decision bool            `json:"decision"`
	Context  json.RawMessage `json:"context,omitempty"`
}

// bodyOf is a decision as it is sent. A permit has no context but the policy's own, since an enforcement point may
// reject what it does not understand (section 5.5).
func bodyOf(d pdp.Decision, more map[string]any) (decisionBody, error) {
	if d.Allow && len(more) == 0 {
		return decisionBody{Decision: true, Context: d.Context}, nil
	}
	members := map[string]any{}
	if !d.Allow {
		members["decision_id"], members["reasons"] = d.ID, d.Reasons
	}
	for k, v := range more {
		members[k] = v
	}
	own := map[string]json.RawMessage{}
	if d.Context != nil {
		if err := json.Unmarshal(d.Context, &own); err != nil {
			return decisionBody{}, err
		}
	}
	for k, v := range own { // the policy's win
		members[k] = v
	}
	text, err := json.Marshal(members)
	return decisionBody{Decision: d.Allow, Context: text}, err
}

// evaluation serves section 6.
func (s *Service) evaluation(w http.ResponseWriter, r *http.Request, c *pdp.Caller, body map[string]any) error {
	q, err := requestOf(body, need{subject: "type id", action: "name", resource: "type id"})
	if err != nil {
		return err
	}
	d, err := s.Decider.Evaluate(r.Context(), c, q)
	if err != nil {
		return err
	}
	out, err := bodyOf(d, nil)
	if err != nil {
		return err
	}
	w.Header().Set("X-Decision-ID", d.ID)
	return problem.Encode(w, http.StatusOK, out)
}
