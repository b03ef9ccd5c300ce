// Package problem is what all HTTP listeners share. It owns problem documents (RFC 9457) and the mapping of errors to them, the
// log line of a failed request, request ids, metrics of requests, and how a bearer token and the address of a caller are read.
//
// It knows no route, and nothing of authorization.
package problem

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"iam-service/internal/iam"
	"iam-service/internal/telemetry/tracing"
)

// Document is an RFC 9457 document.
type Document struct { //nolint:errname // it is a response first, and an error for huma only
	Type     string  `json:"type" doc:"/problems/ and the kind of failure"`
	Title    string  `json:"title"`
	Status   int     `json:"status"`
	Detail   string  `json:"detail,omitempty" doc:"what is wrong in this request"`
	Code     string  `json:"code,omitempty" doc:"a stable identifier for programs"`
	Instance string  `json:"instance,omitempty" doc:"/requests/ and the id of the request, or /decisions/ and that of the decision"`
	TraceID  string  `json:"trace_id,omitempty" doc:"id of the request's trace (W3C Trace Context), if it has one"`
	Errors   []Field `json:"errors,omitempty" doc:"every invalid field"`
}

// Field is one invalid input: a place in the body, or a parameter.
type Field struct {
	Pointer   *string `json:"pointer,omitempty" doc:"JSON Pointer (RFC 6901) into the body"`
	Parameter string  `json:"parameter,omitempty" doc:"name of a header, or of a path or query parameter"`
	Detail    string  `json:"detail"`
}

// fieldsOf separates pointers, which are empty or begin with /, from names of parameters.
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

// wire is the only mapping of a Kind to a status code.
var wire = map[iam.Kind]struct {
	status int
	title  string
}{
	iam.Internal:        {http.StatusInternalServerError, "Internal error"},
	iam.Unavailable:     {http.StatusServiceUnavailable, "Temporarily unavailable"},
	iam.Invalid:         {http.StatusUnprocessableEntity, "The request is not valid"},
	iam.Unauthenticated: {http.StatusUnauthorized, "Unauthenticated"},
	iam.Forbidden:       {http.StatusForbidden, "Forbidden"},
	iam.NotFound:        {http.StatusNotFound, "Not found"},
	iam.Conflict:        {http.StatusConflict, "The request conflicts with the current state"},

	iam.Malformed:            {http.StatusBadRequest, "The request is malformed"},
	iam.TooLarge:             {http.StatusRequestEntityTooLarge, "The request is too large"},
	iam.PreconditionFailed:   {http.StatusPreconditionFailed, "The precondition failed"},
	iam.PreconditionRequired: {http.StatusPreconditionRequired, "A precondition is required"},
	iam.TooManyRequests:      {http.StatusTooManyRequests, "Too many requests"},
}

// New returns the document of an error, without what callers must not see: an internal error has no detail. The context
// is that of the request.
func New(ctx context.Context, err error, id string) Document {
	kind := iam.KindOf(err)
	p := Of(kind)
	p.TraceID = tracing.Of(ctx).Trace
	if id != "" {
		p.Instance = "/requests/" + id
	}
	if e, ok := errors.AsType[*iam.Error](err); ok && kind != iam.Internal {
		p.Detail, p.Code, p.Errors = e.Detail, e.Code, fieldsOf(e.Fields)
	}
	return p
}

// RetryAfter is the Retry-After of every 503, on both listeners and in every protocol of gateways, in seconds.
const RetryAfter = "1"

// Write responds with p.
func Write(w http.ResponseWriter, p Document) {
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	if p.Status == http.StatusServiceUnavailable {
		h.Set("Retry-After", RetryAfter)
	}
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // fails only where the caller has disconnected
}

// Of is a document of a kind without any detail.
func Of(kind iam.Kind) Document {
	return Document{Type: "/problems/" + string(kind), Title: wire[kind].title, Status: wire[kind].status}
}

// KindOf is the kind with a status; Internal where there is none.
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
		h.Set("Retry-After", RetryAfter)
	}
	return h
}
