package adminapi_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"iam-service/internal/clients"
	"iam-service/internal/clients/rauth"
	"iam-service/internal/dev/await"
	"iam-service/internal/iam"
)

// A single foreign client, whatever it holds, hides nothing.
func TestAStrangeClientHidesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	id := w.client("acme", nil)
	for i, body := range []string{`"metadata":{"cost_center":42,"nested":{"a":[1]}}`, `"metadata":"text"`, `"metadata":[1]`, `"grant_types":"all","metadata":{}`, `"redirect_uris":null`} {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.RAuth.Issuer+"/admin/clients", strings.NewReader(fmt.Sprintf(`{"client_id":"strange%d",%s}`, i, body)))
		w.OK(err)
		resp, err := http.DefaultClient.Do(req)
		w.OK(err)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusCreated {
			t.Fatalf("%s: %d", body, resp.StatusCode)
		}
	}
	if d := w.want(200, "root", "GET", "/v1/clients/drift", nil); d.field("foreign") != 5.0 || d.field("compared") != 1.0 || len(w.drift()) != 0 {
		t.Errorf("got %s", d)
	}
	// One of ours that was written otherwise is seen, and repaired.
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, w.RAuth.Issuer+"/admin/clients/"+id,
		strings.NewReader(fmt.Sprintf(`{"grant_types":"all","metadata":{"iam_instance":%q,"iam_client":%q,"x":1}}`, w.RAuth.Provisioned()[id]["metadata"].(map[string]any)["iam_instance"], id)))
	w.OK(err)
	resp, err := http.DefaultClient.Do(req)
	w.OK(err)
	_ = resp.Body.Close()
	if d := w.drift(); d[id]["kind"] != "changed" {
		t.Errorf("got %v", d)
	}
	if r, err := w.manage(func(*clients.Config) {}).Reconcile(ctx, 10); err != nil || r.Left() != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// A difference that only one comparison finds is ignored, so a faulty list changes no client.
func TestAFaultyListOfTheProviderChangesNoClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	id := w.client("acme", nil)
	w.want(200, "root", "POST", "/v1/clients/"+id+"/secrets:rotate", nil)
	before := w.want(200, "root", "GET", "/v1/clients/"+id, nil)
	h := w.hook()
	h.list = func(context.Context, func(iam.Registration) error) error { return nil } // it has none at all
	if r, err := w.clients.Reconcile(ctx, 10); err != nil || len(r.Differences) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	after := w.want(200, "root", "GET", "/v1/clients/"+id, nil)
	if after.text("secret_state") != "issued" || after.text("old_secret_until") != before.text("old_secret_until") || len(w.RAuth.Secrets(id)) != 2 {
		t.Errorf("it was %s, and is %s", before, after)
	}
	// One that is made while the list is read is no orphan.
	h.list = func(ctx context.Context, each func(iam.Registration) error) error {
		w.client("acme", nil)
		return h.Provider.List(ctx, each)
	}
	if d := w.drift(); len(d) > 0 {
		t.Errorf("they differ: %v", d)
	}
}

// One tenant that is delayed delays no other.
func TestABusyTenantDoesNotDelayOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	busy := w.client("acme", nil)
	w.want(200, "root", "POST", "/v1/clients/"+busy+"/secrets:rotate", nil)
	w.exec(`UPDATE registrations SET retire_at = now()`)
	other := w.want(202, "root", "POST", "/v1/clients", service(map[string]any{"tenant": "globex"}), "Prefer: respond-async").text("client_id")
	tx, err := w.sql().Begin(ctx)
	w.OK(err)
	defer func() { w.OK(tx.Rollback(ctx)) }()
	_, err = tx.Exec(ctx, `SELECT FROM tenants WHERE id = 'acme' FOR UPDATE`)
	w.OK(err)
	if _, err := w.clients.Finish(ctx); err != nil {
		t.Error(err)
	}
	if r := w.want(200, "root", "GET", "/v1/clients/"+other, nil); r.text("sync") != "in_sync" {
		t.Errorf("got %s", r)
	}
}

// Who calls by a client of the platform does not wait for who changes it, nor the other
// way round.
func TestAClientOfThePlatformIsNoDeadlock(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	console := w.client("", nil)
	token := w.Mint("tina", map[string]any{"aud": "iam-admin", "client_id": console})
	var all sync.WaitGroup
	for _, c := range []struct {
		who, path string
		body      func(n int) any
	}{
		{token, "/v1/tenants/acme/mappings", func(n int) any {
			return map[string]any{"claim": "groups", "value": fmt.Sprint("g", n), "roles": []string{"viewer"}}
		}},
		{"root", "/v1/clients/" + console + ":revoke", func(n int) any {
			return map[string]any{"before": time.Unix(int64(1000+n), 0).UTC().Format(time.RFC3339)}
		}},
		{"root", "/v1/roles", func(n int) any { return map[string]any{"name": fmt.Sprint("g", n)} }},
	} {
		all.Go(func() {
			for n := range 25 {
				if r := w.call(c.who, "POST", c.path, c.body(n)); r.status > 201 {
					t.Errorf("%s: %s", c.path, r)
				}
			}
		})
	}
	all.Wait()
}

// Where the URL of the admin API leads elsewhere, nothing is trusted to be done: a client
// that is deleted here waits until it is deleted there, and what waits says why.
func TestAMisconfiguredAdminURLDeletesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	id := w.client("acme", nil)
	wrong, err := rauth.New(rauth.Config{URL: w.RAuth.Issuer + "/wrong", Pause: time.Millisecond, Log: discard})
	w.OK(err)
	right := *w.clients
	*w.clients = *w.manage(func(c *clients.Config) { c.Provider = wrong })
	if r := w.want(202, "root", "POST", "/v1/clients", service(nil)); r.text("sync_reason") != "idp_bad_response" {
		t.Errorf("made: %s", r)
	}
	if r := w.want(202, "root", "DELETE", "/v1/clients/"+id, nil); r.text("sync_reason") != "idp_bad_response" || len(w.RAuth.Secrets(id)) == 0 {
		t.Errorf("deleted: %s", r)
	}
	*w.clients = right
	w.exec(`UPDATE registrations SET next_try = now()`)
	if n, err := w.clients.Finish(ctx); n != 2 || err != nil || w.RAuth.Provisioned()[id] != nil {
		t.Errorf("%d were finished, %v", n, err)
	}
}

// A panic over one client postpones it and is reported; the others are finished, and it is once it can be. So it is
// with a comparison: the next one is made.
func TestAPanicOverOneClientEndsNothingElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	bad, good := w.client("acme", nil), w.client("acme", nil)
	for _, id := range []string{bad, good} {
		w.want(202, "root", "PUT", "/v1/clients/"+id, service(map[string]any{"client_name": "renamed"}), "If-Match: *", "Prefer: respond-async")
	}
	h := &hooked{Provider: w.there()}
	var broken atomic.Bool
	broken.Store(true)
	h.update = func(ctx context.Context, r iam.Registration) error {
		if r.ClientID == bad && broken.Load() {
			panic("a bad row")
		}
		return h.Provider.Update(ctx, r)
	}
	var lists atomic.Int64
	h.list = func(ctx context.Context, each func(iam.Registration) error) error {
		if lists.Add(1) == 1 {
			panic("a bad answer")
		}
		return h.Provider.List(ctx, each)
	}
	var panics, compared atomic.Int64
	*w.clients = *w.manage(func(c *clients.Config) {
		c.Provider, c.Tick, c.CompareEvery = h, 20*time.Millisecond, 100*time.Millisecond
		c.OnPanic = func(error) { panics.Add(1) }
		c.OnCompared = func(r clients.Report) {
			if !r.At.IsZero() {
				compared.Add(1)
			}
		}
	})
	running, stop := context.WithCancel(ctx)
	var loop sync.WaitGroup
	loop.Go(func() { w.clients.Run(running) })
	t.Cleanup(func() { stop(); loop.Wait() })
	sync := func(id string) string { return w.want(200, "root", "GET", "/v1/clients/"+id, nil).text("sync") }
	await.True(w, "the other one is finished", func() bool { return sync(good) == "in_sync" })
	await.True(w, "both panics are reported, and a comparison was made", func() bool { return panics.Load() >= 2 && compared.Load() > 0 })
	if got := sync(bad); got != "pending" {
		t.Errorf("the one that panics is %s, want pending", got)
	}
	broken.Store(false)
	await.True(w, "it is finished too", func() bool {
		w.exec(`UPDATE registrations SET next_try = now() WHERE client_id = $1 AND lease_until < now()`, bad)
		return sync(bad) == "in_sync"
	})
}
