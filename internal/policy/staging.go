package policy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/plugins"
	bundleplugin "github.com/open-policy-agent/opa/v1/plugins/bundle"
	"github.com/open-policy-agent/opa/v1/storage"

	"iam-service/internal/iam"
)

// staging is the store that the plugin manager writes to. Only its transactions differ from
// the embedded store's.
type staging struct {
	storage.Store
	engine   *Engine
	manager  *plugins.Manager
	rejected atomic.Bool // the gate has rejected the last candidate, and reported it, or is checking one
}

// stagingTxn remembers the context in which the bundle plugin leaves its compiler:
// that marks an activation.
type stagingTxn struct {
	storage.Transaction
	params *storage.Context
	write  bool
}

func innerTxn(txn storage.Transaction) storage.Transaction {
	if t, ok := txn.(*stagingTxn); ok {
		return t.Transaction
	}
	return txn
}

func (s *staging) NewTransaction(ctx context.Context, params ...storage.TransactionParams) (storage.Transaction, error) {
	inner, err := s.Store.NewTransaction(ctx, params...)
	if err != nil {
		return nil, err
	}
	t := &stagingTxn{Transaction: inner}
	if len(params) > 0 {
		t.params, t.write = params[0].Context, params[0].Write
	}
	return t, nil
}

// Commit is where OPA would activate a bundle.
func (s *staging) Commit(ctx context.Context, txn storage.Transaction) error {
	if t, ok := txn.(*stagingTxn); ok && t.write && t.params != nil && plugins.GetCompilerOnContext(t.params) != nil {
		if err := s.submit(ctx, txn); err != nil {
			s.Store.Abort(ctx, innerTxn(txn))
			return err
		}
	}
	return s.Store.Commit(ctx, innerTxn(txn))
}

// submit submits the whole content of the store as one candidate. OPA activates one bundle at a time, and
// reports its status before it activates the next. Only the discovered configuration's status is concurrent.
func (s *staging) submit(ctx context.Context, txn storage.Transaction) error {
	c, err := s.candidate(ctx, txn)
	if c == nil {
		s.rejected.Store(false)
		return err
	}
	s.rejected.Store(true) // already now: a rejection must not be cleared before OPA reports it
	err = s.engine.Submit(ctx, c)
	s.rejected.Store(err != nil)
	if err != nil {
		return canceledOr(ctx, err)
	}
	return nil
}

// candidate returns the whole content of the store; nil where it is incomplete.
func (s *staging) candidate(ctx context.Context, txn storage.Transaction) (*Candidate, error) {
	c := &Candidate{Modules: map[string]string{}, Verified: iam.VerifiedByNobody}
	names, err := bundle.ReadBundleNamesFromStore(ctx, s, txn)
	if storage.IsNotFound(err) || err == nil && len(names) == 0 {
		return nil, nil // the store is still empty
	}
	if err != nil {
		return nil, err
	}
	slices.Sort(names) // the digest must not depend on the order of arrival
	complete, signed, err := s.bundlesComplete(names)
	if err != nil || !complete {
		return nil, err
	}
	if signed {
		c.Verified = iam.VerifiedByOPA
	}
	for _, name := range names {
		roots, err := bundle.ReadBundleRootsFromStore(ctx, s, txn, name)
		if err != nil {
			return nil, err
		}
		c.Roots = append(c.Roots, roots...)
		revision, err := bundle.ReadBundleRevisionFromStore(ctx, s, txn, name)
		if err == nil && revision != "" {
			c.Name = strings.TrimPrefix(c.Name+"+"+revision, "+")
		}
	}
	slices.Sort(c.Roots)
	c.Source = bundleSource + strings.Join(names, ", ")
	ids, err := s.ListPolicies(ctx, txn)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		source, err := s.GetPolicy(ctx, txn, id)
		if err != nil {
			return nil, err
		}
		if len(names) == 1 {
			id = strings.TrimPrefix(id, names[0]+"/") // as other sources of the bundle name it
		}
		c.Modules[id] = string(source)
	}
	if c.Data, err = s.snapshot(ctx, txn); err != nil {
		return nil, err
	}
	if err := c.extractExtras(); err != nil {
		return nil, err
	}
	return c, nil
}

// bundlesComplete reports whether all bundles of the current configuration, static or
// discovered, are in the store: a partial policy could lack the rules that deny. signed
// reports whether OPA has verified all of them. It fails where a bundle must be signed and
// its configuration does not require it.
func (s *staging) bundlesComplete(names []string) (complete, signed bool, err error) {
	p := bundleplugin.Lookup(s.manager)
	if p == nil {
		return true, false, nil
	}
	complete, signed = true, true
	for name, source := range p.Config().Bundles {
		if source.Signing == nil || source.Signing.KeyID == "" {
			signed = false
			if s.engine.cfg.SignedOnly {
				return false, false, fmt.Errorf(`bundle %q has no "signing" with a "keyid": its signature is not verified; configure a key, or allow that with POLICY_ALLOW_UNSIGNED=1`, name)
			}
		}
		complete = complete && slices.Contains(names, name)
	}
	return complete, signed, nil
}

// snapshot is a deep copy of the data, without OPA's own documents.
func (s *staging) snapshot(ctx context.Context, txn storage.Transaction) (map[string]any, error) {
	root, err := s.Read(ctx, txn, storage.Path{})
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(root)
	if err != nil {
		return nil, err
	}
	var data map[string]any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber() // as for bundles: large numbers keep their precision
	if err := d.Decode(&data); err != nil {
		return nil, err
	}
	delete(data, "system")
	return data, nil
}

func (s *staging) Read(ctx context.Context, txn storage.Transaction, path storage.Path) (any, error) {
	return s.Store.Read(ctx, innerTxn(txn), path)
}

func (s *staging) Write(ctx context.Context, txn storage.Transaction, op storage.PatchOp, path storage.Path, v any) error {
	return s.Store.Write(ctx, innerTxn(txn), op, path, v)
}

func (s *staging) Truncate(ctx context.Context, txn storage.Transaction, params storage.TransactionParams, it storage.Iterator) error {
	return s.Store.Truncate(ctx, innerTxn(txn), params, it)
}

func (s *staging) Abort(ctx context.Context, txn storage.Transaction) {
	s.Store.Abort(ctx, innerTxn(txn))
}

func (s *staging) ListPolicies(ctx context.Context, txn storage.Transaction) ([]string, error) {
	return s.Store.ListPolicies(ctx, innerTxn(txn))
}

func (s *staging) GetPolicy(ctx context.Context, txn storage.Transaction, id string) ([]byte, error) {
	return s.Store.GetPolicy(ctx, innerTxn(txn), id)
}

func (s *staging) UpsertPolicy(ctx context.Context, txn storage.Transaction, id string, b []byte) error {
	return s.Store.UpsertPolicy(ctx, innerTxn(txn), id, b)
}

func (s *staging) DeletePolicy(ctx context.Context, txn storage.Transaction, id string) error {
	return s.Store.DeletePolicy(ctx, innerTxn(txn), id)
}

// Register wraps the trigger, which otherwise would receive the embedded store's transaction,
// unknown to the manager.
func (s *staging) Register(ctx context.Context, txn storage.Transaction, config storage.TriggerConfig) (storage.TriggerHandle, error) {
	if on := config.OnCommit; on != nil {
		config.OnCommit = func(ctx context.Context, inner storage.Transaction, event storage.TriggerEvent) {
			t := &stagingTxn{Transaction: inner}
			if event.Context != nil {
				t.params = event.Context
			}
			on(ctx, t, event)
		}
	}
	h, err := s.Store.Register(ctx, innerTxn(txn), config)
	return stagingHandle{h}, err
}

type stagingHandle struct{ storage.TriggerHandle }

func (h stagingHandle) Unregister(ctx context.Context, txn storage.Transaction) {
	h.TriggerHandle.Unregister(ctx, innerTxn(txn))
}
