package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

// Rights are what the role of the connection can do, compared with what the service needs.
type Rights struct {
	Role    string
	Missing []string // privileges that the service needs
	Excess  []string // what a role of the service should not be able to do
}

// needed are the privileges that iam_grant grants (migrations), by tables.
var needed = []struct{ privileges, tables []string }{
	{[]string{"SELECT"}, []string{"goose_db_version", "instance", "audit_cuts", "audit_default"}},
	{[]string{"SELECT", "INSERT", "UPDATE", "DELETE"}, []string{
		"tenants", "roles", "users", "memberships", "mappings", "clients", "issuer_keys", "services", "attribute_schemas", "outbox", "idempotency",
		"registrations", "policy_replicas", "tenant_usage", "assertion_keys",
	}},
	{[]string{"SELECT", "INSERT"}, []string{"manifests", "retired_tenants", "audit", "policy_revisions", "policy_activations", "policy_topdown"}},
	{[]string{"SELECT", "INSERT", "UPDATE"}, []string{"audit_heads", "policy_previews"}},
	{[]string{"SELECT", "UPDATE"}, []string{"relay", "policy_shadow", "write_probe", "assertion_key_set"}},
}

// Rights compares the rights of the role that DATABASE_URL names with what iam_grant grants.
func (db *DB) Rights(ctx context.Context) (r Rights, err error) {
	var tables, privileges []string
	for _, n := range needed {
		for _, table := range n.tables {
			for _, privilege := range n.privileges {
				tables, privileges = append(tables, table), append(privileges, privilege)
			}
		}
	}
	err = db.admin.QueryRow(ctx, `SELECT current_user::text`).Scan(&r.Role)
	if err != nil {
		return r, wrap("read the rights", err)
	}
	r.Missing, err = db.ids(ctx, "read the rights", `
		SELECT privilege || ' on ' || t FROM unnest($1::text[], $2::text[]) AS n (t, privilege)
		 WHERE to_regclass(quote_ident(t)) IS NULL OR NOT has_table_privilege(to_regclass(quote_ident(t)), privilege)
		 UNION ALL
		SELECT 'USAGE on schema ' || current_schema() WHERE NOT has_schema_privilege(current_schema(), 'USAGE')
		 UNION ALL
		SELECT 'USAGE on sequence iam_versions' WHERE NOT has_sequence_privilege('iam_versions', 'USAGE')
		 UNION ALL
		SELECT 'UPDATE of ' || c || ' on policy_revisions' FROM unnest(ARRAY['bundle', 'verified', 'wanted_at']) AS c
		 WHERE NOT has_column_privilege('policy_revisions', c, 'UPDATE')
		 UNION ALL
		SELECT 'EXECUTE on iam_audit_partitions()' WHERE NOT has_function_privilege('iam_audit_partitions()', 'EXECUTE')`, tables, privileges)
	if err != nil {
		return r, err
	}
	r.Excess, err = db.ids(ctx, "read the rights", `
		SELECT 'is a superuser' FROM pg_roles WHERE rolname = current_user AND rolsuper
		 UNION ALL
		SELECT 'can create roles' FROM pg_roles WHERE rolname = current_user AND rolcreaterole AND NOT rolsuper
		 UNION ALL
		SELECT 'owns tables of the schema' WHERE EXISTS (SELECT FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p')
		          AND pg_has_role(current_user, relowner, 'USAGE'))
		 UNION ALL
		SELECT 'can create tables in the schema' WHERE has_schema_privilege(current_schema(), 'CREATE')
		 UNION ALL
		SELECT 'can ' || p || ' the audit' FROM unnest(ARRAY['UPDATE', 'DELETE', 'TRUNCATE']) AS p WHERE has_table_privilege('audit', p)`)
	return r, err
}

// DryWrite is CheckWrites in a transaction that is rolled back.
func (db *DB) DryWrite(ctx context.Context) error {
	undone := errors.New("rolled back")
	err := pgx.BeginFunc(ctx, db.admin, func(tx pgx.Tx) error {
		if err := probeWrite(ctx, tx); err != nil {
			return err
		}
		return undone
	})
	if errors.Is(err, undone) {
		return nil
	}
	return wrap("test a write", err)
}

// Clock is how far the database's clock is ahead of ours, give or take half of the time that the query took.
func (db *DB) Clock(ctx context.Context) (ahead, within time.Duration, err error) {
	began := time.Now()
	var theirs time.Time
	if err := db.admin.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&theirs); err != nil {
		return 0, 0, wrap("read the clock", err)
	}
	took := time.Since(began)
	return theirs.Sub(began.Add(took / 2)), took / 2, nil
}
