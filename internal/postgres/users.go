package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/iam"
)

// PutUser is Tx.PutUser in a transaction of its own. It returns the user's id.
func (db *DB) PutUser(ctx context.Context, u iam.User) (id string, err error) {
	err = db.Change(ctx, func(ctx context.Context, tx *Tx) error {
		put, err := tx.PutUser(ctx, u)
		id = put.ID
		return err
	})
	return id, err
}

// PutUser creates the user of an issuer and subject, or replaces its status, attributes, platform
// roles, default tenant and tokens_not_before. It returns the user with id and new version.
func (tx *Tx) PutUser(ctx context.Context, u iam.User) (iam.User, error) {
	faults := u.Check()
	issuer, known := tx.issuers.Find(u.Issuer)
	switch {
	case !known:
		faults = append(faults, iam.FieldError{Pointer: "/issuer", Detail: "is not a trusted issuer"})
	case len(u.PlatformRoles) > 0 && !issuer.Platform:
		faults = append(faults, iam.FieldError{Pointer: "/platform_roles", Detail: "subjects of this issuer cannot hold platform roles"})
	}
	if u.DefaultTenant != "" && known && !issuer.Reaches(u.DefaultTenant) {
		faults = append(faults, outOfReach("/default_tenant"))
	}
	if err := iam.InvalidFields(faults); err != nil {
		return u, err
	}
	attributes, err := encode(u.Attributes)
	if err != nil {
		return u, err
	}
	err = tx.tx.QueryRow(ctx, `
		INSERT INTO users AS u (issuer, subject, status, attributes, platform_roles, tokens_not_before, default_tenant)
		VALUES ($1, $2, $3, $4, $5, $6, nullif($7, ''))
		ON CONFLICT ON CONSTRAINT users_issuer_subject_key DO UPDATE
		   SET status = excluded.status, attributes = excluded.attributes, platform_roles = excluded.platform_roles,
		       tokens_not_before = excluded.tokens_not_before, default_tenant = excluded.default_tenant,
		       version = nextval('iam_versions'), updated_at = now()
		RETURNING id::text, version`,
		u.Issuer, u.Subject, u.Status, attributes, list(u.PlatformRoles), optional(u.TokensNotBefore), u.DefaultTenant).Scan(&u.ID, &u.Version)
	if violates(err, "users_default_tenant_fkey") {
		return u, iam.InvalidFields([]iam.FieldError{{Pointer: "/default_tenant", Detail: fmt.Sprintf("there is no tenant %q", u.DefaultTenant)}})
	}
	return u, wrap("put a user", err)
}

// Identity names a subject or a client as its issuer does.
type Identity struct {
	Issuer string
	Name   string // a subject or a client_id
}

// columns returns the issuers and the names of identities, for unnest.
func columns(ids []Identity) (issuers, names []string) {
	issuers, names = make([]string, len(ids)), make([]string, len(ids))
	for i, id := range ids {
		issuers[i], names[i] = id.Issuer, id.Name
	}
	return issuers, names
}

// EnsureUsers returns the users of some subjects, ordered by id, and creates those that are
// missing, with a default tenant unless that is empty. created holds the ids of the new ones.
// The rows are not locked.
func (tx *Tx) EnsureUsers(ctx context.Context, subjects []Identity, tenant string) (users []iam.User, created map[string]bool, err error) {
	issuers, names := columns(subjects)
	rows, err := tx.tx.Query(ctx, `
		INSERT INTO users (issuer, subject, default_tenant)
		SELECT DISTINCT issuer, subject, nullif($3, '') FROM unnest($1::text[], $2::text[]) AS w (issuer, subject) ORDER BY 1, 2
		ON CONFLICT ON CONSTRAINT users_issuer_subject_key DO NOTHING RETURNING id::text`, issuers, names, tenant)
	if err != nil {
		return nil, nil, wrap("create users", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, nil, wrap("create users", err)
	}
	created = map[string]bool{}
	for _, id := range ids {
		created[id] = true
	}
	users, err = tx.users(ctx, `WHERE (u.issuer, u.subject) IN (SELECT * FROM unnest($1::text[], $2::text[])) ORDER BY u.id`, issuers, names)
	distinct := make(map[Identity]bool, len(subjects))
	for _, s := range subjects {
		distinct[s] = true
	}
	if err == nil && len(users) != len(distinct) {
		err = errLostRace // erased between the two statements
	}
	return users, created, err
}

// DeleteUser erases a user with its memberships, and the stored responses that describe it.
func (tx *Tx) DeleteUser(ctx context.Context, id string) error {
	_, err := tx.tx.Exec(ctx, `DELETE FROM users WHERE id = $1::uuid`, id)
	if err == nil {
		// The request stays, so that a retry does not repeat it; its response is erased.
		_, err = tx.tx.Exec(ctx, `UPDATE idempotency SET answer = NULL, users = '{}' WHERE users @> ARRAY[$1::uuid]`, id)
	}
	return wrap("delete a user", err)
}

// UserFilter selects users; an empty field matches all.
type UserFilter struct {
	Issuer, Subject, Status, PlatformRole string
	Search                                string // prefix of the subject, ignoring case
	After                                 string // id of the last user of the page before
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
		w.conditions = append(w.conditions, "u.platform_roles <> '{}'") // the condition of their partial index
	}
	w.only("$%d = ANY (u.platform_roles)", f.PlatformRole)
	w.only("u.id > $%d::uuid", f.After)
	return tx.users(ctx, w.sql("u.id", f.Limit), w.args...)
}

// UserByID returns one user, and whether it exists.
func (tx *Tx) UserByID(ctx context.Context, id string) (iam.User, bool, error) {
	all, err := tx.users(ctx, ` WHERE u.id = $1::uuid`, id)
	return first(all), len(all) > 0, err
}

// UserForUpdate is UserByID with a row lock: no other transaction changes the user until this
// one ends.
func (tx *Tx) UserForUpdate(ctx context.Context, id string) (iam.User, bool, error) {
	all, err := tx.users(ctx, ` WHERE u.id = $1::uuid FOR NO KEY UPDATE`, id)
	return first(all), len(all) > 0, err
}

func (tx *Tx) users(ctx context.Context, tail string, args ...any) ([]iam.User, error) {
	return collect(ctx, tx, statement{doing: "read users", sql: `
		SELECT u.id::text, u.issuer, u.subject, u.status, u.attributes, u.platform_roles, u.tokens_not_before,
		       coalesce(u.default_tenant, ''), u.version
		  FROM users u ` + tail, args: args},
		func(row pgx.CollectableRow) (u iam.User, err error) {
			var attributes []byte
			var notBefore *time.Time
			err = row.Scan(&u.ID, &u.Issuer, &u.Subject, &u.Status, &attributes, &u.PlatformRoles, &notBefore, &u.DefaultTenant, &u.Version)
			if err == nil {
				u.TokensNotBefore = deref(notBefore)
				err = decode(attributes, &u.Attributes)
			}
			return u, err
		})
}

// LockPlatform serializes changes of the platform's administrators. It comes before any lock of a
// user.
func (tx *Tx) LockPlatform(ctx context.Context) error {
	_, err := tx.tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('iam platform '||current_schema(), 0))`)
	return wrap("lock the platform's roles", err)
}

// OtherPlatformAdmins counts the active platform administrators except one user, of issuers that
// are trusted with the platform. It needs LockPlatform.
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

// LockCaller prevents changes of the caller's user and client until the transaction ends.
func (tx *Tx) LockCaller(ctx context.Context, issuer, subject, clientID string) error {
	_, err := tx.tx.Exec(ctx, `SELECT FROM users WHERE issuer = $1 AND subject = $2 FOR SHARE`, issuer, subject)
	if err == nil {
		_, err = tx.tx.Exec(ctx, `SELECT FROM clients WHERE issuer = $1 AND client_id = $2 FOR SHARE`, issuer, clientID)
	}
	return wrap("lock a caller", err)
}

// LockUserAndMemberships prevents changes of a user and new memberships of it until the
// transaction ends.
func (tx *Tx) LockUserAndMemberships(ctx context.Context, id string) error {
	_, err := tx.tx.Exec(ctx, `SELECT FROM users WHERE id = $1::uuid FOR UPDATE`, id)
	return wrap("lock a user", err)
}
