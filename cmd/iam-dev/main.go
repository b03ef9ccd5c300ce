// Command iam-dev is iam-service with everything it needs in one program: for
// `make run`, never for production.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"iam-service/internal/dev/devstack"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/postgres"
	"iam-service/internal/server"
	"iam-service/internal/telemetry"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	var err error
	if len(os.Args) > 1 && os.Args[1] == policy.ChildCommand {
		err = policy.ServeGate(os.Stdin, os.Stdout)
	} else {
		err = run(ctx, os.Args[1:], os.Environ())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "iam-dev:", err)
		os.Exit(1)
	}
}

// run starts the stack, fills it, and serves until ctx ends. Settings of the
// service come from environ, over what development presets.
func run(ctx context.Context, args, environ []string) error {
	flags := flag.NewFlagSet("iam-dev", flag.ContinueOnError)
	dir := flags.String("dir", ".dev", "folder for everything that survives a restart")
	fresh := flags.Bool("fresh", false, "forget everything and start over")
	rauthAddr := flags.String("rauth", "127.0.0.1:8090", "where the development R-Auth listens")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	unlock, err := devstack.Lock(*dir)
	if err != nil {
		return err
	}
	defer unlock()
	if *fresh {
		if err := forget(*dir); err != nil {
			return err
		}
	}
	log := telemetry.NewLog(os.Stderr, slog.LevelInfo)
	defer log.Flush()
	stack, err := devstack.Start(ctx, devstack.Options{Dir: *dir, RAuthAddr: *rauthAddr, Log: log.Logger})
	if err != nil {
		return err
	}
	defer stack.Stop()
	if err := remember(*dir, stack.Postgres.Dir); err != nil {
		return err
	}
	if _, err := postgres.Migrate(ctx, stack.Postgres.URL, postgres.Up); err != nil {
		return err
	}
	if _, err := postgres.MigrateDecisions(ctx, stack.Postgres.URL, postgres.Up); err != nil {
		return err
	}
	if err := fill(ctx, stack, log.Logger); err != nil {
		return err
	}
	vars, ignored := preset(environ, stack)
	if len(ignored) > 0 {
		log.WarnContext(ctx, "settings of the environment are ignored: this program brings its own", slog.Any("settings", ignored))
	}
	cfg, err := server.ParseConfig(vars)
	if err != nil {
		return err
	}
	return server.Serve(ctx, cfg, log, func(a server.Addrs) {
		gateway := strings.Replace(a.Gateway, "[::]", "127.0.0.1", 1)
		fmt.Printf("\niam-service is ready. Paste into another terminal:\n%s\n", devstack.Curls(gateway, strings.Replace(a.Admin, "[::]", "127.0.0.1", 1), stack.RAuth.Issuer))
		fmt.Printf("What commands of iam-service need:\n  export DATABASE_URL='%[1]s' DECISIONS_DATABASE_URL='%[1]s' RAUTH_URL=%[2]s\n\n", stack.Postgres.URL, stack.RAuth.Issuer)
		if cfg.PolicyBundle != "" {
			fmt.Printf("Edit the Rego in %s: it is in force within two seconds.\nWhat operators see: http://%s/readyz?verbose /metrics /policy/status\nCtrl-C stops it; data stays in %s, --fresh starts over.\n\n",
				cfg.PolicyBundle, strings.Replace(a.Ops, "[::]", "127.0.0.1", 1), *dir)
		}
	})
}

// preset is environ between what development presets and what this program brings itself: the later one wins.
// A DATABASE_URL of another system, or of the last run, must not be filled with samples, nor keep this one from
// starting; ignored names the settings that were there and are not taken.
func preset(environ []string, stack *devstack.Stack) (vars, ignored []string) {
	own := map[string]string{
		"DATABASE_URL": stack.Postgres.URL, "DATABASE_LISTEN_URL": "", "DECISIONS_DATABASE_URL": stack.Postgres.URL,
		"RAUTH_URL": stack.RAuth.Issuer, "RAUTH_ADMIN_URL": stack.RAuth.Issuer, "NATS_URL": stack.NATS.ClientURL(),
	}
	vars = []string{
		"RAUTH_AUDIENCES=" + devstack.Audience,
		"ADMIN_AUDIENCE=" + devstack.AdminAudience,
		"GATEWAY_ADDR=127.0.0.1:8080", "ADMIN_ADDR=127.0.0.1:8081", "OPS_ADDR=127.0.0.1:9090",
		"TRUSTED_PROXIES=127.0.0.0/8,::1/128",
		"DECISION_LOG_SAMPLE=1",
		"SHUTDOWN_DELAY=0s",
	}
	if info, err := os.Stat("policies"); err == nil && info.IsDir() {
		vars = append(vars, "POLICY_BUNDLE=policies", "POLICY_ALLOW_UNSIGNED=1")
	}
	for _, v := range environ {
		name, value, _ := strings.Cut(v, "=")
		base := strings.TrimSuffix(name, "_FILE")
		mine, is := own[base]
		if !is {
			vars = append(vars, v)
		} else if value != "" && (value != mine || base != name) {
			ignored = append(ignored, name)
		}
	}
	for name, value := range own {
		vars = append(vars, name+"="+value)
	}
	slices.Sort(ignored)
	return vars, ignored
}

// fill writes the sample data.
func fill(ctx context.Context, stack *devstack.Stack, log *slog.Logger) error {
	db, err := postgres.Open(ctx, postgres.Config{
		URL: stack.Postgres.URL, Issuers: iam.Issuers{{URL: stack.RAuth.Issuer, Tenants: []string{"*"}, Platform: true}},
	}, log, nil)
	if err != nil {
		return err
	}
	defer db.Close()
	return devstack.LoadSample(ctx, db, stack.RAuth.Issuer)
}

// remember notes where PostgreSQL's cluster is, for forget: it is not below dir
// where PostgreSQL's user cannot reach that.
func remember(dir, cluster string) error {
	return os.WriteFile(filepath.Join(dir, "postgres-dir"), []byte(cluster), 0o600)
}

// forget removes everything but the lock.
func forget(dir string) error {
	if cluster, err := os.ReadFile(filepath.Join(dir, "postgres-dir")); err == nil {
		if err := os.RemoveAll(string(cluster)); err != nil {
			return err
		}
	}
	for _, part := range []string{"postgres", "nats", "postgres-dir"} {
		if err := os.RemoveAll(filepath.Join(dir, part)); err != nil {
			return err
		}
	}
	return nil
}
