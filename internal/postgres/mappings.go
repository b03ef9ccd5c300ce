package postgres

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/iam"
)

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

func (tx *Tx) checkMapping(m iam.Mapping) []iam.FieldError {
	wrong := m.Check()
	if !tx.issuers.Reaches(m.Issuer, m.Tenant) {
		wrong = append(wrong, outOfReach("/issuer"))
	}
	return wrong
}

// DeleteMapping deletes a mapping.
func (tx *Tx) DeleteMapping(ctx context.Context, m iam.Mapping) error {
	_, err := tx.tx.Exec(ctx, `DELETE FROM mappings WHERE tenant = $1 AND issuer = $2 AND claim = $3 AND value = $4`, m.Tenant, m.Issuer, m.Claim, m.Value)
	return wrap("delete a mapping", err)
}

// Mappings lists the mappings of a tenant.
func (tx *Tx) Mappings(ctx context.Context, tenant string) ([]iam.Mapping, error) {
	return collect(ctx, tx, "read mappings", `
		SELECT tenant, issuer, claim, value, roles, version FROM mappings WHERE tenant = $1 ORDER BY issuer, claim, value`, []any{tenant},
		pgx.RowToStructByPos[iam.Mapping])
}
