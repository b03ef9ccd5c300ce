-- +goose Up

-- What a replica reports of its facts. A report without it, by the release before, leaves the columns as they
-- are: facts count where they are of the last report (facts_at = seen_at).
ALTER TABLE policy_replicas ADD COLUMN facts json, ADD COLUMN facts_at timestamptz;

-- The last comparison of all clients with the identity provider, by whichever replica made it. It names no client.
CREATE TABLE client_comparison (
    only_one    boolean NOT NULL DEFAULT true,
    compared_at timestamptz NOT NULL,
    compared    integer NOT NULL,   -- managed clients that are not deleted
    pending     integer NOT NULL,   -- not compared
    others      integer NOT NULL,   -- clients in the identity provider that others manage
    kinds       json NOT NULL,      -- number of differences by kind
    remaining   integer NOT NULL,   -- differences that were not repaired
    stopped     boolean NOT NULL,   -- nothing was repaired: an operator must decide
    CONSTRAINT client_comparison_pkey PRIMARY KEY (only_one),
    CONSTRAINT client_comparison_only_one CHECK (only_one)
);

-- The last operation of a client that is over. One that the release before ends is not recorded.
ALTER TABLE registrations
    ADD COLUMN last_operation   text,
    ADD COLUMN last_outcome     text,
    ADD COLUMN last_reason      text,
    ADD COLUMN last_tries       integer,
    ADD COLUMN last_begun_at    timestamptz,
    ADD COLUMN last_ended_at    timestamptz;
ALTER TABLE registrations
    ADD CONSTRAINT registrations_last_outcome_known CHECK (last_outcome IN ('confirmed', 'failed', 'replaced')),
    ADD CONSTRAINT registrations_last_whole CHECK (
        (last_operation IS NULL) = (last_outcome IS NULL) AND (last_operation IS NULL) = (last_ended_at IS NULL));

-- iam_grant calls it: see step 00015.
-- +goose StatementBegin
CREATE FUNCTION iam_grants_overview(to_role text) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE 'GRANT SELECT, INSERT, UPDATE ON client_comparison TO ' || quote_ident(to_role);
END
$$;
-- +goose StatementEnd

-- A role that runs the service already may use the new table at once.
-- +goose StatementBegin
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION iam_grants_overview(text) SET search_path = %I, pg_temp', current_schema());
    PERFORM iam_grants_overview(grantee) FROM (
        SELECT DISTINCT grantee::text FROM information_schema.role_table_grants
         WHERE table_schema = current_schema() AND table_name = 'clients' AND privilege_type = 'UPDATE' AND grantee NOT IN ('PUBLIC', current_user)) r;
END
$$;
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION iam_grants_overview(text);
ALTER TABLE registrations
    DROP COLUMN last_operation, DROP COLUMN last_outcome, DROP COLUMN last_reason, DROP COLUMN last_tries,
    DROP COLUMN last_begun_at, DROP COLUMN last_ended_at;
DROP TABLE client_comparison;
ALTER TABLE policy_replicas DROP COLUMN facts, DROP COLUMN facts_at;
