package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"iam-service/internal/iam"
)

// Reasons of database errors: the values of a label of database_errors_total.
const (
	failedConnection = "connection" // unreachable, access denied, or shutting down
	failedTimeout    = "timeout"    // no response in time, or no free connection
	failedFull       = "full"       // no space on its disk
	failedOverloaded = "overloaded" // no memory or no connections left
	failedReadOnly   = "read_only"  // a standby, or a primary that is set read-only
	failedQuery      = "query"      // anything else, such as a missing table
)

// Reasons lists all reasons.
var Reasons = []string{failedConnection, failedTimeout, failedFull, failedOverloaded, failedReadOnly, failedQuery}

// errReadOnly means that a server accepts no writes.
var errReadOnly = errors.New("the server is read-only")

// writable rejects a connection to a server that accepts no writes: a standby, or a primary that
// is set read-only.
func writable(ctx context.Context, conn *pgconn.PgConn) error {
	return rejectIfTrue(ctx, conn, "SELECT current_setting('transaction_read_only')::bool")
}

// primary rejects a connection to a standby: it may lag, sends no notifications and grants no advisory
// locks. A primary that is set read-only still serves look-ups.
func primary(ctx context.Context, conn *pgconn.PgConn) error {
	return rejectIfTrue(ctx, conn, "SELECT pg_is_in_recovery()")
}

func rejectIfTrue(ctx context.Context, conn *pgconn.PgConn, sql string) error {
	r := conn.ExecParams(ctx, sql, nil, nil, nil, nil).Read()
	if r.Err == nil && len(r.Rows) == 1 && string(r.Rows[0][0]) == "t" {
		return errReadOnly
	}
	return r.Err
}

// reasonOf classifies err, for every SQLSTATE class. "" means that the database has not failed: no row,
// a violated constraint, a conflict with a concurrent transaction, a cancelled request.
func reasonOf(ctx context.Context, err error) string {
	switch {
	case err == nil, errors.Is(err, pgx.ErrNoRows), errors.Is(err, errLostRace):
		return ""
	case errors.Is(ctx.Err(), context.Canceled), errors.Is(err, context.Canceled):
		return ""
	}
	if _, ours := errors.AsType[*iam.Error](err); ours {
		return ""
	}
	if errors.Is(err, errReadOnly) {
		return failedReadOnly
	}
	_, connecting := errors.AsType[*pgconn.ConnectError](err)
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pg.Code {
		case "53100": // disk_full
			return failedFull
		case "25006": // read_only_sql_transaction
			return failedReadOnly
		case "57014", // query_canceled: our statement_timeout, or a context that ended
			"25P03", "25P04": // idle_in_transaction_session_timeout, transaction_timeout
			return failedTimeout
		}
		switch pg.Code[:2] {
		case "53": // insufficient resources
			return failedOverloaded
		case "08", "57", "58": // connection exception, operator intervention, system error
			return failedConnection
		}
		switch {
		case connecting: // such as a changed password
			return failedConnection
		case pg.Code[:2] == "23", // integrity constraint violation
			pg.Code[:2] == "22",                    // data exception: bad input
			pg.Code[:2] == "40",                    // transaction rollback: a serialization failure, a deadlock
			pg.Code == "55P03",                     // lock_not_available: a concurrent transaction holds it
			pg.Code == "42P04", pg.Code == "42P06": // duplicate database, schema
			return ""
		}
		return failedQuery
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded) || pgconn.Timeout(err):
		return failedTimeout
	case connecting || broken(err):
		return failedConnection
	}
	return failedQuery
}

// broken reports whether err means that the connection is lost.
func broken(err error) bool {
	if _, network := errors.AsType[net.Error](err); network {
		return true
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || pgconn.SafeToRetry(err)
}

// unavailable turns a temporary failure into an iam.Error of kind Unavailable. It returns any other error,
// and an iam.Error, unchanged.
func unavailable(err error) error {
	if _, ours := errors.AsType[*iam.Error](err); ours {
		return err
	}
	e := &iam.Error{Kind: iam.Unavailable, Code: "database_unavailable", Detail: "the database is unavailable", Cause: err}
	switch reasonOf(context.Background(), err) {
	case failedFull:
		e.Code, e.Detail = "database_full", "the disk of the database is full, so nothing can be changed"
	case failedReadOnly:
		e.Code, e.Detail = "database_read_only", "the database is read-only, so nothing can be changed"
	case failedOverloaded:
		e.Code, e.Detail = "database_overloaded", "the database has no memory or no connections left"
	case failedConnection, failedTimeout:
	default:
		pg, ok := errors.AsType[*pgconn.PgError](err)
		if !ok || pg.Code != "55P03" && pg.Code[:2] != "40" || errors.Is(err, context.Canceled) {
			return err
		}
		e.Code, e.Detail = "busy", "a concurrent request changes the same object"
	}
	return e
}

// wrap adds what was being done to err, and marks temporary failures; see unavailable.
func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return unavailable(fmt.Errorf("%s: %w", doing, err))
}

// violates reports whether err violates the named constraint. The migrations name every constraint, so the
// name is exact.
func violates(err error, constraint string) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.ConstraintName == constraint
}

// firstLine returns the first line of a statement, for the log.
func firstLine(sql string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(sql), "\n")
	return line
}
