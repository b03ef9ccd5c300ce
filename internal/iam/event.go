package iam

// Kinds of objects that are changed, audited, and named by events.
const (
	KindTenant  = "tenant"
	KindRole    = "role"
	KindUser    = "user"
	KindMember  = "member"
	KindRequest = "request"
	KindMapping = "mapping"
	KindService = "service"
	KindAudit   = "audit"
	KindClient  = "client"
	KindPolicy  = "policy"
	KindEvent   = "event" // audited only

	KindInstance = "instance" // audited only

	KindSignal = "signal" // audited only

	KindAssertionKey = "assertion_key" // audited only

	KindSCIMGroup = "scim_group"
	KindSCIMUser  = "scim_user" // audited only
)

// Event is one event of the outbox: a fact in the past tense, complete enough that most
// consumers need no further request. Its JSON form is the data of the CloudEvent. It
// contains no secret and no personal data: a person is our id.
//
// Each type of event is a Go type, which embeds its data.
type Event interface {
	// EventType is "<WhatHappened>.v<n>": a change that could break a consumer gets a new
	// number and a new Go type.
	EventType() string
	EventKey() EventKey
}

// EventKey is the object of an event. Events of one key keep their order.
type EventKey struct {
	Tenant string // empty: of the platform
	Kind   string
	Object string // id or name
}

// Objects of kind policy that are no revision, and of kind audit.
const (
	PolicyActiveObject = "in-force"
	PolicyShadowObject = "shadow"
	AuditChainObject   = "chain"
)

type (
	// TenantCreatedEvent is TenantCreated.v1.
	TenantCreatedEvent struct{ TenantState }
	// TenantUpdatedEvent is TenantUpdated.v1.
	TenantUpdatedEvent struct{ TenantState }
	// TenantSuspendedEvent is TenantSuspended.v1.
	TenantSuspendedEvent struct{ TenantState }
	// TenantResumedEvent is TenantResumed.v1.
	TenantResumedEvent struct{ TenantState }
	// TenantArchivedEvent is TenantArchived.v1.
	TenantArchivedEvent struct{ TenantState }
	// TenantDeletedEvent is TenantDeleted.v1.
	TenantDeletedEvent struct{ TenantGone }
)

type (
	// RoleCreatedEvent is RoleCreated.v1.
	RoleCreatedEvent struct{ RoleState }
	// RoleUpdatedEvent is RoleUpdated.v1.
	RoleUpdatedEvent struct{ RoleState }
	// RoleDeletedEvent is RoleDeleted.v1.
	RoleDeletedEvent struct{ RoleGone }
)

type (
	// UserCreatedEvent is UserCreated.v1.
	UserCreatedEvent struct{ UserState }
	// UserUpdatedEvent is UserUpdated.v1.
	UserUpdatedEvent struct{ UserState }
	// UserPlatformRolesAssignedEvent is UserPlatformRolesAssigned.v1.
	UserPlatformRolesAssignedEvent struct{ UserState }
	// UserBlockedEvent is UserBlocked.v1.
	UserBlockedEvent struct{ UserState }
	// UserUnblockedEvent is UserUnblocked.v1.
	UserUnblockedEvent struct{ UserState }
	// UserTokensRevokedEvent is UserTokensRevoked.v1.
	UserTokensRevokedEvent struct{ UserRevoked }
	// UserErasedEvent is UserErased.v1.
	UserErasedEvent struct{ UserGone }
)

type (
	// MemberAddedEvent is MemberAdded.v1.
	MemberAddedEvent struct{ MemberState }
	// MemberUpdatedEvent is MemberUpdated.v1.
	MemberUpdatedEvent struct{ MemberState }
	// MemberSuspendedEvent is MemberSuspended.v1.
	MemberSuspendedEvent struct{ MemberState }
	// MemberResumedEvent is MemberResumed.v1.
	MemberResumedEvent struct{ MemberState }
	// MemberRemovedEvent is MemberRemoved.v1.
	MemberRemovedEvent struct{ MemberGone }
	// UserRolesAssignedEvent is UserRolesAssigned.v1.
	UserRolesAssignedEvent struct{ RolesAssigned }
	// UserRolesExpiringEvent is UserRolesExpiring.v1.
	UserRolesExpiringEvent struct{ RolesEnd }
	// UserRolesExpiredEvent is UserRolesExpired.v1.
	UserRolesExpiredEvent struct{ RolesEnd }
	// RoleRequestedEvent is RoleRequested.v1.
	RoleRequestedEvent struct{ RoleRequestState }
	// RoleRequestApprovedEvent is RoleRequestApproved.v1.
	RoleRequestApprovedEvent struct{ RoleRequestState }
	// RoleRequestRejectedEvent is RoleRequestRejected.v1.
	RoleRequestRejectedEvent struct{ RoleRequestState }
	// RoleRequestCancelledEvent is RoleRequestCancelled.v1.
	RoleRequestCancelledEvent struct{ RoleRequestState }
	// RoleRequestExpiredEvent is RoleRequestExpired.v1.
	RoleRequestExpiredEvent struct{ RoleRequestState }
	// BreakGlassUsedEvent is BreakGlassUsed.v1.
	BreakGlassUsedEvent struct{ RoleRequestState }
)

type (
	// MappingCreatedEvent is MappingCreated.v1.
	MappingCreatedEvent struct{ MappingState }
	// MappingUpdatedEvent is MappingUpdated.v1.
	MappingUpdatedEvent struct{ MappingState }
	// MappingDeletedEvent is MappingDeleted.v1.
	MappingDeletedEvent struct{ MappingGone }
)

type (
	// SCIMGroupCreatedEvent is ScimGroupCreated.v1.
	SCIMGroupCreatedEvent struct{ SCIMGroupState }
	// SCIMGroupUpdatedEvent is ScimGroupUpdated.v1.
	SCIMGroupUpdatedEvent struct{ SCIMGroupState }
	// SCIMGroupDeletedEvent is ScimGroupDeleted.v1.
	SCIMGroupDeletedEvent struct{ SCIMGroupGone }
)

type (
	// ServiceManifestAppliedEvent is ServiceManifestApplied.v1.
	ServiceManifestAppliedEvent struct{ ManifestState }
)

type (
	// ClientCreatedEvent is ClientCreated.v1.
	ClientCreatedEvent struct{ ClientState }
	// ClientUpdatedEvent is ClientUpdated.v1.
	ClientUpdatedEvent struct{ ClientState }
	// ClientBlockedEvent is ClientBlocked.v1.
	ClientBlockedEvent struct{ ClientState }
	// ClientUnblockedEvent is ClientUnblocked.v1.
	ClientUnblockedEvent struct{ ClientState }
	// ClientTokensRevokedEvent is ClientTokensRevoked.v1.
	ClientTokensRevokedEvent struct{ ClientRevoked }
	// ClientSecretRotatedEvent is ClientSecretRotated.v1.
	ClientSecretRotatedEvent struct{ ClientSecret }
	// ClientSecretExpiringEvent is ClientSecretExpiring.v1.
	ClientSecretExpiringEvent struct{ ClientSecret }
	// ClientSecretRetiredEvent is ClientSecretRetired.v1.
	ClientSecretRetiredEvent struct{ ClientSecret }
	// ClientDeletedEvent is ClientDeleted.v1.
	ClientDeletedEvent struct{ ClientGone }
)

type (
	// PolicyRevisionAddedEvent is PolicyRevisionAdded.v1.
	PolicyRevisionAddedEvent struct{ PolicyState }
	// PolicyActivatedEvent is PolicyActivated.v1.
	PolicyActivatedEvent struct{ PolicyState }
	// PolicyShadowSetEvent is PolicyShadowSet.v1.
	PolicyShadowSetEvent struct{ PolicyState }
)

type (
	// AuditCheckpointEvent is AuditCheckpoint.v1.
	AuditCheckpointEvent struct{ Checkpoint }
)

// EventType implements Event.
func (TenantCreatedEvent) EventType() string { return "TenantCreated.v1" }

// EventType implements Event.
func (TenantUpdatedEvent) EventType() string { return "TenantUpdated.v1" }

// EventType implements Event.
func (TenantSuspendedEvent) EventType() string { return "TenantSuspended.v1" }

// EventType implements Event.
func (TenantResumedEvent) EventType() string { return "TenantResumed.v1" }

// EventType implements Event.
func (TenantArchivedEvent) EventType() string { return "TenantArchived.v1" }

// EventType implements Event.
func (TenantDeletedEvent) EventType() string { return "TenantDeleted.v1" }

// EventType implements Event.
func (RoleCreatedEvent) EventType() string { return "RoleCreated.v1" }

// EventType implements Event.
func (RoleUpdatedEvent) EventType() string { return "RoleUpdated.v1" }

// EventType implements Event.
func (RoleDeletedEvent) EventType() string { return "RoleDeleted.v1" }

// EventType implements Event.
func (UserCreatedEvent) EventType() string { return "UserCreated.v1" }

// EventType implements Event.
func (UserUpdatedEvent) EventType() string { return "UserUpdated.v1" }

// EventType implements Event.
func (UserPlatformRolesAssignedEvent) EventType() string { return "UserPlatformRolesAssigned.v1" }

// EventType implements Event.
func (UserBlockedEvent) EventType() string { return "UserBlocked.v1" }

// EventType implements Event.
func (UserUnblockedEvent) EventType() string { return "UserUnblocked.v1" }

// EventType implements Event.
func (UserTokensRevokedEvent) EventType() string { return "UserTokensRevoked.v1" }

// EventType implements Event.
func (UserErasedEvent) EventType() string { return "UserErased.v1" }

// EventType implements Event.
func (MemberAddedEvent) EventType() string { return "MemberAdded.v1" }

// EventType implements Event.
func (MemberUpdatedEvent) EventType() string { return "MemberUpdated.v1" }

// EventType implements Event.
func (MemberSuspendedEvent) EventType() string { return "MemberSuspended.v1" }

// EventType implements Event.
func (MemberResumedEvent) EventType() string { return "MemberResumed.v1" }

// EventType implements Event.
func (MemberRemovedEvent) EventType() string { return "MemberRemoved.v1" }

// EventType implements Event.
func (UserRolesAssignedEvent) EventType() string { return "UserRolesAssigned.v1" }

// EventType implements Event.
func (UserRolesExpiringEvent) EventType() string { return "UserRolesExpiring.v1" }

// EventType implements Event.
func (UserRolesExpiredEvent) EventType() string { return "UserRolesExpired.v1" }

// EventType implements Event.
func (RoleRequestedEvent) EventType() string { return "RoleRequested.v1" }

// EventType implements Event.
func (RoleRequestApprovedEvent) EventType() string { return "RoleRequestApproved.v1" }

// EventType implements Event.
func (RoleRequestRejectedEvent) EventType() string { return "RoleRequestRejected.v1" }

// EventType implements Event.
func (RoleRequestCancelledEvent) EventType() string { return "RoleRequestCancelled.v1" }

// EventType implements Event.
func (RoleRequestExpiredEvent) EventType() string { return "RoleRequestExpired.v1" }

// EventType implements Event.
func (BreakGlassUsedEvent) EventType() string { return "BreakGlassUsed.v1" }

// EventType implements Event.
func (MappingCreatedEvent) EventType() string { return "MappingCreated.v1" }

// EventType implements Event.
func (MappingUpdatedEvent) EventType() string { return "MappingUpdated.v1" }

// EventType implements Event.
func (MappingDeletedEvent) EventType() string { return "MappingDeleted.v1" }

// EventType implements Event.
func (SCIMGroupCreatedEvent) EventType() string { return "ScimGroupCreated.v1" }

// EventType implements Event.
func (SCIMGroupUpdatedEvent) EventType() string { return "ScimGroupUpdated.v1" }

// EventType implements Event.
func (SCIMGroupDeletedEvent) EventType() string { return "ScimGroupDeleted.v1" }

// EventType implements Event.
func (ServiceManifestAppliedEvent) EventType() string { return "ServiceManifestApplied.v1" }

// EventType implements Event.
func (ClientCreatedEvent) EventType() string { return "ClientCreated.v1" }

// EventType implements Event.
func (ClientUpdatedEvent) EventType() string { return "ClientUpdated.v1" }

// EventType implements Event.
func (ClientBlockedEvent) EventType() string { return "ClientBlocked.v1" }

// EventType implements Event.
func (ClientUnblockedEvent) EventType() string { return "ClientUnblocked.v1" }

// EventType implements Event.
func (ClientTokensRevokedEvent) EventType() string { return "ClientTokensRevoked.v1" }

// EventType implements Event.
func (ClientSecretRotatedEvent) EventType() string { return "ClientSecretRotated.v1" }

// EventType implements Event.
func (ClientSecretExpiringEvent) EventType() string { return "ClientSecretExpiring.v1" }

// EventType implements Event.
func (ClientSecretRetiredEvent) EventType() string { return "ClientSecretRetired.v1" }

// EventType implements Event.
func (ClientDeletedEvent) EventType() string { return "ClientDeleted.v1" }

// EventType implements Event.
func (PolicyRevisionAddedEvent) EventType() string { return "PolicyRevisionAdded.v1" }

// EventType implements Event.
func (PolicyActivatedEvent) EventType() string { return "PolicyActivated.v1" }

// EventType implements Event.
func (PolicyShadowSetEvent) EventType() string { return "PolicyShadowSet.v1" }

// EventType implements Event.
func (AuditCheckpointEvent) EventType() string { return "AuditCheckpoint.v1" }

// EventKey implements Event: these two have an object of their own, so that events about all
// revisions keep their order.
func (PolicyActivatedEvent) EventKey() EventKey {
	return EventKey{Kind: KindPolicy, Object: PolicyActiveObject}
}

// EventKey implements Event.
func (PolicyShadowSetEvent) EventKey() EventKey {
	return EventKey{Kind: KindPolicy, Object: PolicyShadowObject}
}

// EventDoc describes one type of event, for those who read them.
type EventDoc struct {
	Event   Event // without data
	Summary string
}

// Events are all types of events. What is listed is a promise: add to it, never rename.
var Events = []EventDoc{
	{Event: TenantCreatedEvent{}, Summary: "A tenant was created."},
	{Event: TenantUpdatedEvent{}, Summary: "A tenant's slug, name or attributes have changed."},
	{Event: TenantSuspendedEvent{}, Summary: "A tenant was suspended: requests for it are denied."},
	{Event: TenantResumedEvent{}, Summary: "A tenant is active again."},
	{Event: TenantArchivedEvent{}, Summary: "A tenant was archived: requests for it are denied."},
	{Event: TenantDeletedEvent{}, Summary: "A tenant was deleted, with its roles, members and mappings."},
	{Event: RoleCreatedEvent{}, Summary: "A role was created."},
	{Event: RoleUpdatedEvent{}, Summary: "A role's permissions, inheritance or description have changed."},
	{Event: RoleDeletedEvent{}, Summary: "A role was deleted; it is assigned to no subject."},
	{Event: UserCreatedEvent{}, Summary: "A user was created."},
	{Event: UserUpdatedEvent{}, Summary: "A user's attributes or default tenant have changed."},
	{Event: UserPlatformRolesAssignedEvent{}, Summary: "A user's platform roles have changed."},
	{Event: UserBlockedEvent{}, Summary: "A user was blocked: their requests are denied in every tenant."},
	{Event: UserUnblockedEvent{}, Summary: "A user is active again."},
	{Event: UserTokensRevokedEvent{}, Summary: "A user's tokens that were issued before a time were revoked."},
	{Event: UserErasedEvent{}, Summary: "A user was erased: issuer and subject are deleted, our id is not used again."},
	{Event: MemberAddedEvent{}, Summary: "A user was added to a tenant."},
	{Event: MemberUpdatedEvent{}, Summary: "A membership's attributes or expiry have changed."},
	{Event: MemberSuspendedEvent{}, Summary: "A membership was suspended: it grants nothing."},
	{Event: MemberResumedEvent{}, Summary: "A membership is active again."},
	{Event: MemberRemovedEvent{}, Summary: "A user was removed from a tenant."},
	{Event: UserRolesAssignedEvent{}, Summary: "A user's roles in a tenant, or their terms, have changed."},
	{Event: UserRolesExpiringEvent{}, Summary: "Roles of a user in a tenant end soon (`ROLE_EXPIRY_NOTICE`), or sooner where they were granted for less; once for each end."},
	{Event: UserRolesExpiredEvent{}, Summary: "Roles of a user in a tenant have ended and were removed; UserRolesAssigned.v1 says what is left."},
	{Event: RoleRequestedEvent{}, Summary: "A member asks for a role for a time."},
	{Event: RoleRequestApprovedEvent{}, Summary: "A request for a role was approved, and the role granted."},
	{Event: RoleRequestRejectedEvent{}, Summary: "A request for a role was rejected."},
	{Event: RoleRequestCancelledEvent{}, Summary: "A request for a role was cancelled by the member who asked."},
	{Event: RoleRequestExpiredEvent{}, Summary: "A request for a role was not decided in time (`ROLE_REQUEST_LIFETIME`)."},
	{Event: BreakGlassUsedEvent{}, Summary: "A member took a break-glass role: it was granted without an approval."},
	{Event: MappingCreatedEvent{}, Summary: "A claim of a provider maps to roles in a tenant."},
	{Event: MappingUpdatedEvent{}, Summary: "A claim of a provider maps to other roles in a tenant."},
	{Event: MappingDeletedEvent{}, Summary: "A claim of a provider no longer maps to roles in a tenant."},
	{Event: SCIMGroupCreatedEvent{}, Summary: "A tenant's provisioning client created a group."},
	{Event: SCIMGroupUpdatedEvent{}, Summary: "A group's names, members or roles have changed; the roles of each member are events of their own."},
	{Event: SCIMGroupDeletedEvent{}, Summary: "A group was deleted; what it granted is revoked."},
	{Event: ServiceManifestAppliedEvent{}, Summary: "A service's manifest has changed: it declares other roles or attributes."},
	{Event: ClientCreatedEvent{}, Summary: "An OAuth2 client was created, here and in the identity provider."},
	{Event: ClientUpdatedEvent{}, Summary: "A client's metadata, roles or scopes have changed, here and in the identity provider."},
	{Event: ClientBlockedEvent{}, Summary: "A client was blocked: its tokens are rejected."},
	{Event: ClientUnblockedEvent{}, Summary: "A client is active again."},
	{Event: ClientTokensRevokedEvent{}, Summary: "A client's tokens that were issued before a time were revoked."},
	{Event: ClientSecretRotatedEvent{}, Summary: "A client has a new secret; the previous one may work until old_until."},
	{Event: ClientSecretExpiringEvent{}, Summary: "A quarter of the overlap is left in which a client's previous secret works."},
	{Event: ClientSecretRetiredEvent{}, Summary: "A client's previous secret no longer works."},
	{Event: ClientDeletedEvent{}, Summary: "A client was deleted, here and in the identity provider."},
	{Event: PolicyRevisionAddedEvent{}, Summary: "A policy revision was accepted by the gate and stored; it is not active."},
	{Event: PolicyActivatedEvent{}, Summary: "Another policy revision is active."},
	{Event: PolicyShadowSetEvent{}, Summary: "A policy revision is evaluated as a shadow of the active one, for a share of requests; none where revision is empty."},
	{Event: AuditCheckpointEvent{}, Summary: "The head of an audit chain, hourly where it has grown."},
}
