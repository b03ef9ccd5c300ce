package postgres

import "context"

// indexRowsCompared is how many rows of each table CheckRoleIndex compares at most: in larger tables, those of random blocks.
const indexRowsCompared = 200_000

// RoleIndex is how membership_roles differs from the roles of memberships, in the rows that were compared.
type RoleIndex struct {
	Missing int64 // roles of memberships that the table does not have: their holders are not listed
	Excess  int64 // rows whose membership does not have the role
	All     bool  // every row was compared
}

// CheckRoleIndex compares membership_roles with what it is derived from, in one snapshot. It reads a bounded number of rows.
func (db *DB) CheckRoleIndex(ctx context.Context) (x RoleIndex, err error) {
	err = db.View(ctx, func(ctx context.Context, tx *Tx) error {
		// The percentage of blocks is by the planner's count, which is -1 before the first ANALYZE; LIMIT bounds the rows all the same.
		return tx.tx.QueryRow(ctx, `
			WITH part AS (
			    SELECT least(100, 100 * $1::float8 / greatest(1, (SELECT reltuples FROM pg_class WHERE oid = 'memberships'::regclass))) AS m,
			           least(100, 100 * $1::float8 / greatest(1, (SELECT reltuples FROM pg_class WHERE oid = 'membership_roles'::regclass))) AS r),
			m AS (SELECT user_id, tenant, roles FROM memberships TABLESAMPLE SYSTEM ((SELECT m FROM part)) LIMIT $1),
			r AS (SELECT user_id, tenant, role FROM membership_roles TABLESAMPLE SYSTEM ((SELECT r FROM part)) LIMIT $1)
			SELECT (SELECT count(*) FROM m CROSS JOIN unnest(m.roles) AS held
			         WHERE NOT EXISTS (SELECT FROM membership_roles d WHERE d.tenant = m.tenant AND d.role = held AND d.user_id = m.user_id)),
			       (SELECT count(*) FROM r
			         WHERE NOT EXISTS (SELECT FROM memberships s WHERE s.user_id = r.user_id AND s.tenant = r.tenant AND r.role = ANY (s.roles))),
			       (SELECT part.m = 100 AND part.r = 100 FROM part) AND (SELECT count(*) FROM m) < $1 AND (SELECT count(*) FROM r) < $1`,
			indexRowsCompared).Scan(&x.Missing, &x.Excess, &x.All)
	})
	return x, wrap("compare membership_roles with memberships", err)
}
