-- +goose Up

-- Instances of the release before write memberships meanwhile: what they commit between the first fill and the triggers
-- would never be in membership_roles. They read on, and their writes wait until this migration commits.
LOCK TABLE memberships IN SHARE ROW EXCLUSIVE MODE;

-- The roles of memberships, a row for each, for questions about who holds a role: a page of them is a range of the
-- primary key, however many members the tenant has. A GIN index over memberships.roles would cost less to write, but
-- returns no order, and the planner misses it where many roles are asked for that few members hold.
-- Triggers maintain it, so it holds what memberships.roles lists: roles that are not in force too.
CREATE TABLE membership_roles (
    tenant      text COLLATE "C" NOT NULL,
    role        text COLLATE "C" NOT NULL,
    user_id     uuid NOT NULL,
    CONSTRAINT membership_roles_pkey PRIMARY KEY (tenant, role, user_id)
);
INSERT INTO membership_roles (tenant, role, user_id) SELECT DISTINCT tenant, r, user_id FROM memberships, unnest(roles) AS r;

-- It runs as its owner: the service's role reads the table and writes memberships alone. A row that is there already, of a
-- repair by hand, must not fail a change of the membership.
-- +goose StatementBegin
CREATE FUNCTION iam_index_membership_roles() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        TRUNCATE membership_roles;
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO membership_roles (tenant, role, user_id) SELECT DISTINCT tenant, r, user_id FROM changed, unnest(roles) AS r
        ON CONFLICT DO NOTHING;
    ELSIF TG_OP = 'DELETE' THEN
        DELETE FROM membership_roles AS d USING (SELECT DISTINCT tenant, r, user_id FROM changed, unnest(roles) AS r) AS x
         WHERE d.tenant = x.tenant AND d.role = x.r AND d.user_id = x.user_id;
    ELSE
        DELETE FROM membership_roles AS d
         USING (SELECT tenant, r, user_id FROM before, unnest(roles) AS r EXCEPT SELECT tenant, r, user_id FROM changed, unnest(roles) AS r) AS x
         WHERE d.tenant = x.tenant AND d.role = x.r AND d.user_id = x.user_id;
        INSERT INTO membership_roles (tenant, role, user_id)
        SELECT tenant, r, user_id FROM changed, unnest(roles) AS r EXCEPT SELECT tenant, r, user_id FROM before, unnest(roles) AS r
        ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER iam_roles_inserted AFTER INSERT ON memberships REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION iam_index_membership_roles();
CREATE TRIGGER iam_roles_updated AFTER UPDATE ON memberships REFERENCING OLD TABLE AS before NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION iam_index_membership_roles();
CREATE TRIGGER iam_roles_deleted AFTER DELETE ON memberships REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION iam_index_membership_roles();
CREATE TRIGGER iam_roles_truncated AFTER TRUNCATE ON memberships FOR EACH STATEMENT EXECUTE FUNCTION iam_index_membership_roles();

-- The state of an object at a moment is the last entry before it, or what the first entry after it found.
CREATE INDEX audit_chain_object_idx ON audit (chain, kind, object COLLATE "C", at);

-- Until when the entries of a chain were removed: before that nothing is known. Those of earlier cuts are what remains.
ALTER TABLE audit_cuts ADD COLUMN until timestamptz;
UPDATE audit_cuts SET until = (
    SELECT to_timestamp(min(substr(c.relname, 7)), 'YYYY_MM') FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent = 'audit'::regclass AND c.relname ~ '^audit_[0-9]{4}_[0-9]{2}$');

-- iam_grant calls it: see step 00015.
-- +goose StatementBegin
CREATE FUNCTION iam_grants_access(to_role text) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE 'GRANT SELECT ON membership_roles TO ' || quote_ident(to_role);
END
$$;
-- +goose StatementEnd

-- A role that runs the service already may use the new table at once.
-- +goose StatementBegin
DO $$
DECLARE
    f regprocedure;
BEGIN
    FOREACH f IN ARRAY ARRAY ['iam_index_membership_roles()', 'iam_grants_access(text)']::regprocedure[] LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', f, current_schema());
    END LOOP;
    REVOKE ALL ON FUNCTION iam_index_membership_roles() FROM PUBLIC;
    PERFORM iam_grants_access(grantee) FROM (
        SELECT DISTINCT grantee::text FROM information_schema.role_table_grants
         WHERE table_schema = current_schema() AND table_name = 'clients' AND privilege_type = 'UPDATE' AND grantee NOT IN ('PUBLIC', current_user)) r;
END
$$;
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION iam_grants_access(text);
ALTER TABLE audit_cuts DROP COLUMN until;
DROP INDEX audit_chain_object_idx;
DROP TRIGGER iam_roles_truncated ON memberships;
DROP TRIGGER iam_roles_deleted ON memberships;
DROP TRIGGER iam_roles_updated ON memberships;
DROP TRIGGER iam_roles_inserted ON memberships;
DROP FUNCTION iam_index_membership_roles();
DROP TABLE membership_roles;
