package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"iam-service/internal/token/projection"
)

// Field is one string of input.request.
type Field int

// The fields of input.request, except anonymous.
const (
	Gateway Field = iota
	Method
	Scheme
	Host
	Path    // normalised
	RawPath // as it was received
	ClientIP
	TenantHint
	NumFields
)

var fieldTerms = [NumFields]*ast.Term{
	ast.StringTerm("gateway"), ast.StringTerm("method"), ast.StringTerm("scheme"), ast.StringTerm("host"),
	ast.StringTerm("path"), ast.StringTerm("raw_path"), ast.StringTerm("client_ip"), ast.StringTerm("tenant_hint"),
}

// FieldSet is a set of fields: the bit of each.
type FieldSet uint16

// requestFacts are the fields that describe the client's request. A gateway must send them
// where a policy reads them; the others are always known, or optional.
const requestFacts FieldSet = 1<<Method | 1<<Scheme | 1<<Host | 1<<Path | 1<<RawPath | 1<<ClientIP

// CodeFactsMissing is the code of a deny where the policy reads request facts that the gateway
// did not send.
const CodeFactsMissing = "request_facts_missing"

// CodeOtherTenant is the code of a deny where a tenant's client is used in another tenant.
const CodeOtherTenant = "client_of_another_tenant"

// Has reports whether f is in the set.
func (s FieldSet) Has(f Field) bool { return s&(1<<f) != 0 }

// String names the fields as a policy does: input.request.method, input.request.path.
func (s FieldSet) String() string { return strings.Join(s.paths(), ", ") }

func (s FieldSet) paths() []string {
	paths := []string{}
	for f := range NumFields {
		if s.Has(f) {
			paths = append(paths, "input.request."+f.String())
		}
	}
	slices.Sort(paths)
	return paths
}

// Input is the policy input of one evaluation.
type Input struct {
	Token     *Token            // nil: no token; then there is no tenant hint either
	Fields    [NumFields]string // "" is absent
	Anonymous bool              // the policy declares the request anonymous
	Now       time.Time
}

// Token is what one revision sees of a verified token.
type Token = projection.Token

// view is the part of the input that a revision can see: what its entrypoint refers
// to, by OPA's package dependencies. The evaluated input and the cache key are both
// reduced to it, so that no decision can depend on anything that its key lacks.
type view struct {
	allClaims bool
	claims    []string // sorted
	fields    []Field
	facts     FieldSet // the fields that gateways must send
	anonymous bool
	settings  bool
	now       bool
}

// Sees reports whether a decision can depend on f.
func (r *Revision) Sees(f Field) bool { return slices.Contains(r.view.fields, f) }

// Missing are the request facts that a decision of r can depend on and q lacks. A denying rule
// that reads an undefined fact would not fire.
func (r *Revision) Missing(q *Input) (missing FieldSet) {
	if r.view.facts == 0 {
		return 0
	}
	for f := range NumFields {
		if r.view.facts.Has(f) && q.Fields[f] == "" {
			missing |= 1 << f
		}
	}
	return missing
}

// see adds a reference below input.
func (v *view) see(ref ast.Ref) {
	first, second := "", ""
	if len(ref) > 1 {
		s, _ := ref[1].Value.(ast.String) // a variable: "", which is everything
		first = string(s)
	}
	if len(ref) > 2 {
		s, _ := ref[2].Value.(ast.String) // as above
		second = string(s)
	}
	switch first {
	case "":
		v.allClaims, v.settings, v.now = true, true, true
		v.request("")
	case "token":
		if second == "" {
			v.allClaims = true
		} else if !slices.Contains(v.claims, second) {
			v.claims = append(v.claims, second)
			slices.Sort(v.claims)
		}
	case "request":
		v.request(second)
	case "settings":
		v.settings = true
	case "now":
		v.now = true
	}
}

// request adds a field of input.request; all for "".
func (v *view) request(name string) {
	if name == "" || name == "anonymous" {
		v.anonymous = true
	}
	for f, t := range fieldTerms {
		if (name == "" || t.Value.Compare(ast.String(name)) == 0) && !slices.Contains(v.fields, Field(f)) {
			v.fields = append(v.fields, Field(f))
			slices.Sort(v.fields)
			v.facts |= 1 << f & requestFacts
		}
	}
}

// paths are the parts of the cache key, sorted.
func (v *view) paths() []string {
	paths := []string{}
	if v.anonymous {
		paths = append(paths, "input.request.anonymous")
	}
	for _, f := range v.fields {
		paths = append(paths, "input.request."+f.String())
	}
	if v.allClaims {
		paths = append(paths, "input.token")
	} else {
		for _, c := range v.claims {
			paths = append(paths, ast.Ref{ast.InputRootDocument, termToken, ast.StringTerm(c)}.String())
		}
	}
	slices.Sort(paths)
	return paths
}

// String is the field's name in input.request.
func (f Field) String() string {
	s, _ := fieldTerms[f].Value.(ast.String) // all are
	return string(s)
}

// warnings describe what makes cache hits rare.
func (r *Revision) warnings() []string {
	var w []string
	if r.view.allClaims {
		w = append(w, "it reads input.token as a whole, jti and exp included: no two tokens share a cached decision; name the claims (input.token.sub)")
	}
	for _, f := range r.view.fields {
		switch f {
		case Path, RawPath, ClientIP, Host, Method:
			w = append(w, fmt.Sprintf("it reads input.request.%s: each value needs its own cache entry", f.String()))
		default: // few values, or as many as there are tenants
		}
	}
	if r.view.now {
		w = append(w, "it reads input.now: a decision is cached for a second at most; documents expire by themselves when a membership expires")
	}
	for _, b := range r.Nondeterministic {
		w = append(w, "it calls "+b+", whose result can differ each time: a decision is cached for a second at most")
	}
	return w
}

// Constant terms of the input.
var (
	termToken    = ast.StringTerm("token")
	termRequest  = ast.StringTerm("request")
	termNow      = ast.StringTerm("now")
	termSettings = ast.StringTerm("settings")
	termAnon     = ast.StringTerm("anonymous")
	termTrue     = ast.BooleanTerm(true)
	termFalse    = ast.BooleanTerm(false)
)

// Token returns the part of a token that r sees. It should be called once for each token
// and revision.
func (r *Revision) Token(issuer, subject, clientID string, claims ast.Value) *Token {
	t := &Token{Revision: r.number, Claims: ast.NewTerm(claims)}
	if all, ok := claims.(ast.Object); ok && !r.view.allClaims {
		seen := ast.NewObjectWithCapacity(len(r.view.claims))
		for _, c := range r.view.claims {
			k := ast.InternedTerm(c)
			if v := all.Get(k); v != nil {
				seen.Insert(k, v)
			}
		}
		t.Claims = ast.NewTerm(seen)
	}
	// Go's own checks depend on these: they are part of the key.
	b := appendString(nil, issuer)
	b = appendString(b, subject)
	b = appendString(b, clientID)
	t.Key = sha256.Sum256(appendValue(b, t.Claims.Value))
	return t
}

// Key is the cache key of an input for r: inputs with one key have one decision while the
// facts are the same.
func (r *Revision) Key(q *Input) [sha256.Size]byte {
	var room [512]byte
	b := room[:0]
	if q.Token == nil {
		b = append(b, 0)
	} else {
		b = append(append(b, 1), q.Token.Key[:]...)
	}
	if q.Anonymous { // Go's own checks depend on it
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	for _, f := range r.view.fields {
		b = appendString(b, q.Fields[f])
	}
	return sha256.Sum256(b)
}

// appendString writes the length first, so that the encoding of a list of strings is unique.
func appendString(b []byte, s string) []byte {
	return append(appendLength(b, len(s)), s...)
}

func appendLength(b []byte, n int) []byte {
	return binary.AppendUvarint(b, uint64(n)) //nolint:gosec // no length is negative
}

// appendValue writes type, length and content: "1", 1, [1], {1}, null, "" and an absent
// value are all different.
func appendValue(b []byte, v ast.Value) []byte {
	switch v := v.(type) {
	case ast.Null:
		return append(b, 'n')
	case ast.Boolean:
		if v {
			return append(b, 't')
		}
		return append(b, 'f')
	case ast.Number:
		return appendString(append(b, '#'), string(v))
	case ast.String:
		return appendString(append(b, '"'), string(v))
	case *ast.Array:
		b = appendLength(append(b, '['), v.Len())
		v.Foreach(func(t *ast.Term) { b = appendValue(b, t.Value) })
		return b
	case ast.Object:
		b = appendLength(append(b, '{'), v.Len())
		v.Foreach(func(k, t *ast.Term) { b = appendValue(appendValue(b, k.Value), t.Value) }) // sorted
		return b
	case ast.Set:
		b = appendLength(append(b, '<'), v.Len())
		v.Foreach(func(t *ast.Term) { b = appendValue(b, t.Value) }) // sorted
		return b
	}
	return appendString(append(b, '?'), v.String())
}

// input is the part of q that r sees. Unknown fields are absent, never "".
func (r *Revision) input(q *Input, settings *ast.Term) ast.Value {
	in := ast.NewObjectWithCapacity(4)
	if q.Token != nil {
		in.Insert(termToken, q.Token.Claims)
	}
	request := ast.NewObjectWithCapacity(len(r.view.fields) + 1)
	for _, f := range r.view.fields {
		if q.Fields[f] != "" {
			request.Insert(fieldTerms[f], ast.InternedTerm(q.Fields[f]))
		}
	}
	if r.view.anonymous {
		if q.Anonymous {
			request.Insert(termAnon, termTrue)
		} else {
			request.Insert(termAnon, termFalse)
		}
	}
	in.Insert(termRequest, ast.NewTerm(request))
	if r.view.now {
		in.Insert(termNow, ast.NewTerm(ast.Number(strconv.FormatInt(q.Now.Unix(), 10))))
	}
	if r.view.settings {
		in.Insert(termSettings, settings)
	}
	return in
}
