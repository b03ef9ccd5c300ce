package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"iam-service/internal/postgres"
	"iam-service/internal/server"
)

func migrateCommand(environ []string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Migrate the schema: up, down, status; wait until it is new enough",
		Long: "Migrate the schema of DATABASE_LISTEN_URL, or of DATABASE_URL where that is not set. The connection must be direct, without a pooler:\n" +
			"an advisory lock of the session prevents concurrent migrations.",
	}
	act := func(use, short string, needs server.Needs, do func(cmd *cobra.Command, cfg server.Config) error) *cobra.Command {
		return reports(&cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := server.ReadConfig(environ, needs)
			if err != nil {
				return err
			}
			return do(cmd, cfg)
		}})
	}
	var grantTo string
	up := act("up", "Apply all pending migrations, also to DECISIONS_DATABASE_URL where it is set", server.Needs{Database: true, Decisions: true}, func(cmd *cobra.Command, cfg server.Config) error {
		done, err := migrateUp(cmd.Context(), cfg, grantTo)
		return errors.Join(report(cmd, done, done.text), err)
	})
	up.Flags().StringVar(&grantTo, "grant-to", "", "database role that the service connects as; it is granted what the service needs and nothing else")
	var yes bool
	var rollback postgres.Rollback
	down := act("down", "Revert the last migration and destroy the data in its tables: for development, and after a failed update", server.Needs{Database: true}, func(cmd *cobra.Command, cfg server.Config) error {
		if !yes {
			last, applied, err := postgres.LastStep(cmd.Context(), directURL(cfg))
			if err != nil {
				return err
			}
			if applied {
				return &usageError{fmt.Sprintf("this reverts %s and destroys the data in its tables: confirm with --yes", last.File)}
			}
		}
		rollback.By = operatorName()
		steps, err := postgres.RollbackLast(cmd.Context(), directURL(cfg), rollback)
		done := migrated{Applied: []string{}, TakenBack: files(steps)}
		return errors.Join(report(cmd, done, done.text), err)
	})
	down.Flags().BoolVar(&yes, "yes", false, "confirm that the data is destroyed")
	down.Flags().BoolVar(&rollback.DestroyAudit, "destroy-audit", false, "confirm that audit entries may be destroyed; \"audit verify\" reports the loss from then on")
	cmd.AddCommand(
		up, down, migrateWaitCommand(environ),
		act("status", "List all migrations and when each was applied", server.Needs{Database: true}, func(cmd *cobra.Command, cfg server.Config) error {
			steps, err := postgres.Status(cmd.Context(), directURL(cfg))
			if err != nil {
				return err
			}
			return report(cmd, migrationStatus(steps), func(out io.Writer) {
				for _, s := range steps {
					state := "pending"
					if !s.AppliedAt.IsZero() {
						state = "applied " + s.AppliedAt.UTC().Format(time.RFC3339)
					}
					fmt.Fprintf(out, "%s: %s\n", s.File, state)
				}
			})
		}),
	)
	return cmd
}

// migrateUp applies pending migrations to the database and to the one of the decision log, then grants. On failure it
// returns the steps that were applied before.
func migrateUp(ctx context.Context, cfg server.Config, grantTo string) (done migrated, err error) {
	url, decisionsURL := directURL(cfg), cfg.DecisionsURL
	steps, err := postgres.Migrate(ctx, url, postgres.Up)
	done.Applied, done.TakenBack = files(steps), []string{}
	if err != nil {
		return done, err
	}
	if decisionsURL != "" {
		steps, err := postgres.MigrateDecisions(ctx, decisionsURL, postgres.Up)
		done.AppliedDecisions = files(steps)
		if err != nil {
			return done, err
		}
	}
	if grantTo == "" {
		return done, nil
	}
	if err := postgres.Grant(ctx, url, grantTo); err != nil {
		return done, err
	}
	if decisionsURL != "" {
		if err := postgres.GrantDecisions(ctx, decisionsURL, grantTo); err != nil {
			return done, err
		}
	}
	done.GrantedTo = grantTo
	return done, nil
}

// migrated lists the steps that a migration applied or reverted.
type migrated struct {
	Applied          []string `json:"applied"`
	AppliedDecisions []string `json:"applied_decisions,omitempty"` // to the database of the decision log
	TakenBack        []string `json:"taken_back"`
	GrantedTo        string   `json:"granted_to,omitempty"`
}

func (m migrated) text(out io.Writer) {
	for _, f := range m.Applied {
		fmt.Fprintln(out, "applied", f)
	}
	for _, f := range m.TakenBack {
		fmt.Fprintln(out, "reverted", f)
	}
	if len(m.Applied)+len(m.TakenBack) == 0 {
		fmt.Fprintln(out, "nothing to do")
	}
	for _, f := range m.AppliedDecisions {
		fmt.Fprintln(out, "applied to the decision log's database", f)
	}
	if m.GrantedTo != "" {
		fmt.Fprintln(out, "granted to", m.GrantedTo)
	}
}

func files(steps []postgres.Step) []string {
	names := []string{}
	for _, s := range steps {
		names = append(names, s.File)
	}
	return names
}

// migrationStep is one migration as --json prints it.
type migrationStep struct {
	Version   int64      `json:"version"`
	File      string     `json:"file"`
	AppliedAt *time.Time `json:"applied_at"` // null: pending
}

func migrationStatus(steps []postgres.Step) []migrationStep {
	list := make([]migrationStep, len(steps))
	for i, s := range steps {
		list[i] = migrationStep{Version: s.Version, File: s.File}
		if !s.AppliedAt.IsZero() {
			list[i].AppliedAt = &s.AppliedAt
		}
	}
	return list
}
