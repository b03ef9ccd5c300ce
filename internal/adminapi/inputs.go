package adminapi

import (
	"slices"
	"time"
)

// Parts of inputs and outputs. Those that inputs embed are exported, since huma looks
// into no others.

// OnPlatform is an input about no tenant.
type OnPlatform struct{}

func (OnPlatform) tenant() string { return "" }

// OnTenant is an input about a tenant.
type OnTenant struct {
	Tenant string `path:"tenant" maxLength:"64" doc:"id of the tenant"`
}

func (i OnTenant) tenant() string { return i.Tenant }

// Repeatable is an input of a POST that can be sent again.
type Repeatable struct {
	IdempotencyKey string `header:"Idempotency-Key" maxLength:"255" doc:"the same key and request within 24 hours: the same answer, and nothing is done twice"`
	RawBody        []byte
}

func (i Repeatable) key() string { return i.IdempotencyKey }

func (i Repeatable) raw() []byte { return i.RawBody }

// Leaving is an input of a change after which a tenant could be without an administrator.
type Leaving struct {
	LeaveWithoutAdministrator bool `query:"leave_without_administrator" doc:"also where it leaves the tenant without an administrator, which is 409 last_tenant_admin otherwise"`
}

func (i Leaving) leaves() bool { return i.LeaveWithoutAdministrator }

// one is an answer with one thing.
type one[T any] struct {
	Status   int
	Location string `header:"Location"`
	ETag     string `header:"ETag"`
	Body     T
}

// Wire types: what travels. They are not the domain's.

type attributes map[string]any

func orEmpty(a map[string]any) attributes {
	if a == nil {
		return attributes{}
	}
	return a
}

func sorted(list []string) []string {
	if s := slices.Sorted(slices.Values(list)); s != nil {
		return s
	}
	return []string{}
}

// given is a time, if there is one.
func given(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
