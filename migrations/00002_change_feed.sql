-- +goose Up

-- A change of a fact is notified in its transaction:
--
--   channel  iam_directory_<schema>
--   payload  v1 <schema> <kind> <first 16 bytes of the SHA-256 of the key, in hex>
--            v1 <schema> all
--
--   u  the user (issuer, subject), memberships included
--   c  the client (issuer, client_id)
--   t  the tenant (id): itself, its roles, its mappings
--   m  the part of every member's document that depends on the tenant (id)
--   g  the global roles
--
-- A notification contains no names. The hash is over kind, NUL, first part, NUL, second part;
-- the caches use the same keys. The functions have their own search_path (see the end), so
-- that the session that changes a fact does not matter.

-- +goose StatementBegin
DO $$
BEGIN
    IF current_schema() !~ '^[a-z0-9_]{1,49}$' THEN
        RAISE EXCEPTION 'the schema % cannot be used: its name is part of a channel''s, so it must match [a-z0-9_]{1,49}', current_schema();
    END IF;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION iam_fact_hash(kind bytea, a text, b text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT AS $$
    SELECT encode(substr(sha256(kind || '\x00'::bytea || convert_to(a, 'UTF8') || '\x00'::bytea || convert_to(b, 'UTF8')), 1, 16), 'hex')
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION iam_notify(what text) RETURNS void
    LANGUAGE sql AS $$
    SELECT pg_notify('iam_directory_' || current_schema(), 'v1 ' || current_schema() || ' ' || what)
$$;
-- +goose StatementEnd

-- iam_purge clears the caches of every replica. Call it after a restore, or after
-- replication has written facts: neither fires triggers.
-- +goose StatementBegin
CREATE FUNCTION iam_purge() RETURNS void
    LANGUAGE sql AS $$
    SELECT iam_notify('all')
$$;
-- +goose StatementEnd

-- iam_announce notifies each distinct key, or all facts where one statement
-- changed more than 200.
-- +goose StatementBegin
CREATE FUNCTION iam_announce(keys text[]) RETURNS void
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
CREATE FUNCTION iam_changed_tenants() RETURNS trigger
    LANGUAGE plpgsql AS $$
DECLARE
    keys text[];
BEGIN
    -- The rows that were inserted, deleted or are new are "changed"; those that an
    -- update replaced are "before", a table that exists for no other operation: a
    -- statement that is never run is never looked at.
    IF TG_OP = 'INSERT' THEN
        keys := ARRAY (SELECT 't ' || iam_fact_hash('t', id, '') FROM changed LIMIT 201);
    ELSIF TG_OP = 'DELETE' THEN
        keys := ARRAY (SELECT k || iam_fact_hash(convert_to(left(k, 1), 'UTF8'), id, '') FROM changed, unnest(ARRAY ['t ', 'm ']) AS k LIMIT 201);
    ELSE
        keys := ARRAY (
            SELECT 't ' || iam_fact_hash('t', id, '') FROM (SELECT id FROM changed UNION SELECT id FROM before LIMIT 201) r
            -- Members' documents say whether the tenant is open, and nothing else of it.
            UNION ALL
            SELECT 'm ' || iam_fact_hash('m', id, '')
              FROM (SELECT id, status FROM before EXCEPT SELECT id, status FROM changed LIMIT 201) r);
    END IF;
    PERFORM iam_announce(keys);
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION iam_changed_roles() RETURNS trigger
    LANGUAGE plpgsql AS $$
DECLARE
    keys text[];
BEGIN
    IF TG_OP <> 'UPDATE' THEN
        keys := ARRAY (SELECT coalesce('t ' || iam_fact_hash('t', tenant, ''), 'g ' || iam_fact_hash('g', '', '')) FROM (SELECT DISTINCT tenant FROM changed LIMIT 201) r);
    ELSE
        keys := ARRAY (
            SELECT coalesce('t ' || iam_fact_hash('t', tenant, ''), 'g ' || iam_fact_hash('g', '', ''))
              FROM (SELECT tenant FROM changed UNION SELECT tenant FROM before LIMIT 201) r);
    END IF;
    PERFORM iam_announce(keys);
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION iam_changed_mappings() RETURNS trigger
    LANGUAGE plpgsql AS $$
DECLARE
    keys text[];
BEGIN
    IF TG_OP <> 'UPDATE' THEN
        keys := ARRAY (SELECT 't ' || iam_fact_hash('t', tenant, '') FROM (SELECT DISTINCT tenant FROM changed LIMIT 201) r);
    ELSE
        keys := ARRAY (
            SELECT 't ' || iam_fact_hash('t', tenant, '')
              FROM (SELECT tenant FROM changed UNION SELECT tenant FROM before LIMIT 201) r);
    END IF;
    PERFORM iam_announce(keys);
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION iam_changed_users() RETURNS trigger
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

-- A membership is part of its user's document. If very many change at once and all
-- users were members before, their tenants are notified instead. A user who joins has no
-- document that depends on the tenant yet, so each join is notified by its user, or as "all".
-- +goose StatementBegin
CREATE FUNCTION iam_changed_memberships() RETURNS trigger
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
CREATE FUNCTION iam_changed_clients() RETURNS trigger
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
CREATE FUNCTION iam_truncated() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM iam_notify('all');
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY ['tenants', 'roles', 'mappings', 'users', 'memberships', 'clients'] LOOP
        EXECUTE format('CREATE TRIGGER iam_inserted AFTER INSERT ON %I REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION iam_changed_%s()', t, t);
        EXECUTE format('CREATE TRIGGER iam_updated AFTER UPDATE ON %I REFERENCING OLD TABLE AS before NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION iam_changed_%s()', t, t);
        EXECUTE format('CREATE TRIGGER iam_deleted AFTER DELETE ON %I REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION iam_changed_%s()', t, t);
        EXECUTE format('CREATE TRIGGER iam_truncated AFTER TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION iam_truncated()', t);
    END LOOP;
END
$$;
-- +goose StatementEnd

-- The schema of this migration and nothing before it: not the session's search_path,
-- which may lead elsewhere, and not its temporary tables, which come first where
-- they are not named.
-- +goose StatementBegin
DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN SELECT oid FROM pg_proc
              WHERE pronamespace = current_schema()::regnamespace
                AND (proname IN ('iam_notify', 'iam_purge', 'iam_announce', 'iam_truncated') OR proname LIKE 'iam\_changed\_%') LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', f, current_schema());
    END LOOP;
END
$$;
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
DO $$
DECLARE
    t text;
    f text;
BEGIN
    FOREACH t IN ARRAY ARRAY ['tenants', 'roles', 'mappings', 'users', 'memberships', 'clients'] LOOP
        FOREACH f IN ARRAY ARRAY ['inserted', 'updated', 'deleted', 'truncated'] LOOP
            EXECUTE format('DROP TRIGGER iam_%s ON %I', f, t);
        END LOOP;
        EXECUTE format('DROP FUNCTION iam_changed_%s()', t);
    END LOOP;
END
$$;
-- +goose StatementEnd
DROP FUNCTION iam_truncated();
DROP FUNCTION iam_purge();
DROP FUNCTION iam_announce(text[]);
DROP FUNCTION iam_notify(text);
DROP FUNCTION iam_fact_hash(bytea, text, text);
