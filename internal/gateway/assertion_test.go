package gateway_test

import (
	"context"
	"crypto/rand"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"iam-service/internal/dev/world"
	"iam-service/internal/enrich"
	"iam-service/internal/gateway/assertion"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/pkg/identity"
)

const assertionIssuer = "https://iam.example.com"

// asserting is a world whose responses carry assertions, and a backend that verifies them.
type asserting struct {
	*world.World
	keys *assertion.Keys
	jwks string
}

func newAsserting(t *testing.T, audience string, s world.Settings) *asserting {
	t.Helper()
	a := &asserting{}
	s.Headers = append(slices.Clone(policy.DefaultHeaders), assertion.Header)
	if s.Policy.Headers == nil {
		s.Policy.Headers = policy.DefaultHeaders
	}
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)
	s.Assert = func(w *world.World) enrich.Asserter {
		encryption, err := assertion.NewEncryption(secret, nil)
		w.OK(err)
		a.keys = assertion.NewKeys(w.DB, assertion.Rules{Encryption: encryption, Algorithm: "EdDSA", Rotation: 24 * time.Hour}, w.Logger)
		w.OK(a.keys.Start(context.Background()))
		signer, err := assertion.NewSigner(assertion.Config{Keys: a.keys, Issuer: assertionIssuer, Audience: audience, Headers: w.Engine.Headers(), EmptyValue: s.EmptyValue, HeaderMax: 3500})
		w.OK(err)
		return signer
	}
	a.World = world.New(t, s)
	srv := httptest.NewServer(a.keys)
	t.Cleanup(srv.Close)
	a.jwks = srv.URL + assertion.JWKSPath
	return a
}

// verify is the backend of an audience.
func (a *asserting) verify(audience, raw string) (*identity.Identity, error) {
	a.Helper()
	v, err := identity.New(identity.Config{JWKS: a.jwks, Issuer: assertionIssuer, Audiences: []string{audience}})
	a.OK(err)
	return v.Verify(context.Background(), raw)
}

// raw is the assertion of a response that is allowed.
func (a *asserting) raw(lines ...string) (raw, decision string) {
	a.Helper()
	status, got, body := a.Ask(world.Get, lines...)
	if status != http.StatusOK {
		a.Fatalf("%d %s", status, body)
	}
	return world.Value(got, assertion.Header), world.Value(got, "X-Decision-ID")
}

const orders = "X-Forwarded-Host: orders.example.com"

func TestABackendVerifiesWhatTheHeadersSay(t *testing.T) {
	t.Parallel()
	a := newAsserting(t, "", world.Settings{})
	alice := world.Bearer(a.Mint("alice", map[string]any{"scope": "read"}))
	status, got, _ := a.Ask(world.Get, alice, orders)
	id, err := a.verify("orders.example.com", world.Value(got, assertion.Header))
	a.OK(err)
	if status != http.StatusOK || id.Subject != "alice" || id.ID != a.RAuth.Issuer+"#alice" || id.UserID != world.Value(got, "X-User-ID") || id.Tenant != world.Value(got, "X-Tenant-ID") ||
		strings.Join(id.Roles, ",") != world.Value(got, "X-User-Roles") || len(id.Roles) == 0 || id.DecisionID != world.Value(got, "X-Decision-ID") ||
		id.PolicyRevision != world.Value(got, "X-Policy-Revision") || id.PrincipalType != identity.User || id.Gateway != "traefik" || !slices.Equal(id.Scope, []string{"read"}) {
		t.Errorf("%+v from %q", id, got)
	}
	if _, err := a.verify("billing.example.com", world.Value(got, assertion.Header)); err == nil {
		t.Error("another backend accepts it")
	}

	// A program.
	const program = "3f6f0c1e-6f0a-4c59-9a8e-0d6a5f1b2c3d"
	raw, _ := a.raw(world.Bearer(a.Mint(program, map[string]any{"client_id": program, "scope": "invoices:read s2s:internal"})), orders)
	id, err = a.verify("orders.example.com", raw)
	a.OK(err)
	if id.PrincipalType != identity.Client || id.UserID != "" || id.Subject != program || id.Roles == nil || !id.HasScope("invoices:read") || id.Tenant != "acme" {
		t.Errorf("%+v", id)
	}

	// A deny has none; neither has what is anonymous, where it is present and empty.
	for name, lines := range map[string][]string{"no token": {orders}, "another tenant": {alice, orders, "X-Active-Tenant-ID: initech"}} {
		if status, got, _ := a.Ask(world.Get, lines...); status == http.StatusOK || strings.Contains(strings.Join(got, "\n"), assertion.Header) {
			t.Errorf("%s: %d %q", name, status, got)
		}
	}
	if strings.Contains(a.Logs.String(), raw) || strings.Contains(a.Logs.String(), "eyJhbGciOiJFZERTQSIs") {
		t.Error("an assertion is in the log, or the decision log")
	}
}

// The policy decides nothing about the header: a forged one of the client, or one of the policy, never is in a response.
func TestAnAnonymousResponseHasAnEmptyAssertion(t *testing.T) {
	t.Parallel()
	a := newAsserting(t, "", world.Settings{Policy: world.Policy{
		Headers: []string{"X-User-Subject"},
		Config:  map[string]any{"anonymous": map[string]any{"paths": []any{"/public"}, "preflight": false}},
		Rego: `package iam.claims
import rego.v1
decision := {"allow": true, "anonymous": true, "headers": {}}`,
	}})
	raw, _ := a.raw("X-Forwarded-Uri: /public/x", "X-Forwarded-Method: GET", "X-Citadel-Assertion: forged")
	if raw != "" {
		t.Errorf("an anonymous response has the assertion %q", raw)
	}
	raw, _ = a.raw(world.Bearer(a.Mint("alice", nil)), orders)
	if id, err := a.verify("orders.example.com", raw); err != nil || id.Roles == nil || len(id.Roles) != 0 {
		t.Errorf("%q: %v", raw, err)
	}
	// No bundle can declare the header (policy's tests); one that sets it all the same is broken.
	a.Load(world.Policy{Headers: []string{"X-User-Subject"}, Rego: `package iam.claims
import rego.v1
decision := {"allow": true, "headers": {"X-Citadel-Assertion": "of-the-policy"}}`})
	if status, got, _ := a.Ask(world.Get, world.Bearer(a.Mint("alice", nil)), orders); status != http.StatusServiceUnavailable || strings.Contains(strings.Join(got, "\n"), "of-the-policy") {
		t.Errorf("a policy that sets the assertion: %d %q", status, got)
	}
}

// The placeholder of an empty header is no role, no scope and no user.
func TestAPlaceholderIsNoClaim(t *testing.T) {
	t.Parallel()
	a := newAsserting(t, "trust-domain", world.Settings{EmptyValue: "-", Policy: world.Policy{
		Rego: `package iam.claims
import rego.v1
decision := {"allow": true, "headers": {}}`,
	}})
	for _, bearer := range []string{a.Mint("alice", nil), a.Mint("ci", map[string]any{"client_id": "ci"})} {
		status, got, body := a.Ask(world.Get, world.Bearer(bearer))
		if status != http.StatusOK || world.Value(got, "X-User-Roles") != "-" {
			t.Fatalf("%d %q %s", status, got, body)
		}
		id, err := a.verify("trust-domain", world.Value(got, assertion.Header))
		a.OK(err)
		if len(id.Roles) != 0 || len(id.Scope) != 0 || id.UserID != "" || id.PrincipalType == "-" {
			t.Errorf("%+v", id)
		}
	}
}

// A policy that reads neither subject nor host makes one decision for all: the assertion is each one's own.
func TestASharedDecisionHasAnAssertionForEachSubjectAndHost(t *testing.T) {
	t.Parallel()
	a := newAsserting(t, "", world.Settings{Policy: world.Policy{
		Headers: []string{"X-Decision-ID", "X-Tenant-ID"},
		Rego: `package iam.claims
import rego.v1
decision := {"allow": true, "headers": {}}`,
	}})
	alice, bob, namesake := world.Bearer(a.Mint("alice", nil)), world.Bearer(a.Mint("bob", nil)), world.Bearer(a.MintBy(a.Other, "alice", nil))
	for range 3 {
		decisions := map[string]bool{}
		for _, c := range []struct{ bearer, host, want string }{
			{bearer: alice, host: "orders.example.com", want: a.RAuth.Issuer + "#alice"},
			{bearer: bob, host: "orders.example.com", want: a.RAuth.Issuer + "#bob"},
			{bearer: alice, host: "billing.example.com", want: a.RAuth.Issuer + "#alice"},
			{bearer: namesake, host: "billing.example.com", want: a.Other.Issuer + "#alice"},
		} {
			raw, decision := a.raw(c.bearer, "X-Forwarded-Host: "+c.host)
			decisions[decision] = true
			if id, err := a.verify(c.host, raw); err != nil || id.ID != c.want {
				t.Errorf("%s at %s: %+v, %v", c.want, c.host, id, err)
			}
		}
		if a.CachesEmptied() == 0 && len(decisions) > 2 { // clients are another key
			t.Logf("decisions %v", decisions)
		}
	}
}

// A cached decision repeats its assertion; a change of a fact makes another.
func TestAnAssertionEndsWithItsDecision(t *testing.T) {
	t.Parallel()
	a := newAsserting(t, "trust-domain", world.Settings{})
	alice := world.Bearer(a.Mint("alice", nil))
	first, decision := a.raw(alice)
	if again, same := a.raw(alice); again != first && same == decision {
		t.Error("a cached decision has another assertion")
	}
	a.Facts.InvalidateAll()
	if other, evaluated := a.raw(alice); other == first || evaluated == decision {
		t.Error("an assertion outlives its decision")
	}
}

// With the host as the audience, a gateway that does not say it gets no assertion, and so no 200.
func TestAnUnknownHostFailsClosed(t *testing.T) {
	t.Parallel()
	a := newAsserting(t, "", world.Settings{Untrusted: true})
	alice := world.Bearer(a.Mint("alice", nil))
	status, got, body := a.Ask(world.Get, alice, orders)
	if status != http.StatusForbidden || !strings.Contains(body, "request_facts_missing") || strings.Contains(strings.Join(got, "\n"), assertion.Header) {
		t.Errorf("%d %s", status, body)
	}
	if !strings.Contains(a.Logs.String(), "ASSERTION_AUDIENCE") {
		t.Error("the log does not say what to set")
	}
}

// noKey cannot sign.
type noKey struct{}

func (noKey) Assert(enrich.Allowed) ([]string, error) {
	return nil, &iam.Error{Kind: iam.Unavailable, Code: "assertion_unavailable", Detail: "no key can sign identities now"}
}

// A new decision and a cached one are 503 alike.
func TestWithoutAKeyEveryAllowIs503(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{Assert: func(*world.World) enrich.Asserter { return noKey{} }})
	alice := world.Bearer(w.Mint("alice", nil))
	for range 3 {
		status, got, body := w.Ask(world.Get, alice)
		if status != http.StatusServiceUnavailable || !strings.Contains(body, "assertion_unavailable") || len(world.Claims(got)) != 0 {
			t.Errorf("%d %s %q", status, body, got)
		}
	}
}
