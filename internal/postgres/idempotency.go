package postgres

import (
	"context"
	"encoding/json"
)

// IdempotencyKey identifies a request that may be retried: a caller and the Idempotency-Key that
// it sent.
type IdempotencyKey struct {
	Caller []byte // hash of the caller's identity
	Key    string
}

// StoredResponse is what is stored of a request with an Idempotency-Key.
type StoredResponse struct {
	Request  []byte          // SHA-256 of the request
	Response json.RawMessage // the response; nil: none yet
}

// BeginRequest records that a request begins, or returns what is stored of an earlier request with
// the same key. It waits while that one is in progress, so it comes first in a transaction.
func (tx *Tx) BeginRequest(ctx context.Context, k IdempotencyKey, request []byte) (earlier *StoredResponse, err error) {
	tag, err := tx.tx.Exec(ctx, `
		INSERT INTO idempotency AS i (caller, key, request) VALUES ($1, $2, $3)
		ON CONFLICT ON CONSTRAINT idempotency_pkey DO UPDATE
		   SET request = excluded.request, answer = NULL, created_at = now() WHERE i.created_at < now() - interval '24 hours'`,
		k.Caller, k.Key, request)
	if err != nil || tag.RowsAffected() > 0 {
		return nil, wrap("begin an idempotent request", err)
	}
	earlier = &StoredResponse{}
	_, err = tx.look(ctx, `SELECT request, answer FROM idempotency WHERE caller = $1 AND key = $2`,
		[]any{k.Caller, k.Key}, &earlier.Request, &earlier.Response)
	return earlier, wrap("read a stored response", err)
}

// StoreResponse stores the response that BeginRequest returns to a retry, and the ids of the users
// that it describes, so that erasing one of them erases the response.
func (tx *Tx) StoreResponse(ctx context.Context, k IdempotencyKey, response json.RawMessage, users []string) error {
	_, err := tx.tx.Exec(ctx, `UPDATE idempotency SET answer = $3, users = $4 WHERE caller = $1 AND key = $2`,
		k.Caller, k.Key, []byte(response), list(users))
	return wrap("store a response", err)
}

// DeleteRequest deletes a request whose operation had no effect: a retry runs it again.
func (tx *Tx) DeleteRequest(ctx context.Context, k IdempotencyKey) error {
	_, err := tx.tx.Exec(ctx, `DELETE FROM idempotency WHERE caller = $1 AND key = $2`, k.Caller, k.Key)
	return wrap("delete an idempotent request", err)
}

// expireRequests deletes requests that are too old to be retried.
func (tx *Tx) expireRequests(ctx context.Context) error {
	_, err := tx.tx.Exec(ctx, `DELETE FROM idempotency WHERE created_at < now() - interval '24 hours'`)
	return wrap("expire idempotent requests", err)
}
