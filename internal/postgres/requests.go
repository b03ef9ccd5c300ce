package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/iam"
)

const requestColumns = `seq, id::text, tenant, user_id::text, role, seconds, reason, approval, grants, status, created_at, decide_by, decided_at,
	decider_kind, decider, decision, expires_at, version`

func scanRequest(row pgx.CollectableRow) (q iam.RoleRequest, err error) {
	var decided, expires *time.Time
	err = row.Scan(&q.Seq, &q.ID, &q.Tenant, &q.User, &q.Role, &q.Seconds, &q.Reason, &q.Approval, &q.Grants, &q.Status, &q.CreatedAt, &q.DecideBy, &decided,
		&q.DeciderKind, &q.Decider, &q.Decision, &expires, &q.Version)
	q.DecidedAt, q.ExpiresAt = deref(decided), deref(expires)
	return q, err
}

// AddRequest stores a request for a role, and sets what the database chooses. It fails with a conflict if the user has a
// pending one for the role.
func (tx *Tx) AddRequest(ctx context.Context, q iam.RoleRequest, lifetime time.Duration) (iam.RoleRequest, error) {
	all, err := collect(ctx, tx, statement{doing: "store a request", sql: `
		INSERT INTO role_requests (tenant, user_id, role, seconds, reason, approval, grants, decide_by)
		VALUES ($1, $2::uuid, $3, $4, $5, $6, $7, now() + $8::interval)
		ON CONFLICT (tenant, user_id, role) WHERE status = 'pending' DO NOTHING RETURNING ` + requestColumns,
		args: []any{q.Tenant, q.User, q.Role, q.Seconds, q.Reason, q.Approval, q.Grants, lifetime}}, scanRequest)
	if err == nil && len(all) == 0 {
		err = &iam.Error{Kind: iam.Conflict, Code: "already_requested", Detail: "a request for this role is pending: cancel it first, or wait for its decision"}
	}
	return first(all), err
}

// DecideRequest stores the decision about a pending request; false: it is not pending.
func (tx *Tx) DecideRequest(ctx context.Context, q iam.RoleRequest) (iam.RoleRequest, bool, error) {
	all, err := collect(ctx, tx, statement{doing: "decide a request", sql: `
		UPDATE role_requests SET status = $2, decided_at = now(), decider_kind = $3, decider = $4, decision = $5, expires_at = $6,
		       version = nextval('iam_versions')
		 WHERE id = $1::uuid AND status = 'pending' RETURNING ` + requestColumns,
		args: []any{q.ID, q.Status, q.DeciderKind, q.Decider, q.Decision, optional(q.ExpiresAt)}}, scanRequest)
	return first(all), len(all) == 1, err
}

// RequestFilter selects requests; an empty field matches all.
type RequestFilter struct {
	User, Status, Role string
	Before             int64 // seq of the last one of the page before; 0: from the newest
	Limit              int
}

// Requests lists the requests of a tenant, the newest first.
func (tx *Tx) Requests(ctx context.Context, tenant string, f RequestFilter) ([]iam.RoleRequest, error) {
	var w where
	w.and("tenant = $%d", tenant)
	w.only("user_id = $%d::uuid", f.User)
	w.only("status = $%d", f.Status)
	w.only("role = $%d", f.Role)
	if f.Before > 0 {
		w.and("seq < $%d", f.Before)
	}
	return collect(ctx, tx, statement{doing: "list requests", sql: `SELECT ` + requestColumns + ` FROM role_requests` + w.sql("seq DESC", f.Limit), args: w.args}, scanRequest)
}

// Request returns a request of a tenant, and whether there is one. It is not locked: the tenant is.
func (tx *Tx) Request(ctx context.Context, tenant, id string) (iam.RoleRequest, bool, error) {
	all, err := collect(ctx, tx, statement{
		doing: "read a request", sql: `SELECT ` + requestColumns + ` FROM role_requests WHERE tenant = $1 AND id = $2::uuid`, args: []any{tenant, id},
	}, scanRequest)
	return first(all), len(all) == 1, err
}

// CountRequests counts the requests of a user in a tenant: those that are pending, and those of the last 24 hours.
func (tx *Tx) CountRequests(ctx context.Context, tenant, user string) (pending, daily int64, err error) {
	_, err = tx.look(ctx, `
		SELECT count(*) FILTER (WHERE status = 'pending'), count(*) FILTER (WHERE created_at > now() - interval '1 day')
		  FROM role_requests WHERE user_id = $2::uuid AND tenant = $1 AND (status = 'pending' OR created_at > now() - interval '1 day')`,
		[]any{tenant, user}, &pending, &daily)
	return pending, daily, wrap("count requests", err)
}

// DueRequests returns pending requests whose time has passed, of tenants that are not to skip.
func (db *DB) DueRequests(ctx context.Context, limit int, skip []string) ([]MemberKey, error) {
	return db.memberKeys(ctx, "find requests whose time has passed", `
		SELECT tenant, id::text FROM role_requests WHERE status = 'pending' AND decide_by <= now() AND tenant <> ALL ($2::text[])
		 ORDER BY decide_by LIMIT $1`, limit, list(skip))
}
