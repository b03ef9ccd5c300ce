package assertion

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"iam-service/internal/enrich"
	"iam-service/internal/iam"
	"iam-service/internal/token"
)

var headers = []string{"X-User-Id", "X-User-Roles", "X-Scopes", "X-Principal-Type", "X-Policy-Revision", "X-Citadel-Assertion"}

// bench is a signer over keys in memory.
type bench struct {
	*Signer
	at    *clock
	keys  *Keys
	store *memory
}

func newSigner(t testing.TB, change func(*Config)) *bench {
	t.Helper()
	b := &bench{at: newClock()}
	b.store = &memory{now: b.at.now}
	b.keys = replica(t, b.store, encryption(t, newKey(t), nil), b.at.now)
	ok(t, b.keys.Start(t.Context()))
	cfg := Config{Keys: b.keys, Issuer: "https://iam.example.com", Headers: headers, HeaderMax: 3500}
	if change != nil {
		change(&cfg)
	}
	var err error
	b.Signer, err = NewSigner(cfg)
	ok(t, err)
	b.now = b.at.now
	return b
}

// alice is an allowed response of hers.
func (b *bench) alice() enrich.Allowed {
	return enrich.Allowed{
		Token: &token.Token{
			Issuer:   "https://auth.example.com",
			Subject:  "alice",
			ClientID: "web",
			Expires:  b.at.now().Add(time.Hour),
			Claims:   ast.NewObject(ast.Item(ast.StringTerm("scope"), ast.StringTerm("read write"))),
		},
		Gateway:    "traefik",
		Host:       "orders.example.com",
		DecisionID: "d1",
		Tenant:     "acme",
		Values:     []string{"u1", "auditor,editor", "", "user", "r1", ""},
	}
}

func decode(t testing.TB, raw string) (header map[string]any, c claims) {
	t.Helper()
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		t.Fatalf("%q is no JWT", raw)
	}
	for i, to := range []any{&header, &c} {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		ok(t, err)
		ok(t, json.Unmarshal(text, to))
	}
	return header, c
}

// sign returns the assertion of a response.
func (b *bench) sign(t testing.TB, a enrich.Allowed) string {
	t.Helper()
	values, err := b.Assert(a)
	ok(t, err)
	if !slices.Equal(values[:len(values)-1], a.Values[:len(values)-1]) || a.Values[len(values)-1] != "" {
		t.Errorf("other values changed, or those of the decision: %q, %q", values, a.Values)
	}
	return values[len(values)-1]
}

func TestAnAssertionCarriesTheDecision(t *testing.T) {
	t.Parallel()
	b := newSigner(t, nil)
	h, c := decode(t, b.sign(t, b.alice()))
	if h["typ"] != "txntoken+jwt" || h["alg"] != "ES256" || h["kid"] != b.store.set.Keys[0].ID {
		t.Errorf("header %v", h)
	}
	want := claims{
		Issuer: "https://iam.example.com", Audience: "orders.example.com", Subject: "https://auth.example.com#alice",
		IssuedAt: b.at.now().Unix(), Expires: b.at.now().Add(time.Minute).Unix(), Transaction: "d1", Scope: "read write", Workload: "traefik",
		Context: txnContext{
			PrincipalType: "user", Issuer: "https://auth.example.com", Subject: "alice", UserID: "u1", ClientID: "web", Tenant: "acme",
			Roles: []string{"auditor", "editor"}, DecisionID: "d1", PolicyRevision: "r1",
		},
		Request: requestContext{Authentication: "urn:ietf:rfc:6750"},
	}
	if got, want := fmt.Sprintf("%+v", c), fmt.Sprintf("%+v", want); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}

	// A program: its scopes are those that were granted, and a list without a member is a list.
	program := b.alice()
	program.Token = &token.Token{Issuer: "https://auth.example.com", ClientID: "reporter", Expires: b.at.now().Add(time.Hour), Claims: program.Token.Claims}
	program.Values = []string{"", "", "read", "client", "r1", ""}
	raw := b.sign(t, program)
	_, c = decode(t, raw)
	if c.Subject != "https://auth.example.com#reporter" || c.Scope != "read" || c.Context.PrincipalType != "client" {
		t.Errorf("got %+v", c)
	}
	text, err := base64.RawURLEncoding.DecodeString(strings.Split(raw, ".")[1])
	ok(t, err)
	if !strings.Contains(string(text), `"roles":[]`) {
		t.Errorf("no list of roles in %s", text)
	}

	// There is no identity to sign, whatever the host.
	anonymous := b.alice()
	anonymous.Token, anonymous.Host = nil, ""
	if raw := b.sign(t, anonymous); raw != "" {
		t.Errorf("an anonymous response has the assertion %s", raw)
	}
}

// One signature serves a decision for one token, audience and gateway, until half of its lifetime remains. Nothing of
// what it says is ever another's.
func TestAnAssertionIsCachedForExactlyItsClaims(t *testing.T) {
	t.Parallel()
	b := newSigner(t, nil)
	alice := b.alice()
	first := b.sign(t, alice)
	if b.sign(t, alice) != first || b.signatures.Load() != 1 {
		t.Error("a cached assertion was signed again")
	}
	change := func(do func(*enrich.Allowed)) enrich.Allowed {
		a := alice
		do(&a)
		return a
	}
	for name, other := range map[string]struct {
		a     enrich.Allowed
		check func(claims) bool
	}{
		"another host": {
			a:     change(func(a *enrich.Allowed) { a.Host = "billing.example.com" }),
			check: func(c claims) bool { return c.Audience == "billing.example.com" },
		},
		"another gateway": {
			a:     change(func(a *enrich.Allowed) { a.Gateway = "nginx" }),
			check: func(c claims) bool { return c.Workload == "nginx" },
		},
		"another decision": {
			a:     change(func(a *enrich.Allowed) { a.DecisionID, a.Tenant = "d2", "globex" }),
			check: func(c claims) bool { return c.Context.Tenant == "globex" && c.Transaction == "d2" },
		},
		"another subject, by a policy that reads none": {
			a: change(func(a *enrich.Allowed) {
				a.Token = &token.Token{Issuer: a.Token.Issuer, Subject: "bob", Expires: a.Token.Expires}
			}),
			check: func(c claims) bool {
				return c.Subject == "https://auth.example.com#bob" && c.Context.Subject == "bob" && c.Scope == ""
			},
		},
		"a namesake of another issuer": {
			a: change(func(a *enrich.Allowed) {
				a.Token = &token.Token{Issuer: "https://other.example.com", Subject: "alice", Expires: a.Token.Expires}
			}),
			check: func(c claims) bool { return c.Subject == "https://other.example.com#alice" },
		},
		"a token that ends sooner": {
			a: change(func(a *enrich.Allowed) {
				a.Token = &token.Token{Issuer: a.Token.Issuer, Subject: "alice", Expires: b.at.now().Add(20 * time.Second)}
			}),
			check: func(c claims) bool { return c.Expires-c.IssuedAt == 20 },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			raw := b.sign(t, other.a)
			if _, c := decode(t, raw); raw == first || !other.check(c) {
				t.Errorf("got %+v", c)
			}
			if again := b.sign(t, other.a); again != raw {
				t.Error("it is not cached")
			}
		})
	}
}

func TestAnAssertionIsSignedAgainAtHalfOfItsLifetime(t *testing.T) {
	t.Parallel()
	b := newSigner(t, nil)
	alice := b.alice()
	first := b.sign(t, alice)
	b.at.add(Lifetime/2 - time.Second)
	if b.sign(t, alice) != first {
		t.Error("signed again with more than half of its lifetime left")
	}
	b.at.add(time.Second)
	second := b.sign(t, alice)
	if _, c := decode(t, second); second == first || c.Expires != b.at.now().Add(Lifetime).Unix() {
		t.Errorf("expires %d", c.Expires)
	}

	// Where the token ends, a later signature would not last longer: there is one more, and then no other.
	alice.Token.Expires = b.at.now().Add(70 * time.Second)
	b.at.add(Lifetime / 2)
	last := b.sign(t, alice)
	if _, c := decode(t, last); c.Expires != alice.Token.Expires.Unix() {
		t.Errorf("expires %d, the token at %d", c.Expires, alice.Token.Expires.Unix())
	}
	for range 39 {
		b.at.add(time.Second)
		if b.sign(t, alice) != last {
			t.Fatal("signed again, though it cannot last longer")
		}
	}

	// Nor does it outlast the decision.
	short := b.alice()
	short.DecisionID, short.Remaining = "short", 7*time.Second
	if _, c := decode(t, b.sign(t, short)); c.Expires-c.IssuedAt != 7 {
		t.Errorf("a decision of 7 s has an assertion of %d", c.Expires-c.IssuedAt)
	}
}

func TestConcurrentRequestsShareASignature(t *testing.T) {
	t.Parallel()
	b := newSigner(t, nil)
	alice := b.alice()
	raws := make([]string, 200)
	var all sync.WaitGroup
	for i := range raws {
		all.Go(func() { raws[i] = b.sign(t, alice) })
	}
	all.Wait()
	if n := b.signatures.Load(); n != 1 || len(slices.Compact(raws)) != 1 {
		t.Errorf("%d signatures", n)
	}
}

func TestARevokedKeySignsNothingMoreOutOfTheCache(t *testing.T) {
	t.Parallel()
	b := newSigner(t, nil)
	alice := b.alice()
	first, _ := decode(t, b.sign(t, alice))
	_, err := b.store.ChangeAssertionKeys(t.Context(), func(set iam.AssertionKeys) (iam.AssertionKeyChange, error) {
		return b.keys.rules.Revoke(set, first["kid"].(string))
	})
	ok(t, err)
	ok(t, b.keys.refresh(t.Context()))
	if second, _ := decode(t, b.sign(t, alice)); second["kid"] == first["kid"] {
		t.Error("the cache answers with an assertion by the revoked key")
	}
}

func TestWhatCannotBeSignedFailsClosed(t *testing.T) {
	t.Parallel()
	t.Run("no key", func(t *testing.T) {
		t.Parallel()
		b := newSigner(t, nil)
		b.at.add(rotation + grace)
		a := b.alice()
		_, err := b.Assert(a)
		if iam.KindOf(err) != iam.Unavailable || iam.CodeOf(err) != "assertion_unavailable" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no audience", func(t *testing.T) {
		t.Parallel()
		b := newSigner(t, nil)
		a := b.alice()
		a.Host = ""
		_, err := b.Assert(a)
		if iam.KindOf(err) != iam.Forbidden || iam.CodeOf(err) != "request_facts_missing" || !strings.Contains(err.Error(), "ASSERTION_AUDIENCE") {
			t.Errorf("got %v", err)
		}
		b = newSigner(t, func(c *Config) { c.Audience = "trust-domain" })
		if _, c := decode(t, b.sign(t, a)); c.Audience != "trust-domain" {
			t.Errorf("got %+v", c)
		}
	})
	t.Run("over the budget of headers", func(t *testing.T) {
		t.Parallel()
		b := newSigner(t, nil)
		a := b.alice()
		a.HeaderBytes = 200
		size := a.HeaderBytes + len(b.sign(t, a))
		for budget, fits := range map[int]bool{size: true, size - 1: false} {
			b := newSigner(t, func(c *Config) { c.HeaderMax = budget })
			_, err := b.Assert(a)
			if (err == nil) != fits || err != nil && iam.CodeOf(err) != "headers_too_large" {
				t.Errorf("%d bytes of %d: %v", size, budget, err)
			}
		}
	})
	t.Run("a header that gateways do not copy", func(t *testing.T) {
		t.Parallel()
		if _, err := NewSigner(Config{Headers: headers[:2]}); err == nil {
			t.Error("a signer without its header")
		}
	})
}

func TestACachedAssertionAllocatesNothing(t *testing.T) {
	b := newSigner(t, nil)
	alice := b.alice()
	b.sign(t, alice)
	if n := testing.AllocsPerRun(1000, func() { _, _ = b.Assert(alice) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAssertCached(b *testing.B) {
	s := newSigner(b, nil)
	alice := s.alice()
	b.ReportAllocs()
	for b.Loop() {
		_, _ = s.Assert(alice)
	}
}

func BenchmarkAssertSigned(b *testing.B) {
	s := newSigner(b, nil)
	alice := s.alice()
	set := s.keys.current.Load()
	b.ReportAllocs()
	for b.Loop() {
		_, _ = s.Signer.sign(alice, alice.Host, set, s.at.now())
	}
}
