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
		Short: "Keep a bundle, to be activated (break-glass: needs DATABASE_URL alone, and is audited)",
		Long: "Take a bundle through the gate and keep it in the database, where replicas that follow get ready for it. Each of them verifies\n" +
			"its signature again. POLICY_KEY_FILE, POLICY_ALLOW_UNSIGNED, GATEWAY_HEADERS and ADMIN_AUDIENCE are taken as serve takes them.",
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
				return fmt.Errorf("the policy is refused: %w", err)
			}
			if source == "" {
				source = args[0]
			}
			kept := iam.PolicyRevision{Digest: r.Digest, Name: r.Name, Source: source, Verified: c.Verified}
			task := admin.Task{Action: "policy:upload", Object: kept.ID(), Writes: true}
			made, err := admin.Do(cmd.Context(), o.service, o.caller, task, func(ctx context.Context, w *admin.Work) (bool, error) {
				_, made, err := w.AddPolicyRevision(ctx, kept, c.Packed)
				return made, err
			})
			if err != nil {
				return err
			}
			return report(cmd, map[string]any{"revision": r.ID, "digest": r.Digest, "name": r.Name, "added": made}, func(out io.Writer) {
				word := "is kept"
				if !made {
					word = "was kept already"
				}
				fmt.Fprintf(out, "revision %s %s\n", r.ID, word)
			})
		}),
	})
	cmd.Flags().StringVar(&source, "source", "", "where it comes from, for people; else the file's name")
	return cmd
}

func policyActivateCommand(environ []string) *cobra.Command {
	var a admin.Activation
	cmd := reports(&cobra.Command{
		Use:   "activate REVISION",
		Short: "Put a revision in force on all replicas that follow (break-glass: needs DATABASE_URL alone, and is audited)",
		Args:  cobra.ExactArgs(1),
		RunE: decided(environ, "policy:activate", func(ctx context.Context, w *admin.Work, args []string) (iam.PolicyActivation, error) {
			return w.ActivatePolicy(ctx, args[0], a)
		}),
	})
	cmd.Flags().StringVar(&a.Reason, "reason", "", "why, for the audit")
	cmd.Flags().StringVar(&a.Preview, "preview", "", "id of the preview that was looked at")
	cmd.Flags().BoolVar(&a.Force, "force", false, "also where a replica is not ready for it")
	return cmd
}

func policyRollbackCommand(environ []string) *cobra.Command {
	var reason string
	cmd := reports(&cobra.Command{
		Use:   "rollback [REVISION]",
		Short: "Put a revision in force again; without an argument the one before (break-glass: needs DATABASE_URL alone, and is audited)",
		Args:  cobra.MaximumNArgs(1),
		RunE: decided(environ, "policy:rollback", func(ctx context.Context, w *admin.Work, args []string) (iam.PolicyActivation, error) {
			ref := ""
			if len(args) > 0 {
				ref = args[0]
			}
			return w.RollBackPolicy(ctx, ref, reason)
		}),
	})
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the audit")
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

// decided is a command that says what is to be in force, and waits until all replicas that
// were heard of lately say that it is.
func decided(environ []string, action string, do func(context.Context, *admin.Work, []string) (iam.PolicyActivation, error)) func(*cobra.Command, []string) error {
	return withOperator(environ, func(cmd *cobra.Command, args []string, o *operator) error {
		task := admin.Task{Action: action, Writes: true}
		got, err := admin.Do(cmd.Context(), o.service, o.caller, task, func(ctx context.Context, w *admin.Work) (iam.PolicyActivation, error) {
			return do(ctx, w, args)
		})
		if iam.KindOf(err) == iam.NotFound && len(args) > 0 { // nothing is kept from an operator
			return fmt.Errorf("there is no revision %s: say 12 or more of its first digits (iam-service policy list)", args[0])
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
		s := switched{Revision: iam.PolicyID(got.Digest), Digest: got.Digest, Name: got.Name, Kind: got.Kind}
		began := time.Now()
		s.Replicas, err = o.awaitReplicas(cmd.Context(), began, got.Digest)
		s.took = time.Since(began)
		s.InForce = err == nil
		return errors.Join(report(cmd, s, s.text), err)
	})
}

// switched is what became of saying which policy is to be in force.
type switched struct {
	Revision string `json:"revision"`
	Digest   string `json:"digest"`
	Name     string `json:"name"`
	Kind     string `json:"kind"`
	InForce  bool   `json:"in_force"` // on all replicas
	Replicas int    `json:"replicas"`

	took time.Duration
}

func (s switched) text(out io.Writer) {
	fmt.Fprintf(out, "revision %s %s is to be in force\n", s.Revision, s.Name)
	if s.InForce {
		fmt.Fprintf(out, "in force on %d replicas after %s\n", s.Replicas, s.took.Round(time.Millisecond))
	}
}

// replicaPatience is how long replicas may take to switch, and to say so.
const replicaPatience = 5 * time.Second

// awaitReplicas waits until all replicas that were heard of lately have a revision in force, and returns how many there are.
func (o *operator) awaitReplicas(ctx context.Context, began time.Time, digest string) (int, error) {
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
		case time.Since(began) > replicaPatience:
			return len(replicas), fmt.Errorf("not in force on %s: see /policy/status there; one whose policy is a folder follows nobody", strings.Join(behind, ", "))
		}
		select {
		case <-ctx.Done():
			return len(replicas), ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}
