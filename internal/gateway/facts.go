package gateway

import (
	"net/http"
	"strings"

	"iam-service/internal/enrich"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/problem"
)

// sent is a gateway's request before it is interpreted.
type sent struct {
	*http.Request
	rest    string // of the path, after the endpoint
	trusted bool   // see callerOf
}

// reported is what one source reports of the client's request. What it does not report is empty.
type reported struct{ method, scheme, host, path string }

// requestOf reads a gateway's request. What is ambiguous or cannot be parsed is an error with code
// malformed_request.
func (s *Service) requestOf(from *sent, p *Profile) (enrich.Request, error) {
	var q enrich.Request
	var err error
	if q.Token, err = problem.Bearer(from.Header); err != nil {
		return q, err
	}
	if q.TenantHint, err = tenantHint(from.Header); err != nil {
		return q, err
	}
	if from.trusted {
		if q.IdP, err = problem.Single(from.Header, "X-Upstream-Idp-Id"); err != nil {
			return q, err
		}
	}
	facts, err := p.read(from)
	if err != nil {
		return q, err
	}
	q.Facts = enrich.RequestFacts{Gateway: p.Name, Method: facts.method, Scheme: facts.scheme, Host: facts.host}
	if from.trusted {
		if q.Facts.ClientIP, err = s.Trusted.Forwarded(from.Header); err != nil {
			return q, err
		}
	}
	return q, s.complete(&q.Facts, facts.path, from.Header)
}

// callerOf is who sent a request. What it reports of the client's request is trusted if it is a trusted proxy, or has
// authenticated itself by a client certificate (GATEWAY_CLIENT_CA_FILE).
func (s *Service) callerOf(r *http.Request) caller {
	peer := problem.Peer(r)
	return caller{peer: peer, trusted: r.TLS != nil && len(r.TLS.VerifiedChains) > 0 || s.Trusted.Trusts(peer)}
}

// complete sets what follows from the other facts.
func (s *Service) complete(f *enrich.RequestFacts, rawPath string, h http.Header) error {
	if rawPath != "" {
		f.SetPath(rawPath)
		if f.Ambiguous && s.DenyAmbiguous {
			return problem.Malformed(enrich.AmbiguousPath)
		}
	}
	f.Preflight = f.Method == http.MethodOptions && h.Get("Origin") != "" && h.Get("Access-Control-Request-Method") != ""
	return nil
}

// tenantHint reads X-Active-Tenant-ID, which comes from the client.
func tenantHint(h http.Header) (string, error) {
	v, err := problem.Single(h, "X-Active-Tenant-Id")
	if err != nil || v == "" {
		return "", err
	}
	if !iam.ValidTenantID(v) {
		return "", problem.Malformed("X-Active-Tenant-ID is not the id of a tenant")
	}
	return v, nil
}

// read returns the facts of the profile's source. The gateway's own method, host and address are not
// the client's. What another source reports must agree: one of the two may be the client's.
func (p *Profile) read(from *sent) (reported, error) {
	h := headers{Header: from.Header}
	if !from.trusted {
		if p.layout != appended {
			return reported{}, nil
		}
		facts := h.appended(from)
		return reported{method: facts.method, path: facts.path}, h.err
	}
	if p.layout != appended && from.rest == "/" {
		from.rest = "" // an address that was configured with a trailing slash
	}
	below, forward, origin := h.appended(from), h.forwarded(), h.original()
	url := h.originalURL()
	var facts reported
	switch p.layout {
	case forwarded:
		facts = forward
	case original:
		facts = reported{method: origin.method, scheme: url.scheme, host: url.host, path: url.path}
	case appended:
		facts = reported{method: below.method, scheme: forward.scheme, host: below.host, path: below.path}
	case queried: // requestOfData
	}
	h.compare(&facts, &below, "the request itself")
	h.compare(&facts, &forward, "X-Forwarded-…")
	h.compare(&facts, &origin, "X-Original-…")
	h.compare(&facts, &url, "X-Original-URL")
	return facts, h.err
}

// headers reads headers that must not be repeated. After an error it reads nothing.
type headers struct {
	http.Header
	err error
}

// value returns a header in its normal form.
func (h *headers) value(name string, normal func(string) (string, bool)) string {
	if h.err != nil {
		return ""
	}
	var v string
	if v, h.err = problem.Single(h.Header, name); v == "" || h.err != nil {
		return ""
	}
	return h.normal(v, name, normal)
}

func (h *headers) normal(v, name string, normal func(string) (string, bool)) string {
	v, ok := normal(v)
	if !ok && h.err == nil {
		h.err = problem.Malformed(name + " is not valid")
	}
	return v
}

// appended is what a gateway reports that sends the client's method, and its path below our endpoint.
func (h *headers) appended(from *sent) reported {
	if from.rest == "" {
		return reported{}
	}
	if !policy.ValidMethod(from.Method) {
		h.err = problem.Malformed("the method is not an upper-case token")
	}
	facts := reported{method: from.Method, path: from.rest}
	if from.trusted && from.Host != "" {
		facts.host = h.normal(from.Host, "Host", policy.NormalHost)
	}
	return facts
}

func (h *headers) forwarded() reported {
	return reported{
		method: h.value("X-Forwarded-Method", normalMethod),
		scheme: h.value("X-Forwarded-Proto", policy.NormalScheme),
		host:   h.value("X-Forwarded-Host", policy.NormalHost),
		path:   h.value("X-Forwarded-Uri", withoutQuery),
	}
}

func (h *headers) original() reported {
	return reported{
		method: h.value("X-Original-Method", normalMethod),
		host:   h.value("X-Original-Host", policy.NormalHost),
		path:   h.value("X-Original-Uri", withoutQuery),
	}
}

// originalURL reads X-Original-URL, which is a URL or a path.
func (h *headers) originalURL() reported {
	const name = "X-Original-Url"
	url := h.value(name, func(s string) (string, bool) { return s, true })
	if url == "" {
		return reported{}
	}
	if url[0] == '/' {
		return reported{path: h.normal(url, name, withoutQuery)}
	}
	scheme, host, ok := strings.Cut(url, "://")
	if !ok {
		h.err = problem.Malformed(name + " is not valid")
		return reported{}
	}
	uri := "/"
	if at := strings.IndexAny(host, "/?"); at >= 0 {
		host, uri = host[:at], host[at:]
	}
	return reported{
		scheme: h.normal(scheme, name, policy.NormalScheme),
		host:   h.normal(host, name, policy.NormalHost),
		path:   h.normal(uri, name, withoutQuery),
	}
}

// compare fails where another source contradicts a fact.
func (h *headers) compare(facts, other *reported, source string) {
	contradicts := func(a, b string) bool { return a != "" && b != "" && a != b }
	if h.err == nil && (contradicts(facts.method, other.method) || contradicts(facts.scheme, other.scheme) ||
		contradicts(facts.host, other.host) || contradicts(facts.path, other.path)) {
		h.err = problem.Malformed(source + " contradicts another source of the same request")
	}
}

func normalMethod(s string) (string, bool) { return s, policy.ValidMethod(s) }

func withoutQuery(uri string) (string, bool) {
	path, _, _ := strings.Cut(uri, "?")
	return path, path != ""
}
