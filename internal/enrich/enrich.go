// Package enrich is the hot path: a gateway's request becomes trusted claims.
//
// It owns the order of steps (token, invariants, policy, response), the time budgets, the decision
// cache (cache.go), and what no policy may change: an invalid token is rejected even where anonymous
// callers are allowed; a managed client that is not active is denied; a token issued before
// tokens_not_before is rejected; no response is allowed without a subject unless the bundle declares
// the request anonymous; a response never names a tenant that the token's issuer does not reach, and
// names the tenant of the token's managed client where that has one. It does not know HTTP, SQL or
// Rego's syntax.
//
//	request ─▶ token ─▶ cached decision? ─▶ client, user ─▶ policy ─▶ allowed | denied
//	              │         └─ yes: it      │                 │
//	              └─────────────────────────┴─────────────────┴──▶ an error: not answerable now, or broken
//
// A cached decision equals what a new evaluation would give at a moment within the freshness
// promise; errors, and evaluations that were cut off, are never cached.
package enrich

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"iam-service/internal/directory"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/token"
)

// Config of a Service.
type Config struct {
	Verifier   *token.Verifier
	Directory  *directory.Store
	Engine     *policy.Engine
	Issuers    iam.Issuers
	Deadline   time.Duration // of one enrichment in all; 0: 150 ms
	EmptyValue string        // of a header without a value, for gateways that drop empty headers; usually ""
	HeaderMax  int           // bytes of all headers of a response together; 0: 3,500
	Entries    int           // of the decision cache; 0: 20,000; negative: no cache
	Bytes      int64         // of its entries at most, estimated; 0: 32 MiB
	SampleLog  float64       // share of cache hits that are recorded, 0 to 1; all evaluations are
	Assert     Asserter      // nil: responses carry no assertion
	Log        *slog.Logger
	Record     func(*Evaluated)                               // called for each evaluation and a sample of cache hits; must not block; may be nil
	OnDecision func(outcome, code string, took time.Duration) // called for each decision; took is 0 where nothing was evaluated; may be nil
}

// Service decides about the requests of gateways. It is safe for concurrent use.
type Service struct {
	cfg      Config
	now      func() time.Time // input.now; time.Now
	shadow   Shadow
	cache    *decisionCache
	decision int // indexes of the headers that Go itself fills, or -1
	revision int
	kind     int
	tenants  []int // indexes of the headers that name the tenant
}

// Shadow evaluates another policy for a share of all decisions, in the background.
type Shadow interface {
	Share() float64  // of the decisions that Take gets, 0 to 1; it can change at any moment
	Take(*Evaluated) // must not block
}

type noShadow struct{}

func (noShadow) Share() float64  { return 0 }
func (noShadow) Take(*Evaluated) {}

// SetShadow must be called before the first request.
func (s *Service) SetShadow(shadow Shadow) { s.shadow = shadow }

// New returns a service.
func New(cfg Config) *Service {
	if cfg.Deadline <= 0 {
		cfg.Deadline = 150 * time.Millisecond
	}
	if cfg.HeaderMax <= 0 {
		cfg.HeaderMax = 3500
	}
	if cfg.Entries == 0 {
		cfg.Entries = 20_000
	}
	if cfg.Bytes <= 0 {
		cfg.Bytes = 32 << 20
	}
	if cfg.OnDecision == nil {
		cfg.OnDecision = func(string, string, time.Duration) {}
	}
	if cfg.Record == nil {
		cfg.Record = func(*Evaluated) {}
	}
	s := &Service{
		cfg:      cfg,
		now:      time.Now,
		shadow:   noShadow{},
		cache:    newCache(cfg.Entries, cfg.Bytes),
		decision: -1,
		revision: -1,
		kind:     -1,
	}
	for i, name := range cfg.Engine.Headers() {
		switch name {
		case http.CanonicalHeaderKey("X-Decision-ID"):
			s.decision = i
		case http.CanonicalHeaderKey("X-Policy-Revision"):
			s.revision = i
		case http.CanonicalHeaderKey("X-Principal-Type"):
			s.kind = i
		}
		if strings.HasSuffix(name, "-Tenant-Id") || strings.HasSuffix(name, "-Tenant") {
			s.tenants = append(s.tenants, i)
		}
	}
	return s
}

// Request is what a gateway sends. A field that is not known is empty.
type Request struct {
	Token      string // without its scheme; empty: none
	IdP        string // id of the issuer that the gateway chose; trusted
	TenantHint string // of a valid shape, or empty
	Facts      RequestFacts
}

// Response is the decision as a gateway gets it.
type Response struct {
	Allowed    bool
	Status     int      // of a deny: 401 or 403
	Code       string   // of a deny: the first reason; for metrics and logs
	HadToken   bool     // so that a 401 can say invalid_token (RFC 6750, section 3.1)
	DecisionID string   // of the evaluation; a cache hit repeats it
	Tenant     string   // of an allow
	Values     []string // of an allow, parallel to Engine.Headers; not to be changed

	// Reusable is how long a cache may repeat an allow for the same request: until the token expires, a membership
	// ends, the policy's TTL passes, or the freshness deadline of the facts, whichever is first. 0: it must not.
	Reusable time.Duration

	Fault *iam.Error // of a deny for the request itself, whatever the caller; else nil
}

// Enrich decides about a request. An error is of kind Unavailable (not answerable now) or Internal
// (broken); its code says what.
func (s *Service) Enrich(ctx context.Context, q Request) (Response, error) {
	deadline := time.Now().Add(s.cfg.Deadline)
	e := evaluation{request: q}
	if q.Token != "" {
		var err error
		if e.token, err = s.cfg.Verifier.Verify(ctx, q.Token, q.IdP, deadline); err != nil {
			return s.reject(ctx, &e, err)
		}
	}
	revision := s.cfg.Engine.Revision()
	if revision == nil {
		return s.reject(ctx, &e, policy.ErrNoPolicy)
	}
	e.revision = revision
	s.setInput(&e)
	if fault := e.fault(); fault != nil {
		e.input.Now = s.now()
		return s.reject(ctx, &e, fault)
	}
	key := revision.Key(&e.input)
	e.began = s.cfg.Directory.Now()
	if hit := s.cache.get(key, revision, e.token, s.cfg.Directory, e.began); hit != nil {
		response, err := s.assert(&e, hit)
		if err != nil {
			return s.reject(ctx, &e, err)
		}
		response.Reusable = s.reusable(&e, hit, e.began)
		s.recordHit(ctx, &e, hit)
		return response, nil
	}
	e.input.Now = s.now()
	for try := 0; ; try++ {
		facts := s.reading(e.token, deadline)
		if err := s.readAhead(ctx, &e, facts); err != nil {
			return s.reject(ctx, &e, err)
		}
		result, d, err := s.evaluate(ctx, &e, facts, deadline)
		if err != nil {
			return s.reject(ctx, &e, err)
		}
		// A fact that changed during the evaluation may have been read before the change: evaluate
		// once more, and then do not cache the decision.
		current := s.cfg.Directory.Validity(&result.facts, s.cfg.Directory.Now()) == directory.Valid
		if !current && try == 0 {
			continue
		}
		response, err := s.assert(&e, result)
		if err != nil {
			return s.reject(ctx, &e, err)
		}
		if current && d.TTL != 0 {
			response.Reusable = s.reusable(&e, result, s.cfg.Directory.Now())
			if s.cfg.Entries > 0 {
				s.cache.add(key, result)
			}
		}
		s.record(ctx, &e, result, d, facts)
		return response, nil
	}
}
