package rauth_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"iam-service/internal/clients/rauth"
	"iam-service/internal/dev/devrauth"
	"iam-service/internal/iam"
)

// Each failure counts under its reason, and says whether it may have been done.
func TestEachFailureHasItsReason(t *testing.T) {
	t.Parallel()
	for fault, c := range map[devrauth.Fault]struct {
		reason  string
		unknown bool // for a rotation, which is never repeated
	}{
		devrauth.Fault500: {"server_error", true}, devrauth.Fault503: {"server_error", true}, devrauth.Fault429: {"rate_limited", false},
		devrauth.FaultCut: {"connection", true}, devrauth.FaultCutDone: {"connection", true}, devrauth.FaultSlow: {"timeout", true},
	} {
		p := newProvider(t)
		client := p.client(func(cfg *rauth.Config) {
			if fault == devrauth.FaultSlow {
				cfg.Timeout = devrauth.SlowFor / 3
			}
		})
		if _, err := p.client(nil).Create(t.Context(), registration("a")); err != nil {
			t.Fatal(err)
		}
		p.Break(func(string, string) devrauth.Fault { return fault })
		_, err := client.Rotate(t.Context(), "a")
		if iam.KindOf(err) != iam.Unavailable || errors.Is(err, iam.ErrOutcomeUnknown) != c.unknown || p.counted("rotate "+c.reason) != 1 {
			t.Errorf("%s: %v, counted %v", fault, err, p.errors)
		}
		if err := client.Update(t.Context(), registration("a")); errors.Is(err, iam.ErrOutcomeUnknown) || p.counted("update "+c.reason) != 1 {
			t.Errorf("%s: an update that could not read: %v, counted %v", fault, err, p.errors)
		}
		p.Break(func(method, _ string) devrauth.Fault {
			if method == http.MethodGet {
				return ""
			}
			return fault
		})
		if err := client.Update(t.Context(), registration("a")); !errors.Is(err, iam.ErrOutcomeUnknown) || p.counted("update "+c.reason) != 2 {
			t.Errorf("%s: update: %v, counted %v", fault, err, p.errors)
		}
		if !strings.Contains(p.log.String(), "failed to update client in upstream IdP") {
			t.Errorf("%s: the log says %s", fault, &p.log)
		}
	}
	// No server listens: nothing was done.
	p := newProvider(t)
	client := p.client(nil)
	p.srv.Close()
	if _, err := client.Rotate(t.Context(), "a"); iam.KindOf(err) != iam.Unavailable || errors.Is(err, iam.ErrOutcomeUnknown) || p.counted("rotate connection") != 1 {
		t.Errorf("refused: %v, counted %v", err, p.errors)
	}
}

// A refusal for good names the field that it is about, as the provider names it, and the
// log has why, however late the provider comes to it.
func TestARejectionNamesItsField(t *testing.T) {
	t.Parallel()
	const hydra = "The value of one of the Client Metadata fields is invalid and the server has rejected this request. Note that an Authorization Server MAY choose to substitute a valid value for any requested parameter of a Client's Metadata. "
	var status int
	var body string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	t.Cleanup(srv.Close)
	for _, x := range []struct{ code, why, field string }{
		{"invalid_redirect_uri", "not this one", "/redirect_uris"},
		{"invalid_client_metadata", `post_logout_redirect_uri "https://app.example.com/` + strings.Repeat("x", 200) + `" must match the domain, port, scheme of at least one of the registered redirect URIs but did not`, "/post_logout_redirect_uris"},
		{"invalid_client_metadata", "Fields jwks and jwks_uri can not both be set, you must choose one.", "/jwks_uri"},
		{"invalid_client_metadata", "the audience is not known", "/audience"},
		{"invalid_client_metadata", "scope beyond what this server has", "/scopes"},
	} {
		for _, form := range []string{
			fmt.Sprintf(`{"error":%q,"error_description":%q}`, x.code, hydra+x.why),
			fmt.Sprintf(`{"error":{"code":400,"status":%q,"message":%q,"reason":%q}}`, x.code, hydra, x.why),
		} {
			status, body = http.StatusBadRequest, form
			var log bytes.Buffer
			c, err := rauth.New(rauth.Config{URL: srv.URL, Log: slog.New(slog.NewJSONHandler(&log, nil)), Pause: time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.Create(t.Context(), registration("a"))
			e, ok := errors.AsType[*iam.Error](err)
			if !ok || e.Kind != iam.Invalid || len(e.Fields) != 1 || e.Fields[0].Pointer != x.field || strings.Contains(e.Detail, x.why) {
				t.Errorf("%s: got %v", x.why, err)
			}
			if end := x.why[len(x.why)-10:]; !strings.Contains(log.String(), end) {
				t.Errorf("the log lacks %q: %s", end, &log)
			}
		}
	}
}

// Of a response only the error code and description are logged: the rest could be a
// secret.
func TestProviderResponsesAreNotLogged(t *testing.T) {
	t.Parallel()
	for _, status := range []int{200, 201, 202, 400, 500} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			fmt.Fprint(w, `{"client_id":"a","client_secret":"hush","error":"some_error"`)
			if status != 201 && status != 200 {
				fmt.Fprint(w, "}")
			}
		}))
		t.Cleanup(srv.Close)
		var log bytes.Buffer
		c, err := rauth.New(rauth.Config{URL: srv.URL, Log: slog.New(slog.NewTextHandler(&log, nil)), Pause: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		_, err1 := c.Create(t.Context(), registration("a"))
		_, err2 := c.Rotate(t.Context(), "a")
		if err1 == nil && err2 == nil || strings.Contains(fmt.Sprint(err1, err2, &log), "hush") {
			t.Errorf("%d: %v, %v, log %s", status, err1, err2, &log)
		}
	}
}

// Words that repeat the secret that was set are not logged as they are.
func TestAProviderThatRepeatsASecretIsNotRepeated(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var got struct {
			Secret string `json:"client_secret"`
		}
		_ = json.NewDecoder(r.Body).Decode(&got)
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"error":"invalid_client_metadata","error_description":"client_secret %s is too weak"}`, got.Secret)
	}))
	t.Cleanup(srv.Close)
	var log bytes.Buffer
	c, err := rauth.New(rauth.Config{URL: srv.URL, Log: slog.New(slog.NewTextHandler(&log, nil)), Pause: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	err = c.SetSecret(t.Context(), registration("a"), "hush-hush")
	if said := fmt.Sprint(err) + log.String(); strings.Contains(said, "hush") || !strings.Contains(said, "too weak") {
		t.Errorf("said is %s", said)
	}
}

func TestASecretIsNotPrinted(t *testing.T) {
	t.Parallel()
	s := iam.Secret("hush")
	var b bytes.Buffer
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "secret", s)
	if said := fmt.Sprint(s) + fmt.Sprintf("%v %s", s, s) + b.String(); strings.Contains(said, "hush") {
		t.Error(said)
	}
}
