package adminapi_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/dev/world"
	"iam-service/internal/iam"
)

// Any tenant's administrator can add any user as a member.
func TestAMembershipThatAnotherTenantAddsChangesNoActiveTenant(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	auth := world.Bearer(w.Mint("victor", nil))
	in := func(what string, status int, tenant string) {
		t.Helper()
		got, lines, body := w.Ask(world.Get, auth)
		if got != status || status == 200 && world.Value(lines, "X-Tenant-ID") != tenant {
			t.Errorf("%s: %d %v %s, want %d %s", what, got, world.Claims(lines), body, status, tenant)
		}
	}
	body := map[string]any{"subject": "victor", "issuer": w.RAuth.Issuer}
	w.want(201, "tina", "POST", "/v1/tenants/acme/members", body)
	victor := w.user("victor")
	in("a member of acme", 200, "acme")
	w.want(201, "root", "POST", "/v1/tenants/globex/members", body)
	in("globex adds him", 200, "acme")
	w.want(200, "tina", "PATCH", "/v1/tenants/acme/members/"+victor, map[string]any{"status": "suspended"}, "Content-Type: application/merge-patch+json")
	in("acme suspends him", 403, "")
	if status, lines, _ := w.Ask(world.Get, auth, "X-Active-Tenant-ID: globex"); status != 200 || world.Value(lines, "X-Tenant-ID") != "globex" {
		t.Errorf("he asks for globex: %d", status)
	}
	w.want(200, "tina", "PATCH", "/v1/tenants/acme/members/"+victor, map[string]any{"status": "active"}, "Content-Type: application/merge-patch+json")
	in("acme lets him in again", 200, "acme")
	w.want(204, "tina", "DELETE", "/v1/tenants/acme/members/"+victor, nil)
	in("acme removes him: globex is his only one", 200, "globex")
	w.want(201, "root", "POST", "/v1/tenants/umbrella/members", body)
	in("umbrella adds him while he has no default", 200, "globex")
	w.want(204, "root", "DELETE", "/v1/tenants/umbrella/members/"+victor, nil)
	in("umbrella removes him", 200, "globex")
	w.want(204, "root", "DELETE", "/v1/tenants/globex/members/"+victor, nil)
	if u := w.want(200, "root", "GET", "/v1/users/"+victor, nil); u.field("default_tenant") != nil && u.field("default_tenant") != "" {
		t.Errorf("a member of nothing has a default tenant: %s", u)
	}
	w.want(201, "root", "POST", "/v1/tenants/umbrella/members", body)
	in("the first one again", 200, "umbrella")

	// Two at once: one of them is first.
	w.want(204, "root", "DELETE", "/v1/tenants/umbrella/members/"+victor, nil)
	var both sync.WaitGroup
	for _, tenant := range []string{"acme", "globex"} {
		both.Go(func() {
			if r := w.call("root", "POST", "/v1/tenants/"+tenant+"/members", body); r.status != 201 {
				t.Errorf("%s: %s", tenant, r)
			}
		})
	}
	both.Wait()
	status, lines, _ := w.Ask(world.Get, auth)
	if first := w.want(200, "root", "GET", "/v1/users/"+victor, nil).field("default_tenant"); status != 200 || first != world.Value(lines, "X-Tenant-ID") {
		t.Errorf("two at once: %d %v, and %v is the default", status, lines, first)
	}
	// What is said by the platform holds.
	id, err := w.DB.PutUser(ctx, iam.User{Issuer: w.RAuth.Issuer, Subject: "wendy", Status: iam.UserActive, DefaultTenant: "acme"})
	w.OK(err)
	w.OK(w.DB.PutMembership(ctx, iam.Membership{Tenant: "globex", User: id, Status: iam.MembershipActive}))
	if u := w.want(200, "root", "GET", "/v1/users/"+id, nil); u.field("default_tenant") != "acme" {
		t.Errorf("a default that was set is replaced: %s", u)
	}
}

// The tenant that adds a subject first is its default, for no longer than it is a member there.
func TestADefaultTenantEndsWithItsMembership(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	body := map[string]any{"subject": "wanted", "issuer": w.RAuth.Issuer}
	in := func(what, tenant string) {
		t.Helper()
		status, lines, _ := w.Ask(world.Get, world.Bearer(w.Mint("wanted", nil)))
		if got := world.Value(lines, "X-Tenant-ID"); tenant == "" && status != 403 || tenant != "" && (status != 200 || got != tenant) {
			t.Errorf("%s: %d %q, want %q", what, status, got, tenant)
		}
	}
	defaultIs := func(what, tenant string) {
		t.Helper()
		if got, _ := w.want(200, "root", "GET", "/v1/users/"+w.user("wanted"), nil).field("default_tenant").(string); got != tenant {
			t.Errorf("%s: the default is %q, want %q", what, got, tenant)
		}
	}
	add := func(tenant string) { t.Helper(); w.want(201, "root", "POST", "/v1/tenants/"+tenant+"/members", body) }
	remove := func(tenant string) {
		t.Helper()
		w.want(204, "root", "DELETE", "/v1/tenants/"+tenant+"/members/"+w.user("wanted"), nil)
	}
	add("globex")
	add("acme")
	in("globex was first", "globex")
	remove("globex")
	defaultIs("globex removes them", "")
	in("globex removes them", "acme")
	add("globex")
	defaultIs("globex adds them again", "acme")
	in("globex adds them again", "acme")
	add("umbrella")
	remove("acme")
	in("acme was the default, and two are left", "")
	w.want(200, "root", "PATCH", "/v1/users/"+w.user("wanted"), map[string]any{"default_tenant": "globex"}, "Content-Type: application/merge-patch+json")
	in("the platform's administrator says which", "globex")
	w.want(200, "root", "PATCH", "/v1/tenants/globex", map[string]any{"status": "suspended"}, "Content-Type: application/merge-patch+json")
	w.want(204, "root", "DELETE", "/v1/tenants/globex", nil)
	defaultIs("globex is deleted", "")
	in("globex is deleted", "umbrella")
	add("acme")
	in("acme adds them again", "umbrella")
	remove("acme")
	in("a membership goes that was not the default", "umbrella")
}

// A user is erased while others add them: it is one or the other, never a fault.
func TestErasingAndAddingAtOnceIsOneOrTheOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	for i := range 30 {
		subject := fmt.Sprint("flicker", i)
		w.want(201, "root", "POST", "/v1/users", map[string]any{"subject": subject})
		id := w.user(subject)
		var erased, added, batch reply
		var all sync.WaitGroup
		all.Go(func() { erased = w.call("root", "DELETE", "/v1/users/"+id, nil) })
		all.Go(func() { added = w.call("tina", "POST", "/v1/tenants/acme/members", map[string]any{"subject": subject}) })
		all.Go(func() {
			batch = w.call("root", "POST", "/v1/tenants/globex/members:batch", map[string]any{"members": []any{map[string]any{"subject": subject}}})
		})
		all.Wait()
		if erased.status != 204 || added.status != 201 || batch.status != 200 {
			t.Fatalf("%s, %s, %s", erased, added, batch)
		}
	}
	for v := range w.audit() {
		t.Errorf("the audit: %s", v)
	}
	// Each membership that began and whose user is gone has ended, for who reads events too.
	rows, err := w.sql().Query(ctx, `
		SELECT o.tenant || ' ' || o.object FROM outbox o WHERE o.kind = 'member' AND NOT EXISTS (SELECT FROM users u WHERE u.id::text = o.object)
		 GROUP BY o.tenant, o.object HAVING count(*) FILTER (WHERE o.type = 'MemberAdded.v1') <> count(*) FILTER (WHERE o.type = 'MemberRemoved.v1')`)
	w.OK(err)
	torn, err := pgx.CollectRows(rows, pgx.RowTo[string])
	w.OK(err)
	if len(torn) > 0 {
		t.Errorf("memberships that never ended: %v", torn)
	}
}

// Who holds for a time gives for that time at most.
func TestATemporaryHolderGrantsForNoLonger(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	end := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	id := w.member("acme", "temp")
	w.OK(w.DB.PutMembership(ctx, iam.Membership{Tenant: "acme", User: id, Status: "active", Roles: []string{iam.RoleTenantAdmin, "viewer"}, ExpiresAt: end}))
	w.want(201, "root", "POST", "/v1/tenants/acme/roles", map[string]any{"name": "plain"})
	bearer := w.member("acme", "bearer", "plain")
	later, sooner := end.Add(time.Minute), end.Add(-time.Minute)
	for name, r := range map[string]reply{
		"for themself, without an end": w.call("temp", "PUT", "/v1/tenants/acme/members/"+id, map[string]any{"roles": []string{iam.RoleTenantAdmin, "viewer"}}, "If-Match: *"),
		"for themself, longer":         w.call("temp", "PUT", "/v1/tenants/acme/members/"+id, map[string]any{"roles": []string{iam.RoleTenantAdmin}, "expires_at": later}, "If-Match: *"),
		"for another, without an end":  w.call("temp", "POST", "/v1/tenants/acme/members", map[string]any{"subject": "heir", "roles": []string{iam.RoleTenantAdmin}}),
		"a role, for who is there":     w.call("temp", "PUT", "/v1/tenants/acme/members/"+w.user("frank"), map[string]any{"roles": []string{"viewer"}}, "If-Match: *"),
		"into a role that is held":     w.call("temp", "PUT", "/v1/tenants/acme/roles/plain", map[string]any{"inherits": []string{iam.RoleTenantAdmin}}, "If-Match: *"),
		"by a mapping":                 w.call("temp", "POST", "/v1/tenants/acme/mappings", map[string]any{"claim": "groups", "value": "x", "roles": []string{"viewer"}}),
	} {
		if r.status != 403 || r.field("code") != "more_than_held" {
			t.Errorf("%s: got %s", name, r)
		}
	}
	w.want(201, "temp", "POST", "/v1/tenants/acme/members", map[string]any{"subject": "heir", "roles": []string{"viewer"}, "expires_at": sooner})
	w.want(204, "temp", "DELETE", "/v1/tenants/acme/members/"+w.user("heir"), nil)
	// Taking away, and shortening, need no end.
	w.want(200, "temp", "PATCH", "/v1/tenants/acme/members/"+bearer, map[string]any{"status": "suspended"})
	w.want(403, "temp", "PATCH", "/v1/tenants/acme/members/"+bearer, map[string]any{"status": "active"})
	w.want(200, "temp", "PUT", "/v1/tenants/acme/members/"+bearer, map[string]any{"status": "suspended", "roles": []string{"plain"}, "expires_at": later}, "If-Match: *")
	w.want(201, "root", "POST", "/v1/tenants/acme/members", map[string]any{"subject": "heir", "roles": []string{"viewer"}})
}

// What expired is listed as such.
func TestMembersAreListedAsTheyAre(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	for status, want := range map[string]string{"active": "active", "expired": "expired", "suspended": "suspended"} {
		r := w.want(200, "root", "GET", "/v1/tenants/acme/members?status="+status, nil)
		if status == "expired" && len(r.items()) != 1 {
			t.Errorf("expired: %s", r)
		}
		for _, m := range r.items() {
			if m["status"] != want {
				t.Errorf("asked for %s: %v", status, m)
			}
		}
	}
}

// Responses that are stored for repeated requests are deleted with the user that they are about.
func TestAStoredResponseIsDeletedWithItsUser(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	const subject = "kept-subject"
	w.want(201, "root", "POST", "/v1/users", map[string]any{"subject": subject}, "Idempotency-Key: u")
	w.want(201, "tina", "POST", "/v1/tenants/acme/members", map[string]any{"subject": subject, "attributes": map[string]any{"plan": "kept-value"}}, "Idempotency-Key: m")
	if found := w.search(subject); !slices.Contains(found, "idempotency") {
		t.Fatalf("this test looks for nothing: %v", found)
	}
	w.want(204, "root", "DELETE", "/v1/users/"+w.user(subject), nil)
	if found := w.search(subject); len(found) > 0 {
		t.Errorf("still in %v", found)
	}
	// Who asks again does not do it again.
	if r := w.want(409, "tina", "POST", "/v1/tenants/acme/members", map[string]any{"subject": subject, "attributes": map[string]any{"plan": "kept-value"}}, "Idempotency-Key: m"); r.field("code") != "answer_forgotten" {
		t.Errorf("got %s", r)
	}
}
