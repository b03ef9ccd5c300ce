package iam

// Kinds of things that are changed, audited and announced.
const (
	KindTenant  = "tenant"
	KindRole    = "role"
	KindUser    = "user"
	KindMember  = "member"
	KindMapping = "mapping"
	KindService = "service"
	KindAudit   = "audit"
	KindClient  = "client"
	KindPolicy  = "policy"
	KindEvent   = "event" // only audited

	KindInstance = "instance" // likewise
)

// Event says that something has become true: named in the past tense, and
// complete enough that most readers need not ask again. It holds no secret and no
// personal data: a person is our id.
type Event struct {
	Type   string // "<WhatHappened>.v<n>": what could break a reader gets a new number
	Tenant string // empty: of the platform
	Kind   string
	Object string // id or name; with Tenant and Kind it says which events keep their order
	Data   any    // one of the types of Events
}

// Data of events. A field that is not known or not set is left out.
type (
	// TenantState is a tenant after a change.
	TenantState struct {
		Tenant  string `json:"tenant" doc:"id"`
		Slug    string `json:"slug"`
		Name    string `json:"name"`
		Status  string `json:"status" enum:"active,suspended,archived"`
		Version int64  `json:"version" doc:"grows with each change"`
	}
	// TenantGone is a tenant that was deleted.
	TenantGone struct {
		Tenant string `json:"tenant" doc:"id; it is never used again"`
	}
	// RoleState is a role after a change.
	RoleState struct {
		Tenant      string   `json:"tenant,omitempty" doc:"absent: a global role"`
		Role        string   `json:"role" doc:"name"`
		Permissions []string `json:"permissions"`
		Inherits    []string `json:"inherits" doc:"names of roles"`
		Service     string   `json:"service,omitempty" doc:"whose manifest declares it"`
		Version     int64    `json:"version"`
	}
	// RoleGone is a role that was deleted.
	RoleGone struct {
		Tenant string `json:"tenant,omitempty" doc:"absent: a global role"`
		Role   string `json:"role" doc:"name"`
	}
	// UserState is a user after a change. What identifies them elsewhere does not
	// travel, nor do values of attributes.
	UserState struct {
		User          string   `json:"user" doc:"our id" format:"uuid"`
		Status        string   `json:"status" enum:"active,blocked"`
		PlatformRoles []string `json:"platform_roles"`
		DefaultTenant string   `json:"default_tenant,omitempty"`
		Version       int64    `json:"version"`
	}
	// UserRevoked says from when on a user's tokens must be.
	UserRevoked struct {
		User            string `json:"user" doc:"our id" format:"uuid"`
		TokensNotBefore string `json:"tokens_not_before" doc:"tokens issued earlier are refused" format:"date-time"`
		Version         int64  `json:"version"`
	}
	// UserGone is a user that was erased.
	UserGone struct {
		User string `json:"user" doc:"our id; it is never used again" format:"uuid"`
	}
	// MemberState is a membership after a change.
	MemberState struct {
		Tenant    string   `json:"tenant"`
		User      string   `json:"user" doc:"our id" format:"uuid"`
		Status    string   `json:"status" enum:"active,suspended"`
		Roles     []string `json:"roles"`
		ExpiresAt string   `json:"expires_at,omitempty" doc:"absent: never" format:"date-time"`
		Version   int64    `json:"version"`
	}
	// RolesAssigned says which roles a user has in a tenant from now on.
	RolesAssigned struct {
		Tenant  string   `json:"tenant"`
		User    string   `json:"user" doc:"our id" format:"uuid"`
		Roles   []string `json:"roles" doc:"all that are assigned now"`
		Added   []string `json:"added"`
		Removed []string `json:"removed"`
		Version int64    `json:"version"`
	}
	// MemberGone is a membership that has ended.
	MemberGone struct {
		Tenant string `json:"tenant"`
		User   string `json:"user" doc:"our id" format:"uuid"`
	}
	// MappingState is what a claim means in a tenant after a change.
	MappingState struct {
		Tenant  string   `json:"tenant"`
		Mapping string   `json:"mapping" doc:"id"`
		Claim   string   `json:"claim"`
		Roles   []string `json:"roles"`
		Version int64    `json:"version"`
	}
	// MappingGone is a mapping that was deleted.
	MappingGone struct {
		Tenant  string `json:"tenant"`
		Mapping string `json:"mapping" doc:"id"`
	}
	// ManifestState is what a service declares from now on.
	ManifestState struct {
		Service    string   `json:"service"`
		Version    int64    `json:"version"`
		Roles      []string `json:"roles" doc:"names of the role templates"`
		Attributes []string `json:"attributes" doc:"keys"`
	}
	// ClientState is an OAuth2 client after a change.
	ClientState struct {
		Client  string   `json:"client" doc:"client_id; it is never used again"`
		Tenant  string   `json:"tenant,omitempty" doc:"absent: a program of the platform"`
		Name    string   `json:"name,omitempty"`
		Type    string   `json:"type,omitempty" enum:"public,confidential"`
		Status  string   `json:"status" enum:"active,blocked"`
		Roles   []string `json:"roles"`
		Scopes  []string `json:"scopes"`
		Version int64    `json:"version"`
	}
	// ClientRevoked says from when on a client's tokens must be.
	ClientRevoked struct {
		Client          string `json:"client" doc:"client_id"`
		Tenant          string `json:"tenant,omitempty"`
		TokensNotBefore string `json:"tokens_not_before" doc:"tokens issued earlier are refused" format:"date-time"`
		Version         int64  `json:"version"`
	}
	// ClientSecret says until when a client's old secret works. No secret travels.
	ClientSecret struct {
		Client   string `json:"client" doc:"client_id"`
		Tenant   string `json:"tenant,omitempty"`
		OldUntil string `json:"old_until,omitempty" doc:"until when the secret before works; absent: it does not any more" format:"date-time"`
	}
	// ClientGone is a client that was deleted.
	ClientGone struct {
		Client string `json:"client" doc:"client_id; it is never used again"`
		Tenant string `json:"tenant,omitempty"`
	}
	// PolicyState is a revision of the policy.
	PolicyState struct {
		Revision string  `json:"revision" doc:"its short name, as in X-Policy-Revision"`
		Digest   string  `json:"digest" doc:"SHA-256 of what is evaluated, in hex"`
		Name     string  `json:"name,omitempty" doc:"what its bundle calls it"`
		Replaced string  `json:"replaced,omitempty" doc:"digest of the one that was in force before"`
		Rollback bool    `json:"rollback,omitempty"`
		Share    float64 `json:"share,omitempty" doc:"of requests for which it is evaluated beside what is in force"`
	}
	// Checkpoint is the head of an audit chain: keep it where this service cannot
	// write, and the chain before it can be verified.
	Checkpoint struct {
		Chain string `json:"chain" doc:"id of a tenant; empty: the platform"`
		Seq   int64  `json:"seq" doc:"of the last entry"`
		Hash  string `json:"hash" doc:"SHA-256 of the last entry and all before it, in hex"`
	}
)

// EventType describes one type of event, for those who read them.
type EventType struct {
	Type string
	Kind string
	Says string
	Data any // a value of the type that Event.Data has
}

// Events are all types of events. What is listed is a promise: add to it, never
// rename.
var Events = []EventType{
	{"TenantCreated.v1", KindTenant, "There is a new tenant.", TenantState{}},
	{"TenantUpdated.v1", KindTenant, "A tenant's slug, name or attributes have changed.", TenantState{}},
	{"TenantSuspended.v1", KindTenant, "Nobody of the tenant gets in any more.", TenantState{}},
	{"TenantResumed.v1", KindTenant, "The tenant is active again.", TenantState{}},
	{"TenantArchived.v1", KindTenant, "The tenant has left.", TenantState{}},
	{"TenantDeleted.v1", KindTenant, "A tenant is gone, with its roles, members and mappings.", TenantGone{}},
	{"RoleCreated.v1", KindRole, "There is a new role.", RoleState{}},
	{"RoleUpdated.v1", KindRole, "A role's permissions, inheritance or description have changed.", RoleState{}},
	{"RoleDeleted.v1", KindRole, "A role is gone; nobody holds it.", RoleGone{}},
	{"UserCreated.v1", KindUser, "A user is known here from now on.", UserState{}},
	{"UserUpdated.v1", KindUser, "A user's attributes or default tenant have changed.", UserState{}},
	{"UserPlatformRolesAssigned.v1", KindUser, "A user has other platform roles from now on.", UserState{}},
	{"UserBlocked.v1", KindUser, "A user gets in nowhere any more.", UserState{}},
	{"UserUnblocked.v1", KindUser, "A user is active again.", UserState{}},
	{"UserTokensRevoked.v1", KindUser, "A user's tokens that were issued earlier are refused.", UserRevoked{}},
	{"UserErased.v1", KindUser, "A user is gone: issuer and subject are forgotten, our id is not used again.", UserGone{}},
	{"MemberAdded.v1", KindMember, "A user is a member of a tenant from now on.", MemberState{}},
	{"MemberUpdated.v1", KindMember, "A membership's attributes or end have changed.", MemberState{}},
	{"MemberSuspended.v1", KindMember, "A membership does not count any more.", MemberState{}},
	{"MemberResumed.v1", KindMember, "A membership counts again.", MemberState{}},
	{"MemberRemoved.v1", KindMember, "A user is no member of a tenant any more.", MemberGone{}},
	{"UserRolesAssigned.v1", KindMember, "A user has other roles in a tenant from now on.", RolesAssigned{}},
	{"MappingCreated.v1", KindMapping, "What a provider says means roles in a tenant from now on.", MappingState{}},
	{"MappingUpdated.v1", KindMapping, "What a provider says means other roles in a tenant.", MappingState{}},
	{"MappingDeleted.v1", KindMapping, "What a provider says means nothing in a tenant any more.", MappingGone{}},
	{"ServiceManifestApplied.v1", KindService, "A service declares other roles or attributes.", ManifestState{}},
	{"ClientCreated.v1", KindClient, "There is a new OAuth2 client, here and in the identity provider.", ClientState{}},
	{"ClientUpdated.v1", KindClient, "A client's metadata, roles or scopes have changed, in both.", ClientState{}},
	{"ClientBlocked.v1", KindClient, "A client's tokens are refused from now on.", ClientState{}},
	{"ClientUnblocked.v1", KindClient, "A client is active again.", ClientState{}},
	{"ClientTokensRevoked.v1", KindClient, "A client's tokens that were issued earlier are refused.", ClientRevoked{}},
	{"ClientSecretRotated.v1", KindClient, "A client has a new secret; the one before works for a while.", ClientSecret{}},
	{"ClientSecretExpiring.v1", KindClient, "A quarter of the time is left in which a client's old secret works.", ClientSecret{}},
	{"ClientSecretRetired.v1", KindClient, "A client's old secret does not work any more.", ClientSecret{}},
	{"ClientDeleted.v1", KindClient, "A client is gone, here and in the identity provider.", ClientGone{}},
	{"PolicyRevisionAdded.v1", KindPolicy, "A policy has passed the gate and is kept; it is not in force.", PolicyState{}},
	{"PolicyActivated.v1", KindPolicy, "Another policy is in force from now on.", PolicyState{}},
	{"PolicyShadowSet.v1", KindPolicy, "A policy is evaluated beside what is in force, for a share of requests; none where revision is empty.", PolicyState{}},
	{"AuditCheckpoint.v1", KindAudit, "The head of an audit chain, hourly where it has grown.", Checkpoint{}},
}
