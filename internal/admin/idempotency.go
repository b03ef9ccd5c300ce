package admin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"slices"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// IdempotencyKey identifies a request that a caller may send again.
type IdempotencyKey struct {
	Key     string
	Request [sha256.Size]byte // hash of the request: a key is not reused for another one
}

// Repeatable is a request that its caller may send again.
type Repeatable struct {
	Caller Caller
	Task   Task
	Key    IdempotencyKey
}

// DoOnce is Do for a request with an idempotency key: the result of the first one is stored
// as JSON with the change itself, and a repeated one returns it.
func DoOnce[T any](ctx context.Context, s *Service, q Repeatable, do func(context.Context, *Work) (T, error)) (result T, replayed bool, err error) {
	r := &repeatable{
		IdempotencyKey: q.Key,
		encode:         func() (json.RawMessage, error) { return json.Marshal(result) },
		decode: func(stored json.RawMessage) error {
			replayed = true
			d := json.NewDecoder(bytes.NewReader(stored))
			d.UseNumber()
			return d.Decode(&result)
		},
	}
	err = s.run(ctx, q.Caller, q.Task, r, func(ctx context.Context, w *Work) (err error) {
		replayed = false
		result, err = do(ctx, w)
		return err
	})
	if err != nil {
		var none T
		return none, false, err
	}
	return result, replayed, nil
}

// repeatable is a request with an idempotency key, and how its result is stored.
type repeatable struct {
	IdempotencyKey
	encode func() (json.RawMessage, error)
	decode func(json.RawMessage) error
}

// replay returns the stored result of the first request.
func (r *repeatable) replay(stored *postgres.StoredResponse) error {
	if !slices.Equal(stored.Request, r.Request[:]) {
		return &iam.Error{Kind: iam.Invalid, Code: "idempotency_key_reused", Detail: "this Idempotency-Key was used for another request"}
	}
	if len(stored.Response) == 0 {
		return &iam.Error{
			Kind: iam.Conflict, Code: "answer_forgotten",
			Detail: "the first request succeeded; its user has been erased since, and the stored response with them",
		}
	}
	return r.decode(stored.Response)
}

// ForgetKey frees the key of a request that had no effect: it may be sent again.
func (s *Service) ForgetKey(ctx context.Context, c Caller, key string) error {
	return s.cfg.DB.Change(ctx, func(ctx context.Context, tx *postgres.Tx) error { return tx.DeleteRequest(ctx, c.idempotencyKey(key)) })
}

// SetResult replaces the stored result of a request.
func (s *Service) SetResult(ctx context.Context, c Caller, key string, result json.RawMessage) error {
	return s.cfg.DB.Change(ctx, func(ctx context.Context, tx *postgres.Tx) error {
		return tx.StoreResponse(ctx, c.idempotencyKey(key), result, nil)
	})
}
