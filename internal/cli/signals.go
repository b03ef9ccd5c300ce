package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
	"iam-service/internal/server"
	"iam-service/internal/token/signals"
)

// managementWait is how long one request to a transmitter may take.
const managementWait = 30 * time.Second

func signalsCommand(environ []string) *cobra.Command {
	cmd := &cobra.Command{Use: "signals", Short: "Streams of security event tokens: their state, and their management at the transmitter"}
	cmd.AddCommand(signalsStatusCommand(environ), signalsRegisterCommand(environ), signalsVerifyCommand(environ))
	return cmd
}

// streamOperator is an operator with the streams of SIGNALS_FILE.
type streamOperator struct {
	*operator
	streams []signals.Stream
}

// withStreams runs a command that reads SIGNALS_FILE and the database.
func withStreams(environ []string, do func(cmd *cobra.Command, args []string, o streamOperator) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		cfg, err := server.ReadConfig(environ, server.Needs{Database: true, Issuers: true, RAuth: true, Signals: true})
		if err != nil {
			return err
		}
		if len(cfg.Streams) == 0 {
			return server.Faults("SIGNALS_FILE is missing: it has the streams (docs/signals.md)")
		}
		o, err := openOperator(cmd.Context(), &cfg)
		if err != nil {
			return err
		}
		defer o.db.Close()
		return do(cmd, args, streamOperator{o, cfg.Streams})
	}
}

func (o streamOperator) stream(name string) (*signals.Stream, error) {
	i := slices.IndexFunc(o.streams, func(s signals.Stream) bool { return s.Name == name })
	if i < 0 {
		var names []string
		for _, s := range o.streams {
			names = append(names, s.Name)
		}
		return nil, server.Faults(fmt.Sprintf("there is no stream %q in SIGNALS_FILE: it has %s", name, strings.Join(names, ", ")))
	}
	return &o.streams[i], nil
}

// state is what all replicas know of a stream.
func (o streamOperator) state(ctx context.Context, name string) (iam.SignalStream, error) {
	streams, err := o.db.SignalStreams(ctx)
	for _, s := range streams {
		if s.Name == name {
			return s, err
		}
	}
	return iam.SignalStream{Name: name}, err
}

// streamReport is one stream as status prints it.
type streamReport struct {
	Stream      string     `json:"stream"`
	Issuer      string     `json:"issuer"`
	AcceptedAt  *time.Time `json:"accepted_at,omitempty"`
	VerifiedAt  *time.Time `json:"verified_at,omitempty"`
	State       string     `json:"state,omitempty"`
	Status      string     `json:"status,omitempty"` // as the transmitter has announced
	Reason      string     `json:"reason,omitempty"`
	Transmitter string     `json:"transmitter,omitempty"` // status there, or why it is not known
}

func signalsStatusCommand(environ []string) *cobra.Command {
	return reports(&cobra.Command{
		Use:   "status [STREAM]",
		Short: "Show when each stream has sent a token last, whether it was verified, and its status at the transmitter",
		Args:  cobra.MaximumNArgs(1),
		RunE: withStreams(environ, func(cmd *cobra.Command, args []string, o streamOperator) error {
			var list []streamReport
			for i := range o.streams {
				s := &o.streams[i]
				if len(args) > 0 && args[0] != s.Name {
					continue
				}
				state, err := o.state(cmd.Context(), s.Name)
				if err != nil {
					return err
				}
				list = append(list, streamReport{
					Stream: s.Name, Issuer: s.Issuer, AcceptedAt: known(state.AcceptedAt), VerifiedAt: known(state.VerifiedAt), State: state.State,
					Status: state.Status, Reason: state.Reason, Transmitter: transmitterStatus(cmd.Context(), s),
				})
			}
			if len(list) == 0 {
				_, err := o.stream(args[0])
				return err
			}
			return report(cmd, list, func(out io.Writer) {
				for _, r := range list {
					fmt.Fprintf(out, "%s (%s): last token %s; verified %s; announced status %s; at the transmitter: %s\n", r.Stream, r.Issuer,
						when(r.AcceptedAt), when(r.VerifiedAt), orNone(strings.TrimSpace(r.Status+" "+r.Reason)), orNone(r.Transmitter))
				}
			})
		}),
	})
}

func transmitterStatus(ctx context.Context, s *signals.Stream) string {
	if s.Management.TokenFile == "" {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, managementWait)
	defer cancel()
	t, err := signals.OpenTransmitter(ctx, s, nil)
	if err != nil {
		return "not known: " + server.OneLine(err).Error()
	}
	status, err := t.Status(ctx)
	if err != nil {
		return "not known: " + server.OneLine(err).Error()
	}
	return strings.TrimSpace(status.Status + " " + status.Reason)
}

func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func when(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return t.UTC().Format(time.RFC3339)
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func signalsRegisterCommand(environ []string) *cobra.Command {
	return reports(&cobra.Command{
		Use:   "register STREAM",
		Short: "Create the stream at its transmitter, and print the id for stream_id",
		Long: "Create the stream at its transmitter: push to management.endpoint_url with the stream's secret, of the event types that have\n" +
			"an effect. The transmitter's API gets the bearer token of management.token_file.",
		Args: cobra.ExactArgs(1),
		RunE: withStreams(environ, func(cmd *cobra.Command, args []string, o streamOperator) error {
			s, err := o.stream(args[0])
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), managementWait)
			defer cancel()
			t, err := signals.OpenTransmitter(ctx, s, nil)
			if err != nil {
				return err
			}
			c, err := t.Register(ctx)
			if err != nil {
				return err
			}
			missing := slices.DeleteFunc(s.RequestedEvents(), func(uri string) bool { return slices.Contains(c.EventsDelivered, uri) })
			return report(cmd, map[string]any{"stream": s.Name, "stream_id": c.ID, "events_delivered": c.EventsDelivered, "events_missing": missing}, func(out io.Writer) {
				fmt.Fprintf(out, "created: set stream_id: %s of the stream %s in SIGNALS_FILE, and restart\n", c.ID, s.Name)
				for _, uri := range missing {
					fmt.Fprintf(out, "the transmitter does not send %s\n", uri)
				}
			})
		}),
	})
}

func signalsVerifyCommand(environ []string) *cobra.Command {
	var wait time.Duration
	cmd := reports(&cobra.Command{
		Use:   "verify STREAM",
		Short: "Ask the transmitter for a verification event, and wait until it was received",
		Args:  cobra.ExactArgs(1),
		RunE: withStreams(environ, func(cmd *cobra.Command, args []string, o streamOperator) error {
			s, err := o.stream(args[0])
			if err != nil {
				return err
			}
			if s.StreamID == "" {
				return server.Faults("stream " + s.Name + ": stream_id is missing in SIGNALS_FILE; register prints it")
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), managementWait+wait)
			defer cancel()
			t, err := signals.OpenTransmitter(ctx, s, nil)
			if err != nil {
				return err
			}
			state := rand.Text()
			task := admin.Task{Action: "signal:verify", Object: s.Name, Writes: true}
			if err := o.service.Do(ctx, o.caller, task, func(ctx context.Context, w *admin.Work) error {
				return w.ExpectVerification(ctx, s.Name, state)
			}); err != nil {
				return err
			}
			if err := t.Verify(ctx, state); err != nil {
				return err
			}
			took, err := o.awaitVerification(ctx, s.Name, state, wait)
			if err != nil {
				return err
			}
			return report(cmd, map[string]any{"stream": s.Name, "verified": true, "took_ms": took.Milliseconds()}, func(out io.Writer) {
				fmt.Fprintf(out, "verified: the event was received after %s\n", took.Round(time.Millisecond))
			})
		}),
	})
	cmd.Flags().DurationVar(&wait, "wait", 30*time.Second, "how long to wait for the event")
	return cmd
}

var errNotVerified = errors.New("the transmitter has accepted the request, and no verification event has arrived: " +
	"look at iam_signals_rejected_total, and whether the transmitter reaches the endpoint")

// awaitVerification waits until a replica has received the event with the state.
func (o streamOperator) awaitVerification(ctx context.Context, stream, state string, wait time.Duration) (time.Duration, error) {
	began := time.Now()
	for {
		s, err := o.state(ctx, stream)
		switch {
		case err != nil:
			return 0, err
		case s.State == state:
			return time.Since(began), nil
		case time.Since(began) > wait:
			return 0, errNotVerified
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}
