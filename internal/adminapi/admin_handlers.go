package adminapi

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
	"iam-service/internal/problem"
)

// Wire types: what travels. They are not the domain's.

type attributes map[string]any

func orEmpty(a map[string]any) attributes {
	if a == nil {
		return attributes{}
	}
	return a
}

// --- tenants

type tenantBody struct {
	ID         string     `json:"id"`
	Slug       string     `json:"slug"`
	Name       string     `json:"name"`
	Status     string     `json:"status" enum:"active,suspended,archived"`
	Attributes attributes `json:"attributes"`
	Version    int64      `json:"version" doc:"as in the ETag"`
}

// TenantPut is what can be replaced of a tenant.
type TenantPut struct {
	Slug       string     `json:"slug" maxLength:"64" doc:"1 to 64 of a-z 0-9 . _ -, unique"`
	Name       string     `json:"name" maxLength:"200"`
	Attributes attributes `json:"attributes,omitempty" doc:"4 KB at most; each is declared by some service's manifest"`
}

type tenantPost struct {
	ID string `json:"id" maxLength:"64" doc:"1 to 64 of a-z 0-9 _ -; for ever"`
	TenantPut
}

func wireTenant(t iam.Tenant) tenantBody {
	return tenantBody{t.ID, t.Slug, t.Name, t.Status, orEmpty(t.Attributes), t.Version}
}

func oneTenant(t iam.Tenant) *one[tenantBody] {
	return &one[tenantBody]{Status: 200, ETag: etag(t.Version), Body: wireTenant(t)}
}

func (a *server) listTenants(ctx context.Context, w *admin.Work, in *struct {
	OnPlatform
	Paged
	Status string `query:"status" enum:"active,suspended,archived"`
	Slug   string `query:"slug" maxLength:"64"`
	Search string `query:"search" maxLength:"200" doc:"the beginning of the slug or name, whatever its case"`
},
) (*many[tenantBody], error) {
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
) (*one[tenantBody], error) {
	b := in.Body
	t, _, err := w.PutTenant(ctx, iam.Tenant{ID: b.ID, Slug: b.Slug, Name: b.Name, Attributes: b.Attributes}, admin.Condition{Absent: true})
	if err != nil {
		return nil, asConflict(err)
	}
	out := oneTenant(t)
	out.Status, out.Location = 201, "/v1/tenants/"+t.ID
	return out, nil
}

// asConflict says of a POST what a PUT with If-None-Match would: it is there already.
func asConflict(err error) error {
	if iam.KindOf(err) == iam.PreconditionFailed {
		return &iam.Error{Kind: iam.Conflict, Code: "exists", Detail: "it is there already"}
	}
	return err
}

func (a *server) readTenant(ctx context.Context, w *admin.Work, in *OnTenant) (*one[tenantBody], error) {
	t, err := w.Tenant(ctx, in.Tenant)
	if err != nil {
		return nil, err
	}
	return oneTenant(t), nil
}

func (a *server) putTenant(ctx context.Context, w *admin.Work, in *struct {
	OnTenant
	Conditional
	Body TenantPut
},
) (*one[tenantBody], error) {
	c, err := in.condition()
	if err != nil {
		return nil, err
	}
	t, made, err := w.PutTenant(ctx, iam.Tenant{ID: in.Tenant, Slug: in.Body.Slug, Name: in.Body.Name, Attributes: in.Body.Attributes}, c)
	if err != nil {
		return nil, err
	}
	out := oneTenant(t)
	if made {
		out.Status, out.Location = 201, "/v1/tenants/"+t.ID
	}
	return out, nil
}

// TenantPatch is what a merge patch can change of a tenant.
type TenantPatch struct {
	Slug       *string    `json:"slug,omitempty" maxLength:"64" doc:"1 to 64 of a-z 0-9 . _ -, unique"`
	Name       *string    `json:"name,omitempty" maxLength:"200"`
	Status     *string    `json:"status,omitempty" enum:"active,suspended,archived" doc:"nobody gets into a tenant that is not active"`
	Attributes attributes `json:"attributes,omitempty" nullable:"true" doc:"null as a value removes an attribute, null instead of the object all of them"`
}

type tenantState struct {
	TenantPut
	Status string `json:"status"`
}

func (a *server) patchTenant(ctx context.Context, w *admin.Work, in *struct {
	OnTenant
	Conditional
	PatchedTenant
	Body TenantPatch `contentType:"application/merge-patch+json"`
},
) (*one[tenantBody], error) {
	c, err := in.condition()
	if err != nil {
		return nil, err
	}
	t, err := w.EditTenant(ctx, in.Tenant, c, func(t iam.Tenant) (iam.Tenant, error) {
		s, err := apply(in.Patched, tenantState{TenantPut{t.Slug, t.Name, t.Attributes}, t.Status})
		t.Slug, t.Name, t.Status, t.Attributes = s.Slug, s.Name, s.Status, s.Attributes
		return t, err
	})
	if err != nil {
		return nil, err
	}
	return oneTenant(t), nil
}

func (a *server) deleteTenant(ctx context.Context, w *admin.Work, in *struct {
	OnTenant
	Conditional
},
) (*struct{}, error) {
	c, err := in.condition()
	if err != nil {
		return nil, err
	}
	return nil, w.DeleteTenant(ctx, in.Tenant, c)
}

// --- roles

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

func sorted(list []string) []string {
	if s := slices.Sorted(slices.Values(list)); s != nil {
		return s
	}
	return []string{}
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

// --- members

type memberBody struct {
	Tenant     string     `json:"tenant"`
	User       string     `json:"user" format:"uuid" doc:"our id"`
	Issuer     string     `json:"issuer"`
	Subject    string     `json:"subject"`
	Status     string     `json:"status" enum:"active,suspended,expired" doc:"expired: active, but its end has passed"`
	Roles      []string   `json:"roles"`
	Attributes attributes `json:"attributes"`
	ExpiresAt  *time.Time `json:"expires_at,omitempty" doc:"absent: never"`
	Version    int64      `json:"version" doc:"as in the ETag"`
}

// MemberPut is what can be replaced of a member.
type MemberPut struct {
	Status     string     `json:"status,omitempty" enum:"active,suspended" default:"active"`
	Roles      []string   `json:"roles,omitempty" maxItems:"100" doc:"names of roles that the tenant sees"`
	Attributes attributes `json:"attributes,omitempty" doc:"4 KB at most; each is declared by some service's manifest"`
	ExpiresAt  *time.Time `json:"expires_at,omitempty" doc:"in the future; absent: never"`
}

type memberPost struct {
	Issuer  string `json:"issuer,omitempty" maxLength:"512" doc:"of their tokens; absent: R-Auth"`
	Subject string `json:"subject" maxLength:"255" doc:"as in their tokens"`
	MemberPut
}

func wireMember(m iam.Member) memberBody {
	b := memberBody{m.Tenant, m.User, m.Issuer, m.Subject, m.Status, sorted(m.Roles), orEmpty(m.Attributes), given(m.ExpiresAt), m.Version}
	if b.ExpiresAt != nil && b.Status == iam.MembershipActive && (m.Expired || !b.ExpiresAt.After(time.Now())) {
		b.Status = iam.MembershipExpired
	}
	return b
}

func oneMember(m iam.Member) *one[memberBody] {
	return &one[memberBody]{Status: 200, ETag: etag(m.Version), Body: wireMember(m)}
}

// check refuses a time that could be taken for none.
func (p MemberPut) check(at string) []iam.FieldError {
	if p.ExpiresAt == nil || !p.ExpiresAt.IsZero() {
		return nil
	}
	return []iam.FieldError{{Pointer: at + "/expires_at", Detail: "must be a time after the year 1; leave it out for never"}}
}

func (p MemberPut) membership() iam.Membership {
	m := iam.Membership{Status: p.Status, Roles: p.Roles, Attributes: p.Attributes}
	if m.Status == "" { // a default is not applied within a list
		m.Status = iam.MembershipActive
	}
	if p.ExpiresAt != nil {
		m.ExpiresAt = *p.ExpiresAt
	}
	return m
}

func (a *server) row(p memberPost) admin.Row {
	r := admin.Row{Issuer: p.Issuer, Subject: p.Subject, Membership: p.membership()}
	if r.Issuer == "" {
		r.Issuer = a.Issuer
	}
	return r
}

// OnMember is an input about a member.
type OnMember struct {
	OnTenant
	User string `path:"user" maxLength:"64" doc:"our id of the user"`
}

func (i OnMember) object() string { return i.User }

func (a *server) listMembers(ctx context.Context, w *admin.Work, in *struct {
	OnTenant
	Paged
	Role    string `query:"role" maxLength:"64" doc:"those to whom it is assigned"`
	Status  string `query:"status" enum:"active,suspended,expired"`
	Issuer  string `query:"issuer" maxLength:"512"`
	Subject string `query:"subject" maxLength:"255"`
	Search  string `query:"search" maxLength:"255" doc:"the beginning of the subject, whatever its case"`
},
) (*many[memberBody], error) {
	f := postgres.MemberFilter{Role: in.Role, Status: in.Status, Issuer: in.Issuer, Subject: in.Subject, Search: in.Search, Limit: in.Limit + 1}
	if err := in.userCursor(&f.After); err != nil {
		return nil, err
	}
	list, err := w.Members(ctx, in.Tenant, f)
	if err != nil {
		return nil, err
	}
	return pageOf(ctx, in.Paged, list, wireMember, func(m iam.Member) []any { return []any{m.User} })
}

// userCursor is a cursor of one id of a user.
func (p Paged) userCursor(into *string) error {
	if err := p.cursor(into); err != nil {
		return err
	}
	if *into != "" && uuid.Validate(*into) != nil {
		return badCursor()
	}
	return nil
}

func (a *server) addMember(ctx context.Context, w *admin.Work, in *struct {
	OnTenant
	Repeatable
	Body memberPost
},
) (*one[memberBody], error) {
	if err := iam.Refuse(in.Body.check("")); err != nil {
		return nil, err
	}
	outcomes, err := w.PutMembers(ctx, in.Tenant, []admin.Row{a.row(in.Body)}, true)
	if err != nil {
		return nil, iam.Rebase(err, "/0", "")
	}
	out := oneMember(outcomes[0].Member)
	out.Status, out.Location = 201, "/v1/tenants/"+in.Tenant+"/members/"+out.Body.User
	return out, nil
}

type outcomeBody struct {
	User    string `json:"user" format:"uuid" doc:"our id"`
	Result  string `json:"result" enum:"added,replaced,unchanged"`
	Version int64  `json:"version"`
}

// batchBody is a batch as the document has it. What is sent is validated row by row.
type batchBody struct {
	Members []memberPost `json:"members" minItems:"1" maxItems:"1000"`
}

// rows reads a batch: each row that cannot be read, and all that is wrong with it, at once. The
// rest can still be invalid.
func (a *server) rows(media, id string, body []byte) (rows []admin.Row, wrong []iam.FieldError, err error) {
	var doc any
	switch err := a.api.Unmarshal(media, body, &doc); {
	case errors.Is(err, huma.ErrUnknownContentType):
		return nil, nil, found(id, http.StatusUnsupportedMediaType, nil)
	case err != nil:
		return nil, nil, found(id, http.StatusBadRequest, []error{&huma.ErrorDetail{Location: "body", Message: err.Error()}})
	}
	registry := a.api.OpenAPI().Components.Schemas
	path, result := huma.NewPathBuffer(nil, 0), &huma.ValidateResult{}
	path.Push("body")
	huma.Validate(registry, registry.Schema(reflect.TypeFor[batchBody](), true, ""), path, huma.ModeWriteToServer, doc, result)
	unread := map[string]bool{}
	for _, e := range result.Errors {
		d, ok := errors.AsType[*huma.ErrorDetail](e)
		if !ok {
			continue // there are no others
		}
		at, isRow := strings.CutPrefix(pointerOf(d.Location), "/members/")
		if !isRow {
			return nil, nil, found(id, http.StatusUnprocessableEntity, result.Errors) // of the whole
		}
		wrong = append(wrong, iam.FieldError{Pointer: "/" + at, Detail: d.Message})
		place, _, _ := strings.Cut(at, "/")
		unread[place] = true
	}
	var b struct{ Members []json.RawMessage }
	if err := json.Unmarshal(body, &b); err != nil {
		return nil, nil, err
	}
	rows = make([]admin.Row, len(b.Members))
	for i, raw := range b.Members {
		if unread[strconv.Itoa(i)] {
			rows[i].Invalid = true
			continue
		}
		var m memberPost
		if err := jsonFormat.Unmarshal(raw, &m); err != nil {
			rows[i].Invalid = true
			wrong = append(wrong, iam.FieldError{Pointer: fmt.Sprintf("/%d", i), Detail: err.Error()})
			continue
		}
		rows[i] = a.row(m)
		wrong = append(wrong, m.check(fmt.Sprintf("/%d", i))...)
	}
	return rows, wrong, nil
}

func (a *server) batchMembers(ctx context.Context, w *admin.Work, in *struct {
	OnTenant
	Leaving
	Repeatable
},
) (*many[outcomeBody], error) {
	req, _ := ctx.Value(requestKey{}).(request) // authenticate puts it there
	rows, wrong, err := a.rows(req.r.Header.Get("Content-Type"), problem.RequestID(req.r), in.RawBody)
	if err != nil {
		return nil, err
	}
	outcomes, err := w.PutMembers(ctx, in.Tenant, rows, false, wrong...)
	if err != nil {
		return nil, iam.Rebase(err, "/", "/members/")
	}
	out := &many[outcomeBody]{Body: page[outcomeBody]{Items: []outcomeBody{}}}
	for _, o := range outcomes {
		result := "unchanged"
		switch {
		case o.Created:
			result = "added"
		case o.Changed:
			result = "replaced"
		}
		out.Body.Items = append(out.Body.Items, outcomeBody{o.Member.User, result, o.Member.Version})
	}
	return out, nil
}

func (a *server) readMember(ctx context.Context, w *admin.Work, in *OnMember) (*one[memberBody], error) {
	m, err := w.Member(ctx, in.Tenant, in.User)
	if err != nil {
		return nil, err
	}
	return oneMember(m), nil
}

func (a *server) putMember(ctx context.Context, w *admin.Work, in *struct {
	OnMember
	Conditional
	Leaving
	Body MemberPut
},
) (*one[memberBody], error) {
	c, err := in.condition()
	if err != nil {
		return nil, err
	}
	if err := iam.Refuse(in.Body.check("")); err != nil {
		return nil, err
	}
	m := in.Body.membership()
	m.Tenant, m.User = in.Tenant, in.User
	got, err := w.PutMember(ctx, m, c)
	if err != nil {
		return nil, err
	}
	return oneMember(got), nil
}

// MemberPatch is what a merge patch can change of a member.
type MemberPatch struct {
	Status     *string    `json:"status,omitempty" enum:"active,suspended"`
	Roles      []string   `json:"roles,omitempty" maxItems:"100" doc:"all of them"`
	Attributes attributes `json:"attributes,omitempty" nullable:"true" doc:"null as a value removes an attribute, null instead of the object all of them"`
	ExpiresAt  *time.Time `json:"expires_at,omitempty" nullable:"true" doc:"in the future; null: never"`
}

func (a *server) patchMember(ctx context.Context, w *admin.Work, in *struct {
	OnMember
	Conditional
	Leaving
	PatchedMember
	Body MemberPatch `contentType:"application/merge-patch+json"`
},
) (*one[memberBody], error) {
	c, err := in.condition()
	if err != nil {
		return nil, err
	}
	m, err := w.EditMember(ctx, in.Tenant, in.User, c, func(m iam.Membership) (iam.Membership, error) {
		s, err := apply(in.Patched, MemberPut{m.Status, m.Roles, m.Attributes, given(m.ExpiresAt)})
		if err == nil {
			err = iam.Refuse(s.check(""))
		}
		after := s.membership()
		after.Status = s.Status // null is no default here
		after.Tenant, after.User, after.Version = m.Tenant, m.User, m.Version
		return after, err
	})
	if err != nil {
		return nil, err
	}
	return oneMember(m), nil
}

func (a *server) deleteMember(ctx context.Context, w *admin.Work, in *struct {
	OnMember
	Conditional
	Leaving
},
) (*struct{}, error) {
	c, err := in.condition()
	if err != nil {
		return nil, err
	}
	return nil, w.DeleteMember(ctx, in.Tenant, in.User, c)
}

// --- mappings

type mappingBody struct {
	ID      string   `json:"id"`
	Issuer  string   `json:"issuer"`
	Claim   string   `json:"claim"`
	Value   string   `json:"value"`
	Roles   []string `json:"roles"`
	Version int64    `json:"version" doc:"as in the ETag"`
}

// MappingPut is what can be replaced of a mapping.
type MappingPut struct {
	Roles []string `json:"roles" minItems:"1" maxItems:"100" doc:"names of roles that the tenant sees"`
}

type mappingPost struct {
	Issuer string `json:"issuer,omitempty" maxLength:"512" doc:"whose tokens; absent: R-Auth's"`
	Claim  string `json:"claim" maxLength:"255" doc:"of the token: groups, roles or entitlements, as the default policy reads them"`
	Value  string `json:"value" maxLength:"255" doc:"that the claim is, or contains"`
	MappingPut
}

func wireMapping(m iam.Mapping) mappingBody {
	return mappingBody{m.ID(), m.Issuer, m.Claim, m.Value, sorted(m.Roles), m.Version}
}

func oneMapping(m iam.Mapping) *one[mappingBody] {
	return &one[mappingBody]{Status: 200, ETag: etag(m.Version), Body: wireMapping(m)}
}

// OnMapping is an input about a mapping.
type OnMapping struct {
	OnTenant
	Mapping string `path:"mapping" maxLength:"64" doc:"id of the mapping"`
}

func (i OnMapping) object() string { return i.Mapping }

func (a *server) listMappings(ctx context.Context, w *admin.Work, in *OnTenant) (*many[mappingBody], error) {
	list, err := w.Mappings(ctx, in.Tenant)
	if err != nil {
		return nil, err
	}
	out := &many[mappingBody]{Body: page[mappingBody]{Items: []mappingBody{}}}
	for _, m := range list {
		out.Body.Items = append(out.Body.Items, wireMapping(m))
	}
	return out, nil
}

func (a *server) createMapping(ctx context.Context, w *admin.Work, in *struct {
	OnTenant
	Repeatable
	Body mappingPost
},
) (*one[mappingBody], error) {
	m := iam.Mapping{Tenant: in.Tenant, Issuer: in.Body.Issuer, Claim: in.Body.Claim, Value: in.Body.Value, Roles: in.Body.Roles}
	if m.Issuer == "" {
		m.Issuer = a.Issuer
	}
	m, err := w.CreateMapping(ctx, m)
	if err != nil {
		return nil, err
	}
	out := oneMapping(m)
	out.Status, out.Location = 201, "/v1/tenants/"+in.Tenant+"/mappings/"+m.ID()
	return out, nil
}

func (a *server) readMapping(ctx context.Context, w *admin.Work, in *OnMapping) (*one[mappingBody], error) {
	m, err := w.Mapping(ctx, in.Tenant, in.Mapping)
	if err != nil {
		return nil, err
	}
	return oneMapping(m), nil
}

func (a *server) putMapping(ctx context.Context, w *admin.Work, in *struct {
	OnMapping
	Conditional
	Body MappingPut
},
) (*one[mappingBody], error) {
	c, err := in.condition()
	if err != nil {
		return nil, err
	}
	m, err := w.SetMappingRoles(ctx, in.Tenant, in.Mapping, in.Body.Roles, c)
	if err != nil {
		return nil, err
	}
	return oneMapping(m), nil
}

func (a *server) deleteMapping(ctx context.Context, w *admin.Work, in *struct {
	OnMapping
	Conditional
},
) (*struct{}, error) {
	c, err := in.condition()
	if err != nil {
		return nil, err
	}
	return nil, w.DeleteMapping(ctx, in.Tenant, in.Mapping, c)
}

// --- users

type userBody struct {
	ID              string     `json:"id" format:"uuid"`
	Issuer          string     `json:"issuer"`
	Subject         string     `json:"subject"`
	Status          string     `json:"status" enum:"active,blocked"`
	Attributes      attributes `json:"attributes"`
	PlatformRoles   []string   `json:"platform_roles"`
	DefaultTenant   string     `json:"default_tenant,omitempty"`
	TokensNotBefore *time.Time `json:"tokens_not_before,omitempty" doc:"tokens issued earlier are refused"`
	Version         int64      `json:"version" doc:"as in the ETag"`
}

// UserPut is what can be replaced of a user.
type UserPut struct {
	Attributes    attributes `json:"attributes,omitempty" doc:"4 KB at most; each is declared by some service's manifest. No personal data."`
	PlatformRoles []string   `json:"platform_roles,omitempty" enum:"platform-admin,policy-admin,auditor" maxItems:"3"`
	DefaultTenant string     `json:"default_tenant,omitempty" maxLength:"64" doc:"that they enter where a request names none"`
}

type userPost struct {
	Issuer  string `json:"issuer,omitempty" maxLength:"512" doc:"of their tokens; absent: R-Auth"`
	Subject string `json:"subject" maxLength:"255" doc:"as in their tokens"`
	UserPut
}

func wireUser(u iam.User) userBody {
	return userBody{u.ID, u.Issuer, u.Subject, u.Status, orEmpty(u.Attributes), sorted(u.PlatformRoles), u.DefaultTenant, given(u.TokensNotBefore), u.Version}
}

func oneUser(u iam.User, err error) (*one[userBody], error) {
	if err != nil {
		return nil, err
	}
	return &one[userBody]{Status: 200, ETag: etag(u.Version), Body: wireUser(u)}, nil
}

// OnUser is an input about a user.
type OnUser struct {
	OnPlatform
	User string `path:"user" maxLength:"64" doc:"our id of the user"`
}

func (i OnUser) object() string { return i.User }

func (a *server) listUsers(ctx context.Context, w *admin.Work, in *struct {
	OnPlatform
	Paged
	Issuer       string `query:"issuer" maxLength:"512"`
	Subject      string `query:"subject" maxLength:"255"`
	Status       string `query:"status" enum:"active,blocked"`
	PlatformRole string `query:"platform_role" enum:"platform-admin,policy-admin,auditor"`
	Search       string `query:"search" maxLength:"255" doc:"the beginning of the subject, whatever its case"`
},
) (*many[userBody], error) {
	f := postgres.UserFilter{Issuer: in.Issuer, Subject: in.Subject, Status: in.Status, PlatformRole: in.PlatformRole, Search: in.Search, Limit: in.Limit + 1}
	if err := in.userCursor(&f.After); err != nil {
		return nil, err
	}
	list, err := w.Users(ctx, f)
	if err != nil {
		return nil, err
	}
	return pageOf(ctx, in.Paged, list, wireUser, func(u iam.User) []any { return []any{u.ID} })
}

func (a *server) createUser(ctx context.Context, w *admin.Work, in *struct {
	OnPlatform
	Repeatable
	Body userPost
},
) (*one[userBody], error) {
	b := in.Body
	u := iam.User{Issuer: b.Issuer, Subject: b.Subject, Attributes: b.Attributes, PlatformRoles: b.PlatformRoles, DefaultTenant: b.DefaultTenant}
	if u.Issuer == "" {
		u.Issuer = a.Issuer
	}
	out, err := oneUser(w.CreateUser(ctx, u))
	if err != nil {
		return nil, err
	}
	out.Status, out.Location = 201, "/v1/users/"+out.Body.ID
	return out, nil
}

func (a *server) readUser(ctx context.Context, w *admin.Work, in *OnUser) (*one[userBody], error) {
	return oneUser(w.User(ctx, in.User))
}

func (a *server) putUser(ctx context.Context, w *admin.Work, in *struct {
	OnUser
	Conditional
	Body UserPut
},
) (*one[userBody], error) {
	c, err := in.condition()
	if err != nil {
		return nil, err
	}
	b := in.Body
	return oneUser(w.PutUser(ctx, in.User, admin.UserEdit{Attributes: b.Attributes, PlatformRoles: b.PlatformRoles, DefaultTenant: b.DefaultTenant}, c))
}

// UserPatch is what a merge patch can change of a user.
type UserPatch struct {
	Status        *string    `json:"status,omitempty" enum:"active,blocked" doc:"a blocked user gets in problem.Nowhere"`
	Attributes    attributes `json:"attributes,omitempty" nullable:"true" doc:"null as a value removes an attribute, null instead of the object all of them"`
	PlatformRoles []string   `json:"platform_roles,omitempty" enum:"platform-admin,policy-admin,auditor" maxItems:"3" doc:"all of them"`
	DefaultTenant *string    `json:"default_tenant,omitempty" nullable:"true" maxLength:"64" doc:"null: none"`
}

type userState struct {
	UserPut
	Status string `json:"status"`
}

func (a *server) patchUser(ctx context.Context, w *admin.Work, in *struct {
	OnUser
	Conditional
	PatchedUser
	Body UserPatch `contentType:"application/merge-patch+json"`
},
) (*one[userBody], error) {
	c, err := in.condition()
	if err != nil {
		return nil, err
	}
	return oneUser(w.EditUser(ctx, in.User, c, func(u *iam.User) error {
		s, err := apply(in.Patched, userState{UserPut{u.Attributes, u.PlatformRoles, u.DefaultTenant}, u.Status})
		u.Status, u.Attributes, u.PlatformRoles, u.DefaultTenant = s.Status, s.Attributes, s.PlatformRoles, s.DefaultTenant
		return err
	}))
}

func (a *server) revokeUser(ctx context.Context, w *admin.Work, in *struct {
	OnUser
	Repeatable
	Body *struct {
		Before *time.Time `json:"before,omitempty" doc:"tokens issued earlier, or less than 5 s later, are refused; absent: now. It never goes back."`
	}
},
) (*one[userBody], error) {
	var before time.Time
	if in.Body != nil && in.Body.Before != nil {
		before = *in.Body.Before
	}
	return oneUser(w.RevokeTokens(ctx, in.User, before))
}

func (a *server) eraseUser(ctx context.Context, w *admin.Work, in *struct {
	OnUser
	Conditional
},
) (*struct{}, error) {
	c, err := in.condition()
	if err != nil {
		return nil, err
	}
	return nil, w.EraseUser(ctx, in.User, c)
}

func (a *server) listMemberships(ctx context.Context, w *admin.Work, in *OnUser) (*many[memberBody], error) {
	list, err := w.MembershipsOf(ctx, in.User)
	if err != nil {
		return nil, err
	}
	out := &many[memberBody]{Body: page[memberBody]{Items: []memberBody{}}}
	for _, m := range list {
		out.Body.Items = append(out.Body.Items, wireMember(m))
	}
	return out, nil
}

type effectiveBody struct {
	User        string                `json:"user" format:"uuid"`
	Tenant      string                `json:"tenant"`
	InForce     bool                  `json:"in_force" doc:"whether the membership counts; if not, nothing is held"`
	Why         []string              `json:"why_not" doc:"user_blocked, tenant_suspended, tenant_archived, membership_suspended, membership_expired, issuer_does_not_reach_tenant"`
	Roles       []effectiveRole       `json:"roles"`
	Permissions []effectivePermission `json:"permissions"`
	Mappings    []mappingBody         `json:"mappings" doc:"what the user's provider could say in a token, and the roles that would add"`
}

type effectiveRole struct {
	Name     string   `json:"name"`
	Global   bool     `json:"global"`
	Assigned bool     `json:"assigned" doc:"by the membership itself"`
	Through  []string `json:"through" doc:"held roles that inherit it"`
}

type effectivePermission struct {
	Name  string   `json:"name"`
	Roles []string `json:"roles" doc:"that have it"`
}

type effectiveIn struct {
	User   string `path:"user" maxLength:"64" doc:"our id of the user"`
	Tenant string `query:"tenant" required:"true" minLength:"1" maxLength:"64" doc:"id of the tenant"`
}

func (i effectiveIn) tenant() string { return i.Tenant }
func (i effectiveIn) object() string { return i.User }

func (a *server) readEffective(ctx context.Context, w *admin.Work, in *effectiveIn) (*one[effectiveBody], error) {
	e, err := w.Effective(ctx, in.User, in.Tenant)
	if err != nil {
		return nil, err
	}
	b := effectiveBody{User: e.User, Tenant: e.Tenant, InForce: e.InForce, Why: e.Why, Roles: []effectiveRole{}, Permissions: []effectivePermission{}, Mappings: []mappingBody{}}
	for _, r := range e.Roles {
		b.Roles = append(b.Roles, effectiveRole(r))
	}
	for _, p := range e.Permissions {
		b.Permissions = append(b.Permissions, effectivePermission(p))
	}
	for _, m := range e.Mappings {
		b.Mappings = append(b.Mappings, wireMapping(m))
	}
	return &one[effectiveBody]{Status: 200, Body: b}, nil
}

// --- services

type serviceBody struct {
	Name     string `json:"name"`
	ClientID string `json:"client_id,omitempty" doc:"the program that syncs it; absent: the next one that does"`
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
	Permissions []string `json:"permissions,omitempty" maxItems:"500" doc:"of the service's own: they begin with its name and a colon"`
	Inherits    []string `json:"inherits,omitempty" maxItems:"100" doc:"names of roles of this manifest"`
}

type manifestAttribute struct {
	Key         string `json:"key" maxLength:"64"`
	Type        string `json:"type" enum:"string,integer,number,boolean,string[]"`
	Description string `json:"description,omitempty" maxLength:"1000"`
}

// manifestPut is what a citadel.manifest.yaml says to us; what it says to others is
// passed over.
type manifestPut struct {
	_          struct{}             `additionalProperties:"true"`
	Service    string               `json:"service,omitempty" maxLength:"64" doc:"name of the service"`
	Roles      *[]manifestRole      `json:"roles,omitempty" maxItems:"200" doc:"role templates: global roles that every tenant has"`
	Attributes *[]manifestAttribute `json:"attributes,omitempty" maxItems:"200" doc:"attributes of users, tenants and memberships"`
}

// UnmarshalJSON takes our names as they are written, and passes over all others: a name in
// other letters is not ours.
func (b *manifestPut) UnmarshalJSON(text []byte) error {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(text, &all); err != nil {
		return err
	}
	for name, into := range map[string]any{"service": &b.Service, "roles": &b.Roles, "attributes": &b.Attributes} {
		if raw, there := all[name]; there {
			if err := json.Unmarshal(raw, into); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b manifestPut) manifest(service string) (iam.Manifest, error) {
	m := iam.Manifest{Service: service}
	var wrong []iam.FieldError
	if b.Service != "" && b.Service != service {
		wrong = append(wrong, iam.FieldError{Pointer: "/service", Detail: "is another service than the path's"})
	}
	if b.Roles == nil && b.Attributes == nil {
		// A misspelt key would take everything away.
		wrong = append(wrong, iam.FieldError{Pointer: "", Detail: "must declare roles or attributes; an empty list declares none"})
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
	return m, iam.Refuse(wrong)
}

func oneManifest(s iam.Service, m iam.Manifest) *one[manifestBody] {
	b := manifestBody{Service: s.Name, Version: s.Version, Roles: []manifestRole{}, Attributes: []manifestAttribute{}}
	for _, r := range m.Roles {
		b.Roles = append(b.Roles, manifestRole{r.Name, r.Description, r.Permissions, r.Inherits})
	}
	for _, x := range m.Attributes {
		b.Attributes = append(b.Attributes, manifestAttribute{x.Key, x.Type, x.Description})
	}
	return &one[manifestBody]{Status: 200, ETag: etag(s.Version), Body: b}
}

// OnService is an input about a service.
type OnService struct {
	OnPlatform
	Service string `path:"service" maxLength:"64" doc:"name of the service"`
}

func (i OnService) object() string { return i.Service }

func (a *server) listServices(ctx context.Context, w *admin.Work, in *struct {
	OnPlatform
	Paged
},
) (*many[serviceBody], error) {
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
	Version int64 `query:"version" minimum:"1" doc:"an earlier one; absent: the one in force"`
},
) (*one[manifestBody], error) {
	s, m, err := w.Manifest(ctx, in.Service, in.Version)
	if err != nil {
		return nil, err
	}
	return oneManifest(s, m), nil
}

func (a *server) putManifest(ctx context.Context, w *admin.Work, in *struct {
	OnService
	Body manifestPut
},
) (*one[manifestBody], error) {
	return putManifest(ctx, w, in.Service, in.Body)
}

func (a *server) syncManifest(ctx context.Context, w *admin.Work, in *struct {
	OnPlatform
	Repeatable
	Body manifestPut
},
) (*one[manifestBody], error) {
	return putManifest(ctx, w, in.Body.Service, in.Body)
}

func putManifest(ctx context.Context, w *admin.Work, service string, b manifestPut) (*one[manifestBody], error) {
	m, err := b.manifest(service)
	if err != nil {
		return nil, err
	}
	s, m, err := w.PutManifest(ctx, m)
	if err != nil {
		return nil, err
	}
	return oneManifest(s, m), nil
}

// --- audit and policy

type auditBody struct {
	Chain      string          `json:"chain" doc:"id of a tenant; empty: the platform"`
	Seq        int64           `json:"seq"`
	At         time.Time       `json:"at"`
	ActorKind  string          `json:"actor_kind" enum:"user,client,operator"`
	Actor      string          `json:"actor" doc:"our id of a user, a client_id, who ran a command"`
	Via        string          `json:"via" enum:"api,command,bootstrap,loop"`
	Address    string          `json:"address,omitempty"`
	RequestID  string          `json:"request_id,omitempty"`
	DecisionID string          `json:"decision_id,omitempty"`
	Action     string          `json:"action"`
	Kind       string          `json:"kind"`
	Object     string          `json:"object"`
	Before     json.RawMessage `json:"before,omitempty" doc:"absent: it was not there"`
	After      json.RawMessage `json:"after,omitempty" doc:"absent: it is no more"`
	Hash       string          `json:"hash" doc:"of this entry and all before it, in hex"`
}

func wireEntry(e iam.AuditEntry) auditBody {
	return auditBody{
		e.Chain, e.Seq, e.At.UTC(), e.ActorKind, e.Actor, e.Via, e.Address, e.RequestID, e.DecisionID, e.Action, e.Kind, e.Object, e.Before, e.After, hex.EncodeToString(e.Hash),
	}
}

type auditIn struct {
	Paged
	Tenant string    `query:"tenant" maxLength:"64" doc:"id of the tenant; absent: everything"`
	Actor  string    `query:"actor" maxLength:"255"`
	Action string    `query:"action" maxLength:"64" doc:"as in member:create"`
	Kind   string    `query:"kind" enum:"tenant,role,user,member,mapping,service,client,event"`
	Object string    `query:"object" maxLength:"255" doc:"id or name"`
	From   time.Time `query:"from" doc:"not before"`
	Until  time.Time `query:"until" doc:"before"`
}

func (i auditIn) tenant() string { return i.Tenant }

func (a *server) listAudit(ctx context.Context, w *admin.Work, in *auditIn) (*many[auditBody], error) {
	f := postgres.AuditFilter{Actor: in.Actor, Action: in.Action, Kind: in.Kind, Object: in.Object, From: in.From, Until: in.Until, Limit: in.Limit + 1}
	if err := in.cursor(&f.BeforeAt, &f.BeforeChain, &f.BeforeSeq); err != nil {
		return nil, err
	}
	list, err := w.Audit(ctx, f)
	if err != nil {
		return nil, err
	}
	return pageOf(ctx, in.Paged, list, wireEntry, func(e iam.AuditEntry) []any { return []any{e.At, e.Chain, e.Seq} })
}
