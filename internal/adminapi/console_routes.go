package adminapi

import "net/http"

// consoleRoutes are what a page of administration begins with. They change nothing.
func (a *server) consoleRoutes() []route {
	const get = http.MethodGet
	return []route{
		{
			method: get, path: "/v1/me", self: true, tag: "caller",
			summary: "Read who the caller is, and what they are authorized for",
			description: "For any caller with a valid token. actions are those that the active policy authorizes where no object is named, so a " +
				"page can leave out the rest. They are necessary and not sufficient: each request is authorized again, with its object, and " +
				"the service denies more (no caller grants more than they hold). An action that the policy authorizes for some objects alone is absent.",
			handler: withoutTx(a.readMe),
		},
		{
			method: get, path: "/v1/overview", action: "overview:read", tag: "overview",
			summary: "Read the state of the platform",
			description: "The active policy, the replicas with the freshness of their facts, the backlog of events, pending changes of clients and " +
				"the last comparison with the identity provider. It starts no comparison.",
			handler: inTx(a.readOverview),
		},
	}
}
