package adminapi

import (
	"context"
	"net/url"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
)

type roleBody struct {
	Name        string   `json:"name"`
	Global      bool     `json:"global" doc:"available in every tenant"`
	Service     string   `json:"service,omitempty" doc:"whose manifest declares it"`
	Permissions []string `json:"permissions"`
	Inherits    []string `json:"inherits"`
	Description string   `json:"description"`
	Version     int64    `json:"version" doc:"as in the ETag"`

	Request *RoleRequestRule `json:"request,omitempty" doc:"who can ask for it, for a time; absent: no one"`
}

// RolePut has the fields of a role that a PUT replaces.
type RolePut struct {
	Permissions []string `json:"permissions,omitempty" maxItems:"500" doc:"each 1 to 64 of a-z 0-9 . _ : -"`
	Inherits    []string `json:"inherits,omitempty" maxItems:"100" doc:"names of roles that the tenant sees"`
	Description string   `json:"description,omitempty" maxLength:"1000"`

	Request *RoleRequestRule `json:"request,omitempty" doc:"who can ask for it, for a time; absent: no one"`
}

type rolePost struct {
	Name string `json:"name" maxLength:"64" doc:"1 to 64 of a-z 0-9 . _ -; permanent"`
	RolePut
}

func wireRole(r iam.Role) roleBody {
	return roleBody{
		Name:        r.Name,
		Global:      r.Tenant == "",
		Service:     r.Service,
		Permissions: sorted(r.Permissions),
		Inherits:    sorted(r.Inherits),
		Description: r.Description,
		Version:     r.Version,
		Request:     wireRule(r.Request),
	}
}

func roleResource(r iam.Role) *resource[roleBody] {
	return &resource[roleBody]{Status: 200, ETag: etag(r.Version), Body: wireRole(r)}
}

func rolePath(r iam.Role) string {
	if r.Tenant == "" {
		return "/v1/roles/" + url.PathEscape(r.Name)
	}
	return "/v1/tenants/" + r.Tenant + "/roles/" + url.PathEscape(r.Name)
}

// OnRole is an input about a role of a tenant.
type OnRole struct {
	OnTenant
	Role string `path:"role" maxLength:"64" doc:"name of the role"`
}

func (i OnRole) target() target { return target{tenant: i.Tenant, object: i.Role} }

// OnGlobalRole is an input about a global role.
type OnGlobalRole struct {
	OnPlatform
	Role string `path:"role" maxLength:"64" doc:"name of the role"`
}

func (i OnGlobalRole) target() target { return target{object: i.Role} }

func rolesOf(ctx context.Context, w *admin.Work, tenant string) (*collection[roleBody], error) {
	stored, err := w.Roles(ctx, tenant)
	if err != nil {
		return nil, err
	}
	return all(stored, wireRole), nil
}

func (a *server) listRoles(ctx context.Context, w *admin.Work, in *OnTenant) (*collection[roleBody], error) {
	return rolesOf(ctx, w, in.Tenant)
}

func (a *server) listGlobalRoles(ctx context.Context, w *admin.Work, _ *OnPlatform) (*collection[roleBody], error) {
	return rolesOf(ctx, w, "")
}

func (p RolePut) role(tenant, name string) iam.Role {
	return iam.Role{Tenant: tenant, Name: name, Permissions: p.Permissions, Inherits: p.Inherits, Description: p.Description, Request: p.Request.rule()}
}

func writeRole(ctx context.Context, w *admin.Work, r iam.Role, c Conditional) (*resource[roleBody], error) {
	cond, err := c.condition()
	if err != nil {
		return nil, err
	}
	r, created, err := w.PutRole(ctx, r, cond)
	if err != nil {
		return nil, err
	}
	out := roleResource(r)
	if created {
		out.created(rolePath(r))
	}
	return out, nil
}

func createRole(ctx context.Context, w *admin.Work, r iam.Role) (*resource[roleBody], error) {
	out, err := writeRole(ctx, w, r, Conditional{IfNoneMatch: "*"})
	return out, asConflict(err)
}

func (a *server) createRole(ctx context.Context, w *admin.Work, in *struct {
	OnTenant
	Repeatable
	Body rolePost
},
) (*resource[roleBody], error) {
	return createRole(ctx, w, in.Body.role(in.Tenant, in.Body.Name))
}

func (a *server) createGlobalRole(ctx context.Context, w *admin.Work, in *struct {
	OnPlatform
	Repeatable
	Body rolePost
},
) (*resource[roleBody], error) {
	return createRole(ctx, w, in.Body.role("", in.Body.Name))
}

func (a *server) readRole(ctx context.Context, w *admin.Work, in *OnRole) (*resource[roleBody], error) {
	r, err := w.Role(ctx, in.Tenant, in.Role)
	if err != nil {
		return nil, err
	}
	return roleResource(r), nil
}

func (a *server) readGlobalRole(ctx context.Context, w *admin.Work, in *OnGlobalRole) (*resource[roleBody], error) {
	r, err := w.Role(ctx, "", in.Role)
	if err != nil {
		return nil, err
	}
	return roleResource(r), nil
}

func (a *server) putRole(ctx context.Context, w *admin.Work, in *struct {
	OnRole
	Conditional
	Leaving
	Body RolePut
},
) (*resource[roleBody], error) {
	return writeRole(ctx, w, in.Body.role(in.Tenant, in.Role), in.Conditional)
}

func (a *server) putGlobalRole(ctx context.Context, w *admin.Work, in *struct {
	OnGlobalRole
	Conditional
	Body RolePut
},
) (*resource[roleBody], error) {
	return writeRole(ctx, w, in.Body.role("", in.Role), in.Conditional)
}

func (a *server) deleteRole(ctx context.Context, w *admin.Work, in *struct {
	OnRole
	Conditional
	Leaving
	Remove bool `query:"remove" doc:"revoke it first from members, mappings and clients, and from roles that inherit it"`
},
) (*struct{}, error) {
	cond, err := in.condition()
	if err != nil {
		return nil, err
	}
	held := admin.RejectHeld
	if in.Remove {
		held = admin.RevokeHeld
	}
	return nil, w.DeleteRole(ctx, in.Tenant, in.Role, held, cond)
}

func (a *server) deleteGlobalRole(ctx context.Context, w *admin.Work, in *struct {
	OnGlobalRole
	Conditional
},
) (*struct{}, error) {
	cond, err := in.condition()
	if err != nil {
		return nil, err
	}
	return nil, w.DeleteRole(ctx, "", in.Role, admin.RejectHeld, cond)
}
