package plan

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
)

func compilerOf(t testing.TB, text string) *ast.Compiler {
	t.Helper()
	m, err := ast.ParseModuleWithOpts("p.rego", "package p\n\n"+text, ast.ParserOptions{RegoVersion: ast.RegoV1})
	if err != nil {
		t.Fatal(err)
	}
	c := ast.NewCompiler()
	if c.Compile(map[string]*ast.Module{"p.rego": m}); c.Failed() {
		t.Fatal(c.Errors)
	}
	return c
}

var options = Options{
	Data: ast.MustInterfaceToValue(map[string]any{"static": map[string]any{"a": "b", "list": []any{"x", "y"}}}),
	Root: "directory",
	Document: func(root, kind string) int {
		if root != "directory" {
			return 0
		}
		if kind != "users" {
			return -1
		}
		return 4
	},
}

func programOf(t testing.TB, text string) *Program {
	t.Helper()
	p, err := Compile(t.Context(), "data.p.out", compilerOf(t, text), options)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var errDown = errors.New("the database is down")

// users is the directory of these tests: one user, a/b; reading another issuer's fails.
func users(_ context.Context, path storage.Path) (ast.Value, error) {
	switch {
	case path[2] == "down":
		return nil, errDown
	case path[2] == "a" && path[3] == "b":
		return ast.MustInterfaceToValue(map[string]any{"name": "Ada", "5": "five", "list": []any{"zero"}}), nil
	}
	return nil, &storage.Error{Code: storage.NotFoundErr}
}

func evaluate(p *Program, input any, cancel ...bool) (got string, err error) {
	env := Env{Context: context.Background(), Input: ast.MustInterfaceToValue(input), Read: users}
	if len(cancel) > 0 {
		env.Cancel = after{time.Now().Add(20 * time.Millisecond)}
	}
	got = "undefined"
	err = p.Eval(env, func(t *ast.Term) error {
		got = Pure(t).String()
		return nil
	})
	return got, err
}

type after struct{ at time.Time }

func (after) Cancel()           {}
func (a after) Cancelled() bool { return time.Now().After(a.at) }

func TestAQueryThatAProgramCannotEvaluateWhollyIsLeftToTopdown(t *testing.T) {
	t.Parallel()
	var many strings.Builder
	for i := range maxRules + 10 {
		fmt.Fprintf(&many, "out contains %d if startswith(input.path, \"/%d\")\n\n", i, i)
	}
	for name, c := range map[string]struct{ text, reason string }{
		"a with":                 {"x if input.a\n\nout if x with input.a as true", "with"},
		"a relation":             {"out contains x if walk(input, [_, x])", "relation"},
		"chance":                 {`out := rand.intn("x", 5)`, "differ each time"},
		"more rules than bodies": {many.String(), "rules"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Compile(t.Context(), "data.p.out", compilerOf(t, c.text), options)
			if u, ok := errors.AsType[*UnsupportedError](err); !ok || !strings.Contains(u.Reason, c.reason) {
				t.Errorf("%v, want a reason with %q", err, c.reason)
			}
		})
	}
}

func TestAnEvaluationThatAProgramCannotFinishIsLeftToTopdown(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"a builtin that fails":        `out := to_number("x")`,
		"a rule with two values":      "out := 1 if input.a\n\nout := 2 if input.b",
		"a key with two values":       "out := {k: v | some k in [\"x\"]; some v in [1, 2]}",
		"a collection of documents":   "out := [x | some x in data.directory.users]",
		"all documents of an issuer":  "out := data.directory.users[input.a]",
		"a collection in a variable":  "x := data.directory.users\n\nout := x.a.b.name",
		"a collection as an argument": "f(x) := x.a.b.name\n\nout := f(data.directory.users)",
		"a step that is no text":      "out := data.directory.users[input.n][input.b]",
		"a number as a key of a fact": "out := data.directory.users.a.b[5]",
		"text as an index of a fact":  `out := data.directory.users.a.b.list["0"]`,
		"facts that cannot be read":   "out := data.directory.users.down.b",
		"a denial by absent facts":    "default out := false\n\nout if not data.directory.users.down.b",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := Compile(t.Context(), "data.p.out", compilerOf(t, text), options)
			if err != nil {
				if _, ok := errors.AsType[*UnsupportedError](err); !ok {
					t.Error(err)
				}
				return // left as a whole
			}
			if got, err := evaluate(p, map[string]any{"a": "a", "b": "b", "n": 1}); err == nil {
				t.Errorf("it answers %s", got)
			}
		})
	}
}

func TestFactsAreReadByTheirPath(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"out := data.directory.users[input.a][input.b].name":              `"Ada"`,
		"out := data.directory.users.a[input.b]":                          `{"5": "five", "list": ["zero"], "name": "Ada"}`,
		"out := data.directory.users[input.a].c":                          "undefined",
		"out := data.directory.nothing.x":                                 "undefined",
		"default out := 1\n\nout := data.directory.users.a.c":             "1",
		"u := data.directory.users[input.a][input.b]\n\nout := u.list[0]": `"zero"`,
	} {
		if got, err := evaluate(programOf(t, text), map[string]any{"a": "a", "b": "b"}); err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", text, got, err, want)
		}
	}
}

// Many rules that compare one path of the input are chosen by a table.
func TestRulesAreChosenByWhatTheyCompare(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&text, "out contains \"r%d\" if {\n\tinput.path == \"/%d\"\n\tinput.method == \"GET\"\n}\n\n", i, i)
	}
	text.WriteString("out contains \"any\" if input.method == \"GET\"\n\nout contains \"again\" if \"/7\" == input.path\n")
	p := programOf(t, text.String())
	if len(p.tables) != 1 {
		t.Fatalf("%d tables, want one", len(p.tables))
	}
	for _, c := range []struct {
		input map[string]any
		want  string
	}{
		{map[string]any{"path": "/1234", "method": "GET"}, `{"any", "r1234"}`},
		{map[string]any{"path": "/7", "method": "GET"}, `{"again", "any", "r7"}`},
		{map[string]any{"path": "/7", "method": "PUT"}, `{"again"}`},
		{map[string]any{"path": "/none", "method": "GET"}, `{"any"}`},
		{map[string]any{"path": 7, "method": "GET"}, `{"any"}`},
		{map[string]any{"method": "GET"}, `{"any"}`},
		{map[string]any{}, `set()`},
	} {
		if got, err := evaluate(p, c.input); err != nil || got != c.want {
			t.Errorf("%v: %s, %v, want %s", c.input, got, err, c.want)
		}
	}
}

// What could fail before the comparison is evaluated, as topdown might.
func TestATableSkipsNothingThatCouldFail(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	for i := range 20 {
		fmt.Fprintf(&text, "out contains %d if {\n\tto_number(input.n) == %d\n\tinput.path == \"/%d\"\n}\n\n", i, i, i)
	}
	if got, err := evaluate(programOf(t, text.String()), map[string]any{"path": "/1", "n": "x"}); err == nil {
		t.Errorf("it answers %s", got)
	}
}

func TestAProgramStopsWhenItIsCancelled(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"nested scans":    "out := count([1 | some a in input.l; some b in input.l; some c in input.l; some d in input.l; a == d])",
		"doubled texts":   "t0 := concat(\"\", [input.t, input.t])\n\n" + doubling(40) + "out := count(t40)",
		"doubled arrays":  "t0 := array.concat(input.l, input.l)\n\n" + strings.ReplaceAll(strings.ReplaceAll(doubling(40), `concat("", [`, "array.concat("), "])", ")") + "out := count(t40)",
		"nested function": "f(x) := count([1 | some a in input.l; some b in input.l; some c in input.l; a == x])\n\nout := [f(x) | some x in input.l]",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			list := make([]int, 1000)
			for i := range list {
				list[i] = i
			}
			began := time.Now()
			got, err := evaluate(programOf(t, text), map[string]any{"l": list, "t": strings.Repeat("x", 1000)}, true)
			if err == nil {
				t.Errorf("it answers %.100s", got)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("it takes %s", took)
			}
		})
	}
}

func doubling(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "t%d := concat(\"\", [t%d, t%d])\n\n", i+1, i, i)
	}
	return b.String()
}

// Each function calls the next twice: without memory of its results, 2^40 calls.
func TestAFunctionIsNotEvaluatedAgainForTheSameArguments(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	for i := range 40 {
		fmt.Fprintf(&text, "f%d(x) := n if {\n\ta := f%d(x)\n\tb := f%d(x)\n\tn := a + b\n}\n\n", i, i+1, i+1)
	}
	text.WriteString("f40(x) := x\n\nout := f0(input.n)\n")
	if got, err := evaluate(programOf(t, text.String()), map[string]any{"n": 1}, true); err != nil || got != "1099511627776" {
		t.Errorf("%s, %v", got, err)
	}
}

func TestOneProgramEvaluatesConcurrently(t *testing.T) {
	t.Parallel()
	p := programOf(t, "s contains x if some x in input.l\n\nf(x) := {\"x\": x, \"s\": s}\n\nout := [f(x) | some x in input.l]")
	var running sync.WaitGroup
	for i := range 8 {
		running.Go(func() {
			for range 200 {
				list := []int{i, i + 1, i + 2}
				got, err := evaluate(p, map[string]any{"l": list})
				one := func(x int) string { return fmt.Sprintf(`{"s": {%d, %d, %d}, "x": %d}`, i, i+1, i+2, x) }
				if want := "[" + one(i) + ", " + one(i+1) + ", " + one(i+2) + "]"; err != nil || got != want {
					t.Errorf("%s, %v, want %s", got, err, want)
					return
				}
			}
		})
	}
	running.Wait()
}

// Collections of few entries are searched, larger ones hashed: both are the same to a policy.
func TestCollectionsOfAnySizeAreOPAs(t *testing.T) {
	t.Parallel()
	text := `s := {x | some x in input.l}
o := {x: {"n": x} | some x in input.l}
nested[x] contains i if some i, x in input.l
out := {"s": s, "o": o, "nested": nested, "in": input.l[0] in s, "keys": object.keys(o), "list": [x | some x in s], "u": s | {"last"}, "eq": s == {x | some x in input.l}}`
	program, compiler := programOf(t, text), compilerOf(t, text)
	for n := 1; n < 3*few; n++ {
		var list []any
		for i := range n {
			list = append(list, fmt.Sprint("k", (i*7)%n))
		}
		input := map[string]any{"l": list}
		got, err := evaluate(program, input)
		if err != nil {
			t.Fatal(n, err)
		}
		rs, err := rego.New(rego.Query("x := data.p.out"), rego.Compiler(compiler), rego.ParsedInput(ast.MustInterfaceToValue(input)), rego.GenerateJSON(
			func(t *ast.Term, _ *rego.EvalContext) (any, error) { return t.String(), nil })).Eval(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if want := rs[0].Bindings["x"]; got != want {
			t.Fatalf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestAMachineKeepsNothingOfAnEvaluation(t *testing.T) {
	t.Parallel()
	p := programOf(t, "s contains x if some x in input.l\n\nout := {\"s\": s, \"a\": [x | some x in s], \"o\": {x: 1 | some x in s}}")
	m := &machine{p: p, slots: make([]*ast.Term, len(p.slots)), rules: make([]memo, len(p.funcs)), memos: make([]callMemo, len(p.funcs))}
	p.machines.Put(m)
	for range 100 { // the pool may drop it
		if _, err := evaluate(p, map[string]any{"l": []string{"secret", "other"}}); err != nil {
			t.Fatal(err)
		}
	}
	holds := func(list []*ast.Term) bool {
		return slices.ContainsFunc(list[:cap(list)], func(x *ast.Term) bool { return x != nil && x != poisonTerm })
	}
	if m.env != nil || m.input != nil || holds(m.regs) || holds(m.slots) || holds(m.results) || holds(m.args) {
		t.Error("the machine holds terms")
	}
	for _, chunk := range m.objects.chunks {
		for _, o := range chunk {
			if holds(o.keys) || holds(o.vals) || o.converted != nil {
				t.Error("the machine holds an object")
			}
		}
	}
	for _, chunk := range m.sets.chunks {
		for _, s := range chunk {
			if holds(s.elems) || s.converted != nil {
				t.Error("the machine holds a set")
			}
		}
	}
}
