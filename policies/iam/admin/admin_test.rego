package iam.admin_test

import data.iam.admin

issuer := "https://rauth.test"

member(roles) := {"status": "active", "roles": roles, "attributes": {}, "tenant_status": "active"}

person(platform_roles, memberships) := {"id": "u", "status": "active", "platform_roles": platform_roles, "attributes": {}, "memberships": memberships}

users := {issuer: {
	"root": person(["platform-admin"], {}),
	"paula": person(["policy-admin"], {}),
	"audrey": person(["auditor"], {}),
	"alice": person([], {"acme": member(["iam:tenant-admin"])}),
	"owner": person([], {"acme": member(["owner"])}),
	"tess": person([], {"acme": member(["iam:tenant-auditor"])}),
	"bob": person([], {"acme": member(["editor"])}),
	"pam": person(["platform-admin", "auditor"], {"acme": member(["iam:tenant-admin"])}),
	"sue": person([], {"acme": object.union(member(["iam:tenant-admin"]), {"status": "suspended"})}),
	"ingrid": person([], {"initech": member(["iam:tenant-admin"])}),
	"gus": person([], {"globex": member(["iam:tenant-admin"])}),
	"blocked": object.union(person(["platform-admin"], {}), {"status": "blocked"}),
}}

roles := {
	"iam:tenant-admin": {"permissions": [], "inherits": [], "closure": ["iam:tenant-admin"]},
	"iam:tenant-auditor": {"permissions": [], "inherits": [], "closure": ["iam:tenant-auditor"]},
	"editor": {"permissions": [], "inherits": [], "closure": ["editor"]},
	"owner": {"permissions": [], "inherits": ["iam:tenant-admin"], "closure": ["iam:tenant-admin", "owner"]},
}

tenants := {
	"acme": {"id": "acme", "status": "active", "roles": roles},
	"globex": {"id": "globex", "status": "active", "roles": roles},
	"initech": {"id": "initech", "status": "suspended", "roles": roles},
}

clients := {issuer: {
	"ci": {"client_id": "ci", "status": "active", "roles": [], "scopes": ["s2s:internal"]},
	"terraform": {"client_id": "terraform", "status": "active", "roles": [], "scopes": ["iam:platform-admin"]},
	"stopped": {"client_id": "stopped", "status": "blocked", "roles": [], "scopes": ["s2s:internal"]},
	"acmebot": {"client_id": "acmebot", "tenant": "acme", "status": "active", "roles": ["iam:tenant-admin"], "scopes": ["s2s:internal"]},
	"okta": {"client_id": "okta", "tenant": "acme", "status": "active", "roles": [], "scopes": ["scim"]},
	"idle": {"client_id": "idle", "tenant": "initech", "status": "active", "roles": [], "scopes": ["scim"]},
	"entra": {"client_id": "entra", "tenant": "acme", "status": "blocked", "roles": [], "scopes": ["scim"]},
	"global": {"client_id": "global", "status": "active", "roles": [], "scopes": ["scim", "iam:platform-admin"]},
}}

token(name) := {"iss": issuer, "sub": name, "client_id": "console"}

program(name, scope) := {"iss": issuer, "sub": name, "client_id": name, "scope": scope}

# who, what, where, and what is answered: a code on a yes, a status on a no.
cases := {
	"a platform admin makes a tenant": [token("root"), "tenant:create", null, "platform_admin"],
	"a platform admin changes a member anywhere": [token("root"), "member:update", "acme", "platform_admin"],
	"a platform admin even in a suspended tenant": [token("root"), "member:update", "initech", "platform_admin"],
	"a platform admin may roll back": [token("root"), "policy:rollback", null, "platform_admin"],
	"a platform admin may look at the policy": [token("root"), "policy:read", null, "platform_admin"],
	"a platform admin does not change the policy": [token("root"), "policy:create", null, 403],
	"a token without client_id is a person's": [{"iss": issuer, "sub": "root"}, "tenant:create", null, "platform_admin"],
	"a policy admin changes the policy": [token("paula"), "policy:create", null, "policy_admin"],
	"a policy admin looks at decisions": [token("paula"), "decision:list", null, "policy_admin"],
	"a policy admin looks at the state of the platform": [token("paula"), "overview:read", null, "policy_admin"],
	"an auditor looks at the state of the platform": [token("audrey"), "overview:read", null, "auditor"],
	"a tenant admin does not look at the state of the platform": [token("alice"), "overview:read", null, 403],
	"a platform admin asks who holds what anywhere": [token("root"), "access:list", "acme", "platform_admin"],
	"an auditor searches for access in every tenant": [token("audrey"), "access:search", "globex", "auditor"],
	"an auditor asks what a user holds": [token("audrey"), "access:read", null, "auditor"],
	"a tenant admin asks who holds what": [token("alice"), "access:list", "acme", "tenant_admin"],
	"a tenant auditor searches for access": [token("tess"), "access:search", "acme", "tenant_auditor"],
	"a tenant admin does not ask about another tenant": [token("alice"), "access:list", "globex", 404],
	"a tenant admin does not ask what a user holds everywhere": [token("alice"), "access:read", null, 403],
	"a policy admin does not ask who holds what": [token("paula"), "access:list", "acme", 404],
	"a member does not ask who holds what": [token("bob"), "access:search", "acme", 403],
	"an auditor has decisions explained": [token("audrey"), "policy:explain", null, "auditor"],
	"an auditor previews nothing": [token("audrey"), "policy:preview", null, 403],
	"a platform admin may preview a policy": [token("root"), "policy:preview", null, "platform_admin"],
	"a platform admin may evaluate a draft": [token("root"), "policy:evaluate", null, "platform_admin"],
	"a platform admin may read the files of a policy": [token("root"), "policy:source", null, "platform_admin"],
	"a policy admin builds a draft": [token("paula"), "policy:draft", null, "policy_admin"],
	"an auditor evaluates no draft": [token("audrey"), "policy:evaluate", null, 403],
	"a tenant admin evaluates no draft": [token("alice"), "policy:evaluate", "acme", 403],
	"a policy admin manages no users": [token("paula"), "user:list", null, 403],
	"a policy admin sees no tenant": [token("paula"), "member:list", "acme", 404],
	"an auditor reads everything": [token("audrey"), "member:list", "acme", "auditor"],
	"an auditor reads the platform's audit": [token("audrey"), "audit:read", null, "auditor"],
	"an auditor changes nothing": [token("audrey"), "member:update", "acme", 403],
	"a tenant admin adds a member": [token("alice"), "member:create", "acme", "tenant_admin"],
	"a tenant admin rotates a client's secret": [token("alice"), "client:rotate", "acme", "tenant_admin"],
	"a tenant admin makes no client of the platform": [token("alice"), "client:create", null, 403],
	"a tenant admin does not compare all clients": [token("alice"), "drift:read", null, 403],
	"a tenant auditor looks at clients": [token("tess"), "client:list", "acme", "tenant_auditor"],
	"a tenant auditor rotates nothing": [token("tess"), "client:rotate", "acme", 403],
	"an auditor compares all clients": [token("audrey"), "drift:read", null, "auditor"],
	"an auditor verifies the audit": [token("audrey"), "audit-chain:read", null, "auditor"],
	"a tenant auditor does not verify the platform's audit": [token("tess"), "audit-chain:read", "acme", 403],
	"a tenant admin looks at the tenant's decisions": [token("alice"), "decision:list", "acme", "tenant_admin"],
	"a tenant admin has a decision explained": [token("alice"), "policy:explain", "acme", "tenant_admin"],
	"a tenant admin does not look at another's decisions": [token("alice"), "decision:list", "globex", 404],
	"a tenant admin does not look at all decisions": [token("alice"), "decision:list", null, 403],
	"a tenant admin does not explain on the platform": [token("alice"), "policy:explain", null, 403],
	"a tenant admin does not roll back a policy in the tenant": [token("alice"), "policy:rollback", "acme", 403],
	"a tenant admin does not read the policy in the tenant": [token("alice"), "policy:read", "acme", 403],
	"a tenant auditor looks at the tenant's decisions": [token("tess"), "decision:read", "acme", "tenant_auditor"],
	"a tenant auditor has a decision explained": [token("tess"), "policy:explain", "acme", "tenant_auditor"],
	"a member looks at no decision": [token("bob"), "decision:list", "acme", 403],
	"a policy admin looks at a tenant's decisions": [token("paula"), "decision:list", "acme", "policy_admin"],
	"a tenant admin by inheritance": [token("owner"), "role:create", "acme", "tenant_admin"],
	"a tenant admin reads their tenant": [token("alice"), "tenant:read", "acme", "tenant_admin"],
	"a tenant admin does not change their tenant": [token("alice"), "tenant:update", "acme", 403],
	"a tenant admin does not see another": [token("alice"), "member:list", "globex", 404],
	"a tenant admin does not see one that is not there": [token("alice"), "member:list", "nowhere", 404],
	"a tenant admin has no role on the platform": [token("alice"), "user:list", null, 403],
	"a tenant admin does not read the platform's audit": [token("alice"), "audit:read", null, 403],
	"a tenant auditor reads": [token("tess"), "role:list", "acme", "tenant_auditor"],
	"a tenant auditor changes nothing": [token("tess"), "role:create", "acme", 403],
	"a member may nothing": [token("bob"), "role:list", "acme", 403],
	"a member asks for a role": [token("bob"), "request:create", "acme", "tenant_member"],
	"a member reads requests": [token("bob"), "request:read", "acme", "tenant_member"],
	"a member lists requests": [token("bob"), "request:list", "acme", "tenant_member"],
	"a member cancels a request": [token("bob"), "request:cancel", "acme", "tenant_member"],
	"a member does not review requests": [token("bob"), "request:review", "acme", 403],
	"a member approves nothing": [token("bob"), "request:approve", "acme", 403],
	"a member rejects nothing": [token("bob"), "request:reject", "acme", 403],
	"a member asks for nothing elsewhere": [token("bob"), "request:create", "globex", 404],
	"a suspended member asks for nothing": [token("sue"), "request:create", "acme", 403],
	"a member of a suspended tenant asks for nothing": [token("ingrid"), "request:create", "initech", 403],
	"a tenant admin approves requests": [token("alice"), "request:approve", "acme", "tenant_admin"],
	"a tenant auditor reviews requests": [token("tess"), "request:review", "acme", "tenant_auditor"],
	"a tenant auditor approves nothing": [token("tess"), "request:approve", "acme", 403],
	"an auditor reviews requests": [token("audrey"), "request:review", "acme", "auditor"],
	"a platform admin approves requests": [token("root"), "request:approve", "acme", "platform_admin"],
	"a suspended membership gives nothing": [token("sue"), "role:list", "acme", 403],
	"members of a suspended tenant are denied": [token("ingrid"), "role:list", "initech", 403],
	"a blocked admin may nothing": [token("blocked"), "tenant:create", null, 403],
	"a blocked admin gets 403, also of a tenant": [token("blocked"), "role:list", "acme", 403],
	"a tenant's program does not manage the platform's part of it": [program("acmebot", ""), "tenant:update", "acme", 403],
	"a stranger may nothing": [token("mallory"), "tenant:list", null, 403],
	"a stranger sees nothing": [token("mallory"), "role:list", "acme", 404],
	"a service syncs its manifest": [program("ci", "s2s:internal other"), "service:sync", null, "service"],
	"a service whose issuer lists scopes": [program("ci", ["s2s:internal"]), "service:sync", null, "service"],
	"a service needs the scope in its token": [program("ci", "other"), "service:sync", null, 403],
	"a service needs a scope at all": [{"iss": issuer, "client_id": "ci"}, "service:sync", null, 403],
	"a service needs the scope in its registration": [program("terraform", "s2s:internal"), "service:sync", null, 403],
	"a service does nothing else": [program("ci", "s2s:internal"), "tenant:list", null, 403],
	"a service that is blocked may nothing": [program("stopped", "s2s:internal"), "service:sync", null, 403],
	"a tenant's program is no service of the platform": [program("acmebot", "s2s:internal"), "service:sync", null, 403],
	"a tenant's program with the role manages it": [program("acmebot", ""), "member:create", "acme", "tenant_admin"],
	"a tenant's program does not see another": [program("acmebot", ""), "member:create", "globex", 404],
	"a program of the platform with the scope manages it": [program("terraform", "iam:platform-admin"), "tenant:create", null, "platform_admin"],
	"a person with a program's scope is a person": [object.union(token("bob"), {"scope": "iam:platform-admin"}), "tenant:create", null, 403],
	"a provisioning client provisions its tenant": [program("okta", "scim"), "scim:update", "acme", "provisioning"],
	"a provisioning client reads its users": [program("okta", "scim"), "scim:read", "acme", "provisioning"],
	"a provisioning client does nothing else": [program("okta", "scim"), "member:list", "acme", 403],
	"a provisioning client maps no group to roles": [program("okta", "scim"), "scim-group:update", "acme", 403],
	"a provisioning client does not see another tenant": [program("okta", "scim"), "scim:read", "globex", 404],
	"a provisioning client of a suspended tenant is denied": [program("idle", "scim"), "scim:read", "initech", 403],
	"a provisioning client that is blocked may nothing": [program("entra", "scim"), "scim:read", "acme", 403],
	"a provisioning client needs the scope in its token": [program("okta", "openid"), "scim:read", "acme", 403],
	"a provisioning client needs the scope in its registration": [program("acmebot", "scim"), "scim:read", "acme", 403],
	"a program of the platform provisions no tenant": [program("global", "scim iam:platform-admin"), "scim:update", "acme", 403],
	"no person provisions a tenant, whatever they hold": [object.union(token("pam"), {"scope": "scim"}), "scim:update", "acme", 403],
	"no person reads a tenant by SCIM, whatever they hold": [object.union(token("pam"), {"client_id": "okta", "scope": "scim"}), "scim:read", "acme", 403],
	"a tenant admin maps groups to roles": [token("alice"), "scim-group:update", "acme", "tenant_admin"],
	"a tenant auditor looks at groups": [token("tess"), "scim-group:list", "acme", "tenant_auditor"],
	"a tenant auditor maps no group": [token("tess"), "scim-group:update", "acme", 403],
	"an unknown program is denied": [program("nobody", "s2s:internal"), "service:sync", null, 403],
}

directory := {"users": users, "tenants": tenants, "clients": clients}

asked(case) := {"token": case[0], "action": case[1]} if case[2] == null

else := {"token": case[0], "action": case[1], "tenant": case[2]}

answered(decision) := {reason.code | some reason in decision.reasons} if decision.allow

else := decision.status

wanted(want) := {want} if is_string(want)

else := want

test_decision[name] if {
	some name, case in cases
	got := admin.decision with input as asked(case) with data.directory as directory
	answered(got) == wanted(case[3])
}

test_every_refusal_has_a_reason[name] if {
	some name, case in cases
	got := admin.decision with input as asked(case) with data.directory as directory
	count(got.reasons) > 0
}

test_without_facts_there_is_no_yes if {
	got := admin.decision with input as {"token": token("root"), "action": "tenant:create"} with data.directory as {"users": {}, "tenants": {}, "clients": {}}
	got.allow == false
}

test_without_anything_there_is_no_yes if {
	got := admin.decision with input as {} with data.directory as directory
	got.allow == false
}
