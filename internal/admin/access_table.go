package admin

import (
	"cmp"
	"slices"
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
	inForce := "false"
	if a.InForce {
		inForce = "true"
	}
	row := func(role, permission string, p iam.Path) []string {
		return []string{
			timestamp(a.AsOf), user, a.Tenant, a.TenantStatus, a.Status, inForce, strings.Join(a.Why, " "),
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

// Table is a matrix as CSV: a row for each role or member, a column for each permission or role, and in a cell how it
// is held: direct, inherited, or nothing.
type Table struct {
	first   []string
	columns []string
	of      func(MatrixRow) []string
}

// RoleTable is a table of roles and their permissions.
func RoleTable(permissions []string) Table {
	return Table{[]string{"role"}, permissions, func(r MatrixRow) []string { return []string{r.Role} }}
}

// MemberTable is a table of members and their roles.
func MemberTable(roles []string) Table {
	return Table{[]string{"user", "issuer", "subject", "in_force"}, roles, func(r MatrixRow) []string {
		return []string{r.User, r.Issuer, r.Subject, map[bool]string{true: "true", false: "false"}[r.InForce]}
	}}
}

// Header are the names of the columns.
func (t Table) Header() []string { return slices.Concat(t.first, t.columns) }

// Row are the cells of a row of the matrix, whose own are sorted by name as the columns are.
func (t Table) Row(r MatrixRow) []string {
	row := t.of(r)
	held := r.Cells
	for _, name := range t.columns {
		cell := ""
		if len(held) > 0 && held[0].Name == name {
			cell, held = held[0].Kind, held[1:]
		}
		row = append(row, cell)
	}
	return row
}
