package plan

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// author writes random policies: valid Rego that reads the input, static data and facts.
type author struct {
	*rand.Rand
	vars  []string // bound in the body that is being written
	rules []string // references to the rules so far that have no arguments
	sets  []string // of them, those that are collections
	funcs []string
	n     int
	depth int
}

func (a *author) of(list ...string) string { return list[a.IntN(len(list))] }

func (a *author) literal() string {
	return a.of(`"a"`, `"b"`, `"c"`, `""`, `"a,b"`, "0", "1", "2", "1.0", "true", "false", "null", `["a", 1]`, `{"a", "b"}`, `{"k": "a"}`, "[]", "{}", "set()")
}

func (a *author) path() string {
	if a.IntN(60) == 0 { // which the store refuses, and so must the machine
		return a.of("data.directory.users", "data.directory.tenants", "data.directory.users[input.a]")
	}
	return a.of("input.a", "input.b", "input.c", "input.o.x", "input.o.y", "input.list", "input.absent", "data.static.a", "data.static.o.x", "data.static.list",
		"data.directory.users[input.a][input.b].name", "data.directory.tenants[input.a].roles", "data.directory.tenants[input.b].n", `data.directory.users.a["b"]`, "input.list[0]", "data.static.list[1]")
}

func (a *author) term() string {
	if a.depth++; a.depth > 4 {
		a.depth--
		return a.literal()
	}
	defer func() { a.depth-- }()
	switch n := a.IntN(20); {
	case n < 4:
		return a.literal()
	case n < 9:
		return a.path()
	case n < 12 && len(a.vars) > 0:
		return a.of(a.vars...)
	case n < 14 && len(a.rules) > 0:
		return a.of(a.rules...)
	case n < 15 && len(a.funcs) > 0:
		return a.of(a.funcs...) + "(" + a.term() + ")"
	case n < 16:
		return a.comprehension()
	case n < 17:
		return a.of("count("+a.path()+")", "count("+a.comprehension()+")", "lower("+a.path()+")", "is_string("+a.term()+")", "json.marshal("+a.term()+")", "is_array("+a.term()+")", "is_set("+a.term()+")")
	case n < 18:
		return "object.get(" + a.of("input.o", "data.static.o", `{"a": 1}`, a.path()) + ", " + a.term() + ", " + a.literal() + ")"
	case n < 19:
		return a.of("split("+a.path()+`, ",")`, "array.concat("+a.path()+", input.list)", "object.union("+a.path()+", "+a.of("input.o", "data.static.o", `{"k": 1}`)+")",
			"object.filter("+a.of("input.o", "data.static.o", `{"a": 1, "k": 2}`)+", "+a.of("input.list", `{"a", "x"}`, a.path())+")", `concat(",", `+a.path()+")")
	default:
		return a.of("["+a.term()+", "+a.term()+"]", "{"+a.term()+"}", `{"k": `+a.term()+"}", `{"k": `+a.term()+`, "l": {"m": `+a.term()+"}}")
	}
}

func (a *author) collection() string {
	switch n := a.IntN(8); {
	case n < 4:
		return a.of("input.list", "input.o", "data.static.list", "data.static.o", "data.directory.tenants[input.a].roles", "input.a", "input.many")
	case n < 6 && len(a.sets) > 0:
		return a.of(a.sets...)
	case n < 7:
		return "[" + a.literal() + ", " + a.literal() + "]"
	default:
		return a.term()
	}
}

func (a *author) fresh() string {
	a.n++
	return fmt.Sprintf("v%d", a.n)
}

func (a *author) comprehension() string {
	before := len(a.vars)
	defer func() { a.vars = a.vars[:before] }()
	k, v := a.fresh(), a.fresh()
	coll := a.collection()
	a.vars = append(a.vars, k, v)
	body := "some " + k + ", " + v + " in " + coll
	if a.IntN(2) == 0 {
		body += "; " + a.condition()
	}
	return a.of("["+v+" | "+body+"]", "{"+v+" | "+body+"}", "{"+k+": "+v+" | "+body+"}", "{"+v+": 1 | "+body+"}")
}

func (a *author) condition() string {
	switch a.IntN(9) {
	case 0, 1:
		return a.path() + " " + a.of("==", "!=", "<", ">=") + " " + a.term()
	case 2:
		return a.path() + " == " + a.of(`"a"`, `"b"`, "1")
	case 3:
		return "not " + a.of(a.path()+" == "+a.literal(), a.path(), a.term()+" in "+a.collection())
	case 4:
		return a.term() + " in " + a.collection()
	case 5:
		return "startswith(" + a.path() + ", " + a.of(`"a"`, `""`) + ")"
	case 6:
		x := a.fresh()
		coll := a.collection()
		before := len(a.vars)
		a.vars = append(a.vars, x)
		c := a.of(x+" != "+a.literal(), "is_string("+x+")", x+" in "+a.collection())
		a.vars = a.vars[:before]
		return "every " + x + " in " + coll + " { " + c + " }"
	case 7:
		if len(a.rules) > 0 {
			return a.of("", "not ") + a.of(a.rules...)
		}
	}
	return a.path()
}

func (a *author) body() string {
	var lines []string
	for range 1 + a.IntN(3) {
		switch a.IntN(4) {
		case 0:
			v := a.fresh()
			lines = append(lines, v+" := "+a.term())
			a.vars = append(a.vars, v)
		case 1:
			k, v := a.fresh(), a.fresh()
			lines = append(lines, "some "+k+", "+v+" in "+a.collection())
			a.vars = append(a.vars, k, v)
		default:
			lines = append(lines, a.condition())
		}
	}
	return strings.Join(lines, "\n\t")
}

func (a *author) policy() string {
	var b strings.Builder
	b.WriteString("package p\n\n")
	for i := range 2 + a.IntN(5) {
		name := fmt.Sprintf("r%d", i)
		rule := func(head func() string) {
			a.vars = nil
			body := a.body()
			fmt.Fprintf(&b, "%s if {\n\t%s\n}\n\n", head(), body)
		}
		switch a.IntN(8) {
		case 0, 1:
			if a.IntN(2) == 0 {
				fmt.Fprintf(&b, "default %s := %s\n\n", name, a.of("false", `"d"`))
			}
			for range 1 + a.IntN(3) {
				rule(func() string { return name })
			}
		case 2:
			same := a.literal()
			for range 1 + a.IntN(10) {
				rule(func() string { return name + " := " + a.of(same, a.term()) })
			}
		case 3:
			rule(func() string { return name + " := " + a.term() })
			a.vars = nil
			body := a.body()
			fmt.Fprintf(&b, "%s := 1 if {\n\tinput.a == \"x\"\n} else := %s if {\n\t%s\n} else := 3\n\n", "e"+name, a.term(), body)
			a.rules = append(a.rules, "e"+name)
		case 4, 5:
			for range 1 + a.IntN(11) {
				rule(func() string { return name + " contains " + a.term() })
			}
			a.sets = append(a.sets, name)
		case 6:
			for range 1 + a.IntN(3) {
				rule(func() string { return name + "[" + a.of(`"k"`, `"l"`, a.term()) + "] := " + a.term() })
			}
			a.sets = append(a.sets, name)
		default:
			a.vars = []string{"x"}
			body := a.body()
			fmt.Fprintf(&b, "f%s(x) := %s if {\n\t%s\n}\n\n", name, a.term(), body)
			a.funcs = append(a.funcs, "f"+name)
			continue
		}
		a.rules = append(a.rules, name)
	}
	fmt.Fprintf(&b, "out := [%s]\n", strings.Join(each(a.rules, func(r string) string { return "object.get({\"x\": [v | v := " + r + "]}, \"x\", 0)" }), ", "))
	return b.String()
}

func each(list []string, f func(string) string) (out []string) {
	for _, s := range list {
		out = append(out, f(s))
	}
	return out
}

func (a *author) value(depth int) any {
	switch n := a.IntN(12); {
	case n < 6:
		return a.of("a", "b", "c", "x", "")
	case n < 8:
		return a.IntN(3)
	case n < 9 || depth > 2:
		return a.IntN(2) == 0
	case n < 10:
		list := []any{}
		for range a.IntN(4) {
			list = append(list, a.value(depth+1))
		}
		return list
	case n < 11:
		return map[string]any{"x": a.value(depth + 1), "k": a.value(depth + 1)}
	}
	return nil
}

func (a *author) document(keys ...string) map[string]any {
	doc := map[string]any{}
	for _, k := range keys {
		if a.IntN(8) > 0 {
			doc[k] = a.value(0)
		}
	}
	return doc
}

// refusing is a store whose directory cannot be enumerated.
type refusing struct{ storage.Store }

func (s refusing) Read(ctx context.Context, txn storage.Transaction, path storage.Path) (any, error) {
	if len(path) > 0 && path[0] == "directory" && (len(path) < 3 || path[1] == "users" && len(path) < 4) {
		return nil, errors.New("it cannot be enumerated")
	}
	return s.Store.Read(ctx, txn, path)
}

// outcome is how a random policy was evaluated.
type outcome int

const (
	invalid outcome = iota // it does not compile
	leftWhole
	leftOnce
	answered
)

// tryRandom evaluates the policy of a seed by both, with several inputs.
func tryRandom(t *testing.T, seed uint64, mutant bool) (all []outcome, differs string) {
	t.Helper()
	a := &author{Rand: rand.New(rand.NewPCG(seed, 1))}
	text := a.policy()
	m, err := ast.ParseModuleWithOpts("p.rego", text, ast.ParserOptions{RegoVersion: ast.RegoV1})
	if err != nil {
		return []outcome{invalid}, ""
	}
	compiler := ast.NewCompiler()
	if compiler.Compile(map[string]*ast.Module{"p.rego": m}); compiler.Failed() {
		return []outcome{invalid}, ""
	}
	directory := map[string]any{"users": map[string]any{"a": map[string]any{"b": a.document("name"), "a": a.document("name")}},
		"tenants": map[string]any{"a": map[string]any{"roles": a.value(1), "n": 1}, "b": a.document("roles", "n")}}
	static := map[string]any{"static": a.document("a", "list", "o")}
	p, err := Compile(t.Context(), "data.p.out", compiler, Options{Data: ast.MustInterfaceToValue(static), Root: "directory", Document: func(root, kind string) int {
		if root != "directory" {
			return 0
		}
		return map[string]int{"users": 4, "tenants": 3}[kind]
	}, Mutant: mutant})
	if err != nil {
		return []outcome{leftWhole}, ""
	}
	store := refusing{inmem.NewFromObjectWithOpts(map[string]any{"static": static["static"], "directory": directory}, inmem.OptReturnASTValuesOnRead(true))}
	query, err := compiler.QueryCompiler().Compile(ast.MustParseBody("data.p.out = x"))
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		in := a.document("a", "b", "c", "list", "o")
		if a.IntN(3) > 0 {
			in["a"], in["b"] = a.of("a", "b"), a.of("a", "b")
		}
		if a.IntN(3) == 0 {
			var many []any
			for i := range 3 * few / 2 {
				many = append(many, fmt.Sprint("m", i%(few+5)))
			}
			in["many"] = many
		}
		input := ast.MustInterfaceToValue(in)
		txn := storage.NewTransactionOrDie(t.Context(), store)
		want, topdownErr := topdown.NewQuery(query).WithCompiler(compiler).WithStore(store).WithTransaction(txn).
			WithInput(ast.NewTerm(input)).WithStrictBuiltinErrors(true).Run(t.Context())
		var got ast.Value
		err := p.Eval(Env{Context: t.Context(), Input: input, Read: func(ctx context.Context, path storage.Path) (ast.Value, error) {
			v, err := store.Read(ctx, txn, path)
			if err != nil {
				return nil, err
			}
			return v.(ast.Value), nil
		}}, func(x *ast.Term) error {
			got = Pure(x).Value
			return nil
		})
		store.Abort(t.Context(), txn)
		where := fmt.Sprintf("seed %d, input %v, directory %v, static %v\n%s", seed, input, directory, static, text)
		switch {
		case err != nil:
			all = append(all, leftOnce)
			continue
		case topdownErr != nil:
			return all, fmt.Sprintf("the machine answers %v, topdown fails: %v\n%s", got, topdownErr, where)
		case (got == nil) != (len(want) == 0):
			return all, fmt.Sprintf("the machine answers %v, topdown %v\n%s", got, want, where)
		case got != nil && got.String() != want[0]["x"].Value.String():
			return all, fmt.Sprintf("the machine answers\n%v, topdown\n%v\n%s", got, want[0]["x"], where)
		}
		all = append(all, answered)
	}
	return all, ""
}

func TestRandomPoliciesEvaluateAsInTopdown(t *testing.T) {
	t.Parallel()
	seeds := uint64(20_000) // nightly; each has four questions
	if testing.Short() {
		seeds = 500
	}
	counts := map[outcome]int{}
	for seed := range seeds {
		all, differs := tryRandom(t, seed, false)
		if differs != "" {
			t.Error(differs)
		}
		for _, o := range all {
			counts[o]++
		}
	}
	t.Logf("answered %d, left once %d, left whole %d, invalid %d", counts[answered], counts[leftOnce], counts[leftWhole], counts[invalid])
	if counts[answered] < int(seeds)/3 {
		t.Errorf("the machine answers %d questions of %d policies: the policies test too little", counts[answered], seeds)
	}
}

func FuzzPoliciesEvaluateAsInTopdown(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		if _, differs := tryRandom(t, seed, false); differs != "" {
			t.Error(differs)
		}
	})
}

// The random policies must be able to find a wrong instruction.
func TestRandomPoliciesFindAWrongInstruction(t *testing.T) {
	t.Parallel()
	for seed := range uint64(500) {
		if _, differs := tryRandom(t, seed, true); differs != "" {
			return
		}
	}
	t.Error("500 policies do not find that the machine takes false for true")
}
