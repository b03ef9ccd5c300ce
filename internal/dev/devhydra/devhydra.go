// Package devhydra runs Ory Hydra's own program on loopback, for tests against a real
// provider: "make test-hydra" builds it from its Go module.
//
// It owns the process, its configuration, and the steps that a person takes in a browser to
// obtain a token. It knows nothing of the service.
package devhydra

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"iam-service/internal/dev/freeport"
)

// Hydra is a running Ory Hydra.
type Hydra struct {
	Issuer string // the public API: tokens, keys, discovery
	Admin  string // the admin API, without /admin

	cmd *exec.Cmd
	log *os.File
}

// redirect is where browsers are sent with a code; nothing listens there.
const redirect = "http://127.0.0.1:9/callback"

// ForTest starts the program that HYDRA names until the test ends, and skips the test where it names none.
func ForTest(t testing.TB) *Hydra {
	t.Helper()
	program := os.Getenv("HYDRA")
	if program == "" {
		t.Skip(`Hydra takes minutes to build: "make test-hydra" builds it and runs this test, nightly too`)
	}
	h, err := Start(t.Context(), program, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Stop)
	return h
}

// Start runs program with its data in dir, until Stop. Access tokens are JWTs, as the service
// needs them; everything else is Hydra's default.
func Start(ctx context.Context, program, dir string) (*Hydra, error) {
	addrs, err := freeport.Addrs(2)
	if err != nil {
		return nil, err
	}
	h := &Hydra{Issuer: "http://" + addrs[0], Admin: "http://" + addrs[1]}
	_, public, _ := strings.Cut(addrs[0], ":")
	_, admin, _ := strings.Cut(addrs[1], ":")
	settings := filepath.Join(dir, "hydra.yml")
	text := fmt.Sprintf(`dsn: sqlite://%s?_fk=true
serve:
  public: {host: 127.0.0.1, port: %s}
  admin: {host: 127.0.0.1, port: %s}
urls:
  self: {issuer: %s}
  login: http://127.0.0.1:9/login
  consent: http://127.0.0.1:9/consent
secrets: {system: [a-secret-of-development-alone]}
strategies: {access_token: jwt}
sqa: {opt_out: true}
`, filepath.Join(dir, "hydra.sqlite"), public, admin, h.Issuer)
	if err := os.WriteFile(settings, []byte(text), 0o600); err != nil {
		return nil, err
	}
	if out, err := exec.CommandContext(ctx, program, "migrate", "sql", "-y", "-e", "-c", settings).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("migrate Hydra's database: %w: %s", err, out)
	}
	if h.log, err = os.Create(filepath.Join(dir, "hydra.log")); err != nil {
		return nil, err
	}
	h.cmd = exec.Command(program, "serve", "all", "--dev", "-c", settings)
	h.cmd.Stdout, h.cmd.Stderr = h.log, h.log
	if err := h.cmd.Start(); err != nil {
		return nil, err
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if h.do(ctx, http.MethodGet, h.Admin+"/health/ready", nil, nil) == nil && h.do(ctx, http.MethodGet, h.Issuer+"/health/ready", nil, nil) == nil {
			return h, nil
		}
		if time.Now().After(end) || ctx.Err() != nil {
			h.Stop()
			out, err := os.ReadFile(h.log.Name())
			return nil, fmt.Errorf("Hydra does not become ready: %s %w", out, err)
		}
	}
}

// Stop ends the process.
func (h *Hydra) Stop() {
	_ = h.cmd.Process.Kill() // it may have ended by itself
	_ = h.cmd.Wait()         // killed
	_ = h.log.Close()
}

// Client creates a client in Hydra, or replaces it, by hand: with the metadata that are given.
func (h *Hydra) Client(ctx context.Context, metadata map[string]any) error {
	id := fmt.Sprint(metadata["client_id"])
	err := h.do(ctx, http.MethodPut, h.Admin+"/admin/clients/"+id, metadata, nil)
	if errors.Is(err, errNotFound) {
		return h.do(ctx, http.MethodPost, h.Admin+"/admin/clients", metadata, nil)
	}
	return err
}

// Metadata returns a client as Hydra has it; nil: it has none of that id.
func (h *Hydra) Metadata(ctx context.Context, id string) (metadata map[string]any, err error) {
	err = h.do(ctx, http.MethodGet, h.Admin+"/admin/clients/"+id, nil, &metadata)
	if errors.Is(err, errNotFound) {
		return nil, nil
	}
	return metadata, err
}

// ByCredentials obtains an access token for a program (RFC 6749, section 4.4). An empty
// audience requests none.
func (h *Hydra) ByCredentials(ctx context.Context, id, secret, audience, scope string) (string, error) {
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {scope}}
	if audience != "" {
		form.Set("audience", audience)
	}
	return h.token(ctx, id, secret, form)
}

// ByCode obtains an access token for a person, who logs in as subject and consents to
// everything, by the authorization code flow (RFC 6749, section 4.1). The client's secret is
// "secret": see Person.
func (h *Hydra) ByCode(ctx context.Context, id, subject, audience string) (string, error) {
	p, err := h.Person(subject)
	if err != nil {
		return "", err
	}
	back, err := p.Allow(ctx, h.Issuer+"/oauth2/auth?"+url.Values{
		"client_id": {id}, "response_type": {"code"}, "redirect_uri": {redirect}, "state": {"a-state-that-is-long-enough"}, "audience": {audience},
	}.Encode())
	if err != nil {
		return "", err
	}
	code := back.Query().Get("code")
	if code == "" {
		return "", fmt.Errorf("Hydra leads to %s, without a code", back)
	}
	return h.token(ctx, id, "secret", url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {redirect}})
}

// Browser is a person's, in which they log in as subject. It is also Hydra's login, consent and logout app, by the admin API.
type Browser struct {
	h       *Hydra
	subject string
	client  *http.Client
}

// Person returns a browser.
func (h *Hydra) Person(subject string) (*Browser, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	return &Browser{h, subject, &http.Client{
		Jar: jar, Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Allow visits the URL of an authorization request, logs in, consents to all that is asked for, and returns where Hydra then
// leads to: the client's redirect URI.
func (b *Browser) Allow(ctx context.Context, request string) (*url.URL, error) {
	asked, err := url.Parse(request)
	if err != nil {
		return nil, err
	}
	at, err := b.follow(ctx, request)
	for _, step := range []struct {
		name string
		body map[string]any
	}{{"login", map[string]any{"subject": b.subject}}, {"consent", map[string]any{
		"grant_access_token_audience": asked.Query()["audience"], "grant_scope": strings.Fields(asked.Query().Get("scope")),
	}}} {
		if err == nil {
			at, err = b.accept(ctx, at, step.name, step.body)
		}
	}
	return at, err
}

// Logout visits the URL of a logout (OpenID Connect RP-Initiated Logout 1.0), confirms it, and returns where Hydra then leads to.
func (b *Browser) Logout(ctx context.Context, request string) (*url.URL, error) {
	at, err := b.follow(ctx, request)
	if err == nil && at.Query().Get("logout_challenge") != "" {
		at, err = b.accept(ctx, at, "logout", nil)
	}
	return at, err
}

// follow visits a URL and returns where it leads to.
func (b *Browser) follow(ctx context.Context, from string) (*url.URL, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, err
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return resp.Location()
}

// accept accepts what Hydra asks for at a URL of the app, and returns where it leads to then.
func (b *Browser) accept(ctx context.Context, at *url.URL, what string, body map[string]any) (*url.URL, error) {
	challenge := at.Query().Get(what + "_challenge")
	if challenge == "" {
		return nil, fmt.Errorf("Hydra leads to %s where a %s was due", at, what)
	}
	var to struct {
		URL string `json:"redirect_to"`
	}
	err := b.h.do(ctx, http.MethodPut, b.h.Admin+"/admin/oauth2/auth/requests/"+what+"/accept?"+what+"_challenge="+url.QueryEscape(challenge), body, &to)
	if err != nil {
		return nil, err
	}
	return b.follow(ctx, to.URL)
}

// Person is the metadata of a client that people log in by, for ByCode.
func Person(id string, audiences ...string) map[string]any {
	return map[string]any{
		"client_id": id, "client_secret": "secret", "grant_types": []string{"authorization_code"}, "response_types": []string{"code"},
		"redirect_uris": []string{redirect}, "token_endpoint_auth_method": "client_secret_basic", "audience": audiences,
	}
}

func (h *Hydra) token(ctx context.Context, id, secret string, form url.Values) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.Issuer+"/oauth2/token", strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	req.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	var got struct {
		Token string `json:"access_token"`
	}
	return got.Token, send(req, &got)
}

func (h *Hydra) do(ctx context.Context, method, url string, body, into any) error {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	return send(req, into)
}

var errNotFound = errors.New("not found")

func send(req *http.Request, into any) error {
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err
	case resp.StatusCode == http.StatusNotFound:
		return errNotFound
	case !slices.Contains([]int{http.StatusOK, http.StatusCreated, http.StatusNoContent}, resp.StatusCode):
		return fmt.Errorf("%s %s: %d %s", req.Method, req.URL.Path, resp.StatusCode, text)
	case into == nil:
		return nil
	}
	return json.Unmarshal(text, into)
}
