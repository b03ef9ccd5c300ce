package postgres

import (
	"context"
	"encoding/json"
)

// Answered is what became of a request with an Idempotency-Key.
type Answered struct {
	Request []byte          // SHA-256 of what was asked
	Answer  json.RawMessage // nil: not known yet
}

// Begin notes that a caller asks something under a key, or returns what became of it
// when it was asked before. Where that is being asked at this moment, it waits for its
// end. Call it before anything else of a transaction.
func (tx *Tx) Begin(ctx context.Context, caller []byte, key string, request []byte) (before *Answered, err error) {
	tag, err := tx.tx.Exec(ctx, `
		INSERT INTO idempotency AS i (caller, key, request) VALUES ($1, $2, $3)
		ON CONFLICT ON CONSTRAINT idempotency_pkey DO UPDATE
		   SET request = excluded.request, answer = NULL, created_at = now() WHERE i.created_at < now() - interval '24 hours'`,
		caller, key, request)
	if err != nil || tag.RowsAffected() > 0 {
		return nil, wrap("begin under a key", err)
	}
	before = &Answered{}
	_, err = tx.look(ctx, `SELECT request, answer FROM idempotency WHERE caller = $1 AND key = $2`, []any{caller, key}, &before.Request, &before.Answer)
	return before, wrap("read what became of a key", err)
}

// Finish notes the answer that Begin will return, and whom it is about.
func (tx *Tx) Finish(ctx context.Context, caller []byte, key string, answer json.RawMessage, users []string) error {
	_, err := tx.tx.Exec(ctx, `UPDATE idempotency SET answer = $3, users = $4 WHERE caller = $1 AND key = $2`, caller, key, []byte(answer), list(users))
	return wrap("finish under a key", err)
}

// ForgetKey makes as if nothing had been asked under a key: what was begun under it came
// to nothing.
func (tx *Tx) ForgetKey(ctx context.Context, caller []byte, key string) error {
	_, err := tx.tx.Exec(ctx, `DELETE FROM idempotency WHERE caller = $1 AND key = $2`, caller, key)
	return wrap("forget a key", err)
}
