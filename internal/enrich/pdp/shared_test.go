package pdp

import (
	"maps"
	"testing"
)

// A shared object is converted once, by its identity; an equal one that is not shared, each time.
func TestASharedObjectIsConvertedOnce(t *testing.T) {
	t.Parallel()
	defaults := map[string]any{"a": "b"}
	own := maps.Clone(defaults)
	s := Share(defaults, nil)
	first, err := s.term(defaults)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := s.term(defaults)
	if first != again || first.String() != `{"a": "b"}` {
		t.Errorf("%v, %v", first, again)
	}
	one, _ := s.term(own)
	two, _ := s.term(own)
	if one == first || one == two || !one.Equal(first) {
		t.Errorf("%v, %v", one, two)
	}
	if none, err := (*Shared)(nil).term(nil); err != nil || none.String() != "{}" {
		t.Errorf("%v, %v", none, err)
	}
}
