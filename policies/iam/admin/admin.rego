# METADATA
# title: Administration
# description: >-
#   Authorizes one administrative action of a caller. The facts are those of the
#   transaction that would do it. What is allowed here can still be denied by the
#   service's own invariants: no caller grants more than they hold, and the last
#   platform administrator stays.
# scope: package
# schemas:
#   - input: schema.administration
package iam.admin

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
	# Another tenant is "not found": no caller learns what exists.
	"allow": false,
	"status": 404,
	"reasons": (denials | refusals),
} if {
	_of_a_tenant
	not _sees_tenant
} else := {
	"allow": false,
	"status": 403,
	"reasons": (denials | refusals),
}

# Grants: what may be.

# METADATA
# title: A platform administrator
# description: May do everything but change the policy; may look at it, preview another one and roll it back.
# custom:
#   code: platform_admin
grants contains _reason(rego.metadata.rule()) if {
	_platform_admin
	not _changes_policy
	not _provisions
}

# METADATA
# title: A policy administrator
# description: May look at the policy, at decisions and at the state of the platform, and change the policy.
# custom:
#   code: policy_admin
grants contains _reason(rego.metadata.rule()) if {
	"policy-admin" in _user.platform_roles
	_about_policy
}

# METADATA
# title: An auditor
# description: May look at everything, in every tenant.
# custom:
#   code: auditor
grants contains _reason(rego.metadata.rule()) if {
	_auditor
	_reads
	not _provisions
}

# METADATA
# title: An administrator of the tenant
# description: >-
#   May manage roles, members, requests for roles, mappings, SCIM groups' roles and clients of their own tenant, read
#   its audit and its decisions, and have decisions about its members explained. What of them is
#   shown is limited to the tenant by the service itself.
# custom:
#   code: tenant_admin
grants contains _reason(rego.metadata.rule()) if {
	"iam:tenant-admin" in _held
	_within_tenant
}

# METADATA
# title: A member of the tenant
# description: >-
#   May ask for roles of the tenant, and read and cancel their own requests. The service itself
#   shows them no others, and grants what a role says, at most.
# custom:
#   code: tenant_member
grants contains _reason(rego.metadata.rule()) if {
	_asks
	_membership.status == "active"
	_tenant.status == "active"
}

# METADATA
# title: An auditor of the tenant
# description: May look at everything of their own tenant.
# custom:
#   code: tenant_auditor
grants contains _reason(rego.metadata.rule()) if {
	"iam:tenant-auditor" in _held
	_within_tenant
	_reads
}

# METADATA
# title: A service declares what it needs
# description: >-
#   A program of the platform whose token and registration both have the scope
#   s2s:internal may sync its manifest.
# custom:
#   code: service
grants contains _reason(rego.metadata.rule()) if {
	input.action == "service:sync"
	_platform_program
	"s2s:internal" in _scopes
}

# METADATA
# title: The tenant's provisioning client
# description: >-
#   A program of the tenant whose token and registration both have the scope scim may read and write
#   the tenant's users and groups by SCIM. No person may, and no other program.
# custom:
#   code: provisioning
grants contains _reason(rego.metadata.rule()) if {
	_provisions
	_client.tenant == input.tenant
	_tenant.status == "active"
	"scim" in _scopes
}

# Denials: what may not be, whatever was granted. Add yours here.

# METADATA
# title: The user is blocked
# description: A blocked user may do nothing.
# custom:
#   code: user_blocked
denials contains _reason(rego.metadata.rule()) if _user.status != "active"

# METADATA
# title: The program is not active
# description: A blocked or deleted program may do nothing.
# custom:
#   code: client_not_active
denials contains _reason(rego.metadata.rule()) if _client.status != "active"

# Refusals: why nothing was granted.

# METADATA
# title: No administrative role
# description: The caller holds no role that allows this.
# custom:
#   code: no_admin_role
refusals contains _reason(rego.metadata.rule()) if count(grants) == 0

_reason(rule) := {"code": rule.custom.code, "title": rule.title}

# Who is it?

# A program speaks for itself: its subject is the client, or it has none.
_person if input.token.sub != input.token.client_id

_person if {
	input.token.sub
	not _has_client_id
}

_has_client_id if input.token.client_id

_user := data.directory.users[input.token.iss][input.token.sub] if _person

_client := data.directory.clients[input.token.iss][input.token.client_id] if not _person

_platform_program if {
	_client.client_id
	not _client_has_tenant
}

_client_has_tenant if _client.tenant

# What a program's token and its registration both say.
_scopes contains scope if {
	some scope in _token_scopes
	scope in _client.scopes
}

_token_scopes := split(input.token.scope, " ") if is_string(input.token.scope)

_token_scopes := input.token.scope if is_array(input.token.scope)

_platform_admin if "platform-admin" in _user.platform_roles

_platform_admin if {
	_platform_program
	"iam:platform-admin" in _scopes
}

_auditor if "auditor" in _user.platform_roles

# What is it about?

_subject := split(input.action, ":")[0]

_verb := split(input.action, ":")[1]

_reads if _verb in {"read", "list"}

_reads if input.action in {"policy:explain", "access:search", "request:review"}

_asks if input.action in {"request:create", "request:read", "request:list", "request:cancel"}

_provisions if _subject == "scim"

_about_policy if _subject in {"policy", "decision", "overview"}

_changes_policy if {
	_subject == "policy"
	not _leaves_policy
}

_leaves_policy if _verb in {"read", "list", "rollback", "preview", "explain", "source", "evaluate", "draft"}

_of_a_tenant if input.tenant

_within_tenant if _subject in {"role", "member", "mapping", "scim-group", "client", "effective", "access", "audit", "decision", "request"}

_within_tenant if input.action in {"tenant:read", "policy:explain"}

# What the caller holds in the tenant of the action. A role that a mapping grants is no
# administrative one: a provider's claims make no administrators.

_tenant := data.directory.tenants[input.tenant]

_membership := _user.memberships[input.tenant]

_held contains role if {
	_membership.status == "active"
	_tenant.status == "active"
	some direct in _membership.roles
	some role in _tenant.roles[direct].closure
}

_held contains role if {
	_client.tenant == input.tenant
	_tenant.status == "active"
	some direct in _client.roles
	some role in _tenant.roles[direct].closure
}

_sees_tenant if _platform_admin

_sees_tenant if _auditor

_sees_tenant if _membership.status

_sees_tenant if _client.tenant == input.tenant
