package rauth_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"iam-service/internal/clients/rauth"
	"iam-service/internal/dev/devrauth"
	"iam-service/internal/iam"
)

// A trouble of a moment is repeated where that is safe, and never a rotation.
func TestWhatIsSafeIsRepeated(t *testing.T) {
	t.Parallel()
	for _, fault := range []devrauth.Fault{devrauth.Fault503, devrauth.Fault429, devrauth.FaultCut} {
		p := newProvider(t)
		c := p.client(nil)
		if _, err := c.Create(t.Context(), registration("there")); err != nil {
			t.Fatal(err)
		}
		var failed atomic.Int64
		p.Break(func(string, string) devrauth.Fault { // the first attempt of each call
			if failed.Add(1)%2 == 1 {
				return fault
			}
			return ""
		})
		if _, err := c.Create(t.Context(), registration("a")); err != nil {
			t.Errorf("%s: create: %v", fault, err)
		}
		if err := c.Update(t.Context(), registration("a")); err != nil {
			t.Errorf("%s: update: %v", fault, err)
		}
		if err := c.Delete(t.Context(), "a"); err != nil {
			t.Errorf("%s: delete: %v", fault, err)
		}
		failed.Store(0)
		var rotations atomic.Int64
		p.Break(func(_, path string) devrauth.Fault {
			if !strings.HasSuffix(path, "/rotate") {
				return ""
			}
			rotations.Add(1)
			return fault
		})
		if _, err := c.Rotate(t.Context(), "there"); iam.KindOf(err) != iam.Unavailable || rotations.Load() != 1 {
			t.Errorf("%s: rotate: %v after %d attempts", fault, err, rotations.Load())
		}
	}
}

// A cancelled call is no failure of the provider, and waits for no other call's token.
func TestACancelledCallIsNoFailureOfTheProvider(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	hang := make(chan struct{})
	c := p.client(func(cfg *rauth.Config) {
		cfg.ClientID, cfg.Secret, cfg.Log = "svc", "x", slog.New(slog.DiscardHandler)
		cfg.TokenURL = func(ctx context.Context) (string, error) {
			select {
			case <-hang:
			case <-ctx.Done():
			}
			return "", errors.New("it hangs")
		}
	})
	var hanging sync.WaitGroup
	hanging.Go(func() { _, _ = c.Get(t.Context(), "a") })
	t.Cleanup(func() { close(hang); hanging.Wait() })
	began := time.Now()
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Get(short, "a"); iam.KindOf(err) != iam.Unavailable || time.Since(began) > 3*time.Second {
		t.Errorf("%v after %s", err, time.Since(began))
	}
	waited := p.counted("get timeout") // it does not answer: that is its failure
	gone, stop := context.WithCancel(t.Context())
	stop()
	if _, err := c.Get(gone, "a"); iam.KindOf(err) != iam.Unavailable {
		t.Errorf("got %v", err)
	}
	if n := p.counted("get timeout") + p.counted("get connection"); n != waited {
		t.Errorf("%d were counted", n-waited)
	}
}
