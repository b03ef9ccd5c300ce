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
	"slices"
	"strconv"
	"strings"
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
	TokenFile  string
	TokenURL   func(context.Context) (string, error) // the provider's token endpoint, by discovery
	ClientID   string
	Secret     string
	SecretFile string // instead of Secret

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
	pageSize   = 100
	maxPages   = 10_000 // of a list that leads on and on
	earlyRenew = 30 * time.Second
)

// Client calls the provider. It is safe for concurrent use.
type Client struct {
	cfg     Config
	base    *url.URL
	once    *retryablehttp.Client // repeats nothing
	again   *retryablehttp.Client
	breaker *gobreaker.CircuitBreaker[*answer]

	renewing chan struct{} // of one; whoever waits for it does so no longer than they may
	token    *oauth2.Token // under renewing
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
	c := &Client{cfg: cfg, base: base, renewing: make(chan struct{}, 1)}
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
		IsSuccessful: func(err error) bool { return err == nil || iam.KindOf(err) != iam.Unavailable },
		IsExcluded:   func(err error) bool { return errors.Is(err, errGivenUp) }, // says nothing of the provider
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
		wait, said := retryAfter(resp)
		return !said || wait <= maxPause, nil // who asks for more is asked later, and not by us
	}
	return false, nil
}

// retryAfter reads what the provider asks for, in seconds or as a date (RFC 9110, section
// 10.2.3).
func retryAfter(resp *http.Response) (wait time.Duration, said bool) {
	v := resp.Header.Get("Retry-After")
	if n, err := strconv.Atoi(v); err == nil && n >= 0 {
		return time.Duration(n) * time.Second, true
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, time.Until(at)), true
	}
	return 0, false
}

// pause is what the provider asks for, if that is not too long, else twice as long each
// time, with jitter.
func pause(least, most time.Duration, attempt int, resp *http.Response) time.Duration {
	if resp != nil {
		if wait, said := retryAfter(resp); said {
			return max(least, min(wait, most))
		}
	}
	return retryablehttp.LinearJitterBackoff(least, 2*least, attempt, nil)
}

// errGivenUp marks a call whose caller did not wait for its end.
var errGivenUp = errors.New("the caller did not wait")

// registered is an answer with a client.
type registered struct {
	iam.Registration
	Secret string `json:"client_secret,omitempty"`
}

// UnmarshalJSON reads a client as it is, and of one that somebody has written otherwise at
// least which one it is: a single one must not hide all others.
func (r *registered) UnmarshalJSON(text []byte) error {
	type plain registered
	var all plain
	err := json.Unmarshal(text, &all)
	if err == nil {
		*r = registered(all)
		return nil
	}
	var some struct {
		ID     string    `json:"client_id"`
		Marks  iam.Marks `json:"metadata"`
		Secret string    `json:"client_secret"`
	}
	if json.Unmarshal(text, &some) != nil || some.ID == "" {
		return err
	}
	*r = registered{iam.Registration{ClientID: some.ID, Metadata: some.Marks}, some.Secret}
	return nil
}

// Create makes a client under the id that is given, so that it can be repeated. The
// secret is empty for a public one. An id that is taken is a Conflict.
func (c *Client) Create(ctx context.Context, r iam.Registration) (iam.Secret, error) {
	var got registered
	err := c.call(ctx, "create", http.MethodPost, c.at("clients"), r, &got, http.StatusCreated)
	if err == nil && got.ClientID != r.ClientID {
		// Each try would make another one.
		cause := errors.Join(fmt.Errorf("it made %q and not %q", got.ClientID, r.ClientID), c.Delete(ctx, got.ClientID))
		_ = c.refuse("create", cause) // counted and logged
		return "", &iam.Error{Kind: iam.Invalid, Code: "idp_ignores_client_id", Detail: "the identity provider does not take the id that we choose: clients cannot be managed there", Cause: cause}
	}
	return iam.Secret(got.Secret), err
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
// repeated: each call makes a secret. A provider that cannot is a Conflict of the code
// iam.CodeCannotRotate.
func (c *Client) Rotate(ctx context.Context, id string) (iam.Secret, error) {
	var got registered
	err := c.call(ctx, "rotate", http.MethodPost, c.at("clients", id, "secrets", "rotate"), nil, &got, http.StatusOK)
	if k := iam.KindOf(err); err != nil && (k == iam.NotFound || iam.CodeOf(err) == codeNoSuchCall) {
		// No such client, or no such call?
		if _, there := c.Get(ctx, id); there == nil {
			return "", &iam.Error{Kind: iam.Conflict, Code: iam.CodeCannotRotate, Detail: "the identity provider cannot rotate secrets", Cause: err}
		}
	}
	if err == nil && got.Secret == "" {
		return "", c.refuse("rotate", errors.Join(iam.ErrOutcomeUnknown, errors.New("it answers without a secret")))
	}
	return iam.Secret(got.Secret), err
}

// SetSecret replaces all of a client's metadata and its secret, at once and without an
// overlap.
func (c *Client) SetSecret(ctx context.Context, r iam.Registration, secret iam.Secret) error {
	return c.call(ctx, "update", http.MethodPut, c.at("clients", r.ClientID), registered{r, string(secret)}, nil, http.StatusOK)
}

// Retire ends all secrets but the newest.
func (c *Client) Retire(ctx context.Context, id string) error {
	return c.call(ctx, "retire", http.MethodDelete, c.at("clients", id, "secrets", "rotate"), nil, nil, http.StatusNoContent)
}

// List calls each for all clients of the provider, whosever they are.
func (c *Client) List(ctx context.Context, each func(iam.Registration) error) error {
	next := c.at("clients") + "?page_size=" + strconv.Itoa(pageSize)
	for pages := 0; next != ""; pages++ {
		if pages == maxPages {
			return c.refuse("list", errors.New("its list does not end"))
		}
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
			if !isNext(params) {
				continue
			}
			u, err := url.Parse(strings.TrimPrefix(target, "<"))
			base, err2 := url.Parse(from)
			if err != nil || err2 != nil {
				return "", c.refuse("list", errors.New("its link to the next page cannot be read"))
			}
			u = base.ResolveReference(u)
			if u.Host != c.base.Host || u.Scheme != c.base.Scheme || u.String() == from {
				return "", c.refuse("list", fmt.Errorf("its link to the next page leads to %s%s", u.Host, u.Path))
			}
			// Only the query is taken: behind a prefix the provider does not know its own path.
			base.RawQuery = u.RawQuery
			return base.String(), nil
		}
	}
	return "", nil
}

// isNext reads the parameters of a link: rel may be quoted, and be several words.
func isNext(params string) bool {
	for p := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		if strings.EqualFold(name, "rel") && slices.Contains(strings.Fields(strings.Trim(value, `"`)), "next") {
			return true
		}
	}
	return false
}

// at is the address of a part of the admin API. An id is one segment, whatever it holds;
// "" is for one that can be none.
func (c *Client) at(parts ...string) string {
	for i, p := range parts {
		if p == "" || p == "." || p == ".." {
			return ""
		}
		parts[i] = url.PathEscape(p)
	}
	return c.base.String() + "/admin/" + strings.Join(parts, "/")
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

// ask calls under the breaker, counts what failed and says so in the log: once, however
// often it was tried.
func (c *Client) ask(ctx context.Context, operation, method, target string, in, out any, want int) (*answer, error) {
	if target == "" {
		return nil, &iam.Error{Kind: iam.NotFound, Detail: "the identity provider has no such client"}
	}
	var body []byte
	hide := ""
	if r, ok := in.(registered); ok {
		hide = r.Secret
	}
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return nil, err
		}
	}
	a, err := c.breaker.Execute(func() (*answer, error) {
		a, err := c.try(ctx, operation, method, target, body, hide, want, false)
		if err != nil && iam.CodeOf(err) == "idp_unauthorized" {
			// The token may have been taken back before its time.
			a, err = c.try(ctx, operation, method, target, body, hide, want, true)
		}
		if err != nil && errors.Is(ctx.Err(), context.Canceled) {
			err = &iam.Error{Kind: iam.Unavailable, Code: "idp_timeout", Detail: awayNow, Cause: errors.Join(errGivenUp, iam.ErrOutcomeUnknown, err)}
		}
		return a, err
	})
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		err = away("circuit_open", err)
	}
	if err == nil && out != nil {
		if jsonErr := json.Unmarshal(a.body, out); jsonErr != nil {
			err = away("bad_response", errors.Join(iam.ErrOutcomeUnknown, errors.New("its answer is not the JSON that is expected")))
		}
	}
	if err != nil {
		c.tell(ctx, operation, err)
	}
	return a, err
}

// tell counts and logs a failure. What the caller gave up is none of the provider's, and
// what is not there, or there already, is an answer.
func (c *Client) tell(ctx context.Context, operation string, err error) {
	if k := iam.KindOf(err); k == iam.NotFound || k == iam.Conflict || errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	if reason, ok := strings.CutPrefix(iam.CodeOf(err), "idp_token_"); ok {
		c.cfg.OnError("token", reason)
	} else if reason, ok := strings.CutPrefix(iam.CodeOf(err), "idp_"); ok && iam.KindOf(err) == iam.Unavailable {
		c.cfg.OnError(operation, reason)
	}
	c.cfg.Log.WarnContext(ctx, "failed to "+operation+" client in upstream IdP", slog.Any("err", err))
}

// refuse is a failure that is found after the call.
func (c *Client) refuse(operation string, cause error) error {
	err := away("bad_response", cause)
	c.tell(context.Background(), operation, err)
	return err
}

func (c *Client) try(ctx context.Context, operation, method, target string, body []byte, hide string, want int, fresh bool) (*answer, error) {
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
		return nil, failed(operation, err)
	}
	defer resp.Body.Close()
	a := &answer{status: resp.StatusCode, header: resp.Header}
	if a.body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer)); err != nil {
		return nil, failed(operation, err)
	}
	if hide != "" {
		a.body = bytes.ReplaceAll(a.body, []byte(hide), []byte("(secret)")) // its words could repeat it
	}
	if a.status == want {
		return a, nil
	}
	return nil, refused(operation, a)
}

// failed sorts what went wrong with the connection. Who was never reached did nothing; of
// what is repeated, an attempt before may have been done.
func failed(operation string, err error) error {
	reason := "connection"
	if t, ok := errors.AsType[net.Error](err); ok && t.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		reason = "timeout"
	}
	if op, ok := errors.AsType[*net.OpError](err); operation != "rotate" || !ok || op.Op != "dial" {
		err = errors.Join(iam.ErrOutcomeUnknown, err)
	}
	return away(reason, err)
}

// codeNoSuchCall is of a provider that does not know a call.
const codeNoSuchCall = "idp_bad_response"

// refused sorts an answer that is none of those wanted. Its own words go to the log.
func refused(operation string, a *answer) error {
	said := fmt.Errorf("it answered %d", a.status)
	if a.status >= http.StatusBadRequest {
		said = fmt.Errorf("it answered %d: %s", a.status, words(a.body))
	}
	switch a.status {
	case http.StatusNotFound:
		return &iam.Error{Kind: iam.NotFound, Detail: "the identity provider has no such client", Cause: said}
	case http.StatusConflict:
		return &iam.Error{Kind: iam.Conflict, Detail: "the identity provider has such a client already", Cause: said}
	case http.StatusUnauthorized:
		return away("unauthorized", said)
	case http.StatusForbidden:
		return away("forbidden", said)
	case http.StatusTooManyRequests:
		return away("rate_limited", perhaps(operation, said))
	case http.StatusMethodNotAllowed:
		return &iam.Error{Kind: iam.Unavailable, Code: codeNoSuchCall, Detail: awayNow, Cause: said}
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		e := &iam.Error{Kind: iam.Invalid, Code: "idp_refused", Detail: "the identity provider refuses this client", Cause: said}
		if field := fieldOf(a.body); field != "" {
			e.Fields = []iam.FieldError{{Pointer: "/" + field, Detail: "the identity provider refuses it"}}
		}
		return e
	}
	if a.status >= http.StatusInternalServerError {
		return away("server_error", errors.Join(iam.ErrOutcomeUnknown, said))
	}
	return away("bad_response", errors.Join(iam.ErrOutcomeUnknown, said))
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
	for _, field := range []string{ // a name before those that it holds
		"post_logout_redirect_uris", "redirect_uris", "grant_types", "response_types", "token_endpoint_auth_method", "jwks_uri", "jwks", "scope", "client_name",
	} {
		if strings.Contains(said.Description+said.Detail, field) {
			return field
		}
	}
	if said.Error == "invalid_redirect_uri" {
		return "redirect_uris"
	}
	return ""
}

// perhaps is for an answer that says itself that nothing was done: only an attempt before
// it can have been.
func perhaps(operation string, cause error) error {
	if operation == "rotate" {
		return cause
	}
	return errors.Join(iam.ErrOutcomeUnknown, cause)
}

const awayNow = "the identity provider cannot be asked now"

func away(reason string, cause error) error {
	return &iam.Error{Kind: iam.Unavailable, Code: "idp_" + reason, Detail: awayNow, Cause: cause}
}

// words are what an answer says of a failure, for the log: nothing else of it, since it
// could hold a secret.
func words(body []byte) string {
	var said struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
		Title       string `json:"title"`
		Detail      string `json:"detail"`
	}
	_ = json.Unmarshal(body, &said) // no JSON: it says nothing
	text := strings.Join(strings.Fields(said.Error+" "+said.Description+" "+said.Title+" "+said.Detail), " ")
	return text[:min(len(text), 300)]
}

// bearer is the token for the admin API; "" where none is needed.
func (c *Client) bearer(ctx context.Context, fresh bool) (string, error) {
	switch {
	case c.cfg.TokenFile != "":
		b, err := os.ReadFile(c.cfg.TokenFile)
		if err != nil {
			return "", away("token_unauthorized", fmt.Errorf("the file with the token cannot be read: %w", err))
		}
		return string(bytes.TrimSpace(b)), nil
	case c.cfg.ClientID == "":
		return "", nil
	}
	select {
	case c.renewing <- struct{}{}:
		defer func() { <-c.renewing }()
	case <-ctx.Done():
		return "", away("token_timeout", ctx.Err())
	}
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, oauth2.HTTPClient, c.cfg.HTTP), c.cfg.Timeout)
	defer cancel()
	if c.token != nil && !fresh && (c.token.Expiry.IsZero() || time.Until(c.token.Expiry) > earlyRenew) {
		return c.token.AccessToken, nil
	}
	secret := c.cfg.Secret
	if c.cfg.SecretFile != "" {
		b, err := os.ReadFile(c.cfg.SecretFile)
		if err != nil {
			return "", away("token_unauthorized", fmt.Errorf("the file with the secret cannot be read: %w", err))
		}
		secret = string(bytes.TrimSpace(b))
	}
	endpoint, err := c.cfg.TokenURL(ctx)
	if err != nil {
		return "", away("token_connection", err)
	}
	cc := clientcredentials.Config{ClientID: c.cfg.ClientID, ClientSecret: secret, TokenURL: endpoint, AuthStyle: oauth2.AuthStyleInHeader}
	token, err := cc.Token(ctx)
	if err != nil {
		reason := "connection"
		if r, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
			reason = "unauthorized"
			switch {
			case r.Response == nil:
			case r.Response.StatusCode == http.StatusTooManyRequests:
				reason = "rate_limited"
			case r.Response.StatusCode >= http.StatusInternalServerError:
				reason = "server_error"
			}
			err = fmt.Errorf("the token endpoint answered %s", r.ErrorCode) // its words could repeat what we sent
		} else if t, ok := errors.AsType[net.Error](err); ok && t.Timeout() {
			reason = "timeout"
		}
		return "", away("token_"+reason, err)
	}
	c.token = token
	return token.AccessToken, nil
}
