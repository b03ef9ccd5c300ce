// Package policy evaluates Rego. With package directory it is the only one that
// knows OPA.
//
// It owns the active revision. Candidates (an embedded bundle, a bundle file or
// folder, or what OPA's own plugin manager fetched and verified into a staging
// store that no request reads) pass one gate, and become an immutable Revision:
//
//	candidate submitted ──gate──▶ accepted: Revision ──swap──▶ active
//	    │
//	    ▼
//	rejected: log, metric and Status report the reason; the active revision stays
//
// The gate runs in a child process first, so that a candidate that exceeds its time or
// memory limits cannot harm the service. The gate checks roots, compiles under an
// allow-list of builtins, and validates the entrypoint and the declared headers. A request
// evaluates one Revision throughout, over the Revision's data and the Facts passed in.
//
// The package does not know where facts come from, nor HTTP, nor what a decision
// is used for. An undefined or malformed result is an error: a broken policy fails
// closed, and is never reported as a deny.
package policy

import (
	"context"
	"log/slog"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
)

// Entrypoint is the rule that decides an enrichment.
const Entrypoint = "data.iam.claims.decision"

// DefaultHeaders are the headers that gateways handle unless GATEWAY_HEADERS is set.
var DefaultHeaders = []string{
	"X-User-ID", "X-User-Subject", "X-Service-ID", "X-Tenant-ID", "X-Active-Tenant-ID", "X-User-Roles", "X-Scopes",
	"X-User-Attributes", "X-Tenant-Attributes", "X-Principal-Type", "X-Decision-ID", "X-Policy-Revision",
}

// Facts resolves paths below data.directory for one evaluation.
type Facts interface {
	// Read returns a storage error of code NotFoundErr for an absent document.
	Read(ctx context.Context, path storage.Path) (ast.Value, error)
	// Waited is how long Read has waited so far; it does not count as evaluation time.
	Waited() time.Duration
}

// Config of an Engine.
type Config struct {
	Headers  []string          // that gateways are configured for; nil: DefaultHeaders
	Limit    time.Duration     // of one evaluation, without waiting for facts; 0: 50 ms
	Settings map[string]string // input.settings
	CaseTime time.Duration     // of one acceptance case; 0: 2 s
	Admin    bool              // reject a candidate without AdminEntrypoint

	// NoTrustedProxies: no gateway may send request facts. Activating a policy that reads them logs a warning.
	NoTrustedProxies bool

	Topdown     bool    // evaluate by OPA's interpreter alone
	VerifyShare float64 // of the evaluations by a program that are compared with topdown's: 0 to 1

	// MachineMutant makes the machine take false for true, for tests of what must find it.
	MachineMutant bool

	SignedOnly bool // reject what is unsigned: folders too, and OPA configurations that would accept it
	Key        *Key // verifies bundle files; nil: they need no signature

	// Child is the command line, beginning with the program's own name, that runs
	// ServeGate in a child process. Empty: the gate runs in this process alone.
	Child    []string
	ChildCPU time.Duration // processor time of a child for one candidate; 0: 10 s

	Log         *slog.Logger
	OnCandidate func(accepted bool) // called once for each candidate; may be nil
}
