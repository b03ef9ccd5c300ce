package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Limits of an assertion.
const (
	maxBytes    = 16 << 10
	maxLifetime = 5 * time.Minute // iam-service issues none that is valid for more than one
	typ         = "txntoken+jwt"  // draft-ietf-oauth-transaction-tokens, section "JWT Header"
)

// Config of a Verifier.
type Config struct {
	JWKS      string   // URL of iam-service's /.well-known/jwks.json
	Issuer    string   // ASSERTION_ISSUER of iam-service, byte by byte
	Audiences []string // accepted: ASSERTION_AUDIENCE of iam-service, or the hosts that this backend serves

	Algorithms []string      // accepted signature algorithms; nil: ES256 and EdDSA. Others are an error
	Skew       time.Duration // that clocks may differ; 0: 30 s; negative: none
	MaxStale   time.Duration // for which keys are used while the JWKS is unreachable; 0: 1 h
	AllowHTTP  bool          // the JWKS may be fetched by plain http beyond loopback
	Client     *http.Client  // nil: one with time-outs. Redirects are never followed

	// Anonymous lets Middleware pass a request whose header is present and empty, without an identity. EmptyValue
	// is GATEWAY_EMPTY_VALUE of iam-service: a placeholder for an empty header.
	Anonymous  bool
	EmptyValue string

	// OnError is called by Middleware with why a request was rejected; may be nil.
	OnError func(r *http.Request, err error)

	now func() time.Time
}

// Verifier verifies assertions. It is safe for concurrent use.
type Verifier struct {
	cfg        Config
	algorithms []jose.SignatureAlgorithm
	keys       *keyCache
}

// New returns a verifier, which fetches the keys for the first assertion. It fails for a configuration that would
// accept more than it should, with all its faults at once.
func New(cfg Config) (*Verifier, error) {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf("identity: "+format, args...)) }
	if why := badURL(cfg.JWKS, cfg.AllowHTTP); why != "" {
		fault("JWKS %s", why)
	}
	if cfg.Issuer == "" {
		fault("Issuer is missing: it is ASSERTION_ISSUER of iam-service")
	}
	if len(cfg.Audiences) == 0 || slices.Contains(cfg.Audiences, "") {
		fault("Audiences must have one or more names, none of them empty: an assertion for another backend must not be valid here")
	}
	if cfg.Algorithms == nil {
		cfg.Algorithms = []string{string(jose.ES256), string(jose.EdDSA)}
	}
	v := &Verifier{}
	for _, name := range cfg.Algorithms {
		alg := jose.SignatureAlgorithm(name)
		if alg != jose.ES256 && alg != jose.EdDSA {
			fault("Algorithms may name ES256 and EdDSA, and not %q", name)
		}
		v.algorithms = append(v.algorithms, alg)
	}
	if len(v.algorithms) == 0 {
		fault("Algorithms must be nil or name one")
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	switch {
	case cfg.Skew == 0:
		cfg.Skew = 30 * time.Second
	case cfg.Skew < 0:
		cfg.Skew = 0
	}
	if cfg.MaxStale <= 0 {
		cfg.MaxStale = time.Hour
	}
	if cfg.now == nil {
		cfg.now = time.Now
	}
	if cfg.OnError == nil {
		cfg.OnError = func(*http.Request, error) {}
	}
	v.cfg = cfg
	v.keys = newKeyCache(&v.cfg)
	return v, nil
}

func badURL(s string, insecure bool) string {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.User != nil:
		return "must be a URL such as https://iam.example.com/.well-known/jwks.json"
	case u.Scheme == "https":
		return ""
	case u.Scheme != "http":
		return "must be https"
	case insecure || loopback(u.Hostname()):
		return ""
	}
	return "must be https: the host that serves it chooses the keys; plain http is for loopback, or with AllowHTTP"
}

func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// payload is the claims of an assertion. Pointers tell an absent claim from an empty one.
type payload struct {
	Issuer    string   `json:"iss"`
	Audience  audience `json:"aud"`
	Subject   string   `json:"sub"`
	IssuedAt  *number  `json:"iat"`
	Expires   *number  `json:"exp"`
	NotBefore *number  `json:"nbf"`
	Txn       string   `json:"txn"`
	Scope     *string  `json:"scope"`
	Workload  string   `json:"req_wl"`
	Context   *struct {
		PrincipalType  string    `json:"principal_type"`
		Issuer         string    `json:"issuer"`
		Subject        string    `json:"subject"`
		UserID         string    `json:"user_id"`
		ClientID       string    `json:"client_id"`
		Tenant         string    `json:"tenant"`
		Roles          *[]string `json:"roles"`
		DecisionID     string    `json:"decision_id"`
		PolicyRevision string    `json:"policy_revision"`
	} `json:"tctx"`
}

// audience is one name or a list (RFC 7519, section 4.1.3).
type audience []string

func (a *audience) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(text, (*[]string)(a))
}

// number is a NumericDate (RFC 7519, section 2).
type number float64

func (n number) time() time.Time {
	return time.UnixMilli(int64(float64(n) * 1000))
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// Verify verifies an assertion. It fails with an error that is ErrInvalid or ErrUnavailable, whose text is for
// the log and not for the caller. It waits for the keys at most until ctx ends.
func (v *Verifier) Verify(ctx context.Context, raw string) (*Identity, error) {
	if len(raw) > maxBytes {
		return nil, invalid("%d bytes are more than %d", len(raw), maxBytes)
	}
	// Only the compact form: ParseSigned would also take the JSON one, which has headers without a signature.
	signed, err := jose.ParseSignedCompact(raw, v.algorithms)
	if err != nil {
		return nil, invalid("%v", err)
	}
	header := signed.Signatures[0].Protected
	if t, _ := header.ExtraHeaders[jose.HeaderType].(string); strings.TrimPrefix(strings.ToLower(t), "application/") != typ {
		return nil, invalid("its typ is %q, and not %s", t, typ)
	}
	for _, name := range []jose.HeaderKey{"crit", "b64"} {
		if _, there := header.ExtraHeaders[name]; there {
			return nil, invalid("it has the header parameter %s", name)
		}
	}
	if header.KeyID == "" {
		return nil, invalid("it names no key (kid)")
	}
	key, err := v.keys.get(ctx, header.KeyID)
	if err != nil {
		return nil, err
	}
	// With our key, whose type must be that of alg: jwk, jku and x5c of the header are not read.
	text, err := signed.Verify(key)
	if err != nil {
		return nil, invalid("its signature is not that of key %s", header.KeyID)
	}
	var p payload
	if err := json.Unmarshal(text, &p); err != nil {
		return nil, invalid("its claims cannot be read: %v", err)
	}
	return v.check(&p)
}

func (v *Verifier) check(p *payload) (*Identity, error) {
	now, skew := v.cfg.now(), v.cfg.Skew
	accepted := slices.IndexFunc(p.Audience, func(a string) bool { return slices.Contains(v.cfg.Audiences, a) })
	switch {
	case p.Issuer != v.cfg.Issuer:
		return nil, invalid("its iss is %q", p.Issuer)
	case accepted < 0:
		return nil, invalid("its aud is %q, which is another backend", []string(p.Audience))
	case p.IssuedAt == nil || p.Expires == nil:
		return nil, invalid("it has no iat or no exp")
	case !now.Before(p.Expires.time().Add(skew)):
		return nil, invalid("it expired at %s", p.Expires.time().UTC().Format(time.RFC3339))
	case p.IssuedAt.time().After(now.Add(skew)):
		return nil, invalid("it was issued at %s, which is ahead of the clock of this host", p.IssuedAt.time().UTC().Format(time.RFC3339))
	case p.NotBefore != nil && p.NotBefore.time().After(now.Add(skew)):
		return nil, invalid("it is not valid before %s", p.NotBefore.time().UTC().Format(time.RFC3339))
	case p.Expires.time().Sub(p.IssuedAt.time()) > maxLifetime:
		return nil, invalid("it is valid for more than %s", maxLifetime)
	case p.Subject == "" || p.Txn == "" || p.Scope == nil || p.Workload == "" || p.Context == nil:
		return nil, invalid("one of sub, txn, scope, req_wl and tctx is missing")
	case p.Context.Roles == nil:
		return nil, invalid("its tctx.roles is no list") // an absent list is no empty one
	}
	c := p.Context
	return &Identity{
		ID:             p.Subject,
		Issuer:         c.Issuer,
		Subject:        c.Subject,
		UserID:         c.UserID,
		PrincipalType:  c.PrincipalType,
		ClientID:       c.ClientID,
		Tenant:         c.Tenant,
		Roles:          slices.Clip(*c.Roles),
		Scope:          strings.Fields(*p.Scope),
		TxnID:          p.Txn,
		DecisionID:     c.DecisionID,
		PolicyRevision: c.PolicyRevision,
		Gateway:        p.Workload,
		Audience:       p.Audience[accepted],
		IssuedAt:       p.IssuedAt.time(),
		Expires:        p.Expires.time(),
	}, nil
}

// defaultClient waits for nothing for long.
func defaultClient() *http.Client {
	return &http.Client{
		Timeout: fetchTimeout,
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: fetchTimeout / 2}).DialContext,
			TLSHandshakeTimeout:   fetchTimeout / 2,
			ResponseHeaderTimeout: fetchTimeout,
			IdleConnTimeout:       time.Minute,
			ForceAttemptHTTP2:     true,
		},
	}
}
