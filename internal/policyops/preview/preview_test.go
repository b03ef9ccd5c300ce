package preview

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/policies"
)

const issuer = "https://rauth.test"

// platform is a snapshot of users who are each a member of one tenant. It counts what is loaded.
type platform struct {
	users, tenants int
	mu             sync.Mutex
	loads          map[string]int
}

func (p *platform) load(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loads[what]++
}

func (p *platform) user(i int) iam.UserFacts {
	return iam.UserFacts{
		User: iam.User{ID: fmt.Sprintf("id-%06d", i), Issuer: issuer, Subject: fmt.Sprintf("user-%06d", i), Status: iam.UserActive},
		Memberships: []iam.Membership{
			{Tenant: fmt.Sprintf("t%04d", i%p.tenants), Status: iam.MembershipActive, TenantStatus: "active", Roles: []string{"viewer"}},
		},
	}
}

func (p *platform) User(_ context.Context, _, subject string) (iam.UserFacts, bool, error) {
	p.load("user")
	var i int
	if _, err := fmt.Sscanf(subject, "user-%d", &i); err != nil {
		return iam.UserFacts{}, false, nil //nolint:nilerr // there is no such user
	}
	return p.user(i), true, nil
}

func (p *platform) Tenant(_ context.Context, id string) (iam.TenantFacts, bool, error) {
	p.load("tenant " + id)
	return iam.TenantFacts{Tenant: iam.Tenant{ID: id, Status: "active"}, Roles: []iam.Role{{Tenant: id, Name: "viewer"}}}, true, nil
}

func (p *platform) Client(context.Context, string, string) (iam.ClientFacts, bool, error) {
	p.load("client")
	return iam.ClientFacts{}, false, nil
}

func (p *platform) Count(context.Context) (principals, tenants int64, err error) {
	return 2 * int64(p.users), int64(p.tenants), nil
}

func (p *platform) Tenants(_ context.Context, after string, limit int) (list []string, err error) {
	for i := range p.tenants {
		if id := fmt.Sprintf("t%04d", i); id > after && len(list) < limit {
			list = append(list, id)
		}
	}
	return list, nil
}

func (p *platform) Users(_ context.Context, after string, limit int) (list []iam.UserFacts, err error) {
	for i := range p.users {
		if u := p.user(i); u.ID > after && len(list) < limit {
			list = append(list, u)
		}
	}
	return list, nil
}

func (p *platform) Clients(context.Context, string, string, int) ([]iam.Client, error) {
	return nil, nil
}

// Users are read in pages: they are not loaded again, and they evict no tenant, which would be loaded again for each
// of its users.
func TestAPreviewLoadsEachTenantOnce(t *testing.T) {
	t.Parallel()
	engine, err := policy.NewEngine(policy.Config{Log: slog.New(slog.DiscardHandler), Limit: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	revision := func(more string) *policy.Revision {
		c, err := policy.FromFS("test", policies.FS)
		if err != nil {
			t.Fatal(err)
		}
		if more != "" {
			c.Modules["iam/claims/more.rego"] = "package iam.claims\n\n" + more
		}
		r, err := engine.Prepare(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	facts := &platform{users: 12_000, tenants: 600, loads: map[string]int{}} // the cache of serve has 10,000 entries
	if testing.Short() {
		facts.users = 2_400
	}
	questions, lost := int64(2*facts.users), int64(2*facts.users/facts.tenants) // without a tenant, and in theirs
	issuers := iam.Issuers{{URL: issuer, Tenants: []string{"*"}, Platform: true}}
	report, err := Run(t.Context(), Config{
		Engine: engine, Issuers: issuers, HeaderMax: 1 << 14, Facts: facts, Workers: 4, Base: revision(""),
		Candidate: revision("# METADATA\n# title: Closed\n# description: It is closed.\n# custom:\n#   code: closed\n" +
			"denials contains _reason(rego.metadata.rule()) if _tenant.id == \"t0007\"\n"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := report.Directory.Counts, (map[string]int64{Loses: lost}); report.Directory.Asked != questions || !maps.Equal(got, want) {
		t.Errorf("%d questions, changes %v, want %v of %d: the users of one tenant", report.Directory.Asked, got, want, questions)
	}
	// In each tenant an anonymous caller, an unknown user and a user of another tenant; without a tenant the first two.
	if got := report.Outsiders; got.Asked != 3*600+2 {
		t.Errorf("outsiders: %+v", got)
	}
	for id, n := range facts.loads {
		if id != "user" && n != 1 {
			t.Errorf("%s is loaded %d times", id, n)
		}
	}
	if n := facts.loads["user"]; n > strangersMost+1 {
		t.Errorf("%d users are loaded, who were read in pages", n)
	}
	if len(facts.loads) != 601 {
		t.Errorf("loaded: %v", slices.Sorted(maps.Keys(facts.loads)))
	}
}
