package iam

import (
	"encoding/json"
	"errors"
)

// Registration is a client's metadata as the identity provider keeps it, by the names
// of RFC 7591, section 2.
type Registration struct {
	ClientID                string            `json:"client_id,omitempty"`
	ClientName              string            `json:"client_name,omitempty"`
	RedirectURIs            []string          `json:"redirect_uris,omitempty"`
	PostLogoutRedirectURIs  []string          `json:"post_logout_redirect_uris,omitempty"`
	GrantTypes              []string          `json:"grant_types,omitempty"`
	ResponseTypes           []string          `json:"response_types,omitempty"`
	TokenEndpointAuthMethod string            `json:"token_endpoint_auth_method,omitempty"`
	Scope                   string            `json:"scope,omitempty"` // words, with blanks between
	JWKSURI                 string            `json:"jwks_uri,omitempty"`
	JWKS                    json.RawMessage   `json:"jwks,omitempty"`
	Metadata                map[string]string `json:"metadata,omitempty"` // our marks: iam_instance, iam_client, iam_tenant, iam_version
}

// Marks that a client of ours bears in the identity provider.
const (
	MarkInstance = "iam_instance" // which installation of this service made it
	MarkClient   = "iam_client"
	MarkTenant   = "iam_tenant"
	MarkVersion  = "iam_version" // of what was applied last
)

// ErrOutcomeUnknown marks a failure after which nobody knows whether the thing was done:
// the connection was cut, or the answer says nothing of it.
var ErrOutcomeUnknown = errors.New("it is not known whether it was done")
