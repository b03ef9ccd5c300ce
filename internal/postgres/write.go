package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"iam-service/internal/iam"
)

// The Put… methods of a DB are one transaction each, for loads and tests: they are
// not audited and not announced.

// PutTenant makes a tenant or replaces its slug, name, status and attributes.
func (db *DB) PutTenant(ctx context.Context, t iam.Tenant) error {
	return db.Change(ctx, func(ctx context.Context, tx *Tx) error {
		_, err := tx.PutTenant(ctx, t)
		return err
	})
}

// PutRole makes a role or replaces what it is; see Tx.PutRoles.
func (db *DB) PutRole(ctx context.Context, r iam.Role) error {
	return db.Change(ctx, func(ctx context.Context, tx *Tx) error {
		if err := iam.Refuse(r.Check()); err != nil {
			return err
		}
		if err := tx.LockRoles(ctx, r.Tenant); err != nil {
			return err
		}
		return iam.Rebase(tx.PutRoles(ctx, r.Tenant, []*iam.Role{&r}), "/0", "")
	})
}

// PutUser makes a user, found by issuer and subject, or replaces what is known of
// them. It returns our id.
func (db *DB) PutUser(ctx context.Context, u iam.User) (id string, err error) {
	err = db.Change(ctx, func(ctx context.Context, tx *Tx) error {
		put, err := tx.PutUser(ctx, u)
		id = put.ID
		return err
	})
	return id, err
}

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

// PutMapping makes or replaces what a claim of an issuer's tokens means in a
// tenant.
func (db *DB) PutMapping(ctx context.Context, m iam.Mapping) error {
	return db.Change(ctx, func(ctx context.Context, tx *Tx) error {
		if err := iam.Refuse(tx.checkMapping(m)); err != nil {
			return err
		}
		if err := tx.LockRoles(ctx, m.Tenant); err != nil {
			return err
		}
		return iam.Rebase(tx.PutMappings(ctx, m.Tenant, []*iam.Mapping{&m}), "/0", "")
	})
}

// PutClient makes or replaces what a program may be.
func (db *DB) PutClient(ctx context.Context, c iam.Client) error {
	return db.Change(ctx, func(ctx context.Context, tx *Tx) error {
		_, err := tx.PutClient(ctx, c)
		return err
	})
}

// PutTenant makes a tenant or replaces its slug, name, status and attributes. It
// returns the new version. An id that a deleted tenant had is refused.
func (tx *Tx) PutTenant(ctx context.Context, t iam.Tenant) (version int64, err error) {
	if err := iam.Refuse(t.Check()); err != nil {
		return 0, err
	}
	attributes, err := encode(t.Attributes)
	if err != nil {
		return 0, err
	}
	made, err := tx.look(ctx, `
		INSERT INTO tenants AS t (id, slug, name, status, attributes)
		SELECT $1, $2, $3, $4, $5 WHERE NOT EXISTS (SELECT FROM retired_tenants WHERE id = $1)
		ON CONFLICT ON CONSTRAINT tenants_pkey DO UPDATE
		   SET slug = excluded.slug, name = excluded.name, status = excluded.status, attributes = excluded.attributes,
		       version = nextval('iam_versions'), updated_at = now()
		RETURNING version`,
		[]any{t.ID, t.Slug, t.Name, t.Status, attributes}, &version)
	switch {
	case violates(err, "tenants_slug_key"):
		return 0, &iam.Error{Kind: iam.Conflict, Detail: fmt.Sprintf("there is already a tenant with the slug %q", t.Slug), Cause: err}
	case err == nil && !made:
		return 0, iam.Errorf(iam.Conflict, "the id %q was a tenant's that is deleted: ids are never used again", t.ID)
	}
	return version, wrap("put a tenant", err)
}

// PutRoles makes roles of one tenant, or global ones with "", or replaces their
// permissions, inheritance, description and service, and sets the new versions. Each comes
// after those that it inherits. It refuses cycles, chains that are too deep, names that
// nothing bears, and a name that is taken by a global role or, for a global one, by a role
// of any tenant. A fault names the place in the list, as in /1/inherits/0. LockRoles
// before.
func (tx *Tx) PutRoles(ctx context.Context, tenant string, puts []*iam.Role) error {
	roles, err := rolesOf(ctx, tx.tx, tenant)
	if err != nil {
		return wrap("put roles", err)
	}
	before := slices.Clone(roles)
	type row struct {
		Name        string   `json:"name"`
		Permissions []string `json:"permissions"`
		Inherits    []string `json:"inherits"`
		Description string   `json:"description"`
		Service     string   `json:"service"`
	}
	rows, place := make([]row, len(puts)), make(map[string]int, len(roles))
	for i, r := range roles {
		place[r.Name] = i
	}
	own := 0
	for _, r := range roles {
		if r.Tenant == tenant {
			own++
		}
	}
	for i, r := range puts {
		at := fmt.Sprintf("/%d", i)
		if err := iam.Rebase(iam.Refuse(r.Check()), "", at); err != nil {
			return err
		}
		if err := nameIsFree(ctx, tx.tx, *r, roles); err != nil {
			return iam.Rebase(wrap("put a role", err), "", at)
		}
		check := true
		if j, there := place[r.Name]; there {
			check = !slices.Equal(roles[j].Inherits, r.Inherits) // a global role may have made the chain too deep: that is no reason to refuse another edit
			roles[j] = *r
		} else {
			place[r.Name] = len(roles)
			roles = append(roles, *r)
			own++
		}
		if own > iam.MaxRolesPerTenant {
			return iam.Errorf(iam.Conflict, "there are already %d roles, more are not allowed", iam.MaxRolesPerTenant)
		}
		if check {
			if err := iam.Rebase(iam.Refuse(iam.CheckInheritance(roles, r.Name)), "", at); err != nil {
				return err
			}
		}
		rows[i] = row{r.Name, list(r.Permissions), list(r.Inherits), r.Description, r.Service}
	}
	if wrong := iam.CheckWeight(roles); len(wrong) > 0 && !iam.Lighter(roles, before) {
		return iam.Rebase(iam.Refuse(wrong), "", fmt.Sprintf("/%d", len(puts)-1))
	}
	body, err := json.Marshal(rows)
	if err != nil {
		return wrap("put roles", err)
	}
	got, err := tx.tx.Query(ctx, `
		INSERT INTO roles AS r (tenant, name, permissions, inherits, description, service)
		SELECT nullif($1, ''), name, permissions, inherits, description, nullif(service, '')
		  FROM jsonb_to_recordset($2::jsonb) AS x (name text, permissions text[], inherits text[], description text, service text)
		ON CONFLICT ON CONSTRAINT roles_tenant_name_key DO UPDATE
		   SET permissions = excluded.permissions, inherits = excluded.inherits, description = excluded.description,
		       service = excluded.service, version = nextval('iam_versions'), updated_at = now()
		RETURNING name, version`, tenant, body)
	if err != nil {
		return wrap("put roles", err)
	}
	versions, name, version := map[string]int64{}, "", int64(0)
	if _, err := pgx.ForEachRow(got, []any{&name, &version}, func() error { versions[name] = version; return nil }); err != nil {
		return wrap("put roles", err)
	}
	for _, r := range puts {
		r.Version = versions[r.Name]
	}
	return nil
}

const globalRoles = `hashtextextended('iam global roles ' || current_schema(), 0)`

// lockRoles makes edits of one tenant's roles happen one after the other: two
// edits, each fine, can make a cycle. Global roles are under a lock that edits
// of tenants' roles share.
func lockRoles(ctx context.Context, tx pgx.Tx, tenant string) error {
	if tenant == "" {
		_, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(`+globalRoles+`)`)
		return err
	}
	if err := lockTenant(ctx, tx, tenant); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock_shared(`+globalRoles+`)`)
	return err
}

func lockTenant(ctx context.Context, tx pgx.Tx, tenant string) error {
	var id string
	err := tx.QueryRow(ctx, `SELECT id FROM tenants WHERE id = $1 FOR NO KEY UPDATE`, tenant).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return iam.Errorf(iam.NotFound, "there is no tenant %q", tenant)
	}
	return err
}

// rolesOf returns the roles that a tenant sees; the global ones for "".
func rolesOf(ctx context.Context, tx pgx.Tx, tenant string) ([]iam.Role, error) {
	rows, err := tx.Query(ctx, `
		SELECT coalesce(tenant, ''), name, permissions, inherits, version, description, coalesce(service, '')
		  FROM roles WHERE tenant IS NULL OR tenant = $1 ORDER BY name`, tenant)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[iam.Role])
}

func nameIsFree(ctx context.Context, tx pgx.Tx, r iam.Role, seen []iam.Role) error {
	for _, x := range seen {
		if x.Name == r.Name && x.Tenant != r.Tenant {
			return iam.Errorf(iam.Conflict, "there is already a global role named %q", r.Name)
		}
	}
	if r.Tenant != "" {
		return nil
	}
	var holder string
	err := tx.QueryRow(ctx, `SELECT tenant FROM roles WHERE name = $1 AND tenant IS NOT NULL LIMIT 1`, r.Name).Scan(&holder)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return iam.Errorf(iam.Conflict, "a tenant already has a role of its own named %q", r.Name)
}

// PutUser makes a user, found by issuer and subject, or replaces its status,
// attributes, platform roles, default tenant and tokens_not_before. It returns what
// is then known.
func (tx *Tx) PutUser(ctx context.Context, u iam.User) (iam.User, error) {
	wrong := u.Check()
	issuer, known := tx.issuers.Find(u.Issuer)
	switch {
	case !known:
		wrong = append(wrong, iam.FieldError{Pointer: "/issuer", Detail: "is not a trusted issuer"})
	case len(u.PlatformRoles) > 0 && !issuer.Platform:
		wrong = append(wrong, iam.FieldError{Pointer: "/platform_roles", Detail: "subjects of this issuer cannot hold platform roles"})
	}
	if u.DefaultTenant != "" && known && !issuer.Reaches(u.DefaultTenant) {
		wrong = append(wrong, outOfReach("/default_tenant"))
	}
	if err := iam.Refuse(wrong); err != nil {
		return u, err
	}
	attributes, err := encode(u.Attributes)
	if err != nil {
		return u, err
	}
	err = tx.tx.QueryRow(ctx, `
		INSERT INTO users AS u (issuer, subject, status, attributes, platform_roles, tokens_not_before, default_tenant)
		VALUES ($1, $2, $3, $4, $5, $6, nullif($7, ''))
		ON CONFLICT ON CONSTRAINT users_issuer_subject_key DO UPDATE
		   SET status = excluded.status, attributes = excluded.attributes, platform_roles = excluded.platform_roles,
		       tokens_not_before = excluded.tokens_not_before, default_tenant = excluded.default_tenant,
		       version = nextval('iam_versions'), updated_at = now()
		RETURNING id::text, version`,
		u.Issuer, u.Subject, u.Status, attributes, list(u.PlatformRoles), optional(u.TokensNotBefore), u.DefaultTenant).Scan(&u.ID, &u.Version)
	if violates(err, "users_default_tenant_fkey") {
		return u, iam.Refuse([]iam.FieldError{{Pointer: "/default_tenant", Detail: fmt.Sprintf("there is no tenant %q", u.DefaultTenant)}})
	}
	return u, wrap("put a user", err)
}

// EnsureUsers returns the users of these (issuer, subject) pairs in our ids' order, and
// makes those that are missing, with a default tenant unless that is empty; created says
// which. They are not locked.
func (tx *Tx) EnsureUsers(ctx context.Context, who [][2]string, tenant string) (users []iam.User, created map[string]bool, err error) {
	issuers, subjects := make([]string, len(who)), make([]string, len(who))
	for i, w := range who {
		issuers[i], subjects[i] = w[0], w[1]
	}
	rows, err := tx.tx.Query(ctx, `
		INSERT INTO users (issuer, subject, default_tenant)
		SELECT DISTINCT issuer, subject, nullif($3, '') FROM unnest($1::text[], $2::text[]) AS w (issuer, subject) ORDER BY 1, 2
		ON CONFLICT ON CONSTRAINT users_issuer_subject_key DO NOTHING RETURNING id::text`, issuers, subjects, tenant)
	if err != nil {
		return nil, nil, wrap("make users", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, nil, wrap("make users", err)
	}
	created = map[string]bool{}
	for _, id := range ids {
		created[id] = true
	}
	users, err = tx.users(ctx, `WHERE (u.issuer, u.subject) IN (SELECT * FROM unnest($1::text[], $2::text[])) ORDER BY u.id`, issuers, subjects)
	distinct := make(map[[2]string]bool, len(who))
	for _, w := range who {
		distinct[w] = true
	}
	if err == nil && len(users) != len(distinct) {
		err = errLostRace // erased between the two statements
	}
	return users, created, err
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
	if err := tx.notTooMany(ctx, fresh, place); err != nil || len(fresh) == 0 {
		return nil, err
	}
	return tx.settle(ctx, tenant, fresh)
}

// settle sets the default tenant of users who have joined a tenant and have no default: the only
// tenant that they were a member of before, so that joining does not change where they are, or
// this one where there was none. Who was a member of several keeps none. The other membership is
// locked: who deletes it at the same time then finds the default that is set here, and clears it.
func (tx *Tx) settle(ctx context.Context, tenant string, users []string) ([]iam.User, error) {
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

// CountJoins notes that users have joined a tenant, whose lock is held, and returns how many
// members it then has, if they are more than most, and how many have joined in this day of 24
// hours. Those whom the platform adds do not count among the latter.
func (tx *Tx) CountJoins(ctx context.Context, tenant string, joined, most int64, platform bool) (members, joins int64, err error) {
	counted := joined
	if platform {
		counted = 0
	}
	known, err := tx.look(ctx, `
		UPDATE tenant_usage
		   SET members = members + $2, joins = CASE WHEN joins_since > now() - interval '1 day' THEN joins ELSE 0 END + $3,
		       joins_since = CASE WHEN joins_since > now() - interval '1 day' THEN joins_since ELSE now() END
		 WHERE tenant = $1 RETURNING members, joins`, []any{tenant, joined, counted}, &members, &joins)
	if err == nil && (!known || members > most) { // those who have left meanwhile were not subtracted
		_, err = tx.look(ctx, `
			INSERT INTO tenant_usage AS u (tenant, members, joins) SELECT $1, count(*), $2 FROM memberships WHERE tenant = $1
			ON CONFLICT ON CONSTRAINT tenant_usage_pkey DO UPDATE SET members = excluded.members RETURNING members, joins`, []any{tenant, counted}, &members, &joins)
	}
	return members, joins, wrap("count who has joined", err)
}

// notTooMany refuses users with more memberships than are allowed. Those who are close to
// it are counted under a lock, in one order: of two tenants that they join at once, the
// second sees the first.
func (tx *Tx) notTooMany(ctx context.Context, ids []string, place map[string]int) error {
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

func (tx *Tx) checkMapping(m iam.Mapping) []iam.FieldError {
	wrong := m.Check()
	if !tx.issuers.Reaches(m.Issuer, m.Tenant) {
		wrong = append(wrong, outOfReach("/issuer"))
	}
	return wrong
}

// PutMappings makes or replaces what claims of issuers' tokens mean in a tenant, and sets
// the new versions. A fault names the place in the list, as in /1/roles/0. LockRoles
// before.
func (tx *Tx) PutMappings(ctx context.Context, tenant string, puts []*iam.Mapping) error {
	roles, err := rolesOf(ctx, tx.tx, tenant)
	if err != nil {
		return wrap("put mappings", err)
	}
	known := make(map[string]bool, len(roles))
	for _, r := range roles {
		known[r.Name] = true
	}
	type row struct {
		Issuer string   `json:"issuer"`
		Claim  string   `json:"claim"`
		Value  string   `json:"value"`
		Roles  []string `json:"roles"`
	}
	rows := make([]row, len(puts))
	var wrong []iam.FieldError
	for i, m := range puts {
		for _, f := range tx.checkMapping(*m) {
			wrong = append(wrong, iam.FieldError{Pointer: fmt.Sprintf("/%d%s", i, f.Pointer), Detail: f.Detail})
		}
		for j, name := range m.Roles {
			if !known[name] {
				wrong = append(wrong, iam.FieldError{Pointer: fmt.Sprintf("/%d/roles/%d", i, j), Detail: fmt.Sprintf("there is no role named %q", name)})
			}
		}
		rows[i] = row{m.Issuer, m.Claim, m.Value, m.Roles}
	}
	if err := iam.Refuse(wrong); err != nil {
		return err
	}
	body, err := json.Marshal(rows)
	if err != nil {
		return wrap("put mappings", err)
	}
	got, err := tx.tx.Query(ctx, `
		INSERT INTO mappings AS m (tenant, issuer, claim, value, roles)
		SELECT $1, issuer, claim, value, roles FROM jsonb_to_recordset($2::jsonb) AS x (issuer text, claim text, value text, roles text[])
		ON CONFLICT ON CONSTRAINT mappings_pkey DO UPDATE
		   SET roles = excluded.roles, version = nextval('iam_versions'), updated_at = now()
		RETURNING issuer, claim, value, version`, tenant, body)
	if err != nil {
		return wrap("put mappings", err)
	}
	versions := map[string]int64{}
	var m iam.Mapping
	if _, err := pgx.ForEachRow(got, []any{&m.Issuer, &m.Claim, &m.Value, &m.Version}, func() error { versions[m.ID()] = m.Version; return nil }); err != nil {
		return wrap("put mappings", err)
	}
	for _, m := range puts {
		m.Version = versions[m.ID()]
	}
	var n int
	if err := tx.tx.QueryRow(ctx, `SELECT count(*) FROM mappings WHERE tenant = $1`, tenant).Scan(&n); err != nil {
		return wrap("put mappings", err)
	}
	if n > iam.MaxMappingsPerTenant {
		return iam.Errorf(iam.Conflict, "the tenant already has %d mappings, more are not allowed", iam.MaxMappingsPerTenant)
	}
	return nil
}

// PutClient makes or replaces what a program may be, and returns the new version.
func (tx *Tx) PutClient(ctx context.Context, c iam.Client) (version int64, err error) {
	wrong := c.Check()
	issuer, known := tx.issuers.Find(c.Issuer)
	if !known {
		wrong = append(wrong, iam.FieldError{Pointer: "/issuer", Detail: "is not a trusted issuer"})
	}
	switch {
	case c.Tenant != "" && known && !issuer.Reaches(c.Tenant):
		wrong = append(wrong, outOfReach("/tenant"))
	case c.Tenant == "" && known && !issuer.Platform:
		wrong = append(wrong, iam.FieldError{Pointer: "/tenant", Detail: "programs of this issuer need a tenant"})
	}
	if err := iam.Refuse(wrong); err != nil {
		return 0, err
	}
	if c.Tenant == "" {
		err = tx.ShareGlobalRoles(ctx)
	} else {
		err = tx.LockRoles(ctx, c.Tenant)
	}
	if err != nil {
		return 0, err
	}
	if err := rolesExist(ctx, tx.tx, c.Tenant, c.Roles); err != nil {
		return 0, wrap("put a client", err)
	}
	err = tx.tx.QueryRow(ctx, `
		INSERT INTO clients AS c (issuer, client_id, tenant, status, roles, scopes, tokens_not_before)
		VALUES ($1, $2, nullif($3, ''), $4, $5, $6, $7)
		ON CONFLICT ON CONSTRAINT clients_pkey DO UPDATE
		   SET tenant = excluded.tenant, status = excluded.status, roles = excluded.roles, scopes = excluded.scopes,
		       tokens_not_before = excluded.tokens_not_before, version = nextval('iam_versions'), updated_at = now()
		RETURNING version`,
		c.Issuer, c.ClientID, c.Tenant, c.Status, list(c.Roles), list(c.Scopes), optional(c.TokensNotBefore)).Scan(&version)
	return version, wrap("put a client", err)
}

// rolesExist refuses names that no role of the tenant, and no global role, bears. The
// locks of LockRoles, which the caller holds, keep roles from going away.
func rolesExist(ctx context.Context, tx pgx.Tx, tenant string, names []string) error {
	roles, err := rolesOf(ctx, tx, tenant)
	if err != nil {
		return err
	}
	var wrong []iam.FieldError
	for i, name := range names {
		if !slices.ContainsFunc(roles, func(r iam.Role) bool { return r.Name == name }) {
			wrong = append(wrong, iam.FieldError{Pointer: fmt.Sprintf("/roles/%d", i), Detail: fmt.Sprintf("there is no role named %q", name)})
		}
	}
	return iam.Refuse(wrong)
}

// SaveKeys keeps the last discovery document and keys of an issuer, for a start
// while it is away.
func (db *DB) SaveKeys(ctx context.Context, issuer string, discovery, jwks []byte, at time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	_, err := db.admin.Exec(ctx, `
		INSERT INTO issuer_keys AS k (issuer, discovery, jwks, fetched_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT ON CONSTRAINT issuer_keys_pkey DO UPDATE
		   SET discovery = excluded.discovery, jwks = excluded.jwks, fetched_at = excluded.fetched_at
		 WHERE k.fetched_at < excluded.fetched_at`,
		issuer, discovery, jwks, at)
	return wrap("keep an issuer's keys", err)
}

// LoadKeys returns what SaveKeys kept; a zero time where it kept nothing.
func (db *DB) LoadKeys(ctx context.Context, issuer string) (discovery, jwks []byte, at time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	err = db.admin.QueryRow(ctx, `SELECT discovery, jwks, fetched_at FROM issuer_keys WHERE issuer = $1`, issuer).
		Scan(&discovery, &jwks, &at)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil, time.Time{}, nil
	}
	return discovery, jwks, at, wrap("read an issuer's kept keys", err)
}

func outOfReach(pointer string) iam.FieldError {
	return iam.FieldError{Pointer: pointer, Detail: "the issuer may not speak for this tenant"}
}

func encode(attributes map[string]any) ([]byte, error) {
	if len(attributes) == 0 {
		return []byte("{}"), nil
	}
	b, err := json.Marshal(attributes)
	return b, wrap("encode attributes", err)
}

// list makes an absent list an empty array: the columns are not null.
func list(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
