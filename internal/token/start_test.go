package token

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"iam-service/internal/dev/await"
	"iam-service/internal/dev/logbuffer"
)

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

func (k *keeper) stored() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.at.IsZero()
}

func (k *keeper) holds(jwks string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return string(k.jwks) == jwks
}

func TestAStartWithoutTheIssuerUsesStoredKeys(t *testing.T) {
	t.Parallel()
	k := &keeper{}
	w := newWorld(t, func(c *Config) { c.KeyStore = k })
	await.True(t, "the keys are stored", k.stored)
	raw := w.mint("ES256", map[string]any{"sub": "alice"})
	w.rauth.SetGone(true)
	again := func(k KeyStore) (*Verifier, error) {
		v, err := New(Config{Issuers: w.v.cfg.Issuers, Log: w.v.cfg.Log, KeyStore: k})
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
		t.Errorf("with stored keys: %v", err)
	}
	await.True(t, "its state says that the issuer is away", func() bool {
		s := v.Keys()[0]
		return s.Available && s.Err != nil
	})
	if _, err := again(&keeper{}); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("without stored keys: %v", err)
	}
	k.at = time.Now().Add(-25 * time.Hour)
	if _, err := again(k); err == nil {
		t.Error("keys older than JWKS_MAX_AGE were used")
	}
}

// One that is silent, not refusing: the start's time must not all go into waiting.
func TestAStartUsesStoredKeysWhereTheIssuerIsSilent(t *testing.T) {
	t.Parallel()
	k := &keeper{}
	w := newWorld(t, func(c *Config) { c.KeyStore = k })
	await.True(t, "the keys are stored", k.stored)
	silent := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	})}
	v, err := New(Config{Issuers: w.v.cfg.Issuers, Log: w.v.cfg.Log, KeyStore: k, Client: silent})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	running, stop := context.WithCancel(ctx)
	defer stop()
	if err := v.Start(running, time.Now().Add(400*time.Millisecond)); err != nil {
		t.Error(err)
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

// Keys are fetched in goroutines of their own, so a panic there would end the process.
func TestAPanicOfWhatStoresKeysEndsNothing(t *testing.T) {
	t.Parallel()
	var lines logbuffer.Buffer
	w := newWorld(t, func(c *Config) { c.KeyStore, c.Log = panicking{}, slog.New(slog.NewJSONHandler(&lines, nil)) })
	for !strings.Contains(lines.String(), "panic: no keeper") {
		time.Sleep(time.Millisecond)
	}
	if _, err := w.v.Verify(ctx, w.mint("ES256", map[string]any{"sub": "alice"}), "", time.Now().Add(10*time.Second)); err != nil {
		t.Error(err)
	}
	w.rauth.SetGone(true)
	again, err := New(Config{Issuers: w.v.cfg.Issuers, Log: w.v.cfg.Log, KeyStore: panicking{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Start(ctx, time.Now().Add(300*time.Millisecond)); err == nil {
		t.Error("a start has keys from no source")
	}
}

type panicking struct{}

func (panicking) SaveKeys(context.Context, string, []byte, []byte, time.Time) error {
	panic("no keeper")
}

func (panicking) LoadKeys(context.Context, string) (discovery, jwks []byte, at time.Time, err error) {
	panic("no keeper")
}
