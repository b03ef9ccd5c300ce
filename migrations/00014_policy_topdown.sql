-- +goose Up

-- Revisions about which the policy machine of one version of the program disagreed with OPA's interpreter
-- (topdown): the interpreter evaluates them on all replicas of that version. A later version may have the
-- fault corrected, and tries again.
CREATE TABLE policy_topdown (
    digest      text COLLATE "C" NOT NULL,
    version     text NOT NULL,              -- of the program
    replica     text NOT NULL,              -- which found it
    at          timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT policy_topdown_pkey PRIMARY KEY (digest, version),
    CONSTRAINT policy_topdown_digest_shape CHECK (digest ~ '^[0-9a-f]{64}$')
);
CREATE TRIGGER policy_topdown_told AFTER INSERT ON policy_topdown FOR EACH STATEMENT EXECUTE FUNCTION iam_changed_policy();

ALTER FUNCTION iam_grant(text) RENAME TO iam_grant_before_00014;
-- +goose StatementBegin
CREATE FUNCTION iam_grant(to_role text) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM iam_grant_before_00014(to_role);
    EXECUTE 'GRANT SELECT, INSERT ON policy_topdown TO ' || quote_ident(to_role);
END
$$;
-- +goose StatementEnd

-- A role that runs the service already may use the new table at once.
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
ALTER FUNCTION iam_grant_before_00014(text) RENAME TO iam_grant;
DROP TABLE policy_topdown;
