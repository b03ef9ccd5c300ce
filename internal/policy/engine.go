package policy

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"iam-service/internal/iam"
)

// Engine evaluates the active revision. It is safe for concurrent use; a new revision is
// swapped in between two evaluations, never within one.
type Engine struct {
	cfg       Config
	activator Activator      // nil: accepted candidates become active at once
	names     []string       // cfg.Headers in canonical form
	index     map[string]int // canonical name → place in names
	settings  *ast.Term
	current   atomic.Pointer[Revision]

	submitting sync.Mutex // one candidate at a time
	mu         sync.Mutex
	lastSeen   string // digest of the last candidate, which need not be checked again; under mu

	rejected atomic.Pointer[Rejection]

	disagreed        func(digest string) // nil: nothing is called
	off              sync.Map            // digest → why topdown evaluates its revisions
	left, mismatches atomic.Uint64       // evaluations that a program left to topdown; that differed from topdown's
}

// NewEngine returns an engine without an active revision.
func NewEngine(cfg Config) (*Engine, error) {
	if cfg.Headers == nil {
		cfg.Headers = DefaultHeaders
	}
	if cfg.Limit <= 0 {
		cfg.Limit = 50 * time.Millisecond
	}
	if cfg.OnCandidate == nil {
		cfg.OnCandidate = func(bool) {}
	}
	if err := CheckHeaders(cfg.Headers...); err != nil {
		return nil, err
	}
	settings := ast.NewObject()
	for k, v := range cfg.Settings {
		settings.Insert(ast.StringTerm(k), ast.StringTerm(v))
	}
	e := &Engine{cfg: cfg, index: map[string]int{}, settings: ast.NewTerm(settings)}
	for i, n := range cfg.Headers {
		c := http.CanonicalHeaderKey(n)
		e.names = append(e.names, c)
		e.index[c] = i
	}
	return e, nil
}

// Activator decides whether an accepted candidate becomes active at once (active), or
// whether something else activates it later. An error rejects the candidate; one of kind
// Unavailable lets it be submitted again.
type Activator func(ctx context.Context, c *Candidate, r *Revision) (active bool, err error)

// SetActivator sets what decides that; without one, accepted candidates become active at once. It must be called before
// the first candidate is submitted.
func (e *Engine) SetActivator(a Activator) { e.activator = a }

// Headers are the canonical names that every 200 carries, in the order of Decision.Values:
// all that the gateways are configured for, whatever the active revision declares.
func (e *Engine) Headers() []string { return e.names }

// Revision returns the active revision; nil before the first.
func (e *Engine) Revision() *Revision { return e.current.Load() }

// Submit takes c through the gate, and activates it before it returns unless the Activator
// defers that. A candidate that was just submitted is not checked again. It fails with a
// RetryError where the caller should submit the candidate again.
func (e *Engine) Submit(ctx context.Context, c *Candidate) error {
	digest := c.Digest()
	e.submitting.Lock()
	defer e.submitting.Unlock()
	if e.seen(digest) {
		if r := e.rejected.Load(); r != nil {
			return errors.New(r.Reason)
		}
		return nil
	}
	r, err := e.gate(ctx, c, digest)
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return &RetryError{err} // no verdict, so nothing to report
	}
	if err != nil {
		return e.rejectCandidate(ctx, c.Source, digest, err)
	}
	now := true
	if e.activator != nil {
		if now, err = e.activator(ctx, c, r); err != nil {
			if kind := iam.KindOf(err); kind != iam.Conflict && kind != iam.Invalid {
				err = &RetryError{err}
			}
			return e.rejectCandidate(ctx, c.Source, digest, err)
		}
	}
	e.mu.Lock()
	e.lastSeen = digest
	e.mu.Unlock()
	e.ClearRejection()
	if now {
		e.Activate(ctx, r)
	}
	return nil
}

// seen reports whether a candidate need not be checked again: it was just rejected, or no
// other revision was activated since it was accepted.
func (e *Engine) seen(digest string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.lastSeen == digest
}

// Activate makes a prepared revision the active one, unless it is.
func (e *Engine) Activate(ctx context.Context, r *Revision) {
	old := e.current.Load()
	if old != nil && old.Digest == r.Digest {
		return
	}
	e.applyOff(r)
	active := *r
	active.Since = time.Now().UTC()
	e.current.Store(&active)
	e.applyOff(r) // switched off meanwhile
	e.mu.Lock()
	if e.lastSeen != r.Digest && e.rejected.Load() == nil {
		e.lastSeen = "" // the source's candidate is no longer active: it may be submitted again
	}
	e.mu.Unlock()
	e.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "policy activated", slog.String("revision", r.ID), slog.String("name", r.Name),
		slog.String("source", r.Source), slog.Any("cache_key", r.CacheKey),
		slog.String("engine", r.Engine().Name))
	if engine := r.Engine(); engine.Name == EngineTopdown && !e.cfg.Topdown {
		e.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "policy left to topdown: its evaluations cost several times more", slog.String("revision", r.ID), slog.String("reason", engine.Reason))
	}
	if len(r.Unvalidated) > 0 {
		e.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "policy data not validated", slog.String("revision", r.ID), slog.Any("unvalidated", r.Unvalidated))
	}
	if e.cfg.NoTrustedProxies && len(r.RequestFacts) > 0 {
		e.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "policy reads request facts, and TRUSTED_PROXIES is empty: requests without them are denied (request_facts_missing)",
			slog.String("revision", r.ID), slog.Any("request_facts", r.RequestFacts))
	}
}
