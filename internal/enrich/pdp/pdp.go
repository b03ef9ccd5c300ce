// Package pdp is the policy decision point: it decides whether a subject may do something to a resource, for clients
// that ask about others (OpenID AuthZEN Authorization API 1.0).
//
// It owns who may ask, the tenant that a question is about, which user or client a subject is, the order of steps, the
// cache of decisions, the searches, and what no policy may change: only a registered client asks, with the scope
// authzen in its token and in its registration; the client of a tenant asks about that tenant alone; a blocked user, a
// client that is not active, a revoked token of the subject and an agent that is not active are denied, whatever a
// policy allows; and so is a subject of an issuer that does not reach the tenant.
//
//	caller ─▶ question ─▶ cached decision? ─▶ policy: data.iam.authzen.decision ─▶ subject, agent: kill switches
//	                          └─ yes: it                                              └─▶ allowed | denied
//
// A cached decision equals what a new evaluation would give at a moment within the freshness promise; errors are
// never cached. A question that cannot be decided now is an error, and never a deny.
//
// The package does not know HTTP, JSON, SQL or Rego's syntax.
package pdp

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	mrand "math/rand/v2"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"go.opentelemetry.io/otel/attribute"

	"iam-service/internal/bounded"
	"iam-service/internal/directory"
	"iam-service/internal/enrich"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/telemetry/tracing"
	"iam-service/internal/token"
)

// Scope is what the token of a caller, and its client's registration, must have.
const Scope = "authzen"

// Config of a Service.
type Config struct {
	Identify  func(ctx context.Context, raw string) (t *token.Token, bound string, err error) // enrich.Service.Identify
	Directory *directory.Store
	Engine    *policy.Engine
	Issuers   iam.Issuers
	Subjects  Subjects
	Deadline  time.Duration // of one evaluation; 0: 150 ms
	Entries   int           // of the cache; 0: 10,000; negative: no cache
	Bytes     int64         // of its entries at most, estimated; 0: 8 MiB
	Users     int           // whose id is cached with their subject; 0: 10,000, as the directory's documents
	UserBytes int64         // of them at most, estimated; 0: 4 MiB
	SampleLog float64       // share of cache hits that are recorded, 0 to 1; all evaluations are, but those of searches

	Record     func(*enrich.Evaluated)                        // must not block; may be nil
	OnDecision func(outcome, code string, took time.Duration) // called for each decision; took is 0 of a cache hit; may be nil
	Now        func() time.Time                               // nil: time.Now; a page of a search ends by it
}

// Subjects reads users and clients.
type Subjects interface {
	// UserByID returns who a user is, by our id.
	UserByID(ctx context.Context, id string) (issuer, subject string, found bool, err error)
	// UsersIn reads some members of a tenant by our id.
	UsersIn(ctx context.Context, q iam.MembersQuery) (iam.MembersPart, error)
	// ClientsIn lists the clients of a tenant by client_id and issuer, after a client.
	ClientsIn(ctx context.Context, tenant, afterID, afterIssuer string, limit int) ([]iam.Client, error)
}

// Service decides. It is safe for concurrent use.
type Service struct {
	cfg       Config
	cache     *bounded.Cache[[sha256.Size]byte, *entry]
	ids       *bounded.Cache[string, names] // of users: hints, which confirm compares with the facts
	budgets   *budgets
	searching *places
	batches   *places
}

// names are a user's, or a client's.
type names struct{ issuer, id string }

// searchLimit is how many searches run at once, of each tenant and in all: few of the connections that the admin API
// has.
var searchLimit = placeLimit{each: 1, all: 3}

// batchLimit is how many batches of a client are decided at once, and of all.
var batchLimit = placeLimit{each: 4, all: 64}

// Batch waits for a place to decide many questions of a client. The caller must call release, if there is no error:
// Unavailable.
func (s *Service) Batch(ctx context.Context, c *Caller) (release func(), err error) {
	return s.batches.take(ctx, names{issuer: c.token.Issuer, id: c.token.ClientID})
}

// New returns a service.
func New(cfg Config) *Service {
	if cfg.Deadline <= 0 {
		cfg.Deadline = 150 * time.Millisecond
	}
	if cfg.Entries == 0 {
		cfg.Entries = 10_000
	}
	if cfg.Bytes <= 0 {
		cfg.Bytes = 8 << 20
	}
	if cfg.Users <= 0 {
		cfg.Users = 10_000
	}
	if cfg.UserBytes <= 0 {
		cfg.UserBytes = 4 << 20
	}
	if cfg.Record == nil {
		cfg.Record = func(*enrich.Evaluated) {}
	}
	if cfg.OnDecision == nil {
		cfg.OnDecision = func(string, string, time.Duration) {}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Service{
		cfg:       cfg,
		cache:     bounded.New[[sha256.Size]byte](max(1, cfg.Entries), cfg.Bytes, func(e *entry) int64 { return e.weight }),
		ids:       bounded.New[string](cfg.Users, cfg.UserBytes, func(n names) int64 { return int64(200 + len(n.issuer) + len(n.id)) }),
		budgets:   newBudgets(),
		batches:   newPlaces("batches", batchLimit, searchPatience),
		searching: newPlaces("searches", searchLimit, searchPatience),
	}
}

// Searches are what the active policy can be asked to search: subject, resource, action. ok is false where it decides
// no evaluations at all.
func (s *Service) Searches() (kinds []string, ok bool) {
	r := s.cfg.Engine.Revision()
	if r == nil || r.Authzen == nil {
		return nil, false
	}
	return r.Authzen.Searches, true
}

// Stats are the figures of the cache.
func (s *Service) Stats() bounded.Stats { return s.cache.Stats() }

// Decision is what the caller gets.
type Decision struct {
	Allow   bool
	ID      string // of the evaluation; a cache hit repeats it
	Reasons []policy.Reason
	Context json.RawMessage // of the policy, a JSON object; nil: none
}

// entry is a decision in the cache. It is immutable.
type entry struct {
	decision  Decision
	revision  uint64
	facts     directory.Dependencies
	notBefore time.Time     // tokens of the subject that were issued earlier are revoked
	until     time.Duration // by the directory's clock; 0: no TTL
	weight    int64
}

// errNoRules reports that the active policy decides no evaluations.
var errNoRules = &iam.Error{Kind: iam.NotFound, Code: "authzen_not_in_policy", Detail: "the active policy has no rule " + policy.AuthzenEntrypoint}

// revision returns the active revision, which decides evaluations.
func (s *Service) revision() (*policy.Revision, error) {
	r := s.cfg.Engine.Revision()
	switch {
	case r == nil:
		return nil, policy.ErrNoPolicy
	case !r.Authorizes():
		return nil, errNoRules
	}
	return r, nil
}

// Evaluate decides one question. It fails with an iam.Error: Malformed (the question is invalid), Forbidden (the caller
// may not ask it), NotFound (the active policy decides no evaluations), Unavailable or Internal.
func (s *Service) Evaluate(ctx context.Context, c *Caller, q Request) (Decision, error) {
	deadline := time.Now().Add(s.cfg.Deadline)
	r, err := s.revision()
	if err != nil {
		return Decision{}, s.failed(err)
	}
	e := evaluation{caller: c, revision: r, deadline: deadline}
	if err := s.read(ctx, &e, &q); err != nil {
		return Decision{}, s.failed(err)
	}
	e.question = r.AuthzenQuestion(e.input)
	e.began = s.cfg.Directory.Now()
	key := e.key()
	if hit := s.cached(key, r, e.began); hit != nil {
		d := hit.decision
		if d.Allow && e.issued(hit.notBefore) {
			d = deny(d.ID, tokenRevoked)
		}
		s.record(ctx, &e, evaluated{decision: d, repeated: true})
		return d, nil
	}
	for try := 0; ; try++ {
		facts := s.view(c, deadline)
		result, err := s.evaluate(ctx, &e, facts)
		if err != nil {
			return Decision{}, s.failed(err)
		}
		// As in enrichment: what may have been read before a change is evaluated once more, and then not cached.
		switch s.cfg.Directory.Validity(&result.facts, s.cfg.Directory.Now()) {
		case directory.Stale:
			return Decision{}, s.failed(errStale)
		case directory.Valid:
			if s.cfg.Entries > 0 && result.until != e.began { // a TTL of 0 is never cached
				s.cache.Add(e.key(), &result.entry) // confirm may have changed it
			}
		default:
			if try == 0 {
				continue
			}
		}
		d := result.decision
		if d.Allow && e.issued(result.notBefore) {
			d = deny(d.ID, tokenRevoked)
		}
		s.record(ctx, &e, evaluated{decision: d, took: result.took, facts: facts.Facts()})
		return d, nil
	}
}

var errStale = &iam.Error{Kind: iam.Unavailable, Code: "facts_stale", Detail: "the facts cannot be read now"}

// failed counts what is not decided.
func (s *Service) failed(err error) error {
	if kind := iam.KindOf(err); kind == iam.Unavailable || kind == iam.Internal {
		s.cfg.OnDecision("error", iam.CodeOf(err), 0)
	}
	return err
}

// cached returns the decision under key if a new one could not differ.
func (s *Service) cached(key [sha256.Size]byte, r *policy.Revision, now time.Duration) *entry {
	e, ok := s.cache.Get(key)
	if !ok || e.revision != r.Number() || e.until != 0 && now >= e.until || s.cfg.Directory.Validity(&e.facts, now) != directory.Valid {
		s.cache.Miss()
		return nil
	}
	s.cache.Hit()
	return e
}

// outcome is a new decision.
type outcome struct {
	entry
	took time.Duration
}

// evaluate evaluates the policy, and enforces on its decision what no policy decides.
func (s *Service) evaluate(ctx context.Context, e *evaluation, facts *directory.View) (*outcome, error) {
	if err := s.confirm(ctx, e, facts); err != nil {
		return nil, err
	}
	r := e.revision
	ctx, span := tracing.Start(ctx, "evaluate policy", attribute.String("iam.policy.revision", r.ID))
	d, err := s.cfg.Engine.Authorize(ctx, e.question, policy.Basis{Revision: r, Facts: facts, Deadline: e.deadline})
	tracing.End(span, iam.CodeOf(err), err)
	switch {
	case err != nil:
		return nil, err
	case d.Refused:
		return nil, refused(d.Reasons)
	}
	result := &outcome{took: d.Took}
	result.revision = r.Number()
	result.decision = Decision{Allow: d.Allow, ID: policy.NewDecisionID(), Reasons: d.Reasons, Context: d.Context}
	if d.Allow {
		var why *policy.Reason
		if why, result.notBefore, err = s.killed(ctx, e, facts); err != nil {
			return nil, err
		}
		if why != nil {
			result.decision = deny(result.decision.ID, *why)
		}
	}
	result.facts = facts.Dependencies()
	if d.TTL >= 0 {
		result.until = e.began + d.TTL
	}
	result.weight = 500 + result.facts.Weight() + int64(len(result.decision.Context)+64*len(result.decision.Reasons))
	return result, nil
}

// refused is the error of a client that the policy lets not ask.
func refused(reasons []policy.Reason) error {
	err := &iam.Error{Kind: iam.Forbidden, Code: "not_granted", Detail: "the policy does not let this client ask this"}
	if len(reasons) > 0 && reasons[0].Code != "" {
		err.Code = reasons[0].Code
	}
	return err
}

// Reasons of denials that no policy decides.
var (
	userBlocked      = policy.Reason{Code: "user_blocked", Title: "The user is blocked"}
	clientNotActive  = policy.Reason{Code: "client_not_active", Title: "The client is not active"}
	tokenRevoked     = policy.Reason{Code: "token_revoked", Title: "The subject's token was issued before a revocation"}
	agentNotActive   = policy.Reason{Code: "agent_not_active", Title: "The agent is not a registered, active client of the tenant or of the platform"}
	issuerNotTrusted = policy.Reason{Code: "issuer_not_trusted_for_tenant", Title: "The subject's issuer is not trusted for the tenant"}

	ours = []policy.Reason{userBlocked, clientNotActive, tokenRevoked, agentNotActive, issuerNotTrusted}
)

func deny(id string, why policy.Reason) Decision {
	return Decision{ID: id, Reasons: []policy.Reason{why}}
}

// killed returns why a subject, or their agent, is denied whatever the policy allows; nil for no reason. notBefore is
// the revocation of the subject's tokens.
func (s *Service) killed(ctx context.Context, e *evaluation, facts *directory.View) (why *policy.Reason, notBefore time.Time, err error) {
	var p directory.Principal
	switch e.subjectType {
	case TypeUser:
		if p, err = facts.User(ctx, e.subject.issuer, e.subject.id); err != nil {
			return nil, notBefore, err
		}
		if p.Known && p.Status != iam.UserActive {
			return &userBlocked, notBefore, nil
		}
	case TypeClient:
		if p, err = facts.Client(ctx, e.subject.issuer, e.subject.id); err != nil {
			return nil, notBefore, err
		}
		if p.Known && p.Status != iam.ClientActive {
			return &clientNotActive, notBefore, nil
		}
	}
	if e.subject.issuer != "" && !s.cfg.Issuers.Reaches(e.subject.issuer, e.tenant) {
		return &issuerNotTrusted, notBefore, nil
	}
	notBefore = p.TokensNotBefore
	if e.agent.id == "" {
		return nil, notBefore, nil
	}
	if p, err = facts.Client(ctx, e.agent.issuer, e.agent.id); err != nil {
		return nil, notBefore, err
	}
	if !p.Known || p.Status != iam.ClientActive || p.Tenant != "" && p.Tenant != e.tenant {
		return &agentNotActive, notBefore, nil
	}
	return nil, notBefore, nil
}

// view is a view of the facts for a caller, whose look-ups of absent documents count.
func (s *Service) view(c *Caller, deadline time.Time) *directory.View {
	return s.cfg.Directory.View(directory.Caller{
		Issuer: c.token.Issuer, Subject: c.token.Subject, ClientID: c.token.ClientID, Lookups: s.budgetOf(c),
	}, deadline)
}

func (s *Service) budgetOf(c *Caller) *budget {
	return s.budgets.of(names{issuer: c.token.Issuer, id: c.token.ClientID})
}

// evaluation is one question on its way to a decision.
type evaluation struct {
	caller   *Caller
	revision *policy.Revision
	deadline time.Time
	began    time.Duration // by the directory's clock

	tenant      string
	subjectType string
	subject     names  // of a user or a client; else only its id
	asked       string // our id of the user, where the request has it
	request     *Request
	issuedAt    time.Time
	agent       names // id "": none
	about       enrich.Authzen
	input       ast.Object
	question    policy.AuthzenQuestion
}

// issued reports whether the subject's token is revoked, where the request says when it was issued.
func (e *evaluation) issued(notBefore time.Time) bool {
	return !e.issuedAt.IsZero() && (&token.Token{IssuedAt: e.issuedAt}).RevokedBy(notBefore)
}

// key is the cache key: what the policy sees, and what Go's own checks depend on.
func (e *evaluation) key() [sha256.Size]byte {
	var room [512]byte
	b := append(room[:0], e.question.Key[:]...)
	for _, s := range []string{e.caller.token.Issuer, e.caller.token.ClientID, e.tenant, e.subjectType, e.asked, e.subject.issuer, e.subject.id, e.agent.issuer, e.agent.id} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	return sha256.Sum256(b)
}

// evaluated is a decision for the log.
type evaluated struct {
	decision Decision
	took     time.Duration
	facts    []directory.Fact
	repeated bool
}

// record counts and records a decision.
func (s *Service) record(ctx context.Context, e *evaluation, d evaluated) {
	outcome, label := "allowed", ""
	var first policy.Reason
	if !d.decision.Allow {
		if len(d.decision.Reasons) > 0 {
			first = d.decision.Reasons[0]
		} else {
			first = policy.Reason{Code: "not_granted"}
		}
		if outcome, label = "denied", first.Code; !slices.Contains(ours, first) && !e.revision.HasCode(label) {
			label = "other" // a policy must not make up labels
		}
	}
	s.cfg.OnDecision(outcome, label, d.took)
	if d.repeated && (s.cfg.SampleLog <= 0 || mrand.Float64() >= s.cfg.SampleLog) { //nolint:gosec // sampling is no secret
		return
	}
	s.cfg.Record(&enrich.Evaluated{
		At:       time.Now(),
		Revision: e.revision,
		Token:    e.caller.token,
		Authzen:  &e.about,
		Response: enrich.Response{Allowed: d.decision.Allow, Code: first.Code, DecisionID: d.decision.ID, Tenant: e.tenant},
		Reasons:  slices.Clone(d.decision.Reasons),
		Facts:    d.facts,
		Took:     d.took,
		Trace:    tracing.Of(ctx),
		Repeated: d.repeated,
	})
}
