package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"iam-service/migrations"
)

// A rollback destroys the data in the tables of a step, so it is guarded: it fails while replicas run on the
// schema, and destroys the audit only on request. The head of each destroyed chain stays in audit_destroyed, a
// table that no step creates or drops, so that a verification of the audit reports it.

// Rollback is the request to roll the last step back.
type Rollback struct {
	DestroyAudit bool   // allow that entries of the audit are destroyed
	By           string // the operator
}

// LastStep returns the step that RollbackLast would roll back; false: none is applied.
func LastStep(ctx context.Context, url string) (Step, bool, error) {
	steps, err := Status(ctx, url)
	for i := len(steps) - 1; i >= 0; i-- {
		if !steps[i].AppliedAt.IsZero() {
			return steps[i], true, nil
		}
	}
	return Step{}, false, err
}

// RollbackLast rolls the last step back, unless replicas are alive or it would destroy entries of the audit
// without o.DestroyAudit. It checks and acts under the lock of migrations.
func RollbackLast(ctx context.Context, url string, o Rollback) ([]Step, error) {
	var ended []int64
	steps, err := migrate(ctx, url, facts, Down, func(ctx context.Context, conn *pgx.Conn) (err error) {
		ended, err = checkRollback(ctx, conn, o)
		return err
	})
	if err != nil && len(steps) == 0 && len(ended) > 0 { // the audit still exists; DestroyedChains detects that as well
		if conn, failed := connect(ctx, url); failed == nil {
			_, undone := conn.Exec(context.WithoutCancel(ctx), `DELETE FROM audit_destroyed WHERE id = any($1)`, ended)
			err = errors.Join(err, undone, conn.Close(context.WithoutCancel(ctx)))
		}
	}
	return steps, err
}

// checkRollback fails if the last step must not be rolled back. It records the heads of the chains that the rollback
// destroys, and returns the ids of these records.
func checkRollback(ctx context.Context, conn *pgx.Conn, o Rollback) (ended []int64, err error) {
	file, err := lastFile(ctx, conn)
	if err != nil || file == "" {
		return nil, err
	}
	alive, err := replicasAlive(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("list replicas: %w", err)
	}
	if len(alive) > 0 {
		return nil, fmt.Errorf("replicas run on this schema (%s): stop them first, or wait a minute for one that was killed", strings.Join(alive, ", "))
	}
	endsAudit, err := dropsAudit(file)
	if err != nil || !endsAudit {
		return nil, err
	}
	var entries int64
	if err := conn.QueryRow(ctx, `SELECT count(*) FROM audit`).Scan(&entries); err != nil {
		return nil, fmt.Errorf("count the audit: %w", err)
	}
	if entries > 0 && !o.DestroyAudit {
		return nil, fmt.Errorf("%s would destroy the audit, %d entries: export what must be retained, then pass --destroy-audit", file, entries)
	}
	if ended, err = recordDestroyed(ctx, conn, o.By); err != nil {
		return nil, fmt.Errorf("record the heads of the audit: %w", err)
	}
	return ended, nil
}

// lastFile returns the file of the last applied step, or "". LastStep would wait for the lock.
func lastFile(ctx context.Context, conn *pgx.Conn) (string, error) {
	var migrated bool
	if err := conn.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, facts.table).Scan(&migrated); err != nil || !migrated {
		return "", err
	}
	var version int64
	if err := conn.QueryRow(ctx, `SELECT coalesce(max(version_id), 0) FROM `+facts.table+` WHERE is_applied`).Scan(&version); err != nil {
		return "", fmt.Errorf("find the last step: %w", err)
	}
	files, err := fs.Glob(migrations.FS, fmt.Sprintf("%05d_*.sql", version))
	if err != nil || len(files) == 0 {
		return "", err
	}
	return files[0], nil
}

// connect opens one connection.
func connect(ctx context.Context, url string) (*pgx.Conn, error) {
	cfg, err := pgxpool.ParseConfig(url) // not pgx.ParseConfig: the URL may hold settings of pools
	if err != nil {
		return nil, errors.New("the URL of the database is invalid") // the cause could show a password
	}
	return pgx.ConnectConfig(ctx, cfg.ConnConfig)
}

// replicasAlive lists the replicas that are alive, if the schema has the table that they report to.
func replicasAlive(ctx context.Context, conn *pgx.Conn) ([]string, error) {
	var known bool
	if err := conn.QueryRow(ctx, `SELECT to_regclass('policy_replicas') IS NOT NULL`).Scan(&known); err != nil || !known {
		return nil, err
	}
	rows, err := conn.Query(ctx, `SELECT replica FROM policy_replicas WHERE seen_at > now() - $1::interval ORDER BY 1`, replicaAlive)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

var dropAudit = regexp.MustCompile(`(?m)^DROP TABLE audit;`)

// dropsAudit reports whether rolling a step back drops the audit.
func dropsAudit(file string) (bool, error) {
	text, err := fs.ReadFile(migrations.FS, file)
	if err != nil {
		return false, err
	}
	_, down, _ := bytes.Cut(text, []byte("-- +goose Down"))
	return dropAudit.Match(down), nil
}

// recordDestroyed records the heads of all chains and returns the ids of the records. Every role that can use the
// schema may read them: they are names of chains and hashes.
func recordDestroyed(ctx context.Context, conn *pgx.Conn, by string) ([]int64, error) {
	var ids []int64
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `CREATE TABLE IF NOT EXISTS audit_destroyed (
			id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, chain text COLLATE "C" NOT NULL, seq bigint NOT NULL, hash bytea NOT NULL,
			destroyed_at timestamptz NOT NULL DEFAULT now(), destroyed_by text NOT NULL)`); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `GRANT SELECT ON audit_destroyed TO PUBLIC`); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `
			INSERT INTO audit_destroyed (chain, seq, hash, destroyed_by) SELECT chain, seq, hash, $1 FROM audit_heads WHERE seq > 0 RETURNING id`, by)
		if err != nil {
			return err
		}
		ids, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		return err
	})
	return ids, err
}
