package clock

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// reading is CLOCK_BOOTTIME as it was at a moment of Go's clocks.
type reading struct {
	at   time.Time // monotonic and wall
	boot time.Duration
}

var last atomic.Pointer[reading]

// slack is how far the wall clock may move against the monotonic one before
// CLOCK_BOOTTIME is read again. They part when the machine was suspended, which
// the monotonic clock does not count, or when the wall clock is set.
const slack = 10 * time.Millisecond

// Now reads CLOCK_BOOTTIME (clock_gettime(2)), mostly without a system call.
func Now() time.Duration {
	now := time.Now()
	if r := last.Load(); r != nil {
		mono := now.Sub(r.at)
		wall := time.Duration(now.UnixNano() - r.at.UnixNano())
		if d := wall - mono; d < slack && d > -slack {
			return r.boot + mono
		}
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err) // every Linux since 2.6.39 has it
	}
	r := &reading{now, time.Duration(ts.Nano())}
	last.Store(r)
	return r.boot
}
