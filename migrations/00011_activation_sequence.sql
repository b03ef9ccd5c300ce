-- +goose Up

-- A restore or a failover can lose activations that replicas have seen. Replicas never go below the
-- sequence that they have seen, so the next activation must lie above it.
ALTER TABLE policy_replicas ADD COLUMN seq bigint NOT NULL DEFAULT 0;

-- +goose StatementBegin
CREATE FUNCTION iam_next_activation() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    NEW.seq := greatest(NEW.seq, (SELECT max(seq) + 1 FROM policy_activations), (SELECT max(seq) + 1 FROM policy_replicas));
    RETURN NEW;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER policy_activations_sequence BEFORE INSERT ON policy_activations FOR EACH ROW EXECUTE FUNCTION iam_next_activation();

-- +goose Down
DROP TRIGGER policy_activations_sequence ON policy_activations;
DROP FUNCTION iam_next_activation();
ALTER TABLE policy_replicas DROP COLUMN seq;
