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

// waitInterval is how often the schema's version is read.
const waitInterval = time.Second

func migrateWaitCommand(environ []string) *cobra.Command {
	var limit time.Duration
	cmd := &cobra.Command{
		Use:   "wait",
		Short: "Wait until the schema is new enough for this version of serve",
		Long: "Wait until the schema is new enough for this version of serve, as the role of serve: for an init container, while a Job\n" +
			"runs \"migrate up\". PostgreSQL need not be there yet. A wrong password, user or database ends the wait at once.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := server.ReadConfig(environ, server.Needs{Database: true})
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), limit)
			defer cancel()
			if err := awaitSchema(ctx, cmp.Or(cfg.DatabaseURL, cfg.ListenURL), cmd.ErrOrStderr()); err != nil {
				return fmt.Errorf("the schema is not ready: %w", server.OneLine(err))
			}
			fmt.Fprintln(cmd.ErrOrStderr(), "the schema is ready")
			return nil
		},
	}
	cmd.Flags().DurationVar(&limit, "timeout", 30*time.Minute, "how long to wait")
	return cmd
}

// awaitSchema returns when the schema is new enough, and otherwise the last reason. Each new reason is printed.
func awaitSchema(ctx context.Context, url string, out io.Writer) error {
	var last error
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := postgres.CheckSchemaAt(ctx, url)
		switch {
		case err == nil:
			return struct{}{}, nil
		case ctx.Err() != nil && last != nil: // the limit, or a signal, has ended the attempt: the reason is the one before
			return struct{}{}, backoff.Permanent(last)
		case postgres.Refused(err):
			return struct{}{}, backoff.Permanent(err)
		}
		if last == nil || last.Error() != err.Error() {
			fmt.Fprintln(out, "waiting:", server.OneLine(err))
		}
		last = err
		return struct{}{}, err
	}, backoff.WithBackOff(backoff.NewConstantBackOff(waitInterval)), backoff.WithMaxElapsedTime(0))
	if err == nil {
		return nil
	}
	if permanent, ok := errors.AsType[*backoff.PermanentError](err); ok {
		return permanent.Err
	}
	return cmp.Or(last, err)
}
