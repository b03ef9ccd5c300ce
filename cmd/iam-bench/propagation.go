package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"iam-service/internal/dev/devstack"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// The targets; the run fails if it misses one.
const (
	propagationP99 = 100 * time.Millisecond
	propagationMax = time.Second
)

// propagation removes roles while replicas of the production program are under load. It prints the time from
// sending a change to the database until the last response with the role.
func propagation(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("iam-bench propagation", flag.ContinueOnError)
	service := flags.String("service", "bin/iam-service", "the program to measure")
	replicas := flags.Int("replicas", 3, "replicas on this machine")
	changes := flags.Int("changes", 200, "roles to remove")
	rate := flags.Int("rate", 300, "concurrent enrichments a second, over all replicas")
	dir := flags.String("dir", ".dev/propagation", "folder of the database")
	if err := flags.Parse(args); err != nil {
		return err
	}
	stack, stopStack, err := seeded(ctx, *dir, "127.0.0.1:8096", 10_000, 100)
	if err != nil {
		return err
	}
	defer stopStack()
	db, err := postgres.Open(ctx, postgres.Config{
		URL: stack.Postgres.URL, Issuers: iam.Issuers{{URL: stack.RAuth.Issuer, Tenants: []string{"*"}, Platform: true}}, FactsLimit: 5 * time.Second, FactsAcquire: 5 * time.Second,
	}, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return err
	}
	defer db.Close()
	streams, err := writeStreams(*dir, stack)
	if err != nil {
		return err
	}
	all, err := startReplicas(ctx, stack, *service, *replicas, "ADMIN_AUDIENCE="+devstack.AdminAudience, "SIGNALS_FILE="+streams, signalSecret+"="+signalSecretValue)
	if err != nil {
		return err
	}
	defer stopReplicas(all)

	load := startLoad(ctx, stack, all, *rate)
	defer load.stop()
	b := &propagationBench{stack: stack, db: db, all: all, groups: map[string]string{}}
	var slow []error
	for i, w := range ways(b) {
		took := make([]time.Duration, 0, *changes)
		for n := range *changes {
			d, err := b.removeRole(ctx, w, i**changes+n)
			if err != nil {
				return fmt.Errorf("%s, change %d: %w", w.name, n, err)
			}
			took = append(took, d)
		}
		slices.Sort(took)
		p99, longest := took[len(took)*99/100], took[len(took)-1]
		fmt.Printf("%-40s %d changes, until no replica answered with the role: p50 %s, p99 %s, at most %s\n", w.name, *changes,
			took[len(took)/2].Round(100*time.Microsecond), p99.Round(100*time.Microsecond), longest.Round(100*time.Microsecond))
		if p99 >= propagationP99 || longest >= propagationMax {
			slow = append(slow, fmt.Errorf("%s: the target is a p99 below %s and a maximum below %s", w.name, propagationP99, propagationMax))
		}
	}
	load.stop()
	fmt.Printf("%d replicas, %d other enrichments meanwhile (%d failed)\n", *replicas, load.sent.Load(), load.failed.Load())
	return errors.Join(slow...)
}

// propagationBench is what changes are sent to and measured at.
type propagationBench struct {
	stack *devstack.Stack
	db    *postgres.DB
	all   []*replica

	groups map[string]string // of SCIM, by user
}

// removeRole removes the role editor from one user in a way, and returns how long some replica still returned it.
func (b *propagationBench) removeRole(ctx context.Context, w way, n int) (time.Duration, error) {
	stack, db, all := b.stack, b.db, b.all
	user, found, err := db.User(ctx, stack.RAuth.Issuer, fmt.Sprintf("user-%d", n))
	if err != nil || !found {
		return 0, errors.Join(errors.New("the user does not exist"), err)
	}
	m := user.Memberships[0]
	m.Roles = []string{"editor"}
	if err := db.PutMembership(ctx, m); err != nil {
		return 0, err
	}
	if w.prepare != nil {
		if err := w.prepare(ctx, user); err != nil {
			return 0, err
		}
	}
	token, err := userToken(stack, n)
	if err != nil {
		return 0, err
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	defer client.CloseIdleConnections()
	has := func(r *replica) (bool, error) {
		headers, err := r.enrich(client, token)
		if status, ok := errors.AsType[*statusError](err); ok && (status.status == http.StatusUnauthorized || status.status == http.StatusForbidden) {
			return false, nil
		}
		return strings.Contains(headers.Get("X-User-Roles"), "editor"), err
	}
	for _, r := range all { // until each has cached a decision with the role
		for until := time.Now().Add(5 * time.Second); ; {
			ok, err := has(r)
			if err != nil {
				return 0, err
			}
			if ok {
				break
			}
			if time.Now().After(until) {
				return 0, errors.New("a granted role is not in a response after 5 s")
			}
		}
	}
	return lastResponse(all, has, func() (time.Time, error) {
		if w.ends != nil {
			return w.ends(ctx, user)
		}
		sent := time.Now()
		return sent, w.remove(ctx, user)
	})
}
