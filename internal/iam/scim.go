package iam

import (
	"time"
	"unicode/utf8"
)

// ScopeSCIM lets a program of a tenant provision the tenant's users and groups by SCIM 2.0 (RFC 7644).
const ScopeSCIM = "scim"

// Limits on what a tenant's provisioning client may write.
const (
	MaxSCIMGroupsPerTenant = 10_000
	MaxSCIMGroupMembers    = 100_000
	MaxSCIMGroupsPerUser   = 1_000
	MaxSCIMTextBytes       = 255 // of a displayName or an externalId
)

// SCIMUser is a member of a tenant as its provisioning client sees them.
type SCIMUser struct {
	Member
	ExternalID string // the client's own id, opaque; empty: none
	Inactive   bool   // the client says so, whatever an administrator has decided
	Suspended  bool   // by the client: an administrator's suspension is not the client's to end
	Groups     []SCIMGroup
	CreatedAt  time.Time
	UpdatedAt  time.Time
	Revision   int64 // of the membership and the ExternalID together: the ETag
}

// InForce reports whether the user is active: what the client is shown.
func (u SCIMUser) InForce() bool { return u.Status == MembershipActive && !u.Expired }

// SCIMGroup is a group of a tenant's provisioning client, and the roles to which an administrator has mapped it.
type SCIMGroup struct {
	Tenant      string
	ID          string
	Issuer      string // of the client that created it: clients of another one do not find it
	DisplayName string
	ExternalID  string   // the client's own id, opaque; empty: none
	Roles       []string // written by administrators alone
	Members     int
	Version     int64 // covers the members too
	CreatedAt   time.Time
	UpdatedAt   time.Time
}

// Check returns one entry for each invalid field.
func (g SCIMGroup) Check() []FieldError {
	var c check
	c.that(ValidSCIMText(g.DisplayName), "/displayName", "must be 1 to %d bytes of text", MaxSCIMTextBytes)
	c.that(g.ExternalID == "" || ValidSCIMText(g.ExternalID), "/externalId", "must be 1 to %d bytes of text", MaxSCIMTextBytes)
	c.roles("/roles", g.Roles)
	return c
}

// ValidSCIMText reports whether s can be a displayName or an externalId: 1 to 255 bytes of UTF-8 without control characters.
func ValidSCIMText(s string) bool {
	for _, r := range s {
		if r < 0x20 || r == 0x7f {
			return false
		}
	}
	return s != "" && len(s) <= MaxSCIMTextBytes && utf8.ValidString(s)
}
