package rauth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/hashicorp/go-retryablehttp"
	"github.com/sony/gobreaker/v2"

	"iam-service/internal/iam"
)

// response is what the provider returned.
type response struct {
	status int
	header http.Header
	body   []byte
}

// anySuccess is every 2xx status, where the body does not matter.
const anySuccess = 0

// request is one call of the provider.
type request struct {
	operation string // one of Operations, or "probe"
	method    string
	target    string // a URL; "": of a client without an id
	in        any    // sent as JSON; nil: no body
	body      []byte // in, encoded
	want      int    // the status of a success, or anySuccess
}

// credential chooses the bearer token of an attempt.
type credential int

const (
	cachedToken credential = iota
	freshToken
)

func (c *Client) call(ctx context.Context, r request, out any) error {
	_, err := c.do(ctx, r, out)
	return err
}

// do calls under the breaker, and decodes the response into out unless it is nil. It counts and logs a failure once,
// however many attempts it took.
func (c *Client) do(ctx context.Context, r request, out any) (*response, error) {
	if r.target == "" {
		return nil, errNoClient(nil)
	}
	if r.in != nil {
		var err error
		if r.body, err = json.Marshal(r.in); err != nil {
			return nil, err
		}
	}
	a, err := c.breaker.Execute(func() (*response, error) {
		a, err := c.attempt(ctx, r, cachedToken)
		if err != nil && iam.CodeOf(err) == "idp_unauthorized" {
			// The token may have been revoked before its expiry.
			a, err = c.attempt(ctx, r, freshToken)
		}
		if err != nil && errors.Is(ctx.Err(), context.Canceled) {
			return a, &iam.Error{Kind: iam.Unavailable, Code: "idp_timeout", Detail: unreachable, Cause: errors.Join(errCallerGone, iam.ErrOutcomeUnknown, err)}
		}
		return a, c.attribute(ctx, r.operation, err)
	})
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		err = unavailable("circuit_open", err)
	}
	if err == nil && out != nil {
		if jsonErr := json.Unmarshal(a.body, out); jsonErr != nil {
			err = unavailable("bad_response", maybeDone(r.method, errors.New("its response is not the expected JSON")))
		}
	}
	if err != nil {
		c.report(ctx, r.operation, err)
	}
	return a, err
}

// secret returns the client secret that a request sends, if any.
func (r request) secret() string {
	all, ok := r.in.(map[string]json.RawMessage)
	if !ok || all["client_secret"] == nil {
		return ""
	}
	var s string
	_ = json.Unmarshal(all["client_secret"], &s) // ours: it is a string
	return s
}

func (c *Client) attempt(ctx context.Context, r request, from credential) (*response, error) {
	var content any
	if r.body != nil {
		content = r.body
	}
	bearer, err := c.bearer(ctx, from)
	if err != nil {
		return nil, err
	}
	req, err := retryablehttp.NewRequestWithContext(ctx, r.method, r.target, content)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	if content != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	caller := c.retried
	if r.operation == "rotate" || r.operation == "probe" {
		caller = c.single
	}
	resp, err := caller.Do(req)
	if err != nil {
		return nil, connectionError(r.operation, r.method, err)
	}
	defer resp.Body.Close()
	a := &response{status: resp.StatusCode, header: resp.Header}
	if a.body, err = io.ReadAll(io.LimitReader(resp.Body, maxResponse)); err != nil {
		return nil, connectionError(r.operation, r.method, err)
	}
	if hide := r.secret(); hide != "" {
		a.body = bytes.ReplaceAll(a.body, []byte(hide), []byte("(secret)")) // its message could repeat it
	}
	if a.status == r.want || r.want == anySuccess && a.status/100 == 2 {
		return a, nil
	}
	return nil, statusError(r.operation, r.method, a)
}
