-- +goose Up

-- The service counts the entries in the default partition of the audit.
ALTER FUNCTION iam_grant(text) RENAME TO iam_grant_before_00010;
-- +goose StatementBegin
CREATE FUNCTION iam_grant(to_role text) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM iam_grant_before_00010(to_role);
    EXECUTE 'GRANT SELECT ON audit_default TO ' || quote_ident(to_role);
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION iam_grant(text) SET search_path = %I, pg_temp', current_schema());
    PERFORM iam_grant(grantee) FROM (
        SELECT DISTINCT grantee::text FROM information_schema.role_table_grants
         WHERE table_schema = current_schema() AND table_name = 'clients' AND privilege_type = 'UPDATE' AND grantee NOT IN ('PUBLIC', current_user)) r;
END
$$;
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION iam_grant(text);
ALTER FUNCTION iam_grant_before_00010(text) RENAME TO iam_grant;
