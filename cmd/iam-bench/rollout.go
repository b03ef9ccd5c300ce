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
	"time"

	"iam-service/internal/dev/devstack"
)

const (
	rolloutLimit    = time.Second // the target; the run fails above it
	rolloutReplicas = 3
	rolloutRate     = 300 // concurrent enrichments a second, over all replicas
)

// rollout activates and rolls back policies on replicas of the production program under load, by its commands.
// It prints the time from the start of a command until the last response under the previous revision.
func rollout(ctx context.Context, args []string) error {
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
	policies, err := newPolicyTool(*service, stack, work)
	if err != nil {
		return err
	}
	replicas, err := startReplicas(ctx, stack, *service, rolloutReplicas, managedMode...)
	if err != nil {
		return err
	}
	defer stopReplicas(replicas)
	base, err := policies.push(ctx, 0)
	if err == nil {
		_, err = policies.activate(ctx, base)
	}
	if err != nil {
		return err
	}
	load := startLoad(ctx, stack, replicas, rolloutRate)
	defer load.stop()
	activations, rollbacks, err := rollouts{stack, policies, replicas, base}.measure(ctx, *changes)
	if err != nil {
		return err
	}
	load.stop()
	fmt.Printf("%d policies were activated and rolled back by command, %d replicas, %d other enrichments meanwhile (%d failed)\n",
		*changes, rolloutReplicas, load.sent.Load(), load.failed.Load())
	return errors.Join(printRollouts("activated", activations), printRollouts("rolled back", rollbacks))
}

// rollouts is a fleet whose active policy is base.
type rollouts struct {
	stack    *devstack.Stack
	policies *policyTool
	replicas []*replica
	base     string
}

// measure activates a new policy and rolls it back to base, as often as changes says.
func (r rollouts) measure(ctx context.Context, changes int) (activations, rollbacks []time.Duration, err error) {
	for i := range changes {
		id, err := r.policies.push(ctx, i+1)
		if err != nil {
			return nil, nil, err
		}
		took, err := lastDecisionUnder(r.stack, r.replicas, r.base, func() (time.Time, error) { return r.policies.activate(ctx, id) })
		if err != nil {
			return nil, nil, fmt.Errorf("activation %d: %w", i, err)
		}
		activations = append(activations, took)
		took, err = lastDecisionUnder(r.stack, r.replicas, id, func() (time.Time, error) { return r.policies.rollBack(ctx) })
		if err != nil {
			return nil, nil, fmt.Errorf("rollback %d: %w", i, err)
		}
		rollbacks = append(rollbacks, took)
	}
	return activations, rollbacks, nil
}

// printRollouts prints the times of one kind of change, and fails if one of them is not below the target.
func printRollouts(kind string, took []time.Duration) error {
	slices.Sort(took)
	longest := took[len(took)-1]
	fmt.Printf("%s: until no replica answered by the one before, the start of the command included: p50 %s, at most %s\n",
		kind, took[len(took)/2].Round(time.Millisecond), longest.Round(time.Millisecond))
	if longest >= rolloutLimit {
		return fmt.Errorf("%s: the target is below %s", kind, rolloutLimit)
	}
	return nil
}

// lastDecisionUnder runs change, and returns how long some replica went on returning decisions of a revision.
func lastDecisionUnder(stack *devstack.Stack, replicas []*replica, revision string, change func() (time.Time, error)) (time.Duration, error) {
	token, err := userToken(stack, 0)
	if err != nil {
		return 0, err
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	defer client.CloseIdleConnections()
	return lastResponse(replicas, func(r *replica) (bool, error) {
		headers, err := r.enrich(client, token)
		return headers.Get("X-Policy-Revision") == revision, err
	}, change)
}

var (
	managedMode    = []string{"POLICY_ACTIVATION=managed", "POLICY_ALLOW_UNSIGNED=1"}
	storedRevision = regexp.MustCompile(`^revision (\w+) stored`)
)

// policyTool runs the policy commands of the production program.
type policyTool struct {
	service   string
	environ   []string
	candidate string // folder of the policy that push changes
	bundle    string
	run       int64 // makes the policies of this run differ from those of earlier runs
}

func newPolicyTool(service string, stack *devstack.Stack, work string) (*policyTool, error) {
	t := &policyTool{
		service:   service,
		environ:   slices.Concat(managedMode, []string{"DATABASE_URL=" + stack.Postgres.URL, "TMPDIR=" + work}),
		candidate: filepath.Join(work, "policy"),
		bundle:    filepath.Join(work, "policy.tar.gz"),
		run:       time.Now().UnixNano(),
	}
	return t, os.CopyFS(t.candidate, os.DirFS("policies"))
}

func (t *policyTool) command(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, t.service, append([]string{"policy"}, args...)...)
	cmd.Env = t.environ
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("iam-service policy %s: %w: %s", args[0], err, bytes.TrimSpace(out))
	}
	return string(out), nil
}

// push builds and uploads a policy with a denial that never fires, and returns its revision.
func (t *policyTool) push(ctx context.Context, n int) (id string, err error) {
	rule := fmt.Sprintf("package iam.claims\n\n# METADATA\n# title: Never fires\n# description: For the measurement.\n# custom:\n#   code: measured\n"+
		"denials contains _reason(rego.metadata.rule()) if _tenant.id == \"nothing-%d-%d\"\n", t.run, n)
	if err := os.WriteFile(filepath.Join(t.candidate, "iam", "claims", "measured.rego"), []byte(rule), 0o600); err != nil {
		return "", err
	}
	if _, err := t.command(ctx, "build", t.candidate, "-o", t.bundle); err != nil {
		return "", err
	}
	out, err := t.command(ctx, "push", t.bundle)
	if err != nil {
		return "", err
	}
	match := storedRevision.FindStringSubmatch(out)
	if match == nil {
		return "", errors.New("unexpected output of iam-service policy push: " + out)
	}
	return match[1], nil
}

// activate activates a revision. While a replica has not prepared it, activate retries: nothing has changed yet, so
// the time until then is not measured.
func (t *policyTool) activate(ctx context.Context, id string) (began time.Time, err error) {
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		began = time.Now()
		if _, err = t.command(ctx, "activate", id); err == nil || began.After(until) || ctx.Err() != nil {
			return began, err
		}
	}
}

func (t *policyTool) rollBack(ctx context.Context) (began time.Time, err error) {
	began = time.Now()
	_, err = t.command(ctx, "rollback")
	return began, err
}
