package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// What all commands have in common: mistakes in how they are called end with status 2, and what they report
// is JSON with --json.

// usageError is a mistake in how a command was called.
type usageError struct{ why string }

func (e *usageError) Error() string { return e.why }

// strict makes mistakes in calling cmd, or a command of it, usage errors. A command that only groups others is
// refused without one, or with one that it does not have: a job that migrates nothing must not succeed.
func strict(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if given := cmd.Flags().Args(); cmd.HasSubCommands() && len(given) > 0 {
			return group(cmd, given) // the flag is that of the command that was meant
		}
		return &usageError{fmt.Sprintf("%v (%s --help)", err, cmd.CommandPath())}
	})
	if args := cmd.Args; args != nil {
		cmd.Args = func(cmd *cobra.Command, given []string) error {
			if err := args(cmd, given); err != nil {
				return &usageError{fmt.Sprintf("%v: %s", err, cmd.UseLine())}
			}
			return nil
		}
	}
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if err := cmd.ValidateRequiredFlags(); err != nil {
			return &usageError{fmt.Sprintf("%v: %s", err, cmd.UseLine())}
		}
		return nil
	}
	if cmd.HasSubCommands() {
		cmd.Args, cmd.RunE = cobra.ArbitraryArgs, group
	}
	for _, c := range cmd.Commands() {
		strict(c)
	}
}

// group is run where a command is called without one of its commands.
func group(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		if err := cmd.Usage(); err != nil {
			return err
		}
		return &usageError{fmt.Sprintf("%q needs a command", cmd.CommandPath())}
	}
	why := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
	cmd.SuggestionsMinimumDistance = 2
	if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
		return &usageError{fmt.Sprintf("%s; did you mean %q?", why, strings.Join(like, `" or "`))}
	}
	return &usageError{why + "; see " + cmd.CommandPath() + " --help"}
}

// reports gives a command --json.
func reports(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().Bool("json", false, "JSON, for machines")
	return cmd
}

// report prints v: as JSON, if that was asked for, else by text.
func report(cmd *cobra.Command, v any, text func(out io.Writer)) error {
	if asJSON, _ := cmd.Flags().GetBool("json"); !asJSON { // none: no
		text(cmd.OutOrStdout())
		return nil
	}
	e := json.NewEncoder(cmd.OutOrStdout())
	e.SetIndent("", "  ")
	return e.Encode(v)
}
