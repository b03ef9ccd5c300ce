-- +goose Up

-- Sessions of persons at the console (package console). A dump of this table is useless: a session is found by the hash
-- of an id, and its tokens are encrypted under a key that needs CONSOLE_KEY and the secret of the person's cookie.
CREATE TABLE console_sessions (
    id            bytea NOT NULL, -- SHA-256 of the cookie's id
    person        bytea NOT NULL, -- SHA-256 of issuer and subject: the sessions of one person are bounded
    sealed        bytea NOT NULL, -- who it is, and their tokens; id is additional data
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    idle_ends_at  timestamptz NOT NULL,
    ends_at       timestamptz NOT NULL,
    CONSTRAINT console_sessions_pkey PRIMARY KEY (id),
    CONSTRAINT console_sessions_size_check CHECK (octet_length(id) = 32 AND octet_length(person) = 32 AND octet_length(sealed) <= 65536)
);
CREATE INDEX console_sessions_person_idx ON console_sessions (person, created_at);

-- iam_grant calls it: see step 00015.
-- +goose StatementBegin
CREATE FUNCTION iam_grants_console(to_role text) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE 'GRANT SELECT, INSERT, UPDATE, DELETE ON console_sessions TO ' || quote_ident(to_role);
END
$$;
-- +goose StatementEnd

-- A role that runs the service already may use the new table at once.
-- +goose StatementBegin
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION iam_grants_console(text) SET search_path = %I, pg_temp', current_schema());
    PERFORM iam_grants_console(grantee) FROM (
        SELECT DISTINCT grantee::text FROM information_schema.role_table_grants
         WHERE table_schema = current_schema() AND table_name = 'clients' AND privilege_type = 'UPDATE' AND grantee NOT IN ('PUBLIC', current_user)) r;
END
$$;
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION iam_grants_console(text);
DROP TABLE console_sessions;
