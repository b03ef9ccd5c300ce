package rauth

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/hashicorp/go-retryablehttp"
)

// Limits of retries.
const (
	retries  = 2               // beyond the first attempt
	maxPause = 2 * time.Second // also where the provider asks for more
)

// newHTTP is a client that retries transient failures, so many times.
func newHTTP(attempts *http.Client, pause time.Duration, most int) *retryablehttp.Client {
	return &retryablehttp.Client{
		HTTPClient:   attempts,
		RetryMax:     most,
		RetryWaitMin: pause,
		RetryWaitMax: maxPause,
		CheckRetry:   shouldRetry,
		Backoff:      backoff,
		ErrorHandler: retryablehttp.PassthroughErrorHandler, // statusError classifies the last response
	}
}

// shouldRetry retries transient failures of the provider.
func shouldRetry(ctx context.Context, resp *http.Response, err error) (bool, error) {
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err != nil {
		return true, nil //nolint:nilerr // the error is what is retried
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		wait, given := retryAfter(resp)
		return !given || wait <= maxPause, nil // a longer wait is left to a later operation
	}
	return false, nil
}

// retryAfter reads Retry-After, in seconds or as a date (RFC 9110, section 10.2.3).
func retryAfter(resp *http.Response) (wait time.Duration, given bool) {
	v := resp.Header.Get("Retry-After")
	if n, err := strconv.Atoi(v); err == nil && n >= 0 {
		return time.Duration(n) * time.Second, true
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, time.Until(at)), true
	}
	return 0, false
}

// backoff is the Retry-After of the provider, within bounds; without one it grows with each
// attempt, with jitter.
func backoff(least, most time.Duration, attempt int, resp *http.Response) time.Duration {
	if resp != nil {
		if wait, given := retryAfter(resp); given {
			return max(least, min(wait, most))
		}
	}
	return retryablehttp.LinearJitterBackoff(least, 2*least, attempt, nil)
}
