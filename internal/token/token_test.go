package token

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"iam-service/internal/dev/await"
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

// afterHeader adds to the header of a token, whose signature is wrong then.
func afterHeader(raw, more string) string {
	head, rest, _ := strings.Cut(raw, ".")
	text, _ := base64.RawURLEncoding.DecodeString(head)
	return base64.RawURLEncoding.EncodeToString([]byte(string(text)+more)) + "." + rest
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
		"data after the claims":         {w.signed(nil, `{"iss":"`+w.rauth.Issuer+`","aud":"`+audience+`","sub":"alice","exp":9999999999}{"sub":"root"}`), "after top-level value"},
		"a brace after the claims":      {w.signed(nil, `{"iss":"`+w.rauth.Issuer+`","aud":"`+audience+`","sub":"alice","exp":9999999999}}`), "after top-level value"},
		"data after the header":         {afterHeader(good, "{}"), "after top-level value"},
		"claims that are a list":        {w.signed(nil, `["alice"]`), "no JSON object"},
		"claims that are null":          {w.signed(nil, `null`), "not trusted"},
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

func TestOtherTokenTypesAreAcceptedOnlyWhenConfigured(t *testing.T) {
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
	await.True(t, "the other issuer's keys are held", func() bool { return w.v.Keys()[1].Available })
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

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Calls run in goroutines of their own, where a panic would end the program.
func TestAPanicOfACallIsAnErrorOfThatCall(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.Issuers[0].IntrospectionURL = "http://127.0.0.1:1/introspect" })
	w.v.cfg.Client.Timeout = 0 // its timer's goroutine would outlive the panic
	w.v.cfg.Client.Transport = roundTripper(func(*http.Request) (*http.Response, error) { panic("planned") })
	for name, raw := range map[string]string{"introspection": "opaque", "keys": w.sign(map[string]any{"kid": "unknown"}, nil)} {
		if _, err := w.verify(raw); err == nil || iam.KindOf(err) == iam.Unauthenticated || !strings.Contains(err.Error(), "panic: planned") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOneTokenHasAnAccountOfLookUpsInVain(t *testing.T) {
	t.Parallel()
	var m lookupBudget
	n := 0
	for m.Take() {
		n++
	}
	if n != lookupsBurst {
		t.Errorf("%d look-ups at once", n)
	}
	m.Return()
	if !m.Take() {
		t.Error("what was given back cannot be taken")
	}
}

const goodPoint = `"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"`

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
