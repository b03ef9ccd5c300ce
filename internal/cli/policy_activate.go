package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/server"
)

func policyPushCommand(environ []string) *cobra.Command {
	var source string
	cmd := reports(&cobra.Command{
		Use:   "push BUNDLE",
		Short: "Upload a bundle, so that it can be activated (break-glass: needs only DATABASE_URL; audited)",
		Long: "Validate a bundle by the gate and store it in the database. Replicas in managed mode prepare it, and verify its signature again.\n" +
			"POLICY_KEY_FILE, POLICY_ALLOW_UNSIGNED, GATEWAY_HEADERS and ADMIN_AUDIENCE mean what they mean for serve.",
		Args: cobra.ExactArgs(1),
		RunE: withOperator(environ, func(cmd *cobra.Command, args []string, o *operator) error {
			engine, err := openGate(environ)
			if err != nil {
				return err
			}
			if info, err := os.Stat(args[0]); err != nil {
				return err
			} else if info.IsDir() {
				return fmt.Errorf("%s is a folder: build a bundle first", args[0])
			}
			c, err := engine.FromPath(args[0])
			if err != nil {
				return err
			}
			r, err := engine.Prepare(cmd.Context(), c)
			if err != nil {
				return fmt.Errorf("the policy is rejected: %w", err)
			}
			if source == "" {
				source = args[0]
			}
			revision := iam.PolicyRevision{Digest: r.Digest, Name: r.Name, Source: source, Verified: c.Verified}
			task := admin.Task{Action: "policy:upload", Object: revision.ID(), Writes: true}
			added, err := admin.Do(cmd.Context(), o.service, o.caller, task, func(ctx context.Context, w *admin.Work) (bool, error) {
				_, added, err := w.AddPolicyRevision(ctx, revision, c.Packed)
				return added, err
			})
			if err != nil {
				return err
			}
			return report(cmd, map[string]any{"revision": r.ID, "digest": r.Digest, "name": r.Name, "added": added}, func(out io.Writer) {
				outcome := "stored"
				if !added {
					outcome = "was stored already"
				}
				fmt.Fprintf(out, "revision %s %s\n", r.ID, outcome)
			})
		}),
	})
	cmd.Flags().StringVar(&source, "source", "", "where the bundle comes from, for the list of revisions (default: the file's name)")
	return cmd
}

func policyActivateCommand(environ []string) *cobra.Command {
	var a admin.Activation
	cmd := reports(&cobra.Command{
		Use:   "activate REVISION",
		Short: "Activate a revision on all replicas in managed mode (break-glass: needs only DATABASE_URL; audited)",
		Args:  cobra.ExactArgs(1),
		RunE: activation(environ, "policy:activate", func(ctx context.Context, w *admin.Work, args []string) (iam.PolicyActivation, error) {
			return w.ActivatePolicy(ctx, args[0], a)
		}),
	})
	cmd.Flags().StringVar(&a.Reason, "reason", "", "reason, for the audit")
	cmd.Flags().StringVar(&a.Preview, "preview", "", "ID of the preview that was reviewed")
	cmd.Flags().BoolVar(&a.Force, "force", false, "activate it even if a replica has not prepared it")
	return cmd
}

func policyRollbackCommand(environ []string) *cobra.Command {
	var reason string
	cmd := reports(&cobra.Command{
		Use:   "rollback [REVISION]",
		Short: "Activate an earlier revision again, by default the previous one (break-glass: needs only DATABASE_URL; audited)",
		Args:  cobra.MaximumNArgs(1),
		RunE: activation(environ, "policy:rollback", func(ctx context.Context, w *admin.Work, args []string) (iam.PolicyActivation, error) {
			ref := ""
			if len(args) > 0 {
				ref = args[0]
			}
			return w.RollBackPolicy(ctx, ref, reason)
		}),
	})
	cmd.Flags().StringVar(&reason, "reason", "", "reason, for the audit")
	return cmd
}

// openGate returns a gate with the settings of serve.
func openGate(environ []string) (*policy.Engine, error) {
	cfg, err := server.ReadConfig(environ, server.Needs{Gate: true, Signature: true})
	if err != nil {
		return nil, err
	}
	if cfg.PolicyKey == nil && !cfg.PolicyAllowUnsigned {
		return nil, server.Faults("POLICY_KEY_FILE is missing: bundles must be signed, or POLICY_ALLOW_UNSIGNED=1")
	}
	engine, err := policy.NewEngine(policy.Config{
		Headers:    cfg.GatewayHeaders,
		Admin:      cfg.AdminAudience != "",
		SignedOnly: !cfg.PolicyAllowUnsigned,
		Key:        cfg.PolicyKey,
		Child:      []string{os.Args[0], policy.ChildCommand},
		Log:        slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, server.Faults("GATEWAY_HEADERS: " + err.Error())
	}
	return engine, nil
}

// activation runs a command that activates a revision, and waits until every replica that reported recently has activated it.
func activation(environ []string, action string, do func(context.Context, *admin.Work, []string) (iam.PolicyActivation, error)) func(*cobra.Command, []string) error {
	return withOperator(environ, func(cmd *cobra.Command, args []string, o *operator) error {
		task := admin.Task{Action: action, Writes: true}
		got, err := admin.Do(cmd.Context(), o.service, o.caller, task, func(ctx context.Context, w *admin.Work) (iam.PolicyActivation, error) {
			return do(ctx, w, args)
		})
		if iam.KindOf(err) == iam.NotFound && len(args) > 0 { // an operator may see every revision
			return fmt.Errorf("revision %s not found: give at least the first 12 digits of its digest (iam-service policy list)", args[0])
		}
		if e, ok := errors.AsType[*iam.Error](err); ok && len(e.Fields) > 0 {
			for _, f := range e.Fields {
				fmt.Fprintf(cmd.ErrOrStderr(), "%s %s\n", f.Pointer, f.Detail)
			}
			return errors.New(e.Detail)
		}
		if err != nil {
			return err
		}
		s := activated{Revision: iam.PolicyID(got.Digest), Digest: got.Digest, Name: got.Name, Kind: got.Kind}
		began := time.Now()
		s.Replicas, err = o.awaitReplicas(cmd.Context(), got.Digest)
		s.took = time.Since(began)
		s.InForce = err == nil
		return errors.Join(report(cmd, s, s.text), err)
	})
}

// activated is the outcome of an activation or a rollback.
type activated struct {
	Revision string `json:"revision"`
	Digest   string `json:"digest"`
	Name     string `json:"name"`
	Kind     string `json:"kind"`
	InForce  bool   `json:"in_force"` // on all replicas
	Replicas int    `json:"replicas"`

	took time.Duration
}

func (s activated) text(out io.Writer) {
	fmt.Fprintf(out, "revision %s %s recorded as active\n", s.Revision, s.Name)
	if s.InForce {
		fmt.Fprintf(out, "active on %d replicas after %s\n", s.Replicas, s.took.Round(time.Millisecond))
	}
}

// replicaTimeout is how long replicas may take to activate a revision and report it.
const replicaTimeout = 5 * time.Second

// awaitReplicas waits until every replica that reported recently has activated a revision, and returns how many there are.
func (o *operator) awaitReplicas(ctx context.Context, digest string) (int, error) {
	began := time.Now()
	for {
		var behind []string
		replicas, err := admin.Do(ctx, o.service, o.caller, admin.Task{Action: "policy:read"}, func(ctx context.Context, w *admin.Work) ([]iam.PolicyReplica, error) {
			return w.PolicyReplicas(ctx)
		})
		if err != nil {
			return 0, err
		}
		for _, r := range replicas {
			if r.InForce != digest {
				behind = append(behind, r.Replica)
			}
		}
		switch {
		case len(behind) == 0:
			return len(replicas), nil
		case time.Since(began) > replicaTimeout:
			return len(replicas), fmt.Errorf("not active on %s: see /policy/status there; a replica that reads its policy from a folder ignores activations", strings.Join(behind, ", "))
		}
		select {
		case <-ctx.Done():
			return len(replicas), ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}
