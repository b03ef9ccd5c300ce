-- +goose Up

-- Identifies the place of a database: it changes in a restored dump and in a copy from a
-- template. A copy of the files is not detected: it is identical to the original.
-- +goose StatementBegin
CREATE FUNCTION iam_home() RETURNS text
    LANGUAGE sql STABLE AS $$
    SELECT s.system_identifier || '/' || d.oid || '/' || n.oid
      FROM pg_control_system() s, pg_database d, pg_namespace n
     WHERE d.datname = current_database() AND n.nspname = current_schema()
$$;
-- +goose StatementEnd

-- Where the instance was made, or confirmed: elsewhere it must not act under its id.
ALTER TABLE instance ADD COLUMN home text;
UPDATE instance SET home = iam_home();

-- +goose Down
ALTER TABLE instance DROP COLUMN home;
DROP FUNCTION iam_home();
