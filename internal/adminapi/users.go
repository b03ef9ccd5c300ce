package adminapi

import (
	"context"
	"time"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

type userBody struct {
	ID              string     `json:"id" format:"uuid"`
	Issuer          string     `json:"issuer"`
	Subject         string     `json:"subject"`
	Status          string     `json:"status" enum:"active,blocked"`
	Attributes      attributes `json:"attributes"`
	PlatformRoles   []string   `json:"platform_roles"`
	DefaultTenant   string     `json:"default_tenant,omitempty"`
	TokensNotBefore *time.Time `json:"tokens_not_before,omitempty" doc:"tokens issued earlier are rejected"`
	Version         int64      `json:"version" doc:"as in the ETag"`
}

// UserPut has the fields of a user that a PUT replaces.
type UserPut struct {
	Attributes    attributes `json:"attributes,omitempty" doc:"4 KB at most; each is declared by some service's manifest. No personal data."`
	PlatformRoles []string   `json:"platform_roles,omitempty" enum:"platform-admin,policy-admin,auditor" maxItems:"3"`
	DefaultTenant string     `json:"default_tenant,omitempty" maxLength:"64" doc:"active where a request names none"`
}

type userPost struct {
	Issuer  string `json:"issuer,omitempty" maxLength:"512" doc:"of their tokens; absent: R-Auth"`
	Subject string `json:"subject" maxLength:"255" doc:"as in their tokens"`
	UserPut
}

func wireUser(u iam.User) userBody {
	return userBody{
		ID:              u.ID,
		Issuer:          u.Issuer,
		Subject:         u.Subject,
		Status:          u.Status,
		Attributes:      orEmpty(u.Attributes),
		PlatformRoles:   sorted(u.PlatformRoles),
		DefaultTenant:   u.DefaultTenant,
		TokensNotBefore: optionalTime(u.TokensNotBefore),
		Version:         u.Version,
	}
}

func userResource(u iam.User, err error) (*resource[userBody], error) {
	if err != nil {
		return nil, err
	}
	return &resource[userBody]{Status: 200, ETag: etag(u.Version), Body: wireUser(u)}, nil
}

// OnUser is an input about a user.
type OnUser struct {
	OnPlatform
	User string `path:"user" maxLength:"64" doc:"id of the user"`
}

func (i OnUser) target() target { return target{object: i.User} }

func (a *server) listUsers(ctx context.Context, w *admin.Work, in *struct {
	OnPlatform
	Paged
	Issuer       string `query:"issuer" maxLength:"512"`
	Subject      string `query:"subject" maxLength:"255"`
	Status       string `query:"status" enum:"active,blocked"`
	PlatformRole string `query:"platform_role" enum:"platform-admin,policy-admin,auditor"`
	Search       string `query:"search" maxLength:"255" doc:"the beginning of the subject, in any letter case"`
},
) (*collection[userBody], error) {
	f := postgres.UserFilter{
		Issuer:       in.Issuer,
		Subject:      in.Subject,
		Status:       in.Status,
		PlatformRole: in.PlatformRole,
		Search:       in.Search,
		Limit:        in.Limit + 1,
	}
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
) (*resource[userBody], error) {
	b := in.Body
	u := iam.User{Issuer: b.Issuer, Subject: b.Subject, Attributes: b.Attributes, PlatformRoles: b.PlatformRoles, DefaultTenant: b.DefaultTenant}
	if u.Issuer == "" {
		u.Issuer = a.Issuer
	}
	out, err := userResource(w.CreateUser(ctx, u))
	if err != nil {
		return nil, err
	}
	return out.created("/v1/users/" + out.Body.ID), nil
}

func (a *server) readUser(ctx context.Context, w *admin.Work, in *OnUser) (*resource[userBody], error) {
	return userResource(w.User(ctx, in.User))
}

func (a *server) putUser(ctx context.Context, w *admin.Work, in *struct {
	OnUser
	Conditional
	Body UserPut
},
) (*resource[userBody], error) {
	cond, err := in.condition()
	if err != nil {
		return nil, err
	}
	b := in.Body
	edit := admin.UserEdit{Attributes: b.Attributes, PlatformRoles: b.PlatformRoles, DefaultTenant: b.DefaultTenant}
	return userResource(w.PutUser(ctx, in.User, edit, cond))
}

// UserPatch has the fields of a user that a merge patch can change.
type UserPatch struct {
	Status        *string    `json:"status,omitempty" enum:"active,blocked" doc:"requests of a blocked user are denied in every tenant"`
	Attributes    attributes `json:"attributes,omitempty" nullable:"true" doc:"null as a value removes the attribute; null as the object removes all"`
	PlatformRoles []string   `json:"platform_roles,omitempty" enum:"platform-admin,policy-admin,auditor" maxItems:"3" doc:"replaces all platform roles"`
	DefaultTenant *string    `json:"default_tenant,omitempty" nullable:"true" maxLength:"64" doc:"null: none"`
}

// userState is what a patch applies to.
type userState struct {
	UserPut
	Status string `json:"status"`
}

func (a *server) patchUser(ctx context.Context, w *admin.Work, in *struct {
	OnUser
	Conditional
	Patched
	Body UserPatch `contentType:"application/merge-patch+json"`
},
) (*resource[userBody], error) {
	cond, err := in.condition()
	if err != nil {
		return nil, err
	}
	return userResource(w.EditUser(ctx, in.User, cond, func(u *iam.User) error {
		s, err := apply(in.Patched, userState{UserPut{u.Attributes, u.PlatformRoles, u.DefaultTenant}, u.Status})
		u.Status, u.Attributes, u.PlatformRoles, u.DefaultTenant = s.Status, s.Attributes, s.PlatformRoles, s.DefaultTenant
		return err
	}))
}

func (a *server) revokeUser(ctx context.Context, w *admin.Work, in *struct {
	OnUser
	Repeatable
	Body *struct {
		Before *time.Time `json:"before,omitempty" doc:"tokens issued earlier, or less than 5 s later, are rejected; absent: now. It never moves back."`
	}
},
) (*resource[userBody], error) {
	var before time.Time
	if in.Body != nil {
		before = timeOrZero(in.Body.Before)
	}
	return userResource(w.RevokeTokens(ctx, in.User, before))
}

func (a *server) eraseUser(ctx context.Context, w *admin.Work, in *struct {
	OnUser
	Conditional
},
) (*struct{}, error) {
	cond, err := in.condition()
	if err != nil {
		return nil, err
	}
	return nil, w.EraseUser(ctx, in.User, cond)
}

func (a *server) listMemberships(ctx context.Context, w *admin.Work, in *OnUser) (*collection[memberBody], error) {
	list, err := w.MembershipsOf(ctx, in.User)
	if err != nil {
		return nil, err
	}
	return all(list, wireMember), nil
}

type effectiveBody struct {
	User        string                `json:"user" format:"uuid"`
	Tenant      string                `json:"tenant"`
	InForce     bool                  `json:"in_force" doc:"whether the membership is effective; if not, there are no roles"`
	Why         []string              `json:"why_not" doc:"user_blocked, tenant_suspended, tenant_archived, membership_suspended, membership_expired, issuer_does_not_reach_tenant"`
	Roles       []effectiveRole       `json:"roles"`
	Permissions []effectivePermission `json:"permissions"`
	Mappings    []mappingBody         `json:"mappings" doc:"claims that the identity provider can send for the user, and the roles that they add"`
}

type effectiveRole struct {
	Name     string   `json:"name"`
	Global   bool     `json:"global"`
	Assigned bool     `json:"assigned" doc:"by the membership itself"`
	Through  []string `json:"through" doc:"effective roles that inherit it"`

	ExpiresAt *time.Time `json:"expires_at,omitempty" doc:"until when it is held, by the longest of the roles that grant it; absent: no end is set"`
}

type effectivePermission struct {
	Name  string   `json:"name"`
	Roles []string `json:"roles" doc:"that grant it"`

	ExpiresAt *time.Time `json:"expires_at,omitempty" doc:"as of a role"`
}

type effectiveIn struct {
	User   string `path:"user" maxLength:"64" doc:"id of the user"`
	Tenant string `query:"tenant" required:"true" minLength:"1" maxLength:"64" doc:"id of the tenant"`
}

func (i effectiveIn) target() target { return target{tenant: i.Tenant, object: i.User} }

func (a *server) readEffective(ctx context.Context, w *admin.Work, in *effectiveIn) (*resource[effectiveBody], error) {
	e, err := w.Effective(ctx, in.User, in.Tenant)
	if err != nil {
		return nil, err
	}
	b := effectiveBody{
		User:        e.User,
		Tenant:      e.Tenant,
		InForce:     e.InForce,
		Why:         e.Why,
		Roles:       []effectiveRole{},
		Permissions: []effectivePermission{},
		Mappings:    []mappingBody{},
	}
	for _, r := range e.Roles {
		b.Roles = append(b.Roles, effectiveRole{r.Name, r.Global, r.Assigned, r.Through, optionalTime(r.ExpiresAt)})
	}
	for _, p := range e.Permissions {
		b.Permissions = append(b.Permissions, effectivePermission{p.Name, p.Roles, optionalTime(p.ExpiresAt)})
	}
	for _, m := range e.Mappings {
		b.Mappings = append(b.Mappings, wireMapping(m))
	}
	return &resource[effectiveBody]{Status: 200, Body: b}, nil
}
