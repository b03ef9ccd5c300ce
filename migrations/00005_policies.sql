-- +goose Up

-- Policies that the gate accepted, as bundles with their signatures: uploaded again, a policy can
-- have another signature.
CREATE TABLE policy_revisions (
    digest      text COLLATE "C" NOT NULL,  -- SHA-256 of what is evaluated; its first 12 digits are X-Policy-Revision
    name        text NOT NULL DEFAULT '',   -- by its manifest
    source      text NOT NULL,              -- where it was loaded from
    verified    text NOT NULL,              -- by what its signature was verified: key (it can be verified again), opa, nobody (not at all)
    bundle      bytea NOT NULL,
    added_at    timestamptz NOT NULL DEFAULT now(),
    wanted_at   timestamptz NOT NULL DEFAULT now(), -- of the last upload: replicas prepare the newest
    actor_kind  text NOT NULL,
    actor       text NOT NULL,
    via         text NOT NULL,
    CONSTRAINT policy_revisions_pkey PRIMARY KEY (digest),
    CONSTRAINT policy_revisions_digest_shape CHECK (digest ~ '^[0-9a-f]{64}$'),
    CONSTRAINT policy_revisions_verified_known CHECK (verified IN ('key', 'opa', 'nobody')),
    CONSTRAINT policy_revisions_bundle_bounded CHECK (octet_length(bundle) <= 33554432)
);
ALTER TABLE policy_revisions ALTER COLUMN bundle SET STORAGE EXTERNAL; -- it is compressed already
CREATE INDEX policy_revisions_added_idx ON policy_revisions (added_at);
CREATE INDEX policy_revisions_wanted_idx ON policy_revisions (wanted_at);

-- Previews: which subjects would gain or lose roles and permissions under a candidate.
CREATE TABLE policy_previews (
    id          uuid NOT NULL DEFAULT gen_random_uuid(),
    candidate   text COLLATE "C" NOT NULL,
    against     text NOT NULL,              -- compared with: a digest, or embedded
    state       text NOT NULL DEFAULT 'running',
    replica     text NOT NULL,              -- the replica that runs it
    started_at  timestamptz NOT NULL DEFAULT now(),
    seen_at     timestamptz NOT NULL DEFAULT now(), -- last heartbeat of that replica
    finished_at timestamptz,
    actor_kind  text NOT NULL,
    actor       text NOT NULL,
    done        bigint NOT NULL DEFAULT 0,  -- evaluated questions,
    total       bigint NOT NULL DEFAULT 0,  -- of an estimated total
    report      json,                       -- null: not yet
    CONSTRAINT policy_previews_pkey PRIMARY KEY (id),
    CONSTRAINT policy_previews_candidate_fkey FOREIGN KEY (candidate) REFERENCES policy_revisions (digest),
    CONSTRAINT policy_previews_state_known CHECK (state IN ('running', 'done', 'failed', 'cancelled'))
);
CREATE INDEX policy_previews_started_idx ON policy_previews (started_at);

-- Activations: which revision, when, and by whom. The last row is the active revision.
CREATE TABLE policy_activations (
    seq         bigint GENERATED ALWAYS AS IDENTITY,
    digest      text COLLATE "C" NOT NULL,
    kind        text NOT NULL,              -- source (POLICY_ACTIVATION=auto), activate, rollback
    at          timestamptz NOT NULL DEFAULT now(),
    actor_kind  text NOT NULL,
    actor       text NOT NULL,
    via         text NOT NULL,
    preview     uuid,
    reason      text NOT NULL DEFAULT '',
    CONSTRAINT policy_activations_pkey PRIMARY KEY (seq),
    CONSTRAINT policy_activations_digest_fkey FOREIGN KEY (digest) REFERENCES policy_revisions (digest),
    CONSTRAINT policy_activations_preview_fkey FOREIGN KEY (preview) REFERENCES policy_previews (id),
    CONSTRAINT policy_activations_kind_known CHECK (kind IN ('source', 'activate', 'rollback'))
);
CREATE INDEX policy_activations_digest_idx ON policy_activations (digest, seq);

-- One row: the shadow revision, and the share of requests for which it is evaluated too.
CREATE TABLE policy_shadow (
    only_one    boolean NOT NULL DEFAULT true,
    digest      text COLLATE "C",           -- null: nothing
    share       double precision NOT NULL DEFAULT 0,
    set_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT policy_shadow_pkey PRIMARY KEY (only_one),
    CONSTRAINT policy_shadow_only_one CHECK (only_one),
    CONSTRAINT policy_shadow_digest_fkey FOREIGN KEY (digest) REFERENCES policy_revisions (digest),
    CONSTRAINT policy_shadow_share_bounded CHECK (share >= 0 AND share <= 1)
);
INSERT INTO policy_shadow DEFAULT VALUES;

-- The active and the prepared revisions of each replica, as it reports them.
CREATE TABLE policy_replicas (
    replica     text NOT NULL,
    version     text NOT NULL,              -- of the program
    in_force    text NOT NULL,              -- digest; empty: nothing
    since       timestamptz,
    source      text NOT NULL,
    prepared    text[] NOT NULL,            -- digests that it can switch to at once
    refused     json,                       -- what it refused last, and why
    seen_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT policy_replicas_pkey PRIMARY KEY (replica)
);

-- Replicas hear of it as they hear of facts: v1 <schema> policy. One that does not know
-- the word takes it for a change of everything.
-- +goose StatementBegin
CREATE FUNCTION iam_changed_policy() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM iam_notify('policy');
    RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER policy_revisions_told AFTER INSERT OR UPDATE ON policy_revisions FOR EACH STATEMENT EXECUTE FUNCTION iam_changed_policy();
CREATE TRIGGER policy_activations_told AFTER INSERT ON policy_activations FOR EACH STATEMENT EXECUTE FUNCTION iam_changed_policy();
CREATE TRIGGER policy_shadow_told AFTER UPDATE ON policy_shadow FOR EACH STATEMENT EXECUTE FUNCTION iam_changed_policy();

ALTER FUNCTION iam_grant(text) RENAME TO iam_grant_00004;
-- +goose StatementBegin
CREATE FUNCTION iam_grant(to_role text) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    r text := quote_ident(to_role);
BEGIN
    PERFORM iam_grant_00004(to_role);
    EXECUTE 'GRANT SELECT, INSERT ON policy_revisions, policy_activations TO ' || r;
    EXECUTE 'GRANT UPDATE (bundle, verified, wanted_at) ON policy_revisions TO ' || r;
    EXECUTE 'GRANT SELECT, INSERT, UPDATE ON policy_previews TO ' || r;
    EXECUTE 'GRANT SELECT, UPDATE ON policy_shadow TO ' || r;
    EXECUTE 'GRANT SELECT, INSERT, UPDATE, DELETE ON policy_replicas TO ' || r;
END
$$;
-- +goose StatementEnd

-- A role that runs the service already may use the new tables at once.
-- +goose StatementBegin
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION iam_changed_policy() SET search_path = %I, pg_temp', current_schema());
    EXECUTE format('ALTER FUNCTION iam_grant(text) SET search_path = %I, pg_temp', current_schema());
    PERFORM iam_grant(grantee) FROM (
        SELECT DISTINCT grantee::text FROM information_schema.role_table_grants
         WHERE table_schema = current_schema() AND table_name = 'clients' AND privilege_type = 'UPDATE' AND grantee NOT IN ('PUBLIC', current_user)) r;
END
$$;
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION iam_grant(text);
ALTER FUNCTION iam_grant_00004(text) RENAME TO iam_grant;
DROP TABLE policy_replicas;
DROP TABLE policy_shadow;
DROP TABLE policy_activations;
DROP TABLE policy_previews;
DROP TABLE policy_revisions;
DROP FUNCTION iam_changed_policy();
