package gateway_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"iam-service/internal/dev/await"
	"iam-service/internal/dev/pgtest"
	"iam-service/internal/dev/world"
	"iam-service/internal/directory"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

func TestACallerSeesItsOwnIdentityAndTenants(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{})
	for name, c := range map[string]struct {
		user, hint string
		more       map[string]any
		status     int
		want       map[string]string // of a 200
		code       string            // of a deny, in the log
	}{
		"her default tenant":               {user: "alice", status: 200, want: map[string]string{"X-Tenant-ID": "acme", "X-User-Roles": "editor,viewer", "X-Principal-Type": "user", "X-User-Subject": "alice"}},
		"her other tenant":                 {user: "alice", hint: "globex", status: 200, want: map[string]string{"X-Tenant-ID": "globex", "X-Active-Tenant-ID": "globex", "X-User-Roles": "viewer"}},
		"his only tenant, nested roles":    {user: "bob", status: 200, want: map[string]string{"X-Tenant-ID": "globex", "X-User-Roles": "admin,editor,viewer"}},
		"a role by group":                  {user: "frank", status: 200, want: map[string]string{"X-Tenant-ID": "acme", "X-User-Roles": "auditor,viewer"}},
		"no role without the group":        {user: "frank", more: map[string]any{"groups": nil}, status: 200, want: map[string]string{"X-Tenant-ID": "acme", "X-User-Roles": ""}},
		"not a member":                     {user: "bob", hint: "acme", status: 403, code: "not_a_member"},
		"no such tenant":                   {user: "bob", hint: "nowhere", status: 403, code: "not_a_member"},
		"a member of nothing":              {user: "carol", status: 403, code: "no_active_tenant"},
		"blocked":                          {user: "dave", status: 403, code: "user_blocked"},
		"an expired membership":            {user: "erin", status: 403, code: "no_active_tenant"},
		"an expired membership, asked for": {user: "erin", hint: "acme", status: 403, code: "membership_not_in_force"},
		"a suspended tenant":               {user: "grace", hint: "initech", status: 403, code: "tenant_not_active"},
		"an archived tenant":               {user: "grace", hint: "hooli", status: 403, code: "tenant_not_active"},
		"an unknown user":                  {user: "stranger", status: 403, code: "user_unknown"},
		"case matters":                     {user: "Alice", status: 403, code: "user_unknown"},
		"a hint in capitals":               {user: "alice", hint: "ACME", status: 403},
		"a hint that is no id":             {user: "alice", hint: "acme,globex", status: 403},
		"a program": {user: "3f6f0c1e-6f0a-4c59-9a8e-0d6a5f1b2c3d", more: map[string]any{"client_id": "3f6f0c1e-6f0a-4c59-9a8e-0d6a5f1b2c3d", "scope": "invoices:read s2s:internal"}, status: 200,
			want: map[string]string{"X-Service-ID": "3f6f0c1e-6f0a-4c59-9a8e-0d6a5f1b2c3d", "X-Scopes": "invoices:read", "X-User-ID": "", "X-Tenant-ID": "acme", "X-Principal-Type": "client"}},
		"an unknown program": {user: "evil", more: map[string]any{"client_id": "evil"}, status: 403, code: "client_unknown"},
	} {
		lines := []string{world.Bearer(w.Mint(c.user, c.more))}
		if c.hint != "" {
			lines = append(lines, "X-Active-Tenant-ID: "+c.hint)
		}
		status, got, body := w.Ask(world.Get, lines...)
		if status != c.status {
			t.Errorf("%s: status %d, want %d", name, status, c.status)
			continue
		}
		for h, want := range c.want {
			if v := world.Value(got, h); v != want {
				t.Errorf("%s: %s is %q, want %q", name, h, v, want)
			}
		}
		if _, id, ok := strings.Cut(body, `"instance":"/decisions/`); c.code != "" {
			if !ok {
				t.Errorf("%s: the answer names no decision: %s", name, body)
				continue
			}
			line := regexp.MustCompile(`"decision_id":"` + id[:22] + `".*"codes":\["` + c.code + `"`)
			await.True(t, "the line is logged", func() bool { return line.MatchString(w.Logs.String()) })
		}
		if c.code != "" && strings.Contains(body, c.code) {
			t.Errorf("%s: the answer tells the client why: %s", name, body)
		}
	}
}

func TestTheGatewaysChoiceOfProviderBinds(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{})
	alice := world.Bearer(w.Mint("alice", nil))
	for idp, want := range map[string]int{"rauth": 200, "other": 401, "unknown": 401} {
		if status, _, _ := w.Ask(world.Get, alice, "X-Upstream-IdP-ID: "+idp); status != want {
			t.Errorf("%s: %d", idp, status)
		}
	}
	w = world.New(t, world.Settings{Untrusted: true})
	if status, _, _ := w.Ask(world.Get, world.Bearer(w.Mint("alice", nil)), "X-Upstream-IdP-ID: other"); status != 200 {
		t.Errorf("an untrusted peer's choice was trusted: %d", status)
	}
}

func TestAnonymousRequestsAreDeniedUnlessTheBundleDeclaresThePath(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{Policy: world.Policy{Config: map[string]any{"anonymous": map[string]any{"paths": []any{"/public"}, "preflight": false}}}})
	for path, want := range map[string]int{"/public": 200, "/public/a": 200, "/publicity": 401, "/": 401, "/private": 401, "/public/../private": 401, "/public/%2e%2e/private": 401} {
		status, lines, _ := w.Ask(world.Get, "X-Forwarded-Uri: "+path)
		if status != want {
			t.Errorf("%s: %d, want %d", path, status, want)
		}
		if status != 200 {
			continue
		}
		for name, v := range world.Claims(lines) {
			quiet := v[0] == "" || name == "X-Decision-Id" || name == "X-Policy-Revision"
			if !quiet && (name != "X-Principal-Type" || v[0] != "anonymous") {
				t.Errorf("%s: anonymous carries %s: %s", path, name, v)
			}
		}
		if world.Value(lines, "X-Principal-Type") != "anonymous" {
			t.Errorf("%s: X-Principal-Type is %q", path, world.Value(lines, "X-Principal-Type"))
		}
	}
	if status, _, _ := w.Ask(world.Get, "X-Forwarded-Uri: /public", world.Bearer("nonsense")); status != 401 {
		t.Errorf("a bad token on a public path: %d", status)
	}
	preflight := []string{"Origin: https://app.example.com", "Access-Control-Request-Method: PUT"}
	if status, _, _ := w.Ask("OPTIONS /system/enrich-token", preflight...); status != 401 {
		t.Errorf("a preflight that nothing allows: %d", status)
	}
	w.Load(world.Policy{Config: map[string]any{"anonymous": map[string]any{"preflight": true}}})
	for name, c := range map[string]struct {
		line  string
		lines []string
		want  int
	}{
		"a preflight":                         {"OPTIONS /system/ext-authz/x", preflight, 200},
		"a method of the gateway's own":       {"OPTIONS /system/enrich-token", preflight, 401},
		"a preflight that a gateway forwards": {world.Get, append([]string{"X-Forwarded-Method: OPTIONS"}, preflight...), 200},
		"OPTIONS alone":                       {"OPTIONS /system/enrich-token", preflight[:1], 401},
		"another method":                      {world.Get, preflight, 401},
	} {
		if status, _, _ := w.Ask(c.line, c.lines...); status != c.want {
			t.Errorf("%s: %d, want %d", name, status, c.want)
		}
	}
	// A policy alone cannot allow an anonymous caller, and an untrusted peer's path is no path.
	w.Load(world.Policy{Rego: "package iam.claims\n\ndecision := {\"allow\": true, \"anonymous\": true, \"headers\": {\"X-User-ID\": \"u1\", \"X-User-Roles\": [\"admin\"]}}\n"})
	if status, lines, _ := w.Ask(world.Get); status != 503 || len(world.Claims(lines)) != 0 {
		t.Errorf("a policy allowed an anonymous caller: %d %v", status, lines)
	}
}

func TestAnUntrustedPeerCannotClaimAnAnonymousPath(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{Untrusted: true, Policy: world.Policy{Config: map[string]any{"anonymous": map[string]any{"paths": []any{"/public"}}}}})
	if status, _, _ := w.Ask(world.Get, "X-Forwarded-Uri: /public"); status != 401 {
		t.Errorf("status %d", status)
	}
}

func TestKillSwitchesOverrideThePolicy(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{Policy: world.Policy{Rego: "package iam.claims\n\ndecision := {\"allow\": true, \"tenant\": \"acme\", \"headers\": {}}\n"}})
	const id = "3f6f0c1e-6f0a-4c59-9a8e-0d6a5f1b2c3d"
	person, program := world.Bearer(w.Mint("alice", map[string]any{"client_id": id})), world.Bearer(w.Mint(id, map[string]any{"client_id": id}))
	expect := func(what string, want int) {
		t.Helper()
		for name, auth := range map[string]string{"a person's token": person, "a program's token": program} {
			if status, _, _ := w.Ask(world.Get, auth); status != want {
				t.Errorf("%s, %s: %d", what, name, status)
			}
		}
	}
	client := iam.Client{Issuer: w.RAuth.Issuer, ClientID: id, Tenant: "acme", Status: iam.ClientActive}
	expect("an active client", 200)
	for _, s := range []string{iam.ClientBlocked, iam.ClientDeleted} {
		client.Status = s
		w.OK(w.DB.PutClient(ctx, client))
		expect(s, 401)
	}
	client.Status, client.TokensNotBefore = iam.ClientActive, time.Now().Add(time.Minute)
	w.OK(w.DB.PutClient(ctx, client))
	expect("tokens_not_before of the client", 401)
	client.TokensNotBefore = time.Now().Add(-time.Minute)
	w.OK(w.DB.PutClient(ctx, client))
	expect("tokens_not_before that has passed", 200)

	_, err := w.DB.PutUser(ctx, iam.User{Issuer: w.RAuth.Issuer, Subject: "alice", Status: iam.UserActive, TokensNotBefore: time.Now().Add(time.Minute)})
	w.OK(err)
	if status, _, _ := w.Ask(world.Get, person); status != 401 {
		t.Errorf("tokens_not_before of the user: %d", status)
	}
	if status, _, _ := w.Ask(world.Get, world.Bearer(w.Mint("alice", map[string]any{"iat": nil}))); status != 401 {
		t.Error("a token without iat slips past tokens_not_before")
	}
}

// Two issuers with one subject, one client id, one tenant.
func TestAnotherRealmGainsNothing(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{})
	theirs := world.Bearer(w.MintBy(w.Other, "alice", nil))
	if status, _, _ := w.Ask(world.Get, world.Bearer(w.Mint("alice", nil))); status != 200 {
		t.Fatalf("ours: %d", status)
	}
	if status, _, _ := w.Ask(world.Get, theirs); status != 403 {
		t.Errorf("their alice: %d", status)
	}
	const id = "3f6f0c1e-6f0a-4c59-9a8e-0d6a5f1b2c3d"
	if status, _, _ := w.Ask(world.Get, world.Bearer(w.MintBy(w.Other, id, map[string]any{"client_id": id, "scope": "invoices:read"}))); status != 403 {
		t.Errorf("their program with our id: %d", status)
	}
	if status, _, _ := w.Ask(world.Get, world.Bearer(w.MintBy(w.Other, "frank", nil)), "X-Active-Tenant-ID: acme"); status != 403 {
		t.Errorf("their frank with our groups: %d", status)
	}
	// A policy that answers with a tenant out of reach is broken.
	w.Load(world.Policy{Rego: "package iam.claims\n\ndecision := {\"allow\": true, \"tenant\": \"acme\", \"headers\": {}}\n"})
	if status, _, _ := w.Ask(world.Get, theirs); status != 503 {
		t.Errorf("a tenant out of the issuer's reach: %d", status)
	}
}

// A client of one tenant, and a person who has much to say in another.
func TestAClientOfATenantActsInThatTenantOnlyForPersonsToo(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{})
	const acmes = "3f6f0c1e-6f0a-4c59-9a8e-0d6a5f1b2c3d"
	w.OK(w.DB.PutClient(ctx, iam.Client{Issuer: w.RAuth.Issuer, ClientID: "globex-web", Tenant: "globex", Status: iam.ClientActive}))
	alice := func(client string) string { return world.Bearer(w.Mint("alice", map[string]any{"client_id": client})) }
	expect := func(what string, want int, tenant, auth string, lines ...string) {
		t.Helper()
		status, got, body := w.Ask(world.Get, append(lines, auth)...)
		if status != want || status == 200 && world.Value(got, "X-Tenant-ID") != tenant {
			t.Errorf("%s: %d %v %s", what, status, got, body)
		}
	}
	const globex, acme = "X-Active-Tenant-ID: globex", "X-Active-Tenant-ID: acme"
	expect("another client", 200, "globex", alice("web"), globex)
	expect("globex's client", 200, "globex", alice("globex-web"))
	expect("globex's client, globex asked for", 200, "globex", alice("globex-web"), globex)
	expect("globex's client, acme asked for", 403, "", alice("globex-web"), acme)
	expect("a member of globex alone, through acme's client", 403, "", world.Bearer(w.Mint("bob", map[string]any{"client_id": acmes})))
	await.True(t, "the line is logged", func() bool { return strings.Contains(w.Logs.String(), `"codes":["client_of_another_tenant"]`) })

	for auth, want := range map[string]string{alice("web"): "acme globex umbrella", alice("globex-web"): "globex", alice(acmes): "acme"} {
		_, _, body := w.Ask("GET /v1/me/tenants", auth)
		if got := strings.Join(regexp.MustCompile(`"id":"[a-z]+"`).FindAllString(body, -1), " "); got != `"id":"`+strings.ReplaceAll(want, " ", `" "id":"`)+`"` {
			t.Errorf("the tenants to switch between are %s, want %s", got, want)
		}
	}

	// Whatever the policy says.
	w.Load(world.Policy{Rego: "package iam.claims\n\ndecision := {\"allow\": true, \"tenant\": t, \"headers\": {\"X-Tenant-ID\": t}}\n\ndefault t := \"\"\n\nt := input.request.tenant_hint\n"})
	expect("its own tenant", 200, "globex", alice("globex-web"), globex)
	expect("no tenant", 403, "", alice("globex-web"))
	expect("no tenant, of a client without one", 200, "", alice("web"))
	for range 2 { // from the cache too
		expect("a policy that lets it into another tenant", 403, "", alice("globex-web"), acme)
	}
	expect("a program in another tenant", 403, "", world.Bearer(w.Mint(acmes, map[string]any{"client_id": acmes})), globex)
	expect("a client that is not managed here", 200, "acme", alice("web"), acme)
	w.OK(w.DB.PutClient(ctx, iam.Client{Issuer: w.RAuth.Issuer, ClientID: "globex-web", Tenant: "acme", Status: iam.ClientActive}))
	expect("a client that was moved", 200, "acme", alice("globex-web"), acme)
	await.True(t, "the line is logged", func() bool { return strings.Count(w.Logs.String(), `"codes":["client_of_another_tenant"]`) >= 4 })
	if logs := w.Logs.String(); strings.Contains(logs, "policy is broken") {
		t.Errorf("that it is refused is no fault of the policy: %s", logs)
	}

	// A policy that names no tenant and gives away what the user is in one.
	w.Load(world.Policy{Rego: `package iam.claims

decision := {"allow": true, "headers": {"X-User-ID": u.id, "X-User-Roles": u.memberships.umbrella.roles}}

u := data.directory.users[input.token.iss][input.token.sub]
`})
	for range 2 {
		expect("roles of another tenant, with no tenant named", 403, "", alice("globex-web"))
		expect("the same through acme's client", 403, "", alice(acmes))
	}
	if status, got, body := w.Ask(world.Get, alice("web")); status != 200 || world.Value(got, "X-User-Roles") == "" {
		t.Errorf("the same through a client without a tenant: %d %v %s", status, got, body)
	}
}

func TestUnknownUsersByMapping(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{UnknownUsers: "mapped"})
	auth := world.Bearer(w.Mint("newcomer", map[string]any{"groups": []string{"auditors"}}))
	status, lines, _ := w.Ask(world.Get, auth, "X-Active-Tenant-ID: acme")
	if status != 200 || world.Value(lines, "X-User-Roles") != "auditor,viewer" || world.Value(lines, "X-User-ID") != "" || world.Value(lines, "X-User-Subject") != "newcomer" {
		t.Errorf("%d %v", status, lines)
	}
	for _, hint := range []string{"globex", "initech", "nowhere"} {
		if status, _, _ := w.Ask(world.Get, auth, "X-Active-Tenant-ID: "+hint); status != 403 {
			t.Errorf("%s: %d", hint, status)
		}
	}
}

func TestABrokenPolicyIsNeitherAYesNorANo(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{})
	first := ""
	for name, rego := range map[string]string{
		"undefined": "package iam.claims\n\ndecision := true if input.nothing\n", "no object": "package iam.claims\n\ndecision := true\n",
		"a walk": "package iam.claims\n\ndecision := {\"allow\": count(data.directory.users) > 0}\n",
	} {
		w.Load(world.Policy{Rego: rego})
		status, lines, body := w.Ask(world.Get, world.Bearer(w.Mint("alice", nil)))
		if status != 503 || len(world.Claims(lines)) != 0 || !slices.Contains(lines, "Retry-After: 1") || strings.Contains(body, "rego") || strings.Contains(body, "directory") {
			t.Errorf("%s: %d %v %s", name, status, lines, body)
		}
		if name == "undefined" {
			first = body
		}
	}
	// The line in the log and the answer have one id; the later ones of that second are counted in the next line.
	_, id, found := strings.Cut(first, `"instance":"/requests/`)
	if id, _, _ = strings.Cut(id, `"`); first != "" && (!found || id == "") {
		t.Errorf("an answer has no request id: %s", first)
	}
	if logs := w.Logs.String(); !regexp.MustCompile(`"msg":"request failed closed","code":"policy_error","count":1,"request_id":"[0-9a-f-]{36}"`).MatchString(logs) {
		t.Errorf("no line has the id of a request: %s", logs)
	}
}

// The database dies: never an allow with fewer roles, never a deny that says "not
// a member"; it comes back: all recover.
func TestAnOutageOfTheDatabaseChangesNoIdentity(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t)
	if _, err := postgres.Migrate(ctx, server.URL, postgres.Up); err != nil {
		t.Fatal(err)
	}
	w := world.New(t, world.Settings{DatabaseURL: server.URL, Facts: directory.Config{MaxStale: 8 * time.Second}})
	w.Unsettled = true
	alice, bob, carol := world.Bearer(w.Mint("alice", nil)), world.Bearer(w.Mint("bob", nil)), world.Bearer(w.Mint("carol", nil))
	expect := func(auth string, status int, roles string) {
		t.Helper()
		got, lines, body := w.Ask(world.Get, auth)
		if got != status || got == 200 && world.Value(lines, "X-User-Roles") != roles {
			t.Errorf("%d %s %s, want %d %s", got, world.Value(lines, "X-User-Roles"), body, status, roles)
		}
	}
	expect(alice, 200, "editor,viewer")
	expect(carol, 403, "")
	server.Kill()
	for gone := time.Now().Add(10 * time.Second); ; { // a backend outlives its postmaster by a moment
		if _, _, err := w.DB.User(ctx, w.RAuth.Issuer, "nobody"); err != nil {
			break
		}
		if time.Now().After(gone) {
			t.Fatal("the server does not die")
		}
	}
	for range 10 {
		expect(alice, 200, "editor,viewer") // cached: answered on, and right
		expect(carol, 403, "")
		if status, _, body := w.Ask(world.Get, bob); status != 503 || !strings.Contains(body, "facts_") {
			t.Fatalf("bob, who was never asked for: %d %s", status, body)
		}
	}
	until := time.Now().Add(30 * time.Second)
	for status := 0; status != 503; {
		status, _, _ = w.Ask(world.Get, alice)
		if status != 200 && status != 503 {
			t.Fatalf("alice past MAX_STALENESS: %d", status)
		}
		if time.Now().After(until) {
			t.Fatal("alice gets cached decisions without an end")
		}
	}
	again, err := server.Restart(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Stop()
	until = time.Now().Add(10 * time.Second)
	for status := 0; status != 200; {
		status, _, _ = w.Ask(world.Get, bob)
		if status != 200 && status != 503 {
			t.Fatalf("bob while it comes back: %d", status)
		}
		if time.Now().After(until) {
			t.Fatal("it never recovers")
		}
	}
	expect(alice, 200, "editor,viewer")
	expect(bob, 200, "admin,editor,viewer")
	expect(carol, 403, "")
}
