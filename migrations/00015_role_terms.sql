-- +goose Up

-- When roles of a membership are in force: role → {"starts_at", "expires_at", "reason"}, RFC 3339 in UTC. The column
-- roles lists every role that is in use, with a term or without.
ALTER TABLE memberships ADD COLUMN role_terms jsonb NOT NULL DEFAULT '{}';

-- The release before this one writes roles and knows no terms: that of a role which it removes goes with it.
-- +goose StatementBegin
CREATE FUNCTION iam_fit_role_terms() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    NEW.role_terms := NEW.role_terms - ARRAY (SELECT k FROM jsonb_object_keys(NEW.role_terms) AS k WHERE k <> ALL (NEW.roles));
    RETURN NEW;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER memberships_role_terms_fit BEFORE INSERT OR UPDATE ON memberships FOR EACH ROW
    WHEN (jsonb_typeof(NEW.role_terms) = 'object' AND NEW.role_terms <> '{}') EXECUTE FUNCTION iam_fit_role_terms();

ALTER TABLE memberships
    ADD CONSTRAINT memberships_role_terms_object CHECK (jsonb_typeof(role_terms) = 'object'),
    ADD CONSTRAINT memberships_role_terms_of_roles CHECK (role_terms - roles = '{}');

-- iam_roles_at returns the roles that are in force at a moment.
-- +goose StatementBegin
CREATE FUNCTION iam_roles_at(roles text[], terms jsonb, at timestamptz) RETURNS text[]
    LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN terms = '{}' THEN roles ELSE ARRAY (
        SELECT r FROM unnest(roles) AS r
         WHERE coalesce((terms -> r ->> 'starts_at')::timestamptz <= at, true)
           AND coalesce((terms -> r ->> 'expires_at')::timestamptz > at, true)) END
$$;
-- +goose StatementEnd

-- iam_ends_at returns when a membership or the first of its roles ends; null: never. It is immutable, as the index
-- needs: a time in UTC with its Z reads the same under all settings of a session.
-- +goose StatementBegin
CREATE FUNCTION iam_ends_at(expires_at timestamptz, terms jsonb) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT least(expires_at, (SELECT min((t.value ->> 'expires_at')::timestamptz) FROM jsonb_each(terms) AS t))
$$;
-- +goose StatementEnd

-- Members whose membership or a role ends soon, by tenant; and roles that have ended or will soon, of all.
CREATE INDEX memberships_ends_idx ON memberships (tenant, iam_ends_at(expires_at, role_terms), user_id)
    WHERE expires_at IS NOT NULL OR role_terms <> '{}';
CREATE INDEX memberships_role_ends_idx ON memberships (iam_ends_at(NULL, role_terms), tenant, user_id) WHERE role_terms <> '{}';

-- Which ends of roles were announced (UserRolesExpiring.v1). Not a part of memberships, whose version must not move.
CREATE TABLE role_end_notices (
    tenant      text COLLATE "C" NOT NULL,
    user_id     uuid NOT NULL,
    role        text COLLATE "C" NOT NULL,
    expires_at  timestamptz NOT NULL,
    noticed_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT role_end_notices_pkey PRIMARY KEY (user_id, tenant, role)
);
CREATE INDEX role_end_notices_expires_idx ON role_end_notices (expires_at);

-- From here on each step has a function iam_grants_<topic>(to_role) for its own tables, and iam_grant calls all that it
-- finds: steps can be applied and rolled back in any order. A role that can create functions in the schema must not have
-- one called by its owner: only those count whose owner could replace iam_grant itself.
ALTER FUNCTION iam_grant(text) RENAME TO iam_grant_before_00015;
-- +goose StatementBegin
CREATE FUNCTION iam_grant(to_role text) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    part text;
BEGIN
    PERFORM iam_grant_before_00015(to_role);
    FOR part IN
        SELECT format('%I.%I', current_schema(), p.proname) FROM pg_proc p, pg_proc own
         WHERE p.pronamespace = current_schema()::regnamespace AND starts_with(p.proname, 'iam_grants_')
           AND pg_get_function_identity_arguments(p.oid) = 'to_role text'
           AND own.oid = 'iam_grant(text)'::regprocedure AND pg_has_role(p.proowner, own.proowner, 'USAGE')
         ORDER BY p.proname COLLATE "C"
    LOOP
        EXECUTE format('SELECT %s($1)', part) USING to_role;
    END LOOP;
END
$$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE FUNCTION iam_grants_role_terms(to_role text) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE 'GRANT SELECT, INSERT, UPDATE, DELETE ON role_end_notices TO ' || quote_ident(to_role);
END
$$;
-- +goose StatementEnd

-- A role that runs the service already may use the new table at once.
-- +goose StatementBegin
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION iam_fit_role_terms() SET search_path = %I, pg_temp', current_schema());
    EXECUTE format('ALTER FUNCTION iam_grant(text) SET search_path = %I, pg_temp', current_schema());
    EXECUTE format('ALTER FUNCTION iam_grants_role_terms(text) SET search_path = %I, pg_temp', current_schema());
    PERFORM iam_grants_role_terms(grantee) FROM (
        SELECT DISTINCT grantee::text FROM information_schema.role_table_grants
         WHERE table_schema = current_schema() AND table_name = 'clients' AND privilege_type = 'UPDATE' AND grantee NOT IN ('PUBLIC', current_user)) r;
END
$$;
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION iam_grants_role_terms(text);
DROP FUNCTION iam_grant(text);
ALTER FUNCTION iam_grant_before_00015(text) RENAME TO iam_grant;
DROP TABLE role_end_notices;
DROP INDEX memberships_role_ends_idx;
DROP INDEX memberships_ends_idx;
DROP FUNCTION iam_ends_at(timestamptz, jsonb);
DROP FUNCTION iam_roles_at(text[], jsonb, timestamptz);
-- A role that is not in force must not become one without an end.
UPDATE memberships SET roles = ARRAY (SELECT r FROM unnest(roles) AS r
        WHERE coalesce((role_terms -> r ->> 'starts_at')::timestamptz <= now(), true) AND role_terms -> r -> 'expires_at' IS NULL),
        version = nextval('iam_versions'), updated_at = now()
 WHERE role_terms <> '{}';
DROP TRIGGER memberships_role_terms_fit ON memberships;
DROP FUNCTION iam_fit_role_terms();
ALTER TABLE memberships DROP COLUMN role_terms;
