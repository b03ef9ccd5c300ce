package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"iam-service/internal/server/doctor"
)

func doctorCommand(environ []string) *cobra.Command {
	var options doctor.Options
	var format, bundle string
	var logs []string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check a deployment, and say what to do next for each fault",
		Long: "Check a deployment with the settings of serve: the database and its rights, listeners, issuers, R-Auth's admin API, NATS, the policy, clocks,\n" +
			"gateways and certificates. It changes nothing and can run next to serve, as \"kubectl exec deployment/iam-service -- iam-service doctor\".\n" +
			"The exit status is 1 if a check fails.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "text" && format != "json" {
				return &usageError{fmt.Sprintf("--format must be text or json, is %q", format)}
			}
			if len(logs) > 0 && bundle == "" {
				return &usageError{"--logs is for --bundle"}
			}
			out := cmd.OutOrStdout()
			if bundle == "-" {
				out = cmd.ErrOrStderr() // stdout is the bundle
			}
			found := doctor.Run(cmd.Context(), environ, options)
			if err := printFindings(out, found, format); err != nil {
				return err
			}
			if bundle != "" {
				b := doctor.Bundle{Environ: environ, Report: found, Logs: logs}
				if err := writeSupport(cmd, &b, bundle); err != nil {
					return fmt.Errorf("write the bundle: %w", err)
				}
			}
			if !found.Healthy {
				return errLogged // the findings say it
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&format, "format", "text", "text or json")
	cmd.Flags().DurationVar(&options.Limit, "timeout", 0, "longest time of each check (default 5s)")
	cmd.Flags().BoolVar(&options.TryClient, "try-client", false, "create a client in R-Auth, get a token for it, and delete it: whether the audience is granted")
	cmd.Flags().StringVar(&bundle, "bundle", "", "write a .tar.gz for support to this file, or - for stdout: findings, settings, metrics, status, version, without secrets")
	cmd.Flags().StringArrayVar(&logs, "logs", nil, "file with log lines that the bundle has the end of; may be repeated")
	return cmd
}

// writeSupport writes a bundle to a file that only its owner can read, or to stdout for "-".
func writeSupport(cmd *cobra.Command, b *doctor.Bundle, name string) error {
	packed, err := b.Pack(cmd.Context())
	if err != nil {
		return err
	}
	if name == "-" {
		_, err = cmd.OutOrStdout().Write(packed)
		return err
	}
	if err := os.WriteFile(name, packed, 0o600); err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.ErrOrStderr(), "%s has settings, metrics, status and logs, without secrets: read it before you pass it on\n", name)
	return err
}

func printFindings(out io.Writer, found doctor.Report, format string) error {
	if format == "json" {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(found)
	}
	for _, r := range found.Results {
		if _, err := fmt.Fprintf(out, "%-7s  %s: %s\n", r.State, r.Check, r.Detail); err != nil {
			return err
		}
		if r.Next != "" {
			if _, err := fmt.Fprintf(out, "         → %s\n", r.Next); err != nil {
				return err
			}
		}
	}
	return nil
}
