// Package migrations holds the SQL steps of the schema, embedded. A step is
// never edited after a release, and the release before it must run on the
// schema after it. Package postgres applies them.
package migrations

import (
	"embed"
	"io/fs"
)

// FS holds the steps, named as goose wants them.
//
//go:embed *.sql
var FS embed.FS

//go:embed decisions/*.sql
var decisions embed.FS

// Decisions holds the steps of the database that decisions are kept in.
func Decisions() fs.FS {
	sub, err := fs.Sub(decisions, "decisions")
	if err != nil {
		panic(err) // the name is a constant
	}
	return sub
}
