package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"iam-service/internal/dev/devstack"
)

const (
	rolloutMost     = time.Second // the promise, which the run fails without
	rolloutReplicas = 3
	rolloutRate     = 300 // enrichments a second beside it, over all replicas
)

// rollouts runs replicas of the production program under load, activates policies and
// rolls them back with its commands, and prints how long it takes until no replica
// answers by the policy before: from the start of the command until the last such answer.
func rollouts(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("iam-bench rollout", flag.ContinueOnError)
	service := flags.String("service", "bin/iam-service", "the program to measure")
	changes := flags.Int("changes", 25, "policies to activate and to roll back")
	if err := flags.Parse(args); err != nil {
		return err
	}
	stack, stopStack, err := seeded(ctx, ".dev/rollout", "127.0.0.1:8097", 10_000, 100)
	if err != nil {
		return err
	}
	defer stopStack()
	work, err := os.MkdirTemp("", "rollout")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }() // a temporary folder
	candidate := filepath.Join(work, "policy")
	if err := os.CopyFS(candidate, os.DirFS("policies")); err != nil {
		return err
	}
	managed := []string{"POLICY_ACTIVATION=managed", "POLICY_ALLOW_UNSIGNED=1"}
	tool := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, *service, append([]string{"policy"}, args...)...)
		cmd.Env = append(managed, "DATABASE_URL="+stack.Postgres.URL, "TMPDIR="+work)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("iam-service policy %s: %w: %s", args[0], err, bytes.TrimSpace(out))
		}
		return string(out), nil
	}
	// push builds and sends a policy that differs from all others, also those of earlier
	// runs, by a rule that refuses nobody.
	run := time.Now().UnixNano()
	push := func(n int) (id string, err error) {
		rule := fmt.Sprintf("package iam.claims\n\n# METADATA\n# title: Nobody\n# description: For the measurement.\n# custom:\n#   code: measured\n"+
			"denials contains _reason(rego.metadata.rule()) if _tenant.id == \"nothing-%d-%d\"\n", run, n)
		if err := os.WriteFile(filepath.Join(candidate, "iam", "claims", "measured.rego"), []byte(rule), 0o600); err != nil {
			return "", err
		}
		bundle := filepath.Join(work, "policy.tar.gz")
		if _, err := tool("build", candidate, "-o", bundle); err != nil {
			return "", err
		}
		out, err := tool("push", bundle)
		if err != nil {
			return "", err
		}
		said := regexp.MustCompile(`^revision (\w+) stored`).FindStringSubmatch(out)
		if said == nil {
			return "", errors.New("iam-service policy push says " + out)
		}
		return said[1], nil
	}
	all, err := startReplicas(ctx, stack, *service, rolloutReplicas, managed...)
	if err != nil {
		return err
	}
	defer stopReplicas(all)
	// activate tries again while a replica is not ready for the revision, which is not
	// measured: nothing has changed then.
	activate := func(id string) (began time.Time, err error) {
		for until := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			began = time.Now()
			if _, err = tool("activate", id); err == nil || began.After(until) || ctx.Err() != nil {
				return began, err
			}
		}
	}
	base, err := push(0)
	if err == nil {
		_, err = activate(base)
	}
	if err != nil {
		return err
	}

	loading, stop := context.WithCancel(ctx)
	var load sync.WaitGroup
	var asked, failed atomic.Int64
	load.Go(func() { keepAsking(loading, stack, all, rolloutRate, &asked, &failed) })
	defer load.Wait()
	defer stop()
	var forth, back []time.Duration
	for i := range *changes {
		id, err := push(i + 1)
		if err != nil {
			return err
		}
		d, err := lastBy(stack, all, base, func() (time.Time, error) { return activate(id) })
		if err != nil {
			return fmt.Errorf("activation %d: %w", i, err)
		}
		forth = append(forth, d)
		d, err = lastBy(stack, all, id, func() (time.Time, error) {
			began := time.Now()
			_, err := tool("rollback")
			return began, err
		})
		if err != nil {
			return fmt.Errorf("rollback %d: %w", i, err)
		}
		back = append(back, d)
	}
	stop()
	load.Wait()
	fmt.Printf("%d policies were activated and rolled back by command, %d replicas, %d other enrichments meanwhile (%d not answered)\n", *changes, rolloutReplicas, asked.Load(), failed.Load())
	for i, took := range [][]time.Duration{forth, back} {
		slices.Sort(took)
		most := took[len(took)-1]
		fmt.Printf("%s: until no replica answered by the one before, the start of the command included: p50 %s, at most %s\n",
			[]string{"activated", "rolled back"}[i], took[len(took)/2].Round(time.Millisecond), most.Round(time.Millisecond))
		if most >= rolloutMost {
			err = fmt.Errorf("the promise is never above %s", rolloutMost)
		}
	}
	return err
}

// lastBy runs change, and returns how long some replica went on answering by the revision before.
func lastBy(stack *devstack.Stack, all []*replica, before string, change func() (time.Time, error)) (time.Duration, error) {
	token, err := userToken(stack, 0)
	if err != nil {
		return 0, err
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	defer client.CloseIdleConnections()
	return lastAnswer(all, func(r *replica) (bool, error) {
		answer, err := r.ask(client, token)
		return answer.Get("X-Policy-Revision") == before, err
	}, change)
}
