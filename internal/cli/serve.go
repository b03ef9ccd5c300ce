package cli

import (
	"errors"
	"fmt"
	"log/slog"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"iam-service/internal/server"
	"iam-service/internal/telemetry"
)

func serveCommand(environ []string) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Serve gateways, administrators and operators",
		Long:  "Serve gateways, administrators and operators. Settings come from the environment:\n\n" + settingsTable(),
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := server.ParseConfig(environ)
			signal.Ignore(syscall.SIGPIPE) // a closed log pipe must not end the process
			log := telemetry.NewLog(cmd.ErrOrStderr(), cfg.LogLevel)
			defer log.Close() // also on failure
			if err == nil {
				err = server.Serve(cmd.Context(), cfg, log, nil)
			}
			if err == nil {
				return nil
			}
			log.LogAttrs(cmd.Context(), slog.LevelError, "serve failed", faultAttrs(err)...)
			return errLogged
		},
	}
}

// errLogged is a failure that was logged already.
var errLogged = errors.New("failed: see the log")

// faultAttrs describes in one log line what stops the program.
func faultAttrs(err error) []slog.Attr {
	if c, ok := errors.AsType[*server.ConfigError](err); ok {
		return []slog.Attr{slog.String("err", "the configuration is not valid"), slog.Any("faults", c.Faults)}
	}
	return []slog.Attr{slog.String("err", server.OneLine(err).Error())}
}

func settingsTable() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, v := range server.Variables() {
		fmt.Fprintf(w, "  %s\t%s\t%s\n", v[0], v[1], v[2])
	}
	_ = w.Flush() // into memory
	return b.String()
}
