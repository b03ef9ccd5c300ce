// Package identity verifies the signed identity that iam-service adds to a request, and gives it to the
// handlers of a backend.
//
// An assertion is a JWT in the header X-Citadel-Assertion, signed by iam-service for one backend and valid for a
// minute. Its form follows draft-ietf-oauth-transaction-tokens. A backend that verifies it need not trust the
// network between the gateway and itself, nor any other identity header of the request.
//
//	verifier, err := identity.New(identity.Config{
//		JWKS:      "https://iam.example.com/.well-known/jwks.json",
//		Issuer:    "https://iam.example.com",
//		Audiences: []string{"orders.example.com"},
//	})
//	...
//	http.Handle("/", verifier.Middleware(orders))
//
// It owns the checks on an assertion and the cache of the keys. It authorizes nothing: what a role allows is the
// backend's business.
package identity

import (
	"context"
	"errors"
	"slices"
	"time"
)

// Header carries the assertion. It is present and empty where the request is anonymous.
const Header = "X-Citadel-Assertion"

// Errors of Verify. An assertion that is not valid is ErrInvalid; one that cannot be verified now, since the keys
// cannot be fetched, is ErrUnavailable. The two are never confused.
var (
	ErrInvalid     = errors.New("the identity assertion is not valid")
	ErrUnavailable = errors.New("the identity assertion cannot be verified now")
)

// Principal types.
const (
	User   = "user"   // a person
	Client = "client" // a program that acts for itself
)

// Identity is a verified assertion. It is immutable by agreement: handlers share it.
type Identity struct {
	// ID is "sub": unique among all issuers of access tokens. Use it, or UserID, as a key.
	ID string

	Issuer  string // of the access token
	Subject string // "sub" of the access token, unique for its issuer only; of a program its client id
	UserID  string // iam-service's id of the user; empty for programs, and for users that it does not know

	PrincipalType string // User or Client; a policy of your own can have others
	ClientID      string // OAuth 2 client that the access token was issued to; may be empty

	Tenant string   // in which the request acts, verified; empty: in none
	Roles  []string // in that tenant, sorted; never nil
	Scope  []string // never nil

	TxnID          string // "txn": of the decision, which several requests can share
	DecisionID     string // to find the decision in iam-service's log
	PolicyRevision string // may be empty
	Gateway        string // "req_wl": the gateway profile that requested the decision

	Audience string    // the accepted one
	IssuedAt time.Time // of the assertion
	Expires  time.Time
}

// HasRole reports whether the identity has a role in its tenant.
func (id *Identity) HasRole(name string) bool { return slices.Contains(id.Roles, name) }

// HasScope reports whether the identity has a scope.
func (id *Identity) HasScope(name string) bool { return slices.Contains(id.Scope, name) }

type contextKey struct{}

// NewContext returns a context with an identity, such as for tests of handlers.
func NewContext(ctx context.Context, id *Identity) context.Context {
	return context.WithValue(ctx, contextKey{}, id)
}

// FromContext returns the identity that Middleware verified; false: the request is anonymous.
func FromContext(ctx context.Context) (*Identity, bool) {
	id, ok := ctx.Value(contextKey{}).(*Identity)
	return id, ok && id != nil
}
