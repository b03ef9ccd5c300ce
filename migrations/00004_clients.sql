-- +goose Up

-- The desired and the confirmed state of a client in the identity provider, and the operation
-- that leads from one to the other. It is separate from the facts, so its changes are not
-- notified on the change feed. It contains no secret.
CREATE TABLE registrations (
    issuer          text COLLATE "C" NOT NULL,
    client_id       text COLLATE "C" NOT NULL,
    wanted          json NOT NULL,               -- metadata by the names of RFC 7591
    wanted_version  bigint NOT NULL,             -- its iam_version there
    applied         json,                        -- the last confirmed state; null: none yet
    applied_version bigint NOT NULL DEFAULT 0,   -- its iam_version
    before          json,                        -- the announced state before a pending change
    sync            text NOT NULL,
    reason          text NOT NULL DEFAULT '',
    operation       text,                        -- null: none is pending
    operation_id    uuid,
    begun_at        timestamptz NOT NULL DEFAULT now(), -- of the current operation, or of the last one
    lease_until     timestamptz,                 -- until then, only the process that began it works on it
    next_try        timestamptz NOT NULL DEFAULT now(),
    tries           integer NOT NULL DEFAULT 0,
    secret_state    text NOT NULL,
    secrets         bigint NOT NULL DEFAULT 0,   -- number of issued secrets
    overlap_from    timestamptz,                 -- two secrets are valid since then,
    retire_at       timestamptz,                 -- until then
    warned          boolean NOT NULL DEFAULT false,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT registrations_pkey PRIMARY KEY (issuer, client_id),
    CONSTRAINT registrations_client_fkey FOREIGN KEY (issuer, client_id) REFERENCES clients (issuer, client_id) ON DELETE CASCADE,
    CONSTRAINT registrations_sync_known CHECK (sync IN ('in_sync', 'pending', 'failed')),
    CONSTRAINT registrations_operation_known CHECK (operation IN ('create', 'update', 'delete', 'rotate', 'retire')),
    CONSTRAINT registrations_operation_whole CHECK ((operation IS NULL) = (operation_id IS NULL)),
    CONSTRAINT registrations_secret_known CHECK (secret_state IN ('none', 'not_issued', 'issued', 'unknown')),
    CONSTRAINT registrations_overlap_whole CHECK ((overlap_from IS NULL) = (retire_at IS NULL))
);
CREATE INDEX registrations_due_idx ON registrations (next_try) WHERE operation IS NOT NULL;
CREATE INDEX registrations_retire_idx ON registrations (retire_at) WHERE retire_at IS NOT NULL;
CREATE INDEX clients_roles_idx ON clients USING gin (roles);
CREATE INDEX clients_deleted_idx ON clients (updated_at) WHERE status = 'deleted';

-- iam_grant grants what it did, and the new table.
ALTER FUNCTION iam_grant(text) RENAME TO iam_grant_00003;
-- +goose StatementBegin
CREATE FUNCTION iam_grant(to_role text) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM iam_grant_00003(to_role);
    EXECUTE 'GRANT SELECT, INSERT, UPDATE, DELETE ON registrations TO ' || quote_ident(to_role);
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
DROP INDEX clients_deleted_idx;
DROP INDEX clients_roles_idx;
DROP FUNCTION iam_grant(text);
ALTER FUNCTION iam_grant_00003(text) RENAME TO iam_grant;
DROP TABLE registrations;
