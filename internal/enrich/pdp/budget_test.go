package pdp

import (
	"testing"
	"time"
)

// A client may look up 200 absent documents at once and 50 a second, whichever of its tokens it uses; another client has
// as many.
func TestAClientLooksUpSoManyAbsentDocuments(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	b := newBudgets()
	b.when = func() time.Time { return now }
	taken := func(client names) (n int) {
		for b.of(client).Take() {
			n++
		}
		return n
	}
	one, other := names{issuer: "https://idp", id: "one"}, names{issuer: "https://idp", id: "other"}
	if n := taken(one); n != lookupsBurst {
		t.Errorf("%d at once", n)
	}
	if n := taken(other); n != lookupsBurst {
		t.Errorf("%d of another client", n)
	}
	now = now.Add(time.Second)
	if n := taken(one); n != lookupsPerSec {
		t.Errorf("%d after a second", n)
	}
	b.of(one).Return()
	if n := taken(one); n != 1 {
		t.Errorf("%d after one was returned", n)
	}
	now = now.Add(-time.Hour)
	if n := taken(one); n != 0 {
		t.Errorf("%d by a clock that went back", n)
	}
}
