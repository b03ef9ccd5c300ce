// Package plan evaluates Rego by a register machine, an order of magnitude faster than OPA's
// interpreter (topdown).
//
// It owns a Program: the plan that OPA's own compiler emits (its intermediate representation,
// package ir), flattened to one array of instructions.
//
//	query ──OPA's planner──▶ ir.Policy ──lower──▶ Program ──machine──▶ result
//	                            │                    │
//	                            ▼                    ▼
//	                  *UnsupportedError          errLeft, a panic, a failing builtin
//
// Topdown remains the judge: whatever the program does not do exactly as topdown is an error,
// after which the caller evaluates by topdown. A result is never a guess. In particular a
// program evaluates every builtin and rule that topdown does, so that it misses no error of
// theirs: it exits early only where topdown does. It can need fewer facts: topdown's rule index
// reads documents that no rule asks for then.
//
// The package does not know what the policy decides, where facts come from, nor what happens
// to a program that disagrees with topdown.
package plan

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/ir"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// Options of a compilation.
type Options struct {
	// Data is the static data. It must not change afterwards.
	Data ast.Value

	// Document returns how many steps name a document that is read by Env.Read, for the first
	// two steps of a path below data, such as 4 for directory/users (data.directory.users[iss][sub]).
	// 0: the path is not below a root that is read so. -1: no such document exists. Nil: all data is static.
	Document func(root, kind string) int

	// Root is the first step of the paths that are read by Env.Read.
	Root string

	// Mutant makes the program wrong: it takes false for true. It is for tests of what must find a wrong program.
	Mutant bool
}

// Env is what one evaluation can see and is limited by.
type Env struct {
	Context context.Context //nolint:containedctx // it lives as long as the evaluation
	Input   ast.Value       // nil: undefined
	Read    func(context.Context, storage.Path) (ast.Value, error)
	Cancel  topdown.Cancel // polled; nil: the evaluation is unlimited
	Now     time.Time      // of time.now_ns
}

// UnsupportedError reports a query that is left to topdown as a whole.
type UnsupportedError struct{ Reason string }

func (e *UnsupportedError) Error() string { return "left to topdown: " + e.Reason }

func unsupported(format string, args ...any) error {
	return &UnsupportedError{fmt.Sprintf(format, args...)}
}

// errLeft reports an evaluation that came upon what is left to topdown.
var errLeft = errors.New("left to topdown")

// target is the name under which OPA asks this package for a plan of its own.
const target = "iam-plan"

//nolint:gochecknoinits // rego.RegisterPlugin is OPA's only public way to a plan
func init() { rego.RegisterPlugin(target, planner{}) }

// planner receives the plan that OPA makes for Compile, and returns it through the context.
type planner struct{}

type plannedKey struct{}

func (planner) IsTarget(name string) bool { return name == target }

func (planner) PrepareForEval(ctx context.Context, policy *ir.Policy, _ ...rego.PrepareOption) (rego.TargetPluginEval, error) {
	out, ok := ctx.Value(plannedKey{}).(**ir.Policy)
	if !ok {
		return nil, errors.New("use plan.Compile")
	}
	*out = policy
	return nil, nil //nolint:nilnil // Compile evaluates nothing by it
}

// Compile returns the program of a query over compiled modules, such as data.iam.claims.decision.
// It fails with an *UnsupportedError where the query must be left to topdown. OPA's planner can
// need exponential time and memory: run Compile under limits first where the modules are not trusted.
func Compile(ctx context.Context, query string, compiler *ast.Compiler, opts Options) (*Program, error) {
	body, err := ast.ParseBody(query)
	if err != nil {
		return nil, err
	}
	return compileBody(ctx, body, compiler, opts)
}

func compileBody(ctx context.Context, query ast.Body, compiler *ast.Compiler, opts Options) (_ *Program, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = unsupported("the planner panics: %v", p)
		}
	}()
	var policy *ir.Policy
	_, err = rego.New(rego.ParsedQuery(query), rego.Compiler(compiler), rego.Target(target)).
		PrepareForEval(context.WithValue(ctx, plannedKey{}, &policy))
	if err != nil {
		return nil, unsupported("OPA makes no plan: %v", err)
	}
	return lower(policy, compiler, opts)
}

// Program is a compiled query. It is immutable and safe for concurrent use.
type Program struct {
	code   []instr
	funcs  []function
	consts []*ast.Term
	slots  []slot    // paths of the input
	lists  [][]int32 // operands: the paths of facts and of dynamic calls
	calls  []call
	tables []table
	paths  map[string]int // of functions that are called by a computed path
	caps   *ast.Capabilities

	machines sync.Pool
}

// function is one rule or Rego function.
type function struct {
	name   string
	entry  int32
	params int // without input and data
	regs   int // registers of a frame
	iters  int // nested scans
}

// slot is a path of the input, by its parent and last step; slot 0 is the input.
type slot struct {
	parent int32
	key    *ast.Term
}

// call is a call of a function or of a builtin.
type call struct {
	fn      int // index of a function; -1: a builtin
	args    []int32
	builtin topdown.BuiltinFunc
	direct  func(m *machine, args []*ast.Term) (*ast.Term, error) // instead of builtin, where it can
	name    string
	void    bool // without a result
}

// table chooses the rules of a function by the value of one path of the input.
type table struct {
	slot   int32
	byText map[string][]int32 // the entries of the blocks that can hold for a value
	others []int32            // for every other value
}
