package clients

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// Kinds of drift.
const (
	DriftMissing    = "missing"     // we have it, the identity provider does not
	DriftChanged    = "changed"     // it differs from what was applied
	DriftNotDeleted = "not_deleted" // it is deleted here, and exists there
	DriftOrphan     = "orphan"      // it has our marks, and is unknown here
	DriftNotOurs    = "not_ours"    // it has the id of one of ours, and other marks
	DriftUnmanaged  = "unmanaged"   // it has security-relevant settings that are not managed here
)

// DriftKinds are all of them.
var DriftKinds = []string{DriftMissing, DriftChanged, DriftNotDeleted, DriftOrphan, DriftNotOurs, DriftUnmanaged}

// Outcomes of a difference.
const (
	Repaired  = "repaired"
	Failed    = "failed"
	Stopped   = "stopped"    // there were too many
	ComesBack = "comes back" // the identity provider stores another value than was sent
)

// Difference is one between the two systems.
type Difference struct {
	Client string
	Tenant string
	Kind   string
	Fields []string // that differ, by the names of RFC 7591
	Repair string   // operation that would fix it; empty: an operator must decide
	Why    string
	Values []FieldValues // of Fields; none of unmanaged ones, whose values may be secrets
	Done   string        // its outcome; empty: no repair was attempted

	seen  iam.ManagedClient
	mark  string // of the client in the provider
	newer bool   // the client has our mark, and a version that this database has not written
	twice bool   // two comparisons have seen it
}

// FieldValues are the values of a field that differs, as sets of text, without secrets.
type FieldValues struct {
	Field     string
	Desired   []string
	Confirmed []string // what the identity provider has confirmed last; nil: not known
	Provider  []string
}

// values are those of some fields of a client: wanted, confirmed last, and in the provider.
func (s *Service) values(fields []string, c iam.ManagedClient, got iam.Registration) (all []FieldValues) {
	wanted := c.Marked(s.cfg.Instance)
	for _, field := range fields {
		v := FieldValues{Field: field, Desired: wanted.Values(field), Provider: got.Values(field)}
		if c.Applied != nil {
			applied := c
			applied.Wanted, applied.WantedVersion = *c.Applied, c.AppliedMark
			v.Confirmed = applied.Marked(s.cfg.Instance).Values(field)
		}
		all = append(all, v)
	}
	return all
}

// Report is one comparison of all clients: wanted, applied last, and in the provider.
type Report struct {
	At          time.Time
	Compared    int // of ours that are not deleted
	Pending     int // not compared: an operation is pending
	Foreign     int // in the identity provider, of other owners: never changed
	Differences []Difference
	Stopped     bool // there were more than MaxRepairs, or Newer
	Newer       bool // a client has a version there that this database has not written
}

// Of counts the differences of a kind that two comparisons have found.
func (r Report) Of(kind string) (n int) {
	for _, d := range r.Differences {
		if d.Kind == kind && d.twice {
			n++
		}
	}
	return n
}

// Left counts the differences that are left. Unmanaged settings have no wanted value: they are
// only reported.
func (r Report) Left() (n int) {
	for _, d := range r.Differences {
		if d.Done != Repaired && d.Kind != DriftUnmanaged {
			n++
		}
	}
	return n
}

// numbers are those of a report, without names.
func (r Report) numbers() iam.ClientComparison {
	c := iam.ClientComparison{
		At: r.At, Compared: r.Compared, Pending: r.Pending, Others: r.Foreign, Kinds: map[string]int{}, Remaining: r.Left(), Stopped: r.Stopped,
	}
	for _, d := range r.Differences {
		c.Kinds[d.Kind]++
	}
	return c
}

// record remembers a comparison, for readers on any replica.
func (s *Service) record(ctx context.Context, r Report) {
	if err := s.cfg.DB.ComparedClients(ctx, r.numbers()); err != nil && ctx.Err() == nil {
		s.cfg.Log.WarnContext(ctx, "client comparison not recorded", slog.Any("err", err))
	}
}

// Compare compares all clients of both systems, and changes nothing.
func (s *Service) Compare(ctx context.Context) (Report, error) {
	if s.cfg.Provider == nil {
		return Report{}, errOff
	}
	if s.cfg.Copied {
		return Report{}, errCopied
	}
	r := Report{At: time.Now()}
	ours := map[string]iam.ManagedClient{}
	err := s.cfg.DB.View(postgres.Patient(ctx), func(ctx context.Context, tx *postgres.Tx) error {
		clear(ours)
		return tx.AllManagedClients(ctx, s.cfg.Issuer, func(c iam.ManagedClient) { ours[c.ClientID] = c })
	})
	if err != nil {
		return r, err
	}
	there := map[string]bool{}
	unknown := map[string]iam.Registration{} // that have our mark
	err = s.cfg.Provider.List(ctx, func(got iam.Registration) error {
		there[got.ClientID] = true
		c, known := ours[got.ClientID]
		switch {
		case !known && got.Metadata[iam.MarkInstance] != s.cfg.Instance:
			r.Foreign++
		case !known:
			unknown[got.ClientID] = got
		case c.Operation != "":
		case !s.ours(got):
			r.add(Difference{
				Client: c.ClientID, Tenant: c.Tenant, Kind: DriftNotOurs,
				Why: "it has the id of one of our clients and other marks: another instance or a manual change has taken it over; it is not changed",
			}, c, got)
		case c.Status == iam.ClientDeleted:
			r.add(Difference{
				Client: c.ClientID, Tenant: c.Tenant, Kind: DriftNotDeleted, Repair: iam.OperationDelete,
				Why: "it was deleted here, and exists there again; the state here wins",
			}, c, got)
		default:
			if len(got.Unmanaged) > 0 {
				r.add(Difference{
					Client: c.ClientID, Tenant: c.Tenant, Kind: DriftUnmanaged, Fields: got.Unmanaged,
					Why: "this was set in the identity provider and differs from its defaults; it is not managed here, and stays",
				}, c, got)
			}
			fields := got.Drift(c.Wanted)
			why := "it was changed there after it was applied; the state here wins"
			if audiences := s.cfg.Admin.Audiences(); len(c.Wanted.Audience) == 0 && len(audiences) > 0 {
				c.Wanted.Audience = slices.Compact(slices.Sorted(slices.Values(slices.Concat(audiences, got.Audience))))
				fields = append(fields, "audience")
				why = "an earlier version of this service created it without managing audiences; it gets those of the gateways, and keeps its own"
			}
			if len(fields) == 0 && got.Metadata[iam.MarkVersion] != strconv.FormatInt(c.WantedVersion, 10) {
				fields = []string{"metadata." + iam.MarkVersion}
			}
			if len(fields) > 0 {
				r.add(Difference{
					Client: c.ClientID, Tenant: c.Tenant, Kind: DriftChanged, Fields: fields, Repair: iam.OperationUpdate,
					Why: why, Values: s.values(fields, c, got),
				}, c, got)
			}
		}
		return nil
	})
	if err != nil {
		return r, err
	}
	var highest int64 // version that this database has written
	for _, c := range ours {
		highest = max(highest, c.WantedVersion)
	}
	if err := s.orphans(ctx, &r, unknown, highest); err != nil {
		return r, err
	}
	for id, c := range ours {
		switch {
		case c.Operation != "":
			r.Pending++
			continue
		case !there[id] && c.Status != iam.ClientDeleted:
			if len(c.Wanted.Audience) == 0 {
				c.Wanted.Audience = s.cfg.Admin.Audiences()
			}
			why := "it was created there, and is missing; it is created again under its id"
			if c.Wanted.HasSecret() {
				why += ", with a secret that was returned to no caller: rotate it"
			}
			r.add(Difference{Client: id, Tenant: c.Tenant, Kind: DriftMissing, Repair: iam.OperationCreate, Why: why}, c, iam.Registration{})
		}
		if c.Status != iam.ClientDeleted {
			r.Compared++
		}
	}
	slices.SortFunc(r.Differences, func(a, b Difference) int { return strings.Compare(a.key(), b.key()) })
	return r, nil
}

// orphans reports clients with our marks that are unknown here, read after the list: one that
// was created meanwhile is no orphan.
func (s *Service) orphans(ctx context.Context, r *Report, unknown map[string]iam.Registration, highest int64) error {
	if len(unknown) == 0 {
		return nil
	}
	var known []string
	err := s.cfg.DB.View(postgres.Patient(ctx), func(ctx context.Context, tx *postgres.Tx) (err error) {
		known, err = tx.FilterManaged(ctx, s.cfg.Issuer, slices.Collect(maps.Keys(unknown)))
		return err
	})
	for id, got := range unknown {
		if err == nil && !slices.Contains(known, id) {
			r.add(Difference{
				Client: id, Tenant: got.Metadata[iam.MarkTenant], Kind: DriftOrphan,
				Why: "it has our marks, and is unknown here: a backup of the database was restored, or the database was copied; an operator must decide",
			}, iam.ManagedClient{WantedVersion: highest}, got)
		}
	}
	return err
}

// key identifies a difference across comparisons.
func (d Difference) key() string { return d.Client + " " + d.Kind }

func (r *Report) add(d Difference, seen iam.ManagedClient, got iam.Registration) {
	d.seen, d.mark = seen, fmt.Sprintf("%s %+v", d.Kind, got)
	version, err := strconv.ParseInt(got.Metadata[iam.MarkVersion], 10, 64)
	d.newer = err == nil && version > seen.WantedVersion && d.Kind != DriftNotOurs
	r.Differences = append(r.Differences, d)
}

// rounds are the differences of earlier comparisons: one counts when two comparisons find it.
type rounds struct {
	before map[string]string // key of a difference → mark
	tried  map[string]string // what was repaired, and should not recur
}

func newRounds() *rounds { return &rounds{map[string]string{}, map[string]string{}} }

// round compares, and repairs what the previous round has found too.
func (s *Service) round(ctx context.Context, rs *rounds) {
	r, err := s.Compare(ctx)
	if err != nil {
		if ctx.Err() == nil {
			s.cfg.Log.WarnContext(ctx, "client comparison failed", slog.Any("err", err))
		}
		return
	}
	s.repair(ctx, &r, rs, s.cfg.MaxRepairs)
	s.cfg.OnCompared(r)
	s.record(ctx, r)
	level := slog.LevelInfo
	if r.Left() > 0 {
		level = slog.LevelWarn
	}
	s.cfg.Log.Log(ctx, level, "clients compared with the identity provider", slog.Int("compared", r.Compared), slog.Int("pending", r.Pending),
		slog.Int("foreign", r.Foreign), slog.Int("differences", len(r.Differences)), slog.Int("left", r.Left()), slog.Bool("stopped", r.Stopped))
}

// repair fixes differences that were found before, unless there are too many: then an operator
// must decide.
func (s *Service) repair(ctx context.Context, r *Report, rs *rounds, most int) {
	now := map[string]string{}
	var due []*Difference
	for i := range r.Differences {
		d := &r.Differences[i]
		now[d.key()] = d.mark
		d.twice = rs.before[d.key()] == d.mark
		r.Newer = r.Newer || d.twice && d.newer
		if d.Repair == "" || !d.twice {
			continue
		}
		if rs.tried[d.key()] == d.mark {
			d.Done = ComesBack
			continue
		}
		due = append(due, d)
	}
	rs.before = now
	maps.DeleteFunc(rs.tried, func(key, _ string) bool { return now[key] == "" })
	if r.Newer && !s.cfg.Confirmed {
		r.Stopped = true
		for _, d := range due {
			d.Done = Stopped
		}
		s.cfg.Log.ErrorContext(ctx, "client repair stopped: another database of the same instance writes to the identity provider, or this one was restored")
		return
	}
	if len(due) > most {
		r.Stopped = true
		for _, d := range due {
			d.Done = Stopped
		}
		s.cfg.Log.ErrorContext(ctx, "client repair stopped: too many clients differ from the identity provider", slog.Int("differences", len(due)), slog.Int("most", most))
		return
	}
	for _, d := range due {
		d.Done = s.repairOne(ctx, *d)
		if d.Done == Repaired {
			rs.tried[d.key()] = d.mark
		}
		s.cfg.Log.WarnContext(ctx, "client differed from the identity provider", slog.String("client", d.Client), slog.String("tenant", d.Tenant),
			slog.String("kind", d.Kind), slog.Any("fields", d.Fields), slog.String("outcome", d.Done))
	}
}

// repairOne repairs a difference, and returns Repaired or Failed.
func (s *Service) repairOne(ctx context.Context, d Difference) string {
	lease := leaseFor(loopLease)
	task := admin.Task{Action: "client:repair", Object: d.Client, Client: true, Writes: true}
	op, err := admin.Do(ctx, s.cfg.Admin, loop, task, func(ctx context.Context, w *admin.Work) (admin.Begun, error) {
		return w.Repair(ctx, d.seen, d.Repair, loopLease)
	})
	if err != nil || !op.Begun {
		return Failed
	}
	if _, done := s.takeOver(ctx, op.Client, lease); !done {
		return Failed
	}
	return Repaired
}

// betweenRounds is the pause between the two rounds of a command.
const betweenRounds = 2 * time.Second

// Reconcile finishes all pending operations, also those that wait for their next attempt,
// compares twice and repairs, unless more than most clients differ. In a copy it only compares.
func (s *Service) Reconcile(ctx context.Context, most int) (Report, error) {
	if s.cfg.Copied {
		return s.Compare(ctx)
	}
	var began time.Time
	err := s.cfg.DB.View(ctx, func(ctx context.Context, tx *postgres.Tx) (err error) {
		began, err = tx.Now(ctx)
		return err
	})
	if err != nil {
		return Report{}, err
	}
	for {
		n, err := s.finish(ctx, began)
		if err != nil {
			return Report{}, err
		}
		if n == 0 {
			break
		}
	}
	first, err := s.Compare(ctx)
	if err != nil {
		return first, err
	}
	if len(first.Differences) == 0 {
		s.record(ctx, first)
		return first, nil
	}
	rs := newRounds()
	for _, d := range first.Differences {
		rs.before[d.key()] = d.mark
	}
	select {
	case <-ctx.Done():
		return first, ctx.Err()
	case <-time.After(betweenRounds):
	}
	second, err := s.Compare(ctx)
	if err == nil {
		s.repair(ctx, &second, rs, most)
		s.record(ctx, second)
	}
	return second, err
}
