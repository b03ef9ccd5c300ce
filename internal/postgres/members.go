package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"iam-service/internal/iam"
)

// PutMembership makes or replaces what a user is in a tenant.
func (db *DB) PutMembership(ctx context.Context, m iam.Membership) error {
	return db.Change(ctx, func(ctx context.Context, tx *Tx) error {
		if err := iam.Refuse(m.Check()); err != nil {
			return err
		}
		if err := tx.LockRoles(ctx, m.Tenant); err != nil {
			return err
		}
		_, err := tx.PutMembers(ctx, m.Tenant, []*iam.Membership{&m})
		return iam.Rebase(err, "/0", "")
	})
}

// PutMembers makes or replaces what users are in a tenant, all of it or nothing, and
// sets the new versions. A user without a default tenant gets their first membership as the
// default, so that no later one moves the user; settled are those whose default was set,
// as they are then. A fault names the place in the list, as in /1/roles/0. LockRoles
// before.
func (tx *Tx) PutMembers(ctx context.Context, tenant string, members []*iam.Membership) (settled []iam.User, err error) {
	roles, err := rolesOf(ctx, tx.tx, tenant)
	if err != nil {
		return nil, wrap("put members", err)
	}
	known := make(map[string]bool, len(roles))
	for _, r := range roles {
		known[r.Name] = true
	}
	type row struct {
		User       string         `json:"user_id"`
		Status     string         `json:"status"`
		Roles      []string       `json:"roles"`
		Attributes map[string]any `json:"attributes"`
		ExpiresAt  *time.Time     `json:"expires_at"`
	}
	var wrong []iam.FieldError
	at := func(i int, pointer string) string { return fmt.Sprintf("/%d%s", i, pointer) }
	all, ids := make([]row, len(members)), make([]string, len(members))
	place := make(map[string]int, len(members))
	for i, m := range members {
		if uuid.Validate(m.User) != nil {
			return nil, iam.Errorf(iam.NotFound, "there is no user %q", m.User)
		}
		for _, f := range m.Check() {
			wrong = append(wrong, iam.FieldError{Pointer: at(i, f.Pointer), Detail: f.Detail})
		}
		for j, name := range m.Roles {
			if !known[name] {
				wrong = append(wrong, iam.FieldError{Pointer: at(i, fmt.Sprintf("/roles/%d", j)), Detail: fmt.Sprintf("there is no role named %q", name)})
			}
		}
		attributes := m.Attributes
		if attributes == nil {
			attributes = map[string]any{}
		}
		all[i] = row{m.User, m.Status, list(m.Roles), attributes, optional(m.ExpiresAt)}
		ids[i], place[m.User] = m.User, i
	}
	// The users are not locked: administrators who add each other to their tenants would
	// wait for each other. That they are there is what the foreign key sees to.
	users, err := tx.users(ctx, `WHERE u.id = ANY ($1::uuid[])`, ids)
	if err != nil {
		return nil, err
	}
	if len(users) != len(place) {
		return nil, errLostRace // erased since they were looked up
	}
	for _, u := range users {
		if !tx.issuers.Reaches(u.Issuer, tenant) {
			f := outOfReach("/issuer")
			wrong = append(wrong, iam.FieldError{Pointer: at(place[u.ID], f.Pointer), Detail: f.Detail})
		}
	}
	if err := iam.Refuse(wrong); err != nil {
		return nil, err
	}
	body, err := json.Marshal(all)
	if err != nil {
		return nil, wrap("put members", err)
	}
	rows, err := tx.tx.Query(ctx, `
		INSERT INTO memberships AS m (user_id, tenant, status, roles, attributes, expires_at)
		SELECT user_id, $1, status, roles, attributes, expires_at
		  FROM jsonb_to_recordset($2::jsonb) AS x (user_id uuid, status text, roles text[], attributes jsonb, expires_at timestamptz)
		ON CONFLICT ON CONSTRAINT memberships_pkey DO UPDATE
		   SET status = excluded.status, roles = excluded.roles, attributes = excluded.attributes,
		       expires_at = excluded.expires_at, version = nextval('iam_versions'), updated_at = now()
		RETURNING user_id::text, version, xmax = 0`, tenant, body)
	if err != nil {
		return nil, wrap("put members", err)
	}
	var id string
	var version int64
	var joined bool
	var fresh []string
	if _, err := pgx.ForEachRow(rows, []any{&id, &version, &joined}, func() error {
		members[place[id]].Version = version
		if joined {
			fresh = append(fresh, id)
		}
		return nil
	}); err != nil {
		return nil, wrap("put members", err)
	}
	if err := tx.checkMembershipLimit(ctx, fresh, place); err != nil || len(fresh) == 0 {
		return nil, err
	}
	return tx.setDefaultTenants(ctx, tenant, fresh)
}

// setDefaultTenants sets the default tenant of users who have joined a tenant and have no default: the only
// tenant that they were a member of before, so that joining does not change where they are, or
// this one where there was none. Who was a member of several keeps none. The other membership is
// locked: who deletes it at the same time then finds the default that is set here, and clears it.
func (tx *Tx) setDefaultTenants(ctx context.Context, tenant string, users []string) ([]iam.User, error) {
	ids, err := collect(ctx, tx, "set default tenants", `
		WITH other AS MATERIALIZED (
			SELECT m.user_id, m.tenant FROM memberships m JOIN users u ON u.id = m.user_id
			 WHERE m.user_id = ANY ($2::uuid[]) AND m.tenant <> $1 AND u.default_tenant IS NULL
			   AND NOT EXISTS (SELECT FROM memberships o WHERE o.user_id = m.user_id AND o.tenant NOT IN ($1, m.tenant))
			 ORDER BY m.user_id FOR KEY SHARE OF m),
		lone AS (
			SELECT u.id, coalesce(o.tenant, $1) AS tenant FROM users u LEFT JOIN other o ON o.user_id = u.id
			 WHERE u.id = ANY ($2::uuid[]) AND u.default_tenant IS NULL
			   AND NOT EXISTS (SELECT FROM memberships m WHERE m.user_id = u.id AND m.tenant NOT IN ($1, coalesce(o.tenant, $1)))
			 ORDER BY u.id FOR NO KEY UPDATE OF u)
		UPDATE users u SET default_tenant = lone.tenant, version = nextval('iam_versions'), updated_at = now()
		  FROM lone WHERE u.id = lone.id AND u.default_tenant IS NULL
		RETURNING u.id::text`, []any{tenant, users}, pgx.RowTo[string])
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	return tx.users(ctx, `WHERE u.id = ANY ($1::uuid[]) ORDER BY u.id`, ids)
}

// checkMembershipLimit refuses users with more memberships than are allowed. Those who are close to
// it are counted under a lock, in one order: of two tenants that they join at once, the
// second sees the first.
func (tx *Tx) checkMembershipLimit(ctx context.Context, ids []string, place map[string]int) error {
	const many = `SELECT user_id::text FROM memberships WHERE user_id = ANY ($1::uuid[]) GROUP BY user_id HAVING count(*) > $2 ORDER BY 1`
	closeTo := func(n int) ([]string, error) {
		return collect(ctx, tx, "count memberships", many, []any{ids, n}, pgx.RowTo[string])
	}
	almost, err := closeTo(iam.MaxMembershipsPerUser - 50)
	if err != nil || len(almost) == 0 {
		return err
	}
	for _, id := range almost {
		if _, err := tx.tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('iam memberships '||$1||current_schema(), 0))`, id); err != nil {
			return wrap("count memberships", err)
		}
	}
	over, err := closeTo(iam.MaxMembershipsPerUser)
	if err != nil || len(over) == 0 {
		return err
	}
	e := &iam.Error{Kind: iam.Conflict, Code: "too_many_memberships", Detail: "a user cannot become a member of any more tenants"}
	for _, id := range over {
		e.Fields = append(e.Fields, iam.FieldError{Pointer: fmt.Sprintf("/%d", place[id]), Detail: "is a member of as many tenants as are allowed"})
	}
	return e
}

// Joins are users who join a tenant.
type Joins struct {
	Tenant string
	Users  int64 // how many join
	Daily  int64 // how many of them count against the tenant's daily limit
	// MaxMembers is the limit of the tenant's members. Beyond it the members are counted exactly:
	// those who have left were not subtracted.
	MaxMembers int64
}

// TenantUsage is the share of the limits that a tenant uses.
type TenantUsage struct {
	Members int64 // exact where it exceeds the limit, otherwise an upper bound
	Joins   int64 // counted joins of the current period of 24 hours
}

// CountJoins records that users join a tenant and returns its usage. The tenant must be locked.
func (tx *Tx) CountJoins(ctx context.Context, j Joins) (u TenantUsage, err error) {
	known, err := tx.look(ctx, `
		UPDATE tenant_usage
		   SET members = members + $2, joins = CASE WHEN joins_since > now() - interval '1 day' THEN joins ELSE 0 END + $3,
		       joins_since = CASE WHEN joins_since > now() - interval '1 day' THEN joins_since ELSE now() END
		 WHERE tenant = $1 RETURNING members, joins`, []any{j.Tenant, j.Users, j.Daily}, &u.Members, &u.Joins)
	if err == nil && (!known || u.Members > j.MaxMembers) {
		_, err = tx.look(ctx, `
			INSERT INTO tenant_usage AS u (tenant, members, joins) SELECT $1, count(*), $2 FROM memberships WHERE tenant = $1
			ON CONFLICT ON CONSTRAINT tenant_usage_pkey DO UPDATE SET members = excluded.members RETURNING members, joins`,
			[]any{j.Tenant, j.Daily}, &u.Members, &u.Joins)
	}
	return u, wrap("count joins", err)
}

// DeleteMember ends a membership, and with it the default tenant of a user where it is this one:
// cleared is the user as they are then, empty where the default stays.
func (tx *Tx) DeleteMember(ctx context.Context, tenant, user string) (cleared []iam.User, err error) {
	tag, err := tx.tx.Exec(ctx, `DELETE FROM memberships WHERE tenant = $1 AND user_id = $2::uuid`, tenant, user)
	if err == nil && tag.RowsAffected() == 0 {
		err = errLostRace // the user was erased meanwhile
	}
	if err != nil {
		return nil, wrap("delete a membership", err)
	}
	tag, err = tx.tx.Exec(ctx, `UPDATE users SET default_tenant = NULL, version = nextval('iam_versions'), updated_at = now() WHERE id = $1::uuid AND default_tenant = $2`, user, tenant)
	if err != nil || tag.RowsAffected() == 0 {
		return nil, wrap("clear a default tenant", err)
	}
	return tx.users(ctx, `WHERE u.id = $1::uuid`, user)
}

// MemberFilter says which members; what is empty does not matter.
type MemberFilter struct {
	User, Issuer, Subject, Status, Role string
	Search                              string // the beginning of the subject, whatever its case
	After                               string // id of the user
	Limit                               int
}

// Members lists the members of a tenant by our ids.
func (tx *Tx) Members(ctx context.Context, tenant string, f MemberFilter) ([]iam.Member, error) {
	var w where
	w.and("m.tenant = $%d", tenant)
	w.only("m.user_id = $%d::uuid", f.User)
	w.only("u.issuer = $%d", f.Issuer)
	w.only("u.subject = $%d", f.Subject)
	w.begins(f.Search, "u.subject")
	switch f.Status {
	case iam.MembershipExpired:
		w.conditions = append(w.conditions, "m.status = 'active'", "m.expires_at <= now()")
	case iam.MembershipActive:
		w.conditions = append(w.conditions, "m.status = 'active'", "(m.expires_at IS NULL OR m.expires_at > now())")
	default:
		w.only("m.status = $%d", f.Status)
	}
	if f.Role != "" {
		w.and("m.roles @> $%d", []string{f.Role})
	}
	w.only("m.user_id > $%d::uuid", f.After)
	return tx.members(ctx, w.sql("m.user_id", f.Limit), w.args...)
}

// MembersByID returns those of the users that are members of a tenant.
func (tx *Tx) MembersByID(ctx context.Context, tenant string, users []string) ([]iam.Member, error) {
	return tx.members(ctx, ` WHERE m.tenant = $1 AND m.user_id = ANY ($2::uuid[])`, tenant, users)
}

// MembershipsOf lists what a user is, by tenant.
func (tx *Tx) MembershipsOf(ctx context.Context, user string) ([]iam.Member, error) {
	return tx.members(ctx, ` WHERE m.user_id = $1::uuid ORDER BY m.tenant`, user)
}

func (tx *Tx) members(ctx context.Context, tail string, args ...any) ([]iam.Member, error) {
	return collect(ctx, tx, "read members", `
		SELECT m.tenant, m.user_id::text, m.status, m.roles, m.attributes, m.expires_at, m.version, u.issuer, u.subject, m.expires_at <= now()
		  FROM memberships m JOIN users u ON u.id = m.user_id`+tail, args,
		func(row pgx.CollectableRow) (m iam.Member, err error) {
			var attributes []byte
			var expires *time.Time
			var over *bool
			if err = row.Scan(&m.Tenant, &m.User, &m.Status, &m.Roles, &attributes, &expires, &m.Version, &m.Issuer, &m.Subject, &over); err == nil {
				m.ExpiresAt, m.Expired = deref(expires), over != nil && *over
				err = decode(attributes, &m.Attributes)
			}
			return m, err
		})
}

// Known are the identities that a tenant knows.
type Known struct {
	Members map[Identity]bool // its members
	Clients map[Identity]bool // its own clients and the platform's
}

// KnownIn returns those of some identities that are known in a tenant.
func (tx *Tx) KnownIn(ctx context.Context, tenant string, ids []Identity) (k Known, err error) {
	issuers, names := columns(ids)
	read := func(sql string) (map[Identity]bool, error) {
		known := map[Identity]bool{}
		list, err := collect(ctx, tx, "find identities in a tenant", sql, []any{tenant, issuers, names}, pgx.RowToStructByPos[Identity])
		for _, n := range list {
			known[n] = true
		}
		return known, err
	}
	k.Members, err = read(`
		SELECT u.issuer, u.subject FROM users u JOIN memberships m ON m.user_id = u.id
		 WHERE m.tenant = $1 AND (u.issuer, u.subject) IN (SELECT * FROM unnest($2::text[], $3::text[]))`)
	if err != nil {
		return Known{}, err
	}
	k.Clients, err = read(`
		SELECT issuer, client_id FROM clients
		 WHERE (tenant = $1 OR tenant IS NULL) AND (issuer, client_id) IN (SELECT * FROM unnest($2::text[], $3::text[]))`)
	return k, err
}

// Administration is how lasting the administrators of a tenant are.
type Administration int

// From none to those whose membership has no end.
const (
	NoAdministrator Administration = iota
	TemporaryAdministrator
	PermanentAdministrator
)

// Administrators says whether active users administer a tenant, by a membership in force with
// one of the roles. Programs do not count. The tenant must be locked.
func (tx *Tx) Administrators(ctx context.Context, tenant string, roles []string) (most Administration, err error) {
	var issuers []string
	for _, i := range tx.issuers {
		if i.Reaches(tenant) {
			issuers = append(issuers, i.URL)
		}
	}
	_, err = tx.look(ctx, `
		SELECT coalesce(max(CASE WHEN m.expires_at IS NULL THEN 2 ELSE 1 END), 0)
		  FROM memberships m JOIN users u ON u.id = m.user_id
		 WHERE m.tenant = $1 AND m.roles && $2 AND m.status = 'active' AND (m.expires_at IS NULL OR m.expires_at > now())
		   AND u.status = 'active' AND u.issuer = ANY ($3)`,
		[]any{tenant, list(roles), list(issuers)}, &most)
	return most, wrap("look for administrators of a tenant", err)
}
