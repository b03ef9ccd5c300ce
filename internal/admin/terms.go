package admin

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// Paces of the loop of terms. No decision waits for it: a role is in force by the clock.
const (
	endPace      = 5 * time.Second
	announcePace = time.Minute
	termsBatch   = 200 // memberships that one round changes
)

// keeper is the caller of what happens by the clock, and clockwork the actor that the audit names for it.
var (
	keeper    = Caller{Operator: "clock", Via: "loop"}
	clockwork = &Actor{kind: "service", id: "iam-service"}
)

// TermsRound is what a round of KeepTerms did, in roles.
type TermsRound struct {
	Removed   int // that had ended
	Announced int // that end soon
}

// KeepTerms removes roles that have ended, ends requests that were not decided in time, and announces roles that end within
// notice, until ctx ends. Every replica
// runs it: the tenant's lock and the table of notices let each end be removed and announced once.
func (s *Service) KeepTerms(ctx context.Context, notice time.Duration, report func(TermsRound)) {
	var announced time.Time
	tick := time.NewTicker(endPace)
	defer tick.Stop()
	for {
		removed, err := s.EndRoles(ctx)
		report(TermsRound{Removed: removed})
		s.warn(ctx, "roles that have ended were not removed", err)
		_, err = s.ExpireRequests(ctx)
		s.warn(ctx, "requests that were not decided in time are still pending", err)
		if time.Since(announced) > announcePace {
			announced = time.Now()
			n, err := s.AnnounceEnds(ctx, notice)
			report(TermsRound{Announced: n})
			s.warn(ctx, "roles that end soon were not announced", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *Service) warn(ctx context.Context, what string, err error) {
	if err != nil && ctx.Err() == nil {
		s.cfg.Log.WarnContext(ctx, what, slog.Any("err", err))
	}
}

// EndRoles removes the roles that have ended, of all tenants, and returns their number.
func (s *Service) EndRoles(ctx context.Context) (int, error) {
	find := func(ctx context.Context, skip []string) ([]postgres.MemberKey, error) {
		return s.cfg.DB.EndedRoles(ctx, termsBatch, skip)
	}
	return s.byTenant(ctx, find, "member:expire-roles", func(ctx context.Context, w *Work, tenant string, users []string) (int, error) {
		return w.endRoles(ctx, tenant, users)
	})
}

// AnnounceEnds announces the roles that end within notice, each end once, and returns their number.
func (s *Service) AnnounceEnds(ctx context.Context, notice time.Duration) (int, error) {
	find := func(ctx context.Context, skip []string) ([]postgres.MemberKey, error) {
		return s.cfg.DB.EndingRoles(ctx, notice, termsBatch, skip)
	}
	n, err := s.byTenant(ctx, find, "member:announce-ends", func(ctx context.Context, w *Work, tenant string, users []string) (int, error) {
		return w.announceEnds(ctx, tenant, users, notice)
	})
	return n, errors.Join(err, s.cfg.DB.Change(ctx, func(ctx context.Context, tx *postgres.Tx) error {
		_, err := tx.PurgeEndNotices(ctx)
		return err
	}))
}

// finder returns memberships about which something is due, without those of tenants to skip.
type finder func(ctx context.Context, skip []string) ([]postgres.MemberKey, error)

// byTenant does what is due, in a transaction for each tenant, until nothing is found. A tenant where it fails waits
// for the next round, and does not delay the others.
func (s *Service) byTenant(ctx context.Context, find finder, action string, do func(context.Context, *Work, string, []string) (int, error)) (n int, err error) {
	var skip []string
	for ctx.Err() == nil {
		due, failed := find(ctx, skip)
		if failed != nil {
			return n, errors.Join(err, failed)
		}
		users := map[string][]string{}
		for _, k := range due {
			users[k.Tenant] = append(users[k.Tenant], k.User)
		}
		if len(users) == 0 {
			return n, err
		}
		for _, tenant := range slices.Sorted(maps.Keys(users)) {
			task := Task{Action: action, Tenant: tenant, Writes: true, For: clockwork}
			done, failed := Do(ctx, s, keeper, task, func(ctx context.Context, w *Work) (int, error) { return do(ctx, w, tenant, users[tenant]) })
			if n += done; failed != nil || done == 0 { // nothing: another replica was faster, or never; the next round finds out
				skip = append(skip, tenant)
			}
			err = errors.Join(err, failed)
		}
	}
	return n, err
}

func (w *Work) endRoles(ctx context.Context, tenant string, users []string) (n int, err error) {
	members, err := w.tx.MembersByID(ctx, tenant, users)
	if err != nil {
		return 0, err
	}
	changes := make([]memberChange, 0, len(members))
	for i := range members {
		m := &members[i]
		left := slices.DeleteFunc(slices.Clone(m.Roles), func(role string) bool {
			end := m.Terms[role].ExpiresAt
			return !end.IsZero() && !end.After(m.AsOf)
		})
		if len(left) < len(m.Roles) { // not where another replica was faster
			changes = append(changes, memberChange{before: m, after: m.WithRoles(left)})
		}
	}
	if len(changes) == 0 {
		return 0, nil
	}
	after := make([]*iam.Membership, len(changes))
	for i := range changes {
		after[i] = &changes[i].after
	}
	if err := w.tx.SetRoles(ctx, tenant, after); err != nil {
		return 0, err
	}
	for _, c := range changes {
		ended := slices.DeleteFunc(sorted(c.before.Roles), func(r string) bool { return slices.Contains(c.after.Roles, r) })
		ends := make([]iam.RoleEnd, len(ended))
		for i, role := range ended {
			ends[i] = iam.RoleEnd{Role: role, ExpiresAt: timestamp(c.before.Terms[role].ExpiresAt)}
		}
		w.emit(iam.UserRolesExpiredEvent{RolesEnd: iam.RolesEnd{Tenant: tenant, User: c.after.User, Ends: ends, Version: c.after.Version}})
		if err := w.memberChanged(c); err != nil {
			return 0, err
		}
		n += len(ended)
	}
	return n, nil
}

func (w *Work) announceEnds(ctx context.Context, tenant string, users []string, notice time.Duration) (int, error) {
	members, err := w.tx.MembersByID(ctx, tenant, users)
	if err != nil {
		return 0, err
	}
	var ends []postgres.RoleEnd
	for _, m := range members {
		for role, t := range m.Terms {
			if t.ExpiresAt.After(m.AsOf) && !t.ExpiresAt.After(m.AsOf.Add(notice)) {
				ends = append(ends, postgres.RoleEnd{User: m.User, Role: role, At: t.ExpiresAt})
			}
		}
	}
	fresh, err := w.tx.AnnounceEnds(ctx, tenant, ends)
	if err != nil {
		return 0, err
	}
	for _, m := range members {
		e := iam.RolesEnd{Tenant: tenant, User: m.User, Version: m.Version}
		for _, role := range sorted(m.Roles) {
			if slices.ContainsFunc(fresh, func(f postgres.RoleEnd) bool { return f.User == m.User && f.Role == role }) {
				e.Ends = append(e.Ends, iam.RoleEnd{Role: role, ExpiresAt: timestamp(m.Terms[role].ExpiresAt)})
			}
		}
		if len(e.Ends) > 0 {
			w.emit(iam.UserRolesExpiringEvent{RolesEnd: e})
		}
	}
	return len(fresh), nil
}
