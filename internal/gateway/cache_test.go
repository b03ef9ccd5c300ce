package gateway_test

import (
	"testing"
	"time"

	"iam-service/internal/dev/world"
	"iam-service/internal/iam"
)

// sameEvaluation reports whether two requests share one evaluation.
func sameEvaluation(w *world.World, a, b []string) bool {
	w.Helper()
	for {
		emptied := w.CachesEmptied()
		_, first := w.Evaluation(a...)
		_, second := w.Evaluation(b...)
		if same := first != "" && first == second; same || w.CachesEmptied() == emptied {
			return same
		}
	}
}

func TestRequestsThatThePolicyCannotDistinguishShareACacheEntry(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{})
	alice := world.Bearer(w.Mint("alice", map[string]any{"jti": "1"}))
	for name, c := range map[string]struct {
		other []string
		want  bool
	}{
		"the same again":           {[]string{alice}, true},
		"another token of hers":    {[]string{world.Bearer(w.Mint("alice", map[string]any{"jti": "2", "exp": time.Now().Add(2 * time.Hour).Unix()}))}, true},
		"another path":             {[]string{alice, "X-Forwarded-Uri: /other"}, true},
		"a tenant":                 {[]string{alice, "X-Active-Tenant-ID: globex"}, false},
		"another claim it can see": {[]string{world.Bearer(w.Mint("alice", map[string]any{"groups": []string{"x"}}))}, false},
		"another client":           {[]string{world.Bearer(w.Mint("alice", map[string]any{"client_id": "mobile"}))}, false},
		"another user":             {[]string{world.Bearer(w.Mint("bob", nil))}, false},
		"her namesake of another":  {[]string{world.Bearer(w.MintBy(w.Other, "alice", nil))}, false},
		"nobody":                   {nil, false},
	} {
		if got := sameEvaluation(w, []string{alice}, c.other); got != c.want {
			t.Errorf("%s: one evaluation is %v", name, got)
		}
	}
	for name, lines := range map[string][]string{
		"a deny": {alice, "X-Active-Tenant-ID: initech"}, "no token": nil, "a program": {world.Bearer(w.Mint("reporter", map[string]any{"client_id": "reporter"}))},
	} {
		if !sameEvaluation(w, lines, lines) {
			t.Errorf("%s is evaluated twice", name)
		}
	}
}

// Each token is validated also on a cache hit.
func TestACachedDecisionIsNotReturnedForAnInvalidToken(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{})
	soon := world.Bearer(w.Mint("alice", map[string]any{"exp": time.Now().Add(8 * time.Second).Unix()}))
	early := world.Bearer(w.Mint("alice", map[string]any{"iat": time.Now().Add(-time.Hour).Unix()}))
	late := world.Bearer(w.Mint("alice", nil))
	if !sameEvaluation(w, []string{soon}, []string{early}) || !sameEvaluation(w, []string{early}, []string{late}) {
		t.Fatal("they do not share an answer")
	}
	user, _, err := w.DB.User(ctx, w.RAuth.Issuer, "alice")
	w.OK(err)
	user.TokensNotBefore = time.Now().Add(-time.Minute)
	_, err = w.DB.PutUser(ctx, user.User)
	w.OK(err)
	if status, _ := w.Evaluation(late); status != 200 {
		t.Errorf("a token from after the switch: %d", status)
	}
	if status, _ := w.Evaluation(early); status != 401 {
		t.Errorf("a token from before the switch, with the decision cached for a later one: %d", status)
	}
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if status, _ := w.Evaluation(soon); status == 401 {
			break
		}
		if time.Now().After(until) {
			t.Fatal("an expired token is answered from the cache")
		}
	}
}

// A change of a fact that a decision depends on invalidates it, and no other change does.
func TestACachedDecisionEndsWithAFactItDependsOn(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{})
	alice := []string{world.Bearer(w.Mint("alice", nil))} // in acme
	other := []string{world.Bearer(w.Mint("bob", nil)), "X-Active-Tenant-ID: globex"}
	change := func(what string, do func() error, ends, stays []string) {
		t.Helper()
		emptied := w.CachesEmptied()
		_, before := w.Evaluation(ends...)
		_, other := w.Evaluation(stays...)
		w.OK(do())
		if _, after := w.Evaluation(ends...); after == before {
			t.Errorf("%s: the cached decision is still used", what)
		}
		if _, after := w.Evaluation(stays...); after != other && w.CachesEmptied() == emptied {
			t.Errorf("%s: the decision of another is evaluated again", what)
		}
	}
	user, _, err := w.DB.User(ctx, w.RAuth.Issuer, "alice")
	w.OK(err)
	change("the user", func() error { _, err := w.DB.PutUser(ctx, user.User); return err }, alice, other)
	change("a membership", func() error {
		return w.DB.PutMembership(ctx, iam.Membership{Tenant: "umbrella", User: user.ID, Status: "active"})
	}, alice, other)
	change("a role of the tenant", func() error { return w.DB.PutRole(ctx, iam.Role{Tenant: "acme", Name: "extra"}) }, alice, other)
	change("the client, which was unknown", func() error {
		return w.DB.PutClient(ctx, iam.Client{Issuer: w.RAuth.Issuer, ClientID: "web", Status: "active"})
	}, alice, []string{world.Bearer(w.Mint("bob", map[string]any{"client_id": "mobile"}))})
	change("the state of a tenant she is in", func() error {
		return w.DB.PutTenant(ctx, iam.Tenant{ID: "umbrella", Slug: "umbrella", Name: "Umbrella", Status: "suspended"})
	}, alice, []string{world.Bearer(w.Mint("reporter", map[string]any{"client_id": "reporter"}))})
	change("a user who was not there", func() error {
		_, err := w.DB.PutUser(ctx, iam.User{Issuer: w.RAuth.Issuer, Subject: "late", Status: "active"})
		return err
	}, []string{world.Bearer(w.Mint("late", nil))}, alice)
}

func TestAnotherPolicyRevisionEvaluatesAgain(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{})
	alice := []string{world.Bearer(w.Mint("alice", nil))}
	_, before := w.Evaluation(alice...)
	w.Load(world.Policy{Config: map[string]any{"allow_without_tenant": true}})
	if _, after := w.Evaluation(alice...); after == before {
		t.Error("the answer of another revision was used")
	}
}

func TestAnErrorIsNotCached(t *testing.T) {
	t.Parallel()
	for name, rego := range map[string]string{
		"undefined": `decision := {"allow": true} if data.directory.users[input.token.iss].late.id`,
		"a bad ttl": `decision := {"allow": true, "ttl": ttl}` + "\n\nttl := \"long\" if not data.directory.users[input.token.iss].late.id\n\nelse := 1",
	} {
		w := world.New(t, world.Settings{Policy: world.Policy{Rego: "package iam.claims\n\n" + rego + "\n"}})
		alice := world.Bearer(w.Mint("alice", nil))
		for range 2 {
			if status, _ := w.Evaluation(alice); status != 503 {
				t.Errorf("%s: %d", name, status)
			}
		}
		_, err := w.DB.PutUser(ctx, iam.User{Issuer: w.RAuth.Issuer, Subject: "late", Status: "active"})
		w.OK(err)
		if status, _ := w.Evaluation(alice); status != 200 {
			t.Errorf("%s, once it is defined: %d", name, status)
		}
	}
}
