package token

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"iam-service/internal/dev/logbuffer"
	"iam-service/internal/iam"
)

// Why a token is rejected is logged, whatever the caller.
func TestARejectionRevealsNothingOfTheToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.Issuers[0].AuthorizedParties = []string{"web"} })
	const planted = "planted"
	for name, raw := range map[string]string{
		"typ of the header": w.sign(map[string]any{"typ": planted}, nil), "kid": w.sign(map[string]any{"kid": planted}, nil), "alg": w.sign(map[string]any{"alg": planted}, nil),
		"iss": w.sign(nil, map[string]any{"iss": planted}), "aud": w.sign(nil, map[string]any{"aud": planted}), "exp": w.sign(nil, map[string]any{"exp": planted}),
		"sub": w.sign(nil, map[string]any{"sub": planted + "\n"}), "client_id": w.sign(nil, map[string]any{"client_id": planted}), "azp": w.sign(nil, map[string]any{"azp": planted}),
		"typ": w.sign(nil, map[string]any{"typ": planted}), "token_use": w.sign(nil, map[string]any{"token_use": planted}),
	} {
		if _, err := w.verify(raw); iam.KindOf(err) != iam.Unauthenticated || strings.Contains(err.Error(), planted) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRejectionsAreCountedAndLoggedOnceASecond(t *testing.T) {
	t.Parallel()
	var lines logbuffer.Buffer
	counted := map[Reason]int{}
	w := newWorld(t, func(c *Config) {
		c.Log = slog.New(slog.NewJSONHandler(&lines, nil))
		c.OnRejected = func(r Reason) { counted[r]++ }
	})
	stopped := time.Now()
	w.v.cfg.now = func() time.Time { return stopped.Add(time.Duration(w.clock.Load())) }
	rejected := func(raw string) {
		_, err := w.verify(raw)
		w.v.Rejected(ctx, err, slog.String("decision_id", "d"))
	}
	wrong := w.sign(nil, map[string]any{"aud": "planted"})
	for range 10 {
		rejected(wrong)
	}
	rejected("nonsense")
	rejected(w.sign(nil, nil)) // a good one
	w.v.Rejected(ctx, unavailable("keys_timeout", nil))
	w.later(time.Second)
	rejected(wrong)
	if counted[Audience] != 11 || counted[Malformed] != 1 || len(counted) != 2 {
		t.Errorf("%v", counted)
	}
	log := lines.String()
	if strings.Count(log, "token rejected") != 3 || strings.Contains(log, "planted") {
		t.Error(log)
	}
	for _, want := range []string{
		`"msg":"token rejected","decision_id":"d","reason":"audience","issuer":"` + w.rauth.Issuer + `","count":1}`, `"reason":"audience","issuer":"` + w.rauth.Issuer + `","count":10}`,
		`"reason":"malformed","issuer":"","count":1}`,
	} {
		if !strings.Contains(log, want) {
			t.Errorf("no line with %s: %s", want, log)
		}
	}
}
