-- +goose Up

-- What a tenant's provisioning client (SCIM, RFC 7643) says of its users: its own id of them, and whether they are active.
-- Who they are is in users. Whether they are active in effect is in memberships, which administrators change too.
CREATE TABLE scim_users (
    tenant      text COLLATE "C" NOT NULL,
    user_id     uuid NOT NULL,
    external_id text COLLATE "C",                -- opaque; null: none
    active      boolean NOT NULL DEFAULT true,   -- what the client says: false, and no administrator resumes the membership
    suspended   boolean NOT NULL DEFAULT false,  -- the membership's suspension is the client's, not an administrator's
    version     bigint NOT NULL DEFAULT nextval('iam_versions'),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT scim_users_pkey PRIMARY KEY (tenant, user_id),
    CONSTRAINT scim_users_membership_fkey FOREIGN KEY (user_id, tenant) REFERENCES memberships (user_id, tenant) ON DELETE CASCADE,
    CONSTRAINT scim_users_external_id_length CHECK (octet_length(external_id) BETWEEN 1 AND 255)
);
CREATE UNIQUE INDEX scim_users_external_id_key ON scim_users (tenant, external_id) WHERE external_id IS NOT NULL;

-- Groups of a tenant's provisioning client, and the roles to which an administrator has mapped them. What a role
-- grants is read from memberships alone: the roles of a user's groups are written there too. A group belongs to the
-- issuer of the client that created it: clients of another one do not find it.
CREATE TABLE scim_groups (
    id           uuid NOT NULL DEFAULT gen_random_uuid(),
    tenant       text COLLATE "C" NOT NULL,
    issuer       text COLLATE "C" NOT NULL,
    display_name text NOT NULL,
    external_id  text COLLATE "C",
    roles        text[] NOT NULL DEFAULT '{}',
    version      bigint NOT NULL DEFAULT nextval('iam_versions'),
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT scim_groups_pkey PRIMARY KEY (id),
    CONSTRAINT scim_groups_id_tenant_key UNIQUE (id, tenant),
    CONSTRAINT scim_groups_tenant_fkey FOREIGN KEY (tenant) REFERENCES tenants (id) ON DELETE CASCADE,
    CONSTRAINT scim_groups_display_name_length CHECK (octet_length(display_name) BETWEEN 1 AND 255),
    CONSTRAINT scim_groups_external_id_length CHECK (octet_length(external_id) BETWEEN 1 AND 255),
    CONSTRAINT scim_groups_roles_most CHECK (cardinality(roles) <= 100)
);
CREATE UNIQUE INDEX scim_groups_display_name_key ON scim_groups (tenant, issuer, lower(display_name));
CREATE UNIQUE INDEX scim_groups_external_id_key ON scim_groups (tenant, issuer, external_id) WHERE external_id IS NOT NULL;
CREATE INDEX scim_groups_roles_idx ON scim_groups USING gin (roles);

-- The keys contain the tenant, so that no row joins a group of one tenant and a member of another.
CREATE TABLE scim_group_members (
    group_id    uuid NOT NULL,
    user_id     uuid NOT NULL,
    tenant      text COLLATE "C" NOT NULL,
    CONSTRAINT scim_group_members_pkey PRIMARY KEY (group_id, user_id),
    CONSTRAINT scim_group_members_group_fkey FOREIGN KEY (group_id, tenant) REFERENCES scim_groups (id, tenant) ON DELETE CASCADE,
    CONSTRAINT scim_group_members_membership_fkey FOREIGN KEY (user_id, tenant) REFERENCES memberships (user_id, tenant) ON DELETE CASCADE
);
CREATE INDEX scim_group_members_user_idx ON scim_group_members (user_id, tenant);

-- The version of a group covers its members, also those that go with their membership.
-- +goose StatementBegin
CREATE FUNCTION iam_scim_group_changed() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    UPDATE scim_groups SET version = nextval('iam_versions'), updated_at = now() WHERE id IN (SELECT group_id FROM changed);
    RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER scim_group_members_added AFTER INSERT ON scim_group_members REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION iam_scim_group_changed();
CREATE TRIGGER scim_group_members_removed AFTER DELETE ON scim_group_members REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION iam_scim_group_changed();

-- iam_grant calls it: see step 00015.
-- +goose StatementBegin
CREATE FUNCTION iam_grants_scim(to_role text) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE 'GRANT SELECT, INSERT, UPDATE, DELETE ON scim_users, scim_groups, scim_group_members TO ' || quote_ident(to_role);
END
$$;
-- +goose StatementEnd

-- A role that runs the service already may use the new tables at once.
-- +goose StatementBegin
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION iam_scim_group_changed() SET search_path = %I, pg_temp', current_schema());
    EXECUTE format('ALTER FUNCTION iam_grants_scim(text) SET search_path = %I, pg_temp', current_schema());
    PERFORM iam_grants_scim(grantee) FROM (
        SELECT DISTINCT grantee::text FROM information_schema.role_table_grants
         WHERE table_schema = current_schema() AND table_name = 'clients' AND privilege_type = 'UPDATE' AND grantee NOT IN ('PUBLIC', current_user)) r;
END
$$;
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION iam_grants_scim(text);
DROP TABLE scim_group_members;
DROP TABLE scim_groups;
DROP TABLE scim_users;
DROP FUNCTION iam_scim_group_changed();
