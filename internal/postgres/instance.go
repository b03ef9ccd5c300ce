package postgres

import (
	"context"
)

// Instance returns the id of this service among those that share an identity provider. copied: the
// database was copied or moved, so that another instance may act under the same id.
func (db *DB) Instance(ctx context.Context) (id string, copied bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	err = db.admin.QueryRow(ctx, `SELECT id::text, home IS DISTINCT FROM iam_home() FROM instance`).Scan(&id, &copied)
	return id, copied, wrap("read the instance", err)
}

// ConfirmInstance confirms that a moved database is still the same instance.
func (tx *Tx) ConfirmInstance(ctx context.Context) (id string, err error) {
	err = tx.tx.QueryRow(ctx, `UPDATE instance SET home = iam_home() RETURNING id::text`).Scan(&id)
	return id, wrap("confirm the instance", err)
}

// RenewInstance makes the database a new instance. The clients that the previous instance created in
// the identity provider are no longer managed: only their facts stay.
func (tx *Tx) RenewInstance(ctx context.Context) (id string, clients int64, err error) {
	err = tx.tx.QueryRow(ctx, `UPDATE instance SET id = gen_random_uuid(), home = iam_home() RETURNING id::text`).Scan(&id)
	if err != nil {
		return "", 0, wrap("renew the instance", err)
	}
	tag, err := tx.tx.Exec(ctx, `DELETE FROM registrations`)
	return id, tag.RowsAffected(), wrap("renew the instance", err)
}
