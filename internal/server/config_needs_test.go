package server

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A command reports faults of the settings that it needs, all of them, and of no others.
func TestACommandReportsTheFaultsOfItsOwnSettings(t *testing.T) {
	t.Parallel()
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	broken := []string{
		"DATABASE_URL=postgres://iam@db/iam?sslmode=bad", "RAUTH_URL=http://auth.example.com", "RAUTH_INSECURE_HTTP=perhaps", "RAUTH_TOKEN_TYPES=at+jwt,SAML",
		"GATEWAY_HEADERS=Host", "UNKNOWN_USERS=maybe", "HEADER_BUDGET=0", "OPS_ADDR=9090", "POLICY_KEY_FILE=/nowhere", "MAX_STALENESS=1s",
		"DECISIONS_DATABASE_URL_FILE=" + empty, "RAUTH_ADMIN_CLIENT_ID=iam",
	}
	for _, c := range []struct {
		name    string
		environ []string
		needs   Needs
		want    []string // prefixes of the faults
	}{
		{name: "nothing", environ: broken},
		{name: "database", environ: broken, needs: Needs{Database: true}, want: []string{"DATABASE_URL cannot be used: sslmode"}},
		{name: "database, unset", needs: Needs{Database: true}, want: []string{"DATABASE_URL is missing"}},
		{name: "database, the direct one", environ: []string{"DATABASE_LISTEN_URL=postgres://iam@db/iam"}, needs: Needs{Database: true}},
		{name: "issuers", environ: broken, needs: Needs{Issuers: true}, want: []string{"RAUTH_INSECURE_HTTP cannot be read", "RAUTH_TOKEN_TYPES", "RAUTH_URL must be https"}},
		{name: "issuers, unset", needs: Needs{Issuers: true}},
		{name: "R-Auth, unset", needs: Needs{Issuers: true, RAuth: true}, want: []string{"RAUTH_AUDIENCES is missing", "RAUTH_URL is missing"}},
		{name: "gate", environ: broken, needs: Needs{Gate: true}, want: []string{"GATEWAY_HEADERS"}},
		{name: "budgets", environ: broken, needs: Needs{Budgets: true}, want: []string{"HEADER_BUDGET must be more than 0", "UNKNOWN_USERS must be deny or mapped"}},
		{name: "signature", environ: broken, needs: Needs{Signature: true}, want: []string{"POLICY_KEY_FILE cannot be read"}},
		{name: "decisions", environ: broken, needs: Needs{Decisions: true}, want: []string{"DECISIONS_DATABASE_URL_FILE names an empty file"}},
		{name: "provider", environ: broken, needs: Needs{Provider: true}, want: []string{"RAUTH_ADMIN_CLIENT_ID is set"}},
		{name: "ops", environ: broken, needs: Needs{Ops: true}, want: []string{"OPS_ADDR must be host:port"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := ReadConfig(c.environ, c.needs)
			var faults []string
			if err != nil {
				faults = strings.Split(err.Error(), "\n  ")[1:]
			}
			for _, want := range c.want {
				found := false
				for i, f := range faults {
					if strings.HasPrefix(f, want) {
						faults, found = append(faults[:i], faults[i+1:]...), true
						break
					}
				}
				if !found {
					t.Errorf("no fault %q: %v", want, err)
				}
			}
			if len(faults) > 0 {
				t.Errorf("unexpected: %q", faults)
			}
		})
	}
}

func TestSettingsThatAreNotNeededKeepTheirDefaults(t *testing.T) {
	t.Parallel()
	cfg, err := ReadConfig([]string{"HEADER_BUDGET=17", "OPS_ADDR=127.0.0.1:1"}, Needs{Ops: true})
	if err != nil || cfg.HeaderBudget != 3500 || cfg.OpsAddr != "127.0.0.1:1" {
		t.Errorf("%d, %s, %v", cfg.HeaderBudget, cfg.OpsAddr, err)
	}
}
