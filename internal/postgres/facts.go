package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"iam-service/internal/directory"
	"iam-service/internal/iam"
)

// User returns the facts of a subject of an issuer, and whether the user exists. It takes one round trip.
func (db *DB) User(ctx context.Context, issuer, subject string) (iam.UserFacts, bool, error) {
	return userFacts(ctx, db.look, issuer, subject)
}

// Tenant returns a tenant with its roles, the global roles and its mappings, and whether it exists. It
// takes one round trip.
func (db *DB) Tenant(ctx context.Context, id string) (iam.TenantFacts, bool, error) {
	return tenantFacts(ctx, db.look, id)
}

// Client returns the facts of a client of an issuer, and whether it exists.
func (db *DB) Client(ctx context.Context, issuer, clientID string) (iam.ClientFacts, bool, error) {
	return clientFacts(ctx, db.look, issuer, clientID)
}

// Batch implements directory.BatchLoader. It takes one round trip.
func (db *DB) Batch(ctx context.Context, q directory.Batch) (facts directory.BatchFacts, err error) {
	ctx, cancel := context.WithTimeout(ctx, db.factsLimit)
	defer cancel()
	conn, err := db.acquire(ctx)
	if err != nil {
		return facts, wrap("read the facts of a request", err)
	}
	defer conn.Release()
	facts, err = db.batchOver(ctx, conn, q)
	return facts, wrap("read the facts of a request", err)
}

func (db *DB) batchOver(ctx context.Context, conn *pgxpool.Conn, q directory.Batch) (facts directory.BatchFacts, err error) {
	var user userRow
	client, tenant := clientRow{issuer: q.Issuer, id: q.ClientID}, tenantRow{id: q.Tenant}
	users := &query{sql: userSelect + ` WHERE u.issuer = $1 AND u.subject = $2`, args: []any{q.Issuer, q.Subject}, dest: user.dest()}
	clients := &query{sql: clientSelect, args: []any{q.Issuer, q.ClientID}, dest: client.dest()}
	tenants := &query{sql: tenantSelect + `
		   AND EXISTS (SELECT FROM memberships m JOIN users u ON u.id = m.user_id WHERE m.tenant = t.id AND u.issuer = $2 AND u.subject = $3)`,
		args: []any{q.Tenant, q.Issuer, q.Subject}, dest: tenant.dest()}
	all := []*query{users}
	if q.ClientID != "" {
		all = append(all, clients)
	}
	if q.Tenant != "" {
		all = append(all, tenants)
	}
	if err := db.runOver(ctx, conn, all...); err != nil {
		return facts, err
	}
	if users.found {
		u, err := user.facts()
		if err != nil {
			return facts, err
		}
		facts.User = &u
	}
	if clients.found {
		c := client.facts()
		facts.Client = &c
	}
	if tenants.found {
		t, err := tenant.facts()
		if err != nil {
			return facts, err
		}
		facts.Tenant = &t
	}
	return facts, nil
}

// TenantsOf lists by slug the tenants of a user: active memberships in active tenants for which the
// issuer is trusted.
func (db *DB) TenantsOf(ctx context.Context, issuer, subject string) ([]iam.TenantMembership, error) {
	ctx, cancel := context.WithTimeout(ctx, db.factsLimit)
	defer cancel()
	conn, err := db.acquire(ctx)
	if err != nil {
		return nil, wrap("list a user's tenants", err)
	}
	defer conn.Release()
	rows, err := conn.Query(ctx, `
		SELECT t.id, t.slug, t.name, t.id IS NOT DISTINCT FROM u.default_tenant
		  FROM users u
		  JOIN memberships m ON m.user_id = u.id AND m.status = 'active' AND (m.expires_at IS NULL OR m.expires_at > now())
		  JOIN tenants t ON t.id = m.tenant AND t.status = 'active'
		 WHERE u.issuer = $1 AND u.subject = $2 AND u.status = 'active'
		 ORDER BY t.slug`, issuer, subject)
	if err != nil {
		return nil, wrap("list a user's tenants", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[iam.TenantMembership])
	list = slices.DeleteFunc(list, func(m iam.TenantMembership) bool { return !db.issuers.Reaches(issuer, m.ID) })
	return list, wrap("list a user's tenants", err)
}

// look is a lookUp on the facts pool, with its short limits, by lookOver.
func (db *DB) look(ctx context.Context, sql string, args []any, dest ...any) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, db.factsLimit)
	defer cancel()
	conn, err := db.acquire(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Release()
	return db.lookOver(ctx, conn, sql, args, dest...)
}

// lookOver is a lookUp over a connection, by runOver.
func (db *DB) lookOver(ctx context.Context, conn *pgxpool.Conn, sql string, args []any, dest ...any) (bool, error) {
	q := &query{sql: sql, args: args, dest: dest}
	err := db.runOver(ctx, conn, q)
	return q.found && err == nil, err
}

// query reads at most one row into dest.
type query struct {
	sql        string
	args, dest []any
	found      bool // there was a row
}

// runOver runs queries over a connection, in one round trip. In it, it also reads which server responds. A row of
// another server than the listener's is an error: its changes would not be notified.
func (db *DB) runOver(ctx context.Context, conn *pgxpool.Conn, all ...*query) error {
	batch := &pgx.Batch{}
	batch.Queue(`SELECT pg_postmaster_start_time()`)
	for _, q := range all {
		batch.Queue(q.sql, q.args...)
	}
	results := conn.SendBatch(ctx, batch)
	var server time.Time
	err := results.QueryRow().Scan(&server)
	for _, q := range all {
		if err != nil {
			break
		}
		err = results.QueryRow().Scan(q.dest...)
		if q.found = err == nil; errors.Is(err, pgx.ErrNoRows) {
			err = nil
		}
	}
	if closed := results.Close(); err == nil {
		err = closed
	}
	if listened := db.listenServer.Load(); err == nil && listened != nil && !listened.Equal(server) {
		return unreachable(errors.New("the pool and the listener are connected to different servers"))
	}
	if reasonOf(ctx, err) == failedConnection {
		err = unreachable(err)
	}
	return err
}

func (db *DB) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, db.factsAcquire)
	defer cancel()
	conn, err := db.facts.Acquire(ctx)
	if err != nil {
		return nil, unreachable(fmt.Errorf("no connection within %s: %w", db.factsAcquire, err))
	}
	return conn, nil
}

// unreachable marks a failure of the connection, which every other statement would share.
func unreachable(cause error) error {
	return &iam.Error{Kind: iam.Unavailable, Detail: "the database is unreachable", Cause: cause}
}

// User, Tenant and Client make a transaction a directory.Loader.

// User returns the facts of a subject of an issuer, and whether the user exists.
func (tx *Tx) User(ctx context.Context, issuer, subject string) (iam.UserFacts, bool, error) {
	return userFacts(ctx, tx.look, issuer, subject)
}

// Tenant returns a tenant with its roles, the global roles and its mappings, and whether it exists.
func (tx *Tx) Tenant(ctx context.Context, id string) (iam.TenantFacts, bool, error) {
	return tenantFacts(ctx, tx.look, id)
}

// Client returns the facts of a client of an issuer, and whether it exists.
func (tx *Tx) Client(ctx context.Context, issuer, clientID string) (iam.ClientFacts, bool, error) {
	return clientFacts(ctx, tx.look, issuer, clientID)
}

// Changed returns the changes that this transaction has notified so far, as the triggers of
// migrations/00008_bounds.sql record them.
func (tx *Tx) Changed(ctx context.Context) ([]directory.Change, error) {
	var keys string
	if err := tx.tx.QueryRow(ctx, `SELECT coalesce(current_setting('iam.changed', true), '')`).Scan(&keys); err != nil || keys == "" {
		return nil, wrap("read the notified changes", err)
	}
	var changes []directory.Change
	for key := range strings.SplitSeq(keys, ",") {
		m, err := parseKey(strings.Fields(key))
		if err != nil {
			return nil, wrap("read the notified changes", err)
		}
		changes = append(changes, directory.Change{Everything: m.All, Kind: m.Kind, Key: m.Key})
	}
	return changes, nil
}

func userFacts(ctx context.Context, look lookUp, issuer, subject string) (iam.UserFacts, bool, error) {
	var row userRow
	found, err := look(ctx, userSelect+` WHERE u.issuer = $1 AND u.subject = $2`, []any{issuer, subject}, row.dest()...)
	if err != nil || !found {
		return iam.UserFacts{}, false, wrap("read a user", err)
	}
	u, err := row.facts()
	return u, err == nil, err
}

const userSelect = `
		SELECT u.issuer, u.subject, u.id::text, u.status, u.attributes, u.platform_roles, u.tokens_not_before,
		       coalesce(u.default_tenant, ''), u.version, now(),
		       coalesce((SELECT jsonb_agg(jsonb_build_object('tenant', m.tenant, 'status', m.status, 'roles', m.roles,
		                                                     'attributes', m.attributes, 'expires_at', m.expires_at, 'version', m.version,
		                                                     'tenant_status', t.status, 'role_terms', nullif(m.role_terms, '{}')))
		                   FROM memberships m JOIN tenants t ON t.id = m.tenant WHERE m.user_id = u.id), '[]')
		  FROM users u`

// userRow is one row of userSelect.
type userRow struct {
	u                       iam.UserFacts
	attributes, memberships []byte
	notBefore               *time.Time
}

func (r *userRow) dest() []any {
	u := &r.u
	return []any{
		&u.Issuer, &u.Subject, &u.ID, &u.Status, &r.attributes, &u.PlatformRoles, &r.notBefore,
		&u.DefaultTenant, &u.Version, &u.AsOf, &r.memberships,
	}
}

func (r *userRow) facts() (iam.UserFacts, error) {
	u := r.u
	u.TokensNotBefore = deref(r.notBefore)
	var rows []struct {
		Tenant       string         `json:"tenant"`
		Status       string         `json:"status"`
		Roles        []string       `json:"roles"`
		Attributes   map[string]any `json:"attributes"`
		ExpiresAt    *time.Time     `json:"expires_at"`
		Version      int64          `json:"version"`
		TenantStatus string         `json:"tenant_status"`

		Terms map[string]iam.RoleTerm `json:"role_terms"`
	}
	if err := errors.Join(decode(r.attributes, &u.Attributes), decode(r.memberships, &rows)); err != nil {
		return iam.UserFacts{}, wrap("read a user", err)
	}
	u.Memberships = make([]iam.Membership, len(rows))
	for i, m := range rows {
		u.Memberships[i] = iam.Membership{
			Tenant: m.Tenant, User: u.ID, Status: m.Status, Roles: m.Roles,
			Attributes: m.Attributes, ExpiresAt: deref(m.ExpiresAt), Version: m.Version, TenantStatus: m.TenantStatus, Terms: m.Terms,
		}
	}
	return u, nil
}

func tenantFacts(ctx context.Context, look lookUp, id string) (iam.TenantFacts, bool, error) {
	row := tenantRow{id: id}
	found, err := look(ctx, tenantSelect, []any{id}, row.dest()...)
	if err != nil || !found {
		return iam.TenantFacts{}, false, wrap("read a tenant", err)
	}
	t, err := row.facts()
	return t, err == nil, err
}

const tenantSelect = `
		SELECT t.slug, t.name, t.status, t.attributes, t.version,
		       coalesce((SELECT jsonb_agg(jsonb_build_object('tenant', coalesce(r.tenant, ''), 'name', r.name, 'permissions', r.permissions,
		                                                     'inherits', r.inherits, 'version', r.version))
		                   FROM roles r WHERE r.tenant = t.id OR r.tenant IS NULL), '[]'),
		       coalesce((SELECT jsonb_agg(jsonb_build_object('tenant', m.tenant, 'issuer', m.issuer, 'claim', m.claim, 'value', m.value,
		                                                     'roles', m.roles) ORDER BY m.issuer, m.claim, m.value)
		                   FROM mappings m WHERE m.tenant = t.id), '[]')
		  FROM tenants t WHERE t.id = $1`

// tenantRow is one row of tenantSelect.
type tenantRow struct {
	id                          string
	t                           iam.TenantFacts
	attributes, roles, mappings []byte
}

func (r *tenantRow) dest() []any {
	return []any{&r.t.Slug, &r.t.Name, &r.t.Status, &r.attributes, &r.t.Version, &r.roles, &r.mappings}
}

func (r *tenantRow) facts() (iam.TenantFacts, error) {
	t := r.t
	t.ID = r.id
	// The keys of the objects above are the names of the fields; encoding/json ignores case.
	err := errors.Join(decode(r.attributes, &t.Attributes), decode(r.roles, &t.Roles), decode(r.mappings, &t.Mappings))
	if err != nil {
		return iam.TenantFacts{}, wrap("read a tenant", err)
	}
	return t, nil
}

func clientFacts(ctx context.Context, look lookUp, issuer, clientID string) (iam.ClientFacts, bool, error) {
	row := clientRow{issuer: issuer, id: clientID}
	found, err := look(ctx, clientSelect, []any{issuer, clientID}, row.dest()...)
	if err != nil || !found {
		return iam.ClientFacts{}, false, wrap("read a client", err)
	}
	return row.facts(), true, nil
}

const clientSelect = `
		SELECT coalesce(tenant, ''), status, roles, scopes, tokens_not_before, version
		  FROM clients WHERE issuer = $1 AND client_id = $2`

// clientRow is one row of clientSelect.
type clientRow struct {
	issuer, id string
	c          iam.ClientFacts
	notBefore  *time.Time
}

func (r *clientRow) dest() []any {
	return []any{&r.c.Tenant, &r.c.Status, &r.c.Roles, &r.c.Scopes, &r.notBefore, &r.c.Version}
}

func (r *clientRow) facts() iam.ClientFacts {
	c := r.c
	c.Issuer, c.ClientID, c.TokensNotBefore = r.issuer, r.id, deref(r.notBefore)
	return c
}
