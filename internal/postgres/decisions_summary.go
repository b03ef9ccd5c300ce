package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"iam-service/internal/iam"
)

// CountDecisions says what Count counts.
type CountDecisions struct {
	Tenant   string        // empty: of all
	From, To time.Time     // from inclusive, to exclusive
	Step     time.Duration // From is a multiple of it since 1970
}

const (
	countsLimit  = 5 * time.Second // of one count
	countsAtOnce = 2               // of the connections that also store decisions
	countsRows   = 50_000          // different outcomes of one step are few: more would be a policy with codes without number
)

// Count counts the decisions that Find lists, by step, outcome and codes, over the index of their time or of their tenant.
// It fails with code "decisions_busy" where others are counted already, and "decisions_timeout" where there are too many.
func (d *Decisions) Count(ctx context.Context, q CountDecisions) ([]iam.DecisionCount, error) {
	select {
	case d.counting <- struct{}{}:
		defer func() { <-d.counting }()
	case <-ctx.Done():
		return nil, d.unavailable(ctx.Err())
	case <-time.After(time.Second):
		return nil, &iam.Error{Kind: iam.Unavailable, Code: "decisions_busy", Detail: "decisions are being counted for others: try again"}
	}
	ctx, cancel := context.WithTimeout(ctx, countsLimit+time.Second)
	defer cancel()
	var counts []iam.DecisionCount
	err := pgx.BeginTxFunc(ctx, d.pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		// The server ends the statement, also where the connection to this replica is lost.
		if _, err := tx.Exec(ctx, `SELECT set_config('statement_timeout', $1, true)`, countsLimit.String()); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `
			SELECT date_bin($4::interval, at, 'epoch'), allow, codes, count(*) FROM decisions
			 WHERE NOT repeated AND ($1 = '' OR tenant = $1) AND at >= $2 AND at < $3
			 GROUP BY 1, 2, 3 ORDER BY 1 LIMIT $5`, q.Tenant, q.From, q.To, q.Step, countsRows)
		if err != nil {
			return err
		}
		counts, err = pgx.CollectRows(rows, pgx.RowToStructByPos[iam.DecisionCount])
		if err == nil && len(counts) == countsRows {
			err = &iam.Error{Kind: iam.Unavailable, Code: "decisions_timeout", Detail: "the decisions have too many different codes: ask for a shorter time"}
		}
		return err
	})
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "57014" && ctx.Err() == nil { // query_canceled, by the server
		return nil, &iam.Error{
			Kind: iam.Unavailable, Code: "decisions_timeout", Cause: err,
			Detail: "counting took longer than 5 s: ask for a shorter time, or for one tenant",
		}
	}
	if _, ours := errors.AsType[*iam.Error](err); ours {
		return nil, err
	}
	return counts, d.unavailable(err)
}
