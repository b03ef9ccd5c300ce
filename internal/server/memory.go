package server

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// heapShare is the share of MEMORY_AIM up to which no garbage is collected. The caches have shares of their own; the rest
// is for requests in flight, and for the program itself.
const heapShare = 0.75

func share(aim int64, of float64) int64 { return int64(float64(aim) * of) }

// TuneGC collects garbage as rarely as MEMORY_AIM allows, until ctx ends: while the
// caches are small, the heap may grow to several times what lives on it; when they
// are full, collecting keeps it near the aim. A fixed GOGC is one or the other: it
// wastes CPU on a small heap, or memory on a large one. A GOMEMLIMIT alone would
// collect without a pause where more lives than it allows; this never goes below
// least. It does not override a GOGC that is set.
func TuneGC(ctx context.Context, aim int64) {
	const least, most = 50, 800
	if os.Getenv("GOGC") != "" {
		return
	}
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	last := 0
	for {
		metrics.Read(sample)
		if live := int64(sample[0].Value.Uint64()); live > 0 { //nolint:gosec // no heap is that large
			percent := int(max(least, min(most, (share(aim, heapShare)-live)*100/live)))
			if percent != last {
				debug.SetGCPercent(percent)
				last = percent
			}
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return
		}
	}
}
