# METADATA
# title: Claims of a request
# description: >-
#   Answers one question: who is this caller here, and which headers say so? A
#   request is allowed where a rule grants it and none denies it, and every
#   answer names the rules it rests on.
# scope: package
# schemas:
#   - input: schema.enrichment
#   - data.iam.config: schema.config
package iam.claims

import data.iam.config

# METADATA
# description: What the service reads. Its shape is our contract with Go.
# scope: document
# entrypoint: true
decision := {
	"allow": true,
	"anonymous": _anonymous,
	"tenant": _tenant_id,
	"headers": headers,
	"reasons": grants,
} if {
	count(grants) > 0
	count(denials) == 0
} else := {
	"allow": false,
	"status": 401,
	"reasons": denials,
} if {
	not _has_token
} else := {
	"allow": false,
	"status": 403,
	"reasons": denials,
}

# Grants: what may be.

# METADATA
# title: A member of the active tenant
# description: The user holds a membership in force in an active tenant.
# custom:
#   code: member
grants contains _reason(rego.metadata.rule()) if {
	_person
	_membership.status == "active"
	_tenant.status == "active"
}

# METADATA
# title: A role by what the provider says
# description: >-
#   Nobody has written this user down here, but a mapping of the tenant gives a
#   role to what the provider says about them (UNKNOWN_USERS=mapped).
# custom:
#   code: mapped
grants contains _reason(rego.metadata.rule()) if {
	_mapped_stranger
	_tenant.status == "active"
}

# METADATA
# title: A user without a tenant
# description: The bundle allows users that have no active tenant.
# custom:
#   code: without_tenant
grants contains _reason(rego.metadata.rule()) if {
	config.allow_without_tenant
	_user.id
	not _has_tenant
	not _has_hint
}

# METADATA
# title: A program in its tenant
# description: A client that is registered here, in its active tenant.
# custom:
#   code: program
grants contains _reason(rego.metadata.rule()) if {
	_program
	_client.tenant == _tenant.id
	_tenant.status == "active"
}

# METADATA
# title: A program of the platform
# description: A client that is registered here and belongs to no tenant.
# custom:
#   code: platform_program
grants contains _reason(rego.metadata.rule()) if {
	_program
	_client.client_id
	not _client_has_tenant
}

# METADATA
# title: Nobody needs to be known here
# description: The bundle declares this path, or CORS preflights, as anonymous.
# custom:
#   code: anonymous
grants contains _reason(rego.metadata.rule()) if {
	_anonymous
}

# Denials: what may not be, whatever was granted.

# METADATA
# title: A token is needed
# description: The request carries no token and its path is not anonymous.
# custom:
#   code: token_missing
denials contains _reason(rego.metadata.rule()) if {
	not _has_token
	not _anonymous
}

# METADATA
# title: The user is not known here
# description: No such user exists, and no mapping of the tenant asked for speaks of them.
# custom:
#   code: user_unknown
denials contains _reason(rego.metadata.rule()) if {
	_person
	not _known
	not _mapped_stranger
}

# METADATA
# title: The user is blocked
# description: A blocked user gets in nowhere.
# custom:
#   code: user_blocked
denials contains _reason(rego.metadata.rule()) if {
	_person
	_user.status != "active"
}

# METADATA
# title: Not a member of the tenant asked for
# description: The user asked for a tenant that they do not belong to.
# custom:
#   code: not_a_member
denials contains _reason(rego.metadata.rule()) if {
	_known
	_has_hint
	not _is_member
}

# METADATA
# title: The membership is not in force
# description: The membership in the tenant asked for is suspended or has expired.
# custom:
#   code: membership_not_in_force
denials contains _reason(rego.metadata.rule()) if {
	_person
	_has_hint
	_membership.status != "active"
}

# METADATA
# title: The tenant is not active
# description: Nobody gets into a tenant that is suspended or archived.
# custom:
#   code: tenant_not_active
denials contains _reason(rego.metadata.rule()) if {
	_tenant.status != "active"
}

# METADATA
# title: No active tenant
# description: >-
#   The request names no tenant, and the user has neither a default one nor
#   exactly one that is open to them.
# custom:
#   code: no_active_tenant
denials contains _reason(rego.metadata.rule()) if {
	_known
	not _has_hint
	not _has_tenant
	not _tenantless_allowed
}

# METADATA
# title: The program is not known here
# description: A program needs a registration here, whatever its token says.
# custom:
#   code: client_unknown
denials contains _reason(rego.metadata.rule()) if {
	_program
	not _client_known
}

# METADATA
# title: The program belongs to another tenant
# description: A program acts in its own tenant only.
# custom:
#   code: client_of_another_tenant
denials contains _reason(rego.metadata.rule()) if {
	_program
	_client_known
	_has_hint
	not _hint_is_clients
}

# METADATA
# title: The request's tenant cannot be entered
# description: A tenant was asked for that does not exist or that the token's issuer may not speak for.
# custom:
#   code: tenant_unknown
denials contains _reason(rego.metadata.rule()) if {
	_is_member
	_has_hint
	not _has_tenant
}

_reason(rule) := {"code": rule.custom.code, "title": rule.title}

# Who is it?

_has_token if input.token.iss

_has_sub if input.token.sub

default _anonymous := false

_anonymous if {
	not _has_token
	input.request.anonymous == true
}

# A program speaks for itself: its subject is the client, or it has none.
_program if {
	_has_token
	not _has_sub
}

_program if input.token.sub == _client_id

_client_id := input.token.client_id if {
	input.token.client_id
} else := input.token.azp

_person if {
	_has_sub
	not _program
}

_user := data.directory.users[input.token.iss][input.token.sub] if _person

_known if _user.id

_client := data.directory.clients[input.token.iss][_client_id] if _program

_client_known if _client.client_id

_client_has_tenant if _client.tenant

# Which tenant?

_has_hint if input.request.tenant_hint

_hint_is_clients if input.request.tenant_hint == _client.tenant

_membership := _user.memberships[_tenant_asked]

_is_member if _user.memberships[_tenant_asked]

# The tenant that is meant, before it is known whether it is open.
_tenant_asked := input.request.tenant_hint if _person

_tenant_asked := _home if {
	_person
	not _has_hint
}

_tenant_asked := _client.tenant if _program

# Without a hint: the default tenant if it is open, else the only open one.
_home := _user.default_tenant if {
	_open(_user.default_tenant)
} else := only if {
	open := [id | some id, _ in _user.memberships; _open(id)]
	count(open) == 1
	only := open[0]
}

# By what the user's document says of each tenant: a user with a thousand of them
# costs no thousand look-ups.
_open(id) if {
	_user.memberships[id].status == "active"
	_user.memberships[id].tenant_status == "active"
}

# Looked up only for those who may belong there, so that made-up hints cost
# nothing.
_tenant := data.directory.tenants[_tenant_asked] if _is_member

_tenant := data.directory.tenants[_tenant_asked] if _program

_tenant := data.directory.tenants[_tenant_asked] if _stranger_may_be_mapped

_has_tenant if _tenant.id

default _tenant_id := ""

_tenant_id := _tenant.id

_tenantless_allowed if config.allow_without_tenant

_stranger_may_be_mapped if {
	input.settings.unknown_users == "mapped"
	_person
	not _known
}

_mapped_stranger if {
	_stranger_may_be_mapped
	count(_mapped_roles) > 0
}

# Which roles?

# The claims of RFC 9068, section 2.2.3.1, that a tenant may map to its roles.
# They are named one by one so that the policy's view of a token stays exact.
_said["groups"] := input.token.groups

_said["roles"] := input.token.roles

_said["entitlements"] := input.token.entitlements

_mapped_roles contains role if {
	some claim, by_value in _tenant.mappings[input.token.iss]
	some value in _said[claim]
	some role in by_value[value]
}

_mapped_roles contains role if {
	some claim, by_value in _tenant.mappings[input.token.iss]
	is_string(_said[claim])
	some role in by_value[_said[claim]]
}

_direct_roles contains role if {
	some role in _membership.roles
}

_direct_roles contains role if {
	_person
	some role in _mapped_roles
}

_direct_roles contains role if {
	_program
	some role in _client.roles
}

# Everything that holding them means: the closure is part of the tenant.
roles contains role if {
	some direct in _direct_roles
	some role in _tenant.roles[direct].closure
}

permissions contains permission if {
	some role in roles
	some permission in _tenant.roles[role].permissions
}

# A program has the scopes that its token carries and its registration allows.
scopes contains scope if {
	_program
	some scope in _token_scopes
	scope in _client.scopes
}

_token_scopes := split(input.token.scope, " ") if is_string(input.token.scope)

_token_scopes := input.token.scope if is_array(input.token.scope)

# What the headers say.

# METADATA
# description: >-
#   The declared headers that have something to say; the service sends the rest
#   empty, so that none of the client's own can pass.
headers[name] := value if {
	some name in config.headers
	value := _value[name]
}

_value["X-User-ID"] := _user.id

_value["X-User-Subject"] := input.token.sub

_value["X-Service-ID"] := _client.client_id

_value["X-Tenant-ID"] := _tenant_id

_value["X-Active-Tenant-ID"] := _tenant_id

_value["X-Enriched-Tenant-ID"] := _tenant_id

_value["X-User-Roles"] := roles

_value["X-User-Permissions"] := permissions

_value["X-Scopes"] := scopes

_value["X-User-Attributes"] := _encoded(_user.attributes, config.user_attributes)

_value["X-Tenant-Attributes"] := _encoded(_tenant.attributes, config.tenant_attributes)

_value["X-Principal-Type"] := _principal_type

_value["X-Client-ID"] := _client_id

_value["X-Email"] := input.token.email if is_string(input.token.email)

_principal_type := "user" if _person

_principal_type := "client" if _program

_principal_type := "anonymous" if _anonymous

# Only the attributes that the bundle names travel.
_encoded(_, names) := "" if count(names) == 0

_encoded(attributes, names) := base64.encode(json.marshal(object.filter(attributes, names))) if {
	count(names) > 0
	config.attributes_encoding == "base64"
}

_encoded(attributes, names) := json.marshal(object.filter(attributes, names)) if {
	count(names) > 0
	config.attributes_encoding == "json"
}
