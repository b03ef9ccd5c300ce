package cli

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"iam-service/internal/admin"
	"iam-service/internal/server"
)

func exportCommand(environ []string) *cobra.Command {
	return &cobra.Command{
		Use:   "export TENANT",
		Short: "Export a tenant as JSON lines: the tenant, its roles, mappings and members",
		Args:  cobra.ExactArgs(1),
		RunE: withOperator(environ, func(cmd *cobra.Command, args []string, o *operator) error {
			out := bufio.NewWriter(cmd.OutOrStdout())
			e := json.NewEncoder(out)
			bar := progress(cmd, -1, "lines written")
			if err := o.service.Export(cmd.Context(), o.caller, args[0], func(line admin.Line) error {
				_ = bar.Add(1) // only drawing
				return e.Encode(line)
			}); err != nil {
				return err
			}
			_ = bar.Finish() // only drawing
			return out.Flush()
		}),
	}
}

func importCommand(environ []string) *cobra.Command {
	return reports(&cobra.Command{
		Use:   "import [FILE]",
		Short: "Import a tenant from JSON lines as export writes them; idempotent",
		Long: "Import a tenant from a file or standard input. Members are written in transactions of 1,000: to finish an interrupted import,\n" +
			"run it again. Nothing is deleted.",
		Args: cobra.MaximumNArgs(1),
		RunE: withOperator(environ, func(cmd *cobra.Command, args []string, o *operator) error {
			if o.issuer == "" {
				return server.Faults("RAUTH_URL is missing: members must belong to a trusted issuer")
			}
			in, size := cmd.InOrStdin(), int64(-1)
			if len(args) > 0 && args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				if info, err := f.Stat(); err == nil {
					size = info.Size()
				}
				in = f
			}
			bar := progress(cmd, size, "imported")
			sum, err := o.service.Import(cmd.Context(), o.caller, io.TeeReader(in, bar))
			_ = bar.Finish() // only drawing
			if err != nil {
				return err
			}
			result := map[string]any{"tenant": sum.Tenant, "added": sum.Added, "changed": sum.Changed, "same": sum.Same}
			if sum.Warning != "" {
				result["warning"] = sum.Warning
				fmt.Fprintln(cmd.ErrOrStderr(), "warning:", sum.Warning)
			}
			return report(cmd, result, func(out io.Writer) {
				fmt.Fprintf(out, "%s: %d added, %d changed, %d unchanged\n", sum.Tenant, sum.Added, sum.Changed, sum.Same)
			})
		}),
	})
}
