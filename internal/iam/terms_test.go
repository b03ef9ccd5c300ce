package iam_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"iam-service/internal/iam"
)

func TestARoleIsInForceFromItsStartUntilJustBeforeItsEnd(t *testing.T) {
	t.Parallel()
	at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	m := iam.Membership{Roles: []string{"always", "limited"}, Terms: map[string]iam.RoleTerm{"limited": {StartsAt: at, ExpiresAt: at.Add(time.Hour)}}}
	for name, c := range map[string]struct {
		at   time.Time
		want []string
		next time.Time // change
	}{
		"before its start": {at: at.Add(-1), want: []string{"always"}, next: at},
		"at its start":     {at: at, want: []string{"always", "limited"}, next: at.Add(time.Hour)},
		"before its end":   {at: at.Add(time.Hour - 1), want: []string{"always", "limited"}, next: at.Add(time.Hour)},
		"at its end":       {at: at.Add(time.Hour), want: []string{"always"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := m.RolesAt(c.at); !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
			if got := m.NextChange(c.at); !got.Equal(c.next) {
				t.Errorf("the next change is at %s, want %s", got, c.next)
			}
		})
	}
}

func TestInvalidTermsNameTheirFields(t *testing.T) {
	t.Parallel()
	at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	m := iam.Membership{
		Tenant: "acme", Status: iam.MembershipActive, Roles: []string{"a", "b", "c", "d", "e"},
		Terms: map[string]iam.RoleTerm{
			"a":       {StartsAt: at, ExpiresAt: at},
			"b":       {Reason: strings.Repeat("x", iam.MaxReasonBytes+1)},
			"c":       {ExpiresAt: time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)},
			"d":       {Reason: "a\x00b"},
			"e":       {StartsAt: at, ExpiresAt: at.Add(1), Reason: strings.Repeat("x", iam.MaxReasonBytes)},
			"x/other": {ExpiresAt: at},
		},
	}
	var pointers []string
	for _, f := range m.Check() {
		pointers = append(pointers, f.Pointer)
	}
	want := []string{"/role_terms/a/expires_at", "/role_terms/b/reason", "/role_terms/c/expires_at", "/role_terms/d/reason", "/role_terms/x~1other"}
	if !slices.Equal(pointers, want) {
		t.Errorf("got %v, want %v", pointers, want)
	}
}
