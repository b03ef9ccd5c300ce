package plan

import "github.com/open-policy-agent/opa/v1/ast"

// iterator is the state of one scan.
type iterator struct {
	elems  []*ast.Term // of an array or a set; the keys of an object
	vals   []*ast.Term // of an object of a program
	object ast.Object
	array  *ast.Array
	kind   iteratorKind
	next   int
	length int
}

type iteratorKind uint8

// over begins a scan; it reports whether t can be iterated over.
func (it *iterator) over(t *ast.Term) (bool, error) {
	*it = iterator{}
	if t == nil {
		return false, nil
	}
	switch c := t.Value.(type) {
	case *array:
		it.kind, it.elems, it.length = overElems, c.elems, len(c.elems)
	case *ast.Array:
		it.kind, it.array, it.length = overArray, c, c.Len()
	case *set:
		it.kind, it.elems = overSet, c.slice()
		it.length = len(it.elems)
	case ast.Set:
		it.kind, it.elems = overSet, c.Slice()
		it.length = len(it.elems)
	case *object:
		if c.large != nil {
			it.kind, it.object, it.elems = overObject, c.large, c.large.Keys()
		} else {
			c.sort()
			it.kind, it.elems, it.vals = overFields, c.keys, c.vals
		}
		it.length = len(it.elems)
	case ast.Object:
		it.kind, it.object, it.elems = overObject, c, c.Keys()
		it.length = len(it.elems)
	case poison:
		return false, errLeft
	default:
		return false, nil
	}
	return it.length > 0, nil
}

func (it *iterator) entry() (key, value *ast.Term) {
	i := it.next
	it.next++
	switch it.kind {
	case overArray:
		return ast.InternedTerm(i), it.array.Elem(i)
	case overElems:
		return ast.InternedTerm(i), it.elems[i]
	case overSet:
		return it.elems[i], it.elems[i]
	case overObject:
		return it.elems[i], it.object.Get(it.elems[i])
	default:
		return it.elems[i], it.vals[i]
	}
}

func length(t *ast.Term) int {
	switch c := t.Value.(type) {
	case *object:
		return c.len()
	case *set:
		return c.len()
	case *array:
		return len(c.elems)
	case ast.Object:
		return c.Len()
	case *ast.Array:
		return c.Len()
	case ast.Set:
		return c.Len()
	}
	return -1
}

// ownObject returns an object that may grow: t itself, or a copy where it is OPA's.
func (m *machine) ownObject(t *ast.Term) (*object, error) {
	switch c := t.Value.(type) {
	case *object:
		return c, nil
	case ast.Object:
		o := m.newObject()
		c.Foreach(o.insert)
		return o, nil
	}
	return nil, errLeft
}

func (m *machine) ownSet(t *ast.Term) (*set, error) {
	switch c := t.Value.(type) {
	case *set:
		return c, nil
	case ast.Set:
		s := m.newSet()
		c.Foreach(s.add)
		return s, nil
	}
	return nil, errLeft
}

func (m *machine) ownArray(t *ast.Term) (*array, error) {
	switch c := t.Value.(type) {
	case *array:
		return c, nil
	case *ast.Array:
		a := m.newArray()
		c.Foreach(func(e *ast.Term) { a.elems = append(a.elems, e) })
		return a, nil
	}
	return nil, errLeft
}

func merged(a, b *ast.Term) (*ast.Term, error) {
	x, ok1 := pure(a).Value.(ast.Object)
	y, ok2 := pure(b).Value.(ast.Object)
	if !ok1 || !ok2 {
		return nil, errLeft
	}
	o, ok := x.Merge(y)
	if !ok {
		return nil, errLeft
	}
	return ast.NewTerm(o), nil
}

const (
	overArray iteratorKind = iota
	overElems              // of a program's array
	overSet
	overObject
	overFields // of a program's object
)

// dot returns a part of a collection; nil where it has no such part.
func (m *machine) dot(src, key *ast.Term) (*ast.Term, error) {
	v := find(src, key)
	if v != nil {
		return v, nil
	}
	switch c := src.Value.(type) {
	case poison:
		return nil, errLeft
	case ast.Object:
		if _, ok := key.Value.(ast.Number); ok && c.Len() > 0 {
			return nil, errLeft // OPA reads documents through paths, in which numbers are text
		}
	case *ast.Array:
		if s, ok := key.Value.(ast.String); ok && s != "" && (s[0] >= '0' && s[0] <= '9' || s[0] == '+' || s[0] == '-') {
			return nil, errLeft
		}
	}
	return nil, nil //nolint:nilnil // undefined
}

// find returns a part of a collection; nil where it has no such part.
func find(src, key *ast.Term) *ast.Term {
	switch c := src.Value.(type) {
	case *object:
		return c.get(key)
	case *set:
		if c.contains(key) {
			return key // as topdown: 1.0 finds 1, and is what the reference means
		}
	case *array:
		if n, ok := key.Value.(ast.Number); ok {
			if i, ok := n.Int(); ok && i >= 0 && i < len(c.elems) {
				return c.elems[i]
			}
		}
	case ast.Object:
		return c.Get(pure(key))
	case *ast.Array:
		return c.Get(key)
	case ast.Set:
		if c.Contains(pure(key)) {
			return key
		}
	}
	return nil
}
