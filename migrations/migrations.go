// Package migrations holds the SQL steps of the schema, embedded. A step is
// never edited after a release, and the release before it must run on the
// schema after it. Package postgres applies them.
package migrations

import "embed"

// FS holds the steps, named as goose wants them.
//
//go:embed *.sql
var FS embed.FS
