package enrich

import (
	"net/netip"

	"iam-service/internal/iam"
	"iam-service/internal/policy"
)

// RequestFacts is what is known of the client's request. A fact that no trusted source has
// named is empty.
type RequestFacts struct {
	Gateway   string
	Method    string // an upper-case token
	Scheme    string // lower case
	Host      string // lower case, without port and final dot
	Path      string // normalised
	RawPath   string // as it was received
	Ambiguous bool   // there is a path, and two programs could read it differently: Path and RawPath are empty
	ClientIP  netip.Addr
	Preflight bool // a CORS preflight
}

// Normalized returns the facts of a request that a person has written out, in the forms that a
// gateway's have. Path is as received. It fails with an Invalid error.
func (r RequestFacts) Normalized() (RequestFacts, error) {
	var wrong []iam.FieldError
	if r.Method != "" && !policy.ValidMethod(r.Method) {
		wrong = append(wrong, iam.FieldError{Pointer: "/request/method", Detail: "must be an upper-case token such as GET"})
	}
	scheme, host := r.Scheme, r.Host
	var ok bool
	if r.Scheme, ok = policy.NormalScheme(scheme); !ok && scheme != "" {
		wrong = append(wrong, iam.FieldError{Pointer: "/request/scheme", Detail: "must be a scheme such as https"})
	}
	if r.Host, ok = policy.NormalHost(host); !ok && host != "" {
		wrong = append(wrong, iam.FieldError{Pointer: "/request/host", Detail: "must be the name of a host or an address"})
	}
	if r.Path != "" {
		r.SetPath(r.Path)
	}
	return r, iam.InvalidFields(wrong)
}

// Lacks returns the facts that p reads and r does not have: p denies r.
func (r *RequestFacts) Lacks(p *policy.Revision) policy.FieldSet {
	var in policy.Input
	setFields(&in, p, r)
	return p.Missing(&in)
}

// SetPath takes the path as it was received, without its query.
func (r *RequestFacts) SetPath(raw string) {
	clean, ok := policy.NormalPath(raw)
	if !ok {
		r.Path, r.RawPath, r.Ambiguous = "", "", true
		return
	}
	r.Path, r.RawPath, r.Ambiguous = clean, raw, false
}
