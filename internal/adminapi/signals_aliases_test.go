package adminapi_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"iam-service/internal/dev/devstack"
	"iam-service/internal/iam"
)

// newAliases is a world with a stream that reaches the users of two issuers.
func newAliases(t testing.TB, mapped bool) *adminWorld {
	t.Helper()
	return newWorld(t, settings{mapped: mapped, streams: func(w *adminWorld) string {
		return strings.Replace(twoStreams(w), "    stream_id: s1\n", "    users: ["+w.RAuth.Issuer+", "+w.Other.Issuer+"]\n", 1)
	}})
}

// aliases are the claims of a SET about a person by several identifiers.
func (w *adminWorld) aliases(uri string, identifiers ...map[string]any) map[string]any {
	claims := w.event(uri, "", nil)
	claims["sub_id"] = map[string]any{"format": "aliases", "identifiers": identifiers}
	return claims
}

// other is a subject identifier of a user of the other issuer.
func (w *adminWorld) other(name string) map[string]any {
	return map[string]any{"format": "iss_sub", "iss": w.Other.Issuer, "sub": name}
}

// statusOf is the status of a user of any issuer, and whether their tokens are revoked.
func (w *adminWorld) statusOf(issuer, name string) (status string, revoked bool) {
	w.Helper()
	u, found, err := w.DB.User(ctx, issuer, name)
	w.OK(err)
	if !found {
		return "none", false
	}
	return u.Status, !u.TokensNotBefore.IsZero()
}

// RFC 9493, section 3.2.8: all identifiers name one subject, who is a user of each issuer here.
func TestASignalIsAppliedToEachUserWhomItsAliasesName(t *testing.T) {
	t.Parallel()
	w := newAliases(t, false)
	theirs, err := w.DB.PutUser(ctx, iam.User{Issuer: w.Other.Issuer, Subject: "alice-2", Status: iam.UserActive})
	w.OK(err)
	raw := w.set(w.aliases(risc+"account-disabled", w.other("alice-2"), w.subject("alice"), w.other("nobody"), w.subject("alice"),
		map[string]any{"format": "email", "email": "alice@example.com"}))
	w.pushed(iam.OutcomeBlocked, "main", raw)
	for issuer, name := range map[string]string{w.RAuth.Issuer: "alice", w.Other.Issuer: "alice-2"} {
		if status, revoked := w.statusOf(issuer, name); status != "blocked" || !revoked {
			t.Errorf("%s is %s, revoked %v; want blocked and revoked", name, status, revoked)
		}
	}
	if status, _ := w.statusOf(w.Other.Issuer, "nobody"); status != "none" {
		t.Errorf("nobody is %s, want no user", status)
	}

	// The audit has an entry of the signal for each user, in order of id, and the change of each.
	want := []string{theirs, w.user("alice")}
	slices.Sort(want)
	var got []string
	for _, entry := range w.want(200, "root", "GET", "/v1/audit?kind=signal", nil).items() {
		after, _ := entry["after"].(map[string]any)
		user, _ := after["user"].(string)
		got = append(got, user)
		if after["outcome"] != "blocked" || entry["actor"] != "main" {
			t.Errorf("the audit has %v", entry)
		}
		if changes := w.want(200, "root", "GET", "/v1/audit?kind=user&object="+user, nil).items(); len(changes) == 0 || changes[0]["action"] != "signal:account-disabled" {
			t.Errorf("the audit of %s has %v", user, changes)
		}
	}
	slices.Reverse(got) // the newest is first
	if !slices.Equal(got, want) {
		t.Errorf("the audit has signals about %v, want %v", got, want)
	}

	before := w.dump()
	w.pushed(iam.OutcomeDuplicate, "main", raw)
	if w.dump() != before {
		t.Error("a replayed signal has changed something")
	}
	w.pushed(iam.OutcomeUnblocked, "main", w.set(w.aliases(risc+"account-enabled", w.subject("alice"), w.other("alice-2"))))
	if status, _ := w.statusOf(w.Other.Issuer, "alice-2"); status != "active" {
		t.Errorf("alice-2 is %s, want active", status)
	}
}

// Accounts of one issuer that were linked are two users as well.
func TestOfSeveralUsersOfASignalOnlyTheLastPlatformAdministratorIsNotBlocked(t *testing.T) {
	t.Parallel()
	for _, uri := range []string{risc + "account-disabled", "https://example.com/event/gone"} {
		w := newAliases(t, false)
		old := w.Mint("root", map[string]any{"aud": devstack.AdminAudience, "iat": time.Now().Add(-time.Minute).Unix()})
		w.want(200, old, "GET", "/v1/tenants", nil)
		if r := w.push("main", w.set(w.aliases(uri, w.subject("alice"), w.subject("root"), w.subject("bob")))); r.status != 202 {
			t.Fatalf("%s: got %s", uri, r)
		}
		w.want(401, old, "GET", "/v1/tenants", nil)
		if status, revoked := w.state("root"); status != "active" || revoked.IsZero() {
			t.Errorf("%s: root is %s, tokens_not_before %s; want active and revoked", uri, status, revoked)
		}
		for _, name := range []string{"alice", "bob"} {
			if status, _ := w.state(name); status == "active" {
				t.Errorf("%s: %s is active", uri, name)
			}
		}
	}
}

// Tokens of the alias that is no user yet may have claims that grant roles: only a row can revoke them, and the row of the
// other alias does not.
func TestAnAliasThatIsNoUserYetIsRevokedWhereClaimsGrantRoles(t *testing.T) {
	t.Parallel()
	w := newAliases(t, true)
	for _, known := range []string{"alice", "newcomer"} {
		unknown := known + "-2"
		w.pushed(iam.OutcomeRevoked, "main", w.set(w.aliases(caep+"session-revoked", w.subject(known), w.other(unknown))))
		for issuer, name := range map[string]string{w.RAuth.Issuer: known, w.Other.Issuer: unknown} {
			if status, revoked := w.statusOf(issuer, name); status != "active" || !revoked {
				t.Errorf("%s is %s, revoked %v; want active and revoked", name, status, revoked)
			}
		}
	}
	w.pushed(iam.OutcomeUnknownUser, "main", w.set(w.aliases(risc+"account-enabled", w.other("third"))))
	if status, _ := w.statusOf(w.Other.Issuer, "third"); status != "none" {
		t.Errorf("third is %s: nothing was to be revoked", status)
	}
}
