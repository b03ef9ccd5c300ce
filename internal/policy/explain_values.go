package policy

import (
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"iam-service/internal/directory"
)

// visibleClaims are the claims whose strings are shown. Strings of other claims may be secret: a
// string that contains one of them is hidden, wherever it comes from. Numbers and booleans are shown.
var visibleClaims = []string{"iss", "sub", "aud", "azp", "client_id", "scope", "scp", "acr", "amr", "roles", "groups", "entitlements"}

// failure is an expression that failed, with the variables there.
type failure struct {
	expr   *ast.Expr
	rule   *ast.Rule
	locals *ast.ValueMap
	names  map[ast.Var]topdown.VarMetadata
}

// privateTextsOf returns the strings of hidden claims, in lower case.
func privateTextsOf(input ast.Value) (all []string) {
	token, err := input.Find(ast.Ref{ast.StringTerm("token")})
	claims, ok := token.(ast.Object)
	if err != nil || !ok {
		return nil
	}
	claims.Foreach(func(k, v *ast.Term) {
		if name, ok := k.Value.(ast.String); ok && slices.Contains(visibleClaims, string(name)) {
			return
		}
		ast.WalkTerms(v, func(t *ast.Term) bool {
			if s, ok := t.Value.(ast.String); ok && s != "" {
				all = append(all, strings.ToLower(string(s)))
			}
			return false
		})
	})
	return all
}

// hides reports whether a value contains a hidden claim's string, or a part of it.
func (x *explanation) hides(v ast.Value) (found bool) {
	const part = 4 // minimum bytes; shorter parts occur in too many strings
	ast.WalkTerms(ast.NewTerm(v), func(t *ast.Term) bool {
		s, ok := t.Value.(ast.String)
		text := strings.ToLower(string(s))
		found = found || ok && slices.ContainsFunc(x.privateTexts, func(p string) bool {
			return p == text || len(p) >= part && strings.Contains(text, p) || len(text) >= part && strings.Contains(p, text)
		})
		return found
	})
	return found
}

// refs are the references that an expression reads, without those that it calls.
func (f *failure) refs() []ast.Ref {
	var refs []ast.Ref
	operator := func(t *ast.Term) *ast.Ref {
		if ref, ok := t.Value.(ast.Ref); ok {
			return &ref
		}
		return nil
	}
	called := map[string]bool{}
	if terms, ok := f.expr.Terms.([]*ast.Term); ok {
		if op := operator(terms[0]); op != nil {
			called[op.String()] = true
		}
	}
	ast.WalkTerms(f.expr, func(t *ast.Term) bool {
		switch v := t.Value.(type) {
		case ast.Call:
			if op := operator(v[0]); op != nil {
				called[op.String()] = true
			}
		case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension:
			return true // its own query
		case ast.Ref:
			head, _ := v[0].Value.(ast.Var) // absent in a call
			if (head == "data" || head == "input") && !called[v.String()] {
				refs = append(refs, v)
			}
		}
		return false
	})
	return refs
}

// vars are the local variables of an expression.
func (f *failure) vars() []ast.Var {
	var vars []ast.Var
	ast.WalkVars(f.expr, func(v ast.Var) bool {
		if !slices.Contains(vars, v) {
			vars = append(vars, v)
		}
		return false
	})
	return vars
}

// sourceOf is the source of a variable that the compiler generated.
func (f *failure) sourceOf(v ast.Var, name string) string {
	if !strings.HasPrefix(name, "__local") {
		return name // written by the author
	}
	if refs := equals(f.rule.Body, v); len(refs) > 0 {
		return f.nameOf(refs[0])
	}
	return name
}

// equals are the references that a body compares with a variable.
func equals(body ast.Body, v ast.Var) (refs []ast.Ref) {
	for _, e := range body {
		if !e.IsEquality() || e.Negated || len(e.With) > 0 {
			continue
		}
		for i := range 2 {
			ref, isRef := e.Operand(1 - i).Value.(ast.Ref)
			if e.Operand(i).Value.Compare(v) == 0 && isRef {
				refs = append(refs, ref)
			}
		}
	}
	return refs
}

// fromFacts reports whether the value of a reference can only be a part of the input or of
// the directory: it points there, or to rules whose values are such references.
func (x *explanation) fromFacts(ref ast.Ref, depth int) bool {
	if ref.HasPrefix(ast.InputRootRef) || ref.HasPrefix(ast.DefaultRootRef.Append(ast.StringTerm(directory.Root))) {
		return true
	}
	for n := len(ref); n > 1 && depth > 0; n-- {
		rules := x.r.compiler.GetRulesExact(ref[:n])
		for _, rule := range rules {
			for ; rule != nil; rule = rule.Else {
				if rule.Head.RuleKind() != ast.SingleValue || len(rule.Head.Args) > 0 {
					return false
				}
				var refs []ast.Ref
				switch v := rule.Head.Value.Value.(type) {
				case ast.Ref:
					refs = []ast.Ref{v}
				case ast.Var:
					refs = equals(rule.Body, v)
				default: // it is computed there
				}
				if !slices.ContainsFunc(refs, func(ref ast.Ref) bool { return x.fromFacts(ref, depth-1) }) {
					return false
				}
			}
		}
		if len(rules) > 0 {
			return true
		}
	}
	return false
}

// copies reports whether a local variable has the value of a reference that it is compared with,
// in the input or in the directory. In a rule that failed it need not.
func (x *explanation) copies(f *failure, v ast.Var, value ast.Value) bool {
	return slices.ContainsFunc(equals(f.rule.Body, v), func(ref ast.Ref) bool {
		ground := f.plug(ref)
		if !ground.IsGround() || !x.fromFacts(ground, explainDepth) {
			return false
		}
		t, err := x.trace(ground)
		return err == nil && t.value != nil && t.value.Compare(value) == 0
	})
}

// plug replaces the local variables in a reference by their values.
func (f *failure) plug(ref ast.Ref) ast.Ref {
	plugged := ref.Copy()
	for i, t := range plugged[1:] {
		if v, ok := t.Value.(ast.Var); ok && f.locals != nil {
			if value := f.locals.Get(v); value != nil {
				plugged[i+1] = ast.NewTerm(value)
			}
		}
	}
	return plugged
}

// nameOf is a reference as its author would write it.
func (f *failure) nameOf(ref ast.Ref) string {
	named := ref.Copy()
	for i, t := range named[1:] {
		if v, ok := t.Value.(ast.Var); ok {
			name := string(v)
			if meta, known := f.names[v]; known {
				name = string(meta.Name)
			}
			named[i+1] = ast.VarTerm(f.sourceOf(v, name))
		}
	}
	return short(named)
}

// short removes the package of the entrypoint from a name.
func short(ref ast.Ref) string {
	return strings.TrimPrefix(ref.String(), claimsPrefix+".")
}

func (x *explanation) valueOf(name string, v ast.Value) Value {
	if v == nil {
		return Value{Name: name}
	}
	if x.hides(v) {
		return Value{Name: name, Defined: true, Hidden: true}
	}
	js, err := ast.JSON(v)
	if err != nil {
		js = v.String()
	}
	if text := v.String(); len(text) > maxValueBytes {
		js = text[:maxValueBytes] + "…"
	}
	return Value{Name: name, Value: js, Defined: true}
}
