package pdp

import (
	"reflect"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Shared are objects that several questions have in common, such as the defaults of a batch: each is converted once for
// the policy. It knows them by identity, and is used by one goroutine. The objects must not change.
type Shared struct{ terms map[uintptr]*sharedTerm }

type sharedTerm struct {
	from map[string]any // so that no other one gets its address
	term *ast.Term
}

// Share returns the objects as shared ones.
func Share(objects ...map[string]any) *Shared {
	s := &Shared{terms: map[uintptr]*sharedTerm{}}
	for _, o := range objects {
		s.add(o)
	}
	return s
}

func (s *Shared) add(object map[string]any) {
	if object != nil {
		s.terms[reflect.ValueOf(object).Pointer()] = &sharedTerm{from: object}
	}
}

// term converts an object, unless it was converted already. s may be nil.
func (s *Shared) term(from map[string]any) (*ast.Term, error) {
	var known *sharedTerm
	if s != nil && from != nil {
		if known = s.terms[reflect.ValueOf(from).Pointer()]; known != nil && known.term != nil {
			return known.term, nil
		}
	}
	o := ast.NewObject()
	for k, v := range from {
		value, err := ast.InterfaceToValue(v)
		if err != nil {
			return nil, err
		}
		o.Insert(ast.StringTerm(k), ast.NewTerm(value))
	}
	t := ast.NewTerm(o)
	if known != nil {
		known.term = t
	}
	return t, nil
}
