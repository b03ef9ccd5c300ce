# METADATA
# title: Claims of a request
# description: >-
#   Decides about one request: who the caller is here, and which headers name
#   them. A request is allowed where a rule grants it and none denies it, and every
#   decision names the rules that it depends on.
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
	"reasons": refusals,
} if {
	not _has_token
} else := {
	"allow": false,
	"status": 403,
	"reasons": (denials | refusals),
}

# Grants: what is allowed.

# METADATA
# title: A member of the active tenant
# description: The user holds an active membership in an active tenant.
# custom:
#   code: member
grants contains _reason(rego.metadata.rule()) if {
	_membership.status == "active"
	_tenant.status == "active"
}

# METADATA
# title: A role mapped from the provider's claims
# description: >-
#   The user is unknown here, but a mapping of the tenant grants a role for the
#   provider's claims about them (UNKNOWN_USERS=mapped).
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
	not _asked
}

# METADATA
# title: A program in its tenant
# description: A client that is registered here, in its active tenant.
# custom:
#   code: program
grants contains _reason(rego.metadata.rule()) if {
	_client.tenant == _tenant.id
	_tenant.status == "active"
}

# METADATA
# title: A program of the platform
# description: A client that is registered here and belongs to no tenant.
# custom:
#   code: platform_program
grants contains _reason(rego.metadata.rule()) if {
	_client.client_id
	not _client_has_tenant
	not _has_hint
}

# METADATA
# title: Anonymous callers are allowed here
# description: The bundle declares this path, or CORS preflights, as anonymous.
# custom:
#   code: anonymous
grants contains _reason(rego.metadata.rule()) if _anonymous

# Denials: what is denied, whatever was granted. Add yours here.

# METADATA
# title: The user is blocked
# description: A blocked user is denied everywhere.
# custom:
#   code: user_blocked
denials contains _reason(rego.metadata.rule()) if _user.status != "active"

# METADATA
# title: The person uses another tenant's client
# description: >-
#   A client that is registered here and has a tenant acts in that tenant only, for
#   persons too. The service itself enforces it, whatever a policy allows.
# custom:
#   code: client_of_another_tenant
denials contains _reason(rego.metadata.rule()) if {
	_has_hint
	input.request.tenant_hint != _bound
}

# Refusals: why nothing was granted. They are evaluated only where nothing was.

# METADATA
# title: A token is needed
# description: The request carries no token and its path is not anonymous.
# custom:
#   code: token_missing
refusals contains _reason(rego.metadata.rule()) if {
	not _has_token
	not _anonymous
}

# METADATA
# title: The user is not known here
# description: No such user exists, and no mapping of the requested tenant covers them.
# custom:
#   code: user_unknown
refusals contains _reason(rego.metadata.rule()) if {
	_person
	not _known
	not _mapped_stranger
}

# METADATA
# title: Not a member of the requested tenant
# description: The user requested a tenant that they do not belong to.
# custom:
#   code: not_a_member
refusals contains _reason(rego.metadata.rule()) if {
	_known
	_asked
	not _is_member
}

# METADATA
# title: The membership is not active
# description: The membership in the requested tenant is suspended or has expired.
# custom:
#   code: membership_not_in_force
refusals contains _reason(rego.metadata.rule()) if {
	_person
	_asked
	_membership.status != "active"
}

# METADATA
# title: The tenant is not active
# description: A tenant that is suspended or archived denies everybody.
# custom:
#   code: tenant_not_active
refusals contains _reason(rego.metadata.rule()) if {
	_tenant.status != "active"
}

# METADATA
# title: No active tenant
# description: >-
#   The request names no tenant, and neither the user's default one nor, without
#   one, their only one is open to them.
# custom:
#   code: no_active_tenant
refusals contains _reason(rego.metadata.rule()) if {
	_known
	not _asked
	not _has_tenant
}

# METADATA
# title: The program is not known here
# description: A program needs a registration here, whatever its token claims.
# custom:
#   code: client_unknown
refusals contains _reason(rego.metadata.rule()) if {
	_program
	not _client_known
}

# METADATA
# title: The program belongs to another tenant
# description: A program acts in its own tenant only.
# custom:
#   code: client_of_another_tenant
refusals contains _reason(rego.metadata.rule()) if {
	_program
	_client_known
	_has_hint
	not _hint_is_clients
}

# METADATA
# title: The request's tenant cannot be entered
# description: The tenant does not exist, or the token's issuer must not speak for it.
# custom:
#   code: tenant_unknown
refusals contains _reason(rego.metadata.rule()) if {
	_is_member
	_asked
	not _has_tenant
}

_reason(rule) := {"code": rule.custom.code, "title": rule.title}

# Who is it?

_has_token if input.token.iss

default _anonymous := false

_anonymous if {
	input.request.anonymous == true
	not _has_token
}

# A program speaks for itself: its subject is the client, or it has none.
_kind := "user" if {
	input.token.sub != input.token.client_id
} else := "client" if {
	input.token.client_id
} else := "user" if {
	input.token.sub
} else := "anonymous" if {
	_anonymous
}

_person if _kind == "user"

_program if _kind == "client"

_user := data.directory.users[input.token.iss][input.token.sub] if _person

_known if _user.id

_client := data.directory.clients[input.token.iss][input.token.client_id] if _program

_client_known if _client.client_id

_client_has_tenant if _client.tenant

# The tenant that a person is held to: that of the client they came through.
_bound := data.directory.clients[input.token.iss][input.token.client_id].tenant if _person

# Which tenant?

_has_hint if input.request.tenant_hint

# One tenant is asked for, by the request or by the client.
_asked if _has_hint

_asked if _bound

_hint_is_clients if input.request.tenant_hint == _client.tenant

# The tenant that is meant, before it is known whether it is open.
_tenant_meant := input.request.tenant_hint if {
	_has_hint
} else := _bound if {
	_person
} else := _home if {
	_person
} else := _client.tenant

# Without a hint: the default tenant, or without one the only one, if it is open. A
# membership that another administrator adds, or that is suspended, must not move a user: so
# where the default is not open there is none, and all memberships count. Open by what
# the user's document says of each: a user with a thousand tenants costs no thousand
# look-ups.
_home := id if {
	id := _usual_tenant
	_open(_user.memberships[id])
}

_usual_tenant := _user.default_tenant if {
	_user.default_tenant
} else := only if {
	count(_user.memberships) == 1
	some only, _ in _user.memberships
}

_open(membership) if {
	membership.status == "active"
	membership.tenant_status == "active"
}

_membership := _user.memberships[_tenant_meant]

_is_member if _membership.status

# Looked up only for those who may belong there, so that made-up hints cost
# nothing.
_tenant := data.directory.tenants[_tenant_meant] if {
	_is_member
} else := data.directory.tenants[_client.tenant] if {
	_client.tenant == _tenant_meant
} else := data.directory.tenants[_tenant_meant] if {
	_stranger_may_be_mapped
}

_has_tenant if _tenant.id

default _tenant_id := ""

_tenant_id := _tenant.id

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
	some role in _client.roles
}

# Everything that holding them means: the closure is part of the tenant.
_held_roles contains role if {
	some direct in _direct_roles
	some role in _tenant.roles[direct].closure
}

roles := _roles_in_scope if {
	_narrowed
} else := _held_roles

permissions contains permission if {
	some role in roles
	some permission in _tenant.roles[role].permissions
}

# Off by default: a person gets less than they hold. A scope means the
# permission of its name, and a role counts where the token's scope has all that it
# means; one that means no permission does not.
_narrowed if {
	_person
	config.narrow_roles_by_scope == true
}

_roles_in_scope contains role if {
	some role in _held_roles
	means := {permission |
		some implied in _tenant.roles[role].closure
		some permission in _tenant.roles[implied].permissions
	}
	count(means) > 0
	every permission in means {
		permission in _token_scopes
	}
}

# A program has the scopes that its token carries and its registration allows.
scopes contains scope if {
	_program
	some scope in _token_scopes
	scope in _client.scopes
}

# Where it narrows a person's roles, a scope is shown.
scopes contains scope if {
	_narrowed
	some scope in _token_scopes
}

_token_scopes := split(input.token.scope, " ") if is_string(input.token.scope)

_token_scopes := input.token.scope if is_array(input.token.scope)

# What the headers say.

# METADATA
# description: >-
#   The declared headers that have a value; the service sends the rest
#   empty, so that none of the client's own can pass.
headers := object.union(object.filter(_usual, config.headers), _optional)

# Written out, not gathered by rules for each, and once more for known users, most callers: this is the hot path.
_usual := {
	"X-User-ID": _user.id,
	"X-User-Subject": input.token.sub,
	"X-Service-ID": "",
	"X-Tenant-ID": _tenant_id,
	"X-Active-Tenant-ID": _tenant_id,
	"X-Enriched-Tenant-ID": _tenant_id,
	"X-User-Roles": roles,
	"X-Scopes": scopes,
	"X-User-Attributes": _user_attributes,
	"X-Tenant-Attributes": _tenant_attributes,
	"X-Principal-Type": "user",
} if {
	_known
} else := {
	"X-User-ID": "",
	"X-User-Subject": _subject,
	"X-Service-ID": _service_id,
	"X-Tenant-ID": _tenant_id,
	"X-Active-Tenant-ID": _tenant_id,
	"X-Enriched-Tenant-ID": _tenant_id,
	"X-User-Roles": roles,
	"X-Scopes": scopes,
	"X-User-Attributes": _user_attributes,
	"X-Tenant-Attributes": _tenant_attributes,
	"X-Principal-Type": _kind,
}

# Off by default: evaluated only where the bundle declares them.
_optional["X-User-Permissions"] := permissions if "X-User-Permissions" in config.headers

_optional["X-Client-ID"] := input.token.client_id if "X-Client-ID" in config.headers

_optional["X-Email"] := input.token.email if {
	"X-Email" in config.headers
	is_string(input.token.email)
}

default _subject := ""

_subject := input.token.sub

default _service_id := ""

_service_id := _client.client_id

default _user_attributes := ""

_user_attributes := _encoded(object.filter(_user.attributes, config.user_attributes)) if config.user_attributes[0]

default _tenant_attributes := ""

_tenant_attributes := _encoded(object.filter(_tenant.attributes, config.tenant_attributes)) if config.tenant_attributes[0]

# Only the attributes that the bundle names travel.
_encoded(attributes) := base64.encode(json.marshal(attributes)) if config.attributes_encoding == "base64"

_encoded(attributes) := json.marshal(attributes) if config.attributes_encoding == "json"
