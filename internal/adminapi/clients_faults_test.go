package adminapi_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"iam-service/internal/clients"
	"iam-service/internal/clients/rauth"
	"iam-service/internal/dev/await"
	"iam-service/internal/dev/devrauth"
	"iam-service/internal/iam"
)

// hooked is a provider of which single calls are something else.
type hooked struct {
	clients.Provider
	rotate func(context.Context, string) (iam.Secret, error)
	retire func(context.Context, string) error
	update func(context.Context, iam.Registration) error
	create func(context.Context, iam.Registration) (iam.Secret, error)
	list   func(context.Context, func(iam.Registration) error) error
}

func (h *hooked) Rotate(ctx context.Context, id string) (iam.Secret, error) {
	if h.rotate != nil {
		return h.rotate(ctx, id)
	}
	return h.Provider.Rotate(ctx, id)
}

func (h *hooked) Retire(ctx context.Context, id string) error {
	if h.retire != nil {
		return h.retire(ctx, id)
	}
	return h.Provider.Retire(ctx, id)
}

func (h *hooked) Update(ctx context.Context, r iam.Registration) error {
	if h.update != nil {
		return h.update(ctx, r)
	}
	return h.Provider.Update(ctx, r)
}

func (h *hooked) Create(ctx context.Context, r iam.Registration) (iam.Secret, error) {
	if h.create != nil {
		return h.create(ctx, r)
	}
	return h.Provider.Create(ctx, r)
}

func (h *hooked) List(ctx context.Context, each func(iam.Registration) error) error {
	if h.list != nil {
		return h.list(ctx, each)
	}
	return h.Provider.List(ctx, each)
}

// hook puts a provider with hooks behind the API.
func (w *adminWorld) hook() *hooked {
	w.Helper()
	h := &hooked{Provider: w.there()}
	*w.clients = *w.manage(func(c *clients.Config) { c.Provider = h })
	return h
}

func (w *adminWorld) exec(sql string, args ...any) {
	w.Helper()
	_, err := w.sql().Exec(ctx, sql, args...)
	w.OK(err)
}

// What a provider fills in where nothing was said is no difference, and a key is the same
// in whatever form.
func TestWhatAProviderFillsInIsNoDrift(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	h := w.hook()
	h.list = func(ctx context.Context, each func(iam.Registration) error) error {
		return h.Provider.List(ctx, func(r iam.Registration) error {
			if r.Scope == "" {
				r.Scope = "offline_access offline openid"
			}
			return each(r)
		})
	}
	w.client("acme", nil)
	w.want(201, "root", "POST", "/v1/clients", service(map[string]any{
		"token_endpoint_auth_method": "private_key_jwt", "jwks": map[string]any{"keys": []any{map[string]any{
			"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0", "ext": true, "key_ops": []string{"verify"},
		}}},
	}))
	if d := w.drift(); len(d) > 0 {
		t.Errorf("they differ: %v", d)
	}
	for id, m := range w.RAuth.Provisioned() {
		if strings.Contains(fmt.Sprint(m["jwks"]), "key_ops") {
			t.Errorf("%s was sent what is no key: %v", id, m["jwks"])
		}
	}
}

// A client that was deleted in the provider is made again by the next change, and its
// secret is one that no caller has.
func TestAChangeOfAMissingClientMakesItAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	id := w.client("acme", nil)
	w.OK(w.there().Delete(ctx, id))
	r := w.want(200, "root", "PUT", "/v1/clients/"+id, service(map[string]any{"client_name": "again"}), "If-Match: *")
	if r.text("secret_state") != "not_issued" || r.text("client_secret_status") != "not_issued" || w.RAuth.Provisioned()[id]["client_name"] != "again" {
		t.Errorf("got %s", r)
	}
	w.announced(id, "ClientCreated", "ClientUpdated")
}

// While a change is only tried, events say what was; what is granted meanwhile outlasts
// its refusal.
func TestEventsSayNothingOfWhatIsOnlyTried(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	body := map[string]any{"client_name": "site", "redirect_uris": []string{"https://app.example.com/"}, "roles": []string{"viewer"}, "scopes": []string{"openid", "document:read"}, "tenant": "acme"}
	id := w.want(201, "root", "POST", "/v1/clients", body).text("client_id")
	path := "/v1/clients/" + id
	delete(body, "tenant")
	tried := map[string]any{"client_name": "tried", "redirect_uris": []string{"https://refuse-me.example.com/"}, "roles": []string{"viewer"}, "scopes": []string{"openid"}}
	w.want(202, "root", "PUT", path, tried, "If-Match: *", "Prefer: respond-async")
	w.want(200, "root", "PATCH", path, map[string]any{"status": "blocked"})
	tried["roles"] = []string{"viewer", "editor"}
	w.want(202, "root", "PUT", path, tried, "If-Match: *") // roles alone, while another change is pending
	published := func() (last string) {
		w.OK(w.sql().QueryRow(ctx, `SELECT data::text FROM outbox WHERE object = $1 ORDER BY seq DESC LIMIT 1`, id).Scan(&last))
		return last
	}
	if last := published(); strings.Contains(last, "tried") || !strings.Contains(last, "document:read") || !strings.Contains(last, "editor") {
		t.Errorf("published is %s", last)
	}
	w.announced(id, "ClientCreated", "ClientBlocked", "ClientUpdated")
	await.True(w, "it is refused", func() bool {
		_, err := w.clients.Finish(ctx)
		w.OK(err)
		return w.want(200, "root", "GET", path, nil).text("sync") == "failed"
	})
	r := w.want(200, "root", "GET", path, nil)
	if r.text("client_name") != "site" || fmt.Sprint(r.field("roles")) != "[editor viewer]" || fmt.Sprint(r.field("scopes")) != "[openid]" || r.text("status") != "blocked" {
		t.Errorf("it is %s", r)
	}
	w.announced(id, "ClientCreated", "ClientBlocked", "ClientUpdated", "ClientUpdated") // a scope is gone
	if last := published(); strings.Contains(last, "document:read") {
		t.Errorf("published is %s", last)
	}
}

// What is taken away is taken away there too, be it a scope that a provider may fill in;
// the same again changes nothing.
func TestTheLastScopeIsRevokedInTheProviderToo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	id := w.client("acme", map[string]any{"scopes": []string{"openid", "offline_access"}})
	for range 2 {
		w.want(200, "root", "PUT", "/v1/clients/"+id, service(nil), "If-Match: *")
	}
	if scope := w.RAuth.Provisioned()[id]["scope"]; scope != nil {
		t.Errorf("R-Auth has the scope %v", scope)
	}
	w.announced(id, "ClientCreated", "ClientUpdated")
}

// A role that is revoked during a pending change removes nothing else of that change.
func TestARoleRevokedDuringAPendingChangeStaysRevoked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	w.want(201, "root", "POST", "/v1/tenants/acme/roles", map[string]any{"name": "gone"})
	id := w.client("acme", map[string]any{"roles": []string{"viewer"}})
	tried := map[string]any{"client_name": "x", "redirect_uris": []string{"https://refuse-me.example.com/"}, "roles": []string{"viewer", "editor", "gone"}}
	w.want(202, "root", "PUT", "/v1/clients/"+id, tried, "If-Match: *", "Prefer: respond-async")
	w.want(204, "root", "DELETE", "/v1/tenants/acme/roles/gone?remove=true", nil)
	w.announced(id, "ClientCreated")
	_, err := w.clients.Finish(ctx)
	w.OK(err)
	if r := w.want(200, "root", "GET", "/v1/clients/"+id, nil); fmt.Sprint(r.field("roles")) != "[viewer]" || r.text("sync") != "failed" {
		t.Errorf("it is %s", r)
	}
	w.announced(id, "ClientCreated")
}

// A repair that the provider refuses is none, and one whose answer was lost has made a
// secret that no caller has.
func TestARepairReportsItsOutcome(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	id := w.client("acme", nil)
	there := w.there()
	got, err := there.Get(ctx, id)
	w.OK(err)
	got.ClientName = "changed"
	w.OK(there.Update(ctx, got))
	h := w.hook()
	h.update = func(context.Context, iam.Registration) error {
		return &iam.Error{Kind: iam.Invalid, Code: "idp_refused"}
	}
	if r, err := w.clients.Reconcile(ctx, 10); err != nil || r.Left() != 1 || r.Differences[0].Done != "failed" {
		t.Errorf("%+v, %v", r, err)
	}
	h.update = nil
	w.exec(`UPDATE registrations SET sync = 'in_sync'`)
	w.OK(there.Delete(ctx, id))
	h.create = func(ctx context.Context, r iam.Registration) (iam.Secret, error) {
		_, err := h.Provider.Create(ctx, r)
		w.OK(err)
		return "", &iam.Error{Kind: iam.Conflict} // the answer was lost, and it was tried again
	}
	if r, err := w.clients.Reconcile(ctx, 10); err != nil || r.Left() != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if r := w.want(200, "root", "GET", "/v1/clients/"+id, nil); r.text("secret_state") != "not_issued" {
		t.Errorf("it is %s", r)
	}
}

// A client that the provider has is not abandoned, whatever it responds to a change of it.
func TestAClientThatTheProviderHasIsNotAbandoned(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	h := w.hook()
	h.create = func(ctx context.Context, r iam.Registration) (iam.Secret, error) {
		r.ClientName = "as it was"
		_, err := h.Provider.Create(ctx, r)
		w.OK(err)
		return "", &iam.Error{Kind: iam.Conflict}
	}
	h.update = func(context.Context, iam.Registration) error {
		return &iam.Error{Kind: iam.Invalid, Code: "idp_refused"}
	}
	r := w.want(202, "root", "POST", "/v1/clients", service(nil))
	if r.text("sync_reason") != "idp_refused" || w.RAuth.Provisioned()[r.text("client_id")] == nil {
		t.Errorf("got %s", r)
	}
}

// A provider that makes clients under ids of its own is of no use, and is left clean.
func TestAProviderThatAssignsIDsIsRejected(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	own := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			r.Body = io.NopCloser(strings.NewReader(`{"client_name":"billing"}`))
		}
		w.RAuth.Handler().ServeHTTP(rw, r)
	}))
	t.Cleanup(own.Close)
	provider, err := rauth.New(rauth.Config{URL: own.URL, Pause: time.Millisecond, Log: discard})
	w.OK(err)
	*w.clients = *w.manage(func(c *clients.Config) { c.Provider = provider })
	if r := w.want(422, "root", "POST", "/v1/clients", service(nil)); r.text("code") != "idp_ignores_client_id" {
		t.Errorf("got %s", r)
	}
	if n := len(w.RAuth.Provisioned()); n != 0 {
		t.Errorf("%d are left there", n)
	}
}

// A lost response is recovered: the client is created once, and the waiting caller has a secret.
func TestALostProviderResponseIsRecovered(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	broken := 0
	w.RAuth.Break(func(method, _ string) devrauth.Fault {
		if method == http.MethodPost && broken == 0 {
			broken++
			return devrauth.FaultCutDone
		}
		return ""
	})
	r := w.want(201, "root", "POST", "/v1/clients", service(nil))
	id := r.text("client_id")
	if got := w.RAuth.Secrets(id); !slices.Equal(got, []string{r.text("client_secret")}) || r.text("client_secret_status") != "given" || r.field("old_secret_until") != nil {
		t.Errorf("made: %s", r)
	}
	w.announced(id, "ClientCreated")
	w.RAuth.Break(func(method, _ string) devrauth.Fault {
		if method == http.MethodPut {
			return devrauth.FaultCutDone // each time
		}
		return ""
	})
	if r = w.want(200, "root", "PUT", "/v1/clients/"+id, service(map[string]any{"client_name": "x"}), "If-Match: *"); r.text("sync") != "in_sync" {
		t.Errorf("changed: %s", r)
	}
	w.RAuth.Break(nil)

	h := w.hook()
	h.create = func(ctx context.Context, r iam.Registration) (iam.Secret, error) {
		r.Metadata = iam.Marks{iam.MarkInstance: "another"}
		_, err := h.Provider.Create(ctx, r)
		w.OK(err)
		return "", &iam.Error{Kind: iam.Conflict}
	}
	if r = w.want(409, "root", "POST", "/v1/clients", service(map[string]any{"client_name": "taken"})); r.text("code") != "client_id_taken" {
		t.Errorf("of another: %s", r)
	}
	if list := w.want(200, "root", "GET", "/v1/clients?name=taken", nil).items(); len(list) != 0 {
		t.Errorf("there is %v", list)
	}
}

// An operation whose caller disconnects before the response is finished.
func TestACallerThatDisconnectsStopsNoOperation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	h := w.hook()
	begun, gone := make(chan struct{}), make(chan struct{})
	h.create = func(ctx context.Context, r iam.Registration) (iam.Secret, error) {
		close(begun)
		<-gone
		time.Sleep(50 * time.Millisecond) // the server receives it
		return h.Provider.Create(ctx, r)
	}
	short, cancel := context.WithCancel(ctx)
	go func() { <-begun; cancel() }()
	req, err := http.NewRequestWithContext(short, http.MethodPost, w.admin+"/v1/clients", strings.NewReader(`{"client_name":"left","grant_types":["client_credentials"]}`))
	w.OK(err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+w.Mint("root", map[string]any{"aud": "iam-admin"}))
	resp, err := http.DefaultClient.Do(req)
	close(gone)
	if err == nil {
		_ = resp.Body.Close()
		t.Fatalf("it was answered: %d", resp.StatusCode)
	}
	await.True(w, "it is made", func() bool {
		list := w.want(200, "root", "GET", "/v1/clients?name=left&sync=in_sync", nil).items()
		return len(list) == 1
	})
}

// A pending operation with a lease is neither taken over nor compared, and a deletion
// waits for it.
func TestWhatIsUnderWayIsLeftAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	id := w.client("acme", nil)
	w.RAuth.Break(func(string, string) devrauth.Fault { return devrauth.Fault500 })
	w.want(202, "root", "PUT", "/v1/clients/"+id, service(map[string]any{"client_name": "x"}), "If-Match: *")
	fresh := w.want(202, "root", "POST", "/v1/clients", service(nil)).text("client_id")
	w.RAuth.Break(nil)
	await.True(w, "the breaker closes", func() bool { return w.call("root", "GET", "/v1/clients/drift", nil).status == 200 })
	if d := w.want(200, "root", "GET", "/v1/clients/drift", nil); d.field("pending") != 2.0 || len(w.drift()) != 0 {
		t.Errorf("compared: %s", d)
	}
	w.exec(`UPDATE registrations SET next_try = now(), lease_until = CASE WHEN client_id = $1 THEN now() + interval '1 minute' END`, id)
	if n, err := w.clients.Finish(ctx); n != 1 || err != nil {
		t.Errorf("%d were taken up, %v", n, err)
	}
	if r := w.want(202, "root", "DELETE", "/v1/clients/"+id, nil); r.text("operation") != "delete" {
		t.Errorf("deleted: %s", r)
	}
	if n, err := w.clients.Finish(ctx); n != 0 || err != nil || w.RAuth.Provisioned()[id] == nil {
		t.Errorf("%d were taken up, %v", n, err)
	}
	w.exec(`UPDATE registrations SET next_try = now()`)
	if n, err := w.clients.Finish(ctx); n != 1 || err != nil || w.RAuth.Provisioned()[id] != nil {
		t.Errorf("%d were taken up, %v", n, err)
	}
	w.announced(id, "ClientCreated", "ClientDeleted")
	w.announced(fresh, "ClientCreated")
	for _, query := range []string{"", "?status=deleted"} {
		for _, c := range w.want(200, "root", "GET", "/v1/clients"+query, nil).items() {
			if c["client_id"] == id {
				t.Errorf("listed under %q is %v", query, c)
			}
		}
	}
	// One that was never published is deleted without an event.
	w.RAuth.Break(func(string, string) devrauth.Fault { return devrauth.Fault500 })
	silent := w.want(202, "root", "POST", "/v1/clients", service(nil)).text("client_id")
	w.want(202, "root", "DELETE", "/v1/clients/"+silent, nil)
	w.RAuth.Break(nil)
	await.True(w, "it is gone", func() bool {
		w.exec(`UPDATE registrations SET next_try = now(), lease_until = NULL`)
		_, err := w.clients.Finish(ctx)
		w.OK(err)
		return w.call("root", "GET", "/v1/clients/"+silent, nil).status == 404
	})
	w.announced(silent)
}
