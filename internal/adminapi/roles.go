package adminapi

import (
	"context"
	"net/url"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
)

type roleBody struct {
	Name        string   `json:"name"`
	Global      bool     `json:"global" doc:"every tenant has it"`
	Service     string   `json:"service,omitempty" doc:"whose manifest declares it"`
	Permissions []string `json:"permissions"`
	Inherits    []string `json:"inherits"`
	Description string   `json:"description"`
	Version     int64    `json:"version" doc:"as in the ETag"`
}

// RolePut is what can be replaced of a role.
type RolePut struct {
	Permissions []string `json:"permissions,omitempty" maxItems:"500" doc:"each 1 to 64 of a-z 0-9 . _ : -"`
	Inherits    []string `json:"inherits,omitempty" maxItems:"100" doc:"names of roles that the tenant sees"`
	Description string   `json:"description,omitempty" maxLength:"1000"`
}

type rolePost struct {
	Name string `json:"name" maxLength:"64" doc:"1 to 64 of a-z 0-9 . _ -; for ever"`
	RolePut
}

func wireRole(r iam.Role) roleBody {
	return roleBody{r.Name, r.Tenant == "", r.Service, sorted(r.Permissions), sorted(r.Inherits), r.Description, r.Version}
}

func oneRole(r iam.Role) *one[roleBody] {
	return &one[roleBody]{Status: 200, ETag: etag(r.Version), Body: wireRole(r)}
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

func (i OnRole) object() string { return i.Role }

// OnGlobalRole is an input about a global role.
type OnGlobalRole struct {
	OnPlatform
	Role string `path:"role" maxLength:"64" doc:"name of the role"`
}

func (i OnGlobalRole) object() string { return i.Role }

func roles(list []iam.Role, err error) (*many[roleBody], error) {
	if err != nil {
		return nil, err
	}
	out := &many[roleBody]{Body: page[roleBody]{Items: []roleBody{}}}
	for _, r := range list {
		out.Body.Items = append(out.Body.Items, wireRole(r))
	}
	return out, nil
}

func (a *server) listRoles(ctx context.Context, w *admin.Work, in *OnTenant) (*many[roleBody], error) {
	return roles(w.Roles(ctx, in.Tenant))
}

func (a *server) listGlobalRoles(ctx context.Context, w *admin.Work, _ *OnPlatform) (*many[roleBody], error) {
	return roles(w.Roles(ctx, ""))
}

func (p RolePut) role(tenant, name string) iam.Role {
	return iam.Role{Tenant: tenant, Name: name, Permissions: p.Permissions, Inherits: p.Inherits, Description: p.Description}
}

func put(ctx context.Context, w *admin.Work, r iam.Role, c Conditional) (*one[roleBody], error) {
	cond, err := c.condition()
	if err != nil {
		return nil, err
	}
	r, made, err := w.PutRole(ctx, r, cond)
	if err != nil {
		return nil, err
	}
	out := oneRole(r)
	if made {
		out.Status, out.Location = 201, rolePath(r)
	}
	return out, nil
}

func create(ctx context.Context, w *admin.Work, r iam.Role) (*one[roleBody], error) {
	out, err := put(ctx, w, r, Conditional{IfNoneMatch: "*"})
	return out, asConflict(err)
}

func (a *server) createRole(ctx context.Context, w *admin.Work, in *struct {
	OnTenant
	Repeatable
	Body rolePost
},
) (*one[roleBody], error) {
	return create(ctx, w, in.Body.role(in.Tenant, in.Body.Name))
}

func (a *server) createGlobalRole(ctx context.Context, w *admin.Work, in *struct {
	OnPlatform
	Repeatable
	Body rolePost
},
) (*one[roleBody], error) {
	return create(ctx, w, in.Body.role("", in.Body.Name))
}

func (a *server) readRole(ctx context.Context, w *admin.Work, in *OnRole) (*one[roleBody], error) {
	r, err := w.Role(ctx, in.Tenant, in.Role)
	if err != nil {
		return nil, err
	}
	return oneRole(r), nil
}

func (a *server) readGlobalRole(ctx context.Context, w *admin.Work, in *OnGlobalRole) (*one[roleBody], error) {
	r, err := w.Role(ctx, "", in.Role)
	if err != nil {
		return nil, err
	}
	return oneRole(r), nil
}

func (a *server) putRole(ctx context.Context, w *admin.Work, in *struct {
	OnRole
	Conditional
	Leaving
	Body RolePut
},
) (*one[roleBody], error) {
	return put(ctx, w, in.Body.role(in.Tenant, in.Role), in.Conditional)
}

func (a *server) putGlobalRole(ctx context.Context, w *admin.Work, in *struct {
	OnGlobalRole
	Conditional
	Body RolePut
},
) (*one[roleBody], error) {
	return put(ctx, w, in.Body.role("", in.Role), in.Conditional)
}

func (a *server) deleteRole(ctx context.Context, w *admin.Work, in *struct {
	OnRole
	Conditional
	Leaving
	Remove bool `query:"remove" doc:"take it away from who holds it: members, mappings, clients, roles that inherit it"`
},
) (*struct{}, error) {
	c, err := in.condition()
	if err != nil {
		return nil, err
	}
	return nil, w.DeleteRole(ctx, in.Tenant, in.Role, in.Remove, c)
}

func (a *server) deleteGlobalRole(ctx context.Context, w *admin.Work, in *struct {
	OnGlobalRole
	Conditional
},
) (*struct{}, error) {
	c, err := in.condition()
	if err != nil {
		return nil, err
	}
	return nil, w.DeleteRole(ctx, "", in.Role, false, c)
}
