// Package policies embeds the default policy bundle: what is active where no
// other is configured.
package policies

import "embed"

// FS is the bundle, with tests and schemas.
//
//go:embed all:iam .manifest schemas
var FS embed.FS
