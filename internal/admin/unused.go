package admin

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// UnusedAccess is what was not used in a tenant for some days, as far as usage was recorded.
type UnusedAccess struct {
	Tenant    string
	Before    time.Time // the first of these days: what was used earlier, or never, is listed
	Days      int
	Recording iam.Recording

	Administrators     int // members with the role of administrators, in force; at most maxAdministrators are looked at
	AdministratorsLeft int // of them, those who would be left without the unused memberships

	graph iam.Graph
	asOf  time.Time
}

// maxAdministrators is how many administrators the preview of a trim looks at.
const maxAdministrators = 1000

// Complete reports whether usage was recorded on each of the days: only then is what is listed unused for so long.
func (u UnusedAccess) Complete() bool {
	return u.Recording.Days >= u.Days && !u.Recording.Since.After(u.Before)
}

// Trim is what the removal of something unused would change. Nothing removes it but an administrator.
type Trim struct {
	Roles         []string // that would be lost, inheritance included
	Permissions   []string
	Administrator bool // an administrator of the tenant is among them
}

// UnusedMember is a membership that was not used, and what its removal would change.
type UnusedMember struct {
	iam.UnusedMembership
	Trim Trim
}

// UnusedClientAccess is a client that was not used, and what its removal would change.
type UnusedClientAccess struct {
	iam.UnusedClient
	Trim Trim
}

// Unused begins a report of what was not used in a tenant for some days. roles says that it is about roles, whose use is
// known only where decisions name them. It fails with code "usage_not_recorded" where nothing is known at all.
func (w *Work) Unused(ctx context.Context, tenant string, days int, roles bool) (UnusedAccess, error) {
	u := UnusedAccess{Tenant: tenant, Days: days}
	f, err := w.accessFacts(ctx, tenant, time.Time{})
	if err != nil {
		return u, err
	}
	u.graph, u.asOf = f.graph, f.asOf
	// Today is not over: it counts as use, and not as one of the days.
	u.Before = f.asOf.UTC().Truncate(24*time.Hour).AddDate(0, 0, -days)
	if u.Recording, err = w.tx.UsageRecording(ctx, u.Before, days, roles); err != nil {
		return u, err
	}
	if u.Recording.Since.IsZero() {
		return u, &iam.Error{
			Kind: iam.Conflict, Code: "usage_not_recorded",
			Detail: "the use of memberships, roles and clients is not recorded: set USAGE_RECORDING=on or DECISIONS_DATABASE_URL, and ask again after as many days",
		}
	}
	return u, w.administratorsLeft(ctx, &u, f)
}

// administratorsLeft counts the administrators of the tenant, and those that were used.
func (w *Work) administratorsLeft(ctx context.Context, u *UnusedAccess, f *accessFacts) error {
	ids, err := w.tx.RoleHolders(ctx, u.Tenant, f.graph.Ways(iam.Goal{Role: iam.RoleTenantAdmin}).Roles(), "", maxAdministrators)
	if err != nil || len(ids) == 0 {
		return err
	}
	holders, err := f.holders(ctx, ids)
	if err != nil {
		return err
	}
	var inForce []string
	for _, h := range holders {
		if len(f.why(h)) == 0 && f.graph.Hold(h.RolesAt(f.asOf)).Roles[iam.RoleTenantAdmin] {
			inForce = append(inForce, h.User)
		}
	}
	used, err := w.tx.UsedSince(ctx, u.Tenant, inForce, u.Before)
	u.Administrators, u.AdministratorsLeft = len(inForce), len(used)
	return err
}

func (u UnusedAccess) trim(roles, scopes []string) Trim {
	held := u.graph.Hold(roles)
	for _, s := range scopes { // a scope means the permission of its name
		held.Permissions[s] = true
	}
	return Trim{
		Roles:         slices.Sorted(maps.Keys(held.Roles)),
		Permissions:   slices.Sorted(maps.Keys(held.Permissions)),
		Administrator: held.Roles[iam.RoleTenantAdmin],
	}
}

// UnusedMembers lists unused memberships by user id, after one.
func (w *Work) UnusedMembers(ctx context.Context, u UnusedAccess, after string, limit int) ([]UnusedMember, error) {
	found, err := w.tx.UnusedMemberships(ctx, u.Tenant, u.Before, after, limit)
	list := make([]UnusedMember, len(found))
	for i, m := range found {
		list[i] = UnusedMember{m, u.trim(m.RolesAt(u.asOf), nil)}
	}
	return list, err
}

// UnusedRoles lists unused roles by name, after one.
func (w *Work) UnusedRoles(ctx context.Context, u UnusedAccess, after string, limit int) ([]iam.UnusedRole, error) {
	return w.tx.UnusedRoles(ctx, u.Tenant, u.Before, after, limit)
}

// UnusedClients lists unused clients by issuer and client_id, after one.
func (w *Work) UnusedClients(ctx context.Context, u UnusedAccess, after postgres.Identity, limit int) ([]UnusedClientAccess, error) {
	found, err := w.tx.UnusedClients(ctx, u.Tenant, u.Before, after, limit)
	list := make([]UnusedClientAccess, len(found))
	for i, c := range found {
		list[i] = UnusedClientAccess{c, u.trim(c.Roles, c.Scopes)}
	}
	return list, err
}

// UnusedColumns are the columns of the rows of unused access.
var UnusedColumns = []string{
	"tenant", "kind", "user", "issuer", "subject", "client_id", "role", "created_at", "last_used", "unused_since", "recorded_since", "complete",
	"roles", "permissions", "members", "clients", "mappings", "inherited_by",
}

// row is a row of CSV with the columns that all kinds have.
func (u UnusedAccess) row(kind string, created, used time.Time, cells map[string]string) []string {
	all := map[string]string{
		"tenant": u.Tenant, "kind": kind, "created_at": timestamp(created), "last_used": DayOf(used), "unused_since": DayOf(u.Before),
		"recorded_since": DayOf(u.Recording.Since), "complete": strconv.FormatBool(u.Complete()),
	}
	maps.Copy(all, cells)
	row := make([]string, len(UnusedColumns))
	for i, c := range UnusedColumns {
		row[i] = all[c]
	}
	return row
}

// MemberRow is the row of an unused membership.
func (u UnusedAccess) MemberRow(m UnusedMember) []string {
	return u.row("membership", m.CreatedAt, m.LastUsed, map[string]string{
		"user": m.User, "issuer": m.Issuer, "subject": m.Subject,
		"roles": strings.Join(m.Trim.Roles, " "), "permissions": strings.Join(m.Trim.Permissions, " "),
	})
}

// ClientRow is the row of an unused client.
func (u UnusedAccess) ClientRow(c UnusedClientAccess) []string {
	return u.row("client", c.CreatedAt, c.LastUsed, map[string]string{
		"issuer": c.Issuer, "client_id": c.ClientID, "roles": strings.Join(c.Trim.Roles, " "), "permissions": strings.Join(c.Trim.Permissions, " "),
	})
}

// RoleRow is the row of an unused role.
func (u UnusedAccess) RoleRow(r iam.UnusedRole) []string {
	return u.row("role", r.CreatedAt, r.LastUsed, map[string]string{
		"role": r.Name, "members": strconv.FormatInt(r.Members, 10), "clients": strconv.FormatInt(r.Clients, 10), "mappings": strconv.FormatInt(r.Mappings, 10),
		"inherited_by": strings.Join(r.InheritedBy, " "),
	})
}

// DayOf is a day as it is written; "": the zero time.
func DayOf(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.DateOnly)
}
