package admin

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"iam-service/internal/iam"
)

// policyDoc is a revision in the audit.
type policyDoc struct {
	Digest   string  `json:"digest"`
	Name     string  `json:"name,omitempty"`
	Source   string  `json:"source,omitempty"`
	Verified string  `json:"verified,omitempty"`
	Kind     string  `json:"kind,omitempty"`
	Preview  string  `json:"preview,omitempty"`
	Reason   string  `json:"reason,omitempty"`
	Share    float64 `json:"share,omitempty"`
}

// PolicyRevisions lists revisions, the newest first.
func (w *Work) PolicyRevisions(ctx context.Context, before time.Time, digest string, limit int) ([]iam.PolicyRevision, error) {
	return w.tx.PolicyRevisions(ctx, before, digest, limit)
}

// PolicyRevision finds a revision by its digest or the first 12 or more digits of it.
func (w *Work) PolicyRevision(ctx context.Context, ref string) (iam.PolicyRevision, error) {
	if !iam.ValidPolicyRef(ref) {
		return iam.PolicyRevision{}, errNotFound
	}
	r, found, err := w.tx.PolicyRevision(ctx, ref)
	if err == nil && !found {
		err = errNotFound
	}
	return r, err
}

// PolicyActivations lists activations, the newest first.
func (w *Work) PolicyActivations(ctx context.Context, limit int) ([]iam.PolicyActivation, error) {
	return w.tx.PolicyActivations(ctx, limit)
}

// PolicyReplicas lists the active revision of each replica.
func (w *Work) PolicyReplicas(ctx context.Context) ([]iam.PolicyReplica, error) {
	return w.tx.PolicyReplicas(ctx)
}

// PolicyShadow is the revision that is evaluated as a shadow of the active one.
func (w *Work) PolicyShadow(ctx context.Context) (iam.PolicyShadow, error) {
	return w.tx.PolicyShadow(ctx)
}

// AddPolicyRevision stores a revision that the gate has accepted. A stored one may be sent again
// with another signature, which is no change of the policy.
func (w *Work) AddPolicyRevision(ctx context.Context, r iam.PolicyRevision, bundle []byte) (_ iam.PolicyRevision, made bool, err error) {
	if old, found, err := w.tx.PolicyRevision(ctx, r.Digest); err != nil || found {
		if err == nil {
			err = w.tx.ResubmitPolicyRevision(ctx, r.Digest, r.Verified, bundle)
		}
		old.Bytes = len(bundle)
		return old, false, err
	}
	r.ActorKind, r.Actor, r.Via, r.Bytes, r.AddedAt = w.actorKind, w.actor, w.caller.Via, len(bundle), time.Now().UTC()
	if err := w.tx.AddPolicyRevision(ctx, r, bundle); err != nil {
		return r, false, err
	}
	w.emit(iam.PolicyRevisionAddedEvent{PolicyState: iam.PolicyState{Revision: r.ID(), Digest: r.Digest, Name: r.Name}})
	return r, true, w.record("", iam.KindPolicy, r.ID(), nil, policyDoc{Digest: r.Digest, Name: r.Name, Source: r.Source, Verified: r.Verified})
}

// Activation is the request to activate a revision.
type Activation struct {
	Preview string // id of the preview that was reviewed; empty: none
	Reason  string
	Force   bool // also where a replica has not prepared it
}

// errSuperseded is for a revision that was active before: a download does not activate it again.
func errSuperseded(r iam.PolicyRevision) error {
	return &iam.Error{Kind: iam.Conflict, Code: "policy_superseded", Detail: fmt.Sprintf(
		"revision %s was active before (last from %s) and has been replaced: only a rollback activates it again (iam-service policy rollback %s)",
		r.ID(), r.LastInForce.UTC().Format(time.RFC3339), r.ID())}
}

// TakePolicy activates a new revision of a source (POLICY_ACTIVATION=auto).
func (w *Work) TakePolicy(ctx context.Context, digest string) error {
	r, current, err := w.revisionAndCurrent(ctx, digest)
	switch {
	case err != nil || current.Digest == r.Digest:
		return err
	case r.Activations > 0:
		return errSuperseded(r)
	}
	_, err = w.activate(ctx, r, current, iam.PolicyActivation{Kind: iam.PolicyFromSource})
	return err
}

// ActivatePolicy activates a revision that never was active, once all replicas have prepared it.
func (w *Work) ActivatePolicy(ctx context.Context, ref string, a Activation) (iam.PolicyActivation, error) {
	r, current, err := w.revisionAndCurrent(ctx, ref)
	switch {
	case err != nil:
		return current, err
	case current.Digest == r.Digest:
		return current, nil
	case r.Activations > 0:
		return current, errSuperseded(r)
	}
	if a.Preview != "" {
		p, found, err := w.tx.PolicyPreview(ctx, a.Preview)
		if err == nil && (!found || p.Candidate != r.Digest || p.State != "done" || current.Digest != "" && p.Against != current.Digest) {
			err = iam.InvalidFields([]iam.FieldError{{Pointer: "/preview", Detail: "must be a completed preview of this revision against the active one"}})
		}
		if err != nil {
			return current, err
		}
	}
	if !a.Force {
		if err := w.checkPrepared(ctx, r); err != nil {
			return current, err
		}
	}
	if current.Digest == "" {
		if current, err = w.embedded(ctx, r.Digest); err != nil {
			return current, err
		}
	}
	return w.activate(ctx, r, current, iam.PolicyActivation{Kind: iam.PolicyActivated, Preview: a.Preview, Reason: a.Reason})
}

// embedded records the activation of the policy that is part of the program before the first
// other one, as a target for a rollback.
func (w *Work) embedded(ctx context.Context, other string) (none iam.PolicyActivation, err error) {
	if w.s.cfg.Embedded == nil {
		return none, nil
	}
	r, packed, err := w.s.cfg.Embedded()
	if err != nil || r.Digest == other {
		return none, err
	}
	replicas, err := w.tx.PolicyReplicas(ctx)
	if err != nil || !slices.ContainsFunc(replicas, func(x iam.PolicyReplica) bool { return x.InForce == r.Digest }) {
		return none, err // it was not active: the replicas have another policy, or another version of the program
	}
	stored, found, err := w.tx.PolicyRevision(ctx, r.Digest)
	if err == nil && (!found || stored.Bytes == 0) {
		_, _, err = w.AddPolicyRevision(ctx, r, packed)
	}
	r.Bytes = len(packed)
	if err != nil {
		return none, err
	}
	return w.activate(ctx, r, none, iam.PolicyActivation{Kind: iam.PolicyFromSource, Reason: "the policy that is part of the program"})
}

// checkPrepared rejects a revision that a replica has not prepared: it would keep another one
// active.
func (w *Work) checkPrepared(ctx context.Context, r iam.PolicyRevision) error {
	replicas, err := w.tx.PolicyReplicas(ctx)
	if err != nil {
		return err
	}
	var missing []iam.FieldError
	for _, x := range replicas {
		if slices.Contains(x.Prepared, r.Digest) {
			continue
		}
		why := "has not prepared it yet"
		if strings.Contains(string(x.Refused), r.ID()) {
			why = "rejects it: " + string(x.Refused)
		}
		missing = append(missing, iam.FieldError{Pointer: x.Replica, Detail: why})
	}
	if len(missing) == 0 {
		return nil
	}
	return &iam.Error{Kind: iam.Conflict, Code: "policy_not_prepared", Detail: "not all replicas have prepared it: try again, send the bundle again if it is an old one, or force it", Fields: missing}
}

// RollBackPolicy activates a revision again; with an empty ref the one that the active revision
// has replaced. It does not wait for any replica: it must work in an emergency.
func (w *Work) RollBackPolicy(ctx context.Context, ref, reason string) (iam.PolicyActivation, error) {
	previous := ref == ""
	if previous {
		list, err := w.tx.PolicyActivations(ctx, 1)
		if err == nil && len(list) > 0 {
			ref, err = w.tx.PreviousPolicy(ctx, list[0].Digest)
		}
		if err == nil && ref == "" {
			err = &iam.Error{Kind: iam.Conflict, Code: "no_policy_before", Detail: "no revision was active before: there is nothing to roll back to"}
		}
		if err != nil {
			return iam.PolicyActivation{}, err
		}
	}
	r, current, err := w.revisionAndCurrent(ctx, ref)
	switch {
	case err != nil:
		return current, err
	case current.Digest == r.Digest:
		return current, nil
	case previous && r.Verified == iam.VerifiedByNobody:
		if err := w.checkRunnable(ctx, r); err != nil {
			return current, err
		}
	case r.Activations == 0:
		return current, &iam.Error{Kind: iam.Conflict, Code: "policy_never_in_force", Detail: fmt.Sprintf("revision %s never was active: activate it", r.ID())}
	}
	return w.activate(ctx, r, current, iam.PolicyActivation{Kind: iam.PolicyRolledBack, Reason: reason})
}

// checkRunnable rejects an unsigned revision that no replica has prepared: it may be the policy of
// another version of the program.
func (w *Work) checkRunnable(ctx context.Context, r iam.PolicyRevision) error {
	replicas, err := w.tx.PolicyReplicas(ctx)
	if err != nil || len(replicas) == 0 || slices.ContainsFunc(replicas, func(x iam.PolicyReplica) bool { return slices.Contains(x.Prepared, r.Digest) }) {
		return err
	}
	return &iam.Error{Kind: iam.Conflict, Code: "policy_not_prepared", Detail: fmt.Sprintf(
		"revision %s was active before, is unsigned, and no replica has prepared it: name another revision, or this one to insist", r.ID())}
}

func (w *Work) revisionAndCurrent(ctx context.Context, ref string) (r iam.PolicyRevision, current iam.PolicyActivation, err error) {
	if r, err = w.PolicyRevision(ctx, ref); err != nil {
		return r, current, err
	}
	list, err := w.tx.PolicyActivations(ctx, 1)
	if err == nil && len(list) > 0 {
		current = list[0]
	}
	return r, current, err
}

func (w *Work) activate(ctx context.Context, r iam.PolicyRevision, current, a iam.PolicyActivation) (iam.PolicyActivation, error) {
	if len(a.Reason) > 500 {
		return a, iam.InvalidFields([]iam.FieldError{{Pointer: "/reason", Detail: "must have at most 500 bytes"}})
	}
	if r.Bytes == 0 {
		return a, &iam.Error{Kind: iam.Conflict, Code: "policy_bundle_deleted", Detail: fmt.Sprintf("the bundle of revision %s is no longer stored: send it again first", r.ID())}
	}
	a.Digest, a.Name, a.ActorKind, a.Actor, a.Via = r.Digest, r.Name, w.actorKind, w.actor, w.caller.Via
	a, err := w.tx.ActivatePolicy(ctx, a)
	if err != nil {
		return a, err
	}
	w.emit(iam.PolicyActivatedEvent{PolicyState: iam.PolicyState{
		Revision: r.ID(),
		Digest:   r.Digest,
		Name:     r.Name,
		Replaced: current.Digest,
		Rollback: a.Kind == iam.PolicyRolledBack,
	}})
	var before any
	if current.Digest != "" {
		before = policyDoc{Digest: current.Digest, Name: current.Name}
	}
	return a, w.record("", iam.KindPolicy, r.ID(), before, policyDoc{Digest: r.Digest, Name: r.Name, Kind: a.Kind, Preview: a.Preview, Reason: a.Reason})
}

// SetPolicyShadow evaluates a revision as a shadow of the active one, for a share of requests; 0
// ends it.
func (w *Work) SetPolicyShadow(ctx context.Context, ref string, share float64) (iam.PolicyShadow, error) {
	if share < 0 || share > 1 {
		return iam.PolicyShadow{}, iam.InvalidFields([]iam.FieldError{{Pointer: "/share", Detail: "must be 0 to 1"}})
	}
	before, err := w.tx.PolicyShadow(ctx)
	if err != nil {
		return before, err
	}
	r, current, err := w.revisionAndCurrent(ctx, ref)
	switch {
	case err != nil:
		return before, err
	case share > 0 && current.Digest == r.Digest:
		return before, &iam.Error{Kind: iam.Conflict, Code: "policy_in_force", Detail: fmt.Sprintf("revision %s is active: there is nothing to compare it with", r.ID())}
	}
	now := iam.PolicyShadow{Digest: r.Digest, Share: share}
	state := iam.PolicyState{Revision: r.ID(), Digest: r.Digest, Name: r.Name, Share: share}
	if share == 0 {
		if before.Digest != r.Digest {
			return before, nil // it is no shadow
		}
		now, state = iam.PolicyShadow{}, iam.PolicyState{}
	}
	if now.Digest == before.Digest && now.Share == before.Share {
		return before, nil
	}
	if err := w.tx.SetPolicyShadow(ctx, now); err != nil {
		return before, err
	}
	now.SetAt = time.Now().UTC()
	w.emit(iam.PolicyShadowSetEvent{PolicyState: state})
	return now, w.record("", iam.KindPolicy, iam.PolicyShadowObject, policyDoc{Digest: before.Digest, Share: before.Share}, policyDoc{Digest: now.Digest, Share: now.Share})
}

// BeginPolicyPreview persists that a replica begins a preview.
func (w *Work) BeginPolicyPreview(ctx context.Context, ref, against, replica string) (iam.PolicyPreview, error) {
	r, err := w.PolicyRevision(ctx, ref)
	if err != nil {
		return iam.PolicyPreview{}, err
	}
	p := iam.PolicyPreview{
		Candidate: r.Digest, Against: against, State: "running", Replica: replica, ActorKind: w.actorKind, Actor: w.actor, StartedAt: time.Now().UTC(),
	}
	if p.ID, err = w.tx.BeginPreview(ctx, p); err != nil {
		return p, err
	}
	return p, w.record("", iam.KindPolicy, r.ID(), nil, policyDoc{Digest: r.Digest, Kind: "preview", Preview: p.ID})
}

// CancelPolicyPreview cancels a running preview, on any replica.
func (w *Work) CancelPolicyPreview(ctx context.Context, id string) (p iam.PolicyPreview, err error) {
	running, err := w.tx.CancelPreview(ctx, id)
	if err != nil {
		return p, err
	}
	if p, err = w.PolicyPreview(ctx, id); err != nil {
		return p, err
	}
	if !running {
		return p, &iam.Error{Kind: iam.Conflict, Code: "preview_over", Detail: "the preview is not running: it is " + p.State}
	}
	return p, w.record("", iam.KindPolicy, iam.PolicyID(p.Candidate), nil, policyDoc{Digest: p.Candidate, Kind: "preview_cancelled", Preview: p.ID})
}

// PolicyPreview finds a preview.
func (w *Work) PolicyPreview(ctx context.Context, id string) (iam.PolicyPreview, error) {
	p, found, err := w.tx.PolicyPreview(ctx, id)
	if err == nil && !found {
		err = errNotFound
	}
	return p, err
}
