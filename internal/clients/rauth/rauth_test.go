package rauth_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"iam-service/internal/clients/rauth"
	"iam-service/internal/clients/rauth/rauthtest"
	"iam-service/internal/dev/await"
	"iam-service/internal/dev/devrauth"
	"iam-service/internal/dev/logbuffer"
	"iam-service/internal/iam"
)

// provider is a development R-Auth, and what the adapter said of it.
type provider struct {
	testing.TB
	*devrauth.Server
	srv *httptest.Server
	log bytes.Buffer

	mu     sync.Mutex
	errors map[string]int
	calls  map[string]int
}

func newProvider(t testing.TB) *provider {
	t.Helper()
	p := &provider{TB: t, errors: map[string]int{}, calls: map[string]int{}}
	var handler http.Handler
	p.srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.calls[r.Method]++
		p.mu.Unlock()
		handler.ServeHTTP(w, r)
	}))
	p.srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	t.Cleanup(p.srv.Close)
	var err error
	if p.Server, err = devrauth.NewShared(p.srv.URL, "x", "provider"); err != nil {
		t.Fatal(err)
	}
	handler = p.Handler()
	return p
}

func (p *provider) client(change func(*rauth.Config)) *rauth.Client {
	p.Helper()
	cfg := rauth.Config{
		URL: p.srv.URL, Log: slog.New(slog.NewTextHandler(&p.log, nil)), Pause: time.Millisecond, Timeout: 5 * time.Second,
		OnError: func(operation, reason string) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.errors[operation+" "+reason]++
		},
	}
	if change != nil {
		change(&cfg)
	}
	c, err := rauth.New(cfg)
	if err != nil {
		p.Fatal(err)
	}
	return c
}

func (p *provider) counted(what string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.errors[what]
}

func registration(id string) iam.Registration {
	return iam.Registration{ClientID: id, TokenEndpointAuthMethod: "client_secret_basic", GrantTypes: []string{"client_credentials"}}
}

func TestTheAdapterConforms(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	rauthtest.Run(t, p.client(nil), func(id string, secret iam.Secret) bool { return slices.Contains(p.Secrets(id), string(secret)) })
}

// The check of the admin API says once that it does not answer as one, and once that it
// does again.
func TestTheAdminAPIIsWatched(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	var log logbuffer.Buffer
	var right atomic.Bool
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !right.Load() {
			http.NotFound(w, r)
			return
		}
		p.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	c := p.client(func(cfg *rauth.Config) { cfg.URL, cfg.Log = front.URL, slog.New(slog.NewTextHandler(&log, nil)) })
	if c.State() != nil {
		t.Error("it is said to be unusable before it was asked")
	}
	watchUntil := func(reached func() bool) {
		ctx, stop := context.WithCancel(t.Context())
		var watching sync.WaitGroup
		watching.Go(func() { c.Watch(ctx) })
		await.True(t, "the state is known", reached)
		stop()
		watching.Wait()
	}
	watchUntil(func() bool { return c.State() != nil })
	if iam.CodeOf(c.State()) != "idp_bad_response" || !strings.Contains(log.String(), "RAUTH_ADMIN_URL") || p.counted("list bad_response") != 1 {
		t.Errorf("%v, counted %v, log %s", c.State(), p.errors, log.String())
	}
	right.Store(true)
	watchUntil(func() bool { return c.State() == nil })
	if c.State() != nil || !strings.Contains(log.String(), "usable again") {
		t.Errorf("%v, log %s", c.State(), log.String())
	}
}

// Credentials are read again: a rotated file works without a restart, and a token that
// was taken back is renewed once.
func TestCredentialsAreReadAgain(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	file := filepath.Join(t.TempDir(), "token")
	write := func(s string) {
		if err := os.WriteFile(file, []byte(s+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first")
	p.AdminToken("first")
	c := p.client(func(cfg *rauth.Config) { cfg.TokenFile = file })
	if _, err := c.Create(t.Context(), registration("a")); err != nil {
		t.Fatal(err)
	}
	p.AdminToken("second")
	if _, err := c.Get(t.Context(), "a"); iam.CodeOf(err) != "idp_unauthorized" {
		t.Errorf("got %v", err)
	}
	write("second")
	if _, err := c.Get(t.Context(), "a"); err != nil {
		t.Error(err)
	}

	// Client credentials: one token for many calls, another one when that is refused.
	tokens, current := 0, ""
	secret := "old"
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, got, _ := r.BasicAuth()
		if id != "svc" || got != secret {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, `{"error":"invalid_client","error_description":"the secret %s is wrong"}`, got)
			return
		}
		tokens++
		current = fmt.Sprint("token", tokens)
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":3600}`, current)
	}))
	t.Cleanup(endpoint.Close)
	write("old")
	p = newProvider(t)
	p.AdminToken("token1")
	c = p.client(func(cfg *rauth.Config) {
		cfg.ClientID, cfg.SecretFile = "svc", file
		cfg.TokenURL = func(context.Context) (string, error) { return endpoint.URL, nil }
	})
	for range 3 {
		if _, err := c.Get(t.Context(), "a"); iam.KindOf(err) != iam.NotFound {
			t.Fatal(err)
		}
	}
	if tokens != 1 {
		t.Errorf("%d tokens for three calls", tokens)
	}
	p.AdminToken("token2") // the first was taken back
	if _, err := c.Get(t.Context(), "a"); iam.KindOf(err) != iam.NotFound || tokens != 2 || len(p.errors) != 0 {
		t.Errorf("%v with %d tokens", err, tokens)
	}
	secret = "new"
	p.AdminToken("token3")
	_, err := c.Get(t.Context(), "a")
	if iam.CodeOf(err) != "idp_token_unauthorized" || p.counted("token unauthorized") != 1 || strings.Contains(fmt.Sprint(err)+p.log.String(), "the secret old") {
		t.Errorf("got %v, log %s", err, &p.log)
	}
	write("new")
	if _, err := c.Get(t.Context(), "a"); iam.KindOf(err) != iam.NotFound {
		t.Error(err)
	}
}
