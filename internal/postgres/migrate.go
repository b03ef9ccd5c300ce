package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"iam-service/migrations"
)

// Direction of a migration.
type Direction int

// Up applies all missing steps; Down rolls the last one back.
const (
	Up Direction = iota
	Down
)

// Step is one migration.
type Step struct {
	Version   int64
	File      string
	AppliedAt time.Time // zero: not applied
}

// Migrate migrates the schema at url and returns the steps that it ran. It holds a session lock, so
// url must be a direct connection; a concurrent call waits.
func Migrate(ctx context.Context, url string, d Direction) ([]Step, error) {
	return migrate(ctx, url, facts, d, nil)
}

// MigrateDecisions is Migrate for the database of the decision log.
func MigrateDecisions(ctx context.Context, url string, d Direction) ([]Step, error) {
	return migrate(ctx, url, decisions, d, nil)
}

// schema is a series of steps and the table that records the applied ones.
type schema struct {
	steps fs.FS
	table string
}

var (
	facts     = schema{migrations.FS, goose.DefaultTablename}
	decisions = schema{migrations.Decisions(), "goose_decisions_version"}
)

// guard checks under the lock of migrations, before the first step, whether the migration may run.
type guard func(ctx context.Context, conn *pgx.Conn) error

// migrate runs the steps of a direction unless check, if given, fails.
func migrate(ctx context.Context, url string, s schema, d Direction, check guard) ([]Step, error) {
	var done []Step
	err := withGoose(url, s, check, func(p *goose.Provider) error {
		var results []*goose.MigrationResult
		var err error
		if d == Up {
			results, err = p.Up(ctx)
		} else {
			var r *goose.MigrationResult
			if r, err = p.Down(ctx); r != nil {
				results = append(results, r)
			}
			if errors.Is(err, goose.ErrNoNextVersion) {
				err = nil // nothing is applied
			}
		}
		for _, r := range results {
			done = append(done, Step{Version: r.Source.Version, File: r.Source.Path})
		}
		return err
	})
	if err != nil {
		return done, fmt.Errorf("migrate: %w", err)
	}
	return done, nil
}

// Grant grants a role what the service needs on the schema at url: read and write facts, append to the
// audit, and nothing else. It needs the schema's owner.
func Grant(ctx context.Context, url, role string) error { return grant(ctx, url, "iam_grant", role) }

// GrantDecisions grants a role to store and read decisions.
func GrantDecisions(ctx context.Context, url, role string) error {
	return grant(ctx, url, "iam_grant_decisions", role)
}

func grant(ctx context.Context, url, function, role string) error {
	conn, err := connect(ctx, url)
	if err != nil {
		return fmt.Errorf("grant to %s: %w", role, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, `SELECT `+function+`($1)`, role); err != nil {
		return fmt.Errorf("grant to %s: %w", role, err)
	}
	return nil
}

// Status lists all steps that this release knows.
func Status(ctx context.Context, url string) ([]Step, error) {
	var steps []Step
	err := withGoose(url, facts, nil, func(p *goose.Provider) error {
		all, err := p.Status(ctx)
		for _, s := range all {
			steps = append(steps, Step{Version: s.Source.Version, File: s.Source.Path, AppliedAt: s.AppliedAt})
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("migration status: %w", err)
	}
	return steps, nil
}

func withGoose(url string, s schema, check guard, do func(*goose.Provider) error) error {
	pool, err := pgxpool.ParseConfig(url) // as in connect
	if err != nil {
		return err
	}
	cfg := pool.ConnConfig
	// One lock for each schema, so that tests in one database do not wait for each other.
	h := fnv.New64a()
	fmt.Fprintf(h, "iam-service migrations %s", cfg.RuntimeParams["search_path"])
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockID(int64(h.Sum64()>>1)), lock.WithLockTimeout(1, 300))
	if err != nil {
		return err
	}
	if check != nil {
		locker = guarded{locker, check}
	}
	db := stdlib.OpenDB(*cfg)
	defer db.Close()
	p, err := goose.NewProvider(goose.DialectPostgres, db, s.steps,
		goose.WithTableName(s.table), goose.WithSessionLocker(locker), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	return do(p)
}

// guarded runs check as soon as the lock is acquired.
type guarded struct {
	lock.SessionLocker
	check guard
}

// SessionLock implements lock.SessionLocker.
func (g guarded) SessionLock(ctx context.Context, conn *sql.Conn) error {
	if err := g.SessionLocker.SessionLock(ctx, conn); err != nil {
		return err
	}
	err := conn.Raw(func(c any) error {
		driver, ok := c.(*stdlib.Conn)
		if !ok {
			return fmt.Errorf("the connection is a %T", c)
		}
		return g.check(ctx, driver.Conn())
	})
	if err != nil { // goose releases only a lock that was acquired
		return errors.Join(err, g.SessionUnlock(context.WithoutCancel(ctx), conn))
	}
	return nil
}
