package postgres

import (
	"context"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/iam"
)

// Snapshot shows all facts as they were at one moment, for as long as it is open. It is safe
// for concurrent use; its queries run one after the other.
type Snapshot struct {
	mu    sync.Mutex
	tx    pgx.Tx
	close func()
}

// Snapshot begins one, on a connection of its own. Close it soon: PostgreSQL cannot clean up
// behind it.
func (db *DB) Snapshot(ctx context.Context) (*Snapshot, error) {
	conn, err := pgx.ConnectConfig(ctx, db.admin.Config().ConnConfig)
	if err != nil {
		return nil, wrap("take a snapshot", err)
	}
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		closeNow(conn)
		return nil, wrap("take a snapshot", err)
	}
	return &Snapshot{tx: tx, close: func() { closeNow(conn) }}, nil // nothing was written
}

// Close ends it.
func (s *Snapshot) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.close()
}

func (s *Snapshot) look(ctx context.Context, sql string, args []any, dest ...any) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return (&Tx{tx: s.tx}).look(ctx, sql, args, dest...)
}

// User, Tenant and Client make a snapshot a directory.Loader.

// User returns what was known of one subject of one issuer.
func (s *Snapshot) User(ctx context.Context, issuer, subject string) (iam.UserFacts, bool, error) {
	return userFacts(ctx, s.look, issuer, subject)
}

// Tenant returns one tenant.
func (s *Snapshot) Tenant(ctx context.Context, id string) (iam.TenantFacts, bool, error) {
	return tenantFacts(ctx, s.look, id)
}

// Client returns one client.
func (s *Snapshot) Client(ctx context.Context, issuer, clientID string) (iam.ClientFacts, bool, error) {
	return clientFacts(ctx, s.look, issuer, clientID)
}

// Count is how many users, memberships and clients there are, clients of a tenant twice, and
// how many tenants.
func (s *Snapshot) Count(ctx context.Context) (who, tenants int64, err error) {
	_, err = s.look(ctx, `
		SELECT (SELECT count(*) FROM memberships) + (SELECT count(*) + count(tenant) FROM clients) + (SELECT count(*) FROM users),
		       (SELECT count(*) FROM tenants)`, nil, &who, &tenants)
	return who, tenants, wrap("count whom there is", err)
}

// Tenants lists the ids of tenants, after one.
func (s *Snapshot) Tenants(ctx context.Context, after string, limit int) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rows, err := s.tx.Query(ctx, `SELECT id FROM tenants WHERE id > $1 ORDER BY id LIMIT $2`, after, limit)
	if err != nil {
		return nil, wrap("list tenants", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return list, wrap("list tenants", err)
}

// Users lists users with their memberships by our ids, after one.
func (s *Snapshot) Users(ctx context.Context, after string, limit int) ([]iam.UserFacts, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rows, err := s.tx.Query(ctx, userSelect+` WHERE $1 = '' OR u.id > nullif($1, '')::uuid ORDER BY u.id LIMIT $2`, after, limit)
	if err != nil {
		return nil, wrap("list users", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (iam.UserFacts, error) {
		var r userRow
		if err := row.Scan(r.dest()...); err != nil {
			return iam.UserFacts{}, err
		}
		return r.facts()
	})
	return list, wrap("list users", err)
}

// Clients lists clients by issuer and client_id, after one.
func (s *Snapshot) Clients(ctx context.Context, issuer, clientID string, limit int) ([]iam.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rows, err := s.tx.Query(ctx, `
		SELECT issuer, client_id, coalesce(tenant, ''), status, roles, scopes, version FROM clients
		 WHERE (issuer, client_id) > ($1, $2) ORDER BY issuer, client_id LIMIT $3`, issuer, clientID, limit)
	if err != nil {
		return nil, wrap("list clients", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c iam.Client, err error) {
		err = row.Scan(&c.Issuer, &c.ClientID, &c.Tenant, &c.Status, &c.Roles, &c.Scopes, &c.Version)
		if err != nil {
			err = fmt.Errorf("read a client: %w", err)
		}
		return c, err
	})
	return list, wrap("list clients", err)
}
