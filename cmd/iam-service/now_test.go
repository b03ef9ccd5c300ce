package main

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rogpeppe/go-internal/testscript"
)

// now: now NAME sets a variable to the time of the database, for a question about this moment later.
func now(ts *testscript.TestScript, _ bool, args []string) {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, ts.Getenv("DATABASE_URL"))
	ts.Check(err)
	defer conn.Close(ctx)
	var at time.Time
	ts.Check(conn.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&at))
	ts.Setenv(args[0], at.UTC().Format(time.RFC3339Nano)) // as responses are written: without final zeros
}
