package iam

import (
	"crypto/sha256"
	"encoding/json"
	"time"
)

// AuditEntry records one change and its actor. Entries of one chain are linked: Prev is the Hash
// of the one before.
type AuditEntry struct {
	Chain      string // id of a tenant; empty: the platform
	Seq        int64  // from 1
	At         time.Time
	ActorKind  string // "user", "client", "operator", "stream", "service" (by the clock)
	Actor      string // our id of a user, a client id, who ran a command, the name of a stream of signals
	Via        string // "api", "command", "bootstrap", "loop", "signal"
	Address    string // of the caller, where known
	RequestID  string
	DecisionID string // of the decision that allowed it, if one was requested
	Action     string
	Kind       string
	Object     string
	Before     json.RawMessage // nil: it was not there
	After      json.RawMessage // nil: it is no more
	Prev       []byte
	Hash       []byte
}

// Sum is what Hash must be: the SHA-256 of the hash before, and of all fields as one
// JSON object.
func (e AuditEntry) Sum() ([]byte, error) {
	h := sha256.New()
	h.Write(e.Prev)
	e.Prev, e.Hash = nil, nil
	e.At = e.At.UTC()
	if err := json.NewEncoder(h).Encode(e); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}
