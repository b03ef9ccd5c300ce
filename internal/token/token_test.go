package token

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/open-policy-agent/opa/v1/ast"

	"iam-service/internal/dev/devrauth"
	"iam-service/internal/iam"
)

var ctx = context.Background()

const audience = "gateway"

// world is a provider, a verifier that trusts it, and a clock.
type world struct {
	*testing.T
	rauth  *devrauth.Server
	v      *Verifier
	clock  atomic.Int64 // added to the real one
	mu     sync.Mutex
	errors map[string]int
}

func newWorld(t *testing.T, change func(*Config)) *world {
	t.Helper()
	w := &world{T: t, errors: map[string]int{}}
	w.rauth = provider(t)
	cfg := Config{
		Issuers: []Issuer{{ID: "rauth", URL: w.rauth.Issuer, Audiences: []string{audience}}},
		Log:     slog.New(slog.DiscardHandler), Wait: 10 * time.Second, // the machine may be slow
		OnError: func(operation, reason string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.errors[operation+" "+reason]++
		},
		now: func() time.Time { return time.Now().Add(time.Duration(w.clock.Load())) },
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if w.v, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	t.Cleanup(stop)
	if err := w.v.Start(running, time.Now().Add(5*time.Second)); err != nil {
		t.Fatal(err)
	}
	return w
}

func provider(t testing.TB) *devrauth.Server {
	t.Helper()
	var handler http.Handler
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	t.Cleanup(srv.Close)
	p, err := devrauth.New(srv.URL, audience)
	if err != nil {
		t.Fatal(err)
	}
	handler = p.Handler()
	return p
}

func (w *world) later(d time.Duration) { w.clock.Add(int64(d)) }

func (w *world) mint(alg string, claims map[string]any) string {
	w.Helper()
	t, err := w.rauth.Mint(alg, claims)
	if err != nil {
		w.Fatal(err)
	}
	return t
}

// sign makes a token with a header and claims that differ from a good one; nil
// leaves something out.
func (w *world) sign(header, claims map[string]any) string {
	w.Helper()
	h := map[string]any{"typ": "at+jwt"}
	maps.Copy(h, header)
	now := time.Now()
	c := map[string]any{"iss": w.rauth.Issuer, "aud": audience, "sub": "alice", "client_id": "web", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}
	maps.Copy(c, claims)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	t, err := w.rauth.Sign("ES256", h, c)
	if err != nil {
		w.Fatal(err)
	}
	return t
}

func (w *world) verify(raw string) (*Token, error) {
	return w.v.Verify(ctx, raw, "", w.v.cfg.now().Add(time.Hour))
}

// signed is a token with a payload that may be no JSON.
func (w *world) signed(header map[string]any, payload string) string {
	w.Helper()
	kid, private := w.rauth.Private("ES256")
	h := map[string]any{"typ": "at+jwt", "alg": "ES256", "kid": kid}
	maps.Copy(h, header)
	b, err := json.Marshal(h)
	if err != nil {
		w.Fatal(err)
	}
	text := base64.RawURLEncoding.EncodeToString(b) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	signature, err := jwt.SigningMethodES256.Sign(text, private)
	if err != nil {
		w.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// invalid fails unless the token is refused for a reason that says want.
func (w *world) invalid(name, raw, want string) {
	w.Helper()
	t, err := w.verify(raw)
	if err == nil {
		w.Errorf("%s: accepted as %+v", name, t)
		return
	}
	if iam.KindOf(err) != iam.Unauthenticated || !strings.Contains(err.Error(), want) {
		w.Errorf("%s: %v (%s), want a refusal that says %q", name, err, iam.KindOf(err), want)
	}
}

func TestAGoodTokenOfEachAlgorithmIsAccepted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for _, alg := range []string{"RS256", "ES256", "EdDSA"} {
		tok, err := w.verify(w.mint(alg, map[string]any{"sub": "alice", "azp": "web", "big": json.Number("12345678901234567890")}))
		if err != nil {
			t.Fatalf("%s: %v", alg, err)
		}
		if tok.Subject != "alice" || tok.ClientID != "web" || tok.Program() || tok.Issuer != w.rauth.Issuer || !strings.Contains(tok.Claims.String(), "12345678901234567890") {
			t.Errorf("%s: %+v", alg, tok)
		}
	}
	for name, claims := range map[string]map[string]any{
		"sub is client_id": {"sub": "svc", "client_id": "svc"}, "sub is azp": {"sub": "svc", "azp": "svc"}, "no sub": {"client_id": "svc"},
	} {
		tok, err := w.verify(w.mint("ES256", claims))
		if err != nil || !tok.Program() || tok.ClientID != "svc" {
			t.Errorf("%s is no program: %+v, %v", name, tok, err)
		}
	}
	for name, raw := range map[string]string{
		"typ as a media type":  w.sign(map[string]any{"typ": "application/AT+JWT"}, nil),
		"several audiences":    w.sign(nil, map[string]any{"aud": []string{"x", audience}}),
		"fractions of seconds": w.sign(nil, map[string]any{"exp": float64(time.Now().Unix()) + 3600.5}),
		"an actor":             w.sign(nil, map[string]any{"act": map[string]any{"sub": "admin"}}),
	} {
		if tok, err := w.verify(raw); err != nil || tok.Subject != "alice" {
			t.Errorf("%s: %+v, %v", name, tok, err)
		}
	}
}

func TestEveryCheckOfATokenHolds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	now := time.Now().Unix()
	none := func() string {
		j := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims{"iss": w.rauth.Issuer, "aud": audience, "sub": "alice", "exp": now + 3600})
		j.Header["typ"] = "at+jwt"
		s, err := j.SignedString(jwt.UnsafeAllowNoneSignatureType)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	// CVE-2016-5431 and its kin: the public key as a shared secret.
	confused := func() string {
		kid, private := w.rauth.Private("RS256")
		der, err := x509.MarshalPKIXPublicKey(private.Public())
		if err != nil {
			t.Fatal(err)
		}
		j := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"iss": w.rauth.Issuer, "aud": audience, "sub": "alice", "exp": now + 3600})
		j.Header["typ"], j.Header["kid"] = "at+jwt", kid
		s, err := j.SignedString(der)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	// The same key under another algorithm of its family.
	otherAlg := func() string {
		kid, private := w.rauth.Private("RS256")
		j := jwt.NewWithClaims(jwt.SigningMethodPS256, jwt.MapClaims{"iss": w.rauth.Issuer, "aud": audience, "sub": "alice", "exp": now + 3600})
		j.Header["typ"], j.Header["kid"] = "at+jwt", kid
		s, err := j.SignedString(private.(*rsa.PrivateKey))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	// An attacker's own key, offered by every header that could.
	stranger := func(header map[string]any) string {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		kid, _ := w.rauth.Private("ES256")
		j := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{"iss": w.rauth.Issuer, "aud": audience, "sub": "alice", "exp": now + 3600})
		j.Header["typ"], j.Header["kid"] = "at+jwt", kid
		maps.Copy(j.Header, header)
		s, err := j.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	good := w.sign(nil, nil)
	parts := strings.Split(good, ".")
	otherKid, _ := w.rauth.Private("RS256")
	for name, c := range map[string]struct{ raw, want string }{
		"empty parts":                   {"..", ""},
		"no token at all":               {"nonsense", "introspection is off"},
		"a thousand dots":               {strings.Repeat(".", 1000), "introspection is off"},
		"1 MB":                          {strings.Repeat("a", 1<<20), "more than 8192"},
		"just over the limit":           {good + strings.Repeat("a", maxTokenBytes), "more than 8192"},
		"encrypted":                     {"eyJhbGciOiJSU0EtT0FFUCJ9.a.b.c.d", "JWE"},
		"alg none":                      {none(), "signing method none"},
		"HS256 with the RSA key":        {confused(), "signing method HS256"},
		"PS256 with the RS256 key":      {otherAlg(), "signing method PS256"},
		"ES256 with the kid of an RSA":  {w.sign(map[string]any{"kid": otherKid}, nil), "does not fit the key"},
		"a stranger's signature":        {stranger(nil), "signature is invalid"},
		"a stranger's jwk":              {stranger(map[string]any{"jwk": map[string]any{"kty": "EC"}}), "signature is invalid"},
		"a stranger's jku":              {stranger(map[string]any{"jku": w.rauth.Issuer + "/evil"}), "signature is invalid"},
		"a stranger's x5u":              {stranger(map[string]any{"x5u": w.rauth.Issuer + "/evil"}), "signature is invalid"},
		"no signature":                  {parts[0] + "." + parts[1] + ".", "signature is invalid"},
		"a changed payload":             {parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"`+w.rauth.Issuer+`","sub":"root"}`)) + "." + parts[2], "signature is invalid"},
		"crit":                          {w.sign(map[string]any{"crit": []string{"exp"}}, nil), `"crit"`},
		"zip":                           {w.sign(map[string]any{"zip": "DEF"}, nil), `"zip"`},
		"b64":                           {w.sign(map[string]any{"b64": false}, nil), `"b64"`},
		"no kid":                        {w.sign(map[string]any{"kid": nil}, nil), "no usable kid"},
		"kid is no string":              {w.sign(map[string]any{"kid": 7}, nil), "no usable kid"},
		"typ JWT where at+jwt is asked": {w.sign(map[string]any{"typ": "JWT"}, nil), "typ"},
		"no typ":                        {w.sign(map[string]any{"typ": nil}, nil), "typ"},
		"typ of a logout token":         {w.sign(map[string]any{"typ": "logout+jwt"}, nil), "typ"},
		"another issuer":                {w.sign(nil, map[string]any{"iss": "https://evil.test"}), "not trusted"},
		"the issuer with a slash":       {w.sign(nil, map[string]any{"iss": w.rauth.Issuer + "/"}), "not trusted"},
		"no issuer":                     {w.sign(nil, map[string]any{"iss": nil}), "not trusted"},
		"the issuer in a list":          {w.sign(nil, map[string]any{"iss": []string{w.rauth.Issuer}}), "not trusted"},
		"another audience":              {w.sign(nil, map[string]any{"aud": "backend"}), "audience"},
		"no audience":                   {w.sign(nil, map[string]any{"aud": nil}), "audience"},
		"an empty list of audiences":    {w.sign(nil, map[string]any{"aud": []string{}}), "audience"},
		"an audience of another type":   {w.sign(nil, map[string]any{"aud": map[string]any{audience: true}}), "audience"},
		"expired":                       {w.sign(nil, map[string]any{"exp": now - 1}), "expired"},
		"no exp":                        {w.sign(nil, map[string]any{"exp": nil}), "no exp"},
		"exp is a string":               {w.sign(nil, map[string]any{"exp": fmt.Sprint(now + 3600)}), "exp is no number"},
		"exp is beyond all time":        {w.sign(nil, map[string]any{"exp": json.Number("1e300")}), "exp is no date"},
		"data after the claims":         {w.signed(nil, `{"iss":"`+w.rauth.Issuer+`","aud":"`+audience+`","sub":"alice","exp":9999999999}{"sub":"root"}`), "something follows"},
		"a brace after the claims":      {w.signed(nil, `{"iss":"`+w.rauth.Issuer+`","aud":"`+audience+`","sub":"alice","exp":9999999999}}`), "something follows"},
		"scp is a number":               {w.sign(nil, map[string]any{"scp": 7}), "scp"},
		"scp has what is no word":       {w.sign(nil, map[string]any{"scp": []any{"read", 7}}), "scp"},
		"scp and scope differ":          {w.sign(nil, map[string]any{"scp": []string{"read", "write"}, "scope": "read"}), "scp"},
		"a number without end":          {w.sign(nil, map[string]any{"level": json.Number("1e-30000")}), "out of bounds"},
		"a number of 401 digits, deep":  {w.sign(nil, map[string]any{"x": map[string]any{"y": []any{json.Number(strings.Repeat("9", 401))}}}), "out of bounds"},
		"not yet valid":                 {w.sign(nil, map[string]any{"nbf": now + 60}), "not valid before"},
		"issued in the future":          {w.sign(nil, map[string]any{"iat": now + 60}), "in the future"},
		"azp and client_id differ":      {w.sign(nil, map[string]any{"azp": "other"}), "differ"},
		"neither subject nor client":    {w.sign(nil, map[string]any{"sub": nil, "client_id": nil}), "neither a subject"},
		"a subject with CR LF":          {w.sign(nil, map[string]any{"sub": "a\r\nX-User-Roles: admin"}), "sub has not the shape"},
		"a subject of non-ASCII":        {w.sign(nil, map[string]any{"sub": "café"}), "sub has not the shape"},
		"a subject that is a number":    {w.sign(nil, map[string]any{"sub": 7}), "sub has not the shape"},
		"an empty subject":              {w.sign(nil, map[string]any{"sub": ""}), "sub has not the shape"},
		"a subject with a blank":        {w.sign(nil, map[string]any{"sub": "alice "}), "sub has not the shape"},
		"bound to a key":                {w.sign(nil, map[string]any{"cnf": map[string]any{"jkt": "x"}}), "cnf"},
		"an ID token by nonce":          {w.sign(nil, map[string]any{"nonce": "n"}), "nonce"},
		"an ID token by at_hash":        {w.sign(nil, map[string]any{"at_hash": "h"}), "at_hash"},
		"an ID token of Keycloak":       {w.sign(nil, map[string]any{"typ": "ID"}), "typ is not Bearer"},
		"a refresh token of Keycloak":   {w.sign(nil, map[string]any{"typ": "Refresh"}), "typ is not Bearer"},
		"a refresh token by use":        {w.sign(nil, map[string]any{"token_use": "refresh_token"}), "token_use"},
	} {
		w.invalid(name, c.raw, c.want)
	}
	if _, err := w.verify(good); err != nil {
		t.Errorf("the good one: %v", err)
	}
}

func TestAnotherKindOfTokenIsAcceptedOnlyWhereTheDeploymentSaysSo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) {
		c.Issuers[0].Types = []string{"at+jwt", "jwt"}
		c.Issuers[0].AuthorizedParties = []string{"web"}
	})
	if _, err := w.verify(w.sign(map[string]any{"typ": "JWT"}, map[string]any{"typ": "Bearer"})); err != nil {
		t.Error(err)
	}
	w.invalid("an ID token", w.sign(map[string]any{"typ": "JWT"}, map[string]any{"nonce": "n"}), "nonce")
	w.invalid("another party", w.sign(nil, map[string]any{"client_id": "other"}), "not an authorized party")
	w.invalid("another party by azp", w.sign(nil, map[string]any{"client_id": nil, "azp": "other"}), "not an authorized party")
}

// Why a token is refused is logged, whoever sent it.
func TestARefusalNamesNothingOfTheToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.Issuers[0].AuthorizedParties = []string{"web"} })
	const planted = "planted"
	for name, raw := range map[string]string{
		"typ of the header": w.sign(map[string]any{"typ": planted}, nil), "kid": w.sign(map[string]any{"kid": planted}, nil), "alg": w.sign(map[string]any{"alg": planted}, nil),
		"iss": w.sign(nil, map[string]any{"iss": planted}), "aud": w.sign(nil, map[string]any{"aud": planted}), "exp": w.sign(nil, map[string]any{"exp": planted}),
		"sub": w.sign(nil, map[string]any{"sub": planted + "\n"}), "client_id": w.sign(nil, map[string]any{"client_id": planted}), "azp": w.sign(nil, map[string]any{"azp": planted}),
		"typ": w.sign(nil, map[string]any{"typ": planted}), "token_use": w.sign(nil, map[string]any{"token_use": planted}),
	} {
		if _, err := w.verify(raw); iam.KindOf(err) != iam.Unauthenticated || strings.Contains(err.Error(), planted) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnotherIssuerGainsNothing(t *testing.T) {
	t.Parallel()
	other := provider(t)
	w := newWorld(t, func(c *Config) {
		c.Issuers = append(c.Issuers, Issuer{ID: "other", URL: other.Issuer, Audiences: []string{"theirs"}})
	})
	theirs, err := other.Mint("ES256", map[string]any{"sub": "alice", "aud": "theirs"})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other issuer's keys are held", func() bool { return w.v.Keys()[1].Held })
	tok, err := w.verify(theirs)
	if err != nil || tok.Issuer != other.Issuer {
		t.Fatalf("%+v, %v", tok, err)
	}
	ours := func(claims map[string]any) string {
		s, err := other.Mint("ES256", claims)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	w.invalid("their key under our name", ours(map[string]any{"iss": w.rauth.Issuer, "sub": "alice", "aud": audience}), "has no key")
	w.invalid("their token for our audience", ours(map[string]any{"sub": "alice"}), "audience")

	// The gateway chose the provider by URL: the issuer must be that one.
	for idp, want := range map[string]bool{"": true, "other": true, "rauth": false, "unknown": false} {
		_, err := w.v.Verify(ctx, theirs, idp, time.Now().Add(time.Hour))
		if (err == nil) != want {
			t.Errorf("X-Upstream-IdP-ID %q: %v", idp, err)
		}
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(until) {
			t.Fatalf("never: %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

func TestTimesAreCheckedAlsoForATokenThatIsCached(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	raw := w.mint("ES256", map[string]any{"sub": "alice", "exp": time.Now().Add(time.Minute).Unix()})
	for range 2 {
		if _, err := w.verify(raw); err != nil {
			t.Fatal(err)
		}
	}
	if s := w.v.Stats(); s.Hits != 1 || s.Misses != 1 || s.Entries != 1 {
		t.Errorf("%+v", s)
	}
	w.later(time.Minute)
	w.invalid("expired since", raw, "expired")
}

func TestKeysAreKeptFreshWithoutBeingAskedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.Refresh = 10 * time.Millisecond })
	running, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); w.v.KeepFresh(running) }()
	before := w.rauth.KeyFetches()
	eventually(t, "the keys are fetched again and again", func() bool { return w.rauth.KeyFetches() > before+2 })
	stop()
	<-done
}

func TestAKeyThatLeavesTakesItsTokensAlong(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	raw := w.mint("ES256", map[string]any{"sub": "alice"})
	if _, err := w.verify(raw); err != nil {
		t.Fatal(err)
	}
	if err := w.rauth.Rotate("ES256", true); err != nil {
		t.Fatal(err)
	}
	w.later(time.Minute)
	fresh := w.mint("ES256", map[string]any{"sub": "alice"})
	for name, raw := range map[string]string{"of the new key": fresh, "of the old key, still published": raw} {
		if _, err := w.verify(raw); err != nil {
			t.Errorf("a token %s: %v", name, err)
		}
	}
	if err := w.rauth.Rotate("ES256", false); err != nil {
		t.Fatal(err)
	}
	if err := w.v.first.refresh(ctx); err != nil {
		t.Fatal(err)
	}
	w.invalid("of a key that is gone, although it was cached", fresh, "has no key")
}

// go-oidc#482: unknown kids must not make us hammer the issuer. Those that no fetch was made for
// are not wrong, but not known.
func TestManyUnknownKeysMakeFewFetches(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.CoolDown = time.Hour })
	before := w.rauth.KeyFetches()
	parts := strings.Split(w.sign(nil, nil), ".")
	madeUp := func(kid string) string { // the key is looked for before the signature is
		return base64.RawURLEncoding.EncodeToString([]byte(`{"typ":"at+jwt","alg":"ES256","kid":"`+kid+`"}`)) + "." + parts[1] + "." + parts[2]
	}
	var wg sync.WaitGroup
	var wrong, unknown atomic.Int64
	for i := range 100 {
		wg.Go(func() {
			for n := range 100 {
				_, err := w.verify(madeUp(fmt.Sprint(i, "-", n)))
				switch {
				case iam.KindOf(err) == iam.Unauthenticated && RejectionOf(err).Reason == NoKey:
					wrong.Add(1)
				case iam.KindOf(err) == iam.Unavailable && iam.CodeOf(err) == "keys_withheld":
					unknown.Add(1)
				default:
					t.Errorf("a made-up kid: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if n := w.rauth.KeyFetches() - before; n < 1 || n > fetchesBurst {
		t.Errorf("%d fetches for 10,000 tokens", n)
	}
	if wrong.Load() == 0 || unknown.Load() == 0 {
		t.Errorf("%d are wrong, %d not known", wrong.Load(), unknown.Load())
	}
	w.later(time.Hour)
	if _, err := w.verify(madeUp("later")); iam.KindOf(err) != iam.Unauthenticated {
		t.Errorf("after the cool-down: %v", err)
	}
	if n := w.rauth.KeyFetches() - before; n > fetchesBurst+1 {
		t.Errorf("%d fetches: one more was due", n)
	}
}

// Hydra signs with a new key at once, and somebody's old token may have caused a fetch just before.
func TestANewKeyWorksAtOnceWithinTheCoolDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.CoolDown = time.Hour })
	w.invalid("a made-up kid", w.sign(map[string]any{"kid": "made-up"}, nil), "has no key")
	for i := range fetchesBurst - 1 {
		if err := w.rauth.Rotate("ES256", true); err != nil {
			t.Fatal(err)
		}
		if _, err := w.verify(w.mint("ES256", map[string]any{"sub": "alice"})); err != nil {
			t.Errorf("the %d. new key: %v", i+1, err)
		}
	}
}

// Tokens of a key that is gone are many, after a rotation. They are wrong, and cost no fetch each.
func TestTokensOfAnOldKeyMakeOneFetch(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.CoolDown = time.Hour })
	old := w.mint("ES256", map[string]any{"sub": "alice"})
	if err := w.rauth.Rotate("ES256", false); err != nil {
		t.Fatal(err)
	}
	if err := w.v.first.refresh(ctx); err != nil {
		t.Fatal(err)
	}
	before := w.rauth.KeyFetches()
	for range 100 {
		w.invalid("of an old key", old, "has no key")
	}
	if n := w.rauth.KeyFetches() - before; n != 1 {
		t.Errorf("%d fetches", n)
	}
	if err := w.rauth.Rotate("ES256", true); err != nil {
		t.Fatal(err)
	}
	if _, err := w.verify(w.mint("ES256", map[string]any{"sub": "alice"})); err != nil {
		t.Errorf("of a new key meanwhile: %v", err)
	}
}

// A JWKS without a usable key is the issuer's word: what it withdrew is trusted no more, neither
// here nor by a start that finds it stored. Anything else that it answers is not.
func TestAnIssuerWithdrawsItsKeys(t *testing.T) {
	t.Parallel()
	var answer atomic.Pointer[string]
	k := &keeper{}
	var lines syncBuffer
	w := newWorld(t, func(c *Config) {
		c.Keeper, c.Log = k, slog.New(slog.NewJSONHandler(&lines, nil))
		c.Client = NewClient()
		under := c.Client.Transport
		c.Client.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			resp, err := under.RoundTrip(r)
			if body := answer.Load(); body != nil && err == nil && r.URL.Path == "/jwks" {
				_ = resp.Body.Close()
				resp.Body = io.NopCloser(strings.NewReader(*body))
			}
			return resp, err
		})
	})
	eventually(t, "the keys are stored", k.kept)
	raw := w.mint("ES256", map[string]any{"sub": "alice"})
	if _, err := w.verify(raw); err != nil {
		t.Fatal(err)
	}
	for _, rubbish := range []string{``, `{}`, `{"keys":null}`, `{"keys":{}}`, `{"keys":[1]}`, `{"keys":[]} x`, `{"error":"server_error"}`, `[]`} {
		answer.Store(&rubbish)
		if err := w.v.first.refresh(ctx); err == nil {
			t.Errorf("%s is a JWKS", rubbish)
		}
		if _, err := w.verify(raw); err != nil {
			t.Errorf("after %s: %v", rubbish, err)
		}
	}
	for _, none := range []string{`{"keys":[]}`, `{"keys":[{"kty":"unknown","kid":"x"},{"kty":"oct","kid":"y","k":"c2VjcmV0"}]}`} {
		answer.Store(nil)
		if err := w.v.first.refresh(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := w.verify(raw); err != nil {
			t.Fatal(err)
		}
		answer.Store(&none)
		if err := w.v.first.refresh(ctx); err != nil {
			t.Fatalf("%s: %v", none, err)
		}
		w.invalid("of a key that was withdrawn, although it was cached", raw, "has no key")
		if s := w.v.Keys()[0]; !errors.Is(s.Err, errNoKeys) {
			t.Errorf("the state of the keys says nothing: %+v", s)
		}
		eventually(t, "that there are none is stored", func() bool { return k.holds(none) })
	}
	w.mu.Lock()
	if n := w.errors["jwks no_usable_key"]; n < 2 {
		t.Errorf("it was counted %d times", n)
	}
	w.mu.Unlock()
	for _, want := range []string{`"level":"ERROR","msg":"issuer has withdrawn all keys`, `"kid":"x","reason":"it is not understood"`, `"kid":"y","reason":"it is no public key"`} {
		if !strings.Contains(lines.String(), want) {
			t.Errorf("the log does not say %s: %s", want, lines.String())
		}
	}
	w.rauth.SetGone(true)
	again, err := New(Config{Issuers: w.v.cfg.Issuers, Log: w.v.cfg.Log, Keeper: k})
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Start(ctx, time.Now().Add(300*time.Millisecond)); err == nil {
		t.Error("a start brought keys back that were withdrawn")
	}
}

// syncBuffer is a log that is read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// An issuer that is away makes no token invalid: what cannot be judged is 503.
func TestAnIssuerThatIsAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	known := w.mint("ES256", map[string]any{"sub": "alice"})
	w.rauth.SetGone(true)
	if err := w.rauth.Rotate("RS256", true); err != nil {
		t.Fatal(err)
	}
	w.later(time.Minute)
	unknown := w.mint("RS256", map[string]any{"sub": "alice"})
	if _, err := w.verify(known); err != nil {
		t.Errorf("a token of a key that is held: %v", err)
	}
	for range 3 {
		if _, err := w.verify(unknown); iam.KindOf(err) != iam.Unavailable || iam.CodeOf(err) != "keys_unavailable" {
			t.Errorf("a token of a key that could not be fetched: %v", err)
		}
	}
	w.mu.Lock()
	counted := w.errors["discovery server_error"]
	w.mu.Unlock()
	if counted != 1 {
		t.Errorf("%d failures were counted, one fetch was allowed", counted)
	}
	w.rauth.SetGone(false)
	w.later(time.Minute)
	if _, err := w.verify(unknown); err != nil {
		t.Errorf("after it came back: %v", err)
	}
	w.rauth.SetGone(true)
	later := w.sign(nil, map[string]any{"exp": time.Now().Add(100 * time.Hour).Unix()})
	w.later(25 * time.Hour)
	if _, err := w.verify(later); iam.CodeOf(err) != "keys_unavailable" {
		t.Errorf("keys older than JWKS_MAX_AGE: %v", err)
	}
}

func TestWaitingForAnIssuerEndsInTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	release := make(chan struct{})
	w.v.cfg.Client.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
		return nil, errors.New("too late")
	})
	defer close(release)
	w.later(time.Minute)
	raw := w.sign(map[string]any{"kid": "unknown"}, nil)
	deadline := w.v.cfg.now().Add(20 * time.Millisecond)
	if _, err := w.v.Verify(ctx, raw, "", deadline); iam.CodeOf(err) != "keys_timeout" || iam.KindOf(err) != iam.Unavailable {
		t.Errorf("got %v", err)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestAnOpaqueTokenIsIntrospected(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) {
		c.Issuers[0].IntrospectionClientID, c.Issuers[0].IntrospectionClientSecret = "iam:service", "s3cret/+&"
	})
	w.rauth.Clients = []devrauth.Client{{ID: "iam:service", Secret: "s3cret/+&"}}
	raw := w.rauth.MintOpaque(map[string]any{"sub": "alice", "client_id": "web"})
	tok, err := w.verify(raw)
	if err != nil || tok.Subject != "alice" || strings.Contains(tok.Claims.String(), "active") {
		t.Fatalf("%+v, %v", tok, err)
	}
	w.invalid("a token nobody issued", "made-up", "not active")
	for name, claims := range map[string]map[string]any{
		"audience": {"sub": "a", "aud": "other"}, "no exp": {"sub": "a", "exp": nil}, "issuer": {"sub": "a", "iss": "https://evil.test"}, "token_use": {"sub": "a", "token_use": "refresh_token"},
	} {
		w.invalid(name, w.rauth.MintOpaque(claims), name)
	}
	for _, raw := range []string{"a b", "a\"b", "ü", "=", ""} {
		w.invalid("no b64token", raw, "b64token")
	}
	w.rauth.SetGone(true)
	if _, err := w.verify(raw); err != nil {
		t.Errorf("within INTROSPECTION_TTL: %v", err)
	}
	w.later(11 * time.Second)
	if _, err := w.verify(raw); iam.KindOf(err) != iam.Unavailable {
		t.Errorf("when it must be asked again and cannot: %v", err)
	}
	w.rauth.SetGone(false)
	short := w.rauth.MintOpaque(map[string]any{"sub": "a", "exp": w.v.cfg.now().Add(3 * time.Second).Unix()})
	if _, err := w.verify(short); err != nil {
		t.Error(err)
	}
	w.later(5 * time.Second)
	w.invalid("past exp, though not past the TTL", short, "expired")
}

// Anybody can make opaque tokens up: what they cost their issuer is bounded, and nobody is told
// that a token is wrong which was not asked about.
func TestOpaqueTokensMakeABoundedNumberOfCalls(t *testing.T) {
	t.Parallel()
	var calls, now, most atomic.Int64
	w := newWorld(t, func(c *Config) {
		c.Issuers[0].IntrospectionClientID, c.Issuers[0].IntrospectionClientSecret = "a", "b"
		c.Introspections = 50
		c.Client = NewClient()
		under := c.Client.Transport
		c.Client.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/introspect" {
				calls.Add(1)
				most.Store(max(most.Load(), now.Add(1)))
				defer now.Add(-1)
			}
			return under.RoundTrip(r)
		})
	})
	w.rauth.Clients = []devrauth.Client{{ID: "a", Secret: "b"}}
	stopped := time.Now() // so that no second passes
	w.v.cfg.now = func() time.Time { return stopped.Add(time.Duration(w.clock.Load())) }
	good := w.rauth.MintOpaque(map[string]any{"sub": "alice"})
	if _, err := w.verify(good); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var inactive, limited atomic.Int64
	for i := range 500 {
		wg.Go(func() {
			_, err := w.verify(fmt.Sprint("made-up-", i))
			switch {
			case iam.KindOf(err) == iam.Unauthenticated && RejectionOf(err).Reason == Inactive:
				inactive.Add(1)
			case iam.KindOf(err) == iam.Unavailable && iam.CodeOf(err) == "introspection_limited":
				limited.Add(1)
			default:
				t.Errorf("a made-up token: %v", err)
			}
		})
	}
	wg.Wait()
	if inactive.Load() != 50 || limited.Load() != 450 || calls.Load() != 51 || most.Load() > unknownAtOnce {
		t.Errorf("%d inactive, %d limited, %d calls, %d of them at once", inactive.Load(), limited.Load(), calls.Load(), most.Load())
	}
	w.later(11 * time.Second) // the answer about the good one is old
	for i := range 60 {
		_, _ = w.verify(fmt.Sprint("more-", i)) // until the limit is used up
	}
	if _, err := w.verify(good); err != nil {
		t.Errorf("a good token while others are made up: %v", err)
	}
}

// After a restart, all tokens are new.
func TestGoodOpaqueTokensDoNotCountAgainstTheLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) {
		c.Issuers[0].IntrospectionClientID, c.Issuers[0].IntrospectionClientSecret = "a", "b"
		c.Introspections = 5
	})
	w.rauth.Clients = []devrauth.Client{{ID: "a", Secret: "b"}}
	stopped := time.Now() // so that no second passes
	w.v.cfg.now = func() time.Time { return stopped }
	for i := range 20 {
		if _, err := w.verify(w.rauth.MintOpaque(map[string]any{"sub": "alice"})); err != nil {
			t.Fatalf("good token %d: %v", i, err)
		}
	}
	for i := range 5 {
		w.invalid("made up", fmt.Sprint("made-up-", i), "not active")
	}
	if _, err := w.verify("made-up-too"); iam.CodeOf(err) != "introspection_limited" {
		t.Errorf("above the limit: %v", err)
	}
}

// What is sent to the gateways must not keep administrators out.
func TestMadeUpTokensOfOneAudienceKeepNoOtherWaiting(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}, introspectionsAtOnce), make(chan struct{})
	var flood atomic.Bool
	w := newWorld(t, func(c *Config) {
		c.Issuers[0].IntrospectionClientID, c.Issuers[0].IntrospectionClientSecret = "a", "b"
		c.Introspections = unknownAtOnce
		c.Client = NewClient()
		under := c.Client.Transport
		c.Client.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/introspect" && flood.Load() {
				entered <- struct{}{}
				<-release
			}
			return under.RoundTrip(r)
		})
	})
	w.rauth.Clients = []devrauth.Client{{ID: "a", Secret: "b"}}
	stopped := time.Now()
	w.v.cfg.now = func() time.Time { return stopped }
	admin := w.v.For("iam-admin")
	flood.Store(true)
	var wg sync.WaitGroup
	for i := range unknownAtOnce {
		wg.Go(func() { _, _ = w.verify(fmt.Sprint("made-up-", i)) })
	}
	for range unknownAtOnce {
		<-entered
	}
	flood.Store(false)
	if _, err := w.verify(w.rauth.MintOpaque(map[string]any{"sub": "alice"})); iam.CodeOf(err) != "introspection_limited" {
		t.Errorf("at the gateway: %v", err)
	}
	if _, err := admin.Verify(ctx, w.rauth.MintOpaque(map[string]any{"sub": "root", "aud": "iam-admin"}), "", stopped.Add(10*time.Second)); err != nil {
		t.Errorf("an administrator: %v", err)
	}
	close(release)
	wg.Wait()
}

func TestARejectedOpaqueTokenIsRememberedForAMoment(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) {
		c.Issuers[0].IntrospectionClientID, c.Issuers[0].IntrospectionClientSecret = "a", "b"
	})
	w.rauth.Clients = []devrauth.Client{{ID: "a", Secret: "b"}}
	stopped := time.Now()
	w.v.cfg.now = func() time.Time { return stopped.Add(time.Duration(w.clock.Load())) }
	other := w.rauth.MintOpaque(map[string]any{"sub": "alice", "aud": "other"})
	w.invalid("inactive", "made-up", "not active")
	w.invalid("of another audience", other, "audience")
	w.rauth.SetGone(true)
	w.invalid("inactive, a moment later", "made-up", "not active")
	w.invalid("of another audience, a moment later", other, "audience")
	w.later(rejectedFor)
	for _, raw := range []string{"made-up", other} {
		if _, err := w.verify(raw); iam.KindOf(err) != iam.Unavailable {
			t.Errorf("later: %v", err)
		}
	}
}

// Many requests with one token are one call.
func TestOneOpaqueTokenIsAskedAboutOnce(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	first, release := make(chan struct{}), make(chan struct{})
	w := newWorld(t, func(c *Config) {
		c.Issuers[0].IntrospectionClientID, c.Issuers[0].IntrospectionClientSecret = "a", "b"
		c.Client = NewClient()
		under := c.Client.Transport
		c.Client.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/introspect" {
				if calls.Add(1) == 1 {
					close(first)
				}
				<-release
			}
			return under.RoundTrip(r)
		})
	})
	w.rauth.Clients = []devrauth.Client{{ID: "a", Secret: "b"}}
	raw := w.rauth.MintOpaque(map[string]any{"sub": "alice"})
	tokens := make(chan *Token, 50)
	for range 50 {
		go func() {
			tok, err := w.verify(raw)
			if err != nil {
				t.Error(err)
			}
			tokens <- tok
		}()
	}
	<-first
	close(release)
	one := <-tokens
	for range 49 {
		if tok := <-tokens; tok != one {
			t.Errorf("another answer: %+v", tok)
		}
	}
	if calls.Load() != 1 {
		t.Errorf("%d calls", calls.Load())
	}
}

// Hydra's introspection is on its admin port, in no discovery document, and asks for no credentials.
func TestTheIntrospectionEndpointCanBeSaid(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		if _, _, sent := r.BasicAuth(); sent || r.URL.Path != "/admin/oauth2/introspect" {
			rw.WriteHeader(http.StatusBadRequest)
		}
		fmt.Fprintf(rw, `{"active":true,"sub":"alice","client_id":"web","aud":["%s"],"exp":%d,"scope":"read"}`, audience, time.Now().Add(time.Hour).Unix())
	}))
	t.Cleanup(elsewhere.Close)
	w := newWorld(t, func(c *Config) { c.Issuers[0].IntrospectionURL = elsewhere.URL + "/admin/oauth2/introspect" })
	if tok, err := w.verify("ory_at_x.y"); err != nil || tok.Subject != "alice" || tok.Issuer != w.rauth.Issuer {
		t.Errorf("%+v, %v", tok, err)
	}
}

func TestScopesOfScpAreScopes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	if tok, err := w.verify(w.sign(nil, map[string]any{"scp": json.RawMessage("null")})); err != nil || len(tok.Scopes()) != 0 {
		t.Errorf("null: %v", err)
	}
	for name, claims := range map[string]map[string]any{
		"a list, as Hydra has it": {"scp": []string{"read", "write"}}, "words, as Entra has it": {"scp": "read write"}, "both": {"scp": []string{"write", "read"}, "scope": "read write"},
	} {
		tok, err := w.verify(w.sign(nil, claims))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := tok.Scopes(); !slices.Equal(slices.Sorted(slices.Values(got)), []string{"read", "write"}) {
			t.Errorf("%s: %q", name, got)
		}
		if scope, err := tok.Claims.Find(ast.MustParseRef("input.scope")[1:]); err != nil {
			t.Errorf("%s: the policy sees no scope: %v, %v", name, scope, err)
		}
	}
}

func TestAnIssuerMarksItsProgramsInItsOwnWay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	keycloak := map[string]any{"sub": "0c6c7d6c-5f4b-4a8e-8f2c-000000000001", "client_id": nil, "azp": "billing", "preferred_username": "service-account-billing"}
	named := func(client, username string) map[string]any {
		return map[string]any{"client_id": nil, "azp": client, "preferred_username": username}
	}
	for name, c := range map[string]struct {
		marks  []string
		claims map[string]any
		want   string // the client, where it is a program
		refuse string
	}{
		"by default": {nil, keycloak, "", ""},
		"a prefix":   {[]string{"preferred_username=service-account-*"}, keycloak, "billing", ""},
		"a prefix, and a client id in upper case":     {[]string{"preferred_username=service-account-*"}, named("Billing", "service-account-billing"), "Billing", ""},
		"a person who took the name of a program":     {[]string{"preferred_username=service-account-*"}, named("portal", "service-account-billing"), "", ""},
		"a person who took a name that is the prefix": {[]string{"preferred_username=service-account-*"}, named("portal", "service-account-"), "", ""},
		"a person who took a name that folds to it":   {[]string{"preferred_username=service-account-*"}, named("sales", "service-account-\u017fales"), "", ""},
		"a person who took a name, without a client":  {[]string{"preferred_username=service-account-*"}, map[string]any{"client_id": nil, "preferred_username": "service-account-"}, "", ""},
		"a value":                  {[]string{"gty=client-credentials"}, map[string]any{"gty": "client-credentials"}, "web", ""},
		"another value":            {[]string{"gty=client-credentials"}, map[string]any{"gty": "password"}, "", ""},
		"a value of another type":  {[]string{"gty=client-credentials"}, map[string]any{"gty": []string{"client-credentials"}}, "", ""},
		"a claim that is there":    {[]string{"client_id"}, map[string]any{}, "web", ""},
		"a claim that is not":      {[]string{"client_id"}, keycloak, "", ""},
		"one of two":               {[]string{"x", "preferred_username=service-account-*"}, keycloak, "billing", ""},
		"RFC 9068 all the same":    {[]string{"x"}, map[string]any{"sub": "web"}, "web", ""},
		"a program without client": {[]string{"gty=client-credentials"}, map[string]any{"gty": "client-credentials", "client_id": nil}, "", "names no client"},
	} {
		w.v.cache.Purge()
		w.v.first.Programs = nil
		for _, m := range c.marks {
			mark, err := ParseProgramMark(m)
			if err != nil {
				t.Fatal(err)
			}
			w.v.first.Programs = append(w.v.first.Programs, mark)
		}
		raw := w.sign(nil, c.claims)
		if c.refuse != "" {
			w.invalid(name, raw, c.refuse)
			continue
		}
		tok, err := w.verify(raw)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		sub, _ := tok.Claims.Find(ast.MustParseRef("input.sub")[1:])
		if program := c.want != ""; tok.Program() != program || program && (tok.ClientID != c.want || tok.Subject != c.want || sub.Compare(ast.String(c.want)) != 0) {
			t.Errorf("%s: %+v", name, tok)
		}
	}
	for _, bad := range []string{"", "=x", "a=", "a=*", "a=b*c", "a=*b", "a b\nc=d"} {
		if m, err := ParseProgramMark(bad); err == nil {
			t.Errorf("%q is read as %+v", bad, m)
		}
	}
}

// An issuer's clock may be ahead by the skew that is tolerated: a token counts as that much older.
func TestATokenIsRevokedUntilItsIssueIsSurelyLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	iat := time.Now().Truncate(time.Second)
	dated, err := w.verify(w.sign(nil, map[string]any{"iat": iat.Unix()}))
	if err != nil {
		t.Fatal(err)
	}
	undated, err := w.verify(w.sign(nil, map[string]any{"iat": nil}))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		token     *Token
		notBefore time.Time
		want      bool
	}{
		"nothing was revoked":               {dated, time.Time{}, false},
		"issued before":                     {dated, iat.Add(time.Minute), true},
		"issued within the skew":            {dated, iat.Add(-skew + 1), true},
		"issued the skew later":             {dated, iat.Add(-skew), false},
		"without iat, nothing was revoked":  {undated, time.Time{}, false},
		"without iat":                       {undated, time.Unix(1, 0), true},
		"no token, and nothing was revoked": {nil, time.Time{}, false},
	} {
		if got := c.token.RevokedBy(c.notBefore); got != c.want {
			t.Errorf("%s: revoked is %v", name, got)
		}
	}
}

func TestRejectionsAreCountedAndLoggedOnceASecond(t *testing.T) {
	t.Parallel()
	var lines syncBuffer
	counted := map[Reason]int{}
	w := newWorld(t, func(c *Config) {
		c.Log = slog.New(slog.NewJSONHandler(&lines, nil))
		c.OnRejected = func(r Reason) { counted[r]++ }
	})
	stopped := time.Now()
	w.v.cfg.now = func() time.Time { return stopped.Add(time.Duration(w.clock.Load())) }
	rejected := func(raw string) {
		_, err := w.verify(raw)
		w.v.Rejected(ctx, err, slog.String("decision_id", "d"))
	}
	wrong := w.sign(nil, map[string]any{"aud": "planted"})
	for range 10 {
		rejected(wrong)
	}
	rejected("nonsense")
	rejected(w.sign(nil, nil)) // a good one
	w.v.Rejected(ctx, unavailable("keys_timeout", nil))
	w.later(time.Second)
	rejected(wrong)
	if counted[Audience] != 11 || counted[Malformed] != 1 || len(counted) != 2 {
		t.Errorf("%v", counted)
	}
	log := lines.String()
	if strings.Count(log, "token rejected") != 3 || strings.Contains(log, "planted") {
		t.Error(log)
	}
	for _, want := range []string{
		`"msg":"token rejected","decision_id":"d","reason":"audience","issuer":"` + w.rauth.Issuer + `","count":1}`, `"reason":"audience","issuer":"` + w.rauth.Issuer + `","count":10}`,
		`"reason":"malformed","issuer":"","count":1}`,
	} {
		if !strings.Contains(log, want) {
			t.Errorf("no line with %s: %s", want, log)
		}
	}
}

// Calls run in goroutines of their own, where a panic would end the program.
func TestAPanicOfACallIsAnErrorOfThatCall(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.Issuers[0].IntrospectionURL = "http://127.0.0.1:1/introspect" })
	w.v.cfg.Client.Transport = roundTripper(func(*http.Request) (*http.Response, error) { panic("planned") })
	for name, raw := range map[string]string{"introspection": "opaque", "keys": w.sign(map[string]any{"kid": "unknown"}, nil)} {
		if _, err := w.verify(raw); err == nil || iam.KindOf(err) == iam.Unauthenticated || !strings.Contains(err.Error(), "panic: planned") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// keeper keeps keys in memory.
type keeper struct {
	mu        sync.Mutex
	discovery []byte
	jwks      []byte
	at        time.Time
}

func (k *keeper) SaveKeys(_ context.Context, _ string, discovery, jwks []byte, at time.Time) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if at.After(k.at) { // as the database does: a slower fetch replaces no newer one
		k.discovery, k.jwks, k.at = discovery, jwks, at
	}
	return nil
}

func (k *keeper) LoadKeys(context.Context, string) ([]byte, []byte, time.Time, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.discovery, k.jwks, k.at, nil
}

func (k *keeper) kept() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.at.IsZero()
}

func (k *keeper) holds(jwks string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return string(k.jwks) == jwks
}

func TestAStartWithoutTheIssuerUsesTheKeysThatWereKept(t *testing.T) {
	t.Parallel()
	k := &keeper{}
	w := newWorld(t, func(c *Config) { c.Keeper = k })
	eventually(t, "the keys are kept", k.kept)
	raw := w.mint("ES256", map[string]any{"sub": "alice"})
	w.rauth.SetGone(true)
	again := func(k Keeper) (*Verifier, error) {
		v, err := New(Config{Issuers: w.v.cfg.Issuers, Log: w.v.cfg.Log, Keeper: k})
		if err != nil {
			t.Fatal(err)
		}
		running, stop := context.WithCancel(ctx)
		t.Cleanup(stop)
		return v, v.Start(running, time.Now().Add(3*time.Second))
	}
	v, err := again(k)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(ctx, raw, "", time.Now().Add(time.Minute)); err != nil {
		t.Errorf("with kept keys: %v", err)
	}
	eventually(t, "its state says that the issuer is away", func() bool {
		s := v.Keys()[0]
		return s.Held && s.Err != nil
	})
	if _, err := again(&keeper{}); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("without kept keys: %v", err)
	}
	k.at = time.Now().Add(-25 * time.Hour)
	if _, err := again(k); err == nil {
		t.Error("keys older than JWKS_MAX_AGE were used")
	}
}

// One that is silent, not refusing: the start's time must not all go into waiting.
func TestAStartUsesKeptKeysAlsoWhereTheIssuerIsSilent(t *testing.T) {
	t.Parallel()
	k := &keeper{}
	w := newWorld(t, func(c *Config) { c.Keeper = k })
	eventually(t, "the keys are kept", k.kept)
	silent := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	})}
	v, err := New(Config{Issuers: w.v.cfg.Issuers, Log: w.v.cfg.Log, Keeper: k, Client: silent})
	if err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	if err := v.Start(running, time.Now().Add(400*time.Millisecond)); err != nil {
		t.Error(err)
	}
}

func TestAnOpaqueTokenGoesToNobodyTheGatewayDidNotName(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) {
		c.Issuers[0].IntrospectionClientID, c.Issuers[0].IntrospectionClientSecret = "a", "b"
	})
	raw := w.rauth.MintOpaque(map[string]any{"sub": "alice"})
	if _, err := w.v.Verify(ctx, raw, "unknown", time.Now().Add(time.Hour)); iam.KindOf(err) != iam.Unauthenticated {
		t.Errorf("got %v", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.errors) != 0 {
		t.Errorf("it was asked: %v", w.errors)
	}
}

func TestOneTokenHasAnAccountOfLookUpsInVain(t *testing.T) {
	t.Parallel()
	var m misses
	n := 0
	for m.Take() {
		n++
	}
	if n != missesBurst {
		t.Errorf("%d look-ups at once", n)
	}
	m.GiveBack()
	if !m.Take() {
		t.Error("what was given back cannot be taken")
	}
}

func TestAStartEndsAtOnceWhereTryingAgainIsPointless(t *testing.T) {
	t.Parallel()
	other := provider(t)
	redirected := false
	for name, handler := range map[string]http.HandlerFunc{
		"wrong issuer": func(w http.ResponseWriter, r *http.Request) { other.Handler().ServeHTTP(w, r) },
		"403":          func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) },
		"404":          func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) },
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/elsewhere" {
				redirected = true
			}
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		},
	} {
		srv := httptest.NewServer(handler)
		v, err := New(Config{Issuers: []Issuer{{URL: srv.URL, Audiences: []string{audience}}}, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		running, stop := context.WithCancel(ctx)
		if err := v.Start(running, began.Add(time.Minute)); err == nil {
			t.Errorf("%s: started", name)
		}
		if time.Since(began) > 30*time.Second {
			t.Errorf("%s: tried on", name)
		}
		stop()
		srv.Close()
	}
	if redirected {
		t.Error("a redirect was followed")
	}
}

func TestDiscoveryByRFC8414(t *testing.T) {
	t.Parallel()
	var p *devrauth.Server
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/.well-known/oauth-authorization-server/realm":
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"issuer":"`+p.Issuer+`","jwks_uri":"`+strings.TrimSuffix(p.Issuer, "/realm")+`/jwks"}`)
		case "/jwks":
			p.Handler().ServeHTTP(w, r)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer srv.Close()
	p, err := devrauth.New(srv.URL+"/realm", audience)
	if err != nil {
		t.Fatal(err)
	}
	var failures atomic.Int64
	v, err := New(Config{
		Issuers: []Issuer{{URL: p.Issuer, Audiences: []string{audience}}}, Log: slog.New(slog.DiscardHandler),
		OnError: func(string, string) { failures.Add(1) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Start(ctx, time.Now().Add(5*time.Second)); err != nil {
		t.Fatal(err)
	}
	if n := failures.Load(); n != 0 {
		t.Errorf("%d failures are counted: the first 404 is an answer", n)
	}
}

const goodPoint = `"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"`

func TestAKeySetKeepsOnlyWhatCanSign(t *testing.T) {
	t.Parallel()
	rsaKey := func(n *big.Int) string {
		return `{"kty":"RSA","kid":"a","e":"AQAB","n":"` + base64.RawURLEncoding.EncodeToString(n.Bytes()) + `"}`
	}
	sound, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ key, why string }{
		"a small RSA key":       {rsaKey(new(big.Int).SetBytes(bytes.Repeat([]byte{0xc5}, 128))), "RSA of 1024 bits"},
		"RSA of 2,047 bits":     {rsaKey(new(big.Int).Rsh(sound.N, 1)), "RSA of 2047 bits"},
		"of a broken generator": {rsaKey(broken(2048)), "ROCA"},
		"a symmetric key":       {`{"kty":"oct","kid":"a","k":"c2VjcmV0"}`, "no public key"},
		"of another curve":      {`{` + goodPoint + `,"kid":"a","alg":"ES384"}`, "RS256, ES256 or EdDSA"},
		"without kid":           {`{` + goodPoint + `}`, "no kid"},
		"only to sign":          {`{` + goodPoint + `,"kid":"a","key_ops":["sign"]}`, "key_ops"},
		"for no operation":      {`{` + goodPoint + `,"kid":"a","use":"sig","key_ops":[]}`, "key_ops"},
		"operations of no list": {`{` + goodPoint + `,"kid":"a","key_ops":"verify"}`, "not understood"},
		"for encryption":        {`{` + goodPoint + `,"kid":"a","use":"enc"}`, ""}, // it says so itself: no reason is needed
	} {
		set, err := newKeySet(discoveryDoc{}, []byte(`{"keys": [`+c.key+`]}`), time.Now())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if why := set.unused["a"] + set.unused[""]; len(set.byID) != 0 || !strings.Contains(why, c.why) {
			t.Errorf("%s: %v, not used because %q", name, set.byID, why)
		}
	}
	for name, key := range map[string]string{
		"sound RSA": rsaKey(sound.N), "for signatures": `{` + goodPoint + `,"kid":"a","use":"sig"}`, "to verify, among others": `{` + goodPoint + `,"kid":"a","key_ops":["sign","verify"]}`,
	} {
		if set, err := newKeySet(discoveryDoc{}, []byte(`{"keys": [`+key+`]}`), time.Now()); err != nil || set.byID["a"] == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if set, err := newKeySet(discoveryDoc{}, []byte(`{"keys": [{"kty":"unknown"}, {`+goodPoint+`,"kid":"a"}]}`), time.Now()); err != nil || set.byID["a"].alg != "ES256" {
		t.Errorf("a good key beside one that is not understood: %v", err)
	}
}

// broken is a modulus as the generator of CVE-2017-15361 makes them: 65537^a modulo the product of
// the first primes.
func broken(bits int) *big.Int {
	m := big.NewInt(2)
	for _, p := range rocaPrimes {
		m.Mul(m, big.NewInt(p))
	}
	n := new(big.Int).Lsh(big.NewInt(3), uint(bits-2))
	n.Sub(n, new(big.Int).Mod(n, m))
	return n.Add(n, new(big.Int).Exp(big.NewInt(65537), big.NewInt(123456789), m))
}

func TestADiscoveryDocumentNamesPlacesToTrust(t *testing.T) {
	t.Parallel()
	for _, doc := range []string{`{"issuer":"https://a.test"}`, `{"issuer":"https://a.test","jwks_uri":"http://a.test/jwks"}`, `{"issuer":"https://a.test"}`, `{"issuer":"https://a.test","jwks_uri":"file:///etc/passwd"}`, `{"issuer":"https://a.test","jwks_uri":"https://a.test/k","introspection_endpoint":"http://a.test"}`} {
		if _, err := parseDiscovery([]byte(doc), "https://a.test"); err == nil {
			t.Errorf("accepted %s", doc)
		}
	}
}

func TestPlainHTTPStaysOnTheIssuersOwnHost(t *testing.T) {
	t.Parallel()
	for jwks, good := range map[string]bool{"http://127.0.0.1:2/jwks": true, "https://elsewhere.test/jwks": true, "http://169.254.169.254/jwks": false} {
		if _, err := parseDiscovery([]byte(`{"issuer":"http://127.0.0.1:1","jwks_uri":"`+jwks+`"}`), "http://127.0.0.1:1"); (err == nil) != good {
			t.Errorf("%s: %v", jwks, err)
		}
	}
}

func TestNoIssuerWithoutAudience(t *testing.T) {
	t.Parallel()
	for name, issuers := range map[string][]Issuer{
		"none": nil, "no audience": {{URL: "https://a.test"}}, "no URL": {{Audiences: []string{"x"}}},
		"twice": {{URL: "https://a.test", Audiences: []string{"x"}}, {URL: "https://a.test", Audiences: []string{"y"}}},
	} {
		if _, err := New(Config{Issuers: issuers}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Whatever comes, it is no token, and it does not panic.
func FuzzVerify(f *testing.F) {
	p := provider(f)
	good, err := p.Mint("ES256", map[string]any{"sub": "alice"})
	if err != nil {
		f.Fatal(err)
	}
	v, err := New(Config{Issuers: []Issuer{{URL: p.Issuer, Audiences: []string{audience}, IntrospectionClientID: "x"}}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	f.Cleanup(stop)
	if err := v.Start(running, time.Now().Add(5*time.Second)); err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{good, good + ".", "." + good, "a.b.c", "..", "", "e30.e30.", "eyJhbGciOiJub25lIn0.e30.", strings.Replace(good, ".", "..", 1)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		tok, err := v.Verify(ctx, raw, "", time.Now().Add(time.Second))
		if err == nil && raw != good {
			t.Errorf("accepted %q as %+v", raw, tok)
		}
		if err != nil && iam.KindOf(err) != iam.Unauthenticated && iam.KindOf(err) != iam.Unavailable {
			t.Errorf("%q: unclassified %v", raw, err)
		}
	})
}

// Keys are fetched in goroutines of their own, so a panic there would end the process.
func TestAPanicOfWhatStoresKeysEndsNothing(t *testing.T) {
	t.Parallel()
	var lines syncBuffer
	w := newWorld(t, func(c *Config) { c.Keeper, c.Log = panicking{}, slog.New(slog.NewJSONHandler(&lines, nil)) })
	for !strings.Contains(lines.String(), "panic: no keeper") {
		time.Sleep(time.Millisecond)
	}
	if _, err := w.v.Verify(ctx, w.mint("ES256", map[string]any{"sub": "alice"}), "", time.Now().Add(10*time.Second)); err != nil {
		t.Error(err)
	}
	w.rauth.SetGone(true)
	again, err := New(Config{Issuers: w.v.cfg.Issuers, Log: w.v.cfg.Log, Keeper: panicking{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Start(ctx, time.Now().Add(300*time.Millisecond)); err == nil {
		t.Error("a start has keys that nobody gave it")
	}
}

type panicking struct{}

func (panicking) SaveKeys(context.Context, string, []byte, []byte, time.Time) error {
	panic("no keeper")
}

func (panicking) LoadKeys(context.Context, string) (discovery, jwks []byte, at time.Time, err error) {
	panic("no keeper")
}
