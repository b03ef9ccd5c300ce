package adminapi_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"iam-service/internal/dev/devrauth"
	"iam-service/internal/dev/world"
	"iam-service/internal/iam"
)

const (
	caep     = "https://schemas.openid.net/secevent/caep/event-type/"
	risc     = "https://schemas.openid.net/secevent/risc/event-type/"
	ssf      = "https://schemas.openid.net/secevent/ssf/event-type/"
	receiver = "https://iam.example.com/v1/signals"
)

// twoStreams are a stream of the main issuer, and one of the other issuer. A secret is the name of its variable, repeated.
func twoStreams(w *adminWorld) string {
	return `
streams:
  - name: main
    issuer: ` + w.RAuth.Issuer + `
    audiences: [` + receiver + `]
    stream_id: s1
    secret_env: MAIN
    events: {https://example.com/event/gone: erase, credential-compromise: none}
  - name: other
    issuer: ` + w.Other.Issuer + `
    audiences: [` + receiver + `]
    secret_env: OTHER
    opaque: user
`
}

func newSignals(t testing.TB) *adminWorld {
	t.Helper()
	return newWorld(t, settings{streams: twoStreams})
}

// subject is a subject identifier of a user of the main issuer.
func (w *adminWorld) subject(name string) map[string]any {
	return map[string]any{"format": "iss_sub", "iss": w.RAuth.Issuer, "sub": name}
}

// event are the claims of a SET about a user of the main issuer.
func (w *adminWorld) event(uri, user string, body map[string]any) map[string]any {
	if body == nil {
		body = map[string]any{}
	}
	return map[string]any{"aud": receiver, "sub_id": w.subject(user), "events": map[string]any{uri: body}}
}

// set is a SET of the main issuer.
func (w *adminWorld) set(claims map[string]any) string {
	w.Helper()
	raw, err := w.RAuth.SET(claims)
	w.OK(err)
	return raw
}

// push sends a SET to a stream with its secret, unless a header says otherwise, and waits until the gateways' listener
// has received the change.
func (w *adminWorld) push(stream, raw string, headers ...string) reply {
	w.Helper()
	req := w.request("POST", "/v1/signals/"+stream, "application/secevent+jwt", raw)
	req.Header.Set("Authorization", "Bearer "+strings.Repeat(strings.ToUpper(stream), 40)[:40])
	r := w.do(req, headers)
	w.Settle()
	return r
}

// pushed is push that must be accepted with an outcome.
func (w *adminWorld) pushed(outcome iam.SignalOutcome, stream, raw string) {
	w.Helper()
	if r := w.push(stream, raw); r.status != http.StatusAccepted || len(r.body) > 0 {
		w.Fatalf("got %s, want 202 without a body", r)
	}
	if got, _ := w.outcomes.Load(stream); got != string(outcome) {
		w.Fatalf("the outcome is %v, want %s", got, outcome)
	}
}

// state is a user's status and tokens_not_before.
func (w *adminWorld) state(user string) (status string, notBefore time.Time) {
	w.Helper()
	u, found, err := w.DB.User(ctx, w.RAuth.Issuer, user)
	w.OK(err)
	if !found {
		return "none", time.Time{}
	}
	return u.Status, u.TokensNotBefore
}

// aged is a token of a user that was issued some time ago.
func (w *adminWorld) aged(user string, ago time.Duration) string {
	return w.Mint(user, map[string]any{"iat": time.Now().Add(-ago).Unix()})
}

// lets reports the status of an enrichment with a token.
func (w *adminWorld) lets(token string) int {
	w.Helper()
	status, _, _ := w.Ask(world.Get, world.Bearer(token))
	return status
}

// received is what is stored of signals.
func (w *adminWorld) received() (all string) {
	w.Helper()
	for _, table := range []string{"signals", "signal_streams", "signal_accounts"} {
		w.OK(w.sql().QueryRow(ctx, "SELECT $1 || coalesce((SELECT string_agg(x::text, E'\n' ORDER BY x::text) FROM "+table+" x), '')", all).Scan(&all))
	}
	return all
}

// stranger is a provider that no stream names.
func (w *adminWorld) stranger() *devrauth.Server {
	w.Helper()
	p, err := devrauth.New("https://stranger.example.com", "")
	w.OK(err)
	return p
}

func manipulated(raw string) string {
	parts := strings.Split(raw, ".")
	return parts[0] + "." + parts[1] + "." + strings.Repeat("A", len(parts[2]))
}
