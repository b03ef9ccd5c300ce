package postgres

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/iam"
)

// holderRows is the smallest number of rows that are read for one of many roles.
const holderRows = 4

// RoleHolders lists by id, after an id, the members of a tenant whose membership lists one of some roles, in force
// or not. It merges one range of an index for each role, and reads more only of the roles that are used up, so a page
// costs the same for a role that all have and for many that few have. Fewer than limit: there are no more.
func (tx *Tx) RoleHolders(ctx context.Context, tenant string, roles []string, after string, limit int) ([]string, error) {
	type stream struct {
		role string
		ids  []string // read, after the last one that was taken
		from string
		next int // rows of the next read; 0: there are no more
	}
	streams := make([]*stream, len(roles))
	for i, role := range roles {
		streams[i] = &stream{role: role, from: after, next: min(limit, max(holderRows, 2*limit/len(roles)))}
	}
	var holders []string
	for len(holders) < limit {
		var dry []*stream
		for _, s := range streams {
			if len(s.ids) == 0 && s.next > 0 {
				dry = append(dry, s)
			}
		}
		if len(dry) > 0 {
			var names, from []string
			var rows []int
			for _, s := range dry {
				names, from, rows = append(names, s.role), append(from, s.from), append(rows, s.next)
			}
			read, err := tx.holdersOfEach(ctx, tenant, names, from, rows)
			if err != nil {
				return nil, err
			}
			for i, s := range dry {
				s.ids = read[i]
				if len(s.ids) < s.next {
					s.next = 0
				} else {
					s.from, s.next = s.ids[len(s.ids)-1], min(2*s.next, limit)
				}
			}
		}
		least := ""
		for _, s := range streams {
			if len(s.ids) > 0 && (least == "" || s.ids[0] < least) {
				least = s.ids[0]
			}
		}
		if least == "" {
			break
		}
		holders = append(holders, least)
		for _, s := range streams {
			if len(s.ids) > 0 && s.ids[0] == least {
				s.ids = s.ids[1:]
			}
		}
	}
	return holders, nil
}

// holdersOfEach reads the next holders of each of some roles.
func (tx *Tx) holdersOfEach(ctx context.Context, tenant string, roles, after []string, limits []int) ([][]string, error) {
	rows, err := tx.tx.Query(ctx, `
		SELECT w.n, h.user_id::text FROM unnest($2::text[], $3::text[], $4::int[]) WITH ORDINALITY AS w (role, after, most, n)
		 CROSS JOIN LATERAL (SELECT user_id FROM membership_roles
		                      WHERE tenant = $1 AND role = w.role AND user_id > coalesce(nullif(w.after, '')::uuid, '00000000-0000-0000-0000-000000000000')
		                      ORDER BY user_id LIMIT w.most) AS h
		 ORDER BY w.n, h.user_id`, tenant, roles, after, limits)
	if err != nil {
		return nil, wrap("read the holders of roles", err)
	}
	read := make([][]string, len(roles))
	var n int
	var id string
	_, err = pgx.ForEachRow(rows, []any{&n, &id}, func() error { read[n-1] = append(read[n-1], id); return nil })
	return read, wrap("read the holders of roles", err)
}

// MemberIDs lists by id, after an id, the users who are members of a tenant.
func (tx *Tx) MemberIDs(ctx context.Context, tenant, after string, limit int) ([]string, error) {
	return collect(ctx, tx, statement{doing: "list members", sql: `
		SELECT user_id::text FROM memberships WHERE tenant = $1 AND user_id > coalesce(nullif($2, '')::uuid, '00000000-0000-0000-0000-000000000000')
		 ORDER BY user_id LIMIT $3`, args: []any{tenant, after, limit}}, pgx.RowTo[string])
}

// Holder is a member with the status of the user.
type Holder struct {
	iam.Member
	UserStatus string
}

// Holders returns the memberships of some users in a tenant, by user id.
func (tx *Tx) Holders(ctx context.Context, tenant string, users []string) ([]Holder, error) {
	members, err := tx.MembersByID(ctx, tenant, users)
	if err != nil || len(members) == 0 {
		return nil, err
	}
	status, err := tx.userStatus(ctx, users)
	if err != nil {
		return nil, err
	}
	holders := make([]Holder, len(members))
	for i, m := range members {
		holders[i] = Holder{m, status[m.User]}
	}
	slices.SortFunc(holders, func(a, b Holder) int { return cmp.Compare(a.User, b.User) })
	return holders, nil
}

func (tx *Tx) userStatus(ctx context.Context, users []string) (map[string]string, error) {
	rows, err := tx.tx.Query(ctx, `SELECT id::text, status FROM users WHERE id = ANY ($1::uuid[])`, users)
	if err != nil {
		return nil, wrap("read the status of users", err)
	}
	status := make(map[string]string, len(users))
	var id, s string
	_, err = pgx.ForEachRow(rows, []any{&id, &s}, func() error { status[id] = s; return nil })
	return status, wrap("read the status of users", err)
}

// TenantClients lists the clients of a tenant that are not deleted, by issuer and client_id, after a client.
func (tx *Tx) TenantClients(ctx context.Context, tenant string, after Identity, limit int) ([]iam.Client, error) {
	return collect(ctx, tx, statement{doing: "list the clients of a tenant", sql: `
		SELECT issuer, client_id, tenant, status, roles, scopes, version FROM clients
		 WHERE tenant = $1 AND (issuer, client_id) > ($2, $3) AND status <> 'deleted' ORDER BY issuer, client_id LIMIT $4`,
		args: []any{tenant, after.Issuer, after.Name, limit}},
		func(row pgx.CollectableRow) (c iam.Client, err error) {
			err = row.Scan(&c.Issuer, &c.ClientID, &c.Tenant, &c.Status, &c.Roles, &c.Scopes, &c.Version)
			return c, err
		})
}

// Began is when the transaction began, by the database's clock: the moment to which its answers belong.
func (tx *Tx) Began(ctx context.Context) (at time.Time, err error) {
	err = tx.tx.QueryRow(ctx, `SELECT now()`).Scan(&at)
	return at, wrap("read the clock", err)
}
