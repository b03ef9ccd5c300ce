package adminapi_test

import (
	"strings"
	"testing"
	"time"

	"iam-service/internal/dev/world"
	"iam-service/internal/iam"
)

// An issuer whose clock is ahead by what is tolerated dates a token after a revocation that came
// after it. This replica has never seen such a token while its iat was ahead.
func TestATokenOfAFastIssuerDoesNotOutliveARevocation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	const id = "3f6f0c1e-6f0a-4c59-9a8e-0d6a5f1b2c3d"
	revoked := time.Now().Add(-10 * time.Second)
	for _, subject := range []string{"root", "alice"} {
		user, _, err := w.DB.User(ctx, w.RAuth.Issuer, subject)
		w.OK(err)
		user.TokensNotBefore = revoked
		_, err = w.DB.PutUser(ctx, user.User)
		w.OK(err)
	}
	w.OK(w.DB.PutClient(ctx, iam.Client{Issuer: w.RAuth.Issuer, ClientID: id, Tenant: "acme", Status: iam.ClientActive, TokensNotBefore: revoked}))
	mint := func(subject, client, audience string, after time.Duration) string {
		claims := map[string]any{"aud": audience, "iat": revoked.Add(after).Unix()}
		if client != "" {
			claims["client_id"] = client
		}
		return w.Mint(subject, claims)
	}
	enrich := func(subject, client string) func(time.Duration) int {
		return func(after time.Duration) int {
			status, _, _ := w.Ask(world.Get, world.Bearer(mint(subject, client, "iam-gateway", after)))
			return status
		}
	}
	for name, ask := range map[string]func(time.Duration) int{
		"a person":                  enrich("alice", ""),
		"a person through a client": enrich("tina", id),
		"a program":                 enrich(id, id),
		"a list of own tenants": func(after time.Duration) int {
			status, _, _ := w.Ask("GET /v1/me/tenants", world.Bearer(mint("alice", "", "iam-gateway", after)))
			return status
		},
		"an administrator": func(after time.Duration) int {
			return w.call(mint("root", "", "iam-admin", after), "GET", "/v1/tenants", nil).status
		},
		"an administrator through a client": func(after time.Duration) int {
			return w.call(mint("tina", id, "iam-admin", after), "GET", "/v1/tenants/acme", nil).status
		},
	} {
		for _, c := range []struct {
			after time.Duration
			want  int
		}{{4 * time.Second, 401}, {7 * time.Second, 200}, {4 * time.Second, 401}} { // the last one finds a cached decision
			if got := ask(c.after); got != c.want {
				t.Errorf("%s, issued %s after the revocation: %d, want %d", name, c.after, got, c.want)
			}
		}
	}
}

// Plant a token and see whether anything tells it.
func TestNoTokenIsLogged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	good, expired := w.Mint("alice", map[string]any{"email": "alice@example.com", "birth": "planted-birth"}), w.Mint("alice", map[string]any{"exp": 1})
	for _, raw := range []string{good, expired, "planted-opaque-token", good + "x"} {
		w.Ask(world.Get, world.Bearer(raw))
		w.Ask("GET /v1/me/tenants", world.Bearer(raw))
	}
	for _, broken := range []string{`{"allow": time.parse_rfc3339_ns(input.token.birth) > 0}`, "true"} {
		w.Load(world.Policy{Rego: "package iam.claims\n\ndecision := " + broken + "\n"})
		w.Ask(world.Get, world.Bearer(good))
	}
	w.call("root", "GET", "/v1/tenants/"+good, nil)
	logs := w.Logs.String()
	if !strings.Contains(logs, "p.rego:3: eval_builtin_error: time.parse_rfc3339_ns") {
		t.Error("the log does not say what is wrong with the policy")
	}
	for _, secret := range []string{good, expired, "planted-opaque-token", "planted-birth", strings.Split(good, ".")[1], strings.Split(good, ".")[2], "alice@example.com"} {
		if strings.Contains(logs, secret) {
			t.Errorf("the log tells %.30s…", secret)
		}
	}
}
