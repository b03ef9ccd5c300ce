package signals

import (
	"maps"
	"path"
	"slices"

	"iam-service/internal/iam"
)

// Event types of the Shared Signals Framework 1.0, section 8.1.4.1 and 8.1.5.
const (
	typeVerification  = "https://schemas.openid.net/secevent/ssf/event-type/verification"
	typeStreamUpdated = "https://schemas.openid.net/secevent/ssf/event-type/stream-updated"

	caep = "https://schemas.openid.net/secevent/caep/event-type/" // CAEP 1.0, section 3
	risc = "https://schemas.openid.net/secevent/risc/event-type/" // RISC 1.0, section 2

	typeAccountPurged   = risc + "account-purged"
	typeSessionsRevoked = risc + "sessions-revoked" // deprecated in favour of CAEP's session-revoked, and still sent
)

// defaults are the event types about users that have an effect unless a stream's configuration says otherwise. Types
// that are not listed have none.
var defaults = map[string]iam.SignalEffect{
	caep + "session-revoked":       iam.SignalRevoke,
	caep + "token-claims-change":   iam.SignalRevoke,
	caep + "credential-change":     iam.SignalRevoke,
	risc + "account-disabled":      iam.SignalBlock,
	risc + "account-enabled":       iam.SignalUnblock,
	typeAccountPurged:              iam.SignalBlock,
	risc + "credential-compromise": iam.SignalRevoke,
	typeSessionsRevoked:            iam.SignalRevoke,
}

// RequestedEvents are the event types that a stream should deliver, sorted: those with an effect that are not deprecated.
func (s *Stream) RequestedEvents() []string {
	var all []string
	for uri, effect := range s.Effects {
		if effect != iam.SignalNone && uri != typeSessionsRevoked {
			all = append(all, uri)
		}
	}
	slices.Sort(all)
	return all
}

// nameOf is the last part of the URI of an event type.
func nameOf(uri string) string { return path.Base(uri) }

func knownNames() []string {
	var names []string
	for uri := range defaults {
		names = append(names, nameOf(uri))
	}
	slices.Sort(names)
	return names
}

// eventNames are the names of events that the audit can have: those that are known or configured.
func (s *Stream) eventName(uri string) string {
	if _, known := s.Effects[uri]; known {
		return nameOf(uri)
	}
	return "unknown"
}

// strongest returns the event type with the strongest effect, of alternative URIs of one event (SSF 1.0, section
// 4.2.1), and whether one of them is known.
func (s *Stream) strongest(events map[string]any) (uri string, known bool) {
	for _, candidate := range slices.Sorted(maps.Keys(events)) {
		effect, there := s.Effects[candidate]
		if there && (!known || effect.Stronger(s.Effects[uri])) {
			uri, known = candidate, true
		}
	}
	return uri, known
}
