package gateway

import (
	"net/http"
	"net/netip"
	"strings"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"iam-service/internal/enrich"
	"iam-service/internal/policy"
	"iam-service/internal/problem"
)

// received are the headers of the client's request that an enrichment reads, as a check brings them.
type received struct {
	http.Header
	pseudo  map[string]string // :method, :path, :authority and host
	aliases []string          // names that a backend could read as an identity header
}

// read are the headers that an enrichment reads, by the name that Envoy sends.
var read = map[string]string{
	"authorization": "Authorization", "x-active-tenant-id": "X-Active-Tenant-Id", "x-upstream-idp-id": "X-Upstream-Idp-Id",
	"x-forwarded-method": "X-Forwarded-Method", "x-forwarded-proto": "X-Forwarded-Proto", "x-forwarded-host": "X-Forwarded-Host",
	"x-forwarded-uri": "X-Forwarded-Uri", "x-forwarded-for": "X-Forwarded-For",
	"x-original-method": "X-Original-Method", "x-original-host": "X-Original-Host", "x-original-uri": "X-Original-Uri", "x-original-url": "X-Original-Url",
	"origin": "Origin", "access-control-request-method": "Access-Control-Request-Method", "x-request-id": "X-Request-Id",
}

// pseudoHeaders are sent among the headers as well as apart from them.
var pseudoHeaders = map[string]bool{":method": true, ":path": true, ":authority": true, "host": true}

// receive reads the headers of a check: headers, where Envoy has joined repeated ones by a comma, or header_map
// with each as it came (encode_raw_headers). A header in both is a repeated one.
func receive(in *authv3.CheckRequest, e *okEncoder) received {
	from := in.GetAttributes().GetRequest().GetHttp()
	got := received{Header: make(http.Header, 8)}
	for name, value := range from.GetHeaders() {
		got.add(name, value, e)
	}
	for _, h := range from.GetHeaderMap().GetHeaders() {
		value := h.GetValue()
		if raw := h.GetRawValue(); len(raw) > 0 {
			value = string(raw)
		}
		got.add(h.GetKey(), value, e)
	}
	return got
}

func (r *received) add(name, value string, e *okEncoder) {
	canonical, ok := read[name]
	if !ok && !plain(name) {
		lower := strings.ToLower(name)
		switch canonical, ok = read[lower]; {
		case ok:
		case e.isAlias(lower):
			if !e.removed[lower] {
				r.aliases = append(r.aliases, name)
			}
			return
		case pseudoHeaders[lower]:
			r.addPseudo(lower, value)
			return
		}
	}
	if !ok && name == "host" {
		r.addPseudo(name, value)
	}
	if ok {
		r.Header[canonical] = append(r.Header[canonical], value)
	}
}

func (r *received) addPseudo(name, value string) {
	if r.pseudo == nil {
		r.pseudo = make(map[string]string, 4)
	}
	r.pseudo[name] = value
}

// plain reports whether a name has nothing but lower-case letters, digits and hyphens.
func plain(name string) bool {
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// requestOfCheck reads a check as requestOf reads an HTTP request of the profile envoy-http: method and path are
// accepted from any peer, all else from a trusted one only.
func (s *Service) requestOfCheck(in *authv3.CheckRequest, got *received, trusted bool) (enrich.Request, error) {
	var q enrich.Request
	var err error
	if q.Token, err = problem.Bearer(got.Header); err != nil {
		return q, err
	}
	// Of repeated headers that Envoy has joined, the first can have another scheme than Bearer.
	if strings.IndexByte(got.Get("Authorization"), ',') >= 0 {
		return q, problem.Malformed("Authorization is repeated, or a list")
	}
	if q.TenantHint, err = tenantHint(got.Header); err != nil {
		return q, err
	}
	if trusted {
		if q.IdP, err = problem.Single(got.Header, "X-Upstream-Idp-Id"); err != nil {
			return q, err
		}
	}
	facts, err := readCheck(in.GetAttributes().GetRequest().GetHttp(), got, trusted)
	if err != nil {
		return q, err
	}
	q.Facts = enrich.RequestFacts{Gateway: ExtAuthzName, Method: facts.method, Scheme: facts.scheme, Host: facts.host}
	if trusted {
		if q.Facts.ClientIP, err = s.clientOf(in.GetAttributes().GetSource(), got.Header); err != nil {
			return q, err
		}
	}
	return q, s.complete(&q.Facts, facts.path, got.Header)
}

// readCheck returns the facts of attributes.request.http, and fails where a header contradicts them.
//
// The scheme is X-Forwarded-Proto, which Envoy itself sets (use_remote_address) or has checked, as for the profile
// envoy-http: the attribute is :scheme, which a client chooses over HTTP/2. Where there is no such header it is
// the attribute.
func readCheck(from *authv3.AttributeContext_HttpRequest, got *received, trusted bool) (reported, error) {
	h := headers{Header: got.Header}
	var facts reported
	if from.GetMethod() != "" {
		if facts.method = from.GetMethod(); !policy.ValidMethod(facts.method) {
			return reported{}, problem.Malformed("the method is not an upper-case token")
		}
	}
	if from.GetPath() != "" {
		facts.path = h.normal(from.GetPath(), "the path", withoutQuery)
	}
	pseudo := reported{method: got.pseudo[":method"]}
	if path := got.pseudo[":path"]; path != "" {
		pseudo.path = h.normal(path, ":path", withoutQuery)
	}
	h.compare(&facts, &pseudo, "a pseudo header")
	if !trusted {
		return facts, h.err
	}
	if from.GetHost() != "" {
		facts.host = h.normal(from.GetHost(), "the host", policy.NormalHost)
	}
	for _, name := range []string{":authority", "host"} {
		if host := got.pseudo[name]; host != "" {
			h.compare(&facts, &reported{host: h.normal(host, name, policy.NormalHost)}, name)
		}
	}
	forward, origin, url := h.forwarded(), h.original(), h.originalURL()
	if facts.scheme = forward.scheme; facts.scheme == "" && from.GetScheme() != "" {
		facts.scheme = h.normal(from.GetScheme(), "the scheme", policy.NormalScheme)
	}
	h.compare(&facts, &forward, "X-Forwarded-…")
	h.compare(&facts, &origin, "X-Original-…")
	h.compare(&facts, &url, "X-Original-URL")
	return facts, h.err
}

// clientOf is the client's address. attributes.source is the peer of Envoy's connection, or what the PROXY protocol
// named in its place: never an entry of X-Forwarded-For (CheckRequestUtils::setAttrContextPeer in Envoy's
// source/extensions/filters/common/ext_authz/check_request_utils.cc reads the connection's remote address).
// With use_remote_address Envoy appends that same address to X-Forwarded-For before its filters run
// (ConnectionManagerUtility::mutateRequestHeaders). So the source is the client unless it is a trusted proxy, and
// then X-Forwarded-For is followed from the right.
func (s *Service) clientOf(source *authv3.AttributeContext_Peer, h http.Header) (netip.Addr, error) {
	addr, err := netip.ParseAddr(source.GetAddress().GetSocketAddress().GetAddress())
	if err != nil {
		return netip.Addr{}, nil // a pipe or an address inside Envoy: unknown
	}
	return s.behind(addr.Unmap().WithZone(""), h)
}
