package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
)

func policyListCommand(environ []string) *cobra.Command {
	return reports(&cobra.Command{
		Use:   "list",
		Short: "List stored revisions, recent activations, and the active revision of each replica (needs only DATABASE_URL)",
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
	fmt.Fprintln(table, "REVISION\tNAME\tADDED\tBY\tACTIVE")
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
	fmt.Fprintln(table, "\nREPLICA\tREVISION\tSOURCE\tREJECTED")
	for _, r := range l.Replicas {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", r.Replica, r.Revision, r.Source, r.Refused)
	}
	_ = table.Flush() // as out
}
