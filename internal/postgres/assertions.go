package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/iam"
)

// AssertionKeys returns the keys that sign assertions.
func (db *DB) AssertionKeys(ctx context.Context) (set iam.AssertionKeys, err error) {
	err = db.View(ctx, func(ctx context.Context, tx *Tx) error {
		set, err = tx.assertionKeys(ctx, "")
		return err
	})
	return set, err
}

// ChangeAssertionKeys changes the keys: one change at a time, so decide sees the outcome of the one before. It
// returns the keys after it. decide must have no side effect, since a change can be retried.
func (db *DB) ChangeAssertionKeys(ctx context.Context, decide func(iam.AssertionKeys) (iam.AssertionKeyChange, error)) (set iam.AssertionKeys, err error) {
	err = db.Change(ctx, func(ctx context.Context, tx *Tx) error {
		if set, err = tx.assertionKeys(ctx, " FOR UPDATE"); err != nil {
			return err
		}
		change, err := decide(set)
		if err != nil || change.Empty() {
			return err
		}
		if err := tx.writeAssertionKeys(ctx, change); err != nil {
			return err
		}
		if set, err = tx.assertionKeys(ctx, ""); err != nil {
			return err
		}
		return tx.Append(ctx, change.Audit, nil)
	})
	return set, err
}

func (tx *Tx) assertionKeys(ctx context.Context, lock string) (set iam.AssertionKeys, err error) {
	if err := tx.tx.QueryRow(ctx, `SELECT seq FROM assertion_key_set`+lock).Scan(&set.Seq); err != nil {
		return set, wrap("read the sequence of assertion keys", err)
	}
	if set.Now, err = tx.Now(ctx); err != nil { // after the lock was waited for
		return set, err
	}
	set.Keys, err = collect(ctx, tx, statement{doing: "read the assertion keys", sql: `
		SELECT kid, alg, public, sealed, proof, sealed_by, created_at, signs_from, signs_until, published_until, revoked_at
		  FROM assertion_keys ORDER BY signs_from, kid`},
		func(row pgx.CollectableRow) (k iam.AssertionKey, err error) {
			var revoked *time.Time
			var public string
			err = row.Scan(&k.ID, &k.Algorithm, &public, &k.Sealed, &k.Proof, &k.SealedBy, &k.CreatedAt, &k.SignsFrom, &k.SignsUntil, &k.PublishedUntil, &revoked)
			if revoked != nil {
				k.RevokedAt = *revoked
			}
			k.Public = []byte(public)
			return k, err
		})
	return set, err
}

func (tx *Tx) writeAssertionKeys(ctx context.Context, c iam.AssertionKeyChange) error {
	for _, k := range c.Put {
		var revoked *time.Time
		if !k.RevokedAt.IsZero() {
			revoked = &k.RevokedAt
		}
		_, err := tx.tx.Exec(ctx, `
			INSERT INTO assertion_keys (kid, alg, public, sealed, proof, sealed_by, created_at, signs_from, signs_until, published_until, revoked_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
			ON CONFLICT ON CONSTRAINT assertion_keys_pkey DO UPDATE
			   SET sealed = excluded.sealed, proof = excluded.proof, sealed_by = excluded.sealed_by, signs_from = excluded.signs_from, signs_until = excluded.signs_until,
			       published_until = excluded.published_until, revoked_at = excluded.revoked_at`,
			k.ID, k.Algorithm, string(k.Public), k.Sealed, k.Proof, k.SealedBy, k.CreatedAt, k.SignsFrom, k.SignsUntil, k.PublishedUntil, revoked)
		if err != nil {
			return wrap("store an assertion key", err)
		}
	}
	if _, err := tx.tx.Exec(ctx, `DELETE FROM assertion_keys WHERE kid = ANY($1)`, c.Delete); err != nil {
		return wrap("delete assertion keys", err)
	}
	_, err := tx.tx.Exec(ctx, `UPDATE assertion_key_set SET seq = greatest(seq + 1, $1)`, c.MinSeq)
	return wrap("count a change of the assertion keys", err)
}
