package cli

import (
	"fmt"
	"log/slog"
	"net"

	"github.com/spf13/cobra"

	"iam-service/internal/gateway/probe"
)

func gatewayEchoCommand() *cobra.Command {
	var addr string
	var quiet bool
	cmd := &cobra.Command{
		Use:   "echo",
		Short: "Run a backend that answers each request with what it received",
		Long: "Run a backend behind a gateway, for `gateway probe`: it answers every request with JSON of its request line, its header lines as they came\n" +
			"(order, spelling, duplicates), its trailers and what is ambiguous in its framing. HTTP/1.0 and 1.1, clear text. Credentials are shown as hashes.\n" +
			"It remembers the requests that carry the id of a probe: GET /.probe/seen?marker=ID. Not for production.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := (&net.ListenConfig{}).Listen(cmd.Context(), "tcp", addr)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "echo listens at %s\n", l.Addr())
			e := &probe.Echo{}
			if !quiet {
				e.Log = slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), nil))
			}
			return e.Serve(cmd.Context(), l)
		},
	}
	cmd.Flags().StringVar(&addr, "addr", ":9999", "address to listen at")
	cmd.Flags().BoolVar(&quiet, "quiet", false, "do not log requests")
	return cmd
}
