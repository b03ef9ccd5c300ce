package policy

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"
)

// Rejection describes the last rejected candidate, unless one was accepted since.
type Rejection struct {
	Source string    `json:"source"`
	Digest string    `json:"digest,omitempty"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}

// Status is the active revision, and the candidate that was rejected since.
type Status struct {
	Revision *Revision  `json:"in_force"`
	Rejected *Rejection `json:"refused,omitempty"`

	Engine *EngineStatus `json:"engine,omitempty"` // of the active revision
}

// Status returns the state of the engine.
func (e *Engine) Status() Status {
	s := Status{Revision: e.current.Load(), Rejected: e.rejected.Load()}
	if s.Revision != nil {
		engine := s.Revision.Engine()
		s.Engine = &engine
	}
	return s
}

// RetryError reports that a candidate could be neither accepted nor rejected now: it should
// be submitted again.
type RetryError struct{ Cause error }

func (e *RetryError) Error() string {
	return "the candidate cannot be checked or activated now: " + e.Cause.Error()
}

func (e *RetryError) Unwrap() error { return e.Cause }

// ClearRejection records that a candidate was accepted: an earlier rejection no longer counts.
func (e *Engine) ClearRejection() {
	e.mu.Lock()
	e.rejected.Store(nil)
	e.mu.Unlock()
	e.cfg.OnCandidate(true)
}

// rejectCandidate records a rejection. A RetryError lets the candidate be submitted again.
func (e *Engine) rejectCandidate(ctx context.Context, source, digest string, err error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, later := errors.AsType[*RetryError](err)
	if r := e.rejected.Load(); r != nil && r.Digest == digest && r.Reason == reasonOf(err) {
		return err // reported already
	}
	e.lastSeen = digest
	if later {
		e.lastSeen = ""
	}
	e.recordRejection(ctx, source, digest, err)
	return err
}

// Reject records that a candidate could not be read or activated; digest is empty where it
// is unknown.
func (e *Engine) Reject(ctx context.Context, source, digest string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r := e.rejected.Load(); r != nil && r.Reason == reasonOf(err) {
		return // reported already
	}
	e.lastSeen = ""
	e.recordRejection(ctx, source, digest, err)
}

// clearRejectionOf forgets a rejection of a source whose name begins with prefix: it provides the active revision again.
func (e *Engine) clearRejectionOf(prefix string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r := e.rejected.Load(); r != nil && !strings.HasPrefix(r.Source, prefix) {
		return
	}
	e.rejected.Store(nil)
	if r := e.current.Load(); r != nil {
		e.lastSeen = r.Digest
	}
}

// maxReasonBytes bounds a rejection's reason in the log and in the status.
const maxReasonBytes = 4 << 10

func reasonOf(err error) string {
	reason := err.Error()
	if len(reason) > maxReasonBytes {
		return strings.ToValidUTF8(reason[:maxReasonBytes], "") + "…"
	}
	return reason
}

// recordRejection is called under mu.
func (e *Engine) recordRejection(ctx context.Context, source, digest string, err error) {
	e.rejected.Store(&Rejection{Source: source, Digest: digest, Reason: reasonOf(err), At: time.Now().UTC()})
	e.cfg.OnCandidate(false)
	active := "none"
	if r := e.current.Load(); r != nil {
		active = r.ID
	}
	e.cfg.Log.LogAttrs(ctx, slog.LevelError, "policy rejected", slog.String("source", source), slog.String("err", reasonOf(err)),
		slog.String("active_revision", active))
}
