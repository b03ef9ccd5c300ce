package server

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// What is wrong with the settings of gateways is reported by variable, all at once, and shows nothing of a secret.
func TestTheSettingsOfGatewaysAreChecked(t *testing.T) {
	t.Parallel()
	base := []string{"DATABASE_URL=postgres://iam@db/iam", "RAUTH_URL=https://auth.example.com", "RAUTH_AUDIENCES=iam"}
	secret := strings.Repeat("hunter2-", 4)
	for _, c := range []struct {
		name    string
		more    []string
		want    []string // prefixes of the faults
		secrets int
	}{
		{name: "none"},
		{name: "a secret", more: []string{"GATEWAY_SECRET=" + secret}, secrets: 1},
		{name: "two secrets", more: []string{"GATEWAY_SECRET=" + secret + "," + secret[1:] + "x"}, secrets: 2},
		{name: "three secrets", more: []string{"GATEWAY_SECRET=" + secret + "," + secret + "," + secret}, want: []string{"GATEWAY_SECRET must be one secret, or two"}},
		{name: "a short secret", more: []string{"GATEWAY_SECRET=" + secret[1:]}, want: []string{"GATEWAY_SECRET must be 32 to 512 printable"}},
		{name: "a short second secret", more: []string{"GATEWAY_SECRET=" + secret + ",hunter2"}, want: []string{"GATEWAY_SECRET must be 32 to 512 printable"}},
		{name: "a second secret that is empty", more: []string{"GATEWAY_SECRET=" + secret + ","}, want: []string{"GATEWAY_SECRET must be 32 to 512 printable"}},
		{name: "a blank after the comma", more: []string{"GATEWAY_SECRET=" + secret + ", " + secret}, want: []string{"GATEWAY_SECRET must be 32 to 512 printable"}},
		{name: "a secret that no header can carry", more: []string{"GATEWAY_SECRET=" + secret + "ü"}, want: []string{"GATEWAY_SECRET must be 32 to 512 printable"}},
		{name: "a cache", more: []string{"GATEWAY_CACHE=10s"}},
		{name: "a cache beyond the promise", more: []string{"GATEWAY_CACHE=11s"}, want: []string{"GATEWAY_CACHE must be whole seconds, and not more than MAX_STALENESS (10s), is 11s"}},
		{name: "a cache of a part of a second", more: []string{"GATEWAY_CACHE=1500ms"}, want: []string{"GATEWAY_CACHE must be whole seconds"}},
		{name: "a cache of less than nothing", more: []string{"GATEWAY_CACHE=-1s"}, want: []string{"GATEWAY_CACHE must be whole seconds"}},
		{name: "a placeholder", more: []string{"GATEWAY_EMPTY_VALUE=-"}},
		{name: "a placeholder that reads as a list", more: []string{"GATEWAY_EMPTY_VALUE=a,b"}, want: []string{"GATEWAY_EMPTY_VALUE must be"}},
		{name: "a placeholder with a blank", more: []string{"GATEWAY_EMPTY_VALUE=a b"}, want: []string{"GATEWAY_EMPTY_VALUE must be"}},
		{name: "a long placeholder", more: []string{"GATEWAY_EMPTY_VALUE=" + strings.Repeat("-", 17)}, want: []string{"GATEWAY_EMPTY_VALUE must be"}},
		{name: "a placeholder out of ASCII", more: []string{"GATEWAY_EMPTY_VALUE=–"}, want: []string{"GATEWAY_EMPTY_VALUE must be"}},
		{name: "a certificate without its key", more: []string{"GATEWAY_CERT_FILE=/nowhere"}, want: []string{"GATEWAY_CERT_FILE and GATEWAY_KEY_FILE go together"}},
		{name: "authorities without a certificate", more: []string{"GATEWAY_CLIENT_CA_FILE=/nowhere"}, want: []string{"GATEWAY_CLIENT_CA_FILE"}},
		{name: "a secret that no gateway can send", more: []string{"GATEWAY_SECRET=" + secret, "GATEWAY_PROFILE=opa"}, want: []string{"GATEWAY_SECRET is set, and GATEWAY_PROFILE is opa alone"}},
		{name: "a secret that some gateways can send", more: []string{"GATEWAY_SECRET=" + secret, "GATEWAY_PROFILE=opa,kong"}, secrets: 1},
		{name: "plugins without a secret", more: []string{"GATEWAY_PROFILE=opa"}},
		{name: "everything", more: []string{"GATEWAY_SECRET=hunter2", "GATEWAY_CACHE=1h", "GATEWAY_EMPTY_VALUE=ä", "GATEWAY_HEADERS=Cookie,X_A"}, want: []string{
			`GATEWAY_HEADERS: "Cookie"`, "GATEWAY_EMPTY_VALUE must be", "GATEWAY_SECRET must be", "GATEWAY_CACHE must be",
		}},
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
			for _, want := range c.want {
				if !slices.ContainsFunc(faults, func(f string) bool { return strings.HasPrefix(f, want) }) {
					t.Errorf("%q do not have %q", faults, want)
				}
			}
			if strings.Contains(strings.Join(faults, ""), "hunter2") {
				t.Errorf("a fault shows a secret: %q", faults)
			}
			if err == nil && len(cfg.gatewaySecrets) != c.secrets {
				t.Errorf("%d secrets", len(cfg.gatewaySecrets))
			}
		})
	}
}
