package problem

import (
	"errors"
	"net/http"
	"net/netip"
	"strings"

	"iam-service/internal/iam"
)

// Bearer reads the one Authorization header. Another scheme is no token of ours.
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
		return "", Malformed("Authorization is not \"Bearer\" and one token")
	}
	return token, nil
}

// Single returns the value of a header that may come once.
func Single(h http.Header, name string) (string, error) {
	values := h[name]
	if len(values) > 1 {
		return "", Malformed(name + " comes more than once")
	}
	if len(values) == 0 {
		return "", nil
	}
	return values[0], nil
}

// ClientIP is the last address of X-Forwarded-For that no believed proxy wrote about
// itself; the zero Addr where no believed peer has named one.
func (p Proxies) ClientIP(header http.Header, peer netip.Addr) (client netip.Addr, err error) {
	lines := header["X-Forwarded-For"]
	for at, i := peer, len(lines)-1; i >= 0; i-- {
		for rest, more := lines[i], true; more && p.Trusts(at); {
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
				return netip.Addr{}, Malformed("X-Forwarded-For holds what is no address")
			}
			at, client = addr, addr
		}
	}
	return client, nil
}

// address reads one address of X-Forwarded-For, which may have a port, and brackets where it
// is an IPv6 one.
func address(s string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(s)
	if err != nil {
		var with netip.AddrPort
		with, err = netip.ParseAddrPort(s)
		addr = with.Addr()
	}
	if inner, ok := strings.CutPrefix(s, "["); err != nil && ok {
		if inner, ok = strings.CutSuffix(inner, "]"); ok {
			addr, err = netip.ParseAddr(inner)
		}
	}
	return addr.Unmap().WithZone(""), err == nil
}

// Proxies are the networks whose X-Forwarded-… is believed.
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

// Peer is who is at the other end of the connection; the zero Addr where that
// is no IP address.
func Peer(r *http.Request) netip.Addr {
	peer, _ := netip.ParseAddrPort(r.RemoteAddr) // not one: the zero Addr
	return peer.Addr().Unmap()
}

// DetailOf is what the outside may know of an error.
func DetailOf(err error) string {
	if e, ok := errors.AsType[*iam.Error](err); ok {
		return e.Detail
	}
	return ""
}

// Malformed is a request that can be read in two ways, or not at all.
func Malformed(format string) error {
	return &iam.Error{Kind: iam.Forbidden, Code: "malformed_request", Detail: format}
}
