package plan

import (
	"maps"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/ir"
)

// maxRules is the number of rules of one name above which a function without a table is left
// to topdown, whose rule index then pays more than the machine.
const maxRules = 200

// firstArg is the register of a function's first argument: behind input, data and the result.
const firstArg = 3

type opcode uint8

// Instructions. a, b and c are operands: a register, or a constant where negative (^index).
// to is where execution continues if the instruction is undefined.
const (
	opJump       opcode = iota
	opMove              // a = b
	opOnce              // a = b; a conflict if a has another value
	opDefined           // a
	opUndefined         // a
	opReset             // a
	opInput             // a = slot b
	opFact              // a = fact b
	opDot               // a = b[c]
	opEqual             // a == b
	opNotEqual          // a != b
	opTruthy            // a != false
	opIsArray           // a
	opIsObject          // a
	opIsSet             // a
	opLen               // a = len(b)
	opArray             // a = []
	opObject            // a = {}
	opSet               // a = set()
	opAppend            // a = a + [b]
	opInsert            // a[b] = c
	opInsertOnce        // a[b] = c; a conflict if a[b] has another value
	opAdd               // a = a | {b}
	opMerge             // a = merge of b and c
	opScan              // iterate over b with iterator a
	opNext              // b, c = next key and value of iterator a
	opCall              // a = call b
	opBuiltin           // a = call b of a builtin
	opDynamic           // a = call of the function at path b; c: where an undefined result continues
	opChoose            // run the blocks that table a chooses
	opNextBlock         // run the next of them
	opReturn            // a
	opResult            // add a to the results
	opLeave             // left to topdown
)

type instr struct {
	op      opcode
	a, b, c int32
	to      int32
}

// nothing is the operand of an undefined value: the first constant is nil.
const nothing = -1

// lowering flattens one policy.
type lowering struct {
	*Program
	policy *ir.Policy
	opts   Options
	index  map[string]int // function by name
	consts map[string]int32
	slotOf map[slotKey]int32

	// Of the function that is being lowered:
	labels  []int32 // position of each label; -1: not placed yet
	targets []int32 // labels of the enclosing blocks, innermost last
	known   map[ir.Local]known
	depth   int // of scans
	fn      *function
	locals  int

	firstTable int // of the function

	enumerates bool     // a part of data that cannot be enumerated is used as a value
	early      ir.Local // the result after which the function returns; -1: none
}

type slotKey struct {
	parent int32
	key    string
}

// known is what is known of a register at one point of the code.
type known struct {
	kind   knownKind
	slot   int32
	value  *ast.Term // a constant
	path   []int32   // operands
	stored bool      // the register holds it
	shared bool      // an instruction refers to value, which must not change any more
}

type knownKind uint8

const (
	isInput knownKind = iota + 1
	isConst
	isFact // the beginning of a path of a fact
)

func lower(policy *ir.Policy, compiler *ast.Compiler, opts Options) (*Program, error) {
	l := &lowering{
		Program: &Program{consts: []*ast.Term{nil}, slots: []slot{{parent: -1}}, paths: map[string]int{}, caps: compiler.Capabilities()},
		policy:  policy, opts: opts, index: map[string]int{}, consts: map[string]int32{}, slotOf: map[slotKey]int32{},
	}
	if len(policy.Plans.Plans) != 1 {
		return nil, unsupported("%d plans", len(policy.Plans.Plans))
	}
	for i, f := range policy.Funcs.Funcs {
		l.index[f.Name] = i + 1
		if f.Path != nil && len(f.Params) == 2 {
			l.paths[strings.Join(f.Path, "\x00")] = i + 1
		}
	}
	l.funcs = make([]function, 1+len(policy.Funcs.Funcs))
	if err := l.plan(policy.Plans.Plans[0]); err != nil {
		return nil, err
	}
	for i, f := range policy.Funcs.Funcs {
		if err := l.function(i+1, f); err != nil {
			return nil, err
		}
	}
	return l.Program, nil
}

func (l *lowering) begin(i int, name string) {
	l.fn = &l.funcs[i]
	*l.fn = function{name: name, entry: short(len(l.code))}
	l.labels, l.targets, l.depth, l.locals = nil, nil, 0, firstArg
	l.known = map[ir.Local]known{ir.Input: {kind: isInput, stored: true}, ir.Data: {kind: isFact, stored: true}}
	l.early = -1
	l.firstTable = len(l.tables)
}

// end resolves the labels of the function.
func (l *lowering) end() {
	l.fn.regs = l.locals
	for i := int(l.fn.entry); i < len(l.code); i++ {
		in := &l.code[i]
		if in.to < 0 {
			in.to = l.labels[^in.to]
		}
		if in.op == opDynamic && in.c < 0 {
			in.c = l.labels[^in.c]
		}
	}
	for i := l.firstTable; i < len(l.tables); i++ {
		t := &l.tables[i]
		for _, list := range t.byText {
			l.resolve(list)
		}
		l.resolve(t.others)
	}
}

func (l *lowering) resolve(list []int32) {
	for i, to := range list {
		if to < 0 {
			list[i] = l.labels[^to]
		}
	}
}

func (l *lowering) plan(p *ir.Plan) error {
	l.begin(0, p.Name)
	for _, b := range p.Blocks {
		if err := l.scoped(b); err != nil {
			return err
		}
	}
	l.emit(instr{op: opReturn, a: nothing})
	l.end()
	return nil
}

func (l *lowering) function(i int, f *ir.Func) error {
	l.begin(i, f.Name)
	if len(f.Params) < 2 || f.Params[0] != ir.Input || f.Params[1] != ir.Data {
		return unsupported("function %s has unknown parameters", f.Name)
	}
	l.fn.params = len(f.Params) - 2
	for n, p := range f.Params[2:] {
		if int(p) != firstArg+n {
			return unsupported("function %s has unknown parameters", f.Name)
		}
		l.local(p)
	}
	l.early = earlyExit(f)
	if err := l.rules(f); err != nil {
		return err
	}
	l.emit(instr{op: opReturn, a: nothing})
	l.end()
	return nil
}

// scoped lowers a block: what is undefined in it continues behind it.
func (l *lowering) scoped(b *ir.Block) error {
	l.flush()
	end := l.label()
	before := maps.Clone(l.known)
	l.targets = append(l.targets, end)
	err := l.block(b)
	l.targets = l.targets[:len(l.targets)-1]
	l.flush()
	l.place(end)
	l.known = without(before, b)
	return err
}

// without removes from known what b assigns.
func without(k map[ir.Local]known, b *ir.Block) map[ir.Local]known {
	assigned(b, func(x ir.Local) { delete(k, x) })
	return k
}

// assigned calls f for each local that b changes.
func assigned(b *ir.Block, f func(ir.Local)) {
	for _, s := range b.Stmts {
		switch s := s.(type) {
		case *ir.BlockStmt:
			for _, b := range s.Blocks {
				assigned(b, f)
			}
		case *ir.ScanStmt:
			f(s.Key)
			f(s.Value)
			assigned(s.Block, f)
		case *ir.NotStmt:
			assigned(s.Block, f)
		case *ir.WithStmt:
			f(s.Local)
			assigned(s.Block, f)
		case *ir.AssignIntStmt:
			f(s.Target)
		case *ir.AssignVarStmt:
			f(s.Target)
		case *ir.AssignVarOnceStmt:
			f(s.Target)
		case *ir.ResetLocalStmt:
			f(s.Target)
		case *ir.CallStmt:
			f(s.Result)
		case *ir.CallDynamicStmt:
			f(s.Result)
		case *ir.DotStmt:
			f(s.Target)
		case *ir.LenStmt:
			f(s.Target)
		case *ir.MakeNullStmt:
			f(s.Target)
		case *ir.MakeNumberIntStmt:
			f(s.Target)
		case *ir.MakeNumberRefStmt:
			f(s.Target)
		case *ir.MakeArrayStmt:
			f(s.Target)
		case *ir.MakeObjectStmt:
			f(s.Target)
		case *ir.MakeSetStmt:
			f(s.Target)
		case *ir.ObjectMergeStmt:
			f(s.Target)
		case *ir.ArrayAppendStmt:
			f(s.Array)
		case *ir.ObjectInsertStmt:
			f(s.Object)
		case *ir.ObjectInsertOnceStmt:
			f(s.Object)
		case *ir.SetAddStmt:
			f(s.Set)
		}
	}
}

func (l *lowering) block(b *ir.Block) error {
	for i, s := range b.Stmts {
		if _, ok := s.(*ir.BreakStmt); ok && i > 0 {
			// The planner leaves a block with the value of a path that ends here.
			if dot, ok := b.Stmts[i-1].(*ir.DotStmt); ok && l.known[dot.Target].kind == isFact {
				l.enumerates = true
			}
		}
		if err := l.stmt(s); err != nil {
			return err
		}
	}
	if l.enumerates {
		// Topdown reads it for its rule index, before it evaluates a rule, and fails: so must every evaluation.
		return unsupported("it uses data, or a collection of data.%s, as a value", l.opts.Root)
	}
	return nil
}

//nolint:gocyclo,cyclop // one case for each statement
func (l *lowering) stmt(s ir.Stmt) error {
	switch s := s.(type) {
	case *ir.NopStmt:
	case *ir.BlockStmt:
		for _, b := range s.Blocks {
			if err := l.scoped(b); err != nil {
				return err
			}
		}
	case *ir.BreakStmt:
		to, err := l.breakTo(int(s.Index))
		if err != nil {
			return err
		}
		l.flush()
		l.emit(instr{op: opJump, to: to})
	case *ir.ScanStmt:
		return l.scan(s)
	case *ir.NotStmt:
		if excludesRules(s) {
			return unsupported("it iterates over data and rules together")
		}
		return l.not(s)
	case *ir.ReturnLocalStmt:
		l.emit(instr{op: opReturn, a: l.read(s.Source)})
	case *ir.ResultSetAddStmt:
		l.emit(instr{op: opResult, a: l.read(s.Value)})
	case *ir.CallStmt:
		return l.call(s)
	case *ir.CallDynamicStmt:
		return l.dynamic(s)
	case *ir.AssignVarStmt:
		if k, ok := l.lookup(s.Source); ok && k.kind == isConst {
			l.share(s.Source)
			k.stored, k.shared = false, true
			l.setKnown(s.Target, k)
			return nil
		}
		l.emit(instr{op: opMove, b: l.operand(s.Source), a: l.write(s.Target)})
	case *ir.AssignVarOnceStmt:
		return l.assignOnce(s)
	case *ir.AssignIntStmt:
		l.setConst(s.Target, ast.InternedTerm(s.Value))
	case *ir.ResetLocalStmt:
		l.emit(instr{op: opReset, a: l.write(s.Target)})
	case *ir.IsDefinedStmt:
		if k, ok := l.known[s.Source]; ok && k.kind == isConst {
			return nil
		}
		l.emit(instr{op: opDefined, a: l.read(s.Source), to: l.fail()})
	case *ir.IsUndefinedStmt:
		l.flush()
		l.emit(instr{op: opUndefined, a: l.local(s.Source), to: l.fail()})
	case *ir.DotStmt:
		return l.dot(s)
	case *ir.LenStmt:
		l.emit(instr{op: opLen, b: l.operand(s.Source), a: l.write(s.Target), to: l.fail()})
	case *ir.EqualStmt:
		l.emit(instr{op: opEqual, a: l.operand(s.A), b: l.operand(s.B), to: l.fail()})
	case *ir.NotEqualStmt:
		if b, ok := s.B.Value.(ir.Bool); ok && !bool(b) {
			op := opTruthy
			if l.opts.Mutant {
				op = opDefined
			}
			l.emit(instr{op: op, a: l.operand(s.A), to: l.fail()})
			return nil
		}
		l.emit(instr{op: opNotEqual, a: l.operand(s.A), b: l.operand(s.B), to: l.fail()})
	case *ir.IsArrayStmt:
		l.emit(instr{op: opIsArray, a: l.operand(s.Source), to: l.fail()})
	case *ir.IsObjectStmt:
		l.emit(instr{op: opIsObject, a: l.operand(s.Source), to: l.fail()})
	case *ir.IsSetStmt:
		l.emit(instr{op: opIsSet, a: l.operand(s.Source), to: l.fail()})
	case *ir.MakeNullStmt:
		l.setConst(s.Target, ast.NullTerm())
	case *ir.MakeNumberIntStmt:
		l.setConst(s.Target, ast.InternedTerm(s.Value))
	case *ir.MakeNumberRefStmt:
		l.setConst(s.Target, ast.NewTerm(ast.Number(l.policy.Static.Strings[s.Index].Value)))
	case *ir.MakeArrayStmt:
		l.setConst(s.Target, ast.ArrayTerm())
	case *ir.MakeObjectStmt:
		l.setConst(s.Target, ast.ObjectTerm())
	case *ir.MakeSetStmt:
		l.setConst(s.Target, ast.SetTerm())
	case *ir.ArrayAppendStmt:
		l.collect(opAppend, s.Array, s.Value, ir.Operand{})
	case *ir.SetAddStmt:
		l.collect(opAdd, s.Set, s.Value, ir.Operand{})
	case *ir.ObjectInsertStmt:
		l.collect(opInsert, s.Object, s.Key, s.Value)
	case *ir.ObjectInsertOnceStmt:
		l.materialize(s.Object)
		l.emit(instr{op: opInsertOnce, a: l.write(s.Object), b: l.operand(s.Key), c: l.operand(s.Value)})
	case *ir.ObjectMergeStmt:
		l.emit(instr{op: opMerge, b: l.read(s.A), c: l.read(s.B), a: l.write(s.Target)})
	case *ir.WithStmt:
		return unsupported("it replaces parts of input or data (with)")
	default:
		return unsupported("unknown statement %T", s)
	}
	return nil
}

// assignOnce lowers the result of a rule, after which a function that exits early returns.
func (l *lowering) assignOnce(s *ir.AssignVarOnceStmt) error {
	b := l.operand(s.Source)
	if s.Target == l.early {
		l.emit(instr{op: opReturn, a: b})
		return nil
	}
	l.materialize(s.Target)
	l.emit(instr{op: opOnce, b: b, a: l.write(s.Target)})
	return nil
}

func (l *lowering) scan(s *ir.ScanStmt) error {
	l.flush()
	src := l.read(s.Source)
	l.known = without(l.known, &ir.Block{Stmts: []ir.Stmt{s}})
	iter := short(l.depth)
	l.depth++
	l.fn.iters = max(l.fn.iters, l.depth)
	end, next := l.label(), l.label()
	l.emit(instr{op: opScan, a: iter, b: src, to: ^end})
	l.place(next)
	l.emit(instr{op: opNext, a: iter, b: l.local(s.Key), c: l.local(s.Value), to: ^end})
	before := maps.Clone(l.known)
	l.targets = append(l.targets, end, next)
	err := l.block(s.Block)
	l.targets = l.targets[:len(l.targets)-2]
	l.flush()
	l.emit(instr{op: opJump, to: ^next})
	l.place(end)
	l.known = before
	l.depth--
	return err
}

func (l *lowering) not(s *ir.NotStmt) error {
	l.flush()
	fail := l.fail()
	after := l.label()
	before := maps.Clone(l.known)
	l.targets = append(l.targets, after)
	err := l.block(s.Block)
	l.targets = l.targets[:len(l.targets)-1]
	l.emit(instr{op: opJump, to: fail})
	l.place(after)
	l.known = without(before, s.Block)
	return err
}

// breakTo returns the target of a break out of n blocks.
func (l *lowering) breakTo(n int) (int32, error) {
	i := len(l.targets) - 1 - n
	if i < 0 {
		return 0, unsupported("a break out of %d blocks of %d", n+1, len(l.targets))
	}
	return ^l.targets[i], nil
}

// fail is where an undefined instruction continues: behind the innermost block.
func (l *lowering) fail() int32 { return ^l.targets[len(l.targets)-1] }

// short is an index of something in the program. The sandbox bounds programs by far more.
func short(n int) int32 { return int32(n) } //nolint:gosec // as above

func (l *lowering) emit(in instr) { l.code = append(l.code, in) }

func (l *lowering) label() int32 {
	l.labels = append(l.labels, -1)
	return short(len(l.labels) - 1)
}

func (l *lowering) place(label int32) { l.labels[label] = short(len(l.code)) }
