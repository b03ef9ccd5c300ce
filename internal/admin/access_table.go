package admin

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"iam-service/internal/iam"
)

// SafeCells returns cells that a spreadsheet takes for text: one that begins as a formula does, with = + - @, a tab or
// a carriage return, gets an apostrophe before it (OWASP, CSV injection).
func SafeCells(cells []string) []string {
	safe := slices.Clone(cells)
	for i, c := range safe {
		if c != "" && strings.ContainsRune("=+-@\t\r", rune(c[0])) {
			safe[i] = "'" + c
		}
	}
	return safe
}

// AccessColumns are the columns of AccessRows.
var AccessColumns = []string{"as_of", "tenant", "kind", "user", "issuer", "subject", "client_id", "claim", "value", "role", "permission", "path", "through", "expires_at"}

// AccessRows are the rows of an item of a list of access: one for each path.
func AccessRows(tenant string, a Access, asOf time.Time) [][]string {
	rows := make([][]string, len(a.Paths))
	for i, p := range a.Paths {
		rows[i] = []string{
			timestamp(asOf), tenant, a.Kind, a.User, a.Issuer, a.Subject, a.ClientID, a.Mapping.Claim, a.Mapping.Value,
			a.Held.Role, a.Held.Permission, p.Kind, through(p), timestamp(p.ExpiresAt),
		}
	}
	return rows
}

// through is the roles of a path, from the assigned one to the one that grants, or its scope.
func through(p iam.Path) string { return cmp.Or(strings.Join(p.Roles, " > "), p.Scope) }

// UserAccessColumns are the columns of UserAccessRows.
var UserAccessColumns = []string{"as_of", "user", "tenant", "tenant_status", "status", "in_force", "why", "role", "permission", "path", "through", "expires_at"}

// UserAccessRows are the rows of what a user holds in a tenant: one for each path to each role and permission, and one
// alone where nothing is held.
func UserAccessRows(user string, a UserAccess) [][]string {
	row := func(role, permission string, p iam.Path) []string {
		return []string{
			timestamp(a.AsOf), user, a.Tenant, a.TenantStatus, a.Status, strconv.FormatBool(a.InForce), strings.Join(a.Why, " "),
			role, permission, p.Kind, through(p), timestamp(p.ExpiresAt),
		}
	}
	var rows [][]string
	for _, h := range a.Roles {
		for _, p := range h.Paths {
			rows = append(rows, row(h.Name, "", p))
		}
	}
	for _, h := range a.Permissions {
		for _, p := range h.Paths {
			rows = append(rows, row("", h.Name, p))
		}
	}
	if len(rows) == 0 {
		rows = append(rows, row("", "", iam.Path{ExpiresAt: a.ExpiresAt}))
	}
	return rows
}

// AccessChangeColumns are the columns of AccessChangeRows.
var AccessChangeColumns = []string{"tenant", "kind", "user", "issuer", "subject", "client_id", "claim", "value", "change", "role", "permission", "entries", "by_time"}

// AccessChangeRows are the rows of a change of access: one for each role and permission that was gained or lost. Entries are named
// by chain and seq, as in acme/7; those of the platform as in /7.
func AccessChangeRows(c AccessChange) [][]string {
	entries := make([]string, len(c.Entries))
	for i, e := range c.Entries {
		entries[i] = e.Chain + "/" + strconv.FormatInt(e.Seq, 10)
	}
	var rows [][]string
	row := func(change, role, permission string) {
		rows = append(rows, []string{
			c.Tenant, c.Kind, c.User, c.Issuer, c.Subject, c.ClientID, c.Mapping.Claim, c.Mapping.Value,
			change, role, permission, strings.Join(entries, " "), strconv.FormatBool(c.ByTime),
		})
	}
	for _, side := range []struct {
		change string
		names  Names
	}{{"gained", c.Gained}, {"lost", c.Lost}} {
		for _, r := range side.names.Roles {
			row(side.change, r, "")
		}
		for _, p := range side.names.Permissions {
			row(side.change, "", p)
		}
	}
	return rows
}
