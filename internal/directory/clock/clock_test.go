package clock_test

import (
	"testing"
	"time"

	"iam-service/internal/directory/clock"
)

func TestTheClockRunsAsTimeDoes(t *testing.T) {
	t.Parallel()
	began, first := time.Now(), clock.Now()
	last := first
	for range 1000 {
		time.Sleep(20 * time.Microsecond)
		now := clock.Now()
		if now < last {
			t.Fatalf("it went back from %s to %s", last, now)
		}
		last = now
	}
	ran, want := clock.Now()-first, time.Since(began)
	if ran <= 0 || ran > want+time.Millisecond || ran < want/2 {
		t.Errorf("it ran %s while %s passed", ran, want)
	}
}

func BenchmarkNow(b *testing.B) {
	for b.Loop() {
		clock.Now()
	}
}
