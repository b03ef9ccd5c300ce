// Package token verifies access tokens: JWTs by signature (RFC 9068, RFC 8725)
// and, where an issuer wants it, opaque ones by introspection (RFC 7662).
//
// It owns the trusted issuers' keys, every check on a token, the cache of
// verified tokens by SHA-256, and what a token looks like where none should be
// (Hide). It does not know users, tenants or policies, nor where keys are kept
// for a start without the issuer (a Keeper).
//
// The keys of one issuer:
//
//	none ──fetched or stored──▶ held ──every 5 min, or for an unknown kid──▶ held
//	                              │ the issuer is away, or answers with what is no JWKS
//	                              ▼
//	                            held, older and older ──JWKS_MAX_AGE──▶ none
//
// A JWKS without a usable key is held too: it rejects every token.
//
// A token that is wrong is iam.Unauthenticated. A token that cannot be judged
// now is iam.Unavailable. The two are never confused: an issuer that is away
// makes no token invalid.
package token

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/open-policy-agent/opa/v1/ast"

	"iam-service/internal/bounded"
	"iam-service/internal/iam"
)

// Limits and times that no setting changes.
const (
	maxTokenBytes = 8 << 10
	skew          = 5 * time.Second // how far "nbf" and "iat" may lie ahead of our clock; "exp" gets none
	missesBurst   = 20              // look-ups in vain that one token may cause at once,
	missesPerSec  = 2               // and for ever
	weightOfText  = 7               // bytes in memory for each of a token: its claims as terms, and what the policy sees of them
)

// algorithms that a token may be signed with.
var algorithms = []string{"RS256", "ES256", "EdDSA"}

// Issuer is one trusted issuer.
type Issuer struct {
	ID                string        // what X-Upstream-IdP-ID calls it; may be empty
	URL               string        // "iss", byte by byte
	Audiences         []string      // one of them must be in "aud"
	Types             []string      // accepted "typ" of the header, lower case, without "application/"
	AuthorizedParties []string      // if any: "azp" or "client_id" must be one of them
	Programs          []ProgramMark // how it marks programs' tokens, besides RFC 9068

	// Introspection of tokens that are no JWTs; off where neither an URL nor a client is given.
	IntrospectionURL          string // empty: the one of the discovery document
	IntrospectionClientID     string // empty: without authentication
	IntrospectionClientSecret string
}

// Config of a Verifier.
type Config struct {
	Issuers          []Issuer      // the first one introspects where nothing names another
	Client           *http.Client  // nil: one with time-outs that follows no redirects
	Refresh          time.Duration // of keys; 0: 5 min
	CoolDown         time.Duration // one fetch for unknown keys in this time, after the first few; 0: 10 s
	MaxAge           time.Duration // keys older than this are not used; 0: 24 h
	IntrospectionTTL time.Duration // how long a positive answer is used; 0: 10 s
	Introspections   int           // opaque tokens not seen before that are asked about in a second; 0: 100
	Wait             time.Duration // longest wait of one request for keys or introspection; 0: 60 ms
	Entries          int           // verified tokens kept; 0: 10,000
	Bytes            int64         // most bytes they may weigh, estimated; 0: 32 MiB
	Keeper           Keeper        // may be nil
	Log              *slog.Logger
	OnError          func(operation, reason string) // told of each failure of an issuer; may be nil
	OnRejected       func(Reason)                   // told of each token that is Rejected; may be nil
	now              func() time.Time
}

// Keeper keeps the last discovery document and keys of an issuer.
type Keeper interface {
	SaveKeys(ctx context.Context, issuer string, discovery, jwks []byte, at time.Time) error
	LoadKeys(ctx context.Context, issuer string) (discovery, jwks []byte, at time.Time, err error)
}

// Token is a verified access token. It is immutable, but for its account of
// look-ups in vain.
type Token struct {
	Issuer   string
	Subject  string    // empty: a program's
	ClientID string    // "client_id", else "azp"; may be empty
	IssuedAt time.Time // "iat", by the issuer's clock: see RevokedBy; zero: not known
	Expires  time.Time
	Claims   ast.Value // all of them, for Rego

	notBefore time.Time
	issuerID  string
	signedBy  *signingKey // nil: introspected
	until     time.Time   // of an introspected one: when to ask again
	misses    misses
	memo      atomic.Value
	weight    int64
}

// Memo is room for whoever uses the token to keep what was worked out from its
// claims. What is stored must always be of one type.
func (t *Token) Memo() *atomic.Value { return &t.memo }

// Program reports whether a program speaks for itself: its subject is the
// client, or it has none (RFC 9068, section 2.2). Tokens of programs that their issuer marks in
// another way are made such: see Normalize.
func (t *Token) Program() bool { return t.Subject == "" || t.Subject == t.ClientID }

// Scopes are those of the claim scope, or of scp where the issuer calls it so: a list of words
// (RFC 6749, section 3.3), or an array.
func (t *Token) Scopes() []string {
	claims, ok := t.Claims.(ast.Object)
	if !ok {
		return nil
	}
	scope := claims.Get(ast.StringTerm("scope"))
	if scope == nil {
		return nil
	}
	var list []string
	switch v := scope.Value.(type) {
	case ast.String:
		list = strings.Fields(string(v))
	case *ast.Array:
		v.Foreach(func(t *ast.Term) {
			if s, ok := t.Value.(ast.String); ok {
				list = append(list, string(s))
			}
		})
	}
	return list
}

// Misses is the token's account of look-ups in vain.
func (t *Token) Misses() interface {
	Take() bool
	GiveBack()
} {
	return &t.misses
}

// misses is a bucket of missesBurst look-ups that fills by missesPerSec.
type misses struct{ bucket }

// Take takes one look-up, if one is left.
func (m *misses) Take() bool { return m.take(time.Now(), missesBurst, missesPerSec) }

// bucket is a token bucket that, unlike a rate.Limiter, takes back what was not used.
type bucket struct {
	mu   sync.Mutex
	used float64
	at   time.Time
}

// take takes one of burst, which come back by perSecond, if one is left.
func (b *bucket) take(now time.Time, burst, perSecond float64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used = max(0, b.used-max(0, now.Sub(b.at).Seconds())*perSecond)
	if now.After(b.at) { // concurrent callers come in any order
		b.at = now
	}
	if b.used+1 > burst {
		return false
	}
	b.used++
	return true
}

// GiveBack gives back what was taken and does not count.
func (b *bucket) GiveBack() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used = max(0, b.used-1)
}

// Verifier verifies tokens. It is safe for concurrent use.
type Verifier struct {
	cfg     Config
	issuers map[string]*issuer
	first   *issuer
	cache   *bounded.Cache[[sha256.Size]byte, *Token]
	parser  *jwt.Parser
	only    string // see For; empty: the issuers' own audiences
	opaque  *introspections

	rejections *rejections
}

// New returns a verifier that holds no keys yet: see Start and KeepFresh.
func New(cfg Config) (*Verifier, error) {
	if len(cfg.Issuers) == 0 {
		return nil, errors.New("no trusted issuer")
	}
	def(&cfg.Refresh, 5*time.Minute)
	def(&cfg.CoolDown, 10*time.Second)
	def(&cfg.MaxAge, 24*time.Hour)
	def(&cfg.IntrospectionTTL, 10*time.Second)
	def(&cfg.Wait, 60*time.Millisecond)
	if cfg.Entries <= 0 {
		cfg.Entries = 10_000
	}
	if cfg.Bytes <= 0 {
		cfg.Bytes = 32 << 20
	}
	if cfg.Introspections <= 0 {
		cfg.Introspections = 100
	}
	if cfg.Client == nil {
		cfg.Client = NewClient()
	}
	if cfg.OnError == nil {
		cfg.OnError = func(string, string) {}
	}
	if cfg.OnRejected == nil {
		cfg.OnRejected = func(Reason) {}
	}
	if cfg.now == nil {
		cfg.now = time.Now
	}
	v := &Verifier{cfg: cfg, issuers: map[string]*issuer{}, rejections: &rejections{}}
	for _, i := range cfg.Issuers {
		if i.URL == "" || len(i.Audiences) == 0 {
			return nil, fmt.Errorf("issuer %q: needs a URL and at least one audience", i.URL)
		}
		if len(i.Types) == 0 {
			i.Types = []string{"at+jwt"}
		}
		if v.issuers[i.URL] != nil {
			return nil, fmt.Errorf("issuer %q is listed twice", i.URL)
		}
		is := newIssuer(i, v)
		v.issuers[i.URL] = is
		if v.first == nil {
			v.first = is
		}
	}
	v.cache = bounded.New[[sha256.Size]byte](cfg.Entries, cfg.Bytes, func(t *Token) int64 { return t.weight })
	v.opaque = newIntrospections(cfg.Introspections)
	v.parser = jwt.NewParser(jwt.WithValidMethods(algorithms), jwt.WithJSONNumber(), jwt.WithoutClaimsValidation(), jwt.WithStrictDecoding())
	return v, nil
}

// For returns a verifier of tokens for another audience, by the same issuers' keys.
// It refuses a token that is for one of the issuers' own audiences as well: whoever
// gets those must not be able to use one here. AuthorizedParties are not asked
// about: they are for the issuers' own audiences. KeepFresh of v serves both.
func (v *Verifier) For(audience string) *Verifier {
	other := *v
	other.only = audience
	other.opaque = newIntrospections(v.cfg.Introspections)
	other.cache = bounded.New[[sha256.Size]byte](1000, 8<<20, func(t *Token) int64 { return t.weight })
	return &other
}

func def(d *time.Duration, v time.Duration) {
	if *d <= 0 {
		*d = v
	}
}

// NewClient is an HTTP client for issuers: it follows no redirects, because what
// a redirect leads to was never trusted.
func NewClient() *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // it is one
	t.MaxIdleConnsPerHost = 4
	t.ResponseHeaderTimeout = 5 * time.Second
	return &http.Client{
		Transport: t, Timeout: 10 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Stats returns the figures of the cache.
func (v *Verifier) Stats() bounded.Stats { return v.cache.Stats() }

func unavailable(code string, cause error) error {
	return &iam.Error{Kind: iam.Unavailable, Code: code, Detail: "the token cannot be checked now", Cause: cause}
}

// Verify checks raw, a token without its "Bearer ". Where idp is not empty, the
// issuer must be the one of that id. It waits for an issuer until deadline at
// most.
func (v *Verifier) Verify(ctx context.Context, raw, idp string, deadline time.Time) (*Token, error) {
	if len(raw) > maxTokenBytes {
		return nil, reject(Malformed, "", "%d bytes are more than %d", len(raw), maxTokenBytes)
	}
	now := v.cfg.now()
	var room [1024]byte // most tokens fit: no garbage
	sum := sha256.Sum256(append(room[:0], raw...))
	known, ok := v.cache.Get(sum)
	if ok && v.stillGood(known, now) {
		v.cache.Hit()
		return known, inTime(known, idp, now)
	}
	v.cache.Miss()
	if left := now.Add(v.cfg.Wait); left.Before(deadline) {
		deadline = left
	}
	var t *Token
	var err error
	switch strings.Count(raw, ".") {
	case 2:
		t, err = v.verifyJWT(ctx, raw, now, deadline)
	case 4:
		return nil, reject(Malformed, "", "it is encrypted (JWE)")
	default:
		t, err = v.introspect(ctx, raw, idp, sum, ok, now, deadline)
	}
	if err != nil {
		return nil, err
	}
	if err := inTime(t, idp, now); err != nil {
		return nil, err
	}
	v.cache.Add(sum, t)
	return t, nil
}

func weightOf(raw string) int64 { return int64(len(raw))*weightOfText + 500 }

// stillGood reports whether what was verified once needs no new verification:
// the key is still among its issuer's, or the introspection is young.
func (v *Verifier) stillGood(t *Token, now time.Time) bool {
	if t.signedBy == nil {
		return now.Before(t.until)
	}
	return v.issuers[t.Issuer].holds(t.signedBy, now)
}

// inTime is asked on every request, also for cached tokens.
func inTime(t *Token, idp string, now time.Time) error {
	switch {
	case !now.Before(t.Expires):
		return reject(Expired, t.Issuer, "it expired at %s", t.Expires.UTC().Format(time.RFC3339))
	case now.Add(skew).Before(t.notBefore):
		return reject(Early, t.Issuer, "it is not valid before %s", t.notBefore.UTC().Format(time.RFC3339))
	case idp != "" && idp != t.issuerID:
		return reject(Untrusted, t.Issuer, "its issuer is not %q, which the gateway named", idp)
	}
	return nil
}

// verifyJWT checks form, key, signature and claims, in this order.
func (v *Verifier) verifyJWT(ctx context.Context, raw string, now, deadline time.Time) (*Token, error) {
	var by *signingKey
	var from *issuer
	var stop error // what the key function found; the parser would hide its kind
	claims := jwt.MapClaims{}
	_, err := v.parser.ParseWithClaims(raw, claims, func(t *jwt.Token) (any, error) {
		from, by, stop = v.keyFor(ctx, t, claims, now, deadline)
		if stop != nil {
			return nil, stop
		}
		return by.public, nil
	})
	if stop != nil {
		return nil, stop
	}
	switch {
	case errors.Is(err, jwt.ErrTokenMalformed):
		return nil, reject(Malformed, "", "%w", err)
	case err != nil && from == nil:
		return nil, reject(NoKey, "", "%w", err)
	case err != nil:
		return nil, from.reject(Signature, "%w", err)
	case !wholeJSON(raw):
		return nil, from.reject(Malformed, "something follows its header or its claims")
	}
	t, err := from.token(claims, now, v.only)
	if err != nil {
		return nil, err
	}
	t.signedBy, t.weight = by, weightOf(raw)
	return t, nil
}

// keyFor chooses the key by the header and the issuer, neither trusted yet.
func (v *Verifier) keyFor(ctx context.Context, t *jwt.Token, claims jwt.MapClaims, now, deadline time.Time) (*issuer, *signingKey, error) {
	iss, _ := claims["iss"].(string) // another type is no trusted issuer
	is := v.issuers[iss]
	if is == nil {
		return nil, nil, reject(Untrusted, "", "its issuer is not trusted")
	}
	typ, _ := t.Header["typ"].(string) // absent is not accepted
	if !slices.Contains(is.Types, strings.TrimPrefix(strings.ToLower(typ), "application/")) {
		return nil, nil, is.reject(Type, "its header typ is none of %v", is.Types)
	}
	for _, h := range []string{"crit", "zip", "b64"} { // we understand no extension (RFC 7515, section 4.1.11)
		if _, there := t.Header[h]; there {
			return nil, nil, is.reject(Type, "header %q is not accepted", h)
		}
	}
	kid, ok := t.Header["kid"].(string)
	if !ok || kid == "" || len(kid) > 255 {
		return nil, nil, is.reject(NoKey, "no usable kid")
	}
	k, err := is.key(ctx, kid, now, deadline)
	if err != nil {
		return nil, nil, err
	}
	if k.alg != t.Method.Alg() {
		return nil, nil, is.reject(NoKey, "alg %s does not fit the key, which is for %s", t.Method.Alg(), k.alg)
	}
	return is, k, nil
}

// token checks the claims, of a JWT or an introspection. It must be for the audience
// "only", if that is given.
func (is *issuer) token(claims map[string]any, now time.Time, only string) (*Token, error) {
	t := &Token{Issuer: is.URL, issuerID: is.ID}
	if iss, _ := claims["iss"].(string); iss != is.URL {
		return nil, is.reject(Untrusted, "its issuer is not %q", is.URL)
	}
	if !iam.ValidNumbers(claims) {
		return nil, is.reject(Malformed, "one of its numbers is out of bounds")
	}
	ours := audienceFits(claims["aud"], is.Audiences)
	switch {
	case only == "" && !ours:
		return nil, is.reject(Audience, "its audience is none of %v", is.Audiences)
	case only != "" && !audienceFits(claims["aud"], []string{only}):
		return nil, is.reject(Audience, "its audience is not %q", only)
	case only != "" && ours:
		return nil, is.reject(Audience, "it is for one of %v too", is.Audiences)
	}
	var err error
	if t.Expires, err = is.date(claims, "exp"); err != nil {
		return nil, err
	}
	if t.Expires.IsZero() {
		return nil, is.reject(Malformed, "it has no exp")
	}
	if t.notBefore, err = is.date(claims, "nbf"); err != nil {
		return nil, err
	}
	if t.IssuedAt, err = is.date(claims, "iat"); err != nil {
		return nil, err
	}
	if t.IssuedAt.After(now.Add(skew)) {
		return nil, is.reject(Early, "it was issued in the future")
	}
	subject, err := is.text(claims, "sub", iam.ValidSubject)
	if err != nil {
		return nil, err
	}
	clientID, err := is.text(claims, "client_id", iam.ValidClientID)
	if err != nil {
		return nil, err
	}
	azp, err := is.text(claims, "azp", iam.ValidClientID)
	switch {
	case err != nil:
		return nil, err
	case azp != "" && clientID != "" && azp != clientID:
		return nil, is.reject(Malformed, "azp and client_id differ")
	case subject == "" && clientID == "" && azp == "":
		return nil, is.reject(Malformed, "it names neither a subject nor a client")
	case !oneScope(claims):
		return nil, is.reject(Malformed, "scp holds no scopes, or others than scope")
	}
	is.Normalize(claims)
	t.Subject, _ = claims["sub"].(string) // absent, or a string, as looked at above
	t.ClientID, _ = claims["client_id"].(string)
	if t.Subject == "" && t.ClientID == "" {
		return nil, is.reject(Malformed, "it is a program's and names no client")
	}
	if only == "" && len(is.AuthorizedParties) > 0 && !slices.Contains(is.AuthorizedParties, t.ClientID) {
		return nil, is.reject(Party, "azp is not an authorized party")
	}
	if _, bound := claims["cnf"]; bound {
		return nil, is.reject(Bound, "it is bound to a key (cnf), and no proof can be checked here")
	}
	if err := is.isAccessToken(claims); err != nil {
		return nil, err
	}
	if t.Claims, err = ast.InterfaceToValue(claims); err != nil {
		return nil, is.reject(Malformed, "its claims: %w", err)
	}
	return t, nil
}

// Judge says what Verify would find wrong with the claims of a gateway's token of this issuer;
// nobody asks about its signature. Where no audiences are known, any will do.
func (i Issuer) Judge(claims map[string]any, now time.Time) error {
	claims = maps.Clone(claims)
	if len(i.Audiences) == 0 {
		claims["aud"], i.Audiences = "any", []string{"any"}
	}
	t, err := (&issuer{Issuer: i}).token(claims, now, "")
	if err != nil {
		return err
	}
	return inTime(t, "", now)
}

// isAccessToken refuses what issuers sign with the same keys for other purposes:
// ID tokens (OpenID Connect Core, sections 2 and 3.1.3.6), refresh and logout
// tokens, by the marks of the specification and of Keycloak and Hydra.
func (is *issuer) isAccessToken(claims map[string]any) error {
	for _, mark := range []string{"nonce", "at_hash", "c_hash", "s_hash", "events"} {
		if _, there := claims[mark]; there {
			return is.reject(Type, "it has the claim %q of another kind of token", mark)
		}
	}
	if typ, there := claims["typ"]; there && typ != "Bearer" {
		return is.reject(Type, "its claim typ is not Bearer")
	}
	if use, there := claims["token_use"]; there && use != "access_token" && use != "access" {
		return is.reject(Type, "its token_use is neither access_token nor access")
	}
	return nil
}

func audienceFits(aud any, wanted []string) bool {
	switch aud := aud.(type) {
	case string:
		return slices.Contains(wanted, aud)
	case []any:
		return slices.ContainsFunc(aud, func(a any) bool {
			s, ok := a.(string)
			return ok && slices.Contains(wanted, s)
		})
	}
	return false
}

// date reads a NumericDate (RFC 7519, section 2); zero where there is none.
func (is *issuer) date(claims map[string]any, name string) (time.Time, error) {
	x, there := claims[name]
	if !there {
		return time.Time{}, nil
	}
	n, ok := x.(json.Number)
	if !ok {
		return time.Time{}, is.reject(Malformed, "%s is no number", name)
	}
	f, err := n.Float64()
	if err != nil || f < 0 || f > 1<<40 {
		return time.Time{}, is.reject(Malformed, "%s is no date", name)
	}
	return time.UnixMilli(int64(f * 1000)), nil
}

// text reads an optional string of a valid shape.
func (is *issuer) text(claims map[string]any, name string, valid func(string) bool) (string, error) {
	x, there := claims[name]
	if !there {
		return "", nil
	}
	s, ok := x.(string)
	if !ok || !valid(s) {
		return "", is.reject(Malformed, "%s has not the shape it must have", name)
	}
	return s, nil
}

// strictJSON decodes the one value that b holds and keeps numbers as they are written.
func strictJSON(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON")
	}
	return nil
}

// wholeJSON reports whether header and claims of a JWT that was parsed are one JSON value each:
// the parser stops at the end of the first, and what another program reads of the rest is unknown.
func wholeJSON(raw string) bool {
	for _, part := range strings.Split(raw, ".")[:2] {
		b, err := base64.RawURLEncoding.DecodeString(part)
		if err != nil || !json.Valid(b) {
			return false
		}
	}
	return true
}

func basicAuth(id, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(formEncode(id)+":"+formEncode(secret)))
}
