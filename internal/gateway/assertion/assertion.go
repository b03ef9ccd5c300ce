// Package assertion signs the identity of an allowed request: a JWT that a backend can verify, so that it
// need not trust the network between it and the gateway.
//
// It owns the form of an assertion, which follows draft-ietf-oauth-transaction-tokens (docs/identity.md names
// the differences), the keys with their rotation and encryption, the published JWKS, and the cache of what
// was signed. It does not know SQL (a Store), nor how a decision is made or which gateway sends it on.
//
// A key, by the database's clock:
//
//	            lead (8 min)                      the successor signs              published until
//	create ─▶ published ─────────────▶ signing ─────────────────────▶ retired ───────────────────▶ deleted
//	               └───────────────────────┴──▶ revoked                  └─ 1 h: the private key is erased
//
// Its first assertion is verified by caches that read the JWKS before. Its last one, of a replica that does
// not know the successor since its database is away, expires before the public key goes.
//
// What a failure does: keys that cannot be read or decrypted at a start are fatal. Later, a replica signs with the
// last good key until that ends, a day after its successor began, and then fails closed: 503
// assertion_unavailable. A database that was restored from an older copy is brought back to what a running
// replica has seen.
package assertion

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"iam-service/internal/bounded"
	"iam-service/internal/enrich"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/token"
)

// Header carries the assertion.
const Header = policy.AssertionHeader

// typ is the media type of transaction tokens.
const typ = "txntoken+jwt"

// authn is how the caller was authenticated: by a bearer token (RFC 6750).
const authn = "urn:ietf:rfc:6750"

// Config of a Signer.
type Config struct {
	Keys       *Keys
	Issuer     string   // "iss"
	Audience   string   // "aud" of every assertion; empty: the host of the request
	Headers    []string // canonical names, parallel to the values of a response; Header is among them
	EmptyValue string   // of a header without a value, as in enrich.Config
	HeaderMax  int      // bytes of all headers of a response together
	Entries    int      // of the cache; 0: 10,000
	Bytes      int64    // of its entries at most, estimated; 0: 16 MiB
}

// Signer signs identities. It is safe for concurrent use.
type Signer struct {
	cfg     Config
	now     func() time.Time
	cache   *bounded.Cache[cacheKey, *signed]
	flights singleflight.Group // concurrent requests share one signature

	own, userID, roles, scopes, kind, revision int // indexes of headers, or -1

	signatures, failures atomic.Int64
}

// cacheKey is all that an assertion depends on. A decision can be that of many tokens and many hosts, since
// its own key holds only what the policy reads; an assertion names the subject and the audience. The token
// is identified by its address, so it cannot be another one's while the entry exists.
type cacheKey struct {
	decision, audience, gateway string
	token                       *token.Token
}

// signed is an assertion among the values of its response. It is immutable.
type signed struct {
	keys   *keySet // it was signed by; other keys: sign again, since one may be revoked
	values []string
	until  time.Time // another one is signed from then on
	weight int64
}

// NewSigner returns a signer.
func NewSigner(cfg Config) (*Signer, error) {
	if cfg.Entries <= 0 {
		cfg.Entries = 10_000
	}
	if cfg.Bytes <= 0 {
		cfg.Bytes = 16 << 20
	}
	index := func(name string) int { return slices.Index(cfg.Headers, http.CanonicalHeaderKey(name)) }
	s := &Signer{
		cfg:      cfg,
		now:      time.Now,
		cache:    bounded.New[cacheKey](cfg.Entries, cfg.Bytes, func(s *signed) int64 { return s.weight }),
		own:      index(Header),
		userID:   index("X-User-ID"),
		roles:    index("X-User-Roles"),
		scopes:   index("X-Scopes"),
		kind:     index("X-Principal-Type"),
		revision: index("X-Policy-Revision"),
	}
	if s.own < 0 {
		return nil, fmt.Errorf("%s is not among the headers of a response", Header)
	}
	return s, nil
}

// Assert returns the values of an allowed response with its assertion among them. An anonymous response has none.
// It fails with Forbidden, where the audience is not known or the headers are too large, and with Unavailable
// where no key can sign.
func (s *Signer) Assert(a enrich.Allowed) ([]string, error) {
	if a.Token == nil {
		return a.Values, nil
	}
	key := cacheKey{decision: a.DecisionID, audience: s.cfg.Audience, gateway: a.Gateway, token: a.Token}
	if key.audience == "" {
		if key.audience = a.Host; key.audience == "" {
			return nil, &iam.Error{Kind: iam.Forbidden, Code: policy.CodeFactsMissing,
				Detail: "the audience of the assertion is the request's host (ASSERTION_AUDIENCE is not set), and no trusted source reports it"}
		}
	}
	now, keys := s.now(), s.cfg.Keys.current.Load()
	if hit, ok := s.cache.Get(key); ok && hit.keys == keys && now.Before(hit.until) {
		s.cache.Hit()
		return hit.values, nil
	}
	s.cache.Miss()
	flight := fmt.Sprintf("%s\x00%s\x00%s\x00%p\x00%p", key.decision, key.audience, key.gateway, key.token, keys)
	v, err, _ := s.flights.Do(flight, func() (any, error) {
		if hit, ok := s.cache.Get(key); ok && hit.keys == keys && now.Before(hit.until) {
			return hit, nil // of a flight that has just ended
		}
		fresh, err := s.sign(a, key.audience, keys, now)
		if err != nil {
			s.failures.Add(1)
			return nil, err
		}
		s.signatures.Add(1)
		s.cache.Add(key, fresh)
		return fresh, nil
	})
	if err != nil {
		return nil, err
	}
	return v.(*signed).values, nil //nolint:forcetypeassert // the flight returns nothing else
}

// claims of an assertion.
type claims struct {
	Issuer      string         `json:"iss"`
	Audience    string         `json:"aud"`
	Subject     string         `json:"sub"`
	IssuedAt    int64          `json:"iat"`
	Expires     int64          `json:"exp"`
	Transaction string         `json:"txn"`
	Scope       string         `json:"scope"`
	Workload    string         `json:"req_wl"`
	Context     txnContext     `json:"tctx"`
	Request     requestContext `json:"rctx"`
}

// txnContext is tctx: what was decided. A list is a list, also where it is empty.
type txnContext struct {
	PrincipalType  string   `json:"principal_type"`
	Issuer         string   `json:"issuer"`
	Subject        string   `json:"subject"`
	UserID         string   `json:"user_id"`
	ClientID       string   `json:"client_id"`
	Tenant         string   `json:"tenant"`
	Roles          []string `json:"roles"`
	DecisionID     string   `json:"decision_id"`
	PolicyRevision string   `json:"policy_revision"`
}

// requestContext is rctx. Nothing in it differs between the requests of one assertion.
type requestContext struct {
	Authentication string `json:"authn"`
}

func (s *Signer) sign(a enrich.Allowed, audience string, keys *keySet, now time.Time) (*signed, error) {
	key := keys.signer(now)
	if key == nil {
		return nil, unavailable(nil)
	}
	expires, capped := now.Add(Lifetime), false
	limit := func(end time.Time) {
		if end.Before(expires) {
			expires, capped = end, true
		}
	}
	limit(a.Token.Expires)
	if a.Remaining > 0 {
		limit(now.Add(a.Remaining))
	}
	c := s.claimsOf(a, audience)
	c.IssuedAt, c.Expires = now.Unix(), expires.Unix()
	payload, err := json.Marshal(c)
	if err != nil {
		return nil, unavailable(err)
	}
	raw := key.header + "." + base64.RawURLEncoding.EncodeToString(payload)
	signature, err := key.method.Sign(raw, key.private)
	if err != nil {
		return nil, unavailable(err)
	}
	raw += "." + base64.RawURLEncoding.EncodeToString(signature)
	if size := a.HeaderBytes + len(raw); size > s.cfg.HeaderMax {
		return nil, &iam.Error{Kind: iam.Forbidden, Code: "headers_too_large", Detail: "the claims are too large for headers",
			Cause: fmt.Errorf("together they take %d bytes of %d (HEADER_BUDGET), of them %s %d", size, s.cfg.HeaderMax, Header, len(raw))}
	}
	fresh := &signed{keys: keys, values: slices.Clone(a.Values), until: expires, weight: int64(700+len(raw)+16*len(a.Values)) + a.Token.Weight()}
	fresh.values[s.own] = raw
	if !capped { // else a later one would not last longer
		fresh.until = now.Add(Lifetime / 2)
	}
	return fresh, nil
}

func unavailable(cause error) error {
	return &iam.Error{Kind: iam.Unavailable, Code: "assertion_unavailable", Detail: "no key can sign identities now", Cause: cause}
}

func (s *Signer) claimsOf(a enrich.Allowed, audience string) claims {
	value := func(i int) string {
		if i < 0 || a.Values[i] == s.cfg.EmptyValue {
			return ""
		}
		return a.Values[i]
	}
	t := a.Token
	subject, kind := t.Subject, "user"
	if t.Program() {
		kind = "client"
		if subject == "" {
			subject = t.ClientID
		}
	}
	if v := value(s.kind); v != "" {
		kind = v
	}
	scope := strings.Join(t.Scopes(), " ")
	if t.Program() && s.scopes >= 0 { // those that the decision grants, which can be fewer
		scope = strings.ReplaceAll(value(s.scopes), ",", " ")
	}
	roles := []string{}
	if v := value(s.roles); v != "" {
		roles = strings.Split(v, ",")
	}
	return claims{
		Issuer:   s.cfg.Issuer,
		Audience: audience,
		// Unique among all issuers: an issuer has no fragment (RFC 8414, section 2).
		Subject:     t.Issuer + "#" + subject,
		Transaction: a.DecisionID,
		Scope:       scope,
		Workload:    a.Gateway,
		Context: txnContext{
			PrincipalType:  kind,
			Issuer:         t.Issuer,
			Subject:        subject,
			UserID:         value(s.userID),
			ClientID:       t.ClientID,
			Tenant:         a.Tenant,
			Roles:          roles,
			DecisionID:     a.DecisionID,
			PolicyRevision: value(s.revision),
		},
		Request: requestContext{Authentication: authn},
	}
}
