package plan

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/ir"
	"github.com/open-policy-agent/opa/v1/topdown"
)

func (l *lowering) dot(s *ir.DotStmt) error {
	src, ok := l.lookup(s.Source)
	key, keyKnown := l.lookup(s.Key)
	switch {
	case ok && src.kind == isFact:
		return l.dotFact(s, src)
	case ok && src.kind == isConst && keyKnown && key.kind == isConst:
		if _, isNumber := key.value.Value.(ast.Number); !isNumber || !fromStorage(src.value) {
			if v := find(src.value, key.value); v != nil {
				l.setConst(s.Target, v)
				k := l.known[s.Target]
				k.shared = true
				l.known[s.Target] = k
				return nil
			}
			if _, isArray := src.value.Value.(*ast.Array); !isArray {
				l.write(s.Target)
				l.emit(instr{op: opJump, to: l.fail()})
				return nil
			}
		}
	case ok && src.kind == isInput && keyKnown && key.kind == isConst:
		if text, isText := key.value.Value.(ast.String); isText {
			n := l.slot(src.slot, string(text))
			l.emit(instr{op: opInput, a: l.write(s.Target), b: n, to: l.fail()})
			l.known[s.Target] = known{kind: isInput, slot: n, stored: true}
			return nil
		}
	}
	b, c := l.operand(s.Source), l.operand(s.Key)
	l.emit(instr{op: opDot, b: b, c: c, a: l.write(s.Target), to: l.fail()})
	return nil
}

// fromStorage reports whether OPA would read a part of t through a storage path, in which
// numbers and text are the same. All objects of a program could come from there.
func fromStorage(t *ast.Term) bool {
	_, ok := t.Value.(ast.Set)
	return !ok
}

// dotFact extends a path below data.
func (l *lowering) dotFact(s *ir.DotStmt, src known) error {
	path := append(slices.Clone(src.path), l.operand(s.Key))
	fail := l.fail()
	leave := func() {
		l.write(s.Target)
		l.emit(instr{op: opLeave})
	}
	root, ok := l.text(path[0])
	if !ok {
		leave()
		return nil
	}
	if l.opts.Document == nil || root != l.opts.Root {
		// Static data: a known first step.
		if v := find(ast.NewTerm(l.opts.Data), ast.StringTerm(root)); v != nil {
			l.setConst(s.Target, v)
			k := l.known[s.Target]
			k.shared = true
			l.known[s.Target] = k
			return nil
		}
		l.write(s.Target)
		l.emit(instr{op: opJump, to: fail})
		return nil
	}
	if len(path) > 1 {
		kind, ok := l.text(path[1])
		if !ok {
			leave()
			return nil
		}
		switch n := l.opts.Document(root, kind); {
		case n < 0:
			l.write(s.Target)
			l.emit(instr{op: opJump, to: fail})
			return nil
		case len(path) == n:
			l.lists = append(l.lists, path)
			l.emit(instr{op: opFact, a: l.write(s.Target), b: short(len(l.lists) - 1), to: fail})
			return nil
		}
	}
	l.emit(instr{op: opMove, a: l.write(s.Target), b: l.constant(poisonTerm)})
	l.known[s.Target] = known{kind: isFact, path: path, stored: true}
	return nil
}

// text returns the string that an operand is, if it is a constant.
func (l *lowering) text(operand int32) (string, bool) {
	if operand >= 0 {
		return "", false
	}
	s, ok := l.Program.consts[^operand].Value.(ast.String)
	return string(s), ok
}

func (l *lowering) call(s *ir.CallStmt) error {
	c := call{fn: -1, name: s.Func}
	if i, ok := l.index[s.Func]; ok {
		c.fn = i
		if len(s.Args) < 2 || s.Args[0].Value != ir.Input || s.Args[1].Value != ir.Data {
			return unsupported("call of %s with unknown arguments", s.Func)
		}
		if len(s.Args) != len(l.policy.Funcs.Funcs[i-1].Params) { // the planner takes a function for a rule
			return unsupported("call of %s without its arguments", s.Func)
		}
		for _, a := range s.Args[2:] {
			c.args = append(c.args, l.operand(a))
		}
		l.calls = append(l.calls, c)
		l.emit(instr{op: opCall, a: l.write(s.Result), b: short(len(l.calls) - 1), to: l.fail()})
		return nil
	}
	decl := ast.BuiltinMap[s.Func]
	c.builtin = topdown.GetBuiltin(s.Func)
	switch {
	case decl == nil || c.builtin == nil:
		return unsupported("it calls %s, which OPA does not know", s.Func)
	case decl.Relation:
		return unsupported("it calls %s, a relation", s.Func)
	case decl.Nondeterministic && s.Func != "time.now_ns":
		return unsupported("it calls %s, whose result can differ each time", s.Func)
	}
	c.direct, c.void = direct[s.Func], decl.Decl.Result() == nil
	for _, a := range s.Args {
		c.args = append(c.args, l.operand(a))
	}
	l.calls = append(l.calls, c)
	l.emit(instr{op: opBuiltin, a: l.write(s.Result), b: short(len(l.calls) - 1), to: l.fail()})
	return nil
}

func (l *lowering) dynamic(s *ir.CallDynamicStmt) error {
	if len(s.Args) != 2 || s.Args[0] != ir.Input || s.Args[1] != ir.Data {
		return unsupported("a dynamic call with unknown arguments")
	}
	l.flush()
	var path []int32
	for _, o := range s.Path {
		path = append(path, l.operand(o))
	}
	l.lists = append(l.lists, path)
	undefinedResult, err := l.breakTo(3)
	if err != nil {
		return err
	}
	l.emit(instr{op: opDynamic, a: l.write(s.Result), b: short(len(l.lists) - 1), c: undefinedResult, to: l.fail()})
	return nil
}

// excludesRules reports whether s is what the planner makes of an iteration over data below which there are rules:
// it visits the rules first, and then what remains of the data. Topdown visits the data first, which lists show, and
// rules that exit early.
func excludesRules(s *ir.NotStmt) bool {
	if len(s.Block.Stmts) != 1 { // a negated reference has a second statement, since false is not true
		return false
	}
	_, ok := s.Block.Stmts[0].(*ir.DotStmt)
	return ok
}

func (l *lowering) slot(parent int32, key string) int32 {
	k := slotKey{parent, key}
	n, ok := l.slotOf[k]
	if !ok {
		n = short(len(l.slots))
		l.slots = append(l.slots, slot{parent, ast.InternedTerm(key)})
		l.slotOf[k] = n
	}
	return n
}
