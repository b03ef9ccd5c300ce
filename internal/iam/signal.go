package iam

import (
	"slices"
	"time"
)

// SignalEffect is what an event of a signal does to the user whom it is about.
type SignalEffect string

// The effects, the weakest first. Each but SignalUnblock and SignalNone also revokes the user's tokens.
const (
	SignalNone    SignalEffect = "none"
	SignalUnblock SignalEffect = "unblock" // only what signals of the same stream have blocked
	SignalRevoke  SignalEffect = "revoke"  // tokens issued before the event
	SignalBlock   SignalEffect = "block"
	SignalErase   SignalEffect = "erase"
)

// SignalEffects are all effects, the weakest first.
var SignalEffects = []SignalEffect{SignalNone, SignalUnblock, SignalRevoke, SignalBlock, SignalErase}

// Stronger reports whether e is a stronger effect than other.
func (e SignalEffect) Stronger(other SignalEffect) bool {
	return slices.Index(SignalEffects, e) > slices.Index(SignalEffects, other)
}

// Signal is a verified security event token (RFC 8417) of a stream (Shared Signals Framework 1.0).
type Signal struct {
	Stream   string // name of the stream
	ID       string // "jti"
	IssuedAt time.Time
	Event    SignalEvent

	Verification *StreamVerification // what it is instead of an event about a user; nil: it is not
	Update       *StreamUpdate       // likewise
}

// SignalEvent is what a signal says about a user.
type SignalEvent struct {
	Name   string // last part of the event type's URI, such as session-revoked; "unknown" for types that are not known
	Effect SignalEffect
	At     time.Time // "event_timestamp"; zero: the time of the signal
	By     string    // "initiating_entity": admin, user, policy, system; may be empty
	Final  bool      // no later signal lifts its block

	Subjects []SignalSubject // all of them name one person, who may be several users here; none: the event is about no user
	Narrowed bool            // the event is about a part of what the user is or does: a session, a device, a tenant
}

// SignalSubject identifies a user, by our id or as their issuer does.
type SignalSubject struct {
	User            string // our id; empty: by issuer and subject
	Issuer, Subject string
	Certain         bool // it is issuer and subject; otherwise it may be the id of something else, such as a session
}

// StreamVerification is the verification event of a stream (Shared Signals Framework 1.0, section 8.1.4.1).
type StreamVerification struct {
	State string // what the receiver has asked to be returned; may be empty
}

// StreamUpdate is the event that a transmitter has changed the status of a stream (section 8.1.5).
type StreamUpdate struct {
	Status, Reason string
}

// SignalOutcome is what a signal has led to. It is the label of a metric, so the set is closed.
type SignalOutcome string

// The outcomes.
const (
	OutcomeRevoked       SignalOutcome = "revoked"
	OutcomeBlocked       SignalOutcome = "blocked"
	OutcomeUnblocked     SignalOutcome = "unblocked"
	OutcomeErased        SignalOutcome = "erased"
	OutcomeUnchanged     SignalOutcome = "unchanged"      // it was so already, or a later event has superseded it
	OutcomeLastAdmin     SignalOutcome = "last_admin"     // the last platform administrator: tokens are revoked, and no more
	OutcomeUnknownUser   SignalOutcome = "unknown_user"   // the subject is no user here
	OutcomeNoUser        SignalOutcome = "no_user"        // the subject names no user in a way that is understood
	OutcomeIgnored       SignalOutcome = "ignored"        // the stream's configuration says so
	OutcomeUnknownEvent  SignalOutcome = "unknown_event"  // a type of event that is not known
	OutcomeDuplicate     SignalOutcome = "duplicate"      // its jti was received before
	OutcomeVerified      SignalOutcome = "verification"   // of the stream
	OutcomeStreamUpdated SignalOutcome = "stream_updated" // by the transmitter
)

// SignalOutcomes are all of them.
var SignalOutcomes = []SignalOutcome{
	OutcomeRevoked, OutcomeBlocked, OutcomeUnblocked, OutcomeErased, OutcomeUnchanged, OutcomeLastAdmin, OutcomeUnknownUser, OutcomeNoUser,
	OutcomeIgnored, OutcomeUnknownEvent, OutcomeDuplicate, OutcomeVerified, OutcomeStreamUpdated,
}

// SignalStream is what is known of a stream, over all replicas.
type SignalStream struct {
	Name       string
	AcceptedAt time.Time // of its last signal; zero: none was accepted
	VerifiedAt time.Time // of its last verification event
	State      string    // of that event
	Expected   string    // the state that the next verification event must have; empty: any
	Status     string    // as the transmitter says: enabled, paused, disabled; empty: it has not said
	Reason     string    // of the status
	StatusAt   time.Time
}
