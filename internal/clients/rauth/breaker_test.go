package rauth_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"iam-service/internal/clients/rauth"
	"iam-service/internal/dev/await"
	"iam-service/internal/dev/devrauth"
	"iam-service/internal/iam"
)

// An outage costs little: after some failures no call is made, for a time.
func TestTheBreakerOpensAndCloses(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	c := p.client(func(cfg *rauth.Config) { cfg.Open = 2 * time.Second })
	p.Break(func(string, string) devrauth.Fault { return devrauth.Fault500 })
	for range 10 {
		if _, err := c.Get(t.Context(), "a"); iam.KindOf(err) != iam.Unavailable {
			t.Fatal(err)
		}
	}
	p.mu.Lock()
	asked := p.calls["GET"]
	p.mu.Unlock()
	if asked != 10 || p.counted("get circuit_open") != 5 { // each failure asks for the list too
		t.Errorf("asked %d times, counted %v", asked, p.errors)
	}
	p.Break(nil)
	await.True(t, "it closes", func() bool {
		_, err := c.Get(t.Context(), "a")
		return iam.KindOf(err) == iam.NotFound
	})
	// What is not there, or refused, opens nothing.
	for range 20 {
		if _, err := c.Get(t.Context(), "a"); iam.KindOf(err) != iam.NotFound {
			t.Fatal(err)
		}
	}
}

// What fails for one client, however often, opens no breaker for others; an old secret that
// cannot be ended is such a thing.
func TestOneClientOpensNoBreaker(t *testing.T) {
	t.Parallel()
	for _, fault := range []devrauth.Fault{devrauth.Fault500, devrauth.FaultSlow} {
		p := newProvider(t)
		c := p.client(func(cfg *rauth.Config) {
			cfg.Open = time.Hour
			if fault == devrauth.FaultSlow {
				cfg.Timeout = devrauth.SlowFor / 3
			}
		})
		for _, id := range []string{"stuck", "other"} {
			if _, err := c.Create(t.Context(), registration(id)); err != nil {
				t.Fatal(err)
			}
		}
		p.Break(func(_, path string) devrauth.Fault {
			if strings.Contains(path, "stuck") {
				return fault
			}
			return ""
		})
		for range 6 {
			if err := c.Retire(t.Context(), "stuck"); iam.KindOf(err) != iam.Unavailable || iam.CodeOf(err) == "idp_circuit_open" {
				t.Fatalf("%s: %v", fault, err)
			}
		}
		if err := c.Update(t.Context(), registration("other")); err != nil {
			t.Errorf("%s: another client: %v", fault, err)
		}
	}
}

// A 404 of a misconfigured URL is not trusted: nothing is deleted there, nothing is missing, and
// each call counts and logs that the response is invalid.
func TestResponsesOfAMisconfiguredAdminURLAreNotTrusted(t *testing.T) {
	t.Parallel()
	for name, wrong := range map[string]http.HandlerFunc{
		"404": func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) },
		"200": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>welcome</html>") },
		"400": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "plain HTTP was sent to an HTTPS port", http.StatusBadRequest)
		},
		"an object": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"client_id":"another"}`) },
	} {
		p := newProvider(t)
		if _, err := p.client(nil).Create(t.Context(), registration("a")); err != nil {
			t.Fatal(err)
		}
		elsewhere := httptest.NewServer(wrong)
		t.Cleanup(elsewhere.Close)
		for operation, call := range map[string]func(*rauth.Client) error{
			"create": func(c *rauth.Client) error { _, err := c.Create(t.Context(), registration("a")); return err },
			"get":    func(c *rauth.Client) error { _, err := c.Get(t.Context(), "a"); return err },
			"update": func(c *rauth.Client) error { return c.Update(t.Context(), registration("a")) },
			"delete": func(c *rauth.Client) error { return c.Delete(t.Context(), "a") },
			"rotate": func(c *rauth.Client) error { _, err := c.Rotate(t.Context(), "a"); return err },
			"retire": func(c *rauth.Client) error { return c.Retire(t.Context(), "a") },
			"list":   func(c *rauth.Client) error { return c.List(t.Context(), func(iam.Registration) error { return nil }) },
		} {
			if operation == "retire" && name == "an object" {
				continue // a success that says something
			}
			clear(p.errors)
			p.log.Reset()
			err := call(p.client(func(cfg *rauth.Config) { cfg.URL = elsewhere.URL }))
			counted := p.counted(operation + " bad_response")
			if operation == "delete" && name != "404" && name != "400" { // it was not refused: it is looked for
				counted += p.counted("get bad_response")
			}
			if iam.KindOf(err) != iam.Unavailable || iam.CodeOf(err) != "idp_bad_response" || counted != 1 || !strings.Contains(p.log.String(), "client in upstream IdP") {
				t.Errorf("%s: %s: %v, counted %v, log %s", name, operation, err, p.errors, &p.log)
			}
		}
		if p.Provisioned()["a"] == nil {
			t.Errorf("%s: the client is gone", name)
		}
	}
}
