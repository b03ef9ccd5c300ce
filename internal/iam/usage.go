package iam

import "time"

// UsedMember is a membership that an allowed decision used, as its token names the user.
type UsedMember struct{ Tenant, Issuer, Subject string }

// UsedRole is a role that an allowed decision returned in a tenant.
type UsedRole struct{ Tenant, Role string }

// UsedClient is the client of a token that an allowed decision was about.
type UsedClient struct{ Issuer, ClientID string }

// Usage is what allowed decisions of one day (UTC) have used.
type Usage struct {
	Day       time.Time
	Decisions int64 // that were looked at since the last Usage
	Dropped   int64 // that were not, since the last Usage
	Roles     bool  // decisions name roles
	Members   []UsedMember
	Named     []UsedRole
	Clients   []UsedClient
}

// Recording is since when usage is known.
type Recording struct {
	Since   time.Time // the first day; zero: usage was never recorded
	Days    int       // on which it was recorded, of the days that are asked about
	Dropped int64     // decisions of these days that were not looked at
	Looked  int64     // and that were
}

// UnusedMembership is a membership that no decision has used since a day.
type UnusedMembership struct {
	Member
	CreatedAt time.Time
	LastUsed  time.Time // a day; zero: never since usage is recorded
}

// UnusedRole is a role that no decision has returned since a day, and what depends on it.
type UnusedRole struct {
	Name        string
	Global      bool
	CreatedAt   time.Time
	LastUsed    time.Time
	Members     int64    // whose memberships list it
	Clients     int64    // of the tenant
	Mappings    int64    // of the tenant
	InheritedBy []string // roles of the tenant
}

// UnusedClient is a client whose tokens no decision was about since a day.
type UnusedClient struct {
	Client
	CreatedAt time.Time
	LastUsed  time.Time
}
