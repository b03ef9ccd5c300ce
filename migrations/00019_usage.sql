-- +goose Up

-- The last day (UTC) on which an allowed decision used a membership, a role or a client. A row for each, so the tables
-- grow with the facts and not with time.
CREATE TABLE membership_usage (
    tenant      text COLLATE "C" NOT NULL,
    user_id     uuid NOT NULL,
    last_used   date NOT NULL,
    CONSTRAINT membership_usage_pkey PRIMARY KEY (tenant, user_id),
    CONSTRAINT membership_usage_membership_fkey FOREIGN KEY (user_id, tenant) REFERENCES memberships (user_id, tenant) ON DELETE CASCADE
);

-- Global roles too, so no foreign key: a row of a role that is gone is deleted by the hourly chores.
CREATE TABLE role_usage (
    tenant      text COLLATE "C" NOT NULL,
    role        text COLLATE "C" NOT NULL,
    last_used   date NOT NULL,
    CONSTRAINT role_usage_pkey PRIMARY KEY (tenant, role),
    CONSTRAINT role_usage_tenant_fkey FOREIGN KEY (tenant) REFERENCES tenants (id) ON DELETE CASCADE
);

CREATE TABLE client_usage (
    issuer      text COLLATE "C" NOT NULL,
    client_id   text COLLATE "C" NOT NULL,
    last_used   date NOT NULL,
    CONSTRAINT client_usage_pkey PRIMARY KEY (issuer, client_id),
    CONSTRAINT client_usage_client_fkey FOREIGN KEY (issuer, client_id) REFERENCES clients (issuer, client_id) ON DELETE CASCADE
);

-- The days on which usage was recorded: on other days nothing is known, so nothing is unused by them.
CREATE TABLE usage_days (
    day         date NOT NULL,
    decisions   bigint NOT NULL, -- that were looked at
    dropped     bigint NOT NULL, -- that were not, as far as replicas could count
    roles       boolean NOT NULL, -- decisions named roles (X-User-Roles)
    CONSTRAINT usage_days_pkey PRIMARY KEY (day)
);

-- iam_grant calls it: see step 00015.
-- +goose StatementBegin
CREATE FUNCTION iam_grants_usage(to_role text) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE 'GRANT SELECT, INSERT, UPDATE, DELETE ON membership_usage, role_usage, client_usage, usage_days TO ' || quote_ident(to_role);
END
$$;
-- +goose StatementEnd

-- A role that runs the service already may use the new tables at once.
-- +goose StatementBegin
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION iam_grants_usage(text) SET search_path = %I, pg_temp', current_schema());
    PERFORM iam_grants_usage(grantee) FROM (
        SELECT DISTINCT grantee::text FROM information_schema.role_table_grants
         WHERE table_schema = current_schema() AND table_name = 'clients' AND privilege_type = 'UPDATE' AND grantee NOT IN ('PUBLIC', current_user)) r;
END
$$;
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION iam_grants_usage(text);
DROP TABLE usage_days;
DROP TABLE client_usage;
DROP TABLE role_usage;
DROP TABLE membership_usage;
