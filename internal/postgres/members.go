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

// PutMembership is Tx.PutMembers for one user, in a transaction of its own.
func (db *DB) PutMembership(ctx context.Context, m iam.Membership) error {
	return db.Change(ctx, func(ctx context.Context, tx *Tx) error {
		if err := iam.InvalidFields(m.Check()); err != nil {
			return err
		}
		if err := tx.LockRoles(ctx, m.Tenant); err != nil {
			return err
		}
		_, err := tx.PutMembers(ctx, m.Tenant, []*iam.Membership{&m})
		return iam.Rebase(err, "/0", "")
	})
}

// PutMembers creates or reindexs memberships of a tenant, all or none, and sets the new versions.
// The first membership of a user without a default tenant becomes the default, so that a later one
// does not move the user; defaulted are the users whose default was set, with their new state. A
// pointer begins with the index of the membership, as in /1/roles/0. It needs LockRoles.
func (tx *Tx) PutMembers(ctx context.Context, tenant string, members []*iam.Membership) (defaulted []iam.User, err error) {
	known, err := roleNames(ctx, tx.tx, tenant)
	if err != nil {
		return nil, wrap("put members", err)
	}
	type row struct {
		User       string         `json:"user_id"`
		Status     string         `json:"status"`
		Roles      []string       `json:"roles"`
		Attributes map[string]any `json:"attributes"`
		ExpiresAt  *time.Time     `json:"expires_at"`

		Terms map[string]iam.RoleTerm `json:"role_terms"`
	}
	var faults []iam.FieldError
	at := func(i int, pointer string) string { return fmt.Sprintf("/%d%s", i, pointer) }
	all, ids := make([]row, len(members)), make([]string, len(members))
	index := make(map[string]int, len(members))
	for i, m := range members {
		if uuid.Validate(m.User) != nil {
			return nil, iam.Errorf(iam.NotFound, "there is no user %q", m.User)
		}
		for _, f := range m.Check() {
			faults = append(faults, iam.FieldError{Pointer: at(i, f.Pointer), Detail: f.Detail})
		}
		faults = append(faults, unknownRoles(known, m.Roles, at(i, "/roles"))...)
		attributes := m.Attributes
		if attributes == nil {
			attributes = map[string]any{}
		}
		stored := m.Tidy()
		if stored.Terms == nil {
			stored.Terms = map[string]iam.RoleTerm{}
		}
		all[i] = row{m.User, m.Status, list(m.Roles), attributes, optional(stored.ExpiresAt), stored.Terms}
		ids[i], index[m.User] = m.User, i
	}
	// The users are not locked: administrators who add each other to their tenants would deadlock.
	// The foreign key ensures that the users exist.
	users, err := tx.users(ctx, `WHERE u.id = ANY ($1::uuid[])`, ids)
	if err != nil {
		return nil, err
	}
	if len(users) != len(index) {
		return nil, errLostRace // erased since EnsureUsers
	}
	for _, u := range users {
		if !tx.issuers.Reaches(u.Issuer, tenant) {
			f := outOfReach("/issuer")
			faults = append(faults, iam.FieldError{Pointer: at(index[u.ID], f.Pointer), Detail: f.Detail})
		}
	}
	if err := iam.InvalidFields(faults); err != nil {
		return nil, err
	}
	body, err := json.Marshal(all)
	if err != nil {
		return nil, wrap("put members", err)
	}
	rows, err := tx.tx.Query(ctx, `
		INSERT INTO memberships AS m (user_id, tenant, status, roles, attributes, expires_at, role_terms)
		SELECT user_id, $1, status, roles, attributes, expires_at, role_terms
		  FROM jsonb_to_recordset($2::jsonb)
		    AS x (user_id uuid, status text, roles text[], attributes jsonb, expires_at timestamptz, role_terms jsonb)
		ON CONFLICT ON CONSTRAINT memberships_pkey DO UPDATE
		   SET status = excluded.status, roles = excluded.roles, attributes = excluded.attributes,
		       expires_at = excluded.expires_at, role_terms = excluded.role_terms, version = nextval('iam_versions'), updated_at = now()
		RETURNING user_id::text, version, xmax = 0`, tenant, body)
	if err != nil {
		return nil, wrap("put members", err)
	}
	var id string
	var version int64
	var joined bool
	var added []string
	if _, err := pgx.ForEachRow(rows, []any{&id, &version, &joined}, func() error {
		members[index[id]].Version = version
		if joined {
			added = append(added, id)
		}
		return nil
	}); err != nil {
		return nil, wrap("put members", err)
	}
	if err := tx.checkMembershipLimit(ctx, added, index); err != nil || len(added) == 0 {
		return nil, err
	}
	return tx.setDefaultTenants(ctx, tenant, added)
}

// setDefaultTenants sets the default tenant of users who have joined a tenant and have none: to the
// only tenant of which they were a member before, so that joining does not move them, or else to
// this one. A user with several memberships stays without a default. The other membership is locked,
// so that a concurrent deletion of it finds the default that is set here, and clears it.
func (tx *Tx) setDefaultTenants(ctx context.Context, tenant string, users []string) ([]iam.User, error) {
	ids, err := collect(ctx, tx, statement{doing: "set default tenants", sql: `
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
		RETURNING u.id::text`, args: []any{tenant, users}}, pgx.RowTo[string])
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	return tx.users(ctx, `WHERE u.id = ANY ($1::uuid[]) ORDER BY u.id`, ids)
}

// checkMembershipLimit rejects users with more memberships than are allowed. Users close to the limit
// are counted under a lock of each user, in one order: of two concurrent joins, the second counts
// the first.
func (tx *Tx) checkMembershipLimit(ctx context.Context, ids []string, index map[string]int) error {
	const many = `SELECT user_id::text FROM memberships WHERE user_id = ANY ($1::uuid[]) GROUP BY user_id HAVING count(*) > $2 ORDER BY 1`
	closeTo := func(n int) ([]string, error) {
		return collect(ctx, tx, statement{doing: "count memberships", sql: many, args: []any{ids, n}}, pgx.RowTo[string])
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
		e.Fields = append(e.Fields, iam.FieldError{Pointer: fmt.Sprintf("/%d", index[id]), Detail: "is a member of the maximum number of tenants"})
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

// DeleteMember deletes a membership, and clears the user's default tenant if it is this one: cleared
// then holds the user's new state, otherwise nothing.
func (tx *Tx) DeleteMember(ctx context.Context, tenant, user string) (cleared []iam.User, err error) {
	tag, err := tx.tx.Exec(ctx, `DELETE FROM memberships WHERE tenant = $1 AND user_id = $2::uuid`, tenant, user)
	if err == nil && tag.RowsAffected() == 0 {
		err = errLostRace // the user was erased concurrently
	}
	if err != nil {
		return nil, wrap("delete a membership", err)
	}
	tag, err = tx.tx.Exec(ctx, `
		UPDATE users SET default_tenant = NULL, version = nextval('iam_versions'), updated_at = now()
		 WHERE id = $1::uuid AND default_tenant = $2`, user, tenant)
	if err != nil || tag.RowsAffected() == 0 {
		return nil, wrap("clear a default tenant", err)
	}
	return tx.users(ctx, `WHERE u.id = $1::uuid`, user)
}

// MemberFilter selects members; an empty field matches all.
type MemberFilter struct {
	User, Issuer, Subject, Status, Role string
	Search                              string // prefix of the subject, ignoring case
	After                               string // id of the last user of the page before
	Limit                               int

	EndsWithin time.Duration // the membership or a role ends within; 0: whenever. Sorts by the end
	AfterEnd   string        // the first end of the last one of the page before, with EndsWithin
}

// Members lists the members of a tenant by user id, or by what ends first. A Role is one that is in use, in force or
// not.
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
	if f.EndsWithin <= 0 {
		w.only("m.user_id > $%d::uuid", f.After)
		return tx.members(ctx, w.sql("m.user_id", f.Limit), w.args...)
	}
	const ends = "iam_ends_at(m.expires_at, m.role_terms)" // as in memberships_ends_idx
	w.conditions = append(w.conditions, "(m.expires_at IS NOT NULL OR m.role_terms <> '{}')", ends+" > now()")
	w.and(ends+" <= now() + $%d::interval", f.EndsWithin)
	if f.After != "" {
		w.args = append(w.args, f.AfterEnd, f.After)
		w.conditions = append(w.conditions, fmt.Sprintf("(%s, m.user_id) > ($%d::timestamptz, $%d::uuid)", ends, len(w.args)-1, len(w.args)))
	}
	return tx.members(ctx, w.sql(ends+", m.user_id", f.Limit), w.args...)
}

// MembersByID returns the memberships of some users in a tenant.
func (tx *Tx) MembersByID(ctx context.Context, tenant string, users []string) ([]iam.Member, error) {
	return tx.members(ctx, ` WHERE m.tenant = $1 AND m.user_id = ANY ($2::uuid[])`, tenant, users)
}

// MembershipsOf lists the memberships of a user by tenant.
func (tx *Tx) MembershipsOf(ctx context.Context, user string) ([]iam.Member, error) {
	return tx.members(ctx, ` WHERE m.user_id = $1::uuid ORDER BY m.tenant`, user)
}

func (tx *Tx) members(ctx context.Context, tail string, args ...any) ([]iam.Member, error) {
	return collect(ctx, tx, statement{doing: "read members", sql: `
		SELECT m.tenant, m.user_id::text, m.status, m.roles, m.attributes, m.expires_at, m.version, u.issuer, u.subject, m.expires_at <= now(),
		       nullif(m.role_terms, '{}'), now()
		  FROM memberships m JOIN users u ON u.id = m.user_id` + tail, args: args},
		func(row pgx.CollectableRow) (m iam.Member, err error) {
			var attributes, terms []byte
			var expires *time.Time
			var expired *bool
			err = row.Scan(&m.Tenant, &m.User, &m.Status, &m.Roles, &attributes, &expires, &m.Version, &m.Issuer, &m.Subject, &expired, &terms, &m.AsOf)
			if err == nil {
				m.ExpiresAt, m.Expired = deref(expires), expired != nil && *expired
				err = decode(attributes, &m.Attributes)
			}
			if err == nil && terms != nil {
				err = decode(terms, &m.Terms)
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
		list, err := collect(ctx, tx, statement{doing: "find identities in a tenant", sql: sql, args: []any{tenant, issuers, names}}, pgx.RowToStructByPos[Identity])
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

// Administration reports whether a tenant has administrators, and whether their memberships or roles expire.
type Administration int

// Ordered: a change must not lower the value.
const (
	NoAdministrator Administration = iota
	TemporaryAdministrator
	PermanentAdministrator
)

// Administrators reports how active users administer a tenant: by an active membership with one of the
// roles in force. A role that ends is as temporary as a membership that does. Clients do not count. The tenant must be locked.
func (tx *Tx) Administrators(ctx context.Context, tenant string, roles []string) (most Administration, err error) {
	var issuers []string
	for _, i := range tx.issuers {
		if i.Reaches(tenant) {
			issuers = append(issuers, i.URL)
		}
	}
	_, err = tx.look(ctx, `
		SELECT coalesce(max(CASE WHEN m.expires_at IS NULL AND EXISTS (
		           SELECT FROM unnest(iam_roles_at(m.roles, m.role_terms, now())) r
		            WHERE r = ANY ($2) AND m.role_terms -> r -> 'expires_at' IS NULL) THEN 2 ELSE 1 END), 0)
		  FROM memberships m JOIN users u ON u.id = m.user_id
		 WHERE m.tenant = $1 AND m.roles && $2 AND iam_roles_at(m.roles, m.role_terms, now()) && $2 AND m.status = 'active' AND (m.expires_at IS NULL OR m.expires_at > now())
		   AND u.status = 'active' AND u.issuer = ANY ($3)`,
		[]any{tenant, list(roles), list(issuers)}, &most)
	return most, wrap("find administrators of a tenant", err)
}
