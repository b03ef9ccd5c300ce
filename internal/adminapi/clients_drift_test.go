package adminapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"iam-service/internal/admin"
	"iam-service/internal/clients"
	"iam-service/internal/clients/rauth"
	"iam-service/internal/dev/await"
	"iam-service/internal/dev/devrauth"
	"iam-service/internal/dev/devstack"
	"iam-service/internal/iam"
)

// there is the provider's admin API, for changes by hand.
func (w *adminWorld) there() *rauth.Client {
	w.Helper()
	c, err := rauth.New(rauth.Config{URL: w.RAuth.Issuer, Pause: time.Millisecond, Log: discard})
	w.OK(err)
	return c
}

// manage is another service of clients over the same systems, with settings of its own.
func (w *adminWorld) manage(change func(*clients.Config)) *clients.Service {
	w.Helper()
	instance, _, err := w.DB.Instance(ctx)
	w.OK(err)
	c := clients.Config{Admin: w.service, DB: w.DB, Provider: w.there(), Issuer: w.RAuth.Issuer, Instance: instance, Log: discard, Patience: 4 * time.Second}
	change(&c)
	return clients.New(c)
}

func (w *adminWorld) drift() map[string]map[string]any {
	w.Helper()
	list, _ := w.want(200, "audrey", "GET", "/v1/clients/drift", nil).field("differences").([]any) // none: nil
	all := map[string]map[string]any{}
	for _, x := range list {
		d, _ := x.(map[string]any) // it is an object
		all[fmt.Sprint(d["client_id"])] = d
	}
	return all
}

// Changes by hand in the provider: what we decided wins, what is not ours is only
// reported.
func TestDriftIsSeenAndRepaired(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	there := w.there()
	ok := func(err error) { t.Helper(); w.OK(err) }
	kept, changed, missing, deleted, taken := w.client("acme", nil), w.client("acme", nil), w.client("acme", nil), w.client("acme", nil), w.client("acme", nil)
	got, err := there.Get(ctx, changed)
	ok(err)
	got.RedirectURIs, got.GrantTypes = []string{"https://attacker.example.com/"}, []string{"authorization_code"}
	ok(there.Update(ctx, got))
	ok(there.Delete(ctx, missing))
	again, err := there.Get(ctx, deleted)
	ok(err)
	w.want(204, "root", "DELETE", "/v1/clients/"+deleted, nil)
	_, err = there.Create(ctx, again)
	ok(err)
	got, err = there.Get(ctx, taken)
	ok(err)
	got.Metadata = map[string]string{iam.MarkInstance: "another"}
	ok(there.Update(ctx, got))
	got, err = there.Get(ctx, kept)
	ok(err)
	got.ClientID = "00000000-0000-4000-8000-00000000000a"
	got.Metadata[iam.MarkClient] = got.ClientID
	_, err = there.Create(ctx, got)
	ok(err)
	orphan := got.ClientID
	_, err = there.Create(ctx, iam.Registration{ClientID: "grafana", ClientName: "another owner's"})
	ok(err)

	want := map[string][2]string{
		changed: {"changed", "iam-service"}, missing: {"missing", "iam-service"}, deleted: {"not_deleted", "iam-service"},
		taken: {"not_ours", "nobody"}, orphan: {"orphan", "nobody"},
	}
	seen := w.drift()
	for id, x := range want {
		if d := seen[id]; d["kind"] != x[0] || d["winner"] != x[1] || len(fmt.Sprint(d["why"])) < 20 {
			t.Errorf("%s is reported as %v", x[0], d)
		}
	}
	if len(seen) != len(want) || fmt.Sprint(seen[changed]["fields"]) != "[grant_types redirect_uris]" {
		t.Errorf("reported are %v", seen)
	}
	if n := w.want(200, "root", "GET", "/v1/clients/drift", nil).field("foreign"); n != 1.0 {
		t.Errorf("%v are of others", n)
	}
	before := w.RAuth.Provisioned()
	s := w.manage(func(*clients.Config) {})
	if r, err := s.Compare(ctx); err != nil || len(r.Differences) != len(want) || r.Left() != len(want) {
		t.Errorf("a dry run: %+v, %v", r, err)
	}
	if r, err := s.Reconcile(ctx, 2); err != nil || !r.Stopped || r.Left() != len(want) {
		t.Errorf("three at most two: %+v, %v", r, err)
	}
	if fmt.Sprint(w.RAuth.Provisioned()) != fmt.Sprint(before) {
		t.Error("something was repaired")
	}
	r, err := s.Reconcile(ctx, 10)
	if err != nil || r.Left() != 2 || r.Stopped {
		t.Errorf("repaired: %+v, %v", r, err)
	}
	seen = w.drift()
	if len(seen) != 2 || seen[taken] == nil || seen[orphan] == nil {
		t.Errorf("left are %v", seen)
	}
	after := w.RAuth.Provisioned()
	if after[changed]["redirect_uris"] != nil || after[missing]["client_name"] != "billing" || after[deleted] != nil || after["grafana"] == nil || after[orphan] == nil {
		t.Errorf("R-Auth has %v", after)
	}
	if r := w.want(200, "root", "GET", "/v1/clients/"+missing, nil); r.text("secret_state") != "not_issued" || r.text("sync") != "in_sync" {
		t.Errorf("what was made again is %s", r)
	}
	w.announced(missing, "ClientCreated") // there was no change here
	w.announced(changed, "ClientCreated")
	w.announced(deleted, "ClientCreated", "ClientDeleted")
	if r, err := s.Reconcile(ctx, 10); err != nil || r.Left() != 2 {
		t.Errorf("once more: %+v, %v", r, err)
	}
}

// The loop repairs what two rounds see, and gives up on what comes back.
func TestTheLoopComparesByItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{loop: true})
	id := w.client("acme", nil)
	there := w.there()
	got, err := there.Get(ctx, id)
	w.OK(err)
	got.ClientName = "renamed by hand"
	w.OK(there.Update(ctx, got))
	await.True(w, "it is repaired", func() bool { return w.RAuth.Provisioned()[id]["client_name"] == "billing" })
	await.True(w, "that is known", func() bool { return len(w.drift()) == 0 })
	await.True(w, "it is settled", func() bool { return w.want(200, "root", "GET", "/v1/clients/"+id, nil).text("sync") == "in_sync" })
}

// A provider that stores something other than was sent, or hides it, is not corrected for
// ever.
func TestWhatComesBackIsTriedOnce(t *testing.T) {
	t.Parallel()
	for kind, list := range map[string]func(*hooked) func(context.Context, func(iam.Registration) error) error{
		clients.DriftChanged: func(h *hooked) func(context.Context, func(iam.Registration) error) error {
			return func(ctx context.Context, each func(iam.Registration) error) error {
				return h.Provider.List(ctx, func(r iam.Registration) error {
					r.Scope, r.Metadata[iam.MarkVersion] = "everything", "0"
					return each(r)
				})
			}
		},
		clients.DriftMissing: func(*hooked) func(context.Context, func(iam.Registration) error) error {
			return func(context.Context, func(iam.Registration) error) error { return nil }
		},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, settings{})
			w.client("acme", nil)
			h := w.hook()
			h.list = list(h)
			reports := make(chan clients.Report, 100)
			s := w.manage(func(c *clients.Config) {
				c.Provider, c.Tick, c.CompareEvery = h, 10*time.Millisecond, 20*time.Millisecond
				c.OnCompared = func(r clients.Report) {
					select {
					case reports <- r:
					default: // enough were seen
					}
				}
			})
			running, stop := context.WithCancel(ctx)
			var loop sync.WaitGroup
			loop.Go(func() { s.Run(running) })
			t.Cleanup(loop.Wait)
			t.Cleanup(stop)
			repaired, cameBack := 0, 0
			for cameBack < 4 {
				r := <-reports
				if len(r.Differences) != 1 || r.Differences[0].Kind != kind {
					t.Fatalf("compared: %+v", r)
				}
				switch r.Differences[0].Done {
				case clients.Repaired:
					repaired++
				case clients.ComesBack:
					cameBack++
				}
			}
			if repaired != 1 {
				t.Errorf("it was repaired %d times", repaired)
			}
		})
	}
}

// The pages of a list hold each client once, and a search finds what it should.
func TestClientsAreListedInPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	want := map[string]bool{}
	for n := range 7 {
		want[w.client("globex", map[string]any{"client_name": fmt.Sprint("Number ", n)})] = true
	}
	seen := map[string]bool{}
	for path := "/v1/clients?tenant=globex&limit=2"; path != ""; {
		r := w.want(200, "root", "GET", path, nil)
		for _, c := range r.items() {
			seen[fmt.Sprint(c["client_id"])] = true
		}
		path, _, _ = strings.Cut(strings.TrimPrefix(r.header.Get("Link"), "<"), ">")
	}
	if !maps.Equal(seen, want) {
		t.Errorf("listed are %v", seen)
	}
	for query, n := range map[string]int{
		"name=number%203": 1, "name=NUMBER": 7, "name=%25": 0, "type=public": 0, "type=confidential&tenant=globex": 7, "sync=pending": 0, "status=blocked": 0, "role=viewer": 1,
	} {
		if got := len(w.want(200, "audrey", "GET", "/v1/clients?"+query, nil).items()); got != n {
			t.Errorf("%s: %d, want %d", query, got, n)
		}
	}
}

// put writes a client in the provider by hand.
func (w *adminWorld) put(id string, change func(map[string]any)) {
	w.Helper()
	m := w.RAuth.Provisioned()[id]
	change(m)
	body, err := json.Marshal(m)
	w.OK(err)
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, w.RAuth.Issuer+"/admin/clients/"+id, bytes.NewReader(body))
	w.OK(err)
	resp, err := http.DefaultClient.Do(req)
	w.OK(err)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		w.Fatalf("put by hand: %d", resp.StatusCode)
	}
}

// An unmanaged client is reported where it matters to security, stays whatever is done,
// and leaves nothing to be reconciled.
func TestUnmanagedClientsAreReportedAndStay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	id := w.client("acme", nil)
	w.put(id, func(m map[string]any) {
		m["skip_consent"], m["refresh_token_grant_access_token_lifespan"], m["owner"], m["client_name"] = true, "1h", "billing team", "by hand"
	})
	kinds := func(r clients.Report) (kinds []string) {
		for _, d := range r.Differences {
			kinds = append(kinds, fmt.Sprint(d.Kind, d.Fields, d.Done))
		}
		return kinds
	}
	unmanaged := "unmanaged[refresh_token_grant_access_token_lifespan skip_consent]"
	r, err := w.clients.Reconcile(ctx, 10)
	if got := kinds(r); err != nil || !slices.Equal(got, []string{"changed[client_name]repaired", unmanaged}) || r.Left() != 0 || r.Of(clients.DriftUnmanaged) != 1 {
		t.Errorf("%q, %d left, %v", got, r.Left(), err)
	}
	w.want(200, "root", "PUT", "/v1/clients/"+id, service(map[string]any{"client_name": "again"}), "If-Match: *")
	if m := w.RAuth.Provisioned()[id]; m["skip_consent"] != true || m["refresh_token_grant_access_token_lifespan"] != "1h" || m["owner"] != "billing team" || m["client_name"] != "again" {
		t.Errorf("there it is %v", m)
	}
	if d := w.drift(); len(d) != 1 || d[id]["kind"] != "unmanaged" || d[id]["winner"] != "nobody" {
		t.Errorf("drift: %v", d)
	}
}

// A database that may be a copy of another one's does nothing in the provider. Renewed, it
// is another instance: the clients of the original are not its own any more.
func TestACopiedDatabaseHarmsNoClientOfTheOriginal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	id := w.client("acme", nil)
	there := fmt.Sprint(w.RAuth.Provisioned(), w.RAuth.Secrets(id))
	unharmed := func(after string) {
		t.Helper()
		if got := fmt.Sprint(w.RAuth.Provisioned(), w.RAuth.Secrets(id)); got != there {
			t.Errorf("%s: in R-Auth is %s, was %s", after, got, there)
		}
	}
	*w.clients = *w.manage(func(c *clients.Config) { c.Copied = true })
	path := "/v1/clients/" + id
	for _, r := range []reply{
		w.call("root", "POST", "/v1/clients", service(nil)), w.call("root", "PUT", path, service(map[string]any{"client_name": "x"}), "If-Match: *"),
		w.call("root", "POST", path+"/secrets:rotate", nil), w.call("root", "DELETE", path, nil), w.call("root", "GET", "/v1/clients/drift", nil),
	} {
		if r.status != 503 || r.text("code") != "instance_copied" {
			t.Errorf("got %s", r)
		}
	}
	w.clients.Run(ctx) // it ends at once
	if _, err := w.clients.Reconcile(ctx, 10); iam.CodeOf(err) != "instance_copied" {
		t.Errorf("reconciled: %v", err)
	}
	unharmed("while no operator has confirmed what it is")
	w.want(200, "root", "PATCH", path, map[string]any{"status": "blocked"})
	w.exec(`UPDATE registrations SET operation = 'delete', operation_id = gen_random_uuid(), sync = 'pending'`) // as it was copied

	before, _, err := w.DB.Instance(ctx)
	w.OK(err)
	w.OK(w.service.Do(ctx, admin.Caller{Operator: "op", Via: "command"}, admin.Task{Action: "instance:renew", Writes: true}, func(ctx context.Context, work *admin.Work) error {
		renewed, err := work.RenewInstance(ctx, before)
		if renewed.Released != 1 {
			t.Errorf("%d clients were released", renewed.Released)
		}
		return err
	}))
	*w.clients = *w.manage(func(*clients.Config) {})
	if r := w.want(200, "root", "GET", path, nil); r.field("managed") != false || r.text("status") != "blocked" {
		t.Errorf("it is %s", r)
	}
	if r, err := w.clients.Reconcile(ctx, 10); err != nil || len(r.Differences) != 0 || r.Foreign != 1 {
		t.Errorf("reconciled: %+v, %v", r, err)
	}
	w.want(204, "root", "DELETE", path, nil)
	unharmed("renewed")
	w.client("acme", nil) // it has clients of its own
}

// A version in the provider that this database has not written is another one's, or it was
// restored: nothing is repaired until an operator confirms.
func TestWhatAnotherDatabaseHasWrittenStopsRepairs(t *testing.T) {
	t.Parallel()
	for kind, change := range map[string]func(w *adminWorld, other string){
		"of a client": func(w *adminWorld, other string) {
			w.put(other, func(m map[string]any) {
				m["client_name"], m["metadata"].(map[string]any)[iam.MarkVersion] = "theirs", "999999"
			})
		},
		"of an orphan": func(w *adminWorld, other string) {
			got, err := w.there().Get(ctx, other)
			w.OK(err)
			got.ClientID = "00000000-0000-4000-8000-00000000000a"
			got.Metadata[iam.MarkClient], got.Metadata[iam.MarkVersion] = got.ClientID, "999999"
			_, err = w.there().Create(ctx, got)
			w.OK(err)
		},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, settings{})
			missing, other := w.client("acme", nil), w.client("acme", nil)
			w.OK(w.there().Delete(ctx, missing))
			change(w, other)
			r, err := w.manage(func(*clients.Config) {}).Reconcile(ctx, 10)
			if err != nil || !r.Newer || !r.Stopped || r.Left() != len(r.Differences) || w.RAuth.Provisioned()[missing] != nil {
				t.Errorf("%+v, %v", r, err)
			}
			r, err = w.manage(func(c *clients.Config) { c.Confirmed = true }).Reconcile(ctx, 10)
			if err != nil || r.Stopped || w.RAuth.Provisioned()[missing] == nil || w.RAuth.Provisioned()[other]["client_name"] != "billing" {
				t.Errorf("confirmed: %+v, %v", r, err)
			}
		})
	}
}

// A command takes up also what waits for its next try, and counts no client that is deleted.
func TestReconcileWaitsForNoPause(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	id, deleted := w.client("acme", nil), w.client("acme", nil)
	w.want(204, "root", "DELETE", "/v1/clients/"+deleted, nil)
	w.RAuth.Break(func(string, string) devrauth.Fault { return devrauth.Fault500 })
	w.want(202, "root", "PUT", "/v1/clients/"+id, service(map[string]any{"client_name": "x"}), "If-Match: *")
	w.exec(`UPDATE registrations SET next_try = now() + interval '1 hour' WHERE client_id = $1`, id)
	s := w.manage(func(*clients.Config) {}) // with a breaker of its own
	if r, err := s.Reconcile(ctx, 10); err == nil {
		t.Errorf("while R-Auth is away: %+v", r)
	}
	w.RAuth.Break(nil)
	w.exec(`UPDATE registrations SET next_try = now() + interval '1 hour' WHERE client_id = $1`, id)
	r, err := w.manage(func(*clients.Config) {}).Reconcile(ctx, 10)
	if err != nil || r.Pending != 0 || r.Compared != 1 || w.RAuth.Provisioned()[id]["client_name"] != "x" {
		t.Errorf("%+v, %v", r, err)
	}
}

// Clients of a version that did not manage audiences get those of the gateways when they
// are reconciled, keep what they were given by hand, and differ no more.
func TestClientsOfAnEarlierVersionGetAnAudience(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	plain, missing, byHand := w.client("acme", nil), w.client("acme", nil), w.client("acme", nil)
	for _, id := range []string{plain, missing} {
		w.put(id, func(m map[string]any) { delete(m, "audience") })
	}
	w.put(byHand, func(m map[string]any) { m["audience"] = []string{"reports", devstack.Audience} })
	w.exec(`UPDATE registrations SET wanted = (wanted::jsonb - 'audience')::json, applied = (applied::jsonb - 'audience')::json`)
	w.OK(w.there().Delete(ctx, missing))
	if d := w.drift(); d[plain]["kind"] != "changed" || fmt.Sprint(d[plain]["fields"]) != "[audience]" || d[missing]["kind"] != "missing" || fmt.Sprint(d[byHand]["fields"]) != "[audience]" {
		t.Errorf("they differ: %v", d)
	}
	if r, err := w.clients.Reconcile(ctx, 10); err != nil || r.Left() != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	for id, want := range map[string]string{plain: "[iam-gateway]", missing: "[iam-gateway]", byHand: "[iam-gateway reports]"} {
		r := w.want(200, "root", "GET", "/v1/clients/"+id, nil)
		if fmt.Sprint(r.field("audience")) != want || fmt.Sprint(w.RAuth.Provisioned()[id]["audience"]) != want {
			t.Errorf("want %s: it is %s, and there %v", want, r, w.RAuth.Provisioned()[id]["audience"])
		}
	}
	if d := w.drift(); len(d) != 0 {
		t.Errorf("they differ: %v", d)
	}
}
