package iam

import (
	"maps"
	"slices"
	"time"
)

// MaxReasonBytes limits the reason of a role's term and of a request for a role.
const MaxReasonBytes = 500

// RoleTerm limits the time in which a role of a membership is in force, and says why it was granted. Its JSON is
// what the database, the audit and exports store: times as RFC 3339, in UTC.
type RoleTerm struct {
	StartsAt  time.Time `json:"starts_at,omitzero"`  // zero: from the beginning
	ExpiresAt time.Time `json:"expires_at,omitzero"` // zero: never
	Reason    string    `json:"reason,omitempty"`    // text of a person, and about none
}

// Covers reports whether a role with this term is in force at a moment: from its start, until just before its end.
func (t RoleTerm) Covers(at time.Time) bool {
	return !at.Before(t.StartsAt) && (t.ExpiresAt.IsZero() || at.Before(t.ExpiresAt))
}

// RolesAt returns the roles that are in force at a moment, whatever the status and the expiry of the membership
// itself. Roles are all that are in use: also those that have not started, or have ended and are not removed yet.
func (m Membership) RolesAt(at time.Time) []string {
	if len(m.Terms) == 0 {
		return m.Roles
	}
	return slices.DeleteFunc(slices.Clone(m.Roles), func(role string) bool { return !m.Terms[role].Covers(at) })
}

// EndOf is when a role ends: by its term or with the membership; zero: never.
func (m Membership) EndOf(role string) time.Time {
	return Earlier(m.Terms[role].ExpiresAt, m.ExpiresAt)
}

// Earlier returns the earlier of two ends; a zero one is no end.
func Earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// FirstEnd is when the membership or the first of its roles ends, or has ended; zero: none does.
func (m Membership) FirstEnd() time.Time {
	end := m.ExpiresAt
	for _, t := range m.Terms {
		end = Earlier(end, t.ExpiresAt)
	}
	return end
}

// NextChange is the next moment after at when, by itself, the membership ends or a role starts or ends; zero: there
// is none.
func (m Membership) NextChange(at time.Time) time.Time {
	var next time.Time
	consider := func(t time.Time) {
		if t.After(at) {
			next = Earlier(next, t)
		}
	}
	consider(m.ExpiresAt)
	for _, t := range m.Terms {
		consider(t.StartsAt)
		consider(t.ExpiresAt)
	}
	return next
}

// Tidy returns the membership as it is stored: times in UTC to the microsecond, and no term without contents.
func (m Membership) Tidy() Membership {
	moment := func(t time.Time) time.Time {
		if t.IsZero() {
			return time.Time{}
		}
		return t.UTC().Truncate(time.Microsecond)
	}
	m.ExpiresAt = moment(m.ExpiresAt)
	var terms map[string]RoleTerm
	for role, t := range m.Terms {
		t = RoleTerm{moment(t.StartsAt), moment(t.ExpiresAt), t.Reason}
		if t == (RoleTerm{}) {
			continue
		}
		if terms == nil {
			terms = make(map[string]RoleTerm, len(m.Terms))
		}
		terms[role] = t
	}
	m.Terms = terms
	return m
}

// WithRoles returns the membership with other roles. Terms of roles that it no longer has go with them.
func (m Membership) WithRoles(roles []string) Membership {
	m.Roles, m.Terms = roles, maps.Clone(m.Terms)
	maps.DeleteFunc(m.Terms, func(role string, _ RoleTerm) bool { return !slices.Contains(roles, role) })
	return m
}

// terms checks the terms of a membership's roles.
func (c *check) terms(pointer string, m Membership) {
	for _, role := range slices.Sorted(maps.Keys(m.Terms)) {
		t, at := m.Terms[role], pointer+"/"+escapePointer(role)
		c.that(slices.Contains(m.Roles, role), at, "is not one of the roles")
		c.that(storable(t.StartsAt), at+"/starts_at", "must be in a year from 1 to 9999")
		c.that(storable(t.ExpiresAt), at+"/expires_at", "must be in a year from 1 to 9999")
		c.that(t.ExpiresAt.IsZero() || t.ExpiresAt.After(t.StartsAt), at+"/expires_at", "must be later than starts_at")
		if t.Reason != "" {
			c.text(at+"/reason", t.Reason, MaxReasonBytes)
		}
	}
}

// storable reports whether RFC 3339 can express a time in UTC.
func storable(t time.Time) bool { return t.UTC().Year() >= 1 && t.UTC().Year() <= 9999 }
