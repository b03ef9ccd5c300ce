package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"iam-service/internal/policy"
	"iam-service/internal/policy/authoring"
)

func policyTestCommand() *cobra.Command {
	var o authoring.TestOptions
	cmd := &cobra.Command{
		Use:   "test FOLDER",
		Short: "Run the Rego tests and the acceptance cases, and report rules that no test covers",
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
				return errors.New("tests failed")
			case len(report.Uncovered) > 0:
				return fmt.Errorf("coverage is below %g %% in %s", o.Threshold, strings.Join(report.Uncovered, ", "))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&o.Run, "run", "", "run only tests whose names match this regular expression; coverage is not checked then")
	cmd.Flags().Float64Var(&o.Threshold, "threshold", 90, "minimum coverage of each file of rules, in percent")
	cmd.Flags().DurationVar(&o.Timeout, "timeout", 30*time.Second, "maximum CPU time of one test")
	cmd.Flags().BoolVarP(&o.Verbose, "verbose", "v", false, "also list tests that pass")
	return cmd
}

// testPolicy runs the tests and prints a summary.
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
		Short: "Run the tests and print the decision of each case whenever a file is saved",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return watchPolicy(cmd.Context(), cmd.OutOrStdout(), args[0])
		},
	}
}

// watchPolicy polls the folder, so that a saved change shows within a second.
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
			fmt.Fprintln(out, "--- waiting for a change in", dir)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(300 * time.Millisecond):
		}
	}
}
