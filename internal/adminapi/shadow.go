package adminapi

import (
	"context"
	"time"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
	"iam-service/internal/policyops/preview"
)

// ShadowSet is the revision that is evaluated in the background, as a shadow of the active one.
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

func (a *server) shadowRevision(ctx context.Context, c call, in *struct {
	OnRevision
	Body struct {
		Share float64 `json:"share" minimum:"0" maximum:"1" doc:"of requests for which the shadow is evaluated; 0 ends it"`
	}
},
) (*resource[ShadowSet], error) {
	if err := a.requireSharedPolicy(); err != nil {
		return nil, err
	}
	got, err := admin.Do(ctx, a.Service, c.caller, c.task, func(ctx context.Context, w *admin.Work) (iam.PolicyShadow, error) {
		return w.SetPolicyShadow(ctx, in.Revision, in.Body.Share)
	})
	if err != nil {
		return nil, err
	}
	a.syncPolicy(ctx)
	a.Shadow.Look()
	return &resource[ShadowSet]{Status: 200, Body: wireShadow(got)}, nil
}

type shadowSeen struct {
	ShadowSet
	Here preview.ShadowState `json:"here" doc:"differences found by this replica"`
}

func (a *server) readShadow(ctx context.Context, w *admin.Work, _ *OnPlatform) (*resource[shadowSeen], error) {
	set, err := w.PolicyShadow(ctx)
	return &resource[shadowSeen]{Status: 200, Body: shadowSeen{wireShadow(set), a.Shadow.State()}}, err
}
