// Package enrich is the hot path: a question of a gateway becomes claims.
//
// It owns the order of things (token, invariants, policy, answer), the budgets of
// time, and what no policy may change: a token that is present and bad is
// refused even where anonymous callers are welcome; a managed client that is not
// active refuses its tokens; a token issued before tokens_not_before is refused;
// nobody is let in without a subject unless the bundle declares the request
// anonymous; an answer never names a tenant that the token's issuer does not
// reach. It does not know HTTP, SQL or Rego's syntax.
//
//	question ─▶ token ─▶ client, user ─▶ policy ─▶ Allowed | Denied
//	               └────────┴──────────────┴──────▶ an error: not answerable now, or broken
package enrich

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"log/slog"
	mrand "math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

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
	Unknown    string        // users that are not written down: "deny" or "mapped"
	HeaderMax  int           // bytes that all headers of an answer may take together; 0: 3,500
	SampleLog  float64       // share of allowed answers that are logged, 0 to 1
	Log        *slog.Logger
	OnDecision func(outcome, code string, took time.Duration) // told of each evaluation; may be nil
}

// Service answers gateways. It is safe for concurrent use.
type Service struct {
	cfg      Config
	settings [2]*ast.Term
	decision int // places of the headers that Go itself fills, or -1
	revision int
	kind     int
	tenants  []int // places of the headers that name the tenant
}

// New returns a service.
func New(cfg Config) *Service {
	if cfg.Deadline <= 0 {
		cfg.Deadline = 150 * time.Millisecond
	}
	if cfg.HeaderMax <= 0 {
		cfg.HeaderMax = 3500
	}
	if cfg.Unknown == "" {
		cfg.Unknown = "deny"
	}
	if cfg.OnDecision == nil {
		cfg.OnDecision = func(string, string, time.Duration) {}
	}
	s := &Service{cfg: cfg, decision: -1, revision: -1, kind: -1}
	s.settings = ast.Item(ast.StringTerm("settings"),
		ast.ObjectTerm(ast.Item(ast.StringTerm("unknown_users"), ast.StringTerm(cfg.Unknown))))
	for i, name := range cfg.Engine.Headers() {
		switch name {
		case http.CanonicalHeaderKey("X-Decision-ID"):
			s.decision = i
		case http.CanonicalHeaderKey("X-Policy-Revision"):
			s.revision = i
		case http.CanonicalHeaderKey("X-Principal-Type"):
			s.kind = i
		case http.CanonicalHeaderKey("X-Tenant-ID"), http.CanonicalHeaderKey("X-Active-Tenant-ID"), http.CanonicalHeaderKey("X-Enriched-Tenant-ID"):
			s.tenants = append(s.tenants, i)
		}
	}
	return s
}

// Question is what a gateway asks. A field that is not known is empty.
type Question struct {
	Token      string // without its scheme; empty: none
	IdP        string // id of the issuer that the gateway chose; trusted
	TenantHint string // of a valid shape, or empty
	Request    Request
}

// Request is what is known of the client's request.
type Request struct {
	Gateway   string
	Method    string
	Scheme    string
	Host      string
	Path      string // normalised
	RawPath   string // as it was received
	ClientIP  string
	Preflight bool // a CORS preflight
}

// Answer is what a gateway learns.
type Answer struct {
	Allowed    bool
	Status     int      // of a deny: 401 or 403
	Code       string   // of a deny: the first reason; for metrics and logs
	HadToken   bool     // so that a 401 can say invalid_token (RFC 6750, section 3.1)
	DecisionID string   // of an evaluation
	Values     []string // of an allow, parallel to Engine.Headers
}

// Enrich answers q. An error is of kind Unavailable (not answerable now) or
// Internal (broken); its code says what.
func (s *Service) Enrich(ctx context.Context, q Question) (Answer, error) {
	now := time.Now()
	deadline := now.Add(s.cfg.Deadline)
	t, facts, err := s.identify(ctx, q.Token, q.IdP, deadline)
	if err != nil {
		return s.refuse(ctx, err, q, t)
	}
	anonymous := t == nil && s.anonymous(q.Request)
	d, err := s.cfg.Engine.Decide(ctx, s.input(q, t, anonymous, now), facts, now, deadline)
	if err != nil {
		return s.refuse(ctx, err, q, t)
	}
	a, err := s.answer(d, t, q.Request)
	if err != nil {
		return s.refuse(ctx, err, q, t)
	}
	s.note(ctx, a, d, q, t)
	return a, nil
}

// Identify verifies a token and holds it to what no policy decides. It fails with
// an iam.Error: Unauthenticated, or Unavailable where that is not known now.
func (s *Service) Identify(ctx context.Context, raw string) (*token.Token, error) {
	t, _, err := s.identify(ctx, raw, "", time.Now().Add(s.cfg.Deadline))
	return t, err
}

// identify returns no token where none was given, and the token with the error
// where it was verified but is no longer welcome.
func (s *Service) identify(ctx context.Context, raw, idp string, deadline time.Time) (*token.Token, *directory.Reading, error) {
	if raw == "" {
		return nil, s.cfg.Directory.Reading(directory.Asker{}, deadline), nil
	}
	t, err := s.cfg.Verifier.Verify(ctx, raw, idp, deadline)
	if err != nil {
		return nil, nil, err
	}
	facts := s.cfg.Directory.Reading(asker(t), deadline)
	return t, facts, stillWelcome(ctx, t, facts)
}

func asker(t *token.Token) directory.Asker {
	return directory.Asker{Issuer: t.Issuer, Subject: t.Subject, ClientID: t.ClientID, Misses: t.Misses()}
}

// stillWelcome holds what no policy decides: a managed client that is not active
// refuses its tokens, a person's too, and the kill switches work.
func stillWelcome(ctx context.Context, t *token.Token, facts *directory.Reading) error {
	if t.ClientID != "" {
		c, err := facts.Client(ctx, t.Issuer, t.ClientID)
		if err != nil {
			return err
		}
		if c.Known && c.Status != iam.ClientActive {
			return refused("client_" + c.Status)
		}
		if t.IssuedAt.Before(c.TokensNotBefore) {
			return refused("token_revoked")
		}
	}
	if t.Program() {
		return nil
	}
	u, err := facts.User(ctx, t.Issuer, t.Subject)
	if err != nil {
		return err
	}
	if t.IssuedAt.Before(u.TokensNotBefore) {
		return refused("token_revoked")
	}
	return nil
}

func refused(code string) error {
	return &iam.Error{Kind: iam.Unauthenticated, Code: code, Detail: "the token is not valid"}
}

// anonymous reports whether the bundle in force declares the request anonymous.
func (s *Service) anonymous(r Request) bool {
	rev := s.cfg.Engine.Revision()
	return rev != nil && rev.Anonymous(r.Path, r.Preflight)
}

// answer holds the policy to what it may say.
func (s *Service) answer(d policy.Decision, t *token.Token, r Request) (Answer, error) {
	a := Answer{HadToken: t != nil, DecisionID: newDecisionID()}
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
	broken := func(why string) (Answer, error) {
		return a, &iam.Error{Kind: iam.Internal, Code: "policy_error", Detail: "the policy is broken", Cause: errors.New(why)}
	}
	switch {
	case t == nil && !(d.Anonymous && d.Revision.Anonymous(r.Path, r.Preflight)):
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
	a.Allowed, a.Values = true, d.Values
	if s.decision >= 0 {
		a.Values[s.decision] = a.DecisionID
	}
	if s.revision >= 0 {
		a.Values[s.revision] = d.Revision.ID
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
// wrong with us stays an error.
func (s *Service) refuse(ctx context.Context, err error, q Question, t *token.Token) (Answer, error) {
	a := Answer{HadToken: q.Token != "", Code: iam.CodeOf(err)}
	switch iam.KindOf(err) {
	case iam.Unauthenticated:
		a.Status = http.StatusUnauthorized
	case iam.Forbidden:
		a.Status = http.StatusForbidden
	default:
		s.cfg.OnDecision("error", a.Code, 0)
		return Answer{}, err
	}
	s.cfg.OnDecision("denied", a.Code, 0)
	level := slog.LevelDebug // anybody can send nonsense: not worth a line each
	if t != nil {
		level = slog.LevelInfo
	}
	s.cfg.Log.LogAttrs(ctx, level, "refused", append(who(q, t), slog.String("code", a.Code), slog.Any("err", err))...)
	return a, nil
}

// note logs every deny of somebody known, and a sample of the rest. Never a token.
func (s *Service) note(ctx context.Context, a Answer, d policy.Decision, q Question, t *token.Token) {
	outcome := "denied"
	if a.Allowed {
		outcome = "allowed"
	}
	code := a.Code
	if code != "" && !d.Revision.HasCode(code) {
		code = "other" // labels are not for a policy to make up
	}
	s.cfg.OnDecision(outcome, code, d.Took)
	if t == nil && !a.Allowed || a.Allowed && (s.cfg.SampleLog <= 0 || mrand.Float64() >= s.cfg.SampleLog) { //nolint:gosec // sampling is no secret
		return
	}
	codes := make([]string, len(d.Reasons))
	for i, r := range d.Reasons {
		codes[i] = r.Code
	}
	s.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "decision", append(who(q, t),
		slog.String("outcome", outcome), slog.String("decision_id", a.DecisionID), slog.String("revision", d.Revision.ID),
		slog.String("tenant", d.Tenant), slog.Any("codes", codes), slog.Duration("took", d.Took))...)
}

// who names the parties by pseudonymous ids.
func who(q Question, t *token.Token) []slog.Attr {
	attrs := []slog.Attr{
		slog.String("gateway", q.Request.Gateway), slog.String("method", q.Request.Method), slog.String("path", q.Request.Path),
		slog.String("tenant_hint", q.TenantHint),
	}
	if t != nil {
		attrs = append(attrs, slog.String("issuer", t.Issuer), slog.String("subject", t.Subject), slog.String("client_id", t.ClientID))
	}
	return attrs
}

// newDecisionID is 128 random bits.
func newDecisionID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// Terms of the input that do not change.
var (
	termToken   = ast.StringTerm("token")
	termRequest = ast.StringTerm("request")
	termNow     = ast.StringTerm("now")
	termAnon    = ast.Item(ast.StringTerm("anonymous"), ast.BooleanTerm(true))
	termNotAnon = ast.Item(ast.StringTerm("anonymous"), ast.BooleanTerm(false))
	termFields  = [...]*ast.Term{
		ast.StringTerm("gateway"), ast.StringTerm("method"), ast.StringTerm("scheme"), ast.StringTerm("host"),
		ast.StringTerm("path"), ast.StringTerm("raw_path"), ast.StringTerm("client_ip"), ast.StringTerm("tenant_hint"),
	}
)

// input is what Rego sees. What is not known is absent, never "".
func (s *Service) input(q Question, t *token.Token, anonymous bool, now time.Time) ast.Value {
	r := q.Request
	request := ast.NewObjectWithCapacity(9)
	for i, v := range [...]string{r.Gateway, r.Method, r.Scheme, r.Host, r.Path, r.RawPath, r.ClientIP, q.TenantHint} {
		if v != "" {
			request.Insert(termFields[i], ast.InternedTerm(v))
		}
	}
	a := termNotAnon
	if anonymous {
		a = termAnon
	}
	request.Insert(a[0], a[1])
	in := ast.NewObjectWithCapacity(4)
	if t != nil {
		in.Insert(termToken, ast.NewTerm(t.Claims))
	}
	in.Insert(termRequest, ast.NewTerm(request))
	in.Insert(termNow, ast.NewTerm(ast.Number(strconv.FormatInt(now.Unix(), 10))))
	in.Insert(s.settings[0], s.settings[1])
	return in
}
