package adminapi_test

import (
	"fmt"
	"maps"
	"sync"
	"testing"

	"iam-service/internal/dev/await"
)

const manyAdmins = 16 // as many as have a connection each: what waits for one has limits of its own

// Many administrators make, change and delete clients against a provider of which one call
// in ten fails in some way: in the end both systems are equal.
func TestManyAdministratorsAndAFaultyProvider(t *testing.T) {
	t.Parallel()
	clients := 1000
	if testing.Short() { // make nightly has them all
		clients = 100
	}
	w := newWorld(t, settings{loop: true, conns: manyAdmins})
	tenants := []string{"acme", "globex", "umbrella", ""}
	w.RAuth.BreakSome(.1)
	var mu sync.Mutex
	want := map[string]string{} // client → name
	work := make(chan int)
	var admins sync.WaitGroup
	for range manyAdmins {
		admins.Go(func() {
			for n := range work {
				id, name := w.oneOfMany(t, n, tenants[n%len(tenants)])
				mu.Lock()
				if name != "" {
					want[id] = name
				}
				mu.Unlock()
			}
		})
	}
	for n := range clients {
		work <- n
	}
	close(work)
	admins.Wait()
	w.RAuth.Break(nil)
	count := func(sql string) (n int) {
		w.OK(w.sql().QueryRow(ctx, sql).Scan(&n))
		return n
	}
	await.True(w, "everything is settled", func() bool { return count(`SELECT count(*) FROM registrations WHERE operation IS NOT NULL`) == 0 })
	got := map[string]string{}
	for id, m := range w.RAuth.Provisioned() {
		got[id] = fmt.Sprint(m["client_name"])
	}
	if !maps.Equal(got, want) {
		t.Errorf("R-Auth has %d clients, and %d should be", len(got), len(want))
	}
	if d := w.drift(); len(d) > 0 {
		t.Errorf("they differ: %v", d)
	}
	if n := count(`SELECT count(*) FROM clients c JOIN registrations USING (issuer, client_id) WHERE c.status <> 'deleted'`); n != len(want) {
		t.Errorf("%d are here, and %d should be", n, len(want))
	}
	for what, n := range map[string]int{"ClientCreated.v1": clients, "ClientUpdated.v1": clients, "ClientDeleted.v1": clients - len(want)} {
		if got := count(`SELECT count(*) FROM outbox WHERE type = '` + what + `'`); got != n {
			t.Errorf("%d events %s, want %d", got, what, n)
		}
	}
	for v := range w.audit() {
		t.Errorf("the audit: %s", v)
	}
}

// oneOfMany is the life of one client. It returns its id, and its name if it lives on.
func (w *adminWorld) oneOfMany(t *testing.T, n int, tenant string) (id, name string) {
	t.Helper()
	ask := func(method, path string, body any, headers ...string) (r reply) {
		await.True(w, method+" "+path, func() bool {
			r = w.call("root", method, path, body, headers...)
			return r.status != 503 && (r.status != 409 || r.text("code") != "operation_pending")
		})
		return r
	}
	body := service(map[string]any{"client_name": fmt.Sprint("client ", n)})
	if tenant != "" {
		body["tenant"] = tenant
	}
	r := ask("POST", "/v1/clients", body, fmt.Sprint("Idempotency-Key: ", n))
	if id = r.text("client_id"); r.status != 201 && r.status != 202 {
		t.Errorf("made: %s", r)
		return "", ""
	}
	name = fmt.Sprint("changed ", n)
	if r = ask("PUT", "/v1/clients/"+id, service(map[string]any{"client_name": name}), "If-Match: *"); r.status != 200 && r.status != 202 {
		t.Errorf("changed: %s", r)
	}
	if n%3 == 0 {
		await.True(w, "the change is known", func() bool {
			r := w.call("root", "GET", "/v1/clients/"+id, nil)
			return r.status == 200 && r.field("operation") == nil
		})
		if r = ask("DELETE", "/v1/clients/"+id, nil); r.status != 204 && r.status != 202 {
			t.Errorf("deleted: %s", r)
		}
		return id, ""
	}
	return id, name
}
