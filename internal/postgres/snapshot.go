package postgres

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/iam"
)

// Snapshot is a view of all facts at one moment, and implements directory.Loader. It is safe for
// concurrent use; its queries are serialized.
type Snapshot struct {
	mu    sync.Mutex
	tx    pgx.Tx
	close func()
}

// Snapshot begins a snapshot on a connection of its own. Close it soon: while it is open, PostgreSQL cannot
// vacuum newer rows.
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
	return &Snapshot{tx: tx, close: func() { closeNow(conn) }}, nil // closing the connection rolls back
}

// Close ends the snapshot.
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

// User returns the facts of a subject of an issuer, and whether the user exists.
func (s *Snapshot) User(ctx context.Context, issuer, subject string) (iam.UserFacts, bool, error) {
	return userFacts(ctx, s.look, issuer, subject)
}

// Tenant returns the facts of a tenant, and whether it exists.
func (s *Snapshot) Tenant(ctx context.Context, id string) (iam.TenantFacts, bool, error) {
	return tenantFacts(ctx, s.look, id)
}

// Client returns the facts of a client of an issuer, and whether it exists.
func (s *Snapshot) Client(ctx context.Context, issuer, clientID string) (iam.ClientFacts, bool, error) {
	return clientFacts(ctx, s.look, issuer, clientID)
}

// Count returns the number of subjects that a preview evaluates (users, memberships, and clients, those of
// a tenant twice) and of tenants.
func (s *Snapshot) Count(ctx context.Context) (subjects, tenants int64, err error) {
	_, err = s.look(ctx, `
		SELECT (SELECT count(*) FROM memberships) + (SELECT count(*) + count(tenant) FROM clients) + (SELECT count(*) FROM users),
		       (SELECT count(*) FROM tenants)`, nil, &subjects, &tenants)
	return subjects, tenants, wrap("count subjects", err)
}

// Tenants lists the ids of tenants after an id.
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

// Users lists users with their memberships, by id, after an id.
func (s *Snapshot) Users(ctx context.Context, after string, limit int) ([]iam.UserFacts, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rows, err := s.tx.Query(ctx, userSelect+` WHERE $1 = '' OR u.id > nullif($1, '')::uuid ORDER BY u.id LIMIT $2`, after, limit)
	if err != nil {
		return nil, wrap("list users", err)
	}
	list, err := pgx.CollectRows(rows, scanUser)
	return list, wrap("list users", err)
}

// Clients lists clients by issuer and client_id, after a client.
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

// AsOf is the moment of the snapshot, by the database's clock.
func (s *Snapshot) AsOf(ctx context.Context) (at time.Time, err error) {
	_, err = s.look(ctx, `SELECT now()`, nil, &at)
	return at, wrap("read the clock", err)
}

// UsersIn lists the members of a tenant with all their memberships, by id of the user, after one.
func (s *Snapshot) UsersIn(ctx context.Context, tenant, after string, limit int) ([]iam.UserFacts, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rows, err := s.tx.Query(ctx, userSelect+`
		 WHERE u.id IN (SELECT user_id FROM memberships
		                 WHERE tenant = $1 AND user_id > coalesce(nullif($2, '')::uuid, '00000000-0000-0000-0000-000000000000') ORDER BY user_id LIMIT $3)
		 ORDER BY u.id`, tenant, after, limit)
	if err != nil {
		return nil, wrap("list the members of a tenant", err)
	}
	list, err := pgx.CollectRows(rows, scanUser)
	return list, wrap("list the members of a tenant", err)
}

// ClientsIn lists the clients of a tenant by issuer and client_id, after a client.
func (s *Snapshot) ClientsIn(ctx context.Context, tenant, issuer, clientID string, limit int) ([]iam.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return (&Tx{tx: s.tx}).TenantClients(ctx, tenant, Identity{Issuer: issuer, Name: clientID}, limit)
}

func scanUser(row pgx.CollectableRow) (iam.UserFacts, error) {
	var r userRow
	if err := row.Scan(r.dest()...); err != nil {
		return iam.UserFacts{}, err
	}
	return r.facts()
}
