package adminapi_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"iam-service/internal/dev/await"
	"iam-service/internal/dev/devrauth"
	"iam-service/internal/dev/world"
)

// service is the metadata of a program with client credentials.
func service(more map[string]any) map[string]any {
	body := map[string]any{"client_name": "billing", "grant_types": []string{"client_credentials"}}
	maps.Copy(body, more)
	return body
}

// client makes one, as the platform's administrator, and returns its id.
func (w *adminWorld) client(tenant string, more map[string]any) string {
	w.Helper()
	body := service(more)
	if tenant != "" {
		body["tenant"] = tenant
	}
	return w.want(201, "root", "POST", "/v1/clients", body).text("client_id")
}

func (r reply) text(names ...string) string {
	s, _ := r.field(names...).(string) // none: ""
	return s
}

// events are the types of events about a client, in order.
func (w *adminWorld) events(client string) []string {
	w.Helper()
	rows, err := w.sql().Query(ctx, `SELECT type FROM outbox WHERE kind = 'client' AND object = $1 ORDER BY seq`, client)
	w.OK(err)
	var types []string
	for rows.Next() {
		var s string
		w.OK(rows.Scan(&s))
		types = append(types, strings.TrimSuffix(s, ".v1"))
	}
	w.OK(rows.Err())
	return types
}

func (w *adminWorld) announced(client string, want ...string) {
	w.Helper()
	if got := w.events(client); !slices.Equal(got, want) {
		w.Errorf("announced %q, want %q", got, want)
	}
}

// The life of a client, as an administrator of a tenant lives it: here and in the
// identity provider.
func TestTheLifeOfAClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	tina := func(status int, method, path string, body any, headers ...string) reply {
		t.Helper()
		return w.want(status, "tina", method, path, body, headers...)
	}
	r := tina(201, "POST", "/clients", service(map[string]any{"tenant": "acme", "roles": []string{"viewer"}, "scopes": []string{"document:read", "openid"}}))
	id, secret := r.text("client_id"), r.text("client_secret")
	path := "/v1/clients/" + id
	if r.header.Get("Location") != path || secret == "" || r.text("client_secret_status") != "given" || r.text("sync") != "in_sync" || r.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("made as %v %s", r.header, r)
	}
	there := w.RAuth.Provisioned()[id]
	if there["client_name"] != "billing" || there["scope"] != "document:read openid" || !slices.Equal(w.RAuth.Secrets(id), []string{secret}) {
		t.Errorf("R-Auth has %v", there)
	}
	if r = tina(200, "GET", path, nil); r.field("client_secret") != nil || r.text("secret_state") != "issued" {
		t.Errorf("read as %s", r)
	}
	if list := tina(200, "GET", "/v1/clients?tenant=acme&name=BILL&role=viewer&type=confidential&sync=in_sync&status=active", nil).items(); len(list) != 1 || list[0]["client_id"] != id {
		t.Errorf("found %v", list)
	}
	// The gateway knows it at once.
	token, err := w.RAuth.Mint("ES256", map[string]any{"sub": id, "client_id": id, "scope": "document:read"})
	w.OK(err)
	gateway := func() int {
		status, _, _ := w.Ask("GET /system/enrich-token", world.Bearer(token))
		return status
	}
	if got := gateway(); got != 200 {
		t.Errorf("enriched: %d", got)
	}

	tag := "If-Match: " + r.header.Get("ETag")
	put := service(map[string]any{"client_name": "invoices", "roles": []string{}, "scopes": []string{"openid"}})
	tina(428, "PUT", path, put)
	tina(412, "PUT", path, put, `If-Match: "1"`)
	r = tina(200, "PUT", path, put, tag)
	if there = w.RAuth.Provisioned()[id]; there["client_name"] != "invoices" || there["scope"] != "openid" || r.text("sync") != "in_sync" {
		t.Errorf("R-Auth has %v", there)
	}
	if r.text("secret_state") != "issued" || r.field("client_secret_status") != nil {
		t.Errorf("a change that is about no secret says of it: %s", r)
	}
	tina(412, "PUT", path, put, tag)

	tina(200, "PATCH", path, map[string]any{"status": "blocked"})
	if got := gateway(); got != 401 {
		t.Errorf("a blocked client is enriched: %d", got)
	}
	tina(200, "PATCH", path, map[string]any{"status": "active"})
	if got := gateway(); got != 200 {
		t.Errorf("unblocked: %d", got)
	}
	tina(200, "POST", path+":revoke", nil)
	if got := gateway(); got != 401 {
		t.Errorf("revoked: %d", got)
	}

	r = tina(200, "POST", path+"/secrets:rotate", nil)
	second := r.text("client_secret")
	if second == "" || second == secret || !slices.Equal(w.RAuth.Secrets(id), []string{second, secret}) || r.field("old_secret_until") == nil {
		t.Errorf("rotated: %s", r)
	}
	if r = tina(409, "POST", path+"/secrets:rotate", map[string]any{}); r.text("code") != "overlap_running" {
		t.Errorf("a second rotation: %s", r)
	}
	r = tina(200, "POST", path+"/secrets:rotate", map[string]any{"retire_old": true, "overlap": "0"})
	if third := r.text("client_secret"); !slices.Equal(w.RAuth.Secrets(id), []string{third}) || r.field("old_secret_until") != nil {
		t.Errorf("rotated at once: %s", r)
	}

	tina(204, "DELETE", path, nil)
	tina(404, "GET", path, nil)
	tina(404, "DELETE", path, nil)
	if w.RAuth.Provisioned()[id] != nil {
		t.Error("R-Auth has it")
	}
	if got := gateway(); got != 401 {
		t.Errorf("a deleted client is enriched: %d", got)
	}
	w.announced(id, "ClientCreated", "ClientUpdated", "ClientBlocked", "ClientUnblocked", "ClientTokensRevoked", "ClientSecretRotated",
		"ClientSecretRetired", "ClientSecretRotated", "ClientSecretRetired", "ClientDeleted")

	// No secret is anywhere.
	for _, table := range []string{"registrations", "clients", "audit", "outbox", "idempotency"} {
		var n int
		w.OK(w.sql().QueryRow(ctx, `SELECT count(*) FROM `+table+` x WHERE x::text LIKE ANY ($1)`, []string{"%" + secret + "%", "%" + second + "%"}).Scan(&n))
		if n > 0 {
			t.Errorf("a secret is in %s", table)
		}
	}
	if log := w.Logs.String(); strings.Contains(log, secret) || strings.Contains(log, second) {
		t.Error("a secret is in the log")
	}
	w.observedAs(t, "/clients", "/clients/{id}", "/clients/{id}/secrets:rotate")
}

func (w *adminWorld) observedAs(t *testing.T, handlers ...string) {
	t.Helper()
	observed := w.Observed()
	for _, h := range handlers {
		if !slices.ContainsFunc(observed, func(o string) bool { return strings.HasPrefix(o, h+" ") }) {
			t.Errorf("no request was counted under %s", h)
		}
	}
}

// While R-Auth is away, changes are accepted and sent later; what must not wait does not.
func TestClientRequestsAreAcceptedDuringAProviderOutage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{loop: true})
	first := w.client("acme", nil)
	for _, fault := range []devrauth.Fault{devrauth.Fault500, devrauth.Fault503, devrauth.Fault429, devrauth.FaultCut, devrauth.FaultCutDone} {
		w.RAuth.Break(func(string, string) devrauth.Fault { return fault })
		began := time.Now()
		r := w.want(202, "root", "POST", "/v1/clients", service(map[string]any{"tenant": "acme"}))
		if took := time.Since(began); took > 4*time.Second { // 2 s are promised, of a machine that does nothing else
			t.Errorf("%s: the answer took %s", fault, took)
		}
		id := r.text("client_id")
		if r.header.Get("Location") != "/v1/clients/"+id || r.text("sync") != "pending" || r.field("client_secret") != nil || !strings.HasPrefix(r.text("sync_reason"), "idp_") {
			t.Errorf("%s: %s", fault, r)
		}
		w.announced(id)
		if r = w.want(409, "root", "PUT", "/v1/clients/"+id, service(map[string]any{"client_name": "other"}), "If-Match: *"); r.text("code") != "operation_pending" {
			t.Errorf("%s: a second operation: %s", fault, r)
		}
		if r = w.want(503, "root", "POST", "/v1/clients/"+first+"/secrets:rotate", nil); r.text("code") == "" {
			t.Errorf("%s: rotated: %s", fault, r)
		}
		w.RAuth.Break(nil)
		await.True(w, "the client is made", func() bool { return w.want(200, "root", "GET", "/v1/clients/"+id, nil).text("sync") == "in_sync" })
		if r = w.want(200, "root", "GET", "/v1/clients/"+id, nil); r.text("secret_state") != "not_issued" {
			t.Errorf("%s: made later: %s", fault, r)
		}
		w.announced(id, "ClientCreated")
		if n := len(w.RAuth.Provisioned()); n < 2 {
			t.Errorf("R-Auth has %d", n)
		}
		r = w.want(200, "root", "POST", "/v1/clients/"+id+"/secrets:rotate", map[string]any{"overlap": "0"})
		await.True(w, "the old secret is ended", func() bool { // by the caller or by the loop
			return slices.Equal(w.RAuth.Secrets(id), []string{r.text("client_secret")}) && w.want(200, "root", "GET", "/v1/clients/"+id, nil).field("operation") == nil
		})

		w.RAuth.Break(func(string, string) devrauth.Fault { return fault })
		w.want(202, "root", "PUT", "/v1/clients/"+id, service(map[string]any{"client_name": "renamed"}), "If-Match: *")
		if r = w.want(202, "root", "DELETE", "/v1/clients/"+id, nil); r.text("status") != "deleted" || r.text("operation") != "delete" {
			t.Errorf("%s: deleted: %s", fault, r)
		}
		w.want(202, "root", "DELETE", "/v1/clients/"+id, nil)
		w.RAuth.Break(nil)
		await.True(w, "the client is deleted", func() bool { return w.call("root", "GET", "/v1/clients/"+id, nil).status == 404 })
		if w.RAuth.Provisioned()[id] != nil {
			t.Errorf("%s: R-Auth has it", fault)
		}
		w.announced(id, "ClientCreated", "ClientSecretRotated", "ClientSecretRetired", "ClientDeleted")
	}
}

// A caller that does not want to wait says so.
func TestAClientIsCreatedInTheBackgroundOnRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{loop: true})
	r := w.want(202, "root", "POST", "/v1/clients", service(nil), "Prefer: wait=1, respond-async")
	if r.header.Get("Preference-Applied") != "respond-async" {
		t.Errorf("got %v", r.header)
	}
	id := r.text("client_id")
	await.True(w, "it is made", func() bool { return w.want(200, "root", "GET", "/v1/clients/"+id, nil).text("sync") == "in_sync" })
	w.want(202, "root", "PUT", "/v1/clients/"+id, service(map[string]any{"client_name": "x"}), "If-Match: *", "Prefer: respond-async")
	await.True(w, "it is renamed", func() bool { return w.RAuth.Provisioned()[id]["client_name"] == "x" })
	await.True(w, "that is known", func() bool { return w.want(200, "root", "GET", "/v1/clients/"+id, nil).text("sync") == "in_sync" })
	w.want(202, "root", "DELETE", "/v1/clients/"+id, nil, "Prefer: respond-async")
	await.True(w, "it is deleted", func() bool { return w.call("root", "GET", "/v1/clients/"+id, nil).status == 404 })
	w.announced(id, "ClientCreated", "ClientUpdated", "ClientDeleted")
}

// A POST that is sent again makes nothing twice, and gives no secret twice.
func TestAClientIsCreatedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	key := "Idempotency-Key: one"
	r := w.want(201, "root", "POST", "/v1/clients", service(nil), key)
	id := r.text("client_id")
	again := w.want(201, "root", "POST", "/v1/clients", service(nil), key)
	if again.text("client_id") != id || again.field("client_secret") != nil || again.text("client_secret_status") != "given" || again.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("again: %v %s", again.header, again)
	}
	w.want(422, "root", "POST", "/v1/clients", service(map[string]any{"client_name": "other"}), key)
	if n := len(w.RAuth.Provisioned()); n != 1 {
		t.Errorf("R-Auth has %d clients", n)
	}
	rotate := "/v1/clients/" + id + "/secrets:rotate"
	secret := w.want(200, "root", "POST", rotate, nil, "Idempotency-Key: two").text("client_secret")
	again = w.want(200, "root", "POST", rotate, nil, "Idempotency-Key: two")
	if again.field("client_secret") != nil || again.text("client_secret_status") != "given" || w.RAuth.Secrets(id)[0] != secret || len(w.RAuth.Secrets(id)) != 2 {
		t.Errorf("rotated again: %s", again)
	}
	// What came to nothing is tried again under the same key.
	other := w.client("", nil)
	w.RAuth.Break(func(string, string) devrauth.Fault { return devrauth.FaultCut })
	w.want(503, "root", "POST", "/v1/clients/"+other+"/secrets:rotate", nil, "Idempotency-Key: three")
	w.RAuth.Break(nil)
	await.True(w, "the breaker closes", func() bool {
		return w.call("root", "POST", "/v1/clients/"+other+"/secrets:rotate", nil, "Idempotency-Key: three").status == 200
	})
	refused := service(map[string]any{"grant_types": []string{"authorization_code"}, "redirect_uris": []string{"https://refuse-me.example.com/"}})
	for range 2 {
		if r := w.want(422, "root", "POST", "/v1/clients", refused, "Idempotency-Key: four"); !slices.Equal(r.pointers(), []string{"/redirect_uris"}) {
			t.Errorf("refused: %s", r)
		}
	}
}

// What the provider refuses for good was never done.
func TestAProviderRejectionRollsTheChangeBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{loop: true})
	site := func(uri string, roles ...string) map[string]any {
		return map[string]any{"client_name": "site", "tenant": "acme", "redirect_uris": []string{uri}, "roles": roles}
	}
	if r := w.want(422, "root", "POST", "/v1/clients", site("https://refuse-me.example.com/")); !slices.Equal(r.pointers(), []string{"/redirect_uris"}) {
		t.Errorf("refused: %s", r)
	}
	if list := w.want(200, "root", "GET", "/v1/clients?name=site", nil).items(); len(list) != 0 {
		t.Errorf("there is %v", list)
	}
	r := w.want(201, "root", "POST", "/v1/clients", site("https://app.example.com/", "viewer"))
	id := r.text("client_id")
	change := site("https://refuse-me.example.com/", "editor")
	delete(change, "tenant")
	w.want(422, "root", "PUT", "/v1/clients/"+id, change, "If-Match: *")
	r = w.want(200, "root", "GET", "/v1/clients/"+id, nil)
	if got := r.field("redirect_uris"); !slices.Equal(got.([]any), []any{"https://app.example.com/"}) || !slices.Equal(r.field("roles").([]any), []any{"viewer"}) {
		t.Errorf("it is %s", r)
	}
	w.announced(id, "ClientCreated")

	// Without a waiting caller: what was revoked is not granted again.
	change["roles"] = []string{}
	w.want(202, "root", "PUT", "/v1/clients/"+id, change, "If-Match: *", "Prefer: respond-async")
	await.True(w, "it is refused", func() bool { r = w.want(200, "root", "GET", "/v1/clients/"+id, nil); return r.text("sync") == "failed" })
	if got := r.field("redirect_uris"); !slices.Equal(got.([]any), []any{"https://app.example.com/"}) || len(r.field("roles").([]any)) != 0 || r.text("sync_reason") != "idp_refused:/redirect_uris" {
		t.Errorf("it is %s", r)
	}
	r = w.want(202, "root", "POST", "/v1/clients", site("https://refuse-me.example.com/"), "Prefer: respond-async")
	gone := r.text("client_id")
	await.True(w, "it is refused", func() bool { return w.call("root", "GET", "/v1/clients/"+gone, nil).status == 404 })
	w.announced(gone)
	w.announced(id, "ClientCreated", "ClientUpdated") // the role that was taken away is not there any more
	if d := w.drift(); len(d) > 0 {
		t.Errorf("what was refused differs: %v", d)
	}
	if r := w.want(200, "root", "GET", "/v1/audit?kind=client&object="+gone, nil).items(); len(r) != 2 || r[0]["after"] != nil {
		t.Errorf("the audit says %v", r)
	}
}

// A tenant goes when its clients are gone, and they are refused on.
func TestATenantOutlivesItsClients(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	w.want(201, "root", "POST", "/v1/tenants", map[string]any{"id": "short", "slug": "short", "name": "x"})
	id := w.client("short", nil)
	w.want(200, "root", "PATCH", "/v1/tenants/short", map[string]any{"status": "archived"})
	if r := w.want(409, "root", "DELETE", "/v1/tenants/short", nil); r.text("code") != "tenant_has_clients" {
		t.Errorf("got %s", r)
	}
	w.want(204, "root", "DELETE", "/v1/clients/"+id, nil)
	w.want(204, "root", "DELETE", "/v1/tenants/short", nil)
	token, err := w.RAuth.Mint("ES256", map[string]any{"sub": id, "client_id": id})
	w.OK(err)
	if status, _, _ := w.Ask("GET /system/enrich-token", world.Bearer(token)); status != 401 {
		t.Errorf("enriched: %d", status)
	}
}

// A client that was not made here is known as a fact, and is blocked like any other.
func TestAClientOfAnotherOriginIsAFactAndCanBeBlocked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{noClients: true})
	const id = "3f6f0c1e-6f0a-4c59-9a8e-0d6a5f1b2c3d" // of the sample
	r := w.want(200, "root", "GET", "/v1/clients/"+id, nil)
	if r.field("managed") != false || r.text("tenant") != "acme" {
		t.Errorf("got %s", r)
	}
	w.want(200, "root", "PATCH", "/v1/clients/"+id, map[string]any{"status": "blocked"})
	for _, x := range [][2]string{{"POST", "/secrets:rotate"}, {"PUT", ""}} {
		var body any
		if x[0] == "PUT" {
			body = service(nil)
		}
		if r := w.call("root", x[0], "/v1/clients/"+id+x[1], body, "If-Match: *"); r.status != 409 && r.text("code") != "clients_not_managed" {
			t.Errorf("%s: %s", x, r)
		}
	}
	if r := w.want(503, "root", "POST", "/v1/clients", service(nil)); r.text("code") != "clients_not_managed" {
		t.Errorf("got %s", r)
	}
	w.want(503, "root", "GET", "/v1/clients/drift", nil)
	w.want(204, "root", "DELETE", "/v1/clients/"+id, nil)
	w.want(404, "root", "GET", "/v1/clients/"+id, nil)
	w.announced(id, "ClientBlocked", "ClientDeleted")
}

// What the provider refuses is named also where it names one entry of a list.
func TestARejectedLogoutURIIsNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	site := func(out string) map[string]any {
		return map[string]any{"client_name": "site", "redirect_uris": []string{"https://app.example.com/cb"}, "post_logout_redirect_uris": []string{out}}
	}
	if r := w.want(422, "root", "POST", "/v1/clients", site("https://other.example.com/bye")); !slices.Equal(r.pointers(), []string{"/post_logout_redirect_uris"}) {
		t.Errorf("got %s", r)
	}
	w.want(201, "root", "POST", "/v1/clients", site("https://app.example.com/bye"))
}
