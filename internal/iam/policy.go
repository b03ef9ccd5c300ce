package iam

import (
	"encoding/json"
	"regexp"
	"time"
)

// PolicyRevision is a stored policy that the gate has accepted.
type PolicyRevision struct {
	Digest      string // SHA-256 of what is evaluated, in hex
	Name        string // what its manifest calls it
	Source      string // where it came from
	Verified    string // who verified its signature: see the constants
	Bytes       int    // of its bundle
	AddedAt     time.Time
	ActorKind   string
	Actor       string
	Via         string
	Activations int       // how often it was activated
	LastInForce time.Time // when it was activated last; zero: never
}

// ID is the short name of a revision, as in X-Policy-Revision.
func (r PolicyRevision) ID() string { return PolicyID(r.Digest) }

// PolicyID is the short name of the revision with the digest.
func PolicyID(digest string) string {
	if len(digest) < 12 {
		return digest
	}
	return digest[:12]
}

// Who verified a revision's signature.
const (
	VerifiedByKey    = "key"    // the key that is configured; it can be verified again
	VerifiedByOPA    = "opa"    // OPA's own machinery, when it fetched it
	VerifiedByNobody = "nobody" // POLICY_ALLOW_UNSIGNED
)

// Kinds of activations.
const (
	PolicyFromSource = "source"   // automatically: POLICY_ACTIVATION=auto
	PolicyActivated  = "activate" // on request
	PolicyRolledBack = "rollback"
)

// PolicyActivation is one activation of a revision.
type PolicyActivation struct {
	Seq       int64
	Digest    string
	Name      string
	Kind      string
	At        time.Time
	ActorKind string
	Actor     string
	Via       string
	Preview   string // id; empty: none was named
	Reason    string
}

// PolicyShadow is the revision that is evaluated as a shadow of the active one.
type PolicyShadow struct {
	Digest string // empty: nothing
	Share  float64
	SetAt  time.Time
}

// PolicyReplica is the state that one replica reports.
type PolicyReplica struct {
	Replica  string
	Version  string
	InForce  string // digest
	Since    time.Time
	Source   string
	Prepared []string        // digests
	Refused  json.RawMessage // nil: nothing
	Seq      int64           // of the last activation that it has seen
	SeenAt   time.Time
	Facts    *ReplicaFacts // nil: not reported, by the release before
}

// ReplicaFacts is how fresh the facts of a replica were when it reported, and how fast changes reached it.
type ReplicaFacts struct {
	State         string   `json:"state"`                 // fresh, suspect, stale
	Age           *float64 `json:"age_seconds,omitempty"` // since freshness was last confirmed; nil: it never was
	Window        float64  `json:"window_seconds"`        // of the figures below
	Propagation99 *float64 `json:"p99_seconds,omitempty"` // of the delays of Probes; nil: there was none
	Probes        int      `json:"probes"`                // own heartbeats that came back
	Changes       int      `json:"changes"`               // change notifications that were received
}

// PolicyPreview is a comparison of two revisions, running or done.
type PolicyPreview struct {
	ID         string
	Candidate  string // digest
	Against    string // digest, or "embedded"
	State      string // running, done, failed, cancelled
	Replica    string
	StartedAt  time.Time
	FinishedAt time.Time
	ActorKind  string
	Actor      string
	Done       int64
	Total      int64
	Report     json.RawMessage // nil: not yet
}

var policyRefShape = regexp.MustCompile(`^[0-9a-f]{12,64}$`)

// ValidPolicyRef reports whether s can name a revision: its digest, or 12 or more of its
// first digits.
func ValidPolicyRef(s string) bool { return policyRefShape.MatchString(s) }
