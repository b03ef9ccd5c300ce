package clock_test

import (
	"testing"
	"time"

	"iam-service/internal/clock"
)

func TestTheClockRunsAsTimeDoes(t *testing.T) {
	t.Parallel()
	before, began := clock.Now(), time.Now()
	for range 1000 {
		time.Sleep(20 * time.Microsecond)
		now := clock.Now()
		if now < before {
			t.Fatalf("it went back from %s to %s", before, now)
		}
		before = now
	}
	if d := clock.Now() - before; d < 0 || d > time.Since(began) {
		t.Errorf("it ran %s", d)
	}
}

func BenchmarkNow(b *testing.B) {
	for b.Loop() {
		clock.Now()
	}
}
