package adminapi_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"iam-service/internal/dev/await"
	"iam-service/internal/iam"
)

// operations are the operations of a client as an auditor sees them, each as text: its status and its steps.
func (w *adminWorld) operations(id string) (list []map[string]any, shapes []string) {
	w.Helper()
	list = w.want(200, "audrey", "GET", "/v1/clients/"+id+"/operations", nil).items()
	for _, o := range list {
		shape := fmt.Sprint(o["operation"], " ", o["status"])
		steps, _ := o["steps"].([]any)
		for _, s := range steps {
			s, _ := s.(map[string]any)
			shape += fmt.Sprint(" ", s["step"], ":", s["status"])
		}
		shapes = append(shapes, shape)
	}
	return list, shapes
}

// The steps of a change can be followed: written, sent, confirmed, with what went wrong in between.
func TestTheStepsOfAClientsChangeAreShown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	h := w.hook()
	id := w.client("acme", nil)
	want := func(what string, shapes ...string) []map[string]any {
		t.Helper()
		list, got := w.operations(id)
		if !slices.Equal(got, shapes) {
			t.Errorf("%s: got %q, want %q", what, got, shapes)
		}
		return list
	}
	const created = "create confirmed written:done sent:done confirmed:done"
	want("created", created)

	// The provider does not answer.
	h.update = func(context.Context, iam.Registration) error {
		return &iam.Error{Kind: iam.Unavailable, Code: "idp_timeout", Detail: "a secret of the provider's", Cause: errors.New("another secret")}
	}
	path := "/v1/clients/" + id
	w.want(202, "root", "PUT", path, service(map[string]any{"client_name": "renamed"}), "If-Match: *")
	o := want("postponed", "update pending written:done sent:failed confirmed:waiting", created)[0]
	failure, _ := o["error"].(map[string]any)
	next, err := time.Parse(time.RFC3339, fmt.Sprint(o["next_try"]))
	if err != nil || time.Until(next) > time.Minute || o["failures"] != 1.0 || o["running"] != false || failure["code"] != "idp_timeout" ||
		failure["detail"] != "the identity provider did not respond in time" || failure["at"] == nil {
		t.Errorf("%v", o)
	}
	// Written and not yet sent.
	other := w.client("acme", nil)
	w.want(202, "root", "PUT", "/v1/clients/"+other, service(map[string]any{"client_name": "later"}), "If-Match: *", "Prefer: respond-async")
	if _, got := w.operations(other); got[0] != "update pending written:done sent:waiting confirmed:waiting" {
		t.Errorf("%q", got)
	}

	// A replica works on it.
	working, done := make(chan struct{}), make(chan struct{})
	h.update = func(ctx context.Context, r iam.Registration) error {
		if r.ClientID == id {
			working <- struct{}{}
			<-done
		}
		return h.Provider.Update(ctx, r)
	}
	w.exec(`UPDATE registrations SET next_try = now() WHERE client_id = $1`, id)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		_, err := w.clients.Finish(ctx)
		if err != nil {
			t.Error(err)
		}
	}()
	<-working
	if o := want("running", "update pending written:done sent:running confirmed:waiting", created)[0]; o["running"] != true || o["next_try"] != nil {
		t.Errorf("%v", o)
	}
	close(done)
	<-finished
	if o := want("confirmed", "update confirmed written:done sent:done confirmed:done")[0]; o["failures"] != 1.0 || o["error"] != nil || o["ended_at"] == nil {
		t.Errorf("%v", o)
	}

	// Rejected in the background.
	h.update = nil
	refused := map[string]any{"client_name": "site", "redirect_uris": []string{"https://refuse-me.example.com/"}}
	w.want(202, "root", "PUT", path, refused, "If-Match: *", "Prefer: respond-async")
	await.True(w, "it is refused", func() bool {
		_, err := w.clients.Finish(ctx)
		w.OK(err)
		return w.want(200, "root", "GET", path, nil).text("sync") == "failed"
	})
	failure, _ = want("refused", "update failed written:done sent:failed confirmed:omitted")[0]["error"].(map[string]any)
	if failure["code"] != "idp_refused" || failure["field"] != "/redirect_uris" || failure["detail"] != "the identity provider rejects this client, because of /redirect_uris" {
		t.Errorf("%v", failure)
	}

	// A deletion takes the place of what was pending.
	w.want(202, "root", "PUT", path, service(map[string]any{"client_name": "again"}), "If-Match: *", "Prefer: respond-async")
	w.want(202, "root", "DELETE", path, nil, "Prefer: respond-async")
	want("replaced", "delete pending written:done sent:waiting confirmed:waiting", "update replaced written:done sent:omitted confirmed:omitted")
}

// A rotation without an outcome is no confirmed one, and no secret is in any of it.
func TestTheStepsOfARotationShowNoSecret(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	h := w.hook()
	id := w.client("acme", nil)
	h.rotate = func(context.Context, string) (iam.Secret, error) {
		return "", fmt.Errorf("hidden-secret: %w", iam.ErrOutcomeUnknown)
	}
	w.want(503, "root", "POST", "/v1/clients/"+id+"/secrets:rotate", nil)
	list, shapes := w.operations(id)
	if shapes[0] != "rotate failed written:done sent:failed confirmed:omitted" || strings.Contains(fmt.Sprint(list), "hidden-secret") {
		t.Errorf("%q: %v", shapes, list)
	}
	failure, _ := list[0]["error"].(map[string]any)
	if failure["code"] != "failed" || failure["detail"] != "the operation failed: the log has the reason" {
		t.Errorf("%v", failure)
	}
	h.rotate = nil
	r := w.want(200, "root", "POST", "/v1/clients/"+id+"/secrets:rotate", map[string]any{"overlap": "0"})
	all := w.want(200, "tina", "GET", "/v1/clients/"+id+"/operations", nil)
	if secret := r.text("client_secret"); secret == "" || bytes.Contains(all.body, []byte(secret)) {
		t.Errorf("%s", all)
	}
}

// A difference shows what is wanted here, what was confirmed and what is there, field by field.
func TestDriftShowsTheThreeStatesOfEachField(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	key := func(x string) map[string]any {
		return map[string]any{"keys": []any{map[string]any{"kid": "k1", "kty": "EC", "crv": "P-256", "x": x, "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}}}
	}
	id := w.client("acme", map[string]any{
		"token_endpoint_auth_method": "private_key_jwt", "scopes": []string{"document:read"}, "jwks": key("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"),
	})
	there := w.there()
	got, err := there.Get(ctx, id)
	w.OK(err)
	got.ClientName, got.Scope = "renamed by hand", "document:read document:write"
	got.JWKS = []byte(`{"keys": [{"kty": "oct", "kid": "theirs", "k": "c2VjcmV0LW9mLXRoZWlycw"}, {"kty": "EC", "crv": "P-256", "kid": "private",
		"x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0", "d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"}]}`)
	w.OK(there.Update(ctx, got))

	d := w.drift()[id]
	values := map[string]map[string]any{}
	list, _ := d["values"].([]any)
	for _, v := range list {
		v, _ := v.(map[string]any)
		values[fmt.Sprint(v["field"])] = v
	}
	for field, want := range map[string][3]string{
		"client_name": {"[billing]", "[billing]", "[renamed by hand]"},
		"scope":       {"[document:read]", "[document:read]", "[document:read document:write]"},
		"jwks": {
			"[k1 oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U]", "[k1 oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U]", "[private (not public) theirs (not public)]",
		},
	} {
		v := values[field]
		if fmt.Sprint(v["desired"]) != want[0] || fmt.Sprint(v["confirmed"]) != want[1] || fmt.Sprint(v["provider"]) != want[2] || v["winner"] != "iam-service" {
			t.Errorf("%s: got %v", field, v)
		}
	}
	if text := fmt.Sprint(d); len(values) != 3 || strings.Contains(text, "c2VjcmV0") || strings.Contains(text, "jpsQnnGQ") {
		t.Errorf("%v", d)
	}

	// What was never confirmed is not known.
	w.exec(`UPDATE registrations SET applied = NULL WHERE client_id = $1`, id)
	list, _ = w.drift()[id]["values"].([]any)
	if first, _ := list[0].(map[string]any); first["confirmed"] != nil || first["provider"] == nil {
		t.Errorf("%v", list)
	}
}
