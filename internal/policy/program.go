package policy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"

	"iam-service/internal/directory"
	"iam-service/internal/iam"
	"iam-service/internal/policy/plan"
)

// The names of what evaluates a revision, in Status.
const (
	EngineMachine = "machine" // package plan, with topdown as the judge
	EngineTopdown = "topdown" // OPA's interpreter
)

// EngineStatus is what evaluates the active revision's enrichments. Explanations,
// acceptance cases, tests and administration are always evaluated by topdown.
type EngineStatus struct {
	Name   string `json:"name"`             // EngineMachine or EngineTopdown
	Reason string `json:"reason,omitempty"` // why topdown does
}

// machine is the state of a revision's program. The copies of a revision share it.
type machine struct {
	program *plan.Program          // of Entrypoint; nil: topdown evaluates
	authzen *plan.Program          // of AuthzenEntrypoint; nil: topdown evaluates
	off     atomic.Pointer[string] // why topdown evaluates; nil: the program does
}

// switchOff makes topdown evaluate from now on. The first reason stays.
func (m *machine) switchOff(reason string) { m.off.CompareAndSwap(nil, &reason) }

// active returns the program that evaluates; nil where topdown does.
func (m *machine) active() *plan.Program {
	if m == nil || m.off.Load() != nil {
		return nil
	}
	return m.program
}

// activeAuthzen is active for AuthzenEntrypoint.
func (m *machine) activeAuthzen() *plan.Program {
	if m == nil || m.off.Load() != nil {
		return nil
	}
	return m.authzen
}

// Engine reports what evaluates r.
func (r *Revision) Engine() EngineStatus {
	if r.machine == nil {
		return EngineStatus{Name: EngineTopdown}
	}
	if reason := r.machine.off.Load(); reason != nil {
		return EngineStatus{EngineTopdown, *reason}
	}
	return EngineStatus{Name: EngineMachine}
}

// planned compiles the program of r, and compares it with topdown by the acceptance cases.
// Whatever fails leaves r to topdown: it rejects the program, not the policy.
func (e *Engine) planned(ctx context.Context, r *Revision, cases []Case) {
	r.machine = &machine{}
	if e.cfg.Topdown {
		r.machine.switchOff("POLICY_ENGINE=topdown")
		return
	}
	options := plan.Options{Data: r.store.data, Root: directory.Root, Document: directory.Depth, Mutant: e.cfg.MachineMutant}
	p, err := plan.Compile(ctx, Entrypoint, r.compiler, options)
	if err != nil {
		r.machine.switchOff(err.Error())
		return
	}
	var evaluations *plan.Program
	if r.Authorizes() {
		status := *r.Authzen
		if evaluations, err = plan.Compile(ctx, AuthzenEntrypoint, r.compiler, options); err != nil {
			status.Engine.Reason = err.Error() // enrichments are evaluated by the machine all the same
		} else {
			status.Engine = EngineStatus{Name: EngineMachine}
		}
		r.Authzen = &status
	}
	for _, c := range cases {
		with := program{p, entrypoint{Entrypoint, r.query}}
		switch {
		case c.Entrypoint == caseAuthzen && evaluations == nil, c.Entrypoint == caseAdmin:
			continue
		case c.Entrypoint == caseAuthzen:
			with = program{evaluations, entrypoint{AuthzenEntrypoint, r.authzen.decision}}
		}
		if !e.agreesOnCase(ctx, r, with, c) {
			r.machine.switchOff(fmt.Sprintf("its result for the acceptance case %q differs from topdown's", c.Title))
			return
		}
	}
	r.machine.program, r.machine.authzen = p, evaluations
}

// program is the program of an entrypoint.
type program struct {
	*plan.Program
	of entrypoint
}

// agreesOnCase evaluates a case by both. A program that leaves the case to topdown agrees.
func (e *Engine) agreesOnCase(ctx context.Context, r *Revision, p program, c Case) bool {
	facts, err := directory.NewStatic(c.Directory)
	if err != nil {
		return true
	}
	input, err := r.caseInput(c)
	if err != nil {
		return true
	}
	now := time.Now()
	limit := cmp.Or(e.cfg.CaseTime, caseTime)
	ev := &evaluation{facts: facts, ctx: ctx, began: now, limit: limit, deadline: now.Add(limit)}
	var result *ast.Term
	err = p.Eval(plan.Env{Context: ctx, Input: input, Read: facts.Read, Cancel: ev, Now: now}, func(t *ast.Term) error {
		result = plan.Pure(t)
		return nil
	})
	if err != nil || result == nil {
		return true
	}
	ev = &evaluation{facts: facts, ctx: ctx, began: time.Now(), limit: limit, deadline: time.Now().Add(limit)}
	return r.agreesWith(ctx, p.of, evalRequest{input: input, now: now}, ev, result)
}

// verified reports whether this evaluation is compared with topdown's.
func (e *Engine) verified() bool {
	share := e.cfg.VerifyShare
	return share >= 1 || share > 0 && rand.Float64() < share //nolint:gosec // a sample
}

// evalRequest is what one evaluation of an entrypoint is about.
type evalRequest struct {
	by    Basis
	input ast.Value
	now   time.Time
}

// evaluateByProgram evaluates an entrypoint by the revision's program, and passes the result to parse. It reports false
// where topdown must evaluate: the program or parse failed, or topdown disagrees with it.
func (e *Engine) evaluateByProgram(ctx context.Context, p program, q evalRequest, parse func(*ast.Term) error) (took time.Duration, ok bool) {
	ev := e.evaluation(ctx, q.by)
	compare, defined := e.verified(), false
	var result *ast.Term
	err := p.Eval(plan.Env{Context: ctx, Input: q.input, Read: q.by.Facts.Read, Cancel: ev, Now: q.now}, func(t *ast.Term) error {
		if defined = true; compare {
			result = plan.Pure(t)
		}
		return parse(t)
	})
	end := time.Now()
	if err != nil || !defined || ev.late(end) {
		e.left.Add(1)
		return 0, false
	}
	if compare && !e.agrees(ctx, p.of, q, result) {
		return 0, false
	}
	return ev.own(end), true
}

// agrees compares a result of the program with topdown's. Where they differ, topdown
// evaluates this revision from now on, here and on all other replicas.
func (e *Engine) agrees(ctx context.Context, at entrypoint, q evalRequest, result *ast.Term) bool {
	r := q.by.Revision
	if r.agreesWith(ctx, at, q, e.evaluation(ctx, q.by), result) {
		return true
	}
	e.mismatches.Add(1)
	if e.SwitchOff(r.Digest, "its result differed from topdown's") {
		e.cfg.Log.LogAttrs(ctx, slog.LevelError, "policy machine disagrees with topdown: topdown evaluates this revision from now on", slog.String("revision", r.ID))
	}
	r.machine.switchOff("its result differed from topdown's") // it may not be the active revision
	if e.disagreed != nil {
		e.disagreed(r.Digest)
	}
	return false
}

// agreesWith reports whether topdown has the same result, or none because time or facts ran out.
func (r *Revision) agreesWith(ctx context.Context, at entrypoint, q evalRequest, ev *evaluation, want *ast.Term) bool {
	rs, err := r.eval(ctx, at, q.input, ev, rego.EvalTime(q.now))
	if known, ok := errors.AsType[*iam.Error](err); ok && known.Kind == iam.Unavailable {
		return true
	}
	if err != nil {
		return false
	}
	t, err := result(rs)
	return err == nil && ast.Compare(t.Value, want.Value) == 0
}

// SetDisagreed sets what is called with the digest of a revision whose program disagreed with topdown. It must be
// called before the first evaluation.
func (e *Engine) SetDisagreed(f func(digest string)) { e.disagreed = f }

// SwitchOff makes topdown evaluate the revisions of a digest in this process. It reports whether
// the program did so far.
func (e *Engine) SwitchOff(digest, reason string) bool {
	_, known := e.off.LoadOrStore(digest, reason)
	if r := e.current.Load(); r != nil && r.Digest == digest && r.machine != nil {
		r.machine.switchOff(reason)
	}
	return !known
}

// applyOff switches the program of a revision off, if its digest is.
func (e *Engine) applyOff(r *Revision) {
	if reason, ok := e.off.Load(r.Digest); ok && r.machine != nil {
		text, _ := reason.(string) // SwitchOff stores no other type
		r.machine.switchOff(text)
	}
}
