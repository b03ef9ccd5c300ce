package postgres

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/iam"
)

// PutMapping is Tx.PutMappings for one mapping, in a transaction of its own.
func (db *DB) PutMapping(ctx context.Context, m iam.Mapping) error {
	return db.Change(ctx, func(ctx context.Context, tx *Tx) error {
		if err := iam.InvalidFields(tx.checkMapping(m)); err != nil {
			return err
		}
		if err := tx.LockRoles(ctx, m.Tenant); err != nil {
			return err
		}
		return iam.Rebase(tx.PutMappings(ctx, m.Tenant, []*iam.Mapping{&m}), "/0", "")
	})
}

// PutMappings creates or replaces mappings of a tenant, from claims of issuers' tokens to roles, and
// sets the new versions. A pointer begins with the index of the mapping, as in /1/roles/0. It needs
// LockRoles.
func (tx *Tx) PutMappings(ctx context.Context, tenant string, puts []*iam.Mapping) error {
	known, err := roleNames(ctx, tx.tx, tenant)
	if err != nil {
		return wrap("put mappings", err)
	}
	type row struct {
		Issuer string   `json:"issuer"`
		Claim  string   `json:"claim"`
		Value  string   `json:"value"`
		Roles  []string `json:"roles"`
	}
	rows := make([]row, len(puts))
	var faults []iam.FieldError
	for i, m := range puts {
		for _, f := range tx.checkMapping(*m) {
			faults = append(faults, iam.FieldError{Pointer: fmt.Sprintf("/%d%s", i, f.Pointer), Detail: f.Detail})
		}
		faults = append(faults, unknownRoles(known, m.Roles, fmt.Sprintf("/%d/roles", i))...)
		rows[i] = row{m.Issuer, m.Claim, m.Value, m.Roles}
	}
	if err := iam.InvalidFields(faults); err != nil {
		return err
	}
	body, err := json.Marshal(rows)
	if err != nil {
		return wrap("put mappings", err)
	}
	written, err := tx.tx.Query(ctx, `
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
	collectVersion := func() error { versions[m.ID()] = m.Version; return nil }
	if _, err := pgx.ForEachRow(written, []any{&m.Issuer, &m.Claim, &m.Value, &m.Version}, collectVersion); err != nil {
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
	faults := m.Check()
	if !tx.issuers.Reaches(m.Issuer, m.Tenant) {
		faults = append(faults, outOfReach("/issuer"))
	}
	return faults
}

// DeleteMapping deletes a mapping.
func (tx *Tx) DeleteMapping(ctx context.Context, m iam.Mapping) error {
	_, err := tx.tx.Exec(ctx, `DELETE FROM mappings WHERE tenant = $1 AND issuer = $2 AND claim = $3 AND value = $4`,
		m.Tenant, m.Issuer, m.Claim, m.Value)
	return wrap("delete a mapping", err)
}

// Mappings lists the mappings of a tenant.
func (tx *Tx) Mappings(ctx context.Context, tenant string) ([]iam.Mapping, error) {
	return collect(ctx, tx, statement{doing: "read mappings", sql: `
		SELECT tenant, issuer, claim, value, roles, version FROM mappings WHERE tenant = $1 ORDER BY issuer, claim, value`, args: []any{tenant}},
		pgx.RowToStructByPos[iam.Mapping])
}
