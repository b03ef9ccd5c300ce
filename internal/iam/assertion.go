package iam

import "time"

// AssertionKey is a key that signs assertions: identities that backends verify.
//
//	published ──SignsFrom──▶ signing ──a newer key signs──▶ retired ──PublishedUntil──▶ deleted
//	    └────────────────────────┴──▶ revoked: neither signs nor is published, until it is deleted
type AssertionKey struct {
	ID        string // "kid": the RFC 7638 thumbprint of the public key
	Algorithm string // ES256 or EdDSA
	Public    []byte // JWK
	Sealed    []byte // the private key, encrypted; nil: erased
	Proof     []byte // that the service itself has created the key
	SealedBy  string // fingerprint of the key-encryption key of both

	CreatedAt      time.Time
	SignsFrom      time.Time // it is published before
	SignsUntil     time.Time // it never signs later, whatever comes after it
	PublishedUntil time.Time
	RevokedAt      time.Time // zero: it is not revoked
}

// AssertionKeys are all keys at one moment.
type AssertionKeys struct {
	Seq  int64     // grows with each change
	Now  time.Time // by the database's clock
	Keys []AssertionKey
}

// AssertionKeyChange is what a change of the keys writes. The zero value writes nothing.
type AssertionKeyChange struct {
	Put    []AssertionKey // inserted, or instead of the one with their id
	Delete []string       // ids
	MinSeq int64          // the sequence is at least this afterwards
	Audit  []AuditEntry
}

// Empty reports whether a change writes nothing.
func (c *AssertionKeyChange) Empty() bool { return len(c.Put) == 0 && len(c.Delete) == 0 }
