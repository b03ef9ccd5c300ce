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

// Taking steps back destroys what is in their tables, so it is guarded: not while replicas run on the schema, and
// not the audit unless that is asked for. A chain of the audit that ends by it leaves its head in audit_destroyed,
// a table that no step makes or drops, so that a verification finds the end.

// Rollback says what of a step may go.
type Rollback struct {
	DestroyAudit bool
	By           string // who takes it back
}

// LastStep is the step that RollbackLast would take back; false: none is applied.
func LastStep(ctx context.Context, url string) (Step, bool, error) {
	steps, err := Status(ctx, url)
	for i := len(steps) - 1; i >= 0; i-- {
		if !steps[i].AppliedAt.IsZero() {
			return steps[i], true, nil
		}
	}
	return Step{}, false, err
}

// RollbackLast takes the last step back, unless replicas are alive, or it would destroy entries of the audit and
// that is not asked for. All of it is checked and done under the lock of migrations.
func RollbackLast(ctx context.Context, url string, o Rollback) ([]Step, error) {
	var ended []int64
	steps, err := migrate(ctx, url, facts, Down, func(ctx context.Context, conn *pgx.Conn) (err error) {
		ended, err = checkRollback(ctx, conn, o)
		return err
	})
	if err != nil && len(steps) == 0 && len(ended) > 0 { // the audit is still there, and DestroyedChains sees that too
		if conn, failed := connect(ctx, url); failed == nil {
			_, undone := conn.Exec(context.WithoutCancel(ctx), `DELETE FROM audit_destroyed WHERE id = any($1)`, ended)
			err = errors.Join(err, undone, conn.Close(context.WithoutCancel(ctx)))
		}
	}
	return steps, err
}

// checkRollback fails where the last step must not be taken back. It returns the ids of the chains that end by it.
func checkRollback(ctx context.Context, conn *pgx.Conn, o Rollback) (ended []int64, err error) {
	file, err := lastFile(ctx, conn)
	if err != nil || file == "" {
		return nil, err
	}
	alive, err := replicasAlive(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("look for replicas: %w", err)
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
		return nil, fmt.Errorf("%s would destroy the audit, %d entries: export what must stay, then say --destroy-audit", file, entries)
	}
	if ended, err = noteDestroyed(ctx, conn, o.By); err != nil {
		return nil, fmt.Errorf("record the heads of the audit: %w", err)
	}
	return ended, nil
}

// lastFile is the file of the last step that is applied; "" if none is. LastStep would wait for the lock.
func lastFile(ctx context.Context, conn *pgx.Conn) (string, error) {
	var migrated bool
	if err := conn.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, facts.table).Scan(&migrated); err != nil || !migrated {
		return "", err
	}
	var version int64
	if err := conn.QueryRow(ctx, `SELECT coalesce(max(version_id), 0) FROM `+facts.table+` WHERE is_applied`).Scan(&version); err != nil {
		return "", fmt.Errorf("look for the last step: %w", err)
	}
	files, err := fs.Glob(migrations.FS, fmt.Sprintf("%05d_*.sql", version))
	if err != nil || len(files) == 0 {
		return "", err
	}
	return files[0], nil
}

func connect(ctx context.Context, url string) (*pgx.Conn, error) {
	cfg, err := pgxpool.ParseConfig(url) // as serve does: it knows the pools' settings
	if err != nil {
		return nil, errors.New("the database's URL cannot be used")
	}
	return pgx.ConnectConfig(ctx, cfg.ConnConfig)
}

// replicasAlive are those that were heard of lately, on a schema that has a table for it.
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

// dropsAudit reports whether taking a step back drops the audit.
func dropsAudit(file string) (bool, error) {
	text, err := fs.ReadFile(migrations.FS, file)
	if err != nil {
		return false, err
	}
	_, down, _ := bytes.Cut(text, []byte("-- +goose Down"))
	return dropAudit.Match(down), nil
}

// noteDestroyed keeps the heads of all chains, and returns the ids of what it kept. Anybody who can use the schema
// may read them: they are names of chains and hashes.
func noteDestroyed(ctx context.Context, conn *pgx.Conn, by string) ([]int64, error) {
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
		rows, err := tx.Query(ctx, `INSERT INTO audit_destroyed (chain, seq, hash, destroyed_by) SELECT chain, seq, hash, $1 FROM audit_heads WHERE seq > 0 RETURNING id`, by)
		if err != nil {
			return err
		}
		ids, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		return err
	})
	return ids, err
}
