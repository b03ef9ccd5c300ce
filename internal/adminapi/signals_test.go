package adminapi_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"iam-service/internal/dev/devrauth"
	"iam-service/internal/dev/devstack"
	"iam-service/internal/iam"
)

func TestASignalRevokesTheTokensThatWereIssuedBeforeItsEvent(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		uri   string
		body  map[string]any
		older map[string]any // members of older transmitters, instead of sub_id
	}{
		{name: "session revoked", uri: caep + "session-revoked", body: map[string]any{"initiating_entity": "admin"}},
		{name: "token claims changed", uri: caep + "token-claims-change", body: map[string]any{"claims": map[string]any{"role": "x"}}},
		{name: "credential changed", uri: caep + "credential-change", body: map[string]any{"credential_type": "password", "change_type": "update"}},
		{name: "all sessions revoked, as older transmitters say", uri: risc + "sessions-revoked", older: map[string]any{"format": "iss_sub"}},
		{name: "a subject of Google's", uri: risc + "sessions-revoked", older: map[string]any{"subject_type": "iss-sub"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newSignals(t)
			before, after := w.aged("alice", time.Minute), w.aged("alice", -time.Second)
			if w.lets(before) != 200 {
				t.Fatal("the token is invalid before the signal")
			}
			at := time.Now().Add(-20 * time.Second)
			body := map[string]any{"event_timestamp": at.Unix()}
			maps.Copy(body, c.body)
			claims := w.event(c.uri, "alice", body)
			if c.older != nil {
				subject := w.subject("alice")
				delete(subject, "format")
				maps.Copy(subject, c.older)
				delete(claims, "sub_id")
				body["subject"] = subject
			}
			w.pushed(iam.OutcomeRevoked, "main", w.set(claims))
			if got := w.lets(before); got != 401 {
				t.Errorf("a token of before the event: %d, want 401", got)
			}
			if got := w.lets(after); got != 200 {
				t.Errorf("a token of after the event: %d, want 200", got)
			}
			if _, notBefore := w.state("alice"); notBefore.Unix() != at.Unix() {
				t.Errorf("tokens_not_before is %s, want the event's time %s", notBefore, at)
			}
			entry := w.want(200, "root", "GET", "/v1/audit?object="+w.user("alice"), nil).items()[0]
			if entry["actor_kind"] != "stream" || entry["actor"] != "main" || entry["via"] != "signal" || entry["action"] != "signal:"+c.uri[strings.LastIndex(c.uri, "/")+1:] {
				t.Errorf("the audit has %v", entry)
			}
			var n int
			w.OK(w.sql().QueryRow(ctx, `SELECT count(*) FROM outbox WHERE type = 'UserTokensRevoked.v1' AND object = $1`, w.user("alice")).Scan(&n))
			if n != 1 {
				t.Errorf("%d events UserTokensRevoked.v1, want 1", n)
			}
		})
	}
}

// tokens_not_before never decreases, and is not in the future: that would deny a user for as long as a transmitter likes.
func TestASignalMovesNoRevocationBackNorIntoTheFuture(t *testing.T) {
	t.Parallel()
	w := newSignals(t)
	revoke := func(at int64) string {
		return w.set(w.event(caep+"session-revoked", "alice", map[string]any{"event_timestamp": at}))
	}
	w.pushed(iam.OutcomeRevoked, "main", revoke(time.Now().Add(-time.Hour).Unix()))
	_, first := w.state("alice")
	w.pushed(iam.OutcomeUnchanged, "main", revoke(time.Now().Add(-2*time.Hour).Unix()))
	if _, now := w.state("alice"); !now.Equal(first) {
		t.Errorf("moved from %s to %s", first, now)
	}
	for name, at := range map[string]int64{"a time in the future": time.Now().Add(time.Hour).Unix(), "milliseconds": time.Now().UnixMilli()} {
		if r := w.push("main", revoke(at)); r.status != 202 {
			t.Fatalf("%s: %s", name, r)
		}
		if _, now := w.state("alice"); now.After(time.Now().Add(time.Second)) || now.Before(time.Now().Add(-time.Minute)) {
			t.Errorf("%s: tokens_not_before is %s, want about now", name, now)
		}
	}
}

func TestASignalBlocksAndUnblocksWhatSignalsHaveBlocked(t *testing.T) {
	t.Parallel()
	w := newSignals(t)
	at := time.Now().Unix() // of all events: how long this test takes must not matter
	send := func(outcome iam.SignalOutcome, name string) {
		t.Helper()
		w.pushed(outcome, "main", w.set(w.event(risc+name, "alice", map[string]any{"event_timestamp": at})))
	}
	is := func(want string) {
		t.Helper()
		if got, _ := w.state("alice"); got != want {
			t.Fatalf("alice is %s, want %s", got, want)
		}
	}
	send(iam.OutcomeBlocked, "account-disabled")
	is("blocked")
	if got := w.lets(w.aged("alice", 0)); got == 200 {
		t.Errorf("a token of a blocked user: %d", got)
	}
	send(iam.OutcomeUnblocked, "account-enabled")
	is("active")

	// A block by an administrator stays, also where a signal says the same before or after it.
	path := "/v1/users/" + w.user("alice")
	w.want(200, "root", "PATCH", path, map[string]any{"status": "blocked"})
	send(iam.OutcomeUnchanged, "account-disabled")
	send(iam.OutcomeUnchanged, "account-enabled")
	is("blocked")
	w.want(200, "root", "PATCH", path, map[string]any{"status": "active"})
	send(iam.OutcomeBlocked, "account-disabled")
	w.want(200, "root", "PATCH", path, map[string]any{"status": "blocked"}) // the administrator says so too
	send(iam.OutcomeUnchanged, "account-enabled")
	is("blocked")
	w.want(200, "root", "PATCH", path, map[string]any{"status": "active"})

	// An account that was deleted is not enabled again.
	send(iam.OutcomeBlocked, "account-purged")
	send(iam.OutcomeUnchanged, "account-enabled")
	is("blocked")
}

// A transmitter tries again what was not delivered: an older event arrives late.
func TestAnOlderSignalDoesNotSupersedeANewerOne(t *testing.T) {
	t.Parallel()
	w := newSignals(t)
	at := func(name string, ago time.Duration) string {
		return w.set(w.event(risc+name, "alice", map[string]any{"event_timestamp": time.Now().Add(-ago).Unix()}))
	}
	w.pushed(iam.OutcomeBlocked, "main", at("account-disabled", 4*time.Hour))
	w.pushed(iam.OutcomeUnblocked, "main", at("account-enabled", time.Hour))
	w.pushed(iam.OutcomeRevoked, "main", at("account-disabled", 2*time.Hour))
	if status, _ := w.state("alice"); status != "active" {
		t.Errorf("alice is %s by an event that is older than the one that enabled her", status)
	}
	w.pushed(iam.OutcomeBlocked, "main", at("account-disabled", time.Minute))
	w.pushed(iam.OutcomeUnchanged, "main", at("account-enabled", 30*time.Minute))
	if status, _ := w.state("alice"); status != "blocked" {
		t.Errorf("alice is %s by an event that is older than the one that disabled her", status)
	}
}

func TestASignalErasesAUserWhereItsStreamSaysSo(t *testing.T) {
	t.Parallel()
	w := newSignals(t)
	w.pushed(iam.OutcomeErased, "main", w.set(w.event("https://example.com/event/gone", "alice", nil)))
	if status, _ := w.state("alice"); status != "none" {
		t.Errorf("alice is %s, want erased", status)
	}
}

// The holder of the tokens of the last platform administrator must not administer, and the platform must stay administrable.
func TestOfTheLastPlatformAdministratorASignalRevokesTheTokensAlone(t *testing.T) {
	t.Parallel()
	for _, uri := range []string{risc + "account-disabled", "https://example.com/event/gone"} {
		w := newSignals(t)
		old := w.Mint("root", map[string]any{"aud": devstack.AdminAudience, "iat": time.Now().Add(-time.Minute).Unix()})
		w.want(200, old, "GET", "/v1/tenants", nil)
		w.pushed(iam.OutcomeLastAdmin, "main", w.set(w.event(uri, "root", nil)))
		w.want(401, old, "GET", "/v1/tenants", nil)
		if status, _ := w.state("root"); status != "active" {
			t.Errorf("%s: root is %s, want active", uri, status)
		}
	}
}

func TestASignalIsAppliedOnce(t *testing.T) {
	t.Parallel()
	w := newSignals(t)
	raw := w.set(w.event(risc+"account-disabled", "alice", nil))
	w.pushed(iam.OutcomeBlocked, "main", raw)
	w.want(200, "root", "PATCH", "/v1/users/"+w.user("alice"), map[string]any{"status": "active"})
	before := w.dump()
	w.pushed(iam.OutcomeDuplicate, "main", raw)
	if w.dump() != before {
		t.Error("a replayed signal has changed something")
	}

	// Several replicas at once: one of them applies it.
	raw = w.set(w.event(caep+"session-revoked", "bob", nil))
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if r := w.push("main", raw); r.status != 202 && r.status != 503 {
				t.Errorf("got %s", r)
			}
		})
	}
	all.Wait()
	var n int
	w.OK(w.sql().QueryRow(ctx, `SELECT count(*) FROM audit WHERE action = 'signal:session-revoked' AND kind = 'user'`).Scan(&n))
	if n != 1 {
		t.Errorf("it was applied %d times", n)
	}
}

// What is rejected changes nothing: no fact, no audit, no event, no remembered id. Errors are those of RFC 8935.
func TestASignalThatIsNotValidChangesNothing(t *testing.T) {
	t.Parallel()
	w := newSignals(t)
	stranger := w.stranger()
	event := func(change map[string]any) map[string]any {
		claims := w.event(risc+"account-disabled", "alice", nil)
		maps.Copy(claims, change)
		return claims
	}
	signed := func(change map[string]any) string { return w.set(event(change)) }
	header := func(alg string, header map[string]any) string {
		claims := event(map[string]any{"iss": w.RAuth.Issuer, "iat": time.Now().Unix(), "jti": "x"})
		raw, err := w.RAuth.Sign(alg, header, claims)
		w.OK(err)
		return raw
	}
	by := func(p *devrauth.Server, change map[string]any) string {
		raw, err := p.SET(event(change))
		w.OK(err)
		return raw
	}
	unsigned := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims(event(map[string]any{"iss": w.RAuth.Issuer, "iat": time.Now().Unix(), "jti": "x"})))
	unsigned.Header["typ"] = "secevent+jwt"
	none, err := unsigned.SignedString(jwt.UnsafeAllowNoneSignatureType)
	w.OK(err)
	valid := signed(nil)
	kid, _ := w.RAuth.Private("ES256")
	events := func(list map[string]any) map[string]any { return map[string]any{"events": list} }
	about := func(uri, stream string, body map[string]any) map[string]any {
		return map[string]any{"sub_id": map[string]any{"format": "opaque", "id": stream}, "events": map[string]any{uri: body}}
	}
	for _, c := range []struct {
		name    string
		stream  string // "": main
		raw     string
		headers []string
		status  int // 0: 400
		err     string
	}{
		{name: "no secret", raw: valid, headers: []string{"Authorization:"}, err: "authentication_failed"},
		{name: "another secret", raw: valid, headers: []string{"Authorization: Bearer " + strings.Repeat("x", 40)}, err: "authentication_failed"},
		{name: "the secret of another stream", raw: valid, headers: []string{"Authorization: Bearer " + strings.Repeat("OTHER", 8)}, err: "authentication_failed"},
		{name: "a token of an administrator", raw: valid, headers: []string{"Authorization: Bearer " + w.Mint("root", map[string]any{"aud": devstack.AdminAudience})}, err: "authentication_failed"},
		{name: "an unknown stream", stream: "nowhere", raw: valid, err: "authentication_failed"},
		{name: "another media type", raw: valid, headers: []string{"Content-Type: application/json"}, err: "invalid_request"},
		{name: "no token", raw: "x", err: "invalid_request"},
		{name: "an encrypted token", raw: "a.b.c.d.e", err: "invalid_request"},
		{name: "too large", raw: valid + strings.Repeat(" ", 33<<10), err: "invalid_request"},
		{name: "alg none", raw: none, err: "invalid_key"},
		{name: "no typ", raw: header("ES256", map[string]any{"typ": nil}), err: "invalid_request"},
		{name: "an access token", raw: header("ES256", map[string]any{"typ": "at+jwt"}), err: "invalid_request"},
		{name: "an extension", raw: header("ES256", map[string]any{"typ": "secevent+jwt", "crit": []string{"x"}}), err: "invalid_request"},
		{name: "an unknown key", raw: header("ES256", map[string]any{"typ": "secevent+jwt", "kid": "none"}), err: "invalid_key"},
		{name: "a key of another algorithm", raw: header("RS256", map[string]any{"typ": "secevent+jwt", "kid": kid}), err: "invalid_key"},
		{name: "a manipulated signature", raw: manipulated(valid), err: "invalid_key"},
		{name: "the key of another transmitter", raw: by(stranger, map[string]any{"iss": w.RAuth.Issuer}), err: "invalid_key"},
		{name: "the key of another stream", raw: by(w.Other, map[string]any{"iss": w.RAuth.Issuer}), err: "invalid_key"},
		{name: "another stream's issuer", raw: by(w.Other, nil), err: "invalid_issuer"},
		{name: "another issuer", raw: by(stranger, nil), err: "invalid_issuer"},
		{name: "no issuer", raw: signed(map[string]any{"iss": nil}), err: "invalid_issuer"},
		{name: "another audience", raw: signed(map[string]any{"aud": "https://other.example.com"}), err: "invalid_audience"},
		{name: "another audience in a list", raw: signed(map[string]any{"aud": []string{"https://other.example.com"}}), err: "invalid_audience"},
		{name: "no audience", raw: signed(map[string]any{"aud": nil}), err: "invalid_audience"},
		{name: "from the future", raw: signed(map[string]any{"iat": time.Now().Add(time.Minute).Unix()}), err: "invalid_request"},
		{name: "too old", raw: signed(map[string]any{"iat": time.Now().Add(-25 * time.Hour).Unix()}), err: "invalid_request"},
		{name: "no iat", raw: signed(map[string]any{"iat": nil}), err: "invalid_request"},
		{name: "no jti", raw: signed(map[string]any{"jti": nil}), err: "invalid_request"},
		{name: "with exp", raw: signed(map[string]any{"exp": time.Now().Add(time.Hour).Unix()}), err: "invalid_request"},
		{name: "with sub", raw: signed(map[string]any{"sub": "alice"}), err: "invalid_request"},
		{name: "no events", raw: signed(map[string]any{"events": nil}), err: "invalid_request"},
		{name: "an event that is no object", raw: signed(events(map[string]any{risc + "account-disabled": true})), err: "invalid_request"},
		{name: "a time that is no number", raw: signed(events(map[string]any{risc + "account-disabled": map[string]any{"event_timestamp": "now"}})), err: "invalid_request"},
		{name: "no subject", raw: signed(map[string]any{"sub_id": nil}), err: "invalid_request"},
		{name: "a subject without a format", raw: signed(map[string]any{"sub_id": map[string]any{"sub": "alice"}}), err: "invalid_request"},
		{name: "a subject of another issuer", raw: signed(map[string]any{"sub_id": map[string]any{"format": "iss_sub", "iss": w.Other.Issuer, "sub": "alice"}}), err: "access_denied"},
		{
			name: "an alias of another issuer", err: "access_denied",
			raw: signed(map[string]any{"sub_id": map[string]any{"format": "aliases", "identifiers": []any{
				w.subject("alice"), map[string]any{"format": "iss_sub", "iss": w.Other.Issuer, "sub": "alice"},
			}}}),
		},
		{name: "NUL in jti", raw: signed(map[string]any{"jti": "a\x00b"}), err: "invalid_request"},
		{name: "a line break in jti", raw: signed(map[string]any{"jti": "a\nb"}), err: "invalid_request"},
		{name: "NUL in sub", raw: signed(map[string]any{"sub_id": w.subject("ali\x00ce")}), err: "invalid_request"},
		{name: "NUL in iss", raw: signed(map[string]any{"sub_id": map[string]any{"format": "iss_sub", "iss": w.RAuth.Issuer + "\x00", "sub": "alice"}}), err: "invalid_request"},
		{name: "NUL in an opaque id", raw: signed(map[string]any{"sub_id": map[string]any{"format": "opaque", "id": "\x00"}}), err: "invalid_request"},
		{
			name: "a control character of C1 in an alias", err: "invalid_request",
			raw: signed(map[string]any{"sub_id": map[string]any{"format": "aliases", "identifiers": []any{w.subject("alice"), w.subject("b\u009bb")}}}),
		},
		{name: "NUL in state", raw: signed(about(ssf+"verification", "s1", map[string]any{"state": "\x00"})), err: "invalid_request"},
		{name: "NUL in reason", raw: signed(about(ssf+"stream-updated", "s1", map[string]any{"status": "paused", "reason": "a\x00"})), err: "invalid_request"},
		{name: "a line break in reason", raw: signed(about(ssf+"stream-updated", "s1", map[string]any{"status": "paused", "reason": "a\nb"})), err: "invalid_request"},
		{name: "NUL in the id of the stream", stream: "other", raw: by(w.Other, about(ssf+"verification", "\x00", map[string]any{})), err: "invalid_request"},
		{name: "a user of ours by another issuer's stream", stream: "other", raw: by(w.Other, map[string]any{"sub_id": w.subject("alice")}), err: "access_denied"},
		{
			name: "a verification of another stream", err: "invalid_request",
			raw: signed(map[string]any{"sub_id": map[string]any{"format": "opaque", "id": "s2"}, "events": map[string]any{ssf + "verification": map[string]any{}}}),
		},
		{
			name: "a verification next to another event", err: "invalid_request",
			raw: signed(events(map[string]any{ssf + "verification": map[string]any{}, risc + "account-disabled": map[string]any{}})),
		},
		{
			name: "an unknown status of the stream", err: "invalid_request",
			raw: signed(map[string]any{"sub_id": map[string]any{"format": "opaque", "id": "s1"}, "events": map[string]any{ssf + "stream-updated": map[string]any{"status": "x"}}}),
		},
	} {
		before := w.dump() + w.received()
		stream := c.stream
		if stream == "" {
			stream = "main"
		}
		r := w.push(stream, c.raw, c.headers...)
		var body struct{ Err, Description string }
		if r.status != 400 || json.Unmarshal(r.body, &body) != nil || body.Err != c.err || body.Description == "" {
			t.Errorf("%s: got %s, want 400 %s", c.name, r, c.err)
		}
		if r.header.Get("Content-Type") != "application/json" || r.header.Get("Content-Language") == "" || r.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: headers %v", c.name, r.header)
		}
		if w.dump()+w.received() != before {
			t.Errorf("%s: something has changed", c.name)
		}
	}
	w.pushed(iam.OutcomeBlocked, "main", valid)
}

// A transmitter has more accounts and more events than are known here: it is not an error of its own.
func TestASignalAboutNobodyOrNothingKnownIsAcknowledged(t *testing.T) {
	t.Parallel()
	w := newSignals(t)
	about := func(subject map[string]any) string {
		claims := w.event(risc+"account-disabled", "alice", nil)
		claims["sub_id"] = subject
		return w.set(claims)
	}
	for _, c := range []struct {
		name    string
		raw     string
		outcome iam.SignalOutcome
	}{
		{name: "an unknown user", raw: about(w.subject("nobody")), outcome: iam.OutcomeUnknownUser},
		{name: "an opaque id that is no subject", raw: about(map[string]any{"format": "opaque", "id": "session-1"}), outcome: iam.OutcomeUnknownUser},
		{name: "an address", raw: about(map[string]any{"format": "email", "email": "a@example.com"}), outcome: iam.OutcomeNoUser},
		{name: "a device", raw: about(map[string]any{"format": "complex", "device": map[string]any{"format": "opaque", "id": "x"}}), outcome: iam.OutcomeNoUser},
		{name: "an unknown event", raw: w.set(w.event("https://example.com/event/other", "alice", nil)), outcome: iam.OutcomeUnknownEvent},
		{name: "an event that the stream ignores", raw: w.set(w.event(risc+"credential-compromise", "alice", nil)), outcome: iam.OutcomeIgnored},
	} {
		before := w.dump()
		w.pushed(c.outcome, "main", c.raw)
		if w.dump() != before {
			t.Errorf("%s: something has changed", c.name)
		}
	}
}

func TestSubjectsOfSeveralFormatsNameAUser(t *testing.T) {
	t.Parallel()
	w := newSignals(t)
	for name, subject := range map[string]map[string]any{
		"opaque":                {"format": "opaque", "id": "alice"},
		"aliases":               {"format": "aliases", "identifiers": []any{map[string]any{"format": "email", "email": "a@example.com"}, w.subject("alice")}},
		"the user of a complex": {"format": "complex", "user": w.subject("alice")},
	} {
		w.want(200, "root", "PATCH", "/v1/users/"+w.user("alice"), map[string]any{"status": "active"})
		claims := w.event(risc+"account-disabled", "alice", nil)
		claims["sub_id"] = subject
		w.pushed(iam.OutcomeBlocked, "main", w.set(claims))
		if status, _ := w.state("alice"); status != "blocked" {
			t.Errorf("%s: alice is %s", name, status)
		}
	}
	// Of a device, a session or a tenant the user's tokens are revoked, and no more.
	w.want(200, "root", "PATCH", "/v1/users/"+w.user("bob"), map[string]any{"status": "active"})
	claims := w.event(risc+"account-disabled", "bob", nil)
	claims["sub_id"] = map[string]any{"format": "complex", "user": w.subject("bob"), "tenant": map[string]any{"format": "opaque", "id": "acme"}}
	w.pushed(iam.OutcomeRevoked, "main", w.set(claims))

	// A stream whose opaque ids are ours reaches the users of its own issuer alone.
	theirs, err := w.DB.PutUser(ctx, iam.User{Issuer: w.Other.Issuer, Subject: "eve", Status: iam.UserActive})
	w.OK(err)
	for id, want := range map[string]iam.SignalOutcome{theirs: iam.OutcomeBlocked, w.user("carol"): iam.OutcomeUnknownUser, "x": iam.OutcomeUnknownUser} {
		claims := w.event(risc+"account-disabled", "", nil)
		claims["sub_id"] = map[string]any{"format": "opaque", "id": id}
		raw, err := w.Other.SET(claims)
		w.OK(err)
		w.pushed(want, "other", raw)
	}
}

// Where unknown users get roles by their tokens' claims, only a row can revoke those.
func TestASignalAboutAnUnknownUserIsRememberedWhereClaimsGrantRoles(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{streams: twoStreams, mapped: true})
	w.pushed(iam.OutcomeRevoked, "main", w.set(w.event(caep+"session-revoked", "newcomer", nil)))
	if status, notBefore := w.state("newcomer"); status != "active" || notBefore.IsZero() {
		t.Errorf("newcomer is %s, with tokens_not_before %s", status, notBefore)
	}
	if got := w.lets(w.aged("newcomer", time.Minute)); got != 401 {
		t.Errorf("a token of before the event: %d, want 401", got)
	}
	claims := w.event(caep+"session-revoked", "", nil)
	claims["sub_id"] = map[string]any{"format": "opaque", "id": "session-1"}
	w.pushed(iam.OutcomeUnknownUser, "main", w.set(claims)) // it may be no user at all
}

func TestAStreamIsVerifiedAndItsStatusIsKnown(t *testing.T) {
	t.Parallel()
	w := newSignals(t)
	stream := func(name string, body map[string]any) string {
		return w.set(map[string]any{"aud": []string{"x", receiver}, "sub_id": map[string]any{"format": "opaque", "id": "s1"}, "events": map[string]any{ssf + name: body}})
	}
	w.pushed(iam.OutcomeVerified, "main", stream("verification", map[string]any{"state": "first"}))
	entry := w.want(200, "root", "GET", "/v1/audit?kind=signal", nil).items()[0]
	after, _ := entry["after"].(map[string]any)
	if entry["object"] != "main" || after["state"] != "first" {
		t.Errorf("the audit has %v", entry)
	}
	w.pushed(iam.OutcomeVerified, "main", stream("verification", map[string]any{})) // begun by the transmitter

	// After a request of ours, the state must be its.
	w.exec(`UPDATE signal_streams SET expected = 'mine'`)
	before := w.dump() + w.received()
	if r := w.push("main", stream("verification", map[string]any{"state": "forged"})); r.status != 400 || r.field("err") != "invalid_state" {
		t.Errorf("another state: got %s, want invalid_state", r)
	}
	if w.dump()+w.received() != before {
		t.Error("another state has changed something")
	}
	w.pushed(iam.OutcomeVerified, "main", stream("verification", map[string]any{"state": "mine"}))
	w.pushed(iam.OutcomeStreamUpdated, "main", stream("stream-updated", map[string]any{"status": "paused", "reason": "maintenance"}))
	streams, err := w.DB.SignalStreams(ctx)
	w.OK(err)
	if len(streams) != 1 || streams[0].Status != "paused" || streams[0].Reason != "maintenance" || streams[0].State != "mine" || streams[0].VerifiedAt.IsZero() {
		t.Errorf("the stream is %+v", streams)
	}
	// The chain is not erasable: it has what the transmitter says, and not the text that it wrote for people.
	entry = w.want(200, "root", "GET", "/v1/audit?kind=signal&action=signal:stream-updated", nil).items()[0]
	if after, _ := entry["after"].(map[string]any); after["status"] != "paused" || strings.Contains(fmt.Sprint(entry), "maintenance") {
		t.Errorf("the audit has %v", entry)
	}
}

// A transmitter that is away makes no SET invalid: 503, and it sends it again.
func TestASignalWhoseKeysCannotBeFetchedIsTriedAgain(t *testing.T) {
	t.Parallel()
	w := newSignals(t)
	raw := w.set(w.event(caep+"session-revoked", "alice", nil))
	w.RAuth.SetGone(true)
	if r := w.push("main", raw); r.status != 503 || r.header.Get("Retry-After") == "" {
		t.Errorf("got %s, want 503 with Retry-After", r)
	}
}

func TestTheRateOfAStreamIsLimited(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{streams: func(w *adminWorld) string {
		return strings.ReplaceAll(twoStreams(w), "    stream_id: s1\n", "    per_minute: 2\n")
	}})
	raw := w.set(w.event(caep+"session-revoked", "alice", nil))
	for i, want := range []int{202, 202, 429} {
		if r := w.push("main", raw); r.status != want || want == 429 && r.header.Get("Retry-After") == "" {
			t.Errorf("%d: got %s, want %d", i, r, want)
		}
	}
}
