-- +goose Up

-- Who can ask for a role, for how long, and whether an administrator approves: {"by", "approval", "max_seconds"}; null: no one.
ALTER TABLE roles
    ADD COLUMN request jsonb,
    ADD CONSTRAINT roles_request_object CHECK (jsonb_typeof(request) = 'object');

-- Requests of members for a role, for a time.
CREATE TABLE role_requests (
    seq             bigint GENERATED ALWAYS AS IDENTITY, -- the order of lists
    id              uuid NOT NULL DEFAULT gen_random_uuid(),
    tenant          text COLLATE "C" NOT NULL,
    user_id         uuid NOT NULL,
    role            text COLLATE "C" NOT NULL,
    seconds         bigint NOT NULL,
    reason          text NOT NULL,
    approval        text NOT NULL,
    grants          bytea NOT NULL, -- SHA-256 of what the role granted when it was asked for
    status          text NOT NULL DEFAULT 'pending',
    created_at      timestamptz NOT NULL DEFAULT now(),
    decide_by       timestamptz NOT NULL,
    decided_at      timestamptz,
    decider_kind    text NOT NULL DEFAULT '',
    decider         text NOT NULL DEFAULT '',
    decision        text NOT NULL DEFAULT '', -- its reason
    expires_at      timestamptz, -- of the role that was granted
    version         bigint NOT NULL DEFAULT nextval('iam_versions'),
    CONSTRAINT role_requests_pkey PRIMARY KEY (id),
    CONSTRAINT role_requests_tenant_fkey FOREIGN KEY (tenant) REFERENCES tenants (id) ON DELETE CASCADE,
    CONSTRAINT role_requests_user_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT role_requests_status_known CHECK (status IN ('pending', 'approved', 'rejected', 'cancelled', 'expired')),
    CONSTRAINT role_requests_approval_known CHECK (approval IN ('required', 'break_glass')),
    CONSTRAINT role_requests_sizes CHECK (seconds BETWEEN 60 AND 31536000 AND octet_length(reason) BETWEEN 1 AND 500 AND octet_length(decision) <= 500)
);
CREATE UNIQUE INDEX role_requests_pending_key ON role_requests (tenant, user_id, role) WHERE status = 'pending';
CREATE INDEX role_requests_tenant_idx ON role_requests (tenant, seq);
CREATE INDEX role_requests_user_idx ON role_requests (user_id, tenant, seq);
CREATE INDEX role_requests_due_idx ON role_requests (decide_by) WHERE status = 'pending';

-- iam_grant calls it: see step 00015.
-- +goose StatementBegin
CREATE FUNCTION iam_grants_role_requests(to_role text) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE 'GRANT SELECT, INSERT, UPDATE ON role_requests TO ' || quote_ident(to_role);
END
$$;
-- +goose StatementEnd

-- A role that runs the service already may use the new table at once.
-- +goose StatementBegin
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION iam_grants_role_requests(text) SET search_path = %I, pg_temp', current_schema());
    PERFORM iam_grants_role_requests(grantee) FROM (
        SELECT DISTINCT grantee::text FROM information_schema.role_table_grants
         WHERE table_schema = current_schema() AND table_name = 'clients' AND privilege_type = 'UPDATE' AND grantee NOT IN ('PUBLIC', current_user)) r;
END
$$;
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION iam_grants_role_requests(text);
DROP TABLE role_requests;
ALTER TABLE roles DROP COLUMN request;
