package adminapi_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
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

// Where the response to a rotation is lost, no caller gets a secret that may not be one,
// what is in use works on, and another rotation fixes it.
func TestARotationOfUnknownOutcome(t *testing.T) {
	t.Parallel()
	for _, fault := range []devrauth.Fault{devrauth.FaultCut, devrauth.FaultCutDone, devrauth.Fault500} {
		w := newWorld(t, settings{})
		r := w.want(201, "root", "POST", "/v1/clients", service(nil))
		id, first := r.text("client_id"), r.text("client_secret")
		path := "/v1/clients/" + id
		w.want(200, "root", "POST", path+"/secrets:rotate", nil)
		second := w.RAuth.Secrets(id)[0]
		w.RAuth.Break(func(method, path string) devrauth.Fault {
			if method == http.MethodPost && strings.HasSuffix(path, "/rotate") {
				return fault
			}
			return ""
		})
		if r = w.want(503, "root", "POST", path+"/secrets:rotate", map[string]any{"retire_old": true}); r.text("code") != "secret_unknown" {
			t.Errorf("%s: %s", fault, r)
		}
		w.RAuth.Break(nil)
		r = w.want(200, "root", "GET", path, nil)
		if r.text("secret_state") != "unknown" || r.field("old_secret_until") != nil || r.text("sync") != "in_sync" {
			t.Errorf("%s: it is %s", fault, r)
		}
		if got := w.RAuth.Secrets(id); !slices.Contains(got, second) || slices.Contains(got, first) {
			t.Errorf("%s: what is in use does not work, or what was retired does", fault)
		}
		w.announced(id, "ClientCreated", "ClientSecretRotated", "ClientSecretRetired") // nothing of the unknown one
		if entries := w.want(200, "root", "GET", "/v1/audit?kind=client&object="+id+"&action=client:rotate", nil).items(); fmt.Sprint(entries[0]["after"].(map[string]any)["state"]) != "unknown" {
			t.Errorf("%s: the audit says %v", fault, entries[0])
		}
		// The loop ends nothing meanwhile.
		_, err := w.sql().Exec(ctx, `UPDATE registrations SET next_try = now() - interval '2 days', begun_at = now() - interval '2 days'`)
		w.OK(err)
		if n, err := w.clients.Finish(ctx); n != 0 || err != nil {
			t.Errorf("%s: %d were taken up, %v", fault, n, err)
		}
		r = w.want(200, "root", "POST", path+"/secrets:rotate", nil)
		if got := w.RAuth.Secrets(id); got[0] != r.text("client_secret") || !slices.Contains(got, second) || r.text("secret_state") != "issued" {
			t.Errorf("%s: rotated again: %s", fault, r)
		}
	}
}

// An old secret works until its overlap ends; its users are warned in time.
func TestAnOldSecretEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{loop: true})
	id := w.client("acme", nil)
	r := w.want(200, "root", "POST", "/v1/clients/"+id+"/secrets:rotate", map[string]any{"overlap": "1h"})
	if n := len(w.RAuth.Secrets(id)); n != 2 {
		t.Errorf("%d secrets work", n)
	}
	retires := func(since, in time.Duration) {
		t.Helper()
		_, err := w.sql().Exec(ctx, `UPDATE registrations SET overlap_from = now() - $2::interval, retire_at = now() + $3::interval WHERE client_id = $1`, id, since, in)
		w.OK(err)
	}
	retires(50*time.Minute, 10*time.Minute)
	await.True(w, "its end is announced", func() bool { return slices.Contains(w.events(id), "ClientSecretExpiring") })
	retires(time.Hour, 0)
	await.True(w, "the old one is ended", func() bool { return len(w.RAuth.Secrets(id)) == 1 })
	if got := w.RAuth.Secrets(id); got[0] != r.text("client_secret") {
		t.Error("the wrong one was ended")
	}
	await.True(w, "its retirement is published", func() bool { return slices.Contains(w.events(id), "ClientSecretRetired") })
	w.announced(id, "ClientCreated", "ClientSecretRotated", "ClientSecretExpiring", "ClientSecretRetired")
	for _, wrong := range []string{"tomorrow", "-1s", "721h", "24"} {
		if r := w.want(422, "root", "POST", "/v1/clients/"+id+"/secrets:rotate", map[string]any{"overlap": wrong}); !slices.Equal(r.pointers(), []string{"/overlap"}) {
			t.Errorf("%s: %s", wrong, r)
		}
	}
	public := w.want(201, "root", "POST", "/v1/clients", map[string]any{"client_name": "app", "token_endpoint_auth_method": "none", "redirect_uris": []string{"com.example.app:/cb"}})
	if public.field("client_secret") != nil || public.text("secret_state") != "none" || public.text("type") != "public" || public.field("client_secret_status") != nil {
		t.Errorf("a public client is %s", public)
	}
	if r := w.want(409, "root", "POST", "/v1/clients/"+public.text("client_id")+"/secrets:rotate", nil); r.text("code") != "no_secret" {
		t.Errorf("rotated: %s", r)
	}
}

// A provider that knows no rotation is given another secret, and no overlap.
func TestAProviderWithoutRotation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	target, err := url.Parse(w.RAuth.Issuer)
	w.OK(err)
	old := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/rotate") {
			rw.WriteHeader(http.StatusNotFound)
			return
		}
		httputil.NewSingleHostReverseProxy(target).ServeHTTP(rw, r)
	}))
	t.Cleanup(old.Close)
	provider, err := rauth.New(rauth.Config{URL: old.URL, Pause: time.Millisecond, Log: discard})
	w.OK(err)
	*w.clients = *w.manage(func(c *clients.Config) { c.Provider = provider })
	id := w.client("", nil)
	if r := w.want(422, "root", "POST", "/v1/clients/"+id+"/secrets:rotate", nil); !slices.Equal(r.pointers(), []string{"/overlap"}) {
		t.Errorf("with an overlap: %s", r)
	}
	r := w.want(200, "root", "POST", "/v1/clients/"+id+"/secrets:rotate", map[string]any{"overlap": "0"})
	if got := w.RAuth.Secrets(id); len(got) != 1 || got[0] != r.text("client_secret") || r.field("old_secret_until") != nil {
		t.Errorf("rotated: %s", r)
	}
	w.announced(id, "ClientCreated", "ClientSecretRotated", "ClientSecretRetired")
	if len(w.drift()) != 0 {
		t.Error("they differ")
	}
}

// An old secret is retired when the new one is persisted, and not before: a worker that was
// too slow has locked no client out.
func TestAnOldSecretIsNotEndedForNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	r := w.want(201, "root", "POST", "/v1/clients", service(nil))
	id, first := r.text("client_id"), r.text("client_secret")
	h := w.hook()
	h.rotate = func(ctx context.Context, id string) (iam.Secret, error) {
		secret, err := h.Provider.Rotate(ctx, id)
		// Another worker has abandoned the operation meanwhile.
		w.exec(`UPDATE registrations SET operation = NULL, operation_id = NULL, sync = 'in_sync', secret_state = 'unknown' WHERE client_id = $1`, id)
		return secret, err
	}
	if r = w.want(503, "root", "POST", "/v1/clients/"+id+"/secrets:rotate", map[string]any{"overlap": "0"}); r.text("code") != "secret_unknown" {
		t.Errorf("got %s", r)
	}
	if !slices.Contains(w.RAuth.Secrets(id), first) {
		t.Error("the secret in use does not work any more")
	}
	w.announced(id, "ClientCreated")
}

// A replay reports that a secret was given when it was, also after another was given.
func TestAReplayKnowsWhatWasGiven(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{loop: true})
	later := []string{"Idempotency-Key: a", "Prefer: respond-async"}
	id := w.want(202, "root", "POST", "/v1/clients", service(nil), later...).text("client_id")
	await.True(w, "it is made", func() bool { return w.want(200, "root", "GET", "/v1/clients/"+id, nil).text("sync") == "in_sync" })
	rotate := "/v1/clients/" + id + "/secrets:rotate"
	w.want(200, "root", "POST", rotate, map[string]any{"overlap": "0"}, "Idempotency-Key: b")
	if r := w.want(201, "root", "POST", "/v1/clients", service(nil), later...); r.text("client_secret_status") != "not_issued" {
		t.Errorf("of the first: %s", r)
	}
	await.True(w, "the old secret is ended", func() bool { // by the caller or by the loop
		return w.want(200, "root", "GET", "/v1/clients/"+id, nil).field("operation") == nil
	})
	w.want(200, "root", "POST", rotate, map[string]any{"overlap": "0"})
	if r := w.want(200, "root", "POST", rotate, map[string]any{"overlap": "0"}, "Idempotency-Key: b"); r.text("client_secret_status") != "given" {
		t.Errorf("of the second: %s", r)
	}
}

// Of two concurrent rotations of one version, one is a conflict.
func TestOfTwoConcurrentRotationsOneConflicts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	id := w.client("acme", nil)
	tag := "If-Match: " + w.want(200, "root", "GET", "/v1/clients/"+id, nil).header.Get("ETag")
	w.want(200, "root", "POST", "/v1/clients/"+id+"/secrets:rotate", map[string]any{"overlap": "0"}, tag)
	w.want(412, "root", "POST", "/v1/clients/"+id+"/secrets:rotate", map[string]any{"overlap": "0"}, tag)
	if got := len(w.want(200, "root", "GET", "/v1/clients?type=confidential", nil).items()); got != 1 {
		t.Errorf("%d clients are confidential: those that were not made here are neither", got)
	}
	// Each rotation is audited from its beginning, those of unknown outcome too.
	w.RAuth.Break(func(_, path string) devrauth.Fault {
		if strings.HasSuffix(path, "/rotate") {
			return devrauth.FaultCut
		}
		return ""
	})
	for range 2 {
		w.want(503, "root", "POST", "/v1/clients/"+id+"/secrets:rotate", nil)
	}
	var states []string
	for _, e := range w.want(200, "root", "GET", "/v1/audit?action=client:rotate&object="+id, nil).items() {
		after, _ := e["after"].(map[string]any) // there is one
		states = append(states, fmt.Sprint(after["state"]))
	}
	if strings.Join(states, " ") != "unknown rotating unknown rotating issued rotating" {
		t.Errorf("audited are %q, the newest first", states)
	}
}

// An old secret is ended whatever becomes of the client's way to authenticate, and one
// that cannot be ended holds nothing up.
func TestAReplacedSecretIsRevokedInTheEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	id := w.client("acme", nil)
	path := "/v1/clients/" + id
	w.want(200, "root", "POST", path+"/secrets:rotate", nil)
	keys := map[string]any{"token_endpoint_auth_method": "private_key_jwt", "jwks_uri": "https://app.example.com/keys"}
	if r := w.want(200, "root", "PUT", path, service(keys), "If-Match: *"); r.text("secret_state") != "none" || r.field("old_secret_until") == nil {
		t.Errorf("with keys: %s", r)
	}
	// While it has keys, the provider would refuse to end a secret: it waits.
	w.exec(`UPDATE registrations SET retire_at = now()`)
	if n, err := w.clients.Finish(ctx); n != 0 || err != nil {
		t.Errorf("with keys: %d, %v", n, err)
	}
	if r := w.want(200, "root", "GET", path, nil); r.text("sync") != "in_sync" {
		t.Errorf("with keys: %s", r)
	}
	w.want(200, "root", "PUT", path, service(nil), "If-Match: *")
	h := w.hook()
	h.retire = func(context.Context, string) error {
		return &iam.Error{Kind: iam.Invalid, Code: "idp_refused"}
	}
	w.exec(`UPDATE registrations SET retire_at = now()`)
	n, err := w.clients.Finish(ctx)
	if r := w.want(200, "root", "GET", path, nil); n != 1 || err != nil || r.field("operation") != nil || r.text("sync") != "failed" || r.field("old_secret_until") == nil {
		t.Errorf("%d, %v: %s", n, err, r)
	}
	if n, err = w.clients.Finish(ctx); n != 0 || err != nil {
		t.Errorf("at once again: %d, %v", n, err)
	}
	w.exec(`UPDATE registrations SET next_try = now()`)
	refused := map[string]any{"client_name": "x", "redirect_uris": []string{"https://refuse-me.example.com/"}}
	w.want(422, "root", "PUT", path, refused, "If-Match: *")
	if n, err = w.clients.Finish(ctx); n != 1 || err != nil {
		t.Errorf("after a change that was refused: %d, %v", n, err)
	}
	w.want(200, "root", "PUT", path, service(map[string]any{"client_name": "x"}), "If-Match: *")
	h.retire = nil
	w.exec(`UPDATE registrations SET next_try = now()`)
	if _, err = w.clients.Finish(ctx); err != nil || len(w.RAuth.Secrets(id)) != 1 {
		t.Errorf("%d secrets work, %v", len(w.RAuth.Secrets(id)), err)
	}
}
