// Command iam-dev runs iam-service with embedded dependencies (PostgreSQL, R-Auth, NATS) and sample data, for
// `make run`. It is never for production.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
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

// adminAddr is ADMIN_ADDR where the environment has none.
const adminAddr = "127.0.0.1:8081"

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

// run starts the stack, loads the sample data, and serves until ctx ends. Settings in environ override the presets
// for development.
func run(ctx context.Context, args, environ []string) error {
	flags := flag.NewFlagSet("iam-dev", flag.ContinueOnError)
	dir := flags.String("dir", ".dev", "folder of the data that survives a restart")
	fresh := flags.Bool("fresh", false, "delete all data and start over")
	rauthAddr := flags.String("rauth", "127.0.0.1:8090", "address of the development R-Auth")
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
		if err := removeData(*dir); err != nil {
			return err
		}
	}
	log := telemetry.NewLog(os.Stderr, slog.LevelInfo)
	defer log.Close()
	console, err := consoleSettings(environ, *dir)
	if err != nil {
		return err
	}
	stack, err := devstack.Start(ctx, devstack.Options{Dir: *dir, RAuthAddr: *rauthAddr, ConsoleURL: console.url, Log: log.Logger})
	if err != nil {
		return err
	}
	defer stack.Stop()
	if err := recordCluster(*dir, stack.Postgres.Dir); err != nil {
		return err
	}
	if err := prepareDatabase(ctx, stack, log.Logger); err != nil {
		return err
	}
	vars, ignored := preset(environ, stack, console)
	if len(ignored) > 0 {
		log.WarnContext(ctx, "settings of the environment ignored: iam-dev sets them itself", slog.Any("settings", ignored))
	}
	cfg, err := server.ParseConfig(vars)
	if err != nil {
		return err
	}
	return server.Serve(ctx, cfg, log, func(a server.Addrs) { printReady(a, stack, cfg, *dir) })
}

// prepareDatabase migrates the database and loads the sample data.
func prepareDatabase(ctx context.Context, stack *devstack.Stack, log *slog.Logger) error {
	if _, err := postgres.Migrate(ctx, stack.Postgres.URL, postgres.Up); err != nil {
		return err
	}
	if _, err := postgres.MigrateDecisions(ctx, stack.Postgres.URL, postgres.Up); err != nil {
		return err
	}
	return loadSample(ctx, stack, log)
}

// printReady prints commands to paste, and where the policy and the data are.
func printReady(a server.Addrs, stack *devstack.Stack, cfg server.Config, dir string) {
	local := func(addr string) string { return strings.Replace(addr, "[::]", "127.0.0.1", 1) }
	fmt.Printf("\niam-service is ready. Paste into another terminal:\n%s\n", devstack.Curls(local(a.Gateway), local(a.Admin), stack.RAuth.Issuer))
	fmt.Printf("Settings for the commands of iam-service:\n  export DATABASE_URL='%[1]s' DECISIONS_DATABASE_URL='%[1]s' RAUTH_URL=%[2]s\n\n",
		stack.Postgres.URL, stack.RAuth.Issuer)
	fmt.Printf("The console: %s/ (sign in with one click as %s)\n\n", cfg.ConsoleURL, devstack.SignIn)
	if cfg.PolicyBundle != "" {
		edited := "within two seconds it is a revision to preview and activate. With POLICY_ACTIVATION=auto it becomes active by itself."
		if cfg.PolicyActivation == "auto" {
			edited = "it becomes active within two seconds."
		}
		fmt.Printf("Edit the Rego in %s: %s\n"+
			"For operators: http://%s/readyz?verbose /metrics /policy/status\n"+
			"Ctrl-C stops it; data stays in %s, --fresh starts over.\n\n", cfg.PolicyBundle, edited, local(a.Ops), dir)
	}
}

// preset returns the settings of the service: presets for development, then environ, then the addresses of the
// stack; later ones win. A DATABASE_URL of another system, or of an earlier run, must neither receive sample data
// nor fail the start. ignored names the settings of environ that the stack overrides.
func preset(environ []string, stack *devstack.Stack, console consolePreset) (vars, ignored []string) {
	own := map[string]string{
		"DATABASE_URL": stack.Postgres.URL, "DATABASE_LISTEN_URL": "", "DECISIONS_DATABASE_URL": stack.Postgres.URL,
		"RAUTH_URL": stack.RAuth.Issuer, "RAUTH_ADMIN_URL": stack.RAuth.Issuer, "NATS_URL": stack.NATS.ClientURL(),
	}
	vars = []string{
		"RAUTH_AUDIENCES=" + devstack.Audience,
		"ADMIN_AUDIENCE=" + devstack.AdminAudience,
		"GATEWAY_ADDR=127.0.0.1:8080", "ADMIN_ADDR=" + adminAddr, "OPS_ADDR=127.0.0.1:9090",
		"TRUSTED_PROXIES=127.0.0.0/8,::1/128",
		"AUTHZEN_URL=http://127.0.0.1:8080",
		"DECISION_LOG_SAMPLE=1",
		"SHUTDOWN_DELAY=0s",
		"CONSOLE_URL=" + console.url, "CONSOLE_CLIENT_ID=" + devstack.ConsoleClientID, "CONSOLE_KEY=" + console.key,
	}
	if info, err := os.Stat("policies"); err == nil && info.IsDir() {
		// As in production: a change of the policy is previewed and activated, and can be rolled back.
		vars = append(vars, "POLICY_BUNDLE=policies", "POLICY_ALLOW_UNSIGNED=1", "POLICY_ACTIVATION=managed")
	}
	for _, v := range environ {
		name, value, _ := strings.Cut(v, "=")
		base := strings.TrimSuffix(name, "_FILE")
		ownValue, isOwn := own[base]
		if !isOwn {
			vars = append(vars, v)
		} else if value != "" && (value != ownValue || base != name) {
			ignored = append(ignored, name)
		}
	}
	for name, value := range own {
		vars = append(vars, name+"="+value)
	}
	slices.Sort(ignored)
	return vars, ignored
}

// consolePreset is where the console is, and what encrypts its sessions.
type consolePreset struct{ url, key string }

// consoleSettings puts the console at ADMIN_ADDR, unless environ has CONSOLE_URL. Its key survives a restart, and so do
// sessions.
func consoleSettings(environ []string, dir string) (p consolePreset, err error) {
	admin := adminAddr
	for _, v := range environ {
		switch name, value, _ := strings.Cut(v, "="); name {
		case "ADMIN_ADDR":
			admin = value
		case "CONSOLE_URL":
			p.url = strings.TrimSuffix(value, "/")
		}
	}
	if p.url == "" {
		host, port, err := net.SplitHostPort(admin)
		if err != nil {
			return p, fmt.Errorf("ADMIN_ADDR must be host:port or :port: %w", err)
		}
		if addr, err := netip.ParseAddr(host); host == "" || err == nil && addr.IsUnspecified() {
			host = "127.0.0.1"
		}
		p.url = "http://" + net.JoinHostPort(host, port) + "/console"
	}
	file := filepath.Join(dir, "console-key")
	if key, err := os.ReadFile(file); err == nil {
		p.key = string(key)
		return p, nil
	}
	p.key = rand.Text() + rand.Text()
	return p, os.WriteFile(file, []byte(p.key), 0o600)
}

// loadSample writes the sample data.
func loadSample(ctx context.Context, stack *devstack.Stack, log *slog.Logger) error {
	db, err := postgres.Open(ctx, postgres.Config{
		URL: stack.Postgres.URL, Issuers: iam.Issuers{{URL: stack.RAuth.Issuer, Tenants: []string{"*"}, Platform: true}},
	}, log, nil)
	if err != nil {
		return err
	}
	defer db.Close()
	return devstack.LoadSample(ctx, db, stack.RAuth.Issuer)
}

// recordCluster records the folder of PostgreSQL's cluster for removeData: it is outside dir if PostgreSQL's user
// cannot access dir.
func recordCluster(dir, cluster string) error {
	return os.WriteFile(filepath.Join(dir, "postgres-dir"), []byte(cluster), 0o600)
}

// removeData removes everything except the lock.
func removeData(dir string) error {
	if cluster, err := os.ReadFile(filepath.Join(dir, "postgres-dir")); err == nil {
		if err := os.RemoveAll(string(cluster)); err != nil {
			return err
		}
	}
	for _, part := range []string{"postgres", "nats", "postgres-dir", "console-key"} {
		if err := os.RemoveAll(filepath.Join(dir, part)); err != nil {
			return err
		}
	}
	return nil
}
