package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"iam-service/internal/enrich"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/problem"
	"iam-service/internal/telemetry/tracing"
)

// Enricher decides about requests of gateways.
type Enricher interface {
	Enrich(ctx context.Context, q enrich.Request) (enrich.Response, error)
}

// outcome is a decision in the form that every protocol sends: 200 with the values of the identity
// headers, or a problem document with 401, 403 or 503.
type outcome struct {
	status    int
	reusable  time.Duration    // of a 200: how long a cache may repeat it
	values    []string         // of a 200, parallel to Config.Headers; not to be changed
	decision  string           // id of the evaluation; "" where nothing was evaluated
	tenant    string           // of a 200
	challenge string           // WWW-Authenticate of a 401
	problem   problem.Document // of everything but a 200
	left      bool             // the caller has disconnected
}

// caller is who sent a request, for logs.
type caller struct {
	peer      netip.Addr
	trusted   bool   // what it reports of the client's request
	requestID string // as it was sent, which may be no valid id
}

// counted is the status for metrics. Nothing is wrong with us where the caller has left; nginx calls it 499.
func (o *outcome) counted() int {
	if o.left {
		return 499
	}
	return o.status
}

// decide evaluates a request. fault is what is wrong with it, or nil.
func (s *Service) decide(ctx context.Context, q enrich.Request, fault error, from caller) outcome {
	if fault != nil {
		p := problem.Of(iam.Forbidden)
		p.Code, p.Detail, p.TraceID = iam.CodeOf(fault), problem.DetailOf(fault), tracing.Of(ctx).Trace
		return outcome{status: p.Status, problem: p}
	}
	a, err := s.Enricher.Enrich(ctx, q)
	switch {
	case err != nil:
		return s.failClosed(ctx, err, from)
	case a.Allowed:
		return outcome{status: http.StatusOK, values: a.Values, reusable: a.Reusable, decision: a.DecisionID, tenant: a.Tenant}
	case a.Status == http.StatusUnauthorized:
		o := s.denied(ctx, iam.Unauthenticated, "", a.DecisionID)
		// RFC 6750, section 3.1: no error code where no token came.
		o.challenge = "Bearer"
		if a.HadToken {
			o.challenge = `Bearer error="invalid_token", error_description="the token is expired, revoked, malformed or not for this service"`
		}
		return o
	case a.Fault != nil: // of the request, and not of the policy: the sender may know it
		s.logMissingFacts(ctx, a, from)
		return s.denied(ctx, iam.Forbidden, a.Fault.Code, a.DecisionID)
	}
	return s.denied(ctx, iam.Forbidden, "", a.DecisionID)
}

// denied carries no claim and none of the policy's reasons: gateways pass it on to the client. The id
// of the decision leads to the reasons in the decision log, or by the console to their explanation.
func (s *Service) denied(ctx context.Context, kind iam.Kind, code, decision string) outcome {
	p := problem.Of(kind)
	p.Code, p.TraceID = code, tracing.Of(ctx).Trace
	if decision != "" {
		p.Instance = s.Decisions + decision
	}
	return outcome{status: p.Status, problem: p, decision: decision}
}

// failClosed is 503, whether the service is broken or a dependency is away: a gateway must not take
// either for a decision.
func (s *Service) failClosed(ctx context.Context, err error, from caller) outcome {
	code, id := iam.CodeOf(err), problem.RequestIDOf(from.requestID)
	p := problem.Of(iam.Unavailable)
	p.Code, p.Instance, p.TraceID = code, "/requests/"+id, tracing.Of(ctx).Trace
	o := outcome{status: p.Status, problem: p}
	// A caller who only stopped sending still reads the response.
	if errors.Is(ctx.Err(), context.Canceled) {
		o.left = true
		return o
	}
	level := slog.LevelWarn
	if iam.KindOf(err) == iam.Internal {
		level = slog.LevelError
	}
	s.unavailable.Log(code, func(count int64) {
		s.Log.LogAttrs(ctx, level, "request failed closed", slog.String("code", code), slog.Int64("count", count), slog.String("request_id", id), slog.Any("err", err))
	})
	return o
}

// logMissingFacts logs that a gateway does not send what the policy reads: once a minute for each
// peer, since all of its requests are denied.
func (s *Service) logMissingFacts(ctx context.Context, a enrich.Response, from caller) {
	if a.Fault.Code == policy.CodeFactsMissing && s.lacking.first(from.peer, time.Now()) {
		s.Log.LogAttrs(ctx, slog.LevelWarn, "request facts missing", slog.String("peer", from.peer.String()), slog.Bool("trusted", from.trusted),
			slog.String("code", a.Fault.Code), slog.String("err", a.Fault.Detail), slog.String("decision_id", a.DecisionID))
	}
}

// slow is half of what gateways wait: a slower enrichment is logged.
const slow = 100 * time.Millisecond

// observe counts an enrichment, and logs a slow one.
func (s *Service) observe(ctx context.Context, p *Profile, method string, o *outcome, took time.Duration) {
	if took > slow {
		s.Log.LogAttrs(ctx, slog.LevelWarn, "slow enrichment", slog.Int("status", o.counted()), slog.Duration("took", took))
	}
	s.Observe(ctx, problem.Observation{Handler: EnrichPath, Gateway: p.Name, Method: method, Status: o.counted(), Took: took})
}

// maxPeers bounds the peers that perMinute remembers.
const maxPeers = 10_000

// perMinute limits log lines to one a minute for each peer.
type perMinute struct {
	mu   sync.Mutex
	last *simplelru.LRU[netip.Addr, time.Time]
}

func newPerMinute() *perMinute {
	lru, err := simplelru.NewLRU[netip.Addr, time.Time](maxPeers, nil)
	if err != nil {
		panic(err) // the size is a constant
	}
	return &perMinute{last: lru}
}

// first reports whether the peer had no line within the last minute.
func (p *perMinute) first(peer netip.Addr, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if last, ok := p.last.Peek(peer); ok && now.Sub(last) < time.Minute {
		return false
	}
	p.last.Add(peer, now)
	return true
}
