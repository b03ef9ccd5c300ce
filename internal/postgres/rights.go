package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Rights are what the role of the connection can do, compared with what the service needs.
type Rights struct {
	Role    string
	Missing []string // privileges that the service needs
	Excess  []string // what a role of the service should not be able to do
}

// needed are the privileges that iam_grant grants (migrations), by tables.
var needed = []struct{ privileges, tables []string }{
	{[]string{"SELECT"}, []string{"goose_db_version", "instance", "audit_cuts", "audit_default", "membership_roles"}},
	{[]string{"SELECT", "INSERT", "UPDATE", "DELETE"}, []string{
		"tenants", "roles", "users", "memberships", "mappings", "clients", "issuer_keys", "services", "attribute_schemas", "outbox", "idempotency",
		"registrations", "policy_replicas", "tenant_usage", "assertion_keys", "membership_usage", "role_usage", "client_usage", "usage_days", "role_end_notices", "scim_users", "scim_groups", "scim_group_members", "console_sessions",
	}},
	{[]string{"SELECT", "INSERT"}, []string{"manifests", "retired_tenants", "audit", "policy_revisions", "policy_activations", "policy_topdown"}},
	{[]string{"SELECT", "INSERT", "UPDATE"}, []string{"audit_heads", "policy_previews", "role_requests", "signal_streams", "signal_accounts", "client_comparison"}},
	{[]string{"SELECT", "INSERT", "DELETE"}, []string{"signals"}},
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

// ErrUntracked means that a pooler hands the connections of the server from one transaction to the next and does not track
// prepared statements: those of one client are missing, or those of another in the way.
var ErrUntracked = errors.New("a pooler in transaction mode does not track prepared statements")

// CheckPrepared prepares statements of the same name over two connections of the admin pool, and runs them. It returns
// ErrUntracked where the two connections are one session at times.
func (db *DB) CheckPrepared(ctx context.Context) error {
	var conns [2]*pgxpool.Conn
	for i := range conns {
		var err error
		if conns[i], err = db.admin.Acquire(ctx); err != nil {
			return wrap("open a connection", err)
		}
		defer conns[i].Release()
	}
	prefix := "iam_check_" + rand.Text()
	defer func() {
		for _, c := range conns {
			_ = c.Conn().Close(context.WithoutCancel(ctx)) // with its statements; the pool opens another one
		}
	}()
	for i := range 8 { // poolers choose the server's connection by rules of their own
		name := prefix + strconv.Itoa(i)
		for _, c := range conns {
			if _, err := c.Conn().Prepare(ctx, name, `SELECT 1`); err != nil {
				return untracked(err)
			}
		}
		for _, c := range conns {
			if _, err := c.Exec(ctx, name); err != nil {
				return untracked(err)
			}
		}
	}
	return nil
}

// untracked distinguishes ErrUntracked from other failures by duplicate_prepared_statement and invalid_sql_statement_name.
func untracked(err error) error {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && (pg.Code == "42P05" || pg.Code == "26000") {
		return fmt.Errorf("%w: %s", ErrUntracked, pg.Message)
	}
	return wrap("prepare a statement", err)
}
