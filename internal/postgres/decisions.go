package postgres

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"

	"iam-service/internal/iam"
)

// Decisions stores the decision log for queries. Its database may be another one than that of the
// facts. It is safe for concurrent use.
type Decisions struct {
	pool      *pgxpool.Pool
	retention time.Duration
	counting  chan struct{} // one element for each count in progress
}

// OpenDecisions returns a store without waiting for a server. Decisions are deleted after the
// retention; onError is as for Open.
func OpenDecisions(ctx context.Context, url string, retention time.Duration, log *slog.Logger, onError func(reason string)) (*Decisions, error) {
	if onError == nil {
		onError = func(string) {}
	}
	pc, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	pc.MaxConns = 4
	pc.ConnConfig.ConnectTimeout = connectTimeout
	pc.ConnConfig.RuntimeParams["application_name"] = "iam-service decisions"
	pc.ConnConfig.Tracer = &tracer{name: "decisions", log: log, onError: onError}
	pc.ConnConfig.BuildContextWatcherHandler = func(c *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: c, DeadlineDelay: 250 * time.Millisecond}
	}
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return nil, err
	}
	return &Decisions{pool, retention, make(chan struct{}, countsAtOnce)}, nil
}

// Close closes all connections.
func (d *Decisions) Close() { d.pool.Close() }

// Check fails if the schema is older than this release needs.
func (d *Decisions) Check(ctx context.Context) error { return decisions.check(ctx, d.pool) }

// Add stores decisions. repeated reports whether the decision with index i was served from the cache.
func (d *Decisions) Add(ctx context.Context, list []iam.RecordedDecision, repeated func(i int) bool) error {
	_, err := d.pool.CopyFrom(ctx, pgx.Identifier{"decisions"},
		[]string{"id", "at", "revision", "allow", "issuer", "subject", "client_id", "tenant", "codes", "repeated", "event"},
		pgx.CopyFromSlice(len(list), func(i int) ([]any, error) {
			r := list[i]
			return []any{r.ID, r.At, r.Revision, r.Allow, r.Issuer, r.Subject, r.ClientID, r.Tenant, r.Codes, repeated(i), r.Event}, nil
		}))
	return wrap("store decisions", err)
}

const decisionColumns = `id, at, revision, allow, issuer, subject, client_id, tenant, codes, event`

// decisionsLimit bounds one query.
const decisionsLimit = 5 * time.Second

// Find lists decisions, the newest first, without those served from the cache.
func (d *Decisions) Find(ctx context.Context, f iam.DecisionFilter) ([]iam.RecordedDecision, error) {
	ctx, cancel := context.WithTimeout(ctx, decisionsLimit)
	defer cancel()
	rows, err := d.pool.Query(ctx, `
		SELECT `+decisionColumns+` FROM decisions
		 WHERE NOT repeated
		   AND ($1 = '' OR issuer = $1) AND ($2 = '' OR subject = $2) AND ($3 = '' OR client_id = $3) AND ($4 = '' OR tenant = $4)
		   AND ($5 = '' OR codes @> ARRAY[$5]) AND ($6::boolean IS NULL OR allow = $6)
		   AND ($7::timestamptz IS NULL OR at >= $7) AND ($8::timestamptz IS NULL OR at < $8)
		   AND ($9::timestamptz IS NULL OR (at, id) < ($9, $10))
		 ORDER BY at DESC, id DESC LIMIT $11`,
		f.Issuer, f.Subject, f.ClientID, f.Tenant, f.Code, f.Allow, optional(f.From), optional(f.To), optional(f.Before), f.BeforeID, f.Limit)
	if err != nil {
		return nil, d.unavailable(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[iam.RecordedDecision])
	return list, d.unavailable(err)
}

// Get returns the evaluation of a decision, and whether it is stored.
func (d *Decisions) Get(ctx context.Context, id string) (iam.RecordedDecision, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, decisionsLimit)
	defer cancel()
	rows, err := d.pool.Query(ctx, `SELECT `+decisionColumns+` FROM decisions WHERE id = $1 ORDER BY repeated, at LIMIT 1`, id)
	if err != nil {
		return iam.RecordedDecision{}, false, d.unavailable(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[iam.RecordedDecision])
	if err != nil || len(list) == 0 {
		return iam.RecordedDecision{}, false, d.unavailable(err)
	}
	return list[0], true, nil
}

// unavailable marks any failure of a query as temporary.
func (*Decisions) unavailable(err error) error {
	if err == nil {
		return nil
	}
	return &iam.Error{Kind: iam.Unavailable, Code: "decisions_unavailable", Detail: "the decision log is unavailable", Cause: err}
}

// RunRetention creates partitions ahead of time and drops those older than the retention, now and once an
// hour, until ctx ends.
func (d *Decisions) RunRetention(ctx context.Context, log *slog.Logger) {
	for {
		if _, err := d.pool.Exec(ctx, `SELECT iam_decision_partitions($1)`, d.retention); err != nil && ctx.Err() == nil {
			log.WarnContext(ctx, "decision retention failed", slog.Any("err", err))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Hour):
		}
	}
}
