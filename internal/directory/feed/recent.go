package feed

import (
	"math"
	"slices"
	"sync"
	"time"
)

// recentFor is how far back Recent looks.
const recentFor = 5 * time.Minute

// Recent is what the feed has received within Window.
type Recent struct {
	Window  time.Duration
	Probes  int           // own heartbeats that came back
	P99     time.Duration // of their delays, by the nearest rank; 0: there was none
	Changes int           // change notifications
}

// Recent returns what was received lately.
func (f *Feed) Recent() Recent { return f.recent.read(f.cfg.Store.Now()) }

// recent remembers the delays of own heartbeats, about one in a second at most, and counts changes in slots.
type recent struct {
	mu      sync.Mutex
	delays  []delay // the oldest first
	changes [recentSlots + 1]slot
}

type delay struct{ at, took time.Duration }

// slot counts the changes of one of the parts of recentFor: those of the number-th slotLength of the clock.
type slot struct {
	number int64
	count  int
}

const (
	recentSlots = 30
	slotLength  = recentFor / recentSlots
)

func (r *recent) delayed(now, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.delays = append(r.forget(now), delay{now, took})
}

// forget removes delays that are too old. It needs the lock.
func (r *recent) forget(now time.Duration) []delay {
	r.delays = slices.DeleteFunc(r.delays, func(d delay) bool { return d.at <= now-recentFor })
	return r.delays
}

func (r *recent) changed(now time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	number := int64(now / slotLength)
	s := &r.changes[number%int64(len(r.changes))]
	if s.number != number {
		*s = slot{number: number}
	}
	s.count++
}

func (r *recent) read(now time.Duration) Recent {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := Recent{Window: recentFor, Probes: len(r.forget(now))}
	if out.Probes > 0 {
		sorted := slices.SortedFunc(slices.Values(r.delays), func(a, b delay) int { return int(a.took - b.took) })
		out.P99 = sorted[int(math.Ceil(0.99*float64(out.Probes)))-1].took
	}
	for _, s := range r.changes {
		if number := int64(now / slotLength); s.number > number-recentSlots-1 && s.number <= number {
			out.Changes += s.count
		}
	}
	return out
}
