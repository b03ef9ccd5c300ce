package plan

import (
	"strings"

	"github.com/open-policy-agent/opa/v1/ir"
)

// indexFrom is the number of rules of one name from which a table is worth its look-up.
const indexFrom = 8

// earlyExit returns the local that holds the result of f's rules where f may return as soon as
// one holds; -1 where it must evaluate all. Topdown exits early where all rules have the same
// value; so does a program, but only where it is certain to evaluate the rules in topdown's
// order: else it could exit before a rule whose error topdown reports.
func earlyExit(f *ir.Func) ir.Local {
	result := ir.Local(-1)
	for _, b := range f.Blocks {
		if r, ok := endOfRule(b, f.Return); ok {
			result = r
		}
		if n := len(b.Stmts); n == 1 { // rules with else
			if s, ok := b.Stmts[0].(*ir.BlockStmt); ok {
				for _, b := range s.Blocks {
					if r, ok := endOfRule(b, f.Return); ok {
						result = r
					}
				}
			}
		}
	}
	if result < 0 {
		return -1
	}
	var value ir.Val
	same := true
	for _, b := range f.Blocks {
		results(b, result, func(v ir.Val) {
			switch v.(type) {
			case ir.StringIndex, ir.Bool:
				if value == nil {
					value = v
				}
				same = same && v == value
			default:
				same = false
			}
		})
	}
	if !same || value == nil || !inOrder(f) {
		return -1
	}
	return result
}

// endOfRule returns the local whose value b makes the result of the function.
func endOfRule(b *ir.Block, result ir.Local) (ir.Local, bool) {
	if len(b.Stmts) != 2 {
		return 0, false
	}
	d, ok1 := b.Stmts[0].(*ir.IsDefinedStmt)
	a, ok2 := b.Stmts[1].(*ir.AssignVarOnceStmt)
	if !ok1 || !ok2 || a.Target != result || a.Source.Value != d.Source {
		return 0, false
	}
	return d.Source, true
}

// results calls f for what b assigns to result.
func results(b *ir.Block, result ir.Local, f func(ir.Val)) {
	for _, s := range b.Stmts {
		switch s := s.(type) {
		case *ir.BlockStmt:
			for _, b := range s.Blocks {
				results(b, result, f)
			}
		case *ir.ScanStmt:
			results(s.Block, result, f)
		case *ir.NotStmt:
			results(s.Block, result, f)
		case *ir.AssignVarOnceStmt:
			if s.Target == result {
				f(s.Source.Value)
			}
		}
	}
}

// inOrder reports whether the rules of f stand in one file in the order of the plan. OPA's
// planner sorts rules by an unstable sort, which reorders a dozen or less never.
func inOrder(f *ir.Func) bool {
	file, row, rules := -1, 0, 0
	for _, b := range f.Blocks {
		if len(b.Stmts) == 0 {
			continue
		}
		s := b.Stmts[0]
		if _, ok := endOfRule(b, f.Return); ok {
			continue
		}
		if _, ok := s.(*ir.ReturnLocalStmt); ok {
			continue
		}
		if _, ok := s.(*ir.IsUndefinedStmt); ok {
			continue // the default
		}
		if nested, ok := s.(*ir.BlockStmt); ok && len(nested.Blocks) > 0 && len(nested.Blocks[0].Stmts) > 0 {
			s = nested.Blocks[0].Stmts[0]
		}
		at := s.GetLocation()
		rules++
		if file >= 0 && (at.File != file || at.Row < row) {
			return false
		}
		file, row = at.File, at.Row
	}
	return true
}

// rules lowers the blocks of a function, one after the other or chosen by a table.
func (l *lowering) rules(f *ir.Func) error {
	units := unitsOf(f)
	path, t := l.table(units)
	if t == nil {
		if len(units) > maxRules {
			return unsupported("%s has %d rules, and no equality of one path of the input chooses from them", strings.TrimPrefix(f.Name, "g0."), len(units))
		}
		for _, b := range f.Blocks {
			if err := l.scoped(b); err != nil {
				return err
			}
		}
		return nil
	}
	starts := make([]int32, len(units))
	for i := range units {
		starts[i] = ^l.label()
	}
	t.slot = l.slotAt(path)
	t.byText = map[string][]int32{}
	for i := range units {
		if u := &units[i]; u.equal[path] == "" {
			t.others = append(t.others, starts[i])
		} else {
			t.byText[u.equal[path]] = nil
		}
	}
	for text := range t.byText {
		var list []int32
		for i := range units {
			if e := units[i].equal[path]; e == "" || e == text {
				list = append(list, starts[i])
			}
		}
		t.byText[text] = list
	}
	l.tables = append(l.tables, *t)
	l.emit(instr{op: opChoose, a: short(len(l.tables) - 1)})
	for i, u := range units {
		l.place(^starts[i])
		for _, b := range u.blocks {
			if err := l.scoped(b); err != nil {
				return err
			}
		}
		l.emit(instr{op: opNextBlock})
	}
	return nil
}

// unit is the blocks of one rule, or of what is common to all.
type unit struct {
	blocks []*ir.Block
	equal  map[string]string // the text that a path of the input must equal, before anything can fail
}

func unitsOf(f *ir.Func) (units []unit) {
	for _, b := range f.Blocks {
		if _, ok := endOfRule(b, f.Return); ok && len(units) > 0 {
			last := &units[len(units)-1]
			last.blocks = append(last.blocks, b)
			continue
		}
		units = append(units, unit{blocks: []*ir.Block{b}})
	}
	return units
}

// table chooses the path of the input that most rules compare with a text.
func (l *lowering) table(units []unit) (string, *table) {
	if len(units) < indexFrom {
		return "", nil
	}
	counts := map[string]int{}
	for i := range units {
		units[i].equal = l.equalities(units[i].blocks[0])
		for path := range units[i].equal {
			counts[path]++
		}
	}
	best := ""
	for path, n := range counts {
		if n > counts[best] || n == counts[best] && path < best {
			best = path
		}
	}
	if counts[best] < indexFrom || len(units)-counts[best] > maxRules {
		return "", nil
	}
	return best, &table{}
}

const pathSep = "\x00"

// equalities finds the comparisons at the beginning of a rule that decide whether it can hold.
// It stops at what could fail with an error: topdown might evaluate it.
func (l *lowering) equalities(b *ir.Block) map[string]string {
	equal := map[string]string{}
	at := map[ir.Local]string{ir.Input: ""} // the path of the input that a local holds
	for _, s := range b.Stmts {
		switch s := s.(type) {
		case *ir.ResetLocalStmt:
			delete(at, s.Target)
		case *ir.MakeNullStmt:
			delete(at, s.Target)
		case *ir.MakeNumberIntStmt:
			delete(at, s.Target)
		case *ir.MakeNumberRefStmt:
			delete(at, s.Target)
		case *ir.IsDefinedStmt, *ir.NotEqualStmt:
		case *ir.DotStmt:
			src, ok := s.Source.Value.(ir.Local)
			key, isText := s.Key.Value.(ir.StringIndex)
			path, known := at[src]
			if !ok || !isText || !known {
				return equal
			}
			at[s.Target] = path + pathSep + l.policy.Static.Strings[key].Value
		case *ir.AssignVarStmt:
			src, ok := s.Source.Value.(ir.Local)
			if path, known := at[src]; ok && known {
				at[s.Target] = path
			} else {
				delete(at, s.Target)
			}
		case *ir.EqualStmt:
			l.equality(equal, at, s.A, s.B)
			l.equality(equal, at, s.B, s.A)
		default:
			return equal
		}
	}
	return equal
}

func (l *lowering) equality(equal map[string]string, at map[ir.Local]string, a, b ir.Operand) {
	x, ok1 := a.Value.(ir.Local)
	text, ok2 := b.Value.(ir.StringIndex)
	path, known := at[x]
	if !ok1 || !ok2 || !known || path == "" {
		return
	}
	if s := l.policy.Static.Strings[text].Value; s != "" { // "" stands for no comparison
		if _, twice := equal[path]; !twice {
			equal[path] = s
		}
	}
}

// slotAt returns the slot of a path that equalities found.
func (l *lowering) slotAt(path string) int32 {
	n := int32(0)
	for step := range strings.SplitSeq(strings.TrimPrefix(path, pathSep), pathSep) {
		n = l.slot(n, step)
	}
	return n
}
