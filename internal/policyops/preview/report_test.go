package preview

import (
	"fmt"
	"testing"
)

func TestAReportCountsChangesByTenantTheMostFirst(t *testing.T) {
	s := newSection()
	for _, c := range []Change{
		{Kind: Reasons, Tenant: "acme"}, {Kind: Reasons, Tenant: "acme"}, // callers do not notice these
		{Kind: Loses, Tenant: "umbrella"}, {Kind: Gains, Tenant: "globex"}, {Kind: Loses, Tenant: "globex"},
	} {
		s.add(c)
	}
	if got, want := fmt.Sprint(s.sorted().Tenants), "[{globex map[gains:1 loses:1]} {umbrella map[loses:1]} {acme map[reasons:2]}]"; got != want {
		t.Errorf("tenants are %s, want %s", got, want)
	}
}

func TestAReportListsTheTenantsWithTheMostChanges(t *testing.T) {
	s := newSection()
	for i := range tenantsMost + 3 {
		s.add(Change{Kind: Loses, Tenant: fmt.Sprint("t", i)})
	}
	s.add(Change{Kind: Loses, Tenant: "t9"})
	got := s.sorted()
	if len(got.Tenants) != tenantsMost || got.TenantsLeft != 3 || got.Tenants[0].Tenant != "t9" {
		t.Errorf("%d tenants are listed and %d left out, the first is %v", len(got.Tenants), got.TenantsLeft, got.Tenants[0])
	}
}
