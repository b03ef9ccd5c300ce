package adminapi

import (
	"context"
	"encoding/json"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
)

type serviceBody struct {
	Name     string `json:"name"`
	ClientID string `json:"client_id,omitempty" doc:"the client that syncs it; absent: the next one that does"`
	Version  int64  `json:"version"`
}

type manifestBody struct {
	Service    string              `json:"service"`
	Version    int64               `json:"version"`
	Roles      []manifestRole      `json:"roles"`
	Attributes []manifestAttribute `json:"attributes"`
}

type manifestRole struct {
	Name        string   `json:"name" maxLength:"64"`
	Description string   `json:"description,omitempty" maxLength:"1000"`
	Permissions []string `json:"permissions,omitempty" maxItems:"500" doc:"of the service: each begins with its name and a colon"`
	Inherits    []string `json:"inherits,omitempty" maxItems:"100" doc:"names of roles of this manifest"`
}

type manifestAttribute struct {
	Key         string `json:"key" maxLength:"64"`
	Type        string `json:"type" enum:"string,integer,number,boolean,string[]"`
	Description string `json:"description,omitempty" maxLength:"1000"`
}

// manifestPut has the fields of a citadel.manifest.yaml that are for this service; those for others are ignored.
type manifestPut struct {
	_          struct{}             `additionalProperties:"true"`
	Service    string               `json:"service,omitempty" maxLength:"64" doc:"name of the service"`
	Roles      *[]manifestRole      `json:"roles,omitempty" maxItems:"200" doc:"role templates: global roles that every tenant has"`
	Attributes *[]manifestAttribute `json:"attributes,omitempty" maxItems:"200" doc:"attributes of users, tenants and memberships"`
}

// UnmarshalJSON ignores all names but ours, and those in another letter case too.
func (b *manifestPut) UnmarshalJSON(text []byte) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return err
	}
	for name, field := range map[string]any{"service": &b.Service, "roles": &b.Roles, "attributes": &b.Attributes} {
		if raw, ok := fields[name]; ok {
			if err := json.Unmarshal(raw, field); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b manifestPut) manifest(service string) (iam.Manifest, error) {
	m := iam.Manifest{Service: service}
	var invalid []iam.FieldError
	if b.Service != "" && b.Service != service {
		invalid = append(invalid, iam.FieldError{Pointer: "/service", Detail: "must be the service of the path"})
	}
	if b.Roles == nil && b.Attributes == nil {
		// A misspelt key would remove everything that the service has declared.
		invalid = append(invalid, iam.FieldError{Pointer: "", Detail: "must declare roles or attributes; an empty list declares none"})
	}
	if b.Roles != nil {
		for _, r := range *b.Roles {
			m.Roles = append(m.Roles, iam.Role{Name: r.Name, Description: r.Description, Permissions: r.Permissions, Inherits: r.Inherits})
		}
	}
	if b.Attributes != nil {
		for _, x := range *b.Attributes {
			m.Attributes = append(m.Attributes, iam.AttributeSchema{Key: x.Key, Type: x.Type, Description: x.Description})
		}
	}
	return m, iam.InvalidFields(invalid)
}

func manifestResource(s iam.Service, m iam.Manifest) *resource[manifestBody] {
	b := manifestBody{Service: s.Name, Version: s.Version, Roles: []manifestRole{}, Attributes: []manifestAttribute{}}
	for _, r := range m.Roles {
		b.Roles = append(b.Roles, manifestRole{r.Name, r.Description, r.Permissions, r.Inherits})
	}
	for _, x := range m.Attributes {
		b.Attributes = append(b.Attributes, manifestAttribute{x.Key, x.Type, x.Description})
	}
	return &resource[manifestBody]{Status: 200, ETag: etag(s.Version), Body: b}
}

// OnService is an input about a service.
type OnService struct {
	OnPlatform
	Service string `path:"service" maxLength:"64" doc:"name of the service"`
}

func (i OnService) target() target { return target{object: i.Service} }

func (a *server) listServices(ctx context.Context, w *admin.Work, in *struct {
	OnPlatform
	Paged
},
) (*collection[serviceBody], error) {
	var after string
	if err := in.cursor(&after); err != nil {
		return nil, err
	}
	list, err := w.Services(ctx, after, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return pageOf(ctx, in.Paged, list, func(s iam.Service) serviceBody { return serviceBody{s.Name, s.ClientID, s.Version} },
		func(s iam.Service) []any { return []any{s.Name} })
}

func (a *server) readManifest(ctx context.Context, w *admin.Work, in *struct {
	OnService
	Version int64 `query:"version" minimum:"1" doc:"an earlier version; absent: the current one"`
},
) (*resource[manifestBody], error) {
	s, m, err := w.Manifest(ctx, in.Service, in.Version)
	if err != nil {
		return nil, err
	}
	return manifestResource(s, m), nil
}

func (a *server) putManifest(ctx context.Context, w *admin.Work, in *struct {
	OnService
	Body manifestPut
},
) (*resource[manifestBody], error) {
	return putManifest(ctx, w, in.Service, in.Body)
}

func (a *server) syncManifest(ctx context.Context, w *admin.Work, in *struct {
	OnPlatform
	Repeatable
	Body manifestPut
},
) (*resource[manifestBody], error) {
	return putManifest(ctx, w, in.Body.Service, in.Body)
}

func putManifest(ctx context.Context, w *admin.Work, service string, b manifestPut) (*resource[manifestBody], error) {
	m, err := b.manifest(service)
	if err != nil {
		return nil, err
	}
	s, m, err := w.PutManifest(ctx, m)
	if err != nil {
		return nil, err
	}
	return manifestResource(s, m), nil
}
