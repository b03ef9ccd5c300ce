package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/iam"
)

// subjectsLimit bounds the statements of searches. They use the connections of administration, so that no enrichment
// waits for them.
const subjectsLimit = 2 * time.Second

// UserByID returns the issuer and the subject of a user, by our id, which must be a UUID. It is a look-up of an
// evaluation, so it has the connections and the limits of the facts.
func (db *DB) UserByID(ctx context.Context, id string) (issuer, subject string, found bool, err error) {
	found, err = db.look(ctx, `SELECT issuer, subject FROM users WHERE id = $1::uuid`, []any{id}, &issuer, &subject)
	return issuer, subject, found, wrap("find a user", err)
}

// UsersIn reads some members of a tenant. Of those of other issuers it reads the id alone.
func (db *DB) UsersIn(ctx context.Context, q iam.MembersQuery) (part iam.MembersPart, err error) {
	ctx, cancel := context.WithTimeout(ctx, subjectsLimit)
	defer cancel()
	rows, err := db.admin.Query(ctx, `
		SELECT m.user_id::text, $4 = '' OR u.issuer = $4 FROM memberships m JOIN users u ON u.id = m.user_id
		 WHERE m.tenant = $1 AND m.user_id > coalesce(nullif($2, '')::uuid, '00000000-0000-0000-0000-000000000000') ORDER BY m.user_id LIMIT $3`,
		q.Tenant, q.After, q.Limit, q.Issuer)
	if err != nil {
		return part, wrap("list a tenant's users", err)
	}
	var ids []string
	var matches bool
	_, err = pgx.ForEachRow(rows, []any{&part.Last, &matches}, func() error {
		if part.Read++; matches {
			ids = append(ids, part.Last)
		}
		return nil
	})
	if err != nil || len(ids) == 0 {
		return part, wrap("list a tenant's users", err)
	}
	if rows, err = db.admin.Query(ctx, userSelect+` WHERE u.id = ANY($1::uuid[]) ORDER BY u.id`, ids); err != nil {
		return part, wrap("list a tenant's users", err)
	}
	part.Users, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (iam.UserFacts, error) {
		var r userRow
		if err := row.Scan(r.dest()...); err != nil {
			return iam.UserFacts{}, err
		}
		return r.facts()
	})
	return part, wrap("list a tenant's users", err)
}

// ClientsIn lists the clients of a tenant, whatever their status, by client_id and issuer, after a client.
func (db *DB) ClientsIn(ctx context.Context, tenant, afterID, afterIssuer string, limit int) ([]iam.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, subjectsLimit)
	defer cancel()
	rows, err := db.admin.Query(ctx, `
		SELECT issuer, client_id, tenant, status, roles, scopes, version FROM clients
		 WHERE tenant = $1 AND (client_id, issuer) > ($2, $3) ORDER BY client_id, issuer LIMIT $4`, tenant, afterID, afterIssuer, limit)
	if err != nil {
		return nil, wrap("list a tenant's clients", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c iam.Client, err error) {
		err = row.Scan(&c.Issuer, &c.ClientID, &c.Tenant, &c.Status, &c.Roles, &c.Scopes, &c.Version)
		if err != nil {
			err = fmt.Errorf("read a client: %w", err)
		}
		return c, err
	})
	return list, wrap("list a tenant's clients", err)
}
