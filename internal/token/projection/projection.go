// Package projection holds the claims of a token that one policy revision reads.
//
// The policy computes it once for each token and revision, and the verified token caches it. It is a
// package of its own so that neither of the two imports the other. It does not know how either works.
package projection

import (
	"crypto/sha256"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Token is a verified token, reduced to what one revision reads. It is immutable.
type Token struct {
	Revision uint64            // number of the revision
	Claims   *ast.Term         // as policy input
	Key      [sha256.Size]byte // part of the cache key
}

// Of reports whether t is the projection for a revision. A nil one is for none.
func (t *Token) Of(revision uint64) bool { return t != nil && t.Revision == revision }
