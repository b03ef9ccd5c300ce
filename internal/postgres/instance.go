package postgres

import (
	"context"
)

// Instance is who we are among all that share an identity provider, and whether the
// database is a copy, or was moved: then another one may act under the same id.
func (db *DB) Instance(ctx context.Context) (id string, copied bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	err = db.admin.QueryRow(ctx, `SELECT id::text, home IS DISTINCT FROM iam_home() FROM instance`).Scan(&id, &copied)
	return id, copied, wrap("read who we are", err)
}

// ConfirmInstance confirms that a database which was moved is still the same instance.
func (tx *Tx) ConfirmInstance(ctx context.Context) (id string, err error) {
	err = tx.tx.QueryRow(ctx, `UPDATE instance SET home = iam_home() RETURNING id::text`).Scan(&id)
	return id, wrap("confirm the instance", err)
}

// RenewInstance makes the database another instance, and lets go of all clients that the
// one before made in the identity provider: here they are facts, and nothing else.
func (tx *Tx) RenewInstance(ctx context.Context) (id string, clients int64, err error) {
	err = tx.tx.QueryRow(ctx, `UPDATE instance SET id = gen_random_uuid(), home = iam_home() RETURNING id::text`).Scan(&id)
	if err != nil {
		return "", 0, wrap("renew the instance", err)
	}
	tag, err := tx.tx.Exec(ctx, `DELETE FROM registrations`)
	return id, tag.RowsAffected(), wrap("renew the instance", err)
}
