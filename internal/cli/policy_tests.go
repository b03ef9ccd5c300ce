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
