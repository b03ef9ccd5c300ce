package preview

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/policies"
)

// one is a tenant whose members and facts are those of a platform with one tenant. It counts the evaluations at once.
type one struct {
	*platform
	places chan struct{}
	most   *atomic.Int64
}

func (o one) AsOf(context.Context) (time.Time, error) { return time.Unix(1_900_000_000, 0), nil }

func (o one) UsersIn(ctx context.Context, _, after string, limit int) ([]iam.UserFacts, error) {
	return o.Users(ctx, after, limit)
}

func (o one) ClientsIn(context.Context, string, string, string, int) ([]iam.Client, error) {
	return nil, nil
}

func (o one) Tenant(ctx context.Context, id string) (iam.TenantFacts, bool, error) {
	if n := int64(len(o.places)); n > o.most.Load() {
		o.most.Store(n)
	}
	return o.platform.Tenant(ctx, id)
}

// A subject whose evaluation failed is not one that is denied: a search that has one is not complete, and names it.
func TestASearchCountsTheEvaluationsThatFailed(t *testing.T) {
	t.Parallel()
	engine, err := policy.NewEngine(policy.Config{Log: slog.New(slog.DiscardHandler), Limit: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	c, err := policy.FromFS("test", policies.FS)
	if err != nil {
		t.Fatal(err)
	}
	// Two values of one complete rule: an error of the evaluation, of some users alone.
	c.Modules["iam/claims/more.rego"] = "package iam.claims\n\n" +
		"_both := 1 if input.token.sub in {\"user-000001\", \"user-000003\"}\n\n_both := 2 if input.token.sub in {\"user-000001\", \"user-000003\"}\n\n" +
		"# METADATA\n# title: Closed\n# description: It is closed.\n# custom:\n#   code: closed\n" +
		"denials contains _reason(rego.metadata.rule()) if _both == 3\n"
	revision, err := engine.Prepare(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	question := DefaultQuestions()[0]
	places := make(chan struct{}, 1)
	facts := one{platform: &platform{users: 6, tenants: 1, loads: map[string]int{}}, places: places, most: &atomic.Int64{}}
	failed := map[string]string{}
	sum, err := Search{
		Engine: engine, Issuers: iam.Issuers{{URL: issuer, Tenants: []string{"*"}, Platform: true}}, HeaderMax: 1 << 14,
		Revision: revision, Facts: facts, Tenant: "t0000", Question: question, Limit: 100, Workers: 4, Evaluations: places,
	}.Run(t.Context(), func(Begin) error { return nil }, func(f Found) error {
		if f.Failed != "" {
			failed[f.Subject] = f.Failed
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if sum.Complete || sum.Failed != 2 || sum.Found != 4 || len(failed) != 2 || failed["user-000001"] != "policy_error" {
		t.Errorf("%+v, failed: %v", sum, failed)
	}
	if facts.most.Load() != 1 {
		t.Errorf("%d evaluations held a place, want 1", facts.most.Load())
	}
}

// Searches that share places wait for one, and give up when their caller does.
func TestASearchWaitsForAPlaceToEvaluate(t *testing.T) {
	t.Parallel()
	places := make(chan struct{}, 1)
	places <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := &searching{Search: Search{Evaluations: places}}
	if err := r.evaluate(ctx, &Outcome{}, principal{}); err == nil || r.asked.Load() != 0 {
		t.Errorf("it evaluated without a place: %v", err)
	}
}
