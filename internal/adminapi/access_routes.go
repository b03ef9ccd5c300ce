package adminapi

import (
	"net/http"
	"reflect"
)

// accessRoutes are the questions about access. They change nothing.
func (a *server) accessRoutes() []route {
	const get, post = http.MethodGet, http.MethodPost
	return []route{
		{
			method: get, path: "/v1/tenants/{tenant}/access", action: "access:list", tag: "access",
			summary: "Find who holds a role or a permission in a tenant",
			description: "Users by id, then clients, then mappings of claims, with the paths by which each holds it; or with client= what " +
				"one client holds. Only what is in force. A page can have fewer items than its limit and a next all the same. With " +
				"Accept: application/jsonl or text/csv the whole list, of one moment. With at= as it was at an earlier moment; 422 " +
				"before_retention names the earliest one.",
			result: reflect.TypeFor[accessPage](), exports: true,
			handler: withoutTx(a.listAccess),
		},
		{
			method: get, path: "/v1/tenants/{tenant}/members/{user}/access", action: "access:read", tag: "access",
			summary:     "Read what a member holds in a tenant",
			description: "Roles and permissions, each with the paths by which it is held.",
			handler:     inTx(a.readMemberAccess),
		},
		{
			method: get, path: "/v1/tenants/{tenant}/access/changes", action: "access:list", tag: "access",
			summary: "List who gained and lost what in a tenant between two moments",
			description: "Users by id, then clients, then mappings of claims, each with the entries of the audit that changed it. A page can " +
				"have fewer items than its limit and a next all the same. With Accept: application/jsonl or text/csv the whole list.",
			result: reflect.TypeFor[page[accessChangeBody]](), exports: true,
			handler: withoutTx(a.listAccessChanges),
		},
		{
			method: get, path: "/v1/users/{user}/access/changes", action: "access:read", tag: "access",
			summary:     "List what a user gained and lost in each tenant between two moments",
			description: "By tenant, in one page.",
			handler:     inTx(a.listUserAccessChanges),
		},
		{
			method: get, path: "/v1/tenants/{tenant}/matrix", action: "access:list", tag: "access",
			summary: "Read the matrix of roles and permissions, or of members and roles",
			description: "By name or user id. With Accept: application/jsonl the whole matrix; with text/csv as a table, with a column for " +
				"each permission or role.",
			result: reflect.TypeFor[page[matrixRow]](), exports: true,
			handler: withoutTx(a.readMatrix),
		},
		{
			method: get, path: "/v1/tenants/{tenant}/access/unused", action: "access:list", tag: "access",
			summary: "List memberships, roles or clients of a tenant that were not used for some days",
			description: "By user id, name, or issuer and client_id, with what a removal would change. What was created within these days is left " +
				"out. 409 where use is not recorded. With Accept: application/jsonl or text/csv the whole list, of one moment.",
			result: reflect.TypeFor[unusedPage](), exports: true, errors: []int{http.StatusConflict},
			handler: withoutTx(a.listUnused),
		},
		{
			method: get, path: "/v1/users/{user}/access", action: "access:read", tag: "access",
			summary:     "List what a user holds in each tenant",
			description: "By tenant. With Accept: application/jsonl or text/csv the whole list, of one moment.",
			result:      reflect.TypeFor[page[userAccessBody]](), exports: true,
			handler: withoutTx(a.listUserAccess),
		},

		{
			method: post, path: "/v1/access/search", action: "access:search", tag: "access",
			summary: "Search for the subjects that the active policy lets in",
			description: "Evaluates one request for each member and client of a tenant, over one snapshot. The response is JSON lines: one of " +
				"type search, which says what is exact and what is as asked; one of type allowed for each subject that is let in, " +
				"users by id, then clients; and one of type end, without which the response is not whole. It ends with the connection.",
			streams: true,
			handler: withoutTx(a.search),
		},
	}
}
