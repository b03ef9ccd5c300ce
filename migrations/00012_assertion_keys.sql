-- +goose Up

-- The keys that sign assertions (package gateway/assertion). A private key is encrypted with AES-256-GCM under
-- a key that the database never has; kid is the additional data, so a ciphertext cannot be moved to another row.
CREATE TABLE assertion_keys (
    kid             text COLLATE "C" NOT NULL, -- RFC 7638 thumbprint of the public key
    alg             text NOT NULL,
    public          text NOT NULL, -- JWK
    sealed          bytea, -- the encrypted private key; null: erased
    proof           bytea NOT NULL, -- authenticates kid, and so public, under the key-encryption key
    sealed_by       text NOT NULL, -- fingerprint of the key-encryption key
    created_at      timestamptz NOT NULL,
    signs_from      timestamptz NOT NULL,
    signs_until     timestamptz NOT NULL,
    published_until timestamptz NOT NULL,
    revoked_at      timestamptz,
    CONSTRAINT assertion_keys_pkey PRIMARY KEY (kid),
    CONSTRAINT assertion_keys_alg_check CHECK (alg IN ('ES256', 'EdDSA')),
    CONSTRAINT assertion_keys_order_check CHECK (signs_from < signs_until AND signs_until < published_until),
    CONSTRAINT assertion_keys_revoked_check CHECK (revoked_at IS NULL OR sealed IS NULL),
    CONSTRAINT assertion_keys_size_check CHECK (octet_length(kid) <= 64 AND octet_length(public) <= 1000 AND octet_length(sealed) <= 1000 AND octet_length(proof) <= 100)
);

-- One row, which a change of the keys locks. seq grows with every change: a replica that reads a lower one than
-- it has seen reads a database that was restored from an older copy.
CREATE TABLE assertion_key_set (
    one boolean NOT NULL DEFAULT true,
    seq bigint NOT NULL DEFAULT 0,
    CONSTRAINT assertion_key_set_pkey PRIMARY KEY (one),
    CONSTRAINT assertion_key_set_one_check CHECK (one)
);
INSERT INTO assertion_key_set DEFAULT VALUES;

-- +goose StatementBegin
CREATE FUNCTION iam_changed_assertion_keys() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM iam_notify('assertion');
    RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER assertion_key_set_told AFTER UPDATE ON assertion_key_set FOR EACH STATEMENT EXECUTE FUNCTION iam_changed_assertion_keys();

ALTER FUNCTION iam_grant(text) RENAME TO iam_grant_before_00012;
-- +goose StatementBegin
CREATE FUNCTION iam_grant(to_role text) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    r text := quote_ident(to_role);
BEGIN
    PERFORM iam_grant_before_00012(to_role);
    EXECUTE 'GRANT SELECT, INSERT, UPDATE, DELETE ON assertion_keys TO ' || r;
    EXECUTE 'GRANT SELECT, UPDATE ON assertion_key_set TO ' || r;
END
$$;
-- +goose StatementEnd

-- A role that runs the service already may use the new tables at once.
-- +goose StatementBegin
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION iam_changed_assertion_keys() SET search_path = %I, pg_temp', current_schema());
    EXECUTE format('ALTER FUNCTION iam_grant(text) SET search_path = %I, pg_temp', current_schema());
    PERFORM iam_grant(grantee) FROM (
        SELECT DISTINCT grantee::text FROM information_schema.role_table_grants
         WHERE table_schema = current_schema() AND table_name = 'clients' AND privilege_type = 'UPDATE' AND grantee NOT IN ('PUBLIC', current_user)) r;
END
$$;
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION iam_grant(text);
ALTER FUNCTION iam_grant_before_00012(text) RENAME TO iam_grant;
DROP TABLE assertion_key_set;
DROP TABLE assertion_keys;
DROP FUNCTION iam_changed_assertion_keys();
