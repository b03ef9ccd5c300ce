package gateway

import (
	"fmt"
	"slices"
	"strings"
)

// EnrichPath is the handler label of every enrichment, whichever endpoint and protocol a gateway uses.
const EnrichPath = "/system/enrich-token"

// Profile is how one kind of gateway sends a request: to which endpoint, and where each fact of the
// client's request stands.
type Profile struct {
	Name     string // as in GATEWAY_PROFILE, and in the gateway label of metrics
	Endpoint string // on the gateways' listener, and the same below /v1
	layout   layout
}

// layout is the one source of each fact.
//
//	             method              path              host             scheme             client_ip
//	forwarded    X-Forwarded-Method  X-Forwarded-Uri   X-Forwarded-Host X-Forwarded-Proto  X-Forwarded-For
//	original     X-Original-Method   X-Original-URL    X-Original-URL   X-Original-URL     X-Forwarded-For
//	appended     the method          the path below    Host             X-Forwarded-Proto  X-Forwarded-For
type layout int

const (
	forwarded layout = iota
	original
	appended
	queried // the members of a JSON input: see dataapi.go
)

// profiles are all that there are, from the gateways' own sources:
// Traefik's ForwardAuth, Caddy's forward_auth and APISIX's forward-auth set X-Forwarded-…;
// ingress-nginx's template sets X-Original-…; Envoy's ext_authz over HTTP and GEP-1494 append the
// client's path to a prefix and send its method.
var profiles = []Profile{
	{Name: "traefik", Endpoint: EnrichPath, layout: forwarded},
	{Name: "nginx", Endpoint: "/system/auth-request", layout: original},
	{Name: "ingress-nginx", Endpoint: "/system/auth-request", layout: original},
	{Name: "caddy", Endpoint: "/system/forward-auth", layout: forwarded},
	{Name: "apisix", Endpoint: "/system/forward-auth", layout: forwarded},
	{Name: "haproxy", Endpoint: "/system/forward-auth", layout: forwarded},
	{Name: "kong", Endpoint: "/system/forward-auth", layout: forwarded},
	{Name: "envoy-http", Endpoint: "/system/ext-authz", layout: appended},
	{Name: "gateway-api", Endpoint: "/system/external-auth", layout: appended},
	{Name: "opa", Endpoint: DataPath, layout: queried},
}

// SendsSecret reports whether a gateway of this profile can send GATEWAY_SECRET. The opa plugins of Kong and APISIX
// cannot: they have no option for a header or a client certificate of their own (Kong's schema of config:
// opa_host, opa_port, opa_path, opa_protocol, ssl_verify and include_…; apisix/plugins/opa.lua sends Content-Type alone).
func (p *Profile) SendsSecret() bool { return p.layout != queried }

// ProfileNames are the values that GATEWAY_PROFILE may list.
func ProfileNames() []string {
	names := make([]string, len(profiles))
	for i, p := range profiles {
		names[i] = p.Name
	}
	return names
}

// Profiles returns the profiles of these names. Its error lists every name that is none.
func Profiles(names ...string) ([]Profile, error) {
	var found []Profile
	var unknown []string
	for _, name := range names {
		at := slices.IndexFunc(profiles, func(p Profile) bool { return p.Name == name })
		switch {
		case at < 0:
			unknown = append(unknown, fmt.Sprintf("%q", name))
		case !slices.Contains(found, profiles[at]):
			found = append(found, profiles[at])
		}
	}
	if unknown != nil {
		return nil, fmt.Errorf("%s: no such profile; there are %s", strings.Join(unknown, ", "), strings.Join(ProfileNames(), ", "))
	}
	if found == nil {
		return nil, fmt.Errorf("at least one profile is needed, of %s", strings.Join(ProfileNames(), ", "))
	}
	return found, nil
}

// Path is where a gateway of this profile sends requests, while these profiles are enabled: at the endpoint,
// or below it by name where an earlier profile has the endpoint itself.
func (p *Profile) Path(enabled []Profile) string {
	for i := range enabled {
		if enabled[i].Endpoint == p.Endpoint {
			if enabled[i].Name != p.Name {
				return p.Endpoint + "/" + p.Name
			}
			break
		}
	}
	return p.Endpoint
}

// route is a path of the listener that a profile has.
type route struct {
	path    string
	profile *Profile
}

// routesOf returns the routes of the enabled profiles. A gateway that appends nothing can also name
// its profile below the endpoint, so that several share one.
func routesOf(enabled []Profile) []route {
	var named, bare []route
	for i := range enabled {
		p := &enabled[i]
		if p.layout == queried {
			continue // it has one path, and reads a body
		}
		if p.layout != appended {
			named = append(named, route{p.Endpoint + "/" + p.Name, p})
		}
		if !slices.ContainsFunc(bare, func(r route) bool { return r.path == p.Endpoint }) {
			bare = append(bare, route{p.Endpoint, p})
		}
	}
	return append(named, bare...)
}

var allRoutes = routesOf(profiles)

// match returns the profile that the path, as it was received, is for, and what follows its route.
func match(routes []route, path string) (p *Profile, rest string, ok bool) {
	path = strings.TrimPrefix(path, "/v1")
	for i := range routes {
		if rest, ok := strings.CutPrefix(path, routes[i].path); ok && (rest == "" || rest[0] == '/') {
			return routes[i].profile, rest, true
		}
	}
	return nil, "", false
}
