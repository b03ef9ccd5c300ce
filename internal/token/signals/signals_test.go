package signals_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"iam-service/internal/dev/devrauth"
	"iam-service/internal/iam"
	"iam-service/internal/token/signals"
)

const secret = "0123456789abcdef0123456789abcdef"

// sources are a trusted issuer and a secret.
func sources(issuer string) signals.Sources {
	return signals.Sources{
		Issuers: iam.Issuers{{URL: issuer}},
		Env: func(name string) string {
			return map[string]string{"SECRET": secret, "TWO": secret + "," + strings.Repeat("x", 32), "SHORT": "short", "THREE": secret + "," + secret + "," + secret}[name]
		},
		ReadFile: func(string) ([]byte, error) { return nil, errors.New("no such file") },
		BadURL: func(u string) string {
			if strings.HasPrefix(u, "https://") || strings.HasPrefix(u, "http://127.0.0.1") {
				return ""
			}
			return "must be https"
		},
	}
}

const valid = `{name: a, issuer: "https://idp", audiences: [x], secret_env: SECRET}`

func TestAStreamHasDefaults(t *testing.T) {
	t.Parallel()
	streams, faults := signals.Parse([]byte("streams: ["+valid+"]"), sources("https://idp"))
	if len(faults) > 0 || len(streams) != 1 {
		t.Fatal(streams, faults)
	}
	s := streams[0]
	if s.MaxAge != 24*time.Hour || s.PerMinute != 600 || s.Opaque != signals.OpaqueSubject || !slices.Equal(s.Users, []string{"https://idp"}) || s.SilentAfter != 0 {
		t.Errorf("got %+v", s)
	}
	got := map[string]iam.SignalEffect{}
	for uri, effect := range s.Effects {
		got[uri[strings.LastIndex(uri, "/")+1:]] = effect
	}
	want := map[string]iam.SignalEffect{
		"session-revoked": iam.SignalRevoke, "token-claims-change": iam.SignalRevoke, "credential-change": iam.SignalRevoke, "credential-compromise": iam.SignalRevoke,
		"sessions-revoked": iam.SignalRevoke, "account-disabled": iam.SignalBlock, "account-enabled": iam.SignalUnblock, "account-purged": iam.SignalBlock,
	}
	if !maps.Equal(got, want) {
		t.Errorf("effects: got %v, want %v", got, want)
	}
	if requested := s.RequestedEvents(); len(requested) != 7 || slices.ContainsFunc(requested, func(uri string) bool { return strings.HasSuffix(uri, "/sessions-revoked") }) {
		t.Errorf("requested: %v: all but the deprecated one", requested)
	}
}

func TestEachFaultOfAStreamIsNamedByItsPlace(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, content, want string }{
		{name: "no YAML", content: "{", want: "is not the YAML or JSON"},
		{name: "an unknown field", content: `streams: [{nam: a}]`, want: "unknown field"},
		{name: "no streams", content: "streams: []", want: "1 to 50"},
		{name: "a name twice", content: "streams: [" + valid + ", " + valid + "]", want: `streams[1].name: "a" is there twice`},
		{name: "an age that is too long", content: stream("max_age: 721h"), want: "streams[0].max_age: must be 1m or more and at most 720h"},
		{name: "an age that is none", content: stream("max_age: long"), want: "streams[0].max_age: must be a duration"},
		{name: "a silence that is too short", content: stream("silent_after: 1s"), want: "streams[0].silent_after: must be 1m or more"},
		{name: "a rate", content: stream("per_minute: -1"), want: "streams[0].per_minute"},
		{name: "a URL of keys", content: stream("jwks_uri: 'http://idp/jwks'"), want: "streams[0].jwks_uri: must be https"},
		{name: "an endpoint", content: stream("management: {endpoint_url: 'http://iam'}"), want: "streams[0].management.endpoint_url: must be https"},
		{name: "users of an unknown issuer", content: stream("users: ['https://other']"), want: `streams[0].users: "https://other" is none of the trusted issuers`},
		{name: "an effect", content: stream("events: {session-revoked: delete}"), want: "streams[0].events: session-revoked: must be revoke, block, unblock, erase or none"},
		{name: "an event about the stream", content: stream("events: {'https://schemas.openid.net/secevent/ssf/event-type/verification': block}"), want: "is about the stream"},
		{name: "a short secret", content: strings.Replace(stream(""), "secret_env: SECRET", "secret_env: SHORT", 1), want: "streams[0].secret: must be 32 to 512"},
		{name: "three secrets", content: strings.Replace(stream(""), "secret_env: SECRET", "secret_env: THREE", 1), want: "streams[0].secret: must be one secret, or two"},
		{name: "a file that is not there", content: strings.Replace(stream(""), "secret_env: SECRET", "secret_file: x", 1), want: "streams[0].secret_file: cannot be read"},
	} {
		_, faults := signals.Parse([]byte(c.content), sources("https://idp"))
		if !strings.Contains(strings.Join(faults, "\n"), c.want) {
			t.Errorf("%s: got %q, want %q", c.name, faults, c.want)
		}
		if strings.Contains(strings.Join(faults, "\n"), secret) {
			t.Errorf("%s: a fault shows a secret", c.name)
		}
	}
}

// stream is the valid stream with one more field.
func stream(field string) string {
	return "streams: [" + strings.TrimSuffix(valid, "}") + ", " + field + "}]"
}

// receiver is a receiver of one stream of a provider.
func receiver(t testing.TB, more string) (*signals.Receiver, *devrauth.Server) {
	t.Helper()
	p, err := devrauth.New("", "")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(p.Handler())
	t.Cleanup(server.Close)
	p.Issuer = server.URL
	streams, faults := signals.Parse([]byte(strings.ReplaceAll(stream(more), "https://idp", server.URL)), sources(server.URL))
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	r, err := signals.New(signals.Config{Streams: streams, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r, p
}

func TestTwoSecretsAreAcceptedWhileOneIsChanged(t *testing.T) {
	t.Parallel()
	streams, faults := signals.Parse([]byte(strings.Replace(stream(""), "secret_env: SECRET", "secret_env: TWO", 1)), sources("https://idp"))
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	r, err := signals.New(signals.Config{Streams: streams, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for bearer, want := range map[string]bool{secret: true, strings.Repeat("x", 32): true, "": false, secret + "," + strings.Repeat("x", 32): false, secret[1:]: false} {
		if got := r.Admit("a", bearer) == nil; got != want {
			t.Errorf("%q: accepted %v, want %v", bearer, got, want)
		}
	}
}

// The keys of a transmitter rotate: a new one is found by its kid, one that was withdrawn signs nothing any more.
func TestTheKeysOfATransmitterRotate(t *testing.T) {
	t.Parallel()
	r, p := receiver(t, "")
	verify := func(raw string) error {
		_, err := r.Verify(context.Background(), "a", raw)
		return err
	}
	set := func() string {
		raw, err := p.SET(map[string]any{
			"aud": "x", "sub_id": map[string]any{"format": "iss_sub", "iss": p.Issuer, "sub": "alice"},
			"events": map[string]any{"https://schemas.openid.net/secevent/caep/event-type/session-revoked": map[string]any{}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	old := set()
	if err := verify(old); err != nil {
		t.Fatal(err)
	}
	if err := p.Rotate("ES256", false); err != nil {
		t.Fatal(err)
	}
	if err := verify(set()); err != nil {
		t.Errorf("by the new key: %v", err)
	}
	err := verify(old)
	if rejection, ok := errors.AsType[*signals.RejectionError](err); !ok || rejection.Code != signals.CodeInvalidKey {
		t.Errorf("by the withdrawn key: %v, want %s", err, signals.CodeInvalidKey)
	}
}

// Whatever a transmitter signs, it is a signal or a rejection that says why, and never a user of an issuer that the stream does not reach.
func FuzzClaims(f *testing.F) {
	r, p := receiver(f, "opaque: user")
	for _, seed := range []string{
		`{}`, `{"sub_id":{"format":"opaque","id":"x"},"events":{"https://schemas.openid.net/secevent/risc/event-type/account-disabled":{}}}`,
		`{"sub_id":{"format":"aliases","identifiers":[{"format":"iss_sub","iss":"https://other","sub":"alice"}]},"events":{"https://schemas.openid.net/secevent/risc/event-type/account-purged":{"event_timestamp":1e400}}}`,
		`{"sub_id":{"format":"complex","user":{"format":"iss_sub","iss":1,"sub":[]}},"events":{"https://schemas.openid.net/secevent/caep/event-type/session-revoked":{"event_timestamp":-1}}}`,
		`{"events":{"https://schemas.openid.net/secevent/ssf/event-type/verification":{"state":1}}}`, `{"events":{"https://schemas.openid.net/secevent/ssf/event-type/stream-updated":null}}`,
		`{"iat":"x","jti":7,"aud":[1,{}],"events":[]}`, `{"events":{"https://schemas.openid.net/secevent/risc/event-type/sessions-revoked":{"subject":{"subject_type":"iss-sub"}}}}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		claims := map[string]any{"aud": "x"}
		if json.Unmarshal([]byte(text), &claims) != nil {
			return
		}
		raw, err := p.SET(claims)
		if err != nil {
			return // not a number that JSON can hold
		}
		signal, err := r.Verify(context.Background(), "a", raw)
		if err != nil {
			if rejection, ok := errors.AsType[*signals.RejectionError](err); !ok || rejection.Description == "" || rejection.Code == "" {
				t.Fatalf("%s: %v", text, err)
			}
			return
		}
		for _, s := range signal.Event.Subjects {
			if s.User == "" && s.Issuer != p.Issuer {
				t.Fatalf("%s: reaches %+v", text, s)
			}
		}
		if signal.ID == "" || signal.IssuedAt.After(time.Now().Add(time.Minute)) || signal.IssuedAt.Before(time.Now().Add(-25*time.Hour)) || len(signal.Event.Subjects) > 8 {
			t.Fatalf("%s: %+v", text, signal)
		}
	})
}
