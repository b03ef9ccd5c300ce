package signals

import (
	"encoding/json"
	"slices"
	"strings"
	"time"
	"unicode"

	"iam-service/internal/iam"
)

// Limits of a SET.
const (
	skew         = 5 * time.Second // how far iat may lie ahead of our clock
	maxEvents    = 8
	maxAliases   = 8
	maxIDBytes   = 1024
	maxTextBytes = 200 // of a text that is stored: reasons and states
)

// read checks the claims of a SET (RFC 8417, section 2.2, with the profile of SSF 1.0, section 4.1), and returns what it says.
func (s *Stream) read(claims map[string]any, now time.Time) (iam.Signal, *RejectionError) {
	none := iam.Signal{}
	for _, forbidden := range []string{"exp", "sub"} {
		if _, there := claims[forbidden]; there {
			return none, reject(ReasonForm, CodeInvalidRequest, "%s must be absent (SSF 1.0, section 4.1)", forbidden)
		}
	}
	if !s.isFor(claims["aud"]) {
		return none, reject(ReasonAudience, CodeInvalidAudience, "aud does not name this receiver")
	}
	signal := iam.Signal{Stream: s.Name}
	var ok bool
	if signal.ID, ok = claims["jti"].(string); !ok || signal.ID == "" || len(signal.ID) > maxIDBytes {
		return none, reject(ReasonForm, CodeInvalidRequest, "jti must be a text of 1 to %d bytes", maxIDBytes)
	}
	if rejection := printable("jti", signal.ID); rejection != nil {
		return none, rejection
	}
	if signal.IssuedAt, ok = timeOf(claims["iat"]); !ok {
		return none, reject(ReasonForm, CodeInvalidRequest, "iat must be a number of seconds")
	}
	switch age := now.Sub(signal.IssuedAt); {
	case age < -skew:
		return none, reject(ReasonTime, CodeInvalidRequest, "iat is in the future: compare the clocks")
	case age > s.MaxAge:
		return none, reject(ReasonTime, CodeInvalidRequest, "iat is older than %s, which this receiver accepts", s.MaxAge)
	}
	events, ok := claims["events"].(map[string]any)
	if !ok || len(events) == 0 || len(events) > maxEvents {
		return none, reject(ReasonForm, CodeInvalidRequest, "events must be an object of 1 to %d events", maxEvents)
	}
	return s.readEvents(signal, claims, events)
}

func (s *Stream) readEvents(signal iam.Signal, claims, events map[string]any) (iam.Signal, *RejectionError) {
	for uri, payload := range events {
		body, ok := payload.(map[string]any)
		if !ok {
			return signal, reject(ReasonForm, CodeInvalidRequest, "an event must be an object")
		}
		if uri != typeVerification && uri != typeStreamUpdated {
			continue
		}
		if len(events) > 1 {
			return signal, reject(ReasonForm, CodeInvalidRequest, "an event about the stream must be the only one")
		}
		return s.readStreamEvent(signal, uri, streamEvent{body, claims["sub_id"]})
	}
	uri, known := s.strongest(events)
	if !known {
		signal.Event = iam.SignalEvent{Name: "unknown", Effect: iam.SignalNone}
		return signal, nil
	}
	body, _ := events[uri].(map[string]any) // checked above
	e := iam.SignalEvent{Name: s.eventName(uri), Effect: s.Effects[uri], Final: uri == typeAccountPurged}
	if at, there := body["event_timestamp"]; there {
		var ok bool
		if e.At, ok = timeOf(at); !ok {
			return signal, reject(ReasonForm, CodeInvalidRequest, "event_timestamp must be a number of seconds")
		}
	}
	if by, _ := body["initiating_entity"].(string); slices.Contains([]string{"admin", "user", "policy", "system"}, by) {
		e.By = by
	}
	subject, there := claims["sub_id"]
	if !there {
		subject = body["subject"] // CAEP and RISC before SSF 1.0
	}
	rejection := s.identify(&e, subject)
	signal.Event = e
	return signal, rejection
}

// streamEvent is an event about a stream.
type streamEvent struct {
	body    map[string]any
	subject any
}

// readStreamEvent reads the verification event or the stream-updated event. Their subject is the stream.
func (s *Stream) readStreamEvent(signal iam.Signal, uri string, e streamEvent) (iam.Signal, *RejectionError) {
	subject, _ := e.subject.(map[string]any)
	id, _ := subject["id"].(string)
	if rejection := printable("id of sub_id", id); rejection != nil {
		return signal, rejection
	}
	if subject != nil && s.StreamID != "" && id != s.StreamID {
		return signal, reject(ReasonSubject, CodeInvalidRequest, "sub_id is not the stream_id of this stream")
	}
	texts := map[string]string{}
	for _, name := range []string{"state", "status", "reason"} {
		text, ok := e.body[name].(string)
		if _, there := e.body[name]; there && !ok || len(text) > maxStateBytes {
			return signal, reject(ReasonForm, CodeInvalidRequest, "%s must be a text of at most %d bytes", name, maxStateBytes)
		}
		if rejection := printable(name, text); rejection != nil {
			return signal, rejection
		}
		texts[name] = text
	}
	if uri == typeVerification {
		signal.Event.Name = nameOf(uri)
		signal.Verification = &iam.StreamVerification{State: texts["state"]}
		return signal, nil
	}
	if !slices.Contains([]string{"enabled", "paused", "disabled"}, texts["status"]) {
		return signal, reject(ReasonForm, CodeInvalidRequest, "status must be enabled, paused or disabled")
	}
	signal.Event.Name = nameOf(uri)
	signal.Update = &iam.StreamUpdate{Status: texts["status"], Reason: cut(texts["reason"])}
	return signal, nil
}

// printable rejects a text with control characters: none belongs in an id, PostgreSQL stores no NUL, and a line of a
// report or a log stays one line.
func printable(name, text string) *RejectionError {
	if strings.ContainsFunc(text, unicode.IsControl) {
		return reject(ReasonForm, CodeInvalidRequest, "%s must have no control characters", name)
	}
	return nil
}

// cut shortens a text to what is stored.
func cut(s string) string {
	for i := range s {
		if i > maxTextBytes {
			return s[:i]
		}
	}
	return s
}

func (s *Stream) isFor(aud any) bool {
	switch aud := aud.(type) {
	case string:
		return slices.Contains(s.Audiences, aud)
	case []any:
		return slices.ContainsFunc(aud, func(a any) bool {
			text, ok := a.(string)
			return ok && slices.Contains(s.Audiences, text)
		})
	}
	return false
}

// timeOf reads a NumericDate (RFC 7519, section 2). Milliseconds, which some transmitters send, are a time in the far
// future, which is limited to now where it is used.
func timeOf(v any) (time.Time, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return time.Time{}, false
	}
	seconds, err := n.Float64()
	if err != nil || seconds < 0 || seconds > 1<<45 {
		return time.Time{}, false
	}
	return time.UnixMilli(int64(seconds * 1000)).UTC(), true
}
