package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/iam"
)

// PutRole is Tx.PutRoles for one role, in a transaction of its own.
func (db *DB) PutRole(ctx context.Context, r iam.Role) error {
	return db.Change(ctx, func(ctx context.Context, tx *Tx) error {
		if err := iam.InvalidFields(r.Check()); err != nil {
			return err
		}
		if err := tx.LockRoles(ctx, r.Tenant); err != nil {
			return err
		}
		return iam.Rebase(tx.PutRoles(ctx, r.Tenant, []*iam.Role{&r}), "/0", "")
	})
}

// PutRoles creates roles of a tenant (global ones with ""), or replaces their permissions,
// inheritance, description and service, and sets the new versions. A role comes after those that it
// inherits. It rejects cycles, inheritance that is too deep, unknown roles, and a name that a global
// role has or, for a global role, a role of any tenant. A pointer begins with the index of the role,
// as in /1/inherits/0. It needs LockRoles.
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

		Request *iam.Requestable `json:"request"`
	}
	rows, index := make([]row, len(puts)), make(map[string]int, len(roles))
	own := 0
	for i, r := range roles {
		index[r.Name] = i
		if r.Tenant == tenant {
			own++
		}
	}
	for i, r := range puts {
		at := fmt.Sprintf("/%d", i)
		if err := iam.Rebase(iam.InvalidFields(r.Check()), "", at); err != nil {
			return err
		}
		if err := nameIsFree(ctx, tx.tx, *r, roles); err != nil {
			return iam.Rebase(wrap("put a role", err), "", at)
		}
		check := true
		if j, exists := index[r.Name]; exists {
			// A global role may have made the inheritance too deep since: another edit is still allowed.
			check = !slices.Equal(roles[j].Inherits, r.Inherits)
			roles[j] = *r
		} else {
			index[r.Name] = len(roles)
			roles = append(roles, *r)
			own++
		}
		if own > iam.MaxRolesPerTenant {
			return iam.Errorf(iam.Conflict, "there are already %d roles, more are not allowed", iam.MaxRolesPerTenant)
		}
		if check {
			if err := iam.Rebase(iam.InvalidFields(iam.CheckInheritance(roles, r.Name)), "", at); err != nil {
				return err
			}
		}
		rows[i] = row{r.Name, list(r.Permissions), list(r.Inherits), r.Description, r.Service, r.Request}
	}
	if faults := iam.CheckWeight(roles); len(faults) > 0 && !iam.Lighter(roles, before) {
		return iam.Rebase(iam.InvalidFields(faults), "", fmt.Sprintf("/%d", len(puts)-1))
	}
	body, err := json.Marshal(rows)
	if err != nil {
		return wrap("put roles", err)
	}
	written, err := tx.tx.Query(ctx, `
		INSERT INTO roles AS r (tenant, name, permissions, inherits, description, service, request)
		SELECT nullif($1, ''), name, permissions, inherits, description, nullif(service, ''), nullif(request, 'null')
		  FROM jsonb_to_recordset($2::jsonb) AS x (name text, permissions text[], inherits text[], description text, service text, request jsonb)
		ON CONFLICT ON CONSTRAINT roles_tenant_name_key DO UPDATE
		   SET permissions = excluded.permissions, inherits = excluded.inherits, description = excluded.description,
		       service = excluded.service, request = excluded.request, version = nextval('iam_versions'), updated_at = now()
		RETURNING name, version`, tenant, body)
	if err != nil {
		return wrap("put roles", err)
	}
	versions, name, version := map[string]int64{}, "", int64(0)
	if _, err := pgx.ForEachRow(written, []any{&name, &version}, func() error { versions[name] = version; return nil }); err != nil {
		return wrap("put roles", err)
	}
	for _, r := range puts {
		r.Version = versions[r.Name]
	}
	return nil
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

// roleNames returns the names of the roles that a tenant sees. It needs LockRoles, so that none of
// them is deleted before the transaction ends.
func roleNames(ctx context.Context, tx pgx.Tx, tenant string) (map[string]bool, error) {
	roles, err := rolesOf(ctx, tx, tenant)
	if err != nil {
		return nil, err
	}
	names := make(map[string]bool, len(roles))
	for _, r := range roles {
		names[r.Name] = true
	}
	return names, nil
}

// unknownRoles returns an error for each role of a list that is not known; pointer is that of the list.
func unknownRoles(known map[string]bool, roles []string, pointer string) (faults []iam.FieldError) {
	for i, name := range roles {
		if !known[name] {
			faults = append(faults, iam.FieldError{
				Pointer: fmt.Sprintf("%s/%d", pointer, i),
				Detail:  fmt.Sprintf("there is no role named %q", name),
			})
		}
	}
	return faults
}

// DeleteRole deletes a role. It does not check whether anyone holds it. It needs LockRoles.
func (tx *Tx) DeleteRole(ctx context.Context, tenant, name string) error {
	_, err := tx.tx.Exec(ctx, `DELETE FROM roles WHERE tenant IS NOT DISTINCT FROM nullif($1, '') AND name = $2`, tenant, name)
	return wrap("delete a role", err)
}

// Roles returns all roles that a tenant sees, global ones included, by name; with "" the global ones.
func (tx *Tx) Roles(ctx context.Context, tenant string) ([]iam.Role, error) {
	roles, err := rolesOf(ctx, tx.tx, tenant)
	return roles, wrap("read roles", err)
}

// rolesOf returns the roles that a tenant sees; the global ones for "".
func rolesOf(ctx context.Context, tx pgx.Tx, tenant string) ([]iam.Role, error) {
	rows, err := tx.Query(ctx, `
		SELECT coalesce(tenant, ''), name, permissions, inherits, version, description, coalesce(service, ''), request
		  FROM roles WHERE tenant IS NULL OR tenant = $1 ORDER BY name`, tenant)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[iam.Role])
}

// Holders counts who holds a role.
type Holders struct {
	Members, Mappings, Clients int
	Groups                     int      // of SCIM that map to it
	RequestedBy                []string // roles that its holders can ask for, as InheritedBy
	InheritedBy                []string // roles that inherit it: "tenant/name", or "name" for a global one; 100 at most
	Tenants                    []string // where it is held; 10 at most
}

// HoldersOf counts who holds a role of a tenant, or a global role with "". Global roles named in
// except do not count as inheriting.
func (tx *Tx) HoldersOf(ctx context.Context, tenant, role string, except []string) (h Holders, err error) {
	_, err = tx.look(ctx, `
		SELECT (SELECT count(*) FROM memberships WHERE roles @> ARRAY[$2] AND ($1 = '' OR tenant = $1)),
		       (SELECT count(*) FROM mappings WHERE roles @> ARRAY[$2] AND ($1 = '' OR tenant = $1)),
		       (SELECT count(*) FROM clients WHERE roles @> ARRAY[$2] AND status <> 'deleted' AND ($1 = '' OR tenant = $1)),
		       (SELECT count(*) FROM scim_groups WHERE roles @> ARRAY[$2] AND ($1 = '' OR tenant = $1)),
		       ARRAY (SELECT coalesce(tenant || '/', '') || name FROM roles
		               WHERE inherits @> ARRAY[$2] AND ($1 = '' OR tenant = $1) AND NOT (tenant IS NULL AND name = ANY ($3)) ORDER BY 1 LIMIT 100),
		       ARRAY (SELECT coalesce(tenant || '/', '') || name FROM roles
		               WHERE request -> 'by' ? $2 AND ($1 = '' OR tenant = $1) AND name <> $2 ORDER BY 1 LIMIT 100),
		       ARRAY (SELECT DISTINCT tenant FROM (
		              SELECT tenant FROM memberships WHERE roles @> ARRAY[$2]
		              UNION ALL SELECT tenant FROM mappings WHERE roles @> ARRAY[$2]
		              UNION ALL SELECT tenant FROM scim_groups WHERE roles @> ARRAY[$2]
		              UNION ALL SELECT tenant FROM clients WHERE roles @> ARRAY[$2] AND tenant IS NOT NULL AND status <> 'deleted') x
		               WHERE $1 = '' OR tenant = $1 ORDER BY 1 LIMIT 10)`,
		[]any{tenant, role, list(except)}, &h.Members, &h.Mappings, &h.Clients, &h.Groups, &h.InheritedBy, &h.RequestedBy, &h.Tenants)
	return h, wrap("count the holders of a role", err)
}

// LockRoles serializes edits of a tenant's roles, or with "" of the global ones: two edits that are
// valid alone may form a cycle together. It fails if the tenant does not exist. It comes before any
// lock of a user.
func (tx *Tx) LockRoles(ctx context.Context, tenant string) error {
	return wrap("lock roles", lockRoles(ctx, tx.tx, tenant))
}

// lockRoles locks a tenant and shares the lock of the global roles, which edits of global roles
// hold exclusively.
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

const globalRoles = `hashtextextended('iam global roles ' || current_schema(), 0)`

// LockGlobalRolesShared prevents edits of global roles until the transaction ends. It comes before
// any row lock.
func (tx *Tx) LockGlobalRolesShared(ctx context.Context) error {
	_, err := tx.tx.Exec(ctx, `SELECT pg_advisory_xact_lock_shared(`+globalRoles+`)`)
	return wrap("lock the global roles", err)
}
