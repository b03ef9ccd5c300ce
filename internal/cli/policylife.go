package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/spf13/cobra"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/server"
)

// The life of policies, for operators with DATABASE_URL alone: no service need run, and no
// policy is asked. It is audited.

func policyPushCommand(environ []string) *cobra.Command {
	var source string
	cmd := reports(&cobra.Command{
		Use:   "push BUNDLE",
		Short: "Keep a bundle, to be activated (break-glass: needs DATABASE_URL alone, and is audited)",
		Long: "Take a bundle through the gate and keep it in the database, where replicas that follow get ready for it. Each of them verifies\n" +
			"its signature again. POLICY_KEY_FILE, POLICY_ALLOW_UNSIGNED, GATEWAY_HEADERS and ADMIN_AUDIENCE are taken as serve takes them.",
		Args: cobra.ExactArgs(1),
		RunE: withOperator(environ, func(cmd *cobra.Command, args []string, o *operator) error {
			engine, err := engineOf(environ)
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

// engineOf is a gate with the settings of serve.
func engineOf(environ []string) (*policy.Engine, error) {
	vars := env.ToMap(environ)
	cfg := server.Config{PolicyKeyFile: vars["POLICY_KEY_FILE"]}
	cfg.PolicyAllowUnsigned, _ = strconv.ParseBool(vars["POLICY_ALLOW_UNSIGNED"]) // serve says what is wrong with it
	var faults []string
	cfg.CheckPolicyKey(func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) })
	if cfg.PolicyKey == nil && !cfg.PolicyAllowUnsigned && len(faults) == 0 {
		faults = append(faults, "POLICY_KEY_FILE is missing: bundles must be signed, or POLICY_ALLOW_UNSIGNED=1")
	}
	if len(faults) > 0 {
		return nil, server.Faults(faults...)
	}
	o := checkOptions(environ)
	engine, err := policy.NewEngine(policy.Config{
		Headers: o.Headers, Admin: o.Admin, SignedOnly: !cfg.PolicyAllowUnsigned, Key: cfg.PolicyKey,
		Child: []string{os.Args[0], policy.ChildCommand}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, server.Faults("GATEWAY_HEADERS: " + err.Error())
	}
	return engine, nil
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

func policyListCommand(environ []string) *cobra.Command {
	return reports(&cobra.Command{
		Use:   "list",
		Short: "List what came into force, the revisions that are kept, and what each replica has (needs DATABASE_URL alone)",
		Args:  cobra.NoArgs,
		RunE: withOperator(environ, func(cmd *cobra.Command, _ []string, o *operator) error {
			l, err := admin.Do(cmd.Context(), o.service, o.caller, admin.Task{Action: "policy:list"}, func(ctx context.Context, w *admin.Work) (l policyList, err error) {
				revisions, err := w.PolicyRevisions(ctx, time.Time{}, "", 50)
				if err != nil {
					return l, err
				}
				activations, err := w.PolicyActivations(ctx, 20)
				if err != nil {
					return l, err
				}
				replicas, err := w.PolicyReplicas(ctx)
				if err != nil {
					return l, err
				}
				return listed(revisions, activations, replicas), nil
			})
			if err != nil {
				return err
			}
			return report(cmd, l, l.text)
		}),
	})
}

// policyList is what policy list reports.
type policyList struct {
	Revisions   []listedRevision   `json:"revisions"`
	Activations []listedActivation `json:"activations"`
	Replicas    []listedReplica    `json:"replicas"`
}

type listedRevision struct {
	Revision    string     `json:"revision"`
	Digest      string     `json:"digest"`
	Name        string     `json:"name"`
	Source      string     `json:"source"`
	AddedAt     time.Time  `json:"added_at"`
	By          string     `json:"by"`
	LastInForce *time.Time `json:"last_in_force_from"` // null: never
}

type listedActivation struct {
	At       time.Time `json:"at"`
	Revision string    `json:"revision"`
	Kind     string    `json:"kind"`
	By       string    `json:"by"`
	Reason   string    `json:"reason,omitempty"`
}

type listedReplica struct {
	Replica  string          `json:"replica"`
	Revision string          `json:"revision"`
	Source   string          `json:"source"`
	Refused  json.RawMessage `json:"refused,omitempty"`
}

func listed(revisions []iam.PolicyRevision, activations []iam.PolicyActivation, replicas []iam.PolicyReplica) policyList {
	l := policyList{[]listedRevision{}, []listedActivation{}, []listedReplica{}}
	for _, r := range revisions {
		x := listedRevision{Revision: r.ID(), Digest: r.Digest, Name: r.Name, Source: r.Source, AddedAt: r.AddedAt.UTC(), By: r.Actor}
		if !r.LastInForce.IsZero() {
			x.LastInForce = new(r.LastInForce.UTC())
		}
		l.Revisions = append(l.Revisions, x)
	}
	for _, a := range activations {
		l.Activations = append(l.Activations, listedActivation{a.At.UTC(), iam.PolicyID(a.Digest), a.Kind, a.Actor, a.Reason})
	}
	for _, r := range replicas {
		l.Replicas = append(l.Replicas, listedReplica{r.Replica, iam.PolicyID(r.InForce), r.Source, r.Refused})
	}
	return l
}

func (l policyList) text(out io.Writer) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "REVISION\tNAME\tADDED\tBY\tIN FORCE")
	for _, r := range l.Revisions {
		last := "never"
		if r.LastInForce != nil {
			last = "last from " + r.LastInForce.Format(time.RFC3339)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", r.Revision, r.Name, r.AddedAt.Format(time.RFC3339), r.By, last)
	}
	fmt.Fprintln(table, "\nAT\tREVISION\tKIND\tBY\tREASON")
	for _, a := range l.Activations {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", a.At.Format(time.RFC3339), a.Revision, a.Kind, a.By, a.Reason)
	}
	fmt.Fprintln(table, "\nREPLICA\tREVISION\tSOURCE\tREFUSED")
	for _, r := range l.Replicas {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", r.Replica, r.Revision, r.Source, r.Refused)
	}
	_ = table.Flush() // as out
}
