// All routes of the admin API, in one file: what a route accepts and returns is read here, and the OpenAPI document
// follows from it.

package adminapi

import (
	"net/http"
	"reflect"
	"slices"

	"iam-service/internal/policy"
)

// pendingClient describes the 202 of a change of a client.
const pendingClient = "Pending in the identity provider: Location is the client"

// routes is the table of the admin API. The OpenAPI document follows from it.
func (a *server) routes() []route {
	const get, post, put, patch, del = http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete
	return slices.Concat(a.consoleRoutes(), a.accessRoutes(), a.playgroundRoutes(), []route{
		{
			method: get, path: "/v1/tenants", action: "tenant:list", tag: "tenants",
			summary: "List tenants", description: "By id.",
			handler: inTx(a.listTenants),
		},
		{
			method: post, path: "/v1/tenants", action: "tenant:create", tag: "tenants",
			summary: "Create a tenant", description: "It is active at once. An id is never reused.",
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
			summary: "Create or replace a tenant", description: "Its status does not change.",
			also:    responses{http.StatusCreated: "Created"},
			handler: inTx(a.putTenant),
		},
		{
			method: patch, path: "/v1/tenants/{tenant}", action: "tenant:set-status", tag: "tenants",
			summary: "Suspend, resume or archive a tenant", description: "Requests to a tenant that is not active are denied.",
			update:  "tenant:update",
			handler: inTx(a.patchTenant),
		},
		{
			method: del, path: "/v1/tenants/{tenant}", action: "tenant:delete", tag: "tenants",
			summary:     "Delete a tenant",
			description: "It must be suspended or archived, and its clients deleted. Its roles, members and mappings are deleted with it.",
			status:      http.StatusNoContent, slow: true,
			handler: inTx(a.deleteTenant),
		},

		{
			method: get, path: "/v1/tenants/{tenant}/roles", action: "role:list", tag: "roles",
			summary: "List the roles of a tenant", description: "Its own and the global ones, by name, in one page.",
			handler: inTx(a.listRoles),
		},
		{
			method: post, path: "/v1/tenants/{tenant}/roles", action: "role:create", tag: "roles",
			summary: "Create a role",
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
			summary: "Create or replace a role",
			also:    responses{http.StatusCreated: "Created"},
			handler: inTx(a.putRole),
		},
		{
			method: del, path: "/v1/tenants/{tenant}/roles/{role}", action: "role:delete", tag: "roles",
			summary: "Delete a role", description: "409 while it is assigned, unless remove=true revokes it first.",
			status:  http.StatusNoContent,
			handler: inTx(a.deleteRole),
		},
		{
			method: get, path: "/v1/roles", action: "global-role:list", tag: "roles",
			summary: "List the global roles", description: "By name, in one page.",
			handler: inTx(a.listGlobalRoles),
		},
		{
			method: post, path: "/v1/roles", action: "global-role:create", tag: "roles",
			summary: "Create a global role", description: "It is available in every tenant.",
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
			summary: "Create or replace a global role",
			also:    responses{http.StatusCreated: "Created"},
			handler: inTx(a.putGlobalRole),
		},
		{
			method: del, path: "/v1/roles/{role}", action: "global-role:delete", tag: "roles",
			summary: "Delete a global role", description: "409 while it is assigned.",
			status:  http.StatusNoContent,
			handler: inTx(a.deleteGlobalRole),
		},

		{
			method: get, path: "/v1/tenants/{tenant}/members", action: "member:list", tag: "members",
			summary: "List the members of a tenant", description: "By user id.",
			handler: inTx(a.listMembers),
		},
		{
			method: post, path: "/v1/tenants/{tenant}/members", action: "member:create", tag: "members",
			summary: "Add a member", description: "By issuer and subject. The response does not show whether the user was known.",
			status:  http.StatusCreated,
			handler: inTx(a.addMember),
		},
		{
			method: post, path: "/v1/tenants/{tenant}/members:batch", action: "member:batch", tag: "members",
			summary:     "Add or replace up to 1,000 members",
			description: "All of them or none; each invalid row has its own error. Existing members are replaced.",
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
			summary: "Replace a member",
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
			summary: "List the mappings of a tenant", description: "By issuer, claim and value, in one page.",
			handler: inTx(a.listMappings),
		},
		{
			method: post, path: "/v1/tenants/{tenant}/mappings", action: "mapping:create", tag: "mappings",
			summary: "Map a claim of the identity provider to roles",
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
			method: get, path: "/v1/tenants/{tenant}/scim-groups", action: "scim-group:list", tag: "scim-groups",
			summary: "List the groups that the tenant's provisioning client has created", description: "By id.",
			handler: inTx(a.listSCIMGroups),
		},
		{
			method: get, path: "/v1/tenants/{tenant}/scim-groups/{group}", action: "scim-group:read", tag: "scim-groups",
			summary: "Read a group",
			handler: inTx(a.readSCIMGroup),
		},
		{
			method: put, path: "/v1/tenants/{tenant}/scim-groups/{group}", action: "scim-group:update", tag: "scim-groups", bulk: true,
			summary: "Map a group to roles",
			description: "Its members hold them at once. The caller must hold them. The roles belong to the groups then: 409 " +
				"role_managed_by_scim where they are assigned by hand.",
			handler: inTx(a.putSCIMGroup),
		},
		{
			method: del, path: "/v1/tenants/{tenant}/scim-groups/{group}", action: "scim-group:delete", tag: "scim-groups", bulk: true,
			summary:     "Delete a group",
			description: "For one that its client does not delete. Its members lose its roles, and stay members of the tenant.",
			status:      http.StatusNoContent,
			handler:     inTx(a.deleteSCIMGroup),
		},

		{
			method: get, path: "/v1/users", action: "user:list", tag: "users",
			summary: "List users", description: "By id; find one by issuer and subject.",
			handler: inTx(a.listUsers),
		},
		{
			method: post, path: "/v1/users", action: "user:create", tag: "users",
			summary: "Create a user",
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
			summary: "Replace a user",
			handler: inTx(a.putUser),
		},
		{
			method: patch, path: "/v1/users/{user}", action: "user:set-status", tag: "users",
			summary: "Block or unblock a user", description: "Requests of a blocked user are denied in every tenant.",
			update:  "user:update",
			handler: inTx(a.patchUser),
		},
		{
			method: post, path: "/v1/users/{user}:revoke", action: "user:revoke", tag: "users",
			summary:      "Revoke the tokens of a user",
			optionalBody: true,
			handler:      inTx(a.revokeUser),
		},
		{
			method: del, path: "/v1/users/{user}", action: "user:erase", tag: "users",
			summary:     "Erase a user",
			description: "Issuer, subject, attributes and memberships are deleted; the id stays in the audit log.",
			status:      http.StatusNoContent,
			handler:     inTx(a.eraseUser),
		},
		{
			method: get, path: "/v1/users/{user}/memberships", action: "user:read", tag: "users",
			summary: "List a user's memberships", description: "By tenant, in one page.",
			handler: inTx(a.listMemberships),
		},
		{
			method: get, path: "/v1/users/{user}/effective", action: "effective:read", tag: "users",
			summary:     "Read the effective roles and permissions of a user in a tenant",
			description: "After inheritance, with the origin of each.",
			handler:     inTx(a.readEffective),
		},

		{
			method: get, path: "/v1/services", action: "service:list", tag: "services",
			summary: "List services", description: "By name.",
			handler: inTx(a.listServices),
		},
		{
			method: get, path: "/v1/services/{service}/manifest", action: "service:read", tag: "services",
			summary: "Read the manifest of a service",
			handler: inTx(a.readManifest),
		},
		{
			method: put, path: "/v1/services/{service}/manifest", action: "service:sync", tag: "services",
			summary:     "Replace the manifest of a service",
			description: "JSON or YAML. An unchanged manifest changes nothing. Roles and attributes in use cannot be removed.",
			media:       []string{yamlMedia},
			handler:     inTx(a.putManifest),
		},
		{
			method: post, path: "/s2s/system/sync", action: "service:sync", tag: "services",
			summary:     "Replace the manifest of the service that the manifest names",
			description: "JSON or YAML, as in citadel.manifest.yaml.",
			media:       []string{yamlMedia},
			handler:     inTx(a.syncManifest),
		},

		{
			method: get, path: "/v1/clients", action: "client:list", tag: "clients",
			summary: "List and search clients", description: "By client_id, of one tenant or of the whole platform.",
			handler: inTx(a.listClients),
		},
		{
			method: post, path: "/v1/clients", action: "client:create", tag: "clients",
			summary:     "Create a client",
			description: "The secret is in this response only. 202: the client is created later, without a secret; rotate to get one.",
			status:      http.StatusCreated, also: responses{http.StatusAccepted: pendingClient},
			handler: withoutTx(a.createClient),
		},
		{
			method: get, path: "/v1/clients/drift", action: "drift:read", tag: "clients",
			summary: "Compare all clients with the identity provider",
			description: "Changes nothing. A difference that two comparisons have found is resolved in favour of this service; unknown " +
				"clients are only reported.",
			handler: withoutTx(a.readDrift),
		},
		{
			method: get, path: "/v1/clients/{id}", action: "client:read", tag: "clients",
			summary: "Read a client",
			handler: inTx(a.readClient),
		},
		{
			method: get, path: "/v1/clients/{id}/operations", action: "client:read", tag: "clients",
			summary: "Read the steps of a client's pending and last operation",
			description: "What was written here, sent to the identity provider and confirmed by it, the attempts, and the last error: the pending " +
				"operation first, then the last one that ended. In one page.",
			handler: inTx(a.listClientOperations),
		},
		{
			method: put, path: "/v1/clients/{id}", action: "client:update", tag: "clients",
			summary:     "Replace a client",
			description: "Roles and scopes apply here at once. A rejection by the identity provider is 422, and reverts the whole change.",
			also:        responses{http.StatusAccepted: pendingClient},
			handler:     withoutTx(a.putClient),
		},
		{
			method: patch, path: "/v1/clients/{id}", action: "client:set-status", tag: "clients",
			summary:     "Block or unblock a client",
			description: "Its tokens are rejected here at once. The identity provider is not notified, and continues to issue them.",
			handler:     inTx(a.patchClient),
		},
		{
			method: post, path: "/v1/clients/{id}:revoke", action: "client:revoke", tag: "clients",
			summary:      "Revoke the tokens of a client",
			optionalBody: true,
			handler:      inTx(a.revokeClient),
		},
		{
			method: post, path: "/v1/clients/{id}/secrets:rotate", action: "client:rotate", tag: "clients",
			summary: "Rotate the secret of a client",
			description: "The new secret is in this response only; the old one is valid until the overlap ends. 503 secret_unknown: " +
				"rotate again.",
			optionalBody: true,
			handler:      withoutTx(a.rotateClient),
		},
		{
			method: del, path: "/v1/clients/{id}", action: "client:delete", tag: "clients",
			summary:     "Delete a client",
			description: "Its tokens are rejected here at once. 202: the identity provider deletes it later.",
			status:      http.StatusNoContent,
			success:     "Deleted here and in the identity provider",
			also:        responses{http.StatusAccepted: pendingClient},
			handler:     withoutTx(a.deleteClient),
		},

		{
			method: get, path: "/v1/audit", action: "audit:read", tag: "audit",
			summary: "Read the audit log", description: "The newest first, of one tenant or of the whole platform.",
			handler: inTx(a.listAudit),
		},
		{
			method: get, path: "/v1/audit/verification", action: "audit-chain:read", tag: "audit",
			summary: "Verify the chains of the audit log, piece by piece",
			description: "That each entry follows the one before, and that the last one is the head. Repeat it with after= until there is no next: " +
				"verified of total shows the progress. Of a chain that is broken, the first fault is named, and the rest is not read. It " +
				"does not compare with checkpoints that were stored elsewhere: only \"iam-service audit verify --anchors\" finds a chain that was " +
				"rewritten as a whole.",
			handler: inTx(a.verifyAudit),
		},

		{
			method: get, path: "/v1/tenants/{tenant}/requestable-roles", action: "request:list", tag: "requests",
			summary: "List the roles that the caller can ask for", description: "By name, in one page.",
			handler: inTx(a.listRequestable),
		},
		{
			method: get, path: "/v1/tenants/{tenant}/requests", action: "request:list", tag: "requests",
			summary: "List requests for roles", description: "The newest first: the caller's own, or all of the tenant for those who review them.",
			handler: inTx(a.listRequests),
		},
		{
			method: post, path: "/v1/tenants/{tenant}/requests", action: "request:create", tag: "requests",
			summary: "Ask for a role for a time", description: "For the caller. A break-glass role is granted at once, with an event and an alert.",
			status:  http.StatusCreated,
			handler: inTx(a.createRequest),
		},
		{
			method: get, path: "/v1/tenants/{tenant}/requests/{request}", action: "request:read", tag: "requests",
			summary: "Read a request for a role",
			handler: inTx(a.readRequest),
		},
		{
			method: post, path: "/v1/tenants/{tenant}/requests/{request}:approve", action: "request:approve", tag: "requests",
			summary:      "Approve a request for a role",
			description:  "The role is granted from now on, by the authority of the caller, who must hold what it grants until it ends. No one approves their own.",
			optionalBody: true,
			handler:      inTx(a.approveRequest),
		},
		{
			method: post, path: "/v1/tenants/{tenant}/requests/{request}:reject", action: "request:reject", tag: "requests",
			summary: "Reject a request for a role", description: "With a reason.",
			handler: inTx(a.rejectRequest),
		},
		{
			method: post, path: "/v1/tenants/{tenant}/requests/{request}:cancel", action: "request:cancel", tag: "requests",
			summary: "Cancel a request for a role", description: "The caller's own.",
			handler: inTx(a.cancelRequest),
		},

		{
			method: get, path: "/v1/policy", action: "policy:read", tag: "policy",
			summary: "Read the active policy", description: "For each replica: since when, activated by whom, and what was rejected.",
			handler: inTx(a.readPolicy),
		},
		{
			method: get, path: "/v1/policy/revisions", action: "policy:list", tag: "policy",
			summary: "List revisions of the policy", description: "The newest first.",
			handler: inTx(a.listRevisions),
		},
		{
			method: post, path: "/v1/policy/revisions", action: "policy:upload", tag: "policy",
			summary:     "Upload a bundle",
			description: "It is validated and stored, not activated. 200 if it is stored already.",
			status:      http.StatusCreated, also: responses{http.StatusOK: "Stored already"}, upload: true, maxBody: policy.MaxBundle,
			handler: withoutTx(a.createRevision),
		},
		{
			method: get, path: "/v1/policy/revisions/{revision}", action: "policy:read", tag: "policy",
			summary: "Read a revision",
			handler: inTx(a.readRevision),
		},
		{
			method: post, path: "/v1/policy/revisions/{revision}:activate", action: "policy:activate", tag: "policy",
			summary: "Activate a revision",
			description: "Once all replicas have prepared it; they switch within a second. A revision that was active before returns " +
				"only by a rollback.",
			optionalBody: true,
			handler:      withoutTx(a.activateRevision),
		},
		{
			method: post, path: "/v1/policy/revisions/{revision}:rollback", action: "policy:rollback", tag: "policy",
			summary: "Roll back to a revision", description: "To one that was active before.",
			optionalBody: true,
			handler:      withoutTx(a.rollBackRevision),
		},
		{
			method: post, path: "/v1/policy/revisions/{revision}:shadow", action: "policy:shadow", tag: "policy",
			summary: "Evaluate a revision as a shadow of the active one", description: "In the background: no request waits for it.",
			handler: withoutTx(a.shadowRevision),
		},
		{
			method: get, path: "/v1/policy/activations", action: "policy:list", tag: "policy",
			summary: "List activations", description: "The newest first.",
			handler: inTx(a.listActivations),
		},
		{
			method: post, path: "/v1/policy/preview", action: "policy:preview", tag: "policy",
			summary: "Preview a revision",
			description: "Starts to evaluate it and the active revision for each user in each tenant and for each client: who would gain " +
				"and lose what. Location is the preview.",
			status:  http.StatusAccepted,
			handler: withoutTx(a.createPreview),
		},
		{
			method: get, path: "/v1/policy/previews/{preview}", action: "policy:read", tag: "policy",
			summary: "Read a preview", description: "Its progress, and its report when it is done.",
			handler: inTx(a.readPreview),
		},
		{
			method: post, path: "/v1/policy/previews/{preview}:cancel", action: "policy:preview", tag: "policy",
			summary: "Cancel a preview", description: "It stops within seconds.",
			handler: inTx(a.cancelPreview),
		},
		{
			method: get, path: "/v1/policy/shadow", action: "policy:read", tag: "policy",
			summary: "Read the differences that the shadow has found", description: "By kind, with samples, on this replica.",
			handler: inTx(a.readShadow),
		},
		{
			method: post, path: "/v1/policy/explain", action: "policy:explain", tag: "policy",
			summary: "Explain a decision",
			description: "For a token, a recorded decision or a subject: the rules that matched, and for those that grant and did not, the " +
				"first condition that failed, with current facts. Administrators and auditors of a tenant use ?tenant=, for " +
				"decisions about it, its members and its clients, with the facts of the tenant.",
			handler: withoutTx(a.explain),
		},
		{
			method: get, path: "/v1/decisions", action: "decision:list", tag: "policy",
			summary: "Search decisions",
			description: "Evaluations within the retention time, the newest first. Administrators and auditors of a tenant use ?tenant=; " +
				"they can search for its members and clients only, of R-Auth where no issuer is named. 409 where decisions are not stored.",
			errors:  []int{http.StatusConflict},
			handler: withoutTx(a.listDecisions),
		},
		{
			method: get, path: "/v1/decisions/summary", action: "decision:list", tag: "policy",
			summary: "Count decisions over time",
			description: "Those that a search would find, by outcome and by code of denial, in up to 200 steps; by default of the last hour, by " +
				"minute. Administrators and auditors of a tenant use ?tenant=. 409 where decisions are not stored; 503 decisions_timeout " +
				"where there are too many to count.",
			errors:  []int{http.StatusConflict},
			handler: withoutTx(a.summarizeDecisions),
		},
		{
			method: get, path: "/v1/decisions/{decision}", action: "decision:read", tag: "policy",
			summary: "Read a decision",
			description: "Policy input, result, reasons, and the facts that it depends on; masked. With ?tenant=, the part that the tenant " +
				"may see. 409 where decisions are not stored.",
			errors:  []int{http.StatusConflict},
			handler: withoutTx(a.readDecision),
		},
	})
}
