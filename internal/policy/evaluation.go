package policy

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"

	"iam-service/internal/directory"
)

// evaluation is one run of a query. OPA sees it as the transaction that it hands
// to the store, as its cache of base documents, and as what it asks whether to
// stop. It is used by one goroutine.
type evaluation struct {
	facts    Facts
	ctx      context.Context //nolint:containedctx // it lives as long as the call that made it
	began    time.Time
	waited   time.Duration // for facts, before it began
	limit    time.Duration
	deadline time.Time
	hit      atomic.Bool

	cache []cachedDoc // few: found by walking
	room  [8]cachedDoc
}

type cachedDoc struct {
	ref ast.Ref
	v   ast.Value
}

// Get and Put are topdown.BaseCache: what a reference led to, for this
// evaluation. What lies below a known document is found in it.
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
			return nil // not there: the store says so again
		}
		return v
	}
	return nil
}

func (ev *evaluation) Put(ref ast.Ref, v ast.Value) {
	if ev.cache == nil {
		ev.cache = ev.room[:0]
	}
	if len(ev.cache) < cap(ev.room) {
		ev.cache = append(ev.cache, cachedDoc{slices.Clone(ref), v}) // OPA uses the slice again
	}
}

// Cancel and Cancelled are topdown.Cancel: without a goroutine and without a
// timer. The clock is looked at each time, since one step of a policy that keeps
// doubling something costs as much as all before it.
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

// own is how long the evaluation has run, without waiting for facts.
func (ev *evaluation) own(now time.Time) time.Duration {
	return now.Sub(ev.began) - (ev.facts.Waited() - ev.waited)
}

// late reports whether the time is over, the evaluation's own or the request's.
func (ev *evaluation) late(now time.Time) bool {
	return ev.own(now) > ev.limit || now.After(ev.deadline)
}

// revisionStore is what a query of one revision reads: its own data, and the
// facts of the evaluation below data.directory. Nothing can be written.
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
		return nil, errors.New("data as a whole cannot be read: it holds the directory, which cannot be enumerated")
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

// ListPolicies is asked while a query is prepared; an error would make that fail.
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
