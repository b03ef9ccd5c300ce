package enrich

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"iam-service/internal/directory"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/telemetry/tracing"
	"iam-service/internal/token"
)

// evaluation is one request on its way to a decision.
type evaluation struct {
	request  Request
	token    *token.Token     // verified; nil: none
	revision *policy.Revision // nil: no policy is active
	claims   *policy.Token    // what the revision sees of the token; nil: it is not known yet
	input    policy.Input
	began    time.Duration // by the directory's clock
}

// setInput sets the policy input of an evaluation.
func (s *Service) setInput(e *evaluation) {
	r, facts := e.revision, &e.request.Facts
	setFields(&e.input, r, facts)
	if e.token == nil {
		e.input.Anonymous = r.Anonymous(facts.Path, facts.Preflight)
		return
	}
	// Without a token there is no membership, and a hint that any client can forge must not be a
	// decision of its own.
	e.input.Fields[policy.TenantHint] = e.request.TenantHint
	if e.input.Token = e.claims; e.claims == nil {
		e.input.Token = s.claimsOf(r, e.token)
	}
}

// claimsOf is the projection of a token for a revision. The one for the active revision is cached with the token.
func (s *Service) claimsOf(r *policy.Revision, t *token.Token) *policy.Token {
	if seen := t.Projection(); seen.Of(r.Number()) {
		return seen
	}
	seen := r.Token(t.Issuer, t.Subject, t.ClientID, t.Claims)
	if r == s.cfg.Engine.Revision() {
		t.CacheProjection(seen)
	}
	return seen
}

// setFields sets the facts of a request that a policy can see.
func setFields(in *policy.Input, r *policy.Revision, req *RequestFacts) {
	in.Fields[policy.Gateway] = req.Gateway
	in.Fields[policy.Method] = req.Method
	in.Fields[policy.Scheme] = req.Scheme
	in.Fields[policy.Host] = req.Host
	in.Fields[policy.Path] = req.Path
	in.Fields[policy.RawPath] = req.RawPath
	if req.ClientIP.IsValid() && r.Sees(policy.ClientIP) {
		in.Fields[policy.ClientIP] = req.ClientIP.String()
	}
}

// AmbiguousPath returns why a path is ambiguous.
const AmbiguousPath = "the path can be read in two ways"

// fault returns why the revision cannot decide about the request, whatever its caller: it reads a fact
// that no trusted source reports, or a path that two programs could read differently. An undefined
// fact would silence each denial that reads it. nil: there is no fault.
func (e *evaluation) fault() *iam.Error {
	missing := e.revision.Missing(&e.input)
	switch {
	case missing == 0:
		return nil
	case e.request.Facts.Ambiguous && (missing.Has(policy.Path) || missing.Has(policy.RawPath)):
		return &iam.Error{Kind: iam.Forbidden, Code: "malformed_request", Detail: AmbiguousPath}
	}
	return &iam.Error{Kind: iam.Forbidden, Code: policy.CodeFactsMissing, Detail: "the policy reads " + missing.String() + ", and no trusted source reports it"}
}

// evaluate evaluates the policy, and enforces on its decision and on the token what no policy decides.
func (s *Service) evaluate(ctx context.Context, e *evaluation, facts *directory.View, deadline time.Time) (*entry, policy.Decision, error) {
	r := e.revision
	result := &entry{revision: r.Number(), outcome: "allowed"}
	var d policy.Decision
	var err error
	bound := ""
	if e.token != nil {
		if result.notBefore, bound, err = checkRevocation(ctx, e.token, facts); err != nil {
			return nil, d, err
		}
	}
	ctx, span := tracing.Start(ctx, "evaluate policy", attribute.String("iam.policy.revision", r.ID))
	d, err = s.cfg.Engine.Decide(ctx, &e.input, policy.Basis{Revision: r, Facts: facts, Deadline: deadline})
	tracing.End(span, iam.CodeOf(err), err)
	if err != nil {
		return nil, d, err
	}
	if result.response, result.bytes, err = s.respond(e, d); err != nil {
		return nil, d, err
	}
	// A decision that names no tenant can still carry roles of any in its headers.
	if result.response.Allowed && bound != "" && d.Tenant != bound {
		result.response = Response{HadToken: true, DecisionID: result.response.DecisionID, Status: http.StatusForbidden, Code: policy.CodeOtherTenant}
		d.Reasons = []policy.Reason{{Code: policy.CodeOtherTenant, Title: "A client that has a tenant acts in that tenant only"}}
	}
	if !result.response.Allowed {
		result.outcome, result.code = "denied", result.response.Code
		if !r.HasCode(result.code) {
			result.code = "other" // a policy must not make up labels
		}
	}
	result.facts = facts.Dependencies()
	if d.TTL > 0 {
		result.until = e.began + d.TTL
	}
	if d.TTL == 0 { // never cached: only an assertion asks
		result.until = e.began + uncached
	}
	return result, d, nil
}

// respond makes the response of a decision, and counts the bytes of its headers. A decision that no policy may
// make is an Internal error.
func (s *Service) respond(e *evaluation, d policy.Decision) (a Response, size int, err error) {
	r, t, req := e.revision, e.token, &e.request.Facts
	a = Response{HadToken: t != nil, DecisionID: policy.NewDecisionID()}
	if !d.Allow {
		a.Status, a.Code = d.Status, "not_granted"
		if len(d.Reasons) > 0 {
			a.Code = d.Reasons[0].Code
		}
		if t == nil {
			a.Status = http.StatusUnauthorized // the caller is unknown, and not forbidden
		}
		return a, 0, nil
	}
	broken := func(why string) (Response, int, error) {
		return a, 0, &iam.Error{Kind: iam.Internal, Code: "policy_error", Detail: "the policy is broken", Cause: errors.New(why)}
	}
	switch {
	case t == nil && !(d.Anonymous && r.Anonymous(req.Path, req.Preflight)):
		return broken("it allows a request without a token, which the bundle does not declare anonymous")
	case t == nil:
		clear(d.Values) // no claims without a subject
		if s.kind >= 0 {
			d.Values[s.kind] = "anonymous"
		}
	case d.Tenant != "" && !s.cfg.Issuers.Reaches(t.Issuer, d.Tenant):
		return broken("it returns a tenant that the token's issuer is not trusted for")
	}
	for _, i := range s.tenants {
		if v := d.Values[i]; v != "" && v != d.Tenant {
			return broken("its header " + s.cfg.Engine.Headers()[i] + " is not the tenant that it returns")
		}
	}
	if err := s.fillEmpty(d.Values); err != nil {
		return a, 0, err
	}
	a.Allowed, a.Values, a.Tenant = true, d.Values, d.Tenant
	if s.decision >= 0 {
		a.Values[s.decision] = a.DecisionID
	}
	if s.revision >= 0 {
		a.Values[s.revision] = r.ID
	}
	for i, name := range s.cfg.Engine.Headers() {
		size += len(name) + len(a.Values[i]) + len(": \r\n")
	}
	if size > s.cfg.HeaderMax {
		return a, size, &iam.Error{Kind: iam.Forbidden, Code: "headers_too_large", Detail: "the claims are too large for headers",
			Cause: errors.New("together they take " + strconv.Itoa(size) + " bytes of " + strconv.Itoa(s.cfg.HeaderMax) + "; of them " + sizes(s.cfg.Engine.Headers(), a.Values))}
	}
	return a, size, nil
}

// fillEmpty sets the placeholder where there is no value. A value that equals it would read as none.
func (s *Service) fillEmpty(values []string) error {
	if s.cfg.EmptyValue == "" {
		return nil
	}
	for i, v := range values {
		if v == s.cfg.EmptyValue {
			return &iam.Error{Kind: iam.Forbidden, Code: "header_value", Detail: "a claim cannot be carried by a header",
				Cause: fmt.Errorf("%s: its value is the placeholder of an empty one (GATEWAY_EMPTY_VALUE)", s.cfg.Engine.Headers()[i])}
		}
		if v == "" && i != s.decision && i != s.revision {
			values[i] = s.cfg.EmptyValue
		}
	}
	return nil
}

func sizes(names, values []string) string {
	out := ""
	for i, v := range values {
		if len(v) > 100 {
			out += names[i] + " " + strconv.Itoa(len(v)) + " "
		}
	}
	return out
}

// Outcome is a decision with what it depends on.
type Outcome struct {
	Response Response
	Decision policy.Decision
	Input    policy.Input
}

// Question is what Ask evaluates.
type Question struct {
	Revision *policy.Revision
	Token    *token.Token  // verified; nil: none
	Claims   *policy.Token // what Revision sees of Token, for callers that ask more than once; nil: it is found out
	Request  Request
	Facts    *directory.View
	Now      time.Time // input.now
}

// Ask decides as Enrich would, by the revision and over the facts that the caller chose. Nothing is
// cached, counted or logged: it serves previews and explanations. It fails as Enrich does, and with
// Unauthenticated or Forbidden where Enrich would reject the token or the request.
func (s *Service) Ask(ctx context.Context, q Question, deadline time.Time) (Outcome, error) {
	e := evaluation{revision: q.Revision, token: q.Token, claims: q.Claims, request: q.Request}
	s.setInput(&e)
	e.input.Now = q.Now
	if fault := e.fault(); fault != nil {
		return Outcome{Input: e.input}, fault
	}
	result, d, err := s.evaluate(ctx, &e, q.Facts, deadline)
	if err != nil {
		return Outcome{Input: e.input}, err
	}
	return Outcome{Response: result.response, Decision: d, Input: e.input}, nil
}
