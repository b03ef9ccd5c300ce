package plan

import (
	"maps"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/ir"
)

// collect adds to a collection: to the constant that it is so far, if all is constant.
func (l *lowering) collect(op opcode, target ir.Local, x, y ir.Operand) {
	k, ok := l.known[target]
	bx, okx := l.lookup(x)
	var by known
	oky := true
	if op == opInsert {
		by, oky = l.lookup(y)
	}
	if ok && k.kind == isConst && okx && bx.kind == isConst && oky && (op != opInsert || by.kind == isConst) {
		v := k.value
		switch c := v.Value.(type) {
		case *ast.Array:
			v = ast.NewTerm(c.Append(bx.value))
		case ast.Set:
			if k.shared || k.stored {
				c = c.Copy()
			}
			c.Add(bx.value)
			v = ast.NewTerm(c)
		case ast.Object:
			if k.shared || k.stored {
				c = c.Copy()
			}
			c.Insert(bx.value, by.value)
			v = ast.NewTerm(c)
		}
		l.share(x)
		l.share(y)
		l.setConst(target, v)
		return
	}
	l.materialize(target)
	in := instr{op: op, b: l.operand(x)}
	if op == opInsert {
		in.c = l.operand(y)
	}
	in.a = l.write(target)
	l.emit(in)
}

// share marks the constant in a local as referred to.
func (l *lowering) share(o ir.Operand) {
	if x, ok := o.Value.(ir.Local); ok {
		if k, ok := l.known[x]; ok {
			k.shared = true
			l.known[x] = k
		}
	}
}

// materialize makes the register hold a collection that can grow.
func (l *lowering) materialize(x ir.Local) {
	k, ok := l.known[x]
	if !ok || k.kind != isConst {
		return
	}
	delete(l.known, x)
	if k.stored {
		return
	}
	l.store(x, k)
}

// store emits the instruction that gives a register its constant.
func (l *lowering) store(x ir.Local, k known) {
	in := instr{op: opMove, a: l.local(x)}
	switch c := k.value.Value.(type) {
	case *ast.Array:
		if c.Len() == 0 {
			in.op = opArray
		}
	case ast.Object:
		if c.Len() == 0 {
			in.op = opObject
		}
	case ast.Set:
		if c.Len() == 0 {
			in.op = opSet
		}
	}
	if in.op == opMove {
		in.b = l.constant(k.value)
	}
	l.emit(in)
}

// flush stores all constants in their registers: before code that several paths reach.
func (l *lowering) flush() {
	for _, x := range slices.Sorted(maps.Keys(l.known)) {
		if k := l.known[x]; k.kind == isConst && !k.stored {
			l.store(x, k)
			k.stored, k.shared = true, true
			l.known[x] = k
		}
	}
}

// read returns the operand of a local.
func (l *lowering) read(x ir.Local) int32 { return l.operand(ir.Operand{Value: x}) }

// operand returns what an instruction reads.
func (l *lowering) operand(o ir.Operand) int32 {
	k, ok := l.lookup(o)
	if ok && k.kind == isConst {
		l.share(o)
		return l.constant(k.value)
	}
	if ok && k.kind == isFact {
		l.enumerates = true // data, or a collection of it, as a value
	}
	x, _ := o.Value.(ir.Local) // lookup knows all else
	return l.local(x)
}

// lookup returns what is known of an operand.
func (l *lowering) lookup(o ir.Operand) (known, bool) {
	switch v := o.Value.(type) {
	case ir.Local:
		k, ok := l.known[v]
		return k, ok
	case ir.StringIndex:
		return known{kind: isConst, value: ast.InternedTerm(l.policy.Static.Strings[v].Value), shared: true}, true
	case ir.Bool:
		return known{kind: isConst, value: ast.InternedTerm(bool(v)), shared: true}, true
	}
	return known{}, false
}

func (l *lowering) setConst(x ir.Local, v *ast.Term) {
	l.local(x)
	l.known[x] = known{kind: isConst, value: v}
}

func (l *lowering) setKnown(x ir.Local, k known) {
	l.local(x)
	l.known[x] = k
}

// constant returns the operand of a constant.
func (l *lowering) constant(t *ast.Term) int32 {
	if s, ok := t.Value.(ast.String); ok {
		if n, ok := l.consts[string(s)]; ok {
			return n
		}
		defer func() { l.consts[string(s)] = ^short(len(l.Program.consts) - 1) }()
	}
	l.Program.consts = append(l.Program.consts, t)
	return ^short(len(l.Program.consts) - 1)
}

// write returns the register of a local whose value becomes unknown.
func (l *lowering) write(x ir.Local) int32 {
	delete(l.known, x)
	return l.local(x)
}

// local returns the register of a local.
func (l *lowering) local(x ir.Local) int32 {
	l.locals = max(l.locals, int(x)+1)
	return short(int(x))
}
