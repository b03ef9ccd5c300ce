package policy

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"

	"iam-service/internal/iam"
	"iam-service/internal/policy/plan"
)

// Reason is the METADATA of a rule that fired.
type Reason struct {
	Code  string `json:"code"`
	Title string `json:"title"`
}

// Decision is the result of one evaluation.
type Decision struct {
	Allow     bool
	Status    int  // of a deny: 401 or 403
	Anonymous bool // the policy allows this without a subject
	Tenant    string
	Values    []string // parallel to Engine.Headers; "" where the policy sets none
	Reasons   []Reason
	TTL       time.Duration // of the cache entry; negative: valid until invalidated
	Took      time.Duration // evaluation time, without waiting for facts
}

// NewDecisionID names one evaluation: 128 random bits.
func NewDecisionID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// result returns the one value that an entrypoint evaluates to.
func result(rs rego.ResultSet) (*ast.Term, error) {
	if len(rs) != 1 || len(rs[0].Expressions) != 1 {
		return nil, errors.New("the decision is undefined")
	}
	term, ok := rs[0].Expressions[0].Value.(*ast.Term)
	if !ok {
		return nil, errors.New("the decision is not a term")
	}
	return term, nil
}

// resultObject returns the one object that an entrypoint evaluates to.
func resultObject(rs rego.ResultSet) (ast.Object, error) {
	term, err := result(rs)
	if err != nil {
		return nil, err
	}
	doc, ok := term.Value.(ast.Object)
	if !ok {
		return nil, errors.New("the decision is not an object")
	}
	return doc, nil
}

// Keys of a decision.
var (
	keyAllow     = ast.StringTerm("allow")
	keyStatus    = ast.StringTerm("status")
	keyAnonymous = ast.StringTerm("anonymous")
	keyTenant    = ast.StringTerm("tenant")
	keyHeaders   = ast.StringTerm("headers")
	keyReasons   = ast.StringTerm("reasons")
	keyCode      = ast.StringTerm("code")
	keyTitle     = ast.StringTerm("title")
	keyTTL       = ast.StringTerm("ttl")
)

// decisionOf is decision for the results of a query.
func (e *Engine) decisionOf(rs rego.ResultSet, r *Revision) (Decision, error) {
	t, err := result(rs)
	if err != nil {
		return Decision{}, policyError(r, "%w", err)
	}
	return e.decision(t, r)
}

// decision parses a decision, topdown's or a program's, strictly: any deviation from the
// agreed shape is an error.
func (e *Engine) decision(t *ast.Term, r *Revision) (Decision, error) {
	doc := t.Value
	if !plan.IsObject(doc) {
		return Decision{}, policyError(r, "the decision is not an object")
	}
	allow, ok := boolean(doc, keyAllow)
	if !ok {
		return Decision{}, policyError(r, "the decision has no boolean allow")
	}
	d := Decision{Allow: allow, Status: http.StatusForbidden, TTL: -1}
	if t := plan.Get(doc, keyStatus); t != nil {
		n, _ := t.Value.(ast.Number) // "" is rejected below
		switch n {
		case "401":
			d.Status = http.StatusUnauthorized
		case "403":
		default:
			return Decision{}, policyError(r, "status is neither 401 nor 403")
		}
	}
	if plan.Get(doc, keyAnonymous) != nil {
		if d.Anonymous, ok = boolean(doc, keyAnonymous); !ok {
			return Decision{}, policyError(r, "anonymous is not a boolean")
		}
	}
	if t := plan.Get(doc, keyTenant); t != nil {
		s, ok := t.Value.(ast.String)
		if !ok {
			return Decision{}, policyError(r, "tenant is not a string")
		}
		d.Tenant = string(s)
	}
	if t := plan.Get(doc, keyTTL); t != nil {
		var err error
		if d.TTL, err = ttl(t); err != nil {
			return Decision{}, policyError(r, "%w", err)
		}
	}
	var err error
	if d.Reasons, err = reasons(plan.Get(doc, keyReasons)); err != nil {
		return Decision{}, policyError(r, "%w", err)
	}
	if !d.Allow {
		return d, nil // a deny carries no headers
	}
	d.Values, err = e.values(plan.Get(doc, keyHeaders), r)
	return d, err
}

func ttl(t *ast.Term) (time.Duration, error) {
	n, _ := t.Value.(ast.Number) // "" is rejected below
	seconds, err := strconv.ParseFloat(string(n), 64)
	if err != nil || seconds < 0 {
		return 0, errors.New("ttl is not a number of seconds, 0 or more")
	}
	return time.Duration(min(seconds, 1e9) * float64(time.Second)), nil
}

func boolean(doc ast.Value, key *ast.Term) (value, ok bool) {
	t := plan.Get(doc, key)
	if t == nil {
		return false, false
	}
	b, ok := t.Value.(ast.Boolean)
	return bool(b), ok
}

func reasons(t *ast.Term) ([]Reason, error) {
	if t == nil {
		return nil, nil
	}
	var list []Reason
	err := each(t.Value, func(t *ast.Term) error {
		if !plan.IsObject(t.Value) {
			return errors.New("a reason is not an object")
		}
		var r Reason
		if c := plan.Get(t.Value, keyCode); c != nil {
			s, _ := c.Value.(ast.String) // another type: empty
			r.Code = string(s)
		}
		if c := plan.Get(t.Value, keyTitle); c != nil {
			s, _ := c.Value.(ast.String)
			r.Title = string(s)
		}
		list = append(list, r)
		return nil
	})
	return list, err
}

// each calls f for the members of an array or a set.
func each(v ast.Value, f func(*ast.Term) error) error {
	isList, err := plan.Each(v, f)
	if !isList {
		return errors.New("it is not a list")
	}
	return err
}

// values orders the headers of a decision as Engine.Headers.
func (e *Engine) values(t *ast.Term, r *Revision) ([]string, error) {
	values := make([]string, len(e.names))
	if t == nil {
		return values, nil
	}
	isObject, err := plan.EachField(t.Value, func(k, v *ast.Term) error {
		name, ok := k.Value.(ast.String)
		if !ok {
			return policyError(r, "headers has a key that is not a string")
		}
		i, declared := e.index[string(name)]
		if !declared {
			i, declared = e.index[http.CanonicalHeaderKey(string(name))]
		}
		switch {
		case !declared: // its name may come from a token
			return policyError(r, "%w", &HeaderError{string(name), "headers has one that is not in GATEWAY_HEADERS"})
		case !r.declares[i]:
			return policyError(r, "%w", &HeaderError{string(name), "header " + e.names[i] + " is not declared"})
		}
		if s, ok := v.Value.(ast.String); ok {
			values[i] = string(s)
			return checkHeaderValue(e.names[i], string(s))
		}
		var list []string
		err := each(v.Value, func(item *ast.Term) error {
			s, ok := item.Value.(ast.String)
			if !ok {
				return errors.New("an item is not a string")
			}
			if strings.Contains(string(s), ",") {
				return invalidHeaderValue(e.names[i], "an item contains a comma")
			}
			list = append(list, string(s))
			return nil
		})
		if err != nil {
			if _, known := errors.AsType[*iam.Error](err); known {
				return err
			}
			return policyError(r, "header %s: %w", e.names[i], err)
		}
		values[i] = strings.Join(list, ",")
		return checkHeaderValue(e.names[i], values[i])
	})
	if !isObject {
		return nil, policyError(r, "headers is not an object")
	}
	return values, err
}

// HeaderError is a header that a decision must not set. Its text leaves out the name, which
// may come from a token.
type HeaderError struct {
	Name string
	text string
}

func (e *HeaderError) Error() string { return e.text }

// checkHeaderValue rejects what is not printable ASCII: values are neither cut nor escaped.
func checkHeaderValue(name, value string) error {
	for i := range len(value) {
		if value[i] < 0x20 || value[i] > 0x7e {
			return invalidHeaderValue(name, "it contains characters outside of printable ASCII")
		}
	}
	return nil
}

func invalidHeaderValue(name, why string) error {
	return &iam.Error{Kind: iam.Forbidden, Code: "header_value", Detail: "a claim cannot be carried by a header",
		Cause: fmt.Errorf("%s: %s", name, why)}
}
