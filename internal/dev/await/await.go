// Package await lets tests wait for what another goroutine or process does.
package await

import (
	"testing"
	"time"
)

// Limit is long enough for a loaded machine: it is reached only when a test fails.
const Limit = 2 * time.Minute

// True polls until ok returns true, and fails the test after Limit. what names the condition.
func True(t testing.TB, what string, ok func() bool) {
	t.Helper()
	Within(t, Limit, what, ok)
}

// Within is True with another limit.
func Within(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}
