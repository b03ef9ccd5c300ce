package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"iam-service/internal/admin"
	"iam-service/internal/postgres"
)

func auditCommand(environ []string) *cobra.Command {
	cmd := &cobra.Command{Use: "audit", Short: "List, verify and prune the audit"}
	var anchors string
	verify := &cobra.Command{
		Use:   "verify [--anchors FILE]",
		Short: "Verify all audit chains: report entries that were changed, inserted or removed",
		Long: "Verify the hash chains of the audit. Anchors are chain heads stored outside this database, where its administrators cannot write:\n" +
			"AuditCheckpoint.v1 events, or lines of the service's log (\"audit checkpoint\"), as JSON lines. Without anchors, an attacker with\n" +
			"write access to the database can rewrite a whole chain undetected.",
		Args: cobra.NoArgs,
		RunE: withOperator(environ, func(cmd *cobra.Command, _ []string, o *operator) error {
			return verifyAudit(cmd, o, anchors)
		}),
	}
	verify.Flags().StringVar(&anchors, "anchors", "", "file of anchors as JSON lines; - reads standard input")
	var keep time.Duration
	prune := &cobra.Command{
		Use:   "prune --keep DURATION",
		Short: "Drop old months of the audit (needs a DATABASE_URL of the tables' owner)",
		Long: "Drop whole months of the audit that ended longer ago than --keep, once a published checkpoint covers all of their entries.\n" +
			"The point where a chain was cut is recorded, so that the rest can still be verified. The service's own role lacks the privilege.",
		Args: cobra.NoArgs,
		RunE: withOperator(environ, func(cmd *cobra.Command, _ []string, o *operator) error {
			if keep < 30*24*time.Hour {
				return errors.New("--keep must be 720h (30 days) or more")
			}
			var dropped []string
			err := o.db.Change(postgres.Patient(cmd.Context()), func(ctx context.Context, tx *postgres.Tx) (err error) {
				dropped, err = tx.PruneAudit(ctx, time.Now().Add(-keep))
				return err
			})
			if err != nil {
				return err
			}
			return report(cmd, map[string][]string{"dropped": append([]string{}, dropped...)}, func(out io.Writer) {
				for _, name := range dropped {
					fmt.Fprintln(out, "dropped", name)
				}
				if len(dropped) == 0 {
					fmt.Fprintln(out, "nothing to do")
				}
			})
		}),
	}
	prune.Flags().DurationVar(&keep, "keep", 0, "retention of entries, such as 9600h; at least 720h")
	_ = prune.MarkFlagRequired("keep") // the flag exists
	cmd.AddCommand(auditListCommand(environ), reports(verify), reports(prune))
	return cmd
}

func verifyAudit(cmd *cobra.Command, o *operator, file string) error {
	var anchors []admin.Anchor
	if file != "" {
		in := cmd.InOrStdin()
		if file != "-" {
			f, err := os.Open(file)
			if err != nil {
				return fmt.Errorf("--anchors: %w", err)
			}
			defer f.Close()
			in = f
		}
		b, err := io.ReadAll(in)
		if err != nil {
			return fmt.Errorf("--anchors: %w", err)
		}
		if anchors, err = admin.ReadAnchors(bytes.Split(b, []byte("\n"))); err != nil {
			return fmt.Errorf("--anchors: %w", err)
		}
	}
	found := verified{Faults: []chainFault{}}
	err := o.service.Verify(cmd.Context(), anchors, func(v admin.Verdict) {
		if !v.Ended {
			found.Chains++
		}
		found.Entries += v.Entries
		if v.Anchored > 0 {
			found.Anchored++
		}
		if v.Fault != "" {
			found.Faults = append(found.Faults, chainFault{v.Chain, v.Fault})
		}
	})
	if err == nil {
		err = report(cmd, found, found.text)
	}
	if err == nil && len(found.Faults) > 0 {
		err = fmt.Errorf("the audit was tampered with, damaged or destroyed: %d faults in %d chains", len(found.Faults), found.Chains)
	}
	return err
}

// verified is the result of a verification of the audit.
type verified struct {
	Chains   int          `json:"chains"`
	Entries  int64        `json:"entries"`
	Anchored int          `json:"anchored"` // chains that were compared with an anchor
	Faults   []chainFault `json:"faults"`
}

type chainFault struct {
	Chain string `json:"chain"` // a tenant; empty: the platform
	Fault string `json:"fault"`
}

func (v verified) text(out io.Writer) {
	for _, f := range v.Faults {
		fmt.Fprintf(out, "%s: %s\n", cmp.Or(f.Chain, "(platform)"), f.Fault)
	}
	fmt.Fprintf(out, "%d chains, %d entries, %d chains compared with an anchor\n", v.Chains, v.Entries, v.Anchored)
	if len(v.Faults) == 0 && v.Anchored < v.Chains {
		fmt.Fprintln(out, "No fault was found. A chain without an external anchor does not detect an attacker who can write the whole database.")
	}
}
