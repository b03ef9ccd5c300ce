package iam

import (
	"crypto/sha256"
	"encoding/json"
	"slices"
	"time"
)

// Approvals of requests for a role.
const (
	ApprovalRequired   = "required"
	ApprovalBreakGlass = "break_glass" // the role is granted at once, with an alert
)

// Status of a request for a role.
const (
	RequestPending   = "pending"
	RequestApproved  = "approved"
	RequestRejected  = "rejected"
	RequestCancelled = "cancelled"
	RequestExpired   = "expired" // it was not decided in time
)

// Limits of the time for which a role is requested, in seconds.
const (
	MinRequestSeconds = 60
	MaxRequestSeconds = 365 * 24 * 60 * 60
)

// Requestable says who can ask for a role.
type Requestable struct {
	By         []string `json:"by"`          // holders of one of these roles, also by inheritance
	Approval   string   `json:"approval"`    // ApprovalRequired, ApprovalBreakGlass
	MaxSeconds int64    `json:"max_seconds"` // for which it is granted
}

// RoleRequest is a request of a member for a role, for a time.
type RoleRequest struct {
	Seq         int64 // the order of lists
	ID          string
	Tenant      string
	User        string // our id
	Role        string
	Seconds     int64 // for which it is asked, from its approval
	Reason      string
	Approval    string
	Grants      []byte // Graph.Fingerprint of the role when it was asked for
	Status      string
	CreatedAt   time.Time
	DecideBy    time.Time
	DecidedAt   time.Time // zero: it is pending
	DeciderKind string    // as ActorKind of the audit
	Decider     string
	Decision    string    // the reason of the decision
	ExpiresAt   time.Time // of the role that was granted; zero: none was
	Version     int64
}

// Check returns one entry for each invalid field.
func (q Requestable) Check() []FieldError {
	var c check
	c.that(len(q.By) > 0, "/by", "needs at least one role, whose holders can ask")
	c.roles("/by", q.By)
	c.oneOf("/approval", q.Approval, ApprovalRequired, ApprovalBreakGlass)
	c.that(q.MaxSeconds >= MinRequestSeconds && q.MaxSeconds <= MaxRequestSeconds, "/max_seconds", "must be %d to %d, is %d", MinRequestSeconds, MaxRequestSeconds, q.MaxSeconds)
	return c
}

// CheckReason validates the mandatory reason of a request or a decision.
func CheckReason(pointer, reason string) []FieldError {
	var c check
	c.text(pointer, reason, MaxReasonBytes)
	return c
}

// Fingerprint is the SHA-256 of all that a role grants: the roles and their permissions, by itself and by inheritance.
func (g Graph) Fingerprint(role string) []byte {
	type granted struct {
		Name, Tenant string
		Permissions  []string
	}
	held := g.Hold([]string{role})
	var all []granted
	for _, r := range g.roles {
		if held.Roles[r.Name] {
			all = append(all, granted{r.Name, r.Tenant, slices.Sorted(slices.Values(r.Permissions))})
		}
	}
	slices.SortFunc(all, func(a, b granted) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	b, _ := json.Marshal(all) // strings alone
	sum := sha256.Sum256(b)
	return sum[:]
}
