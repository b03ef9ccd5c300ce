package postgres

import (
	"context"
	"encoding/json"
	"time"

	"iam-service/internal/iam"
)

// ComparedClients records a comparison of the clients with the identity provider, in place of the one before.
func (db *DB) ComparedClients(ctx context.Context, c iam.ClientComparison) error {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	_, err := db.admin.Exec(ctx, `
		INSERT INTO client_comparison (compared_at, compared, pending, others, kinds, remaining, stopped) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT ON CONSTRAINT client_comparison_pkey DO UPDATE
		   SET compared_at = excluded.compared_at, compared = excluded.compared, pending = excluded.pending, others = excluded.others,
		       kinds = excluded.kinds, remaining = excluded.remaining, stopped = excluded.stopped`,
		c.At, c.Compared, c.Pending, c.Others, c.Kinds, c.Remaining, c.Stopped)
	return wrap("record a comparison of clients", err)
}

// ClientComparison is the last comparison of the clients with the identity provider, and whether there was one.
func (tx *Tx) ClientComparison(ctx context.Context) (c iam.ClientComparison, found bool, err error) {
	found, err = tx.look(ctx, `SELECT compared_at, compared, pending, others, kinds, remaining, stopped FROM client_comparison`, nil,
		&c.At, &c.Compared, &c.Pending, &c.Others, &c.Kinds, &c.Remaining, &c.Stopped)
	return c, found, wrap("read the last comparison of clients", err)
}

// Schedule says when an operation may be claimed, by the database's clock. The zero value: at once.
type Schedule struct {
	Lease time.Duration // how long the writer alone works on the operation
	Retry time.Duration // how long after a failure it is due again
}

// PutRegistration creates or replaces the registration of a client: the state that the identity
// provider should have, and the operation that leads there.
func (tx *Tx) PutRegistration(ctx context.Context, c iam.ManagedClient, s Schedule) error {
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
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, nullif($9, ''), nullif($10, '')::uuid,
		        clock_timestamp() + $11::interval, clock_timestamp() + $12::interval, $13, $14, $15, $16, $17, $18, $19)
		ON CONFLICT ON CONSTRAINT registrations_pkey DO UPDATE
		   SET wanted = excluded.wanted, wanted_version = excluded.wanted_version, applied = excluded.applied, before = excluded.before,
		       sync = excluded.sync, reason = excluded.reason, operation = excluded.operation, operation_id = excluded.operation_id,
		       begun_at = CASE WHEN r.operation_id IS NOT DISTINCT FROM excluded.operation_id THEN r.begun_at ELSE now() END,
		       lease_until = excluded.lease_until, next_try = excluded.next_try, tries = excluded.tries, secret_state = excluded.secret_state, secrets = excluded.secrets,
		       (last_operation, last_outcome, last_reason, last_tries, last_begun_at, last_ended_at) = (
		           SELECT r.operation,
		                  CASE WHEN excluded.operation_id IS NOT NULL THEN 'replaced'
		                       WHEN excluded.sync = 'failed' OR excluded.reason <> '' THEN 'failed' ELSE 'confirmed' END,
		                  excluded.reason, r.tries, r.begun_at, clock_timestamp()
		            WHERE r.operation_id <> coalesce(excluded.operation_id, '00000000-0000-0000-0000-000000000000')
		            UNION ALL
		           SELECT r.last_operation, r.last_outcome, r.last_reason, r.last_tries, r.last_begun_at, r.last_ended_at
		            WHERE r.operation_id IS NULL OR r.operation_id = excluded.operation_id),
		       overlap_from = excluded.overlap_from, retire_at = excluded.retire_at, warned = excluded.warned,
		       applied_version = excluded.applied_version, updated_at = now()`,
		c.Issuer, c.ClientID, wanted, c.WantedVersion, applied, before, c.Sync, c.Reason, c.Operation, c.OperationID,
		s.Lease, s.Retry, c.Tries, c.SecretState, c.Secrets, optional(c.OverlapFrom), optional(c.RetireAt), c.Warned, c.AppliedMark)
	return wrap("put a registration", err)
}

// SavePublished stores the state of a client that events last published, while a change is pending.
func (tx *Tx) SavePublished(ctx context.Context, c iam.ManagedClient) error {
	before, err := json.Marshal(c.Before)
	if err == nil {
		_, err = tx.tx.Exec(ctx, `UPDATE registrations SET before = $3 WHERE issuer = $1 AND client_id = $2`, c.Issuer, c.ClientID, before)
	}
	return wrap("save the published state of a client", err)
}

// Claim selects operations of an issuer's clients to claim.
type Claim struct {
	Issuer string
	Lease  time.Duration // for how long
	// RetryOlder makes an operation that waits for its retry due early if its last attempt was before
	// this time; zero: none.
	RetryOlder time.Time
	Limit      int // at most so many
}

// ClaimClients claims due operations that no replica has leased. It is one statement, since it is polled.
func (db *DB) ClaimClients(ctx context.Context, c Claim) (claimed []iam.ManagedClient, err error) {
	if c.Limit <= 0 {
		return nil, nil
	}
	// Materialized: otherwise the planner may apply the limit once for each joined row.
	ids, err := db.ids(ctx, "claim operations", `
		WITH due AS MATERIALIZED (
		     SELECT client_id FROM registrations
		      WHERE issuer = $1 AND operation IS NOT NULL
		        AND (next_try <= now() OR tries > 0 AND updated_at < $4) AND (lease_until IS NULL OR lease_until <= now())
		      ORDER BY next_try LIMIT $3 FOR UPDATE SKIP LOCKED)
		UPDATE registrations r SET lease_until = now() + $2::interval
		  FROM due
		 WHERE r.issuer = $1 AND r.client_id = due.client_id
		RETURNING r.client_id`, c.Issuer, c.Lease, c.Limit, optional(c.RetryOlder))
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	err = db.View(ctx, func(ctx context.Context, tx *Tx) (err error) {
		claimed, err = tx.managed(ctx, ` WHERE c.issuer = $1 AND c.client_id = ANY ($2)`, c.Issuer, ids)
		return err
	})
	return claimed, err
}

// DueOverlaps returns the clients of an issuer whose old secret is due to end, or due for a warning (a
// quarter of the overlap is left and no event was published). A client that does not authenticate
// with a secret is not due: the provider would reject the revocation of the secret.
func (db *DB) DueOverlaps(ctx context.Context, issuer string, most int) ([]string, error) {
	if most <= 0 {
		return nil, nil
	}
	return db.ids(ctx, "find old secrets", `
		SELECT r.client_id FROM registrations r
		 WHERE r.issuer = $1 AND r.retire_at IS NOT NULL AND r.operation IS NULL AND r.next_try <= now()
		   AND r.wanted->>'token_endpoint_auth_method' LIKE 'client\_secret\_%'
		   AND (r.retire_at <= now() OR NOT r.warned AND r.retire_at - (r.retire_at - r.overlap_from) / 4 <= now())
		 ORDER BY r.retire_at LIMIT $2`, issuer, most)
}

// ClientsState is the backlog of operations in the identity provider.
type ClientsState struct {
	Pending, Failed, SecretUnknown int64
	Oldest                         time.Duration // age of the oldest pending operation
}

// Clients returns the backlog of operations.
func (db *DB) Clients(ctx context.Context) (s ClientsState, err error) {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	return clientsState(ctx, db.admin)
}

// ClientsState is DB.Clients in a transaction.
func (tx *Tx) ClientsState(ctx context.Context) (ClientsState, error) {
	return clientsState(ctx, tx.tx)
}

func clientsState(ctx context.Context, q querier) (s ClientsState, err error) {
	var seconds float64
	err = q.QueryRow(ctx, `
		SELECT count(*) FILTER (WHERE r.operation IS NOT NULL), count(*) FILTER (WHERE r.sync = 'failed'),
		       count(*) FILTER (WHERE r.secret_state = 'unknown' AND c.status <> 'deleted'
		                          AND r.wanted->>'token_endpoint_auth_method' LIKE 'client\_secret\_%'),
		       coalesce(extract(epoch FROM now() - min(r.begun_at) FILTER (WHERE r.operation IS NOT NULL)), 0)::float8
		  FROM registrations r JOIN clients c ON c.issuer = r.issuer AND c.client_id = r.client_id
		 WHERE r.operation IS NOT NULL OR r.sync = 'failed' OR r.secret_state = 'unknown'`).
		Scan(&s.Pending, &s.Failed, &s.SecretUnknown, &seconds)
	s.Oldest = time.Duration(max(0, seconds) * float64(time.Second))
	return s, wrap("count operations", err)
}
