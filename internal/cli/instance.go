package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"iam-service/internal/admin"
)

func instanceCommand(environ []string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "instance",
		Short: "Manage which instance this database is, and so which clients it manages in the identity provider: show, keep, renew",
		Long: "Each client that iam-service creates in R-Auth carries the instance ID of its database. A copied database would change the clients of\n" +
			"the original, so a database that was copied or moved manages no clients until an operator runs keep or renew. Both need the role that\n" +
			"owns the tables (the one of migrate up). Restart the replicas afterwards.",
	}
	cmd.AddCommand(&cobra.Command{
		Use: "show", Short: "Print the instance ID; fails if the database was copied or moved", Args: cobra.NoArgs,
		RunE: withOperator(environ, func(cmd *cobra.Command, _ []string, o *operator) error {
			id, copied, err := o.db.Instance(cmd.Context())
			if err != nil {
				return err
			}
			if err := report(cmd, map[string]any{"instance": id, "copied": copied}, func(out io.Writer) { fmt.Fprintln(out, id) }); err != nil {
				return err
			}
			if copied {
				return errors.New("the database was copied or moved: run instance keep if it was moved, instance renew if it is a copy")
			}
			return nil
		}),
	}, &cobra.Command{
		Use: "keep", Short: "Continue to manage the clients: the database was moved and the original is gone", Args: cobra.NoArgs,
		RunE: withOperator(environ, func(cmd *cobra.Command, _ []string, o *operator) error {
			task := admin.Task{Action: "instance:keep", Writes: true}
			id, err := admin.Do(cmd.Context(), o.service, o.caller, task, func(ctx context.Context, w *admin.Work) (string, error) {
				return w.KeepInstance(ctx)
			})
			if err != nil {
				return err
			}
			return report(cmd, map[string]string{"instance": id}, func(out io.Writer) { fmt.Fprintf(out, "instance %s confirmed: restart the replicas\n", id) })
		}),
	}, &cobra.Command{
		Use: "renew", Short: "Become a new instance and release the clients of the original: the database is a copy", Args: cobra.NoArgs,
		RunE: withOperator(environ, func(cmd *cobra.Command, _ []string, o *operator) error {
			before, _, err := o.db.Instance(cmd.Context())
			if err != nil {
				return err
			}
			task := admin.Task{Action: "instance:renew", Writes: true}
			renewed, err := admin.Do(cmd.Context(), o.service, o.caller, task, func(ctx context.Context, w *admin.Work) (admin.RenewedInstance, error) {
				return w.RenewInstance(ctx, before)
			})
			if err != nil {
				return err
			}
			return report(cmd, map[string]any{"before": before, "instance": renewed.ID, "clients_released": renewed.Released}, func(out io.Writer) {
				fmt.Fprintf(out, "instance %s is now %s, and %d clients were released: restart the replicas\n", before, renewed.ID, renewed.Released)
			})
		}),
	})
	for _, c := range cmd.Commands() {
		reports(c)
	}
	return cmd
}
