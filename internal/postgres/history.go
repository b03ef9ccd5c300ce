package postgres

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/iam"
)

// The state of an object at a moment is what the last entry of the audit before it left (after), else what the first
// entry after it found (before). An object without any entry has not changed as far as the audit reaches: it is as it
// is today.

// State is the state of one object at a moment, by the audit.
type State struct {
	Object  string
	Audited bool            // the audit has entries of it; if not, it is as it is today
	Doc     json.RawMessage // as the audit stores it; nil: it did not exist
}

// EarliestMoment is the earliest moment of which the audit tells everything; zero: it reaches back to the beginning.
func (tx *Tx) EarliestMoment(ctx context.Context) (at time.Time, err error) {
	var cut, destroyed *time.Time
	if _, err := tx.look(ctx, `SELECT max(coalesce(until, cut_at)) FROM audit_cuts`, nil, &cut); err != nil {
		return at, wrap("find the beginning of the audit", err)
	}
	var known bool
	if _, err := tx.look(ctx, `SELECT to_regclass('audit_destroyed') IS NOT NULL`, nil, &known); err != nil {
		return at, wrap("find the beginning of the audit", err)
	}
	if known {
		if _, err := tx.look(ctx, `
			SELECT max(destroyed_at) FROM audit_destroyed AS d
			 WHERE NOT EXISTS (SELECT FROM audit AS a WHERE a.chain = d.chain AND a.seq = d.seq AND a.hash = d.hash)`, nil, &destroyed); err != nil {
			return at, wrap("find the beginning of the audit", err)
		}
	}
	for _, t := range []*time.Time{cut, destroyed} {
		if t != nil && t.After(at) {
			at = *t
		}
	}
	return at, nil
}

// Cut reports whether entries were removed from a chain.
func (tx *Tx) Cut(ctx context.Context, chain string) (cut bool, err error) {
	var known bool
	_, err = tx.look(ctx, `SELECT EXISTS (SELECT FROM audit_cuts WHERE chain = $1), to_regclass('audit_destroyed') IS NOT NULL`, []any{chain}, &cut, &known)
	if err == nil && !cut && known {
		_, err = tx.look(ctx, `
			SELECT EXISTS (SELECT FROM audit_destroyed AS d WHERE d.chain = $1
			   AND NOT EXISTS (SELECT FROM audit AS a WHERE a.chain = d.chain AND a.seq = d.seq AND a.hash = d.hash))`, []any{chain}, &cut)
	}
	return cut, wrap("find the beginning of the audit", err)
}

// stateful excludes entries that are about something else than the object's state: those of a client's secret.
const stateful = `coalesce(after, before) ->> 'status' IS NOT NULL OR kind IN ('role', 'mapping')`

// StatesAt returns the states at a moment of all objects of a kind in a chain that have entries, by object. It is for kinds
// with few objects in a chain: not for members and users.
func (tx *Tx) StatesAt(ctx context.Context, chain, kind string, at time.Time) ([]State, error) {
	return collect(ctx, tx, statement{doing: "read the audit", sql: `
		WITH past AS (SELECT DISTINCT ON (object COLLATE "C") object COLLATE "C" AS object, after FROM audit
		               WHERE chain = $1 AND kind = $2 AND at <= $3 AND (` + stateful + `) ORDER BY object COLLATE "C", at DESC, seq DESC),
		     later AS (SELECT DISTINCT ON (object COLLATE "C") object COLLATE "C" AS object, before FROM audit
		               WHERE chain = $1 AND kind = $2 AND at > $3 AND (` + stateful + `) ORDER BY object COLLATE "C", at, seq)
		SELECT coalesce(p.object, l.object), true, CASE WHEN p.object IS NOT NULL THEN p.after ELSE l.before END
		  FROM past p FULL JOIN later l ON l.object = p.object ORDER BY 1`, args: []any{chain, kind, at}}, pgx.RowToStructByPos[State])
}

// StatesOfAt returns the states at a moment of some objects of a kind in a chain, in their order.
func (tx *Tx) StatesOfAt(ctx context.Context, chain, kind string, objects []string, at time.Time) ([]State, error) {
	return collect(ctx, tx, statement{doing: "read the audit", sql: `
		SELECT o.object, p.known IS NOT NULL OR l.known IS NOT NULL, CASE WHEN p.known THEN p.after ELSE l.before END
		  FROM unnest($3::text[]) WITH ORDINALITY AS o (object, n)
		  LEFT JOIN LATERAL (SELECT true AS known, after FROM audit WHERE chain = $1 AND kind = $2 AND object COLLATE "C" = o.object AND at <= $4
		                      ORDER BY at DESC, seq DESC LIMIT 1) p ON true
		  LEFT JOIN LATERAL (SELECT true AS known, before FROM audit WHERE chain = $1 AND kind = $2 AND object COLLATE "C" = o.object AND at > $4
		                      ORDER BY at, seq LIMIT 1) l ON p.known IS NULL
		 ORDER BY o.n`, args: []any{chain, kind, objects, at}}, pgx.RowToStructByPos[State])
}

// ObjectFilter selects objects of a kind in a chain by when they have entries.
type ObjectFilter struct {
	Chain, Kind  string
	After, Until time.Time // later than, not later than; zero: no bound
}

// Objects lists objects with entries, after one.
func (tx *Tx) Objects(ctx context.Context, f ObjectFilter, after string, limit int) ([]string, error) {
	return collect(ctx, tx, statement{doing: "read the audit", sql: `
		SELECT DISTINCT object COLLATE "C" AS object FROM audit
		 WHERE chain = $1 AND kind = $2 AND object COLLATE "C" > $3 AND at > coalesce($4::timestamptz, '-infinity') AND at <= coalesce($5::timestamptz, 'infinity')
		 ORDER BY object LIMIT $6`,
		args: []any{f.Chain, f.Kind, after, optional(f.After), optional(f.Until), limit}}, pgx.RowTo[string])
}

// ChainsOf lists the chains in which an object has entries of a kind.
func (tx *Tx) ChainsOf(ctx context.Context, kind, object string) ([]string, error) {
	return collect(ctx, tx, statement{doing: "read the audit", sql: `
		SELECT DISTINCT chain FROM audit WHERE kind = $1 AND object = $2 ORDER BY 1`, args: []any{kind, object}}, pgx.RowTo[string])
}

// Window is a part of the members of a tenant, by id.
type Window struct {
	Users   []string // those whose access can differ though the roles do not
	Through string   // the last member that was looked at
	Looked  int      // members
}

// ChangedMembers looks at some members of a tenant after one, for those whose membership or a role starts or ends by itself, or
// whose user has an entry later than from and not later than to. It looks at limit members, so its work does not grow with the
// platform, nor with the tenant.
func (tx *Tx) ChangedMembers(ctx context.Context, tenant string, from, to time.Time, after string, limit int) (w Window, err error) {
	rows, err := tx.tx.Query(ctx, `
		SELECT m.user_id::text, m.expires_at IS NOT NULL OR m.role_terms <> '{}'
		       OR EXISTS (SELECT FROM audit a WHERE a.chain = '' AND a.kind = 'user' AND a.object COLLATE "C" = m.user_id::text AND a.at > $2 AND a.at <= $3)
		  FROM (SELECT user_id, expires_at, role_terms FROM memberships
		         WHERE tenant = $1 AND user_id > coalesce(nullif($4, '')::uuid, '00000000-0000-0000-0000-000000000000') ORDER BY user_id LIMIT $5) AS m
		 ORDER BY m.user_id`, tenant, from, to, after, limit)
	if err != nil {
		return w, wrap("list members who changed", err)
	}
	var changed bool
	_, err = pgx.ForEachRow(rows, []any{&w.Through, &changed}, func() error {
		w.Looked++
		if changed {
			w.Users = append(w.Users, w.Through)
		}
		return nil
	})
	return w, wrap("list members who changed", err)
}

// UserNames returns issuer and subject of users that exist, by id.
func (tx *Tx) UserNames(ctx context.Context, users []string) (map[string]Identity, error) {
	rows, err := tx.tx.Query(ctx, `SELECT id::text, issuer, subject FROM users WHERE id = ANY ($1::uuid[])`, users)
	if err != nil {
		return nil, wrap("read users", err)
	}
	names := make(map[string]Identity, len(users))
	var id string
	var name Identity
	_, err = pgx.ForEachRow(rows, []any{&id, &name.Issuer, &name.Name}, func() error { names[id] = name; return nil })
	return names, wrap("read users", err)
}

// EntryFilter selects entries of the audit about some objects of a kind in a chain; later than From, not later than To.
type EntryFilter struct {
	Chain, Kind string
	Objects     []string // nil: all
	From, To    time.Time
	Limit       int  // of each object, the earliest; without Objects, of all
	Status      bool // only entries that leave another status than they found, of an object that was there
}

// Entries lists entries in their order, without before and after.
func (tx *Tx) Entries(ctx context.Context, f EntryFilter) ([]iam.AuditEntry, error) {
	const matching = ` AND at > $4 AND at <= $5
		   AND (NOT $7 OR before IS NOT NULL AND before ->> 'status' IS DISTINCT FROM after ->> 'status')
		 ORDER BY at, seq LIMIT $6`
	sql := `
		SELECT chain, seq, at, actor_kind, actor, via, action, kind, object FROM audit
		 WHERE chain = $1 AND kind = $2 AND $3::text[] IS NULL` + matching
	if f.Objects != nil {
		sql = `
		SELECT e.* FROM (SELECT DISTINCT unnest($3::text[])) AS o (object), LATERAL (
		SELECT chain, seq, at, actor_kind, actor, via, action, kind, object FROM audit
		 WHERE chain = $1 AND kind = $2 AND object COLLATE "C" = o.object` + matching + `) AS e ORDER BY e.at, e.seq`
	}
	return collect(ctx, tx, statement{doing: "read the audit", sql: sql, args: []any{f.Chain, f.Kind, f.Objects, f.From, f.To, f.Limit, f.Status}},
		func(row pgx.CollectableRow) (e iam.AuditEntry, err error) {
			err = row.Scan(&e.Chain, &e.Seq, &e.At, &e.ActorKind, &e.Actor, &e.Via, &e.Action, &e.Kind, &e.Object)
			return e, err
		})
}
