package adminapi_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/admin"
	"iam-service/internal/dev/await"
	"iam-service/internal/dev/devstack"
	"iam-service/internal/iam"
)

// A platform administrator who has signed in to a tenant's own client lends it nothing.
func TestAClientOfATenantAdministersThatTenantOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{decisions: true})
	const acmes = "3f6f0c1e-6f0a-4c59-9a8e-0d6a5f1b2c3d"
	through := func(who string) string {
		return w.Mint(who, map[string]any{"aud": devstack.AdminAudience, "client_id": acmes})
	}
	globexs := w.client("globex", nil)
	for _, who := range []string{"root", "tina"} {
		w.want(200, through(who), "GET", "/v1/tenants/acme", nil)
		w.want(200, through(who), "GET", "/v1/tenants/acme/members", nil)
		for _, path := range []string{"/v1/users", "/v1/audit", "/v1/tenants"} {
			if r := w.want(403, through(who), "GET", path, nil); r.field("code") != "client_of_another_tenant" {
				t.Errorf("%s, %s: %s", who, path, r)
			}
		}
		for _, path := range []string{"/v1/tenants/globex", "/v1/tenants/globex/members", "/v1/tenants/nowhere"} {
			w.want(404, through(who), "GET", path, nil) // another tenant's, and none
		}
		for _, id := range []string{globexs, "00000000-0000-4000-8000-000000000000"} {
			w.want(404, through(who), "GET", "/v1/clients/"+id, nil)
		}
	}
	if r := w.want(403, through("root"), "POST", "/v1/tenants", map[string]any{"id": "evil", "slug": "evil", "name": "Evil"}); r.field("code") != "client_of_another_tenant" {
		t.Errorf("a tenant is made: %s", r)
	}
	w.want(200, "root", "GET", "/v1/tenants/globex", nil)

	// What is shown is limited to the tenant, as for its own administrators.
	ours, foreign := w.decidedOf("alice", "acme"), w.decidedOf("bob", "globex")
	for _, who := range []string{"root", "audrey"} {
		one := func(id string) string { return "/v1/decisions/" + id + "?tenant=acme" }
		if r := w.want(200, through(who), "GET", one(ours), nil); r.field("event", "custom") != nil {
			t.Errorf("%s sees what only the platform sees: %s", who, r)
		}
		w.want(404, through(who), "GET", one(foreign), nil)
		w.want(422, through(who), "POST", "/v1/policy/explain?tenant=acme", map[string]any{"subject": "alice", "tenant": "globex"})
		w.want(200, through(who), "POST", "/v1/policy/explain?tenant=acme", map[string]any{"subject": "alice"})
		w.want(200, who, "GET", one(foreign), nil)
	}

	// What is given is no more than the person holds in the tenant.
	w.member("acme", "rita", iam.RoleTenantAdmin)
	_, err := w.DB.PutUser(ctx, iam.User{Issuer: w.RAuth.Issuer, Subject: "rita", Status: iam.UserActive, PlatformRoles: []string{iam.PlatformAdmin}})
	w.OK(err)
	strong := service(map[string]any{"tenant": "acme", "audience": []string{devstack.AdminAudience}})
	if r := w.want(403, through("rita"), "POST", "/v1/clients", strong); r.field("code") != "more_than_held" {
		t.Errorf("a client of the tenant makes one for the admin API: %s", r)
	}
	w.want(201, through("rita"), "POST", "/v1/clients", service(map[string]any{"tenant": "acme"}))
	w.want(201, "rita", "POST", "/v1/clients", strong)
	// Nor does the person change what only the platform changes of it.
	w.want(403, through("rita"), "PATCH", "/v1/tenants/acme", map[string]any{"status": "suspended"})
	w.want(404, through("root"), "PATCH", "/v1/tenants/acme", map[string]any{"status": "suspended"})
	w.want(404, through("root"), "POST", "/v1/clients", strong)
	w.want(200, "rita", "PATCH", "/v1/tenants/acme", map[string]any{"status": "active"})
}

// Our ids are compared as text: another spelling of the same UUID is not found.
func TestAnotherSpellingOfAnIDIsNotFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	root, alice := w.user("root"), w.user("alice")
	for _, form := range []func(string) string{
		strings.ToUpper, func(id string) string { return "{" + id + "}" }, func(id string) string { return strings.ReplaceAll(id, "-", "") },
		func(id string) string { return "urn:uuid:" + id },
	} {
		w.want(404, "root", "PATCH", "/v1/users/"+form(root), map[string]any{"status": "blocked"})
		w.want(404, "root", "DELETE", "/v1/users/"+form(root), nil)
		w.want(404, "root", "GET", "/v1/users/"+form(alice), nil)
		w.want(404, "root", "GET", "/v1/tenants/acme/members/"+form(alice), nil)
		w.want(404, "root", "DELETE", "/v1/tenants/acme/members/"+form(alice), nil)
		w.want(404, "root", "GET", "/v1/users/"+form(alice)+"/effective?tenant=acme", nil)
	}
	w.want(200, "root", "GET", "/v1/tenants", nil)
}

// audit are the faults that a verification finds.
func (w *adminWorld) audit() map[string]bool {
	w.Helper()
	faults := map[string]bool{}
	w.OK(w.service.Verify(ctx, nil, func(v admin.Verdict) {
		if v.Fault != "" {
			faults[v.Chain+": "+v.Fault] = true
		}
	}))
	return faults
}

// A denied request delays no other, and its caller does not learn from the
// time it takes what is there.
func TestADeniedCallerWaitsForNoLock(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	tx, err := w.sql().Begin(ctx)
	w.OK(err)
	defer tx.Rollback(ctx)
	_, err = tx.Exec(ctx, `SELECT FROM tenants WHERE id = 'acme' FOR UPDATE`)
	w.OK(err)
	began := time.Now()
	for range 8 {
		w.want(404, "stranger", "PATCH", "/v1/tenants/acme", map[string]any{"status": "archived"})
		w.want(404, "stranger", "PATCH", "/v1/tenants/nowhere", map[string]any{"status": "archived"})
		w.want(403, "tina", "PATCH", "/v1/tenants/acme", map[string]any{"status": "archived"})
	}
	if took := time.Since(began); took > 5*time.Second { // each would wait until the lock is given up
		t.Errorf("it took %s", took)
	}
	// An authorized caller learns that another transaction holds the lock.
	if r := w.want(503, "root", "PATCH", "/v1/tenants/acme", map[string]any{"status": "active"}); r.field("code") != "busy" {
		t.Errorf("got %s", r)
	}
	w.OK(tx.Rollback(ctx))
}

// Many concurrent changes by one caller, and two administrators who change each other, neither deadlock
// nor fail. A request that times out on a loaded machine is 503, and its caller retries.
func TestConcurrentChangesNeitherDeadlockNorFail(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	w.member("acme", "anna", iam.RoleTenantAdmin)
	w.member("globex", "boris", iam.RoleTenantAdmin)
	w.member("acme", "boris")
	w.member("globex", "anna")
	changes := []struct{ caller, tenant, member string }{
		{caller: "root", tenant: "acme", member: "root"},
		{caller: "root", tenant: "globex", member: "root"},
		{caller: "root", tenant: "umbrella", member: "root"},
		{caller: "anna", tenant: "acme", member: "boris"},
		{caller: "boris", tenant: "globex", member: "anna"},
	}
	const lanes, each = 2, 5 // more requests at once than the service has connections, and not so many that they only queue
	limit := time.Now().Add(await.Limit)
	var all sync.WaitGroup
	for _, c := range changes {
		for lane := range lanes {
			all.Go(func() {
				for i := range each {
					plan := map[string]any{"plan": fmt.Sprint(lane, i)}
					body := map[string]any{"members": []any{map[string]any{"subject": c.member, "attributes": plan}}}
					r := w.call(c.caller, "POST", "/v1/tenants/"+c.tenant+"/members:batch", body)
					for ; timedOut(r) && time.Now().Before(limit); time.Sleep(50 * time.Millisecond) {
						r = w.call(c.caller, "POST", "/v1/tenants/"+c.tenant+"/members:batch", body)
					}
					if r.status != http.StatusOK {
						t.Errorf("%s changes %s in %s: %s", c.caller, c.member, c.tenant, r)
					}
				}
			})
		}
	}
	all.Wait()
}

// timedOut reports whether a request timed out on a lock, a statement or a policy, and its caller is asked to retry. Conflicts
// that outlast the retries of a transaction are 503 too, but load alone does not cause them: they have another detail.
func timedOut(r reply) bool {
	if r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "" {
		return false
	}
	switch r.field("code") {
	case "busy":
		return r.field("detail") == "a concurrent request changes the same object"
	case "policy_timeout", "database_unavailable":
		return true
	}
	return false
}

// A token can be for less than its program may.
func TestATokenOfNarrowerScopeGrantsLess(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	for _, id := range []string{"both", "owner"} {
		w.OK(w.DB.PutClient(ctx, iam.Client{Issuer: w.RAuth.Issuer, ClientID: id, Scopes: []string{iam.ScopePlatformAdmin, "s2s:internal"}, Status: iam.ClientActive}))
	}
	manifest := map[string]any{"service": "bill", "roles": []any{}}
	w.want(200, w.program("owner", "s2s:internal"), "POST", "/s2s/system/sync", manifest)
	if r := w.want(403, w.program("both", "s2s:internal"), "POST", "/s2s/system/sync", manifest); r.field("code") != "service_of_another" {
		t.Errorf("got %s", r)
	}
	w.want(403, w.program("both", "s2s:internal"), "GET", "/v1/tenants", nil)
	w.want(200, w.program("both", iam.ScopePlatformAdmin), "GET", "/v1/tenants", nil)
}

// Only a policy administrator makes another one: who administers the platform does not
// change its policy.
func TestAPlatformAdministratorMakesNoPolicyAdministrator(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	root := w.user("root")
	w.want(403, "root", "PUT", "/v1/users/"+root, map[string]any{"platform_roles": []string{"platform-admin", "policy-admin"}}, "If-Match: *")
	w.want(403, "root", "POST", "/v1/users", map[string]any{"subject": "n", "platform_roles": []string{"policy-admin"}})
	w.want(201, "root", "POST", "/v1/users", map[string]any{"subject": "n", "platform_roles": []string{"platform-admin", "auditor"}})
	// Whom they can block, and leave as they are.
	paula := w.user("paula")
	w.want(200, "root", "PUT", "/v1/users/"+paula, map[string]any{"platform_roles": []string{"policy-admin", "auditor"}}, "If-Match: *")
	w.want(200, "root", "PATCH", "/v1/users/"+paula, map[string]any{"status": "blocked"})
}

// What was deleted and made again is another thing.
func TestAnETagFromBeforeADeleteNeverMatchesARecreatedObject(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	for _, c := range []struct {
		list, one string
		make, put map[string]any
	}{
		{"/v1/tenants/acme/roles", "/v1/tenants/acme/roles/again", map[string]any{"name": "again"}, map[string]any{"description": "x"}},
		{"/v1/tenants/acme/members", "", map[string]any{"subject": "again"}, map[string]any{"roles": []string{"viewer"}}},
		{"/v1/tenants/acme/mappings", "", map[string]any{"claim": "groups", "value": "again", "roles": []string{"viewer"}}, map[string]any{"roles": []string{"editor"}}},
	} {
		made := w.want(201, "root", "POST", c.list, c.make)
		at, tag := made.header.Get("Location"), made.header.Get("ETag")
		w.want(204, "root", "DELETE", at, nil)
		again := w.want(201, "root", "POST", c.list, c.make)
		if again.header.Get("ETag") == tag || again.header.Get("Location") != at {
			t.Errorf("%s: %s and %s", at, tag, again.header.Get("ETag"))
		}
		w.want(412, "root", "PUT", at, c.put, "If-Match: "+tag)
	}
	// A tenant that goes takes the default of its users with it, and their ETag tells.
	alice := w.user("alice")
	w.want(200, "root", "PUT", "/v1/users/"+alice, map[string]any{"default_tenant": "hooli"}, "If-Match: *")
	tag := w.want(200, "root", "GET", "/v1/users/"+alice, nil).header.Get("ETag")
	w.want(204, "root", "DELETE", "/v1/tenants/hooli", nil)
	w.want(412, "root", "PUT", "/v1/users/"+alice, map[string]any{}, "If-Match: "+tag)
}

// What a manifest does not declare any more stays while any role inherits it, however many
// of its own did.
func TestAManifestDropsNothingThatATenantInherits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	manifest := map[string]any{"roles": append(many(101, func(i int) any { return map[string]any{"name": fmt.Sprint("aa", i), "inherits": []string{"base"}} }), map[string]any{"name": "base"})}
	w.want(200, "root", "PUT", "/v1/services/s/manifest", manifest)
	w.want(201, "root", "POST", "/v1/tenants/umbrella/roles", map[string]any{"name": "custom", "inherits": []string{"base"}})
	if r := w.want(409, "root", "PUT", "/v1/services/s/manifest", map[string]any{"roles": []any{}}); !strings.Contains(string(r.body), "umbrella/custom") {
		t.Errorf("got %s", r)
	}
	w.want(200, "root", "GET", "/v1/roles/base", nil)
}

// A policy that speaks of one object is not passed by another spelling of its name.
func TestThePolicySeesTheNameThatIsMeant(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{adminRego: `package iam.admin

default decision := {"allow": true}

decision := {"allow": false} if input.object == "auditor"
`})
	for _, path := range []string{"auditor", "%61uditor", "a%75ditor"} {
		w.want(403, "root", "DELETE", "/v1/tenants/acme/roles/"+path, nil)
	}
}

// A program that is blocked while its request waits does not write any more.
func TestAProgramThatIsBlockedMeanwhileWritesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	w.cast()
	tx, err := w.sql().Begin(ctx)
	w.OK(err)
	defer tx.Rollback(ctx)
	_, err = tx.Exec(ctx, `SELECT FROM tenants WHERE id = 'acme' FOR UPDATE`)
	w.OK(err)
	var r reply
	var waiting sync.WaitGroup
	waiting.Go(func() {
		r = w.call(w.program("bot", ""), "POST", "/v1/tenants/acme/roles", map[string]any{"name": "late"})
	})
	w.awaitWaiterFor(tx)
	_, err = w.sql().Exec(ctx, `UPDATE clients SET status = 'blocked' WHERE client_id = 'bot'`)
	w.OK(err)
	w.OK(tx.Rollback(ctx))
	waiting.Wait()
	if r.status != 401 && r.status != 503 { // 503: it waited too long
		t.Errorf("got %s", r)
	}
	w.want(404, "root", "GET", "/v1/tenants/acme/roles/late", nil)
}

// Who is changing something stays who they are until it is done.
func TestACallerIsNotChangedDuringTheirTransaction(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	tx, err := w.sql().Begin(ctx)
	w.OK(err)
	defer tx.Rollback(ctx)
	_, err = tx.Exec(ctx, `INSERT INTO audit_heads (chain, seq, hash) VALUES ('acme', 0, '')`) // the last thing that a change needs
	w.OK(err)
	var r reply
	var working sync.WaitGroup
	working.Go(func() { r = w.call("root", "POST", "/v1/tenants/acme/roles", map[string]any{"name": "slow"}) })
	w.awaitWaiterFor(tx)
	conn, err := w.sql().Acquire(ctx)
	w.OK(err)
	defer conn.Release()
	_, err = conn.Exec(ctx, `SET lock_timeout = '50ms'`)
	w.OK(err)
	_, refused := conn.Exec(ctx, `UPDATE users SET platform_roles = '{}' WHERE subject = 'root'`)
	_, err = conn.Exec(ctx, `RESET lock_timeout`)
	w.OK(err)
	w.OK(tx.Rollback(ctx))
	working.Wait()
	if r.status != 201 && r.status != 503 { // 503: it waited too long
		t.Errorf("got %s", r)
	}
	if refused == nil && r.status == 201 {
		t.Error("an administrator lost their role in the middle of a change")
	}
}

// awaitWaiterFor returns when a session waits for a lock of a transaction.
func (w *adminWorld) awaitWaiterFor(tx pgx.Tx) {
	w.Helper()
	for until := time.Now().Add(10 * time.Second); ; {
		var n int
		w.OK(w.sql().QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE $1::int = ANY (pg_blocking_pids(pid))`, tx.Conn().PgConn().PID()).Scan(&n))
		if n > 0 {
			return
		}
		if time.Now().After(until) {
			w.Fatal("no session waits for a lock")
		}
	}
}

// A handler that panics is a fault of ours like any other, and tells nothing.
func TestAPanicIsAProblemOfOurs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{panics: true})
	r := w.want(500, "root", "GET", "/v1/policy", nil)
	if strings.Contains(string(r.body), "secret") || !strings.Contains(w.Logs.String(), "request panicked") {
		t.Errorf("got %s", r)
	}
	w.want(200, "root", "GET", "/v1/tenants", nil)
}
