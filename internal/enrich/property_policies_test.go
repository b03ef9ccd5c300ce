package enrich

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"

	"iam-service/internal/dev/devrauth"
	"iam-service/internal/policy"
	"iam-service/internal/token"
	"iam-service/policies"
)

// template is a policy that walks are made under.
type template struct {
	name     string
	engine   *policy.Engine
	store    storage.Store          // of the oracle: the policy's own data, and facts as they are put in
	prepared rego.PreparedEvalQuery // of the oracle
}

// shared is what the templates have in common: decisions that show what they depend on.
const shared = `package iam.claims

user := data.directory.users[input.token.iss][input.token.sub]
default user_id := "none"
user_id := user.id
answer(ok, tenant, roles) := {"allow": ok, "tenant": tenant, "headers": {"X-User-ID": user_id, "X-Tenant-ID": tenant, "X-User-Roles": roles}}
`

var templates = map[string]string{
	"the path": `
decision := answer(true, "", [input.request.path]) if startswith(input.request.path, "/public")
else := answer(user.status == "active", "", [input.request.path])`,
	"attributes": `
default decision := {"allow": false}
decision := answer(true, t, [sprintf_free]) if {
	t := input.request.tenant_hint
	data.directory.tenants[t].attributes.least <= user.attributes.level
	sprintf_free := json.marshal(user.attributes.level)
}`,

	"the clock": `
decision := answer(input.now < user.attributes.until, "", [])`,
	"the clock by a builtin": `
decision := answer(true, "", [json.marshal(floor(time.now_ns() / 3000000000))]) if user.status == "active"
else := {"allow": false}`,
	"the whole token": `
decision := answer(t.acr == "2", "", sort(t.groups)) if t := input.token
else := {"allow": false}`,
	"a claim by a function": `
f(x) := object.get(x, ["token", "groups"], [])
decision := answer(count(f(input)) > 0, "", f(input))`,
	"method, address and hint": `
decision := answer(input.request.method == "GET", "", [object.get(input.request, "client_ip", ""), object.get(input.request, "tenant_hint", "")])`,
	"who is not there": `
decision := answer(true, "", ["stranger"]) if not user.id
else := answer(every_open, "", [id | some id, m in user.memberships; m.status == "active"]) if every_open := count([1 | some m in user.memberships; m.tenant_status != "active"]) == 0`,
	"what is open": `
decision := answer(true, "", [id | some id, m in user.memberships; m.tenant_status == "active"])`,
	"every membership": `
decision := answer(ok, "", all) if {
	all := [$"{id}:{r}" | some id, m in user.memberships; some r in m.roles]
	ok := count([id | some id, m in user.memberships; m.status == "active"; data.directory.tenants[id].status == "active"]) > 0
}
else := {"allow": false}`,
	"a program": `
client := data.directory.clients[input.token.iss][input.token.client_id]
decision := answer(client.status == "active", object.get(client, "tenant", ""), client.roles) if client
else := answer(false, "", [])`,
	"a client's role with another path": `
inner if startswith(input.request.path, "/admin")
decision := answer(inner, "", p) if { p := [x | x := "yes"; inner with input.request.path as "/admin"] }
else := answer(count(user.memberships) > 1, "", [])`,
	"with, what the token says": `
named if subject.sub == "alice"
subject := {"sub": "nobody"}
banned if { input.token.iss != ""; x := named with subject as input.token; x == true }
decision := answer(true, "", ["in"]) if not banned
else := answer(true, "", [input.token.iss])`,
	"with, a function in another's place": `
f(x) := "f"
g(x) := input.request.path
inner := f(1)
decision := answer(true, "", [x]) if { x := inner with f as g; input.token.iss }`,
	"what it lives": `
decision := object.union(answer(true, "", user.memberships[input.request.tenant_hint].roles), {"ttl": 0.5})`,
}

// fixture is what all walks share.
type fixture struct {
	*testing.T
	issuer    string
	tokens    []string
	claims    []map[string]any
	templates []*template
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{T: t}
	var handler http.Handler
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	t.Cleanup(srv.Close)
	p, err := devrauth.New(srv.URL, "api")
	f.ok(err)
	handler = p.Handler()
	f.issuer = srv.URL
	verifier := f.verifier()
	for _, claims := range []map[string]any{
		{"sub": "alice", "client_id": "web", "acr": "1", "groups": []string{"g1"}},
		{"sub": "alice", "client_id": "web", "acr": "2", "groups": []string{"g1", "g2"}},
		{"sub": "bob", "client_id": "web", "acr": "2", "groups": []string{}},
		{"sub": "nobody", "acr": "2", "groups": []string{"g1"}},
		{"sub": "prog", "client_id": "prog", "scope": "read write"},
		{"sub": "alice", "acr": "1"},
	} {
		raw, err := p.Mint("EdDSA", maps.Clone(claims))
		f.ok(err)
		verified, err := verifier.Verify(context.Background(), raw, "", time.Now().Add(time.Minute))
		f.ok(err)
		whole, err := ast.JSON(verified.Claims)
		f.ok(err)
		f.tokens, f.claims = append(f.tokens, raw), append(f.claims, whole.(map[string]any))
	}
	f.tokens, f.claims = append(f.tokens, ""), append(f.claims, nil)

	embedded, err := policy.FromFS("embedded", policies.FS)
	f.ok(err)
	f.templates = append(f.templates, f.template("the default policy", embedded))
	for _, name := range slices.Sorted(maps.Keys(templates)) {
		f.templates = append(f.templates, f.template(name, &policy.Candidate{
			Roots: []string{"iam"}, Modules: map[string]string{"p.rego": shared + templates[name]},
			Data: map[string]any{"iam": map[string]any{"config": map[string]any{"headers": []any{"X-User-ID", "X-Tenant-ID", "X-User-Roles"}}}},
		}))
	}
	return f
}

func (f *fixture) ok(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// verifier returns one that has verified nothing yet: tokens have an account of
// look-ups in vain, which a thousand walks would use up.
func (f *fixture) verifier() *token.Verifier {
	f.Helper()
	v, err := token.New(token.Config{Issuers: []token.Issuer{{URL: f.issuer, Audiences: []string{"api"}}}, Log: slog.New(slog.DiscardHandler), Wait: 5 * time.Second})
	f.ok(err)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	f.ok(v.Start(ctx, time.Now().Add(10*time.Second)))
	return v
}

func (f *fixture) template(name string, c *policy.Candidate) *template {
	f.Helper()
	t := &template{name: name}
	var err error
	t.engine, err = policy.NewEngine(policy.Config{
		Limit: time.Minute, Log: slog.New(slog.DiscardHandler), Settings: map[string]string{"unknown_users": "mapped"},
	})
	f.ok(err)
	if err := t.engine.Submit(context.Background(), c); err != nil {
		f.Fatalf("%s: %v", name, err)
	}
	modules := map[string]*ast.Module{}
	for file, text := range c.Modules {
		modules[file], err = ast.ParseModuleWithOpts(file, text, ast.ParserOptions{ProcessAnnotation: true})
		f.ok(err)
	}
	compiler := ast.NewCompiler()
	if compiler.Compile(modules); compiler.Failed() {
		f.Fatalf("%s: %v", name, compiler.Errors)
	}
	t.store = inmem.NewFromObject(map[string]any{"iam": c.Data["iam"], "directory": map[string]any{}})
	t.prepared, err = rego.New(rego.Query("x = "+policy.Entrypoint), rego.Compiler(compiler), rego.Store(t.store)).PrepareForEval(context.Background())
	f.ok(err)
	return t
}
