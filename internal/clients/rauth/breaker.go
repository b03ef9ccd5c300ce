package rauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/sony/gobreaker/v2"

	"iam-service/internal/iam"
)

// tripAfter is how many failures in a row open the breaker.
const tripAfter = 5

// newBreaker is a breaker that lets one call through when it has been open for a time.
func newBreaker(open time.Duration) *gobreaker.CircuitBreaker[*response] {
	return gobreaker.NewCircuitBreaker[*response](gobreaker.Settings{
		Name:        "rauth",
		MaxRequests: 1,
		Timeout:     open,
		ReadyToTrip: func(n gobreaker.Counts) bool { return n.ConsecutiveFailures >= tripAfter },
		IsSuccessful: func(err error) bool {
			return err == nil || iam.KindOf(err) != iam.Unavailable || errors.Is(err, errOneClient)
		},
		IsExcluded: func(err error) bool { return errors.Is(err, errCallerGone) },
	})
}

// errCallerGone marks a call that was canceled: it is no failure of the provider.
var errCallerGone = errors.New("the call was canceled")

// errOneClient marks a failure of one client's call while the provider serves others: it must
// not open the breaker for them.
var errOneClient = errors.New("the provider serves other clients")

// attribute decides whether a failure is of one client or of the provider. A 404 is a missing
// client only where the list of clients works; behind a wrong path everything is 404. A
// failure of one client, while the list works, is no failure of the provider.
func (c *Client) attribute(ctx context.Context, operation string, err error) error {
	missing := iam.KindOf(err) == iam.NotFound
	doubtful := slices.Contains([]string{"idp_server_error", "idp_forbidden", "idp_bad_response", "idp_timeout"}, iam.CodeOf(err))
	if err == nil || operation == "list" || !missing && !doubtful || ctx.Err() != nil && !missing {
		return err
	}
	listErr := c.probe(ctx)
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
		return &iam.Error{Kind: iam.Unavailable, Code: code, Detail: unreachable, Cause: fmt.Errorf("%w; its list of clients fails too: %w", e.Cause, listErr)}
	}
	return err
}

// probe reports whether the list of clients works: one attempt, outside the breaker.
func (c *Client) probe(ctx context.Context) error {
	a, err := c.attempt(ctx, request{operation: "probe", method: http.MethodGet, target: c.at("clients") + "?page_size=1", want: http.StatusOK}, cachedToken)
	if err != nil {
		return err
	}
	return isList(a.body)
}
