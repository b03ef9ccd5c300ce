package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

// SaveKeys stores the last discovery document and keys of an issuer, for a start while the issuer is
// unreachable.
func (db *DB) SaveKeys(ctx context.Context, issuer string, discovery, jwks []byte, at time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	_, err := db.admin.Exec(ctx, `
		INSERT INTO issuer_keys AS k (issuer, discovery, jwks, fetched_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT ON CONSTRAINT issuer_keys_pkey DO UPDATE
		   SET discovery = excluded.discovery, jwks = excluded.jwks, fetched_at = excluded.fetched_at
		 WHERE k.fetched_at < excluded.fetched_at`,
		issuer, discovery, jwks, at)
	return wrap("store an issuer's keys", err)
}

// LoadKeys returns what SaveKeys stored; a zero time: nothing.
func (db *DB) LoadKeys(ctx context.Context, issuer string) (discovery, jwks []byte, at time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	err = db.admin.QueryRow(ctx, `SELECT discovery, jwks, fetched_at FROM issuer_keys WHERE issuer = $1`, issuer).
		Scan(&discovery, &jwks, &at)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil, time.Time{}, nil
	}
	return discovery, jwks, at, wrap("read an issuer's stored keys", err)
}
