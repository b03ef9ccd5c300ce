package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/topdown"

	"iam-service/internal/directory"
	"iam-service/internal/iam"
)

// evaluation is one run of a query. For OPA it is the transaction that it passes
// to the store, the cache of base documents, and the cancellation signal. It is
// used by one goroutine.
type evaluation struct {
	facts    Facts
	ctx      context.Context //nolint:containedctx // it lives as long as the call that created it
	began    time.Time
	waited   time.Duration // for facts, before it began
	limit    time.Duration
	deadline time.Time
	hit      atomic.Bool

	cache []cachedDoc // few: searched linearly
}

const cachedDocs = 8

type cachedDoc struct {
	ref ast.Ref
	v   ast.Value
}

// Get and Put are topdown.BaseCache: the document of each reference, for this
// evaluation. A path below a cached document is found within it.
func (ev *evaluation) Get(ref ast.Ref) ast.Value {
	for i := range ev.cache {
		known := &ev.cache[i]
		if !ref.HasPrefix(known.ref) {
			continue
		}
		if len(ref) == len(known.ref) {
			return known.v
		}
		v, err := known.v.Find(ref[len(known.ref):])
		if err != nil {
			return nil // absent: the store reports it
		}
		return v
	}
	return nil
}

func (ev *evaluation) Put(ref ast.Ref, v ast.Value) {
	if ev.cache == nil { // only topdown puts documents
		ev.cache = make([]cachedDoc, 0, cachedDocs)
	}
	if len(ev.cache) < cachedDocs {
		ev.cache = append(ev.cache, cachedDoc{slices.Clone(ref), v}) // OPA reuses the slice
	}
}

// Cancel and Cancelled are topdown.Cancel, without a goroutine or a timer. Each
// poll reads the clock, since one step of a policy that keeps doubling a value
// costs as much as all steps before it.
func (ev *evaluation) Cancel() { ev.hit.Store(true) }

func (ev *evaluation) Cancelled() bool {
	if ev.hit.Load() {
		return true
	}
	if ev.late(time.Now()) || ev.ctx.Err() != nil {
		ev.hit.Store(true)
		return true
	}
	return false
}

// own is the evaluation time so far, without waiting for facts.
func (ev *evaluation) own(now time.Time) time.Duration {
	return now.Sub(ev.began) - (ev.facts.Waited() - ev.waited)
}

// late reports whether the evaluation's limit or the request's deadline has passed.
func (ev *evaluation) late(now time.Time) bool {
	return ev.own(now) > ev.limit || now.After(ev.deadline)
}

// revisionStore is what a query of one revision reads: its own data, and the
// facts of the evaluation below data.directory. It is read-only.
type revisionStore struct{ data ast.Value }

var (
	errReadOnly = errors.New("a revision is read-only")
	errAbsent   = &storage.Error{Code: storage.NotFoundErr, Message: "document does not exist"}
)

func (s *revisionStore) Read(ctx context.Context, txn storage.Transaction, path storage.Path) (any, error) {
	if len(path) > 0 && path[0] == directory.Root {
		ev, ok := txn.(*evaluation)
		if !ok {
			return nil, errAbsent // while the query is prepared
		}
		v, err := ev.facts.Read(ctx, path)
		if err != nil {
			return nil, err // not v: a nil ast.Value in an any is not nil
		}
		return v, nil
	}
	if len(path) == 0 {
		return nil, errors.New("data as a whole cannot be read: it contains the directory, which cannot be enumerated")
	}
	if v := directory.Find(s.data, path); v != nil {
		return v, nil
	}
	return nil, errAbsent
}

func (*revisionStore) NewTransaction(context.Context, ...storage.TransactionParams) (storage.Transaction, error) {
	return preparing{}, nil
}

// preparing is the transaction under which a query is prepared.
type preparing struct{}

func (preparing) ID() uint64 { return 0 }

// ID makes an evaluation a storage.Transaction.
func (ev *evaluation) ID() uint64 { return 0 }

func (*revisionStore) Write(context.Context, storage.Transaction, storage.PatchOp, storage.Path, any) error {
	return errReadOnly
}

func (*revisionStore) Truncate(context.Context, storage.Transaction, storage.TransactionParams, storage.Iterator) error {
	return errReadOnly
}
func (*revisionStore) Commit(context.Context, storage.Transaction) error { return nil }
func (*revisionStore) Abort(context.Context, storage.Transaction)        {}

// ListPolicies is called while a query is prepared, and must not fail.
func (*revisionStore) ListPolicies(context.Context, storage.Transaction) ([]string, error) {
	return nil, nil
}

func (*revisionStore) GetPolicy(context.Context, storage.Transaction, string) ([]byte, error) {
	return nil, errAbsent
}

func (*revisionStore) UpsertPolicy(context.Context, storage.Transaction, string, []byte) error {
	return errReadOnly
}

func (*revisionStore) DeletePolicy(context.Context, storage.Transaction, string) error {
	return errReadOnly
}

func (*revisionStore) Register(context.Context, storage.Transaction, storage.TriggerConfig) (storage.TriggerHandle, error) {
	return nil, errReadOnly
}

// ErrNoPolicy reports that no revision is active yet.
var ErrNoPolicy = &iam.Error{Kind: iam.Unavailable, Code: "no_policy", Detail: "no policy is active yet"}

// cappedTTL bounds the cache entries of a revision whose decisions can change without a change of facts.
const cappedTTL = time.Second

// Basis is what an input is decided by. The input is no part of it: it would escape to the heap with the facts, also
// where the decision is cached.
type Basis struct {
	Revision *Revision
	Facts    Facts
	Deadline time.Time // of the whole request; an evaluation has Config.Limit of its own
}

// Decide evaluates the entrypoint. It fails with an iam.Error: Unavailable
// after a timeout or where facts could not be read, Internal where the policy is
// invalid, Forbidden where a header cannot carry a value.
func (e *Engine) Decide(ctx context.Context, q *Input, by Basis) (Decision, error) {
	if x := by.Revision.draft; x != nil {
		return x.decide(ctx, q, by.Facts)
	}
	r, input := by.Revision, by.Revision.input(q, e.settings)
	if p := r.machine.active(); p != nil {
		var d Decision
		parse := func(t *ast.Term) (err error) {
			d, err = e.decision(t, r)
			return err
		}
		took, ok := e.evaluateByProgram(ctx, program{p, entrypoint{Entrypoint, r.query}}, evalRequest{by, input, q.Now}, parse)
		if d.Took = took; ok {
			return r.capped(d), nil
		}
	}
	ev := e.evaluation(ctx, by)
	rs, err := r.eval(ctx, entrypoint{Entrypoint, r.query}, input, ev, rego.EvalTime(q.Now))
	if err != nil {
		return Decision{}, err
	}
	took := ev.own(time.Now())
	d, err := e.decisionOf(rs, r)
	if err != nil {
		return Decision{}, err
	}
	d.Took = took
	return r.capped(d), nil
}

// evaluation begins a run of a query for a request.
func (e *Engine) evaluation(ctx context.Context, by Basis) *evaluation {
	return &evaluation{facts: by.Facts, ctx: ctx, began: time.Now(), waited: by.Facts.Waited(), limit: e.cfg.Limit, deadline: by.Deadline}
}

// capped bounds how long a decision of r is cached.
func (r *Revision) capped(d Decision) Decision {
	if r.Capped && (d.TTL < 0 || d.TTL > cappedTTL) {
		d.TTL = cappedTTL
	}
	return d
}

// entrypoint is a prepared query, and its name in errors.
type entrypoint struct {
	name  string
	query rego.PreparedEvalQuery
}

// eval runs one of r's queries with the least overhead that OPA allows, and with limits that are polled.
func (r *Revision) eval(ctx context.Context, at entrypoint, input ast.Value, ev *evaluation, more ...rego.EvalOption) (rego.ResultSet, error) {
	rs, err := at.query.Eval(ctx, append(more,
		rego.EvalParsedInput(input),
		rego.EvalTransaction(ev),
		rego.EvalBaseCache(ev),
		rego.EvalExternalCancel(ev),
		rego.EvalGenerateJSON(rawTerm),
		rego.EvalMetrics(noMetrics),
	)...)
	if err == nil && ev.late(time.Now()) {
		ev.Cancel()
		err = &topdown.Error{Code: topdown.CancelErr, Message: "evaluation timed out"}
	}
	if err != nil {
		return nil, r.failure(at.name, err, ev)
	}
	return rs, nil
}

var noMetrics = metrics.NoOp()

func rawTerm(t *ast.Term, _ *rego.EvalContext) (any, error) { return t, nil }

func (r *Revision) failure(entrypoint string, err error, ev *evaluation) error {
	if known, ok := errors.AsType[*iam.Error](err); ok {
		return known // the facts could not be read
	}
	if topdown.IsCancel(err) && ev.hit.Load() {
		return &iam.Error{Kind: iam.Unavailable, Code: "policy_timeout", Detail: "policy evaluation timed out",
			Cause: fmt.Errorf("evaluate %s at %s: %w", entrypoint, r.ID, err)}
	}
	return policyErrorAt(entrypoint, r, "%w", redacted(err))
}

// redacted reduces an OPA error to location, code and builtin: its message can contain token
// claims, and errors are logged and stored.
func redacted(err error) error {
	e, ok := errors.AsType[*topdown.Error](err)
	if !ok {
		return err // our store's, which names no value
	}
	text := e.Code
	if e.Location.HasFile() { // else it is the source text
		text = e.Location.String() + ": " + text
	}
	if name, _, _ := strings.Cut(e.Message, ":"); ast.BuiltinMap[name] != nil {
		text += ": " + name
	}
	return errors.New(text)
}

func policyError(r *Revision, format string, args ...any) error {
	return policyErrorAt(Entrypoint, r, format, args...)
}

func policyErrorAt(entrypoint string, r *Revision, format string, args ...any) error {
	return &iam.Error{Kind: iam.Internal, Code: "policy_error", Detail: "the policy is broken",
		Cause: fmt.Errorf("evaluate "+entrypoint+" at "+r.ID+": "+format, args...)}
}
