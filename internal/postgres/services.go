package postgres

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/iam"
)

// PutService creates or replaces a service with its manifest and attribute schemas, and returns the
// new version. It needs LockRoles of the global roles.
func (tx *Tx) PutService(
	ctx context.Context, s iam.Service, manifest json.RawMessage, attributes []iam.AttributeSchema,
) (version int64, err error) {
	err = tx.tx.QueryRow(ctx, `
		INSERT INTO services AS s (name, issuer, client_id) VALUES ($1, nullif($2, ''), nullif($3, ''))
		ON CONFLICT ON CONSTRAINT services_pkey DO UPDATE
		   SET issuer = excluded.issuer, client_id = excluded.client_id, version = s.version + 1, updated_at = now()
		RETURNING version`, s.Name, s.Issuer, s.ClientID).Scan(&version)
	if err != nil {
		return 0, wrap("put a service", err)
	}
	_, err = tx.tx.Exec(ctx, `INSERT INTO manifests (service, version, manifest) VALUES ($1, $2, $3)`, s.Name, version, manifest)
	if err != nil {
		return 0, wrap("store a manifest", err)
	}
	keys := make([]string, 0, len(attributes))
	for _, a := range attributes {
		keys = append(keys, a.Key)
		var owner string
		err := tx.tx.QueryRow(ctx, `
			INSERT INTO attribute_schemas AS a (key, service, type, description) VALUES ($1, $2, $3, $4)
			ON CONFLICT ON CONSTRAINT attribute_schemas_pkey DO UPDATE
			   SET type = CASE WHEN a.service = excluded.service THEN excluded.type ELSE a.type END,
			       description = CASE WHEN a.service = excluded.service THEN excluded.description ELSE a.description END
			RETURNING service`, a.Key, s.Name, a.Type, a.Description).Scan(&owner)
		if err != nil {
			return 0, wrap("put an attribute schema", err)
		}
		if owner != s.Name {
			return 0, iam.Errorf(iam.Conflict, "the attribute %q is declared by the service %q", a.Key, owner)
		}
	}
	_, err = tx.tx.Exec(ctx, `DELETE FROM attribute_schemas WHERE service = $1 AND key <> ALL ($2)`, s.Name, keys)
	return version, wrap("delete attribute schemas", err)
}

// Services lists all services by name.
func (tx *Tx) Services(ctx context.Context, after string, limit int) ([]iam.Service, error) {
	var w where
	w.only("name > $%d", after)
	tail := w.sql("name", limit)
	return collect(ctx, tx, statement{doing: "read services", sql: `SELECT name, coalesce(issuer, ''), coalesce(client_id, ''), version FROM services` + tail, args: w.args},
		pgx.RowToStructByPos[iam.Service])
}

// ServiceByName returns one service, and whether it exists.
func (tx *Tx) ServiceByName(ctx context.Context, name string) (s iam.Service, found bool, err error) {
	found, err = tx.look(ctx, `SELECT name, coalesce(issuer, ''), coalesce(client_id, ''), version FROM services WHERE name = $1`,
		[]any{name}, &s.Name, &s.Issuer, &s.ClientID, &s.Version)
	return s, found, wrap("read a service", err)
}

// ManifestOf returns the manifest of a version of a service, byte by byte as it was submitted, and
// whether that version exists.
func (tx *Tx) ManifestOf(ctx context.Context, service string, version int64) (body json.RawMessage, found bool, err error) {
	found, err = tx.look(ctx, `SELECT manifest FROM manifests WHERE service = $1 AND version = $2`, []any{service, version}, &body)
	return body, found, wrap("read a manifest", err)
}

// AttributeSchemas returns all declared attributes by key.
func (tx *Tx) AttributeSchemas(ctx context.Context) (map[string]iam.AttributeSchema, error) {
	list, err := collect(ctx, tx, statement{doing: "read attribute schemas", sql: `SELECT key, service, type, description FROM attribute_schemas`},
		pgx.RowToStructByPos[iam.AttributeSchema])
	byKey := make(map[string]iam.AttributeSchema, len(list))
	for _, a := range list {
		byKey[a.Key] = a
	}
	return byKey, err
}

// AttributeUse counts the rows that have an attribute.
type AttributeUse struct{ Users, Tenants, Members int }

// AttributeUse counts who has an attribute; with notOfType, only values of another type count.
func (tx *Tx) AttributeUse(ctx context.Context, key, notOfType string) (u AttributeUse, err error) {
	fits := map[string]string{
		"":        `false`,
		"string":  `jsonb_typeof(attributes -> $1) = 'string'`,
		"boolean": `jsonb_typeof(attributes -> $1) = 'boolean'`,
		"number":  `jsonb_typeof(attributes -> $1) = 'number'`,
		"integer": `jsonb_typeof(attributes -> $1) = 'number' AND (attributes ->> $1) ~ '^-?[0-9]+$'`,
		"string[]": `jsonb_typeof(attributes -> $1) = 'array'
			AND NOT jsonb_path_exists(attributes -> $1, '$[*] ? (@.type() <> "string")')`,
	}[notOfType]
	if fits == "" {
		return u, errors.New("unknown type of attribute " + notOfType)
	}
	count := func(table string) string {
		return `(SELECT count(*) FROM ` + table + ` WHERE attributes ? $1 AND NOT (` + fits + `))`
	}
	_, err = tx.look(ctx, `SELECT `+count("users")+`, `+count("tenants")+`, `+count("memberships"), []any{key}, &u.Users, &u.Tenants, &u.Members)
	return u, wrap("count the uses of an attribute", err)
}
