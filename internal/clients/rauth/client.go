package rauth

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-retryablehttp"
	"github.com/sony/gobreaker/v2"
	"golang.org/x/oauth2"
)

// Config of a Client.
type Config struct {
	URL string // of the admin API, without /admin

	// Credentials: a token in a file, or client credentials, or none. Files are read again for
	// each new token.
	TokenFile  string
	TokenURL   func(context.Context) (string, error) // the provider's token endpoint, by discovery
	ClientID   string
	Secret     string
	SecretFile string // instead of Secret

	HTTP    *http.Client  // nil: that of NewHTTP
	Timeout time.Duration // of one attempt; 0: 3 s
	Pause   time.Duration // before the first retry; 0: 100 ms
	Open    time.Duration // how long an open breaker stays open; 0: 10 s
	Log     *slog.Logger
	OnError func(operation, reason string) // called for each failed call; may be nil
}

// Reasons are the values of the label reason of idp_adapter_errors_total.
var Reasons = []string{"timeout", "connection", "unauthorized", "forbidden", "rate_limited", "server_error", "bad_response", "circuit_open"}

// Operations are the values of its label operation.
var Operations = []string{"create", "get", "update", "delete", "list", "rotate", "retire", "token"}

const (
	maxResponse = 4 << 20
	pageSize    = 100
	maxPages    = 10_000 // of a list whose pages never end
	renewEarly  = 30 * time.Second
)

// Client calls the provider. It is safe for concurrent use.
type Client struct {
	cfg     Config
	base    *url.URL
	single  *retryablehttp.Client // never retries
	retried *retryablehttp.Client
	breaker *gobreaker.CircuitBreaker[*response]

	renewing chan struct{} // a lock that a caller waits for no longer than its context allows
	token    *oauth2.Token // under renewing

	state atomic.Pointer[error] // of the last check; nil: none yet
}

// New returns a client. It makes no call yet.
func New(cfg Config) (*Client, error) {
	base, err := url.Parse(strings.TrimSuffix(cfg.URL, "/"))
	if err != nil || base.Host == "" {
		return nil, errors.New("the URL of the admin API is invalid")
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
		cfg.HTTP = NewHTTP()
	}
	attempts := *cfg.HTTP
	attempts.Timeout = cfg.Timeout
	c := &Client{cfg: cfg, base: base, renewing: make(chan struct{}, 1)}
	c.single, c.retried = newHTTP(&attempts, cfg.Pause, 0), newHTTP(&attempts, cfg.Pause, retries)
	c.breaker = newBreaker(cfg.Open)
	return c, nil
}

// NewHTTP returns an HTTP client for the admin API, which follows no redirects.
func NewHTTP() *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // it is one
	t.MaxIdleConnsPerHost = 8
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// at is the URL of a part of the admin API. An id is one segment, whatever its characters; ""
// is for an id that cannot be one.
func (c *Client) at(parts ...string) string {
	for i, p := range parts {
		if p == "" || p == "." || p == ".." {
			return ""
		}
		parts[i] = url.PathEscape(p)
	}
	return c.base.String() + "/admin/" + strings.Join(parts, "/")
}
