package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/spf13/cobra"

	"iam-service/internal/policy"
	"iam-service/internal/policy/authoring"
	"iam-service/internal/server"
	embedded "iam-service/policies"
)

func policyCommand(environ []string) *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "Write a policy (test, check, format, build, sign, verify, inspect), look ahead and back (preview, explain), and say which one is in force (push, activate, rollback, list)"}
	cmd.AddCommand(policyCheckCommand(environ), policyTestCommand(), policyWatchCommand(), policyFormatCommand(), policyBuildCommand(environ), policySignCommand(environ),
		policyVerifyCommand(environ), policyInspectCommand(), policyNewCommand(),
		policyPreviewCommand(environ), policyExplainCommand(environ), policyPushCommand(environ), policyActivateCommand(environ), policyRollbackCommand(environ), policyListCommand(environ))
	return cmd
}

// checkOptions takes what serve would take.
func checkOptions(environ []string) (o authoring.CheckOptions) {
	vars := env.ToMap(environ)
	if v := vars["GATEWAY_HEADERS"]; v != "" {
		o.Headers = strings.Split(v, ",")
	}
	o.Admin = vars["ADMIN_AUDIENCE"] != ""
	o.Child = []string{os.Args[0], policy.ChildCommand}
	return o
}

func policyCheckCommand(environ []string) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "check [folder or bundle]",
		Short: "Check a policy and print its cache key",
		Long: "Compile a folder strictly under its schemas and the sandbox, ask for METADATA on every rule that grants or denies, look for walks over\n" +
			"the directory, for what can never have a value or is never reached, and for house style, and take it through the gate that stands before\n" +
			"what serves. Of a bundle, and of the embedded policy (without an argument), only the gate is asked. Then print the cache key of its\n" +
			"decisions: the paths of the input that it can see. GATEWAY_HEADERS and ADMIN_AUDIENCE are taken from the environment, as serve takes them.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains([]string{"text", "json", "sarif"}, output) {
				return fmt.Errorf("--format must be text, json or sarif, is %q", output)
			}
			o := checkOptions(environ)
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
			} else {
				var err error
				if found, revision, err = authoring.Check(cmd.Context(), args[0], o); err != nil {
					return err
				}
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
			return fmt.Errorf("%d to fix", len(found))
		},
	}
	cmd.Flags().StringVar(&output, "format", "text", "text, json, or sarif (2.1.0, for code hosts)")
	return cmd
}

// findings prints what is to be fixed, and fails if anything is.
func findings(cmd *cobra.Command, found []authoring.Finding) error {
	for _, f := range found {
		fmt.Fprintln(cmd.ErrOrStderr(), f)
	}
	if len(found) > 0 {
		return fmt.Errorf("%d to fix", len(found))
	}
	return nil
}

func policyTestCommand() *cobra.Command {
	var o authoring.TestOptions
	cmd := &cobra.Command{
		Use:   "test FOLDER",
		Short: "Run the tests beside the rules and the acceptance cases, and say what no test has seen",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			folder, err := authoring.Load(args[0])
			if err != nil {
				return err
			}
			report, err := testPolicy(cmd.Context(), cmd.OutOrStdout(), folder, o)
			if err != nil {
				return err
			}
			switch {
			case report.Failed+report.CasesFailed > 0:
				return errors.New("some failed")
			case len(report.Uncovered) > 0:
				return fmt.Errorf("tests see less than %g %% of %s", o.Threshold, strings.Join(report.Uncovered, ", "))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&o.Run, "run", "", "only tests whose names match; coverage is not judged then")
	cmd.Flags().Float64Var(&o.Threshold, "threshold", 90, "least coverage of each file of rules, in percent")
	cmd.Flags().DurationVar(&o.Timeout, "timeout", 30*time.Second, "longest processor time for one test")
	cmd.Flags().BoolVarP(&o.Verbose, "verbose", "v", false, "name the tests that pass too")
	return cmd
}

// testPolicy ends with what became of all of them.
func testPolicy(ctx context.Context, out io.Writer, folder *authoring.Folder, o authoring.TestOptions) (authoring.TestReport, error) {
	report, err := folder.Test(ctx, out, o)
	if err == nil {
		fmt.Fprintf(out, "%d tests, %d failed; %d cases, %d failed\n", report.Ran, report.Failed, report.Cases, report.CasesFailed)
	}
	return report, err
}

func policyWatchCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "watch FOLDER",
		Short: "Show tests, and what is decided in each case, whenever you save",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return watchPolicy(cmd.Context(), cmd.OutOrStdout(), args[0])
		},
	}
}

// watchPolicy looks twice a second: saved is shown within a second.
func watchPolicy(ctx context.Context, out io.Writer, dir string) error {
	if _, err := os.Stat(dir); err != nil {
		return err
	}
	shown := ""
	for {
		if now := policy.Fingerprint(dir); now != shown {
			shown = now
			folder, err := authoring.Load(dir)
			if err == nil {
				_, err = testPolicy(ctx, out, folder, authoring.TestOptions{Decisions: true})
			}
			if err != nil {
				fmt.Fprintln(out, err)
			}
			fmt.Fprintln(out, "--- waiting for a change of", dir)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(300 * time.Millisecond):
		}
	}
}

func policyFormatCommand() *cobra.Command {
	var list bool
	cmd := &cobra.Command{
		Use:   "fmt PATH...",
		Short: "Format .rego files, as opa fmt does",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			changed, err := authoring.Format(args, list)
			for _, name := range changed {
				fmt.Fprintln(cmd.OutOrStdout(), name)
			}
			if err == nil && list && len(changed) > 0 {
				err = fmt.Errorf("%d files are not formatted", len(changed))
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&list, "list", "l", false, "write nothing, name what is not formatted, and fail if anything is")
	return cmd
}

func signerFlags(cmd *cobra.Command, key *authoring.Signer) {
	cmd.Flags().StringVar(&key.File, "key", "", "PEM file with the private key: EC or RSA, without a password")
	cmd.Flags().StringVar(&key.ID, "key-id", "iam", "its name in the signature, by which an OPA finds the public one")
}

func policyBuildCommand(environ []string) *cobra.Command {
	var key authoring.Signer
	var output, revision string
	cmd := &cobra.Command{
		Use:   "build FOLDER",
		Short: "Check a folder, make a bundle of it without its tests, and sign it if there is a key",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			found, _, err := authoring.Check(cmd.Context(), args[0], checkOptions(environ))
			if err == nil {
				err = findings(cmd, found)
			}
			if err != nil {
				return fmt.Errorf("nothing was built: %w", err)
			}
			signer := &key
			if !cmd.Flags().Changed("key") { // one that is empty is a mistake
				signer = nil
			}
			packed, err := authoring.Build(args[0], revision, signer)
			if err != nil {
				return err
			}
			return writeBundle(cmd.OutOrStdout(), output, packed)
		},
	}
	signerFlags(cmd, &key)
	cmd.Flags().StringVarP(&output, "output", "o", "bundle.tar.gz", "file to write")
	cmd.Flags().StringVarP(&revision, "revision", "r", "", "what the bundle calls itself, such as a commit; else what .manifest says")
	return cmd
}

func writeBundle(out io.Writer, name string, packed []byte) error {
	if err := authoring.WriteFile(name, packed, 0o644); err != nil {
		return err
	}
	fmt.Fprintf(out, "wrote %s, %d bytes\n", name, len(packed))
	return nil
}

func policySignCommand(environ []string) *cobra.Command {
	var key authoring.Signer
	cmd := &cobra.Command{
		Use:   "sign BUNDLE --key FILE",
		Short: "Sign a bundle that the gate accepts, whatever signature it had",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			packed, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			if _, err := authoring.CheckPacked(cmd.Context(), args[0], packed, checkOptions(environ)); err != nil {
				return fmt.Errorf("nothing was signed: %w", err)
			}
			if packed, err = authoring.Sign(packed, key); err != nil {
				return err
			}
			return writeBundle(cmd.OutOrStdout(), args[0], packed)
		},
	}
	signerFlags(cmd, &key)
	_ = cmd.MarkFlagRequired("key") // it is there
	return cmd
}

func policyVerifyCommand(environ []string) *cobra.Command {
	var keyFile string
	cmd := reports(&cobra.Command{
		Use:   "verify BUNDLE --key FILE",
		Short: "Say whether a bundle's signature is good, and whether it would come into force",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			packed, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			text, err := os.ReadFile(keyFile)
			if err != nil {
				return err
			}
			key, err := policy.ParseKey(text)
			if err != nil {
				return fmt.Errorf("%s: %w", keyFile, err)
			}
			if _, err := authoring.Verify(packed, key); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			revision, err := authoring.CheckBundle(cmd.Context(), args[0], checkOptions(environ))
			if err != nil {
				return fmt.Errorf("its signature is good, and it would be refused: %w", err)
			}
			return report(cmd, map[string]any{"bundle": args[0], "revision": revision.ID, "digest": revision.Digest}, func(out io.Writer) {
				fmt.Fprintf(out, "%s is signed with this key, and would come into force as %s\n", args[0], revision.ID)
			})
		},
	})
	cmd.Flags().StringVar(&keyFile, "key", "", "PEM file with the public key")
	_ = cmd.MarkFlagRequired("key") // it is there
	return cmd
}

func policyInspectCommand() *cobra.Command {
	return reports(&cobra.Command{
		Use:   "inspect FOLDER|BUNDLE",
		Short: "Say what a policy is: revision, roots, signature, packages, the reasons it can give",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			seen, err := authoring.Inspect(args[0])
			if err != nil {
				return err
			}
			return report(cmd, seen, seen.Text)
		},
	})
}

func policyNewCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "new FOLDER",
		Short: "Begin a policy: the default one, and a rule of your own with its test, schema and cases",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			made, err := authoring.New(args[0], embedded.FS)
			for _, name := range made {
				fmt.Fprintln(cmd.OutOrStdout(), name)
			}
			return err
		},
	}
}

// senders are the headers that say a fact of the request.
var senders = map[string]string{
	"input.request.method": "X-Forwarded-Method", "input.request.scheme": "X-Forwarded-Proto", "input.request.host": "X-Forwarded-Host",
	"input.request.path": "X-Forwarded-Uri", "input.request.raw_path": "X-Forwarded-Uri", "input.request.client_ip": "X-Forwarded-For",
}

// printRevision says what is of interest to who wrote it.
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
		row("gateways", "must send "+senders[fact]+": it reads "+fact+", and requests without it are 403 request_facts_missing")
	}
	if r.Capped {
		row("answers", "are kept for a second at most: they may differ by themselves")
	} else {
		row("answers", "are kept while no fact that they rest on changes")
	}
	for _, w := range slices.Concat(r.Warnings, r.Unvalidated) {
		row("warning", w)
	}
}
