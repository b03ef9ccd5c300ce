package adminapi

import (
	"context"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
)

type mappingBody struct {
	ID      string   `json:"id"`
	Issuer  string   `json:"issuer"`
	Claim   string   `json:"claim"`
	Value   string   `json:"value"`
	Roles   []string `json:"roles"`
	Version int64    `json:"version" doc:"as in the ETag"`
}

// MappingPut has the fields of a mapping that a PUT replaces.
type MappingPut struct {
	Roles []string `json:"roles" minItems:"1" maxItems:"100" doc:"names of roles that the tenant sees"`
}

type mappingPost struct {
	Issuer string `json:"issuer,omitempty" maxLength:"512" doc:"of the tokens; absent: R-Auth"`
	Claim  string `json:"claim" maxLength:"255" doc:"of the token: groups, roles or entitlements, which the default policy reads"`
	Value  string `json:"value" maxLength:"255" doc:"equal to the claim, or contained in it"`
	MappingPut
}

func wireMapping(m iam.Mapping) mappingBody {
	return mappingBody{
		ID:      m.ID(),
		Issuer:  m.Issuer,
		Claim:   m.Claim,
		Value:   m.Value,
		Roles:   sorted(m.Roles),
		Version: m.Version,
	}
}

func mappingResource(m iam.Mapping) *resource[mappingBody] {
	return &resource[mappingBody]{Status: 200, ETag: etag(m.Version), Body: wireMapping(m)}
}

// OnMapping is an input about a mapping.
type OnMapping struct {
	OnTenant
	Mapping string `path:"mapping" maxLength:"64" doc:"id of the mapping"`
}

func (i OnMapping) target() target { return target{tenant: i.Tenant, object: i.Mapping} }

func (a *server) listMappings(ctx context.Context, w *admin.Work, in *OnTenant) (*collection[mappingBody], error) {
	list, err := w.Mappings(ctx, in.Tenant)
	if err != nil {
		return nil, err
	}
	return all(list, wireMapping), nil
}

func (a *server) createMapping(ctx context.Context, w *admin.Work, in *struct {
	OnTenant
	Repeatable
	Body mappingPost
},
) (*resource[mappingBody], error) {
	m := iam.Mapping{Tenant: in.Tenant, Issuer: in.Body.Issuer, Claim: in.Body.Claim, Value: in.Body.Value, Roles: in.Body.Roles}
	if m.Issuer == "" {
		m.Issuer = a.Issuer
	}
	m, err := w.CreateMapping(ctx, m)
	if err != nil {
		return nil, err
	}
	return mappingResource(m).created(tenantPath(in.Tenant) + "/mappings/" + m.ID()), nil
}

func (a *server) readMapping(ctx context.Context, w *admin.Work, in *OnMapping) (*resource[mappingBody], error) {
	m, err := w.Mapping(ctx, in.Tenant, in.Mapping)
	if err != nil {
		return nil, err
	}
	return mappingResource(m), nil
}

func (a *server) putMapping(ctx context.Context, w *admin.Work, in *struct {
	OnMapping
	Conditional
	Body MappingPut
},
) (*resource[mappingBody], error) {
	cond, err := in.condition()
	if err != nil {
		return nil, err
	}
	m, err := w.SetMappingRoles(ctx, in.Tenant, in.Mapping, in.Body.Roles, cond)
	if err != nil {
		return nil, err
	}
	return mappingResource(m), nil
}

func (a *server) deleteMapping(ctx context.Context, w *admin.Work, in *struct {
	OnMapping
	Conditional
},
) (*struct{}, error) {
	cond, err := in.condition()
	if err != nil {
		return nil, err
	}
	return nil, w.DeleteMapping(ctx, in.Tenant, in.Mapping, cond)
}
