// Package token verifies access tokens: JWTs by signature (RFC 9068, RFC 8725)
// and, where an issuer wants it, opaque ones by introspection (RFC 7662).
//
// It owns the trusted issuers' keys, every check on a token, the cache of
// verified tokens by SHA-256, and what a token looks like where none should be
// (Hide). It does not know users, tenants or policies, nor where keys are stored
// for a start without the issuer (a KeyStore).
//
// The keys of one issuer:
//
//	none ──fetched or stored──▶ valid ──every 5 min, or for an unknown kid──▶ valid
//	                              │ the issuer is unavailable, or its response is no JWKS
//	                              ▼
//	                            valid, aging ──JWKS_MAX_AGE──▶ none
//
// A JWKS without a usable key is valid too: it rejects every token.
//
// An invalid token is iam.Unauthenticated. A token that cannot be verified now is
// iam.Unavailable. The two are never confused: an unavailable issuer makes no token
// invalid.
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
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/open-policy-agent/opa/v1/ast"

	"iam-service/internal/bounded"
	"iam-service/internal/token/projection"
)

// Limits and times that no setting changes.
const (
	maxTokenBytes = 8 << 10
	skew          = 5 * time.Second // how far "nbf" and "iat" may lie ahead of our clock; "exp" gets none
	lookupsBurst  = 20              // failed look-ups that one token may cause at once,
	lookupsPerSec = 2               // and per second after that
	weightFactor  = 7               // bytes in memory for each of a token: its claims as terms, and what the policy sees of them
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
	Metadata          Metadata      // the document that names its keys
	JWKSURI           string        // of its keys; empty: its metadata document names it

	// Introspection of tokens that are no JWTs; off where neither an URL nor a client is given.
	IntrospectionURL          string // empty: the one of the discovery document
	IntrospectionClientID     string // empty: without authentication
	IntrospectionClientSecret string
}

// Metadata is the kind of document in which an issuer names its keys.
type Metadata string

// The kinds.
const (
	ProviderMetadata    Metadata = ""    // OpenID Connect Discovery 1.0, or RFC 8414
	TransmitterMetadata Metadata = "ssf" // Shared Signals Framework 1.0, section 7
)

// Config of a Verifier.
type Config struct {
	Issuers          []Issuer      // the first one introspects where nothing names another
	Client           *http.Client  // nil: one with time-outs that follows no redirects
	Refresh          time.Duration // of keys; 0: 5 min
	CoolDown         time.Duration // one fetch for unknown keys in this time, after the first few; 0: 10 s
	MaxAge           time.Duration // keys older than this are not used; 0: 24 h
	IntrospectionTTL time.Duration // how long an active token is cached; 0: 10 s
	Introspections   int           // new opaque tokens that are introspected in a second; 0: 100
	Wait             time.Duration // longest wait of one request for keys or introspection; 0: 60 ms
	Entries          int           // verified tokens cached; 0: 10,000
	Bytes            int64         // most bytes they may weigh, estimated; 0: 32 MiB
	KeyStore         KeyStore      // may be nil
	Log              *slog.Logger
	OnError          func(operation, reason string) // called for each failure of an issuer; may be nil
	OnRejected       func(Reason)                   // called for each Rejected token; may be nil
	now              func() time.Time
}

// KeyStore stores the last discovery document and keys of an issuer.
type KeyStore interface {
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
	signedBy  *signingKey            // nil: introspected
	foundIn   atomic.Pointer[keySet] // where signedBy was found last
	until     time.Time              // of an introspected one: when to introspect it again
	lookups   lookupBudget
	projected atomic.Pointer[projection.Token] // for the revision that evaluated it last
	weight    int64
}

// Projection returns the cached projection of the claims; nil if there is none.
func (t *Token) Projection() *projection.Token { return t.projected.Load() }

// CacheProjection caches the projection for the revision that evaluated the token last.
func (t *Token) CacheProjection(p *projection.Token) { t.projected.Store(p) }

// Weight estimates the bytes of the token in memory.
func (t *Token) Weight() int64 { return t.weight }

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

// LookupBudget is the token's account of look-ups in vain.
func (t *Token) LookupBudget() interface {
	Take() bool
	Return()
} {
	return &t.lookups
}

// lookups is a bucket of missesBurst look-ups that fills by missesPerSec.
type lookupBudget struct{ bucket }

// Take takes one look-up, if one is left.
func (m *lookupBudget) Take() bool { return m.take(time.Now(), lookupsBurst, lookupsPerSec) }

// bucket is a token bucket that, unlike a rate.Limiter, takes back what was not used.
type bucket struct {
	mu   sync.Mutex
	used float64
	at   time.Time
}

// beginFetch takes one of burst, which come back by perSecond, if one is left.
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

// Return gives back what was taken and does not count.
func (b *bucket) Return() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used = max(0, b.used-1)
}

// Verifier verifies tokens. It is safe for concurrent use.
type Verifier struct {
	cfg      Config
	issuers  map[string]*issuer
	first    *issuer
	cache    *bounded.Cache[[sha256.Size]byte, *Token]
	parser   *jwt.Parser
	audience string // see For; empty: the issuers' own audiences
	opaque   *introspections

	rejections *rejections

	closed context.Context // fetches end with it
	end    context.CancelFunc
}

// New returns a verifier that holds no keys yet: see Start and KeepFresh.
func New(cfg Config) (*Verifier, error) {
	if len(cfg.Issuers) == 0 {
		return nil, errors.New("no trusted issuer")
	}
	setDefault(&cfg.Refresh, 5*time.Minute)
	setDefault(&cfg.CoolDown, 10*time.Second)
	setDefault(&cfg.MaxAge, 24*time.Hour)
	setDefault(&cfg.IntrospectionTTL, 10*time.Second)
	setDefault(&cfg.Wait, 60*time.Millisecond)
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
	v.closed, v.end = context.WithCancel(context.Background())
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
	v.parser = jwt.NewParser(jwt.WithValidMethods(algorithms), jwt.WithoutClaimsValidation(), jwt.WithStrictDecoding())
	return v, nil
}

// ForAudience returns a verifier of tokens for another audience, by the same issuers' keys.
// It rejects a token that is for one of the issuers' own audiences as well: a
// backend that receives one of those must not be able to use it here. AuthorizedParties are not asked
// about: they are for the issuers' own audiences. KeepFresh of v serves both.
func (v *Verifier) ForAudience(audience string) *Verifier {
	other := *v
	other.audience = audience
	other.opaque = newIntrospections(v.cfg.Introspections)
	other.cache = bounded.New[[sha256.Size]byte](1000, 8<<20, func(t *Token) int64 { return t.weight })
	return &other
}

func setDefault(d *time.Duration, v time.Duration) {
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

func basicAuth(id, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(formEncode(id)+":"+formEncode(secret)))
}
