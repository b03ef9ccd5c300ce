package postgres

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/iam"
)

// usageRows is how many rows one statement writes.
const usageRows = 1000

// RecordUsage stores what decisions have used. Users, roles and clients that are not known here are left out. It is
// idempotent but for the counts of the day, which it writes last.
func (db *DB) RecordUsage(ctx context.Context, u iam.Usage) error {
	day := u.Day.UTC().Format(time.DateOnly)
	slices.SortFunc(u.Members, func(a, b iam.UsedMember) int { // in one order on all replicas: no deadlocks
		return strings.Compare(a.Tenant+"\x00"+a.Issuer+"\x00"+a.Subject, b.Tenant+"\x00"+b.Issuer+"\x00"+b.Subject)
	})
	for rows := range slices.Chunk(u.Members, usageRows) {
		var tenants, issuers, subjects []string
		for _, m := range rows {
			tenants, issuers, subjects = append(tenants, m.Tenant), append(issuers, m.Issuer), append(subjects, m.Subject)
		}
		err := db.usage(ctx, `
			INSERT INTO membership_usage AS s (tenant, user_id, last_used)
			SELECT DISTINCT m.tenant, m.user_id, $4::date FROM unnest($1::text[], $2::text[], $3::text[]) AS w (tenant, issuer, subject)
			  JOIN users u ON u.issuer = w.issuer AND u.subject = w.subject JOIN memberships m ON m.user_id = u.id AND m.tenant = w.tenant
			 ORDER BY 1, 2
			ON CONFLICT ON CONSTRAINT membership_usage_pkey DO UPDATE SET last_used = excluded.last_used WHERE s.last_used < excluded.last_used`,
			tenants, issuers, subjects, day)
		if err != nil {
			return err
		}
	}
	for rows := range slices.Chunk(u.Named, usageRows) {
		var tenants, roles []string
		for _, r := range rows {
			tenants, roles = append(tenants, r.Tenant), append(roles, r.Role)
		}
		err := db.usage(ctx, `
			INSERT INTO role_usage AS s (tenant, role, last_used)
			SELECT DISTINCT t.id, r.name, $3::date FROM unnest($1::text[], $2::text[]) AS w (tenant, role)
			  JOIN tenants t ON t.id = w.tenant JOIN roles r ON r.name = w.role AND (r.tenant = w.tenant OR r.tenant IS NULL)
			 ORDER BY 1, 2
			ON CONFLICT ON CONSTRAINT role_usage_pkey DO UPDATE SET last_used = excluded.last_used WHERE s.last_used < excluded.last_used`,
			tenants, roles, day)
		if err != nil {
			return err
		}
	}
	for rows := range slices.Chunk(u.Clients, usageRows) {
		var issuers, ids []string
		for _, c := range rows {
			issuers, ids = append(issuers, c.Issuer), append(ids, c.ClientID)
		}
		err := db.usage(ctx, `
			INSERT INTO client_usage AS s (issuer, client_id, last_used)
			SELECT DISTINCT c.issuer, c.client_id, $3::date FROM unnest($1::text[], $2::text[]) AS w (issuer, client_id)
			  JOIN clients c ON c.issuer = w.issuer AND c.client_id = w.client_id
			 ORDER BY 1, 2
			ON CONFLICT ON CONSTRAINT client_usage_pkey DO UPDATE SET last_used = excluded.last_used WHERE s.last_used < excluded.last_used`,
			issuers, ids, day)
		if err != nil {
			return err
		}
	}
	return db.usage(ctx, `
		INSERT INTO usage_days AS d (day, decisions, dropped, roles) VALUES ($1::date, $2, $3, $4)
		ON CONFLICT ON CONSTRAINT usage_days_pkey DO UPDATE
		   SET decisions = d.decisions + excluded.decisions, dropped = d.dropped + excluded.dropped, roles = d.roles AND excluded.roles`,
		day, u.Decisions, u.Dropped, u.Roles)
}

func (db *DB) usage(ctx context.Context, sql string, args ...any) error {
	return db.Change(ctx, func(ctx context.Context, tx *Tx) error {
		_, err := tx.tx.Exec(ctx, sql, args...)
		return wrap("record usage", err)
	})
}

// UsageRecording returns since when usage is recorded, and on how many of some days that begin with a day. Of roles only the
// days count on which decisions named them.
func (tx *Tx) UsageRecording(ctx context.Context, since time.Time, days int, roles bool) (r iam.Recording, err error) {
	var first *time.Time
	err = tx.tx.QueryRow(ctx, `
		SELECT min(day), count(*) FILTER (WHERE asked), coalesce(sum(dropped) FILTER (WHERE asked), 0)::bigint,
		       coalesce(sum(decisions) FILTER (WHERE asked), 0)::bigint
		  FROM (SELECT *, day >= $1::date AND day < $2::date AS asked FROM usage_days WHERE roles OR NOT $3) AS d`,
		since.Format(time.DateOnly), since.AddDate(0, 0, days).Format(time.DateOnly), roles).Scan(&first, &r.Days, &r.Dropped, &r.Looked)
	r.Since = deref(first)
	return r, wrap("read since when usage is recorded", err)
}

// UnusedMemberships lists by user id, after one, the memberships of a tenant that exist since before a day and were not used
// since then.
func (tx *Tx) UnusedMemberships(ctx context.Context, tenant string, since time.Time, after string, limit int) ([]iam.UnusedMembership, error) {
	type row struct {
		user    string
		created time.Time
		used    *time.Time
	}
	rows, err := collect(ctx, tx, statement{doing: "list unused memberships", sql: `
		SELECT m.user_id::text, m.created_at, s.last_used FROM memberships m LEFT JOIN membership_usage s ON s.tenant = m.tenant AND s.user_id = m.user_id
		 WHERE m.tenant = $1 AND m.user_id > coalesce(nullif($3, '')::uuid, '00000000-0000-0000-0000-000000000000')
		   AND m.created_at < $2::date AND (s.last_used IS NULL OR s.last_used < $2::date)
		 ORDER BY m.user_id LIMIT $4`, args: []any{tenant, since.Format(time.DateOnly), after, limit}},
		func(r pgx.CollectableRow) (x row, err error) {
			err = r.Scan(&x.user, &x.created, &x.used)
			return x, err
		})
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	ids := make([]string, len(rows))
	for i, r := range rows {
		ids[i] = r.user
	}
	members, err := tx.MembersByID(ctx, tenant, ids)
	if err != nil {
		return nil, err
	}
	byID := make(map[string]iam.Member, len(members))
	for _, m := range members {
		byID[m.User] = m
	}
	list := make([]iam.UnusedMembership, len(rows))
	for i, r := range rows {
		list[i] = iam.UnusedMembership{Member: byID[r.user], CreatedAt: r.created, LastUsed: deref(r.used)}
	}
	return list, nil
}

// UsedSince returns which of some members of a tenant were used since a day.
func (tx *Tx) UsedSince(ctx context.Context, tenant string, users []string, since time.Time) ([]string, error) {
	return collect(ctx, tx, statement{doing: "read the use of memberships", sql: `
		SELECT user_id::text FROM membership_usage WHERE tenant = $1 AND user_id = ANY ($2::uuid[]) AND last_used >= $3::date`,
		args: []any{tenant, users, since.Format(time.DateOnly)}}, pgx.RowTo[string])
}

// UnusedRoles lists by name, after one, the roles that a tenant has of its own, and the global ones that its members, clients
// or mappings have, that exist since before a day and that no decision in the tenant returned since then.
func (tx *Tx) UnusedRoles(ctx context.Context, tenant string, since time.Time, after string, limit int) ([]iam.UnusedRole, error) {
	return collect(ctx, tx, statement{doing: "list unused roles", sql: `
		SELECT r.name, r.tenant IS NULL, r.created_at, s.last_used, n.members, n.clients, n.mappings,
		       ARRAY (SELECT i.name FROM roles i WHERE i.tenant = $1 AND r.name = ANY (i.inherits) ORDER BY 1)
		  FROM roles r LEFT JOIN role_usage s ON s.tenant = $1 AND s.role = r.name
		 CROSS JOIN LATERAL (SELECT (SELECT count(*) FROM membership_roles h WHERE h.tenant = $1 AND h.role = r.name) AS members,
		                            (SELECT count(*) FROM clients c WHERE c.tenant = $1 AND c.status <> 'deleted' AND r.name = ANY (c.roles)) AS clients,
		                            (SELECT count(*) FROM mappings m WHERE m.tenant = $1 AND r.name = ANY (m.roles)) AS mappings) AS n
		 WHERE (r.tenant = $1 OR r.tenant IS NULL AND n.members + n.clients + n.mappings > 0) AND r.name > $3
		   AND r.created_at < $2::date AND (s.last_used IS NULL OR s.last_used < $2::date OR s.last_used < r.created_at::date)
		 ORDER BY r.name LIMIT $4`, args: []any{tenant, since.Format(time.DateOnly), after, limit}},
		func(row pgx.CollectableRow) (r iam.UnusedRole, err error) {
			var used *time.Time
			err = row.Scan(&r.Name, &r.Global, &r.CreatedAt, &used, &r.Members, &r.Clients, &r.Mappings, &r.InheritedBy)
			r.LastUsed = deref(used)
			return r, err
		})
}

// UnusedClients lists by issuer and client_id, after one, the clients of a tenant that exist since before a day and whose tokens
// no decision was about since then.
func (tx *Tx) UnusedClients(ctx context.Context, tenant string, since time.Time, after Identity, limit int) ([]iam.UnusedClient, error) {
	return collect(ctx, tx, statement{doing: "list unused clients", sql: `
		SELECT c.issuer, c.client_id, c.tenant, c.status, c.roles, c.scopes, c.version, c.created_at, s.last_used
		  FROM clients c LEFT JOIN client_usage s ON s.issuer = c.issuer AND s.client_id = c.client_id
		 WHERE c.tenant = $1 AND (c.issuer, c.client_id) > ($3, $4) AND c.status <> 'deleted'
		   AND c.created_at < $2::date AND (s.last_used IS NULL OR s.last_used < $2::date)
		 ORDER BY c.issuer, c.client_id LIMIT $5`, args: []any{tenant, since.Format(time.DateOnly), after.Issuer, after.Name, limit}},
		func(row pgx.CollectableRow) (c iam.UnusedClient, err error) {
			var used *time.Time
			err = row.Scan(&c.Issuer, &c.ClientID, &c.Tenant, &c.Status, &c.Roles, &c.Scopes, &c.Version, &c.CreatedAt, &used)
			c.LastUsed = deref(used)
			return c, err
		})
}

// expireUsage deletes the use of roles that are gone, and days that no question goes back to.
func (tx *Tx) expireUsage(ctx context.Context) error {
	_, err := tx.tx.Exec(ctx, `DELETE FROM role_usage s WHERE NOT EXISTS (SELECT FROM roles r WHERE r.name = s.role AND (r.tenant = s.tenant OR r.tenant IS NULL))`)
	if err == nil {
		_, err = tx.tx.Exec(ctx, `DELETE FROM usage_days WHERE day < current_date - 800`)
	}
	return wrap("delete old usage", err)
}
