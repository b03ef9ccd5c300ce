-- +goose Up

-- No action of one tenant invalidates the facts of another: one statement notifies each
-- key that it changed, up to 1,000, which is the largest batch of the admin API. Beyond
-- that it notifies the tenants whose members or clients changed, where every document that
-- it changed depends on one (m); only what is platform-wide notifies "all".
--
-- The transaction also learns what it has notified: the setting iam.changed, a list of
-- "<kind> <hash>" and "all" separated by commas, until the transaction ends. The replica
-- that made the change invalidates exactly that before it answers. Beyond 128 KB, some 3,700
-- keys, the list is "all", so that very many statements of one transaction do not copy a
-- growing list each time. A batch of the admin API has 3,000 keys at most.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION iam_announce(keys text[]) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    known text := coalesce(current_setting('iam.changed', true), '');
BEGIN
    IF cardinality(keys) > 1000 THEN
        keys := ARRAY ['all'];
    END IF;
    keys := array_remove(keys, NULL); -- null: a membership that goes with its user
    IF cardinality(keys) > 0 THEN
        PERFORM pg_notify('iam_directory_' || current_schema(), 'v1 ' || current_schema() || ' ' || k) FROM unnest(keys) AS k;
        IF known <> 'all' THEN
            PERFORM set_config('iam.changed', CASE WHEN length(known) > 131072 THEN 'all' ELSE concat_ws(',', nullif(known, ''), array_to_string(keys, ',')) END, true);
        END IF;
    END IF;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION iam_purge() RETURNS void
    LANGUAGE sql AS $$
    SELECT iam_announce(ARRAY ['all'])
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION iam_truncated() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM iam_announce(ARRAY ['all']);
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- Tenants, roles and mappings are notified by tenant: only the bound changes.
-- +goose StatementBegin
DO $$
DECLARE
    f regprocedure;
BEGIN
    FOREACH f IN ARRAY ARRAY ['iam_changed_tenants()', 'iam_changed_roles()', 'iam_changed_mappings()']::regprocedure[] LOOP
        EXECUTE replace(pg_get_functiondef(f), 'LIMIT 201', 'LIMIT 1001');
    END LOOP;
END
$$;
-- +goose StatementEnd

-- A user document depends on its default tenant too, so that deleting the default tenant of
-- very many users is a change of that tenant.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION iam_changed_users() RETURNS trigger
    LANGUAGE plpgsql AS $$
DECLARE
    keys text[];
BEGIN
    IF TG_OP <> 'UPDATE' THEN
        keys := ARRAY (SELECT 'u ' || iam_fact_hash('u', issuer, subject) FROM changed LIMIT 1001);
    ELSE
        keys := ARRAY (
            SELECT 'u ' || iam_fact_hash('u', issuer, subject)
              FROM (SELECT issuer, subject FROM changed UNION SELECT issuer, subject FROM before LIMIT 1001) r);
        IF cardinality(keys) > 1000
            AND NOT EXISTS (SELECT FROM before WHERE default_tenant IS NULL)
            AND NOT EXISTS (SELECT FROM changed WHERE default_tenant IS NOT NULL)
            AND NOT EXISTS (SELECT id, issuer, subject, status, attributes, platform_roles, tokens_not_before FROM before
                            EXCEPT SELECT id, issuer, subject, status, attributes, platform_roles, tokens_not_before FROM changed) THEN
            keys := ARRAY (SELECT 'm ' || iam_fact_hash('m', default_tenant, '')
                             FROM (SELECT DISTINCT default_tenant FROM before LIMIT 1001) r);
        END IF;
    END IF;
    PERFORM iam_announce(keys);
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION iam_changed_memberships() RETURNS trigger
    LANGUAGE plpgsql AS $$
DECLARE
    keys text[];
BEGIN
    IF TG_OP <> 'UPDATE' THEN
        keys := ARRAY (
            SELECT 'u ' || iam_fact_hash('u', u.issuer, u.subject)
              FROM (SELECT DISTINCT user_id FROM changed LIMIT 1001) r LEFT JOIN users u ON u.id = r.user_id);
        IF TG_OP = 'DELETE' AND cardinality(keys) > 1000 THEN
            keys := ARRAY (SELECT 'm ' || iam_fact_hash('m', tenant, '') FROM (SELECT DISTINCT tenant FROM changed LIMIT 1001) r);
        END IF;
    ELSE
        keys := ARRAY (
            SELECT 'u ' || iam_fact_hash('u', u.issuer, u.subject)
              FROM (SELECT user_id FROM changed UNION SELECT user_id FROM before LIMIT 1001) r LEFT JOIN users u ON u.id = r.user_id);
        IF cardinality(keys) > 1000 AND NOT EXISTS (SELECT user_id, tenant FROM changed EXCEPT SELECT user_id, tenant FROM before) THEN
            keys := ARRAY (SELECT 'm ' || iam_fact_hash('m', tenant, '') FROM (SELECT DISTINCT tenant FROM before LIMIT 1001) r);
        END IF;
    END IF;
    PERFORM iam_announce(keys);
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- A client document depends on its tenant, as members' documents do.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION iam_changed_clients() RETURNS trigger
    LANGUAGE plpgsql AS $$
DECLARE
    keys text[];
BEGIN
    IF TG_OP <> 'UPDATE' THEN
        keys := ARRAY (SELECT 'c ' || iam_fact_hash('c', issuer, client_id) FROM changed LIMIT 1001);
        IF TG_OP = 'DELETE' AND cardinality(keys) > 1000 AND NOT EXISTS (SELECT FROM changed WHERE tenant IS NULL) THEN
            keys := ARRAY (SELECT 'm ' || iam_fact_hash('m', tenant, '') FROM (SELECT DISTINCT tenant FROM changed LIMIT 1001) r);
        END IF;
    ELSE
        keys := ARRAY (
            SELECT 'c ' || iam_fact_hash('c', issuer, client_id)
              FROM (SELECT issuer, client_id FROM changed UNION SELECT issuer, client_id FROM before LIMIT 1001) r);
        IF cardinality(keys) > 1000
            AND NOT EXISTS (SELECT FROM before WHERE tenant IS NULL)
            AND NOT EXISTS (SELECT issuer, client_id FROM changed EXCEPT SELECT issuer, client_id FROM before) THEN
            keys := ARRAY (SELECT 'm ' || iam_fact_hash('m', tenant, '') FROM (SELECT DISTINCT tenant FROM before LIMIT 1001) r);
        END IF;
    END IF;
    PERFORM iam_announce(keys);
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- What a tenant takes up of what is shared. Written under the tenant's lock.
CREATE TABLE tenant_usage (
    tenant      text COLLATE "C" NOT NULL,
    members     bigint NOT NULL,                    -- at most: removals are not subtracted until it is counted again
    joins       bigint NOT NULL DEFAULT 0,          -- members that its own administrators have added
    joins_since timestamptz NOT NULL DEFAULT now(), -- in the day that began then
    CONSTRAINT tenant_usage_pkey PRIMARY KEY (tenant)
);

-- One row that is written to find out whether writes succeed.
CREATE TABLE write_probe (
    only_one    boolean NOT NULL DEFAULT true,
    at          timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT write_probe_pkey PRIMARY KEY (only_one),
    CONSTRAINT write_probe_only_one CHECK (only_one)
);
INSERT INTO write_probe DEFAULT VALUES;

-- iam_audit_partitions creates the partitions of this month and the three after it, and of
-- each month of which entries are in the default partition, which it moves. Whoever reads or
-- writes the audit waits behind it for its lock, so it waits for a second only.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION iam_audit_partitions() RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET lock_timeout = '1s' AS $$
DECLARE
    month timestamp;
    made  integer := 0;
    name  text;
    low   text;
    high  text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('iam audit partitions ' || current_schema(), 0));
    IF EXISTS (SELECT FROM audit_default) THEN
        LOCK TABLE audit_default IN ACCESS EXCLUSIVE MODE; -- whoever is just writing there goes first
    END IF;
    FOR month IN
        SELECT date_trunc('month', now() AT TIME ZONE 'UTC') + i * interval '1 month' FROM generate_series(0, 3) i
        UNION SELECT DISTINCT date_trunc('month', at AT TIME ZONE 'UTC') FROM audit_default ORDER BY 1
    LOOP
        name := 'audit_' || to_char(month, 'YYYY_MM');
        CONTINUE WHEN to_regclass(format('%I.%I', current_schema(), name)) IS NOT NULL;
        low := to_char(month, 'YYYY-MM-DD') || ' 00:00:00+00';
        high := to_char(month + interval '1 month', 'YYYY-MM-DD') || ' 00:00:00+00';
        EXECUTE format('CREATE TABLE %I (LIKE audit INCLUDING ALL)', name);
        EXECUTE format('WITH moved AS (DELETE FROM audit_default WHERE at >= %L AND at < %L RETURNING *) INSERT INTO %I SELECT * FROM moved', low, high, name);
        EXECUTE format('ALTER TABLE audit ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name, low, high);
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;
-- +goose StatementEnd

ALTER FUNCTION iam_grant(text) RENAME TO iam_grant_before_00008;
-- +goose StatementBegin
CREATE FUNCTION iam_grant(to_role text) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    r text := quote_ident(to_role);
BEGIN
    PERFORM iam_grant_before_00008(to_role);
    EXECUTE 'GRANT SELECT, INSERT, UPDATE, DELETE ON tenant_usage TO ' || r;
    EXECUTE 'GRANT SELECT, UPDATE ON write_probe TO ' || r;
END
$$;
-- +goose StatementEnd

-- As in the steps before: nothing but this schema. A role that runs the service already may
-- use the new tables at once.
-- +goose StatementBegin
DO $$
DECLARE
    f regprocedure;
BEGIN
    FOREACH f IN ARRAY ARRAY ['iam_announce(text[])', 'iam_purge()', 'iam_truncated()', 'iam_changed_users()', 'iam_changed_memberships()',
                              'iam_changed_clients()', 'iam_audit_partitions()', 'iam_grant(text)']::regprocedure[] LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', f, current_schema());
    END LOOP;
    PERFORM iam_grant(grantee) FROM (
        SELECT DISTINCT grantee::text FROM information_schema.role_table_grants
         WHERE table_schema = current_schema() AND table_name = 'clients' AND privilege_type = 'UPDATE' AND grantee NOT IN ('PUBLIC', current_user)) r;
END
$$;
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION iam_grant(text);
ALTER FUNCTION iam_grant_before_00008(text) RENAME TO iam_grant;
DROP TABLE write_probe;
DROP TABLE tenant_usage;

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION iam_announce(keys text[]) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    IF cardinality(keys) > 200 THEN
        PERFORM iam_notify('all');
    ELSE
        PERFORM iam_notify(k) FROM unnest(keys) AS k WHERE k IS NOT NULL; -- null: a membership that goes with its user
    END IF;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION iam_purge() RETURNS void
    LANGUAGE sql AS $$
    SELECT iam_notify('all')
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION iam_truncated() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM iam_notify('all');
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION iam_changed_users() RETURNS trigger
    LANGUAGE plpgsql AS $$
DECLARE
    keys text[];
BEGIN
    IF TG_OP <> 'UPDATE' THEN
        keys := ARRAY (SELECT 'u ' || iam_fact_hash('u', issuer, subject) FROM changed LIMIT 201);
    ELSE
        keys := ARRAY (
            SELECT 'u ' || iam_fact_hash('u', issuer, subject)
              FROM (SELECT issuer, subject FROM changed UNION SELECT issuer, subject FROM before LIMIT 201) r);
    END IF;
    PERFORM iam_announce(keys);
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION iam_changed_memberships() RETURNS trigger
    LANGUAGE plpgsql AS $$
DECLARE
    keys text[];
BEGIN
    IF TG_OP <> 'UPDATE' THEN
        keys := ARRAY (
            SELECT 'u ' || iam_fact_hash('u', u.issuer, u.subject)
              FROM (SELECT DISTINCT user_id FROM changed LIMIT 201) r LEFT JOIN users u ON u.id = r.user_id);
        IF TG_OP = 'DELETE' AND cardinality(keys) > 200 THEN
            keys := ARRAY (SELECT 'm ' || iam_fact_hash('m', tenant, '') FROM (SELECT DISTINCT tenant FROM changed LIMIT 201) r);
        END IF;
    ELSE
        keys := ARRAY (
            SELECT 'u ' || iam_fact_hash('u', u.issuer, u.subject)
              FROM (SELECT user_id FROM changed UNION SELECT user_id FROM before LIMIT 201) r LEFT JOIN users u ON u.id = r.user_id);
        IF cardinality(keys) > 200 AND NOT EXISTS (SELECT user_id, tenant FROM changed EXCEPT SELECT user_id, tenant FROM before) THEN
            keys := ARRAY (SELECT 'm ' || iam_fact_hash('m', tenant, '') FROM (SELECT DISTINCT tenant FROM before LIMIT 201) r);
        END IF;
    END IF;
    PERFORM iam_announce(keys);
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION iam_changed_clients() RETURNS trigger
    LANGUAGE plpgsql AS $$
DECLARE
    keys text[];
BEGIN
    IF TG_OP <> 'UPDATE' THEN
        keys := ARRAY (SELECT 'c ' || iam_fact_hash('c', issuer, client_id) FROM changed LIMIT 201);
    ELSE
        keys := ARRAY (
            SELECT 'c ' || iam_fact_hash('c', issuer, client_id)
              FROM (SELECT issuer, client_id FROM changed UNION SELECT issuer, client_id FROM before LIMIT 201) r);
    END IF;
    PERFORM iam_announce(keys);
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION iam_audit_partitions() RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    month timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
    made  integer := 0;
    name  text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('iam audit partitions ' || current_schema(), 0));
    FOR i IN 0..3 LOOP
        name := 'audit_' || to_char(month, 'YYYY_MM');
        IF to_regclass(format('%I.%I', current_schema(), name)) IS NULL AND NOT EXISTS (
            SELECT FROM audit_default WHERE at >= month AT TIME ZONE 'UTC' AND at < (month + interval '1 month') AT TIME ZONE 'UTC') THEN
            EXECUTE format('CREATE TABLE %I PARTITION OF audit FOR VALUES FROM (%L) TO (%L)',
                name, to_char(month, 'YYYY-MM-DD') || ' 00:00:00+00', to_char(month + interval '1 month', 'YYYY-MM-DD') || ' 00:00:00+00');
            made := made + 1;
        END IF;
        month := month + interval '1 month';
    END LOOP;
    RETURN made;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
DO $$
DECLARE
    f regprocedure;
BEGIN
    FOREACH f IN ARRAY ARRAY ['iam_changed_tenants()', 'iam_changed_roles()', 'iam_changed_mappings()']::regprocedure[] LOOP
        EXECUTE replace(pg_get_functiondef(f), 'LIMIT 1001', 'LIMIT 201');
    END LOOP;
    FOREACH f IN ARRAY ARRAY ['iam_announce(text[])', 'iam_purge()', 'iam_truncated()', 'iam_changed_users()', 'iam_changed_memberships()',
                              'iam_changed_clients()', 'iam_audit_partitions()']::regprocedure[] LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', f, current_schema());
    END LOOP;
END
$$;
-- +goose StatementEnd
