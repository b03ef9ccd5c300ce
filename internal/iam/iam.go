// Package iam holds the words of the service: tenants, roles, users,
// memberships, mappings and clients, the limits they keep, and the kinds of
// failure. Everything else in the service speaks in these words.
//
// It owns shapes and limits. It does not know how facts are stored, how they
// are evaluated or how they are answered, and imports nothing of ours.
package iam

import "time"

// Status of a tenant.
const (
	TenantActive    = "active"
	TenantSuspended = "suspended" // nobody of the tenant gets in; recoverable
	TenantArchived  = "archived"
)

// Status of a user.
const (
	UserActive  = "active"
	UserBlocked = "blocked"
)

// Status of a membership. Expired is never stored: it is what an active
// membership becomes when its expiry has passed.
const (
	MembershipActive    = "active"
	MembershipSuspended = "suspended"
	MembershipExpired   = "expired"
)

// Status of a client: what enrichment sees, true at once.
const (
	ClientActive  = "active"
	ClientBlocked = "blocked"
	ClientDeleted = "deleted"
)

// PlatformRoles are all the roles that reach beyond one tenant.
var PlatformRoles = []string{"platform-admin", "policy-admin", "auditor"}

// Tenant is one customer of the platform.
type Tenant struct {
	ID         string
	Slug       string
	Name       string
	Status     string
	Attributes map[string]any
	Version    int64
}

// Role is a named set of permissions, of one tenant or, with an empty Tenant,
// of all of them.
type Role struct {
	Tenant      string
	Name        string
	Permissions []string
	Inherits    []string // names of roles of the same tenant or global ones
	Version     int64
}

// User is an issuer, a subject and declared attributes, nothing else: no
// profile, no address, no name.
type User struct {
	ID              string
	Issuer          string
	Subject         string
	Status          string
	Attributes      map[string]any
	PlatformRoles   []string
	TokensNotBefore time.Time // zero: none
	DefaultTenant   string
	Version         int64
}

// Membership is what a user is in one tenant.
type Membership struct {
	Tenant     string
	User       string // id of the user
	Status     string
	Roles      []string
	Attributes map[string]any
	ExpiresAt  time.Time // zero: never
	Version    int64

	TenantStatus string // read along: which memberships count, without a look-up of each tenant
}

// Mapping gives roles of a tenant to everyone whose token says that Claim is,
// or contains, Value.
type Mapping struct {
	Tenant string
	Issuer string
	Claim  string
	Value  string
	Roles  []string
}

// Client is what a program may be. Its OAuth metadata lives in the identity
// provider.
type Client struct {
	Issuer          string
	ClientID        string
	Tenant          string // empty: a program of the platform itself
	Status          string
	Roles           []string
	Scopes          []string
	TokensNotBefore time.Time
	Version         int64
}

// UserFacts is everything one look-up of a user brings.
type UserFacts struct {
	User
	Memberships []Membership
	AsOf        time.Time // the database's clock when it was read
}

// TenantFacts is everything one look-up of a tenant brings: its own roles, the
// global ones, and its mappings.
type TenantFacts struct {
	Tenant
	Roles    []Role
	Mappings []Mapping
}

// ClientFacts is everything one look-up of a client brings.
type ClientFacts struct {
	Client
}

// TenantMembership is a row of "which tenants am I in?".
type TenantMembership struct {
	ID      string
	Slug    string
	Name    string
	Default bool
}
