package adminapi

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"slices"
	"time"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
)

// maxOwnTenants is how many tenants of a caller are listed.
const maxOwnTenants = 200

// meBody is a caller as the service knows them, and what the active policy authorizes them for.
type meBody struct {
	Issuer    string    `json:"issuer"`
	Subject   string    `json:"subject,omitempty" doc:"of the token"`
	ClientID  string    `json:"client_id,omitempty" doc:"of the token"`
	User      string    `json:"user,omitempty" format:"uuid" doc:"id; absent: a program, or a user that is not known"`
	Status    string    `json:"status" enum:"active,blocked,deleted,unknown" doc:"of the user or the program; a blocked user is authorized for nothing"`
	ExpiresAt time.Time `json:"expires_at" doc:"of the token"`

	Actions []string    `json:"actions" doc:"that the active policy authorizes for the caller on the platform, where no object is named. Each request is authorized again, and denied where an object or the service itself demands more"`
	Tenants []ownTenant `json:"tenants" doc:"that the caller belongs to, by id, 200 at most"`
	More    bool        `json:"more" doc:"there are more tenants"`

	TenantActions []string `json:"tenant_actions,omitzero" doc:"with tenant=: that the active policy authorizes for the caller in that tenant, as actions. Empty for a tenant that does not exist, as for one that the caller has nothing to do with"`
}

type ownTenant struct {
	Tenant           string   `json:"tenant"`
	Name             string   `json:"name"`
	Status           string   `json:"status" enum:"active,suspended,archived" doc:"of the tenant"`
	MembershipStatus string   `json:"membership_status" enum:"active,suspended,expired,blocked,deleted" doc:"of a program: its own status"`
	Roles            []string `json:"roles" doc:"that are assigned and in force"`
}

type meIn struct {
	OnPlatform
	Tenant string `query:"tenant" maxLength:"64" doc:"id of a tenant, for tenant_actions"`
}

func (a *server) readMe(ctx context.Context, c call, in *meIn) (*resource[meBody], error) {
	if !isText(in.Tenant) {
		return nil, iam.InvalidFields([]iam.FieldError{{Pointer: "tenant", Detail: "must be UTF-8 without a NUL"}})
	}
	me, err := a.Service.Me(ctx, c.caller, admin.MeQuery{Actions: a.actions, Tenant: in.Tenant, Tenants: maxOwnTenants})
	if err != nil {
		return nil, err
	}
	t := c.caller.Token
	b := meBody{
		Issuer:    t.Issuer,
		Subject:   t.Subject,
		ClientID:  t.ClientID,
		User:      me.User,
		Status:    cmp.Or(me.Status, "unknown"),
		ExpiresAt: t.Expires.UTC(),
		Actions:   sorted(me.Actions),
		Tenants:   []ownTenant{},
		More:      me.More,
	}
	for _, x := range me.Tenants {
		b.Tenants = append(b.Tenants, ownTenant{x.Tenant, x.Name, x.Status, x.Membership, x.Roles})
	}
	if in.Tenant != "" {
		b.TenantActions = sorted(me.TenantActions)
	}
	return &resource[meBody]{Status: http.StatusOK, Body: b}, nil
}

// actionsOf are the actions of some routes, each with the methods of its requests.
func actionsOf(routes []route) []admin.Action {
	all := map[admin.Action]bool{}
	for _, rt := range routes {
		for _, action := range []string{rt.action, rt.update} {
			if action != "" {
				all[admin.Action{Name: action, Method: rt.method}] = true
			}
		}
	}
	return slices.SortedFunc(maps.Keys(all), func(a, b admin.Action) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Method, b.Method))
	})
}
