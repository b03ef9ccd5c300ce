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

func (c *Client) call(ctx context.Context, operation, method, target string, in, out any, want int) error {
	_, err := c.do(ctx, operation, method, target, in, out, want)
	return err
}

// do calls under the breaker. It counts and logs a failure once, however many attempts it took.
func (c *Client) do(ctx context.Context, operation, method, target string, in, out any, want int) (*response, error) {
	if target == "" {
		return nil, errNoClient(nil)
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
	a, err := c.breaker.Execute(func() (*response, error) {
		a, err := c.attempt(ctx, operation, method, target, body, hide, want, false)
		if err != nil && iam.CodeOf(err) == "idp_unauthorized" {
			// The token may have been revoked before its expiry.
			a, err = c.attempt(ctx, operation, method, target, body, hide, want, true)
		}
		if err != nil && errors.Is(ctx.Err(), context.Canceled) {
			return a, &iam.Error{Kind: iam.Unavailable, Code: "idp_timeout", Detail: unreachable, Cause: errors.Join(errCallerGone, iam.ErrOutcomeUnknown, err)}
		}
		return a, c.attribute(ctx, operation, err)
	})
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		err = unavailable("circuit_open", err)
	}
	if err == nil && out != nil {
		if jsonErr := json.Unmarshal(a.body, out); jsonErr != nil {
			err = unavailable("bad_response", maybeDone(method, errors.New("its response is not the expected JSON")))
		}
	}
	if err != nil {
		c.report(ctx, operation, err)
	}
	return a, err
}

func (c *Client) attempt(ctx context.Context, operation, method, target string, body []byte, hide string, want int, fresh bool) (*response, error) {
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
	caller := c.retried
	if operation == "rotate" || operation == "probe" {
		caller = c.single
	}
	resp, err := caller.Do(req)
	if err != nil {
		return nil, connectionError(operation, method, err)
	}
	defer resp.Body.Close()
	a := &response{status: resp.StatusCode, header: resp.Header}
	if a.body, err = io.ReadAll(io.LimitReader(resp.Body, maxResponse)); err != nil {
		return nil, connectionError(operation, method, err)
	}
	if hide != "" {
		a.body = bytes.ReplaceAll(a.body, []byte(hide), []byte("(secret)")) // its message could repeat it
	}
	if a.status == want || want == anySuccess && a.status/100 == 2 {
		return a, nil
	}
	return nil, statusError(operation, method, a)
}
