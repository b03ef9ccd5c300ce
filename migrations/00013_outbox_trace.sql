-- +goose Up

-- The trace context of the request that changed something (W3C Trace Context, traceparent); null: it had none. The
-- relay passes it on, long after the request has ended.
ALTER TABLE outbox ADD COLUMN traceparent text;
ALTER TABLE outbox ADD CONSTRAINT outbox_traceparent_check CHECK (octet_length(traceparent) <= 100);

-- +goose Down

ALTER TABLE outbox DROP COLUMN traceparent;
