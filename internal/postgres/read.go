package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/iam"
)

// where gathers conditions of a list: each with its value, all of them together.
type where struct {
	conditions []string
	args       []any
}

// and adds a condition with a %d for the number of its value.
func (w *where) and(condition string, value any) {
	w.args = append(w.args, value)
	w.conditions = append(w.conditions, fmt.Sprintf(condition, len(w.args)))
}

// only adds a condition where there is a value.
func (w *where) only(condition, value string) {
	if value != "" {
		w.and(condition, value)
	}
}

// begins adds a condition where there is a value: the expression begins with it, whatever its
// case. The condition is the one that the indexes of migration 00009 are for.
func (w *where) begins(value string, columns ...string) {
	if value == "" {
		return
	}
	w.args = append(w.args, likeLiteral.Replace(value)+"%")
	begins := make([]string, len(columns))
	for i, column := range columns {
		begins[i] = fmt.Sprintf("lower(%s) LIKE lower($%d)", column, len(w.args))
	}
	w.conditions = append(w.conditions, "("+strings.Join(begins, " OR ")+")")
}

var likeLiteral = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)

func (w *where) sql(order string, limit int) string {
	s := ""
	if len(w.conditions) > 0 {
		s = " WHERE " + strings.Join(w.conditions, " AND ")
	}
	w.args = append(w.args, limit)
	return fmt.Sprintf("%s ORDER BY %s LIMIT $%d", s, order, len(w.args))
}

// TenantFilter says which tenants; what is empty does not matter.
type TenantFilter struct {
	Status, Slug string
	Search       string // the beginning of the slug or name, whatever its case
	After        string // id
	Limit        int
}

// Tenants lists tenants by id.
func (tx *Tx) Tenants(ctx context.Context, f TenantFilter) ([]iam.Tenant, error) {
	var w where
	w.only("t.status = $%d", f.Status)
	w.only("t.slug = $%d", f.Slug)
	w.begins(f.Search, "t.slug", "t.name")
	w.only("t.id > $%d", f.After)
	return tx.tenants(ctx, w.sql("t.id", f.Limit), w.args...)
}

// TenantByID returns one tenant, and whether there is one.
func (tx *Tx) TenantByID(ctx context.Context, id string) (iam.Tenant, bool, error) {
	all, err := tx.tenants(ctx, ` WHERE t.id = $1`, id)
	return first(all), len(all) > 0, err
}

func (tx *Tx) tenants(ctx context.Context, tail string, args ...any) ([]iam.Tenant, error) {
	return collect(ctx, tx, "read tenants", `SELECT t.id, t.slug, t.name, t.status, t.attributes, t.version FROM tenants t`+tail, args,
		func(row pgx.CollectableRow) (t iam.Tenant, err error) {
			var attributes []byte
			if err = row.Scan(&t.ID, &t.Slug, &t.Name, &t.Status, &attributes, &t.Version); err == nil {
				err = decode(attributes, &t.Attributes)
			}
			return t, err
		})
}

// Roles returns all roles that a tenant sees, the global ones included, by name; the
// global ones for "".
func (tx *Tx) Roles(ctx context.Context, tenant string) ([]iam.Role, error) {
	roles, err := rolesOf(ctx, tx.tx, tenant)
	return roles, wrap("read roles", err)
}

// UserFilter says which users; what is empty does not matter.
type UserFilter struct {
	Issuer, Subject, Status, PlatformRole string
	Search                                string // the beginning of the subject, whatever its case
	After                                 string // id
	Limit                                 int
}

// Users lists users by id.
func (tx *Tx) Users(ctx context.Context, f UserFilter) ([]iam.User, error) {
	var w where
	w.only("u.issuer = $%d", f.Issuer)
	w.only("u.subject = $%d", f.Subject)
	w.begins(f.Search, "u.subject")
	w.only("u.status = $%d", f.Status)
	if f.PlatformRole != "" {
		w.conditions = append(w.conditions, "u.platform_roles <> '{}'") // its index
	}
	w.only("$%d = ANY (u.platform_roles)", f.PlatformRole)
	w.only("u.id > $%d::uuid", f.After)
	return tx.users(ctx, w.sql("u.id", f.Limit), w.args...)
}

// UserByID returns one user, and whether there is one. Locked, nobody else changes
// it until the transaction ends.
func (tx *Tx) UserByID(ctx context.Context, id string, lock bool) (iam.User, bool, error) {
	tail := ` WHERE u.id = $1::uuid`
	if lock {
		tail += ` FOR NO KEY UPDATE`
	}
	all, err := tx.users(ctx, tail, id)
	return first(all), len(all) > 0, err
}

func (tx *Tx) users(ctx context.Context, tail string, args ...any) ([]iam.User, error) {
	return collect(ctx, tx, "read users", `
		SELECT u.id::text, u.issuer, u.subject, u.status, u.attributes, u.platform_roles, u.tokens_not_before, coalesce(u.default_tenant, ''), u.version
		  FROM users u `+tail, args,
		func(row pgx.CollectableRow) (u iam.User, err error) {
			var attributes []byte
			var notBefore *time.Time
			if err = row.Scan(&u.ID, &u.Issuer, &u.Subject, &u.Status, &attributes, &u.PlatformRoles, &notBefore, &u.DefaultTenant, &u.Version); err == nil {
				u.TokensNotBefore = deref(notBefore)
				err = decode(attributes, &u.Attributes)
			}
			return u, err
		})
}

// OtherPlatformAdmins counts those who administer the platform beside one user:
// active, and of an issuer that is trusted with it. The platform must be locked.
func (tx *Tx) OtherPlatformAdmins(ctx context.Context, user string) (n int, err error) {
	var trusted []string
	for _, i := range tx.issuers {
		if i.Platform {
			trusted = append(trusted, i.URL)
		}
	}
	_, err = tx.look(ctx, `
		SELECT count(*) FROM users
		 WHERE platform_roles <> '{}' AND $1 = ANY (platform_roles) AND status = 'active' AND issuer = ANY ($2)
		   AND (tokens_not_before IS NULL OR tokens_not_before <= now() + interval '2 seconds') AND id IS DISTINCT FROM nullif($3, '')::uuid`,
		[]any{iam.PlatformAdmin, trusted, user}, &n)
	return n, wrap("count platform administrators", err)
}

// Administration is how lasting the administrators of a tenant are.
type Administration int

// From none to those whose membership has no end.
const (
	NoAdministrator Administration = iota
	AdministratorForATime
	LastingAdministrator
)

// Administrators says whether active users administer a tenant, by a membership in force with
// one of the roles. Programs do not count. The tenant must be locked.
func (tx *Tx) Administrators(ctx context.Context, tenant string, roles []string) (most Administration, err error) {
	var issuers []string
	for _, i := range tx.issuers {
		if i.Reaches(tenant) {
			issuers = append(issuers, i.URL)
		}
	}
	_, err = tx.look(ctx, `
		SELECT coalesce(max(CASE WHEN m.expires_at IS NULL THEN 2 ELSE 1 END), 0)
		  FROM memberships m JOIN users u ON u.id = m.user_id
		 WHERE m.tenant = $1 AND m.roles && $2 AND m.status = 'active' AND (m.expires_at IS NULL OR m.expires_at > now())
		   AND u.status = 'active' AND u.issuer = ANY ($3)`,
		[]any{tenant, list(roles), list(issuers)}, &most)
	return most, wrap("look for administrators of a tenant", err)
}

// MemberFilter says which members; what is empty does not matter.
type MemberFilter struct {
	User, Issuer, Subject, Status, Role string
	Search                              string // the beginning of the subject, whatever its case
	After                               string // id of the user
	Limit                               int
}

// Members lists the members of a tenant by our ids.
func (tx *Tx) Members(ctx context.Context, tenant string, f MemberFilter) ([]iam.Member, error) {
	var w where
	w.and("m.tenant = $%d", tenant)
	w.only("m.user_id = $%d::uuid", f.User)
	w.only("u.issuer = $%d", f.Issuer)
	w.only("u.subject = $%d", f.Subject)
	w.begins(f.Search, "u.subject")
	switch f.Status {
	case iam.MembershipExpired:
		w.conditions = append(w.conditions, "m.status = 'active'", "m.expires_at <= now()")
	case iam.MembershipActive:
		w.conditions = append(w.conditions, "m.status = 'active'", "(m.expires_at IS NULL OR m.expires_at > now())")
	default:
		w.only("m.status = $%d", f.Status)
	}
	if f.Role != "" {
		w.and("m.roles @> $%d", []string{f.Role})
	}
	w.only("m.user_id > $%d::uuid", f.After)
	return tx.members(ctx, w.sql("m.user_id", f.Limit), w.args...)
}

// MembersByID returns those of the users that are members of a tenant.
func (tx *Tx) MembersByID(ctx context.Context, tenant string, users []string) ([]iam.Member, error) {
	return tx.members(ctx, ` WHERE m.tenant = $1 AND m.user_id = ANY ($2::uuid[])`, tenant, users)
}

// KnownIn says which of some names are known in a tenant: its members by issuer and subject, and
// its own and the platform's clients by issuer and client_id.
func (tx *Tx) KnownIn(ctx context.Context, tenant string, names [][2]string) (members, clients map[[2]string]bool, err error) {
	issuers, ids := make([]string, len(names)), make([]string, len(names))
	for i, n := range names {
		issuers[i], ids[i] = n[0], n[1]
	}
	read := func(sql string) (map[[2]string]bool, error) {
		known := map[[2]string]bool{}
		list, err := collect(ctx, tx, "look for names in a tenant", sql, []any{tenant, issuers, ids}, func(row pgx.CollectableRow) (n [2]string, err error) {
			return n, row.Scan(&n[0], &n[1])
		})
		for _, n := range list {
			known[n] = true
		}
		return known, err
	}
	members, err = read(`
		SELECT u.issuer, u.subject FROM users u JOIN memberships m ON m.user_id = u.id
		 WHERE m.tenant = $1 AND (u.issuer, u.subject) IN (SELECT * FROM unnest($2::text[], $3::text[]))`)
	if err != nil {
		return nil, nil, err
	}
	clients, err = read(`
		SELECT issuer, client_id FROM clients
		 WHERE (tenant = $1 OR tenant IS NULL) AND (issuer, client_id) IN (SELECT * FROM unnest($2::text[], $3::text[]))`)
	return members, clients, err
}

// MembershipsOf lists what a user is, by tenant.
func (tx *Tx) MembershipsOf(ctx context.Context, user string) ([]iam.Member, error) {
	return tx.members(ctx, ` WHERE m.user_id = $1::uuid ORDER BY m.tenant`, user)
}

func (tx *Tx) members(ctx context.Context, tail string, args ...any) ([]iam.Member, error) {
	return collect(ctx, tx, "read members", `
		SELECT m.tenant, m.user_id::text, m.status, m.roles, m.attributes, m.expires_at, m.version, u.issuer, u.subject, m.expires_at <= now()
		  FROM memberships m JOIN users u ON u.id = m.user_id`+tail, args,
		func(row pgx.CollectableRow) (m iam.Member, err error) {
			var attributes []byte
			var expires *time.Time
			var over *bool
			if err = row.Scan(&m.Tenant, &m.User, &m.Status, &m.Roles, &attributes, &expires, &m.Version, &m.Issuer, &m.Subject, &over); err == nil {
				m.ExpiresAt, m.Expired = deref(expires), over != nil && *over
				err = decode(attributes, &m.Attributes)
			}
			return m, err
		})
}

// Mappings lists the mappings of a tenant.
func (tx *Tx) Mappings(ctx context.Context, tenant string) ([]iam.Mapping, error) {
	return collect(ctx, tx, "read mappings", `
		SELECT tenant, issuer, claim, value, roles, version FROM mappings WHERE tenant = $1 ORDER BY issuer, claim, value`, []any{tenant},
		pgx.RowToStructByPos[iam.Mapping])
}

// Holders are those who bear a role.
type Holders struct {
	Members, Mappings, Clients int
	Heirs                      []string // roles that inherit it, as "tenant/name", a global one without tenant; 100 at most
	Tenants                    []string // where it is held; 10 at most
}

// HoldersOf counts who bears a role of a tenant, or a global one with "". Global roles
// that are named in but do not count.
func (tx *Tx) HoldersOf(ctx context.Context, tenant, role string, but []string) (h Holders, err error) {
	_, err = tx.look(ctx, `
		SELECT (SELECT count(*) FROM memberships WHERE roles @> ARRAY[$2] AND ($1 = '' OR tenant = $1)),
		       (SELECT count(*) FROM mappings WHERE roles @> ARRAY[$2] AND ($1 = '' OR tenant = $1)),
		       (SELECT count(*) FROM clients WHERE roles @> ARRAY[$2] AND status <> 'deleted' AND ($1 = '' OR tenant = $1)),
		       ARRAY (SELECT coalesce(tenant || '/', '') || name FROM roles WHERE inherits @> ARRAY[$2] AND ($1 = '' OR tenant = $1) AND NOT (tenant IS NULL AND name = ANY ($3)) ORDER BY 1 LIMIT 100),
		       ARRAY (SELECT DISTINCT tenant FROM (SELECT tenant FROM memberships WHERE roles @> ARRAY[$2] UNION ALL SELECT tenant FROM mappings WHERE roles @> ARRAY[$2]
		              UNION ALL SELECT tenant FROM clients WHERE roles @> ARRAY[$2] AND tenant IS NOT NULL AND status <> 'deleted') x
		               WHERE $1 = '' OR tenant = $1 ORDER BY 1 LIMIT 10)`,
		[]any{tenant, role, list(but)}, &h.Members, &h.Mappings, &h.Clients, &h.Heirs, &h.Tenants)
	return h, wrap("count who holds a role", err)
}

// ClientsOf counts the clients of a tenant, those included that the identity provider has
// yet to delete.
func (tx *Tx) ClientsOf(ctx context.Context, tenant string) (n int, err error) {
	_, err = tx.look(ctx, `SELECT count(*) FROM clients WHERE tenant = $1`, []any{tenant}, &n)
	return n, wrap("count clients", err)
}

// Services lists all services by name.
func (tx *Tx) Services(ctx context.Context, after string, limit int) ([]iam.Service, error) {
	var w where
	w.only("name > $%d", after)
	tail := w.sql("name", limit)
	return collect(ctx, tx, "read services", `SELECT name, coalesce(issuer, ''), coalesce(client_id, ''), version FROM services`+tail, w.args,
		pgx.RowToStructByPos[iam.Service])
}

// ServiceByName returns one service, and whether there is one.
func (tx *Tx) ServiceByName(ctx context.Context, name string) (s iam.Service, found bool, err error) {
	found, err = tx.look(ctx, `SELECT name, coalesce(issuer, ''), coalesce(client_id, ''), version FROM services WHERE name = $1`,
		[]any{name}, &s.Name, &s.Issuer, &s.ClientID, &s.Version)
	return s, found, wrap("read a service", err)
}

// ManifestOf returns what a service declared in one version, as it was written, and
// whether there is such a version.
func (tx *Tx) ManifestOf(ctx context.Context, service string, version int64) (body json.RawMessage, found bool, err error) {
	found, err = tx.look(ctx, `SELECT manifest FROM manifests WHERE service = $1 AND version = $2`, []any{service, version}, &body)
	return body, found, wrap("read a manifest", err)
}

// AttributeSchemas returns all that is declared, by key.
func (tx *Tx) AttributeSchemas(ctx context.Context) (map[string]iam.AttributeSchema, error) {
	list, err := collect(ctx, tx, "read attribute schemas", `SELECT key, service, type, description FROM attribute_schemas`, nil,
		pgx.RowToStructByPos[iam.AttributeSchema])
	byKey := make(map[string]iam.AttributeSchema, len(list))
	for _, a := range list {
		byKey[a.Key] = a
	}
	return byKey, err
}

// AttributeUse says who has an attribute; with a type, only those whose value is of
// another.
func (tx *Tx) AttributeUse(ctx context.Context, key, notOfType string) (users, tenants, members int, err error) {
	fits := map[string]string{
		"":        `false`,
		"string":  `jsonb_typeof(attributes -> $1) = 'string'`,
		"boolean": `jsonb_typeof(attributes -> $1) = 'boolean'`,
		"number":  `jsonb_typeof(attributes -> $1) = 'number'`,
		"integer": `jsonb_typeof(attributes -> $1) = 'number' AND (attributes ->> $1) ~ '^-?[0-9]+$'`,
		"string[]": `jsonb_typeof(attributes -> $1) = 'array'
			AND NOT jsonb_path_exists(attributes -> $1, '$[*] ? (@.type() <> "string")')`,
	}[notOfType]
	if fits == "" {
		return 0, 0, 0, errors.New("unknown type of attribute " + notOfType)
	}
	count := func(table string) string {
		return `(SELECT count(*) FROM ` + table + ` WHERE attributes ? $1 AND NOT (` + fits + `))`
	}
	_, err = tx.look(ctx, `SELECT `+count("users")+`, `+count("tenants")+`, `+count("memberships"), []any{key}, &users, &tenants, &members)
	return users, tenants, members, wrap("count who has an attribute", err)
}

// collect runs a query and makes a value of each row.
func collect[T any](ctx context.Context, tx *Tx, doing, sql string, args []any, scan pgx.RowToFunc[T]) ([]T, error) {
	rows, err := tx.tx.Query(ctx, sql, args...)
	if err != nil {
		return nil, wrap(doing, err)
	}
	all, err := pgx.CollectRows(rows, scan)
	return all, wrap(doing, err)
}

func first[T any](all []T) (x T) {
	if len(all) > 0 {
		x = all[0]
	}
	return x
}
