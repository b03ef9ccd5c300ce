package enrich

import (
	"context"
	"errors"
	"log/slog"
	mrand "math/rand/v2"
	"net/http"
	"time"

	"iam-service/internal/directory"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/telemetry/tracing"
	"iam-service/internal/token"
)

// reject creates the response to an error of the caller or the request, and logs it; an error of ours is returned. It is
// recorded where a policy was, or would have been, evaluated.
func (s *Service) reject(ctx context.Context, e *evaluation, err error) (Response, error) {
	response := Response{HadToken: e.request.Token != "", Code: iam.CodeOf(err), DecisionID: policy.NewDecisionID()}
	switch iam.KindOf(err) {
	case iam.Unauthenticated:
		response.Status = http.StatusUnauthorized
	case iam.Forbidden:
		response.Status = http.StatusForbidden
	default:
		s.cfg.OnDecision("error", response.Code, 0)
		response.Status = http.StatusServiceUnavailable
		s.recordRejection(ctx, e, response)
		return Response{}, err
	}
	s.cfg.OnDecision("denied", response.Code, 0)
	s.recordRejection(ctx, e, response)
	fault, ok := errors.AsType[*iam.Error](err)
	if ok && e.revision != nil && (response.Code == policy.CodeFactsMissing || response.Code == "malformed_request") {
		response.Fault = fault
		return response, nil // every request of a gateway can have one: package gateway, which knows the peer, logs it
	}
	s.cfg.Verifier.Rejected(ctx, err, slog.String("gateway", e.request.Facts.Gateway), slog.String("decision_id", response.DecisionID))
	level, issuer := slog.LevelDebug, "" // any client can send malformed tokens: not worth a line each
	if e.token != nil {
		level, issuer = slog.LevelInfo, e.token.Issuer
	}
	// The subject and the request are in the decision log, which masks.
	s.cfg.Log.LogAttrs(ctx, level, "request rejected", slog.String("gateway", e.request.Facts.Gateway), slog.String("issuer", issuer),
		slog.String("decision_id", response.DecisionID), slog.String("code", response.Code), slog.Any("err", err))
	return response, nil
}

func (s *Service) recordRejection(ctx context.Context, e *evaluation, response Response) {
	if e.revision != nil {
		evaluated := e.evaluated(ctx, e.input.Now, response)
		s.cfg.Record(&evaluated)
	}
}

// Authzen is what an AuthZEN evaluation was about, without the properties and the context that the request has.
type Authzen struct {
	SubjectType, SubjectID string
	SubjectIssuer          string // of a user or a client
	Action                 string
	ResourceType           string
	ResourceID             string
	Tenant                 string
	Agent                  string // client that acts for the subject; empty: none
}

// Evaluated is one decision, for the decision log and the shadow. What it points to is immutable.
type Evaluated struct {
	At       time.Time
	Revision *policy.Revision
	Token    *token.Token // nil: none
	Request  RequestFacts
	Hint     string // of the tenant
	Input    policy.Input
	Response Response
	Reasons  []policy.Reason  // nil of a cache hit
	Facts    []directory.Fact // nil of a cache hit
	Took     time.Duration
	Trace    tracing.IDs // of the request; empty: it has none
	Authzen  *Authzen    // of an AuthZEN evaluation, which Token's client has asked for; nil: it is an enrichment
	Repeated bool        // a cache hit
	Hits     int64       // of the cache entry until now
}

func (e *evaluation) evaluated(ctx context.Context, at time.Time, response Response) Evaluated {
	return Evaluated{
		Trace:    tracing.Of(ctx),
		At:       at,
		Revision: e.revision,
		Token:    e.token,
		Request:  e.request.Facts,
		Hint:     e.input.Fields[policy.TenantHint],
		Input:    e.input,
		Response: response,
	}
}

// record counts and records an evaluation.
func (s *Service) record(ctx context.Context, e *evaluation, result *entry, d policy.Decision, facts *directory.View) {
	s.cfg.OnDecision(result.outcome, result.code, d.Took)
	evaluated := e.evaluated(ctx, e.input.Now, result.response)
	evaluated.Reasons, evaluated.Facts, evaluated.Took = d.Reasons, facts.Facts(), d.Took
	s.cfg.Record(&evaluated)
	if sampled(s.shadow.Share()) {
		s.shadow.Take(&evaluated)
	}
}

// recordHit counts a cache hit, and records a sample.
func (s *Service) recordHit(ctx context.Context, e *evaluation, hit *entry) {
	s.cfg.OnDecision(hit.outcome, hit.code, 0)
	hits := hit.hits.Add(1)
	log, shadow := sampled(s.cfg.SampleLog), sampled(s.shadow.Share())
	if !log && !shadow {
		return
	}
	evaluated := e.evaluated(ctx, time.Now(), hit.response)
	evaluated.Repeated, evaluated.Hits = true, hits
	if log {
		s.cfg.Record(&evaluated)
	}
	if shadow {
		s.shadow.Take(&evaluated)
	}
}

// sampled is true for a share of all calls.
func sampled(share float64) bool {
	return share > 0 && mrand.Float64() < share //nolint:gosec // sampling is no secret
}
