package token

import (
	"time"

	"iam-service/internal/iam"
)

// Principal is what the directory knows of a token's client or of its user.
type Principal struct {
	Known           bool // false: no revocation is known either
	Client          bool // false: a user, whose status is for the policy to judge
	Status          string
	TokensNotBefore time.Time // zero: nothing was revoked
}

// CheckRevocation rejects a verified token whose client is not active, or that its client's
// or user's revocation includes. It is the check that no policy decides: enrichment and the
// admin API call it, for the client first.
func (t *Token) CheckRevocation(p Principal) error {
	switch {
	case !p.Known:
		return nil
	case p.Client && p.Status != iam.ClientActive:
		return t.Reject(ByClient, "client_"+p.Status)
	case t.RevokedBy(p.TokensNotBefore):
		return t.Reject(Revoked, "token_revoked")
	}
	return nil
}

// RevokedBy reports whether a revocation of all tokens issued before notBefore includes t; the
// zero time is no revocation. The issuer's clock may be ahead of ours by skew, so iat counts as
// that much earlier. No token (nil) is not revoked.
func (t *Token) RevokedBy(notBefore time.Time) bool {
	return t != nil && !notBefore.IsZero() && t.IssuedAt.Add(-skew).Before(notBefore)
}
