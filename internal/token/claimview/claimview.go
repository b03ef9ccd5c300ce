// Package claimview is the part of a token's claims that one policy revision reads.
//
// The policy computes it once for each token and revision, and the verified token caches it. It is a
// package of its own so that neither of the two imports the other. It does not know how either works.
package claimview

import (
	"crypto/sha256"

	"github.com/open-policy-agent/opa/v1/ast"
)

// View is what one revision sees of a verified token. It is immutable.
type View struct {
	Revision uint64            // number of the revision
	Claims   *ast.Term         // as policy input
	Key      [sha256.Size]byte // part of the cache key
}

// Of reports whether v is the view of a revision. A nil view is of none.
func (v *View) Of(revision uint64) bool { return v != nil && v.Revision == revision }
