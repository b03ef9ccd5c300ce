-- +goose Up

-- How often the bus has refused this very event, why, and whether it is parked: then it
-- holds back the events after it of the same object until an operator decides.
ALTER TABLE outbox
    ADD COLUMN tries integer NOT NULL DEFAULT 0,
    ADD COLUMN refused text NOT NULL DEFAULT '',
    ADD COLUMN parked boolean NOT NULL DEFAULT false;
CREATE INDEX outbox_sent_idx ON outbox (sent_at) WHERE sent_at IS NOT NULL;
CREATE INDEX outbox_parked_idx ON outbox (kind, object, seq) WHERE parked;

-- +goose Down
DROP INDEX outbox_parked_idx;
DROP INDEX outbox_sent_idx;
ALTER TABLE outbox DROP COLUMN tries, DROP COLUMN refused, DROP COLUMN parked;
