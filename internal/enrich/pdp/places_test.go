package pdp

import (
	"context"
	"testing"
	"time"

	"iam-service/internal/iam"
)

// One owner has so many places, whatever others run; all owners together have so many.
func TestNoOwnerTakesThePlacesOfOthers(t *testing.T) {
	t.Parallel()
	p := newPlaces("searches", placeLimit{each: 1, all: 2}, time.Millisecond)
	ctx := context.Background()
	take := func(owner string) func() {
		t.Helper()
		release, err := p.take(ctx, names{id: owner})
		if err != nil {
			t.Fatalf("%s: %v", owner, err)
		}
		return release
	}
	refused := func(owner string) {
		t.Helper()
		if _, err := p.take(ctx, names{id: owner}); iam.KindOf(err) != iam.Unavailable || iam.CodeOf(err) != "busy" {
			t.Errorf("%s: %v", owner, err)
		}
	}
	one := take("one")
	refused("one")
	other := take("other")
	refused("a third")
	one()
	third := take("a third")
	refused("one")
	other()
	take("one")()
	third()
	if len(p.owners) != 0 || len(p.all) != 0 {
		t.Errorf("%d owners, %d places are left", len(p.owners), len(p.all))
	}
	left, leave := context.WithCancel(ctx)
	defer take("one")()
	leave()
	if _, err := p.take(left, names{id: "one"}); iam.CodeOf(err) != "busy" || len(p.owners) != 1 {
		t.Errorf("%v, %d owners", err, len(p.owners))
	}
}
