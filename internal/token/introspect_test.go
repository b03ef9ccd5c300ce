package token

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"iam-service/internal/dev/devrauth"
	"iam-service/internal/iam"
)

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
	w.invalid("a token that was never issued", "made-up", "not active")
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

// Opaque tokens can be made up: what they cost their issuer is bounded, and no caller learns
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
func TestForgedTokensOfOneAudienceDoNotDelayOtherAudiences(t *testing.T) {
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
	admin := w.v.ForAudience("iam-admin")
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
func TestAnOpaqueTokenIsIntrospectedOnce(t *testing.T) {
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
func TestTheIntrospectionEndpointIsConfigurable(t *testing.T) {
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

func TestAnOpaqueTokenIsSentOnlyToTheNamedIssuer(t *testing.T) {
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
