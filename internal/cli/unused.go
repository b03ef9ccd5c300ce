package cli

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"iam-service/internal/admin"
	"iam-service/internal/postgres"
	"iam-service/internal/server"
)

// accessUnusedCommand lists what was not used in a tenant.
func accessUnusedCommand(environ []string) *cobra.Command {
	var days int
	var kind, format string
	cmd := &cobra.Command{
		Use:   "unused TENANT [--kind membership|role|client] [--days 90]",
		Short: "List memberships, roles or clients that were not used for some days, with what a removal would change",
		Long: "List what was not used in a tenant, as far as use is recorded (docs/access.md). It removes nothing. The first line says since\n" +
			"when use is recorded, on standard error.",
		Args: cobra.ExactArgs(1),
		RunE: withOperator(environ, func(cmd *cobra.Command, args []string, o *operator) error {
			if days < 1 || days > 730 || !slices.Contains([]string{"membership", "role", "client"}, kind) {
				return server.Faults("--days must be 1 to 730, and --kind membership, role or client")
			}
			t, err := newTable(cmd, format, admin.UnusedColumns, []string{"kind", "user", "subject", "client_id", "role", "last_used", "roles", "members", "clients", "mappings", "inherited_by"})
			if err != nil {
				return err
			}
			task := admin.Task{Action: "access:list", Tenant: args[0], Patient: true}
			return o.service.Do(cmd.Context(), o.caller, task, func(ctx context.Context, w *admin.Work) error {
				u, err := w.Unused(ctx, args[0], days, kind == "role")
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "not used since %s; use is recorded since %s, on %d of %d days; %d administrators, %d without unused memberships\n",
					admin.DayOf(u.Before), admin.DayOf(u.Recording.Since), u.Recording.Days, days, u.Administrators, u.AdministratorsLeft)
				if err := eachUnused(ctx, w, u, kind, func(row []string) error { return t.each(named(admin.UnusedColumns, row), [][]string{row}) }); err != nil {
					return err
				}
				return t.end()
			})
		}),
	}
	cmd.Flags().IntVar(&days, "days", 90, "days without use, today left out")
	cmd.Flags().StringVar(&kind, "kind", "membership", "membership, role or client")
	return formatFlag(cmd, &format)
}

// eachUnused passes each row to put.
func eachUnused(ctx context.Context, w *admin.Work, u admin.UnusedAccess, kind string, put func([]string) error) error {
	const read = 500
	var last postgres.Identity
	for {
		var rows [][]string
		switch kind {
		case "role":
			found, err := w.UnusedRoles(ctx, u, last.Name, read)
			if err != nil {
				return err
			}
			for _, r := range found {
				rows, last.Name = append(rows, u.RoleRow(r)), r.Name
			}
		case "client":
			found, err := w.UnusedClients(ctx, u, last, read)
			if err != nil {
				return err
			}
			for _, c := range found {
				rows, last = append(rows, u.ClientRow(c)), postgres.Identity{Issuer: c.Issuer, Name: c.ClientID}
			}
		default:
			found, err := w.UnusedMembers(ctx, u, last.Name, read)
			if err != nil {
				return err
			}
			for _, m := range found {
				rows, last.Name = append(rows, u.MemberRow(m)), m.User
			}
		}
		for _, row := range rows {
			if err := put(row); err != nil {
				return err
			}
		}
		if len(rows) < read {
			return nil
		}
	}
}
