package adminapi_test

import (
	"testing"
	"time"

	"iam-service/internal/dev/await"
	"iam-service/internal/iam"
)

func replicaOf(r reply, name string) map[string]any {
	list, _ := r.field("replicas").([]any)
	for _, x := range list {
		if m, _ := x.(map[string]any); m["replica"] == name {
			return m
		}
	}
	return nil
}

func TestTheOverviewShowsWhatIsInForceAndHowFresh(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{decisions: true})
	age, p99 := 0.25, 0.004
	w.OK(w.policies.Sync(ctx))
	w.OK(w.DB.ReportPolicy(ctx, iam.PolicyReplica{
		Replica: "new", Version: "v2", InForce: "0123456789abcdef", Since: time.Now(), Prepared: []string{},
		Facts: &iam.ReplicaFacts{State: "suspect", Age: &age, Window: 300, Propagation99: &p99, Probes: 7, Changes: 3},
	}))
	// The release before reports no facts, also under a name that has reported some.
	for _, name := range []string{"old", "rolled back"} {
		w.OK(w.DB.ReportPolicy(ctx, iam.PolicyReplica{Replica: name, Prepared: []string{}, Facts: &iam.ReplicaFacts{State: "fresh"}}))
		_, err := w.sql().Exec(ctx, `
			INSERT INTO policy_replicas AS p (replica, version, in_force, source, prepared, seq) VALUES ($1, 'v1', '', '', '{}', 0)
			ON CONFLICT ON CONSTRAINT policy_replicas_pkey DO UPDATE SET version = excluded.version, seen_at = now()`, name)
		w.OK(err)
	}
	w.OK(w.DB.ReportPolicy(ctx, iam.PolicyReplica{Replica: "gone", Prepared: []string{}}))
	_, err := w.sql().Exec(ctx, `UPDATE policy_replicas SET seen_at = now() - interval '1 minute' WHERE replica = 'gone'`)
	w.OK(err)

	r := w.want(200, "audrey", "GET", "/v1/overview", nil)
	facts, _ := replicaOf(r, "new")["facts"].(map[string]any)
	if facts["fresh"] != false || facts["state"] != "suspect" || facts["age_seconds"] != age || facts["propagation_p99_seconds"] != p99 ||
		facts["probes"] != 7.0 || facts["changes"] != 3.0 || replicaOf(r, "new")["revision"] != "0123456789ab" {
		t.Errorf("%s", r)
	}
	if replicaOf(r, "old")["facts"] != nil || replicaOf(r, "rolled back")["facts"] != nil || replicaOf(r, "old") == nil || replicaOf(r, "gone") != nil {
		t.Errorf("%s", r)
	}
	if r.field("policy", "shared") != false || r.field("policy", "revision") == nil || r.field("clients", "drift") != nil {
		t.Errorf("%s", r)
	}

	revision := w.upload(201, "paula", w.named("pilot"))
	w.want(200, "paula", "POST", "/v1/policy/revisions/"+revision+":activate", map[string]any{"reason": "pilot", "force": true})
	p := w.want(200, "paula", "GET", "/v1/overview", nil)
	if p.field("policy", "shared") != true || p.field("policy", "revision") != revision || p.field("policy", "reason") != "pilot" ||
		p.field("policy", "by") != "user "+w.user("paula") || p.field("policy", "kind") != "activate" {
		t.Errorf("%s", p)
	}
}

func TestTheOverviewCountsWhatIsPending(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{loop: true})
	before := w.want(200, "audrey", "GET", "/v1/overview", nil)
	w.want(201, "root", "POST", "/v1/tenants", map[string]any{"id": "later", "slug": "later", "name": "Later"})
	r := w.want(200, "audrey", "GET", "/v1/overview", nil)
	pending, _ := before.field("outbox", "pending").(float64)
	if oldest, _ := r.field("outbox", "oldest_seconds").(float64); r.field("outbox", "pending") != pending+1 || oldest <= 0 {
		t.Errorf("%s, and before %s", r, before)
	}

	// The reconciler's last comparison is remembered, also for a replica that compares nothing.
	w.client("acme", nil)
	other := newWorld(t, settings{replicaOf: w, noClients: true})
	await.True(other, "a comparison is remembered", func() bool {
		r = other.want(200, "audrey", "GET", "/v1/overview", nil)
		return r.field("clients", "drift", "compared") == 1.0
	})
	if r.field("clients", "drift", "differences") != 0.0 || r.field("clients", "pending") != 0.0 {
		t.Errorf("%s", r)
	}
}

func TestOnlyReadersOfThePlatformSeeTheOverview(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	tokens := w.cast()
	for who, may := range callers {
		w.want(may("overview:read", ""), tokens[who], "GET", "/v1/overview", nil)
	}
}

// A database that does not answer is no empty platform.
func TestTheOverviewIsNeverEmptyBecauseTheDatabaseFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	tx, err := w.sql().Begin(ctx)
	w.OK(err)
	defer tx.Rollback(ctx)
	_, err = tx.Exec(ctx, `LOCK TABLE outbox`)
	w.OK(err)
	w.want(503, "audrey", "GET", "/v1/overview", nil)
}
