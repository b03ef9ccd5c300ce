package server

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v5"
)

func TestAFailedStartReportsTheLastFailureOfTheDependency(t *testing.T) {
	t.Parallel()
	refused := errors.New("connection refused")
	cutOff := func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}
	for name, row := range map[string]struct {
		attempts []func(context.Context) error // the last one again and again
		want     error
	}{
		"the last attempt is cut off": {[]func(context.Context) error{func(context.Context) error { return refused }, cutOff}, refused},
		"each attempt is refused":     {[]func(context.Context) error{func(context.Context) error { return refused }}, refused},
		"the only attempt is cut off": {[]func(context.Context) error{cutOff}, context.DeadlineExceeded},
		"a retry cannot help":         {[]func(context.Context) error{func(context.Context) error { return backoff.Permanent(refused) }, cutOff}, refused},
		"it succeeds in the end":      {[]func(context.Context) error{func(context.Context) error { return refused }, func(context.Context) error { return nil }}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			n := 0
			err := RetryDuring(start, func() error {
				attempt := row.attempts[min(n, len(row.attempts)-1)]
				n++
				return attempt(start)
			})
			if !errors.Is(err, row.want) {
				t.Errorf("%v, want %v", err, row.want)
			}
		})
	}
}
