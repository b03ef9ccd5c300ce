package iam

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
		Service     string   `json:"service,omitempty" doc:"service whose manifest declares it"`
		Version     int64    `json:"version"`
	}
	// RoleGone is a role that was deleted.
	RoleGone struct {
		Tenant string `json:"tenant,omitempty" doc:"absent: a global role"`
		Role   string `json:"role" doc:"name"`
	}
	// UserState is a user after a change, without issuer, subject and values of attributes.
	UserState struct {
		User          string   `json:"user" doc:"our id" format:"uuid"`
		Status        string   `json:"status" enum:"active,blocked"`
		PlatformRoles []string `json:"platform_roles"`
		DefaultTenant string   `json:"default_tenant,omitempty"`
		Version       int64    `json:"version"`
	}
	// UserRevoked is a revocation of a user's tokens.
	UserRevoked struct {
		User            string `json:"user" doc:"our id" format:"uuid"`
		TokensNotBefore string `json:"tokens_not_before" doc:"tokens issued earlier are rejected" format:"date-time"`
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

		RoleTerms map[string]RoleLimits `json:"role_terms,omitempty" doc:"by role: when it is in force; one that is not listed is, as long as the membership"`
	}
	// RolesEnd is roles of a user in a tenant that end, or have ended.
	RolesEnd struct {
		Tenant  string    `json:"tenant"`
		User    string    `json:"user" doc:"our id" format:"uuid"`
		Ends    []RoleEnd `json:"ends"`
		Version int64     `json:"version"`
	}
	// RoleRequestState is a request for a role after a change, without its reasons.
	RoleRequestState struct {
		Tenant    string `json:"tenant"`
		Request   string `json:"request" doc:"id" format:"uuid"`
		User      string `json:"user" doc:"who asks: our id" format:"uuid"`
		Role      string `json:"role" doc:"name"`
		Seconds   int64  `json:"seconds" doc:"for which it is asked"`
		Approval  string `json:"approval" enum:"required,break_glass"`
		Status    string `json:"status" enum:"pending,approved,rejected,cancelled,expired"`
		DecideBy  string `json:"decide_by" doc:"when it expires undecided" format:"date-time"`
		ExpiresAt string `json:"expires_at,omitempty" doc:"when the role ends that was granted" format:"date-time"`
		Version   int64  `json:"version"`
	}
	// RoleEnd is the end of a role.
	RoleEnd struct {
		Role      string `json:"role" doc:"name"`
		ExpiresAt string `json:"expires_at" format:"date-time"`
	}
	// RoleLimits is when a role of a member is in force.
	RoleLimits struct {
		StartsAt  string `json:"starts_at,omitempty" doc:"absent: from the beginning" format:"date-time"`
		ExpiresAt string `json:"expires_at,omitempty" doc:"absent: never" format:"date-time"`
	}
	// RolesAssigned is the roles of a user in a tenant after a change.
	RolesAssigned struct {
		Tenant  string   `json:"tenant"`
		User    string   `json:"user" doc:"our id" format:"uuid"`
		Roles   []string `json:"roles" doc:"all that are assigned now"`
		Added   []string `json:"added"`
		Removed []string `json:"removed"`
		Version int64    `json:"version"`

		RoleTerms map[string]RoleLimits `json:"role_terms,omitempty" doc:"by role: when it is in force; one that is not listed is, as long as the membership"`
	}
	// MemberGone is a membership that was removed.
	MemberGone struct {
		Tenant string `json:"tenant"`
		User   string `json:"user" doc:"our id" format:"uuid"`
	}
	// MappingState is a mapping after a change.
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
	// SCIMGroupState is a group of a provisioning client after a change, without its names.
	SCIMGroupState struct {
		Tenant  string   `json:"tenant"`
		Group   string   `json:"group" doc:"our id" format:"uuid"`
		Roles   []string `json:"roles" doc:"to which an administrator has mapped it"`
		Members int      `json:"members" doc:"how many"`
		Version int64    `json:"version"`
	}
	// SCIMGroupGone is a group that was deleted.
	SCIMGroupGone struct {
		Tenant string `json:"tenant"`
		Group  string `json:"group" doc:"our id" format:"uuid"`
	}
	// ManifestState is what a service declares after a change.
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
	// ClientRevoked is a revocation of a client's tokens.
	ClientRevoked struct {
		Client          string `json:"client" doc:"client_id"`
		Tenant          string `json:"tenant,omitempty"`
		TokensNotBefore string `json:"tokens_not_before" doc:"tokens issued earlier are rejected" format:"date-time"`
		Version         int64  `json:"version"`
	}
	// ClientSecret is the state of a client's secrets, without the secrets.
	ClientSecret struct {
		Client   string `json:"client" doc:"client_id"`
		Tenant   string `json:"tenant,omitempty"`
		OldUntil string `json:"old_until,omitempty" doc:"until when the previous secret works; absent: it no longer works" format:"date-time"`
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
		Replaced string  `json:"replaced,omitempty" doc:"digest of the revision that was active before"`
		Rollback bool    `json:"rollback,omitempty"`
		Share    float64 `json:"share,omitempty" doc:"of requests for which it is evaluated as a shadow"`
	}
	// Checkpoint is the head of an audit chain. Stored where this service cannot write, it
	// verifies the chain before it.
	Checkpoint struct {
		Chain string `json:"chain" doc:"id of a tenant; empty: the platform"`
		Seq   int64  `json:"seq" doc:"of the last entry"`
		Hash  string `json:"hash" doc:"SHA-256 of the last entry and all before it, in hex"`
	}
)

// EventKey implements Event, for the events that embed it.
func (s TenantState) EventKey() EventKey {
	return EventKey{Tenant: s.Tenant, Kind: KindTenant, Object: s.Tenant}
}

// EventKey implements Event, for the events that embed it.
func (s TenantGone) EventKey() EventKey {
	return EventKey{Tenant: s.Tenant, Kind: KindTenant, Object: s.Tenant}
}

// EventKey implements Event, for the events that embed it.
func (s RoleState) EventKey() EventKey {
	return EventKey{Tenant: s.Tenant, Kind: KindRole, Object: s.Role}
}

// EventKey implements Event, for the events that embed it.
func (s RoleGone) EventKey() EventKey {
	return EventKey{Tenant: s.Tenant, Kind: KindRole, Object: s.Role}
}

// EventKey implements Event, for the events that embed it.
func (s UserState) EventKey() EventKey { return EventKey{Kind: KindUser, Object: s.User} }

// EventKey implements Event, for the events that embed it.
func (s UserRevoked) EventKey() EventKey { return EventKey{Kind: KindUser, Object: s.User} }

// EventKey implements Event, for the events that embed it.
func (s UserGone) EventKey() EventKey { return EventKey{Kind: KindUser, Object: s.User} }

// EventKey implements Event, for the events that embed it.
func (s MemberState) EventKey() EventKey {
	return EventKey{Tenant: s.Tenant, Kind: KindMember, Object: s.User}
}

// EventKey implements Event, for the events that embed it.
func (s RolesAssigned) EventKey() EventKey {
	return EventKey{Tenant: s.Tenant, Kind: KindMember, Object: s.User}
}

// EventKey implements Event, for the events that embed it.
func (s RolesEnd) EventKey() EventKey {
	return EventKey{Tenant: s.Tenant, Kind: KindMember, Object: s.User}
}

// EventKey implements Event, for the events that embed it.
func (s RoleRequestState) EventKey() EventKey {
	return EventKey{Tenant: s.Tenant, Kind: KindRequest, Object: s.Request}
}

// EventKey implements Event, for the events that embed it.
func (s MemberGone) EventKey() EventKey {
	return EventKey{Tenant: s.Tenant, Kind: KindMember, Object: s.User}
}

// EventKey implements Event, for the events that embed it.
func (s MappingState) EventKey() EventKey {
	return EventKey{Tenant: s.Tenant, Kind: KindMapping, Object: s.Mapping}
}

// EventKey implements Event, for the events that embed it.
func (s MappingGone) EventKey() EventKey {
	return EventKey{Tenant: s.Tenant, Kind: KindMapping, Object: s.Mapping}
}

// EventKey implements Event, for the events that embed it.
func (s SCIMGroupState) EventKey() EventKey {
	return EventKey{Tenant: s.Tenant, Kind: KindSCIMGroup, Object: s.Group}
}

// EventKey implements Event, for the events that embed it.
func (s SCIMGroupGone) EventKey() EventKey {
	return EventKey{Tenant: s.Tenant, Kind: KindSCIMGroup, Object: s.Group}
}

// EventKey implements Event, for the events that embed it.
func (s ManifestState) EventKey() EventKey { return EventKey{Kind: KindService, Object: s.Service} }

// EventKey implements Event, for the events that embed it.
func (s ClientState) EventKey() EventKey {
	return EventKey{Tenant: s.Tenant, Kind: KindClient, Object: s.Client}
}

// EventKey implements Event, for the events that embed it.
func (s ClientRevoked) EventKey() EventKey {
	return EventKey{Tenant: s.Tenant, Kind: KindClient, Object: s.Client}
}

// EventKey implements Event, for the events that embed it.
func (s ClientSecret) EventKey() EventKey {
	return EventKey{Tenant: s.Tenant, Kind: KindClient, Object: s.Client}
}

// EventKey implements Event, for the events that embed it.
func (s ClientGone) EventKey() EventKey {
	return EventKey{Tenant: s.Tenant, Kind: KindClient, Object: s.Client}
}

// EventKey implements Event, for the events that embed it.
func (s PolicyState) EventKey() EventKey { return EventKey{Kind: KindPolicy, Object: s.Revision} }

// EventKey implements Event, for the events that embed it.
func (s Checkpoint) EventKey() EventKey {
	return EventKey{Tenant: s.Chain, Kind: KindAudit, Object: AuditChainObject}
}
