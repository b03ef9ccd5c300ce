package adminapi_test

import (
	"strings"
	"testing"
	"time"

	"iam-service/internal/directory"
	"iam-service/internal/iam"
)

// evaluation asks and returns the status and the id of the evaluation that
// answered, which an answer from the cache repeats.
func (w *world) evaluation(lines ...string) (int, string) {
	w.Helper()
	status, got, body := w.ask(get, lines...)
	if status == 200 {
		return status, value(got, "X-Decision-ID")
	}
	_, id, _ := strings.Cut(body, `"instance":"`)
	id, _, _ = strings.Cut(id, `"`)
	return status, id
}

// same reports whether two questions were answered by one evaluation.
func (w *world) same(a, b []string) bool {
	w.Helper()
	for {
		forgot := w.forgot()
		_, first := w.evaluation(a...)
		_, second := w.evaluation(b...)
		if same := first != "" && first == second; same || w.forgot() == forgot {
			return same
		}
	}
}

// forgot is how often the world has forgotten everything: it does so where news of what it
// has changed itself are late, and then no answer is kept.
func (w *world) forgot() int64 { return w.facts.Invalidations(directory.Causes["everything"]) }

func TestAnAnswerIsUsedAgainForWhateverThePolicyCannotTellApart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	alice := bearer(w.mint("alice", map[string]any{"jti": "1"}))
	for name, c := range map[string]struct {
		other []string
		want  bool
	}{
		"the same again":           {[]string{alice}, true},
		"another token of hers":    {[]string{bearer(w.mint("alice", map[string]any{"jti": "2", "exp": time.Now().Add(2 * time.Hour).Unix()}))}, true},
		"another path":             {[]string{alice, "X-Forwarded-Uri: /other"}, true},
		"a tenant":                 {[]string{alice, "X-Active-Tenant-ID: globex"}, false},
		"another claim it can see": {[]string{bearer(w.mint("alice", map[string]any{"groups": []string{"x"}}))}, false},
		"another client":           {[]string{bearer(w.mint("alice", map[string]any{"client_id": "mobile"}))}, false},
		"somebody else":            {[]string{bearer(w.mint("bob", nil))}, false},
		"her namesake of another":  {[]string{bearer(mintBy(w, w.other, "alice", nil))}, false},
		"nobody":                   {nil, false},
	} {
		if got := w.same([]string{alice}, c.other); got != c.want {
			t.Errorf("%s: one evaluation is %v", name, got)
		}
	}
	for name, lines := range map[string][]string{
		"a deny": {alice, "X-Active-Tenant-ID: initech"}, "no token": nil, "a program": {bearer(w.mint("reporter", map[string]any{"client_id": "reporter"}))},
	} {
		if !w.same(lines, lines) {
			t.Errorf("%s is worked out twice", name)
		}
	}
}

// What is asked of each token is asked also where the answer is kept.
func TestAKeptAnswerIsNotForATokenThatIsNoLongerGood(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	soon := bearer(w.mint("alice", map[string]any{"exp": time.Now().Add(8 * time.Second).Unix()}))
	early := bearer(w.mint("alice", map[string]any{"iat": time.Now().Add(-time.Hour).Unix()}))
	late := bearer(w.mint("alice", nil))
	if !w.same([]string{soon}, []string{early}) || !w.same([]string{early}, []string{late}) {
		t.Fatal("they do not share an answer")
	}
	user, _, err := w.db.User(ctx, w.rauth.Issuer, "alice")
	w.ok(err)
	user.TokensNotBefore = time.Now().Add(-time.Minute)
	_, err = w.db.PutUser(ctx, user.User)
	w.ok(err)
	if status, _ := w.evaluation(late); status != 200 {
		t.Errorf("a token from after the switch: %d", status)
	}
	if status, _ := w.evaluation(early); status != 401 {
		t.Errorf("a token from before the switch, with the answer kept for a later one: %d", status)
	}
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if status, _ := w.evaluation(soon); status == 401 {
			break
		}
		if time.Now().After(until) {
			t.Fatal("an expired token is answered from the cache")
		}
	}
}

// Each fact that an answer rests on ends it, and no other does.
func TestAKeptAnswerEndsWithAFactItRestsOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	alice := []string{bearer(w.mint("alice", nil))} // in acme
	other := []string{bearer(w.mint("bob", nil)), "X-Active-Tenant-ID: globex"}
	change := func(what string, do func() error, ends, stays []string) {
		t.Helper()
		forgot := w.forgot()
		_, before := w.evaluation(ends...)
		_, beside := w.evaluation(stays...)
		w.ok(do())
		if _, after := w.evaluation(ends...); after == before {
			t.Errorf("%s: the answer is still used", what)
		}
		if _, after := w.evaluation(stays...); after != beside && w.forgot() == forgot {
			t.Errorf("%s: another's answer is worked out again", what)
		}
	}
	user, _, err := w.db.User(ctx, w.rauth.Issuer, "alice")
	w.ok(err)
	change("the user", func() error { _, err := w.db.PutUser(ctx, user.User); return err }, alice, other)
	change("a membership", func() error {
		return w.db.PutMembership(ctx, iam.Membership{Tenant: "umbrella", User: user.ID, Status: "active"})
	}, alice, other)
	change("a role of the tenant", func() error { return w.db.PutRole(ctx, iam.Role{Tenant: "acme", Name: "extra"}) }, alice, other)
	change("the client, which nobody knew", func() error {
		return w.db.PutClient(ctx, iam.Client{Issuer: w.rauth.Issuer, ClientID: "web", Status: "active"})
	}, alice, []string{bearer(w.mint("bob", map[string]any{"client_id": "mobile"}))})
	change("the state of a tenant she is in", func() error {
		return w.db.PutTenant(ctx, iam.Tenant{ID: "umbrella", Slug: "umbrella", Name: "Umbrella", Status: "suspended"})
	}, alice, []string{bearer(w.mint("reporter", map[string]any{"client_id": "reporter"}))})
	change("a user who was not there", func() error {
		_, err := w.db.PutUser(ctx, iam.User{Issuer: w.rauth.Issuer, Subject: "late", Status: "active"})
		return err
	}, []string{bearer(w.mint("late", nil))}, alice)
}

func TestAnotherPolicyAnswersAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	alice := []string{bearer(w.mint("alice", nil))}
	_, before := w.evaluation(alice...)
	w.load(settings{config: map[string]any{"allow_without_tenant": true}})
	if _, after := w.evaluation(alice...); after == before {
		t.Error("the answer of another revision was used")
	}
}

func TestAnErrorIsNotKept(t *testing.T) {
	t.Parallel()
	for name, rego := range map[string]string{
		"undefined": `decision := {"allow": true} if data.directory.users[input.token.iss].late.id`,
		"a bad ttl": `decision := {"allow": true, "ttl": ttl}` + "\n\nttl := \"long\" if not data.directory.users[input.token.iss].late.id\n\nelse := 1",
	} {
		w := newWorld(t, settings{rego: "package iam.claims\n\n" + rego + "\n"})
		alice := bearer(w.mint("alice", nil))
		for range 2 {
			if status, _ := w.evaluation(alice); status != 503 {
				t.Errorf("%s: %d", name, status)
			}
		}
		_, err := w.db.PutUser(ctx, iam.User{Issuer: w.rauth.Issuer, Subject: "late", Status: "active"})
		w.ok(err)
		if status, _ := w.evaluation(alice); status != 200 {
			t.Errorf("%s, once it is defined: %d", name, status)
		}
	}
}
