package plan

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// few is the number of entries up to which a collection is searched linearly. Above it, the
// collection becomes OPA's own, which hashes.
const few = 24

// The collections that a program builds. Each is an ast.Value, so that a register can hold it,
// but OPA does not know them: they are converted (pure) before a builtin of OPA or a comparison
// of different types gets them. A register refers to the term inside of the collection.
type (
	object struct {
		term       ast.Term
		keys, vals []*ast.Term
		large      ast.Object // instead of keys and vals
		converted  *ast.Term  // the same as OPA's type; nil: not converted since it changed
	}
	set struct {
		term      ast.Term
		elems     []*ast.Term
		sorted    bool
		large     ast.Set // instead of elems
		converted *ast.Term
	}
	array struct {
		term      ast.Term
		elems     []*ast.Term
		converted *ast.Term
	}
)

// poison is the value of a register that stands for a part of data which cannot be enumerated.
// Every instruction that reads it ends the evaluation with errLeft; a longer path is compiled to one that does not.
type poison struct{ ast.Null }

var poisonTerm = ast.NewTerm(poison{})

// undefined marks a path of the input that was looked up and is absent.
var undefined = ast.NewTerm(poison{})

func (o *object) Compare(other ast.Value) int {
	return ast.Compare(pureValue(o), pureValue(other))
}
func (o *object) Find(path ast.Ref) (ast.Value, error) { return pureValue(o).Find(path) }
func (o *object) Hash() int                            { return pureValue(o).Hash() }
func (o *object) IsGround() bool                       { return true }
func (o *object) String() string                       { return pureValue(o).String() }
func (o *object) StringLength() int                    { return pureValue(o).StringLength() }

func (s *set) Compare(other ast.Value) int {
	return ast.Compare(pureValue(s), pureValue(other))
}
func (s *set) Find(path ast.Ref) (ast.Value, error) { return pureValue(s).Find(path) }
func (s *set) Hash() int                            { return pureValue(s).Hash() }
func (s *set) IsGround() bool                       { return true }
func (s *set) String() string                       { return pureValue(s).String() }
func (s *set) StringLength() int                    { return pureValue(s).StringLength() }

func (a *array) Compare(other ast.Value) int {
	return ast.Compare(pureValue(a), pureValue(other))
}
func (a *array) Find(path ast.Ref) (ast.Value, error) { return pureValue(a).Find(path) }
func (a *array) Hash() int                            { return pureValue(a).Hash() }
func (a *array) IsGround() bool                       { return true }
func (a *array) String() string                       { return pureValue(a).String() }
func (a *array) StringLength() int                    { return pureValue(a).StringLength() }

func pureValue(v ast.Value) ast.Value {
	switch v := v.(type) {
	case *object:
		return pure(&v.term).Value
	case *set:
		return pure(&v.term).Value
	case *array:
		return pure(&v.term).Value
	}
	return v
}

// pure returns t as OPA's own types throughout.
func pure(t *ast.Term) *ast.Term {
	switch v := t.Value.(type) {
	case *object:
		if v.converted == nil {
			if v.large != nil {
				v.converted = ast.NewTerm(v.large)
			} else {
				o := ast.NewObjectWithCapacity(len(v.keys))
				for i, k := range v.keys {
					o.Insert(pure(k), pure(v.vals[i]))
				}
				v.converted = ast.NewTerm(o)
			}
		}
		return v.converted
	case *set:
		if v.converted == nil {
			if v.large != nil {
				v.converted = ast.NewTerm(v.large)
			} else {
				s := ast.NewSetWithCapacity(len(v.elems))
				for _, e := range v.elems {
					s.Add(pure(e))
				}
				v.converted = ast.NewTerm(s)
			}
		}
		return v.converted
	case *array:
		if v.converted == nil {
			elems := make([]*ast.Term, len(v.elems))
			for i, e := range v.elems {
				elems[i] = pure(e)
			}
			v.converted = ast.NewTerm(ast.NewArray(elems...))
		}
		return v.converted
	}
	return t
}

// equal reports whether two terms are equal by OPA's comparison.
func equal(a, b *ast.Term) bool {
	if a == b {
		return true
	}
	switch x := a.Value.(type) {
	case ast.String:
		y, ok := b.Value.(ast.String)
		return ok && x == y
	case ast.Boolean:
		y, ok := b.Value.(ast.Boolean)
		return ok && x == y
	case ast.Number:
		y, ok := b.Value.(ast.Number)
		return ok && (x == y || ast.Compare(x, y) == 0)
	case *object:
		if y, ok := b.Value.(*object); ok && x.large == nil && y.large == nil {
			if len(x.keys) != len(y.keys) {
				return false
			}
			for i, k := range x.keys {
				if v := y.get(k); v == nil || !equal(x.vals[i], v) {
					return false
				}
			}
			return true
		}
	case *array:
		if y, ok := b.Value.(*array); ok {
			return slices.EqualFunc(x.elems, y.elems, equal)
		}
	}
	return compare(a, b) == 0
}

// compare is OPA's order of all values.
func compare(a, b *ast.Term) int {
	if x, ok := a.Value.(ast.String); ok {
		if y, ok := b.Value.(ast.String); ok {
			switch {
			case x < y:
				return -1
			case x > y:
				return 1
			}
			return 0
		}
	}
	return ast.Compare(pure(a).Value, pure(b).Value)
}

func (o *object) get(key *ast.Term) *ast.Term {
	if o.large != nil {
		return o.large.Get(pure(key))
	}
	if i := o.index(key); i >= 0 {
		return o.vals[i]
	}
	return nil
}

func (o *object) index(key *ast.Term) int {
	if s, ok := key.Value.(ast.String); ok {
		for i, k := range o.keys {
			if k == key {
				return i
			}
			if x, ok := k.Value.(ast.String); ok && x == s {
				return i
			}
		}
		return -1
	}
	return slices.IndexFunc(o.keys, func(k *ast.Term) bool { return equal(k, key) })
}

func (o *object) insert(key, value *ast.Term) {
	if o.large != nil {
		if o.converted != nil { // others have it
			o.large = o.large.Copy()
		}
		o.converted = nil
		o.large.Insert(pure(key), pure(value))
		return
	}
	o.converted = nil
	if i := o.index(key); i >= 0 {
		o.vals[i] = value
		return
	}
	if len(o.keys) < few {
		o.keys, o.vals = append(o.keys, key), append(o.vals, value)
		return
	}
	o.large = ast.NewObjectWithCapacity(2 * few)
	for i, k := range o.keys {
		o.large.Insert(pure(k), pure(o.vals[i]))
	}
	o.large.Insert(pure(key), pure(value))
}

func (o *object) len() int {
	if o.large != nil {
		return o.large.Len()
	}
	return len(o.keys)
}

// sort orders the entries by key, as OPA iterates them.
func (o *object) sort() {
	for i := 1; i < len(o.keys); i++ { // insertion sort: they are few, and mostly sorted
		for j := i; j > 0 && compare(o.keys[j-1], o.keys[j]) > 0; j-- {
			o.keys[j-1], o.keys[j] = o.keys[j], o.keys[j-1]
			o.vals[j-1], o.vals[j] = o.vals[j], o.vals[j-1]
		}
	}
}

func (s *set) contains(t *ast.Term) bool {
	if s.large != nil {
		return s.large.Contains(pure(t))
	}
	if x, ok := t.Value.(ast.String); ok {
		for _, e := range s.elems {
			if y, ok := e.Value.(ast.String); ok && x == y {
				return true
			}
		}
		return false
	}
	return slices.ContainsFunc(s.elems, func(e *ast.Term) bool { return equal(e, t) })
}

func (s *set) add(t *ast.Term) {
	if s.large == nil {
		if s.contains(t) {
			return
		}
		s.converted = nil
		if len(s.elems) < few {
			s.elems, s.sorted = append(s.elems, t), len(s.elems) == 0
			return
		}
		s.large = ast.NewSetWithCapacity(2 * few)
		for _, e := range s.elems {
			s.large.Add(pure(e))
		}
	} else if s.converted != nil { // others have it
		s.large = s.large.Copy()
	}
	s.converted = nil
	s.large.Add(pure(t))
}

func (s *set) len() int {
	if s.large != nil {
		return s.large.Len()
	}
	return len(s.elems)
}

// slice returns the elements in OPA's order. The result must not be changed.
func (s *set) slice() []*ast.Term {
	if s.large != nil {
		return s.large.Slice()
	}
	if !s.sorted {
		slices.SortFunc(s.elems, compare)
		s.sorted = true
	}
	return s.elems
}

// Get returns the value of a key of an object that a program returned; nil where it has none.
func Get(v ast.Value, key *ast.Term) *ast.Term {
	switch v := v.(type) {
	case *object:
		return v.get(key)
	case ast.Object:
		return v.Get(key)
	}
	return nil
}

// IsObject reports whether v is an object, a program's or OPA's.
func IsObject(v ast.Value) bool {
	switch v.(type) {
	case *object, ast.Object:
		return true
	}
	return false
}

// EachField calls f for the entries of an object in the order of their keys. It reports whether
// v is an object.
func EachField(v ast.Value, f func(k, v *ast.Term) error) (isObject bool, err error) {
	switch v := v.(type) {
	case *object:
		if v.large != nil {
			return true, v.large.Iter(f)
		}
		v.sort()
		for i, k := range v.keys {
			if err := f(k, v.vals[i]); err != nil {
				return true, err
			}
		}
		return true, nil
	case ast.Object:
		return true, v.Iter(f)
	}
	return false, nil
}

// Each calls f for the elements of an array, or of a set in OPA's order. It reports whether v
// is one of them.
func Each(v ast.Value, f func(*ast.Term) error) (isList bool, err error) {
	switch v := v.(type) {
	case *array:
		for _, e := range v.elems {
			if err := f(e); err != nil {
				return true, err
			}
		}
		return true, nil
	case *set:
		for _, e := range v.slice() {
			if err := f(e); err != nil {
				return true, err
			}
		}
		return true, nil
	case *ast.Array:
		return true, v.Iter(f)
	case ast.Set:
		return true, v.Iter(f)
	}
	return false, nil
}

// Pure returns a term that a program returned as OPA's own types, valid without the program.
func Pure(t *ast.Term) *ast.Term { return pure(t) }
