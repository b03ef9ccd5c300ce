package scim

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"iam-service/internal/iam"
	"iam-service/internal/problem"
)

// Types of errors (RFC 7644, table 9; RFC 9865, section 2.1). They are the codes of errors of this package.
const (
	invalidFilter = "invalidFilter"
	uniqueness    = "uniqueness"
	mutability    = "mutability"
	invalidSyntax = "invalidSyntax"
	invalidPath   = "invalidPath"
	noTarget      = "noTarget"
	invalidValue  = "invalidValue"
	invalidCursor = "invalidCursor"

	unsupportedMedia = "unsupportedMedia" // not of SCIM: 415
)

// scimTypes are the types of errors of package admin, by code.
var scimTypes = map[string]string{
	"already_member": uniqueness,
	"not_unique":     uniqueness,
	"immutable":      mutability,
	"invalid_filter": invalidFilter,
}

func malformed(scimType, detail string) error {
	return &iam.Error{Kind: iam.Malformed, Code: scimType, Detail: detail}
}

// errorBody is an error (RFC 7644, section 3.12).
type errorBody struct {
	Schemas  []string `json:"schemas"`
	Status   string   `json:"status"`
	ScimType string   `json:"scimType,omitempty"`
	Detail   string   `json:"detail,omitempty"`
}

// fail responds with an error. What is internal is logged, and not shown.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	p := problem.New(r.Context(), err, problem.RequestID(r))
	if s.Rejected != nil {
		s.Rejected(r.Context(), err, problem.RequestID(r))
	}
	code := iam.CodeOf(err)
	scimType := scimTypes[code]
	switch {
	case code == unsupportedMedia:
		p.Status = http.StatusUnsupportedMediaType
	case p.Status == http.StatusUnprocessableEntity: // SCIM knows 400 alone
		p.Status, scimType = http.StatusBadRequest, invalidValue
	case p.Status == http.StatusBadRequest && scimType == "":
		scimType = code
		if code == "malformed_request" {
			scimType = invalidSyntax
		}
	}
	s.Failures.Report(w, r, p, err)
	if p.Status == http.StatusServiceUnavailable || p.Status == http.StatusTooManyRequests && w.Header().Get("Retry-After") == "" {
		w.Header().Set("Retry-After", problem.RetryAfter)
	}
	writeError(w, p.Status, scimType, detailOf(p, code))
}

func detailOf(p problem.Document, code string) string {
	if code == "last_tenant_admin" { // the detail for administrators names a parameter that SCIM does not have
		return "this leaves the tenant without an administrator: assign another one first"
	}
	if p.Detail == "" {
		return p.Title
	}
	parts := []string{p.Detail}
	for _, f := range p.Errors {
		name := f.Parameter
		if f.Pointer != nil {
			name = strings.TrimPrefix(*f.Pointer, "/")
		}
		parts = append(parts, strings.TrimPrefix(name+" "+f.Detail, " "))
	}
	return strings.Join(parts, "; ")
}

func writeError(w http.ResponseWriter, status int, scimType, detail string) {
	body := errorBody{
		Schemas:  []string{"urn:ietf:params:scim:api:messages:2.0:Error"},
		Status:   strconv.Itoa(status),
		ScimType: scimType,
		Detail:   detail,
	}
	w.Header().Set("Content-Type", media)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // fails only where the caller has disconnected
}
