package policy

import (
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"strings"
	"unicode/utf8"
)

// The normal forms of request facts in input.request. Facts from a gateway are normalized or rejected; those in an
// acceptance case must be normal.

// checkFact rejects a fact that no request can have.
func checkFact(f Field, v string) error {
	normal, ok := v, true
	switch f {
	case Method:
		ok = ValidMethod(v)
	case Scheme:
		normal, ok = NormalScheme(v)
	case Host:
		normal, ok = NormalHost(v)
	case Path:
		normal, ok = NormalPath(v)
	case RawPath:
		_, ok = NormalPath(v)
	case ClientIP:
		addr, err := netip.ParseAddr(v)
		normal, ok = addr.String(), err == nil
	default:
	}
	switch {
	case !ok && (f == Path || f == RawPath):
		return fmt.Errorf("input.request.%s is %q: an ambiguous path is denied (malformed_request)", f, v)
	case !ok:
		return fmt.Errorf("input.request.%s is %q, which is not valid", f, v)
	case normal != v:
		return fmt.Errorf("input.request.%s is %q: its normal form is %q", f, v, normal)
	}
	return nil
}

// maxNameBytes bounds a method, a scheme or a host.
const maxNameBytes = 255

// ValidMethod reports whether s is a token (RFC 9110, section 5.6.2) without lower-case
// letters: methods are case-sensitive, and a rule about GET must not miss get.
func ValidMethod(s string) bool {
	if s == "" || len(s) > maxNameBytes {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return true
}

// NormalScheme returns a scheme in lower case, and whether s is one.
func NormalScheme(s string) (string, bool) {
	s = strings.ToLower(s)
	if s == "" || len(s) > maxNameBytes || s[0] < 'a' || s[0] > 'z' || !consistsOf(s, "+-.") {
		return "", false
	}
	return s, true
}

// NormalHost returns the host of a Host header in the one form that policies see, and
// whether s has one: lower case, without port, final dot and the brackets of an IPv6
// address.
func NormalHost(s string) (string, bool) {
	if len(s) > maxNameBytes {
		return "", false
	}
	if rest, ok := strings.CutPrefix(s, "["); ok {
		inner, port, ok := strings.Cut(rest, "]")
		addr, err := netip.ParseAddr(inner)
		if !ok || err != nil || !addr.Is6() || addr.Zone() != "" || port != "" && (port[0] != ':' || !validPort(port[1:])) {
			return "", false
		}
		return addr.String(), true
	}
	name, port, _ := strings.Cut(s, ":")
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	if !validPort(port) || name == "" || name[0] == '.' || strings.HasSuffix(name, ".") || strings.Contains(name, "..") || !consistsOf(name, "-._") {
		return "", false
	}
	return name, true
}

// consistsOf reports whether s has only lower-case letters, digits and the characters in more.
func consistsOf(s, more string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && strings.IndexByte(more, c) < 0 {
			return false
		}
	}
	return true
}

func validPort(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return len(s) <= 5
}

// NormalPath returns the path that a backend will see, and false for an ambiguous one:
// //admin, /x/../admin, /%61dmin%2f or /admin;x must not bypass a rule about /admin.
func NormalPath(raw string) (string, bool) {
	if len(raw) > 4096 || raw == "" || raw[0] != '/' || !printable(raw) || strings.ContainsAny(raw, ";\\#") {
		return "", false
	}
	p, err := url.PathUnescape(raw)
	if err != nil || !utf8.ValidString(p) || strings.ContainsAny(p, ";\\#?") {
		return "", false
	}
	for _, c := range p {
		if c < 0x20 || c == 0x7f {
			return "", false
		}
	}
	if strings.Count(p, "/") != strings.Count(raw, "/") { // encoded slash
		return "", false
	}
	if escape.MatchString(p) { // double encoding
		return "", false
	}
	clean := path.Clean(p)
	if clean != "/" && strings.HasSuffix(p, "/") {
		clean += "/"
	}
	return clean, clean == p // dot segments, empty segments
}

var escape = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}
