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
		Short: "Migrate the schema: up, down, status",
		Long: "Migrate the schema of DATABASE_LISTEN_URL, else of DATABASE_URL. It must be a direct connection:\n" +
			"a lock of the session keeps two migrations apart.",
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
	up := act("up", "Apply all missing migrations; with DECISIONS_DATABASE_URL there too", server.Needs{Database: true, Decisions: true}, func(cmd *cobra.Command, cfg server.Config) error {
		done, err := migrateUp(cmd.Context(), cfg, grantTo)
		return errors.Join(report(cmd, done, done.text), err)
	})
	up.Flags().StringVar(&grantTo, "grant-to", "", "role that the service itself connects as: it gets what it needs, and no more")
	var yes bool
	var take postgres.Rollback
	down := act("down", "Roll the last migration back, with all that is in its tables: for development, and after a failed update", server.Needs{Database: true}, func(cmd *cobra.Command, cfg server.Config) error {
		if !yes {
			last, applied, err := postgres.LastStep(cmd.Context(), directURL(cfg))
			if err != nil {
				return err
			}
			if applied {
				return &usageError{fmt.Sprintf("this takes back %s and destroys what is in its tables: say --yes", last.File)}
			}
		}
		take.By = operatorName()
		steps, err := postgres.RollbackLast(cmd.Context(), directURL(cfg), take)
		done := migrated{Applied: []string{}, TakenBack: files(steps)}
		return errors.Join(report(cmd, done, done.text), err)
	})
	down.Flags().BoolVar(&yes, "yes", false, "do it")
	down.Flags().BoolVar(&take.DestroyAudit, "destroy-audit", false, "also where entries of the audit are destroyed; \"audit verify\" reports it from then on")
	cmd.AddCommand(
		up, down,
		act("status", "List the migrations", server.Needs{Database: true}, func(cmd *cobra.Command, cfg server.Config) error {
			steps, err := postgres.Status(cmd.Context(), directURL(cfg))
			if err != nil {
				return err
			}
			return report(cmd, migrationStatus(steps), func(out io.Writer) {
				for _, s := range steps {
					state := "missing"
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

// migrateUp applies what is missing, here and in the database of decisions, and then grants. Where it fails, it
// returns what was done until then.
func migrateUp(ctx context.Context, cfg server.Config, grantTo string) (done migrated, err error) {
	url, apart := directURL(cfg), cfg.DecisionsURL
	steps, err := postgres.Migrate(ctx, url, postgres.Up)
	done.Applied, done.TakenBack = files(steps), []string{}
	if err != nil {
		return done, err
	}
	if apart != "" {
		steps, err := postgres.MigrateDecisions(ctx, apart, postgres.Up)
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
	if apart != "" {
		if err := postgres.GrantDecisions(ctx, apart, grantTo); err != nil {
			return done, err
		}
	}
	done.GrantedTo = grantTo
	return done, nil
}

// migrated is what a migration did, by the names of the steps.
type migrated struct {
	Applied          []string `json:"applied"`
	AppliedDecisions []string `json:"applied_decisions,omitempty"` // to the database of decisions
	TakenBack        []string `json:"taken_back"`
	GrantedTo        string   `json:"granted_to,omitempty"`
}

func (m migrated) text(out io.Writer) {
	for _, f := range m.Applied {
		fmt.Fprintln(out, "applied", f)
	}
	for _, f := range m.TakenBack {
		fmt.Fprintln(out, "took back", f)
	}
	if len(m.Applied)+len(m.TakenBack) == 0 {
		fmt.Fprintln(out, "nothing to do")
	}
	for _, f := range m.AppliedDecisions {
		fmt.Fprintln(out, "applied to the database of decisions", f)
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

// migrationStep is one step, for machines.
type migrationStep struct {
	Version   int64      `json:"version"`
	File      string     `json:"file"`
	AppliedAt *time.Time `json:"applied_at"` // null: it is missing
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
