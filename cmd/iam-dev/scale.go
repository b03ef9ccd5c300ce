package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/devstack"
	"iam-service/internal/postgres"
)

// scale fills a database of its own with very many users, starts the production
// program on it, asks it for many of them, and prints how long it took to be ready
// and how much memory it holds.
func scale(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("iam-dev scale", flag.ContinueOnError)
	service := flags.String("service", "bin/iam-service", "the program to measure")
	users := flags.Int("users", 1_000_000, "users in the database")
	tenants := flags.Int("tenants", 10_000, "tenants in the database")
	ask := flags.Int("ask", 40_000, "different users to ask for; more than the cache holds")
	dir := flags.String("dir", ".dev/scale", "folder of the database, kept for the next time")
	if err := flags.Parse(args); err != nil {
		return err
	}
	unlock, err := lock(*dir)
	if err != nil {
		return err
	}
	defer unlock()
	// Its issuer is part of the facts, so its address stays.
	stack, err := devstack.Start(ctx, devstack.Options{Dir: *dir, RAuthAddr: "127.0.0.1:8095", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer stack.Stop()
	if err := seed(ctx, stack, *users, *tenants); err != nil {
		return err
	}
	return measure(ctx, stack, *service, *users, *ask)
}

// seed writes the facts, unless they are there from the last time.
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
		fmt.Printf("%d users are in the database from the last time\n", have)
		return nil
	}
	began := time.Now()
	for _, q := range []struct {
		sql  string
		args []any
	}{
		{`TRUNCATE tenants, roles, users, memberships, mappings, clients`, nil},
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
	fmt.Printf("%d users in %d tenants were written in %s\n", users, tenants, time.Since(began).Round(time.Second))
	return nil
}

// measure runs the program and prints the figures.
func measure(ctx context.Context, stack *devstack.Stack, program string, users, ask int) error {
	var addrs [3]string
	for i := range addrs {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		addrs[i] = l.Addr().String()
		_ = l.Close() // only its number is wanted
	}
	logFile, err := os.Create(filepath.Join(os.TempDir(), "iam-scale.log"))
	if err != nil {
		return err
	}
	defer logFile.Close()
	cmd := exec.CommandContext(ctx, program, "serve")
	cmd.Env = []string{
		"DATABASE_URL=" + stack.Postgres.URL, "RAUTH_URL=" + stack.RAuth.Issuer, "RAUTH_AUDIENCES=" + devstack.Audience,
		"GATEWAY_ADDR=" + addrs[0], "ADMIN_ADDR=" + addrs[1], "OPS_ADDR=" + addrs[2], "SHUTDOWN_DELAY=0s",
	}
	cmd.Stdout, cmd.Stderr = logFile, logFile
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", program, err)
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // gone already is as good
		_ = cmd.Wait()                          // its end is what matters
	}()
	for {
		resp, err := http.Get("http://" + addrs[2] + "/readyz")
		if err == nil {
			_ = resp.Body.Close() // only its status is wanted
			if resp.StatusCode == http.StatusOK {
				break
			}
		}
		if time.Since(began) > 30*time.Second {
			return fmt.Errorf("%s is not ready after 30 s: see %s", program, logFile.Name())
		}
		time.Sleep(5 * time.Millisecond)
	}
	fmt.Printf("ready after %d ms\n", time.Since(began).Milliseconds())
	fmt.Printf("resident memory when ready: %s\n", resident(cmd.Process.Pid))
	began = time.Now()
	if err := askMany(stack, addrs[0], users, ask); err != nil {
		return err
	}
	fmt.Printf("%d different users were answered in %s\n", ask, time.Since(began).Round(time.Second))
	fmt.Printf("resident memory after that, caches full: %s\n", resident(cmd.Process.Pid))
	return nil
}

// askMany asks for users spread over all of them, four at a time.
func askMany(stack *devstack.Stack, gateway string, users, ask int) error {
	var failed atomic.Pointer[error]
	next := make(chan int)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range next {
				if err := askOne(stack, gateway, i*(max(users/ask, 1))); err != nil {
					failed.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	for i := range ask {
		if failed.Load() != nil {
			break
		}
		next <- i
	}
	close(next)
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

func askOne(stack *devstack.Stack, gateway string, n int) error {
	token, err := stack.RAuth.Mint("EdDSA", map[string]any{"sub": "user-" + strconv.Itoa(n), "client_id": "web"})
	if err != nil {
		return err
	}
	for try := 0; ; try++ {
		req, err := http.NewRequest(http.MethodGet, "http://"+gateway+"/system/enrich-token", nil)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close() // read to its end
		switch {
		case err != nil:
			return err
		case resp.StatusCode == http.StatusOK:
			return nil
		case resp.StatusCode != http.StatusServiceUnavailable || try == 10: // a busy machine answers "not now" at times
			return errors.New("user-" + strconv.Itoa(n) + " was answered " + resp.Status)
		}
	}
}

// resident reads VmRSS from /proc; elsewhere it is not known.
func resident(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return "unknown on this system"
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(v), " kB"))
			return fmt.Sprintf("%d MB", kb/1024)
		}
	}
	return "unknown"
}
