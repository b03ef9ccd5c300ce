package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"iam-service/internal/admin"
	"iam-service/internal/postgres"
)

func eventsCommand(environ []string) *cobra.Command {
	cmd := &cobra.Command{Use: "events", Short: "Manage events that are published to NATS: replay, parked, retry, skip"}
	var since string
	replay := &cobra.Command{
		Use:   "replay --since TIME|DURATION",
		Short: "Publish events again from a point in time, with the same IDs, at most OUTBOX_RETENTION back",
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
				fmt.Fprintf(out, "%d events since %s will be published again by the replica that relays\n", n, from.UTC().Format(time.RFC3339))
			})
		}),
	}
	replay.Flags().StringVar(&since, "since", "", "a time such as 2026-01-02T15:04:05Z, or an age such as 24h")
	_ = replay.MarkFlagRequired("since") // the flag exists
	parked := &cobra.Command{
		Use:   "parked",
		Short: "List events that NATS rejects; each blocks later events of the same object",
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
					fmt.Fprintln(out, "no parked events")
				}
			})
		}),
	}
	unpark := func(use, short string, do func(*admin.Work, context.Context, string) error) *cobra.Command {
		return &cobra.Command{Use: use + " ID", Short: short, Args: cobra.ExactArgs(1), RunE: withOperator(environ, func(cmd *cobra.Command, args []string, o *operator) error {
			task := admin.Task{Action: "event:" + use, Object: args[0], Writes: true}
			return o.service.Do(cmd.Context(), o.caller, task, func(ctx context.Context, w *admin.Work) error { return do(w, ctx, args[0]) })
		})}
	}
	cmd.AddCommand(reports(replay), reports(parked), unpark("retry", "Publish a parked event again", (*admin.Work).RetryParked), unpark("skip", "Discard a parked event: it is never published", (*admin.Work).SkipParked))
	return cmd
}

// parkedEvent is a parked event as --json prints it.
type parkedEvent struct {
	ID         string    `json:"id"`
	OccurredAt time.Time `json:"occurred_at"`
	Type       string    `json:"type"`
	Tenant     string    `json:"tenant,omitempty"` // empty: of the platform
	Kind       string    `json:"kind"`
	Object     string    `json:"object"`
	Why        string    `json:"why"`
}
