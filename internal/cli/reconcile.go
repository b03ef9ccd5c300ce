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
	"iam-service/internal/clients/rauth"
	"iam-service/internal/server"
	"iam-service/internal/telemetry"
	"iam-service/internal/token"
)

func reconcileCommand(environ []string) *cobra.Command {
	var dryRun bool
	var limit int
	cmd := &cobra.Command{
		Use:   "reconcile",
		Short: "Reconcile the identity provider's clients with the database: finish interrupted changes, compare, repair",
		Long: "Finish interrupted changes of clients, then compare all clients of the database with those in R-Auth and repair each difference that\n" +
			"two comparisons find. Clients of other owners are never changed. It reads the settings of serve and can run concurrently with it.\n" +
			"The exit status is 1 if differences or pending changes remain.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := server.ReadConfig(environ, server.Needs{Database: true, RAuth: true, Issuers: true, Provider: true})
			if err != nil {
				return err
			}
			if cfg.RAuthAdminURL == "" {
				return server.Faults("RAUTH_ADMIN_URL is missing: R-Auth's admin API")
			}
			r := repair{dryRun: dryRun, confirmed: cmd.Flags().Changed("max-changes"), limit: limit}
			if limit <= 0 {
				r.limit = cfg.ReconcileMaxChanges
			}
			return withOperator(environ, func(cmd *cobra.Command, _ []string, o *operator) error {
				found, err := reconcile(cmd.Context(), cfg, o, r, telemetry.NewLogger(cmd.ErrOrStderr(), slog.LevelError))
				if err != nil {
					return err
				}
				return printReport(cmd, found, r)
			})(cmd, nil)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "compare only, change nothing")
	cmd.Flags().IntVar(&limit, "max-changes", 0, "repair at most this many clients (default: RECONCILE_MAX_CHANGES); if more differ, none is repaired. Given explicitly, it also confirms repairs of clients that another database may have written")
	return reports(cmd)
}

// repair is what differences a run may repair.
type repair struct {
	dryRun    bool // none
	confirmed bool // also those of clients that another database may have written
	limit     int  // none, if more clients differ
}

func reconcile(ctx context.Context, cfg server.Config, o *operator, r repair, log *slog.Logger) (clients.Report, error) {
	verifier, err := token.New(token.Config{Issuers: cfg.Verified[:1], KeyStore: o.db, Log: log})
	if err != nil {
		return clients.Report{}, err
	}
	if cfg.RAuthAdminClientID != "" { // discovery finds its token endpoint
		if err := verifier.Start(ctx, time.Now().Add(cfg.StartTimeout)); err != nil {
			return clients.Report{}, fmt.Errorf("R-Auth's discovery document cannot be fetched (RAUTH_URL=%s): %w", cfg.RAuthURL, err)
		}
	}
	provider, err := server.NewProvider(cfg, verifier, rauth.Config{Log: log})
	if err != nil {
		return clients.Report{}, fmt.Errorf("RAUTH_ADMIN_URL: %w", err)
	}
	instance, copied, err := o.db.Instance(ctx)
	if err != nil {
		return clients.Report{}, err
	}
	service := clients.New(clients.Config{
		Admin: o.service, DB: o.db, Provider: provider, Issuer: cfg.RAuthURL, Instance: instance, Copied: copied, Confirmed: r.confirmed, Log: log, TokenLifetime: cfg.MaxTokenLifetime,
	})
	if r.dryRun {
		return service.Compare(ctx)
	}
	return service.Reconcile(ctx, r.limit)
}

// printReport prints a report, and returns an error if differences or pending changes remain.
func printReport(cmd *cobra.Command, found clients.Report, r repair) error {
	c := compared{Compared: found.Compared, Pending: found.Pending, Left: found.Left(), Foreign: found.Foreign, Stopped: found.Stopped, Differences: []difference{}}
	for _, d := range found.Differences {
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
	case found.Newer && found.Stopped:
		return errors.New("clients have versions in R-Auth that this database did not write: it was restored, or another database is the same instance; nothing was repaired: review the differences, then pass --max-changes, or run iam-service instance renew in a copy")
	case found.Stopped:
		return fmt.Errorf("more than %d clients differ, so nothing was repaired: review the differences, then pass --max-changes", r.limit)
	case found.Left() > 0 && r.dryRun:
		return fmt.Errorf("%d clients differ", found.Left())
	case found.Left() > 0 || found.Pending > 0 && !r.dryRun:
		return errors.New("differences or pending changes remain")
	}
	return nil
}

// compared is a comparison of all clients, as text and as JSON.
type compared struct {
	Compared    int          `json:"compared"`
	Pending     int          `json:"pending"` // changes that the identity provider has not received
	Left        int          `json:"left"`
	Foreign     int          `json:"foreign"` // of other owners
	Stopped     bool         `json:"stopped"` // more differences than may be repaired
	Differences []difference `json:"differences"`
}

type difference struct {
	Client string   `json:"client"`
	Tenant string   `json:"tenant,omitempty"` // empty: of the platform
	Kind   string   `json:"kind"`
	Fields []string `json:"fields,omitempty"`
	Done   string   `json:"done"`
	Repair string   `json:"repair,omitempty"` // empty: needs an operator
	Why    string   `json:"why"`
}

func (c compared) text(out io.Writer) {
	for _, d := range c.Differences {
		resolution, about := "iam-service wins", d.Kind
		if d.Repair == "" {
			resolution = "needs an operator"
		}
		if len(d.Fields) > 0 {
			about += " (" + strings.Join(d.Fields, ", ") + ")"
		}
		fmt.Fprintf(out, "%s of %s: %s: %s; %s: %s\n", d.Client, cmp.Or(d.Tenant, "the platform"), about, d.Done, resolution, d.Why)
	}
	fmt.Fprintf(out, "%d compared, %d pending, %d differ, %d left, %d of other owners\n", c.Compared, c.Pending, len(c.Differences), c.Left, c.Foreign)
}
