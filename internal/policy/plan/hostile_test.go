package plan

import (
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
)

// What data.directory cannot enumerate is never a value, however it reaches one: topdown fails, so the machine must not answer.
func TestACollectionOfDocumentsIsNoValueAnywhere(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"out if data.directory.users",
		"out if data.directory",
		"out if { _ = data.directory.users }",
		"out := 1 if { x := data.directory.users; x != 1 }",
		"default out := 1\n\nout := 2 if not data.directory.users",
		"out if data.directory.users == data.directory.users",
		"out if data.directory.users != 1",
		"f(x) := 1\n\nout := f(data.directory.users)",
		"f(x) := 1\n\nout := f([data.directory.users])",
		"out := count([data.directory.users])",
		"out := count([1 | x := data.directory.users; x != 1])",
		"x := data.directory.users\n\nout if x",
		"x := data.directory.users\n\nout := {{\"a\": x}, {\"a\": 1, \"b\": 2}}",
		"default out := {\"allow\": false}\n\nout := {\"allow\": true} if {\n\tdata.directory.users\n\tdata.directory.users[input.a][input.b].name\n}",
		"out := {\"k\": data.directory.users[input.a]}",
		"out := {data.directory.users[input.a]}",
		"out if data.directory.users[input.a] in [1]",
		"out if is_object(data.directory.users)",
		"out if { some x in [data.directory.users]; x }",
		"out contains data.directory.users",
		"out[data.directory.users] := 1",
		"out if every x in [1] { x == 1; data.directory.users }",
	} {
		p, err := Compile(t.Context(), "data.p.out", compilerOf(t, text), options)
		if err != nil {
			continue // left as a whole
		}
		if got, err := evaluate(p, map[string]any{"a": "a", "b": "b"}); err == nil {
			t.Errorf("%s\nanswers %s", text, got)
		}
	}
}

// The planner visits rules before data, topdown data before rules.
func TestAnIterationOverDataAndRulesIsLeftToTopdown(t *testing.T) {
	t.Parallel()
	m, err := ast.ParseModuleWithOpts("l.rego", "package static\n\ng := \"1\"\n\nf(x) := 2\n", ast.ParserOptions{RegoVersion: ast.RegoV1})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"out := [v | some v in data.static]", "out if { some v in data.static; to_number(v) == 1 }", "out := [v | v := data.static[_]]"} {
		main, err := ast.ParseModuleWithOpts("p.rego", "package p\n\n"+text, ast.ParserOptions{RegoVersion: ast.RegoV1})
		if err != nil {
			t.Fatal(err)
		}
		c := ast.NewCompiler()
		if c.Compile(map[string]*ast.Module{"l.rego": m, "p.rego": main}); c.Failed() {
			t.Fatal(c.Errors)
		}
		if _, err := Compile(t.Context(), "data.p.out", c, options); err == nil {
			t.Errorf("%s has a program", text)
		}
	}
}

// 1 and 1.0 are equal, and differ as text: which of them a policy sees is topdown's choice.
func TestOfEqualNumbersTopdownsIsSeen(t *testing.T) {
	t.Parallel()
	input := map[string]any{"l": []any{1, 2}, "k": ast.Number("1.0")}
	for text, want := range map[string]string{
		"f(x) := json.marshal(x)\n\nout := [f(1), f(1.0)]":                       `["1", "1"]`,
		"s contains x if some x in input.l\n\nout := json.marshal([s[input.k]])": `"[1.0]"`,
		"out := json.marshal(object.filter({1: 2}, [1.0]))":                      `"{\"1\":2}"`,
		"out := json.marshal(object.union({1: 2}, {1.0: 3}))":                    `"{\"1\":3}"`,
		"out := json.marshal({1} | {1.0})":                                       `"[1]"`,
	} {
		in := ast.MustInterfaceToValue(map[string]any{"l": input["l"]}).(ast.Object)
		in.Insert(ast.StringTerm("k"), ast.NewTerm(ast.Number("1.0")))
		got := "undefined"
		err := programOf(t, text).Eval(Env{Context: t.Context(), Input: in, Read: users}, func(x *ast.Term) error {
			got = Pure(x).String()
			return nil
		})
		if err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", text, got, err, want)
		}
	}
}

func TestBuiltinsOnLargeOperandsArePolledToo(t *testing.T) {
	t.Parallel()
	list := make([]int, 2000)
	for i := range list {
		list[i] = i
	}
	for name, text := range map[string]string{
		"split":    `out := count([1 | some x in input.l; count(split(input.t, ",")) == x])`,
		"contains": `out := count([1 | some x in input.l; some y in input.l; contains(input.t, "no")])`,
		"union":    "s := {x | some x in input.l}\n\nout := count([1 | some x in input.l; count(s | {x}) == x])",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := programOf(t, text)
			input := map[string]any{"l": list, "t": strings.Repeat(",", 64<<10)}
			polls := 0
			limit := counter{&polls}
			err := p.Eval(Env{Context: t.Context(), Input: ast.MustInterfaceToValue(input), Read: users, Cancel: limit}, func(*ast.Term) error { return nil })
			if err == nil {
				t.Error("it answers")
			}
		})
	}
}

// counter cancels at the tenth poll: an evaluation that polls by the work it does ends early, whatever the machine's speed.
type counter struct{ polls *int }

func (counter) Cancel() {}
func (c counter) Cancelled() bool {
	*c.polls++
	return *c.polls > 10
}
