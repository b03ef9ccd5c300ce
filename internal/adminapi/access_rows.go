package adminapi

import (
	"context"
	"time"

	"iam-service/internal/admin"
)

// Rows of access in CSV are those of package admin, which the command line writes too.

var (
	accessColumns     = admin.AccessColumns
	userAccessColumns = admin.UserAccessColumns
)

func accessRows(tenant string, x admin.Access, asOf time.Time) [][]string {
	return admin.AccessRows(tenant, x, asOf)
}

func userAccessRows(user string, x admin.UserAccess) [][]string { return admin.UserAccessRows(user, x) }

// stream writes a whole matrix.
func (q matrixQuery) stream(ctx context.Context, w *admin.Work, put *exportWriter) error {
	roles, permissions, err := w.MatrixColumns(ctx, q.Tenant)
	if err != nil {
		return err
	}
	table := admin.RoleTable(permissions)
	if q.Of == "members" {
		table = admin.MemberTable(roles)
	}
	if put.csv != nil {
		if err := put.row(table.Header()); err != nil {
			return err
		}
	}
	const read = 500
	for after := ""; ; {
		rows, err := q.rows(ctx, w, after, read)
		if err != nil {
			return err
		}
		for _, r := range rows {
			var cells [][]string
			if put.csv != nil {
				cells = [][]string{table.Row(r)}
			}
			if err := put.each(wireRow(r), cells); err != nil {
				return err
			}
			after = q.key(r)
		}
		if len(rows) < read {
			return nil
		}
	}
}
