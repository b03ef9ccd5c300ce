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

// PutTenant makes a tenant or replaces its slug, name, status and attributes.
func (db *DB) PutTenant(ctx context.Context, t iam.Tenant) error {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	if err := invalid(t.Check()); err != nil {
		return err
	}
	attributes, err := encode(t.Attributes)
	if err != nil {
		return err
	}
	_, err = db.admin.Exec(ctx, `
		INSERT INTO tenants AS t (id, slug, name, status, attributes) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT ON CONSTRAINT tenants_pkey DO UPDATE
		   SET slug = excluded.slug, name = excluded.name, status = excluded.status, attributes = excluded.attributes,
		       version = t.version + 1, updated_at = now()`,
		t.ID, t.Slug, t.Name, t.Status, attributes)
	if violates(err, "tenants_slug_key") {
		return &iam.Error{Kind: iam.Conflict, Detail: fmt.Sprintf("there is already a tenant with the slug %q", t.Slug), Cause: err}
	}
	return wrap("put a tenant", err)
}

// PutRole makes a role or replaces its permissions and inheritance. It refuses
// cycles, chains that are too deep, names that nothing bears, and a name that
// is taken by a global role or, for a global one, by a role of any tenant.
func (db *DB) PutRole(ctx context.Context, r iam.Role) error {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	if err := invalid(r.Check()); err != nil {
		return err
	}
	return wrap("put a role", pgx.BeginFunc(ctx, db.admin, func(tx pgx.Tx) error {
		if err := lockRoles(ctx, tx, r.Tenant); err != nil {
			return err
		}
		roles, err := rolesOf(ctx, tx, r.Tenant)
		if err != nil {
			return err
		}
		if err := nameIsFree(ctx, tx, r, roles); err != nil {
			return err
		}
		if i := slices.IndexFunc(roles, func(x iam.Role) bool { return x.Name == r.Name }); i >= 0 {
			roles[i] = r
		} else {
			roles = append(roles, r)
		}
		own := 0
		for _, x := range roles {
			if x.Tenant == r.Tenant {
				own++
			}
		}
		if own > iam.MaxRolesPerTenant {
			return iam.Errorf(iam.Conflict, "there are already %d roles, more are not allowed", iam.MaxRolesPerTenant)
		}
		if err := invalid(iam.CheckInheritance(roles, r.Name)); err != nil {
			return err
		}
		if err := invalid(iam.CheckWeight(roles)); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			INSERT INTO roles AS r (tenant, name, permissions, inherits) VALUES (nullif($1, ''), $2, $3, $4)
			ON CONFLICT ON CONSTRAINT roles_tenant_name_key DO UPDATE
			   SET permissions = excluded.permissions, inherits = excluded.inherits, version = r.version + 1, updated_at = now()`,
			r.Tenant, r.Name, list(r.Permissions), list(r.Inherits))
		return err
	}))
}

// lockRoles makes edits of one tenant's roles happen one after the other: two
// edits, each fine, can make a cycle. Global roles are under a lock that edits
// of tenants' roles share.
func lockRoles(ctx context.Context, tx pgx.Tx, tenant string) error {
	const global = `hashtextextended('iam global roles ' || current_schema(), 0)`
	if tenant == "" {
		_, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(`+global+`)`)
		return err
	}
	if err := lockTenant(ctx, tx, tenant); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock_shared(`+global+`)`)
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
		SELECT coalesce(tenant, ''), name, permissions, inherits, version
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
// attributes, platform roles, default tenant and tokens_not_before. It returns
// our id.
func (db *DB) PutUser(ctx context.Context, u iam.User) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	wrong := u.Check()
	issuer, known := db.issuers.Find(u.Issuer)
	switch {
	case !known:
		wrong = append(wrong, iam.FieldError{Pointer: "/issuer", Detail: "is not a trusted issuer"})
	case len(u.PlatformRoles) > 0 && !issuer.Platform:
		wrong = append(wrong, iam.FieldError{Pointer: "/platform_roles", Detail: "subjects of this issuer cannot hold platform roles"})
	}
	if u.DefaultTenant != "" && known && !issuer.Reaches(u.DefaultTenant) {
		wrong = append(wrong, outOfReach("/default_tenant"))
	}
	if err := invalid(wrong); err != nil {
		return "", err
	}
	attributes, err := encode(u.Attributes)
	if err != nil {
		return "", err
	}
	var id string
	err = db.admin.QueryRow(ctx, `
		INSERT INTO users AS u (issuer, subject, status, attributes, platform_roles, tokens_not_before, default_tenant)
		VALUES ($1, $2, $3, $4, $5, $6, nullif($7, ''))
		ON CONFLICT ON CONSTRAINT users_issuer_subject_key DO UPDATE
		   SET status = excluded.status, attributes = excluded.attributes, platform_roles = excluded.platform_roles,
		       tokens_not_before = excluded.tokens_not_before, default_tenant = excluded.default_tenant,
		       version = u.version + 1, updated_at = now()
		RETURNING id::text`,
		u.Issuer, u.Subject, u.Status, attributes, list(u.PlatformRoles), optional(u.TokensNotBefore), u.DefaultTenant).Scan(&id)
	if violates(err, "users_default_tenant_fkey") {
		return "", iam.Errorf(iam.NotFound, "there is no tenant %q", u.DefaultTenant)
	}
	return id, wrap("put a user", err)
}

// PutMembership makes or replaces what a user is in a tenant.
func (db *DB) PutMembership(ctx context.Context, m iam.Membership) error {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	if err := invalid(m.Check()); err != nil {
		return err
	}
	if uuid.Validate(m.User) != nil {
		return iam.Errorf(iam.NotFound, "there is no user %q", m.User)
	}
	attributes, err := encode(m.Attributes)
	if err != nil {
		return err
	}
	return wrap("put a membership", pgx.BeginFunc(ctx, db.admin, func(tx pgx.Tx) error {
		// The tenant before the user, as everywhere: no two writers wait for each other.
		if err := rolesExist(ctx, tx, m.Tenant, m.Roles); err != nil {
			return err
		}
		var issuer string
		err := tx.QueryRow(ctx, `SELECT issuer FROM users WHERE id = $1::uuid FOR NO KEY UPDATE`, m.User).Scan(&issuer)
		if errors.Is(err, pgx.ErrNoRows) {
			return iam.Errorf(iam.NotFound, "there is no user %q", m.User)
		}
		if err != nil {
			return err
		}
		if !db.issuers.Reaches(issuer, m.Tenant) {
			return invalid([]iam.FieldError{outOfReach("/tenant")})
		}
		_, err = tx.Exec(ctx, `
			INSERT INTO memberships AS m (user_id, tenant, status, roles, attributes, expires_at)
			VALUES ($1::uuid, $2, $3, $4, $5, $6)
			ON CONFLICT ON CONSTRAINT memberships_pkey DO UPDATE
			   SET status = excluded.status, roles = excluded.roles, attributes = excluded.attributes,
			       expires_at = excluded.expires_at, version = m.version + 1, updated_at = now()`,
			m.User, m.Tenant, m.Status, list(m.Roles), attributes, optional(m.ExpiresAt))
		if err != nil {
			return err
		}
		var n int
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM memberships WHERE user_id = $1::uuid`, m.User).Scan(&n); err != nil {
			return err
		}
		if n > iam.MaxMembershipsPerUser {
			return iam.Errorf(iam.Conflict, "the user is already a member of %d tenants, more are not allowed", iam.MaxMembershipsPerUser)
		}
		return nil
	}))
}

// PutMapping makes or replaces what a claim of an issuer's tokens means in a
// tenant.
func (db *DB) PutMapping(ctx context.Context, m iam.Mapping) error {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	wrong := m.Check()
	if !db.issuers.Reaches(m.Issuer, m.Tenant) {
		wrong = append(wrong, outOfReach("/issuer"))
	}
	if err := invalid(wrong); err != nil {
		return err
	}
	return wrap("put a mapping", pgx.BeginFunc(ctx, db.admin, func(tx pgx.Tx) error {
		if err := lockTenant(ctx, tx, m.Tenant); err != nil {
			return err
		}
		if err := rolesExist(ctx, tx, m.Tenant, m.Roles); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `
			INSERT INTO mappings AS m (tenant, issuer, claim, value, roles) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT ON CONSTRAINT mappings_pkey DO UPDATE
			   SET roles = excluded.roles, version = m.version + 1, updated_at = now()`,
			m.Tenant, m.Issuer, m.Claim, m.Value, m.Roles)
		if err != nil {
			return err
		}
		var n int
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM mappings WHERE tenant = $1`, m.Tenant).Scan(&n); err != nil {
			return err
		}
		if n > iam.MaxMappingsPerTenant {
			return iam.Errorf(iam.Conflict, "the tenant already has %d mappings, more are not allowed", iam.MaxMappingsPerTenant)
		}
		return nil
	}))
}

// PutClient makes or replaces what a program may be.
func (db *DB) PutClient(ctx context.Context, c iam.Client) error {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	wrong := c.Check()
	issuer, known := db.issuers.Find(c.Issuer)
	if !known {
		wrong = append(wrong, iam.FieldError{Pointer: "/issuer", Detail: "is not a trusted issuer"})
	}
	switch {
	case c.Tenant != "" && known && !issuer.Reaches(c.Tenant):
		wrong = append(wrong, outOfReach("/tenant"))
	case c.Tenant == "" && known && !issuer.Platform:
		wrong = append(wrong, iam.FieldError{Pointer: "/tenant", Detail: "programs of this issuer need a tenant"})
	}
	if err := invalid(wrong); err != nil {
		return err
	}
	return wrap("put a client", pgx.BeginFunc(ctx, db.admin, func(tx pgx.Tx) error {
		if err := rolesExist(ctx, tx, c.Tenant, c.Roles); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `
			INSERT INTO clients AS c (issuer, client_id, tenant, status, roles, scopes, tokens_not_before)
			VALUES ($1, $2, nullif($3, ''), $4, $5, $6, $7)
			ON CONFLICT ON CONSTRAINT clients_pkey DO UPDATE
			   SET tenant = excluded.tenant, status = excluded.status, roles = excluded.roles, scopes = excluded.scopes,
			       tokens_not_before = excluded.tokens_not_before, version = c.version + 1, updated_at = now()`,
			c.Issuer, c.ClientID, c.Tenant, c.Status, list(c.Roles), list(c.Scopes), optional(c.TokensNotBefore))
		return err
	}))
}

// rolesExist refuses names that no role of the tenant, and no global role,
// bears, and keeps them from going away while the transaction runs.
func rolesExist(ctx context.Context, tx pgx.Tx, tenant string, names []string) error {
	if tenant != "" {
		var id string
		err := tx.QueryRow(ctx, `SELECT id FROM tenants WHERE id = $1 FOR SHARE`, tenant).Scan(&id)
		if errors.Is(err, pgx.ErrNoRows) {
			return iam.Errorf(iam.NotFound, "there is no tenant %q", tenant)
		}
		if err != nil {
			return err
		}
	}
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
	return invalid(wrong)
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

func invalid(wrong []iam.FieldError) error {
	if len(wrong) == 0 {
		return nil
	}
	return &iam.Error{Kind: iam.Invalid, Detail: "some fields are not valid", Fields: wrong}
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
