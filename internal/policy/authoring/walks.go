package authoring

import (
	"fmt"
	"maps"

	"github.com/open-policy-agent/opa/v1/ast"
)

// collections are those of the directory, with the number of keys of a document.
var collections = map[string]int{"users": 2, "clients": 2, "tenants": 1}

// walks finds where a policy iterates over a collection of the directory: a document must be
// addressed by its keys, each of which is bound before its use. The store rejects walks that
// this check misses.
func (f *Folder) walks(file string, m *ast.Module) []Finding {
	w := &walker{file: file, aliases: map[ast.Var]ast.Ref{}, named: map[ast.Var]bool{}}
	for _, i := range m.Imports {
		w.named[i.Name()] = true
		if ref, ok := i.Path.Value.(ast.Ref); ok {
			if _, inside := ofDirectory(ref); inside {
				w.aliases[i.Name()] = ref
			}
		}
	}
	for _, other := range f.Modules {
		if !other.Package.Equal(m.Package) {
			continue
		}
		for _, r := range other.Rules {
			if head, ok := r.Head.Ref()[0].Value.(ast.Var); ok {
				w.named[head] = true
			}
		}
	}
	for _, r := range m.Rules {
		for ; r != nil; r = r.Else {
			bound := maps.Clone(w.named) // names are not variables
			for _, arg := range r.Head.Args {
				bind(arg, bound)
			}
			bound = w.body(r.Body, bound)
			for _, t := range []*ast.Term{r.Head.Key, r.Head.Value} {
				if t != nil {
					w.term(t, bound)
				}
			}
		}
	}
	return w.found
}

// walker visits a rule in order: bound are the variables with a value.
type walker struct {
	file    string
	aliases map[ast.Var]ast.Ref // imports from the directory
	named   map[ast.Var]bool
	found   []Finding
}

func (w *walker) body(body ast.Body, bound map[ast.Var]bool) map[ast.Var]bool {
	bound = maps.Clone(bound)
	for _, e := range body {
		w.expr(e, bound)
	}
	return bound
}

func (w *walker) expr(e *ast.Expr, bound map[ast.Var]bool) {
	for _, with := range e.With {
		w.term(with.Value, bound)
	}
	switch t := e.Terms.(type) {
	case *ast.SomeDecl:
		for _, s := range t.Symbols {
			call, in := s.Value.(ast.Call)
			if !in {
				if v, ok := s.Value.(ast.Var); ok {
					delete(bound, v) // a new variable that shadows the outer name
				}
				continue
			}
			w.term(call[len(call)-1], bound)
			for _, x := range call[1 : len(call)-1] {
				bind(x, bound)
			}
		}
	case *ast.Every:
		w.term(t.Domain, bound)
		inner := maps.Clone(bound)
		for _, x := range []*ast.Term{t.Key, t.Value} {
			if x != nil {
				bind(x, inner)
			}
		}
		w.body(t.Body, inner)
	case []*ast.Term:
		switch {
		case e.IsAssignment():
			w.term(e.Operand(1), bound)
			bind(e.Operand(0), bound)
		case e.IsEquality():
			for i := range 2 {
				if _, isVar := e.Operand(i).Value.(ast.Var); !isVar {
					w.term(e.Operand(i), bound)
				}
			}
			for i := range 2 {
				bind(e.Operand(i), bound)
			}
		default:
			for _, x := range t[1:] {
				w.term(x, bound)
			}
		}
	case *ast.Term:
		w.term(t, bound)
	}
}

// bind marks the variables of a pattern as bound.
func bind(t *ast.Term, bound map[ast.Var]bool) {
	ast.WalkTerms(t, func(t *ast.Term) bool {
		switch v := t.Value.(type) {
		case ast.Var:
			bound[v] = true
		case ast.Ref, ast.Call, *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension:
			return true
		}
		return false
	})
}

func (w *walker) term(t *ast.Term, bound map[ast.Var]bool) {
	switch v := t.Value.(type) {
	case ast.Var:
		if _, alias := w.aliases[v]; alias {
			w.finding(t.Location, v.String())
		}
	case ast.Ref:
		w.ref(v, bound)
	case *ast.ArrayComprehension:
		w.term(v.Term, w.body(v.Body, bound))
	case *ast.SetComprehension:
		w.term(v.Term, w.body(v.Body, bound))
	case *ast.ObjectComprehension:
		inner := w.body(v.Body, bound)
		w.term(v.Key, inner)
		w.term(v.Value, inner)
	case ast.Call:
		for _, x := range v[1:] {
			w.term(x, bound)
		}
	case *ast.Array:
		v.Foreach(func(x *ast.Term) { w.term(x, bound) })
	case ast.Set:
		v.Foreach(func(x *ast.Term) { w.term(x, bound) })
	case ast.Object:
		v.Foreach(func(k, x *ast.Term) { w.term(k, bound); w.term(x, bound) })
	}
}

func (w *walker) ref(ref ast.Ref, bound map[ast.Var]bool) {
	whole := ref
	if head, ok := ref[0].Value.(ast.Var); ok {
		if path, alias := w.aliases[head]; alias {
			whole = append(path.Copy(), ref[1:]...)
		}
	}
	rest, inside := ofDirectory(whole)
	var keys int
	if inside {
		keys = w.collection(ref, rest)
	} else if head, _ := whole[0].Value.(ast.Var); head == "data" && len(whole) > 1 {
		if v, isVar := whole[1].Value.(ast.Var); isVar && !bound[v] {
			w.finding(ref[0].Location, ref.String()) // iterates over the directory too
		}
	}
	for i, step := range whole[1:] {
		v, isVar := step.Value.(ast.Var)
		switch {
		case !isVar:
			w.term(step, bound)
		case inside && i >= 2 && i < 2+keys && !bound[v]:
			w.finding(ref[0].Location, ref.String())
			bound[v] = true // report once
		default:
			bound[v] = true // iterates over values
		}
	}
}

// collection is the number of keys of a document in the collection of a reference; 0 where the
// reference is reported as a walk already.
func (w *walker) collection(ref, rest ast.Ref) int {
	if len(rest) > 0 {
		name, isName := rest[0].Value.(ast.String)
		keys, known := collections[string(name)]
		if isName && (!known || len(rest)-1 >= keys) {
			return keys
		}
	}
	w.finding(ref[0].Location, ref.String())
	return 0
}

func (w *walker) finding(at *ast.Location, what string) {
	w.found = append(w.found, Finding{File: w.file, Line: at.Row, Column: at.Col, Rule: "walk",
		Text: fmt.Sprintf("%s is a walk over the directory, which the service rejects: address a document by its keys", what)})
}

// ofDirectory is what follows data.directory in a reference.
func ofDirectory(ref ast.Ref) (ast.Ref, bool) {
	head, _ := ref[0].Value.(ast.Var) // a call: none
	if len(ref) >= 2 && head == "data" && ref[1].Value.Compare(ast.String("directory")) == 0 {
		return ref[2:], true
	}
	return nil, false
}
