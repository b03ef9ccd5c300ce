// Package migrations embeds the SQL steps of the schema. The statements of a step never change after
// its release, and the release before it must run on the schema after it. Package postgres applies
// the steps.
package migrations

import (
	"embed"
	"io/fs"
)

// FS holds the steps, named as goose expects.
//
//go:embed *.sql
var FS embed.FS

//go:embed decisions/*.sql
var decisions embed.FS

// Decisions holds the steps of the database of the decision log.
func Decisions() fs.FS {
	sub, err := fs.Sub(decisions, "decisions")
	if err != nil {
		panic(err) // the name is a constant
	}
	return sub
}
