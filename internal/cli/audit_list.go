package cli

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"iam-service/internal/admin"
	"iam-service/internal/adminapi"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

func auditListCommand(environ []string) *cobra.Command {
	var f postgres.AuditFilter
	var tenant string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list [--tenant ID] [--kind KIND --object ID]",
		Short: "List entries of the audit, the newest first, with what each changed field by field (needs DATABASE_URL alone)",
		Args:  cobra.NoArgs,
		RunE: withOperator(environ, func(cmd *cobra.Command, _ []string, o *operator) error {
			out := bufio.NewWriter(cmd.OutOrStdout())
			lines := json.NewEncoder(out)
			err := o.service.Do(cmd.Context(), o.caller, admin.Task{Action: "audit:read", Tenant: tenant, Patient: true}, func(ctx context.Context, w *admin.Work) error {
				list, err := w.Audit(ctx, f)
				for _, e := range list {
					if asJSON {
						err = lines.Encode(adminapi.AuditLine(e))
					} else {
						printEntry(out, e)
					}
					if err != nil {
						return err
					}
				}
				return err
			})
			if err != nil {
				return err
			}
			return out.Flush()
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&tenant, "tenant", "", "id of a tenant (default: everything)")
	flags.StringVar(&f.Kind, "kind", "", "kind of the object, such as member")
	flags.StringVar(&f.Object, "object", "", "id or name of the object")
	flags.StringVar(&f.Actor, "actor", "", "who did it")
	flags.StringVar(&f.Action, "action", "", "such as member:update")
	timeFlag(cmd, &f.From, "from", "not earlier than this (RFC 3339)")
	timeFlag(cmd, &f.Until, "until", "earlier than this (RFC 3339)")
	flags.IntVar(&f.Limit, "limit", 100, "most entries that are listed")
	flags.BoolVar(&asJSON, "json", false, "print JSON lines")
	return cmd
}

// printEntry prints an entry in a line, and a line for each field that changed.
func printEntry(out io.Writer, e iam.AuditEntry) {
	fmt.Fprintf(out, "%s/%d %s %s %s %s by %s %s (%s)\n", e.Chain, e.Seq, e.At.UTC().Format(time.RFC3339), e.Action, e.Kind, e.Object, e.ActorKind, e.Actor, e.Via)
	for _, c := range e.Changes() {
		fmt.Fprintf(out, "    %s: %s -> %s\n", c.Field, cmp.Or(string(c.Before), "none"), cmp.Or(string(c.After), "none"))
	}
}
