package rauth_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"iam-service/internal/clients/rauth"
	"iam-service/internal/iam"
)

// A provider that accepts a deletion and has not done it yet is asked again.
func TestADeletionThatIsOnlyAcceptedIsNotDone(t *testing.T) {
	t.Parallel()
	var deleted atomic.Bool
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodDelete:
			w.WriteHeader(http.StatusAccepted)
		case r.URL.Path == "/admin/clients":
			fmt.Fprint(w, "[]")
		case deleted.Load():
			w.WriteHeader(http.StatusNotFound)
		default:
			fmt.Fprint(w, `{"client_id":"a"}`)
		}
	}))
	t.Cleanup(srv.Close)
	c, err := rauth.New(rauth.Config{URL: srv.URL, Log: slog.New(slog.DiscardHandler), Pause: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(t.Context(), "a"); iam.CodeOf(err) != "idp_bad_response" {
		t.Errorf("it is there: %v", err)
	}
	deleted.Store(true)
	if err := c.Delete(t.Context(), "a"); err != nil {
		t.Errorf("it is gone: %v", err)
	}
}

// What others have set for a client outlasts what we write, and what we want empty does not.
func TestAnUpdateKeepsWhatOthersHaveSet(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	c := p.client(nil)
	r := registration("a")
	r.JWKSURI, r.Audience = "https://app.example.com/keys", []string{"one"}
	r.Metadata = iam.Marks{iam.MarkInstance: "us", iam.MarkVersion: "1"}
	if _, err := c.Create(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	foreign := `"skip_consent":true,"client_credentials_grant_access_token_lifespan":"5m0s","access_token_strategy":"jwt","owner":"billing team","contacts":["a@example.com"],` +
		`"allowed_cors_origins":["https://app.example.com"],"backchannel_logout_uri":"https://app.example.com/out","large":12345678901234567890`
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, p.srv.URL+"/admin/clients/a", strings.NewReader(
		`{"client_name":"by hand","jwks_uri":"https://app.example.com/keys","audience":["one","two"],"metadata":{"iam_instance":"us","cost_center":42,"nested":{"a":[1]}},`+foreign+`}`))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	r.JWKSURI, r.Metadata[iam.MarkVersion] = "", "2"
	if err := c.Update(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	got := p.Provisioned()["a"]
	text, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range strings.Split(foreign, ",") {
		if name, _, _ := strings.Cut(part, ":"); name != `"large"` && !strings.Contains(string(text), part) {
			t.Errorf("%s is lost: %s", part, text)
		}
	}
	marks, _ := got["metadata"].(map[string]any)
	if marks["cost_center"] != 42.0 || marks["nested"] == nil || marks[iam.MarkVersion] != "2" {
		t.Errorf("its metadata are %v", marks)
	}
	if got["jwks_uri"] != nil || got["client_name"] != nil || fmt.Sprint(got["audience"]) != "[one]" {
		t.Errorf("what is ours is %v", got)
	}
	// A client of a version that knew no audience loses none.
	r.Audience = nil
	if err := c.Update(t.Context(), r); err != nil || fmt.Sprint(p.Provisioned()["a"]["audience"]) != "[one]" {
		t.Errorf("%v, %v", p.Provisioned()["a"]["audience"], err)
	}
	there, err := c.Get(t.Context(), "a")
	want := []string{"access_token_strategy", "allowed_cors_origins", "backchannel_logout_uri", "client_credentials_grant_access_token_lifespan", "skip_consent"}
	if err != nil || !slices.Equal(there.Unmanaged, want) {
		t.Errorf("beyond the defaults are %v, %v", there.Unmanaged, err)
	}
	if _, err := c.Create(t.Context(), registration("plain")); err != nil {
		t.Fatal(err)
	}
	if plain, err := c.Get(t.Context(), "plain"); err != nil || len(plain.Unmanaged) != 0 {
		t.Errorf("of a new client: %v, %v", plain.Unmanaged, err)
	}
}

// A page leads to the next one at the same place, and nowhere else.
func TestPagesDoNotLeadElsewhere(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was followed") }))
	t.Cleanup(elsewhere.Close)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/redirect/admin/clients" {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
			return
		}
		w.Header().Set("Link", "<"+elsewhere.URL+`/admin/clients>; rel="next"`)
		fmt.Fprint(w, "[]")
	}))
	t.Cleanup(srv.Close)
	for _, base := range []string{srv.URL, srv.URL + "/redirect"} {
		c, err := rauth.New(rauth.Config{URL: base, Log: slog.New(slog.DiscardHandler), Pause: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		err = c.List(t.Context(), func(iam.Registration) error { return nil })
		if iam.CodeOf(err) != "idp_bad_response" {
			t.Errorf("%s: %v", base, err)
		}
	}
}

// A provider without rotation is distinguished from one that does not know the client.
func TestAProviderWithoutRotationIsRecognized(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusNotFound, http.StatusMethodNotAllowed} {
		var put map[string]any
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case strings.HasSuffix(r.URL.Path, "/rotate"), strings.HasSuffix(r.URL.Path, "/gone"):
				w.WriteHeader(status)
			case r.Method == http.MethodPut:
				_ = json.NewDecoder(r.Body).Decode(&put)
				fallthrough
			default:
				fmt.Fprint(w, `{"client_id":"a"}`)
			}
		}))
		t.Cleanup(srv.Close)
		c, err := rauth.New(rauth.Config{URL: srv.URL, Log: slog.New(slog.DiscardHandler), Pause: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Rotate(t.Context(), "a"); iam.CodeOf(err) != iam.CodeCannotRotate {
			t.Errorf("%d: %v", status, err)
		}
		if _, err := c.Rotate(t.Context(), "gone"); iam.CodeOf(err) == iam.CodeCannotRotate {
			t.Errorf("%d: %v", status, err)
		}
		if err := c.SetSecret(t.Context(), registration("a"), "ours"); err != nil || put["client_secret"] != "ours" {
			t.Errorf("%v, put %v", err, put)
		}
	}
}

// An id is one segment of a path, whatever it holds.
func TestAnIDLeadsNowhereElse(t *testing.T) {
	t.Parallel()
	var asked []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.EscapedPath())
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(srv.Close)
	c, err := rauth.New(rauth.Config{URL: srv.URL, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"", ".", "..", "x/../../keys/jwt"} {
		_ = c.Delete(t.Context(), id)
	}
	if len(asked) != 1 || asked[0] != "/admin/clients/x%2F..%2F..%2Fkeys%2Fjwt" {
		t.Errorf("asked for %q", asked)
	}
}
