package plan

import (
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/topdown"
)

const (
	pollEvery  = 256     // steps between two polls of Env.Cancel
	keepMemory = 1 << 10 // registers, collections and entries of one that a machine keeps for the next evaluation
)

// machine evaluates a program once; then it is reused.
type machine struct {
	p   *Program
	env *Env

	input   *ast.Term
	slots   []*ast.Term // nil: not looked up; undefined: absent
	regs    []*ast.Term
	iters   []iterator
	rules   []memo     // of functions without arguments
	memos   []callMemo // of functions with arguments
	results []*ast.Term
	path    storage.Path
	steps   int
	bctx    *topdown.BuiltinContext

	objects slab[object]
	sets    slab[set]
	arrays  slab[array]
	args    []*ast.Term
}

// slab hands out values that are reused together.
type slab[T any] struct {
	chunks [][]T
	n      int
}

const chunk = 16

func (s *slab[T]) next() *T {
	i, j := s.n/chunk, s.n%chunk
	if i == len(s.chunks) {
		s.chunks = append(s.chunks, make([]T, chunk))
	}
	s.n++
	return &s.chunks[i][j]
}

// each calls f for all values that were handed out, and takes them back.
func (s *slab[T]) each(f func(*T)) {
	for i := range s.n {
		f(&s.chunks[i/chunk][i%chunk])
	}
	s.n = 0
	if len(s.chunks) > keepMemory/chunk {
		s.chunks = s.chunks[:keepMemory/chunk]
	}
}

// Eval runs the program, and calls read with the value of the query's only expression; it calls
// nothing where the query is undefined. The value and what it consists of are valid until read returns.
//
// Any error means that topdown must evaluate instead: the program reports no failure by itself.
func (p *Program) Eval(env Env, read func(*ast.Term) error) (err error) {
	defer func() {
		if r := recover(); r != nil { // in read: run has its own
			err = fmt.Errorf("%w: %v", errLeft, r)
		}
	}()
	results, release, err := p.run(&env)
	defer release()
	if err != nil || len(results) == 0 {
		return err
	}
	if len(results) > 1 {
		return fmt.Errorf("%w: %d results", errLeft, len(results))
	}
	value := results[0]
	if o, ok := value.Value.(*object); ok && len(o.vals) == 1 {
		value = o.vals[0]
	}
	return read(value)
}

// run evaluates and returns the results of the query: an object of its variables for each.
func (p *Program) run(env *Env) (_ []*ast.Term, release func(), err error) {
	m, ok := p.machines.Get().(*machine)
	if !ok {
		m = &machine{p: p, slots: make([]*ast.Term, len(p.slots)), rules: make([]memo, len(p.funcs)),
			memos: make([]callMemo, len(p.funcs))}
	}
	release = func() {
		m.reset()
		p.machines.Put(m)
	}
	defer func() {
		if r := recover(); r != nil { // such as a comparison of what stands for data
			release = func() {} // the machine is not used again
			err = fmt.Errorf("%w: %v", errLeft, r)
		}
	}()
	m.env = env
	m.steps = pollEvery
	if env.Input != nil {
		m.input = ast.NewTerm(env.Input)
		m.slots[0] = m.input
	} else {
		m.slots[0] = undefined
	}
	if _, err := m.exec(0, 0, 0); err != nil {
		return nil, release, err
	}
	return m.results, release, nil
}

// reset forgets what the evaluation read, so that no document outlives it.
func (m *machine) reset() {
	m.env, m.input, m.bctx = nil, nil, nil
	clear(m.slots)
	clear(m.rules)
	for i := range m.memos {
		clear(m.memos[i].list)
		m.memos[i] = callMemo{list: m.memos[i].list[:0]}
	}
	clear(m.results)
	clear(m.path[:cap(m.path)])
	clear(m.regs)
	clear(m.iters)
	clear(m.args[:cap(m.args)])
	m.results, m.path, m.args = m.results[:0], m.path[:0], m.args[:0]
	if len(m.regs) > keepMemory {
		m.regs = nil
	}
	if len(m.iters) > keepMemory {
		m.iters = nil
	}
	m.objects.each(func(o *object) {
		clear(o.keys)
		clear(o.vals)
		*o = object{keys: o.keys[:0], vals: o.vals[:0]}
	})
	m.sets.each(func(s *set) {
		clear(s.elems)
		*s = set{elems: s.elems[:0]}
	})
	m.arrays.each(func(a *array) {
		clear(a.elems)
		*a = array{elems: a.elems[:0]}
		if cap(a.elems) > keepMemory {
			a.elems = nil
		}
	})
}

func (m *machine) newObject() *object {
	o := m.objects.next()
	o.term.Value = o
	return o
}

func (m *machine) newSet() *set {
	s := m.sets.next()
	s.term.Value = s
	return s
}

func (m *machine) newArray() *array {
	a := m.arrays.next()
	a.term.Value = a
	return a
}

// poll counts a step, and reports a cancelled evaluation.
func (m *machine) poll() error { return m.pollAfter(1) }

// pollAfter counts steps.
func (m *machine) pollAfter(steps int) error {
	if m.steps -= steps; m.steps > 0 {
		return nil
	}
	m.steps = pollEvery
	return m.cancelled()
}

func (m *machine) cancelled() error {
	if m.env.Cancel != nil && m.env.Cancel.Cancelled() {
		return &topdown.Error{Code: topdown.CancelErr, Message: "evaluation was cancelled"}
	}
	return nil
}

// exec runs function f with its registers at base. Its arguments are there already.
//
//nolint:gocyclo,cyclop,funlen,gocognit // one case for each instruction
func (m *machine) exec(f, base, iterBase int) (*ast.Term, error) {
	fn := &m.p.funcs[f]
	for len(m.regs) < base+fn.regs {
		m.regs = append(m.regs, nil)
	}
	for len(m.iters) < iterBase+fn.iters {
		m.iters = append(m.iters, iterator{})
	}
	regs := m.regs[base : base+fn.regs]
	regs[0], regs[1] = m.input, poisonTerm
	regs[2] = nil
	clear(regs[firstArg+fn.params:])
	consts, code := m.p.consts, m.p.code
	poisoned := false // an instruction has read what stands for a part of data
	var list []int32  // the blocks that a table chose
	next := 0
	read := func(x int32) *ast.Term {
		if x < 0 {
			return consts[^x]
		}
		v := regs[x]
		if v == poisonTerm {
			poisoned = true
		}
		return v
	}
	for pc := fn.entry; ; {
		if poisoned {
			return nil, errLeft
		}
		in := &code[pc]
		pc++
		switch in.op {
		case opJump:
			pc = in.to
		case opMove:
			regs[in.a] = read(in.b)
		case opReset:
			regs[in.a] = nil
		case opOnce:
			v, old := read(in.b), regs[in.a]
			switch {
			case old == nil:
				regs[in.a] = v
			case !equal(old, v): // an equal value leaves the first, of which 1 and 1.0 differ
				return nil, fmt.Errorf("%w: %s has two values", errLeft, fn.name)
			}
		case opDefined:
			if read(in.a) == nil {
				pc = in.to
			}
		case opUndefined:
			if read(in.a) != nil {
				pc = in.to
			}
		case opInput:
			v := m.slots[in.b]
			if v == nil {
				v = m.lookup(in.b)
			}
			if v == undefined {
				regs[in.a] = nil
				pc = in.to
				continue
			}
			regs[in.a] = v
		case opFact:
			v, err := m.fact(m.p.lists[in.b], regs)
			if err != nil {
				return nil, err
			}
			regs[in.a] = v
			if v == nil {
				pc = in.to
			}
		case opDot:
			v, err := m.dot(read(in.b), read(in.c))
			if err != nil {
				return nil, err
			}
			regs[in.a] = v
			if v == nil {
				pc = in.to
			}
		case opEqual:
			a, b := read(in.a), read(in.b)
			if a == nil || b == nil || !equal(a, b) {
				pc = in.to
			}
		case opNotEqual:
			a, b := read(in.a), read(in.b)
			if a == nil || b == nil || equal(a, b) {
				pc = in.to
			}
		case opTruthy:
			v := read(in.a)
			if v == nil {
				pc = in.to
			} else if b, ok := v.Value.(ast.Boolean); ok && !bool(b) {
				pc = in.to
			}
		case opIsArray:
			switch read(in.a).Value.(type) {
			case *array, *ast.Array:
			default:
				pc = in.to
			}
		case opIsObject:
			if !IsObject(read(in.a).Value) {
				pc = in.to
			}
		case opIsSet:
			switch read(in.a).Value.(type) {
			case *set, ast.Set:
			default:
				pc = in.to
			}
		case opLen:
			n := length(read(in.b))
			if n < 0 {
				return nil, fmt.Errorf("%w: the length of no collection", errLeft)
			}
			regs[in.a] = ast.InternedTerm(n)
		case opArray:
			regs[in.a] = &m.newArray().term
		case opObject:
			regs[in.a] = &m.newObject().term
		case opSet:
			regs[in.a] = &m.newSet().term
		case opAppend:
			a, err := m.ownArray(regs[in.a])
			if err != nil {
				return nil, err
			}
			regs[in.a] = &a.term
			a.converted = nil
			a.elems = append(a.elems, read(in.b))
		case opAdd:
			s, err := m.ownSet(regs[in.a])
			if err != nil {
				return nil, err
			}
			regs[in.a] = &s.term
			s.add(read(in.b))
		case opInsert, opInsertOnce:
			o, err := m.ownObject(regs[in.a])
			if err != nil {
				return nil, err
			}
			regs[in.a] = &o.term
			k, v := read(in.b), read(in.c)
			if in.op == opInsertOnce {
				if old := o.get(k); old != nil {
					if !equal(old, v) {
						return nil, fmt.Errorf("%w: %s has two values for one key", errLeft, fn.name)
					}
					continue
				}
			}
			o.insert(k, v)
		case opMerge:
			v, err := merged(read(in.b), read(in.c))
			if err != nil {
				return nil, err
			}
			regs[in.a] = v
		case opScan:
			ok, err := m.iters[iterBase+int(in.a)].over(read(in.b))
			if err != nil {
				return nil, err
			}
			if !ok {
				pc = in.to
			}
		case opNext:
			if err := m.poll(); err != nil {
				return nil, err
			}
			it := &m.iters[iterBase+int(in.a)]
			if it.next == it.length {
				pc = in.to
				continue
			}
			regs[in.b], regs[in.c] = it.entry()
		case opCall:
			v, err := m.call(&m.p.calls[in.b], regs, base+fn.regs, iterBase+fn.iters)
			if err != nil {
				return nil, err
			}
			regs = m.regs[base : base+fn.regs] // the call may have moved them
			regs[in.a] = v
			if v == nil {
				pc = in.to
			}
		case opBuiltin:
			c := &m.p.calls[in.b]
			v, err := m.builtin(c, regs)
			if err != nil {
				return nil, err
			}
			regs[in.a] = v
			if v == nil {
				pc = in.to
			}
		case opDynamic:
			callee, ok := m.p.function(m.p.lists[in.b], regs)
			if !ok {
				pc = in.to
				continue
			}
			v, err := m.rule(callee, base+fn.regs, iterBase+fn.iters)
			if err != nil {
				return nil, err
			}
			regs = m.regs[base : base+fn.regs]
			regs[in.a] = v
			if v == nil {
				pc = in.c
			}
		case opChoose:
			list, next = m.choose(&m.p.tables[in.a]), 1
			if len(list) == 0 {
				return nil, nil //nolint:nilnil // undefined
			}
			pc = list[0]
		case opNextBlock:
			if next == len(list) {
				return nil, nil //nolint:nilnil // undefined
			}
			pc = list[next]
			next++
		case opReturn:
			v := read(in.a)
			if poisoned {
				return nil, errLeft
			}
			return v, nil
		case opResult:
			m.results = append(m.results, read(in.a))
		case opLeave:
			return nil, errLeft
		}
	}
}

// lookup finds a path of the input, once for each evaluation.
func (m *machine) lookup(n int32) *ast.Term {
	s := &m.p.slots[n]
	parent := m.slots[s.parent]
	if parent == nil {
		parent = m.lookup(s.parent)
	}
	v := undefined
	if parent != undefined {
		if o, ok := parent.Value.(ast.Object); ok {
			if t := o.Get(s.key); t != nil {
				v = t
			}
		}
	}
	m.slots[n] = v
	return v
}

func (m *machine) fact(list []int32, regs []*ast.Term) (*ast.Term, error) {
	m.path = m.path[:0]
	for _, x := range list {
		t := m.p.operand(x, regs)
		s, ok := t.Value.(ast.String)
		if !ok {
			return nil, errLeft
		}
		m.path = append(m.path, string(s))
	}
	v, err := m.env.Read(m.env.Context, m.path)
	if storage.IsNotFound(err) {
		return nil, nil //nolint:nilnil // undefined
	}
	if err != nil {
		return nil, err
	}
	return ast.NewTerm(v), nil
}

func (p *Program) operand(x int32, regs []*ast.Term) *ast.Term {
	if x >= 0 {
		return regs[x]
	}
	return p.consts[^x]
}
