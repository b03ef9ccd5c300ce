package rollout_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"

	"iam-service/internal/dev/await"
	"iam-service/internal/policy"
	"iam-service/internal/policyops/rollout"
)

// One replica finds that its machine is wrong; all others leave the policy to topdown within a second.
func TestADisagreementSwitchesTheMachineOffOnAllReplicas(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	running, stop := context.WithCancel(ctx)
	var loops sync.WaitGroup
	defer loops.Wait()
	defer stop()
	var all []*replica
	for _, name := range []string{"one", "two", "three"} {
		r := f.replica(name, func(p *policy.Config, _ *rollout.Config) { p.MachineMutant, p.VerifyShare = true, 1 })
		r.engine.SetDisagreed(r.Disagreed)
		all = append(all, r)
	}
	c := candidate("v1")
	c.Modules["iam/claims/p.rego"] = "package iam.claims\n\nok if input.token.admin\n\ndecision := {\"allow\": ok, \"tenant\": \"\", \"headers\": {}} if ok\n\nelse := {\"allow\": false, \"status\": 403}\n"
	f.ok(all[0].engine.Submit(ctx, c))
	for _, r := range all {
		f.ok(r.Sync(ctx))
		if got := r.engine.Status().Engine; got.Name != policy.EngineMachine {
			t.Fatalf("%s: %+v", r.Replica(), got)
		}
		loops.Go(func() { r.Run(running, f.notifications(running)) })
	}
	r := all[0].engine.Revision()
	token := r.Token("https://issuer.example", "alice", "", ast.MustInterfaceToValue(map[string]any{"admin": false}))
	d, err := all[0].engine.Decide(ctx, &policy.Input{Token: token, Now: time.Now()}, policy.Basis{Revision: r, Facts: noFacts{}, Deadline: time.Now().Add(time.Minute)})
	if err != nil || d.Allow {
		t.Errorf("%+v, %v", d, err)
	}
	began := time.Now()
	for _, r := range all {
		await.True(t, "topdown evaluates on "+r.Replica(), func() bool { return r.engine.Status().Engine.Name == policy.EngineTopdown })
	}
	t.Logf("all replicas leave the policy to topdown after %s", time.Since(began).Round(time.Millisecond))
	late := f.replica("late", defaults)
	f.ok(late.Sync(ctx))
	if got := late.engine.Status().Engine; got.Name != policy.EngineTopdown {
		t.Errorf("a replica that starts later: %+v", got)
	}
	other := f.replica("another version", func(_ *policy.Config, r *rollout.Config) { r.Version = "v2" })
	f.ok(other.Sync(ctx))
	if got := other.engine.Status().Engine; got.Name != policy.EngineMachine {
		t.Errorf("another version of the program, which may be right: %+v", got)
	}
}

type noFacts struct{}

func (noFacts) Waited() time.Duration { return 0 }
func (noFacts) Read(context.Context, storage.Path) (ast.Value, error) {
	return nil, &storage.Error{Code: storage.NotFoundErr}
}

// notifications are those of changed policies, until ctx ends.
func (f *fleet) notifications(ctx context.Context) <-chan struct{} {
	f.Helper()
	conn, err := pgx.Connect(ctx, f.url)
	f.ok(err)
	var schema string
	f.ok(conn.QueryRow(ctx, "SELECT current_schema()").Scan(&schema))
	_, err = conn.Exec(ctx, `LISTEN "iam_directory_`+schema+`"`)
	f.ok(err)
	changed := make(chan struct{}, 1)
	go func() {
		defer conn.Close(context.WithoutCancel(ctx))
		for {
			n, err := conn.WaitForNotification(ctx)
			if err != nil {
				return
			}
			if strings.HasSuffix(n.Payload, " policy") {
				select {
				case changed <- struct{}{}:
				default:
				}
			}
		}
	}()
	return changed
}
