package authzen_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"iam-service/internal/decisions"
	"iam-service/internal/dev/pgtest"
	"iam-service/internal/dev/world"
	"iam-service/internal/directory/clock"
	"iam-service/internal/enrich/pdp"
	"iam-service/internal/gateway/authzen"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/problem"
	"iam-service/policies"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main{M: m}) }

const publicURL = "https://pdp.example.com"

// api is the AuthZEN API of a world.
type api struct {
	*world.World
	URL       string
	PDP       *pdp.Service
	Decisions *decisions.Log
	late      atomic.Int64 // added to the clock of the facts
}

// newAPI serves a world, with a tenant "records" whose client is "pep".
func newAPI(t testing.TB, s world.Settings) *api {
	t.Helper()
	a := &api{}
	s.Facts.Clock = func() time.Duration { return clock.Now() + time.Duration(a.late.Load()) }
	a.World = world.New(t, s)
	a.Decisions = decisions.New(decisions.Config{Headers: a.Engine.Headers(), Log: a.Logger, Sinks: []decisions.Sink{decisions.Console(a.Logger)}})
	t.Cleanup(a.Decisions.Close)
	a.PDP = pdp.New(pdp.Config{
		Identify: a.Enricher.Identify, Directory: a.Facts, Engine: a.Engine, Issuers: a.Issuers, Subjects: a.DB,
		Deadline: 10 * time.Second, Record: a.Decisions.Record,
	})
	a.serve(a.PDP)
	ctx := context.Background()
	a.OK(a.DB.PutTenant(ctx, iam.Tenant{ID: "records", Slug: "records", Name: "Records", Status: iam.TenantActive}))
	for _, r := range []iam.Role{
		{Tenant: "records", Name: "author", Permissions: []string{"record:read", "record:write", "record:delete"}},
		{Tenant: "records", Name: "reader", Permissions: []string{"record:read"}},
		{Tenant: "records", Name: "archivist", Permissions: []string{"record:write-archived"}, Inherits: []string{"reader"}},
	} {
		a.OK(a.DB.PutRole(ctx, r))
	}
	a.client("pep", "records", pdp.Scope)
	return a
}

func (a *api) serve(decider authzen.Decider) {
	a.Helper()
	service, err := authzen.New(authzen.Config{URL: publicURL, Decider: decider, Log: a.Logger, Observe: func(context.Context, problem.Observation) {}})
	a.OK(err)
	srv := httptest.NewServer(service.Handler(a.Gateway.Handler()))
	a.Cleanup(srv.Close)
	a.URL = srv.URL
}

// client registers a client of a tenant; "": of the platform.
func (a *api) client(id, tenant string, scopes ...string) {
	a.Helper()
	a.OK(a.DB.PutClient(context.Background(), iam.Client{Issuer: a.RAuth.Issuer, ClientID: id, Tenant: tenant, Status: iam.ClientActive, Scopes: scopes}))
}

// role adds a role to a tenant.
func (a *api) role(tenant, name string, permissions, inherits []string) {
	a.Helper()
	a.OK(a.DB.PutRole(context.Background(), iam.Role{Tenant: tenant, Name: name, Permissions: permissions, Inherits: inherits}))
}

// member adds a user to a tenant, and returns their id.
func (a *api) member(subject, tenant string, attributes map[string]any, roles ...string) string {
	a.Helper()
	ctx := context.Background()
	u, found, err := a.DB.User(ctx, a.RAuth.Issuer, subject)
	a.OK(err)
	id := u.ID
	if !found {
		id, err = a.DB.PutUser(ctx, iam.User{Issuer: a.RAuth.Issuer, Subject: subject, Status: iam.UserActive})
		a.OK(err)
	}
	a.OK(a.DB.PutMembership(ctx, iam.Membership{Tenant: tenant, User: id, Status: iam.MembershipActive, Roles: roles, Attributes: attributes}))
	return id
}

// token is an access token of a client.
func (a *api) token(client string, more map[string]any) string {
	a.Helper()
	claims := map[string]any{"sub": client, "client_id": client, "scope": pdp.Scope}
	maps.Copy(claims, more)
	return a.Mint(client, claims)
}

// response is what came back.
type response struct {
	status int
	header http.Header
	body   map[string]any
	text   string
}

func (r *response) decision() any { return r.body["decision"] }

// codes are those of the reasons of a deny.
func (r *response) codes() []string { return codesOf(r.body) }

func codesOf(decision map[string]any) (codes []string) {
	about, _ := decision["context"].(map[string]any)
	list, _ := about["reasons"].([]any)
	for _, x := range list {
		reason, _ := x.(map[string]any)
		code, _ := reason["code"].(string)
		codes = append(codes, code)
	}
	return codes
}

// ask posts a body with a client's token.
func (a *api) ask(at, body string, edit ...func(*http.Request)) *response {
	a.Helper()
	edit = append([]func(*http.Request){func(r *http.Request) {
		r.Header.Set("Authorization", "Bearer "+a.token("pep", nil))
		r.Header.Set("Content-Type", "application/json")
	}}, edit...)
	return a.send(http.MethodPost, "/access/v1/"+at, body, edit...)
}

func (a *api) send(method, path, body string, edit ...func(*http.Request)) *response {
	a.Helper()
	a.Settle()
	req, err := http.NewRequestWithContext(a.Context(), method, a.URL+path, bytes.NewBufferString(body))
	a.OK(err)
	for _, f := range edit {
		f(req)
	}
	resp, err := http.DefaultClient.Do(req)
	a.OK(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	a.OK(err)
	out := &response{status: resp.StatusCode, header: resp.Header, text: string(text)}
	_ = json.Unmarshal(text, &out.body) // nil: it is no object
	return out
}

// as sends another client's token.
func (a *api) as(client string) func(*http.Request) {
	token := a.token(client, nil)
	return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
}

// rules activates the default policy with other rules for AuthZEN; "" for none.
func (a *api) rules(rego string) {
	a.Helper()
	c, err := policy.FromFS("test", policies.FS)
	a.OK(err)
	const file = "iam/authzen/authzen.rego"
	if _, there := c.Modules[file]; !there {
		a.Fatalf("no %s", file)
	}
	if c.Modules[file] = rego; rego == "" {
		delete(c.Modules, file)
	}
	a.OK(a.Engine.Submit(context.Background(), c))
}

// question is an evaluation.
func question(subject, action, resourceType, id string) string {
	text, _ := json.Marshal(map[string]any{
		"subject": map[string]any{"type": "user", "id": subject}, "action": map[string]any{"name": action}, "resource": map[string]any{"type": resourceType, "id": id},
	})
	return string(text)
}
