package gateway

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"log/slog"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"iam-service/internal/enrich"
	"iam-service/internal/iam"
	"iam-service/internal/problem"
	"iam-service/internal/telemetry/tracing"
)

// enrichHTTP serves an enrichment over HTTP, whatever its method: gateways send the client's.
func (s *Service) enrichHTTP(w http.ResponseWriter, r *http.Request, p *Profile, rest string) {
	began := time.Now()
	from := s.callerOf(r)
	ctx, span := s.begin(r, p, from)
	var q enrich.Request
	err := s.authenticate(ctx, r)
	if err == nil {
		q, err = s.requestOf(&sent{Request: r, rest: rest, trusted: from.trusted}, p)
	}
	if sent := r.Header["X-Request-Id"]; len(sent) > 0 {
		from.requestID = sent[0]
	}
	o := s.decide(ctx, q, err, from)
	if p.layout == original {
		problemHeaders(w.Header(), &o)
	}
	s.respond(w, p, &o)
	s.observe(ctx, p, r.Method, &o, time.Since(began))
	s.end(span, p, r.Method, &o)
}

// begin begins the span of a request.
func (s *Service) begin(r *http.Request, p *Profile, from caller) (context.Context, trace.Span) {
	return s.Tracing.Begin(r.Context(), tracing.FromHeader(p.Endpoint, r.Header, from.trusted))
}

// end ends the span of a request. Of what was decided it has the id, by which the decision log has the rest.
func (s *Service) end(span trace.Span, p *Profile, method string, o *outcome) {
	if span.IsRecording() {
		tracing.Served(span, tracing.Response{Method: method, Route: p.Endpoint, Status: o.counted()}, attribute.String("iam.gateway", p.Name),
			attribute.String("iam.code", o.problem.Code), attribute.String("iam.decision_id", o.decision))
	}
	span.End()
}

// respond writes an outcome. On a 200 every identity header is present, also where it is empty: a
// missing header lets the client's own through.
//
// Where a gateway sends the client's method as its own, a 200 is not reusable: a cache answers HEAD with what is stored
// for GET (RFC 9111, section 4), no Vary names the method, and a policy can distinguish the two.
func (s *Service) respond(w http.ResponseWriter, p *Profile, o *outcome) {
	out := w.Header()
	out["Cache-Control"] = noStore
	if o.status != http.StatusOK {
		if o.challenge != "" {
			out.Set("WWW-Authenticate", o.challenge)
		}
		problem.Write(w, o.problem)
		return
	}
	for i, name := range s.Headers {
		out[name] = o.values[i : i+1 : i+1]
	}
	if seconds := min(int(o.reusable/time.Second), len(s.ages)-1); seconds > 0 && p.layout != appended {
		out["Cache-Control"] = s.ages[seconds : seconds+1 : seconds+1]
		out["Vary"] = vary
	}
	out["Content-Length"] = zero
	w.WriteHeader(http.StatusOK)
}

// problemHeaders are what nginx can read of a problem: its auth_request drops the body of a subrequest.
func problemHeaders(h http.Header, o *outcome) {
	if o.status == http.StatusOK {
		return
	}
	if o.problem.Code != "" {
		h.Set("X-Problem-Code", o.problem.Code)
	}
	if o.problem.Instance != "" {
		h.Set("X-Problem-Instance", o.problem.Instance)
	}
}

// authenticate checks that the request is of a gateway that knows a secret. Hashes are compared, all of them, so
// that the time says nothing of a secret, nor of its length.
func (s *Service) authenticate(ctx context.Context, r *http.Request) error {
	if len(s.secrets) == 0 {
		return nil
	}
	lines, known := r.Header["X-Gateway-Secret"], 0
	if len(lines) == 1 {
		sent := sha256.Sum256([]byte(lines[0]))
		for i := range s.secrets {
			known |= subtle.ConstantTimeCompare(sent[:], s.secrets[i][:])
		}
	}
	if known == 1 {
		return nil
	}
	s.unauthenticated.Add(1)
	if peer := problem.Peer(r); s.strangers.first(peer, time.Now()) {
		s.Log.LogAttrs(ctx, slog.LevelWarn, "gateway not authenticated", slog.String("peer", peer.String()), slog.String("variable", "GATEWAY_SECRET"))
	}
	return &iam.Error{Kind: iam.Forbidden, Code: "gateway_not_authenticated", Detail: "the gateway has not sent its secret"}
}

// vary names every header that a decision can depend on (RFC 9110, section 12.5.5).
var vary = []string{"Authorization, X-Active-Tenant-ID, X-Upstream-IdP-ID, X-Gateway-Secret, Origin, Access-Control-Request-Method, " +
	"X-Forwarded-Method, X-Forwarded-Proto, X-Forwarded-Host, X-Forwarded-Uri, X-Forwarded-For, " +
	"X-Original-Method, X-Original-Host, X-Original-URI, X-Original-URL"}

var (
	noStore = []string{"no-store"}
	zero    = []string{"0"}
)
