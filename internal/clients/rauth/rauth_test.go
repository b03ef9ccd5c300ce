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

	"iam-service/internal/clients/rauth"
	"iam-service/internal/clients/rauth/rauthtest"
	"iam-service/internal/dev/devrauth"
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
		var rotations atomic.Int64
		p.Break(func(_, path string) devrauth.Fault {
			if !strings.HasSuffix(path, "/rotate") {
				return ""
			}
			rotations.Add(1)
			return fault
		})
		if _, err := c.Rotate(t.Context(), "there"); iam.KindOf(err) != iam.Unavailable || rotations.Load() != 1 {
			t.Errorf("%s: rotate: %v after %d attempts", fault, err, rotations.Load())
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
		if err := client.Update(t.Context(), registration("a")); errors.Is(err, iam.ErrOutcomeUnknown) || p.counted("update "+c.reason) != 1 {
			t.Errorf("%s: an update that could not read: %v, counted %v", fault, err, p.errors)
		}
		p.Break(func(method, _ string) devrauth.Fault {
			if method == http.MethodGet {
				return ""
			}
			return fault
		})
		if err := client.Update(t.Context(), registration("a")); !errors.Is(err, iam.ErrOutcomeUnknown) || p.counted("update "+c.reason) != 2 {
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
	if asked != 10 || p.counted("get circuit_open") != 5 { // each failure asks for the list too
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

// What fails for one client, however often, opens no breaker for others; an old secret that
// cannot be ended is such a thing.
func TestOneClientOpensNoBreaker(t *testing.T) {
	t.Parallel()
	for _, fault := range []devrauth.Fault{devrauth.Fault500, devrauth.FaultSlow} {
		p := newProvider(t)
		c := p.client(func(cfg *rauth.Config) {
			cfg.Open = time.Hour
			if fault == devrauth.FaultSlow {
				cfg.Timeout = devrauth.SlowFor / 3
			}
		})
		for _, id := range []string{"stuck", "other"} {
			if _, err := c.Create(t.Context(), registration(id)); err != nil {
				t.Fatal(err)
			}
		}
		p.Break(func(_, path string) devrauth.Fault {
			if strings.Contains(path, "stuck") {
				return fault
			}
			return ""
		})
		for range 6 {
			if err := c.Retire(t.Context(), "stuck"); iam.KindOf(err) != iam.Unavailable || iam.CodeOf(err) == "idp_circuit_open" {
				t.Fatalf("%s: %v", fault, err)
			}
		}
		if err := c.Update(t.Context(), registration("other")); err != nil {
			t.Errorf("%s: another client: %v", fault, err)
		}
	}
}

// A 404 of a wrong place is not believed: nothing is deleted there, nothing is missing, and
// each call counts and logs that the answer is a bad one.
func TestAWrongPlaceIsNotBelieved(t *testing.T) {
	t.Parallel()
	for name, wrong := range map[string]http.HandlerFunc{
		"404": func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) },
		"200": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>welcome</html>") },
		"400": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "plain HTTP was sent to an HTTPS port", http.StatusBadRequest)
		},
		"an object": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"client_id":"another"}`) },
	} {
		p := newProvider(t)
		if _, err := p.client(nil).Create(t.Context(), registration("a")); err != nil {
			t.Fatal(err)
		}
		elsewhere := httptest.NewServer(wrong)
		t.Cleanup(elsewhere.Close)
		for operation, call := range map[string]func(*rauth.Client) error{
			"create": func(c *rauth.Client) error { _, err := c.Create(t.Context(), registration("a")); return err },
			"get":    func(c *rauth.Client) error { _, err := c.Get(t.Context(), "a"); return err },
			"update": func(c *rauth.Client) error { return c.Update(t.Context(), registration("a")) },
			"delete": func(c *rauth.Client) error { return c.Delete(t.Context(), "a") },
			"rotate": func(c *rauth.Client) error { _, err := c.Rotate(t.Context(), "a"); return err },
			"retire": func(c *rauth.Client) error { return c.Retire(t.Context(), "a") },
			"list":   func(c *rauth.Client) error { return c.List(t.Context(), func(iam.Registration) error { return nil }) },
		} {
			if operation == "retire" && name == "an object" {
				continue // a success that says something
			}
			clear(p.errors)
			p.log.Reset()
			err := call(p.client(func(cfg *rauth.Config) { cfg.URL = elsewhere.URL }))
			counted := p.counted(operation + " bad_response")
			if operation == "delete" && name != "404" && name != "400" { // it was not refused: it is looked for
				counted += p.counted("get bad_response")
			}
			if iam.KindOf(err) != iam.Unavailable || iam.CodeOf(err) != "idp_bad_response" || counted != 1 || !strings.Contains(p.log.String(), "client in upstream IdP") {
				t.Errorf("%s: %s: %v, counted %v, log %s", name, operation, err, p.errors, &p.log)
			}
		}
		if p.Provisioned()["a"] == nil {
			t.Errorf("%s: the client is gone", name)
		}
	}
}

// A provider that accepts a deletion and has not done it yet is asked again.
func TestADeletionThatIsOnlyAcceptedIsNotDone(t *testing.T) {
	t.Parallel()
	var deleted atomic.Bool
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodDelete:
			w.WriteHeader(http.StatusAccepted)
		case r.URL.Path == "/admin/clients":
			fmt.Fprint(w, "[]")
		case deleted.Load():
			w.WriteHeader(http.StatusNotFound)
		default:
			fmt.Fprint(w, `{"client_id":"a"}`)
		}
	}))
	t.Cleanup(srv.Close)
	c, err := rauth.New(rauth.Config{URL: srv.URL, Log: slog.New(slog.DiscardHandler), Pause: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(t.Context(), "a"); iam.CodeOf(err) != "idp_bad_response" {
		t.Errorf("it is there: %v", err)
	}
	deleted.Store(true)
	if err := c.Delete(t.Context(), "a"); err != nil {
		t.Errorf("it is gone: %v", err)
	}
}

// The check of the admin API says once that it does not answer as one, and once that it
// does again.
func TestTheAdminAPIIsWatched(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	var log syncBuffer
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
		for end := time.Now().Add(time.Minute); !reached() && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
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

// What others have set for a client outlasts what we write, and what we want empty does not.
func TestAnUpdateKeepsWhatOthersHaveSet(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	c := p.client(nil)
	r := registration("a")
	r.JWKSURI, r.Audience = "https://app.example.com/keys", []string{"one"}
	r.Metadata = iam.Marks{iam.MarkInstance: "us", iam.MarkVersion: "1"}
	if _, err := c.Create(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	foreign := `"skip_consent":true,"client_credentials_grant_access_token_lifespan":"5m0s","access_token_strategy":"jwt","owner":"billing team","contacts":["a@example.com"],` +
		`"allowed_cors_origins":["https://app.example.com"],"backchannel_logout_uri":"https://app.example.com/out","large":12345678901234567890`
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, p.srv.URL+"/admin/clients/a", strings.NewReader(
		`{"client_name":"by hand","jwks_uri":"https://app.example.com/keys","audience":["one","two"],"metadata":{"iam_instance":"us","cost_center":42,"nested":{"a":[1]}},`+foreign+`}`))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	r.JWKSURI, r.Metadata[iam.MarkVersion] = "", "2"
	if err := c.Update(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	got := p.Provisioned()["a"]
	text, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range strings.Split(foreign, ",") {
		if name, _, _ := strings.Cut(part, ":"); name != `"large"` && !strings.Contains(string(text), part) {
			t.Errorf("%s is lost: %s", part, text)
		}
	}
	marks, _ := got["metadata"].(map[string]any)
	if marks["cost_center"] != 42.0 || marks["nested"] == nil || marks[iam.MarkVersion] != "2" {
		t.Errorf("its metadata are %v", marks)
	}
	if got["jwks_uri"] != nil || got["client_name"] != nil || fmt.Sprint(got["audience"]) != "[one]" {
		t.Errorf("what is ours is %v", got)
	}
	// A client of a version that knew no audience loses none.
	r.Audience = nil
	if err := c.Update(t.Context(), r); err != nil || fmt.Sprint(p.Provisioned()["a"]["audience"]) != "[one]" {
		t.Errorf("%v, %v", p.Provisioned()["a"]["audience"], err)
	}
	there, err := c.Get(t.Context(), "a")
	want := []string{"access_token_strategy", "allowed_cors_origins", "backchannel_logout_uri", "client_credentials_grant_access_token_lifespan", "skip_consent"}
	if err != nil || !slices.Equal(there.Unmanaged, want) {
		t.Errorf("beyond the defaults are %v, %v", there.Unmanaged, err)
	}
	if _, err := c.Create(t.Context(), registration("plain")); err != nil {
		t.Fatal(err)
	}
	if plain, err := c.Get(t.Context(), "plain"); err != nil || len(plain.Unmanaged) != 0 {
		t.Errorf("of a new client: %v, %v", plain.Unmanaged, err)
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

// A refusal for good names the field that it is about, as the provider names it, and the
// log has why, however late the provider comes to it.
func TestARefusalNamesItsField(t *testing.T) {
	t.Parallel()
	const hydra = "The value of one of the Client Metadata fields is invalid and the server has rejected this request. Note that an Authorization Server MAY choose to substitute a valid value for any requested parameter of a Client's Metadata. "
	var status int
	var body string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	t.Cleanup(srv.Close)
	for _, x := range []struct{ code, why, field string }{
		{"invalid_redirect_uri", "not this one", "/redirect_uris"},
		{"invalid_client_metadata", `post_logout_redirect_uri "https://app.example.com/` + strings.Repeat("x", 200) + `" must match the domain, port, scheme of at least one of the registered redirect URIs but did not`, "/post_logout_redirect_uris"},
		{"invalid_client_metadata", "Fields jwks and jwks_uri can not both be set, you must choose one.", "/jwks_uri"},
		{"invalid_client_metadata", "the audience is not known", "/audience"},
		{"invalid_client_metadata", "scope beyond what this server has", "/scopes"},
	} {
		for _, form := range []string{
			fmt.Sprintf(`{"error":%q,"error_description":%q}`, x.code, hydra+x.why),
			fmt.Sprintf(`{"error":{"code":400,"status":%q,"message":%q,"reason":%q}}`, x.code, hydra, x.why),
		} {
			status, body = http.StatusBadRequest, form
			var log bytes.Buffer
			c, err := rauth.New(rauth.Config{URL: srv.URL, Log: slog.New(slog.NewJSONHandler(&log, nil)), Pause: time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.Create(t.Context(), registration("a"))
			e, ok := errors.AsType[*iam.Error](err)
			if !ok || e.Kind != iam.Invalid || len(e.Fields) != 1 || e.Fields[0].Pointer != x.field || strings.Contains(e.Detail, x.why) {
				t.Errorf("%s: got %v", x.why, err)
			}
			if end := x.why[len(x.why)-10:]; !strings.Contains(log.String(), end) {
				t.Errorf("the log lacks %q: %s", end, &log)
			}
		}
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
