package cli

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"

	"github.com/spf13/cobra"

	"iam-service/internal/policy"
	"iam-service/internal/policy/authoring"
	"iam-service/internal/server"
)

func policyCheckCommand(environ []string) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "check [FOLDER|BUNDLE]",
		Short: "Check a policy and print its cache key",
		Long: "Compile a folder in strict mode with its schemas and the sandbox; require METADATA on every rule that grants or denies; report walks\n" +
			"over the directory, rules that are never defined or never reached, and style; and validate it by the gate of serve. A bundle, or the\n" +
			"embedded policy (without an argument), is validated by the gate only. Then print the cache key of decisions: the paths of the policy\n" +
			"input that the policy can read. GATEWAY_HEADERS and ADMIN_AUDIENCE are read from the environment, as serve reads them.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains([]string{"text", "json", "sarif"}, output) {
				return fmt.Errorf("--format must be text, json or sarif, not %q", output)
			}
			o, err := checkOptions(environ)
			if err != nil {
				return err
			}
			var found []authoring.Finding
			var revision *policy.Revision
			if len(args) == 0 {
				engine, err := policy.NewEngine(policy.Config{Headers: o.Headers, Admin: o.Admin, Log: slog.New(slog.DiscardHandler)})
				if err != nil {
					return server.Faults("GATEWAY_HEADERS: " + err.Error())
				}
				if err := server.OfferEmbedded(cmd.Context(), engine); err != nil {
					found = []authoring.Finding{{Rule: "gate", Text: err.Error()}}
				}
				revision = engine.Revision()
			} else if found, revision, err = authoring.Check(cmd.Context(), args[0], o); err != nil {
				return err
			}
			if output == "text" {
				if len(found) == 0 {
					printRevision(cmd.OutOrStdout(), revision)
				}
				return findings(cmd, found)
			}
			var report any = struct {
				Findings []authoring.Finding `json:"findings"`
				Revision *policy.Revision    `json:"revision,omitempty"`
			}{append([]authoring.Finding{}, found...), revision}
			if output == "sarif" {
				report = authoring.SARIF(found, server.Version)
			}
			e := json.NewEncoder(cmd.OutOrStdout())
			e.SetIndent("", "  ")
			if err := e.Encode(report); err != nil || len(found) == 0 {
				return err
			}
			return fmt.Errorf("%d findings", len(found))
		},
	}
	cmd.Flags().StringVar(&output, "format", "text", "output: text, json or sarif (2.1.0, for code hosts)")
	return cmd
}

// findings prints findings, and returns an error if there are any.
func findings(cmd *cobra.Command, found []authoring.Finding) error {
	for _, f := range found {
		fmt.Fprintln(cmd.ErrOrStderr(), f)
	}
	if len(found) > 0 {
		return fmt.Errorf("%d findings", len(found))
	}
	return nil
}
