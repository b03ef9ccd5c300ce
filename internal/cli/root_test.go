package cli

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// A mistake in calling a command is status 2 and does nothing, at every level: a job that migrates nothing must not succeed.
func TestAMistypedCommandIsAUsageError(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"":                             `"iam-service" needs a command`,
		"migrat up":                    `unknown command "migrat" for "iam-service"; did you mean "migrate"?`,
		"migrate":                      `"iam-service migrate" needs a command`,
		"migrate upp":                  `unknown command "upp" for "iam-service migrate"; did you mean "up"?`,
		"audit verfy":                  `unknown command "verfy" for "iam-service audit"; did you mean "verify"?`,
		"audit verfy --anchors x":      `unknown command "verfy" for "iam-service audit"; did you mean "verify"?`,
		"events park":                  `unknown command "park" for "iam-service events"; did you mean "parked"?`,
		"policy roolback":              `unknown command "roolback" for "iam-service policy"; did you mean "rollback"?`,
		"nonsense":                     `unknown command "nonsense" for "iam-service"; see iam-service --help`,
		"serve now":                    `unknown command "now" for "iam-service serve"`,
		"migrate up now":               `unknown command "now" for "iam-service migrate up"`,
		"migrate up --grant":           `unknown flag: --grant (iam-service migrate up --help)`,
		"export":                       `accepts 1 arg(s), received 0: iam-service export TENANT`,
		"audit prune":                  `required flag(s) "keep" not set: iam-service audit prune --keep DURATION`,
		"policy check a b":             `accepts at most 1 arg(s), received 2`,
		"grant-admin":                  `required flag(s) "subject" not set`,
		"audit prune --keep yesterday": `invalid argument "yesterday" for "--keep" flag`,
	} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			cmd := Command(nil)
			var out bytes.Buffer
			cmd.SetArgs(strings.Fields(line))
			cmd.SetOut(&out)
			cmd.SetErr(&out)
			err := cmd.ExecuteContext(t.Context())
			if _, is := errors.AsType[*usageError](err); !is || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
		})
	}
	for _, line := range []string{"--help", "migrate --help", "help migrate", "policy explain --help", "version --json"} {
		cmd := Command(nil)
		cmd.SetArgs(strings.Fields(line))
		cmd.SetOut(&bytes.Buffer{})
		if err := cmd.ExecuteContext(t.Context()); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
}

// Every command that reports something reports it as JSON where that is asked for.
func TestEveryCommandThatReportsDoesSoAsJSON(t *testing.T) {
	t.Parallel()
	silent := []string{
		"serve", "export", "openapi", // JSON by themselves
		"events retry", "events skip", "policy watch", "policy fmt", "policy build", "policy sign", "policy new", "migrate wait", // they do, and report nothing
		"policy check", "policy test", "gateway probe", "doctor", // --format
		"requests", "ending", "access changes", "access export", "access matrix", "access unused", "access user", "access who", // --format
		"gateway echo",   // logs
		"gateway config", // prints files
	}
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, c := range cmd.Commands() {
			walk(c)
		}
		name := strings.TrimPrefix(cmd.CommandPath(), "iam-service ")
		if cmd.HasSubCommands() || cmd.Hidden || slices.Contains(silent, name) {
			return
		}
		if cmd.Flags().Lookup("json") == nil {
			t.Errorf("%s has no --json", name)
		}
	}
	walk(Command(nil))
}
