package adminapi

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
)

type revisionBody struct {
	Revision    string     `json:"revision" doc:"short name, as in X-Policy-Revision"`
	Digest      string     `json:"digest" doc:"SHA-256 of what is evaluated, in hex"`
	Name        string     `json:"name,omitempty" doc:"of the bundle"`
	Source      string     `json:"source"`
	Verified    string     `json:"verified" enum:"key,opa,nobody" doc:"who verified its signature"`
	Bytes       int        `json:"bytes"`
	AddedAt     time.Time  `json:"added_at"`
	AddedBy     string     `json:"added_by" doc:"kind and id"`
	Activations int        `json:"activations" doc:"how often it was activated"`
	LastInForce *time.Time `json:"last_in_force,omitempty" doc:"when it was last activated"`
}

func wireRevision(r iam.PolicyRevision) revisionBody {
	b := revisionBody{
		Revision: r.ID(), Digest: r.Digest, Name: r.Name, Source: r.Source, Verified: r.Verified, Bytes: r.Bytes,
		AddedAt: r.AddedAt, AddedBy: r.ActorKind + " " + r.Actor, Activations: r.Activations,
	}
	if !r.LastInForce.IsZero() {
		b.LastInForce = &r.LastInForce
	}
	return b
}

type activationBody struct {
	Seq      int64     `json:"seq"`
	Revision string    `json:"revision"`
	Digest   string    `json:"digest"`
	Name     string    `json:"name,omitempty"`
	Kind     string    `json:"kind" enum:"source,activate,rollback" doc:"source: automatically"`
	At       time.Time `json:"at"`
	By       string    `json:"by" doc:"kind and id"`
	Via      string    `json:"via"`
	Preview  string    `json:"preview,omitempty" doc:"id of the preview that the activation is based on"`
	Reason   string    `json:"reason,omitempty"`
}

func wireActivation(a iam.PolicyActivation) activationBody {
	return activationBody{
		Seq:      a.Seq,
		Revision: iam.PolicyID(a.Digest),
		Digest:   a.Digest,
		Name:     a.Name,
		Kind:     a.Kind,
		At:       a.At,
		By:       a.ActorKind + " " + a.Actor,
		Via:      a.Via,
		Preview:  a.Preview,
		Reason:   a.Reason,
	}
}

type replicaBody struct {
	Replica  string     `json:"replica"`
	Version  string     `json:"version" doc:"of the program"`
	Revision string     `json:"revision" doc:"the active one"`
	Since    *time.Time `json:"since,omitempty"`
	Source   string     `json:"source"`
	Prepared []string   `json:"prepared" doc:"revisions that it can activate at once"`
	Refused  any        `json:"refused,omitempty" doc:"the candidate that it rejected last, and why"`
	SeenAt   time.Time  `json:"seen_at"`
}

func wireReplica(r iam.PolicyReplica) replicaBody {
	b := replicaBody{
		Replica:  r.Replica,
		Version:  r.Version,
		Revision: iam.PolicyID(r.InForce),
		Source:   r.Source,
		Prepared: []string{},
		SeenAt:   r.SeenAt,
	}
	for _, digest := range r.Prepared {
		b.Prepared = append(b.Prepared, iam.PolicyID(digest))
	}
	if r.InForce != "" {
		b.Since = &r.Since
	}
	if len(r.Refused) > 0 {
		b.Refused = r.Refused
	}
	return b
}

type policyBody struct {
	Activation string          `json:"activation" enum:"auto,managed" doc:"POLICY_ACTIVATION"`
	Here       any             `json:"here" doc:"this replica: the active revision, and what was rejected since"`
	Last       *activationBody `json:"last_activation,omitempty" doc:"absent: no shared revision was activated"`
	Shadow     ShadowSet       `json:"shadow"`
	Replicas   []replicaBody   `json:"replicas" doc:"replicas with a recent heartbeat"`
}

func (a *server) readPolicy(ctx context.Context, w *admin.Work, _ *OnPlatform) (*resource[policyBody], error) {
	b := policyBody{Activation: "auto", Here: a.Policy(), Replicas: []replicaBody{}}
	if a.Policies.Managed() {
		b.Activation = "managed"
	}
	last, err := w.PolicyActivations(ctx, 1)
	if err != nil {
		return nil, err
	}
	if len(last) > 0 && a.Policies.Follows() {
		l := wireActivation(last[0])
		b.Last = &l
	}
	shadow, err := w.PolicyShadow(ctx)
	if err != nil {
		return nil, err
	}
	b.Shadow = wireShadow(shadow)
	replicas, err := w.PolicyReplicas(ctx)
	for _, r := range replicas {
		b.Replicas = append(b.Replicas, wireReplica(r))
	}
	return &resource[policyBody]{Status: 200, Body: b}, err
}

func (a *server) listRevisions(ctx context.Context, w *admin.Work, in *struct {
	OnPlatform
	Paged
},
) (*collection[revisionBody], error) {
	var before time.Time
	var digest string
	if err := in.cursor(&before, &digest); err != nil {
		return nil, err
	}
	list, err := w.PolicyRevisions(ctx, before, digest, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return pageOf(ctx, in.Paged, list, wireRevision, func(r iam.PolicyRevision) []any { return []any{r.AddedAt, r.Digest} })
}

func (a *server) listActivations(ctx context.Context, w *admin.Work, in *struct {
	OnPlatform
	Limit int `query:"limit" minimum:"1" maximum:"500" default:"50"`
},
) (*collection[activationBody], error) {
	list, err := w.PolicyActivations(ctx, in.Limit)
	return all(list, wireActivation), err
}

// OnRevision is an input about a revision of the policy.
type OnRevision struct {
	OnPlatform
	Revision string `path:"revision" maxLength:"64" doc:"digest, or 12 or more of its first digits"`
}

func (i OnRevision) target() target { return target{object: i.Revision} }

func (a *server) readRevision(ctx context.Context, w *admin.Work, in *OnRevision) (*resource[revisionBody], error) {
	r, err := w.PolicyRevision(ctx, in.Revision)
	return &resource[revisionBody]{Status: 200, Body: wireRevision(r)}, err
}

// requireManaged rejects requests that need managed activation.
func (a *server) requireManaged() error {
	if a.Policies.Managed() {
		return nil
	}
	return &iam.Error{
		Kind:   iam.Conflict,
		Code:   "policy_not_managed",
		Detail: "POLICY_ACTIVATION is auto: each revision from the source becomes active without a request",
	}
}

// createRevision stores an uploaded bundle. Its caller was authorized before the body was read, and is again when the bundle is
// stored.
func (a *server) createRevision(ctx context.Context, c call, in *struct {
	OnPlatform
	Source  string `query:"source" maxLength:"200" doc:"origin of the bundle, for people"`
	RawBody []byte `contentType:"application/gzip" doc:"the bundle (.tar.gz), signed"`
},
) (*resource[revisionBody], error) {
	if err := a.requireManaged(); err != nil {
		return nil, err
	}
	source := in.Source
	if source == "" {
		source = "upload"
	}
	got, err := a.Policies.Receive(ctx, source, in.RawBody)
	if err != nil {
		return nil, err
	}
	out, err := admin.Do(ctx, a.Service, c.caller, c.task, func(ctx context.Context, w *admin.Work) (*resource[revisionBody], error) {
		stored, created, err := w.AddPolicyRevision(ctx, got, in.RawBody)
		out := &resource[revisionBody]{Status: http.StatusOK, Body: wireRevision(stored), Location: "/v1/policy/revisions/" + stored.ID()}
		if created {
			out.Status = http.StatusCreated
		}
		return out, err
	})
	if err == nil {
		a.syncPolicy(ctx)
	}
	return out, err
}

// syncPolicy applies a stored change on this replica at once. If that fails, the change is valid all the same, and applied by the
// next sync.
func (a *server) syncPolicy(ctx context.Context) {
	if err := a.Policies.Sync(ctx); err != nil {
		a.Log.WarnContext(ctx, "policy change not applied yet", slog.Any("err", err))
	}
	a.Policies.Prepare(ctx)
}

// requireSharedPolicy rejects requests that need a policy that replicas share.
func (a *server) requireSharedPolicy() error {
	if a.Policies.Follows() {
		return nil
	}
	return &iam.Error{
		Kind:   iam.Conflict,
		Code:   "policy_local",
		Detail: "the active policy is local to this replica: a folder, or the default of the program",
	}
}

// changeActive changes the active revision, and applies the change on this replica before it responds.
func (a *server) changeActive(
	ctx context.Context, c call, change func(context.Context, *admin.Work) (iam.PolicyActivation, error),
) (*resource[activationBody], error) {
	if err := a.requireSharedPolicy(); err != nil {
		return nil, err
	}
	got, err := admin.Do(ctx, a.Service, c.caller, c.task, change)
	if err != nil {
		return nil, err
	}
	a.syncPolicy(ctx)
	return &resource[activationBody]{Status: 200, Body: wireActivation(got)}, nil
}

func (a *server) activateRevision(ctx context.Context, c call, in *struct {
	OnRevision
	Body struct {
		Preview string `json:"preview,omitempty" format:"uuid" doc:"id of the preview that the activation is based on"`
		Reason  string `json:"reason,omitempty" maxLength:"500"`
		Force   bool   `json:"force,omitempty" doc:"even if a replica has not prepared it"`
	}
},
) (*resource[activationBody], error) {
	if err := a.requireManaged(); err != nil {
		return nil, err
	}
	return a.changeActive(ctx, c, func(ctx context.Context, w *admin.Work) (iam.PolicyActivation, error) {
		return w.ActivatePolicy(ctx, in.Revision, admin.Activation{Preview: in.Body.Preview, Reason: in.Body.Reason, Force: in.Body.Force})
	})
}

func (a *server) rollBackRevision(ctx context.Context, c call, in *struct {
	OnRevision
	Body struct {
		Reason string `json:"reason,omitempty" maxLength:"500"`
	}
},
) (*resource[activationBody], error) {
	return a.changeActive(ctx, c, func(ctx context.Context, w *admin.Work) (iam.PolicyActivation, error) {
		return w.RollBackPolicy(ctx, in.Revision, in.Body.Reason)
	})
}
