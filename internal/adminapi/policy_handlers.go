package adminapi

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"iam-service/internal/admin"
	"iam-service/internal/enrich"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/policyops/explain"
	"iam-service/internal/policyops/preview"
)

// --- policies

type revisionBody struct {
	Revision    string     `json:"revision" doc:"its short name, as in X-Policy-Revision"`
	Digest      string     `json:"digest" doc:"SHA-256 of what is evaluated, in hex"`
	Name        string     `json:"name,omitempty" doc:"what its bundle calls it"`
	Source      string     `json:"source"`
	Verified    string     `json:"verified" enum:"key,opa,nobody" doc:"who verified its signature"`
	Bytes       int        `json:"bytes"`
	AddedAt     time.Time  `json:"added_at"`
	AddedBy     string     `json:"added_by" doc:"kind and id"`
	Activations int        `json:"activations" doc:"how often it came into force"`
	LastInForce *time.Time `json:"last_in_force,omitempty" doc:"when it last came into force"`
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
	Kind     string    `json:"kind" enum:"source,activate,rollback" doc:"source: by itself"`
	At       time.Time `json:"at"`
	By       string    `json:"by" doc:"kind and id"`
	Via      string    `json:"via"`
	Preview  string    `json:"preview,omitempty" doc:"id of the preview that was looked at"`
	Reason   string    `json:"reason,omitempty"`
}

func wireActivation(a iam.PolicyActivation) activationBody {
	return activationBody{a.Seq, iam.PolicyID(a.Digest), a.Digest, a.Name, a.Kind, a.At, a.ActorKind + " " + a.Actor, a.Via, a.Preview, a.Reason}
}

type replicaBody struct {
	Replica  string     `json:"replica"`
	Version  string     `json:"version" doc:"of the program"`
	Revision string     `json:"revision" doc:"what it has in force"`
	Since    *time.Time `json:"since,omitempty"`
	Source   string     `json:"source"`
	Prepared []string   `json:"prepared" doc:"revisions that it can switch to at once"`
	Refused  any        `json:"refused,omitempty" doc:"what it refused last, and why"`
	SeenAt   time.Time  `json:"seen_at"`
}

func wireReplica(r iam.PolicyReplica) replicaBody {
	b := replicaBody{Replica: r.Replica, Version: r.Version, Revision: iam.PolicyID(r.InForce), Source: r.Source, Prepared: []string{}, SeenAt: r.SeenAt}
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

// ShadowSet is what is evaluated beside what is in force.
type ShadowSet struct {
	Revision string     `json:"revision,omitempty" doc:"absent: none"`
	Share    float64    `json:"share" doc:"of requests, 0 to 1"`
	SetAt    *time.Time `json:"set_at,omitempty"`
}

func wireShadow(s iam.PolicyShadow) ShadowSet {
	b := ShadowSet{Revision: iam.PolicyID(s.Digest), Share: s.Share}
	if s.Digest != "" {
		b.SetAt = &s.SetAt
	}
	return b
}

type policyBody struct {
	Activation string          `json:"activation" enum:"auto,managed" doc:"POLICY_ACTIVATION"`
	Here       any             `json:"here" doc:"this replica: what is in force, and what was refused since"`
	Last       *activationBody `json:"last_activation,omitempty" doc:"absent: nothing came into force that all replicas share"`
	Shadow     ShadowSet       `json:"shadow"`
	Replicas   []replicaBody   `json:"replicas" doc:"those that were heard of lately"`
}

func (a *server) readPolicy(ctx context.Context, w *admin.Work, _ *OnPlatform) (*one[policyBody], error) {
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
	return &one[policyBody]{Status: 200, Body: b}, err
}

func (a *server) listRevisions(ctx context.Context, w *admin.Work, in *struct {
	OnPlatform
	Paged
},
) (*many[revisionBody], error) {
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
) (*many[activationBody], error) {
	list, err := w.PolicyActivations(ctx, in.Limit)
	out := &many[activationBody]{Body: page[activationBody]{Items: []activationBody{}}}
	for _, x := range list {
		out.Body.Items = append(out.Body.Items, wireActivation(x))
	}
	return out, err
}

// OnRevision is an input about a revision of the policy.
type OnRevision struct {
	OnPlatform
	Revision string `path:"revision" maxLength:"64" doc:"digest, or 12 or more of its first digits"`
}

func (i OnRevision) object() string { return i.Revision }

func (a *server) readRevision(ctx context.Context, w *admin.Work, in *OnRevision) (*one[revisionBody], error) {
	r, err := w.PolicyRevision(ctx, in.Revision)
	return &one[revisionBody]{Status: 200, Body: wireRevision(r)}, err
}

// notManaged refuses what only makes sense where somebody decides what comes into force.
func (a *server) notManaged() error {
	if a.Policies.Managed() {
		return nil
	}
	return &iam.Error{Kind: iam.Conflict, Code: "policy_not_managed", Detail: "POLICY_ACTIVATION is auto here: what the source of the policy brings comes into force by itself"}
}

// createRevision serves POST /v1/policy/revisions. Whether the caller may was asked before the
// body was read, and is asked again where it is kept.
func (a *server) createRevision(ctx context.Context, r asked, in *struct {
	OnPlatform
	Source  string `query:"source" maxLength:"200" doc:"where it comes from, for people"`
	RawBody []byte `contentType:"application/gzip" doc:"the bundle (.tar.gz), signed"`
},
) (*one[revisionBody], error) {
	if err := a.notManaged(); err != nil {
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
	out, err := admin.Do(ctx, a.Service, r.caller, r.task, func(ctx context.Context, w *admin.Work) (*one[revisionBody], error) {
		kept, made, err := w.AddPolicyRevision(ctx, got, in.RawBody)
		out := &one[revisionBody]{Status: http.StatusOK, Body: wireRevision(kept), Location: "/v1/policy/revisions/" + kept.ID()}
		if made {
			out.Status = http.StatusCreated
		}
		return out, err
	})
	if err == nil {
		a.inStep(ctx)
	}
	return out, err
}

// inStep has this replica do at once what was decided. It is decided all the same where that
// fails.
func (a *server) inStep(ctx context.Context) {
	if err := a.Policies.Sync(ctx); err != nil {
		a.Log.WarnContext(ctx, "what was decided about the policy is not done here yet", slog.Any("err", err))
	}
	a.Policies.Prepare(ctx)
}

// local refuses what only makes sense where replicas share a policy.
func (a *server) local() error {
	if a.Policies.Follows() {
		return nil
	}
	return &iam.Error{Kind: iam.Conflict, Code: "policy_local", Detail: "the policy in force is this replica's own: a folder, or the one that is part of the program"}
}

// decided runs a change of what is in force, and does it here before it answers.
func (a *server) decided(ctx context.Context, r asked, do func(context.Context, *admin.Work) (iam.PolicyActivation, error)) (*one[activationBody], error) {
	if err := a.local(); err != nil {
		return nil, err
	}
	got, err := admin.Do(ctx, a.Service, r.caller, r.task, do)
	if err != nil {
		return nil, err
	}
	a.inStep(ctx)
	return &one[activationBody]{Status: 200, Body: wireActivation(got)}, nil
}

func (a *server) activateRevision(ctx context.Context, r asked, in *struct {
	OnRevision
	Body struct {
		Preview string `json:"preview,omitempty" format:"uuid" doc:"the preview that was looked at"`
		Reason  string `json:"reason,omitempty" maxLength:"500"`
		Force   bool   `json:"force,omitempty" doc:"also where a replica is not ready for it"`
	}
},
) (*one[activationBody], error) {
	if err := a.notManaged(); err != nil {
		return nil, err
	}
	return a.decided(ctx, r, func(ctx context.Context, w *admin.Work) (iam.PolicyActivation, error) {
		return w.ActivatePolicy(ctx, in.Revision, admin.Activation{Preview: in.Body.Preview, Reason: in.Body.Reason, Force: in.Body.Force})
	})
}

func (a *server) rollBackRevision(ctx context.Context, r asked, in *struct {
	OnRevision
	Body struct {
		Reason string `json:"reason,omitempty" maxLength:"500"`
	}
},
) (*one[activationBody], error) {
	return a.decided(ctx, r, func(ctx context.Context, w *admin.Work) (iam.PolicyActivation, error) {
		return w.RollBackPolicy(ctx, in.Revision, in.Body.Reason)
	})
}

func (a *server) shadowRevision(ctx context.Context, r asked, in *struct {
	OnRevision
	Body struct {
		Share float64 `json:"share" minimum:"0" maximum:"1" doc:"of requests for which it is evaluated beside what is in force; 0 ends it"`
	}
},
) (*one[ShadowSet], error) {
	if err := a.local(); err != nil {
		return nil, err
	}
	got, err := admin.Do(ctx, a.Service, r.caller, r.task, func(ctx context.Context, w *admin.Work) (iam.PolicyShadow, error) {
		return w.SetPolicyShadow(ctx, in.Revision, in.Body.Share)
	})
	if err != nil {
		return nil, err
	}
	a.inStep(ctx)
	a.Shadow.Look()
	return &one[ShadowSet]{Status: 200, Body: wireShadow(got)}, nil
}

// explainBody says what is to be explained: a token, a decision, or who somebody is.
type explainBody struct {
	Token    string         `json:"token,omitempty" maxLength:"8192" doc:"an access token for gateways; it is neither kept nor logged"`
	Decision string         `json:"decision,omitempty" maxLength:"64" doc:"id of a decision that was recorded"`
	Issuer   string         `json:"issuer,omitempty" maxLength:"512" doc:"of the subject; absent: R-Auth"`
	Subject  string         `json:"subject,omitempty" maxLength:"255"`
	ClientID string         `json:"client_id,omitempty" maxLength:"255" doc:"alone: a program"`
	Claims   map[string]any `json:"claims,omitempty" doc:"further claims of the token that they would have"`
	Tenant   string         `json:"tenant,omitempty" maxLength:"64" doc:"that is asked for"`
	Revision string         `json:"revision,omitempty" maxLength:"64" doc:"under another one than what is in force"`
	At       time.Time      `json:"at,omitzero" doc:"time that the policy sees in input.now; absent: now, or when the decision was asked for. The facts are those of now"`
	Request  struct {
		Method  string `json:"method,omitempty" maxLength:"32"`
		Scheme  string `json:"scheme,omitempty" maxLength:"8"`
		Host    string `json:"host,omitempty" maxLength:"255"`
		Path    string `json:"path,omitempty" maxLength:"4096"`
		Gateway string `json:"gateway,omitempty" maxLength:"32"`

		ClientIP netip.Addr `json:"client_ip,omitzero"`
	} `json:"request,omitempty"`
}

type explanationBody struct {
	explain.Explanation
	Text string `json:"text" doc:"for people"`
}

func (a *server) explain(ctx context.Context, r asked, in *struct {
	OnDecisions
	Body explainBody
},
) (*one[explanationBody], error) {
	limited, err := a.scope(ctx, r)
	if err != nil {
		return nil, err
	}
	var x explain.Explanation
	if limited {
		x, err = a.explainWithin(ctx, r, in.Body)
	} else {
		x, err = a.explainAnything(ctx, r, in.Body)
	}
	if err != nil {
		return nil, err
	}
	var text strings.Builder
	x.Text(&text)
	return &one[explanationBody]{Status: 200, Body: explanationBody{x, text.String()}}, nil
}

func (a *server) explainAnything(ctx context.Context, r asked, b explainBody) (explain.Explanation, error) {
	q, err := a.questionOf(ctx, b)
	if err != nil {
		return explain.Explanation{}, err
	}
	if !b.At.IsZero() {
		q.Now = b.At
	}
	var under *policy.Revision
	if b.Revision != "" {
		kept, err := admin.Do(ctx, a.Service, r.caller, admin.Task{Action: r.task.Action}, func(ctx context.Context, w *admin.Work) (iam.PolicyRevision, error) {
			return w.PolicyRevision(ctx, b.Revision)
		})
		if err == nil {
			under, err = a.Policies.Revision(ctx, kept.Digest)
		}
		if err != nil {
			return explain.Explanation{}, err
		}
	}
	return a.Explain.Explain(ctx, under, q)
}

// explainWithin explains to a caller who may see one tenant only: a decision that is about it, or
// what would be decided of one of its members or clients.
func (a *server) explainWithin(ctx context.Context, r asked, b explainBody) (x explain.Explanation, err error) {
	tenant := r.task.Tenant
	var wrong []iam.FieldError
	if b.Token != "" {
		wrong = append(wrong, iam.FieldError{Pointer: "/token", Detail: "is not explained within a tenant: say subject, client_id or decision"})
	}
	if b.Revision != "" {
		wrong = append(wrong, iam.FieldError{Pointer: "/revision", Detail: "is not explained within a tenant: only the active policy is"})
	}
	if b.Tenant != "" && b.Tenant != tenant {
		wrong = append(wrong, iam.FieldError{Pointer: "/tenant", Detail: "is another tenant than the one of the request"})
	}
	if err := iam.Refuse(wrong); err != nil {
		return x, err
	}
	if b.Decision != "" {
		d, err := a.decision(ctx, b.Decision)
		if err == nil && d.Tenant != tenant {
			err = errNoDecision
		}
		if err != nil {
			return x, err
		}
	}
	b.Tenant = tenant
	q, err := a.questionOf(ctx, b)
	if err != nil {
		return x, err
	}
	if !b.At.IsZero() {
		q.Now = b.At
	}
	task := r.task
	task.Writes = false
	return admin.Do(ctx, a.Service, r.caller, task, func(ctx context.Context, w *admin.Work) (explain.Explanation, error) {
		return explain.Within{Tenant: tenant, Facts: w.Facts(), Engine: a.Explain.Engine, Issuers: a.Issuers, HeaderMax: a.HeaderMax}.Explain(ctx, q)
	})
}

// questionOf makes a question of one of three things.
func (a *server) questionOf(ctx context.Context, b explainBody) (explain.Question, error) {
	ways := 0
	for _, given := range []bool{b.Token != "", b.Decision != "", b.Subject != "" || b.ClientID != ""} {
		if given {
			ways++
		}
	}
	if ways != 1 {
		return explain.Question{}, iam.Refuse([]iam.FieldError{{Pointer: "", Detail: "say one of token, decision, and subject or client_id"}})
	}
	if b.Decision != "" {
		d, err := a.decision(ctx, b.Decision)
		if err != nil {
			return explain.Question{}, err
		}
		return explain.FromRecord(d)
	}
	if b.Tenant != "" && !iam.ValidTenantID(b.Tenant) {
		return explain.Question{}, iam.Refuse([]iam.FieldError{{Pointer: "/tenant", Detail: "is not the id of a tenant"}})
	}
	q := explain.Question{Tenant: b.Tenant}
	var err error
	if q.Request, err = enrich.NewRequest(b.Request.Gateway, b.Request.Method, b.Request.Scheme, b.Request.Host, b.Request.Path, b.Request.ClientIP); err != nil {
		return q, err
	}
	if b.Token != "" {
		q.Token, err = a.VerifyGateway(ctx, b.Token, "", time.Now().Add(verifyWait))
		if iam.KindOf(err) == iam.Unauthenticated { // it is not the caller's own
			err = iam.Refuse([]iam.FieldError{{Pointer: "/token", Detail: "is refused whatever the policy says: " + err.Error()}})
		}
		return q, err
	}
	subject, issuer := b.Subject, cmp.Or(b.Issuer, a.Issuer)
	if subject == "" {
		subject = b.ClientID // a program speaks for itself
	}
	issued := b.At
	if issued.IsZero() {
		issued = time.Now()
	}
	q.Token, err = explain.Of(issuer, subject, b.ClientID, b.Claims, issued)
	return q, err
}

// --- previews and the shadow

type previewAsk struct {
	Revision  string             `json:"revision" maxLength:"64" doc:"the candidate"`
	Against   string             `json:"against,omitempty" maxLength:"64" doc:"another revision than what is in force"`
	Questions []preview.Question `json:"questions,omitempty" maxItems:"50" doc:"asked of each user in each tenant, and of each client; none: a minimal token, GET /"`
	Replay    string             `json:"replay,omitempty" maxLength:"16" doc:"decisions that were recorded in this time are asked once more: 24h"`
}

type previewBody struct {
	ID         string          `json:"id"`
	State      string          `json:"state" enum:"running,done,failed,cancelled"`
	Candidate  string          `json:"candidate" doc:"revision"`
	Against    string          `json:"against" doc:"revision"`
	StartedAt  time.Time       `json:"started_at"`
	FinishedAt *time.Time      `json:"finished_at,omitempty"`
	By         string          `json:"by" doc:"kind and id"`
	Done       int64           `json:"done" doc:"questions asked so far"`
	Total      int64           `json:"total" doc:"of about so many"`
	Report     json.RawMessage `json:"report,omitempty" doc:"who would gain and lose what"`
}

func wirePreview(p iam.PolicyPreview) previewBody {
	b := previewBody{
		ID: p.ID, State: p.State, Candidate: iam.PolicyID(p.Candidate), Against: iam.PolicyID(p.Against), StartedAt: p.StartedAt,
		By: p.ActorKind + " " + p.Actor, Done: p.Done, Total: p.Total, Report: p.Report,
	}
	if p.FinishedAt.Unix() > 0 {
		b.FinishedAt = &p.FinishedAt
	}
	return b
}

// createPreview serves POST /v1/policy/preview: it begins one on this replica.
func (a *server) createPreview(ctx context.Context, r asked, in *struct {
	OnPlatform
	Body previewAsk
},
) (*one[previewBody], error) {
	if err := preview.CheckQuestions("questions", in.Body.Questions); err != nil {
		return nil, iam.Refuse([]iam.FieldError{{Pointer: "/questions", Detail: err.Error()}})
	}
	c := preview.Config{Engine: a.PreviewEngine, Issuers: a.Issuers, HeaderMax: a.HeaderMax, Limit: a.EvalLimit, Questions: in.Body.Questions}
	if in.Body.Replay != "" {
		span, err := time.ParseDuration(in.Body.Replay)
		if err != nil || span <= 0 {
			return nil, iam.Refuse([]iam.FieldError{{Pointer: "/replay", Detail: "must be a time such as 24h"}})
		}
		if err := a.kept(); err != nil {
			return nil, err
		}
		c.Replay = preview.Since(a.Decisions, time.Now().Add(-span))
	}
	if err := a.may(ctx, r); err != nil {
		return nil, err
	}
	if err := a.Previews.Take(); err != nil {
		return nil, err
	}
	p, err := a.beginPreview(ctx, r, in.Body, &c)
	if err != nil {
		a.Previews.Free()
		return nil, err
	}
	a.Previews.Start(a.Background, p, c)
	return &one[previewBody]{Status: http.StatusAccepted, Location: "/v1/policy/previews/" + p.ID, Body: wirePreview(p)}, nil
}

func (a *server) beginPreview(ctx context.Context, r asked, b previewAsk, c *preview.Config) (p iam.PolicyPreview, err error) {
	type revisions struct{ candidate, against iam.PolicyRevision }
	named, err := admin.Do(ctx, a.Service, r.caller, admin.Task{Action: r.task.Action}, func(ctx context.Context, w *admin.Work) (found revisions, err error) {
		if found.candidate, err = w.PolicyRevision(ctx, b.Revision); err == nil && b.Against != "" {
			found.against, err = w.PolicyRevision(ctx, b.Against)
		}
		return found, err
	})
	if err != nil {
		return p, err
	}
	candidate, against := named.candidate, named.against
	if c.Candidate, err = a.Policies.Revision(ctx, candidate.Digest); err != nil {
		return p, err
	}
	if c.Base, err = a.Policies.InForce(), nil; against.Digest != "" {
		c.Base, err = a.Policies.Revision(ctx, against.Digest)
	}
	if err != nil {
		return p, err
	}
	if c.Base == nil {
		return p, policy.ErrNoPolicy
	}
	return admin.Do(ctx, a.Service, r.caller, r.task, func(ctx context.Context, w *admin.Work) (iam.PolicyPreview, error) {
		return w.BeginPolicyPreview(ctx, candidate.Digest, c.Base.Digest, a.Policies.Replica())
	})
}

type onPreview struct {
	OnPlatform
	Preview string `path:"preview" format:"uuid"`
}

func (a *server) readPreview(ctx context.Context, w *admin.Work, in *onPreview) (*one[previewBody], error) {
	p, err := w.PolicyPreview(ctx, in.Preview)
	return &one[previewBody]{Status: 200, Body: wirePreview(p)}, err
}

func (a *server) cancelPreview(ctx context.Context, w *admin.Work, in *onPreview) (*one[previewBody], error) {
	p, err := w.CancelPolicyPreview(ctx, in.Preview)
	return &one[previewBody]{Status: 200, Body: wirePreview(p)}, err
}

type shadowSeen struct {
	ShadowSet
	Here preview.ShadowState `json:"here" doc:"what this replica has seen"`
}

func (a *server) readShadow(ctx context.Context, w *admin.Work, _ *OnPlatform) (*one[shadowSeen], error) {
	set, err := w.PolicyShadow(ctx)
	return &one[shadowSeen]{Status: 200, Body: shadowSeen{wireShadow(set), a.Shadow.State()}}, err
}
