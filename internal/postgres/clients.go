package postgres

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/iam"
)

// PutClient is Tx.PutClient in a transaction of its own.
func (db *DB) PutClient(ctx context.Context, c iam.Client) error {
	return db.Change(ctx, func(ctx context.Context, tx *Tx) error {
		_, err := tx.PutClient(ctx, c)
		return err
	})
}

// PutClient creates a client or replaces its tenant, status, roles, scopes and tokens_not_before, and
// returns the new version.
func (tx *Tx) PutClient(ctx context.Context, c iam.Client) (version int64, err error) {
	faults := c.Check()
	issuer, trusted := tx.issuers.Find(c.Issuer)
	if !trusted {
		faults = append(faults, iam.FieldError{Pointer: "/issuer", Detail: "is not a trusted issuer"})
	}
	switch {
	case c.Tenant != "" && trusted && !issuer.Reaches(c.Tenant):
		faults = append(faults, outOfReach("/tenant"))
	case c.Tenant == "" && trusted && !issuer.Platform:
		faults = append(faults, iam.FieldError{Pointer: "/tenant", Detail: "clients of this issuer need a tenant"})
	}
	if err := iam.InvalidFields(faults); err != nil {
		return 0, err
	}
	if c.Tenant == "" {
		err = tx.LockGlobalRolesShared(ctx)
	} else {
		err = tx.LockRoles(ctx, c.Tenant)
	}
	if err != nil {
		return 0, err
	}
	known, err := roleNames(ctx, tx.tx, c.Tenant)
	if err == nil {
		err = iam.InvalidFields(unknownRoles(known, c.Roles, "/roles"))
	}
	if err != nil {
		return 0, wrap("put a client", err)
	}
	err = tx.tx.QueryRow(ctx, `
		INSERT INTO clients AS c (issuer, client_id, tenant, status, roles, scopes, tokens_not_before)
		VALUES ($1, $2, nullif($3, ''), $4, $5, $6, $7)
		ON CONFLICT ON CONSTRAINT clients_pkey DO UPDATE
		   SET tenant = excluded.tenant, status = excluded.status, roles = excluded.roles, scopes = excluded.scopes,
		       tokens_not_before = excluded.tokens_not_before, version = nextval('iam_versions'), updated_at = now()
		RETURNING version`,
		c.Issuer, c.ClientID, c.Tenant, c.Status, list(c.Roles), list(c.Scopes), optional(c.TokensNotBefore)).Scan(&version)
	return version, wrap("put a client", err)
}

// ClientFilter selects clients; an empty field matches all.
type ClientFilter struct {
	Issuer, Tenant, Status, Sync, Type, Role string

	Name  string // a part of the name, ignoring case
	After string // client_id of the last client of the page before
	Limit int
}

// ManagedClients lists clients by id, except those that are deleted both here and in the
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

// ManagedClient returns one client, and whether it exists.
func (tx *Tx) ManagedClient(ctx context.Context, issuer, id string) (iam.ManagedClient, bool, error) {
	all, err := tx.managed(ctx, ` WHERE c.issuer = $1 AND c.client_id = $2`, issuer, id)
	return first(all), len(all) > 0, err
}

// ManagedClientForUpdate is ManagedClient with row locks: no other transaction changes the client
// or claims its operation until this one ends.
func (tx *Tx) ManagedClientForUpdate(ctx context.Context, issuer, id string) (iam.ManagedClient, bool, error) {
	// Locked first and read then: a query that locks a row and joins it could join an older version.
	_, err := tx.tx.Exec(ctx, `SELECT FROM clients WHERE issuer = $1 AND client_id = $2 FOR NO KEY UPDATE`, issuer, id)
	if err == nil {
		_, err = tx.tx.Exec(ctx, `SELECT FROM registrations WHERE issuer = $1 AND client_id = $2 FOR NO KEY UPDATE`, issuer, id)
	}
	if err != nil {
		return iam.ManagedClient{}, false, wrap("lock a client", err)
	}
	return tx.ManagedClient(ctx, issuer, id)
}

// AllManagedClients calls each for every client that this service created at an issuer, including
// deleted ones that are not purged yet.
func (tx *Tx) AllManagedClients(ctx context.Context, issuer string, each func(iam.ManagedClient)) error {
	const page = 1000
	for after := ""; ; {
		list, err := tx.managed(ctx, `
			 WHERE c.issuer = $1 AND c.client_id > $2 AND r.client_id IS NOT NULL ORDER BY c.client_id LIMIT $3`, issuer, after, page)
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

// FilterManaged returns those of some ids whose clients this service created.
func (tx *Tx) FilterManaged(ctx context.Context, issuer string, ids []string) ([]string, error) {
	return collect(ctx, tx, statement{doing: "find clients", sql: `SELECT client_id FROM registrations WHERE issuer = $1 AND client_id = ANY ($2)`,
		args: []any{issuer, ids}}, pgx.RowTo[string])
}

func (tx *Tx) managed(ctx context.Context, tail string, args ...any) ([]iam.ManagedClient, error) {
	return collect(ctx, tx, statement{doing: "read clients", sql: `
		SELECT c.issuer, c.client_id, coalesce(c.tenant, ''), c.status, c.roles, c.scopes, c.tokens_not_before, c.version, c.created_at,
		       greatest(c.updated_at, r.updated_at), r.client_id IS NOT NULL,
		       coalesce(r.wanted, '{}'), coalesce(r.wanted_version, 0), r.applied, coalesce(r.applied_version, 0), r.before,
		       coalesce(r.sync, ''), coalesce(r.reason, ''), coalesce(r.operation, ''), coalesce(r.operation_id::text, ''),
		       coalesce(extract(epoch FROM r.lease_until - clock_timestamp()), 0)::float8, coalesce(r.tries, 0),
		       coalesce(r.secret_state, ''), coalesce(r.secrets, 0), r.overlap_from, r.retire_at, coalesce(r.warned, false),
		       r.begun_at, r.updated_at, r.next_try,
		       r.last_operation, r.last_outcome, r.last_reason, r.last_tries, r.last_begun_at, r.last_ended_at
		  FROM clients c LEFT JOIN registrations r ON r.issuer = c.issuer AND r.client_id = c.client_id` + tail, args: args},
		func(row pgx.CollectableRow) (c iam.ManagedClient, err error) {
			var notBefore, from, retire, begun, changed, next, lastBegun, lastEnded *time.Time
			var last, outcome, reason *string
			var tries *int
			var lease float64
			var wanted, applied, before []byte
			err = row.Scan(&c.Issuer, &c.ClientID, &c.Tenant, &c.Status, &c.Roles, &c.Scopes, &notBefore, &c.Version, &c.CreatedAt,
				&c.UpdatedAt, &c.Managed, &wanted, &c.WantedVersion, &applied, &c.AppliedMark, &before,
				&c.Sync, &c.Reason, &c.Operation, &c.OperationID,
				&lease, &c.Tries, &c.SecretState, &c.Secrets, &from, &retire, &c.Warned,
				&begun, &changed, &next, &last, &outcome, &reason, &tries, &lastBegun, &lastEnded)
			if err != nil {
				return c, err
			}
			c.TokensNotBefore, c.OverlapFrom, c.RetireAt = deref(notBefore), deref(from), deref(retire)
			if c.Operation != "" {
				c.BegunAt, c.NextTry = deref(begun), deref(next)
				if c.Tries > 0 {
					c.TriedAt = deref(changed)
				}
			}
			if last != nil {
				c.Last = &iam.ClientOperation{Operation: *last, Outcome: *outcome, BegunAt: deref(lastBegun), EndedAt: deref(lastEnded)}
				if reason != nil && tries != nil {
					c.Last.Reason, c.Last.Tries = *reason, *tries
				}
			}
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

// BumpClientVersion gives a client a new version when its registration changes but no fact does.
func (tx *Tx) BumpClientVersion(ctx context.Context, issuer, id string) (version int64, err error) {
	err = tx.tx.QueryRow(ctx, `
		UPDATE clients SET version = nextval('iam_versions') WHERE issuer = $1 AND client_id = $2 RETURNING version`, issuer, id).Scan(&version)
	return version, wrap("bump the version of a client", err)
}

// DeleteClient deletes a client that was never created in the identity provider.
func (tx *Tx) DeleteClient(ctx context.Context, issuer, id string) error {
	_, err := tx.tx.Exec(ctx, `DELETE FROM clients WHERE issuer = $1 AND client_id = $2`, issuer, id)
	return wrap("delete a client", err)
}

// PurgeDeletedClients deletes clients that are deleted in the identity provider too and whose last
// token has expired, and returns how many. A batch is small enough that each is notified by its key.
func (tx *Tx) PurgeDeletedClients(ctx context.Context, lifetime time.Duration) (int64, error) {
	tag, err := tx.tx.Exec(ctx, `
		WITH old AS MATERIALIZED (
		    SELECT c.issuer, c.client_id FROM clients c LEFT JOIN registrations r ON r.issuer = c.issuer AND r.client_id = c.client_id
		     WHERE c.status = 'deleted' AND r.operation IS NULL AND greatest(c.updated_at, r.updated_at) < now() - $1::interval LIMIT 1000)
		DELETE FROM clients WHERE (issuer, client_id) IN (SELECT issuer, client_id FROM old)`, lifetime)
	return tag.RowsAffected(), wrap("purge deleted clients", err)
}

// DetachDeletedClients removes the tenant from its clients that are deleted here and in the identity
// provider, so that the tenant can be deleted. The clients stay denied.
func (tx *Tx) DetachDeletedClients(ctx context.Context, tenant string) error {
	_, err := tx.tx.Exec(ctx, `
		UPDATE clients c SET tenant = NULL
		 WHERE tenant = $1 AND status = 'deleted'
		   AND NOT EXISTS (SELECT FROM registrations r WHERE r.issuer = c.issuer AND r.client_id = c.client_id AND r.operation IS NOT NULL)`, tenant)
	return wrap("detach deleted clients", err)
}

// ClientsOf counts the clients of a tenant, including those whose deletion in the identity provider
// is pending.
func (tx *Tx) ClientsOf(ctx context.Context, tenant string) (n int, err error) {
	_, err = tx.look(ctx, `SELECT count(*) FROM clients WHERE tenant = $1`, []any{tenant}, &n)
	return n, wrap("count clients", err)
}
