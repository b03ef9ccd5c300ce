package cli

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/spf13/cobra"

	"iam-service/internal/enrich"
	"iam-service/internal/policy"
	"iam-service/internal/policyops/explain"
	"iam-service/internal/policyops/preview"
	"iam-service/internal/postgres"
	"iam-service/internal/server"
	"iam-service/internal/token"
	embedded "iam-service/policies"
)

// What a policy would say, asked over one snapshot of the facts: explain and preview. No
// service need run.

// previewAim is how many bytes a preview aims at.
const previewAim = 256 << 20

// asking is what both commands share: a gate with the settings of serve, and a snapshot.
type asking struct {
	*operator
	engine    *policy.Engine
	facts     *postgres.Snapshot
	headerMax int
	limit     time.Duration // of an evaluation of serve; 0: as usual
}

// openAsking opens them. issuer is whose subjects are asked about, if that is known: nobody is
// let in whose issuer is not trusted, and that would be no answer to what was asked.
func openAsking(ctx context.Context, environ []string, issuer string) (*asking, error) {
	environ, err := trusting(environ, issuer)
	if err != nil {
		return nil, err
	}
	o, err := openOperator(ctx, environ)
	if err != nil {
		return nil, err
	}
	if _, known := o.issuers.Find(issuer); !known && issuer != "" {
		o.db.Close()
		return nil, server.Faults(fmt.Sprintf("%s is not trusted: set RAUTH_URL and TRUSTED_ISSUERS as for serve", issuer))
	}
	a := &asking{operator: o, headerMax: 3500}
	settings := map[string]string{"unknown_users": "deny"}
	vars := env.ToMap(environ)
	if v := vars["UNKNOWN_USERS"]; v != "" {
		settings["unknown_users"] = v
	}
	if v := vars["HEADER_BUDGET"]; v != "" {
		if a.headerMax, err = strconv.Atoi(v); err != nil {
			o.db.Close()
			return nil, server.Faults("HEADER_BUDGET must be a number of bytes")
		}
	}
	if v := vars["ENRICH_DEADLINE"]; v != "" {
		d, err := time.ParseDuration(v)
		if err != nil {
			o.db.Close()
			return nil, server.Faults("ENRICH_DEADLINE must be a time such as 150ms")
		}
		a.limit = (&server.Config{EnrichDeadline: d}).Part(50)
	}
	options := checkOptions(environ)
	a.engine, err = policy.NewEngine(policy.Config{
		Headers: options.Headers, Admin: options.Admin, Settings: settings, Limit: time.Second, Log: slog.New(slog.DiscardHandler),
		Child: []string{os.Args[0], policy.ChildCommand},
	})
	if err != nil {
		o.db.Close()
		return nil, server.Faults("GATEWAY_HEADERS: " + err.Error())
	}
	if a.facts, err = o.db.Snapshot(ctx); err != nil {
		o.db.Close()
		return nil, err
	}
	return a, nil
}

// trusting is environ with issuer in the place of RAUTH_URL, where that is not set and
// TRUSTED_ISSUERS does not name it: with DATABASE_URL alone, it is R-Auth.
func trusting(environ []string, issuer string) ([]string, error) {
	if issuer == "" || env.ToMap(environ)["RAUTH_URL"] != "" {
		return environ, nil
	}
	list, err := setting(environ, "TRUSTED_ISSUERS")
	if err != nil {
		return nil, err
	}
	var named []server.TrustedIssuer
	if err := json.Unmarshal([]byte(list), &named); err == nil && slices.ContainsFunc(named, func(t server.TrustedIssuer) bool { return t.URL == issuer }) {
		return environ, nil
	}
	return append(environ[:len(environ):len(environ)], "RAUTH_URL="+issuer), nil
}

func (a *asking) close() {
	a.facts.Close()
	a.db.Close()
}

// revision is the policy at a path; without one, what is in force by the database, or else
// the embedded one.
func (a *asking) revision(ctx context.Context, path string) (*policy.Revision, error) {
	if path != "" {
		c, err := a.engine.FromPath(path)
		if err != nil {
			return nil, err
		}
		return a.engine.Prepare(ctx, c)
	}
	orders, err := a.db.PolicyOrders(ctx)
	if err != nil {
		return nil, err
	}
	if orders.InForce == "" {
		c, err := policy.FromFS("embedded", embedded.FS)
		if err != nil {
			return nil, err
		}
		return a.engine.Prepare(ctx, c)
	}
	kept, packed, err := a.db.PolicyBundle(ctx, orders.InForce)
	if err != nil {
		return nil, err
	}
	c, err := a.engine.Unpack(kept.Source, packed, true)
	if err != nil {
		return nil, err
	}
	return a.engine.Prepare(ctx, c)
}

func policyExplainCommand(environ []string) *cobra.Command {
	var issuer, subject, clientID, tenant, claims, method, scheme, host, path, tokenFile, decision, under string
	var clientIP netip.Addr
	var asJSON bool
	var at time.Time
	cmd := &cobra.Command{
		Use:   "explain --subject SUBJECT | --token-file FILE | --decision ID",
		Short: "Say why somebody is let in or not, over the facts of now (needs DATABASE_URL alone)",
		Long: "Say what is answered, which rules fired, and of those that grant the first condition that was not so, with its values.\n" +
			"The policy is what is in force by the database, else the embedded one, or that of --policy. Of a token only the claims are\n" +
			"looked at: its signature is not verified here. --decision needs DECISIONS_DATABASE_URL. Issuers are trusted by RAUTH_URL and\n" +
			"TRUSTED_ISSUERS, as serve takes them; where RAUTH_URL is not set, the issuer of who is asked about takes its place.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			now := at
			if at.IsZero() {
				now = time.Now()
			}
			q, given, err := question(ctx, environ, issuer, subject, clientID, claims, tokenFile, decision, now)
			if err != nil {
				return err
			}
			if decision == "" || !at.IsZero() {
				q.Now = now
			}
			whose := ""
			if q.Token != nil {
				whose = q.Token.Issuer
			}
			a, err := openAsking(ctx, environ, whose)
			if err != nil {
				return err
			}
			defer a.close()
			if env.ToMap(environ)["RAUTH_URL"] == "" && a.issuer != "" && a.issuer != issuer {
				fmt.Fprintf(cmd.ErrOrStderr(), "RAUTH_URL is not set: %s is trusted in its place\n", a.issuer)
			}
			if given != nil {
				a.issuerOf(given).Normalize(given) // as a gateway's token is, once it is verified
				if q.Token, err = explain.FromClaims(given, now); err != nil {
					return err
				}
			}
			if decision == "" {
				q.Tenant = tenant
				if q.Request, err = enrich.NewRequest("explain", method, scheme, host, path, clientIP); err != nil {
					return err
				}
			}
			r, err := a.revision(ctx, under)
			if err != nil {
				return err
			}
			x := explained{}
			if x.Explanation, err = explain.Over(a.facts, a.engine, a.issuers, a.headerMax).Explain(ctx, r, q); err != nil {
				return err
			}
			if given != nil {
				x.TokenRefused = a.refused(given, now)
			}
			if asJSON {
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(x)
			}
			if x.TokenRefused != "" {
				fmt.Fprintln(cmd.OutOrStdout(), "the gateway answers 401 whatever the policy says:", x.TokenRefused)
			}
			x.Text(cmd.OutOrStdout())
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&subject, "subject", "", "subject of their tokens, as in sub")
	f.StringVar(&issuer, "issuer", "", "issuer of their tokens; else RAUTH_URL")
	f.StringVar(&clientID, "client-id", "", "client of the token; alone: a program that speaks for itself")
	f.StringVar(&claims, "claims", "", `further claims of the token, as JSON: {"acr":"2"}`)
	f.StringVar(&tenant, "tenant", "", "tenant that is asked for")
	f.StringVar(&method, "method", "GET", "method of the request")
	f.StringVar(&scheme, "scheme", "", "scheme of the request")
	f.StringVar(&host, "host", "", "host of the request")
	f.StringVar(&path, "path", "/", "path of the request")
	f.TextVar(&clientIP, "client-ip", netip.Addr{}, "address that the request comes from")
	f.StringVar(&tokenFile, "token-file", "", "file with an access token (a JWT); - is standard input")
	f.StringVar(&decision, "decision", "", "id of a recorded decision, as in X-Decision-ID")
	f.TimeVar(&at, "at", time.Time{}, []string{time.RFC3339}, "time that the policy sees in input.now, such as 2026-11-28T03:00:00Z; the facts are those of now")
	f.StringVar(&under, "policy", "", "folder or bundle to explain under, instead of what is in force")
	f.BoolVar(&asJSON, "json", false, "JSON, for machines")
	return cmd
}

// explained is an explanation, and what comes before any policy.
type explained struct {
	explain.Explanation
	TokenRefused string `json:"token_refused,omitempty"`
}

// refused says why a gateway's token with these claims would be refused, its signature apart.
func (a *asking) refused(claims map[string]any, now time.Time) string {
	if err := a.issuerOf(claims).Judge(claims, now); err != nil {
		return err.Error()
	}
	return ""
}

func (a *asking) issuerOf(claims map[string]any) token.Issuer {
	return a.verified[slices.IndexFunc(a.verified, func(i token.Issuer) bool { return i.URL == claims["iss"] })]
}

// question is what is asked for, and all claims of the token where it is one that was issued.
func question(ctx context.Context, environ []string, issuer, subject, clientID, claims, tokenFile, decision string, now time.Time) (explain.Question, map[string]any, error) {
	ways := 0
	for _, given := range []bool{subject != "" || clientID != "", tokenFile != "", decision != ""} {
		if given {
			ways++
		}
	}
	if ways != 1 {
		return explain.Question{}, nil, errors.New("say one of --subject (or --client-id), --token-file and --decision")
	}
	switch {
	case decision != "":
		kept, err := openKept(ctx, environ)
		if err != nil {
			return explain.Question{}, nil, err
		}
		defer kept.Close()
		d, found, err := kept.Get(ctx, decision)
		if err == nil && !found {
			err = fmt.Errorf("there is no decision %s any more, or it never was recorded", decision)
		}
		if err != nil {
			return explain.Question{}, nil, err
		}
		q, err := explain.FromRecord(d)
		return q, nil, err
	case tokenFile != "":
		text, err := readAll(tokenFile)
		if err != nil {
			return explain.Question{}, nil, err
		}
		parts := strings.Split(strings.TrimSpace(string(text)), ".")
		if len(parts) != 3 {
			return explain.Question{}, nil, errors.New("--token-file: it is no JWT; an opaque token says nothing by itself, use --subject")
		}
		body, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err != nil {
			return explain.Question{}, nil, errors.New("--token-file: it is no JWT")
		}
		claims, err := object(body)
		if err != nil {
			return explain.Question{}, nil, errors.New("--token-file: it is no JWT")
		}
		t, err := explain.FromClaims(claims, now)
		return explain.Question{Token: t}, claims, err
	}
	more := map[string]any{}
	if claims != "" {
		var err error
		if more, err = object([]byte(claims)); err != nil {
			return explain.Question{}, nil, fmt.Errorf("--claims: %w", err)
		}
	}
	if subject == "" {
		subject = clientID
	}
	if issuer = cmp.Or(issuer, env.ToMap(environ)["RAUTH_URL"]); issuer == "" {
		return explain.Question{}, nil, errors.New("say of which issuer the subject is: --issuer or RAUTH_URL")
	}
	t, err := explain.Of(issuer, subject, clientID, more, now)
	return explain.Question{Token: t}, nil, err
}

// object reads a JSON object and keeps numbers as they are written.
func object(text []byte) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var o map[string]any
	err := d.Decode(&o)
	return o, err
}

func readAll(name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(os.Stdin)
	}
	return os.ReadFile(name)
}

func policyPreviewCommand(environ []string) *cobra.Command {
	var against, export, issuer string
	var questions, failOn []string
	var replay time.Duration
	var asJSON bool
	var workers int
	cmd := &cobra.Command{
		Use:   "preview FOLDER|BUNDLE",
		Short: "Say who would gain and lose what under another policy, over one snapshot of the facts (needs DATABASE_URL and RAUTH_URL)",
		Long: "Ask what is in force (by the database, else the embedded policy, or that of --against) and the candidate the same questions, and compare:\n" +
			"each question of preview/*.yaml, of each user in each tenant, and of each client. Without such files one question is asked: a minimal\n" +
			"token, GET /. With --replay, decisions that were recorded lately are asked once more (DECISIONS_DATABASE_URL). GATEWAY_HEADERS,\n" +
			"UNKNOWN_USERS, HEADER_BUDGET, ENRICH_DEADLINE, RAUTH_URL and TRUSTED_ISSUERS are taken as serve takes them.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, kind := range failOn {
				if !slices.Contains(preview.Kinds, kind) && kind != "any" {
					return fmt.Errorf("--fail-on: %q is none of any, %s", kind, strings.Join(preview.Kinds, ", "))
				}
			}
			ctx := cmd.Context()
			a, err := openAsking(ctx, environ, issuer)
			if err != nil {
				return err
			}
			defer a.close()
			if a.issuer == "" {
				return server.Faults("RAUTH_URL is missing (or --issuer): nobody is let in whose issuer is not trusted")
			}
			go server.TuneGC(ctx, previewAim) // it makes much garbage, and nothing else waits for the memory
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
				kept, err := openKept(ctx, environ)
				if err != nil {
					return err
				}
				defer kept.Close()
				c.Replay = preview.Since(kept, time.Now().Add(-replay))
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
				return fmt.Errorf("answers change: %s", strings.Join(found, ", "))
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&against, "against", "", "folder or bundle to compare with, instead of what is in force")
	f.StringSliceVar(&questions, "questions", nil, "files with questions, or folders of them; else preview/*.yaml of a folder")
	f.DurationVar(&replay, "replay", 0, "ask decisions once more that were recorded in this time, such as 24h")
	f.StringVar(&export, "export", "", "file for all changes, as JSON lines")
	f.StringSliceVar(&failOn, "fail-on", nil, "kinds of changes that make the command fail, for CI: any, "+strings.Join(preview.Kinds, ", "))
	f.StringVar(&issuer, "issuer", "", "issuer of users' tokens, where RAUTH_URL is not set")
	f.IntVar(&workers, "workers", runtime.GOMAXPROCS(0), "questions that are asked at once")
	f.BoolVar(&asJSON, "json", false, "JSON, for machines")
	return cmd
}

// openKept opens the database of decisions, which must be set.
func openKept(ctx context.Context, environ []string) (*postgres.Decisions, error) {
	url, err := setting(environ, "DECISIONS_DATABASE_URL")
	if err != nil {
		return nil, err
	}
	if url == "" {
		return nil, server.Faults("DECISIONS_DATABASE_URL is missing: where decisions are recorded")
	}
	kept, err := postgres.OpenDecisions(ctx, url, time.Hour, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return nil, errors.New("DECISIONS_DATABASE_URL cannot be used") // why could show a password
	}
	return kept, nil
}

// questionsOf reads questions from files or folders; without any, from preview/ of a policy
// that is a folder.
func questionsOf(candidate string, names []string) ([]preview.Question, error) {
	if len(names) == 0 {
		names = []string{filepath.Join(candidate, "preview")}
		if info, err := os.Stat(names[0]); err != nil || !info.IsDir() {
			return nil, nil // the usual one
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

// runPreview runs it with a bar, and writes all changes to a file if there is one.
func runPreview(cmd *cobra.Command, c preview.Config, export string) (preview.Report, error) {
	var out *bufio.Writer
	if export != "" {
		f, err := os.OpenFile(export, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600) // it names people
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
