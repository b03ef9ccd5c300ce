package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/iam"
)

// The Put… methods of DB are for imports and tests: they write no audit entry and no event.

// PutTenant is Tx.PutTenant in a transaction of its own.
func (db *DB) PutTenant(ctx context.Context, t iam.Tenant) error {
	return db.Change(ctx, func(ctx context.Context, tx *Tx) error {
		_, err := tx.PutTenant(ctx, t)
		return err
	})
}

// PutTenant creates a tenant or replaces its slug, name, status and attributes, and returns the
// new version. The id of a deleted tenant is a conflict.
func (tx *Tx) PutTenant(ctx context.Context, t iam.Tenant) (version int64, err error) {
	if err := iam.InvalidFields(t.Check()); err != nil {
		return 0, err
	}
	attributes, err := encode(t.Attributes)
	if err != nil {
		return 0, err
	}
	written, err := tx.look(ctx, `
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
	case err == nil && !written:
		return 0, iam.Errorf(iam.Conflict, "the id %q belonged to a deleted tenant: ids are never used again", t.ID)
	}
	return version, wrap("put a tenant", err)
}

// DeleteTenant deletes a tenant with its roles, members and mappings, and retires its id.
func (tx *Tx) DeleteTenant(ctx context.Context, id string) error {
	// The foreign key would clear the default too, but without a new version.
	_, err := tx.tx.Exec(ctx, `
		UPDATE users SET default_tenant = NULL, version = nextval('iam_versions'), updated_at = now() WHERE default_tenant = $1`, id)
	if err == nil {
		_, err = tx.tx.Exec(ctx, `DELETE FROM tenants WHERE id = $1`, id)
	}
	if err == nil {
		_, err = tx.tx.Exec(ctx, `DELETE FROM tenant_usage WHERE tenant = $1`, id)
	}
	if violates(err, "clients_tenant_fkey") {
		return &iam.Error{Kind: iam.Conflict, Detail: "the tenant has clients", Cause: err}
	}
	if err == nil {
		_, err = tx.tx.Exec(ctx, `INSERT INTO retired_tenants (id) VALUES ($1)`, id)
	}
	return wrap("delete a tenant", err)
}

// TenantFilter selects tenants; an empty field matches all.
type TenantFilter struct {
	Status, Slug string
	Search       string // prefix of the slug or the name, ignoring case
	After        string // id of the last tenant of the page before
	Limit        int
}

// Tenants lists tenants by id.
func (tx *Tx) Tenants(ctx context.Context, f TenantFilter) ([]iam.Tenant, error) {
	var w where
	w.only("t.status = $%d", f.Status)
	w.only("t.slug = $%d", f.Slug)
	w.begins(f.Search, "t.slug", "t.name")
	w.only("t.id > $%d", f.After)
	return tx.tenants(ctx, w.sql("t.id", f.Limit), w.args...)
}

// TenantByID returns one tenant, and whether it exists.
func (tx *Tx) TenantByID(ctx context.Context, id string) (iam.Tenant, bool, error) {
	all, err := tx.tenants(ctx, ` WHERE t.id = $1`, id)
	return first(all), len(all) > 0, err
}

// TenantsByID returns those of some tenants that exist, by id.
func (tx *Tx) TenantsByID(ctx context.Context, ids []string) (map[string]iam.Tenant, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	all, err := tx.tenants(ctx, ` WHERE t.id = ANY ($1)`, ids)
	byID := make(map[string]iam.Tenant, len(all))
	for _, t := range all {
		byID[t.ID] = t
	}
	return byID, err
}

func (tx *Tx) tenants(ctx context.Context, tail string, args ...any) ([]iam.Tenant, error) {
	return collect(ctx, tx, statement{doing: "read tenants", sql: `SELECT t.id, t.slug, t.name, t.status, t.attributes, t.version FROM tenants t` + tail, args: args},
		func(row pgx.CollectableRow) (t iam.Tenant, err error) {
			var attributes []byte
			if err = row.Scan(&t.ID, &t.Slug, &t.Name, &t.Status, &attributes, &t.Version); err == nil {
				err = decode(attributes, &t.Attributes)
			}
			return t, err
		})
}

func lockTenant(ctx context.Context, tx pgx.Tx, tenant string) error {
	var id string
	err := tx.QueryRow(ctx, `SELECT id FROM tenants WHERE id = $1 FOR NO KEY UPDATE`, tenant).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return iam.Errorf(iam.NotFound, "there is no tenant %q", tenant)
	}
	return err
}

func outOfReach(pointer string) iam.FieldError {
	return iam.FieldError{Pointer: pointer, Detail: "the issuer is not trusted with this tenant"}
}
