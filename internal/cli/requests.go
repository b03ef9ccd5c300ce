package cli

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

func requestsCommand(environ []string) *cobra.Command {
	var f postgres.RequestFilter
	var format string
	cmd := &cobra.Command{
		Use:   "requests TENANT",
		Short: "List the requests of members for roles, the newest first",
		Args:  cobra.ExactArgs(1),
		RunE: withOperator(environ, func(cmd *cobra.Command, args []string, o *operator) error {
			columns := []string{"id", "user", "role", "status", "approval", "seconds", "created_at", "decide_by", "expires_at", "decider", "reason"}
			t, err := newTable(cmd, format, columns, []string{"id", "user", "role", "status", "created_at", "expires_at", "reason"})
			if err != nil {
				return err
			}
			f.Limit = admin.MaxBatch
			for {
				var page []iam.RoleRequest
				if err := o.reading(cmd.Context(), args[0], func(ctx context.Context, w *admin.Work) (err error) {
					page, err = w.Requests(ctx, args[0], f)
					return err
				}); err != nil {
					return err
				}
				for _, q := range page {
					cells := []string{
						q.ID, q.User, q.Role, q.Status, q.Approval, (time.Duration(q.Seconds) * time.Second).String(),
						stamp(q.CreatedAt), stamp(q.DecideBy), stamp(q.ExpiresAt), q.Decider, q.Reason,
					}
					if err := t.each(named(columns, cells), [][]string{cells}); err != nil {
						return err
					}
					f.Before = q.Seq
				}
				if len(page) < f.Limit {
					return t.end()
				}
			}
		}),
	}
	cmd.Flags().StringVar(&f.Status, "status", "", "pending, approved, rejected, cancelled or expired")
	cmd.Flags().StringVar(&f.Role, "role", "", "of this role")
	return formatFlag(cmd, &format)
}

func endingCommand(environ []string) *cobra.Command {
	var format string
	var within time.Duration
	cmd := &cobra.Command{
		Use:   "ending TENANT",
		Short: "List the members whose membership or a role ends soon, what ends first comes first",
		Args:  cobra.ExactArgs(1),
		RunE: withOperator(environ, func(cmd *cobra.Command, args []string, o *operator) error {
			if within <= 0 {
				return &usageError{"--within must be more than 0"}
			}
			columns := []string{"user", "issuer", "subject", "first_end", "membership_ends", "roles"}
			t, err := newTable(cmd, format, columns, []string{"subject", "first_end", "membership_ends", "roles"})
			if err != nil {
				return err
			}
			f := postgres.MemberFilter{EndsWithin: within, Limit: admin.MaxBatch}
			for {
				var page []iam.Member
				if err := o.reading(cmd.Context(), args[0], func(ctx context.Context, w *admin.Work) (err error) {
					page, err = w.Members(ctx, args[0], f)
					return err
				}); err != nil {
					return err
				}
				for _, m := range page {
					var ends []string
					for _, role := range m.Roles {
						if end := m.Terms[role].ExpiresAt; !end.IsZero() {
							ends = append(ends, role+" "+stamp(end))
						}
					}
					cells := []string{m.User, m.Issuer, m.Subject, stamp(m.FirstEnd()), stamp(m.ExpiresAt), strings.Join(ends, ", ")}
					if err := t.each(named(columns, cells), [][]string{cells}); err != nil {
						return err
					}
					f.After, f.AfterEnd = m.User, m.FirstEnd().UTC().Format(time.RFC3339Nano)
				}
				if len(page) < f.Limit {
					return t.end()
				}
			}
		}),
	}
	cmd.Flags().DurationVar(&within, "within", 168*time.Hour, "how soon")
	return formatFlag(cmd, &format)
}

// named are the cells of a row by their columns, without empty ones.
func named(columns, cells []string) map[string]string {
	row := map[string]string{}
	for i, cell := range cells {
		if cell != "" {
			row[columns[i]] = cell
		}
	}
	return row
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
