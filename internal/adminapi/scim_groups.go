package adminapi

import (
	"context"
	"time"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// SCIMGroupBody is a group of a provisioning client. Exported, since the schema is named after it.
type SCIMGroupBody struct {
	ID          string    `json:"id" format:"uuid"`
	Issuer      string    `json:"issuer" doc:"of the client that created it: clients of another one do not find it"`
	DisplayName string    `json:"display_name" doc:"as the client calls it; it means nothing here"`
	ExternalID  string    `json:"external_id,omitempty" doc:"id that the client has given it"`
	Roles       []string  `json:"roles" doc:"names of roles that its members hold"`
	Members     int       `json:"members" doc:"how many"`
	CreatedAt   time.Time `json:"created_at"`
	UpdatedAt   time.Time `json:"updated_at"`
	Version     int64     `json:"version" doc:"as in the ETag; it changes with the members too"`
}

// SCIMGroupPut has the fields of a group that a PUT replaces.
type SCIMGroupPut struct {
	Roles []string `json:"roles" maxItems:"100" doc:"names of roles that the tenant sees; empty: none"`
}

func wireSCIMGroup(g iam.SCIMGroup) SCIMGroupBody {
	return SCIMGroupBody{
		ID:          g.ID,
		Issuer:      g.Issuer,
		DisplayName: g.DisplayName,
		ExternalID:  g.ExternalID,
		Roles:       sorted(g.Roles),
		Members:     g.Members,
		CreatedAt:   g.CreatedAt.UTC(),
		UpdatedAt:   g.UpdatedAt.UTC(),
		Version:     g.Version,
	}
}

func scimGroupResource(g iam.SCIMGroup) *resource[SCIMGroupBody] {
	return &resource[SCIMGroupBody]{Status: 200, ETag: etag(g.Version), Body: wireSCIMGroup(g)}
}

// OnSCIMGroup is an input about a group of a provisioning client.
type OnSCIMGroup struct {
	OnTenant
	Group string `path:"group" maxLength:"64" doc:"id of the group"`
}

func (i OnSCIMGroup) target() target { return target{tenant: i.Tenant, object: i.Group} }

func (a *server) listSCIMGroups(ctx context.Context, w *admin.Work, in *struct {
	OnTenant
	Paged
},
) (*collection[SCIMGroupBody], error) {
	q := postgres.SCIMQuery{Tenant: in.Tenant, Limit: in.Limit + 1}
	if err := in.userCursor(&q.After); err != nil {
		return nil, err
	}
	list, err := w.MappedGroups(ctx, q)
	if err != nil {
		return nil, err
	}
	return pageOf(ctx, in.Paged, list, wireSCIMGroup, func(g iam.SCIMGroup) []any { return []any{g.ID} })
}

func (a *server) readSCIMGroup(ctx context.Context, w *admin.Work, in *OnSCIMGroup) (*resource[SCIMGroupBody], error) {
	g, err := w.MappedGroup(ctx, in.Tenant, in.Group)
	if err != nil {
		return nil, err
	}
	return scimGroupResource(g), nil
}

func (a *server) putSCIMGroup(ctx context.Context, w *admin.Work, in *struct {
	OnSCIMGroup
	Conditional
	Leaving
	Remove bool `query:"remove" doc:"revoke the roles from members outside the group who hold them; otherwise that is 409 role_held"`
	Body   SCIMGroupPut
},
) (*resource[SCIMGroupBody], error) {
	cond, err := in.condition()
	if err != nil {
		return nil, err
	}
	held := admin.RejectHeld
	if in.Remove {
		held = admin.RevokeHeld
	}
	g, err := w.SetSCIMGroupRoles(ctx, in.Tenant, in.Group, in.Body.Roles, held, cond)
	if err != nil {
		return nil, err
	}
	return scimGroupResource(g), nil
}

func (a *server) deleteSCIMGroup(ctx context.Context, w *admin.Work, in *struct {
	OnSCIMGroup
	Conditional
	Leaving
},
) (*struct{}, error) {
	cond, err := in.condition()
	if err != nil {
		return nil, err
	}
	return nil, w.DeleteMappedGroup(ctx, in.Tenant, in.Group, cond)
}
