package admin

import (
	"cmp"
	"context"
	"slices"
	"strconv"
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

// Matrix names a matrix: of the roles of a tenant, or of its members.
type Matrix struct {
	Tenant  string
	Members bool
}

// Matrix lists rows of a matrix: roles by name with their permissions, or members by user id with the roles that they
// hold; after a role or a user. Fewer than limit: there are no more.
func (w *Work) Matrix(ctx context.Context, m Matrix, after string, limit int) ([]MatrixRow, error) {
	f, err := w.accessFacts(ctx, m.Tenant, time.Time{})
	if err != nil {
		return nil, err
	}
	return f.matrix(ctx, m, after, limit)
}

// Key is the place of the row in its list.
func (r MatrixRow) Key() string { return cmp.Or(r.Role, r.User) }

func (f *accessFacts) matrix(ctx context.Context, m Matrix, after string, limit int) ([]MatrixRow, error) {
	if m.Members {
		return f.memberRows(ctx, after, limit)
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

func (f *accessFacts) memberRows(ctx context.Context, after string, limit int) ([]MatrixRow, error) {
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
			rows[i].Cells = cells(f.graph.Reach(h.RolesAt(f.asOf), h.EndOf).Roles)
		}
	}
	return rows, nil
}

// EachMatrixRow calls begin with the columns of a matrix as a table, and each with every row and its cells.
func (w *Work) EachMatrixRow(ctx context.Context, m Matrix, begin func(columns []string) error, each func(MatrixRow, []string) error) error {
	f, err := w.accessFacts(ctx, m.Tenant, time.Time{})
	if err != nil {
		return err
	}
	t := f.table(m)
	if err := begin(slices.Concat(t.first, t.columns)); err != nil {
		return err
	}
	for after := ""; ; {
		rows, err := f.matrix(ctx, m, after, exportPage)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if err := each(r, t.row(r)); err != nil {
				return err
			}
			after = r.Key()
		}
		if len(rows) < exportPage {
			return nil
		}
	}
}

// matrixTable is a matrix as a table: a column for each permission or role, and in a cell how it is held, if it is.
type matrixTable struct {
	first   []string
	columns []string
	of      func(MatrixRow) []string
}

func (f *accessFacts) table(m Matrix) matrixTable {
	var roles, permissions []string
	for _, r := range f.roles {
		roles, permissions = append(roles, r.Name), append(permissions, r.Permissions...)
	}
	if m.Members {
		return matrixTable{[]string{"user", "issuer", "subject", "in_force"}, roles, func(r MatrixRow) []string {
			return []string{r.User, r.Issuer, r.Subject, strconv.FormatBool(r.InForce)}
		}}
	}
	slices.Sort(permissions)
	return matrixTable{[]string{"role"}, slices.Compact(permissions), func(r MatrixRow) []string { return []string{r.Role} }}
}

// row are the cells of a row of the matrix, whose own are sorted by name as the columns are.
func (t matrixTable) row(r MatrixRow) []string {
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
