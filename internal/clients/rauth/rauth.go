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
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

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

	state atomic.Pointer[error] // of the last check; nil: there was none
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
		ReadyToTrip: func(n gobreaker.Counts) bool { return n.ConsecutiveFailures >= trips },
		IsSuccessful: func(err error) bool {
			return err == nil || iam.KindOf(err) != iam.Unavailable || errors.Is(err, errOneClient)
		},
		IsExcluded: func(err error) bool { return errors.Is(err, errGivenUp) }, // says nothing of the provider
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

// errOneClient marks a failure of one client's call while the provider answers others: it
// must not open the breaker for them.
var errOneClient = errors.New("it answers for other clients")

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
		r.Unmanaged = unmanaged(text)
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
	*r = registered{iam.Registration{ClientID: some.ID, Metadata: some.Marks, Unmanaged: unmanaged(text)}, some.Secret}
	return nil
}

// managed are the fields of a client that are ours to write.
var managed = func() (names []string) {
	t := reflect.TypeFor[iam.Registration]()
	for i := range t.NumField() {
		if name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ","); name != "-" {
			names = append(names, name)
		}
	}
	return names
}()

// readOnly are fields of an answer that a request must not repeat (RFC 7592, section 2.2),
// and the times that Ory Hydra adds.
var readOnly = []string{"client_secret", "client_secret_expires_at", "client_id_issued_at", "registration_access_token", "registration_client_uri", "created_at", "updated_at"}

// sensitive are fields that nobody here manages and that change what a client may do, or
// where its tokens go; so do all whose names end in lifespan.
var sensitive = []string{
	"skip_consent", "skip_logout_consent", "access_token_strategy", "allowed_cors_origins", "frontchannel_logout_uri", "backchannel_logout_uri",
	"request_uris", "sector_identifier_uri", "subject_type", "token_endpoint_auth_signing_alg",
}

// unmanaged names the sensitive fields of a client that have another value than the
// provider's default: an empty one, and "public" of subject_type.
func unmanaged(text []byte) (names []string) {
	var all map[string]any
	_ = json.Unmarshal(text, &all) // no object: it has none
	for name, v := range all {
		if !slices.Contains(sensitive, name) && !strings.HasSuffix(name, "_lifespan") {
			continue
		}
		switch v := v.(type) {
		case nil:
			continue
		case bool:
			if !v {
				continue
			}
		case float64:
			if v == 0 {
				continue
			}
		case string:
			if v == "" || name == "subject_type" && v == "public" {
				continue
			}
		case []any:
			if len(v) == 0 {
				continue
			}
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Create makes a client under the id that is given, so that it can be repeated. The
// secret is empty for a public one. An id that is taken is a Conflict.
func (c *Client) Create(ctx context.Context, r iam.Registration) (iam.Secret, error) {
	var got registered
	err := c.call(ctx, "create", http.MethodPost, c.at("clients"), r, &got, http.StatusCreated)
	if err == nil && got.ClientID == "" {
		return "", c.refuse("create", errors.Join(iam.ErrOutcomeUnknown, errors.New("its answer is no client")))
	}
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
	if err == nil && got.ClientID != id {
		err = c.refuse("get", errors.New("its answer is not the client that was asked for"))
	}
	return got.Registration, err
}

// Update replaces those of a client's metadata that we manage.
func (c *Client) Update(ctx context.Context, r iam.Registration) error { return c.replace(ctx, r, "") }

// SetSecret is Update and replaces a client's secret, at once and without an overlap.
func (c *Client) SetSecret(ctx context.Context, r iam.Registration, secret iam.Secret) error {
	return c.replace(ctx, r, secret)
}

// replace reads a client, and writes it with what is ours replaced: the call that writes
// replaces everything, also what others have set.
func (c *Client) replace(ctx context.Context, r iam.Registration, secret iam.Secret) error {
	target := c.at("clients", r.ClientID)
	var there map[string]json.RawMessage
	if err := c.call(ctx, "update", http.MethodGet, target, nil, &there, http.StatusOK); err != nil {
		return err
	}
	var id string
	if json.Unmarshal(there["client_id"], &id) != nil || id != r.ClientID {
		return c.refuse("update", errors.New("its answer is not the client that was asked for"))
	}
	if err := merge(there, r); err != nil {
		return err
	}
	if secret != "" {
		var err error
		if there["client_secret"], err = json.Marshal(string(secret)); err != nil {
			return err
		}
	}
	return c.call(ctx, "update", http.MethodPut, target, there, nil, anySuccess)
}

// merge puts what we manage into a client's metadata, and removes what we want empty.
func merge(there map[string]json.RawMessage, r iam.Registration) error {
	encoded, err := json.Marshal(r)
	if err != nil {
		return err
	}
	var ours map[string]json.RawMessage
	if err := json.Unmarshal(encoded, &ours); err != nil {
		return err
	}
	var marks map[string]json.RawMessage
	if json.Unmarshal(there["metadata"], &marks) != nil || marks == nil {
		marks = map[string]json.RawMessage{} // no object: nothing of others is in it
	}
	for name, value := range r.Metadata {
		if marks[name], err = json.Marshal(value); err != nil {
			return err
		}
	}
	if ours["metadata"], err = json.Marshal(marks); err != nil {
		return err
	}
	for _, name := range slices.Concat(managed, readOnly) {
		if name == "audience" && len(r.Audience) == 0 {
			continue // of a client from a version that did not manage it
		}
		delete(there, name)
	}
	maps.Copy(there, ours)
	return nil
}

// Delete deletes a client. One that is not there is deleted.
func (c *Client) Delete(ctx context.Context, id string) error {
	a, err := c.ask(ctx, "delete", http.MethodDelete, c.at("clients", id), nil, nil, anySuccess)
	switch {
	case iam.KindOf(err) == iam.NotFound:
		return nil
	case err != nil || a.status == http.StatusNoContent:
		return err
	}
	// Any other success may mean that it is deleted later, or that nobody has read the request.
	_, err = c.Get(ctx, id)
	switch {
	case err == nil:
		return c.refuse("delete", fmt.Errorf("it answered %d, and the client is there", a.status))
	case iam.KindOf(err) == iam.NotFound:
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

// Retire ends all secrets but the newest. A success with a body that is no JSON is none of the
// admin API's: a login page, for instance.
func (c *Client) Retire(ctx context.Context, id string) error {
	a, err := c.ask(ctx, "retire", http.MethodDelete, c.at("clients", id, "secrets", "rotate"), nil, nil, anySuccess)
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(a.body)) > 0 && !json.Valid(a.body) {
		return c.refuse("retire", errors.Join(iam.ErrOutcomeUnknown, fmt.Errorf("it answered %d with a body that is no JSON", a.status)))
	}
	return nil
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

// anySuccess stands for every status of success, where the body says nothing.
const anySuccess = 0

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
	if all, ok := in.(map[string]json.RawMessage); ok && all["client_secret"] != nil {
		_ = json.Unmarshal(all["client_secret"], &hide) // ours: it is a string
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
			return a, &iam.Error{Kind: iam.Unavailable, Code: "idp_timeout", Detail: awayNow, Cause: errors.Join(errGivenUp, iam.ErrOutcomeUnknown, err)}
		}
		return a, c.judge(ctx, operation, err)
	})
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		err = away("circuit_open", err)
	}
	if err == nil && out != nil {
		if jsonErr := json.Unmarshal(a.body, out); jsonErr != nil {
			err = away("bad_response", perhaps(method, errors.New("its answer is not the JSON that is expected")))
		}
	}
	if err != nil {
		c.tell(ctx, operation, err)
	}
	return a, err
}

// judge finds out whom a failure is about. A 404 means that there is no such client only
// where the list answers as the admin API does; behind a wrong path everything is 404. And
// what fails for one client, while the list answers, says nothing of the provider.
func (c *Client) judge(ctx context.Context, operation string, err error) error {
	missing := iam.KindOf(err) == iam.NotFound
	doubtful := slices.Contains([]string{"idp_server_error", "idp_forbidden", "idp_bad_response", "idp_timeout"}, iam.CodeOf(err))
	if err == nil || operation == "list" || !missing && !doubtful || ctx.Err() != nil && !missing {
		return err
	}
	listErr := c.answers(ctx)
	switch e, _ := errors.AsType[*iam.Error](err); {
	case listErr == nil && missing:
		return err
	case listErr == nil:
		one := *e
		one.Cause = errors.Join(e.Cause, errOneClient)
		return &one
	case missing:
		code := "idp_bad_response"
		if iam.KindOf(listErr) == iam.Unavailable {
			code = iam.CodeOf(listErr)
		}
		return &iam.Error{Kind: iam.Unavailable, Code: code, Detail: awayNow, Cause: fmt.Errorf("%w; its list of clients does not answer either: %w", e.Cause, listErr)}
	}
	return err
}

// answers reports whether the list of clients answers as the admin API does. It is tried
// once, and not under the breaker.
func (c *Client) answers(ctx context.Context) error {
	a, err := c.try(ctx, "probe", http.MethodGet, c.at("clients")+"?page_size=1", nil, "", http.StatusOK, false)
	if err != nil {
		return err
	}
	return isList(a.body)
}

// isList refuses what is no page of a list of clients.
func isList(body []byte) error {
	var page []struct {
		ID string `json:"client_id"`
	}
	if json.Unmarshal(body, &page) != nil || page == nil || len(page) > 0 && page[0].ID == "" {
		return away("bad_response", errors.New("its answer is no list of clients"))
	}
	return nil
}

// checkEvery is how long apart two checks of the admin API are.
const checkEvery = 30 * time.Second

// Watch checks whether the admin API answers as one, at once and then every now and then,
// until ctx ends.
func (c *Client) Watch(ctx context.Context) {
	every := time.NewTicker(checkEvery)
	defer every.Stop()
	for {
		c.check(ctx)
		select {
		case <-every.C:
		case <-ctx.Done():
			return
		}
	}
}

func (c *Client) check(ctx context.Context) {
	a, err := c.ask(ctx, "list", http.MethodGet, c.at("clients")+"?page_size=1", nil, nil, http.StatusOK)
	if err == nil {
		if err = isList(a.body); err != nil {
			c.tell(ctx, "list", err)
		}
	}
	if ctx.Err() != nil {
		return
	}
	before := c.state.Swap(&err)
	switch {
	case err != nil && (before == nil || *before == nil):
		c.cfg.Log.ErrorContext(ctx, "admin API of R-Auth unusable: clients are neither created, changed nor deleted there (RAUTH_ADMIN_URL)",
			slog.String("url", c.base.Redacted()), slog.Any("err", err))
	case err == nil && before != nil && *before != nil:
		c.cfg.Log.InfoContext(ctx, "admin API of R-Auth usable again")
	}
}

// State is what the last check has found; nil where there was none yet.
func (c *Client) State() error {
	if last := c.state.Load(); last != nil {
		return *last
	}
	return nil
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
	if operation == "rotate" || operation == "probe" {
		caller = c.once
	}
	resp, err := caller.Do(req)
	if err != nil {
		return nil, failed(operation, method, err)
	}
	defer resp.Body.Close()
	a := &answer{status: resp.StatusCode, header: resp.Header}
	if a.body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer)); err != nil {
		return nil, failed(operation, method, err)
	}
	if hide != "" {
		a.body = bytes.ReplaceAll(a.body, []byte(hide), []byte("(secret)")) // its words could repeat it
	}
	if a.status == want || want == anySuccess && a.status/100 == 2 {
		return a, nil
	}
	return nil, refused(operation, method, a)
}

// failed sorts what went wrong with the connection. Who was never reached did nothing; of
// what is repeated, an attempt before may have been done.
func failed(operation, method string, err error) error {
	reason := "connection"
	if t, ok := errors.AsType[net.Error](err); ok && t.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		reason = "timeout"
	}
	if op, ok := errors.AsType[*net.OpError](err); operation != "rotate" || !ok || op.Op != "dial" {
		err = perhaps(method, err)
	}
	return away(reason, err)
}

// codeNoSuchCall is of a provider that does not know a call.
const codeNoSuchCall = "idp_bad_response"

// refused sorts an answer that is none of those wanted. Its own words go to the log.
func refused(operation, method string, a *answer) error {
	said := fmt.Errorf("it answered %d", a.status)
	words := wordsOf(a.body)
	if a.status >= http.StatusBadRequest {
		said = fmt.Errorf("it answered %d: %s", a.status, words)
	}
	switch a.status {
	case http.StatusNotFound:
		if slices.Contains([]string{"create", "list", "probe"}, operation) { // it is about no client
			return away("bad_response", said)
		}
		return &iam.Error{Kind: iam.NotFound, Detail: "the identity provider has no such client", Cause: said}
	case http.StatusConflict:
		return &iam.Error{Kind: iam.Conflict, Detail: "the identity provider has such a client already", Cause: said}
	case http.StatusUnauthorized:
		return away("unauthorized", said)
	case http.StatusForbidden:
		return away("forbidden", said)
	case http.StatusTooManyRequests:
		if operation != "rotate" { // what was not repeated was not done
			said = perhaps(method, said)
		}
		return away("rate_limited", said)
	case http.StatusMethodNotAllowed:
		return &iam.Error{Kind: iam.Unavailable, Code: codeNoSuchCall, Detail: awayNow, Cause: said}
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		if words == "" { // none of a provider: a proxy, or a port of something else
			return away("bad_response", said)
		}
		e := &iam.Error{Kind: iam.Invalid, Code: "idp_refused", Detail: "the identity provider refuses this client", Cause: said}
		if field := fieldOf(words); field != "" {
			e.Fields = []iam.FieldError{{Pointer: "/" + field, Detail: "the identity provider refuses it"}}
		}
		return e
	}
	if a.status >= http.StatusInternalServerError {
		return away("server_error", perhaps(method, said))
	}
	return away("bad_response", perhaps(method, said))
}

// fieldOf finds which field a refusal is about: RFC 7591, section 3.2.2 has a code for
// one of them, and some providers name the others in their words, in the singular where it
// is about one entry.
func fieldOf(words string) string {
	for _, f := range []struct{ word, field string }{ // a name before those that it holds
		{"post_logout_redirect_uri", "post_logout_redirect_uris"}, {"redirect_uri", "redirect_uris"}, {"grant_type", "grant_types"},
		{"response_type", "response_types"}, {"token_endpoint_auth_method", ""}, {"jwks_uri", ""}, {"jwks", ""}, {"scope", "scopes"},
		{"audience", ""}, {"client_name", ""},
	} {
		if strings.Contains(words, f.word) {
			return cmp.Or(f.field, f.word)
		}
	}
	return ""
}

// perhaps is for a call that may have been done: one that only reads changes nothing.
func perhaps(method string, cause error) error {
	if method == http.MethodGet {
		return cause
	}
	return errors.Join(iam.ErrOutcomeUnknown, cause)
}

const awayNow = "the identity provider cannot be asked now"

func away(reason string, cause error) error {
	return &iam.Error{Kind: iam.Unavailable, Code: "idp_" + reason, Detail: awayNow, Cause: cause}
}

// maxWords is how much of an answer's words about a failure is logged: Ory Hydra says why
// after more than 200 bytes that say nothing.
const maxWords = 2000

// wordsOf are what an answer says of a failure, for the log: nothing else of it, since it
// could hold a secret.
func wordsOf(body []byte) string {
	var said map[string]json.RawMessage
	_ = json.Unmarshal(body, &said) // no JSON: it says nothing
	var inner map[string]json.RawMessage
	_ = json.Unmarshal(said["error"], &inner) // a word, mostly
	var words []string
	for _, raw := range []json.RawMessage{
		said["error"], said["error_description"], said["error_hint"], said["title"], said["detail"], inner["status"], inner["message"], inner["reason"],
	} {
		var word string
		if json.Unmarshal(raw, &word) == nil {
			words = append(words, strings.Fields(word)...)
		}
	}
	text := strings.Join(words, " ")
	if len(text) > maxWords {
		text = text[:maxWords]
		for !utf8.ValidString(text) {
			text = text[:len(text)-1]
		}
	}
	return text
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
