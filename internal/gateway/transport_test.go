package gateway_test

import (
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
	"time"

	"iam-service/internal/dev/await"
	"iam-service/internal/dev/world"
	"iam-service/internal/gateway"
)

func TestOnlyAGatewayThatSendsTheSecretGetsADecision(t *testing.T) {
	t.Parallel()
	const old, current = "an old secret of thirty-two chars", "a new secret of thirty-two chars."
	w := world.New(t, world.Settings{Secrets: [][]byte{[]byte(old), []byte(current)}})
	alice := world.Bearer(w.Mint("alice", nil))
	for name, c := range map[string]struct {
		lines []string
		want  int
		code  string
	}{
		"the secret":                   {lines: []string{alice, "X-Gateway-Secret: " + current}, want: 200},
		"the one before it":            {lines: []string{alice, "X-Gateway-Secret: " + old}, want: 200},
		"no secret":                    {lines: []string{alice}, want: 403, code: "gateway_not_authenticated"},
		"an empty one":                 {lines: []string{alice, "X-Gateway-Secret: "}, want: 403, code: "gateway_not_authenticated"},
		"another":                      {lines: []string{alice, "X-Gateway-Secret: " + strings.ToUpper(current)}, want: 403, code: "gateway_not_authenticated"},
		"the beginning of it":          {lines: []string{alice, "X-Gateway-Secret: " + current[:31]}, want: 403, code: "gateway_not_authenticated"},
		"both in one":                  {lines: []string{alice, "X-Gateway-Secret: " + old + "," + current}, want: 403, code: "gateway_not_authenticated"},
		"a guess next to it":           {lines: []string{alice, "X-Gateway-Secret: " + current, "X-Gateway-Secret: guess"}, want: 403, code: "gateway_not_authenticated"},
		"no secret and a bad token":    {lines: []string{"Authorization: Bearer bad"}, want: 403, code: "gateway_not_authenticated"},
		"no secret and two hints":      {lines: []string{alice, "X-Active-Tenant-ID: a", "X-Active-Tenant-ID: b"}, want: 403, code: "gateway_not_authenticated"},
		"the secret and a bad token":   {lines: []string{"Authorization: Bearer bad", "X-Gateway-Secret: " + current}, want: 401},
		"the secret, malformed bearer": {lines: []string{alice, alice, "X-Gateway-Secret: " + current}, want: 403, code: "malformed_request"},
	} {
		status, lines, body := w.Ask(world.Get, c.lines...)
		if status != c.want || !strings.Contains(body, c.code) {
			t.Errorf("%s: %d %s, want %d %s", name, status, body, c.want, c.code)
		}
		if strings.Contains(strings.Join(lines, "\n")+body, "secret of thirty") {
			t.Errorf("%s: the response has the secret", name)
		}
	}
	if status, _, _ := w.Ask("GET /v1/me/tenants", alice); status != 200 {
		t.Errorf("a user's own tenants need no gateway: %d", status)
	}
	if got := w.Metric("iam_gateway_unauthenticated_total"); got != 8 {
		t.Errorf("%v requests without the secret are counted", got)
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
	for _, line := range []string{"GET /system/ext-authz/a", "HEAD /system/ext-authz/a"} {
		status, got, _ := caching.Ask(line, alice)
		if cache, vary := maxAge(got); status != 200 || cache != "no-store" || vary != "" {
			t.Errorf("%s: a cache would answer HEAD with what it has of GET: %d %s %s", line, status, cache, vary)
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

// A body that is not read costs a connection of HTTP/1.1, and not the one that all requests of HTTP/2 share.
func TestABodyEndsNoConnectionOfHTTP2(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{})
	for name, c := range map[string]struct {
		http2  bool
		reused []bool
	}{
		"HTTP/1.1": {http2: false, reused: []bool{false, false, false}},
		"HTTP/2":   {http2: true, reused: []bool{false, true, true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			transport := &http.Transport{Protocols: new(http.Protocols)}
			transport.Protocols.SetHTTP1(!c.http2)
			transport.Protocols.SetUnencryptedHTTP2(c.http2)
			t.Cleanup(transport.CloseIdleConnections)
			for i, reused := range c.reused {
				var got httptrace.GotConnInfo
				ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { got = info }})
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL+gateway.EnrichPath, strings.NewReader(strings.Repeat("x", 100_000)))
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Authorization", "Bearer "+w.Mint("alice", nil))
				resp, err := transport.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
				if resp.StatusCode != http.StatusOK || got.Reused != reused {
					t.Errorf("request %d: %d, on a connection that is reused: %v", i, resp.StatusCode, got.Reused)
				}
			}
		})
	}
}
