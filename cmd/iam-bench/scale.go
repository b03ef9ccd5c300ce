package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/dev/devstack"
	"iam-service/internal/postgres"
)

// scale fills databases with increasing numbers of users, runs one and four replicas of the production program on
// each, and prints their start-up time, memory and CPU.
func scale(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("iam-bench scale", flag.ContinueOnError)
	service := flags.String("service", "bin/iam-service", "the program to measure")
	sizes := flags.String("users", "10000,100000,1000000", "users in the database, a hundred for each tenant")
	replicas := flags.String("replicas", "1,4", "replicas on this machine")
	ask := flags.Int("ask", 40_000, "maximum of different users to send requests for; more than the caches hold")
	dir := flags.String("dir", ".dev/scale", "folder of the databases, reused by the next run")
	if err := flags.Parse(args); err != nil {
		return err
	}
	fmt.Printf("%9s %9s %10s %15s %15s %22s %22s\n", "users", "replicas", "ready, ms", "MB when ready", "MB when full", "µs CPU, first answer", "µs CPU, cached answer")
	for size := range strings.SplitSeq(*sizes, ",") {
		users, err := strconv.Atoi(size)
		if err != nil {
			return fmt.Errorf("--users: %w", err)
		}
		if err := scaleOne(ctx, filepath.Join(*dir, size), scaled{*service, users, *ask}, *replicas); err != nil {
			return err
		}
	}
	return nil
}

// scaled is a measurement: of which program, with how many users, and how many of them send requests at most.
type scaled struct {
	service    string
	users, ask int
}

func scaleOne(ctx context.Context, dir string, m scaled, replicas string) error {
	stack, stop, err := seeded(ctx, dir, "127.0.0.1:8095", m.users, m.users/100)
	if err != nil {
		return err
	}
	defer stop()
	for count := range strings.SplitSeq(replicas, ",") {
		n, err := strconv.Atoi(count)
		if err != nil {
			return fmt.Errorf("--replicas: %w", err)
		}
		if err := measure(ctx, stack, m, n); err != nil {
			return err
		}
	}
	return nil
}

// seeded starts a stack in a folder, with users and tenants in its database; stop ends it. The issuer is part of
// the facts, so a folder always needs the same address of R-Auth.
func seeded(ctx context.Context, dir, rauthAddr string, users, tenants int) (_ *devstack.Stack, stop func(), err error) {
	unlock, err := devstack.Lock(dir)
	if err != nil {
		return nil, nil, err
	}
	stack, err := devstack.Start(ctx, devstack.Options{Dir: dir, RAuthAddr: rauthAddr, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		unlock()
		return nil, nil, err
	}
	stop = func() {
		stack.Stop()
		unlock()
	}
	if err := seed(ctx, stack, users, tenants); err != nil {
		stop()
		return nil, nil, err
	}
	return stack, stop, nil
}

// seed writes the facts, unless an earlier run has.
func seed(ctx context.Context, stack *devstack.Stack, users, tenants int) error {
	if _, err := postgres.Migrate(ctx, stack.Postgres.URL, postgres.Up); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, stack.Postgres.URL)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var have int
	if err := conn.QueryRow(ctx, `SELECT count(*) FROM users`).Scan(&have); err != nil {
		return err
	}
	if have == users {
		return nil
	}
	for _, q := range []struct {
		sql  string
		args []any
	}{
		{`TRUNCATE tenants, roles, users, memberships, mappings, clients, registrations CASCADE`, nil},
		{`INSERT INTO roles (tenant, name, permissions, inherits) VALUES (NULL, 'viewer', '{doc:read}', '{}'), (NULL, 'editor', '{doc:write}', '{viewer}'), (NULL, 'admin', '{member:write}', '{editor}')`, nil},
		{`INSERT INTO tenants (id, slug, name) SELECT 't' || i, 't' || i, 'Tenant ' || i FROM generate_series(0, $1::int - 1) i`, []any{tenants}},
		{`INSERT INTO users (issuer, subject, default_tenant) SELECT $1, 'user-' || i, 't' || i % $3::int FROM generate_series(0, $2::int - 1) i`, []any{stack.RAuth.Issuer, users, tenants}},
		{`INSERT INTO memberships (user_id, tenant, roles) SELECT id, default_tenant, '{editor}' FROM users`, nil},
		{`ANALYZE`, nil},
	} {
		if _, err := conn.Exec(ctx, q.sql, q.args...); err != nil {
			return fmt.Errorf("seed: %w", err)
		}
	}
	return nil
}

// measure runs n replicas and prints one line of figures: the maximum of times and memory, the mean of CPU.
func measure(ctx context.Context, stack *devstack.Stack, m scaled, n int) error {
	users, ask := m.users, min(m.ask, m.users)
	all, err := startReplicas(ctx, stack, m.service, n)
	if err != nil {
		return err
	}
	defer stopReplicas(all)
	var ready time.Duration
	var memoryReady, memoryFull int
	cpu := func() (sum time.Duration) {
		for _, r := range all {
			sum += r.cpu()
		}
		return sum
	}
	for _, r := range all {
		ready, memoryReady = max(ready, r.ready), max(memoryReady, r.resident())
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}

	before := cpu()
	if err := forEach(ask, func(i int) error {
		token, err := userToken(stack, i*(users/ask))
		if err == nil {
			_, err = all[i%n].enrich(client, token)
		}
		return err
	}); err != nil {
		return err
	}
	first := cpu() - before
	for _, r := range all {
		memoryFull = max(memoryFull, r.resident())
	}

	const hotUsers, repeats = 200, 100
	tokens := make([]string, hotUsers)
	for i := range tokens {
		if tokens[i], err = userToken(stack, i); err != nil {
			return err
		}
	}
	repeat := func(i int) error { _, err := all[i%n].enrich(client, tokens[i/n%hotUsers]); return err }
	if err := forEach(hotUsers*n, repeat); err != nil { // fills the caches
		return err
	}
	before = cpu()
	if err := forEach(hotUsers*n*repeats, repeat); err != nil {
		return err
	}
	cached := cpu() - before
	fmt.Printf("%9d %9d %10d %15d %15d %22.0f %22.1f\n", users, n, ready.Milliseconds(), memoryReady, memoryFull,
		float64(first.Microseconds())/float64(ask), float64(cached.Microseconds())/float64(hotUsers*n*repeats))
	return nil
}
