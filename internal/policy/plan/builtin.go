package plan

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	topdowncache "github.com/open-policy-agent/opa/v1/topdown/builtins"
)

// direct are the builtins that run on the program's own collections. Each returns errGeneral
// where OPA's own implementation must decide: for operands of other types, above all.
var direct = map[string]func(*machine, []*ast.Term) (*ast.Term, error){
	"equal":             comparison(func(a, b *ast.Term) bool { return equal(a, b) }),
	"neq":               comparison(func(a, b *ast.Term) bool { return !equal(a, b) }),
	"lt":                comparison(func(a, b *ast.Term) bool { return compare(a, b) < 0 }),
	"lte":               comparison(func(a, b *ast.Term) bool { return compare(a, b) <= 0 }),
	"gt":                comparison(func(a, b *ast.Term) bool { return compare(a, b) > 0 }),
	"gte":               comparison(func(a, b *ast.Term) bool { return compare(a, b) >= 0 }),
	"count":             count,
	"internal.member_2": member,
	"object.get":        objectGet,
	"object.filter":     objectFilter,
	"object.union":      objectUnion,
	"or":                union,
	"split":             split,
	"startswith":        texts(strings.HasPrefix),
	"endswith":          texts(strings.HasSuffix),
	"contains":          texts(strings.Contains),
	"is_string":         isType(func(v ast.Value) bool { _, ok := v.(ast.String); return ok }),
	"is_number":         isType(func(v ast.Value) bool { _, ok := v.(ast.Number); return ok }),
	"is_boolean":        isType(func(v ast.Value) bool { _, ok := v.(ast.Boolean); return ok }),
	"is_object":         isType(IsObject),
	"is_array": isType(func(v ast.Value) bool {
		switch v.(type) {
		case *array, *ast.Array:
			return true
		}
		return false
	}),
	"is_set": isType(func(v ast.Value) bool {
		switch v.(type) {
		case *set, ast.Set:
			return true
		}
		return false
	}),
}

// errGeneral asks for OPA's own implementation.
var errGeneral = fmt.Errorf("%w: general", errLeft)

// builtin calls a builtin. Its result is nil where it is undefined, and for a void one a value
// that is not looked at.
func (m *machine) builtin(c *call, regs []*ast.Term) (*ast.Term, error) {
	m.args = m.args[:0]
	for _, x := range c.args {
		t := m.p.operand(x, regs)
		if t == nil {
			return nil, errLeft
		}
		if _, ok := t.Value.(poison); ok {
			return nil, errLeft
		}
		m.args = append(m.args, t)
	}
	if c.direct != nil {
		steps := 1
		for _, t := range m.args {
			steps += size(t)
		}
		if err := m.pollAfter(steps); err != nil {
			return nil, err
		}
		v, err := c.direct(m, m.args)
		if err != errGeneral { //nolint:errorlint // it is never wrapped
			return v, err
		}
	}
	// Before each call: one that doubles a text costs as much as all calls before it.
	if err := m.cancelled(); err != nil {
		return nil, err
	}
	args := make([]*ast.Term, len(m.args)) // OPA may retain them
	for i, t := range m.args {
		args[i] = pure(t)
	}
	var result *ast.Term
	n := 0
	err := c.builtin(*m.context(), args, func(t *ast.Term) error {
		result = t
		n++
		return nil
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %s fails", errLeft, c.name)
	case n > 1:
		return nil, fmt.Errorf("%w: %s has %d results", errLeft, c.name, n)
	case c.void && n == 1:
		return ast.InternedTerm(true), nil
	}
	return result, nil
}

// size is how many steps a builtin may take for an operand, roughly.
func size(t *ast.Term) int {
	if s, ok := t.Value.(ast.String); ok {
		return len(s) / 16
	}
	return max(0, length(t))
}

func (m *machine) context() *topdown.BuiltinContext {
	if m.bctx == nil {
		m.bctx = &topdown.BuiltinContext{
			Context: m.env.Context, Cancel: m.env.Cancel, Capabilities: m.p.caps,
			Time:     ast.NewTerm(ast.Number(strconv.FormatInt(m.env.Now.UnixNano(), 10))),
			Cache:    topdowncache.Cache{},
			Location: &ast.Location{},
		}
	}
	return m.bctx
}

func comparison(holds func(a, b *ast.Term) bool) func(*machine, []*ast.Term) (*ast.Term, error) {
	return func(_ *machine, args []*ast.Term) (*ast.Term, error) {
		return ast.InternedTerm(holds(args[0], args[1])), nil
	}
}

func isType(is func(ast.Value) bool) func(*machine, []*ast.Term) (*ast.Term, error) {
	return func(_ *machine, args []*ast.Term) (*ast.Term, error) {
		return ast.InternedTerm(is(args[0].Value)), nil
	}
}

func texts(holds func(a, b string) bool) func(*machine, []*ast.Term) (*ast.Term, error) {
	return func(_ *machine, args []*ast.Term) (*ast.Term, error) {
		a, ok1 := args[0].Value.(ast.String)
		b, ok2 := args[1].Value.(ast.String)
		if !ok1 || !ok2 {
			return nil, errGeneral
		}
		return ast.InternedTerm(holds(string(a), string(b))), nil
	}
}

func count(_ *machine, args []*ast.Term) (*ast.Term, error) {
	if n := length(args[0]); n >= 0 {
		return ast.InternedTerm(n), nil
	}
	return nil, errGeneral
}

// member is "x in xs": of the values of an array or an object, or the elements of a set.
func member(_ *machine, args []*ast.Term) (*ast.Term, error) {
	x := args[0]
	found := false
	switch c := args[1].Value.(type) {
	case *set:
		found = c.contains(x)
	case ast.Set:
		found = c.Contains(pure(x))
	case *array:
		found = anyEqual(c.elems, x)
	case *ast.Array:
		for i := range c.Len() {
			if equal(c.Elem(i), x) {
				found = true
				break
			}
		}
	case *object:
		if c.large != nil {
			return nil, errGeneral
		}
		found = anyEqual(c.vals, x)
	default:
		return nil, errGeneral
	}
	return ast.InternedTerm(found), nil
}

func anyEqual(list []*ast.Term, x *ast.Term) bool {
	for _, e := range list {
		if equal(e, x) {
			return true
		}
	}
	return false
}

func objectGet(_ *machine, args []*ast.Term) (*ast.Term, error) {
	switch args[1].Value.(type) {
	case *array, *ast.Array: // a path
		return nil, errGeneral
	}
	if !IsObject(args[0].Value) {
		return nil, errGeneral
	}
	if v := find(args[0], args[1]); v != nil {
		return v, nil
	}
	return args[2], nil
}

// objectFilter returns the entries of an object whose keys are in a list, a set or another object.
func objectFilter(m *machine, args []*ast.Term) (*ast.Term, error) {
	if !IsObject(args[0].Value) {
		return nil, errGeneral
	}
	o := m.newObject()
	keep := func(k, _ *ast.Term) error {
		if _, ok := k.Value.(ast.String); !ok {
			return errGeneral // of equal keys, such as 1 and 1.0, OPA returns the object's
		}
		if v := find(args[0], k); v != nil {
			o.insert(k, v)
		}
		return nil
	}
	isList, err := Each(args[1].Value, func(k *ast.Term) error { return keep(k, nil) })
	if !isList {
		var isObject bool
		if isObject, err = EachField(args[1].Value, keep); !isObject {
			return nil, errGeneral
		}
	}
	if err != nil {
		return nil, err
	}
	return &o.term, nil
}

// objectUnion merges two objects; where both have objects under one key, OPA merges these too.
func objectUnion(m *machine, args []*ast.Term) (*ast.Term, error) {
	a, b := args[0].Value, args[1].Value
	if !IsObject(a) || !IsObject(b) {
		return nil, errGeneral
	}
	if length(args[1]) == 0 {
		return args[0], nil
	}
	if length(args[0]) == 0 {
		return args[1], nil
	}
	o := m.newObject()
	insert := func(k, v *ast.Term) error {
		if _, ok := k.Value.(ast.String); !ok || IsObject(v.Value) && o.get(k) != nil {
			return errGeneral // equal keys that differ, such as 1 and 1.0, and nested objects
		}
		o.insert(k, v)
		return nil
	}
	if _, err := EachField(a, insert); err != nil {
		return nil, err
	}
	if _, err := EachField(b, insert); err != nil {
		return nil, err
	}
	return &o.term, nil
}

// union is a | b.
func union(m *machine, args []*ast.Term) (*ast.Term, error) {
	for _, a := range args {
		switch a.Value.(type) {
		case *set, ast.Set:
		default:
			return nil, errGeneral
		}
	}
	s := m.newSet()
	add := func(t *ast.Term) error {
		s.add(t)
		return nil
	}
	_, _ = Each(args[0].Value, add)
	_, _ = Each(args[1].Value, add)
	return &s.term, nil
}

func split(m *machine, args []*ast.Term) (*ast.Term, error) {
	text, ok1 := args[0].Value.(ast.String)
	sep, ok2 := args[1].Value.(ast.String)
	if !ok1 || !ok2 || sep == "" {
		return nil, errGeneral
	}
	a := m.newArray()
	for part := range strings.SplitSeq(string(text), string(sep)) {
		a.elems = append(a.elems, ast.InternedTerm(part))
	}
	return &a.term, nil
}
