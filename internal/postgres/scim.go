package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/iam"
)

// SCIMQuery selects users or groups, ordered by id.
type SCIMQuery struct {
	Tenant string
	Issuer string // of users, or of the client of groups; empty: any
	Filter *SCIMFilter
	After  string // id of the last one of the page before
	Offset int
	Limit  int
}

// SCIMUsers lists the members of a tenant that an issuer names, by id, without their groups.
func (tx *Tx) SCIMUsers(ctx context.Context, q SCIMQuery) ([]iam.SCIMUser, error) {
	w, err := q.where(scimUserTable)
	if err != nil {
		return nil, err
	}
	w.only("m.user_id > $%d::uuid", q.After)
	return tx.scimUsers(ctx, w.sql("m.user_id", q.Limit)+offset(&w, q.Offset), w.args...)
}

// CountSCIMUsers counts what SCIMUsers lists, on all pages.
func (tx *Tx) CountSCIMUsers(ctx context.Context, q SCIMQuery) (n int, err error) {
	w, err := q.where(scimUserTable)
	if err != nil {
		return 0, err
	}
	_, err = tx.look(ctx, `SELECT count(*)`+scimUserTables+w.conditionsSQL(), w.args, &n)
	return n, wrap("count users", err)
}

// SCIMUser returns one member of a tenant that an issuer names, without its groups, and whether there is one.
func (tx *Tx) SCIMUser(ctx context.Context, tenant, issuer, id string) (iam.SCIMUser, bool, error) {
	all, err := tx.scimUsers(ctx, ` WHERE m.tenant = $1 AND u.issuer = $2 AND m.user_id = $3::uuid`, tenant, issuer, id)
	return first(all), len(all) > 0, err
}

const scimUserTables = `
  FROM memberships m JOIN users u ON u.id = m.user_id LEFT JOIN scim_users s ON s.tenant = m.tenant AND s.user_id = m.user_id`

func (tx *Tx) scimUsers(ctx context.Context, tail string, args ...any) ([]iam.SCIMUser, error) {
	list, err := collect(ctx, tx, statement{doing: "read users", sql: `
		SELECT m.user_id::text, coalesce(s.external_id, ''), NOT coalesce(s.active, true), coalesce(s.suspended, false), m.created_at, greatest(m.updated_at, s.updated_at),
		       greatest(m.version, s.version)` + scimUserTables + tail, args: args},
		func(row pgx.CollectableRow) (u iam.SCIMUser, err error) {
			return u, row.Scan(&u.User, &u.ExternalID, &u.Inactive, &u.Suspended, &u.CreatedAt, &u.UpdatedAt, &u.Revision)
		})
	if err != nil || len(list) == 0 {
		return nil, err
	}
	// The membership itself is read by the one statement that knows all its columns.
	ids, index := make([]string, len(list)), make(map[string]int, len(list))
	for i, u := range list {
		ids[i], index[u.User] = u.User, i
	}
	members, err := tx.members(ctx, ` WHERE m.tenant = $1 AND m.user_id = ANY ($2::uuid[])`, args[0], ids)
	if err != nil {
		return nil, err
	}
	if len(members) != len(list) {
		return nil, errLostRace // erased between the two statements
	}
	for _, m := range members {
		list[index[m.User]].Member = m
	}
	return list, nil
}

// PutSCIMUser stores what a tenant's provisioning client says of a member. It sets the new revision. It needs LockRoles.
func (tx *Tx) PutSCIMUser(ctx context.Context, u *iam.SCIMUser) error {
	err := tx.tx.QueryRow(ctx, `
		INSERT INTO scim_users AS s (tenant, user_id, external_id, active, suspended) VALUES ($1, $2::uuid, nullif($3, ''), $4, $5)
		ON CONFLICT ON CONSTRAINT scim_users_pkey DO UPDATE
		   SET external_id = excluded.external_id, active = excluded.active, suspended = excluded.suspended,
		       version = nextval('iam_versions'), updated_at = now()
		RETURNING version, updated_at`, u.Tenant, u.User, u.ExternalID, !u.Inactive, u.Suspended).Scan(&u.Revision, &u.UpdatedAt)
	if violates(err, "scim_users_external_id_key") {
		return taken("/externalId", "another user of the tenant has this externalId")
	}
	return wrap("put a provisioned user", err)
}

func taken(pointer, detail string) error {
	return &iam.Error{Kind: iam.Conflict, Code: "not_unique", Detail: detail, Fields: []iam.FieldError{{Pointer: pointer, Detail: detail}}}
}

// TakeSCIMSuspension records that the suspension of a member is an administrator's decision, and reports whether it was the
// client's. It needs LockRoles.
func (tx *Tx) TakeSCIMSuspension(ctx context.Context, tenant, user string) (was bool, err error) {
	tag, err := tx.tx.Exec(ctx, `UPDATE scim_users SET suspended = false WHERE tenant = $1 AND user_id = $2::uuid AND suspended`, tenant, user)
	return tag.RowsAffected() > 0, wrap("record a suspension", err)
}

// SCIMInactive returns those of some users of whom the tenant's provisioning client says that they are inactive. It needs LockRoles.
func (tx *Tx) SCIMInactive(ctx context.Context, tenant string, users []string) ([]string, error) {
	return collect(ctx, tx, statement{doing: "read what is provisioned", sql: `
		SELECT user_id::text FROM scim_users WHERE tenant = $1 AND user_id = ANY ($2::uuid[]) AND NOT active`,
		args: []any{tenant, users}}, pgx.RowTo[string])
}

// SCIMGroups lists the groups of a tenant by id.
func (tx *Tx) SCIMGroups(ctx context.Context, q SCIMQuery) ([]iam.SCIMGroup, error) {
	w, err := q.where(scimGroupTable)
	if err != nil {
		return nil, err
	}
	w.only("g.id > $%d::uuid", q.After)
	return tx.scimGroups(ctx, w.sql("g.id", q.Limit)+offset(&w, q.Offset), w.args...)
}

// CountSCIMGroups counts what SCIMGroups lists, on all pages.
func (tx *Tx) CountSCIMGroups(ctx context.Context, q SCIMQuery) (n int, err error) {
	w, err := q.where(scimGroupTable)
	if err != nil {
		return 0, err
	}
	_, err = tx.look(ctx, `SELECT count(*) FROM scim_groups g`+w.conditionsSQL(), w.args, &n)
	return n, wrap("count groups", err)
}

// SCIMGroup returns a group of a tenant, and whether it exists and is of an issuer; with an empty one, it is of any.
func (tx *Tx) SCIMGroup(ctx context.Context, tenant, issuer, id string) (iam.SCIMGroup, bool, error) {
	all, err := tx.scimGroups(ctx, ` WHERE g.tenant = $1 AND g.id = $2::uuid AND ($3 = '' OR g.issuer = $3)`, tenant, id, issuer)
	return first(all), len(all) > 0, err
}

// SCIMGroupsWith lists the groups of a tenant that map to a role, by id.
func (tx *Tx) SCIMGroupsWith(ctx context.Context, tenant, role string) ([]iam.SCIMGroup, error) {
	return tx.scimGroups(ctx, ` WHERE g.tenant = $1 AND g.roles @> ARRAY[$2] ORDER BY g.id`, tenant, role)
}

func (tx *Tx) scimGroups(ctx context.Context, tail string, args ...any) ([]iam.SCIMGroup, error) {
	return collect(ctx, tx, statement{doing: "read groups", sql: `
		SELECT g.tenant, g.id::text, g.issuer, g.display_name, coalesce(g.external_id, ''), g.roles,
		       (SELECT count(*) FROM scim_group_members x WHERE x.group_id = g.id), g.version, g.created_at, g.updated_at
		  FROM scim_groups g` + tail, args: args}, pgx.RowToStructByPos[iam.SCIMGroup])
}

// PutSCIMGroup creates a group, if it has no id, or replaces its names and roles. It sets id, version and times. It needs LockRoles.
func (tx *Tx) PutSCIMGroup(ctx context.Context, g *iam.SCIMGroup) (err error) {
	if g.ID == "" {
		var n int
		if _, err := tx.look(ctx, `SELECT count(*) FROM scim_groups WHERE tenant = $1`, []any{g.Tenant}, &n); err != nil {
			return wrap("count groups", err)
		}
		if n >= iam.MaxSCIMGroupsPerTenant {
			return &iam.Error{Kind: iam.Conflict, Code: "too_many_groups", Detail: "the tenant has the maximum number of groups"}
		}
		err = tx.tx.QueryRow(ctx, `
			INSERT INTO scim_groups (tenant, issuer, display_name, external_id, roles) VALUES ($1, $2, $3, nullif($4, ''), $5)
			RETURNING id::text, version, created_at, updated_at`, g.Tenant, g.Issuer, g.DisplayName, g.ExternalID, list(g.Roles)).
			Scan(&g.ID, &g.Version, &g.CreatedAt, &g.UpdatedAt)
	} else {
		err = tx.tx.QueryRow(ctx, `
			UPDATE scim_groups SET display_name = $3, external_id = nullif($4, ''), roles = $5, version = nextval('iam_versions'), updated_at = now()
			 WHERE tenant = $1 AND id = $2::uuid RETURNING version, updated_at`, g.Tenant, g.ID, g.DisplayName, g.ExternalID, list(g.Roles)).
			Scan(&g.Version, &g.UpdatedAt)
	}
	switch {
	case violates(err, "scim_groups_display_name_key"):
		return taken("/displayName", "another group of the tenant has this displayName")
	case violates(err, "scim_groups_external_id_key"):
		return taken("/externalId", "another group of the tenant has this externalId")
	}
	return wrap("put a group", err)
}

// DeleteSCIMGroup deletes a group with its members. It needs LockRoles.
func (tx *Tx) DeleteSCIMGroup(ctx context.Context, tenant, id string) error {
	_, err := tx.tx.Exec(ctx, `DELETE FROM scim_groups WHERE tenant = $1 AND id = $2::uuid`, tenant, id)
	return wrap("delete a group", err)
}

// SCIMGroupMembers lists the users of a group by id; none where the group is of another issuer.
func (tx *Tx) SCIMGroupMembers(ctx context.Context, g iam.SCIMGroup) ([]string, error) {
	return collect(ctx, tx, statement{doing: "read the members of a group", sql: `
		SELECT user_id::text FROM scim_group_members WHERE tenant = $1 AND group_id = $2::uuid
		   AND EXISTS (SELECT FROM scim_groups WHERE id = $2::uuid AND issuer = $3) ORDER BY user_id`,
		args: []any{g.Tenant, g.ID, g.Issuer}}, pgx.RowTo[string])
}

// LockMemberships locks the memberships of some users in one order, before a change of several steps: each step stores its audit
// entries, whose chain the erasure of a user locks after the memberships. It needs LockRoles.
func (tx *Tx) LockMemberships(ctx context.Context, tenant string, users []string) error {
	_, err := tx.tx.Exec(ctx, `SELECT FROM memberships WHERE tenant = $1 AND user_id = ANY ($2::uuid[]) ORDER BY user_id FOR NO KEY UPDATE`, tenant, users)
	return wrap("lock memberships", err)
}

// AddSCIMGroupMembers adds users to a group and returns those that were not in it. A user who is no member of the tenant, or
// that another issuer names, is in unknown, and is not added. It needs LockRoles.
func (tx *Tx) AddSCIMGroupMembers(ctx context.Context, g iam.SCIMGroup, issuer string, users []string) (added, unknown []string, err error) {
	// An index scan for each id: an anti-join has bad plans where the tables have just been filled.
	found, err := collect(ctx, tx, statement{doing: "find users", sql: `
		SELECT m.user_id::text FROM memberships m JOIN users u ON u.id = m.user_id
		 WHERE m.tenant = $1 AND u.issuer = $2 AND m.user_id = ANY ($3::uuid[])`, args: []any{g.Tenant, issuer, users}}, pgx.RowTo[string])
	if err != nil {
		return nil, nil, err
	}
	known := make(map[string]bool, len(found))
	for _, id := range found {
		known[id] = true
	}
	for _, id := range users {
		if !known[id] {
			unknown = append(unknown, id)
		}
	}
	if len(unknown) > 0 {
		return nil, unknown, nil
	}
	added, err = collect(ctx, tx, statement{doing: "add members to a group", sql: `
		INSERT INTO scim_group_members (group_id, user_id, tenant) SELECT DISTINCT $1::uuid, id, $2 FROM unnest($3::uuid[]) AS w (id) ORDER BY 2
		ON CONFLICT ON CONSTRAINT scim_group_members_pkey DO NOTHING RETURNING user_id::text`, args: []any{g.ID, g.Tenant, users}}, pgx.RowTo[string])
	if err != nil || len(added) == 0 {
		return nil, nil, err
	}
	full, err := collect(ctx, tx, statement{doing: "count the groups of users", sql: `
		SELECT user_id::text FROM scim_group_members WHERE tenant = $1 AND user_id = ANY ($2::uuid[]) GROUP BY user_id HAVING count(*) > $3 LIMIT 1`,
		args: []any{g.Tenant, added, iam.MaxSCIMGroupsPerUser}}, pgx.RowTo[string])
	if err == nil && len(full) > 0 {
		err = &iam.Error{Kind: iam.Conflict, Code: "too_many_groups", Detail: "the user " + full[0] + " is in the maximum number of groups"}
	}
	return added, nil, err
}

// RemoveSCIMGroupMembers removes users from a group and returns those that were in it. It needs LockRoles.
func (tx *Tx) RemoveSCIMGroupMembers(ctx context.Context, g iam.SCIMGroup, users []string) ([]string, error) {
	return collect(ctx, tx, statement{doing: "remove members from a group", sql: `
		DELETE FROM scim_group_members WHERE group_id = $1::uuid AND tenant = $2 AND user_id = ANY ($3::uuid[]) RETURNING user_id::text`,
		args: []any{g.ID, g.Tenant, users}}, pgx.RowTo[string])
}

// SCIMGroupsOf returns the groups of some members, by user, each with its id, DisplayName and Roles alone.
func (tx *Tx) SCIMGroupsOf(ctx context.Context, tenant string, users []string) (map[string][]iam.SCIMGroup, error) {
	rows, err := tx.tx.Query(ctx, `
		SELECT m.user_id::text, g.id::text, g.display_name, g.roles FROM scim_group_members m JOIN scim_groups g ON g.id = m.group_id
		 WHERE m.tenant = $1 AND m.user_id = ANY ($2::uuid[]) ORDER BY m.user_id, g.id`, tenant, users)
	if err != nil {
		return nil, wrap("read the groups of users", err)
	}
	of := map[string][]iam.SCIMGroup{}
	var user string
	var g iam.SCIMGroup
	_, err = pgx.ForEachRow(rows, []any{&user, &g.ID, &g.DisplayName, &g.Roles}, func() error {
		of[user] = append(of[user], g)
		g.Roles = nil // the next row scans into a list of its own
		return nil
	})
	return of, wrap("read the groups of users", err)
}

// SCIMRoles returns the roles to which groups of a tenant are mapped: they belong to the groups. It needs LockRoles.
func (tx *Tx) SCIMRoles(ctx context.Context, tenant string) ([]string, error) {
	return collect(ctx, tx, statement{doing: "read the roles of groups", sql: `
		SELECT DISTINCT unnest(roles) FROM scim_groups WHERE tenant = $1 AND roles <> '{}' ORDER BY 1`, args: []any{tenant}}, pgx.RowTo[string])
}

// HoldersOutside returns the members of a tenant who hold one of some roles and are not in a group, by id. It needs LockRoles.
func (tx *Tx) HoldersOutside(ctx context.Context, g iam.SCIMGroup, roles []string) ([]string, error) {
	return collect(ctx, tx, statement{doing: "find the holders of roles", sql: `
		SELECT user_id::text FROM memberships WHERE tenant = $1 AND roles && $3
		EXCEPT SELECT user_id::text FROM scim_group_members WHERE group_id = $2::uuid ORDER BY 1`,
		args: []any{g.Tenant, g.ID, list(roles)}}, pgx.RowTo[string])
}
