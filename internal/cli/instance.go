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
		Short: "Say whose clients this database manages in the identity provider: show, keep, renew",
		Long: "The clients that a database has made in R-Auth bear its instance. A copy of the database would change the clients of the original, so\n" +
			"one that was copied or moved manages none until somebody has said which it is. keep and renew need the role that owns the tables,\n" +
			"which is that of migrate up. Restart the replicas afterwards.",
	}
	cmd.AddCommand(&cobra.Command{
		Use: "show", Short: "Print the instance, and whether the database was copied or moved", Args: cobra.NoArgs,
		RunE: withOperator(environ, func(cmd *cobra.Command, _ []string, o *operator) error {
			id, copied, err := o.db.Instance(cmd.Context())
			if err != nil {
				return err
			}
			if err := report(cmd, map[string]any{"instance": id, "copied": copied}, func(out io.Writer) { fmt.Fprintln(out, id) }); err != nil {
				return err
			}
			if copied {
				return errors.New("the database was copied or moved since: run instance keep where it was moved, instance renew in a copy")
			}
			return nil
		}),
	}, &cobra.Command{
		Use: "keep", Short: "This database was moved, and the original is gone: it manages its clients on", Args: cobra.NoArgs,
		RunE: withOperator(environ, func(cmd *cobra.Command, _ []string, o *operator) error {
			task := admin.Task{Action: "instance:keep", Writes: true}
			id, err := admin.Do(cmd.Context(), o.service, o.caller, task, func(ctx context.Context, w *admin.Work) (string, error) {
				return w.KeepInstance(ctx)
			})
			if err != nil {
				return err
			}
			return report(cmd, map[string]string{"instance": id}, func(out io.Writer) { fmt.Fprintf(out, "instance %s is kept: restart the replicas\n", id) })
		}),
	}, &cobra.Command{
		Use: "renew", Short: "This database is a copy: it becomes another instance, and lets go of the clients of the original", Args: cobra.NoArgs,
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
				fmt.Fprintf(out, "instance %s is now %s, and %d clients are not managed here any more: restart the replicas\n", before, renewed.ID, renewed.Released)
			})
		}),
	})
	for _, c := range cmd.Commands() {
		reports(c)
	}
	return cmd
}
