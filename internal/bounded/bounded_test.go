package bounded_test

import (
	"testing"

	"pgregory.net/rapid"

	"iam-service/internal/bounded"
)

type value struct {
	n      int
	weight int64
}

func weigh(v value) int64 { return v.weight }

// Whatever is put in, taken out and replaced: the bounds hold, and what is counted
// is what is there.
func TestTheBoundsHold(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		entries, bytes := rapid.IntRange(1, 10).Draw(t, "entries"), rapid.Int64Range(10, 200).Draw(t, "bytes")
		c := bounded.New[int](entries, bytes, weigh)
		for i := range 200 {
			k := rapid.IntRange(0, 20).Draw(t, "key")
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				c.Remove(k)
			case 1:
				if i%50 == 0 {
					c.Purge()
				}
			default:
				c.Add(k, value{i, rapid.Int64Range(0, 120).Draw(t, "weight")})
			}
			var sum int64
			n := 0
			for k := range 21 {
				if v, ok := c.Get(k); ok {
					sum, n = sum+v.weight, n+1
				}
			}
			if st := c.Stats(); st.Bytes != sum || st.Entries != n || sum > bytes || n > entries {
				t.Fatalf("%d entries of %d bytes are there, of at most %d and %d; it says %+v", n, sum, entries, bytes, st)
			}
		}
	})
}

func TestTheOldestGoesFirst(t *testing.T) {
	t.Parallel()
	c := bounded.New[int](3, 100, weigh)
	for i := range 3 {
		c.Add(i, value{i, 10})
	}
	c.Get(0)
	c.Add(3, value{3, 10})
	if _, ok := c.Get(1); ok {
		t.Error("the oldest stayed")
	}
	if v, ok := c.Get(0); !ok || v.n != 0 {
		t.Error("one that was used went")
	}
	if n := c.Stats().Evictions; n != 1 {
		t.Errorf("%d evictions", n)
	}
	c.Add(9, value{9, 51}) // more than half of the bytes
	if _, ok := c.Get(9); ok || c.Stats().Entries != 3 {
		t.Error("a heavy one drove others out")
	}
	c.Add(0, value{0, 80})
	if _, ok := c.Get(0); ok {
		t.Error("what was replaced by one too heavy is still there")
	}
}

// An entry that was used is not moved each time, and is evicted after all that were not used since: those that are used
// stay, whatever else comes and goes.
func TestWhatIsUsedStays(t *testing.T) {
	t.Parallel()
	const entries, used = 100, 30
	c := bounded.New[int](entries, 1<<20, weigh)
	for i := range used {
		c.Add(i, value{i, 1})
	}
	for n := range 20 * entries {
		c.Add(1000+n, value{n, 1})
		if n%(entries/4) > 0 {
			continue // each is used once while a quarter of the others is replaced
		}
		for i := range used {
			if v, ok := c.Get(i); !ok || v.n != i {
				t.Fatalf("%d, which is in use, was evicted after %d others", i, n)
			}
		}
	}
	if st := c.Stats(); st.Entries != entries || st.Bytes != entries {
		t.Errorf("%+v", st)
	}
}
