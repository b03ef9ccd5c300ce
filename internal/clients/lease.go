package clients

import (
	"time"

	"iam-service/internal/directory/clock"
	"iam-service/internal/iam"
)

const (
	settlePatience = 3 * time.Second // for persisting the outcome of an operation
	settleTries    = 3
	callerLease    = 8 * time.Second // while a caller waits: more than Patience and settlePatience
	leaseRest      = 4 * time.Second // at the end of a lease, in which no call is begun
)

// lease is until when no other replica takes over an operation, by a clock that runs while the
// machine is suspended.
type lease time.Duration

func leaseFor(d time.Duration) lease { return lease(clock.Now() + d) }

// left is how long the holder may work on it.
func (l lease) left() time.Duration { return time.Duration(l) - leaseRest - clock.Now() }

// over reports whether another replica may take it over soon.
func (l lease) over() bool { return l.left() <= 0 }

var errLeaseOver = &iam.Error{Kind: iam.Unavailable, Code: "busy", Detail: "the operation could not begin in time"}
