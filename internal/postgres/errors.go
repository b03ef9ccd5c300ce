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

// Reasons why the database fails: the values of the label that counts its errors.
const (
	failedConnection = "connection" // it cannot be reached, does not let us in, or cannot serve
	failedTimeout    = "timeout"    // no answer in time, or no free connection
	failedFull       = "full"       // no room on its disk
	failedOverloaded = "overloaded" // no memory, no connections
	failedReadOnly   = "read_only"  // a standby, or set so
	failedQuery      = "query"      // anything else, such as a table that is missing
)

// Reasons are all of them.
var Reasons = []string{failedConnection, failedTimeout, failedFull, failedOverloaded, failedReadOnly, failedQuery}

// errReadOnly says that a server takes no changes.
var errReadOnly = errors.New("the server is read-only")

// writable refuses a connection to a server that takes no changes: a standby, or a primary that
// is set read-only.
func writable(ctx context.Context, conn *pgconn.PgConn) error {
	return refuseIfTrue(ctx, conn, "SELECT current_setting('transaction_read_only')::bool")
}

// primary refuses a connection to a standby: it may lag behind, hears nothing and gives no locks.
// A primary that is set read-only answers look-ups as before.
func primary(ctx context.Context, conn *pgconn.PgConn) error {
	return refuseIfTrue(ctx, conn, "SELECT pg_is_in_recovery()")
}

func refuseIfTrue(ctx context.Context, conn *pgconn.PgConn, sql string) error {
	r := conn.ExecParams(ctx, sql, nil, nil, nil, nil).Read()
	if r.Err == nil && len(r.Rows) == 1 && string(r.Rows[0][0]) == "t" {
		return errReadOnly
	}
	return r.Err
}

// reasonOf sorts err, total over the SQLSTATE classes; "" is for what is no failure of the
// database: what a request asked for in vain, what another transaction was first to do, and what
// was cancelled.
func reasonOf(ctx context.Context, err error) string {
	if err == nil || errors.Is(err, pgx.ErrNoRows) || errors.Is(err, errLostRace) || errors.Is(ctx.Err(), context.Canceled) || errors.Is(err, context.Canceled) {
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
		case "08", "57", "58": // connection exception, operator intervention, error of the system beneath
			return failedConnection
		}
		switch {
		case connecting: // such as a password that has changed
			return failedConnection
		case pg.Code[:2] == "23", // integrity constraint violation
			pg.Code[:2] == "22",                    // data exception: bad input
			pg.Code[:2] == "40",                    // transaction rollback: a serialization failure, a deadlock
			pg.Code == "55P03",                     // lock not available: another transaction has it
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

// broken reports whether err says that a connection is of no more use.
func broken(err error) bool {
	if _, network := errors.AsType[net.Error](err); network {
		return true
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || pgconn.SafeToRetry(err)
}

// unavailable makes an iam.Error of kind Unavailable of what may be better later. Anything else,
// and what is an iam.Error already, it returns as it is.
func unavailable(err error) error {
	if _, ours := errors.AsType[*iam.Error](err); ours {
		return err
	}
	e := &iam.Error{Kind: iam.Unavailable, Code: "database_unavailable", Detail: "the database cannot be asked now", Cause: err}
	switch reasonOf(context.Background(), err) {
	case failedFull:
		e.Code, e.Detail = "database_full", "the database has no room left, so nothing can be changed"
	case failedReadOnly:
		e.Code, e.Detail = "database_read_only", "the database is read-only, so nothing can be changed"
	case failedOverloaded:
		e.Code, e.Detail = "database_overloaded", "the database has no memory or no connection left for this"
	case failedConnection, failedTimeout:
	default:
		pg, ok := errors.AsType[*pgconn.PgError](err)
		if !ok || pg.Code != "55P03" && pg.Code[:2] != "40" || errors.Is(err, context.Canceled) {
			return err
		}
		e.Code, e.Detail = "busy", "the same thing is being changed by another request"
	}
	return e
}

// wrap says what was being done when err came about, and whether it may be better later.
func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return unavailable(fmt.Errorf("%s: %w", doing, err))
}

// violates reports whether err breaks the named constraint. Every constraint
// in migrations/ has a name we chose, so that this is a lookup and not a guess.
func violates(err error, constraint string) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.ConstraintName == constraint
}

// firstLine of a statement, for the log.
func firstLine(sql string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(sql), "\n")
	return line
}
