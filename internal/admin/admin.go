// Package admin is the use cases of administration: tenants, roles, users, members,
// mappings, clients, the manifests of services, policies, signals, the audit.
//
// It owns the order of one administrative request, which is one transaction:
//
//	identify caller ─▶ authorize (Rego) ─▶ lock ─▶ both again ─▶ read, check, write ─▶ audit, events ─▶ commit
//	      │ blocked, revoked     │ denied: 403, or 404 where the object must stay hidden
//	      └── 401                └──────────── nothing was changed
//
// and the rules that no policy decides, checked under the same locks: a caller grants and
// revokes at most what they hold, compared before and after the change; the last platform
// administrator stays; a change since the caller's read is not overwritten. Rego can only
// deny more.
//
// It does not know HTTP, SQL or Rego's syntax. It does know package postgres: a change
// is a transaction, and an interface between the two would be as wide as both.
//
// task.go runs a request, authorize.go authorizes it, holding.go compares it with what the
// caller holds; the other files are the use cases, by noun.
package admin

import (
	"cmp"
	"log/slog"
	"time"

	"iam-service/internal/directory"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/postgres"
)

// Config of a Service.
type Config struct {
	DB      *postgres.DB
	Engine  *policy.Engine // nil: only operators are served
	Issuers iam.Issuers
	Issuer  string // of the clients that are managed here: R-Auth
	Log     *slog.Logger

	// Audiences of the gateways' tokens: the default of a client, and all that an administrator of a tenant can grant.
	Audiences []string

	// UnknownMapped says that unknown users get roles by their tokens' claims: a signal about one creates the user.
	UnknownMapped bool

	MaxMembers  int64 // most members of one tenant; 0: 1,000,000
	JoinsPerDay int64 // most members that a tenant's own administrators add in 24 hours; 0: 100,000

	RequestLifetime time.Duration // after which an undecided request for a role expires; 0: 72 h

	Committed func([]iam.Event) // called with the events of a transaction that was committed; may be nil

	PoliciesKept int // bundles of superseded policies that stay stored; 0: 20

	// Invalidate removes from this replica's caches what a transaction changed; may be nil.
	Invalidate func([]directory.Change)

	// Embedded is the policy that is part of the program, packed: the active one until another is activated; nil: unknown.
	Embedded func() (iam.PolicyRevision, []byte, error)
}

// Service runs administrative requests. It is safe for concurrent use.
type Service struct{ cfg Config }

// New returns a service.
func New(cfg Config) *Service {
	cfg.MaxMembers, cfg.JoinsPerDay = cmp.Or(cfg.MaxMembers, 1_000_000), cmp.Or(cfg.JoinsPerDay, 100_000)
	cfg.PoliciesKept = cmp.Or(cfg.PoliciesKept, 20)
	cfg.RequestLifetime = cmp.Or(cfg.RequestLifetime, 72*time.Hour)
	if cfg.Committed == nil {
		cfg.Committed = func([]iam.Event) {}
	}
	if cfg.Invalidate == nil {
		cfg.Invalidate = func([]directory.Change) {}
	}
	return &Service{cfg}
}
