-- +goose Up

-- Decisions for a time, in a database of their own (DECISIONS_DATABASE_URL). A partition is
-- a day; what is too old goes as a whole partition.
CREATE TABLE decisions (
    id          text COLLATE "C" NOT NULL, -- of the evaluation; answers from the cache repeat it
    at          timestamptz NOT NULL,
    revision    text NOT NULL,
    allow       boolean NOT NULL,
    issuer      text COLLATE "C" NOT NULL,
    subject     text COLLATE "C" NOT NULL,
    client_id   text COLLATE "C" NOT NULL,
    tenant      text COLLATE "C" NOT NULL,
    codes       text[] NOT NULL,
    repeated    boolean NOT NULL,
    event       json NOT NULL
) PARTITION BY RANGE (at);
CREATE INDEX decisions_id_idx ON decisions (id);
CREATE INDEX decisions_at_idx ON decisions (at, id);
CREATE INDEX decisions_subject_idx ON decisions (subject, at);
CREATE INDEX decisions_tenant_idx ON decisions (tenant, at);
CREATE INDEX decisions_client_idx ON decisions (client_id, at);
CREATE INDEX decisions_codes_idx ON decisions USING gin (codes);
CREATE TABLE decisions_default PARTITION OF decisions DEFAULT;

-- iam_decision_partitions creates the partitions of today and the two days after it, and drops
-- those that ended longer ago than keep. It runs as its owner: the service's role cannot create
-- or drop tables.
-- +goose StatementBegin
CREATE FUNCTION iam_decision_partitions(keep interval) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    day     date := (now() AT TIME ZONE 'UTC')::date;
    name    text;
    changed integer := 0;
BEGIN
    IF keep < interval '1 hour' THEN
        RAISE EXCEPTION 'decisions are kept for an hour or longer';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('iam decision partitions ' || current_schema(), 0));
    FOR i IN 0..2 LOOP
        name := 'decisions_' || to_char(day + i, 'YYYY_MM_DD');
        IF to_regclass(format('%I.%I', current_schema(), name)) IS NULL AND NOT EXISTS (
            SELECT FROM decisions_default WHERE at >= (day + i)::timestamp AT TIME ZONE 'UTC' AND at < (day + i + 1)::timestamp AT TIME ZONE 'UTC') THEN
            EXECUTE format('CREATE TABLE %I PARTITION OF decisions FOR VALUES FROM (%L) TO (%L)',
                name, to_char(day + i, 'YYYY-MM-DD') || ' 00:00:00+00', to_char(day + i + 1, 'YYYY-MM-DD') || ' 00:00:00+00');
            changed := changed + 1;
        END IF;
    END LOOP;
    FOR name IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'decisions'::regclass AND c.relname ~ '^decisions_\d{4}_\d\d_\d\d$'
           AND (to_date(right(c.relname, 10), 'YYYY_MM_DD') + 1)::timestamp AT TIME ZONE 'UTC' < now() - keep
    LOOP
        EXECUTE format('DROP TABLE %I', name);
        changed := changed + 1;
    END LOOP;
    DELETE FROM decisions_default WHERE at < now() - keep;
    RETURN changed;
END
$$;
-- +goose StatementEnd

-- iam_grant_decisions lets a role write decisions down and read them, and nothing else.
-- +goose StatementBegin
CREATE FUNCTION iam_grant_decisions(to_role text) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    r text := quote_ident(to_role);
BEGIN
    EXECUTE 'GRANT USAGE ON SCHEMA ' || quote_ident(current_schema()) || ' TO ' || r;
    EXECUTE 'GRANT SELECT, INSERT ON decisions TO ' || r;
    EXECUTE 'GRANT SELECT ON goose_decisions_version TO ' || r;
    EXECUTE 'GRANT EXECUTE ON FUNCTION iam_decision_partitions(interval) TO ' || r;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION iam_decision_partitions(interval) SET search_path = %I, pg_temp', current_schema());
    ALTER FUNCTION iam_decision_partitions(interval) SET lock_timeout = '2s'; -- who writes does not wait behind it for long
    EXECUTE format('ALTER FUNCTION iam_grant_decisions(text) SET search_path = %I, pg_temp', current_schema());
    REVOKE ALL ON FUNCTION iam_decision_partitions(interval) FROM PUBLIC;
    PERFORM iam_decision_partitions(interval '30 days');
END
$$;
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION iam_grant_decisions(text);
DROP FUNCTION iam_decision_partitions(interval);
DROP TABLE decisions;
