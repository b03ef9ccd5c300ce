package signals

import (
	"slices"

	"iam-service/internal/iam"
)

// narrowing are the members of a complex subject (SSF 1.0, section 3.3) that say which part of a user's accesses an event
// is about. A member that is not known is taken for such a one.
const memberUser = "user"

// identify reads the subject of an event (RFC 9493; complex: SSF 1.0, section 3.3). What names no user in a way that
// is understood leaves the event without a subject. It rejects a user of an issuer that the stream does not reach.
func (s *Stream) identify(e *iam.SignalEvent, subject any) *RejectionError {
	object, ok := subject.(map[string]any)
	if !ok {
		return reject(ReasonForm, CodeInvalidRequest, "sub_id must be a subject identifier (RFC 9493)")
	}
	if formatOf(object) == "complex" || formatOf(object) == "" && object[memberUser] != nil {
		for member := range object {
			e.Narrowed = e.Narrowed || member != memberUser && member != "format"
		}
		user, there := object[memberUser].(map[string]any)
		if !there {
			return nil // of a device, a group or a tenant
		}
		object = user
	}
	candidates := []any{object}
	if formatOf(object) == "aliases" {
		candidates, ok = object["identifiers"].([]any)
		if !ok || len(candidates) == 0 || len(candidates) > maxAliases {
			return reject(ReasonForm, CodeInvalidRequest, "aliases must have 1 to %d identifiers (RFC 9493, section 3.2.8)", maxAliases)
		}
	}
	for _, c := range candidates {
		one, ok := c.(map[string]any)
		if !ok || formatOf(one) == "" {
			return reject(ReasonForm, CodeInvalidRequest, "a subject identifier must be an object with a format (RFC 9493)")
		}
		if rejection := s.simple(e, one); rejection != nil {
			return rejection
		}
	}
	return nil
}

// formatOf is the format of a subject identifier. Google's RISC transmitter calls it subject_type, with dashes (RISC
// 1.0, section 3.1).
func formatOf(subject map[string]any) string {
	if format, ok := subject["format"].(string); ok {
		return format
	}
	switch old, _ := subject["subject_type"].(string); old {
	case "iss-sub":
		return "iss_sub"
	default:
		return old
	}
}

// simple reads one subject identifier. Of formats that name nothing we store (email, phone_number, account, did, uri, and
// those of tokens) no user is known.
func (s *Stream) simple(e *iam.SignalEvent, subject map[string]any) *RejectionError {
	text := func(name string) string {
		t, _ := subject[name].(string) // another type is as good as none
		return t
	}
	for _, name := range []string{"iss", "sub", "id"} {
		if rejection := printable(name+" of the subject", text(name)); rejection != nil {
			return rejection
		}
	}
	switch formatOf(subject) {
	case "iss_sub": // section 3.2.4
		issuer, name := text("iss"), text("sub")
		switch {
		case issuer == "" || name == "":
			return reject(ReasonForm, CodeInvalidRequest, "iss_sub must have iss and sub")
		case !slices.Contains(s.Users, issuer):
			return reject(ReasonSubject, CodeAccessDenied, "the subject is of an issuer whose users this stream does not reach")
		case iam.ValidSubject(name):
			e.Subjects = append(e.Subjects, iam.SignalSubject{Issuer: issuer, Subject: name, Certain: true})
		}
	case "opaque": // section 3.2.6
		id := text("id")
		switch {
		case id == "":
			return reject(ReasonForm, CodeInvalidRequest, "opaque must have id")
		case s.Opaque == OpaqueSubject && iam.ValidSubject(id):
			e.Subjects = append(e.Subjects, iam.SignalSubject{Issuer: s.Users[0], Subject: id})
		case s.Opaque == OpaqueUser:
			e.Subjects = append(e.Subjects, iam.SignalSubject{User: id})
		}
	}
	return nil
}
