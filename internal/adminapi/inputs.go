package adminapi

import (
	"net/http"
	"slices"
	"time"
)

// Parts of requests and responses. Those that inputs embed are exported: huma ignores embedded types that are not.

// OnPlatform is an input about no tenant.
type OnPlatform struct{}

func (OnPlatform) target() target { return target{} }

// OnTenant is an input about a tenant.
type OnTenant struct {
	Tenant string `path:"tenant" maxLength:"64" doc:"id of the tenant"`
}

func (i OnTenant) target() target { return target{tenant: i.Tenant} }

// Repeatable is an input of a POST that a caller can safely retry.
type Repeatable struct {
	IdempotencyKey string `header:"Idempotency-Key" maxLength:"255" doc:"the same key and request within 24 hours have the same response, and no further effect"`
	RawBody        []byte
}

func (i Repeatable) idempotency() (key string, body []byte) { return i.IdempotencyKey, i.RawBody }

// Leaving is an input of a change after which a tenant could be without an administrator.
type Leaving struct {
	LeaveWithoutAdministrator bool `query:"leave_without_administrator" doc:"allow that the tenant is left without an administrator; otherwise that is 409 last_tenant_admin"`
}

func (i Leaving) leavesTenant() bool { return i.LeaveWithoutAdministrator }

// resource is a response with one resource.
type resource[T any] struct {
	Status   int
	Location string `header:"Location"`
	ETag     string `header:"ETag"`
	Body     T
}

// created marks the resource as new.
func (r *resource[T]) created(location string) *resource[T] {
	r.Status, r.Location = http.StatusCreated, location
	return r
}

// attributes are those of a tenant, user or member.
type attributes map[string]any

func orEmpty(a map[string]any) attributes {
	if a == nil {
		return attributes{}
	}
	return a
}

// sorted returns a sorted copy, which is never null in JSON.
func sorted(list []string) []string {
	if s := slices.Sorted(slices.Values(list)); s != nil {
		return s
	}
	return []string{}
}

// optionalTime is a time in UTC; nil for the zero time.
func optionalTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// timeOrZero is the opposite of optionalTime.
func timeOrZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}
