// Package rauth provisions clients in the identity provider, through R-Auth's admin API,
// which is also Ory Hydra's.
//
// It owns the calls, their repetition where repeating is safe, the patience with a
// provider that is away (a breaker), and its own credentials. It does not know what a
// client is for, nor what is in our tables.
//
// A failure says what the caller can do about it:
//
//	iam.Invalid      the provider refuses this metadata for good
//	iam.NotFound     there is no such client
//	iam.Conflict     there is one already
//	iam.Unavailable  not now; with iam.ErrOutcomeUnknown in its chain it may have been done
package rauth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-retryablehttp"
	"github.com/sony/gobreaker/v2"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"iam-service/internal/iam"
)

// Config of a Client.
type Config struct {
	URL string // of the admin API, without /admin

	// Credentials: a token of a file, or client credentials, or none. What is in files is
	// read again for each new token.
	TokenFile     string
	TokenURL      func(context.Context) (string, error) // the provider's token endpoint, by discovery
	ClientID      string
	Secret        string
	SecretFile    string // instead of Secret
	TokenAudience string // "": none is asked for

	HTTP    *http.Client  // nil: one with time-outs that follows no redirects
	Timeout time.Duration // of one attempt; 0: 3 s
	Pause   time.Duration // before the first repetition; 0: 100 ms
	Open    time.Duration // how long an open breaker stays open; 0: 10 s
	Log     *slog.Logger
	OnError func(operation, reason string) // told of each failed call; may be nil
}

// Reasons are the values of the label that counts failed calls.
var Reasons = []string{"timeout", "connection", "unauthorized", "forbidden", "rate_limited", "server_error", "bad_response", "circuit_open"}

// Operations are the other one.
var Operations = []string{"create", "get", "update", "delete", "list", "rotate", "retire", "token"}

// Limits.
const (
	maxAnswer  = 4 << 20
	repeats    = 2               // beyond the first attempt
	maxPause   = 2 * time.Second // also where the provider asks for more
	trips      = 5               // failures in a row that open the breaker
	pageSize   = 500
	earlyRenew = 30 * time.Second
)

// Client calls the provider. It is safe for concurrent use.
type Client struct {
	cfg     Config
	base    *url.URL
	once    *retryablehttp.Client // repeats nothing
	again   *retryablehttp.Client
	breaker *gobreaker.CircuitBreaker[*answer]

	mu    sync.Mutex
	token *oauth2.Token
}

// New returns a client; it calls nobody yet.
func New(cfg Config) (*Client, error) {
	base, err := url.Parse(strings.TrimSuffix(cfg.URL, "/"))
	if err != nil || base.Host == "" {
		return nil, errors.New("the URL of the admin API cannot be read")
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 3 * time.Second
	}
	if cfg.Pause <= 0 {
		cfg.Pause = 100 * time.Millisecond
	}
	if cfg.Open <= 0 {
		cfg.Open = 10 * time.Second
	}
	if cfg.OnError == nil {
		cfg.OnError = func(string, string) {}
	}
	if cfg.HTTP == nil {
		t := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // it is one
		t.MaxIdleConnsPerHost = 8
		cfg.HTTP = &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	attempts := *cfg.HTTP
	attempts.Timeout = cfg.Timeout
	c := &Client{cfg: cfg, base: base}
	repeating := func(most int) *retryablehttp.Client {
		return &retryablehttp.Client{
			HTTPClient: &attempts, RetryMax: most, RetryWaitMin: cfg.Pause, RetryWaitMax: maxPause, CheckRetry: worthAgain, Backoff: pause,
			ErrorHandler: retryablehttp.PassthroughErrorHandler, // the last answer is ours to judge
		}
	}
	c.once, c.again = repeating(0), repeating(repeats)
	c.breaker = gobreaker.NewCircuitBreaker[*answer](gobreaker.Settings{
		Name: "rauth", MaxRequests: 1, Timeout: cfg.Open,
		ReadyToTrip:  func(n gobreaker.Counts) bool { return n.ConsecutiveFailures >= trips },
		IsSuccessful: func(err error) bool { return iam.KindOf(err) != iam.Unavailable || errors.Is(err, context.Canceled) },
	})
	return c, nil
}

// worthAgain repeats what is the provider's trouble of a moment.
func worthAgain(ctx context.Context, resp *http.Response, err error) (bool, error) {
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err != nil {
		return true, nil //nolint:nilerr // the error is what makes it worth it
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true, nil
	}
	return false, nil
}

// pause is what the provider asks for, if that is not too long, else twice as long each
// time, with jitter.
func pause(least, most time.Duration, attempt int, resp *http.Response) time.Duration {
	if resp != nil {
		if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n >= 0 {
			return min(time.Duration(n)*time.Second, most)
		}
	}
	return retryablehttp.LinearJitterBackoff(least, 2*least, attempt, nil)
}

// Secret is a client's secret, as it is obtained: it is not to be kept.
type Secret string

// String keeps a secret from being printed by accident.
func (Secret) String() string { return "(secret)" }

// LogValue keeps it from being logged.
func (Secret) LogValue() slog.Value { return slog.StringValue("(secret)") }

// registered is an answer with a client.
type registered struct {
	iam.Registration
	Secret string `json:"client_secret"`
}

// Create makes a client under the id that is given, so that it can be repeated. The
// secret is empty for a public one. An id that is taken is a Conflict.
func (c *Client) Create(ctx context.Context, r iam.Registration) (Secret, error) {
	var got registered
	err := c.call(ctx, "create", http.MethodPost, c.at("clients"), r, &got, http.StatusCreated)
	if err == nil && got.ClientID != r.ClientID {
		return "", c.bad("create", fmt.Errorf("it made %q and not %q", got.ClientID, r.ClientID))
	}
	return Secret(got.Secret), err
}

// Get returns a client as the provider has it.
func (c *Client) Get(ctx context.Context, id string) (iam.Registration, error) {
	var got registered
	err := c.call(ctx, "get", http.MethodGet, c.at("clients", id), nil, &got, http.StatusOK)
	return got.Registration, err
}

// Update replaces all of a client's metadata.
func (c *Client) Update(ctx context.Context, r iam.Registration) error {
	return c.call(ctx, "update", http.MethodPut, c.at("clients", r.ClientID), r, nil, http.StatusOK)
}

// Delete deletes a client. One that is not there is deleted.
func (c *Client) Delete(ctx context.Context, id string) error {
	err := c.call(ctx, "delete", http.MethodDelete, c.at("clients", id), nil, nil, http.StatusNoContent)
	if iam.KindOf(err) == iam.NotFound {
		return nil
	}
	return err
}

// Rotate gives a client another secret. The one before works until Retire. It is never
// repeated: each call makes a secret.
func (c *Client) Rotate(ctx context.Context, id string) (Secret, error) {
	var got registered
	err := c.call(ctx, "rotate", http.MethodPost, c.at("clients", id, "secrets", "rotate"), nil, &got, http.StatusOK)
	if err == nil && got.Secret == "" {
		return "", c.bad("rotate", errors.New("it answers without a secret"))
	}
	return Secret(got.Secret), err
}

// Retire ends all secrets but the newest.
func (c *Client) Retire(ctx context.Context, id string) error {
	return c.call(ctx, "retire", http.MethodDelete, c.at("clients", id, "secrets", "rotate"), nil, nil, http.StatusNoContent)
}

// List calls each for all clients of the provider, whosever they are.
func (c *Client) List(ctx context.Context, each func(iam.Registration) error) error {
	next := c.at("clients") + "?page_size=" + strconv.Itoa(pageSize)
	for next != "" {
		var page []registered
		a, err := c.ask(ctx, "list", http.MethodGet, next, nil, &page, http.StatusOK)
		if err != nil {
			return err
		}
		for _, r := range page {
			if err := each(r.Registration); err != nil {
				return err
			}
		}
		if next, err = c.nextPage(next, a.header); err != nil {
			return err
		}
	}
	return nil
}

// nextPage reads Link (RFC 8288). It stays with the admin API, wherever it leads.
func (c *Client) nextPage(from string, h http.Header) (string, error) {
	for _, link := range h.Values("Link") {
		for one := range strings.SplitSeq(link, ",") {
			target, params, _ := strings.Cut(strings.TrimSpace(one), ">")
			if !strings.Contains(params, `rel="next"`) {
				continue
			}
			u, err := url.Parse(strings.TrimPrefix(target, "<"))
			base, err2 := url.Parse(from)
			if err != nil || err2 != nil {
				return "", c.bad("list", errors.New("its link to the next page cannot be read"))
			}
			u = base.ResolveReference(u)
			if u.Host != c.base.Host || u.Scheme != c.base.Scheme {
				return "", c.bad("list", fmt.Errorf("its link to the next page leads to %s", u.Host))
			}
			return u.String(), nil
		}
	}
	return "", nil
}

func (c *Client) at(parts ...string) string {
	return c.base.JoinPath(append([]string{"admin"}, parts...)...).String()
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (c *Client) call(ctx context.Context, operation, method, target string, in, out any, want int) error {
	_, err := c.ask(ctx, operation, method, target, in, out, want)
	return err
}

// ask calls under the breaker, and says in the log what failed.
func (c *Client) ask(ctx context.Context, operation, method, target string, in, out any, want int) (*answer, error) {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return nil, err
		}
	}
	a, err := c.breaker.Execute(func() (*answer, error) {
		a, err := c.try(ctx, operation, method, target, body, want, false)
		if err != nil && iam.CodeOf(err) == "idp_unauthorized" {
			// The token may have been taken back before its time.
			a, err = c.try(ctx, operation, method, target, body, want, true)
		}
		return a, err
	})
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		err = c.away(operation, "circuit_open", err)
	}
	if err == nil && out != nil {
		if jsonErr := json.Unmarshal(a.body, out); jsonErr != nil {
			err = c.bad(operation, fmt.Errorf("its answer is not the JSON that is expected: %w", jsonErr))
		}
	}
	if k := iam.KindOf(err); err != nil && k != iam.NotFound && k != iam.Conflict {
		c.cfg.Log.WarnContext(ctx, "failed to "+operation+" client in upstream IdP", slog.Any("err", err))
	}
	return a, err
}

func (c *Client) try(ctx context.Context, operation, method, target string, body []byte, want int, fresh bool) (*answer, error) {
	bearer, err := c.bearer(ctx, fresh)
	if err != nil {
		return nil, err
	}
	var content any
	if body != nil {
		content = body
	}
	req, err := retryablehttp.NewRequestWithContext(ctx, method, target, content)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	caller := c.again
	if operation == "rotate" {
		caller = c.once
	}
	resp, err := caller.Do(req)
	if err != nil {
		return nil, c.failed(operation, err)
	}
	defer resp.Body.Close()
	a := &answer{status: resp.StatusCode, header: resp.Header}
	if a.body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer)); err != nil {
		return nil, c.failed(operation, err)
	}
	if a.status == want {
		return a, nil
	}
	return nil, c.refused(operation, a)
}

// failed sorts what went wrong with the connection. Who was never reached did nothing; of
// what is repeated, an attempt before may have been done.
func (c *Client) failed(operation string, err error) error {
	reason := "connection"
	if t, ok := errors.AsType[net.Error](err); ok && t.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		reason = "timeout"
	}
	if op, ok := errors.AsType[*net.OpError](err); operation != "rotate" || !ok || op.Op != "dial" {
		err = errors.Join(iam.ErrOutcomeUnknown, err)
	}
	return c.away(operation, reason, err)
}

// refused sorts an answer that is none of those wanted. Its own words go to the log.
func (c *Client) refused(operation string, a *answer) error {
	said := fmt.Errorf("it answered %d: %s", a.status, firstBytes(a.body))
	switch a.status {
	case http.StatusNotFound:
		return &iam.Error{Kind: iam.NotFound, Detail: "the identity provider has no such client", Cause: said}
	case http.StatusConflict:
		return &iam.Error{Kind: iam.Conflict, Detail: "the identity provider has such a client already", Cause: said}
	case http.StatusUnauthorized:
		return c.away(operation, "unauthorized", said)
	case http.StatusForbidden:
		return c.away(operation, "forbidden", said)
	case http.StatusTooManyRequests:
		return c.away(operation, "rate_limited", c.perhaps(operation, said))
	case http.StatusServiceUnavailable:
		return c.away(operation, "server_error", c.perhaps(operation, said))
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		e := &iam.Error{Kind: iam.Invalid, Code: "idp_refused", Detail: "the identity provider refuses this client", Cause: said}
		if field := fieldOf(a.body); field != "" {
			e.Fields = []iam.FieldError{{Pointer: "/" + field, Detail: "the identity provider refuses it"}}
		}
		return e
	}
	if a.status >= http.StatusInternalServerError {
		return c.away(operation, "server_error", errors.Join(iam.ErrOutcomeUnknown, said))
	}
	return c.bad(operation, said)
}

// fieldOf finds which field a refusal is about: RFC 7591, section 3.2.2 has a code for
// one of them, and some providers name the others in their words.
func fieldOf(body []byte) string {
	var said struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
		Detail      string `json:"detail"`
	}
	_ = json.Unmarshal(body, &said) // no JSON: nothing is found
	if said.Error == "invalid_redirect_uri" {
		return "redirect_uris"
	}
	for _, field := range []string{
		"redirect_uris", "post_logout_redirect_uris", "grant_types", "response_types", "token_endpoint_auth_method", "jwks_uri", "jwks", "scope", "client_name",
	} {
		if strings.Contains(said.Description+said.Detail, field) {
			return field
		}
	}
	return ""
}

// perhaps is for an answer that says itself that nothing was done: only an attempt before
// it can have been.
func (c *Client) perhaps(operation string, cause error) error {
	if operation == "rotate" {
		return cause
	}
	return errors.Join(iam.ErrOutcomeUnknown, cause)
}

func (c *Client) away(operation, reason string, cause error) error {
	c.cfg.OnError(operation, reason)
	return &iam.Error{Kind: iam.Unavailable, Code: "idp_" + reason, Detail: "the identity provider cannot be asked now", Cause: cause}
}

func (c *Client) bad(operation string, cause error) error {
	return c.away(operation, "bad_response", errors.Join(iam.ErrOutcomeUnknown, cause))
}

func firstBytes(b []byte) string {
	return strings.Join(strings.Fields(string(b[:min(len(b), 300)])), " ")
}

// bearer is the token for the admin API; "" where none is needed.
func (c *Client) bearer(ctx context.Context, fresh bool) (string, error) {
	switch {
	case c.cfg.TokenFile != "":
		b, err := os.ReadFile(c.cfg.TokenFile)
		if err != nil {
			return "", c.away("token", "unauthorized", fmt.Errorf("the file with the token cannot be read: %w", err))
		}
		return string(bytes.TrimSpace(b)), nil
	case c.cfg.ClientID == "":
		return "", nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token != nil && !fresh && (c.token.Expiry.IsZero() || time.Until(c.token.Expiry) > earlyRenew) {
		return c.token.AccessToken, nil
	}
	secret := c.cfg.Secret
	if c.cfg.SecretFile != "" {
		b, err := os.ReadFile(c.cfg.SecretFile)
		if err != nil {
			return "", c.away("token", "unauthorized", fmt.Errorf("the file with the secret cannot be read: %w", err))
		}
		secret = string(bytes.TrimSpace(b))
	}
	endpoint, err := c.cfg.TokenURL(ctx)
	if err != nil {
		return "", c.away("token", "connection", err)
	}
	cc := clientcredentials.Config{ClientID: c.cfg.ClientID, ClientSecret: secret, TokenURL: endpoint, AuthStyle: oauth2.AuthStyleInHeader}
	if c.cfg.TokenAudience != "" {
		cc.EndpointParams = url.Values{"audience": {c.cfg.TokenAudience}}
	}
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, oauth2.HTTPClient, c.cfg.HTTP), c.cfg.Timeout)
	defer cancel()
	token, err := cc.Token(ctx)
	if err != nil {
		reason := "connection"
		if r, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
			reason = "unauthorized"
			if r.Response != nil && r.Response.StatusCode >= http.StatusInternalServerError {
				reason = "server_error"
			}
			err = fmt.Errorf("the token endpoint answered %s", r.ErrorCode) // its words could repeat what we sent
		} else if t, ok := errors.AsType[net.Error](err); ok && t.Timeout() {
			reason = "timeout"
		}
		return "", c.away("token", reason, err)
	}
	c.token = token
	return token.AccessToken, nil
}
