// Package problem is what the listeners of gateways and of admins share: RFC 9457 documents and
// the one place where an error stops travelling, ids of requests, the bearer and the address of
// a caller. It does not know what a route is for.
package problem

import (
	"encoding/json"
	"errors"
	"net/http"

	"iam-service/internal/iam"
)

// Document is an RFC 9457 document.
type Document struct { //nolint:errname // RFC 9457 calls it a problem, and so do the answers
	Type     string  `json:"type" doc:"/problems/ and the kind of failure"`
	Title    string  `json:"title"`
	Status   int     `json:"status"`
	Detail   string  `json:"detail,omitempty" doc:"what is wrong this time"`
	Code     string  `json:"code,omitempty" doc:"a stable word for programs"`
	Instance string  `json:"instance,omitempty" doc:"/requests/ and the id of the request, or /decisions/ and that of the decision"`
	Errors   []Field `json:"errors,omitempty" doc:"every wrong field"`
}

// Field points at one wrong input: a place in the body, or a parameter.
type Field struct {
	Pointer   *string `json:"pointer,omitempty" doc:"JSON Pointer (RFC 6901) into the body"`
	Parameter string  `json:"parameter,omitempty" doc:"name of a header, or of a part of the path or query"`
	Detail    string  `json:"detail"`
}

// fieldsOf tells pointers, which are empty or begin with /, from parameters.
func fieldsOf(fields []iam.FieldError) []Field {
	var out []Field
	for _, f := range fields {
		p := Field{Detail: f.Detail}
		if f.Pointer == "" || f.Pointer[0] == '/' {
			p.Pointer = &f.Pointer
		} else {
			p.Parameter = f.Pointer
		}
		out = append(out, p)
	}
	return out
}

// wire is the only place where a Kind becomes a status code.
var wire = map[iam.Kind]struct {
	status int
	title  string
}{
	iam.Internal:        {http.StatusInternalServerError, "Something went wrong on our side"},
	iam.Unavailable:     {http.StatusServiceUnavailable, "The answer cannot be given now"},
	iam.Invalid:         {http.StatusUnprocessableEntity, "The request is not valid"},
	iam.Unauthenticated: {http.StatusUnauthorized, "The caller is not known"},
	iam.Forbidden:       {http.StatusForbidden, "The caller may not do this"},
	iam.NotFound:        {http.StatusNotFound, "There is no such thing"},
	iam.Conflict:        {http.StatusConflict, "The request contradicts the current state"},

	iam.Malformed:            {http.StatusBadRequest, "The request cannot be read"},
	iam.TooLarge:             {http.StatusRequestEntityTooLarge, "The request is too large"},
	iam.PreconditionFailed:   {http.StatusPreconditionFailed, "It is not what the caller believes"},
	iam.PreconditionRequired: {http.StatusPreconditionRequired, "A condition is needed"},
	iam.TooManyRequests:      {http.StatusTooManyRequests, "Too many requests"},
}

// New says as much about err as the outside may know.
func New(err error, id string) Document {
	kind := iam.KindOf(err)
	p := Of(kind)
	if id != "" {
		p.Instance = "/requests/" + id
	}
	if e, ok := errors.AsType[*iam.Error](err); ok && kind != iam.Internal {
		p.Detail, p.Code, p.Errors = e.Detail, e.Code, fieldsOf(e.Fields)
	}
	return p
}

// Write answers with p.
func Write(w http.ResponseWriter, p Document) {
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	if p.Status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "1")
	}
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client is gone; nothing left to tell
}

// Of is a document that says the kind and nothing else.
func Of(kind iam.Kind) Document {
	return Document{Type: "/problems/" + string(kind), Title: wire[kind].title, Status: wire[kind].status}
}

// KindOf is the kind whose status it is; Internal for any other.
func KindOf(status int) iam.Kind {
	for kind, w := range wire {
		if w.status == status {
			return kind
		}
	}
	return iam.Internal
}

// GetStatus implements huma.StatusError.
func (p *Document) GetStatus() int { return p.Status }

// Error implements error.
func (p *Document) Error() string { return p.Title }

// ContentType implements huma.ContentTypeFilter.
func (p *Document) ContentType(string) string { return "application/problem+json" }

// GetHeaders implements huma.HeadersError.
func (p *Document) GetHeaders() http.Header {
	h := http.Header{}
	if p.Status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "1")
	}
	return h
}
