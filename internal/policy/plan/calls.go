package plan

import (
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

type remembered struct {
	args   []*ast.Term
	result *ast.Term
}

// callMemo is the calls of one function so far.
type callMemo struct {
	list   []remembered
	byHash map[uint64][]int // indexes of list by the hash of the arguments; nil while they are few
}

type memo struct {
	done   bool
	result *ast.Term
}

// call runs a rule or a function.
func (m *machine) call(c *call, regs []*ast.Term, base, iterBase int) (*ast.Term, error) {
	if len(c.args) == 0 {
		return m.rule(c.fn, base, iterBase)
	}
	fn := &m.p.funcs[c.fn]
	for len(m.regs) < base+fn.regs {
		m.regs = append(m.regs, nil)
	}
	args := m.regs[base+firstArg : base+firstArg+len(c.args)]
	for i, x := range c.args {
		if args[i] = m.p.operand(x, regs); args[i] == nil || args[i] == poisonTerm {
			return nil, errLeft
		}
	}
	if err := m.poll(); err != nil {
		return nil, err
	}
	// As topdown, from the first call: of equal arguments, such as 1 and 1.0, the first decide.
	calls := &m.memos[c.fn]
	if i := calls.find(args); i >= 0 {
		return calls.list[i].result, nil
	}
	known := remembered{args: append([]*ast.Term(nil), args...)}
	result, err := m.exec(c.fn, base, iterBase)
	if err != nil {
		return nil, err
	}
	known.result = result
	m.memos[c.fn].add(known) // exec may have added others
	return result, nil
}

// find returns the index of the call with these arguments; -1: there was none.
func (c *callMemo) find(args []*ast.Term) int {
	if c.byHash == nil {
		for i := range c.list {
			if sameArgs(c.list[i].args, args) {
				return i
			}
		}
		return -1
	}
	for _, i := range c.byHash[hashOf(args)] {
		if sameArgs(c.list[i].args, args) {
			return i
		}
	}
	return -1
}

func (c *callMemo) add(r remembered) {
	c.list = append(c.list, r)
	switch {
	case c.byHash != nil:
		h := hashOf(r.args)
		c.byHash[h] = append(c.byHash[h], len(c.list)-1)
	case len(c.list) > few:
		c.byHash = map[uint64][]int{}
		for i, r := range c.list {
			h := hashOf(r.args)
			c.byHash[h] = append(c.byHash[h], i)
		}
	}
}

func sameArgs(a, b []*ast.Term) bool {
	for i := range a {
		if !equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

func hashOf(args []*ast.Term) uint64 {
	h := uint64(len(args))
	for _, a := range args {
		h = h*31 + uint64(pureValue(a.Value).Hash()) //nolint:gosec // any bits do
	}
	return h
}

// rule runs a rule once for each evaluation.
func (m *machine) rule(f, base, iterBase int) (*ast.Term, error) {
	if known := &m.rules[f]; known.done {
		return known.result, nil
	}
	if err := m.poll(); err != nil {
		return nil, err
	}
	result, err := m.exec(f, base, iterBase)
	if err != nil {
		return nil, err
	}
	m.rules[f] = memo{true, result}
	return result, nil
}

// function returns the rule at a path of computed steps.
func (p *Program) function(list []int32, regs []*ast.Term) (int, bool) {
	steps := make([]string, len(list))
	for i, x := range list {
		t := p.operand(x, regs)
		if t == nil {
			return 0, false
		}
		s, ok := t.Value.(ast.String)
		if !ok {
			return 0, false
		}
		steps[i] = string(s)
	}
	f, ok := p.paths[strings.Join(steps, "\x00")]
	return f, ok
}

// choose returns the blocks that can hold.
func (m *machine) choose(t *table) []int32 {
	v := m.slots[t.slot]
	if v == nil {
		v = m.lookup(t.slot)
	}
	if s, ok := v.Value.(ast.String); ok {
		if list, ok := t.byText[string(s)]; ok {
			return list
		}
	}
	return t.others
}
