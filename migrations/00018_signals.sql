-- +goose Up

-- Security event tokens (RFC 8417) that were received: each has an effect once. The row is written by the transaction
-- that changes the user. Rows are deleted after 31 days; older tokens are rejected by their age.
CREATE TABLE signals (
    stream      text COLLATE "C" NOT NULL,
    jti         bytea NOT NULL, -- SHA-256 of the token's id
    received_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT signals_pkey PRIMARY KEY (stream, jti),
    CONSTRAINT signals_jti_hash CHECK (octet_length(jti) = 32)
);
CREATE INDEX signals_received_idx ON signals (received_at);

-- What is known of each stream of signals, over all replicas.
CREATE TABLE signal_streams (
    stream        text COLLATE "C" NOT NULL,
    accepted_at   timestamptz, -- of the last token
    verified_at   timestamptz, -- of the last verification event
    state         text,        -- of that event
    expected      text,        -- state that the next verification event must have
    status        text,        -- as the transmitter says
    status_reason text,
    status_at     timestamptz,
    CONSTRAINT signal_streams_pkey PRIMARY KEY (stream),
    CONSTRAINT signal_streams_status_known CHECK (status IN ('enabled', 'paused', 'disabled')),
    CONSTRAINT signal_streams_size CHECK (octet_length(state) <= 1024 AND octet_length(expected) <= 1024 AND octet_length(status_reason) <= 1024)
);

-- Accounts that a stream has disabled or enabled: a signal unblocks only what signals have blocked, and an older event
-- does not supersede a newer one.
CREATE TABLE signal_accounts (
    user_id  uuid NOT NULL,
    stream   text COLLATE "C" NOT NULL,
    event_at timestamptz NOT NULL, -- of the last event
    blocks   boolean NOT NULL,     -- the user is blocked by it
    CONSTRAINT signal_accounts_pkey PRIMARY KEY (user_id, stream),
    CONSTRAINT signal_accounts_user_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
);

-- iam_grant calls it: see step 00015.
-- +goose StatementBegin
CREATE FUNCTION iam_grants_signals(to_role text) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    r text := quote_ident(to_role);
BEGIN
    EXECUTE 'GRANT SELECT, INSERT, DELETE ON signals TO ' || r;
    EXECUTE 'GRANT SELECT, INSERT, UPDATE ON signal_streams, signal_accounts TO ' || r;
END
$$;
-- +goose StatementEnd

-- A role that runs the service already may use the new tables at once.
-- +goose StatementBegin
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION iam_grants_signals(text) SET search_path = %I, pg_temp', current_schema());
    PERFORM iam_grants_signals(grantee) FROM (
        SELECT DISTINCT grantee::text FROM information_schema.role_table_grants
         WHERE table_schema = current_schema() AND table_name = 'clients' AND privilege_type = 'UPDATE' AND grantee NOT IN ('PUBLIC', current_user)) r;
END
$$;
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION iam_grants_signals(text);
DROP TABLE signal_accounts;
DROP TABLE signal_streams;
DROP TABLE signals;
