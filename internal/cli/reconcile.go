package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"iam-service/internal/clients"
	"iam-service/internal/server"
	"iam-service/internal/telemetry"
	"iam-service/internal/token"
)

func reconcileCommand(environ []string) *cobra.Command {
	var dryRun bool
	var most int
	cmd := &cobra.Command{
		Use:   "reconcile",
		Short: "Reconcile the identity provider's clients with ours: finish what was interrupted, compare, repair",
		Long: "Finish changes of clients that were interrupted, then compare all clients of the database with those in R-Auth and repair\n" +
			"those that differ, if two comparisons see it. Clients of others are never touched. It reads the settings of serve, and can\n" +
			"run next to it. The exit status is 1 where something is left.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := server.ReadConfig(environ, server.Needs{Database: true, RAuth: true, Issuers: true, Provider: true})
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
	verifier, err := token.New(token.Config{Issuers: cfg.Verified[:1], KeyStore: o.db, Log: log})
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
