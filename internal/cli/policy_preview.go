package cli

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"iam-service/internal/policyops/preview"
	"iam-service/internal/server"
)

// previewAim is the memory that a preview aims at, in bytes.
const previewAim = 256 << 20

func policyPreviewCommand(environ []string) *cobra.Command {
	var against, export, issuer string
	var questions, failOn []string
	var replay time.Duration
	var asJSON bool
	var workers int
	cmd := &cobra.Command{
		Use:   "preview FOLDER|BUNDLE",
		Short: "Compare a candidate with the active policy over one snapshot of the facts: who gains and loses what (needs DATABASE_URL and RAUTH_URL)",
		Long: "Evaluate the active policy (by the database, else the embedded one, or that of --against) and the candidate on the same questions,\n" +
			"and compare: each question of preview/*.yaml, of each user in each tenant, and of each client. Without such files there is one\n" +
			"question: a minimal token, GET /. With --replay, recent recorded decisions are evaluated again (DECISIONS_DATABASE_URL).\n" +
			"GATEWAY_HEADERS, UNKNOWN_USERS, HEADER_BUDGET, ENRICH_DEADLINE, RAUTH_URL and TRUSTED_ISSUERS are read as serve reads them.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, kind := range failOn {
				if !slices.Contains(preview.Kinds, kind) && kind != "any" {
					return fmt.Errorf("--fail-on: %q is not one of any, %s", kind, strings.Join(preview.Kinds, ", "))
				}
			}
			ctx := cmd.Context()
			needs := evaluatorNeeds
			needs.Decisions = replay > 0
			cfg, err := server.ReadConfig(environ, needs)
			if err != nil {
				return err
			}
			if err := trustSubject(&cfg, issuer); err != nil {
				return err
			}
			a, err := openEvaluator(ctx, &cfg)
			if err != nil {
				return err
			}
			defer a.close()
			if a.issuer == "" {
				return server.Faults("RAUTH_URL is missing (or --issuer): subjects of an issuer that is not trusted are denied")
			}
			go server.TuneGC(ctx, previewAim) // a preview allocates much, and the process does nothing else
			c := preview.Config{Engine: a.engine, Issuers: a.issuers, HeaderMax: a.headerMax, Limit: a.limit, Facts: a.facts, Workers: workers}
			if c.Base, err = a.revision(ctx, against); err != nil {
				return err
			}
			if c.Candidate, err = a.revision(ctx, args[0]); err != nil {
				return err
			}
			if c.Questions, err = questionsOf(args[0], questions); err != nil {
				return err
			}
			if replay > 0 {
				store, err := openDecisionStore(ctx, &cfg)
				if err != nil {
					return err
				}
				defer store.Close()
				c.Replay = preview.Since(store, time.Now().Add(-replay))
			}
			report, err := runPreview(cmd, c, export)
			if err != nil {
				return err
			}
			if asJSON {
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				err = e.Encode(report)
			} else {
				report.Text(cmd.OutOrStdout())
			}
			if err != nil {
				return err
			}
			var found []string
			for _, kind := range preview.Kinds {
				if n := report.Of(kind); n > 0 && (slices.Contains(failOn, kind) || slices.Contains(failOn, "any") && kind != preview.Reasons) {
					found = append(found, fmt.Sprintf("%d %s", n, kind))
				}
			}
			if len(found) > 0 {
				return fmt.Errorf("decisions change: %s", strings.Join(found, ", "))
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&against, "against", "", "folder or bundle to compare with, instead of the active policy")
	f.StringSliceVar(&questions, "questions", nil, "files or folders with questions (default: preview/*.yaml of the candidate, if it is a folder)")
	f.DurationVar(&replay, "replay", 0, "also evaluate the decisions recorded within this time, such as 24h")
	f.StringVar(&export, "export", "", "write all changes to this file, as JSON lines")
	f.StringSliceVar(&failOn, "fail-on", nil, "kinds of changes that make the command fail, for CI: any, "+strings.Join(preview.Kinds, ", "))
	f.StringVar(&issuer, "issuer", "", "issuer of the users' tokens (default: RAUTH_URL)")
	f.IntVar(&workers, "workers", runtime.GOMAXPROCS(0), "number of concurrent evaluations")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// questionsOf reads questions from files or folders; without names, from preview/ of a candidate that is a folder.
func questionsOf(candidate string, names []string) ([]preview.Question, error) {
	if len(names) == 0 {
		names = []string{filepath.Join(candidate, "preview")}
		if info, err := os.Stat(names[0]); err != nil || !info.IsDir() {
			return nil, nil // preview uses its default question
		}
	}
	var all []preview.Question
	for _, name := range names {
		files := []string{name}
		if info, err := os.Stat(name); err != nil {
			return nil, err
		} else if info.IsDir() {
			if files, err = filepath.Glob(filepath.Join(name, "*.yaml")); err != nil {
				return nil, err
			}
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			list, err := preview.ParseQuestions(file, text)
			if err != nil {
				return nil, err
			}
			all = append(all, list...)
		}
	}
	return all, preview.CheckQuestions("all files", all)
}

// runPreview runs a preview with a progress bar, and writes all changes to the file export if it is named.
func runPreview(cmd *cobra.Command, c preview.Config, export string) (preview.Report, error) {
	var out *bufio.Writer
	if export != "" {
		f, err := os.OpenFile(export, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600) // it contains personal data
		if err != nil {
			return preview.Report{}, err
		}
		defer f.Close()
		out = bufio.NewWriter(f)
		e := json.NewEncoder(out)
		c.OnChange = func(x preview.Change) error { return e.Encode(x) }
	}
	bar := progress(cmd, 0, "questions")
	c.OnProgress = func(done, total int64) {
		bar.ChangeMax64(max(total, done))
		_ = bar.Set64(done) // only drawing
	}
	report, err := preview.Run(cmd.Context(), c)
	_ = bar.Finish() // only drawing
	if err == nil && out != nil {
		err = out.Flush()
	}
	return report, err
}
