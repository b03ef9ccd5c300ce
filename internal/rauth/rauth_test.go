package rauth_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
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

	"iam-service/internal/devstack/devrauth"
	"iam-service/internal/iam"
	"iam-service/internal/rauth"
	"iam-service/internal/rauth/rauthtest"
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
	if p.Server, err = devrauth.New(p.srv.URL, "x"); err != nil {
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

// A trouble of a moment is repeated where that is safe, and never a rotation.
func TestWhatIsSafeIsRepeated(t *testing.T) {
	t.Parallel()
	for _, fault := range []devrauth.Fault{devrauth.Fault503, devrauth.Fault429, devrauth.FaultCut} {
		p := newProvider(t)
		c := p.client(nil)
		if _, err := c.Create(t.Context(), registration("there")); err != nil {
			t.Fatal(err)
		}
		var failed atomic.Int64
		p.Break(func(string, string) devrauth.Fault { // the first attempt of each call
			if failed.Add(1)%2 == 1 {
				return fault
			}
			return ""
		})
		if _, err := c.Create(t.Context(), registration("a")); err != nil {
			t.Errorf("%s: create: %v", fault, err)
		}
		if err := c.Update(t.Context(), registration("a")); err != nil {
			t.Errorf("%s: update: %v", fault, err)
		}
		if err := c.Delete(t.Context(), "a"); err != nil {
			t.Errorf("%s: delete: %v", fault, err)
		}
		failed.Store(0)
		if _, err := c.Rotate(t.Context(), "there"); iam.KindOf(err) != iam.Unavailable || failed.Load() != 1 {
			t.Errorf("%s: rotate: %v after %d attempts", fault, err, failed.Load())
		}
	}
}

// Each failure counts under its reason, and says whether it may have been done.
func TestEachFailureHasItsReason(t *testing.T) {
	t.Parallel()
	for fault, c := range map[devrauth.Fault]struct {
		reason  string
		unknown bool // for a rotation, which is never repeated
	}{
		devrauth.Fault500: {"server_error", true}, devrauth.Fault503: {"server_error", true}, devrauth.Fault429: {"rate_limited", false},
		devrauth.FaultCut: {"connection", true}, devrauth.FaultCutDone: {"connection", true}, devrauth.FaultSlow: {"timeout", true},
	} {
		p := newProvider(t)
		client := p.client(func(cfg *rauth.Config) {
			if fault == devrauth.FaultSlow {
				cfg.Timeout = devrauth.SlowFor / 3
			}
		})
		if _, err := p.client(nil).Create(t.Context(), registration("a")); err != nil {
			t.Fatal(err)
		}
		p.Break(func(string, string) devrauth.Fault { return fault })
		_, err := client.Rotate(t.Context(), "a")
		if iam.KindOf(err) != iam.Unavailable || errors.Is(err, iam.ErrOutcomeUnknown) != c.unknown || p.counted("rotate "+c.reason) != 1 {
			t.Errorf("%s: %v, counted %v", fault, err, p.errors)
		}
		if err := client.Update(t.Context(), registration("a")); !errors.Is(err, iam.ErrOutcomeUnknown) || p.counted("update "+c.reason) != 1 {
			t.Errorf("%s: update: %v, counted %v", fault, err, p.errors)
		}
		if !strings.Contains(p.log.String(), "failed to update client in upstream IdP") {
			t.Errorf("%s: the log says %s", fault, &p.log)
		}
	}
	// Nobody listens: nothing was done.
	p := newProvider(t)
	client := p.client(nil)
	p.srv.Close()
	if _, err := client.Rotate(t.Context(), "a"); iam.KindOf(err) != iam.Unavailable || errors.Is(err, iam.ErrOutcomeUnknown) || p.counted("rotate connection") != 1 {
		t.Errorf("refused: %v, counted %v", err, p.errors)
	}
}

// An outage costs little: after some failures nobody is asked any more, for a time.
func TestTheBreakerOpensAndCloses(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	c := p.client(func(cfg *rauth.Config) { cfg.Open = 2 * time.Second })
	p.Break(func(string, string) devrauth.Fault { return devrauth.Fault500 })
	for range 10 {
		if _, err := c.Get(t.Context(), "a"); iam.KindOf(err) != iam.Unavailable {
			t.Fatal(err)
		}
	}
	p.mu.Lock()
	asked := p.calls["GET"]
	p.mu.Unlock()
	if asked != 5 || p.counted("get circuit_open") != 5 {
		t.Errorf("asked %d times, counted %v", asked, p.errors)
	}
	p.Break(nil)
	for until := time.Now().Add(10 * time.Second); ; {
		_, err := c.Get(t.Context(), "a")
		if iam.KindOf(err) == iam.NotFound {
			break
		}
		if time.Now().After(until) {
			t.Fatalf("it stays open: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	// What is not there, or refused, opens nothing.
	for range 20 {
		if _, err := c.Get(t.Context(), "a"); iam.KindOf(err) != iam.NotFound {
			t.Fatal(err)
		}
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

// A page leads to the next one at the same place, and nowhere else.
func TestPagesDoNotLeadElsewhere(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was followed") }))
	t.Cleanup(elsewhere.Close)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/redirect/admin/clients" {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
			return
		}
		w.Header().Set("Link", "<"+elsewhere.URL+`/admin/clients>; rel="next"`)
		fmt.Fprint(w, "[]")
	}))
	t.Cleanup(srv.Close)
	for _, base := range []string{srv.URL, srv.URL + "/redirect"} {
		c, err := rauth.New(rauth.Config{URL: base, Log: slog.New(slog.DiscardHandler), Pause: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		err = c.List(t.Context(), func(iam.Registration) error { return nil })
		if iam.CodeOf(err) != "idp_bad_response" {
			t.Errorf("%s: %v", base, err)
		}
	}
}

// A refusal for good names the field that it is about.
func TestARefusalNamesItsField(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	r := registration("a")
	r.RedirectURIs = []string{"https://refuse-me.example.com/"} // its description says redirect_uris
	_, err := p.client(nil).Create(t.Context(), r)
	e, ok := errors.AsType[*iam.Error](err)
	if !ok || e.Kind != iam.Invalid || len(e.Fields) != 1 || e.Fields[0].Pointer != "/redirect_uris" || strings.Contains(e.Detail, "not this one") {
		t.Errorf("got %v", err)
	}
}

// A provider that knows no rotation is told from one that does not know the client.
func TestAProviderThatCannotRotateIsTold(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusNotFound, http.StatusMethodNotAllowed} {
		var put map[string]any
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case strings.HasSuffix(r.URL.Path, "/rotate"), strings.HasSuffix(r.URL.Path, "/gone"):
				w.WriteHeader(status)
			case r.Method == http.MethodPut:
				_ = json.NewDecoder(r.Body).Decode(&put)
				fallthrough
			default:
				fmt.Fprint(w, `{"client_id":"a"}`)
			}
		}))
		t.Cleanup(srv.Close)
		c, err := rauth.New(rauth.Config{URL: srv.URL, Log: slog.New(slog.DiscardHandler), Pause: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Rotate(t.Context(), "a"); iam.CodeOf(err) != iam.CodeCannotRotate {
			t.Errorf("%d: %v", status, err)
		}
		if _, err := c.Rotate(t.Context(), "gone"); iam.CodeOf(err) == iam.CodeCannotRotate {
			t.Errorf("%d: %v", status, err)
		}
		if err := c.SetSecret(t.Context(), registration("a"), "ours"); err != nil || put["client_secret"] != "ours" {
			t.Errorf("%v, put %v", err, put)
		}
	}
}

// What an answer holds beside its words about a failure is not logged: it could be a
// secret.
func TestNoAnswerIsLogged(t *testing.T) {
	t.Parallel()
	for _, status := range []int{200, 201, 202, 400, 500} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			fmt.Fprint(w, `{"client_id":"a","client_secret":"hush","error":"some_error"`)
			if status != 201 && status != 200 {
				fmt.Fprint(w, "}")
			}
		}))
		t.Cleanup(srv.Close)
		var log bytes.Buffer
		c, err := rauth.New(rauth.Config{URL: srv.URL, Log: slog.New(slog.NewTextHandler(&log, nil)), Pause: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		_, err1 := c.Create(t.Context(), registration("a"))
		_, err2 := c.Rotate(t.Context(), "a")
		if err1 == nil && err2 == nil || strings.Contains(fmt.Sprint(err1, err2, &log), "hush") {
			t.Errorf("%d: %v, %v, log %s", status, err1, err2, &log)
		}
	}
}

// Words that repeat the secret that was set are not logged as they are.
func TestAProviderThatRepeatsASecretIsNotRepeated(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var got struct {
			Secret string `json:"client_secret"`
		}
		_ = json.NewDecoder(r.Body).Decode(&got)
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"error":"invalid_client_metadata","error_description":"client_secret %s is too weak"}`, got.Secret)
	}))
	t.Cleanup(srv.Close)
	var log bytes.Buffer
	c, err := rauth.New(rauth.Config{URL: srv.URL, Log: slog.New(slog.NewTextHandler(&log, nil)), Pause: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	err = c.SetSecret(t.Context(), registration("a"), "hush-hush")
	if said := fmt.Sprint(err) + log.String(); strings.Contains(said, "hush") || !strings.Contains(said, "too weak") {
		t.Errorf("said is %s", said)
	}
}

// An id is one segment of a path, whatever it holds.
func TestAnIDLeadsNowhereElse(t *testing.T) {
	t.Parallel()
	var asked []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.EscapedPath())
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(srv.Close)
	c, err := rauth.New(rauth.Config{URL: srv.URL, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"", ".", "..", "x/../../keys/jwt"} {
		_ = c.Delete(t.Context(), id)
	}
	if len(asked) != 1 || asked[0] != "/admin/clients/x%2F..%2F..%2Fkeys%2Fjwt" {
		t.Errorf("asked for %q", asked)
	}
}

// Who gives up is no failure of the provider, and waits for nobody's token.
func TestWhoGivesUpIsNoFailureOfTheProvider(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	hang := make(chan struct{})
	c := p.client(func(cfg *rauth.Config) {
		cfg.ClientID, cfg.Secret, cfg.Log = "svc", "x", slog.New(slog.DiscardHandler)
		cfg.TokenURL = func(ctx context.Context) (string, error) {
			select {
			case <-hang:
			case <-ctx.Done():
			}
			return "", errors.New("it hangs")
		}
	})
	var hanging sync.WaitGroup
	hanging.Go(func() { _, _ = c.Get(t.Context(), "a") })
	t.Cleanup(func() { close(hang); hanging.Wait() })
	began := time.Now()
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Get(short, "a"); iam.KindOf(err) != iam.Unavailable || time.Since(began) > 3*time.Second {
		t.Errorf("%v after %s", err, time.Since(began))
	}
	waited := p.counted("get timeout") // it does not answer: that is its failure
	gone, stop := context.WithCancel(t.Context())
	stop()
	if _, err := c.Get(gone, "a"); iam.KindOf(err) != iam.Unavailable {
		t.Errorf("got %v", err)
	}
	if n := p.counted("get timeout") + p.counted("get connection"); n != waited {
		t.Errorf("%d were counted", n-waited)
	}
}

func TestASecretIsNotPrinted(t *testing.T) {
	t.Parallel()
	s := iam.Secret("hush")
	var b bytes.Buffer
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "secret", s)
	if said := fmt.Sprint(s) + fmt.Sprintf("%v %s", s, s) + b.String(); strings.Contains(said, "hush") {
		t.Error(said)
	}
}
