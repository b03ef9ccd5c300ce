package cli

import (
	"bufio"
	"cmp"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"iam-service/internal/admin"
	"iam-service/internal/adminapi"
	"iam-service/internal/iam"
	"iam-service/internal/policyops/preview"
	"iam-service/internal/postgres"
	"iam-service/internal/server"
)

func accessCommand(environ []string) *cobra.Command {
	cmd := &cobra.Command{Use: "access", Short: "Who can do what: who holds a permission, what a user holds, what is unused, exports for an access review"}
	cmd.AddCommand(accessWhoCommand(environ), accessUserCommand(environ), accessMatrixCommand(environ), accessExportCommand(environ), accessChangesCommand(environ), accessSearchCommand(environ), accessUnusedCommand(environ))
	return cmd
}

// withAccess runs a command that reads access. Subjects of an issuer that is not trusted hold nothing, so without
// RAUTH_URL an answer would be empty and wrong.
func withAccess(environ []string, do func(cmd *cobra.Command, args []string, o *operator) error) func(*cobra.Command, []string) error {
	return withOperator(environ, func(cmd *cobra.Command, args []string, o *operator) error {
		if o.issuer == "" {
			return server.Faults("RAUTH_URL is missing: subjects of an issuer that is not trusted hold nothing. Set it and TRUSTED_ISSUERS as for serve")
		}
		return do(cmd, args, o)
	})
}

// table prints rows in the format of a flag.
type table struct {
	format string
	out    *bufio.Writer
	csv    *csv.Writer
	text   *tabwriter.Writer
	show   []int // columns of text
}

func formatFlag(cmd *cobra.Command, format *string) *cobra.Command {
	cmd.Flags().StringVar(format, "format", "text", "text, csv, or jsonl (JSON lines)")
	return cmd
}

// newTable writes the header. Text shows some of the columns.
func newTable(cmd *cobra.Command, format string, columns, show []string) (*table, error) {
	t := &table{format: format, out: bufio.NewWriter(cmd.OutOrStdout())}
	switch format {
	case "jsonl":
		return t, nil
	case "csv":
		t.csv = csv.NewWriter(t.out)
		return t, t.csv.Write(columns)
	case "text":
		t.text = tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
		for i, name := range columns {
			for _, s := range show {
				if s == name {
					t.show = append(t.show, i)
				}
			}
		}
		return t, t.line(columns)
	}
	return nil, &usageError{fmt.Sprintf("--format %q: must be text, csv or jsonl", format)}
}

func (t *table) line(cells []string) error {
	shown := make([]string, len(t.show))
	for i, column := range t.show {
		shown[i] = cmp.Or(cells[column], "-")
	}
	_, err := fmt.Fprintln(t.text, strings.Join(shown, "\t"))
	return err
}

// each writes an item: as JSON, or its rows.
func (t *table) each(item any, rows [][]string) error {
	if t.format == "jsonl" {
		return json.NewEncoder(t.out).Encode(item)
	}
	for _, cells := range rows {
		var err error
		if t.csv != nil {
			err = t.csv.Write(admin.SafeCells(cells))
		} else {
			err = t.line(cells)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *table) end() error {
	var err error
	if t.csv != nil {
		t.csv.Flush()
		err = t.csv.Error()
	}
	if t.text != nil {
		err = t.text.Flush()
	}
	return errors.Join(err, t.out.Flush())
}

// reading runs a question in one transaction, for as long as it takes.
func (o *operator) reading(ctx context.Context, tenant string, do func(context.Context, *admin.Work) error) error {
	return o.service.Do(ctx, o.caller, admin.Task{Action: "access:list", Tenant: tenant, Patient: true}, do)
}

// timeFlag adds a flag of a moment.
func timeFlag(cmd *cobra.Command, into *time.Time, name, usage string) {
	cmd.Flags().TimeVar(into, name, time.Time{}, []string{time.RFC3339, time.DateOnly}, usage)
}

func accessWhoCommand(environ []string) *cobra.Command {
	var q admin.AccessQuestion
	var format string
	cmd := &cobra.Command{
		Use:   "who TENANT --permission P | --role R | --client ID",
		Short: "List who holds a permission or a role in a tenant, or what a client holds there, and by which path",
		Long: "List users by id, then clients, then mappings of claims: only what is in force. A mapping stands for every user whose token has\n" +
			"the claim. Needs DATABASE_URL and RAUTH_URL.",
		Args: cobra.ExactArgs(1),
		RunE: withAccess(environ, func(cmd *cobra.Command, args []string, o *operator) error {
			t, err := newTable(cmd, format, admin.AccessColumns, []string{"kind", "user", "subject", "client_id", "value", "role", "permission", "path", "through", "expires_at"})
			if err != nil {
				return err
			}
			if err := o.reading(cmd.Context(), args[0], func(ctx context.Context, w *admin.Work) error {
				return w.EachAccess(ctx, args[0], q, func(x admin.Access, asOf time.Time) error {
					return t.each(adminapi.AccessLine(x, asOf), admin.AccessRows(args[0], x, asOf))
				})
			}); err != nil {
				return err
			}
			return t.end()
		}),
	}
	f := cmd.Flags()
	f.StringVar(&q.Permission, "permission", "", "who holds it")
	f.StringVar(&q.Role, "role", "", "who holds it, assigned or inherited")
	f.StringVar(&q.Client, "client", "", "client_id: what the client holds")
	timeFlag(cmd, &q.At, "at", "as it was then, from the audit (RFC 3339)")
	cmd.MarkFlagsOneRequired("permission", "role", "client")
	cmd.MarkFlagsMutuallyExclusive("permission", "role", "client")
	return formatFlag(cmd, &format)
}

func accessUserCommand(environ []string) *cobra.Command {
	var format, issuer, subject string
	var at time.Time
	cmd := &cobra.Command{
		Use:   "user [ID] [--subject SUBJECT [--issuer URL]]",
		Short: "List what a user holds in each tenant, and by which path",
		Long:  "Name the user by our id, or by subject and issuer. Needs DATABASE_URL and RAUTH_URL.",
		Args:  cobra.MaximumNArgs(1),
		RunE: withAccess(environ, func(cmd *cobra.Command, args []string, o *operator) error {
			if (len(args) == 1) == (subject != "") {
				return &usageError{"name the user by ID or --subject: " + cmd.UseLine()}
			}
			t, err := newTable(cmd, format, admin.UserAccessColumns, []string{"tenant", "in_force", "why", "role", "permission", "path", "through", "expires_at"})
			if err != nil {
				return err
			}
			if err := o.reading(cmd.Context(), "", func(ctx context.Context, w *admin.Work) error {
				id := strings.Join(args, "")
				if id == "" {
					users, err := w.Users(ctx, postgres.UserFilter{Issuer: cmp.Or(issuer, o.issuer), Subject: subject, Limit: 1})
					if err != nil {
						return err
					}
					if len(users) == 0 {
						return fmt.Errorf("there is no user %q of %s", subject, cmp.Or(issuer, o.issuer))
					}
					id = users[0].ID
				}
				return w.EachUserAccess(ctx, id, at, func(x admin.UserAccess) error {
					return t.each(adminapi.UserAccessLine(id, x), admin.UserAccessRows(id, x))
				})
			}); err != nil {
				return err
			}
			return t.end()
		}),
	}
	timeFlag(cmd, &at, "at", "as it was then, from the audit (RFC 3339)")
	cmd.Flags().StringVar(&subject, "subject", "", "subject of the user's tokens")
	cmd.Flags().StringVar(&issuer, "issuer", "", "issuer of the subject (default: RAUTH_URL)")
	return formatFlag(cmd, &format)
}

func accessMatrixCommand(environ []string) *cobra.Command {
	var of, format string
	cmd := &cobra.Command{
		Use:   "matrix TENANT [--of roles|members]",
		Short: "Print which permissions each role means, or which roles each member holds, as a table (CSV)",
		Args:  cobra.ExactArgs(1),
		RunE: withAccess(environ, func(cmd *cobra.Command, args []string, o *operator) error {
			if of != "roles" && of != "members" {
				return &usageError{fmt.Sprintf("--of %q: must be roles or members", of)}
			}
			if format != "csv" && format != "jsonl" {
				return &usageError{fmt.Sprintf("--format %q: must be csv or jsonl", format)}
			}
			var t *table
			if err := o.reading(cmd.Context(), args[0], func(ctx context.Context, w *admin.Work) (err error) {
				return w.EachMatrixRow(ctx, admin.Matrix{Tenant: args[0], Members: of == "members"}, func(columns []string) error {
					t, err = newTable(cmd, format, columns, nil)
					return err
				}, func(r admin.MatrixRow, cells []string) error {
					return t.each(adminapi.MatrixLine(r), [][]string{cells})
				})
			}); err != nil {
				return err
			}
			return t.end()
		}),
	}
	cmd.Flags().StringVar(&of, "of", "roles", "roles: their permissions; members: their roles")
	cmd.Flags().StringVar(&format, "format", "csv", "csv, or jsonl (JSON lines)")
	return cmd
}

func accessExportCommand(environ []string) *cobra.Command {
	var format string
	var at time.Time
	cmd := &cobra.Command{
		Use:   "export TENANT",
		Short: "Export what each member of a tenant holds, for an access review",
		Long:  "A row for each path to each role and permission, and one for a member who holds nothing, of one moment. Needs DATABASE_URL and RAUTH_URL.",
		Args:  cobra.ExactArgs(1),
		RunE: withAccess(environ, func(cmd *cobra.Command, args []string, o *operator) error {
			if format != "csv" && format != "jsonl" {
				return &usageError{fmt.Sprintf("--format %q: must be csv or jsonl", format)}
			}
			t, err := newTable(cmd, format, append([]string{"issuer", "subject"}, admin.UserAccessColumns...), nil)
			if err != nil {
				return err
			}
			bar := progress(cmd, -1, "members written")
			if err := o.reading(cmd.Context(), args[0], func(ctx context.Context, w *admin.Work) error {
				return w.EachMemberAccess(ctx, args[0], at, func(x admin.MemberAccess) error {
					_ = bar.Add(1) // only drawing
					rows := admin.UserAccessRows(x.User, x.UserAccess)
					for i := range rows {
						rows[i] = append([]string{x.Issuer, x.Subject}, rows[i]...)
					}
					return t.each(memberLine{x.Issuer, x.Subject, adminapi.UserAccessLine(x.User, x.UserAccess)}, rows)
				})
			}); err != nil {
				return err
			}
			_ = bar.Finish() // only drawing
			return t.end()
		}),
	}
	timeFlag(cmd, &at, "at", "as it was then, from the audit (RFC 3339)")
	cmd.Flags().StringVar(&format, "format", "csv", "csv, or jsonl (JSON lines)")
	return cmd
}

func accessChangesCommand(environ []string) *cobra.Command {
	var format, user string
	var p admin.AccessPeriod
	cmd := &cobra.Command{
		Use:   "changes TENANT | --user ID, with --from TIME [--to TIME]",
		Short: "List who gained and lost what between two moments, and by which entries of the audit",
		Long:  "Entries are named by chain and number, as in acme/7; those of the platform as in /7. Needs DATABASE_URL and RAUTH_URL.",
		Args:  cobra.MaximumNArgs(1),
		RunE: withAccess(environ, func(cmd *cobra.Command, args []string, o *operator) error {
			if (len(args) == 1) == (user != "") {
				return &usageError{"name a tenant or --user: " + cmd.UseLine()}
			}
			t, err := newTable(cmd, format, admin.AccessChangeColumns, []string{"tenant", "kind", "user", "subject", "client_id", "value", "change", "role", "permission", "entries"})
			if err != nil {
				return err
			}
			each := func(c admin.AccessChange) error {
				return t.each(adminapi.AccessChangeLine(c), admin.AccessChangeRows(c))
			}
			if err := o.reading(cmd.Context(), strings.Join(args, ""), func(ctx context.Context, w *admin.Work) error {
				if user == "" {
					return w.EachAccessChange(ctx, args[0], p, each)
				}
				list, err := w.UserAccessChanges(ctx, user, p)
				for _, c := range list {
					err = errors.Join(err, each(c))
				}
				return err
			}); err != nil {
				return err
			}
			return t.end()
		}),
	}
	timeFlag(cmd, &p.From, "from", "the earlier moment (RFC 3339)")
	timeFlag(cmd, &p.To, "to", "the later moment (default: now)")
	cmd.Flags().StringVar(&user, "user", "", "id of a user: in every tenant")
	_ = cmd.MarkFlagRequired("from") // the flag exists
	return formatFlag(cmd, &format)
}

// memberLine is what a member holds, as a line of an export.
type memberLine struct {
	Issuer  string `json:"issuer,omitempty"`
	Subject string `json:"subject,omitempty"`
	Access  any    `json:"access"`
}

func accessSearchCommand(environ []string) *cobra.Command {
	var s preview.Search
	var claims, under string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "search TENANT [--method GET] [--path /invoices/1] [--claims JSON]",
		Short: "List the members and clients of a tenant whom the active policy lets in with a request",
		Long: "Evaluate one request for each member and client of a tenant, over one snapshot: exact over the facts, and as asked for the request\n" +
			"and the claims. Needs DATABASE_URL and RAUTH_URL; settings are read as serve reads them. The policy is the active one by the\n" +
			"database, else the embedded one, or that of --policy.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if claims != "" {
				if err := json.Unmarshal([]byte(claims), &s.Question.Token); err != nil {
					return &usageError{"--claims is no JSON object: " + err.Error()}
				}
			}
			s.Question.Title = "search"
			if err := preview.CheckQuestions("the request", []preview.Question{s.Question}); err != nil {
				return err
			}
			cfg, err := server.ReadConfig(environ, evaluatorNeeds)
			if err != nil {
				return err
			}
			a, err := openEvaluator(ctx, &cfg)
			if err != nil {
				return err
			}
			defer a.close()
			if a.issuer == "" {
				return server.Faults("RAUTH_URL is missing: subjects of an issuer that is not trusted are denied")
			}
			if _, known, err := a.facts.Tenant(ctx, args[0]); err != nil || !known {
				return errors.Join(err, iam.Errorf(iam.NotFound, "there is no tenant %q", args[0]))
			}
			if s.Revision, err = a.revision(ctx, under); err != nil {
				return err
			}
			s.Engine, s.Issuers, s.HeaderMax, s.Facts, s.Tenant = a.engine, a.issuers, a.headerMax, a.facts, args[0]
			s.Workers = runtime.GOMAXPROCS(0)
			return runSearch(cmd, s, asJSON)
		},
	}
	f := cmd.Flags()
	f.StringVar(&s.Question.Request.Method, "method", "GET", "of the request")
	f.StringVar(&s.Question.Request.Scheme, "scheme", "", "of the request")
	f.StringVar(&s.Question.Request.Host, "host", "", "of the request")
	f.StringVar(&s.Question.Request.Path, "path", "/", "of the request")
	f.StringVar(&claims, "claims", "", "claims of each subject's token besides iss, sub and client_id, as a JSON object")
	f.StringSliceVar(&s.Question.Of, "of", nil, "users, clients (default: both)")
	f.StringVar(&under, "policy", "", "folder or bundle in place of the active policy")
	f.IntVar(&s.Limit, "limit", 1_000_000, "most subjects that are listed")
	f.BoolVar(&asJSON, "json", false, "print JSON lines")
	return cmd
}

// runSearch prints what a search finds while it runs.
func runSearch(cmd *cobra.Command, s preview.Search, asJSON bool) error {
	out := bufio.NewWriter(cmd.OutOrStdout())
	lines := json.NewEncoder(out)
	sum, err := s.Run(cmd.Context(), func(b preview.Begin) error {
		if b.Lacks != "" {
			fmt.Fprintln(cmd.ErrOrStderr(), "the policy reads what the request lacks, and denies where it does:", b.Lacks)
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "policy %s; exact over the facts of %s, and as asked for the request and the claims\n", b.Revision, b.AsOf.UTC().Format(time.RFC3339))
		return nil
	}, func(f preview.Found) error {
		if asJSON {
			return lines.Encode(f)
		}
		if f.Failed != "" {
			_, err := fmt.Fprintln(cmd.ErrOrStderr(), "failed:", f.Kind, cmp.Or(f.Subject, f.ClientID), f.Issuer, f.Failed)
			return err
		}
		_, err := fmt.Fprintln(out, f.Kind, cmp.Or(f.Subject, f.ClientID), f.Issuer, strings.Join(f.Codes, ","))
		return err
	})
	if err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return err
	}
	summary(cmd.ErrOrStderr(), sum)
	return nil
}

func summary(w io.Writer, sum preview.Searched) {
	fmt.Fprintf(w, "%d of %d are let in", sum.Found, sum.Asked)
	switch {
	case sum.Failed > 0:
		fmt.Fprintf(w, "; the list is not complete: %d evaluations failed", sum.Failed)
	case !sum.Complete:
		fmt.Fprint(w, "; the list ended at its limit")
	}
	fmt.Fprintln(w)
}
