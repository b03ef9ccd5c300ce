-- +goose Up

-- What the identity provider should know of a client that we made there, what it has
-- confirmed, and what is under way between the two. It is apart from the facts: who
-- listens for changes of facts hears nothing of it. No secret stands here.
CREATE TABLE registrations (
    issuer          text COLLATE "C" NOT NULL,
    client_id       text COLLATE "C" NOT NULL,
    wanted          json NOT NULL,               -- metadata by the names of RFC 7591
    wanted_version  bigint NOT NULL,             -- as it is marked there
    applied         json,                        -- what was confirmed last; null: nothing yet
    applied_version bigint NOT NULL DEFAULT 0,   -- its mark
    before          json,                        -- what was told of it before a change that is pending
    sync            text NOT NULL,
    reason          text NOT NULL DEFAULT '',
    operation       text,                        -- null: none is under way
    operation_id    uuid,
    begun_at        timestamptz NOT NULL DEFAULT now(), -- the operation, or the one before
    lease_until     timestamptz,                 -- until when whoever began it may be at it
    next_try        timestamptz NOT NULL DEFAULT now(),
    tries           integer NOT NULL DEFAULT 0,
    secret_state    text NOT NULL,
    secrets         bigint NOT NULL DEFAULT 0,   -- how many were issued
    overlap_from    timestamptz,                 -- while two secrets work: since when,
    retire_at       timestamptz,                 -- and until when
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

-- As before, and the new table.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION iam_grant(to_role text) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    r text := quote_ident(to_role);
BEGIN
    EXECUTE 'GRANT USAGE ON SCHEMA ' || quote_ident(current_schema()) || ' TO ' || r;
    EXECUTE 'GRANT SELECT ON goose_db_version, instance TO ' || r;
    EXECUTE 'GRANT SELECT, INSERT, UPDATE, DELETE ON tenants, roles, users, memberships, mappings, clients, registrations, issuer_keys, '
         || 'services, attribute_schemas, outbox, idempotency TO ' || r;
    EXECUTE 'GRANT USAGE ON SEQUENCE iam_versions TO ' || r;
    EXECUTE 'GRANT SELECT, INSERT ON manifests, retired_tenants, audit TO ' || r;
    EXECUTE 'GRANT SELECT, INSERT, UPDATE ON audit_heads TO ' || r;
    EXECUTE 'GRANT SELECT ON audit_cuts TO ' || r;
    EXECUTE 'GRANT SELECT, UPDATE ON relay TO ' || r;
    EXECUTE 'GRANT EXECUTE ON FUNCTION iam_audit_partitions() TO ' || r;
END
$$;
-- +goose StatementEnd

-- A role that runs the service already may use the new table at once.
-- +goose StatementBegin
DO $$
DECLARE
    r text;
BEGIN
    EXECUTE format('ALTER FUNCTION iam_grant(text) SET search_path = %I, pg_temp', current_schema());
    FOR r IN SELECT DISTINCT grantee FROM information_schema.role_table_grants
              WHERE table_schema = current_schema() AND table_name = 'clients' AND privilege_type = 'UPDATE' AND grantee NOT IN ('PUBLIC', current_user) LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON registrations TO %I', r);
    END LOOP;
END
$$;
-- +goose StatementEnd

-- +goose Down
DROP INDEX clients_deleted_idx;
DROP INDEX clients_roles_idx;
DROP TABLE registrations;
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION iam_grant(to_role text) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    r text := quote_ident(to_role);
BEGIN
    EXECUTE 'GRANT USAGE ON SCHEMA ' || quote_ident(current_schema()) || ' TO ' || r;
    EXECUTE 'GRANT SELECT ON goose_db_version, instance TO ' || r;
    EXECUTE 'GRANT SELECT, INSERT, UPDATE, DELETE ON tenants, roles, users, memberships, mappings, clients, issuer_keys, '
         || 'services, attribute_schemas, outbox, idempotency TO ' || r;
    EXECUTE 'GRANT USAGE ON SEQUENCE iam_versions TO ' || r;
    EXECUTE 'GRANT SELECT, INSERT ON manifests, retired_tenants, audit TO ' || r;
    EXECUTE 'GRANT SELECT, INSERT, UPDATE ON audit_heads TO ' || r;
    EXECUTE 'GRANT SELECT ON audit_cuts TO ' || r;
    EXECUTE 'GRANT SELECT, UPDATE ON relay TO ' || r;
    EXECUTE 'GRANT EXECUTE ON FUNCTION iam_audit_partitions() TO ' || r;
END
$$;
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION iam_grant(text) SET search_path = %I, pg_temp', current_schema());
END
$$;
-- +goose StatementEnd
