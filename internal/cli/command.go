package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/spf13/cobra"

	"iam-service/internal/adminapi"
	"iam-service/internal/policy"
	"iam-service/internal/postgres"
	"iam-service/internal/server"
	"iam-service/internal/telemetry"
)

// Command is the command line of iam-service.
func Command(environ []string) *cobra.Command {
	root := &cobra.Command{
		Use:           "iam-service",
		Short:         "Says who a caller is here: from an access token to trusted headers",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(serveCommand(environ), migrateCommand(environ), policyCommand(environ), healthcheckCommand(environ), versionCommand(), openAPICommand(),
		grantAdminCommand(environ), auditCommand(environ), exportCommand(environ), importCommand(environ), eventsCommand(environ), reconcileCommand(environ), instanceCommand(environ), gateCommand())
	strict(root)
	return root
}

func serveCommand(environ []string) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Answer gateways and admins",
		Long:  "Answer gateways and admins. Settings come from the environment:\n\n" + settingsTable(),
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := server.ParseConfig(environ)
			signal.Ignore(syscall.SIGPIPE) // a log whose reader is gone ends nothing
			log := telemetry.NewLog(cmd.ErrOrStderr(), cfg.LogLevel)
			defer log.Flush() // the last lines, whatever they say
			if err == nil {
				err = server.Serve(cmd.Context(), cfg, log, nil)
			}
			if err == nil {
				return nil
			}
			log.LogAttrs(cmd.Context(), slog.LevelError, "serve failed", faultAttrs(err)...)
			return errLogged
		},
	}
}

// errLogged is a failure that the log has.
var errLogged = errors.New("the log says why")

// faultAttrs says in one line what stops the program.
func faultAttrs(err error) []slog.Attr {
	if c, ok := errors.AsType[*server.ConfigError](err); ok {
		return []slog.Attr{slog.String("err", "the configuration is not valid"), slog.Any("faults", c.Faults)}
	}
	return []slog.Attr{slog.String("err", server.OneLine(err).Error())}
}

func settingsTable() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, v := range server.Variables() {
		fmt.Fprintf(w, "  %s\t%s\t%s\n", v[0], v[1], v[2])
	}
	_ = w.Flush() // into memory
	return b.String()
}

func migrateCommand(environ []string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Move the schema: up, down, status",
		Long: "Move the schema of DATABASE_LISTEN_URL, else of DATABASE_URL. It must be a direct connection:\n" +
			"a lock of the session keeps two migrations apart.",
	}
	act := func(use, short string, do func(cmd *cobra.Command, url string) error) *cobra.Command {
		return reports(&cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			url, err := databaseURL(environ)
			if err != nil {
				return err
			}
			return do(cmd, url)
		}})
	}
	var grantTo string
	up := act("up", "Apply all steps that are missing; with DECISIONS_DATABASE_URL there too", func(cmd *cobra.Command, url string) error {
		done, err := migrateUp(cmd.Context(), environ, url, grantTo)
		return errors.Join(report(cmd, done, done.text), err)
	})
	up.Flags().StringVar(&grantTo, "grant-to", "", "role that the service itself connects as: it gets what it needs, and no more")
	var yes bool
	var take postgres.Rollback
	down := act("down", "Take the last step back, with all that is in its tables: for development, and after a failed update", func(cmd *cobra.Command, url string) error {
		if !yes {
			last, applied, err := postgres.LastStep(cmd.Context(), url)
			if err != nil {
				return err
			}
			if applied {
				return &usageError{fmt.Sprintf("this takes back %s and destroys what is in its tables: say --yes", last.File)}
			}
		}
		take.By = operatorName()
		steps, err := postgres.RollbackLast(cmd.Context(), url, take)
		done := migrated{Applied: []string{}, TakenBack: files(steps)}
		return errors.Join(report(cmd, done, done.text), err)
	})
	down.Flags().BoolVar(&yes, "yes", false, "do it")
	down.Flags().BoolVar(&take.DestroyAudit, "destroy-audit", false, "also where entries of the audit are destroyed; \"audit verify\" reports it from then on")
	cmd.AddCommand(
		up, down,
		act("status", "List the steps", func(cmd *cobra.Command, url string) error {
			steps, err := postgres.Status(cmd.Context(), url)
			if err != nil {
				return err
			}
			return report(cmd, migrationStatus(steps), func(out io.Writer) {
				for _, s := range steps {
					state := "missing"
					if !s.AppliedAt.IsZero() {
						state = "applied " + s.AppliedAt.UTC().Format(time.RFC3339)
					}
					fmt.Fprintf(out, "%s: %s\n", s.File, state)
				}
			})
		}),
	)
	return cmd
}

// migrated is what a migration did, by the names of the steps.
type migrated struct {
	Applied          []string `json:"applied"`
	AppliedDecisions []string `json:"applied_decisions,omitempty"` // to the database of decisions
	TakenBack        []string `json:"taken_back"`
	GrantedTo        string   `json:"granted_to,omitempty"`
}

func (m migrated) text(out io.Writer) {
	for _, f := range m.Applied {
		fmt.Fprintln(out, "applied", f)
	}
	for _, f := range m.TakenBack {
		fmt.Fprintln(out, "took back", f)
	}
	if len(m.Applied)+len(m.TakenBack) == 0 {
		fmt.Fprintln(out, "nothing to do")
	}
	for _, f := range m.AppliedDecisions {
		fmt.Fprintln(out, "applied to the database of decisions", f)
	}
	if m.GrantedTo != "" {
		fmt.Fprintln(out, "granted to", m.GrantedTo)
	}
}

func files(steps []postgres.Step) []string {
	names := []string{}
	for _, s := range steps {
		names = append(names, s.File)
	}
	return names
}

// migrateUp applies what is missing, here and in the database of decisions, and then grants. Where it fails, it
// returns what was done until then.
func migrateUp(ctx context.Context, environ []string, url, grantTo string) (done migrated, err error) {
	steps, err := postgres.Migrate(ctx, url, postgres.Up)
	done.Applied, done.TakenBack = files(steps), []string{}
	if err != nil {
		return done, err
	}
	apart, err := setting(environ, "DECISIONS_DATABASE_URL")
	if err != nil {
		return done, err
	}
	if apart != "" {
		steps, err := postgres.MigrateDecisions(ctx, apart, postgres.Up)
		done.AppliedDecisions = files(steps)
		if err != nil {
			return done, err
		}
	}
	if grantTo == "" {
		return done, nil
	}
	if err := postgres.Grant(ctx, url, grantTo); err != nil {
		return done, err
	}
	if apart != "" {
		if err := postgres.GrantDecisions(ctx, apart, grantTo); err != nil {
			return done, err
		}
	}
	done.GrantedTo = grantTo
	return done, nil
}

// migrationStep is one step, for machines.
type migrationStep struct {
	Version   int64      `json:"version"`
	File      string     `json:"file"`
	AppliedAt *time.Time `json:"applied_at"` // null: it is missing
}

func migrationStatus(steps []postgres.Step) []migrationStep {
	list := make([]migrationStep, len(steps))
	for i, s := range steps {
		list[i] = migrationStep{Version: s.Version, File: s.File}
		if !s.AppliedAt.IsZero() {
			list[i].AppliedAt = &s.AppliedAt
		}
	}
	return list
}

// databaseURL reads the one setting that migrations need.
func databaseURL(environ []string) (string, error) {
	for _, name := range []string{"DATABASE_LISTEN_URL", "DATABASE_URL"} {
		if url, err := setting(environ, name); err != nil || url != "" {
			return url, err
		}
	}
	return "", server.Faults("DATABASE_URL is missing: PostgreSQL")
}

// setting reads one secret setting, from the environment or its file.
func setting(environ []string, name string) (string, error) {
	vars := env.ToMap(environ)
	if err := server.FromFile(vars, name); err != nil {
		return "", server.Faults(err.Error())
	}
	return vars[name], nil
}

func healthcheckCommand(environ []string) *cobra.Command {
	return reports(&cobra.Command{
		Use:   "healthcheck",
		Short: "Ask the service on this host whether it is ready (for a container)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			addr := cmp.Or(env.ToMap(environ)["OPS_ADDR"], ":9090")
			host, port, err := net.SplitHostPort(addr)
			if err != nil {
				return fmt.Errorf("OPS_ADDR must be host:port or :port: %w", err)
			}
			if host == "" || host == "0.0.0.0" || host == "::" {
				host = "127.0.0.1"
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/readyz", nil)
			if err != nil {
				return err
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
			if err != nil {
				return err
			}
			if resp.StatusCode != http.StatusOK {
				return errors.New(strings.TrimSpace(string(body)))
			}
			_, err = cmd.OutOrStdout().Write(body) // JSON, whether that was asked for or not
			return err
		},
	})
}

func versionCommand() *cobra.Command {
	return reports(&cobra.Command{
		Use:   "version",
		Short: "Say what program this is",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			e := json.NewEncoder(cmd.OutOrStdout()) // whether that was asked for or not
			return e.Encode(telemetry.ReadBuild(server.Version))
		},
	})
}

func openAPICommand() *cobra.Command {
	return &cobra.Command{
		Use:   "openapi",
		Short: "Print the OpenAPI document of the admin API, as it is served at /openapi.json",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(adminapi.OpenAPI(server.Version))
			return err
		},
	}
}

// gateCommand is how we call ourselves to try a policy apart.
func gateCommand() *cobra.Command {
	return &cobra.Command{
		Use: policy.ChildCommand, Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return policy.ServeGate(cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}

// Main runs the command line and returns the exit status.
func Main(ctx context.Context) int {
	cmd := Command(os.Environ())
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if !errors.Is(err, errLogged) {
		fmt.Fprintln(os.Stderr, "iam-service:", err)
	}
	if _, is := errors.AsType[*usageError](err); is {
		return 2
	}
	return 1
}
