package iam.claims_test

import data.iam.claims

issuer := "https://rauth.test"

# One row per case, in the words of the person who would complain. What a row
# does not say is as in the base.
users := {issuer: {
	"alice": {
		"id": "u-alice", "status": "active", "platform_roles": [], "default_tenant": "acme",
		"attributes": {"department": "sales", "shoe": 39},
		"memberships": {
			"acme": {"status": "active", "roles": ["editor"], "attributes": {}, "tenant_status": "active"},
			"globex": {"status": "active", "roles": ["viewer", "gone"], "attributes": {}, "tenant_status": "active"},
			"initech": {"status": "active", "roles": ["viewer"], "attributes": {}, "tenant_status": "suspended"},
			"umbrella": {"status": "suspended", "roles": ["viewer"], "attributes": {}, "tenant_status": "active"},
			"wayne": {"status": "expired", "roles": ["viewer"], "attributes": {}, "tenant_status": "active"},
			"vanished": {"status": "active", "roles": ["viewer"], "attributes": {}, "tenant_status": "active"},
		},
	},
	"bob": {
		"id": "u-bob", "status": "active", "platform_roles": [], "attributes": {},
		"memberships": {"acme": {"status": "active", "roles": [], "attributes": {}, "tenant_status": "active"}},
	},
	"ivan": {
		"id": "u-ivan", "status": "active", "platform_roles": [], "attributes": {},
		"memberships": {
			"acme": {"status": "active", "roles": [], "attributes": {}, "tenant_status": "active"},
			"initech": {"status": "active", "roles": ["viewer"], "attributes": {}, "tenant_status": "suspended"},
		},
	},
	"judy": {
		"id": "u-judy", "status": "active", "platform_roles": [], "attributes": {}, "default_tenant": "globex",
		"memberships": {"acme": {"status": "active", "roles": ["viewer"], "attributes": {}, "tenant_status": "active"}},
	},
	"carol": {"id": "u-carol", "status": "active", "platform_roles": [], "attributes": {}, "memberships": {}},
	"dave": {
		"id": "u-dave", "status": "blocked", "platform_roles": [], "attributes": {},
		"memberships": {"acme": {"status": "active", "roles": ["viewer"], "attributes": {}, "tenant_status": "active"}},
	},
	"two": {
		"id": "u-two", "status": "active", "platform_roles": [], "attributes": {},
		"memberships": {
			"acme": {"status": "active", "roles": ["viewer"], "attributes": {}, "tenant_status": "active"},
			"globex": {"status": "active", "roles": ["viewer"], "attributes": {}, "tenant_status": "active"},
		},
	},
	"heidi": {
		"id": "u-heidi", "status": "active", "platform_roles": [], "attributes": {}, "default_tenant": "acme",
		"memberships": {"acme": {"status": "active", "roles": ["named"], "attributes": {}, "tenant_status": "active"}},
	},
	"grace": {
		"id": "u-grace", "status": "active", "platform_roles": [], "attributes": {}, "default_tenant": "initech",
		"memberships": {
			"initech": {"status": "active", "roles": ["viewer"], "attributes": {}, "tenant_status": "suspended"},
			"acme": {"status": "active", "roles": ["viewer"], "attributes": {}, "tenant_status": "active"},
		},
	},
}}

roles := {
	"viewer": {"permissions": ["document:read"], "inherits": [], "closure": ["viewer"]},
	"editor": {"permissions": ["document:write"], "inherits": ["viewer"], "closure": ["editor", "viewer"]},
	"auditor": {"permissions": ["log:read"], "inherits": [], "closure": ["auditor"]},
	"named": {"permissions": [], "inherits": [], "closure": ["named"]},
}

tenants := {
	"acme": {
		"id": "acme", "status": "active", "attributes": {"plan": "gold", "note": "x"}, "roles": roles,
		"mappings": {issuer: {
			"groups": {"auditors": ["auditor"]},
			"roles": {"tester": ["viewer"]},
			"entitlements": {"write": ["editor"]},
		}},
	},
	"globex": {"id": "globex", "status": "active", "attributes": {}, "roles": roles, "mappings": {}},
	"initech": {"id": "initech", "status": "suspended", "attributes": {}, "roles": roles, "mappings": {issuer: {"groups": {"auditors": ["auditor"]}}}},
	"umbrella": {"id": "umbrella", "status": "active", "attributes": {}, "roles": roles, "mappings": {}},
	"wayne": {"id": "wayne", "status": "active", "attributes": {}, "roles": roles, "mappings": {}},
}

clients := {issuer: {
	"billing": {"client_id": "billing", "tenant": "acme", "status": "active", "roles": ["viewer"], "scopes": ["read", "write"]},
	"ops": {"client_id": "ops", "status": "active", "roles": [], "scopes": ["s2s:internal"]},
	"late": {"client_id": "late", "tenant": "initech", "status": "active", "roles": [], "scopes": []},
	"globex-web": {"client_id": "globex-web", "tenant": "globex", "status": "active", "roles": ["auditor"], "scopes": ["read"]},
	"wayne-web": {"client_id": "wayne-web", "tenant": "wayne", "status": "active", "roles": [], "scopes": []},
	"vanished-web": {"client_id": "vanished-web", "tenant": "vanished", "status": "active", "roles": [], "scopes": []},
}}

settings := {"unknown_users": "deny"}

person(sub) := {"iss": issuer, "sub": sub, "client_id": "web"}

through(client, sub) := {"iss": issuer, "sub": sub, "client_id": client}

cases := {
	"a member gets the default tenant": {
		"token": person("alice"),
		"want": {"tenant": "acme", "codes": {"member"}, "headers": {
			"X-User-ID": "u-alice", "X-User-Subject": "alice", "X-Tenant-ID": "acme", "X-Active-Tenant-ID": "acme",
			"X-User-Roles": {"editor", "viewer"}, "X-Scopes": set(), "X-Principal-Type": "user",
			"X-User-Attributes": "", "X-Tenant-Attributes": "",
		}},
	},
	"a member whose token names no client": {
		"token": {"iss": issuer, "sub": "alice"},
		"want": {"tenant": "acme", "codes": {"member"}, "roles": {"editor", "viewer"}},
	},
	"a program of a suspended tenant asks for it": {
		"token": {"iss": issuer, "sub": "late", "client_id": "late"}, "hint": "initech",
		"want": {"denied": 403, "codes": {"tenant_not_active"}},
	},
	"a member switches the tenant, and a role that is gone gives nothing": {
		"token": person("alice"), "hint": "globex",
		"want": {"tenant": "globex", "codes": {"member"}, "roles": {"viewer"}},
	},
	"the only tenant is the active one": {
		"token": person("bob"),
		"want": {"tenant": "acme", "codes": {"member"}, "roles": set()},
	},
	"several tenants, no default, and only one of them is open: none": {
		"token": person("ivan"),
		"want": {"denied": 403, "codes": {"no_active_tenant"}},
	},
	"a default tenant that is suspended does not give way to the only open one": {
		"token": person("grace"),
		"want": {"denied": 403, "codes": {"no_active_tenant"}},
	},
	"a default tenant that they do not belong to does not give way to the only one": {
		"token": person("judy"),
		"want": {"denied": 403, "codes": {"no_active_tenant"}},
	},
	"the client of a tenant chooses that tenant": {
		"token": through("globex-web", "alice"),
		"want": {"tenant": "globex", "codes": {"member"}, "roles": {"viewer"}},
	},
	"the client of a tenant, and the same tenant is asked for": {
		"token": through("globex-web", "alice"), "hint": "globex",
		"want": {"tenant": "globex", "codes": {"member"}, "roles": {"viewer"}},
	},
	"the client of a tenant, and another one of theirs is asked for": {
		"token": through("globex-web", "alice"), "hint": "acme",
		"want": {"denied": 403, "codes": {"client_of_another_tenant"}},
	},
	"the client of a tenant that they do not belong to": {
		"token": through("globex-web", "bob"),
		"want": {"denied": 403, "codes": {"not_a_member"}},
	},
	"the client of a tenant that they do not belong to, where no tenant is needed": {
		"token": through("globex-web", "bob"), "allow_without_tenant": true,
		"want": {"denied": 403, "codes": {"not_a_member"}},
	},
	"the client of a tenant whose membership has expired": {
		"token": through("wayne-web", "alice"),
		"want": {"denied": 403, "codes": {"membership_not_in_force"}},
	},
	"the client of a tenant that is gone": {
		"token": through("vanished-web", "alice"),
		"want": {"denied": 403, "codes": {"tenant_unknown"}},
	},
	"the client of a suspended tenant": {
		"token": through("late", "alice"),
		"want": {"denied": 403, "codes": {"tenant_not_active"}},
	},
	"a client of the platform binds no caller": {
		"token": through("ops", "alice"), "hint": "globex",
		"want": {"tenant": "globex", "codes": {"member"}, "roles": {"viewer"}},
	},
	"a scope narrows the roles of a person": {
		"token": object.union(person("alice"), {"scope": "openid document:read"}), "narrow": true,
		"want": {"tenant": "acme", "codes": {"member"}, "roles": {"viewer"}, "scopes": {"openid", "document:read"}},
	},
	"a scope that has all that a role means": {
		"token": object.union(person("alice"), {"scope": ["document:read", "document:write"]}), "narrow": true,
		"want": {"tenant": "acme", "codes": {"member"}, "roles": {"editor", "viewer"}, "scopes": {"document:read", "document:write"}},
	},
	"a scope that has a part of what a role means": {
		"token": object.union(person("alice"), {"scope": "document:write"}), "narrow": true,
		"want": {"tenant": "acme", "codes": {"member"}, "roles": set(), "scopes": {"document:write"}},
	},
	"no scope narrows to nothing": {
		"token": person("alice"), "narrow": true,
		"want": {"tenant": "acme", "codes": {"member"}, "roles": set(), "scopes": set()},
	},
	"a role without permissions is in no scope": {
		"token": object.union(person("heidi"), {"scope": "document:read"}), "narrow": true,
		"want": {"tenant": "acme", "codes": {"member"}, "roles": set(), "scopes": {"document:read"}},
	},
	"a scope narrows only where the bundle sets it": {
		"token": object.union(person("alice"), {"scope": "openid"}),
		"want": {"tenant": "acme", "codes": {"member"}, "roles": {"editor", "viewer"}, "scopes": set()},
	},
	"a program is narrowed by its registration as ever": {
		"token": {"iss": issuer, "sub": "billing", "client_id": "billing", "scope": "read admin"}, "narrow": true,
		"want": {"tenant": "acme", "codes": {"program"}, "roles": {"viewer"}, "scopes": {"read"}},
	},
	"a group gives a member a role": {
		"token": object.union(person("bob"), {"groups": ["auditors", "others", 7]}),
		"want": {"tenant": "acme", "codes": {"member"}, "roles": {"auditor"}},
	},
	"a claim that is one string gives a role too": {
		"token": object.union(person("bob"), {"roles": "tester"}),
		"want": {"tenant": "acme", "codes": {"member"}, "roles": {"viewer"}},
	},
	"an entitlement gives a role with what it inherits": {
		"token": object.union(person("bob"), {"entitlements": ["write"]}),
		"want": {"tenant": "acme", "codes": {"member"}, "roles": {"editor", "viewer"}},
	},
	"a group of another issuer gives nothing": {
		"token": {"iss": "https://other.test", "sub": "bob", "client_id": "web", "groups": ["auditors"]}, "hint": "acme",
		"settings": {"unknown_users": "mapped"},
		"want": {"denied": 403, "codes": {"user_unknown"}},
	},
	"several tenants and no default: none": {
		"token": person("two"),
		"want": {"denied": 403, "codes": {"no_active_tenant"}},
	},
	"a member of nothing": {
		"token": person("carol"),
		"want": {"denied": 403, "codes": {"no_active_tenant"}},
	},
	"a member of nothing asks for a tenant": {
		"token": person("carol"), "hint": "acme",
		"want": {"denied": 403, "codes": {"not_a_member"}},
	},
	"a member of nothing, where no tenant is needed": {
		"token": person("carol"), "allow_without_tenant": true,
		"want": {"tenant": "", "codes": {"without_tenant"}, "roles": set()},
	},
	"a blocked user": {
		"token": person("dave"),
		"want": {"denied": 403, "codes": {"user_blocked"}},
	},
	"a blocked user, where no tenant is needed": {
		"token": person("dave"), "hint": "globex", "allow_without_tenant": true,
		"want": {"denied": 403, "codes": {"not_a_member", "user_blocked"}},
	},
	"an unknown user": {
		"token": person("mallory"),
		"want": {"denied": 403, "codes": {"user_unknown"}},
	},
	"an unknown user asks for a tenant": {
		"token": object.union(person("mallory"), {"groups": ["auditors"]}), "hint": "acme",
		"want": {"denied": 403, "codes": {"user_unknown"}},
	},
	"an unknown user, by a mapping": {
		"token": object.union(person("mallory"), {"groups": ["auditors"]}), "hint": "acme",
		"settings": {"unknown_users": "mapped"},
		"want": {"tenant": "acme", "codes": {"mapped"}, "roles": {"auditor"}},
	},
	"an unknown user, by a mapping of a suspended tenant": {
		"token": object.union(person("mallory"), {"groups": ["auditors"]}), "hint": "initech",
		"settings": {"unknown_users": "mapped"},
		"want": {"denied": 403, "codes": {"tenant_not_active"}},
	},
	"an unknown user, without a hint": {
		"token": object.union(person("mallory"), {"groups": ["auditors"]}),
		"settings": {"unknown_users": "mapped"},
		"want": {"denied": 403, "codes": {"user_unknown"}},
	},
	"a known user is not allowed by a mapping alone": {
		"token": object.union(person("carol"), {"groups": ["auditors"]}), "hint": "acme",
		"settings": {"unknown_users": "mapped"},
		"want": {"denied": 403, "codes": {"not_a_member"}},
	},
	"a suspended tenant": {
		"token": person("alice"), "hint": "initech",
		"want": {"denied": 403, "codes": {"tenant_not_active"}},
	},
	"a suspended membership": {
		"token": person("alice"), "hint": "umbrella",
		"want": {"denied": 403, "codes": {"membership_not_in_force"}},
	},
	"an expired membership": {
		"token": person("alice"), "hint": "wayne",
		"want": {"denied": 403, "codes": {"membership_not_in_force"}},
	},
	"a tenant that is gone, or that the issuer does not reach": {
		"token": person("alice"), "hint": "vanished",
		"want": {"denied": 403, "codes": {"tenant_unknown"}},
	},
	"a program in its tenant": {
		"token": {"iss": issuer, "sub": "billing", "client_id": "billing", "scope": "read admin"},
		"want": {"tenant": "acme", "codes": {"program"}, "headers": {
			"X-Service-ID": "billing", "X-User-Subject": "billing", "X-Tenant-ID": "acme", "X-Active-Tenant-ID": "acme",
			"X-User-Roles": {"viewer"}, "X-Scopes": {"read"}, "X-Principal-Type": "client", "X-Tenant-Attributes": "",
		}},
	},
	"a program without a subject, and scopes as a list": {
		"token": {"iss": issuer, "client_id": "billing", "scope": ["write"]}, "hint": "acme",
		"want": {"tenant": "acme", "codes": {"program"}, "scopes": {"write"}},
	},
	"a program asks for another tenant": {
		"token": {"iss": issuer, "sub": "billing", "client_id": "billing"}, "hint": "globex",
		"want": {"denied": 403, "codes": {"client_of_another_tenant"}},
	},
	"a program of the platform": {
		"token": {"iss": issuer, "sub": "ops", "client_id": "ops", "scope": "s2s:internal"},
		"want": {"tenant": "", "codes": {"platform_program"}, "scopes": {"s2s:internal"}},
	},
	"a program of the platform asks for a tenant": {
		"token": {"iss": issuer, "sub": "ops", "client_id": "ops"}, "hint": "acme",
		"want": {"denied": 403, "codes": {"client_of_another_tenant"}},
	},
	"a program of a suspended tenant": {
		"token": {"iss": issuer, "sub": "late", "client_id": "late"},
		"want": {"denied": 403, "codes": {"tenant_not_active"}},
	},
	"an unknown program": {
		"token": {"iss": issuer, "sub": "evil", "client_id": "evil"},
		"want": {"denied": 403, "codes": {"client_unknown"}},
	},
	"no token": {"want": {"denied": 401, "codes": {"token_missing"}}},
	"no token where anonymous callers are allowed": {
		"anonymous": true,
		"want": {"tenant": "", "codes": {"anonymous"}, "headers": {
			"X-Principal-Type": "anonymous", "X-Tenant-ID": "", "X-Active-Tenant-ID": "",
			"X-User-Roles": set(), "X-Scopes": set(),
		}},
	},
	"a token counts, also where anonymous callers are allowed": {
		"token": person("mallory"), "anonymous": true,
		"want": {"denied": 403, "codes": {"user_unknown"}},
	},
}

input_of(case) := object.union_n([
	{"request": object.union(
		{"anonymous": object.get(case, "anonymous", false)},
		object.filter({"tenant_hint": object.get(case, "hint", null)}, {"tenant_hint" | case.hint}),
	)},
	{"settings": object.get(case, "settings", settings), "now": 1700000000},
	object.filter(case, ["token"]),
])

decide(case) := got if {
	got := claims.decision with input as input_of(case)
		with data.directory.users as users
		with data.directory.tenants as tenants
		with data.directory.clients as clients
		with data.iam.config as config({
			"headers": usual, "allow_without_tenant": object.get(case, "allow_without_tenant", false),
			"narrow_roles_by_scope": object.get(case, "narrow", false),
		})
}

# Whatever the bundle declares.
usual := [
	"X-User-ID", "X-User-Subject", "X-Service-ID", "X-Tenant-ID", "X-Active-Tenant-ID", "X-User-Roles", "X-Scopes",
	"X-User-Attributes", "X-Tenant-Attributes", "X-Principal-Type", "X-Decision-ID", "X-Policy-Revision",
]

# What the default headers are where there is nothing to say.
nothing := {
	"X-User-ID": "", "X-User-Subject": "", "X-Service-ID": "", "X-Tenant-ID": "", "X-Active-Tenant-ID": "",
	"X-User-Roles": set(), "X-Scopes": set(), "X-User-Attributes": "", "X-Tenant-Attributes": "", "X-Principal-Type": "",
}

as_wanted(got, want) if {
	want.denied
	object.remove(got, ["reasons"]) == {"allow": false, "status": want.denied}
}

as_wanted(got, want) if {
	not want.denied
	got.allow == true
	got.tenant == want.tenant
	got.headers["X-Tenant-ID"] == want.tenant
	object.union(nothing, object.get(want, "headers", got.headers)) == got.headers
	object.get(want, "roles", got.headers["X-User-Roles"]) == got.headers["X-User-Roles"]
	object.get(want, "scopes", got.headers["X-Scopes"]) == got.headers["X-Scopes"]
}

test_decision[name] if {
	some name, case in cases
	got := decide(case)
	{reason.code | some reason in got.reasons} == case.want.codes
	as_wanted(got, case.want)
}

test_every_reason_has_a_title if {
	every case in cases {
		every reason in decide(case).reasons {
			count(reason.title) > 5
		}
	}
}

test_missing_facts_are_not_a_yes if {
	every name, case in cases {
		got := claims.decision with input as input_of(case)
			with data.directory as {}
		got.allow == startswith(name, "no token where")
	}
}

# What is off by default.

headers_with(config, token) := got if {
	decision := claims.decision with input as {"request": {"anonymous": false}, "settings": settings, "token": token}
		with data.directory.users as users
		with data.directory.tenants as tenants
		with data.directory.clients as clients
		with data.iam.config as config
	got := decision.headers
}

config(more) := object.union(
	{
		"headers": ["X-User-ID"], "user_attributes": [], "tenant_attributes": [], "attributes_encoding": "base64",
		"allow_without_tenant": false,
	},
	more,
)

test_optional_headers if {
	got := headers_with(
		config({"headers": ["X-User-Permissions", "X-Client-ID", "X-Email", "X-Enriched-Tenant-ID"]}),
		object.union(person("alice"), {"email": "alice@example.com"}),
	)
	got == {
		"X-User-Permissions": {"document:read", "document:write"}, "X-Client-ID": "web",
		"X-Email": "alice@example.com", "X-Enriched-Tenant-ID": "acme",
	}
}

test_an_email_that_is_no_string_does_not_travel if {
	headers_with(config({"headers": ["X-Email"]}), object.union(person("alice"), {"email": ["a"]})) == {}
}

# Of the usual headers: a bundle may say that they travel to some backends only.
attributes_with(config, token) := got if {
	headers := claims._usual with input as {"request": {"anonymous": false}, "settings": settings, "token": token}
		with data.directory.users as users
		with data.directory.tenants as tenants
		with data.iam.config as config
	got := object.filter(headers, config.headers)
}

test_only_named_attributes_travel if {
	got := attributes_with(
		config({"headers": ["X-User-Attributes", "X-Tenant-Attributes"], "user_attributes": ["department"], "tenant_attributes": ["plan", "none"]}),
		person("alice"),
	)
	json.unmarshal(base64.decode(got["X-User-Attributes"])) == {"department": "sales"}
	json.unmarshal(base64.decode(got["X-Tenant-Attributes"])) == {"plan": "gold"}
}

test_attributes_as_plain_json if {
	got := attributes_with(
		config({"headers": ["X-User-Attributes"], "user_attributes": ["department"], "attributes_encoding": "json"}),
		person("alice"),
	)
	got == {"X-User-Attributes": `{"department":"sales"}`}
}
