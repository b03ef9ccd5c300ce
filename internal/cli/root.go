// Package cli holds the commands of iam-service, a file for each group. root.go has what all commands share:
// checked names, exit statuses, help.
//
// A command reads the settings that it needs from the environment (server.ReadConfig), and knows no
// HTTP and no SQL.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"iam-service/internal/adminapi"
	"iam-service/internal/policy"
	"iam-service/internal/server"
	"iam-service/internal/telemetry"
)

// Command returns the root command of iam-service.
func Command(environ []string) *cobra.Command {
	root := &cobra.Command{
		Use:           "iam-service",
		Short:         "Turns a verified access token into trusted identity headers",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(
		serveCommand(environ),
		migrateCommand(environ),
		policyCommand(environ),
		gatewayCommand(environ),
		grantAdminCommand(environ),
		auditCommand(environ),
		accessCommand(environ),
		exportCommand(environ),
		signalsCommand(environ),
		importCommand(environ),
		requestsCommand(environ),
		endingCommand(environ),
		eventsCommand(environ),
		reconcileCommand(environ),
		instanceCommand(environ),
		assertionCommand(environ),
		doctorCommand(environ),
		healthcheckCommand(environ),
		versionCommand(),
		openAPICommand(),
		gateCommand(),
	)
	strict(root)
	return root
}

// Main runs the command line and returns the exit status.
func Main(ctx context.Context) int {
	cmd := Command(os.Environ())
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if !errors.Is(err, errLogged) {
		fmt.Fprintln(os.Stderr, "iam-service:", err)
	}
	return exitStatus(err)
}

// exitStatus is 2 where nothing was done: the command was called wrongly, or could not test what it was to test.
func exitStatus(err error) int {
	_, usage := errors.AsType[*usageError](err)
	_, untested := errors.AsType[*untestedError](err)
	if usage || untested {
		return 2
	}
	return 1
}

func versionCommand() *cobra.Command {
	return reports(&cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			e := json.NewEncoder(cmd.OutOrStdout()) // JSON with and without --json
			return e.Encode(telemetry.ReadBuild(server.Version))
		},
	})
}

func openAPICommand() *cobra.Command {
	return &cobra.Command{
		Use:   "openapi",
		Short: "Print the OpenAPI document of the admin API, as it is served at /openapi.json",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(adminapi.OpenAPI(server.Version))
			return err
		},
	}
}

func healthcheckCommand(environ []string) *cobra.Command {
	return reports(&cobra.Command{
		Use:   "healthcheck",
		Short: "Report whether the service on this host is ready (for a container)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := server.ReadConfig(environ, server.Needs{Ops: true})
			if err != nil {
				return err
			}
			host, port, err := net.SplitHostPort(cfg.OpsAddr)
			if err != nil {
				return err // ReadConfig has validated it
			}
			if host == "" || host == "0.0.0.0" || host == "::" {
				host = "127.0.0.1"
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/readyz", nil)
			if err != nil {
				return err
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
			if err != nil {
				return err
			}
			if resp.StatusCode != http.StatusOK {
				return errors.New(strings.TrimSpace(string(body)))
			}
			_, err = cmd.OutOrStdout().Write(body) // JSON, whether that was asked for or not
			return err
		},
	})
}

// gateCommand is the child process in which the gate evaluates a candidate policy.
func gateCommand() *cobra.Command {
	return &cobra.Command{
		Use: policy.ChildCommand, Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return policy.ServeGate(cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}

// usageError is a mistake in how a command was called.
type usageError struct{ why string }

func (e *usageError) Error() string { return e.why }

// strict turns wrong flags and arguments of cmd and its subcommands into usage errors. A command that only groups
// others fails without a subcommand or with an unknown one: a job that migrates nothing must not succeed.
func strict(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if given := cmd.Flags().Args(); cmd.HasSubCommands() && len(given) > 0 {
			return group(cmd, given) // an unknown subcommand is the error, not its flag
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

// group runs when a command is called without a known subcommand.
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
