package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/spf13/cobra"

	"iam-service/internal/postgres"
	"iam-service/internal/server"
)

func migrateWaitCommand(environ []string) *cobra.Command {
	var limit time.Duration
	cmd := &cobra.Command{
		Use:   "wait",
		Short: "Wait until the schema is new enough for this version of serve",
		Long: "Wait until the schema is new enough for this version of serve, as the role of serve: for an init container, while a Job\n" +
			"runs \"migrate up\". PostgreSQL need not be there yet. A wrong password, user or database ends the wait at once.\n" +
			"Of DECISIONS_DATABASE_URL, where it is set, it waits for the schema alone: serve starts without that database, too.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := server.ReadConfig(environ, server.Needs{Database: true, Decisions: true})
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), limit)
			defer cancel()
			check := func(ctx context.Context) error {
				return postgres.CheckSchemaAt(ctx, cmp.Or(cfg.DatabaseURL, cfg.ListenURL))
			}
			if err := awaitSchema(ctx, check, cmd.ErrOrStderr()); err != nil {
				return fmt.Errorf("the schema is not ready: %w", server.OneLine(err))
			}
			if err := awaitDecisions(ctx, cfg.DecisionsURL, cmd.ErrOrStderr()); err != nil {
				return fmt.Errorf("the schema of the decision log is not ready: %w", server.OneLine(err))
			}
			fmt.Fprintln(cmd.ErrOrStderr(), "the schema is ready")
			return nil
		},
	}
	cmd.Flags().DurationVar(&limit, "timeout", 30*time.Minute, "how long to wait")
	return cmd
}

// awaitDecisions is awaitSchema for the database of the decision log. No request depends on that database, so a start
// does not wait for it where it cannot be reached: that is printed.
func awaitDecisions(ctx context.Context, url string, out io.Writer) error {
	if url == "" {
		return nil
	}
	return awaitSchema(ctx, func(ctx context.Context) error {
		err := postgres.CheckDecisionsAt(ctx, url)
		if _, old := errors.AsType[*postgres.OldSchemaError](err); old {
			return fmt.Errorf("the decision log's database (DECISIONS_DATABASE_URL): %w", err)
		}
		if err != nil && ctx.Err() == nil {
			fmt.Fprintln(out, "not waiting for the decision log's database (DECISIONS_DATABASE_URL):", server.OneLine(err))
			return nil
		}
		return err
	}, out)
}

// awaitSchema returns when check finds the schema new enough, and otherwise the last reason. Each new reason is printed.
func awaitSchema(ctx context.Context, check func(context.Context) error, out io.Writer) error {
	printed := ""
	return server.RetryDuring(ctx, func() error {
		err := check(ctx)
		switch {
		case err == nil || ctx.Err() != nil && printed != "":
			return err
		case postgres.Refused(err):
			return backoff.Permanent(err)
		}
		if reason := server.OneLine(err).Error(); reason != printed {
			fmt.Fprintln(out, "waiting:", reason)
			printed = reason
		}
		return err
	})
}
