package adminapi

import (
	"context"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

type tenantBody struct {
	ID         string     `json:"id"`
	Slug       string     `json:"slug"`
	Name       string     `json:"name"`
	Status     string     `json:"status" enum:"active,suspended,archived"`
	Attributes attributes `json:"attributes"`
	Version    int64      `json:"version" doc:"as in the ETag"`
}

// TenantPut has the fields of a tenant that a PUT replaces.
type TenantPut struct {
	Slug       string     `json:"slug" maxLength:"64" doc:"1 to 64 of a-z 0-9 . _ -, unique"`
	Name       string     `json:"name" maxLength:"200"`
	Attributes attributes `json:"attributes,omitempty" doc:"4 KB at most; each is declared by some service's manifest"`
}

type tenantPost struct {
	ID string `json:"id" maxLength:"64" doc:"1 to 64 of a-z 0-9 _ -; permanent"`
	TenantPut
}

func wireTenant(t iam.Tenant) tenantBody {
	return tenantBody{
		ID:         t.ID,
		Slug:       t.Slug,
		Name:       t.Name,
		Status:     t.Status,
		Attributes: orEmpty(t.Attributes),
		Version:    t.Version,
	}
}

func tenantPath(id string) string { return "/v1/tenants/" + id }

func tenantResource(t iam.Tenant) *resource[tenantBody] {
	return &resource[tenantBody]{Status: 200, ETag: etag(t.Version), Body: wireTenant(t)}
}

func (a *server) listTenants(ctx context.Context, w *admin.Work, in *struct {
	OnPlatform
	Paged
	Status string `query:"status" enum:"active,suspended,archived"`
	Slug   string `query:"slug" maxLength:"64"`
	Search string `query:"search" maxLength:"200" doc:"the beginning of the slug or name, in any letter case"`
},
) (*collection[tenantBody], error) {
	f := postgres.TenantFilter{Status: in.Status, Slug: in.Slug, Search: in.Search, Limit: in.Limit + 1}
	if err := in.cursor(&f.After); err != nil {
		return nil, err
	}
	list, err := w.Tenants(ctx, f)
	if err != nil {
		return nil, err
	}
	return pageOf(ctx, in.Paged, list, wireTenant, func(t iam.Tenant) []any { return []any{t.ID} })
}

func (a *server) createTenant(ctx context.Context, w *admin.Work, in *struct {
	OnPlatform
	Repeatable
	Body tenantPost
},
) (*resource[tenantBody], error) {
	b := in.Body
	t, _, err := w.PutTenant(ctx, iam.Tenant{ID: b.ID, Slug: b.Slug, Name: b.Name, Attributes: b.Attributes}, admin.Condition{Absent: true})
	if err != nil {
		return nil, asConflict(err)
	}
	return tenantResource(t).created(tenantPath(t.ID)), nil
}

func (a *server) readTenant(ctx context.Context, w *admin.Work, in *OnTenant) (*resource[tenantBody], error) {
	t, err := w.Tenant(ctx, in.Tenant)
	if err != nil {
		return nil, err
	}
	return tenantResource(t), nil
}

func (a *server) putTenant(ctx context.Context, w *admin.Work, in *struct {
	OnTenant
	Conditional
	Body TenantPut
},
) (*resource[tenantBody], error) {
	cond, err := in.condition()
	if err != nil {
		return nil, err
	}
	t, created, err := w.PutTenant(ctx, iam.Tenant{ID: in.Tenant, Slug: in.Body.Slug, Name: in.Body.Name, Attributes: in.Body.Attributes}, cond)
	if err != nil {
		return nil, err
	}
	out := tenantResource(t)
	if created {
		out.created(tenantPath(t.ID))
	}
	return out, nil
}

// TenantPatch has the fields of a tenant that a merge patch can change.
type TenantPatch struct {
	Slug       *string    `json:"slug,omitempty" maxLength:"64" doc:"1 to 64 of a-z 0-9 . _ -, unique"`
	Name       *string    `json:"name,omitempty" maxLength:"200"`
	Status     *string    `json:"status,omitempty" enum:"active,suspended,archived" doc:"requests to a tenant that is not active are denied"`
	Attributes attributes `json:"attributes,omitempty" nullable:"true" doc:"null as a value removes the attribute; null as the object removes all"`
}

// tenantState is what a patch applies to.
type tenantState struct {
	TenantPut
	Status string `json:"status"`
}

func (a *server) patchTenant(ctx context.Context, w *admin.Work, in *struct {
	OnTenant
	Conditional
	Patched
	Body TenantPatch `contentType:"application/merge-patch+json"`
},
) (*resource[tenantBody], error) {
	cond, err := in.condition()
	if err != nil {
		return nil, err
	}
	t, err := w.EditTenant(ctx, in.Tenant, cond, func(t iam.Tenant) (iam.Tenant, error) {
		s, err := apply(in.Patched, tenantState{TenantPut{t.Slug, t.Name, t.Attributes}, t.Status})
		t.Slug, t.Name, t.Status, t.Attributes = s.Slug, s.Name, s.Status, s.Attributes
		return t, err
	})
	if err != nil {
		return nil, err
	}
	return tenantResource(t), nil
}

func (a *server) deleteTenant(ctx context.Context, w *admin.Work, in *struct {
	OnTenant
	Conditional
},
) (*struct{}, error) {
	cond, err := in.condition()
	if err != nil {
		return nil, err
	}
	return nil, w.DeleteTenant(ctx, in.Tenant, cond)
}
