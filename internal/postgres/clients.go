package postgres

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/iam"
)

// ClientFilter says which clients; what is empty does not matter.
type ClientFilter struct {
	Issuer, Tenant, Status, Sync, Type, Role string

	Name  string // a part of it, whatever its case
	After string // client_id
	Limit int
}

// ManagedClients lists clients by id, but for those that are deleted here and in the
// identity provider.
func (tx *Tx) ManagedClients(ctx context.Context, f ClientFilter) ([]iam.ManagedClient, error) {
	var w where
	w.only("c.issuer = $%d", f.Issuer)
	w.conditions = append(w.conditions, "(c.status <> 'deleted' OR r.operation IS NOT NULL)")
	w.only("c.tenant = $%d", f.Tenant)
	w.only("c.status = $%d", f.Status)
	w.only("r.sync = $%d", f.Sync)
	w.only("r.client_id IS NOT NULL AND CASE r.wanted->>'token_endpoint_auth_method' WHEN 'none' THEN 'public' ELSE 'confidential' END = $%d", f.Type)
	if f.Role != "" {
		w.and("c.roles @> $%d", []string{f.Role})
	}
	w.only("position(lower($%d) IN lower(r.wanted->>'client_name')) > 0", f.Name)
	w.only("c.client_id > $%d", f.After)
	return tx.managed(ctx, w.sql("c.client_id", f.Limit), w.args...)
}

// ManagedClient returns one client, and whether there is one. Locked, nobody else changes
// it until the transaction ends.
func (tx *Tx) ManagedClient(ctx context.Context, issuer, id string, lock bool) (iam.ManagedClient, bool, error) {
	if lock {
		// A row that is locked by the query that joins it could be joined with what was before.
		_, err := tx.tx.Exec(ctx, `SELECT FROM clients WHERE issuer = $1 AND client_id = $2 FOR NO KEY UPDATE`, issuer, id)
		if err == nil { // also from being claimed
			_, err = tx.tx.Exec(ctx, `SELECT FROM registrations WHERE issuer = $1 AND client_id = $2 FOR NO KEY UPDATE`, issuer, id)
		}
		if err != nil {
			return iam.ManagedClient{}, false, wrap("lock a client", err)
		}
	}
	all, err := tx.managed(ctx, ` WHERE c.issuer = $1 AND c.client_id = $2`, issuer, id)
	return first(all), len(all) > 0, err
}

// WhichAreManaged are those of some ids that are of clients which we made.
func (tx *Tx) WhichAreManaged(ctx context.Context, issuer string, ids []string) ([]string, error) {
	return collect(ctx, tx, "look for clients", `SELECT client_id FROM registrations WHERE issuer = $1 AND client_id = ANY ($2)`, []any{issuer, ids}, pgx.RowTo[string])
}

// AllManagedClients calls each for every client of an issuer that we made there, those
// included that are deleted and remembered.
func (tx *Tx) AllManagedClients(ctx context.Context, issuer string, each func(iam.ManagedClient)) error {
	const page = 1000
	for after := ""; ; {
		list, err := tx.managed(ctx, ` WHERE c.issuer = $1 AND c.client_id > $2 AND r.client_id IS NOT NULL ORDER BY c.client_id LIMIT $3`, issuer, after, page)
		if err != nil {
			return err
		}
		for _, c := range list {
			each(c)
		}
		if len(list) < page {
			return nil
		}
		after = list[page-1].ClientID
	}
}

func (tx *Tx) managed(ctx context.Context, tail string, args ...any) ([]iam.ManagedClient, error) {
	return collect(ctx, tx, "read clients", `
		SELECT c.issuer, c.client_id, coalesce(c.tenant, ''), c.status, c.roles, c.scopes, c.tokens_not_before, c.version, c.created_at,
		       greatest(c.updated_at, r.updated_at), r.client_id IS NOT NULL, coalesce(r.wanted, '{}'), coalesce(r.wanted_version, 0), r.applied, coalesce(r.applied_version, 0), r.before,
		       coalesce(r.sync, ''), coalesce(r.reason, ''), coalesce(r.operation, ''), coalesce(r.operation_id::text, ''),
		       coalesce(extract(epoch FROM r.lease_until - clock_timestamp()), 0)::float8, coalesce(r.tries, 0), coalesce(r.secret_state, ''), coalesce(r.secrets, 0), r.overlap_from, r.retire_at, coalesce(r.warned, false)
		  FROM clients c LEFT JOIN registrations r ON r.issuer = c.issuer AND r.client_id = c.client_id`+tail, args,
		func(row pgx.CollectableRow) (c iam.ManagedClient, err error) {
			var notBefore, from, retire *time.Time
			var lease float64
			var wanted, applied, before []byte
			err = row.Scan(&c.Issuer, &c.ClientID, &c.Tenant, &c.Status, &c.Roles, &c.Scopes, &notBefore, &c.Version, &c.CreatedAt,
				&c.UpdatedAt, &c.Managed, &wanted, &c.WantedVersion, &applied, &c.AppliedMark, &before,
				&c.Sync, &c.Reason, &c.Operation, &c.OperationID,
				&lease, &c.Tries, &c.SecretState, &c.Secrets, &from, &retire, &c.Warned)
			if err != nil {
				return c, err
			}
			c.TokensNotBefore, c.OverlapFrom, c.RetireAt = deref(notBefore), deref(from), deref(retire)
			c.LeaseLeft = time.Duration(max(0, lease) * float64(time.Second))
			if err = json.Unmarshal(wanted, &c.Wanted); err == nil && applied != nil {
				err = json.Unmarshal(applied, &c.Applied)
			}
			if err == nil && before != nil {
				err = json.Unmarshal(before, &c.Before)
			}
			return c, err
		})
}

// PutRegistration makes or replaces what the identity provider should know of a client.
// Whoever writes it is at it for the time of the lease, and after a failure it is tried
// again after retry, by the database's clock.
func (tx *Tx) PutRegistration(ctx context.Context, c iam.ManagedClient, lease, retry time.Duration) error {
	var applied, before any
	wanted, err := json.Marshal(c.Wanted)
	if err != nil {
		return wrap("encode a registration", err)
	}
	if c.Applied != nil {
		if applied, err = json.Marshal(c.Applied); err != nil {
			return wrap("encode a registration", err)
		}
	}
	if c.Before != nil {
		if before, err = json.Marshal(c.Before); err != nil {
			return wrap("encode a registration", err)
		}
	}
	_, err = tx.tx.Exec(ctx, `
		INSERT INTO registrations AS r (issuer, client_id, wanted, wanted_version, applied, before, sync, reason, operation, operation_id,
		                                lease_until, next_try, tries, secret_state, secrets, overlap_from, retire_at, warned, applied_version)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, nullif($9, ''), nullif($10, '')::uuid, clock_timestamp() + $11::interval, clock_timestamp() + $12::interval, $13, $14, $15, $16, $17, $18, $19)
		ON CONFLICT ON CONSTRAINT registrations_pkey DO UPDATE
		   SET wanted = excluded.wanted, wanted_version = excluded.wanted_version, applied = excluded.applied, before = excluded.before, sync = excluded.sync,
		       reason = excluded.reason, operation = excluded.operation, operation_id = excluded.operation_id,
		       begun_at = CASE WHEN r.operation_id IS NOT DISTINCT FROM excluded.operation_id THEN r.begun_at ELSE now() END, lease_until = excluded.lease_until,
		       next_try = excluded.next_try, tries = excluded.tries, secret_state = excluded.secret_state, secrets = excluded.secrets,
		       overlap_from = excluded.overlap_from, retire_at = excluded.retire_at, warned = excluded.warned, applied_version = excluded.applied_version, updated_at = now()`,
		c.Issuer, c.ClientID, wanted, c.WantedVersion, applied, before, c.Sync, c.Reason, c.Operation, c.OperationID,
		lease, retry, c.Tries, c.SecretState, c.Secrets, optional(c.OverlapFrom), optional(c.RetireAt), c.Warned, c.AppliedMark)
	return wrap("put a registration", err)
}

// KeepBefore keeps what was told of a client before a change that is pending.
func (tx *Tx) KeepBefore(ctx context.Context, c iam.ManagedClient) error {
	before, err := json.Marshal(c.Before)
	if err == nil {
		_, err = tx.tx.Exec(ctx, `UPDATE registrations SET before = $3 WHERE issuer = $1 AND client_id = $2`, c.Issuer, c.ClientID, before)
	}
	return wrap("keep what was told of a client", err)
}

// TouchClient gives a client another version: what is known of it has changed, and no fact.
func (tx *Tx) TouchClient(ctx context.Context, issuer, id string) (version int64, err error) {
	err = tx.tx.QueryRow(ctx, `UPDATE clients SET version = nextval('iam_versions') WHERE issuer = $1 AND client_id = $2 RETURNING version`, issuer, id).Scan(&version)
	return version, wrap("touch a client", err)
}

// Now is the database's clock, by which times are kept that another replica judges.
func (tx *Tx) Now(ctx context.Context) (now time.Time, err error) {
	err = tx.tx.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&now)
	return now, wrap("read the clock", err)
}

// ShareGlobalRoles keeps the global roles as they are until the transaction ends. Take it
// before any row.
func (tx *Tx) ShareGlobalRoles(ctx context.Context) error {
	_, err := tx.tx.Exec(ctx, `SELECT pg_advisory_xact_lock_shared(`+globalRoles+`)`)
	return wrap("lock the global roles", err)
}

// ForgetClient deletes a client that was never made.
func (tx *Tx) ForgetClient(ctx context.Context, issuer, id string) error {
	_, err := tx.tx.Exec(ctx, `DELETE FROM clients WHERE issuer = $1 AND client_id = $2`, issuer, id)
	return wrap("forget a client", err)
}

// ForgetDeletedClients forgets some clients that were deleted in the identity provider too, and
// whose last token has expired since: no more at once than are notified each by its key. It
// returns how many.
func (tx *Tx) ForgetDeletedClients(ctx context.Context, lifetime time.Duration) (int64, error) {
	tag, err := tx.tx.Exec(ctx, `
		WITH old AS MATERIALIZED (
		    SELECT c.issuer, c.client_id FROM clients c LEFT JOIN registrations r ON r.issuer = c.issuer AND r.client_id = c.client_id
		     WHERE c.status = 'deleted' AND r.operation IS NULL AND greatest(c.updated_at, r.updated_at) < now() - $1::interval LIMIT 1000)
		DELETE FROM clients WHERE (issuer, client_id) IN (SELECT issuer, client_id FROM old)`, lifetime)
	return tag.RowsAffected(), wrap("forget deleted clients", err)
}

// DetachDeletedClients lets a tenant go whose clients are all deleted, here and in the
// identity provider: they are still refused, and belong to nobody.
func (tx *Tx) DetachDeletedClients(ctx context.Context, tenant string) error {
	_, err := tx.tx.Exec(ctx, `
		UPDATE clients c SET tenant = NULL
		 WHERE tenant = $1 AND status = 'deleted'
		   AND NOT EXISTS (SELECT FROM registrations r WHERE r.issuer = c.issuer AND r.client_id = c.client_id AND r.operation IS NOT NULL)`, tenant)
	return wrap("detach deleted clients", err)
}

// ForgetKey makes as if nothing had been asked under a key: what was begun under it came
// to nothing.
func (tx *Tx) ForgetKey(ctx context.Context, caller []byte, key string) error {
	_, err := tx.tx.Exec(ctx, `DELETE FROM idempotency WHERE caller = $1 AND key = $2`, caller, key)
	return wrap("forget a key", err)
}

// ClaimClients takes over operations of an issuer's clients that nobody is at, and that
// are due, for the time of the lease: at most some. It is one statement, for who looks
// often. What waits to be tried again is due as well if the last try was before retried.
func (db *DB) ClaimClients(ctx context.Context, issuer string, lease time.Duration, retried time.Time, most int) (claimed []iam.ManagedClient, err error) {
	if most <= 0 {
		return nil, nil
	}
	// Materialized: the planner could run the limit anew for each row that it joins.
	ids, err := db.ids(ctx, "claim operations", `
		WITH due AS MATERIALIZED (
		     SELECT client_id FROM registrations
		      WHERE issuer = $1 AND operation IS NOT NULL AND (next_try <= now() OR tries > 0 AND updated_at < $4) AND (lease_until IS NULL OR lease_until <= now())
		      ORDER BY next_try LIMIT $3 FOR UPDATE SKIP LOCKED)
		UPDATE registrations r SET lease_until = now() + $2::interval
		  FROM due
		 WHERE r.issuer = $1 AND r.client_id = due.client_id
		RETURNING r.client_id`, issuer, lease, most, optional(retried))
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	err = db.View(ctx, func(ctx context.Context, tx *Tx) (err error) {
		claimed, err = tx.managed(ctx, ` WHERE c.issuer = $1 AND c.client_id = ANY ($2)`, issuer, ids)
		return err
	})
	return claimed, err
}

// DueOverlaps are the clients of an issuer of which an old secret ends, or ends soon: a
// quarter of its time is left, and nobody was told. Of one that does not authenticate with
// a secret it ends when it does again: until then the provider would refuse to end it.
func (db *DB) DueOverlaps(ctx context.Context, issuer string, most int) ([]string, error) {
	if most <= 0 {
		return nil, nil
	}
	return db.ids(ctx, "look for old secrets", `
		SELECT r.client_id FROM registrations r
		 WHERE r.issuer = $1 AND r.retire_at IS NOT NULL AND r.operation IS NULL AND r.next_try <= now()
		   AND r.wanted->>'token_endpoint_auth_method' LIKE 'client\_secret\_%'
		   AND (r.retire_at <= now() OR NOT r.warned AND r.retire_at - (r.retire_at - r.overlap_from) / 4 <= now())
		 ORDER BY r.retire_at LIMIT $2`, issuer, most)
}

// ids runs one statement outside of a transaction.
func (db *DB) ids(ctx context.Context, doing, sql string, args ...any) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	rows, err := db.admin.Query(ctx, sql, args...)
	if err != nil {
		return nil, wrap(doing, err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return list, wrap(doing, err)
}

// Instance is who we are among all that share an identity provider, and whether the
// database is a copy, or was moved: then another one may act under the same id.
func (db *DB) Instance(ctx context.Context) (id string, copied bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	err = db.admin.QueryRow(ctx, `SELECT id::text, home IS DISTINCT FROM iam_home() FROM instance`).Scan(&id, &copied)
	return id, copied, wrap("read who we are", err)
}

// KeepInstance confirms that a database which was moved is still the same instance.
func (tx *Tx) KeepInstance(ctx context.Context) (id string, err error) {
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

// ClientsState is what waits between us and the identity provider.
type ClientsState struct {
	Pending, Failed, SecretUnknown int64
	Oldest                         time.Duration // of what is pending
}

// Clients returns what waits.
func (db *DB) Clients(ctx context.Context) (s ClientsState, err error) {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	var seconds float64
	err = db.admin.QueryRow(ctx, `
		SELECT count(*) FILTER (WHERE r.operation IS NOT NULL), count(*) FILTER (WHERE r.sync = 'failed'),
		       count(*) FILTER (WHERE r.secret_state = 'unknown' AND c.status <> 'deleted' AND r.wanted->>'token_endpoint_auth_method' LIKE 'client\_secret\_%'),
		       coalesce(extract(epoch FROM now() - min(r.begun_at) FILTER (WHERE r.operation IS NOT NULL)), 0)::float8
		  FROM registrations r JOIN clients c ON c.issuer = r.issuer AND c.client_id = r.client_id
		 WHERE r.operation IS NOT NULL OR r.sync = 'failed' OR r.secret_state = 'unknown'`).
		Scan(&s.Pending, &s.Failed, &s.SecretUnknown, &seconds)
	s.Oldest = time.Duration(max(0, seconds) * float64(time.Second))
	return s, wrap("count operations", err)
}

// Held is a lock that lasts as long as a connection of its own to the primary.
type Held struct{ conn *pgx.Conn }

// TryHold takes a lock that only one replica has, or reports that another one has it.
func (db *DB) TryHold(ctx context.Context, name string) (h *Held, got bool, err error) {
	conn, got, err := db.hold(ctx, name)
	if err != nil || !got {
		return nil, false, err
	}
	return &Held{conn}, true, nil
}

// Check fails where the lock is lost.
func (h *Held) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, relayLimit)
	defer cancel()
	_, err := h.conn.Exec(ctx, `SELECT 1`) // as in DB.Ping
	return err
}

// Close gives the lock back.
func (h *Held) Close() { closeNow(h.conn) }
