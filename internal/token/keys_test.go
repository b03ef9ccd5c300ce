package token

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"iam-service/internal/dev/await"
	"iam-service/internal/dev/devrauth"
	"iam-service/internal/dev/logbuffer"
	"iam-service/internal/iam"
)

func TestKeysAreRefreshedInTheBackground(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.Refresh = 10 * time.Millisecond })
	running, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); w.v.KeepFresh(running) }()
	before := w.rauth.KeyFetches()
	await.True(t, "the keys are fetched again and again", func() bool { return w.rauth.KeyFetches() > before+2 })
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

// Hydra signs with a new key at once, and an old token may have caused a fetch just before.
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
	var lines logbuffer.Buffer
	w := newWorld(t, func(c *Config) {
		c.KeyStore, c.Log = k, slog.New(slog.NewJSONHandler(&lines, nil))
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
	await.True(t, "the keys are stored", k.stored)
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
		await.True(t, "that there are none is stored", func() bool { return k.holds(none) })
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
	again, err := New(Config{Issuers: w.v.cfg.Issuers, Log: w.v.cfg.Log, KeyStore: k})
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Start(ctx, time.Now().Add(300*time.Millisecond)); err == nil {
		t.Error("a start brought keys back that were withdrawn")
	}
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
		t.Errorf("a good key next to an unknown one: %v", err)
	}
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
