package adminapi

import (
	"net/http"
	"reflect"

	"iam-service/internal/policy"
)

// pendingClient describes the 202 of a change of a client.
const pendingClient = "It is done later: Location says where to look"

// routes is the table of the admin API. The OpenAPI document follows from it.
func (a *server) routes() []route {
	const get, post, put, patch, del = http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete
	return []route{
		{
			method: get, path: "/v1/tenants", action: "tenant:list", tag: "tenants",
			summary: "List tenants", description: "By id.",
			handler: inTx(a.listTenants),
		},
		{
			method: post, path: "/v1/tenants", action: "tenant:create", tag: "tenants",
			summary: "Make a tenant", description: "It is active at once. An id is never used again.",
			status:  http.StatusCreated,
			handler: inTx(a.createTenant),
		},
		{
			method: get, path: "/v1/tenants/{tenant}", action: "tenant:read", tag: "tenants",
			summary: "Read a tenant",
			handler: inTx(a.readTenant),
		},
		{
			method: put, path: "/v1/tenants/{tenant}", action: "tenant:update", tag: "tenants",
			summary: "Make or replace a tenant", description: "Its status stays.",
			also:    responses{http.StatusCreated: "Created"},
			handler: inTx(a.putTenant),
		},
		{
			method: patch, path: "/v1/tenants/{tenant}", action: "tenant:set-status", tag: "tenants",
			summary: "Suspend, resume or archive a tenant", description: "Nobody gets into a tenant that is not active.",
			update:  "tenant:update",
			handler: inTx(a.patchTenant),
		},
		{
			method: del, path: "/v1/tenants/{tenant}", action: "tenant:delete", tag: "tenants",
			summary:     "Delete a tenant",
			description: "Only a suspended or archived one whose clients are all deleted; with its roles, members and mappings.",
			status:      http.StatusNoContent, slow: true,
			handler: inTx(a.deleteTenant),
		},

		{
			method: get, path: "/v1/tenants/{tenant}/roles", action: "role:list", tag: "roles",
			summary: "List the roles of a tenant", description: "Its own and the global ones, by name; all on one page.",
			handler: inTx(a.listRoles),
		},
		{
			method: post, path: "/v1/tenants/{tenant}/roles", action: "role:create", tag: "roles",
			summary: "Make a role",
			status:  http.StatusCreated,
			handler: inTx(a.createRole),
		},
		{
			method: get, path: "/v1/tenants/{tenant}/roles/{role}", action: "role:read", tag: "roles",
			summary: "Read a role",
			handler: inTx(a.readRole),
		},
		{
			method: put, path: "/v1/tenants/{tenant}/roles/{role}", action: "role:update", tag: "roles",
			summary: "Make or replace a role",
			also:    responses{http.StatusCreated: "Created"},
			handler: inTx(a.putRole),
		},
		{
			method: del, path: "/v1/tenants/{tenant}/roles/{role}", action: "role:delete", tag: "roles",
			summary: "Delete a role", description: "Refused while somebody holds it, unless remove=true takes it away first.",
			status:  http.StatusNoContent,
			handler: inTx(a.deleteRole),
		},
		{
			method: get, path: "/v1/roles", action: "global-role:list", tag: "roles",
			summary: "List the global roles", description: "By name; all on one page.",
			handler: inTx(a.listGlobalRoles),
		},
		{
			method: post, path: "/v1/roles", action: "global-role:create", tag: "roles",
			summary: "Make a global role", description: "Every tenant has it.",
			status:  http.StatusCreated,
			handler: inTx(a.createGlobalRole),
		},
		{
			method: get, path: "/v1/roles/{role}", action: "global-role:read", tag: "roles",
			summary: "Read a global role",
			handler: inTx(a.readGlobalRole),
		},
		{
			method: put, path: "/v1/roles/{role}", action: "global-role:update", tag: "roles",
			summary: "Make or replace a global role",
			also:    responses{http.StatusCreated: "Created"},
			handler: inTx(a.putGlobalRole),
		},
		{
			method: del, path: "/v1/roles/{role}", action: "global-role:delete", tag: "roles",
			summary: "Delete a global role", description: "Refused while somebody holds it.",
			status:  http.StatusNoContent,
			handler: inTx(a.deleteGlobalRole),
		},

		{
			method: get, path: "/v1/tenants/{tenant}/members", action: "member:list", tag: "members",
			summary: "List the members of a tenant", description: "By our ids of the users.",
			handler: inTx(a.listMembers),
		},
		{
			method: post, path: "/v1/tenants/{tenant}/members", action: "member:create", tag: "members",
			summary: "Add a member", description: "By issuer and subject; the answer is the same whether the user was known or not.",
			status:  http.StatusCreated,
			handler: inTx(a.addMember),
		},
		{
			method: post, path: "/v1/tenants/{tenant}/members:batch", action: "member:batch", tag: "members",
			summary:     "Add or replace up to 1,000 members",
			description: "All of them or none; each wrong row has its error. Who is a member already is replaced.",
			schema:      reflect.TypeFor[batchBody](), maxBody: maxBatchBody,
			handler: inTx(a.batchMembers),
		},
		{
			method: get, path: "/v1/tenants/{tenant}/members/{user}", action: "member:read", tag: "members",
			summary: "Read a member",
			handler: inTx(a.readMember),
		},
		{
			method: put, path: "/v1/tenants/{tenant}/members/{user}", action: "member:update", tag: "members",
			summary: "Replace what a member is",
			handler: inTx(a.putMember),
		},
		{
			method: patch, path: "/v1/tenants/{tenant}/members/{user}", action: "member:set-status", tag: "members",
			summary: "Suspend or resume a membership",
			update:  "member:update",
			handler: inTx(a.patchMember),
		},
		{
			method: del, path: "/v1/tenants/{tenant}/members/{user}", action: "member:delete", tag: "members",
			summary: "Remove a member",
			status:  http.StatusNoContent,
			handler: inTx(a.deleteMember),
		},

		{
			method: get, path: "/v1/tenants/{tenant}/mappings", action: "mapping:list", tag: "mappings",
			summary: "List the mappings of a tenant", description: "By issuer, claim and value; all on one page.",
			handler: inTx(a.listMappings),
		},
		{
			method: post, path: "/v1/tenants/{tenant}/mappings", action: "mapping:create", tag: "mappings",
			summary: "Map what a provider says to roles",
			status:  http.StatusCreated,
			handler: inTx(a.createMapping),
		},
		{
			method: get, path: "/v1/tenants/{tenant}/mappings/{mapping}", action: "mapping:read", tag: "mappings",
			summary: "Read a mapping",
			handler: inTx(a.readMapping),
		},
		{
			method: put, path: "/v1/tenants/{tenant}/mappings/{mapping}", action: "mapping:update", tag: "mappings",
			summary: "Replace the roles of a mapping",
			handler: inTx(a.putMapping),
		},
		{
			method: del, path: "/v1/tenants/{tenant}/mappings/{mapping}", action: "mapping:delete", tag: "mappings",
			summary: "Delete a mapping",
			status:  http.StatusNoContent,
			handler: inTx(a.deleteMapping),
		},

		{
			method: get, path: "/v1/users", action: "user:list", tag: "users",
			summary: "List users", description: "By our ids; find one by issuer and subject.",
			handler: inTx(a.listUsers),
		},
		{
			method: post, path: "/v1/users", action: "user:create", tag: "users",
			summary: "Make a user known",
			status:  http.StatusCreated,
			handler: inTx(a.createUser),
		},
		{
			method: get, path: "/v1/users/{user}", action: "user:read", tag: "users",
			summary: "Read a user",
			handler: inTx(a.readUser),
		},
		{
			method: put, path: "/v1/users/{user}", action: "user:update", tag: "users",
			summary: "Replace what is known of a user",
			handler: inTx(a.putUser),
		},
		{
			method: patch, path: "/v1/users/{user}", action: "user:set-status", tag: "users",
			summary: "Block or unblock a user", description: "A blocked user gets in nowhere.",
			update:  "user:update",
			handler: inTx(a.patchUser),
		},
		{
			method: post, path: "/v1/users/{user}:revoke", action: "user:revoke", tag: "users",
			summary:      "Refuse a user's tokens that were issued until now",
			optionalBody: true,
			handler:      inTx(a.revokeUser),
		},
		{
			method: del, path: "/v1/users/{user}", action: "user:erase", tag: "users",
			summary:     "Erase a user",
			description: "Issuer, subject, attributes and memberships are forgotten; our id stays in the audit.",
			status:      http.StatusNoContent,
			handler:     inTx(a.eraseUser),
		},
		{
			method: get, path: "/v1/users/{user}/memberships", action: "user:read", tag: "users",
			summary: "List a user's memberships", description: "By tenant; all on one page.",
			handler: inTx(a.listMemberships),
		},
		{
			method: get, path: "/v1/users/{user}/effective", action: "effective:read", tag: "users",
			summary:     "What a user is in a tenant",
			description: "Roles and permissions after inheritance, and where each comes from.",
			handler:     inTx(a.readEffective),
		},

		{
			method: get, path: "/v1/services", action: "service:list", tag: "services",
			summary: "List services", description: "By name.",
			handler: inTx(a.listServices),
		},
		{
			method: get, path: "/v1/services/{service}/manifest", action: "service:read", tag: "services",
			summary: "Read what a service declares",
			handler: inTx(a.readManifest),
		},
		{
			method: put, path: "/v1/services/{service}/manifest", action: "service:sync", tag: "services",
			summary:     "Declare what a service needs",
			description: "JSON or YAML. The same again changes nothing; what is in use is not taken away.",
			media:       []string{yamlMedia},
			handler:     inTx(a.putManifest),
		},
		{
			method: post, path: "/s2s/system/sync", action: "service:sync", tag: "services",
			summary:     "Declare what a service needs, by its own name for itself",
			description: "JSON or YAML, as in citadel.manifest.yaml.",
			media:       []string{yamlMedia},
			handler:     inTx(a.syncManifest),
		},

		{
			method: get, path: "/v1/clients", action: "client:list", tag: "clients",
			summary: "List and search clients", description: "By client_id; of one tenant, or of everything.",
			handler: inTx(a.listClients),
		},
		{
			method: post, path: "/v1/clients", action: "client:create", tag: "clients",
			summary:     "Make a client",
			description: "Its secret is in this answer and nowhere else. 202: it is made later, without a secret; rotate to have one.",
			status:      http.StatusCreated, also: responses{http.StatusAccepted: pendingClient},
			handler: withoutTx(a.createClient),
		},
		{
			method: get, path: "/v1/clients/drift", action: "drift:read", tag: "clients",
			summary: "Compare all clients with the identity provider",
			description: "Changes nothing. What was decided here wins, once two comparisons have seen a difference; what we do not know " +
				"is only reported.",
			handler: withoutTx(a.readDrift),
		},
		{
			method: get, path: "/v1/clients/{id}", action: "client:read", tag: "clients",
			summary: "Read a client",
			handler: inTx(a.readClient),
		},
		{
			method: put, path: "/v1/clients/{id}", action: "client:update", tag: "clients",
			summary:     "Replace what a client is",
			description: "Roles and scopes are in force here at once. A refusal by the identity provider is 422, and undoes all of it.",
			also:        responses{http.StatusAccepted: pendingClient},
			handler:     withoutTx(a.putClient),
		},
		{
			method: patch, path: "/v1/clients/{id}", action: "client:set-status", tag: "clients",
			summary:     "Block or unblock a client",
			description: "Its tokens are refused here at once. The identity provider is not told, and goes on issuing them.",
			handler:     inTx(a.patchClient),
		},
		{
			method: post, path: "/v1/clients/{id}:revoke", action: "client:revoke", tag: "clients",
			summary:      "Refuse a client's tokens that were issued until now",
			optionalBody: true,
			handler:      inTx(a.revokeClient),
		},
		{
			method: post, path: "/v1/clients/{id}/secrets:rotate", action: "client:rotate", tag: "clients",
			summary: "Give a client another secret",
			description: "It is in this answer and nowhere else; the old one works until the overlap ends. 503 secret_unknown: rotate " +
				"again.",
			optionalBody: true,
			handler:      withoutTx(a.rotateClient),
		},
		{
			method: del, path: "/v1/clients/{id}", action: "client:delete", tag: "clients",
			summary:     "Delete a client",
			description: "Its tokens are refused here at once. 202: the identity provider deletes it later.",
			status:      http.StatusNoContent, success: "Deleted here and in the identity provider", also: responses{http.StatusAccepted: pendingClient},
			handler: withoutTx(a.deleteClient),
		},

		{
			method: get, path: "/v1/audit", action: "audit:read", tag: "audit",
			summary: "Read the audit", description: "The newest first; of one tenant, or of everything.",
			handler: inTx(a.listAudit),
		},

		{
			method: get, path: "/v1/policy", action: "policy:read", tag: "policy",
			summary: "Read which policy is in force", description: "Where, since when, by whom, and what was refused.",
			handler: inTx(a.readPolicy),
		},
		{
			method: get, path: "/v1/policy/revisions", action: "policy:list", tag: "policy",
			summary: "List revisions of the policy", description: "The newest first.",
			handler: inTx(a.listRevisions),
		},
		{
			method: post, path: "/v1/policy/revisions", action: "policy:upload", tag: "policy",
			summary:     "Send a bundle",
			description: "It goes through the gate and is kept; it is not in force. The same again is 200.",
			status:      http.StatusCreated, also: responses{http.StatusOK: "Kept already"}, upload: true, maxBody: policy.MaxBundle,
			handler: withoutTx(a.createRevision),
		},
		{
			method: get, path: "/v1/policy/revisions/{revision}", action: "policy:read", tag: "policy",
			summary: "Read what is known of a revision",
			handler: inTx(a.readRevision),
		},
		{
			method: post, path: "/v1/policy/revisions/{revision}:activate", action: "policy:activate", tag: "policy",
			summary: "Put a revision in force",
			description: "Once all replicas are ready for it; they switch within a second. One that was in force before comes back only " +
				"by a rollback.",
			optionalBody: true,
			handler:      withoutTx(a.activateRevision),
		},
		{
			method: post, path: "/v1/policy/revisions/{revision}:rollback", action: "policy:rollback", tag: "policy",
			summary: "Put a revision in force again", description: "One that was in force before.",
			optionalBody: true,
			handler:      withoutTx(a.rollBackRevision),
		},
		{
			method: post, path: "/v1/policy/revisions/{revision}:shadow", action: "policy:shadow", tag: "policy",
			summary: "Evaluate a revision beside what is in force", description: "Aside: no request waits for it.",
			handler: withoutTx(a.shadowRevision),
		},
		{
			method: get, path: "/v1/policy/activations", action: "policy:list", tag: "policy",
			summary: "List what came into force", description: "The last one first.",
			handler: inTx(a.listActivations),
		},
		{
			method: post, path: "/v1/policy/preview", action: "policy:preview", tag: "policy",
			summary: "Preview a revision",
			description: "Begins to ask it and what is in force the same, of each user in each tenant and of each client: who would gain " +
				"and lose what. Location says where to look.",
			status:  http.StatusAccepted,
			handler: withoutTx(a.createPreview),
		},
		{
			method: get, path: "/v1/policy/previews/{preview}", action: "policy:read", tag: "policy",
			summary: "Read a preview", description: "How far it is, and in the end its report.",
			handler: inTx(a.readPreview),
		},
		{
			method: post, path: "/v1/policy/previews/{preview}:cancel", action: "policy:preview", tag: "policy",
			summary: "Cancel a preview", description: "It stops within seconds.",
			handler: inTx(a.cancelPreview),
		},
		{
			method: get, path: "/v1/policy/shadow", action: "policy:read", tag: "policy",
			summary: "Read what the shadow has seen", description: "Differences by kind, and samples, on this replica.",
			handler: inTx(a.readShadow),
		},
		{
			method: post, path: "/v1/policy/explain", action: "policy:explain", tag: "policy",
			summary: "Explain a decision",
			description: "For a token, a recorded decision, or who somebody is: the rules that fired, and of those that grant the first " +
				"condition that was not so. The facts are those of now. Administrators and auditors of a tenant say ?tenant= and " +
				"have decisions about it, its members and its clients explained, by the facts of the tenant.",
			handler: withoutTx(a.explain),
		},
		{
			method: get, path: "/v1/decisions", action: "decision:list", tag: "policy",
			summary: "Find decisions again",
			description: "Evaluations of the time that they are kept for, the newest first. Administrators and auditors of a tenant say " +
				"?tenant=; they find by names of its members and clients only, of R-Auth where no issuer is named.",
			handler: withoutTx(a.listDecisions),
		},
		{
			method: get, path: "/v1/decisions/{decision}", action: "decision:read", tag: "policy",
			summary: "Read a decision",
			description: "What was asked, what was answered and why, and which facts it depends on; masked. With ?tenant=, what of it is " +
				"that tenant's to see.",
			handler: withoutTx(a.readDecision),
		},
	}
}
