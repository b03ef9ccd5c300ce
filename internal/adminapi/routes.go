package adminapi

import (
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"

	"iam-service/internal/policy"
)

// routes are all of the admin API.
func (a *server) routes() {
	const get, post, put, patch, del = http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete
	const created, gone = http.StatusCreated, http.StatusNoContent

	add(a, route{get, "/v1/tenants", "tenant:list", "List tenants", "By id.", "tenants", 0, 0}, a.listTenants)
	add(a, route{post, "/v1/tenants", "tenant:create", "Make a tenant", "It is active at once. An id is never used again.", "tenants", created, 0}, a.createTenant)
	add(a, route{get, "/v1/tenants/{tenant}", "tenant:read", "Read a tenant", "", "tenants", 0, 0}, a.readTenant)
	add(a, route{put, "/v1/tenants/{tenant}", "tenant:update", "Make or replace a tenant", "Its status stays.", "tenants", 0, 0}, a.putTenant)
	add(a, route{patch, "/v1/tenants/{tenant}", "tenant:set-status", "Suspend, resume or archive a tenant", "Nobody gets into a tenant that is not active.", "tenants", 0, 0}, a.patchTenant)
	add(a, route{del, "/v1/tenants/{tenant}", "tenant:delete", "Delete a tenant", "Only a suspended or archived one whose clients are all deleted; with its roles, members and mappings.", "tenants", gone, 0}, a.deleteTenant)

	add(a, route{get, "/v1/tenants/{tenant}/roles", "role:list", "List the roles of a tenant", "Its own and the global ones, by name; all on one page.", "roles", 0, 0}, a.listRoles)
	add(a, route{post, "/v1/tenants/{tenant}/roles", "role:create", "Make a role", "", "roles", created, 0}, a.createRole)
	add(a, route{get, "/v1/tenants/{tenant}/roles/{role}", "role:read", "Read a role", "", "roles", 0, 0}, a.readRole)
	add(a, route{put, "/v1/tenants/{tenant}/roles/{role}", "role:update", "Make or replace a role", "", "roles", 0, 0}, a.putRole)
	add(a, route{del, "/v1/tenants/{tenant}/roles/{role}", "role:delete", "Delete a role", "Refused while somebody holds it, unless remove=true takes it away first.", "roles", gone, 0}, a.deleteRole)
	add(a, route{get, "/v1/roles", "global-role:list", "List the global roles", "By name; all on one page.", "roles", 0, 0}, a.listGlobalRoles)
	add(a, route{post, "/v1/roles", "global-role:create", "Make a global role", "Every tenant has it.", "roles", created, 0}, a.createGlobalRole)
	add(a, route{get, "/v1/roles/{role}", "global-role:read", "Read a global role", "", "roles", 0, 0}, a.readGlobalRole)
	add(a, route{put, "/v1/roles/{role}", "global-role:update", "Make or replace a global role", "", "roles", 0, 0}, a.putGlobalRole)
	add(a, route{del, "/v1/roles/{role}", "global-role:delete", "Delete a global role", "Refused while somebody holds it.", "roles", gone, 0}, a.deleteGlobalRole)

	add(a, route{get, "/v1/tenants/{tenant}/members", "member:list", "List the members of a tenant", "By our ids of the users.", "members", 0, 0}, a.listMembers)
	add(a, route{post, "/v1/tenants/{tenant}/members", "member:create", "Add a member", "By issuer and subject; the answer is the same whether the user was known or not.", "members", created, 0}, a.addMember)
	add(a, route{post, "/v1/tenants/{tenant}/members:batch", "member:batch", "Add or replace up to 1,000 members", "All of them or none; each wrong row has its error. Who is a member already is replaced.", "members", 0, maxBatchBody}, a.batchMembers)
	add(a, route{get, "/v1/tenants/{tenant}/members/{user}", "member:read", "Read a member", "", "members", 0, 0}, a.readMember)
	add(a, route{put, "/v1/tenants/{tenant}/members/{user}", "member:update", "Replace what a member is", "", "members", 0, 0}, a.putMember)
	add(a, route{patch, "/v1/tenants/{tenant}/members/{user}", "member:set-status", "Suspend or resume a membership", "", "members", 0, 0}, a.patchMember)
	add(a, route{del, "/v1/tenants/{tenant}/members/{user}", "member:delete", "Remove a member", "", "members", gone, 0}, a.deleteMember)

	add(a, route{get, "/v1/tenants/{tenant}/mappings", "mapping:list", "List the mappings of a tenant", "By issuer, claim and value; all on one page.", "mappings", 0, 0}, a.listMappings)
	add(a, route{post, "/v1/tenants/{tenant}/mappings", "mapping:create", "Map what a provider says to roles", "", "mappings", created, 0}, a.createMapping)
	add(a, route{get, "/v1/tenants/{tenant}/mappings/{mapping}", "mapping:read", "Read a mapping", "", "mappings", 0, 0}, a.readMapping)
	add(a, route{put, "/v1/tenants/{tenant}/mappings/{mapping}", "mapping:update", "Replace the roles of a mapping", "", "mappings", 0, 0}, a.putMapping)
	add(a, route{del, "/v1/tenants/{tenant}/mappings/{mapping}", "mapping:delete", "Delete a mapping", "", "mappings", gone, 0}, a.deleteMapping)

	add(a, route{get, "/v1/users", "user:list", "List users", "By our ids; find one by issuer and subject.", "users", 0, 0}, a.listUsers)
	add(a, route{post, "/v1/users", "user:create", "Make a user known", "", "users", created, 0}, a.createUser)
	add(a, route{get, "/v1/users/{user}", "user:read", "Read a user", "", "users", 0, 0}, a.readUser)
	add(a, route{put, "/v1/users/{user}", "user:update", "Replace what is known of a user", "", "users", 0, 0}, a.putUser)
	add(a, route{patch, "/v1/users/{user}", "user:set-status", "Block or unblock a user", "A blocked user gets in nowhere.", "users", 0, 0}, a.patchUser)
	add(a, route{post, "/v1/users/{user}:revoke", "user:revoke", "Refuse a user's tokens that were issued until now", "", "users", 0, 0}, a.revokeUser)
	add(a, route{del, "/v1/users/{user}", "user:erase", "Erase a user", "Issuer, subject, attributes and memberships are forgotten; our id stays in the audit.", "users", gone, 0}, a.eraseUser)
	add(a, route{get, "/v1/users/{user}/memberships", "user:read", "List a user's memberships", "By tenant; all on one page.", "users", 0, 0}, a.listMemberships)
	add(a, route{get, "/v1/users/{user}/effective", "effective:read", "What a user is in a tenant", "Roles and permissions after inheritance, and where each comes from.", "users", 0, 0}, a.readEffective)

	add(a, route{get, "/v1/services", "service:list", "List services", "By name.", "services", 0, 0}, a.listServices)
	add(a, route{get, "/v1/services/{service}/manifest", "service:read", "Read what a service declares", "", "services", 0, 0}, a.readManifest)
	add(a, route{put, "/v1/services/{service}/manifest", "service:sync", "Declare what a service needs", "JSON or YAML. The same again changes nothing; what is in use is not taken away.", "services", 0, 0}, a.putManifest)
	add(a, route{post, "/s2s/system/sync", "service:sync", "Declare what a service needs, by its own name for itself", "JSON or YAML, as in citadel.manifest.yaml.", "services", 0, 0}, a.syncManifest)

	add(a, route{get, "/v1/clients", "client:list", "List and search clients", "By client_id; of one tenant, or of everything.", "clients", 0, 0}, a.listClients)
	register(a, route{post, "/v1/clients", "client:create", "Make a client", "Its secret is in this answer and nowhere else. 202: it is made later, without a secret; rotate to have one.", "clients", created, 0}, a.createClient)
	register(a, route{get, "/v1/clients/drift", "drift:read", "Compare all clients with the identity provider", "Changes nothing. What was decided here wins, once two comparisons have seen a difference; what we do not know is only reported.", "clients", 0, 0}, a.readDrift)
	add(a, route{get, "/v1/clients/{id}", "client:read", "Read a client", "", "clients", 0, 0}, a.readClient)
	register(a, route{put, "/v1/clients/{id}", "client:update", "Replace what a client is", "Roles and scopes are in force here at once. A refusal by the identity provider is 422, and undoes all of it.", "clients", 0, 0}, a.putClient)
	add(a, route{patch, "/v1/clients/{id}", "client:set-status", "Block or unblock a client", "Its tokens are refused here at once. The identity provider is not told, and goes on issuing them.", "clients", 0, 0}, a.patchClient)
	add(a, route{post, "/v1/clients/{id}:revoke", "client:revoke", "Refuse a client's tokens that were issued until now", "", "clients", 0, 0}, a.revokeClient)
	register(a, route{post, "/v1/clients/{id}/secrets:rotate", "client:rotate", "Give a client another secret", "It is in this answer and nowhere else; the old one works until the overlap ends. 503 secret_unknown: rotate again.", "clients", 0, 0}, a.rotateClient)
	register(a, route{del, "/v1/clients/{id}", "client:delete", "Delete a client", "Its tokens are refused here at once. 202: the identity provider deletes it later.", "clients", gone, 0}, a.deleteClient)

	add(a, route{get, "/v1/audit", "audit:read", "Read the audit", "The newest first; of one tenant, or of everything.", "audit", 0, 0}, a.listAudit)
	add(a, route{get, "/v1/policy", "policy:read", "Read which policy is in force", "Where, since when, by whom, and what was refused.", "policy", 0, 0}, a.readPolicy)
	add(a, route{get, "/v1/policy/revisions", "policy:list", "List revisions of the policy", "The newest first.", "policy", 0, 0}, a.listRevisions)
	register(a, route{post, "/v1/policy/revisions", "policy:upload", "Send a bundle", "It goes through the gate and is kept; it is not in force. The same again is 200.", "policy", created, policy.MaxBundle}, a.createRevision)
	add(a, route{get, "/v1/policy/revisions/{revision}", "policy:read", "Read what is known of a revision", "", "policy", 0, 0}, a.readRevision)
	register(a, route{post, "/v1/policy/revisions/{revision}:activate", "policy:activate", "Put a revision in force", "Once all replicas are ready for it; they switch within a second. One that was in force before comes back only by a rollback.", "policy", 0, 0}, a.activateRevision)
	register(a, route{post, "/v1/policy/revisions/{revision}:rollback", "policy:rollback", "Put a revision in force again", "One that was in force before.", "policy", 0, 0}, a.rollBackRevision)
	register(a, route{post, "/v1/policy/revisions/{revision}:shadow", "policy:shadow", "Evaluate a revision beside what is in force", "Aside: no request waits for it.", "policy", 0, 0}, a.shadowRevision)
	add(a, route{get, "/v1/policy/activations", "policy:list", "List what came into force", "The last one first.", "policy", 0, 0}, a.listActivations)

	register(a, route{post, "/v1/policy/preview", "policy:preview", "Preview a revision", "Begins to ask it and what is in force the same, of each user in each tenant and of each client: who would gain and lose what. Location says where to look.", "policy", http.StatusAccepted, 0}, a.createPreview)
	add(a, route{get, "/v1/policy/previews/{preview}", "policy:read", "Read a preview", "How far it is, and in the end its report.", "policy", 0, 0}, a.readPreview)
	add(a, route{post, "/v1/policy/previews/{preview}:cancel", "policy:preview", "Cancel a preview", "It stops within seconds.", "policy", 0, 0}, a.cancelPreview)
	add(a, route{get, "/v1/policy/shadow", "policy:read", "Read what the shadow has seen", "Differences by kind, and samples, on this replica.", "policy", 0, 0}, a.readShadow)
	register(a, route{post, "/v1/policy/explain", "policy:explain", "Explain a decision", "For a token, a recorded decision, or who somebody is: the rules that fired, and of those that grant the first condition that was not so. The facts are those of now. Administrators and auditors of a tenant say ?tenant= and have decisions about it, its members and its clients explained, by the facts of the tenant.", "policy", 0, 0}, a.explain)
	register(a, route{get, "/v1/decisions", "decision:list", "Find decisions again", "Evaluations of the time that they are kept for, the newest first. Administrators and auditors of a tenant say ?tenant=; they find by names of its members and clients only, of R-Auth where no issuer is named.", "policy", 0, 0}, a.listDecisions)
	register(a, route{get, "/v1/decisions/{decision}", "decision:read", "Read a decision", "What was asked, what was answered and why, and which facts it depends on; masked. With ?tenant=, what of it is that tenant's to see.", "policy", 0, 0}, a.readDecision)

	paths := a.api.OpenAPI().Paths
	batch := paths["/v1/tenants/{tenant}/members:batch"].Post.RequestBody
	batch.Content = map[string]*huma.MediaType{"application/json": {Schema: a.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[batchBody](), true, "")}}
	for _, path := range []string{"/v1/tenants/{tenant}", "/v1/tenants/{tenant}/roles/{role}", "/v1/roles/{role}"} {
		answers := paths[path].Put.Responses
		made := *answers["200"]
		made.Description = "Created"
		answers["201"] = &made
	}
	kept := *paths["/v1/policy/revisions"].Post.Responses["201"]
	kept.Description = "Kept already"
	paths["/v1/policy/revisions"].Post.Responses["200"] = &kept
	for _, path := range []string{
		"/v1/users/{user}:revoke", "/v1/clients/{id}:revoke", "/v1/clients/{id}/secrets:rotate", "/v1/policy/revisions/{revision}:activate", "/v1/policy/revisions/{revision}:rollback",
	} {
		paths[path].Post.RequestBody.Required = false // nothing to say: now
	}
	for _, op := range []*huma.Operation{paths["/v1/clients"].Post, paths["/v1/clients/{id}"].Put, paths["/v1/clients/{id}"].Delete} {
		later := *paths["/v1/clients/{id}"].Get.Responses["200"]
		later.Description = "It is done later: Location says where to look"
		op.Responses["202"] = &later
	}
	paths["/v1/clients/{id}"].Delete.Responses["204"] = &huma.Response{Description: "Deleted here and in the identity provider"}
	for _, body := range []*huma.RequestBody{paths["/v1/services/{service}/manifest"].Put.RequestBody, paths["/s2s/system/sync"].Post.RequestBody} {
		body.Content["application/yaml"] = &huma.MediaType{Schema: body.Content["application/json"].Schema}
	}
	a.finish()
}
