// Package enrich is the hot path: a question of a gateway becomes claims.
//
// It owns the order of things (token, invariants, policy, answer), the budgets of
// time, and what no policy may change: a token that is present and bad is
// refused even where anonymous callers are welcome; a managed client that is not
// active refuses its tokens; a token issued before tokens_not_before is refused;
// nobody is let in without a subject unless the bundle declares the request
// anonymous; an answer never names a tenant that the token's issuer does not
// reach, and names the tenant of the token's managed client where that has one. It
// does not know HTTP, SQL or Rego's syntax.
//
//	question ─▶ token ─▶ decision kept? ─▶ client, user ─▶ policy ─▶ Allowed | Denied
//	               │          └─ yes: the answer  │          │
//	               └──────────────────────────────┴──────────┴──▶ an error: not answerable now, or broken
//
// It also owns the decision cache (answers.go). A kept answer equals what a new
// evaluation would give at a moment within the promise of freshness; errors, and
// evaluations that were cut off, are never kept.
package enrich

import (
	"context"
	"errors"
	"log/slog"
	mrand "math/rand/v2"
	"net/http"
	"strconv"
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
	HeaderMax  int           // bytes that all headers of an answer may take together; 0: 3,500
	Entries    int           // decisions kept; 0: 20,000; negative: none
	Bytes      int64         // most bytes they may weigh, estimated; 0: 32 MiB
	SampleLog  float64       // share of answers from the cache that are recorded, 0 to 1; evaluations all are
	Log        *slog.Logger
	Record     func(*Evaluated)                               // told of each evaluation, and of a sample of answers from the cache; it must not block; may be nil
	OnDecision func(outcome, code string, took time.Duration) // told of each answer; took is 0 where nothing was evaluated; may be nil
}

// Service answers gateways. It is safe for concurrent use.
type Service struct {
	cfg      Config
	now      func() time.Time // what the policy is told; time.Now
	shadow   Shadow
	answers  *decisionCache
	decision int // places of the headers that Go itself fills, or -1
	revision int
	kind     int
	tenants  []int // places of the headers that name the tenant
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
		answers:  newAnswers(cfg.Entries, cfg.Bytes),
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

// Request is what a gateway asks. A field that is not known is empty.
type Request struct {
	Token      string // without its scheme; empty: none
	IdP        string // id of the issuer that the gateway chose; trusted
	TenantHint string // of a valid shape, or empty
	Facts      RequestFacts
}

// Response is what a gateway learns.
type Response struct {
	Allowed    bool
	Status     int      // of a deny: 401 or 403
	Code       string   // of a deny: the first reason; for metrics and logs
	HadToken   bool     // so that a 401 can say invalid_token (RFC 6750, section 3.1)
	DecisionID string   // of an evaluation; an answer from the cache repeats it
	Tenant     string   // of an allow
	Values     []string // of an allow, parallel to Engine.Headers; not to be changed

	Fault *iam.Error // of a deny that is about the request itself, whoever sent it; else nil
}

// Enrich answers q. An error is of kind Unavailable (not answerable now) or
// Internal (broken); its code says what.
func (s *Service) Enrich(ctx context.Context, q Request) (Response, error) {
	deadline := time.Now().Add(s.cfg.Deadline)
	var t *token.Token
	if q.Token != "" {
		var err error
		if t, err = s.cfg.Verifier.Verify(ctx, q.Token, q.IdP, deadline); err != nil {
			return s.refuse(ctx, err, nil, nil, &q, nil)
		}
	}
	r := s.cfg.Engine.Revision()
	if r == nil {
		return s.refuse(ctx, policy.ErrNoPolicy, nil, nil, &q, t)
	}
	asked := s.question(r, &q, t, true)
	if fault := faultOf(r, &asked, &q.Facts); fault != nil {
		asked.Now = s.now()
		return s.refuse(ctx, fault, r, &asked, &q, t)
	}
	key := r.Key(&asked)
	at := s.cfg.Directory.Now()
	if k := s.answers.get(key, r, t, s.cfg.Directory, at); k != nil {
		s.repeat(r, k, &asked, &q, t)
		return k.answer, nil
	}
	asked.Now = s.now()
	for try := 0; ; try++ {
		facts := s.reading(t, deadline)
		k, d, err := s.evaluate(ctx, r, &asked, &q, t, facts, at, deadline)
		if err != nil {
			return s.refuse(ctx, err, r, &asked, &q, t)
		}
		// A fact that changed while the policy ran may have been read old: then once
		// more, and then without keeping it.
		sure := s.cfg.Directory.Truth(&k.facts, s.cfg.Directory.Now()) == directory.StillTrue
		if !sure && try == 0 {
			continue
		}
		if sure && d.Keep != 0 && s.cfg.Entries > 0 {
			s.answers.add(key, k)
		}
		s.note(r, k, d, &asked, &q, t, facts)
		return k.answer, nil
	}
}

// AmbiguousPath says what is wrong with a path.
const AmbiguousPath = "the path can be read in two ways"

// faultOf says why a request cannot be decided by r, whoever sent it: r reads what nobody has
// said of it, or a path that two programs could read differently; nil: it can. An undefined
// fact would silence each denial that reads it.
func faultOf(r *policy.Revision, asked *policy.Question, req *RequestFacts) *iam.Error {
	missing := r.Missing(asked)
	switch {
	case missing == 0:
		return nil
	case req.Ambiguous && (missing.Has(policy.Path) || missing.Has(policy.RawPath)):
		return &iam.Error{Kind: iam.Forbidden, Code: "malformed_request", Detail: AmbiguousPath}
	}
	return &iam.Error{Kind: iam.Forbidden, Code: policy.CodeFactsMissing, Detail: "the policy reads " + missing.String() + ", and no source that is believed has said it"}
}

// Outcome is an answer, and what it rests on.
type Outcome struct {
	Response Response
	Decision policy.Decision
	Input    policy.Question
}

// Ask answers q for a verified token (nil: none) as r decides, from facts that the caller
// has chosen. Nothing is kept, counted or logged: it is for those who want to know what
// would be. It fails as Enrich does, and with Unauthenticated or Forbidden where Enrich
// would refuse.
func (s *Service) Ask(ctx context.Context, r *policy.Revision, t *token.Token, q Request, facts *directory.Reading, now, deadline time.Time) (Outcome, error) {
	o := Outcome{Input: s.question(r, &q, t, false)}
	o.Input.Now = now
	if fault := faultOf(r, &o.Input, &q.Facts); fault != nil {
		return o, fault
	}
	k, d, err := s.evaluate(ctx, r, &o.Input, &q, t, facts, 0, deadline)
	if err != nil {
		return o, err
	}
	o.Response, o.Decision = k.answer, d
	return o, nil
}

// Reading is the view of the facts on behalf of t, or of nobody.
func (s *Service) Reading(t *token.Token, deadline time.Time) *directory.Reading {
	if t == nil {
		return s.cfg.Directory.Reading(directory.Asker{}, deadline)
	}
	return s.cfg.Directory.Reading(directory.Asker{Issuer: t.Issuer, Subject: t.Subject, ClientID: t.ClientID}, deadline)
}

// question is q as the policy is asked it. What the policy sees of a token is remembered
// where it is the one in force.
func (s *Service) question(r *policy.Revision, q *Request, t *token.Token, inForce bool) policy.Question {
	req := &q.Facts
	asked := policy.Question{Fields: fieldsOf(r, req)}
	if t == nil {
		asked.Anonymous = r.Anonymous(req.Path, req.Preflight)
		return asked
	}
	// Without a token nobody is a member of anything, and a hint that anybody can make up must
	// not be a decision of its own.
	asked.Fields[policy.TenantHint] = q.TenantHint
	var ok bool
	if asked.Token, ok = t.Memo().Load().(*policy.Token); !ok || !asked.Token.Of(r) {
		asked.Token = r.Token(t.Issuer, t.Subject, t.ClientID, t.Claims)
		if inForce {
			t.Memo().Store(asked.Token)
		}
	}
	return asked
}

// fieldsOf is what a policy can see of a request.
func fieldsOf(r *policy.Revision, req *RequestFacts) [policy.NumFields]string {
	fields := [policy.NumFields]string{
		policy.Gateway: req.Gateway, policy.Method: req.Method, policy.Scheme: req.Scheme, policy.Host: req.Host, policy.Path: req.Path, policy.RawPath: req.RawPath,
	}
	if req.ClientIP.IsValid() && r.Sees(policy.ClientIP) {
		fields[policy.ClientIP] = req.ClientIP.String()
	}
	return fields
}

// evaluate asks the policy, and holds its answer and the token to what no policy
// decides.
func (s *Service) evaluate(ctx context.Context, r *policy.Revision, asked *policy.Question, q *Request, t *token.Token, facts *directory.Reading, at time.Duration, deadline time.Time) (*entry, policy.Decision, error) {
	k := &entry{revision: r.Number(), outcome: "allowed"}
	var d policy.Decision
	var err error
	bound := ""
	if t != nil {
		if k.notBefore, bound, err = stillWelcome(ctx, t, facts); err != nil {
			return nil, d, err
		}
	}
	if d, err = s.cfg.Engine.Decide(ctx, r, asked, facts, deadline); err != nil {
		return nil, d, err
	}
	if k.answer, err = s.answer(d, r, t, &q.Facts); err != nil {
		return nil, d, err
	}
	// A decision that names no tenant can still carry roles of any in its headers.
	if k.answer.Allowed && bound != "" && d.Tenant != bound {
		k.answer = Response{HadToken: true, DecisionID: k.answer.DecisionID, Status: http.StatusForbidden, Code: policy.CodeOtherTenant}
		d.Reasons = []policy.Reason{{Code: policy.CodeOtherTenant, Title: "A client that has a tenant acts in that tenant only"}}
	}
	if !k.answer.Allowed {
		k.outcome, k.code = "denied", k.answer.Code
		if !r.HasCode(k.code) {
			k.code = "other" // labels are not for a policy to make up
		}
	}
	k.facts = facts.Record()
	if d.Keep > 0 {
		k.until = at + d.Keep
	}
	return k, d, nil
}

// Identify verifies a token and holds it to what no policy decides. It returns the only
// tenant that the token can act in too; empty: its client binds it to none. It fails with
// an iam.Error: Unauthenticated, or Unavailable where that is not known now.
func (s *Service) Identify(ctx context.Context, raw string) (t *token.Token, bound string, err error) {
	deadline := time.Now().Add(s.cfg.Deadline)
	t, err = s.cfg.Verifier.Verify(ctx, raw, "", deadline)
	if err == nil {
		_, bound, err = stillWelcome(ctx, t, s.reading(t, deadline))
	}
	if err != nil {
		s.cfg.Verifier.Rejected(ctx, err)
		return nil, "", err
	}
	return t, bound, nil
}

// reading is the view of the facts on behalf of t, or of nobody.
func (s *Service) reading(t *token.Token, deadline time.Time) *directory.Reading {
	if t == nil {
		return s.cfg.Directory.Reading(directory.Asker{}, deadline)
	}
	return s.cfg.Directory.Reading(directory.Asker{Issuer: t.Issuer, Subject: t.Subject, ClientID: t.ClientID, Misses: t.Misses()}, deadline)
}

// stillWelcome holds what no policy decides: a managed client that is not active
// refuses its tokens, a person's too, and the kill switches work. It returns the
// later of the two switches, and the tenant of a managed client, which is the only one that
// its tokens can act in.
func stillWelcome(ctx context.Context, t *token.Token, facts *directory.Reading) (notBefore time.Time, bound string, err error) {
	if t.ClientID != "" {
		c, err := facts.Client(ctx, t.Issuer, t.ClientID)
		if err != nil {
			return notBefore, "", err
		}
		if c.Known && c.Status != iam.ClientActive {
			return notBefore, "", t.Reject(token.ByClient, "client_"+c.Status)
		}
		notBefore, bound = c.TokensNotBefore, c.Tenant
	}
	if !t.Program() {
		u, err := facts.User(ctx, t.Issuer, t.Subject)
		if err != nil {
			return notBefore, "", err
		}
		if u.TokensNotBefore.After(notBefore) {
			notBefore = u.TokensNotBefore
		}
	}
	if t.RevokedBy(notBefore) {
		return notBefore, "", t.Reject(token.Revoked, "token_revoked")
	}
	return notBefore, bound, nil
}

// answer holds the policy to what it may say.
func (s *Service) answer(d policy.Decision, r *policy.Revision, t *token.Token, req *RequestFacts) (Response, error) {
	a := Response{HadToken: t != nil, DecisionID: policy.NewDecisionID()}
	if !d.Allow {
		a.Status, a.Code = d.Status, "not_granted"
		if len(d.Reasons) > 0 {
			a.Code = d.Reasons[0].Code
		}
		if t == nil {
			a.Status = http.StatusUnauthorized // nobody is known, so nobody is forbidden
		}
		return a, nil
	}
	broken := func(why string) (Response, error) {
		return a, &iam.Error{Kind: iam.Internal, Code: "policy_error", Detail: "the policy is broken", Cause: errors.New(why)}
	}
	switch {
	case t == nil && !(d.Anonymous && r.Anonymous(req.Path, req.Preflight)):
		return broken("it allows a request without a token, which the bundle does not declare anonymous")
	case t == nil:
		clear(d.Values) // nobody is nobody
		if s.kind >= 0 {
			d.Values[s.kind] = "anonymous"
		}
	case d.Tenant != "" && !s.cfg.Issuers.Reaches(t.Issuer, d.Tenant):
		return broken("it answers with a tenant that the token's issuer may not speak for")
	}
	for _, i := range s.tenants {
		if v := d.Values[i]; v != "" && v != d.Tenant {
			return broken("its header " + s.cfg.Engine.Headers()[i] + " is not the tenant it answers with")
		}
	}
	a.Allowed, a.Values, a.Tenant = true, d.Values, d.Tenant
	if s.decision >= 0 {
		a.Values[s.decision] = a.DecisionID
	}
	if s.revision >= 0 {
		a.Values[s.revision] = r.ID
	}
	size := 0
	for i, name := range s.cfg.Engine.Headers() {
		size += len(name) + len(a.Values[i]) + len(": \r\n")
	}
	if size > s.cfg.HeaderMax {
		return a, &iam.Error{Kind: iam.Forbidden, Code: "headers_too_large", Detail: "the claims are too large for headers",
			Cause: errors.New("together they take " + strconv.Itoa(size) + " bytes of " + strconv.Itoa(s.cfg.HeaderMax) + "; of them " + sizes(s.cfg.Engine.Headers(), a.Values))}
	}
	return a, nil
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

// refuse turns what is wrong with the caller into an answer, and logs it; what is
// wrong with us stays an error. Where a policy was asked, or would have been, it is recorded.
func (s *Service) refuse(ctx context.Context, err error, r *policy.Revision, asked *policy.Question, q *Request, t *token.Token) (Response, error) {
	a := Response{HadToken: q.Token != "", Code: iam.CodeOf(err), DecisionID: policy.NewDecisionID()}
	record := func() {
		if r != nil {
			s.cfg.Record(&Evaluated{At: asked.Now, Revision: r, Token: t, Request: q.Facts, Hint: asked.Fields[policy.TenantHint], Asked: *asked, Answer: a})
		}
	}
	switch iam.KindOf(err) {
	case iam.Unauthenticated:
		a.Status = http.StatusUnauthorized
	case iam.Forbidden:
		a.Status = http.StatusForbidden
	default:
		s.cfg.OnDecision("error", a.Code, 0)
		a.Status = http.StatusServiceUnavailable
		record()
		return Response{}, err
	}
	s.cfg.OnDecision("denied", a.Code, 0)
	record()
	if fault, ok := errors.AsType[*iam.Error](err); ok && r != nil && (a.Code == policy.CodeFactsMissing || a.Code == "malformed_request") {
		a.Fault = fault
		return a, nil // every request of a gateway can be one: who knows the peer logs it
	}
	s.cfg.Verifier.Rejected(ctx, err, slog.String("gateway", q.Facts.Gateway), slog.String("decision_id", a.DecisionID))
	level, issuer := slog.LevelDebug, "" // anybody can send nonsense: not worth a line each
	if t != nil {
		level, issuer = slog.LevelInfo, t.Issuer
	}
	// Who it was and what was asked for is the decision log's to tell: it masks.
	s.cfg.Log.LogAttrs(ctx, level, "refused", slog.String("gateway", q.Facts.Gateway), slog.String("issuer", issuer),
		slog.String("decision_id", a.DecisionID), slog.String("code", a.Code), slog.Any("err", err))
	return a, nil
}

// Evaluated is one decision, for who keeps a log of them. What it points to is immutable.
type Evaluated struct {
	At       time.Time
	Revision *policy.Revision
	Token    *token.Token // nil: none came
	Request  RequestFacts
	Hint     string // of the tenant
	Asked    policy.Question
	Answer   Response
	Reasons  []policy.Reason  // none where it is repeated
	Facts    []directory.Fact // as above
	Took     time.Duration
	Repeated bool  // the answer came from the cache
	Hits     int64 // how often it was repeated until now
}

// note counts and records an evaluation.
func (s *Service) note(r *policy.Revision, k *entry, d policy.Decision, asked *policy.Question, q *Request, t *token.Token, facts *directory.Reading) {
	s.cfg.OnDecision(k.outcome, k.code, d.Took)
	e := &Evaluated{
		At: asked.Now, Revision: r, Token: t, Request: q.Facts, Hint: asked.Fields[policy.TenantHint], Asked: *asked, Answer: k.answer, Reasons: d.Reasons, Facts: facts.Facts(), Took: d.Took,
	}
	s.cfg.Record(e)
	if drawn(s.shadow.Share()) {
		s.shadow.Take(e)
	}
}

// drawn is true for a share of all calls.
func drawn(share float64) bool {
	return share > 0 && mrand.Float64() < share //nolint:gosec // sampling is no secret
}

// repeat counts an answer from the cache, and records a sample.
func (s *Service) repeat(r *policy.Revision, k *entry, asked *policy.Question, q *Request, t *token.Token) {
	s.cfg.OnDecision(k.outcome, k.code, 0)
	hits := k.hits.Add(1)
	sampled, shadowed := drawn(s.cfg.SampleLog), drawn(s.shadow.Share())
	if !sampled && !shadowed {
		return
	}
	e := &Evaluated{
		At: time.Now(), Revision: r, Token: t, Request: q.Facts, Hint: asked.Fields[policy.TenantHint], Asked: *asked, Answer: k.answer, Repeated: true, Hits: hits,
	}
	if sampled {
		s.cfg.Record(e)
	}
	if shadowed {
		s.shadow.Take(e)
	}
}
