package iam

import (
	"crypto"
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// markField is how the name of a mark begins, as a field of a registration.
const markField = "metadata."

// Values are those of a field, by the names of Differs or "metadata." and a mark, as sets of text. A key is its kid and its thumbprint
// (RFC 7638); a private or symmetric one, which is a secret, has none. It is empty and never nil.
func (r Registration) Values(field string) []string {
	var list []string
	switch field {
	case "client_name":
		list = []string{r.ClientName}
	case "redirect_uris":
		list = r.RedirectURIs
	case "post_logout_redirect_uris":
		list = r.PostLogoutRedirectURIs
	case "grant_types":
		list = r.GrantTypes
	case "response_types":
		list = r.ResponseTypes
	case "token_endpoint_auth_method":
		list = []string{r.TokenEndpointAuthMethod}
	case "scope":
		list = strings.Fields(r.Scope)
	case "audience":
		list = r.Audience
	case "jwks_uri":
		list = []string{r.JWKSURI}
	case "jwks":
		list = keyNames(r.JWKS)
	default:
		if mark, is := strings.CutPrefix(field, markField); is {
			list = []string{r.Metadata[mark]}
		}
	}
	out := []string{}
	for _, value := range sortedSet(list) {
		if value != "" {
			out = append(out, value)
		}
	}
	return out
}

// keyNames names the keys of a JWK set.
func keyNames(raw json.RawMessage) (names []string) {
	if len(raw) == 0 {
		return nil
	}
	var set jose.JSONWebKeySet
	if json.Unmarshal(raw, &set) != nil {
		return []string{"(no JWK set)"}
	}
	for _, k := range set.Keys {
		name := "(not public)"
		if k.IsPublic() {
			if sum, err := k.Thumbprint(crypto.SHA256); err == nil {
				name = base64.RawURLEncoding.EncodeToString(sum)
			}
		}
		names = append(names, strings.TrimSpace(k.KeyID+" "+name))
	}
	return names
}
