package problem

import (
	"errors"
	"net/http"
	"net/netip"
	"strings"

	"iam-service/internal/iam"
)

// Bearer returns the token of the Authorization header; "" where there is none, or another scheme.
func Bearer(h http.Header) (string, error) {
	v, err := Single(h, "Authorization")
	if err != nil || v == "" {
		return "", err
	}
	scheme, token, ok := strings.Cut(v, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", nil
	}
	token = strings.Trim(token, " ")
	if !ok || token == "" || strings.IndexByte(token, ' ') >= 0 || strings.IndexByte(token, ',') >= 0 || strings.IndexByte(token, '\t') >= 0 {
		return "", Malformed("Authorization must be \"Bearer\" and one token")
	}
	return token, nil
}

// Single returns the value of a header that must not be repeated.
func Single(h http.Header, name string) (string, error) {
	values := h[name]
	if len(values) > 1 {
		return "", Malformed(name + " is repeated")
	}
	if len(values) == 0 {
		return "", nil
	}
	return values[0], nil
}

// ClientIP is Forwarded where the peer is a trusted proxy, and else the zero Addr.
func (p Proxies) ClientIP(header http.Header, peer netip.Addr) (client netip.Addr, err error) {
	if !p.Trusts(peer) {
		return netip.Addr{}, nil
	}
	return p.Forwarded(header)
}

// Forwarded reads X-Forwarded-For of a trusted peer from the right: it is the first address that is not a trusted proxy, or
// else the leftmost one; the zero Addr if there is none.
func (p Proxies) Forwarded(header http.Header) (client netip.Addr, err error) {
	lines := header["X-Forwarded-For"]
	for i := len(lines) - 1; i >= 0; i-- {
		for rest, more := lines[i], true; more && (!client.IsValid() || p.Trusts(client)); {
			var hop string
			if comma := strings.LastIndexByte(rest, ','); comma >= 0 {
				rest, hop = rest[:comma], rest[comma+1:]
			} else {
				hop, more = rest, false
			}
			if hop = strings.TrimSpace(hop); hop == "" {
				continue // RFC 9110, section 5.6.1.2
			}
			addr, ok := address(hop)
			if !ok {
				return netip.Addr{}, Malformed("X-Forwarded-For has an entry that is not an address")
			}
			client = addr
		}
	}
	return client, nil
}

// address parses one entry of X-Forwarded-For, which may have a port, and brackets around IPv6.
func address(s string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(s)
	if err != nil {
		var withPort netip.AddrPort
		withPort, err = netip.ParseAddrPort(s)
		addr = withPort.Addr()
	}
	if inner, ok := strings.CutPrefix(s, "["); err != nil && ok {
		if inner, ok = strings.CutSuffix(inner, "]"); ok {
			addr, err = netip.ParseAddr(inner)
		}
	}
	return addr.Unmap().WithZone(""), err == nil
}

// Proxies are the networks whose X-Forwarded-… headers are trusted.
type Proxies []netip.Prefix

// Trusts reports whether the peer is one of them.
func (p Proxies) Trusts(peer netip.Addr) bool {
	for _, network := range p {
		if network.Contains(peer) {
			return true
		}
	}
	return false
}

// Peer is the remote address of the connection; the zero Addr if that is not an IP address.
func Peer(r *http.Request) netip.Addr {
	peer, _ := netip.ParseAddrPort(r.RemoteAddr) // the zero Addr if it is invalid
	return peer.Addr().Unmap()
}

// DetailOf is the part of an error that callers may see.
func DetailOf(err error) string {
	if e, ok := errors.AsType[*iam.Error](err); ok {
		return e.Detail
	}
	return ""
}

// Malformed is the error of a request that is ambiguous or cannot be parsed.
func Malformed(detail string) error {
	return &iam.Error{Kind: iam.Forbidden, Code: "malformed_request", Detail: detail}
}
