package cli

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"iam-service/internal/policy"
	"iam-service/internal/policy/authoring"
	"iam-service/internal/server"
)

func policyCommand(environ []string) *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "Author policies (new, check, test, watch, fmt, build, sign, verify, inspect), compare and explain them (preview, explain), and activate them (push, activate, rollback, list)"}
	cmd.AddCommand(policyCheckCommand(environ), policyTestCommand(), policyWatchCommand(), policyFormatCommand(), policyBuildCommand(environ), policySignCommand(environ),
		policyVerifyCommand(environ), policyInspectCommand(), policyNewCommand(),
		policyPreviewCommand(environ), policyExplainCommand(environ), policyPushCommand(environ), policyActivateCommand(environ), policyRollbackCommand(environ), policyListCommand(environ))
	return cmd
}

// checkOptions are the settings of serve that a policy must be compatible with.
func checkOptions(environ []string) (authoring.CheckOptions, error) {
	cfg, err := server.ReadConfig(environ, server.Needs{Gate: true})
	if err != nil {
		return authoring.CheckOptions{}, err
	}
	return authoring.CheckOptions{
		Headers: cfg.GatewayHeaders,
		Admin:   cfg.AdminAudience != "",
		Child:   []string{os.Args[0], policy.ChildCommand},
	}, nil
}

// senders names the header in which gateways send each request fact.
var senders = map[string]string{
	"input.request.method": "X-Forwarded-Method", "input.request.scheme": "X-Forwarded-Proto", "input.request.host": "X-Forwarded-Host",
	"input.request.path": "X-Forwarded-Uri", "input.request.raw_path": "X-Forwarded-Uri", "input.request.client_ip": "X-Forwarded-For",
}

// printRevision prints what a policy author needs: revision, headers, cache keys, warnings.
func printRevision(out io.Writer, r *policy.Revision) {
	row := func(name string, values ...string) {
		for _, v := range values {
			fmt.Fprintf(out, "%-10s %s\n", name, v)
			name = ""
		}
	}
	row("revision", r.ID+" of "+r.Source)
	row("headers", strings.Join(r.Headers, ", "))
	row("cache key", r.CacheKey...)
	for _, fact := range r.RequestFacts {
		row("gateways", "must send "+senders[fact]+": the policy reads "+fact+"; requests without it get 403 request_facts_missing")
	}
	if r.Capped {
		row("decisions", "are cached for at most a second: the policy is not deterministic")
	} else {
		row("decisions", "are cached until a fact that they depend on changes")
	}
	switch {
	case r.Authzen == nil:
		row("authzen", "is off: the policy has no rule "+policy.AuthzenEntrypoint)
	case len(r.Authzen.CacheKey) == 0:
		row("authzen", "its decisions depend on nothing of a request")
	default:
		row("authzen", "its cache key:")
		row("", r.Authzen.CacheKey...)
	}
	for _, w := range slices.Concat(r.Warnings, r.Unvalidated) {
		row("warning", w)
	}
}
