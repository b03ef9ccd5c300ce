// Package iam defines the vocabulary of the service: tenants, roles, users,
// memberships, mappings and clients, their limits, the events, and the kinds of
// failure. All other packages use it.
//
// It owns shapes and limits. It does not know how facts are stored, how they
// are evaluated or how responses are sent, and imports nothing of ours.
package iam

import (
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// Status of a tenant.
const (
	TenantActive    = "active"
	TenantSuspended = "suspended" // requests for the tenant are denied; reversible
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

// Status of a client: enrichment sees a change at once.
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
	Description string
	Service     string       // service whose manifest declares it; empty: an administrator created it
	Request     *Requestable // who can ask for it; nil: no one
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

// Membership is the roles and attributes of a user in one tenant.
type Membership struct {
	Tenant     string
	User       string // id of the user
	Status     string
	Roles      []string // that are in use; RolesAt are those in force
	Attributes map[string]any
	ExpiresAt  time.Time // zero: never
	Version    int64
	Terms      map[string]RoleTerm // by role; one without a term is in force as long as the membership

	TenantStatus string // read together: which memberships count, without a look-up of each tenant
}

// Member is a membership with its user.
type Member struct {
	Membership
	Issuer  string
	Subject string
	Expired bool      // its end has passed
	AsOf    time.Time // the database's clock when it was read
}

// Mapping grants roles of a tenant to every user whose token has the Claim with the Value, or
// with a list that contains it.
type Mapping struct {
	Tenant  string
	Issuer  string
	Claim   string
	Value   string
	Roles   []string
	Version int64
}

// ID names a mapping within its tenant: 128 bits of the SHA-256 of what it maps.
func (m Mapping) ID() string {
	sum := sha256.Sum256([]byte(m.Issuer + "\x00" + m.Claim + "\x00" + m.Value)) // no NUL is in any of them
	return hex.EncodeToString(sum[:16])
}

// Client is what a program is authorized for. Its OAuth metadata is in the identity
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

// Reserved roles: they are global, and their holders are administrators or auditors of one
// tenant.
const (
	RoleTenantAdmin   = "iam:tenant-admin"
	RoleTenantAuditor = "iam:tenant-auditor"
)

// PlatformAdmin is the platform role that holds everything.
const PlatformAdmin = "platform-admin"

// ScopePlatformAdmin makes a program of the platform a platform administrator.
const ScopePlatformAdmin = "iam:platform-admin"

// Manifest is the roles and attributes that a service declares.
type Manifest struct {
	Service    string
	Roles      []Role // Name, Description, Permissions, Inherits
	Attributes []AttributeSchema
}

// AttributeSchema declares an attribute of users, tenants and memberships.
type AttributeSchema struct {
	Key         string
	Service     string
	Type        string // one of AttributeTypes
	Description string
}

// AttributeTypes are what a value of an attribute can be.
var AttributeTypes = []string{"string", "integer", "number", "boolean", "string[]"}

// Service is the owner of a manifest.
type Service struct {
	Name     string
	Issuer   string // of the program that syncs it; empty: the next one becomes it
	ClientID string
	Version  int64
}

// UserFacts is everything one look-up of a user brings.
type UserFacts struct {
	User
	Memberships []Membership
	AsOf        time.Time // the database's clock when it was read
}

// MembersQuery names a part of a tenant's members, whatever their status, in the order of our ids.
type MembersQuery struct {
	Tenant string
	Issuer string // "": of each
	After  string // our id of the last member that was read; "": none was
	Limit  int    // of members that are read, whether they are of the issuer or not
}

// MembersPart is what a MembersQuery finds.
type MembersPart struct {
	Users []UserFacts
	Read  int    // members; fewer than the limit: these were the last
	Last  string // our id of the last one
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
