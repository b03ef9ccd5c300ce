// Package policy evaluates Rego. With package directory it is the only one that
// knows OPA.
//
// It owns what comes into force. Candidates (an embedded bundle, a bundle file or
// folder, or what OPA's own plugin manager fetched and verified into a staging
// store that no request reads) pass one gate, and become an immutable Revision:
//
//	candidate ──gate──▶ Revision ──swap──▶ in force
//	    │ refused: the reason goes to the log, the metric and Status;
//	    ▼          what was in force stays
//	 forgotten
//
// A candidate goes through the gate in a child process first: what does not end, or does
// not fit, takes nothing else down. The gate checks roots, compiles under an allow-list of builtins, and looks for
// the entrypoint and the declared headers. A request evaluates one Revision from
// its beginning to its end, over the Revision's data and the Facts it was given.
//
// The package does not know where facts come from, nor HTTP, nor what an answer
// is used for. An undefined or malformed answer is an error: a broken policy is
// neither a yes nor a considered no.
package policy

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/topdown"

	"iam-service/internal/iam"
)

// Entrypoint is the rule that answers an enrichment.
const Entrypoint = "data.iam.claims.decision"

// DefaultHeaders are what a gateway is configured for unless it is said
// otherwise.
var DefaultHeaders = []string{
	"X-User-ID", "X-User-Subject", "X-Service-ID", "X-Tenant-ID", "X-Active-Tenant-ID", "X-User-Roles", "X-Scopes",
	"X-User-Attributes", "X-Tenant-Attributes", "X-Principal-Type", "X-Decision-ID", "X-Policy-Revision",
}

var headerShape = regexp.MustCompile(`^X-(User|Tenant|Client|Service|Active-Tenant|Decision|Policy|Principal|Enriched|Citadel|Scopes|Email)(-[A-Za-z0-9]+)*$`)

// CheckHeaders returns what is wrong with a list of header names that gateways
// are configured for.
func CheckHeaders(names ...string) error {
	var errs []error
	seen := map[string]bool{}
	for _, n := range names {
		c := http.CanonicalHeaderKey(n)
		switch {
		case !headerShape.MatchString(n):
			errs = append(errs, fmt.Errorf("%q is not a header that may be declared: it must match %s", n, headerShape))
		case seen[c]:
			errs = append(errs, fmt.Errorf("%q stands here twice", n))
		}
		seen[c] = true
	}
	return errors.Join(errs...)
}

// Facts answers paths below data.directory for one evaluation.
type Facts interface {
	// Read returns a storage error of code NotFoundErr for what is not there.
	Read(ctx context.Context, path storage.Path) (ast.Value, error)
	// Waited is how long Read has waited so far; it does not count as evaluation.
	Waited() time.Duration
}

// Config of an Engine.
type Config struct {
	Headers  []string          // what the gateways are configured for; nil: DefaultHeaders
	Limit    time.Duration     // of one evaluation's own time; 0: 50 ms
	Settings map[string]string // input.settings
	CaseTime time.Duration     // of one acceptance case; 0: 2 s
	Admin    bool              // refuse a candidate that does not answer AdminEntrypoint
	Untold   bool              // no gateway is believed: warn where a policy comes into force that reads facts of the request

	SignedOnly bool // what is not signed is refused: folders too, and OPA configurations that would take it
	Key        *Key // that bundle files must be signed with; nil: they need no signature

	// Child is the command line, beginning with the program's own name, that runs
	// ServeGate: a candidate is tried there before anything is done with it here. None: it is not.
	Child []string

	Log     *slog.Logger
	OnOffer func(accepted bool) // told of each candidate; may be nil

	// OnPassed is told of a candidate that has passed the gate, and says whether it comes
	// into force now; an error refuses it, one of kind Unavailable for now. nil: it does.
	OnPassed func(ctx context.Context, c *Candidate, r *Revision) (now bool, err error)
}

// Key verifies bundles: one key, or several of which any will do, so that one can follow
// another.
type Key struct{ all []publicKey }

type publicKey struct{ pem, algorithm string }

// keyID is what our own tools call the key in a signature. Whoever verifies with one key
// looks at no name.
const keyID = "iam"

// ParseKey reads the PEM of one or more public keys.
func ParseKey(text []byte) (*Key, error) {
	k := &Key{}
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "PUBLIC KEY" {
			return nil, errors.New("it must be the PEM of a public key (BEGIN PUBLIC KEY)")
		}
		public, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		algorithm, err := SigningAlgorithm(public)
		if err != nil {
			return nil, err
		}
		k.all = append(k.all, publicKey{string(pem.EncodeToMemory(block)), algorithm})
	}
	if len(k.all) == 0 || len(bytes.TrimSpace(text)) > 0 {
		return nil, errors.New("it must be the PEM of a public key (BEGIN PUBLIC KEY)")
	}
	return k, nil
}

// SigningAlgorithm is the one that a public key is for (RFC 7518, section 3.1): a key has
// one, and nobody need say it. HMAC is none: whoever could verify could sign.
func SigningAlgorithm(public any) (string, error) {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return "ES256", nil
		case elliptic.P384():
			return "ES384", nil
		case elliptic.P521():
			return "ES512", nil
		}
	case *rsa.PublicKey:
		if k.N.BitLen() >= 2048 {
			return "RS256", nil
		}
	}
	return "", errors.New("the key must be of the curve P-256, P-384 or P-521, or RSA of 2048 bits or more")
}

// Verify calls read with each key until one is good, and returns the last error.
func (k *Key) Verify(read func(*bundle.VerificationConfig) error) (err error) {
	for _, one := range k.all {
		if err = read(bundle.NewVerificationConfig(map[string]*bundle.KeyConfig{keyID: {Key: one.pem, Algorithm: one.algorithm}}, keyID, "", nil)); err == nil {
			return nil
		}
	}
	return err
}

// Engine answers questions under the revision in force. It is safe for
// concurrent use; a new revision is swapped in between two answers, never within
// one.
type Engine struct {
	cfg      Config
	names    []string       // cfg.Headers in canonical form
	index    map[string]int // canonical name → place in names
	settings *ast.Term
	current  atomic.Pointer[Revision]

	offering sync.Mutex // one candidate at a time
	mu       sync.Mutex
	lastSeen string // digest of the last candidate that needs no second look; under mu

	refused atomic.Pointer[Refusal]
}

// NewEngine returns an engine without a revision: it answers nothing yet.
func NewEngine(cfg Config) (*Engine, error) {
	if cfg.Headers == nil {
		cfg.Headers = DefaultHeaders
	}
	if cfg.Limit <= 0 {
		cfg.Limit = 50 * time.Millisecond
	}
	if cfg.OnOffer == nil {
		cfg.OnOffer = func(bool) {}
	}
	if err := CheckHeaders(cfg.Headers...); err != nil {
		return nil, err
	}
	settings := ast.NewObject()
	for k, v := range cfg.Settings {
		settings.Insert(ast.StringTerm(k), ast.StringTerm(v))
	}
	e := &Engine{cfg: cfg, index: map[string]int{}, settings: ast.NewTerm(settings)}
	for i, n := range cfg.Headers {
		c := http.CanonicalHeaderKey(n)
		e.names = append(e.names, c)
		e.index[c] = i
	}
	return e, nil
}

// Headers are the canonical names that every 200 carries, in the order of
// Decision.Values: all that the gateways are configured for, so that no revision
// can leave one out that another one declares.
func (e *Engine) Headers() []string { return e.names }

// Revision is what is in force; nil before the first.
func (e *Engine) Revision() *Revision { return e.current.Load() }

// Refusal is the last candidate that the gate turned away, unless one was
// accepted since.
type Refusal struct {
	Source string    `json:"source"`
	Digest string    `json:"digest,omitempty"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}

// Status says what is in force and what was refused since.
type Status struct {
	Revision *Revision `json:"in_force"`
	Refused  *Refusal  `json:"refused,omitempty"`
}

// Status returns the state of the engine.
func (e *Engine) Status() Status {
	return Status{e.current.Load(), e.refused.Load()}
}

// LaterError says that it is not known now whether a candidate comes into force: it should
// be offered again.
type LaterError struct{ Cause error }

func (e *LaterError) Error() string {
	return "it is not known now whether it comes into force: " + e.Cause.Error()
}
func (e *LaterError) Unwrap() error { return e.Cause }

// Offer takes c through the gate and, if it passes and nothing else was decided
// (Config.OnPassed), puts it in force before it returns. A candidate that was just
// offered is not looked at again. It fails with a LaterError where somebody should offer it
// again.
func (e *Engine) Offer(ctx context.Context, c *Candidate) error {
	digest := c.Digest()
	e.offering.Lock()
	defer e.offering.Unlock()
	if e.seen(digest) {
		if r := e.refused.Load(); r != nil {
			return errors.New(r.Reason)
		}
		return nil
	}
	r, err := e.gate(ctx, c, digest)
	if err != nil {
		return e.turnDown(ctx, c.Source, digest, err)
	}
	now := true
	if e.cfg.OnPassed != nil {
		if now, err = e.cfg.OnPassed(ctx, c, r); err != nil {
			if kind := iam.KindOf(err); kind != iam.Conflict && kind != iam.Invalid {
				err = &LaterError{err}
			}
			return e.turnDown(ctx, c.Source, digest, err)
		}
	}
	e.mu.Lock()
	e.lastSeen = digest
	e.mu.Unlock()
	e.Accept()
	if now {
		e.Activate(ctx, r)
	}
	return nil
}

// Accept notes that a candidate has passed the gate: what was refused before it is history.
func (e *Engine) Accept() {
	e.mu.Lock()
	e.refused.Store(nil)
	e.mu.Unlock()
	e.cfg.OnOffer(true)
}

// seen reports whether a candidate needs no second look: it was refused just now, or nothing
// else came into force since it was taken.
func (e *Engine) seen(digest string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.lastSeen == digest
}

// turnDown refuses a candidate, for good or for now.
func (e *Engine) turnDown(ctx context.Context, source, digest string, err error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, later := errors.AsType[*LaterError](err)
	if r := e.refused.Load(); r != nil && r.Digest == digest && r.Reason == reasonOf(err) {
		return err // told already
	}
	e.lastSeen = digest
	if later {
		e.lastSeen = ""
	}
	e.refuse(ctx, source, digest, err)
	return err
}

// Activate puts a prepared revision in force, unless it is.
func (e *Engine) Activate(ctx context.Context, r *Revision) {
	old := e.current.Load()
	if old != nil && old.Digest == r.Digest {
		return
	}
	inForce := *r
	inForce.Since = time.Now().UTC()
	e.current.Store(&inForce)
	e.mu.Lock()
	if e.lastSeen != r.Digest && e.refused.Load() == nil {
		e.lastSeen = "" // what a source brought is in force no more: it may be offered again
	}
	e.mu.Unlock()
	e.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "policy in force", slog.String("revision", r.ID), slog.String("name", r.Name),
		slog.String("source", r.Source), slog.Any("cache_key", r.CacheKey))
	if len(r.Unvalidated) > 0 {
		e.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "policy data not validated", slog.String("revision", r.ID), slog.Any("unvalidated", r.Unvalidated))
	}
	if e.cfg.Untold && len(r.RequestFacts) > 0 {
		e.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "policy reads request facts, and TRUSTED_PROXIES is empty: requests without them are denied (request_facts_missing)",
			slog.String("revision", r.ID), slog.Any("request_facts", r.RequestFacts))
	}
}

// Refuse records that a candidate could not even be read, or cannot be put in force; the
// digest is empty where it is not known.
func (e *Engine) Refuse(ctx context.Context, source, digest string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r := e.refused.Load(); r != nil && r.Reason == reasonOf(err) {
		return // told already
	}
	e.lastSeen = ""
	e.refuse(ctx, source, digest, err)
}

// settled forgets a refusal of what came in one way: it brings again what is in force.
func (e *Engine) settled(way string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r := e.refused.Load(); r != nil && !strings.HasPrefix(r.Source, way) {
		return
	}
	e.refused.Store(nil)
	if r := e.current.Load(); r != nil {
		e.lastSeen = r.Digest
	}
}

// longestReason is how many bytes of a reason are kept: it goes to the log, to the status and
// to all who look.
const longestReason = 4 << 10

func reasonOf(err error) string {
	reason := err.Error()
	if len(reason) > longestReason {
		return strings.ToValidUTF8(reason[:longestReason], "") + "…"
	}
	return reason
}

// refuse is called under mu.
func (e *Engine) refuse(ctx context.Context, source, digest string, err error) {
	e.refused.Store(&Refusal{Source: source, Digest: digest, Reason: reasonOf(err), At: time.Now().UTC()})
	e.cfg.OnOffer(false)
	serving := "nothing"
	if r := e.current.Load(); r != nil {
		serving = r.ID
	}
	e.cfg.Log.LogAttrs(ctx, slog.LevelError, "policy refused", slog.String("source", source), slog.String("err", reasonOf(err)), slog.String("still_in_force", serving))
}

// Reason is why a decision is what it is, from the METADATA of a rule that
// fired.
type Reason struct {
	Code  string `json:"code"`
	Title string `json:"title"`
}

// Decision is the answer to one question.
type Decision struct {
	Allow     bool
	Status    int  // of a deny: 401 or 403
	Anonymous bool // the policy allows this without a subject
	Tenant    string
	Values    []string // parallel to Engine.Headers; "" where there is nothing to say
	Reasons   []Reason
	Keep      time.Duration // how long the answer may be used again while nothing changes; negative: as long as one likes
	Took      time.Duration // the evaluation's own time, without waiting for facts
}

// NewDecisionID names one evaluation: 128 random bits.
func NewDecisionID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// ErrNoPolicy says that nothing is in force yet.
var ErrNoPolicy = &iam.Error{Kind: iam.Unavailable, Code: "no_policy", Detail: "no policy is in force yet"}

// capped is how long an answer of a revision is kept that may differ by itself.
const capped = time.Second

// Decide evaluates the entrypoint of r. It fails with an iam.Error: Unavailable
// when time ran out or the facts could not be read, Internal when the policy is
// broken, Forbidden when what it answered cannot be carried by a header.
func (e *Engine) Decide(ctx context.Context, r *Revision, q *Question, facts Facts, deadline time.Time) (Decision, error) {
	began := time.Now()
	ev := &evaluation{facts: facts, ctx: ctx, began: began, waited: facts.Waited(), limit: e.cfg.Limit, deadline: deadline}
	rs, err := r.eval(ctx, Entrypoint, r.query, r.input(q, e.settings), ev, rego.EvalTime(q.Now))
	if err != nil {
		return Decision{}, err
	}
	took := ev.own(time.Now())
	d, err := e.decision(rs, r)
	if err != nil {
		return Decision{}, err
	}
	d.Took = took
	if r.Capped && (d.Keep < 0 || d.Keep > capped) {
		d.Keep = capped
	}
	return d, nil
}

// eval runs one of r's queries: the least that OPA can do for it, with limits that are
// polled.
func (r *Revision) eval(ctx context.Context, entrypoint string, query rego.PreparedEvalQuery, input ast.Value, ev *evaluation, more ...rego.EvalOption) (rego.ResultSet, error) {
	rs, err := query.Eval(ctx, append(more,
		rego.EvalParsedInput(input),
		rego.EvalTransaction(ev),
		rego.EvalBaseCache(ev),
		rego.EvalExternalCancel(ev),
		rego.EvalGenerateJSON(rawTerm),
		rego.EvalMetrics(noMetrics),
	)...)
	if err == nil && ev.late(time.Now()) {
		ev.Cancel()
		err = &topdown.Error{Code: topdown.CancelErr, Message: "the answer came too late"}
	}
	if err != nil {
		return nil, r.failure(entrypoint, err, ev)
	}
	return rs, nil
}

var noMetrics = metrics.NoOp()

func rawTerm(t *ast.Term, _ *rego.EvalContext) (any, error) { return t, nil }

func (r *Revision) failure(entrypoint string, err error, ev *evaluation) error {
	if known, ok := errors.AsType[*iam.Error](err); ok {
		return known // the facts could not be read
	}
	if topdown.IsCancel(err) && ev.hit.Load() {
		return &iam.Error{Kind: iam.Unavailable, Code: "policy_timeout", Detail: "the policy did not answer in time",
			Cause: fmt.Errorf("evaluate %s at %s: %w", entrypoint, r.ID, err)}
	}
	return brokenAt(entrypoint, r, "%w", withoutValues(err))
}

// withoutValues is an error of OPA's as far as it may be told: where it happened, its code and
// the builtin. Its message can hold what a token says, and errors are logged and kept.
func withoutValues(err error) error {
	e, ok := errors.AsType[*topdown.Error](err)
	if !ok {
		return err // our store's, which names no value
	}
	said := e.Code
	if e.Location.HasFile() { // else it is a text
		said = e.Location.String() + ": " + said
	}
	if name, _, _ := strings.Cut(e.Message, ":"); ast.BuiltinMap[name] != nil {
		said += ": " + name
	}
	return errors.New(said)
}

func broken(r *Revision, format string, args ...any) error {
	return brokenAt(Entrypoint, r, format, args...)
}

func brokenAt(entrypoint string, r *Revision, format string, args ...any) error {
	return &iam.Error{Kind: iam.Internal, Code: "policy_error", Detail: "the policy is broken",
		Cause: fmt.Errorf("evaluate "+entrypoint+" at "+r.ID+": "+format, args...)}
}

// answerOf takes the one object that an entrypoint answers with.
func answerOf(rs rego.ResultSet) (ast.Object, error) {
	if len(rs) != 1 || len(rs[0].Expressions) != 1 {
		return nil, errors.New("the answer is undefined")
	}
	term, ok := rs[0].Expressions[0].Value.(*ast.Term)
	if !ok {
		return nil, errors.New("the answer is not a term")
	}
	doc, ok := term.Value.(ast.Object)
	if !ok {
		return nil, errors.New("the answer is no object")
	}
	return doc, nil
}

// Keys of an answer.
var (
	keyAllow     = ast.StringTerm("allow")
	keyStatus    = ast.StringTerm("status")
	keyAnonymous = ast.StringTerm("anonymous")
	keyTenant    = ast.StringTerm("tenant")
	keyHeaders   = ast.StringTerm("headers")
	keyReasons   = ast.StringTerm("reasons")
	keyCode      = ast.StringTerm("code")
	keyTitle     = ast.StringTerm("title")
	keyTTL       = ast.StringTerm("ttl")
)

// decision reads the answer strictly: what is not of the agreed shape is an
// error.
func (e *Engine) decision(rs rego.ResultSet, r *Revision) (Decision, error) {
	doc, err := answerOf(rs)
	if err != nil {
		return Decision{}, broken(r, "%w", err)
	}
	allow, ok := boolean(doc, keyAllow)
	if !ok {
		return Decision{}, broken(r, "the answer has no boolean allow")
	}
	d := Decision{Allow: allow, Status: http.StatusForbidden, Keep: -1}
	if t := doc.Get(keyStatus); t != nil {
		n, _ := t.Value.(ast.Number) // "" is refused below
		switch n {
		case "401":
			d.Status = http.StatusUnauthorized
		case "403":
		default:
			return Decision{}, broken(r, "status is neither 401 nor 403")
		}
	}
	if doc.Get(keyAnonymous) != nil {
		if d.Anonymous, ok = boolean(doc, keyAnonymous); !ok {
			return Decision{}, broken(r, "anonymous is no boolean")
		}
	}
	if t := doc.Get(keyTenant); t != nil {
		s, ok := t.Value.(ast.String)
		if !ok {
			return Decision{}, broken(r, "tenant is no string")
		}
		d.Tenant = string(s)
	}
	if t := doc.Get(keyTTL); t != nil {
		n, _ := t.Value.(ast.Number) // "" is refused below
		seconds, err := strconv.ParseFloat(string(n), 64)
		if err != nil || seconds < 0 {
			return Decision{}, broken(r, "ttl is no number of seconds from 0 on")
		}
		d.Keep = time.Duration(min(seconds, 1e9) * float64(time.Second))
	}
	if d.Reasons, err = reasons(doc.Get(keyReasons)); err != nil {
		return Decision{}, broken(r, "%w", err)
	}
	if !d.Allow {
		return d, nil // a deny carries no headers
	}
	d.Values, err = e.values(doc.Get(keyHeaders), r)
	return d, err
}

func boolean(doc ast.Object, key *ast.Term) (value, ok bool) {
	t := doc.Get(key)
	if t == nil {
		return false, false
	}
	b, ok := t.Value.(ast.Boolean)
	return bool(b), ok
}

func reasons(t *ast.Term) ([]Reason, error) {
	if t == nil {
		return nil, nil
	}
	var list []Reason
	err := each(t.Value, func(t *ast.Term) error {
		o, ok := t.Value.(ast.Object)
		if !ok {
			return errors.New("a reason is no object")
		}
		var r Reason
		if c := o.Get(keyCode); c != nil {
			s, _ := c.Value.(ast.String) // a reason of another type is an empty one
			r.Code = string(s)
		}
		if c := o.Get(keyTitle); c != nil {
			s, _ := c.Value.(ast.String)
			r.Title = string(s)
		}
		list = append(list, r)
		return nil
	})
	return list, err
}

// each calls f for the members of an array or a set.
func each(v ast.Value, f func(*ast.Term) error) error {
	switch v := v.(type) {
	case *ast.Array:
		return v.Iter(f)
	case ast.Set:
		return v.Iter(f) // sorted
	}
	return errors.New("it is no list")
}

// values lays the headers of an answer out as names wants them.
func (e *Engine) values(t *ast.Term, r *Revision) ([]string, error) {
	values := make([]string, len(e.names))
	if t == nil {
		return values, nil
	}
	doc, ok := t.Value.(ast.Object)
	if !ok {
		return nil, broken(r, "headers is no object")
	}
	err := doc.Iter(func(k, v *ast.Term) error {
		name, ok := k.Value.(ast.String)
		if !ok {
			return broken(r, "headers has a key that is no string")
		}
		i, declared := e.index[string(name)]
		if !declared {
			i, declared = e.index[http.CanonicalHeaderKey(string(name))]
		}
		switch {
		case !declared: // its name may be something that a token says
			return broken(r, "%w", &HeaderError{string(name), "headers has one that is not in GATEWAY_HEADERS"})
		case !r.declares[i]:
			return broken(r, "%w", &HeaderError{string(name), "header " + e.names[i] + " is not declared"})
		}
		if s, ok := v.Value.(ast.String); ok {
			values[i] = string(s)
			return carriable(e.names[i], string(s))
		}
		var list []string
		err := each(v.Value, func(item *ast.Term) error {
			s, ok := item.Value.(ast.String)
			if !ok {
				return errors.New("it holds what is no string")
			}
			if strings.Contains(string(s), ",") {
				return refusedValue(e.names[i], "an item of it holds a comma")
			}
			list = append(list, string(s))
			return nil
		})
		if err != nil {
			if _, known := errors.AsType[*iam.Error](err); known {
				return err
			}
			return broken(r, "header %s: %w", e.names[i], err)
		}
		values[i] = strings.Join(list, ",")
		return carriable(e.names[i], values[i])
	})
	return values, err
}

// HeaderError is a header that an answer must not have. Its text leaves out the name: that may
// be something that a token says.
type HeaderError struct {
	Name string
	text string
}

func (e *HeaderError) Error() string { return e.text }

// carriable refuses what is not printable ASCII: nothing is cut, nothing escaped.
func carriable(name, value string) error {
	for i := range len(value) {
		if value[i] < 0x20 || value[i] > 0x7e {
			return refusedValue(name, "it holds what is not printable ASCII")
		}
	}
	return nil
}

func refusedValue(name, why string) error {
	return &iam.Error{Kind: iam.Forbidden, Code: "header_value", Detail: "a claim cannot be carried by a header",
		Cause: fmt.Errorf("%s: %s", name, why)}
}
