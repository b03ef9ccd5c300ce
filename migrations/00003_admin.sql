-- +goose Up

-- Versions are never used twice, not even by something that was deleted and made again:
-- an ETag of before never fits what came after.
CREATE SEQUENCE iam_versions;
ALTER TABLE tenants ALTER COLUMN version SET DEFAULT nextval('iam_versions');
ALTER TABLE roles ALTER COLUMN version SET DEFAULT nextval('iam_versions');
ALTER TABLE users ALTER COLUMN version SET DEFAULT nextval('iam_versions');
ALTER TABLE memberships ALTER COLUMN version SET DEFAULT nextval('iam_versions');
ALTER TABLE mappings ALTER COLUMN version SET DEFAULT nextval('iam_versions');
ALTER TABLE clients ALTER COLUMN version SET DEFAULT nextval('iam_versions');

-- What a service declares in its manifest: role templates, which are global roles,
-- and attributes, whose values are checked wherever they are written.
CREATE TABLE services (
    name        text COLLATE "C" NOT NULL,
    issuer      text COLLATE "C",  -- of the program that syncs it; null: the first that does
    client_id   text COLLATE "C",
    version     bigint NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT services_pkey PRIMARY KEY (name),
    CONSTRAINT services_name_shape CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,63}$'),
    CONSTRAINT services_owner_whole CHECK ((issuer IS NULL) = (client_id IS NULL))
);

-- Every manifest that was applied, stored permanently: what a service declared, and when.
CREATE TABLE manifests (
    service     text COLLATE "C" NOT NULL,
    version     bigint NOT NULL,
    manifest    json NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT manifests_pkey PRIMARY KEY (service, version),
    CONSTRAINT manifests_service_fkey FOREIGN KEY (service) REFERENCES services (name)
);

CREATE TABLE attribute_schemas (
    key         text COLLATE "C" NOT NULL,
    service     text COLLATE "C" NOT NULL,
    type        text NOT NULL,
    description text NOT NULL DEFAULT '',
    CONSTRAINT attribute_schemas_pkey PRIMARY KEY (key),
    CONSTRAINT attribute_schemas_service_fkey FOREIGN KEY (service) REFERENCES services (name),
    CONSTRAINT attribute_schemas_type_known CHECK (type IN ('string', 'integer', 'number', 'boolean', 'string[]'))
);
CREATE INDEX attribute_schemas_service_idx ON attribute_schemas (service);

ALTER TABLE roles
    ADD COLUMN description text NOT NULL DEFAULT '',
    ADD COLUMN service text COLLATE "C",
    ADD CONSTRAINT roles_service_fkey FOREIGN KEY (service) REFERENCES services (name),
    ADD CONSTRAINT roles_template_is_global CHECK (service IS NULL OR tenant IS NULL);

-- Reserved: their members are administrators or auditors of one tenant.
INSERT INTO roles (tenant, name, description) VALUES
    (NULL, 'iam:tenant-admin', 'Manages roles, members and mappings of the tenant'),
    (NULL, 'iam:tenant-auditor', 'Sees everything of the tenant');

-- Ids of tenants are never used again.
CREATE TABLE retired_tenants (
    id          text COLLATE "C" NOT NULL,
    retired_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT retired_tenants_pkey PRIMARY KEY (id)
);

-- Who changed what. Each chain (a tenant's, or the platform's: '') is linked by
-- hashes: see package audit in the code for what is hashed. No issuer and no subject
-- stands here: a person is our id, which stays when they are erased.
CREATE TABLE audit (
    chain       text COLLATE "C" NOT NULL,
    seq         bigint NOT NULL,
    at          timestamptz NOT NULL,
    actor_kind  text NOT NULL,  -- user, client, operator
    actor       text NOT NULL,
    via         text NOT NULL,  -- api, command, bootstrap
    address     text NOT NULL,
    request_id  text NOT NULL,
    decision_id text NOT NULL,
    action      text NOT NULL,
    kind        text NOT NULL,
    object      text NOT NULL,
    before      json,
    after       json,
    prev        bytea NOT NULL,
    hash        bytea NOT NULL,
    CONSTRAINT audit_pkey PRIMARY KEY (chain, seq, at),
    CONSTRAINT audit_seq_counts CHECK (seq > 0)
) PARTITION BY RANGE (at);
CREATE INDEX audit_at_idx ON audit (at, chain, seq);
CREATE INDEX audit_object_idx ON audit (kind, object, at);
CREATE INDEX audit_actor_idx ON audit (actor, at);
CREATE INDEX audit_action_idx ON audit (action, at);
CREATE TABLE audit_default PARTITION OF audit DEFAULT;

-- The last link of each chain. A transaction locks its row last.
CREATE TABLE audit_heads (
    chain       text COLLATE "C" NOT NULL,
    seq         bigint NOT NULL,
    hash        bytea NOT NULL,
    published   bigint NOT NULL DEFAULT 0, -- up to which seq the head was published
    CONSTRAINT audit_heads_pkey PRIMARY KEY (chain)
);

-- Where retention has cut a chain: what the first link that is left must follow.
CREATE TABLE audit_cuts (
    chain       text COLLATE "C" NOT NULL,
    seq         bigint NOT NULL,
    hash        bytea NOT NULL,
    cut_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT audit_cuts_pkey PRIMARY KEY (chain)
);

-- iam_audit_partitions creates the partitions of this month and the three after it.
-- It runs as its owner: the service's role cannot create tables. A month with rows in the
-- default partition stays there.
-- +goose StatementBegin
CREATE FUNCTION iam_audit_partitions() RETURNS integer
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

-- Events that were made true by the transaction that wrote them here, on their way
-- to NATS.
CREATE TABLE outbox (
    seq         bigint GENERATED ALWAYS AS IDENTITY,
    id          uuid NOT NULL DEFAULT gen_random_uuid(), -- the CloudEvents id
    type        text NOT NULL,
    tenant      text COLLATE "C",
    kind        text NOT NULL,
    object      text COLLATE "C" NOT NULL,               -- with kind and tenant: events of one object keep their order
    data        json NOT NULL,
    occurred_at timestamptz NOT NULL DEFAULT now(),
    sent_at     timestamptz,
    round       integer NOT NULL DEFAULT 0,              -- number of replays: each has another Nats-Msg-Id
    tries       integer NOT NULL DEFAULT 0,              -- how often the bus rejected this event,
    refused     text NOT NULL DEFAULT '',                -- and why
    parked      boolean NOT NULL DEFAULT false,          -- later events of the same object wait until an operator decides
    skipped     boolean NOT NULL DEFAULT false,          -- an operator discarded it
    CONSTRAINT outbox_pkey PRIMARY KEY (seq),
    CONSTRAINT outbox_id_key UNIQUE (id)
);
CREATE INDEX outbox_pending_idx ON outbox (seq) WHERE sent_at IS NULL;
CREATE INDEX outbox_sent_idx ON outbox (sent_at) WHERE sent_at IS NOT NULL;
CREATE INDEX outbox_parked_idx ON outbox (kind, object, seq) WHERE parked;

-- One row: the stream that the relay knows, and the requested replay.
CREATE TABLE relay (
    only_one        boolean NOT NULL DEFAULT true,
    stream_created  timestamptz, -- creation time of the stream that received the events; null: unknown
    replay_since    timestamptz, -- null: no replay is requested
    CONSTRAINT relay_pkey PRIMARY KEY (only_one),
    CONSTRAINT relay_only_one CHECK (only_one)
);
INSERT INTO relay DEFAULT VALUES;

-- Responses to requests with an Idempotency-Key, retained for a day.
CREATE TABLE idempotency (
    caller      bytea NOT NULL, -- SHA-256 of the caller
    key         text COLLATE "C" NOT NULL,
    request     bytea NOT NULL, -- SHA-256 of the request
    answer      json,           -- the response; null: not known yet, or erased with the user it is about
    users       uuid[] NOT NULL DEFAULT '{}', -- ids of the users in the response
    created_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT idempotency_pkey PRIMARY KEY (caller, key)
);
CREATE INDEX idempotency_created_idx ON idempotency (created_at);
CREATE INDEX idempotency_users_idx ON idempotency USING gin (users);

-- For ordered lists, and for the holders of a role.
CREATE INDEX users_platform_roles_idx ON users (id) WHERE platform_roles <> '{}';
CREATE INDEX memberships_roles_idx ON memberships USING gin (roles);

-- iam_grant lets a role run the service: read and write facts, append to the audit,
-- and nothing else. It cannot alter a table, nor change or delete what was audited.
-- +goose StatementBegin
CREATE FUNCTION iam_grant(to_role text) RETURNS void
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
-- +goose StatementEnd

-- As in the step before: the functions see this schema only. A function that runs as its
-- owner is executable only by roles to which that is granted.
-- +goose StatementBegin
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION iam_audit_partitions() SET search_path = %I, pg_temp', current_schema());
    EXECUTE format('ALTER FUNCTION iam_grant(text) SET search_path = %I, pg_temp', current_schema());
    REVOKE ALL ON FUNCTION iam_audit_partitions() FROM PUBLIC;
    PERFORM iam_audit_partitions();
END
$$;
-- +goose StatementEnd

-- +goose Down
DROP INDEX memberships_roles_idx;
DROP INDEX users_platform_roles_idx;
DROP FUNCTION iam_grant(text);
DROP FUNCTION iam_audit_partitions();
DROP TABLE idempotency;
DROP TABLE relay;
DROP TABLE outbox;
DROP TABLE audit_cuts;
DROP TABLE audit_heads;
DROP TABLE audit;
DROP TABLE retired_tenants;
DELETE FROM roles WHERE tenant IS NULL AND name IN ('iam:tenant-admin', 'iam:tenant-auditor');
ALTER TABLE roles DROP COLUMN service, DROP COLUMN description;
DROP TABLE attribute_schemas;
DROP TABLE manifests;
DROP TABLE services;
ALTER TABLE tenants ALTER COLUMN version SET DEFAULT 1;
ALTER TABLE roles ALTER COLUMN version SET DEFAULT 1;
ALTER TABLE users ALTER COLUMN version SET DEFAULT 1;
ALTER TABLE memberships ALTER COLUMN version SET DEFAULT 1;
ALTER TABLE mappings ALTER COLUMN version SET DEFAULT 1;
ALTER TABLE clients ALTER COLUMN version SET DEFAULT 1;
DROP SEQUENCE iam_versions;
