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

// DeleteRole deletes a role; who still holds it is not looked at. LockRoles before.
func (tx *Tx) DeleteRole(ctx context.Context, tenant, name string) error {
	_, err := tx.tx.Exec(ctx, `DELETE FROM roles WHERE tenant IS NOT DISTINCT FROM nullif($1, '') AND name = $2`, tenant, name)
	return wrap("delete a role", err)
}

// Roles returns all roles that a tenant sees, the global ones included, by name; the
// global ones for "".
func (tx *Tx) Roles(ctx context.Context, tenant string) ([]iam.Role, error) {
	roles, err := rolesOf(ctx, tx.tx, tenant)
	return roles, wrap("read roles", err)
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

// Holders are those who bear a role.
type Holders struct {
	Members, Mappings, Clients int
	InheritedBy                []string // roles that inherit it, as "tenant/name", a global one without tenant; 100 at most
	Tenants                    []string // where it is held; 10 at most
}

// HoldersOf counts who bears a role of a tenant, or a global one with "". Global roles
// that are named in but do not count.
func (tx *Tx) HoldersOf(ctx context.Context, tenant, role string, but []string) (h Holders, err error) {
	_, err = tx.look(ctx, `
		SELECT (SELECT count(*) FROM memberships WHERE roles @> ARRAY[$2] AND ($1 = '' OR tenant = $1)),
		       (SELECT count(*) FROM mappings WHERE roles @> ARRAY[$2] AND ($1 = '' OR tenant = $1)),
		       (SELECT count(*) FROM clients WHERE roles @> ARRAY[$2] AND status <> 'deleted' AND ($1 = '' OR tenant = $1)),
		       ARRAY (SELECT coalesce(tenant || '/', '') || name FROM roles WHERE inherits @> ARRAY[$2] AND ($1 = '' OR tenant = $1) AND NOT (tenant IS NULL AND name = ANY ($3)) ORDER BY 1 LIMIT 100),
		       ARRAY (SELECT DISTINCT tenant FROM (SELECT tenant FROM memberships WHERE roles @> ARRAY[$2] UNION ALL SELECT tenant FROM mappings WHERE roles @> ARRAY[$2]
		              UNION ALL SELECT tenant FROM clients WHERE roles @> ARRAY[$2] AND tenant IS NOT NULL AND status <> 'deleted') x
		               WHERE $1 = '' OR tenant = $1 ORDER BY 1 LIMIT 10)`,
		[]any{tenant, role, list(but)}, &h.Members, &h.Mappings, &h.Clients, &h.InheritedBy, &h.Tenants)
	return h, wrap("count who holds a role", err)
}

// LockRoles makes edits of one tenant's roles, or with "" of the global ones, happen
// one after the other: two edits, each fine, can make a cycle. It fails where there
// is no such tenant. Take it before any user.
func (tx *Tx) LockRoles(ctx context.Context, tenant string) error {
	return wrap("lock roles", lockRoles(ctx, tx.tx, tenant))
}

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

const globalRoles = `hashtextextended('iam global roles ' || current_schema(), 0)`

// LockGlobalRolesShared keeps the global roles as they are until the transaction ends. Take it
// before any row.
func (tx *Tx) LockGlobalRolesShared(ctx context.Context) error {
	_, err := tx.tx.Exec(ctx, `SELECT pg_advisory_xact_lock_shared(`+globalRoles+`)`)
	return wrap("lock the global roles", err)
}
