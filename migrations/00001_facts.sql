-- +goose Up

-- One row: the identity of this service among all instances that share an identity provider.
CREATE TABLE instance (
    id          uuid NOT NULL DEFAULT gen_random_uuid(),
    only_one    boolean NOT NULL DEFAULT true,
    CONSTRAINT instance_pkey PRIMARY KEY (only_one),
    CONSTRAINT instance_only_one CHECK (only_one)
);
INSERT INTO instance DEFAULT VALUES;

-- Identifiers compare byte by byte (COLLATE "C"), so that no locale considers two ids equal.
CREATE TABLE tenants (
    id          text COLLATE "C" NOT NULL,
    slug        text COLLATE "C" NOT NULL,
    name        text NOT NULL,
    status      text NOT NULL DEFAULT 'active',
    attributes  jsonb NOT NULL DEFAULT '{}',
    version     bigint NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT tenants_pkey PRIMARY KEY (id),
    CONSTRAINT tenants_slug_key UNIQUE (slug),
    CONSTRAINT tenants_id_shape CHECK (id ~ '^[a-z0-9][a-z0-9_-]{0,63}$'),
    CONSTRAINT tenants_slug_shape CHECK (slug ~ '^[a-z0-9][a-z0-9._-]{0,63}$'),
    CONSTRAINT tenants_name_length CHECK (octet_length(name) BETWEEN 1 AND 200),
    CONSTRAINT tenants_status_known CHECK (status IN ('active', 'suspended', 'archived')),
    CONSTRAINT tenants_attributes_object CHECK (jsonb_typeof(attributes) = 'object' AND octet_length(attributes::text) <= 16384)
);

-- A role without a tenant is a global one: every tenant has it.
CREATE TABLE roles (
    tenant      text COLLATE "C",
    name        text COLLATE "C" NOT NULL,
    permissions text[] NOT NULL DEFAULT '{}',
    inherits    text[] NOT NULL DEFAULT '{}',
    version     bigint NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT roles_tenant_name_key UNIQUE NULLS NOT DISTINCT (tenant, name),
    CONSTRAINT roles_tenant_fkey FOREIGN KEY (tenant) REFERENCES tenants (id) ON DELETE CASCADE,
    CONSTRAINT roles_name_shape CHECK (octet_length(name) <= 64 AND name ~ '^(iam:)?[a-z0-9][a-z0-9._-]*$'),
    CONSTRAINT roles_permissions_most CHECK (cardinality(permissions) <= 500),
    CONSTRAINT roles_inherits_most CHECK (cardinality(inherits) <= 100),
    CONSTRAINT roles_inherits_not_itself CHECK (NOT name = ANY (inherits))
);

-- A user is an issuer and a subject. Nothing personal is stored.
CREATE TABLE users (
    id                uuid NOT NULL DEFAULT gen_random_uuid(),
    issuer            text COLLATE "C" NOT NULL,
    subject           text COLLATE "C" NOT NULL,
    status            text NOT NULL DEFAULT 'active',
    attributes        jsonb NOT NULL DEFAULT '{}',
    platform_roles    text[] NOT NULL DEFAULT '{}',
    tokens_not_before timestamptz,
    default_tenant    text COLLATE "C",
    version           bigint NOT NULL DEFAULT 1,
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT users_pkey PRIMARY KEY (id),
    CONSTRAINT users_issuer_subject_key UNIQUE (issuer, subject),
    CONSTRAINT users_issuer_length CHECK (octet_length(issuer) BETWEEN 1 AND 512),
    CONSTRAINT users_subject_length CHECK (octet_length(subject) BETWEEN 1 AND 255),
    CONSTRAINT users_status_known CHECK (status IN ('active', 'blocked')),
    CONSTRAINT users_attributes_object CHECK (jsonb_typeof(attributes) = 'object' AND octet_length(attributes::text) <= 16384),
    CONSTRAINT users_platform_roles_known CHECK (platform_roles <@ ARRAY ['platform-admin', 'policy-admin', 'auditor']),
    CONSTRAINT users_default_tenant_fkey FOREIGN KEY (default_tenant) REFERENCES tenants (id) ON DELETE SET NULL
);
CREATE INDEX users_default_tenant_idx ON users (default_tenant) WHERE default_tenant IS NOT NULL;

CREATE TABLE memberships (
    user_id     uuid NOT NULL,
    tenant      text COLLATE "C" NOT NULL,
    status      text NOT NULL DEFAULT 'active',
    roles       text[] NOT NULL DEFAULT '{}',
    attributes  jsonb NOT NULL DEFAULT '{}',
    expires_at  timestamptz,
    version     bigint NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT memberships_pkey PRIMARY KEY (user_id, tenant),
    CONSTRAINT memberships_user_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT memberships_tenant_fkey FOREIGN KEY (tenant) REFERENCES tenants (id) ON DELETE CASCADE,
    CONSTRAINT memberships_status_known CHECK (status IN ('active', 'suspended')),
    CONSTRAINT memberships_roles_most CHECK (cardinality(roles) <= 100),
    CONSTRAINT memberships_attributes_object CHECK (jsonb_typeof(attributes) = 'object' AND octet_length(attributes::text) <= 16384)
);
CREATE INDEX memberships_tenant_idx ON memberships (tenant, user_id);

-- Mappings from claims of the identity provider's tokens to roles of a tenant.
CREATE TABLE mappings (
    tenant      text COLLATE "C" NOT NULL,
    issuer      text COLLATE "C" NOT NULL,
    claim       text COLLATE "C" NOT NULL,
    value       text COLLATE "C" NOT NULL,
    roles       text[] NOT NULL,
    version     bigint NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT mappings_pkey PRIMARY KEY (tenant, issuer, claim, value),
    CONSTRAINT mappings_tenant_fkey FOREIGN KEY (tenant) REFERENCES tenants (id) ON DELETE CASCADE,
    CONSTRAINT mappings_lengths CHECK (octet_length(issuer) BETWEEN 1 AND 512
        AND octet_length(claim) BETWEEN 1 AND 255 AND octet_length(value) BETWEEN 1 AND 255),
    CONSTRAINT mappings_roles_most CHECK (cardinality(roles) BETWEEN 1 AND 100)
);

-- What a program may be. Its OAuth metadata lives in the identity provider.
CREATE TABLE clients (
    issuer            text COLLATE "C" NOT NULL,
    client_id         text COLLATE "C" NOT NULL,
    tenant            text COLLATE "C",
    status            text NOT NULL DEFAULT 'active',
    roles             text[] NOT NULL DEFAULT '{}',
    scopes            text[] NOT NULL DEFAULT '{}',
    tokens_not_before timestamptz,
    version           bigint NOT NULL DEFAULT 1,
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT clients_pkey PRIMARY KEY (issuer, client_id),
    CONSTRAINT clients_tenant_fkey FOREIGN KEY (tenant) REFERENCES tenants (id) ON DELETE RESTRICT,
    CONSTRAINT clients_status_known CHECK (status IN ('active', 'blocked', 'deleted')),
    CONSTRAINT clients_lengths CHECK (octet_length(issuer) BETWEEN 1 AND 512 AND octet_length(client_id) BETWEEN 1 AND 255),
    CONSTRAINT clients_roles_most CHECK (cardinality(roles) <= 100),
    CONSTRAINT clients_scopes_most CHECK (cardinality(scopes) <= 100)
);
CREATE INDEX clients_tenant_idx ON clients (tenant, client_id);

-- The last discovery document and keys of each issuer: a start while the
-- identity provider is away. Public keys only.
CREATE TABLE issuer_keys (
    issuer      text COLLATE "C" NOT NULL,
    discovery   jsonb NOT NULL,
    jwks        jsonb NOT NULL,
    fetched_at  timestamptz NOT NULL,
    CONSTRAINT issuer_keys_pkey PRIMARY KEY (issuer)
);

-- +goose Down
DROP TABLE issuer_keys;
DROP TABLE clients;
DROP TABLE mappings;
DROP TABLE memberships;
DROP TABLE users;
DROP TABLE roles;
DROP TABLE tenants;
DROP TABLE instance;
