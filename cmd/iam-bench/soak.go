package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/dev/devstack"
)

// soakSettings let administrators write, make caches small enough to be full after the warm-up, and give requests time on a
// busy machine: the run looks for what grows.
var soakSettings = []string{
	"FACTS_ENTRIES=800", "TOKEN_ENTRIES=800", "DECISION_ENTRIES=800", "ENRICH_DEADLINE=2s",
	"ADMIN_AUDIENCE=" + devstack.AdminAudience, "BOOTSTRAP_ADMIN=root", "ADMIN_WRITES_PER_MINUTE=6000", "OPS_PPROF=1",
}

// Phases of a run, as shares of its length. What is measured in the reference is compared with the end.
const (
	warmedUp     = 0.2
	referenceEnd = 0.4
	endBegins    = 0.8
)

// Names of activities.
const (
	activated = "policies activated"
	sampled   = "samples; a connection to the database ended after each"
)

// soaking is a run of the fleet at a bounded rate, with everything going on that goes on in production.
type soaking struct {
	stack    *devstack.Stack
	replicas []*replica
	policies *policyTool
	conn     *pgx.Conn // of the database, to count and to end connections
	length   time.Duration
	began    time.Time
	client   *http.Client

	mu     sync.Mutex
	failed map[string]int               // what failed, by what was seen
	done   map[string]int               // what was done
	took   map[string][][]time.Duration // latencies of enrichments, by phase and window
	window time.Time                    // beginning of the newest
	seen   []sample
}

// soak runs replicas of the production program for a long time and fails if something grows that should not.
func soak(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("iam-bench soak", flag.ContinueOnError)
	service := flags.String("service", "bin/iam-service", "the program to measure")
	replicas := flags.Int("replicas", 2, "replicas on this machine")
	rate := flags.Int("rate", 150, "enrichments a second, over all replicas")
	length := flags.Duration("for", time.Hour, "length of the run; at least 2m")
	dir := flags.String("dir", ".dev/soak", "folder of the database")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *length < 2*time.Minute {
		return errors.New("--for must be 2m or more")
	}
	stack, stopStack, err := seeded(ctx, *dir, "127.0.0.1:8098", 10_000, 100)
	if err != nil {
		return err
	}
	defer stopStack()
	work, err := os.MkdirTemp("", "soak")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }() // a temporary folder
	s := &soaking{
		stack: stack, length: *length, failed: map[string]int{}, done: map[string]int{}, took: map[string][][]time.Duration{},
		client: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
	}
	if s.policies, err = newPolicyTool(*service, stack, work); err != nil {
		return err
	}
	if s.conn, err = pgx.Connect(ctx, stack.Postgres.URL); err != nil {
		return err
	}
	defer s.conn.Close(context.WithoutCancel(ctx))
	settings := append(append([]string{"NATS_URL=" + stack.NATS.ClientURL()}, managedMode...), soakSettings...)
	if s.replicas, err = startReplicas(ctx, stack, *service, *replicas, settings...); err != nil {
		return err
	}
	defer stopReplicas(s.replicas)
	return s.run(ctx, *rate)
}

// run has all activities go on until the end, and judges what was seen.
func (s *soaking) run(ctx context.Context, rate int) error {
	s.began = time.Now()
	during, end := context.WithDeadline(ctx, s.began.Add(s.length))
	defer end()
	var all sync.WaitGroup
	every := func(interval time.Duration, what string, do func(ctx context.Context, n int) error) {
		all.Go(func() {
			tick := time.NewTicker(interval)
			defer tick.Stop()
			for n := 0; ; n++ {
				select {
				case <-tick.C:
				case <-during.Done():
					return
				}
				if err := do(ctx, n); err != nil { // what has begun is finished
					s.count(s.failed, what+": "+err.Error())
				}
				s.count(s.done, what)
			}
		})
	}
	all.Go(func() { s.enrichments(during, rate) })
	every(500*time.Millisecond, "changes by administrators", s.change)
	every(s.length/20, activated, s.activate)
	every(s.length/10, "keys of R-Auth rotated", func(context.Context, int) error { return s.stack.RAuth.Rotate("EdDSA", true) })
	// One connection for both: they must not meet.
	every(s.length/60, sampled, func(ctx context.Context, _ int) error {
		return errors.Join(s.sample(ctx), s.disconnect(ctx))
	})
	all.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return s.judge(os.Stdout)
}

func (s *soaking) count(where map[string]int, what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	where[what]++
}

// phase is where the run is at a time.
func (s *soaking) phase(at time.Time) string {
	switch share := float64(at.Sub(s.began)) / float64(s.length); {
	case share < warmedUp:
		return "warm-up"
	case share < referenceEnd:
		return "reference"
	case share < endBegins:
		return "middle"
	}
	return "end"
}

// enrichments asks at a steady rate, each replica in turn, for users whose tokens are used for a minute.
func (s *soaking) enrichments(ctx context.Context, rate int) {
	type used struct {
		raw   string
		until time.Time
	}
	tokens := make([]used, 2000)
	var inFlight sync.WaitGroup
	defer inFlight.Wait()
	steadily(ctx, rate, func(i int) {
		t := &tokens[i%len(tokens)]
		if now := time.Now(); now.After(t.until) {
			raw, err := userToken(s.stack, 5000+i%len(tokens))
			if err != nil {
				s.count(s.failed, err.Error())
				return
			}
			*t = used{raw, now.Add(time.Minute)}
		}
		raw, r := t.raw, s.replicas[i%len(s.replicas)]
		inFlight.Go(func() {
			began := time.Now()
			err := s.call(context.WithoutCancel(ctx), http.MethodGet, "http://"+r.gateway+"/system/enrich-token", raw, "")
			took := time.Since(began)
			if err != nil {
				s.count(s.failed, "enrichments: "+err.Error())
			}
			phase := s.phase(began)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.done["enrichments"]++
			if len(s.took[phase]) == 0 || began.Sub(s.window) > s.length/60 {
				s.took[phase], s.window = append(s.took[phase], nil), began
			}
			last := len(s.took[phase]) - 1
			s.took[phase][last] = append(s.took[phase][last], took)
		})
	})
}

// call sends one request, and fails unless its status is 2xx.
func (s *soaking) call(ctx context.Context, method, url, token, body string) error {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err == nil && resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s", resp.Status, code(text))
	}
	return err
}

// code is that of a problem document.
func code(text []byte) string {
	_, after, found := bytes.Cut(text, []byte(`"code":"`))
	if !found {
		return ""
	}
	before, _, _ := bytes.Cut(after, []byte(`"`))
	return string(before)
}

// change creates a role, and deletes it with the next change, over another replica.
func (s *soaking) change(ctx context.Context, n int) error {
	token, err := s.stack.RAuth.Mint("ES256", map[string]any{"sub": "root", "client_id": "web", "aud": devstack.AdminAudience})
	if err != nil {
		return err
	}
	roles := "http://" + s.replicas[n%len(s.replicas)].admin + "/v1/tenants/t" + fmt.Sprint(n/2%100) + "/roles"
	if n%2 == 0 {
		return s.call(ctx, http.MethodPost, roles, token, `{"name":"soak","permissions":["doc:read"]}`)
	}
	return s.call(ctx, http.MethodDelete, roles+"/soak", token, "")
}

func (s *soaking) activate(ctx context.Context, n int) error {
	id, err := s.policies.push(ctx, n)
	if err == nil {
		_, err = s.policies.activate(ctx, id)
	}
	return err
}

// disconnect ends a connection of some replica, as a network does: of a pool, of the feed, of a leader.
func (s *soaking) disconnect(ctx context.Context) error {
	_, err := s.conn.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'iam-service%' ORDER BY random() LIMIT 1`)
	return err
}
