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
	if !Until(limit, 5*time.Millisecond, ok) {
		t.Fatalf("not within %s: %s", limit, what)
	}
}

// Until polls at an interval until ok returns true, and reports whether it did within the limit. It is for
// scripts, which have no testing.TB.
func Until(limit, interval time.Duration, ok func() bool) bool {
	for end := time.Now().Add(limit); !ok(); time.Sleep(interval) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}
