package admin

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"time"

	"iam-service/internal/directory"
	"iam-service/internal/policy"
)

// Action is an action of the admin API, with the method of a request for it: a policy may authorize by both.
type Action struct{ Name, Method string }

// Me is what a caller can learn about themself.
type Me struct {
	User    string // id; empty: a program, or an unknown user
	Status  string // of the user or the program; empty: unknown
	Tenants []MyTenant
	More    bool // there are more tenants than were asked for

	Actions       []string // that the policy authorizes on the platform
	TenantActions []string // the same in the tenant that was asked for
}

// MyTenant is a tenant that a caller belongs to.
type MyTenant struct {
	Tenant, Name, Status string
	Membership           string   // active, suspended or expired; of a program its own status
	Roles                []string // that are assigned and in force now
}

// MeQuery says what of a caller is asked for.
type MeQuery struct {
	Actions []Action
	Tenant  string // for TenantActions; empty: none
	Tenants int    // at most so many
}

// Me returns who a caller is, and the actions that the active policy authorizes them for where no object is named. It is the
// same for a tenant that does not exist and one that the caller has nothing to do with. It fails as any decision of the policy
// does: actions are never missing because something is unavailable.
func (s *Service) Me(ctx context.Context, c Caller, q MeQuery) (Me, error) {
	return Do(ctx, s, c, Task{Self: true}, func(ctx context.Context, w *Work) (me Me, err error) {
		if me, err = w.me(ctx, q.Tenants); err != nil {
			return me, err
		}
		if me.Actions, err = w.authorized(ctx, q.Actions, ""); err == nil && q.Tenant != "" {
			me.TenantActions, err = w.authorized(ctx, q.Actions, q.Tenant)
		}
		return me, err
	})
}

// me is the caller with their tenants, by id.
func (w *Work) me(ctx context.Context, most int) (me Me, err error) {
	switch {
	case w.user != nil:
		me.User, me.Status = w.user.ID, w.user.Status
		for _, m := range w.user.Memberships {
			if w.bound && m.Tenant != w.clientTenant || !w.s.cfg.Issuers.Reaches(w.caller.Token.Issuer, m.Tenant) {
				continue
			}
			mine := MyTenant{Tenant: m.Tenant, Status: m.TenantStatus, Membership: m.Status, Roles: sorted(m.RolesAt(w.user.AsOf))}
			if !m.ExpiresAt.IsZero() && !m.ExpiresAt.After(w.user.AsOf) {
				mine.Membership = "expired"
			}
			me.Tenants = append(me.Tenants, mine)
		}
	case w.client != nil:
		me.Status = w.client.Status
		if w.bound {
			me.Tenants = []MyTenant{{Tenant: w.client.Tenant, Membership: w.client.Status, Roles: sorted(w.client.Roles)}}
		}
	}
	slices.SortFunc(me.Tenants, func(a, b MyTenant) int { return cmp.Compare(a.Tenant, b.Tenant) })
	if len(me.Tenants) > most {
		me.Tenants, me.More = me.Tenants[:most], true
	}
	ids := make([]string, len(me.Tenants))
	for i, t := range me.Tenants {
		ids[i] = t.Tenant
	}
	tenants, err := w.tx.TenantsByID(ctx, ids)
	for i, t := range me.Tenants {
		me.Tenants[i].Name, me.Tenants[i].Status = tenants[t.Tenant].Name, tenants[t.Tenant].Status
	}
	return me, err
}

// authorized returns the names of those actions that the policy authorizes the caller for, without an object. It evaluates over
// the facts of this transaction, which are read once. Each evaluation has the time of a decision, and all have that of the
// transaction.
func (w *Work) authorized(ctx context.Context, actions []Action, tenant string) ([]string, error) {
	t := w.caller.Token
	if w.bound && tenant != w.clientTenant || tenant != "" && !w.s.cfg.Issuers.Reaches(t.Issuer, tenant) {
		return nil, nil // whatever the policy decides
	}
	facts := directory.NewDirect(w.tx, w.s.cfg.Issuers, t.Issuer)
	changing := facts
	if w.bound { // see decide
		changing = directory.NewDirect(withoutPlatformRoles{w.tx}, w.s.cfg.Issuers, t.Issuer)
	}
	var names []string
	for _, a := range actions {
		if slices.Contains(names, a.Name) {
			continue // with another method
		}
		over := facts
		if a.Method != http.MethodGet {
			over = changing
		}
		d, err := w.s.cfg.Engine.Administer(ctx, policy.AdminInput{
			Claims: t.Claims, Action: a.Name, Tenant: tenant, Method: a.Method, ClientIP: w.caller.Address,
		}, over, time.Now().Add(policyTime))
		if err != nil {
			return nil, err
		}
		if d.Allow {
			names = append(names, a.Name)
		}
	}
	return sorted(names), nil
}
