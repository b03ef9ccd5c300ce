package postgres

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// lookUp reads at most one row into dest and reports whether there was one.
type lookUp func(ctx context.Context, sql string, args []any, dest ...any) (bool, error)

// look is a lookUp in the transaction.
func (tx *Tx) look(ctx context.Context, sql string, args []any, dest ...any) (bool, error) {
	err := tx.tx.QueryRow(ctx, sql, args...).Scan(dest...)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// statement is a query, and what it does, for errors.
type statement struct {
	doing string
	sql   string
	args  []any
}

// collect runs a query and scans each row.
func collect[T any](ctx context.Context, tx *Tx, q statement, scan pgx.RowToFunc[T]) ([]T, error) {
	rows, err := tx.tx.Query(ctx, q.sql, q.args...)
	if err != nil {
		return nil, wrap(q.doing, err)
	}
	all, err := pgx.CollectRows(rows, scan)
	return all, wrap(q.doing, err)
}

// ids runs one statement outside a transaction and returns its column of ids.
func (db *DB) ids(ctx context.Context, doing, sql string, args ...any) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	rows, err := db.admin.Query(ctx, sql, args...)
	if err != nil {
		return nil, wrap(doing, err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return list, wrap(doing, err)
}

func first[T any](all []T) (x T) {
	if len(all) > 0 {
		x = all[0]
	}
	return x
}

// where builds the WHERE clause of a list: conditions joined by AND, with numbered arguments.
type where struct {
	conditions []string
	args       []any
}

// and adds a condition; %d in it stands for the number of its argument.
func (w *where) and(condition string, value any) {
	w.args = append(w.args, value)
	w.conditions = append(w.conditions, fmt.Sprintf(condition, len(w.args)))
}

// only adds a condition unless the value is empty.
func (w *where) only(condition, value string) {
	if value != "" {
		w.and(condition, value)
	}
}

// begins adds a condition unless the value is empty: a column begins with it, ignoring case. The
// expression matches the indexes of migration 00009.
func (w *where) begins(value string, columns ...string) {
	if value == "" {
		return
	}
	w.args = append(w.args, likeLiteral.Replace(value)+"%")
	begins := make([]string, len(columns))
	for i, column := range columns {
		begins[i] = fmt.Sprintf("lower(%s) LIKE lower($%d)", column, len(w.args))
	}
	w.conditions = append(w.conditions, "("+strings.Join(begins, " OR ")+")")
}

var likeLiteral = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)

func (w *where) sql(order string, limit int) string {
	s := ""
	if len(w.conditions) > 0 {
		s = " WHERE " + strings.Join(w.conditions, " AND ")
	}
	w.args = append(w.args, limit)
	return fmt.Sprintf("%s ORDER BY %s LIMIT $%d", s, order, len(w.args))
}

func encode(attributes map[string]any) ([]byte, error) {
	if len(attributes) == 0 {
		return []byte("{}"), nil
	}
	b, err := json.Marshal(attributes)
	return b, wrap("encode attributes", err)
}

// decode keeps numbers as json.Number, so that an attribute does not lose digits.
func decode(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	return d.Decode(into)
}

// list turns nil into an empty array: the columns are NOT NULL.
func list(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

func absent(j json.RawMessage) any {
	if len(j) == 0 {
		return nil
	}
	return []byte(j)
}

func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func deref(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}
