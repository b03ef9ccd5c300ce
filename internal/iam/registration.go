package iam

import (
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// Limits on a client's metadata.
const (
	MaxURIsPerClient = 50
	MaxURIBytes      = 2000
	MaxKeysPerClient = 10
	MaxJWKSBytes     = 16 << 10
	MaxAudiences     = 20 // of a client
	MaxAudienceBytes = 255
	minRSABits       = 2048
)

// What a client may be. Implicit and password grants are left out, as RFC 9700, sections
// 2.1.2 and 2.4, asks.
var (
	GrantTypes  = []string{"authorization_code", "refresh_token", "client_credentials"}
	AuthMethods = []string{"none", "client_secret_basic", "client_secret_post", "private_key_jwt"}
)

// WithDefaults fills in what RFC 7591, section 2, has defaults for, and what follows from
// the rest.
func (r Registration) WithDefaults() Registration {
	if r.TokenEndpointAuthMethod == "" {
		r.TokenEndpointAuthMethod = "client_secret_basic"
	}
	if len(r.GrantTypes) == 0 {
		r.GrantTypes = []string{"authorization_code"}
	}
	if len(r.ResponseTypes) == 0 && slices.Contains(r.GrantTypes, "authorization_code") {
		r.ResponseTypes = []string{"code"}
	}
	return r
}

// Tidy returns a valid registration as it is stored: its keys have no members that they do not
// need.
func (r Registration) Tidy() Registration {
	r.JWKS = publicKeys(r.JWKS)
	return r
}

// publicKeys writes a key set in one way; nil for none, null, and an empty one, as which
// some providers answer none.
func publicKeys(raw json.RawMessage) json.RawMessage {
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(raw, &set); len(raw) == 0 || err == nil && len(set.Keys) == 0 {
		return nil
	} else if err != nil {
		return raw // not written by us: it differs from any that is
	}
	b, err := json.Marshal(set)
	if err != nil {
		return raw
	}
	return b
}

// Check returns one entry for each invalid field, by RFC 7591 and the security practice of
// RFC 9700. Scope, id and marks are not checked.
func (r Registration) Check() []FieldError {
	var c check
	c.text("/client_name", r.ClientName, 200)
	c.oneOf("/token_endpoint_auth_method", r.TokenEndpointAuthMethod, AuthMethods...)
	known := func(s string) bool { return slices.Contains(GrantTypes, s) }
	c.each("/grant_types", r.GrantTypes, len(GrantTypes), known, "must be one of "+strings.Join(GrantTypes, ", "))
	grants := func(g string) bool { return slices.Contains(r.GrantTypes, g) }
	public, code := r.Type() == "public", grants("authorization_code")
	c.that(!grants("refresh_token") || code, "/grant_types", "refresh_token goes with authorization_code only")
	c.that(!public || !grants("client_credentials"), "/grant_types", "a public client has no credentials, so it has no client_credentials (RFC 6749, section 4.4)")
	c.that(!public || code, "/grant_types", "a public client needs authorization_code")
	isCode := func(s string) bool { return s == "code" }
	c.each("/response_types", r.ResponseTypes, 1, isCode, "must be code: tokens do not travel through the browser (RFC 9700, section 2.1.2)")
	c.that(code || len(r.ResponseTypes) == 0, "/response_types", "goes with authorization_code only")

	c.that(!code || len(r.RedirectURIs) > 0, "/redirect_uris", "authorization_code needs at least one")
	c.that(code || len(r.RedirectURIs) == 0, "/redirect_uris", "goes with authorization_code only")
	c.that(code || len(r.PostLogoutRedirectURIs) == 0, "/post_logout_redirect_uris", "goes with authorization_code only")
	c.uris("/redirect_uris", r.RedirectURIs, public)
	c.uris("/post_logout_redirect_uris", r.PostLogoutRedirectURIs, public)

	c.each("/audience", r.Audience, MaxAudiences, validAudience, fmt.Sprintf("must be 1 to %d printable ASCII characters without blanks or quotes", MaxAudienceBytes))

	keys := r.TokenEndpointAuthMethod == "private_key_jwt"
	sources := 0
	if r.JWKSURI != "" {
		sources++
		c.that(badURI(r.JWKSURI, false) == "", "/jwks_uri", "%s", badURI(r.JWKSURI, false))
	}
	if len(r.JWKS) > 0 {
		sources++
		why := badKeys(r.JWKS)
		c.that(why == "", "/jwks", "%s", why)
	}
	c.that(!keys || sources == 1, "/jwks", "private_key_jwt needs jwks or jwks_uri, and not both")
	c.that(keys || sources == 0, "/jwks", "jwks and jwks_uri go with private_key_jwt only")
	return c
}

// validAudience reports whether s can be one of several audiences in a parameter, which blanks
// separate.
func validAudience(s string) bool {
	return len(s) <= MaxAudienceBytes && printableASCII(s) && !strings.ContainsAny(s, ` "\`)
}

func (c *check) uris(pointer string, list []string, native bool) {
	c.that(len(list) <= MaxURIsPerClient, pointer, "has %d entries, at most %d are allowed", len(list), MaxURIsPerClient)
	seen := map[string]bool{}
	for i, s := range list {
		at := pointer + "/" + strconv.Itoa(i)
		if why := badURI(s, native); why != "" {
			c.that(false, at, "%s", why)
		}
		c.that(!seen[s], at, "is listed twice")
		seen[s] = true
	}
}

// badURI returns why a URI is invalid that a browser is redirected to, or that the identity
// provider fetches; "" if it is valid. It is compared as it is written (RFC 9700, section
// 2.1), so an ambiguous one is invalid. Native applications, which are public
// clients, may have a loopback address or a scheme of their own (RFC 8252, section 7).
func badURI(s string, native bool) string {
	if len(s) > MaxURIBytes {
		return fmt.Sprintf("has %d bytes, at most %d are allowed", len(s), MaxURIBytes)
	}
	for i := range len(s) {
		if c := s[i]; c <= 0x20 || c > 0x7e || strings.IndexByte(`"<>\^{|}`+"`", c) >= 0 {
			return "must be a URI of printable ASCII characters (RFC 3986)"
		}
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Scheme == "":
		return "must be an absolute URI such as https://app.example.com/callback"
	case strings.Contains(s, "*"):
		return "must be exact: no wildcard (RFC 9700, section 2.1)"
	case strings.Contains(s, "#"):
		return "must have no fragment (RFC 6749, section 3.1.2)"
	case u.User != nil:
		return "must have no user in it"
	case slices.ContainsFunc(strings.Split(u.Path, "/"), func(p string) bool { return p == "." || p == ".." }):
		return "must have no . or .. in its path"
	}
	host := strings.ToLower(u.Hostname())
	switch u.Scheme {
	case "https":
		if why := badPort(u); why != "" {
			return why
		}
		return badHost(host)
	case "http":
		if addr, err := netip.ParseAddr(host); native && err == nil && addr.IsLoopback() {
			return badPort(u)
		}
		if host == "localhost" {
			return "must be https; a native application writes 127.0.0.1 or [::1] for localhost (RFC 8252, section 8.3)"
		}
		return "must be https; http is for public clients on 127.0.0.1 or [::1] (RFC 8252, section 7.3)"
	}
	if native && strings.Contains(u.Scheme, ".") && strings.HasPrefix(u.Path, "/") && !strings.Contains(s, "://") {
		return "" // com.example.app:/callback
	}
	return "must be https; a public client may have a scheme of its own that is a domain the other way round, as in com.example.app:/callback (RFC 8252, section 7.1)"
}

func badPort(u *url.URL) string {
	if p := u.Port(); p != "" || strings.HasSuffix(u.Host, ":") {
		if n, err := strconv.Atoi(p); err != nil || n < 1 || n > 65535 {
			return "must have a port from 1 to 65535"
		}
	}
	return ""
}

// special are ranges that are not private by name and lead nowhere public (RFC 6890).
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"), netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("192.88.99.0/24"), netip.MustParsePrefix("168.63.129.16/32"), // the latter is Azure's own to each machine
	netip.MustParsePrefix("2001::/23"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("3fff::/20"),
}

// routed is all of IPv6 that leads anywhere (RFC 4291, section 2.4).
var routed = netip.MustParsePrefix("2000::/3")

// badHost returns why a host is not a public one; "" if it may be. Names are not
// resolved: their addresses can change.
func badHost(host string) string {
	const private = "must be a public host: no loopback, private or local one"
	if addr, err := netip.ParseAddr(host); err == nil {
		addr = addr.Unmap()
		if !addr.IsGlobalUnicast() || addr.IsPrivate() || addr.Zone() != "" || addr.Is6() && !routed.Contains(addr) || slices.ContainsFunc(special, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			return private
		}
		return ""
	}
	host = strings.TrimSuffix(host, ".")
	labels := strings.Split(host, ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return "must have a host in ASCII (an internationalized name as xn--…)"
		}
	}
	last := labels[len(labels)-1]
	switch {
	case len(labels) < 2 || slices.Contains([]string{"localhost", "local", "internal", "lan", "intranet", "home", "corp", "private", "invalid", "onion", "svc"}, last) || strings.HasSuffix(host, ".home.arpa"):
		return private
	case last[0] >= '0' && last[0] <= '9': // 127.1, 0x7f.1: some programs read an address in it
		return "must be a name or an address in its usual form"
	}
	return ""
}

// secretMembers are those that make a key private or symmetric (RFC 7518, section 6).
var secretMembers = []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"}

// signatures are the algorithms of private_key_jwt (RFC 7518, section 3.1; RFC 8037).
var signatures = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// badKeys returns why a JSON Web Key Set is invalid; "" if it is valid.
func badKeys(raw json.RawMessage) string {
	if len(raw) > MaxJWKSBytes {
		return fmt.Sprintf("has %d bytes, at most %d are allowed", len(raw), MaxJWKSBytes)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(raw, &set); err != nil {
		return "must be a JSON Web Key Set (RFC 7517, section 5)"
	}
	if len(set.Keys) == 0 || len(set.Keys) > MaxKeysPerClient {
		return fmt.Sprintf("must have 1 to %d keys", MaxKeysPerClient)
	}
	var raws struct {
		Keys []map[string]json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(raw, &raws); err != nil || len(raws.Keys) != len(set.Keys) {
		return "must be a JSON Web Key Set (RFC 7517, section 5)"
	}
	for i, k := range set.Keys {
		for name := range raws.Keys[i] {
			if slices.Contains(secretMembers, strings.ToLower(name)) {
				return fmt.Sprintf("keys/%d has the member %q: a private or symmetric key must never leave its owner", i, name)
			}
			if strings.HasPrefix(strings.ToLower(name), "x5") {
				return fmt.Sprintf("keys/%d has the member %q: certificates are not accepted, keys are", i, name)
			}
		}
		switch {
		case k.KeyID != "" && !ValidClientID(k.KeyID):
			return fmt.Sprintf("keys/%d must have a kid of 1 to %d printable ASCII characters, or none", i, MaxClientIDBytes)
		case k.Algorithm != "" && !slices.Contains(signatures, k.Algorithm):
			return fmt.Sprintf("keys/%d must have an alg of %s, or none", i, strings.Join(signatures, ", "))
		case !k.Valid() || !k.IsPublic():
			return fmt.Sprintf("keys/%d must be a public key: a private or symmetric one must never leave its owner", i)
		case k.Use != "" && k.Use != "sig":
			return fmt.Sprintf("keys/%d must be for signatures (use: sig)", i)
		}
		if rsaKey, ok := k.Key.(*rsa.PublicKey); ok && rsaKey.N.BitLen() < minRSABits {
			return fmt.Sprintf("keys/%d must have %d bits or more", i, minRSABits)
		}
	}
	return ""
}
