package adminapi

import (
	"testing"

	"iam-service/internal/iam"
)

// One tenant cannot keep others from their exports and searches, and all together are bounded.
func TestExportsAndSearchesAreBounded(t *testing.T) {
	t.Parallel()
	var s streams
	take := func(tenant string, want bool) func() {
		t.Helper()
		done, err := s.take(tenant)
		if (err == nil) != want || err != nil && (iam.CodeOf(err) != "busy" || iam.KindOf(err) != iam.Unavailable) {
			t.Fatalf("of %s: %v", tenant, err)
		}
		return done
	}
	first := take("acme", true)
	take("acme", true)
	take("acme", false)
	take("globex", true)
	take("", true)
	take("initech", false)
	first()
	first() // twice is once
	take("acme", true)
	take("acme", false)
}
