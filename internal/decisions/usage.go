package decisions

import (
	"context"
	"hash/maphash"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"iam-service/internal/enrich"
	"iam-service/internal/iam"
)

// Bounds of what a Usage has in memory.
const (
	usageEntries = 50_000  // that are to be stored
	usageKnown   = 250_000 // hashes of what was stored today
	usageDays    = 7       // and flushes, that could not be stored
	usageEvery   = time.Minute
	usageLimit   = 30 * time.Second // of storing
	usageLast    = 3 * time.Second  // and at the end
)

// UsageConfig of a Usage.
type UsageConfig struct {
	Headers []string // canonical names, parallel to the values of responses
	Store   func(context.Context, iam.Usage) error
	Dropped func() int64 // decisions that the log has dropped since its start; may be nil
	Log     *slog.Logger
	Now     func() time.Time // nil: time.Now
}

// Usage records by day (UTC) which memberships, roles and clients allowed decisions used. It sees the decisions of a Log,
// in the background: all evaluations, and the sample of the cache hits. It stores each once a day.
type Usage struct {
	cfg   UsageConfig
	roles int // index of X-User-Roles; -1: responses have none
	seed  maphash.Seed

	mu      sync.Mutex
	pending pendingUsage        // of the day
	ended   []pendingUsage      // days that have ended and are not stored
	known   map[uint64]struct{} // what was stored or is pending, of the day
	dropped int64               // of the log, as it was read last
	lost    int64               // entries that were not taken: too many
}

// pendingUsage is what is to be stored.
type pendingUsage struct {
	iam.Usage
	entries int
}

// NewUsage returns a Usage whose loop is Run.
func NewUsage(cfg UsageConfig) *Usage {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Dropped == nil {
		cfg.Dropped = func() int64 { return 0 }
	}
	u := &Usage{cfg: cfg, roles: slices.Index(cfg.Headers, http.CanonicalHeaderKey("X-User-Roles")), seed: maphash.MakeSeed(), known: map[uint64]struct{}{}}
	u.pending.Day, u.pending.Roles = dayOf(cfg.Now()), u.roles >= 0
	return u
}

func dayOf(t time.Time) time.Time { return t.UTC().Truncate(24 * time.Hour) }

// Observe takes one decision into account; a nil Usage takes none. It is for Config.Observe: the goroutine of a Log calls it, no request.
func (u *Usage) Observe(e *enrich.Evaluated) {
	if u == nil { // it is off
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.begin(dayOf(e.At))
	u.pending.Decisions++
	if !e.Response.Allowed || e.Token == nil {
		return
	}
	if t := e.Token; t.ClientID != "" && u.take("client", t.Issuer, t.ClientID) {
		u.pending.Clients = append(u.pending.Clients, iam.UsedClient{Issuer: t.Issuer, ClientID: t.ClientID})
	}
	tenant := e.Response.Tenant
	if tenant == "" {
		return
	}
	if about := e.Authzen; about != nil {
		u.authzen(about)
		return
	}
	if t := e.Token; !t.Program() && u.take("member", tenant, t.Issuer, t.Subject) {
		u.pending.Members = append(u.pending.Members, iam.UsedMember{Tenant: tenant, Issuer: t.Issuer, Subject: t.Subject})
	}
	if u.roles < 0 || u.roles >= len(e.Response.Values) {
		return
	}
	for role := range strings.SplitSeq(e.Response.Values[u.roles], ",") {
		if role = strings.TrimSpace(role); role != "" && u.take("role", tenant, role) {
			u.pending.Named = append(u.pending.Named, iam.UsedRole{Tenant: tenant, Role: role})
		}
	}
}

// authzen takes the subject of an AuthZEN evaluation into account: the client that asked has acted for them. Which of
// their roles allowed it is not known. u.mu is held.
func (u *Usage) authzen(about *enrich.Authzen) {
	switch {
	case about.SubjectType == "user" && u.take("member", about.Tenant, about.SubjectIssuer, about.SubjectID):
		u.pending.Members = append(u.pending.Members, iam.UsedMember{Tenant: about.Tenant, Issuer: about.SubjectIssuer, Subject: about.SubjectID})
	case about.SubjectType == "client" && u.take("client", about.SubjectIssuer, about.SubjectID):
		u.pending.Clients = append(u.pending.Clients, iam.UsedClient{Issuer: about.SubjectIssuer, ClientID: about.SubjectID})
	}
}

// begin begins a day, if it is a new one: a decision that comes late counts for the day that has begun. u.mu is held.
func (u *Usage) begin(day time.Time) {
	if !day.After(u.pending.Day) {
		return
	}
	u.ended = append(u.ended, u.pending)
	u.pending = pendingUsage{Usage: iam.Usage{Day: day, Roles: u.roles >= 0}}
	clear(u.known)
}

// take reports whether something was not taken today; u.mu is held.
func (u *Usage) take(parts ...string) bool {
	var h maphash.Hash
	h.SetSeed(u.seed)
	for _, p := range parts {
		_, _ = h.WriteString(p) // it never fails
		_ = h.WriteByte(0)
	}
	key := h.Sum64()
	if _, known := u.known[key]; known {
		return false
	}
	if u.pending.entries >= usageEntries {
		u.lost++ // it is taken when it comes again
		return false
	}
	if len(u.known) < usageKnown {
		u.known[key] = struct{}{}
	}
	u.pending.entries++
	return true
}

// Run stores once a minute, at the end of a day, and when ctx ends.
func (u *Usage) Run(ctx context.Context) {
	tick := time.NewTicker(usageEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			u.Flush(ctx)
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), usageLast)
			defer cancel()
			u.Flush(last)
			return
		}
	}
}

// Flush stores what is pending. What cannot be stored stays, within its bounds.
func (u *Usage) Flush(ctx context.Context) {
	u.mu.Lock()
	u.begin(dayOf(u.cfg.Now()))
	if dropped := u.cfg.Dropped(); dropped > u.dropped {
		u.pending.Dropped += dropped - u.dropped
		u.dropped = dropped
	}
	days := append(u.ended, u.pending)
	u.ended, u.pending = nil, pendingUsage{Usage: iam.Usage{Day: u.pending.Day, Roles: u.roles >= 0}}
	u.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, usageLimit)
	defer cancel()
	for i, day := range days {
		if err := u.tryStore(ctx, day.Usage); err != nil {
			u.cfg.Log.WarnContext(ctx, "usage not recorded", slog.Any("err", err), slog.Int("entries", day.entries))
			u.putBack(days[i:])
			return
		}
	}
}

// putBack keeps days that could not be stored, in their order, within the bounds.
func (u *Usage) putBack(days []pendingUsage) {
	u.mu.Lock()
	defer u.mu.Unlock()
	entries := u.pending.entries
	for _, day := range days {
		entries += day.entries
	}
	if entries > usageEntries || len(days) > usageDays {
		u.lost += int64(entries - u.pending.entries)
		clear(u.known) // what is used again is taken again
		return
	}
	u.ended = append(days, u.ended...)
}

// tryStore returns a panic as an error.
func (u *Usage) tryStore(ctx context.Context, usage iam.Usage) (err error) {
	defer iam.Recovered(&err)
	return u.cfg.Store(ctx, usage)
}

// Lost is how many memberships, roles and clients were not recorded: they were too many at once, or could not be stored.
func (u *Usage) Lost() int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.lost
}
