package postgres

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/iam"
)

// MemberKey names a membership.
type MemberKey struct{ Tenant, User string }

// EndedRoles returns memberships with a role that has ended, the one that ended first before the others. Where there
// is none it is one probe of an index. Tenants to skip are left out.
func (db *DB) EndedRoles(ctx context.Context, limit int, skip []string) ([]MemberKey, error) {
	return db.memberKeys(ctx, "find roles that have ended", `
		SELECT tenant, user_id::text FROM memberships
		 WHERE role_terms <> '{}' AND iam_ends_at(NULL, role_terms) <= now() AND tenant <> ALL ($2::text[])
		 ORDER BY iam_ends_at(NULL, role_terms), tenant, user_id LIMIT $1`, limit, list(skip))
}

// EndingRoles returns memberships with a role that ends within a time, which was not announced: see AnnounceEnds.
// Tenants to skip are left out.
func (db *DB) EndingRoles(ctx context.Context, within time.Duration, limit int, skip []string) ([]MemberKey, error) {
	return db.memberKeys(ctx, "find roles that end soon", `
		SELECT m.tenant, m.user_id::text FROM memberships m
		 WHERE m.role_terms <> '{}' AND m.tenant <> ALL ($3::text[]) AND iam_ends_at(NULL, m.role_terms) <= now() + $2::interval
		   AND EXISTS (SELECT FROM jsonb_each(m.role_terms) AS t CROSS JOIN LATERAL (SELECT (t.value ->> 'expires_at')::timestamptz AS at) AS ends
		                WHERE ends.at > now() AND ends.at <= now() + $2::interval
		                  AND NOT EXISTS (SELECT FROM role_end_notices n WHERE n.user_id = m.user_id AND n.tenant = m.tenant AND n.role = t.key AND n.expires_at = ends.at))
		 ORDER BY iam_ends_at(NULL, m.role_terms), m.tenant, m.user_id LIMIT $1`, limit, within, list(skip))
}

// OverdueRoles counts memberships with a role that ended longer ago than a time and is not removed, up to 10,000.
func (db *DB) OverdueRoles(ctx context.Context, than time.Duration) (n int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	err = db.admin.QueryRow(ctx, `
		SELECT count(*) FROM (SELECT FROM memberships
		 WHERE role_terms <> '{}' AND iam_ends_at(NULL, role_terms) <= now() - $1::interval LIMIT 10000) m`, than).Scan(&n)
	return n, wrap("count roles that have ended", err)
}

func (db *DB) memberKeys(ctx context.Context, doing, sql string, args ...any) ([]MemberKey, error) {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	rows, err := db.admin.Query(ctx, sql, args...)
	if err != nil {
		return nil, wrap(doing, err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[MemberKey])
	return list, wrap(doing, err)
}

// SetRoles writes the roles and terms of memberships of a tenant, and sets the new versions. It checks nothing: it is
// for roles that are only removed. The tenant must be locked.
func (tx *Tx) SetRoles(ctx context.Context, tenant string, members []*iam.Membership) error {
	type row struct {
		User  string                  `json:"user_id"`
		Roles []string                `json:"roles"`
		Terms map[string]iam.RoleTerm `json:"role_terms"`
	}
	all := make([]row, len(members))
	byUser := make(map[string]*iam.Membership, len(members))
	for i, m := range members {
		terms := m.Tidy().Terms
		if terms == nil {
			terms = map[string]iam.RoleTerm{}
		}
		all[i], byUser[m.User] = row{m.User, list(m.Roles), terms}, m
	}
	body, err := json.Marshal(all)
	if err != nil {
		return wrap("write roles of members", err)
	}
	rows, err := tx.tx.Query(ctx, `
		UPDATE memberships m SET roles = x.roles, role_terms = x.role_terms, version = nextval('iam_versions'), updated_at = now()
		  FROM jsonb_to_recordset($2::jsonb) AS x (user_id uuid, roles text[], role_terms jsonb)
		 WHERE m.tenant = $1 AND m.user_id = x.user_id RETURNING m.user_id::text, m.version`, tenant, body)
	if err != nil {
		return wrap("write roles of members", err)
	}
	var user string
	var version int64
	tag, err := pgx.ForEachRow(rows, []any{&user, &version}, func() error {
		byUser[user].Version = version
		return nil
	})
	if err == nil && int(tag.RowsAffected()) != len(members) {
		err = errLostRace // a user was erased concurrently
	}
	return wrap("write roles of members", err)
}

// RoleEnd is when a role of a member ends.
type RoleEnd struct {
	User, Role string
	At         time.Time
}

// AnnounceEnds records that ends of roles were announced, and returns those that were not recorded before. Of two
// concurrent calls one returns an end.
func (tx *Tx) AnnounceEnds(ctx context.Context, tenant string, ends []RoleEnd) ([]RoleEnd, error) {
	users, roles, at := make([]string, len(ends)), make([]string, len(ends)), make([]time.Time, len(ends))
	for i, e := range ends {
		users[i], roles[i], at[i] = e.User, e.Role, e.At
	}
	return collect(ctx, tx, statement{doing: "announce ends of roles", sql: `
		INSERT INTO role_end_notices AS n (tenant, user_id, role, expires_at)
		SELECT $1, u, r, e FROM unnest($2::uuid[], $3::text[], $4::timestamptz[]) AS x (u, r, e) ORDER BY u, r
		ON CONFLICT ON CONSTRAINT role_end_notices_pkey DO UPDATE SET expires_at = excluded.expires_at, noticed_at = now()
		 WHERE n.expires_at <> excluded.expires_at
		RETURNING user_id::text, role, expires_at`, args: []any{tenant, users, roles, at}}, pgx.RowToStructByPos[RoleEnd])
}

// PurgeEndNotices deletes the records of ends that have passed, and returns their number.
func (tx *Tx) PurgeEndNotices(ctx context.Context) (int64, error) {
	tag, err := tx.tx.Exec(ctx, `DELETE FROM role_end_notices WHERE expires_at < now()`)
	return tag.RowsAffected(), wrap("delete notices of ends", err)
}
