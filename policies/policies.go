// Package policies embeds the default policy bundle: what is in force where no
// other is configured.
package policies

import "embed"

// FS is the bundle, tests and schemas beside it.
//
//go:embed all:iam .manifest schemas
var FS embed.FS
