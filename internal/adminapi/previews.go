package adminapi

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/policyops/preview"
)

type previewAsk struct {
	Revision  string             `json:"revision" maxLength:"64" doc:"the candidate"`
	Against   string             `json:"against,omitempty" maxLength:"64" doc:"the base; absent: the active revision"`
	Questions []preview.Question `json:"questions,omitempty" maxItems:"50" doc:"evaluated for each user in each tenant, and for each client; none: a minimal token, GET /"`
	Replay    string             `json:"replay,omitempty" maxLength:"16" doc:"decisions recorded in this time are evaluated again: 24h"`
}

type previewBody struct {
	ID         string          `json:"id"`
	State      string          `json:"state" enum:"running,done,failed,cancelled"`
	Candidate  string          `json:"candidate" doc:"revision"`
	Against    string          `json:"against" doc:"revision"`
	StartedAt  time.Time       `json:"started_at"`
	FinishedAt *time.Time      `json:"finished_at,omitempty"`
	By         string          `json:"by" doc:"kind and id"`
	Done       int64           `json:"done" doc:"evaluations so far"`
	Total      int64           `json:"total" doc:"estimate of all evaluations"`
	Report     json.RawMessage `json:"report,omitempty" doc:"who would gain and lose what"`
}

func wirePreview(p iam.PolicyPreview) previewBody {
	b := previewBody{
		ID:        p.ID,
		State:     p.State,
		Candidate: iam.PolicyID(p.Candidate),
		Against:   iam.PolicyID(p.Against),
		StartedAt: p.StartedAt,
		By:        p.ActorKind + " " + p.Actor,
		Done:      p.Done,
		Total:     p.Total,
		Report:    p.Report,
	}
	if p.FinishedAt.Unix() > 0 {
		b.FinishedAt = &p.FinishedAt
	}
	return b
}

// createPreview starts a preview on this replica.
func (a *server) createPreview(ctx context.Context, c call, in *struct {
	OnPlatform
	Body previewAsk
},
) (*resource[previewBody], error) {
	if err := preview.CheckQuestions("questions", in.Body.Questions); err != nil {
		return nil, iam.InvalidFields([]iam.FieldError{{Pointer: "/questions", Detail: err.Error()}})
	}
	cfg := preview.Config{
		Engine:    a.PreviewEngine,
		Issuers:   a.Issuers,
		HeaderMax: a.HeaderMax,
		Limit:     a.EvalLimit,
		Questions: in.Body.Questions,
	}
	if in.Body.Replay != "" {
		span, err := time.ParseDuration(in.Body.Replay)
		if err != nil || span <= 0 {
			return nil, iam.InvalidFields([]iam.FieldError{{Pointer: "/replay", Detail: "must be a duration such as 24h"}})
		}
		if err := a.requireDecisionLog(); err != nil {
			return nil, err
		}
		cfg.Replay = preview.Since(a.Decisions, time.Now().Add(-span))
	}
	if err := a.Service.Authorize(ctx, c.caller, c.task); err != nil {
		return nil, err
	}
	if err := a.Previews.Take(); err != nil {
		return nil, err
	}
	p, err := a.beginPreview(ctx, c, in.Body, &cfg)
	if err != nil {
		a.Previews.Free()
		return nil, err
	}
	a.Previews.Start(a.Background, p, cfg)
	return &resource[previewBody]{Status: http.StatusAccepted, Location: "/v1/policy/previews/" + p.ID, Body: wirePreview(p)}, nil
}

// beginPreview adds the revisions to cfg and stores the preview.
func (a *server) beginPreview(ctx context.Context, c call, b previewAsk, cfg *preview.Config) (p iam.PolicyPreview, err error) {
	type revisions struct{ candidate, against iam.PolicyRevision }
	read := admin.Task{Action: c.task.Action}
	stored, err := admin.Do(ctx, a.Service, c.caller, read, func(ctx context.Context, w *admin.Work) (found revisions, err error) {
		if found.candidate, err = w.PolicyRevision(ctx, b.Revision); err == nil && b.Against != "" {
			found.against, err = w.PolicyRevision(ctx, b.Against)
		}
		return found, err
	})
	if err != nil {
		return p, err
	}
	if cfg.Candidate, err = a.Policies.Revision(ctx, stored.candidate.Digest); err != nil {
		return p, err
	}
	cfg.Base = a.Policies.InForce()
	if digest := stored.against.Digest; digest != "" {
		if cfg.Base, err = a.Policies.Revision(ctx, digest); err != nil {
			return p, err
		}
	}
	if cfg.Base == nil {
		return p, policy.ErrNoPolicy
	}
	return admin.Do(ctx, a.Service, c.caller, c.task, func(ctx context.Context, w *admin.Work) (iam.PolicyPreview, error) {
		return w.BeginPolicyPreview(ctx, stored.candidate.Digest, cfg.Base.Digest, a.Policies.Replica())
	})
}

type onPreview struct {
	OnPlatform
	Preview string `path:"preview" format:"uuid"`
}

func (a *server) readPreview(ctx context.Context, w *admin.Work, in *onPreview) (*resource[previewBody], error) {
	p, err := w.PolicyPreview(ctx, in.Preview)
	return &resource[previewBody]{Status: 200, Body: wirePreview(p)}, err
}

func (a *server) cancelPreview(ctx context.Context, w *admin.Work, in *onPreview) (*resource[previewBody], error) {
	p, err := w.CancelPolicyPreview(ctx, in.Preview)
	return &resource[previewBody]{Status: 200, Body: wirePreview(p)}, err
}
