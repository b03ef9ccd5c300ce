package preview

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"iam-service/internal/enrich"
	"iam-service/internal/policy"
)

// A replica that missed the notification notices all the same, and what was seen of a shadow
// that has ended can be read until another begins.
func TestAShadowThatIsSetAgainBeginsAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var set atomic.Pointer[policy.Revision]
		candidate := &policy.Revision{ID: "a"}
		set.Store(candidate)
		s := NewShadow(nil, nil, func() (*policy.Revision, float64) { return set.Load(), 1 })
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go s.Run(ctx)
		s.Look()
		first := s.State()
		s.mu.Lock()
		s.asked = 7
		s.mu.Unlock()
		wait := func(now *policy.Revision) ShadowState {
			set.Store(now)
			time.Sleep(2 * shadowLook)
			synctest.Wait()
			return s.State()
		}
		if got := wait(candidate); got.Asked != 7 || got.Revision != "a" {
			t.Errorf("it goes on as %+v", got)
		}
		if got := wait(nil); got.Asked != 7 {
			t.Errorf("it has ended, and what was seen is gone: %+v", got)
		}
		if got := wait(candidate); got.Asked != 0 || !got.Since.After(first.Since) {
			t.Errorf("it begins again with %+v", got)
		}
	})
}

func TestAPanicOfTheShadowCostsOneComparison(t *testing.T) {
	t.Parallel()
	candidate := &policy.Revision{ID: "a", Digest: "a"}
	s := NewShadow(nil, nil, func() (*policy.Revision, float64) { return candidate, 1 }) // without an engine: it panics
	panics := make(chan error, 2)
	s.OnPanic = func(err error) { panics <- err }
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); s.Run(ctx) }()
	for range 2 {
		s.Take(&enrich.Evaluated{Revision: &policy.Revision{Digest: "b"}})
		if err := <-panics; !strings.Contains(err.Error(), "panic: runtime error") {
			t.Error(err)
		}
	}
	stop()
	<-ended
}
