package iam

import (
	"errors"
	"fmt"
	"strings"
)

// Kind sorts failures by what the caller can do about them. Transports
// translate a Kind; nothing below a transport knows what a status code is.
type Kind string

// The kinds are part of the public API: add to the list, never rename.
const (
	Internal        Kind = "internal" // ours to fix; callers learn nothing more
	Unavailable     Kind = "unavailable"
	Invalid         Kind = "invalid"
	Unauthenticated Kind = "unauthenticated"
	Forbidden       Kind = "forbidden"
	NotFound        Kind = "not-found"
	Conflict        Kind = "conflict"

	Malformed            Kind = "malformed"             // not to be read at all: 400
	PreconditionFailed   Kind = "precondition-failed"   // the object changed meanwhile: read it again
	PreconditionRequired Kind = "precondition-required" // If-Match is missing
	TooManyRequests      Kind = "too-many-requests"
	TooLarge             Kind = "too-large"
)

// Error is a failure that is reported to the caller. Detail and Fields
// are safe to show; Cause is for the log and is never sent anywhere else.
type Error struct {
	Kind   Kind
	Code   string // a stable word for machines, such as "facts_timeout"; may be empty
	Detail string
	Fields []FieldError
	Cause  error
}

// FieldError points at one invalid input. Pointer is a JSON Pointer (RFC 6901).
type FieldError struct {
	Pointer string `json:"pointer"`
	Detail  string `json:"detail"`
}

func (e *Error) Error() string {
	s := e.Detail
	for _, f := range e.Fields {
		s += fmt.Sprintf("; %s: %s", f.Pointer, f.Detail)
	}
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Cause }

// Errorf reports a failure of the given kind. It returns the error interface
// so that no caller can trip over a typed nil.
func Errorf(k Kind, format string, args ...any) error {
	return &Error{Kind: k, Detail: fmt.Sprintf(format, args...)}
}

// InvalidFields returns one Invalid error for all fields; nil where there are none.
func InvalidFields(fields []FieldError) error {
	if len(fields) == 0 {
		return nil
	}
	return &Error{Kind: Invalid, Detail: "some fields are not valid", Fields: fields}
}

// KindOf is total: an unclassified error is Internal.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// CodeOf returns the code of the first of our errors in err's chain, or "".
func CodeOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ""
}

// Rebase puts another beginning before the pointers of an error that begin with
// from, for who passes on a part of what it was given.
func Rebase(err error, from, to string) error {
	e, ok := errors.AsType[*Error](err)
	if !ok || len(e.Fields) == 0 {
		return err
	}
	moved := *e
	moved.Fields = make([]FieldError, len(e.Fields))
	for i, f := range e.Fields {
		if rest, ok := strings.CutPrefix(f.Pointer, from); ok {
			f.Pointer = to + rest
		}
		moved.Fields[i] = f
	}
	return &moved
}
