package policy

import (
	"errors"
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"iam-service/internal/iam"
)

// OPA computes with numbers of any size, and cannot be interrupted meanwhile: multiplying
// 1e-30000, which OPA accepts, takes 300 ms. So such numbers are rejected. Tokens and attributes
// are checked where they are received, a candidate by the gate, and here the results of the
// builtins that parse numbers or multiply their size. OPA's table of builtins is global and has
// no lock, so it is changed before anything runs.
func init() { //nolint:gochecknoinits // see above
	for _, name := range []string{ast.ToNumber.Name, ast.JSONUnmarshal.Name, ast.Multiply.Name, ast.Divide.Name} {
		opas := topdown.GetBuiltin(name)
		topdown.RegisterBuiltinFunc(name, func(bctx topdown.BuiltinContext, operands []*ast.Term, iter func(*ast.Term) error) error {
			return opas(bctx, operands, func(result *ast.Term) error {
				if !validNumbers(result) {
					return errNumber
				}
				return iter(result)
			})
		})
	}
}

var errNumber = errors.New("number out of bounds") // without its value, which may come from a token

func errOutOfBounds(n *ast.Term) error {
	return fmt.Errorf("the number %.20s… is out of bounds: at most %d characters and an exponent of at most 308 are allowed", n, iam.MaxNumberBytes)
}

// validNumbers reports whether all numbers within x are within iam's bounds.
func validNumbers(x any) bool {
	if t, ok := x.(*ast.Term); ok {
		if n, ok := t.Value.(ast.Number); ok { // most are just that
			return iam.ValidNumber(string(n))
		}
	}
	return invalidNumber(x) == nil
}

// invalidNumber finds the first number within x that is out of bounds.
func invalidNumber(x any) (found *ast.Term) {
	ast.WalkTerms(x, func(t *ast.Term) bool {
		if n, ok := t.Value.(ast.Number); ok && !iam.ValidNumber(string(n)) && found == nil {
			found = t
		}
		return found != nil
	})
	return found
}
