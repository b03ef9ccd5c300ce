package policy_test

import (
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
)

// One uninterruptible step of a number without bound is longer than a whole request may be.
func TestNoBuiltinMakesANumberOutOfBounds(t *testing.T) {
	t.Parallel()
	for call, want := range map[string]bool{
		`to_number("1e-30000")`: false, `to_number("1e30000")`: false, `to_number("1E-309")`: false, `to_number("-1e309")`: false,
		`to_number("0x1p-99999999")`: false, `to_number("0x10")`: false,
		`to_number(concat("", ["0.", input.zeros, "1"]))`:        false,
		`json.unmarshal("{\"a\":[{\"b\":1e-30000}]}")`:           false,
		`json.unmarshal(concat("", ["[0.", input.zeros, "1]"]))`: false,
		`to_number("1e308") * to_number("1e308")`:                false,
		`to_number("1e-308") / to_number("1e308")`:               false,
		`to_number("1e-308") * 10`:                               true, `to_number("+7.5e3")`: true, `to_number("12345678901234567890")`: true,
		`json.unmarshal("{\"a\":[-1.5e300,\"1e-30000\"]}")`: true,
	} {
		q, err := rego.New(rego.Query("x := "+call), rego.StrictBuiltinErrors(true)).PrepareForEval(ctx)
		if err != nil {
			t.Fatal(call, err)
		}
		input := ast.NewObject(ast.Item(ast.StringTerm("zeros"), ast.StringTerm(strings.Repeat("0", 8000))))
		rs, err := q.Eval(ctx, rego.EvalParsedInput(input))
		if (err == nil && len(rs) == 1) != want {
			t.Errorf("%s: %v, %v", call, rs, err)
		}
	}
}
