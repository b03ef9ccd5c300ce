package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// preview fills a database with many members, has the production program preview a policy that denies a part
// of them, and prints its time and memory.
func preview(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("iam-bench preview", flag.ContinueOnError)
	service := flags.String("service", "bin/iam-service", "the program to measure")
	users := flags.Int("users", 1_000_000, "users in the database, each a member of one tenant, a hundred for each tenant")
	policy := flags.String("policy", "policies", "folder of the policy to change")
	dir := flags.String("dir", ".dev/scale", "folder of the databases, reused by the next run")
	if err := flags.Parse(args); err != nil {
		return err
	}
	stack, stop, err := seeded(ctx, filepath.Join(*dir, strconv.Itoa(*users)), "127.0.0.1:8095", *users, *users/100)
	if err != nil {
		return err
	}
	defer stop()
	candidate, err := os.MkdirTemp("", "preview")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(candidate) }() // a temporary folder
	if err := os.CopyFS(candidate, os.DirFS(*policy)); err != nil {
		return err
	}
	const rule = "package iam.claims\n\n# METADATA\n# title: Tenants of a thousand\n# description: For the measurement.\n# custom:\n#   code: measured\n" +
		"denials contains _reason(rego.metadata.rule()) if endswith(_tenant.id, \"000\")\n"
	if err := os.WriteFile(filepath.Join(candidate, "iam", "claims", "measured.rego"), []byte(rule), 0o600); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, *service, "policy", "preview", candidate, "--against", *policy)
	cmd.Env = append(os.Environ(), "DATABASE_URL="+stack.Postgres.URL, "RAUTH_URL="+stack.RAuth.Issuer)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	began := time.Now()
	if err := cmd.Run(); err != nil {
		return err
	}
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return errors.New("this system does not report the resources of a process")
	}
	took := time.Since(began)
	fmt.Printf("\n%d members were asked about in %s, %.0f a second, two policies each; at most %d MB resident\n",
		*users, took.Round(time.Second), float64(*users)/took.Seconds(), usage.Maxrss>>10)
	return nil
}
