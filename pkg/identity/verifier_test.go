package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

func TestAValidAssertionIsAnIdentity(t *testing.T) {
	t.Parallel()
	s := newService(t)
	v := s.verifier(Config{})
	for _, kid := range []string{"ec", "ed"} {
		id, err := v.Verify(t.Context(), s.sign(kid, s.header(kid, nil), s.claims(map[string]any{"scope": "read write"})))
		s.ok(err)
		if id.ID != "https://auth.example.com#alice" || id.Subject != "alice" || id.UserID != "u1" || id.Tenant != "acme" || !id.HasRole("editor") || id.HasRole("edit") ||
			!id.HasScope("write") || id.PrincipalType != User || id.DecisionID != "d1" || id.Gateway != "traefik" || id.Audience != here || id.Expires.Sub(id.IssuedAt) != time.Minute {
			t.Errorf("%s: %+v", kid, id)
		}
	}
	// An empty list is a list.
	tctx := s.claims(nil)["tctx"].(map[string]any)
	tctx["roles"] = []string{}
	id, err := v.Verify(t.Context(), s.valid(map[string]any{"tctx": tctx}))
	s.ok(err)
	if id.Roles == nil || len(id.Roles) != 0 || id.Scope == nil {
		t.Errorf("roles %#v, scope %#v", id.Roles, id.Scope)
	}
	// aud may be a list, of which one is ours.
	id, err = v.Verify(t.Context(), s.valid(map[string]any{"aud": []string{"other", here}}))
	s.ok(err)
	if id.Audience != here {
		t.Errorf("audience %s", id.Audience)
	}
}

func TestNothingElseIsAnIdentity(t *testing.T) {
	t.Parallel()
	s := newService(t)
	foreign, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.ok(err)
	s.private["foreign"], s.hidden["foreign"] = foreign, true
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	s.ok(err)
	s.private["rsa"] = rsaKey
	v := s.verifier(Config{})
	good := s.valid(nil)
	part := strings.Split(good, ".")
	public := s.private["ec"].Public()
	der, err := x509.MarshalPKIXPublicKey(public)
	s.ok(err)
	jwk, err := json.Marshal(jose.JSONWebKey{Key: public, KeyID: "ec"})
	s.ok(err)
	foreignJWK := jose.JSONWebKey{Key: foreign.Public(), KeyID: "ec"}
	hs256 := func(secret []byte) string {
		input := encode(t, s.header("ec", map[string]any{"alg": "HS256"})) + "." + part[1]
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(input))
		return input + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	}
	with := func(change map[string]any) string { return s.valid(change) }
	head := func(change map[string]any) string { return s.sign("ec", s.header("ec", change), s.claims(nil)) }
	tctx := func(name string, value any) string {
		c := s.claims(nil)["tctx"].(map[string]any)
		c[name] = value
		if value == nil {
			delete(c, name)
		}
		return with(map[string]any{"tctx": c})
	}
	for name, raw := range map[string]string{
		"empty":                            "",
		"no JWT":                           "alice",
		"alg none":                         encode(t, s.header("ec", map[string]any{"alg": "none"})) + "." + part[1] + ".",
		"alg None, with a signature":       encode(t, s.header("ec", map[string]any{"alg": "None"})) + "." + part[1] + "." + part[2],
		"no signature":                     part[0] + "." + part[1] + ".",
		"HS256 with the public key, DER":   hs256(der),
		"HS256 with the public key, PEM":   hs256(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		"HS256 with the public key, JWK":   hs256(jwk),
		"RS256 by a key that is published": s.sign("rsa", s.header("rsa", map[string]any{"alg": "RS256"}), s.claims(nil)),
		"EdDSA by the ES256 key's id":      s.sign("ed", s.header("ed", map[string]any{"kid": "ec"}), s.claims(nil)),
		"alg of another key":               s.sign("ec", s.header("ec", map[string]any{"alg": "EdDSA"}), s.claims(nil)),
		"another key under our id":         s.sign("foreign", s.header("ec", nil), s.claims(nil)),
		"another key, embedded":            s.sign("foreign", s.header("ec", map[string]any{"jwk": foreignJWK}), s.claims(nil)),
		"another key by jku":               s.sign("foreign", s.header("ec", map[string]any{"jku": "https://evil.example.com/jwks.json"}), s.claims(nil)),
		"an unknown key":                   s.sign("foreign", s.header("foreign", nil), s.claims(nil)),
		"no kid":                           head(map[string]any{"kid": nil}),
		"no typ":                           head(map[string]any{"typ": nil}),
		"an access token":                  head(map[string]any{"typ": "at+jwt"}),
		"typ JWT":                          head(map[string]any{"typ": "JWT"}),
		"crit":                             head(map[string]any{"crit": []string{"b64"}, "b64": true}),
		"an unencoded payload":             head(map[string]any{"crit": []string{"b64"}, "b64": false}),
		"changed claims":                   part[0] + "." + encode(t, s.claims(map[string]any{"sub": "mallory"})) + "." + part[2],
		"a signature of zeros":             part[0] + "." + part[1] + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 64)),
		"the JSON form":                    fmt.Sprintf(`{"payload":%q,"protected":%q,"signature":%q}`, part[1], part[0], part[2]),
		"four parts":                       good + ".x",
		"a megabyte":                       good + strings.Repeat("A", 1<<20),
		"a thousand dots":                  strings.Repeat(".", 1000),
		"another issuer":                   with(map[string]any{"iss": "https://iam.example.com/"}),
		"another backend":                  with(map[string]any{"aud": "billing.example.com"}),
		"a prefix of ours":                 with(map[string]any{"aud": here + ".evil.com"}),
		"no audience":                      with(map[string]any{"aud": nil}),
		"an empty audience":                with(map[string]any{"aud": ""}),
		"expired":                          with(map[string]any{"iat": s.now().Add(-2 * time.Minute).Unix(), "exp": s.now().Add(-31 * time.Second).Unix()}),
		"no exp":                           with(map[string]any{"exp": nil}),
		"no iat":                           with(map[string]any{"iat": nil}),
		"exp null":                         with(map[string]any{"exp": json.RawMessage("null")}),
		"exp as a string":                  with(map[string]any{"exp": "4000000000"}),
		"from the future":                  with(map[string]any{"iat": s.now().Add(time.Minute).Unix()}),
		"not valid yet":                    with(map[string]any{"nbf": s.now().Add(time.Minute).Unix()}),
		"for a day":                        with(map[string]any{"exp": s.now().Add(24 * time.Hour).Unix()}),
		"no subject":                       with(map[string]any{"sub": nil}),
		"no txn":                           with(map[string]any{"txn": nil}),
		"no scope":                         with(map[string]any{"scope": nil}),
		"no req_wl":                        with(map[string]any{"req_wl": nil}),
		"no tctx":                          with(map[string]any{"tctx": nil}),
		"no roles":                         tctx("roles", nil),
		"roles null":                       tctx("roles", json.RawMessage("null")),
		"roles as a string":                tctx("roles", "auditor,editor"),
		"roles with a number":              tctx("roles", []any{"auditor", 1}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			id, err := v.Verify(t.Context(), raw)
			if id != nil || !errors.Is(err, ErrInvalid) || errors.Is(err, ErrUnavailable) {
				t.Errorf("%+v, %v", id, err)
			}
		})
	}
}

func TestClocksMayDifferBySkew(t *testing.T) {
	t.Parallel()
	s := newService(t)
	v, strict := s.verifier(Config{}), s.verifier(Config{Skew: -1})
	for name, c := range map[string]map[string]any{
		"just expired":    {"iat": s.now().Add(-time.Minute).Unix(), "exp": s.now().Add(-29 * time.Second).Unix()},
		"issued just now": {"iat": s.now().Add(29 * time.Second).Unix()},
	} {
		if _, err := v.Verify(t.Context(), s.valid(c)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := strict.Verify(t.Context(), s.valid(c)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s, without skew: %v", name, err)
		}
	}
}

func TestAConfigurationThatAcceptsTooMuchIsRejected(t *testing.T) {
	t.Parallel()
	base := Config{JWKS: "https://iam.example.com/.well-known/jwks.json", Issuer: issuer, Audiences: []string{here}}
	if _, err := New(base); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Config){
		"JWKS must be https":      func(c *Config) { c.JWKS = "http://iam.example.com/jwks.json" },
		"JWKS must be a URL":      func(c *Config) { c.JWKS = "" },
		"Issuer is missing":       func(c *Config) { c.Issuer = "" },
		"Audiences must have":     func(c *Config) { c.Audiences = nil },
		"none of them empty":      func(c *Config) { c.Audiences = []string{here, ""} },
		`and not "HS256"`:         func(c *Config) { c.Algorithms = []string{"ES256", "HS256"} },
		`and not "none"`:          func(c *Config) { c.Algorithms = []string{"none"} },
		"Algorithms must be nil":  func(c *Config) { c.Algorithms = []string{} },
		"JWKS must be a URL such": func(c *Config) { c.JWKS = "https://user:pass@iam.example.com/" },
	} {
		cfg := base
		change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	cfg := base
	cfg.JWKS, cfg.AllowHTTP = "http://iam.example.com/jwks.json", true
	if _, err := New(cfg); err != nil {
		t.Error(err)
	}
	_, err := New(Config{})
	if err == nil || strings.Count(err.Error(), "identity:") != 3 {
		t.Errorf("not all faults at once: %v", err)
	}
}

// Any number of made-up key ids makes one fetch in a cool-down, and valid assertions do not wait for it.
func TestUnknownKeysMakeNoStorm(t *testing.T) {
	t.Parallel()
	s := newService(t)
	v := s.verifier(Config{})
	_, err := v.Verify(t.Context(), s.valid(nil))
	s.ok(err)
	var all sync.WaitGroup
	for i := range 500 {
		all.Go(func() {
			raw := s.sign("ec", s.header("ec", map[string]any{"kid": fmt.Sprint("made-up-", i)}), s.claims(nil))
			if _, err := v.Verify(t.Context(), raw); !errors.Is(err, ErrInvalid) {
				t.Errorf("got %v", err)
			}
			if _, err := v.Verify(t.Context(), s.valid(nil)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := s.fetches.Load(); n != 1 {
		t.Errorf("%d fetches within a cool-down", n)
	}
	s.pass(coolDown)
	for i := range 20 {
		_, _ = v.Verify(t.Context(), s.sign("ec", s.header("ec", map[string]any{"kid": fmt.Sprint("later-", i)}), s.claims(nil)))
	}
	if n := s.fetches.Load(); n != 2 {
		t.Errorf("%d fetches after one more cool-down", n)
	}
}

// The first requests share one fetch.
func TestConcurrentRequestsShareAFetch(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.hold = make(chan struct{})
	v := s.verifier(Config{})
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if _, err := v.Verify(context.Background(), s.valid(nil)); err != nil {
				t.Error(err)
			}
		})
	}
	impatient, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := v.Verify(impatient, s.valid(nil)); !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("a caller who left: %v", err)
	}
	close(s.hold)
	all.Wait()
	if n := s.fetches.Load(); n != 1 {
		t.Errorf("%d fetches", n)
	}
}

func TestARevokedKeyIsRejectedOnceTheCacheIsDue(t *testing.T) {
	t.Parallel()
	s := newService(t)
	v := s.verifier(Config{})
	_, err := v.Verify(t.Context(), s.valid(nil))
	s.ok(err)
	s.publish("ec", false)
	s.pass(5*time.Minute + time.Second)
	if _, err := v.Verify(t.Context(), s.valid(nil)); !errors.Is(err, ErrInvalid) {
		t.Errorf("a revoked key: %v", err)
	}
}

func TestANewKeyIsFetchedAtOnce(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.publish("ed", false)
	v := s.verifier(Config{})
	_, err := v.Verify(t.Context(), s.valid(nil))
	s.ok(err)
	s.publish("ed", true)
	s.pass(coolDown)
	_, err = v.Verify(t.Context(), s.sign("ed", s.header("ed", nil), s.claims(nil)))
	s.ok(err)
}

// An unreachable JWKS makes no assertion invalid: known keys are used for MaxStale, and then nothing is verified.
func TestAnUnreachableJWKSIsNoVerdict(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.down.Store(true)
	v := s.verifier(Config{})
	if _, err := v.Verify(t.Context(), s.valid(nil)); !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrInvalid) {
		t.Errorf("without any key: %v", err)
	}
	s.down.Store(false)
	s.pass(coolDown)
	_, err := v.Verify(t.Context(), s.valid(nil))
	s.ok(err)
	s.down.Store(true)
	s.pass(30 * time.Minute)
	if _, err := v.Verify(t.Context(), s.valid(nil)); err != nil {
		t.Errorf("a known key, stale: %v", err)
	}
	s.private["new"] = s.private["ec"]
	if _, err := v.Verify(t.Context(), s.sign("new", s.header("new", nil), s.claims(nil))); !errors.Is(err, ErrUnavailable) {
		t.Errorf("an unknown key, of which nothing can be known: %v", err)
	}
	s.pass(31 * time.Minute)
	if _, err := v.Verify(t.Context(), s.valid(nil)); !errors.Is(err, ErrUnavailable) {
		t.Errorf("after MaxStale: %v", err)
	}
	s.down.Store(false)
	s.pass(coolDown)
	if _, err := v.Verify(t.Context(), s.valid(nil)); err != nil {
		t.Errorf("again reachable: %v", err)
	}
}

func TestAJWKSThatHangsDoesNotHoldEachRequest(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.hold = make(chan struct{}, 2)
	t.Cleanup(func() { close(s.hold) })
	s.hold <- struct{}{}
	v := s.verifier(Config{})
	_, err := v.Verify(t.Context(), s.valid(nil))
	s.ok(err)
	s.down.Store(true)
	s.hold <- struct{}{}
	s.pass(10 * time.Minute)
	_, err = v.Verify(t.Context(), s.valid(nil)) // waits for a fetch, which fails
	s.ok(err)
	s.pass(coolDown)
	ctx, cancel := context.WithTimeout(t.Context(), fetchTimeout/2)
	defer cancel()
	if _, err := v.Verify(ctx, s.valid(nil)); err != nil {
		t.Errorf("while a fetch hangs: %v", err)
	}
	if n := s.fetches.Load(); n > 3 {
		t.Errorf("%d fetches", n)
	}
}

func TestAJWKSIsBounded(t *testing.T) {
	t.Parallel()
	key := `{"kty":"OKP","crv":"Ed25519","kid":"%d","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`
	many := make([]string, maxKeys+1)
	for i := range many {
		many[i] = fmt.Sprintf(key, i)
	}
	for name, body := range map[string]string{
		"too large":     `{"keys":[]}` + strings.Repeat(" ", maxJWKS), // its beginning is one
		"too many keys": `{"keys":[` + strings.Join(many, ",") + `]}`,
		"a page":        `<html>`,
		"no keys":       `{}`,
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }))
		t.Cleanup(srv.Close)
		s := newService(t)
		redirect := httptest.NewServer(http.RedirectHandler(s.URL, http.StatusFound)) // to good ones
		t.Cleanup(redirect.Close)
		for _, url := range []string{srv.URL, redirect.URL} {
			v, err := New(Config{JWKS: url, Issuer: issuer, Audiences: []string{here}})
			s.ok(err)
			if _, err := v.Verify(t.Context(), s.valid(nil)); !errors.Is(err, ErrUnavailable) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	// A private key that was published by mistake verifies nothing, nor does a weak or foreign one.
	private, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: newService(t).private["ec"], KeyID: "private"}, {Key: []byte("symmetric-key-symmetric-key"), KeyID: "oct"}}})
	if err != nil {
		t.Fatal(err)
	}
	if keys, err := parse(private); err != nil || len(keys) != 0 {
		t.Errorf("%v, %v", keys, err)
	}
}

func TestTheMiddlewarePassesIdentitiesAlone(t *testing.T) {
	t.Parallel()
	s := newService(t)
	var refused atomic.Value
	handler := func(cfg Config) http.Handler {
		cfg.OnError = func(_ *http.Request, err error) { refused.Store(err.Error()) }
		return s.verifier(cfg).Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			id, ok := FromContext(r.Context())
			if !ok {
				fmt.Fprint(w, "anonymous")
				return
			}
			fmt.Fprint(w, id.Subject)
		}))
	}
	usual, open := handler(Config{}), handler(Config{Anonymous: true})
	filled := handler(Config{Anonymous: true, EmptyValue: "-"})
	for name, c := range map[string]struct {
		handler http.Handler
		lines   []string
		status  int
		body    string
	}{
		"valid":                         {handler: usual, lines: []string{s.valid(nil)}, status: 200, body: "alice"},
		"none":                          {handler: usual, status: 401},
		"none, where anonymous is fine": {handler: open, status: 401},
		"empty":                         {handler: usual, lines: []string{""}, status: 401},
		"empty, where that is fine":     {handler: open, lines: []string{""}, status: 200, body: "anonymous"},
		"valid, where anonymous is":     {handler: open, lines: []string{s.valid(nil)}, status: 200, body: "alice"},
		"invalid, where anonymous is":   {handler: open, lines: []string{"x"}, status: 401},
		"a placeholder":                 {handler: filled, lines: []string{"-"}, status: 200, body: "anonymous"},
		"a placeholder, where none is":  {handler: open, lines: []string{"-"}, status: 401},
		"two":                           {handler: usual, lines: []string{s.valid(nil), s.valid(nil)}, status: 401},
		"an empty one and a valid one":  {handler: open, lines: []string{"", s.valid(nil)}, status: 401},
		"two in a line":                 {handler: usual, lines: []string{s.valid(nil) + ", " + s.valid(nil)}, status: 401},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header[http.CanonicalHeaderKey(Header)] = c.lines
		if c.lines == nil {
			r.Header.Del(Header)
		}
		w := httptest.NewRecorder()
		c.handler.ServeHTTP(w, r)
		if w.Code != c.status || c.body != "" && w.Body.String() != c.body {
			t.Errorf("%s: %d %q", name, w.Code, w.Body)
		}
		if w.Code == 401 && (refused.Load() == nil || w.Body.String() != "Unauthorized\n") {
			t.Errorf("%s: %q, %v", name, w.Body, refused.Load())
		}
	}
	s.down.Store(true)
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set(Header, s.valid(nil))
	handler(Config{}).ServeHTTP(w, r)
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("without keys: %d", w.Code)
	}
}

// Whatever comes, Verify neither panics nor accepts what the service has not signed.
func FuzzVerify(f *testing.F) {
	s := newService(f)
	v := s.verifier(Config{})
	good := s.valid(nil)
	for _, raw := range []string{"", good, good + "x", strings.ToUpper(good), "..", "e30.e30.e30"} {
		f.Add(raw)
	}
	input := good[:strings.LastIndexByte(good, '.')+1] // a signature has several spellings, what is signed has one
	f.Fuzz(func(t *testing.T, raw string) {
		id, err := v.Verify(context.Background(), raw)
		if (id == nil) == (err == nil) || id != nil && !strings.HasPrefix(raw, input) {
			t.Errorf("%q: %+v, %v", raw, id, err)
		}
	})
}
