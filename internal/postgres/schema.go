package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pressly/goose/v3"
)

// required is the version of the schema that this release needs.
func (s schema) required() int64 {
	p, err := goose.NewProvider(goose.DialectPostgres, new(sql.DB), s.steps, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		panic(err) // the embedded steps do not parse, which any test would find
	}
	var last int64
	for _, step := range p.ListSources() {
		last = max(last, step.Version)
	}
	return last
}

// CheckSchema fails if the schema is older than this release needs. A newer one is fine: a release runs
// on the schema of the next.
func (db *DB) CheckSchema(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	return facts.check(ctx, db.admin)
}

// CheckSchemaAt is DB.CheckSchema over a connection of its own, for a command without pools.
func CheckSchemaAt(ctx context.Context, url string) error { return facts.checkAt(ctx, url) }

// CheckDecisionsAt is CheckSchemaAt for the database of the decision log.
func CheckDecisionsAt(ctx context.Context, url string) error { return decisions.checkAt(ctx, url) }

func (s schema) checkAt(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	conn, err := connect(ctx, url)
	if err != nil {
		return err
	}
	defer closeNow(conn)
	return s.check(ctx, conn)
}

// check returns an *OldSchemaError if the schema is older than this release needs.
func (s schema) check(ctx context.Context, db querier) error {
	var have int64
	var migrated bool
	err := db.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, s.table).Scan(&migrated)
	if err == nil && migrated {
		err = db.QueryRow(ctx, `SELECT coalesce(max(version_id), 0) FROM `+s.table+` WHERE is_applied`).Scan(&have)
	}
	if err != nil {
		return fmt.Errorf("read the schema's version: %w", err)
	}
	if want := s.required(); have < want {
		return &OldSchemaError{Have: have, Want: want}
	}
	return nil
}

// Refused reports whether the server refuses permanently: wrong password, no such user or database.
func Refused(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (pg.Code == "28P01" || pg.Code == "28000" || pg.Code == "3D000")
}

// OldSchemaError means that migrations are missing.
type OldSchemaError struct{ Have, Want int64 }

func (e *OldSchemaError) Error() string {
	return fmt.Sprintf("the schema is at version %d and this program needs %d: run \"iam-service migrate up\" first", e.Have, e.Want)
}
