package iam.authzen_test

import data.iam.authzen

issuer := "https://rauth.test"

member(roles) := {"status": "active", "roles": roles, "attributes": {}, "tenant_status": "active"}

person(memberships) := {"id": "u", "status": "active", "platform_roles": [], "attributes": {"team": "red", "level": 1}, "memberships": memberships}

users := {issuer: {
	"alice": person({"acme": object.union(member(["editor"]), {"attributes": {"level": 2}}), "initech": member(["editor"])}),
	"bob": person({"acme": member(["viewer"])}),
	"sue": person({"acme": object.union(member(["editor"]), {"status": "suspended"})}),
	"gus": person({"globex": member(["editor"])}),
	"blocked": object.union(person({"acme": member(["editor"])}), {"status": "blocked"}),
	"foreign": object.union(person({"globex": member(["editor"])}), {"status": "blocked"}),
}}

clients := {issuer: {
	"bot": {"client_id": "bot", "tenant": "acme", "status": "active", "roles": ["viewer"], "scopes": ["order:ship"]},
	"robot": {"client_id": "robot", "tenant": "acme", "status": "active", "roles": [], "scopes": ["todo:update"]},
	"stopped": {"client_id": "stopped", "tenant": "acme", "status": "blocked", "roles": ["editor"], "scopes": []},
	"platform": {"client_id": "platform", "status": "active", "roles": [], "scopes": ["order:read"]},
	"other": {"client_id": "other", "tenant": "globex", "status": "active", "roles": [], "scopes": ["order:read"]},
}}

roles := {
	"viewer": {"permissions": ["order:read", "order:"], "inherits": [], "closure": ["viewer"]},
	"editor": {"permissions": ["order:write", "todo:update", "approve"], "inherits": ["viewer"], "closure": ["editor", "viewer"]},
}

tenants := {
	"acme": {"id": "acme", "status": "active", "roles": roles},
	"globex": {"id": "globex", "status": "active", "roles": roles},
	"initech": {"id": "initech", "status": "suspended", "roles": roles},
}

config := {
	"default_permission": "type:action", "agents": "need_permission",
	"types": {"todo": {
		"actions": {
			"edit": [
				{"permission": "todo:update-any"},
				{"permission": "todo:update", "when": [{"value": "resource.properties.owner", "same_as": "subject.id"}]},
			],
			"label": [{"permission": "todo:update", "when": [
				{"value": "resource.properties.status", "equals": "open"}, {"value": "action.properties.soft", "equals": true},
			]}],
			"promote": [{"permission": "todo:update", "when": [
				{"value": "subject.attributes.level", "equals": 2}, {"value": "subject.attributes.team", "equals": "red"},
			]}],
			"trust": [{"permission": "todo:update", "when": [{"value": "subject.properties.mfa", "equals": true}]}],
		},
		"resources": {"t1": {"status": "open"}, "t2": {"status": "closed"}},
	}},
}

user(name) := {"type": "user", "issuer": issuer, "id": name, "properties": {}}

client(name) := {"type": "client", "issuer": issuer, "id": name, "properties": {}}

act(name) := {"name": name, "properties": {}}

order := {"type": "order", "id": "1", "properties": {}}

todo(id, properties) := {"type": "todo", "id": id, "properties": properties}

# subject, action, resource, what else is said, and what is decided: true, or the code of the deny.
cases := {
	"a role grants": [user("alice"), act("write"), order, {}, true],
	"a role grants what it inherits": [user("alice"), act("read"), order, {}, true],
	"a role grants no more": [user("bob"), act("write"), order, {}, "no_permission"],
	"the permission of another type is none": [user("bob"), act("read"), object.union(order, {"type": "invoice"}), {}, "no_permission"],
	"a stranger is no member": [user("nobody"), act("read"), order, {}, "not_in_tenant"],
	"another tenant's member is no member": [user("gus"), act("read"), order, {}, "not_in_tenant"],
	"another tenant's blocked member is just no member": [user("foreign"), act("read"), order, {}, "not_in_tenant"],
	"a suspended member is none": [user("sue"), act("read"), order, {}, "membership_not_in_force"],
	"a blocked user is denied": [user("blocked"), act("read"), order, {}, "user_blocked"],
	"a suspended tenant is denied": [user("alice"), act("read"), order, {"tenant": "initech"}, "tenant_not_active"],
	"an unknown tenant is denied": [user("alice"), act("read"), order, {"tenant": "nowhere"}, "not_in_tenant"],
	"a client has its roles": [client("bot"), act("read"), order, {}, true],
	"a client has its scopes": [client("bot"), act("ship"), order, {}, true],
	"a client has no more": [client("bot"), act("write"), order, {}, "no_permission"],
	"a blocked client is denied": [client("stopped"), act("read"), order, {}, "client_not_active"],
	"another tenant's client is none": [client("other"), act("read"), order, {}, "not_in_tenant"],
	"the platform's client is not of the tenant": [client("platform"), act("read"), order, {}, "not_in_tenant"],
	"a subject of another type is none": [{"type": "device", "id": "alice", "properties": {}}, act("read"), order, {}, "not_in_tenant"],
	"an agent with the permission acts": [user("alice"), act("read"), order, {"agent": {"issuer": issuer, "id": "bot"}}, true],
	"a platform's agent acts by its scopes": [user("alice"), act("read"), order, {"agent": {"issuer": issuer, "id": "platform"}}, true],
	"an agent without the permission does not": [user("alice"), act("write"), order, {"agent": {"issuer": issuer, "id": "bot"}}, "agent_not_permitted"],
	"an agent's permission is no subject's": [user("bob"), act("ship"), order, {"agent": {"issuer": issuer, "id": "bot"}}, "no_permission"],
	"an unknown agent does not act": [user("alice"), act("read"), order, {"agent": {"issuer": issuer, "id": "nobody"}}, "agent_unknown"],
	"a blocked agent does not act": [user("alice"), act("read"), order, {"agent": {"issuer": issuer, "id": "stopped"}}, "agent_unknown"],
	"another tenant's agent does not act": [user("alice"), act("read"), order, {"agent": {"issuer": issuer, "id": "other"}}, "agent_unknown"],
	"an agent that needs none": [
		user("alice"), act("write"), order,
		{"agent": {"issuer": issuer, "id": "bot"}, "config": {"agents": "need_none"}}, true,
	],
	"an owner edits": [user("alice"), act("edit"), todo("t9", {"owner": "alice"}), {}, true],
	"another one does not": [user("alice"), act("edit"), todo("t9", {"owner": "bob"}), {}, "no_permission"],
	"nobody edits what has no owner": [user("alice"), act("edit"), todo("t9", {}), {}, "no_permission"],
	"both conditions": [user("alice"), {"name": "label", "properties": {"soft": true}}, todo("t9", {"status": "open"}), {}, true],
	"one of two conditions": [user("alice"), {"name": "label", "properties": {"soft": false}}, todo("t9", {"status": "open"}), {}, "no_permission"],
	"what is known of a resource": [user("alice"), {"name": "label", "properties": {"soft": true}}, todo("t1", {}), {}, true],
	"what is known of a closed one": [user("alice"), {"name": "label", "properties": {"soft": true}}, todo("t2", {}), {}, "no_permission"],
	"what the request says of a resource wins": [user("alice"), {"name": "label", "properties": {"soft": true}}, todo("t2", {"status": "open"}), {}, true],
	"attributes of the directory": [user("alice"), act("promote"), todo("t1", {}), {}, true],
	"a client has no attributes": [client("robot"), act("promote"), todo("t1", {}), {}, "no_permission"],
	"what the request says of the subject": [object.union(user("alice"), {"properties": {"mfa": true}}), act("trust"), todo("t1", {}), {}, true],
	"a listed type without that action": [user("alice"), act("update"), todo("t1", {}), {}, true],
	"the action's name is the permission": [user("alice"), act("approve"), order, {"config": {"default_permission": "action"}}, true],
	"nothing that is not listed": [user("alice"), act("read"), order, {"config": {"default_permission": "none"}}, "action_unknown"],
}

test_decision[title] if {
	some title, [subject, action, resource, more, want] in cases
	asked := {
		"subject": subject, "action": action, "resource": resource, "context": {},
		"tenant": object.get(more, "tenant", "acme"), "client": {"issuer": issuer, "client_id": "pep", "scopes": ["authzen"]},
	}
	got := authzen.decision with input as object.union(asked, object.remove(more, ["tenant", "config"]))
		with data.directory as {"users": users, "clients": clients, "tenants": tenants}
		with data.iam.config.authzen as object.union(config, object.get(more, "config", {}))
	outcome(got) == want
}

outcome(got) if got.allow

outcome(got) := code if {
	not got.allow
	[code] := [r.code | some r in got.reasons]
}

searched(subject, resource, settings) := got if {
	asked := {"subject": subject, "action": {"properties": {}}, "resource": resource, "context": {}, "tenant": "acme"}
	got := authzen.candidates with input as asked
		with data.directory as {"users": users, "clients": clients, "tenants": tenants}
		with data.iam.config.authzen as object.union(config, settings)
}

test_candidates_of_the_default_mapping if {
	searched(user("alice"), order, {}) == {"actions": {"read", "write"}, "resources": set()}
}

test_candidates_of_listed_types if {
	got := searched(user("alice"), todo("t1", {}), {"default_permission": "none"})
	got == {"actions": {"edit", "label", "promote", "trust"}, "resources": {"t1", "t2"}}
}

test_candidates_by_the_names_of_permissions if {
	searched(client("bot"), order, {"default_permission": "action"}).actions == {"order:", "order:read", "order:ship"}
}

test_the_tenant_and_its_roles_are_resources if {
	searched(user("alice"), {"type": "tenant", "properties": {}}, {}).resources == {"acme"}
	searched(user("alice"), {"type": "role", "properties": {}}, {}).resources == {"editor", "viewer"}
}
