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
	"sync"
	"sync/atomic"
	"time"

	"iam-service/internal/dev/devstack"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// The promise, which the run fails without.
const (
	propagationP99  = 100 * time.Millisecond
	propagationMost = time.Second
)

// propagation runs replicas of the production program under load, takes roles away,
// and prints how long it takes until no replica answers with the role: from sending
// the change to the database until the last answer that still had it.
func propagation(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("iam-bench propagation", flag.ContinueOnError)
	service := flags.String("service", "bin/iam-service", "the program to measure")
	replicas := flags.Int("replicas", 3, "replicas on this machine")
	changes := flags.Int("changes", 200, "roles to take away")
	rate := flags.Int("rate", 300, "enrichments a second beside that, over all replicas")
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
	all, err := startReplicas(ctx, stack, *service, *replicas)
	if err != nil {
		return err
	}
	defer stopReplicas(all)

	loading, stop := context.WithCancel(ctx)
	var load sync.WaitGroup
	var asked, failed atomic.Int64
	load.Go(func() { keepAsking(loading, stack, all, *rate, &asked, &failed) })
	took := make([]time.Duration, 0, *changes)
	for i := range *changes {
		d, err := takeRole(ctx, stack, db, all, i)
		if err != nil {
			stop()
			load.Wait()
			return fmt.Errorf("change %d: %w", i, err)
		}
		took = append(took, d)
	}
	stop()
	load.Wait()
	slices.Sort(took)
	p99, most := took[len(took)*99/100], took[len(took)-1]
	fmt.Printf("%d roles were taken away, %d replicas, %d other enrichments meanwhile (%d not answered)\n", *changes, *replicas, asked.Load(), failed.Load())
	fmt.Printf("until no replica answered with the role: p50 %s, p99 %s, at most %s\n",
		took[len(took)/2].Round(100*time.Microsecond), p99.Round(100*time.Microsecond), most.Round(100*time.Microsecond))
	if p99 >= propagationP99 || most >= propagationMost {
		return fmt.Errorf("the promise is p99 below %s and never above %s", propagationP99, propagationMost)
	}
	return nil
}

// keepAsking asks for many users at a steady rate.
func keepAsking(ctx context.Context, stack *devstack.Stack, all []*replica, rate int, asked, failed *atomic.Int64) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32}}
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	var flying sync.WaitGroup
	defer flying.Wait()
	for i := 0; ; i++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		flying.Go(func() {
			token, err := userToken(stack, 5000+i%2000)
			if err == nil {
				_, err = all[i%len(all)].ask(client, token)
			}
			asked.Add(1)
			if err != nil {
				failed.Add(1)
			}
		})
	}
}

// takeRole takes the role editor from one user, and returns how long some replica
// went on answering with it.
func takeRole(ctx context.Context, stack *devstack.Stack, db *postgres.DB, all []*replica, n int) (time.Duration, error) {
	user, found, err := db.User(ctx, stack.RAuth.Issuer, fmt.Sprintf("user-%d", n))
	if err != nil || !found {
		return 0, errors.Join(errors.New("the user is not there"), err)
	}
	m := user.Memberships[0]
	m.Roles = []string{"editor"}
	if err := db.PutMembership(ctx, m); err != nil {
		return 0, err
	}
	token, err := userToken(stack, n)
	if err != nil {
		return 0, err
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	defer client.CloseIdleConnections()
	has := func(r *replica) (bool, error) {
		answer, err := r.ask(client, token)
		return strings.Contains(answer.Get("X-User-Roles"), "editor"), err
	}
	for _, r := range all { // each holds an answer with the role
		for until := time.Now().Add(5 * time.Second); ; {
			ok, err := has(r)
			if err != nil {
				return 0, err
			}
			if ok {
				break
			}
			if time.Now().After(until) {
				return 0, errors.New("a role that was given is not answered within 5 s")
			}
		}
	}
	return lastAnswer(all, has, func() (time.Time, error) {
		sent := time.Now()
		m.Roles = []string{"viewer"}
		return sent, db.PutMembership(ctx, m)
	})
}
