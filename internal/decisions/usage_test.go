package decisions_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"iam-service/internal/decisions"
	"iam-service/internal/enrich"
	"iam-service/internal/iam"
	"iam-service/internal/token"
)

// stored are the usages that were stored, unless it fails.
type stored struct {
	mu   sync.Mutex
	list []iam.Usage
	fail error
}

func (s *stored) store(_ context.Context, u iam.Usage) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail == nil {
		s.list = append(s.list, u)
	}
	return s.fail
}

// take returns what was stored since the last call.
func (s *stored) take() []iam.Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.list = nil }()
	return s.list
}

// used is an allowed decision about a user.
func used(at time.Time, tenant, subject, client, roles string) *enrich.Evaluated {
	return &enrich.Evaluated{
		At:       at,
		Token:    &token.Token{Issuer: "https://idp", Subject: subject, ClientID: client},
		Response: enrich.Response{Allowed: true, Tenant: tenant, Values: []string{"u", roles}},
	}
}

func TestUseIsRecordedOnceADay(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 29, 23, 59, 0, 0, time.UTC)
	var out stored
	var dropped int64
	u := decisions.NewUsage(decisions.UsageConfig{
		Headers: []string{"X-User-Id", "X-User-Roles"}, Store: out.store, Now: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler),
		Dropped: func() int64 { return dropped },
	})
	for range 3 {
		u.Observe(used(now, "acme", "alice", "web", "editor,viewer"))
	}
	u.Observe(used(now, "acme", "bob", "web", "viewer"))
	u.Observe(used(now, "", "carol", "", ""))                    // of no tenant
	u.Observe(used(now, "acme", "billing", "billing", "reader")) // a program
	denied := used(now, "globex", "dave", "other", "admin")
	denied.Response.Allowed = false
	u.Observe(denied)
	u.Observe(&enrich.Evaluated{At: now, Response: enrich.Response{Allowed: true}}) // anonymous
	dropped = 7
	u.Flush(t.Context())
	first := out.take()
	if len(first) != 1 {
		t.Fatalf("got %+v", first)
	}
	got := first[0]
	if want := "2026-11-29"; got.Day.Format(time.DateOnly) != want || got.Decisions != 8 || got.Dropped != 7 || !got.Roles {
		t.Errorf("got %+v", got)
	}
	if want := []iam.UsedMember{{Tenant: "acme", Issuer: "https://idp", Subject: "alice"}, {Tenant: "acme", Issuer: "https://idp", Subject: "bob"}}; !slices.Equal(got.Members, want) {
		t.Errorf("members: got %v, want %v", got.Members, want)
	}
	if want := []iam.UsedRole{{Tenant: "acme", Role: "editor"}, {Tenant: "acme", Role: "viewer"}, {Tenant: "acme", Role: "reader"}}; !slices.Equal(got.Named, want) {
		t.Errorf("roles: got %v, want %v", got.Named, want)
	}
	if want := []iam.UsedClient{{Issuer: "https://idp", ClientID: "web"}, {Issuer: "https://idp", ClientID: "billing"}}; !slices.Equal(got.Clients, want) {
		t.Errorf("clients: got %v, want %v", got.Clients, want)
	}

	// The same again on the same day is only counted; the next day it is recorded again.
	u.Observe(used(now, "acme", "alice", "web", "viewer"))
	now = now.Add(2 * time.Minute)
	u.Observe(used(now, "acme", "alice", "web", "viewer"))
	u.Flush(t.Context())
	next := out.take()
	if len(next) != 2 || len(next[0].Members) != 0 || next[0].Decisions != 1 || next[1].Day.Format(time.DateOnly) != "2026-11-30" || len(next[1].Members) != 1 {
		t.Errorf("got %+v", next)
	}

	// A day without decisions is one of which use is known.
	u.Flush(t.Context())
	if idle := out.take(); len(idle) != 1 || idle[0].Decisions != 0 {
		t.Errorf("got %+v", idle)
	}
}

// A database that is away for a while costs nothing; for longer, what is used again is recorded again, and memory is bounded.
func TestUseThatCannotBeStoredIsStoredLater(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	out := stored{fail: errors.New("away")}
	u := decisions.NewUsage(decisions.UsageConfig{Store: out.store, Now: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler)})
	u.Observe(used(now, "acme", "alice", "web", ""))
	u.Flush(t.Context())
	out.fail = nil
	u.Flush(t.Context())
	members := func() (list []string) {
		for _, one := range out.take() {
			for _, m := range one.Members {
				list = append(list, m.Subject)
			}
		}
		return list
	}
	if got := members(); !slices.Equal(got, []string{"alice"}) || u.Lost() != 0 {
		t.Errorf("got %v, lost %d", got, u.Lost())
	}
	out.fail = errors.New("away")
	for i := range 60_000 {
		u.Observe(used(now, "acme", fmt.Sprint("user-", i), "", ""))
	}
	for range 10 {
		u.Flush(t.Context())
	}
	if u.Lost() == 0 {
		t.Error("nothing is lost: what is in memory has no bound")
	}
	out.fail = nil
	u.Observe(used(now, "acme", "alice", "", ""))
	u.Flush(t.Context())
	if got := members(); !slices.Contains(got, "alice") {
		t.Errorf("what is used again is not recorded again: %d members", len(got))
	}
}

// Where responses do not name roles, the use of none is known.
func TestRolesAreRecordedWhereResponsesNameThem(t *testing.T) {
	t.Parallel()
	now := time.Now()
	var out stored
	u := decisions.NewUsage(decisions.UsageConfig{Headers: []string{"X-User-Id"}, Store: out.store, Log: slog.New(slog.DiscardHandler)})
	u.Observe(used(now, "acme", "alice", "web", "viewer"))
	u.Flush(t.Context())
	if got := out.take(); len(got) != 1 || got[0].Roles || len(got[0].Named) != 0 || len(got[0].Members) != 1 {
		t.Errorf("got %+v", got)
	}
}

func BenchmarkUsage(b *testing.B) {
	var out stored
	u := decisions.NewUsage(decisions.UsageConfig{Headers: []string{"X-User-Id", "X-User-Roles"}, Store: out.store, Log: slog.New(slog.DiscardHandler)})
	e := used(time.Now(), "acme", "alice", "web", "editor,viewer")
	b.ReportAllocs()
	for b.Loop() {
		u.Observe(e)
	}
}

// Of an AuthZEN evaluation the subject was used, and the client that asked: it has acted for them.
func TestTheSubjectOfAnAuthZENEvaluationIsUsed(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	var out stored
	u := decisions.NewUsage(decisions.UsageConfig{Store: out.store, Now: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler)})
	for _, about := range []enrich.Authzen{
		{SubjectType: "user", SubjectIssuer: "https://idp", SubjectID: "alice", Tenant: "acme"},
		{SubjectType: "user", SubjectIssuer: "https://idp", SubjectID: "alice", Tenant: "acme"},
		{SubjectType: "client", SubjectIssuer: "https://idp", SubjectID: "bot", Tenant: "acme"},
		{SubjectType: "device", SubjectID: "alice", Tenant: "acme"},
	} {
		e := used(now, "acme", "pep", "pep", "")
		e.Authzen = &about
		u.Observe(e)
	}
	denied := used(now, "acme", "pep", "pep", "")
	denied.Authzen, denied.Response.Allowed = &enrich.Authzen{SubjectType: "user", SubjectIssuer: "https://idp", SubjectID: "mallory", Tenant: "acme"}, false
	u.Observe(denied)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	u.Run(ctx)
	list := out.take()
	if len(list) != 1 {
		t.Fatalf("%+v", list)
	}
	clients := []iam.UsedClient{{Issuer: "https://idp", ClientID: "pep"}, {Issuer: "https://idp", ClientID: "bot"}}
	if !slices.Equal(list[0].Members, []iam.UsedMember{{Tenant: "acme", Issuer: "https://idp", Subject: "alice"}}) || !slices.Equal(list[0].Clients, clients) {
		t.Errorf("%+v", list[0])
	}
}
