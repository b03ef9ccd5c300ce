package gateway_test

import (
	"strings"
	"testing"
	"time"

	"iam-service/internal/dev/await"
	"iam-service/internal/dev/world"
)

func TestOnlyAGatewayThatSendsTheSecretGetsADecision(t *testing.T) {
	t.Parallel()
	const old, current = "an old secret of thirty-two chars", "a new secret of thirty-two chars."
	w := world.New(t, world.Settings{Secrets: [][]byte{[]byte(old), []byte(current)}})
	alice := world.Bearer(w.Mint("alice", nil))
	for name, c := range map[string]struct {
		lines []string
		want  int
	}{
		"the secret":                   {[]string{alice, "X-Gateway-Secret: " + current}, 200},
		"the one before it":            {[]string{alice, "X-Gateway-Secret: " + old}, 200},
		"no secret":                    {[]string{alice}, 403},
		"an empty one":                 {[]string{alice, "X-Gateway-Secret: "}, 403},
		"another":                      {[]string{alice, "X-Gateway-Secret: " + strings.ToUpper(current)}, 403},
		"the beginning of it":          {[]string{alice, "X-Gateway-Secret: " + current[:31]}, 403},
		"both in one":                  {[]string{alice, "X-Gateway-Secret: " + old + "," + current}, 403},
		"a guess beside it":            {[]string{alice, "X-Gateway-Secret: " + current, "X-Gateway-Secret: guess"}, 403},
		"no secret and a bad token":    {[]string{"Authorization: Bearer bad"}, 403},
		"no secret and two hints":      {[]string{alice, "X-Active-Tenant-ID: a", "X-Active-Tenant-ID: b"}, 403},
		"the secret and a bad token":   {[]string{"Authorization: Bearer bad", "X-Gateway-Secret: " + current}, 401},
		"the secret, malformed bearer": {[]string{alice, alice, "X-Gateway-Secret: " + current}, 403},
	} {
		status, lines, body := w.Ask(world.Get, c.lines...)
		if status != c.want || status == 403 && !strings.Contains(body, "gateway_not_authenticated") && !strings.Contains(body, "malformed_request") {
			t.Errorf("%s: %d %s, want %d", name, status, body, c.want)
		}
		if strings.HasPrefix(name, "no secret") && !strings.Contains(body, "gateway_not_authenticated") {
			t.Errorf("%s: %s", name, body)
		}
		if strings.Contains(strings.Join(lines, "\n")+body, "secret of thirty") {
			t.Errorf("%s: the response has the secret", name)
		}
	}
	if status, _, _ := w.Ask("GET /v1/me/tenants", alice); status != 200 {
		t.Errorf("a user's own tenants need no gateway: %d", status)
	}
	await.True(t, "one line for the peer", func() bool { return strings.Count(w.Logs.String(), `"msg":"gateway not authenticated"`) == 1 })
	if strings.Contains(w.Logs.String(), "secret of thirty") {
		t.Error("the log has the secret")
	}
}

// maxAge is what a 200 says about caches.
func maxAge(lines []string) (cacheControl, vary string) {
	for _, l := range lines {
		if v, ok := strings.CutPrefix(l, "Cache-Control: "); ok {
			cacheControl = v
		}
		if v, ok := strings.CutPrefix(l, "Vary: "); ok {
			vary = v
		}
	}
	return cacheControl, vary
}

func TestAGatewayMayCacheA200WhileItHolds(t *testing.T) {
	t.Parallel()
	usual, caching := world.New(t, world.Settings{}), world.New(t, world.Settings{MaxAge: 5 * time.Second})
	ask := func(w *world.World, lines ...string) (int, string, string) {
		status, got, _ := w.Ask(world.Get, lines...)
		cache, vary := maxAge(got)
		return status, cache, vary
	}
	if status, cache, vary := ask(usual, world.Bearer(usual.Mint("alice", nil))); status != 200 || cache != "no-store" || vary != "" {
		t.Errorf("off: %d %s %s", status, cache, vary)
	}
	alice := world.Bearer(caching.Mint("alice", nil))
	for _, try := range []string{"evaluated", "cached"} {
		status, cache, vary := ask(caching, alice)
		if status != 200 || cache != "private, max-age=5" || !strings.Contains(vary, "Authorization") || !strings.Contains(vary, "X-Active-Tenant-ID") || !strings.Contains(vary, "X-Original-URL") {
			t.Errorf("%s: %d %s %s", try, status, cache, vary)
		}
	}
	for name, lines := range map[string][]string{
		"without a token": nil, "with a bad one": {"Authorization: Bearer bad"}, "no member": {world.Bearer(caching.Mint("bob", nil)), "X-Active-Tenant-ID: acme"},
		"malformed": {alice, "X-Active-Tenant-ID: a b"},
	} {
		if status, cache, vary := ask(caching, lines...); status == 200 || cache != "no-store" || vary != "" {
			t.Errorf("%s: %d %s %s", name, status, cache, vary)
		}
	}
	soon := world.Bearer(caching.Mint("alice", map[string]any{"exp": time.Now().Add(3 * time.Second).Unix()}))
	for range 2 {
		if status, cache, _ := ask(caching, soon); status == 200 && cache != "private, max-age=1" && cache != "private, max-age=2" && cache != "no-store" {
			t.Errorf("a token that ends: %s", cache)
		}
	}
	caching.Load(world.Policy{Rego: "package iam.claims\n\ndecision := {\"allow\": true, \"tenant\": \"\", \"ttl\": 0, \"headers\": {\"X-User-ID\": json.marshal(input.now)}}\n"})
	if status, cache, _ := ask(caching, alice); status != 200 || cache != "no-store" && cache != "private, max-age=1" {
		t.Errorf("a policy that reads the clock: %d %s", status, cache)
	}
}
