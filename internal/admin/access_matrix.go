package admin

import (
	"context"
	"slices"
	"time"

	"iam-service/internal/iam"
)

// MatrixRow is one row of a matrix: a role and its permissions, or a member and the roles that they hold.
type MatrixRow struct {
	Role            string
	Global          bool
	User            string
	Issuer, Subject string
	InForce         bool
	Cells           []MatrixCell // by name; what is not held has none
}

// MatrixCell is a permission of a role, or a role of a member.
type MatrixCell struct {
	Name      string
	Kind      string    // direct or inherited
	ExpiresAt time.Time // of a role of a member; zero: never
}

func cells(paths map[string][]iam.Path) []MatrixCell {
	list := make([]MatrixCell, 0, len(paths))
	for _, name := range sortedKeys(paths) {
		c := MatrixCell{Name: name, Kind: iam.PathInherited, ExpiresAt: iam.EndOfPaths(paths[name])}
		if slices.ContainsFunc(paths[name], func(p iam.Path) bool { return p.Kind == iam.PathDirect }) {
			c.Kind = iam.PathDirect
		}
		list = append(list, c)
	}
	return list
}

// RoleMatrix lists the roles that a tenant sees, by name after one, with the permissions of each.
func (w *Work) RoleMatrix(ctx context.Context, tenant, after string, limit int) ([]MatrixRow, error) {
	f, err := w.accessFacts(ctx, tenant, time.Time{})
	if err != nil {
		return nil, err
	}
	var rows []MatrixRow
	for _, r := range f.roles { // sorted by name
		if r.Name <= after {
			continue
		}
		rows = append(rows, MatrixRow{Role: r.Name, Global: r.Tenant == "", InForce: true, Cells: cells(f.graph.Reach([]string{r.Name}, never).Permissions)})
		if len(rows) == limit {
			break
		}
	}
	return rows, nil
}

// MemberMatrix lists the members of a tenant, by user id after one, with the roles that each holds.
func (w *Work) MemberMatrix(ctx context.Context, tenant, after string, limit int) ([]MatrixRow, error) {
	f, err := w.accessFacts(ctx, tenant, time.Time{})
	if err != nil {
		return nil, err
	}
	ids, err := f.candidates(ctx, nil, after, limit)
	if err != nil {
		return nil, err
	}
	holders, err := f.holders(ctx, ids)
	if err != nil {
		return nil, err
	}
	rows := make([]MatrixRow, len(holders))
	for i, h := range holders {
		rows[i] = MatrixRow{User: h.User, Issuer: h.Issuer, Subject: h.Subject, InForce: len(f.why(h)) == 0, Cells: []MatrixCell{}}
		if rows[i].InForce {
			rows[i].Cells = cells(f.graph.Reach(f.assigned(h.Membership), endOf(h.Membership)).Roles)
		}
	}
	return rows, nil
}

// MatrixColumns are the names of the columns of a matrix: the permissions of all roles, or the roles.
func (w *Work) MatrixColumns(ctx context.Context, tenant string) (roles, permissions []string, err error) {
	list, err := w.Roles(ctx, tenant)
	if err != nil {
		return nil, nil, err
	}
	for _, r := range list {
		roles, permissions = append(roles, r.Name), append(permissions, r.Permissions...)
	}
	slices.Sort(roles)
	slices.Sort(permissions)
	return roles, slices.Compact(permissions), nil
}
