package clients

import (
	"fmt"
	"strings"
)

// reasons say what a code of a failed operation means, for an administrator.
var reasons = map[string]string{
	"busy":                   "the operation could not begin in time",
	"client_id_taken":        "the identity provider has a foreign client of that id",
	"client_missing":         "the identity provider no longer has this client; the next comparison creates it again",
	"clients_not_managed":    "clients are not managed here: RAUTH_ADMIN_URL is not set",
	"idp_bad_response":       "the response of the identity provider makes no sense, or another server responds in its place",
	"idp_circuit_open":       "the identity provider has failed five times in a row, and is not called for ten seconds",
	"idp_connection":         "the identity provider is not reachable",
	"idp_forbidden":          "the identity provider does not authorize this service's credential",
	"idp_ignores_client_id":  "the identity provider ignores the client_id of a request: clients cannot be managed there",
	"idp_rate_limited":       "the identity provider limits the calls of this service",
	"idp_refused":            "the identity provider rejects this client",
	"idp_server_error":       "the identity provider has failed",
	"idp_timeout":            "the identity provider did not respond in time",
	"idp_token_unauthorized": "the token endpoint rejects this service's credential, or its file cannot be read",
	"idp_token_connection":   "the token endpoint of the identity provider is not reachable",
	"idp_token_rate_limited": "the token endpoint of the identity provider limits the calls of this service",
	"idp_token_server_error": "the token endpoint of the identity provider has failed",
	"idp_token_timeout":      "the token endpoint of the identity provider did not respond in time",
	"idp_unauthorized":       "the identity provider rejects this service's access token",
	"rotation_unsupported":   "the identity provider cannot have two secrets of a client",
	"secret_unknown":         "the outcome of the rotation is unknown: rotate it again",
	"database_unavailable":   "the outcome could not be stored here",
}

// Failure is why an operation failed last.
type Failure struct {
	Reason string // a code of docs/errors.md
	Field  string // JSON Pointer of the field that the provider rejects; empty: none
	Detail string // a sentence
}

// FailureOf reads the reason that an operation has stored: a code, and perhaps the field that it is about. It has nothing of the
// provider's own words, which may contain anything.
func FailureOf(reason string) Failure {
	code, field, _ := strings.Cut(reason, ":")
	f := Failure{Reason: code, Field: field, Detail: reasons[code]}
	if f.Detail == "" {
		f.Detail = "the operation failed: the log has the reason"
	}
	if field != "" {
		f.Detail += fmt.Sprintf(", because of %s", field)
	}
	return f
}
