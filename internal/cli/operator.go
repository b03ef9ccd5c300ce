package cli

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"iam-service/internal/admin"
	"iam-service/internal/clients"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
	"iam-service/internal/server"
	"iam-service/internal/telemetry"
	"iam-service/internal/token"
)

// operator is what commands of an operator share: the database, and who they say
// they are.
type operator struct {
	db       *postgres.DB
	service  *admin.Service
	caller   admin.Caller
	issuer   string // RAUTH_URL; may be empty
	issuers  iam.Issuers
	verified []token.Issuer // the same; R-Auth's audiences only where RAUTH_AUDIENCES is set
}

// openOperator opens the database for an operator. Issuers are trusted as serve trusts
// them; DATABASE_URL alone is enough for what names no issuer of its own.
func openOperator(ctx context.Context, environ []string) (*operator, error) {
	url, err := databaseURL(environ)
	if err != nil {
		return nil, err
	}
	vars := env.ToMap(environ)
	cfg := server.Config{RAuthURL: vars["RAUTH_URL"]}
	cfg.RAuthInsecureHTTP, _ = strconv.ParseBool(vars["RAUTH_INSECURE_HTTP"]) // serve says what is wrong with it
	if v := vars["RAUTH_AUDIENCES"]; v != "" {
		cfg.RAuthAudiences = strings.Split(v, ",")
	}
	if v := vars["RAUTH_PROGRAMS"]; v != "" {
		cfg.RAuthPrograms = strings.Split(v, ",")
	}
	if err := server.FromFile(vars, "TRUSTED_ISSUERS"); err != nil {
		return nil, server.Faults(err.Error())
	}
	cfg.TrustedIssuers = vars["TRUSTED_ISSUERS"]
	var faults []string
	cfg.CheckIssuers(func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) })
	if len(faults) > 0 {
		return nil, server.Faults(faults...)
	}
	log := slog.New(slog.DiscardHandler)
	db, err := postgres.Open(ctx, postgres.Config{URL: url, Issuers: cfg.Issuers, Conns: 2}, log, nil)
	if err != nil {
		return nil, errors.New("DATABASE_URL cannot be used")
	}
	if err := db.CheckSchema(ctx); err != nil {
		db.Close()
		return nil, fmt.Errorf("cannot use PostgreSQL (DATABASE_URL, at %s): %w", postgres.Server(url), server.OneLine(err))
	}
	return &operator{
		db: db, issuer: cfg.RAuthURL, issuers: cfg.Issuers, verified: cfg.Verified, caller: admin.Caller{Operator: operatorName(), Via: "command"},
		service: admin.New(admin.Config{DB: db, Issuers: cfg.Issuers, Issuer: cfg.RAuthURL, Audiences: cfg.RAuthAudiences, Log: log, Embedded: server.PackedEmbedded}),
	}, nil
}

// operatorName is who runs a command, as the system knows them.
func operatorName() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}

// withOperator is a command that needs the database and nothing that runs.
func withOperator(environ []string, do func(cmd *cobra.Command, args []string, o *operator) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		o, err := openOperator(cmd.Context(), environ)
		if err != nil {
			return err
		}
		defer o.db.Close()
		return do(cmd, args, o)
	}
}

func grantAdminCommand(environ []string) *cobra.Command {
	var issuer, subject, role string
	cmd := &cobra.Command{
		Use:   "grant-admin --subject SUBJECT",
		Short: "Make somebody a platform administrator (break-glass: needs DATABASE_URL alone, and is audited)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if issuer != "" { // with DATABASE_URL alone, the operator says whom to trust
				environ = append(environ[:len(environ):len(environ)], "RAUTH_URL="+issuer)
			}
			return withOperator(environ, func(cmd *cobra.Command, _ []string, o *operator) error {
				if o.issuer == "" {
					return errors.New("say of which issuer the subject is: --issuer or RAUTH_URL")
				}
				granted, err := o.service.GrantPlatformRole(cmd.Context(), o.caller, admin.Grant{Issuer: o.issuer, Subject: subject, Role: role})
				if err != nil {
					return err
				}
				return report(cmd, map[string]any{"issuer": o.issuer, "subject": subject, "user": granted.User, "role": role, "granted": granted.Changed}, func(out io.Writer) {
					when := "already"
					if granted.Changed {
						when = "now"
					}
					fmt.Fprintf(out, "%s (user %s) holds %s %s\n", subject, granted.User, role, when)
				})
			})(cmd, nil)
		},
	}
	cmd.Flags().StringVar(&issuer, "issuer", "", "issuer of their tokens, byte by byte as in iss; else RAUTH_URL")
	cmd.Flags().StringVar(&subject, "subject", "", "subject of their tokens, as in sub")
	cmd.Flags().StringVar(&role, "role", iam.PlatformAdmin, "platform role: "+strings.Join(iam.PlatformRoles, ", "))
	_ = cmd.MarkFlagRequired("subject") // it is there
	return reports(cmd)
}

func auditCommand(environ []string) *cobra.Command {
	cmd := &cobra.Command{Use: "audit", Short: "Look after the audit: verify, prune"}
	var anchors string
	verify := &cobra.Command{
		Use:   "verify [--anchors FILE]",
		Short: "Walk all chains of the audit and say whether an entry was changed, added or taken away",
		Long: "Walk all chains of the audit. Anchors are heads of chains that were kept where whoever writes this database cannot write:\n" +
			"AuditCheckpoint.v1 events, or lines of the service's log (\"audit checkpoint\"), as JSON lines. Without them, somebody who\n" +
			"can write everything can write the whole chain anew, and nothing here would show it.",
		Args: cobra.NoArgs,
		RunE: withOperator(environ, func(cmd *cobra.Command, _ []string, o *operator) error {
			return verifyAudit(cmd, o, anchors)
		}),
	}
	verify.Flags().StringVar(&anchors, "anchors", "", "file with anchors, JSON lines; - is standard input")
	var keep time.Duration
	prune := &cobra.Command{
		Use:   "prune --keep DURATION",
		Short: "Drop whole months of the audit that are older (needs the owner's DATABASE_URL)",
		Long: "Drop whole months of the audit that ended longer ago than --keep, once all of their entries lie before a checkpoint that was told.\n" +
			"Where a chain was cut is kept, so that what is left can still be verified. The service's own role may not do this.",
		Args: cobra.NoArgs,
		RunE: withOperator(environ, func(cmd *cobra.Command, _ []string, o *operator) error {
			if keep < 30*24*time.Hour {
				return errors.New("--keep must be 720h (30 days) or more")
			}
			var dropped []string
			err := o.db.Change(postgres.Patient(cmd.Context()), func(ctx context.Context, tx *postgres.Tx) (err error) {
				dropped, err = tx.PruneAudit(ctx, time.Now().Add(-keep))
				return err
			})
			if err != nil {
				return err
			}
			return report(cmd, map[string][]string{"dropped": append([]string{}, dropped...)}, func(out io.Writer) {
				for _, name := range dropped {
					fmt.Fprintln(out, "dropped", name)
				}
				if len(dropped) == 0 {
					fmt.Fprintln(out, "nothing to do")
				}
			})
		}),
	}
	prune.Flags().DurationVar(&keep, "keep", 0, "how long entries are kept, as in 9600h")
	_ = prune.MarkFlagRequired("keep") // it is there
	cmd.AddCommand(reports(verify), reports(prune))
	return cmd
}

func verifyAudit(cmd *cobra.Command, o *operator, file string) error {
	var anchors []admin.Anchor
	if file != "" {
		in := cmd.InOrStdin()
		if file != "-" {
			f, err := os.Open(file)
			if err != nil {
				return fmt.Errorf("--anchors: %w", err)
			}
			defer f.Close()
			in = f
		}
		b, err := io.ReadAll(in)
		if err != nil {
			return fmt.Errorf("--anchors: %w", err)
		}
		if anchors, err = admin.ReadAnchors(bytes.Split(b, []byte("\n"))); err != nil {
			return fmt.Errorf("--anchors: %w", err)
		}
	}
	found := verified{Faults: []chainFault{}}
	err := o.service.Verify(cmd.Context(), anchors, func(v admin.Verdict) {
		if !v.Ended {
			found.Chains++
		}
		found.Entries += v.Entries
		if v.Anchored > 0 {
			found.Anchored++
		}
		if v.Fault != "" {
			found.Faults = append(found.Faults, chainFault{v.Chain, v.Fault})
		}
	})
	if err == nil {
		err = report(cmd, found, found.text)
	}
	if err == nil && len(found.Faults) > 0 {
		err = fmt.Errorf("the audit was tampered with, damaged or destroyed: %d faults in %d chains", len(found.Faults), found.Chains)
	}
	return err
}

// verified is what a verification of the audit has found.
type verified struct {
	Chains   int          `json:"chains"`
	Entries  int64        `json:"entries"`
	Anchored int          `json:"anchored"` // chains that were compared with an anchor
	Faults   []chainFault `json:"faults"`
}

type chainFault struct {
	Chain string `json:"chain"` // a tenant; empty: the platform
	Fault string `json:"fault"`
}

func (v verified) text(out io.Writer) {
	for _, f := range v.Faults {
		fmt.Fprintf(out, "%s: %s\n", cmp.Or(f.Chain, "(platform)"), f.Fault)
	}
	fmt.Fprintf(out, "%d chains, %d entries, %d chains compared with an anchor\n", v.Chains, v.Entries, v.Anchored)
	if len(v.Faults) == 0 && v.Anchored < v.Chains {
		fmt.Fprintln(out, "No fault was found. Chains without an anchor from outside prove nothing against somebody who can write all of the database.")
	}
}

func exportCommand(environ []string) *cobra.Command {
	return &cobra.Command{
		Use:   "export TENANT",
		Short: "Write a tenant as JSON lines: itself, its roles, mappings and members",
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
		Short: "Read a tenant as export writes it; the same again changes nothing",
		Long: "Read a tenant as export writes it, from a file or standard input. Members are written in transactions of 1,000: an import that was\n" +
			"cut off is finished by the same import. Nothing is deleted.",
		Args: cobra.MaximumNArgs(1),
		RunE: withOperator(environ, func(cmd *cobra.Command, args []string, o *operator) error {
			if o.issuer == "" {
				return server.Faults("RAUTH_URL is missing: members are of issuers that are trusted")
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
			return report(cmd, map[string]any{"tenant": sum.Tenant, "added": sum.Added, "changed": sum.Changed, "same": sum.Same}, func(out io.Writer) {
				fmt.Fprintf(out, "%s: %d added, %d changed, %d as they were\n", sum.Tenant, sum.Added, sum.Changed, sum.Same)
			})
		}),
	})
}

// progress draws on a terminal, and nothing anywhere else.
func progress(cmd *cobra.Command, size int64, what string) *progressbar.ProgressBar {
	w := cmd.ErrOrStderr()
	if f, ok := w.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		return progressbar.DefaultSilent(size, what)
	}
	options := []progressbar.Option{
		progressbar.OptionSetWriter(w), progressbar.OptionSetDescription(what), progressbar.OptionShowCount(), progressbar.OptionThrottle(100 * time.Millisecond),
		progressbar.OptionClearOnFinish(),
	}
	if size > 0 {
		options = append(options, progressbar.OptionShowBytes(true))
	}
	return progressbar.NewOptions64(size, options...)
}

func eventsCommand(environ []string) *cobra.Command {
	cmd := &cobra.Command{Use: "events", Short: "Look after the events on their way to NATS: replay, parked, retry, skip"}
	var since string
	replay := &cobra.Command{
		Use:   "replay --since TIME|DURATION",
		Short: "Send again what occurred since then, under the same ids, as far back as OUTBOX_RETENTION",
		Args:  cobra.NoArgs,
		RunE: withOperator(environ, func(cmd *cobra.Command, _ []string, o *operator) error {
			from, err := time.Parse(time.RFC3339, since)
			if err != nil {
				ago, err := time.ParseDuration(since)
				if err != nil || ago < 0 {
					return errors.New("--since must be a time such as 2026-01-02T15:04:05Z or a duration such as 24h")
				}
				from = time.Now().Add(-ago)
			}
			task := admin.Task{Action: "event:replay", Writes: true, Patient: true}
			n, err := admin.Do(cmd.Context(), o.service, o.caller, task, func(ctx context.Context, w *admin.Work) (int64, error) {
				return w.ReplayEvents(ctx, from)
			})
			if err != nil {
				return err
			}
			return report(cmd, map[string]any{"events": n, "since": from.UTC().Format(time.RFC3339)}, func(out io.Writer) {
				fmt.Fprintf(out, "%d events since %s are to be sent again, by the replica that relays\n", n, from.UTC().Format(time.RFC3339))
			})
		}),
	}
	replay.Flags().StringVar(&since, "since", "", "2026-01-02T15:04:05Z, or 24h for a day ago")
	_ = replay.MarkFlagRequired("since") // it is there
	parked := &cobra.Command{
		Use:   "parked",
		Short: "List events that NATS refuses for themselves: each holds back those after it of the same object",
		Args:  cobra.NoArgs,
		RunE: withOperator(environ, func(cmd *cobra.Command, _ []string, o *operator) error {
			var list []postgres.ParkedEvent
			err := o.db.View(cmd.Context(), func(ctx context.Context, tx *postgres.Tx) (err error) {
				list, err = tx.ParkedEvents(ctx)
				return err
			})
			if err != nil {
				return err
			}
			rows := make([]parkedEvent, len(list))
			for i, e := range list {
				rows[i] = parkedEvent{e.ID, e.OccurredAt.UTC(), e.Type, e.Tenant, e.Kind, e.Object, e.Why}
			}
			return report(cmd, rows, func(out io.Writer) {
				for _, e := range rows {
					fmt.Fprintf(out, "%s  %s  %s %s/%s/%s  %s\n", e.ID, e.OccurredAt.Format(time.RFC3339), e.Type, e.Tenant, e.Kind, e.Object, e.Why)
				}
				if len(rows) == 0 {
					fmt.Fprintln(out, "nothing is parked")
				}
			})
		}),
	}
	decide := func(use, short string, skip bool) *cobra.Command {
		return &cobra.Command{Use: use + " ID", Short: short, Args: cobra.ExactArgs(1), RunE: withOperator(environ, func(cmd *cobra.Command, args []string, o *operator) error {
			task := admin.Task{Action: "event:" + use, Object: args[0], Writes: true}
			return o.service.Do(cmd.Context(), o.caller, task, func(ctx context.Context, w *admin.Work) error { return w.Unpark(ctx, args[0], skip) })
		})}
	}
	cmd.AddCommand(reports(replay), reports(parked), decide("retry", "Try a parked event again", false), decide("skip", "Give a parked event up: it is never sent", true))
	return cmd
}

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

// parkedEvent is an event that is parked, for machines.
type parkedEvent struct {
	ID         string    `json:"id"`
	OccurredAt time.Time `json:"occurred_at"`
	Type       string    `json:"type"`
	Tenant     string    `json:"tenant,omitempty"` // empty: of the platform
	Kind       string    `json:"kind"`
	Object     string    `json:"object"`
	Why        string    `json:"why"`
}

func reconcileCommand(environ []string) *cobra.Command {
	var dryRun bool
	var most int
	cmd := &cobra.Command{
		Use:   "reconcile",
		Short: "Make the identity provider's clients agree with ours: finish what was interrupted, compare, repair",
		Long: "Finish changes of clients that were interrupted, then compare all clients of the database with those in R-Auth and repair\n" +
			"those that differ, if two comparisons see it. Clients of others are never touched. It takes the settings of serve, and can\n" +
			"run beside it. The exit status is 1 where something is left.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := server.ParseConfig(environ)
			if err != nil {
				return err
			}
			if cfg.RAuthAdminURL == "" {
				return server.Faults("RAUTH_ADMIN_URL is missing: R-Auth's admin API")
			}
			confirmed := cmd.Flags().Changed("max-changes")
			if most <= 0 {
				most = cfg.ReconcileMaxChanges
			}
			return withOperator(environ, func(cmd *cobra.Command, _ []string, o *operator) error {
				found, err := reconcile(cmd.Context(), cfg, o, telemetry.NewLogger(cmd.ErrOrStderr(), slog.LevelError), dryRun, confirmed, most)
				if err != nil {
					return err
				}
				return printReport(cmd, found, dryRun, most)
			})(cmd, nil)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "compare only, and change nothing")
	cmd.Flags().IntVar(&most, "max-changes", 0, "clients to repair at most, more are all left; repairs also where another database may have written; else RECONCILE_MAX_CHANGES")
	return reports(cmd)
}

func reconcile(ctx context.Context, cfg server.Config, o *operator, log *slog.Logger, dryRun, confirmed bool, most int) (clients.Report, error) {
	verifier, err := token.New(token.Config{Issuers: cfg.Verified[:1], Keeper: o.db, Log: log})
	if err != nil {
		return clients.Report{}, err
	}
	if cfg.RAuthAdminClientID != "" { // its token endpoint is asked for
		if err := verifier.Start(ctx, time.Now().Add(cfg.StartTimeout)); err != nil {
			return clients.Report{}, fmt.Errorf("R-Auth cannot be asked for its endpoints (RAUTH_URL=%s): %w", cfg.RAuthURL, err)
		}
	}
	provider, err := server.NewProvider(cfg, verifier, log, nil)
	if err != nil {
		return clients.Report{}, fmt.Errorf("RAUTH_ADMIN_URL: %w", err)
	}
	instance, copied, err := o.db.Instance(ctx)
	if err != nil {
		return clients.Report{}, err
	}
	return clients.New(clients.Config{
		Admin: o.service, DB: o.db, Provider: provider, Issuer: cfg.RAuthURL, Instance: instance, Copied: copied, Confirmed: confirmed, Log: log, TokenLifetime: cfg.MaxTokenLifetime,
	}).Reconcile(ctx, dryRun, most)
}

// printReport fails where something is left.
func printReport(cmd *cobra.Command, r clients.Report, dryRun bool, most int) error {
	c := compared{Compared: r.Compared, Pending: r.Pending, Left: r.Left(), Foreign: r.Foreign, Stopped: r.Stopped, Differences: []difference{}}
	for _, d := range r.Differences {
		done := cmp.Or(d.Done, "left")
		if d.Kind == clients.DriftUnmanaged {
			done = "not managed here"
		}
		c.Differences = append(c.Differences, difference{d.Client, d.Tenant, d.Kind, d.Fields, done, d.Repair, d.Why})
	}
	if err := report(cmd, c, c.text); err != nil {
		return err
	}
	switch {
	case r.Newer && r.Stopped:
		return errors.New("clients have versions in R-Auth that this database has not written: it was restored, or another database is the same instance; nothing was repaired: look at them, then say --max-changes, or iam-service instance renew in a copy")
	case r.Stopped:
		return fmt.Errorf("more than %d clients differ, so nothing was repaired: look at them, then say --max-changes", most)
	case r.Left() > 0 && dryRun:
		return fmt.Errorf("%d clients differ", r.Left())
	case r.Left() > 0 || r.Pending > 0 && !dryRun:
		return errors.New("not everything agrees")
	}
	return nil
}

// compared is a comparison of all clients, for machines and for people.
type compared struct {
	Compared    int          `json:"compared"`
	Pending     int          `json:"pending"` // the identity provider has yet to be told
	Left        int          `json:"left"`
	Foreign     int          `json:"foreign"` // of others
	Stopped     bool         `json:"stopped"` // there were more differences than are repaired
	Differences []difference `json:"differences"`
}

type difference struct {
	Client string   `json:"client"`
	Tenant string   `json:"tenant,omitempty"` // empty: of the platform
	Kind   string   `json:"kind"`
	Fields []string `json:"fields,omitempty"`
	Done   string   `json:"done"`
	Repair string   `json:"repair,omitempty"` // empty: nobody wins by itself
	Why    string   `json:"why"`
}

func (c compared) text(out io.Writer) {
	for _, d := range c.Differences {
		winner, about := "iam-service wins", d.Kind
		if d.Repair == "" {
			winner = "nobody wins by itself"
		}
		if len(d.Fields) > 0 {
			about += " (" + strings.Join(d.Fields, ", ") + ")"
		}
		fmt.Fprintf(out, "%s of %s: %s: %s; %s: %s\n", d.Client, cmp.Or(d.Tenant, "the platform"), about, d.Done, winner, d.Why)
	}
	fmt.Fprintf(out, "%d compared, %d pending, %d differ, %d left; of others: %d\n", c.Compared, c.Pending, len(c.Differences), c.Left, c.Foreign)
}
