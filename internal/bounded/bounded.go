// Package bounded is an LRU that is bounded in entries and in bytes, over
// hashicorp/golang-lru.
//
// It owns the account of bytes. It does not know what an entry is, nor whether it is still
// valid: its user checks that.
package bounded

import (
	"sync"
	"sync/atomic"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// Cache is safe for concurrent use.
type Cache[K comparable, V any] struct {
	mu    sync.Mutex
	lru   *simplelru.LRU[K, slot[V]]
	most  int64
	weigh func(V) int64
	bytes int64
	moves uint64 // how often an entry was made the youngest

	hits, misses, evictions atomic.Int64
}

// slot is a value, and Cache.moves when it was made the youngest: since then at most as many entries as there were moves
// have come before it.
type slot[V any] struct {
	value V
	moved uint64
}

// New returns an empty cache of at least one entry. weigh estimates the bytes of
// a value with its key; it must always say the same of one value.
func New[K comparable, V any](entries int, bytes int64, weigh func(V) int64) *Cache[K, V] {
	c := &Cache[K, V]{most: bytes, weigh: weigh}
	c.lru, _ = simplelru.NewLRU(max(1, entries), func(_ K, s slot[V]) { c.bytes -= weigh(s.value) }) // fails only for a size below 1
	return c
}

// Get returns the value of k and makes it the youngest, unless it surely is among the youngest quarter: moving an entry
// writes to four others, which no processor has at hand, and costs as much as finding it.
func (c *Cache[K, V]) Get(k K) (V, bool) {
	c.mu.Lock()
	s, ok := c.lru.Peek(k)
	if ok && c.moves-s.moved >= uint64(c.lru.Len()/4) { //nolint:gosec // a length is not negative
		c.put(k, s.value)
	}
	c.mu.Unlock()
	return s.value, ok
}

// put stores v as the youngest, and reports whether another entry was evicted; c.mu is held.
func (c *Cache[K, V]) put(k K, v V) (evicted bool) {
	c.moves++
	return c.lru.Add(k, slot[V]{v, c.moves})
}

// Add stores v and evicts the oldest entries beyond the bounds. A value that alone takes more
// than half of the bytes is not stored: one entry must not evict all others.
func (c *Cache[K, V]) Add(k K, v V) {
	w := c.weigh(v)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lru.Remove(k) // so that the weight of what is replaced is taken off
	if w > c.most/2 {
		return
	}
	c.bytes += w
	if c.put(k, v) {
		c.evictions.Add(1)
	}
	for c.bytes > c.most {
		c.lru.RemoveOldest()
		c.evictions.Add(1)
	}
}

// Remove forgets k.
func (c *Cache[K, V]) Remove(k K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lru.Remove(k)
}

// Purge forgets everything.
func (c *Cache[K, V]) Purge() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lru.Purge()
}

// Hit counts a look-up that the cache answered, Miss one that it did not. The
// caller counts, since only it knows whether what was found could be used.
func (c *Cache[K, V]) Hit() { c.hits.Add(1) }

// Miss is the opposite of Hit.
func (c *Cache[K, V]) Miss() { c.misses.Add(1) }

// Stats are figures since the start; Entries and Bytes are of now.
type Stats struct {
	Hits, Misses, Evictions int64
	Entries                 int
	Bytes                   int64 // estimated
}

// Stats returns the figures of the cache.
func (c *Cache[K, V]) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Stats{
		Hits: c.hits.Load(), Misses: c.misses.Load(), Evictions: c.evictions.Load(),
		Entries: c.lru.Len(), Bytes: c.bytes,
	}
}
