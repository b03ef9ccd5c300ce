package iam

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Registration is a client's metadata in the identity provider, by the names of RFC 7591,
// section 2.
type Registration struct {
	ClientID                string          `json:"client_id,omitempty"`
	ClientName              string          `json:"client_name,omitempty"`
	RedirectURIs            []string        `json:"redirect_uris,omitempty"`
	PostLogoutRedirectURIs  []string        `json:"post_logout_redirect_uris,omitempty"`
	GrantTypes              []string        `json:"grant_types,omitempty"`
	ResponseTypes           []string        `json:"response_types,omitempty"`
	TokenEndpointAuthMethod string          `json:"token_endpoint_auth_method,omitempty"`
	Scope                   string          `json:"scope,omitempty"`    // words, with blanks between
	Audience                []string        `json:"audience,omitempty"` // that its tokens may be for, as Ory Hydra calls it; empty: of a client from a version that did not manage it
	JWKSURI                 string          `json:"jwks_uri,omitempty"`
	JWKS                    json.RawMessage `json:"jwks,omitempty"`
	Metadata                Marks           `json:"metadata,omitempty"`

	Unmanaged []string `json:"-"` // names of fields that the provider has, that we do not manage, and that are not its defaults
}

// Marks are our part of a client's metadata. Values of others that are no strings are ignored.
type Marks map[string]string

// UnmarshalJSON reads the strings, and ignores everything else.
func (m *Marks) UnmarshalJSON(text []byte) error {
	var all map[string]json.RawMessage
	_ = json.Unmarshal(text, &all) // no object: it has no marks
	*m = Marks{}
	for name, raw := range all {
		var word string
		if json.Unmarshal(raw, &word) == nil {
			(*m)[name] = word
		}
	}
	return nil
}

// Marks that our clients have in the identity provider.
const (
	MarkInstance = "iam_instance" // installation of this service that created it
	MarkClient   = "iam_client"
	MarkTenant   = "iam_tenant"
	MarkVersion  = "iam_version" // of what was applied last
)

// ErrOutcomeUnknown marks a failure with an unknown outcome: the connection was lost, or the
// response does not contain it.
var ErrOutcomeUnknown = errors.New("the outcome is unknown")

// CodeCannotRotate is for an identity provider without rotation with an overlap: there a secret
// can only be replaced.
const CodeCannotRotate = "rotation_unsupported"

// Secret is a client's secret as it is obtained: it must not be stored.
type Secret string

// String keeps a secret from being printed by accident.
func (Secret) String() string { return "(secret)" }

// LogValue keeps it from being logged.
func (Secret) LogValue() slog.Value { return slog.StringValue("(secret)") }

// Whether the identity provider agrees with what a client should be.
const (
	SyncDone    = "in_sync"
	SyncPending = "pending"
	SyncFailed  = "failed" // it rejected the last change, which was undone
)

// Operations on a client in the identity provider: one at a time.
const (
	OperationCreate = "create"
	OperationUpdate = "update"
	OperationDelete = "delete"
	OperationRotate = "rotate"
	OperationRetire = "retire"
)

// States of a client's secret.
const (
	SecretNone      = "none"       // the client has none: it is public, or authenticates with a key
	SecretNotIssued = "not_issued" // it exists, and was returned to no caller
	SecretIssued    = "issued"
	SecretUnknown   = "unknown" // a rotation has an unknown outcome: rotate again
)

// ManagedClient is a client with its wanted registration. One that is not Managed was not created
// by us: it is a fact only.
type ManagedClient struct {
	Client
	Managed bool

	Wanted        Registration  // without ClientID and marks
	WantedVersion int64         // its mark
	Applied       *Registration // what was confirmed last; nil: nothing yet, and no event was published
	AppliedMark   int64         // its mark
	Before        *Before       // what a pending change has replaced; nil: it is a repair, or there is none

	Sync        string
	Reason      string // code of the last failure; empty: none
	Operation   string // under way; empty: none
	OperationID string
	LeaseLeft   time.Duration // of the replica that began it, when it was read
	Tries       int           // attempts of the operation that failed
	BegunAt     time.Time
	TriedAt     time.Time        // of the last attempt that failed; zero: none did
	NextTry     time.Time        // after which the operation is due again, where it waits
	Last        *ClientOperation // that is over; nil: not recorded

	SecretState string
	Secrets     int64     // how many were issued
	OverlapFrom time.Time // the overlap of two secrets, if there is one
	RetireAt    time.Time
	Warned      bool // that the old one ends soon

	CreatedAt time.Time
	UpdatedAt time.Time
}

// ClientOperation is an operation in the identity provider that is over.
type ClientOperation struct {
	Operation string
	Outcome   string // see the constants
	Reason    string // code of its failure; empty: none
	Tries     int    // attempts that failed and were retried
	BegunAt   time.Time
	EndedAt   time.Time
}

// Outcomes of an operation.
const (
	OutcomeConfirmed = "confirmed"
	OutcomeFailed    = "failed"   // the identity provider rejected it, or a rotation has none
	OutcomeReplaced  = "replaced" // another operation has taken its place
)

// ClientComparison is a comparison of all clients with the identity provider, in numbers.
type ClientComparison struct {
	At        time.Time
	Compared  int            // of ours that are not deleted
	Pending   int            // not compared: an operation is pending
	Others    int            // in the identity provider, of other owners
	Kinds     map[string]int // differences by kind
	Remaining int            // differences that were not repaired
	Stopped   bool           // nothing was repaired: an operator must decide
}

// Before is the published state of a client before a pending change.
type Before struct {
	Version int64    `json:"version"` // that the change has made
	Roles   []string `json:"roles"`
	Scopes  []string `json:"scopes"`
}

// Type is "public" or "confidential" (RFC 6749, section 2.1).
func (r Registration) Type() string {
	if r.TokenEndpointAuthMethod == "none" {
		return "public"
	}
	return "confidential"
}

// HasSecret reports whether a client authenticates with a secret.
func (r Registration) HasSecret() bool {
	return strings.HasPrefix(r.TokenEndpointAuthMethod, "client_secret_")
}

// Marked is what an instance of the service sends to the identity provider.
func (c ManagedClient) Marked(instance string) Registration {
	r := c.Wanted
	r.ClientID = c.ClientID
	r.Metadata = Marks{
		MarkInstance: instance, MarkClient: c.ClientID, MarkTenant: c.Tenant, MarkVersion: strconv.FormatInt(c.WantedVersion, 10),
	}
	return r
}

// Announced reports whether an event of the client was published.
func (c ManagedClient) Announced() bool { return !c.Managed || c.Applied != nil }

// Gone reports whether a client is deleted here and in the identity provider.
func (c ManagedClient) Gone() bool { return c.Status == ClientDeleted && c.Operation == "" }

// StandardScopes mean nothing but what an identity provider does by itself (OpenID Connect
// Core, sections 5.4 and 11).
var StandardScopes = []string{"openid", "profile", "email", "address", "phone", "offline", "offline_access"}

// Differs names the fields in which two registrations differ, by the names of RFC 7591;
// marks do not count. Lists are sets, keys are compared as keys.
func (r Registration) Differs(other Registration) []string {
	var fields []string
	differ := func(name string, same bool) {
		if !same {
			fields = append(fields, name)
		}
	}
	set := func(a, b []string) bool { return slices.Equal(sortedSet(a), sortedSet(b)) }
	differ("client_name", r.ClientName == other.ClientName)
	differ("redirect_uris", set(r.RedirectURIs, other.RedirectURIs))
	differ("post_logout_redirect_uris", set(r.PostLogoutRedirectURIs, other.PostLogoutRedirectURIs))
	differ("grant_types", set(r.GrantTypes, other.GrantTypes))
	differ("response_types", set(r.ResponseTypes, other.ResponseTypes))
	differ("token_endpoint_auth_method", r.TokenEndpointAuthMethod == other.TokenEndpointAuthMethod)
	differ("scope", set(strings.Fields(r.Scope), strings.Fields(other.Scope)))
	differ("audience", set(r.Audience, other.Audience))
	differ("jwks_uri", r.JWKSURI == other.JWKSURI)
	differ("jwks", bytes.Equal(publicKeys(r.JWKS), publicKeys(other.JWKS)))
	return fields
}

// Drift names the fields in which a registration, as a provider returns it, differs from the
// wanted one. Where no scope is wanted, a provider may fill in standard ones; where no audience
// is, none was decided.
func (r Registration) Drift(wanted Registration) []string {
	beyond := func(s string) bool { return !slices.Contains(StandardScopes, s) }
	if wanted.Scope == "" && !slices.ContainsFunc(strings.Fields(r.Scope), beyond) {
		r.Scope = ""
	}
	if len(wanted.Audience) == 0 {
		r.Audience = nil
	}
	return r.Differs(wanted)
}

func sortedSet(list []string) []string { return slices.Compact(slices.Sorted(slices.Values(list))) }
