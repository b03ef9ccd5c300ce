package server

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"iam-service/internal/policy"
)

const (
	kek   = "3q2+7wABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhs="
	other = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
)

// What signed identities need is reported by variable, all at once, and shows nothing of a key.
func TestTheSettingsOfAssertionsAreCheckedTogether(t *testing.T) {
	t.Parallel()
	base := []string{"DATABASE_URL=postgres://iam@db/iam", "RAUTH_URL=https://auth.example.com", "RAUTH_AUDIENCES=iam"}
	on := []string{"ASSERTION_ISSUER=https://iam.example.com", "ASSERTION_KEY_ENCRYPTION_KEY=" + kek}
	for _, c := range []struct {
		name string
		more []string
		want []string
	}{
		{name: "off"},
		{name: "on", more: on},
		{name: "on, two keys", more: append(slices.Clone(on), "ASSERTION_KEY_ENCRYPTION_KEY_2="+other, "ASSERTION_AUDIENCE=prod", "ASSERTION_ALG=EdDSA", "ASSERTION_ROTATION=1h")},
		{name: "no key", more: on[:1], want: []string{"ASSERTION_KEY_ENCRYPTION_KEY is missing"}},
		{name: "no issuer", more: on[1:], want: []string{"ASSERTION_ISSUER is missing"}},
		{name: "an audience alone", more: []string{"ASSERTION_AUDIENCE=prod"}, want: []string{"ASSERTION_ISSUER is missing"}},
		{name: "an issuer of tokens", more: []string{"ASSERTION_ISSUER=https://auth.example.com/", on[1]}, want: []string{"ASSERTION_ISSUER must be no issuer of access tokens"}},
		{name: "plain http", more: []string{"ASSERTION_ISSUER=http://iam.example.com", on[1]}, want: []string{"ASSERTION_ISSUER must be https"}},
		{name: "a second key alone", more: []string{"ASSERTION_KEY_ENCRYPTION_KEY_2=" + other}, want: []string{"ASSERTION_KEY_ENCRYPTION_KEY_2 is set, and ASSERTION_KEY_ENCRYPTION_KEY is missing"}},
		{name: "a longer cache of gateways", more: append(slices.Clone(on), "GATEWAY_CACHE=31s", "MAX_STALENESS=60s"), want: []string{"GATEWAY_CACHE must not be more than 30s"}},
		{name: "everything wrong", more: []string{
			on[0], "ASSERTION_KEY_ENCRYPTION_KEY=hunter2-hunter2", "ASSERTION_ALG=RS256", "ASSERTION_ROTATION=1m", "ASSERTION_AUDIENCE=ä",
		}, want: []string{"ASSERTION_ALG must be ES256 or EdDSA", "ASSERTION_ROTATION must be", "ASSERTION_AUDIENCE must be", "ASSERTION_KEY_ENCRYPTION_KEY must be base64"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg, err := ParseConfig(append(slices.Clone(base), c.more...))
			var faults []string
			if e, ok := errors.AsType[*ConfigError](err); ok {
				faults = e.Faults
			}
			if len(faults) != len(c.want) {
				t.Fatalf("%q, want %q", faults, c.want)
			}
			for i, want := range c.want {
				if !strings.HasPrefix(faults[i], want) {
					t.Errorf("fault %q, want %q", faults[i], want)
				}
			}
			if text := strings.Join(faults, ""); strings.Contains(text, "hunter2") || strings.Contains(text, kek[:8]) {
				t.Errorf("a fault shows a key: %s", text)
			}
			if err == nil && cfg.AssertionKEK+cfg.AssertionKEK2 != "" {
				t.Error("the keys stay in the configuration")
			}
		})
	}
}

// Gateways copy the header of signed identities where they are on: commands that print configurations see it too.
func TestTheHeaderOfAssertionsIsAmongThoseOfGateways(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		environ []string
		want    []string
	}{
		"off":                   {},
		"on":                    {environ: []string{"ASSERTION_ISSUER=https://iam.example.com"}, want: append(slices.Clone(policy.DefaultHeaders), "X-Citadel-Assertion")},
		"on, with other ones":   {environ: []string{"ASSERTION_ISSUER=https://iam.example.com", "GATEWAY_HEADERS=X-User-ID"}, want: []string{"X-User-ID", "X-Citadel-Assertion"}},
		"on, where it is named": {environ: []string{"ASSERTION_ISSUER=https://iam.example.com", "GATEWAY_HEADERS=x-citadel-assertion,X-User-ID"}, want: []string{"x-citadel-assertion", "X-User-ID"}},
	} {
		cfg, err := ReadConfig(c.environ, Needs{Gate: true})
		if err != nil || !slices.Equal(cfg.GatewayHeaders, c.want) {
			t.Errorf("%s: %q, %v", name, cfg.GatewayHeaders, err)
		}
	}
}
