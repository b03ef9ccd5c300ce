# METADATA
# title: AuthZEN evaluations
# description: >-
#   Decides whether a subject may do something to a resource, in one tenant (OpenID AuthZEN Authorization API
#   1.0). An action on a type of resources means a permission, and one of the subject's roles must grant it.
# scope: package
# schemas:
#   - input: schema.authzen
#   - data.iam.config: schema.config
package iam.authzen

import data.iam.config

# METADATA
# description: What the service reads. Its shape is our contract with Go.
# scope: document
# entrypoint: true
decision := {
	"allow": true,
	"reasons": grants,
} if {
	count(grants) > 0
	count(denials) == 0
} else := {
	"allow": false,
	"reasons": (denials | refusals),
}

# METADATA
# description: >-
#   What searches evaluate, each by decision: the actions on the type of the resource, and the resources of the
#   type. Subjects are the members and the clients of the tenant.
# scope: document
# entrypoint: true
candidates := {"actions": _actions, "resources": _resources}

# Grants: what is allowed.

# METADATA
# title: A role grants the permission
# description: One of the subject's roles in the tenant has a permission that the action on the resource means.
# custom:
#   code: permission
grants contains _reason(rego.metadata.rule()) if {
	some meaning in _meanings
	meaning.permission in _permissions
	_holds(meaning)
}

# Denials: what is denied, whatever was granted. Add yours here.

# METADATA
# title: The user is blocked
# description: A blocked user is denied everywhere. The service itself enforces it, whatever a policy allows.
# custom:
#   code: user_blocked
denials contains _reason(rego.metadata.rule()) if {
	_is_member
	_user.status != "active"
}

# METADATA
# title: The client is not active
# description: A blocked or deleted client is denied everywhere. The service itself enforces it, too.
# custom:
#   code: client_not_active
denials contains _reason(rego.metadata.rule()) if {
	_is_client
	_client.status != "active"
}

# METADATA
# title: The tenant is not active
# description: A tenant that is suspended or archived denies everybody.
# custom:
#   code: tenant_not_active
denials contains _reason(rego.metadata.rule()) if _tenant.status != "active"

# METADATA
# title: The agent does not act here
# description: The client that acts for the subject is not registered, not active, or belongs to another tenant.
# custom:
#   code: agent_unknown
denials contains _reason(rego.metadata.rule()) if {
	input.agent.id
	not _agent_acts_here
}

# METADATA
# title: The agent has no such permission
# description: >-
#   A client that acts for a subject needs the permission itself, by its roles or by its registered scopes
#   (data.iam.config.authzen.agents).
# custom:
#   code: agent_not_permitted
denials contains _reason(rego.metadata.rule()) if {
	config.authzen.agents == "need_permission"
	_agent_acts_here
	not _agent_permitted
}

# Refusals: why nothing was granted. They are evaluated only where nothing was.

# METADATA
# title: Not a subject of the tenant
# description: >-
#   The tenant has no such member or client. Whether another tenant has is not said.
# custom:
#   code: not_in_tenant
refusals contains _reason(rego.metadata.rule()) if not _of_tenant

# METADATA
# title: The membership is not active
# description: The membership in the tenant is suspended or has expired.
# custom:
#   code: membership_not_in_force
refusals contains _reason(rego.metadata.rule()) if _membership.status != "active"

# METADATA
# title: The action means no permission
# description: The configuration has no permission for this action on this type of resources.
# custom:
#   code: action_unknown
refusals contains _reason(rego.metadata.rule()) if count(_meanings) == 0

# METADATA
# title: No role grants the permission
# description: >-
#   None of the subject's roles has a permission that the action means, or the resource does not meet its conditions.
# custom:
#   code: no_permission
refusals contains _reason(rego.metadata.rule()) if {
	_in_force
	count(_meanings) > 0
	count(grants) == 0
}

_reason(rule) := {"code": rule.custom.code, "title": rule.title}

# Who is it?

_user := data.directory.users[input.subject.issuer][input.subject.id] if input.subject.type == "user"

_membership := _user.memberships[input.tenant]

_is_member if _membership.status

_client := data.directory.clients[input.subject.issuer][input.subject.id] if input.subject.type == "client"

_is_client if _client.tenant == input.tenant

_of_tenant if _is_member

_of_tenant if _is_client

_in_force if _membership.status == "active"

_in_force if _is_client

_tenant := data.directory.tenants[input.tenant]

# What may they do?

_permissions contains permission if {
	_membership.status == "active"
	some role in _membership.roles
	some permission in _granted_by(role)
}

_permissions contains permission if {
	_is_client
	some role in _client.roles
	some permission in _granted_by(role)
}

# A scope means the permission of its name.
_permissions contains scope if {
	_is_client
	some scope in _client.scopes
}

# The closure of a role is part of the tenant.
_granted_by(role) := {permission |
	some held in _tenant.roles[role].closure
	some permission in _tenant.roles[held].permissions
}

# Who acts for them?

_agent := data.directory.clients[input.agent.issuer][input.agent.id]

_agent_acts_here if {
	_agent.status == "active"
	not _agent_elsewhere
}

_agent_elsewhere if _agent.tenant != input.tenant

_agent_permitted if {
	some meaning in _meanings
	meaning.permission in _agent_permissions
	_holds(meaning)
}

_agent_permissions contains scope if {
	some scope in _agent.scopes
}

_agent_permissions contains permission if {
	some role in _agent.roles
	some permission in _granted_by(role)
}

# What does the action mean?

_listed := config.authzen.types[input.resource.type]

default _meanings := []

_meanings := _listed.actions[input.action.name] if {
	_listed.actions[input.action.name]
} else := [{"permission": concat(":", [input.resource.type, input.action.name])}] if {
	config.authzen.default_permission == "type:action"
} else := [{"permission": input.action.name}] if {
	config.authzen.default_permission == "action"
}

# Conditions that are missing are met.
_holds(meaning) if {
	every condition in object.get(meaning, "when", []) {
		_met(condition)
	}
}

_met(condition) if {
	value := _value(condition.value)
	value != null
	value == condition.equals
}

_met(condition) if {
	value := _value(condition.value)
	value != null
	value == _value(condition.same_as)
}

# A value by its name, such as resource.properties.owner; null: there is none.
_value(name) := object.get(_values, split(name, "."), null)

_values := {
	"subject": {"id": input.subject.id, "properties": input.subject.properties, "attributes": _attributes},
	"action": {"properties": input.action.properties},
	"resource": {"id": input.resource.id, "properties": _properties},
}

# Those of the membership win over those of the user.
default _attributes := {}

_attributes := object.union(_user.attributes, _membership.attributes)

# What the request says of a resource wins over what is known of it: the caller has the resource.
_properties := object.union(_listed.resources[input.resource.id], input.resource.properties) if {
	_listed.resources[input.resource.id]
} else := input.resource.properties

# What can be searched?

_actions contains name if some name, _ in _listed.actions

_actions contains name if {
	config.authzen.default_permission == "type:action"
	some permission in _permissions
	prefix := concat("", [input.resource.type, ":"])
	startswith(permission, prefix)
	name := substring(permission, count(prefix), -1)
	name != ""
}

_actions contains permission if {
	config.authzen.default_permission == "action"
	some permission in _permissions
}

_resources contains id if some id, _ in _listed.resources

_resources contains _tenant.id if input.resource.type == "tenant"

_resources contains role if {
	input.resource.type == "role"
	some role, _ in _tenant.roles
}
