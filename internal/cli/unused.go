package cli

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"iam-service/internal/admin"
	"iam-service/internal/postgres"
	"iam-service/internal/server"
)

// unusedCommand lists what was not used in a tenant.
func unusedCommand(environ []string) *cobra.Command {
	var days int
	var kind, format string
	cmd := &cobra.Command{
		Use:   "unused TENANT [--kind membership|role|client] [--days 90]",
		Short: "List memberships, roles or clients that were not used for some days, with what a removal would change",
		Long: "List what was not used in a tenant, as far as use is recorded (docs/access.md). It removes nothing. The first line says since\n" +
			"when use is recorded, on standard error.",
		Args: cobra.ExactArgs(1),
		RunE: withOperator(environ, func(cmd *cobra.Command, args []string, o *operator) error {
			if !slices.Contains([]string{"text", "csv", "jsonl"}, format) {
				return server.Faults("--format must be text, csv or jsonl")
			}
			if days < 1 || days > 730 || !slices.Contains([]string{"membership", "role", "client"}, kind) {
				return server.Faults("--days must be 1 to 730, and --kind membership, role or client")
			}
			task := admin.Task{Action: "access:list", Tenant: args[0], Patient: true}
			return o.service.Do(cmd.Context(), o.caller, task, func(ctx context.Context, w *admin.Work) error {
				u, err := w.Unused(ctx, args[0], days, kind == "role")
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "not used since %s; use is recorded since %s, on %d of %d days; %d administrators, %d without unused memberships\n",
					admin.DayOf(u.Before), admin.DayOf(u.Recording.Since), u.Recording.Days, days, u.Administrators, u.AdministratorsLeft)
				put, flush := rowWriter(cmd.OutOrStdout(), format)
				if err := eachUnused(ctx, w, u, kind, put); err != nil {
					return err
				}
				return flush()
			})
		}),
	}
	cmd.Flags().IntVar(&days, "days", 90, "days without use, today left out")
	cmd.Flags().StringVar(&kind, "kind", "membership", "membership, role or client")
	cmd.Flags().StringVar(&format, "format", "text", "text, csv, or jsonl (JSON lines)")
	return cmd
}

// rowWriter writes rows as CSV, as JSON lines, or as a table of the columns that say most.
func rowWriter(out io.Writer, format string) (put func([]string) error, flush func() error) {
	switch format {
	case "csv":
		c := csv.NewWriter(out)
		return func(row []string) error { return c.Write(admin.SafeCells(row)) }, func() error { c.Flush(); return c.Error() }
	case "jsonl":
		e, header := json.NewEncoder(out), true
		return func(row []string) error {
			if header {
				header = false
				return nil
			}
			item := map[string]string{}
			for i, c := range admin.UnusedColumns {
				if row[i] != "" {
					item[c] = row[i]
				}
			}
			return e.Encode(item)
		}, func() error { return nil }
	}
	t := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	columns := []string{"kind", "user", "subject", "client_id", "role", "last_used", "roles", "members", "clients", "mappings", "inherited_by"}
	return func(row []string) error {
		var cells []string
		for _, c := range columns {
			cell := row[slices.Index(admin.UnusedColumns, c)]
			if cell == "" {
				cell = "-"
			}
			cells = append(cells, cell)
		}
		_, err := fmt.Fprintln(t, strings.Join(cells, "\t"))
		return err
	}, t.Flush
}

// eachUnused passes the header and each row to put.
func eachUnused(ctx context.Context, w *admin.Work, u admin.UnusedAccess, kind string, put func([]string) error) error {
	const read = 500
	if err := put(admin.UnusedColumns); err != nil {
		return err
	}
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
