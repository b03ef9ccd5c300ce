// Package builtins_test calls each builtin that a policy may call with the arguments that cost it the most. It is apart
// from package policy because the race detector, which the tests of that need, slows it fifty times.
package builtins_test

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/types"

	"iam-service/internal/policy"
)

// What an input or a document can carry at most: 8 KiB of token, which has room
// for 2,048 members; a document's lists are shorter.
const (
	hostileString = 8 << 10
	hostileList   = 2048

	mostTime   = 250 * time.Millisecond * raceSlowdown // for a slow and busy machine; usual are 100 ms at most
	mostMemory = 64 << 20
)

// hostile are arguments of a type that cost a careless builtin the most.
func hostile(t types.Type) []*ast.Term {
	var terms []*ast.Term
	add := func(v ...ast.Value) {
		for _, v := range v {
			terms = append(terms, ast.NewTerm(v))
		}
	}
	switch t := t.(type) {
	case types.String:
		add(ast.String(strings.Repeat("a", hostileString)), ast.String(""), ast.String("a"),
			ast.String(strings.Repeat("%999999d", hostileString/8)), ast.String(strings.Repeat("(", hostileString)),
			ast.String(strings.Repeat("[", hostileString)), ast.String(strings.Repeat(`{"a":`, hostileString/5)), ast.String("1e100000000"), ast.String("1e-30000"), ast.String("0x1p-99999999"),
			ast.String(strings.Repeat("9", hostileString)), ast.String("10.0.0.0/0"), ast.String("::/0"), ast.String("9999-12-31T23:59:59Z"),
			ast.String(strings.Repeat("1.", hostileString/2)), ast.String(strings.Repeat("{a,", hostileString/3)),
			ast.String(strings.Repeat("é", hostileString/2)), ast.String(strings.Repeat("éa", 64)), ast.String(strings.Repeat("*a", hostileString/2)), ast.String(strings.Repeat("&x [*x,*x]", 800)))
	case types.Number:
		add(ast.Number("1e8"), ast.Number("-1e8"), ast.Number("1e1000"), ast.Number(strings.Repeat("9", 1000)), ast.Number("0"), ast.Number("16"),
			ast.Number("1e-1000"), ast.Number("9223372036854775807"), ast.Number("0."+strings.Repeat("3", 1000)))
	case types.Boolean:
		add(ast.Boolean(true), ast.Boolean(false))
	case types.Null:
		add(ast.Null{})
	case *types.Array:
		add(list(func(i int) *ast.Term { return ast.StringTerm(fmt.Sprint(i)) }), ast.NewArray(),
			list(func(int) *ast.Term { return ast.StringTerm(strings.Repeat("a", 64)) }), deep(),
			list(func(i int) *ast.Term { return ast.ArrayTerm(ast.IntNumberTerm(i), ast.StringTerm("x")) }),
			list(func(i int) *ast.Term {
				return ast.ObjectTerm(ast.Item(ast.StringTerm(fmt.Sprint(i)), ast.IntNumberTerm(i)))
			}),
			list(func(int) *ast.Term { return ast.NumberTerm("1e1000") }), tuple(t))
	case *types.Set:
		add(set(func(i int) *ast.Term { return ast.StringTerm(fmt.Sprint(i)) }), ast.NewSet(),
			set(func(i int) *ast.Term { return ast.SetTerm(ast.IntNumberTerm(i), ast.IntNumberTerm(i+1)) }),
			set(func(i int) *ast.Term { return ast.IntNumberTerm(i) }))
	case *types.Object:
		add(object(), graph(), ast.NewObject())
	case types.Any:
		if len(t) > 0 {
			for _, one := range t {
				terms = append(terms, hostile(one)...)
			}
			return terms
		}
		for _, one := range []types.Type{types.S, types.N, types.B, types.Nl, types.NewArray(nil, types.A), types.NewSet(types.A), types.NewObject(nil, types.NewDynamicProperty(types.A, types.A))} {
			terms = append(terms, hostile(one)...)
		}
	}
	return terms
}

// tuple is an array of fixed members, as some builtins want their arguments.
func tuple(t *types.Array) ast.Value {
	terms := make([]*ast.Term, t.Len())
	for i := range terms {
		terms[i] = hostile(t.Select(i))[0]
	}
	return ast.NewArray(terms...)
}

func list(f func(int) *ast.Term) ast.Value {
	terms := make([]*ast.Term, hostileList)
	for i := range terms {
		terms[i] = f(i)
	}
	return ast.NewArray(terms...)
}

func set(f func(int) *ast.Term) ast.Value {
	s := ast.NewSet()
	for i := range hostileList {
		s.Add(f(i))
	}
	return s
}

func object() ast.Value {
	o := ast.NewObject()
	for i := range hostileList {
		o.Insert(ast.StringTerm(fmt.Sprint(i)), ast.StringTerm(strings.Repeat("a", 64)))
	}
	return o
}

// graph is a complete one on 15 nodes and a long path: what graph.* walk.
func graph() ast.Value {
	o := ast.NewObject()
	for i := range 15 {
		s := ast.NewSet()
		for j := range 15 {
			s.Add(ast.StringTerm(fmt.Sprint(j)))
		}
		o.Insert(ast.StringTerm(fmt.Sprint(i)), ast.NewTerm(s))
	}
	for i := 15; i < 2*hostileList; i++ {
		o.Insert(ast.StringTerm(fmt.Sprint(i)), ast.SetTerm(ast.StringTerm(fmt.Sprint(i+1))))
	}
	return o
}

func deep() ast.Value {
	t := ast.ArrayTerm()
	for range 1000 {
		t = ast.ArrayTerm(t)
	}
	return t.Value
}

// combinations of arguments: each kind of argument with the same place in the
// others' lists, and every pair for two.
func combinations(args []types.Type) [][]*ast.Term {
	if len(args) == 0 {
		return [][]*ast.Term{{}}
	}
	lists := make([][]*ast.Term, len(args))
	for i, a := range args {
		lists[i] = hostile(a)
		if len(lists[i]) == 0 {
			panic(fmt.Sprintf("no hostile argument of type %v", a))
		}
	}
	var all [][]*ast.Term
	if len(args) == 2 && len(lists[0])*len(lists[1]) <= 600 {
		for _, a := range lists[0] {
			for _, b := range lists[1] {
				all = append(all, []*ast.Term{a, b})
			}
		}
		return all
	}
	most := 0
	for _, l := range lists {
		most = max(most, len(l))
	}
	for shift := range 3 {
		for n := range most {
			row := make([]*ast.Term, len(args))
			for i, l := range lists {
				row[i] = l[(n+shift*i)%len(l)]
			}
			all = append(all, row)
		}
	}
	return all
}

// structural builtins are part of the language: an operator or a rewrite.
var structural = []string{"assign", "eq", "internal.print", "print", "internal.test_case", "internal.template_string", "rego.metadata.rule", "rego.metadata.chain"}

// term is a result as OPA has it.
func term(t *ast.Term, _ *rego.EvalContext) (any, error) { return t, nil }

// cost runs one call with arguments as input and says what it took. Arguments
// come by input, as an attacker's would; building them is not counted.
func cost(t testing.TB, q rego.PreparedEvalQuery, args []*ast.Term) (time.Duration, uint64) {
	t.Helper()
	input := ast.NewArray(args...)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second*raceSlowdown) // so that a failure of this test ends
	defer cancel()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	runtime.LockOSThread() // it is this thread's time that counts: the machine has other things to do
	defer runtime.UnlockOSThread()
	began := threadTime(t)
	_, _ = q.Eval(ctx, rego.EvalParsedInput(input), rego.EvalGenerateJSON(term)) // an error is fine: it ends
	took := threadTime(t) - began
	runtime.ReadMemStats(&after)
	return took, after.TotalAlloc - before.TotalAlloc
}

func prepareCall(t testing.TB, b *ast.Builtin) (rego.PreparedEvalQuery, error) {
	t.Helper()
	params := make([]string, len(b.Decl.FuncArgs().Args))
	for i := range params {
		params[i] = fmt.Sprintf("input[%d]", i)
	}
	return rego.New(rego.Query("x := "+b.Name+"("+strings.Join(params, ", ")+")"), rego.Capabilities(ast.CapabilitiesForThisVersion())).PrepareForEval(context.Background())
}

func TestEachAllowedBuiltinEndsSoonWithHostileArguments(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	for _, name := range policy.AllowedBuiltins {
		b := ast.BuiltinMap[name]
		if b == nil {
			t.Errorf("%s: OPA has no such builtin", name)
			continue
		}
		if slices.Contains(structural, name) {
			continue
		}
		q, err := prepareCall(t, b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, args := range combinations(b.Decl.FuncArgs().Args) {
			took, bytes := cost(t, q, args)
			for range 3 { // again, where it is much: a pause of the machine is not the builtin's
				if took > mostTime || bytes > mostMemory {
					took2, bytes2 := cost(t, q, args)
					took, bytes = min(took, took2), min(bytes, bytes2)
				}
			}
			if took > mostTime || bytes > mostMemory {
				t.Errorf("%s took %s and %d MB with %.60v", name, took, bytes>>20, args)
				break
			}
		}
	}
}

// A policy can make something larger than an input by doubling it: cost must grow
// with size, not with its square. The result of concat is as long as its list
// times its delimiter, so concat is what its result is.
func TestCostGrowsWithSizeAlone(t *testing.T) {
	const n = 120_000
	whole := make([]*ast.Term, n/4)
	for i := range whole {
		whole[i] = ast.IntNumberTerm(i % 7)
	}
	text := ast.StringTerm(strings.Repeat("é", n/2))
	texts := []*ast.Term{text, ast.StringTerm(strings.Repeat("é", n/4) + "x"), ast.StringTerm(strings.Repeat("aé", n/8))}
	lists := []*ast.Term{ast.ArrayTerm(whole...), ast.ArrayTerm(whole[:n/8]...), ast.ArrayTerm(whole...)}
	for _, name := range policy.AllowedBuiltins {
		if slices.Contains(structural, name) || name == "concat" {
			continue
		}
		b := ast.BuiltinMap[name]
		q, err := prepareCall(t, b)
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range [][]*ast.Term{texts, lists} {
			args := make([]*ast.Term, len(b.Decl.FuncArgs().Args))
			for i := range args {
				args[i] = row[i%len(row)] // the wrong type is refused at once, which is fine
			}
			took, bytes := cost(t, q, args)
			for range 3 {
				if took > mostTime {
					again, _ := cost(t, q, args)
					took = min(took, again)
				}
			}
			if took > mostTime || bytes > mostMemory {
				t.Errorf("%s took %s and %d MB with large arguments", name, took, bytes>>20)
			}
		}
	}
}

// The test above is able to fail: what was left out fails it.
func TestHostileArgumentsAreHostile(t *testing.T) {
	for name, args := range map[string][]*ast.Term{
		"bits.lsh": {ast.NumberTerm("1"), ast.NumberTerm("1e7")},
		"sprintf":  {ast.StringTerm(strings.Repeat("%999999d", 100)), ast.NewTerm(list(ast.IntNumberTerm))},
		"replace":  {ast.StringTerm(strings.Repeat("a", hostileString)), ast.StringTerm(""), ast.StringTerm(strings.Repeat("a", hostileString))},
	} {
		if slices.Contains(policy.AllowedBuiltins, name) {
			t.Errorf("%s is allowed", name)
		}
		q, err := prepareCall(t, ast.BuiltinMap[name])
		if err != nil {
			t.Fatal(err)
		}
		if took, bytes := cost(t, q, args); took < mostTime/raceSlowdown && bytes < mostMemory {
			t.Errorf("%s took only %s and %d MB", name, took, bytes>>20)
		}
	}
}

func TestWhatReachesOutsideIsNotAllowed(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"http.send", "net.lookup_ip_addr", "opa.runtime", "rand.intn", "uuid.rfc4122", "trace", "providers.aws.sign_req", "io.jwt.decode_verify", "regex.match", "graph.reachable_paths", "walk"} {
		if slices.Contains(policy.AllowedBuiltins, name) {
			t.Errorf("%s is allowed", name)
		}
	}
	if net := policy.Capabilities().AllowNet; net == nil || len(net) != 0 {
		t.Errorf("AllowNet is %v: nil would mean everywhere", net)
	}
}
