package rollout_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/admin"
	"iam-service/internal/dev/pgtest"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/policyops/rollout"
	"iam-service/internal/postgres"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main{M: m}) }

var ctx = context.Background()

// fleet is replicas over one database.
type fleet struct {
	*testing.T
	url string
	db  *postgres.DB
}

type replica struct {
	*rollout.Service
	engine *policy.Engine
	admin  *admin.Service
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{T: t, url: pgtest.URL(t)}
	var err error
	f.db, err = postgres.Open(ctx, postgres.Config{URL: f.url, Conns: 4}, slog.New(slog.DiscardHandler), nil)
	f.ok(err)
	t.Cleanup(f.db.Close)
	return f
}

func (f *fleet) ok(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// replica creates a replica; change adapts its settings.
func (f *fleet) replica(name string, change func(*policy.Config, *rollout.Config)) *replica {
	f.Helper()
	r := &replica{}
	pc := policy.Config{Log: slog.New(slog.DiscardHandler)}
	rc := rollout.Config{DB: f.db, Follows: true, Unsigned: true, Replica: name, Log: slog.New(slog.DiscardHandler)}
	change(&pc, &rc)
	var err error
	r.engine, err = policy.NewEngine(pc)
	f.ok(err)
	r.admin = admin.New(admin.Config{DB: f.db, Engine: r.engine, Log: slog.New(slog.DiscardHandler)})
	rc.Engine, rc.Admin = r.engine, r.admin
	r.Service = rollout.New(rc)
	r.engine.SetActivator(r.Passed)
	return r
}

func defaults(*policy.Config, *rollout.Config) {}

// candidate is a policy with the name, which is also the code of its reason.
func candidate(name string) *policy.Candidate {
	return &policy.Candidate{
		Source: "test", Name: name, Roots: []string{"iam"}, Modules: map[string]string{
			"iam/claims/p.rego": "package iam.claims\n\ndecision := {\"allow\": false, \"reasons\": [{\"code\": \"" + name + "\", \"title\": \"t\"}]}\n",
		}, Data: map[string]any{"iam": map[string]any{"config": map[string]any{"headers": []any{"X-User-ID"}}}},
	}
}

func (r *replica) name() string {
	if now := r.engine.Revision(); now != nil {
		return now.Name
	}
	return ""
}

func TestAllReplicasActivateWhatOneAccepts(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	one, two := f.replica("one", defaults), f.replica("two", defaults)
	f.ok(one.engine.Submit(ctx, candidate("v1")))
	f.ok(two.Sync(ctx))
	if one.name() != "v1" || two.name() != "v1" {
		t.Errorf("one runs %q, two %q", one.name(), two.name())
	}
	f.ok(two.engine.Submit(ctx, candidate("v2")))
	f.ok(one.Sync(ctx))
	if one.name() != "v2" || two.name() != "v2" {
		t.Errorf("one runs %q, two %q", one.name(), two.name())
	}
	// No replica accepts a revision again that was replaced.
	for _, r := range []*replica{one, two, f.replica("three", defaults)} {
		if err := r.engine.Submit(ctx, candidate("v1")); err == nil || !strings.Contains(err.Error(), "only a rollback activates it again") {
			t.Errorf("it is accepted again: %v", err)
		}
	}
	f.ok(f.rollback(one))
	f.ok(one.Sync(ctx))
	f.ok(two.Sync(ctx))
	if one.name() != "v1" || two.name() != "v1" {
		t.Errorf("after the rollback one runs %q, two %q", one.name(), two.name())
	}
	if err := one.engine.Submit(ctx, candidate("v2")); err == nil {
		t.Error("a revision that was rolled back is accepted again")
	}
}

func (f *fleet) rollback(r *replica) error {
	return r.admin.Do(ctx, admin.Caller{Operator: "test", Via: "command"}, admin.Task{Action: "policy:rollback", Writes: true}, func(ctx context.Context, w *admin.Work) error {
		_, err := w.RollBackPolicy(ctx, "", "")
		return err
	})
}

// A canceled caller is no failure of the policy.
func TestACanceledSyncIsNotCachedAsAFailure(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.ok(f.replica("one", defaults).engine.Submit(ctx, candidate("v1")))
	two := f.replica("two", defaults)
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if err := two.Sync(canceled); err == nil {
		t.Error("a canceled sync has succeeded")
	}
	if r, err := two.Revision(canceled, f.active()); err != nil || r.Name != "v1" {
		t.Errorf("%v, %v: it must be prepared although the caller is gone", r, err)
	}
	f.ok(two.Sync(ctx))
	if two.name() != "v1" || two.engine.Status().Rejected != nil {
		t.Errorf("%q is active, %+v", two.name(), two.engine.Status().Rejected)
	}
}

func (f *fleet) active() string {
	f.Helper()
	orders, err := f.db.PolicyOrders(ctx, "")
	f.ok(err)
	return orders.InForce
}

// A stored bundle must have the digest of its row.
func TestABundleWithAnotherDigestIsRejected(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.ok(f.replica("one", defaults).engine.Submit(ctx, candidate("v1")))
	other, err := candidate("v2").Pack()
	f.ok(err)
	conn, err := pgx.Connect(ctx, f.url)
	f.ok(err)
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, `UPDATE policy_revisions SET bundle = $1`, other)
	f.ok(err)
	two := f.replica("two", defaults)
	if err := two.Sync(ctx); err == nil || two.name() != "" {
		t.Errorf("%q is active, %v", two.name(), err)
	}
}

// A restore or a failover can lose an activation. Replicas that have seen it keep its policy and
// report it, until the next activation, whose sequence is higher than all that they have seen.
func TestAReplicaNeverGoesBelowTheActivationThatItHasSeen(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	var log activated
	state := t.TempDir()
	follower := func(pc *policy.Config, rc *rollout.Config) {
		pc.Log, rc.Log, rc.StateDir = slog.New(&log), slog.New(&log), state
	}
	one := f.replica("one", follower)
	f.ok(one.engine.Submit(ctx, candidate("v1")))
	f.ok(one.engine.Submit(ctx, candidate("v2")))
	f.ok(one.Sync(ctx))
	one.Prepare(ctx) // writes STATE_DIR
	f.ok(one.Lost())
	f.forgetLastActivation()
	for range 3 {
		f.ok(one.Sync(ctx))
		one.Prepare(ctx)
	}
	if one.name() != "v2" || one.Lost() == nil || !strings.Contains(one.Lost().Error(), "activate or roll back") {
		t.Errorf("%q is active, %v", one.name(), one.Lost())
	}
	if n := log.count("policy activation lost by the database: activate or roll back to settle which policy is active"); n != 1 {
		t.Errorf("it is logged %d times", n)
	}
	two := f.replica("two", defaults)
	f.ok(two.Sync(ctx)) // it has seen what the database has
	again := f.replica("one, restarted", follower)
	f.ok(again.Sync(ctx))
	again.Prepare(ctx)
	if two.name() != "v1" || again.name() != "v1" || again.Lost() == nil {
		t.Errorf("after a restart %q and %q are active, %v", two.name(), again.name(), again.Lost())
	}
	f.ok(two.engine.Submit(ctx, candidate("v3")))
	for _, r := range []*replica{one, two, again} {
		f.ok(r.Sync(ctx))
		if r.name() != "v3" || r.Lost() != nil {
			t.Errorf("after the next activation %q is active, %v", r.name(), r.Lost())
		}
	}
}

func TestALostPolicyCanBeResubmitted(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	one := f.replica("one", defaults)
	f.ok(one.engine.Submit(ctx, candidate("v1")))
	f.ok(one.engine.Submit(ctx, candidate("v2")))
	f.forgetLastActivation()
	two := f.replica("two", defaults)
	f.ok(two.Sync(ctx))
	f.ok(two.engine.Submit(ctx, candidate("v2")))
	f.ok(one.Sync(ctx))
	if one.name() != "v2" || two.name() != "v2" {
		t.Errorf("%q and %q are active", one.name(), two.name())
	}
}

func (f *fleet) forgetLastActivation() {
	f.Helper()
	conn, err := pgx.Connect(ctx, f.url)
	f.ok(err)
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, `DELETE FROM policy_activations WHERE seq = (SELECT max(seq) FROM policy_activations)`)
	f.ok(err)
}

// Reads overlap: the result of an older one does not replace that of a newer one.
func TestASlowSyncDoesNotActivateAnOlderRevision(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	one, two := f.replica("one", defaults), f.replica("two", func(_ *policy.Config, rc *rollout.Config) { rc.Patience = time.Nanosecond })
	f.ok(one.engine.Submit(ctx, candidate("v1")))
	f.ok(two.Sync(ctx))
	f.ok(one.engine.Submit(ctx, candidate("v2")))
	f.ok(two.Sync(ctx)) // both are prepared: what follows is a swap of pointers
	f.ok(f.rollback(one))
	seen, proceed := make(chan struct{}), make(chan struct{})
	var first atomic.Bool
	two.AfterRead(func() error {
		if !first.Swap(true) {
			close(seen)
			<-proceed
		}
		return nil
	})
	slow := make(chan error)
	go func() { slow <- two.Sync(ctx) }() // it reads v1, of the rollback
	<-seen
	f.ok(one.engine.Submit(ctx, candidate("v3")))
	f.ok(two.Sync(ctx))
	if two.name() != "v3" {
		t.Fatalf("%q is active", two.name())
	}
	close(proceed)
	f.ok(<-slow)
	if two.name() != "v3" {
		t.Errorf("%q was activated", two.name())
	}
	f.ok(two.Behind())
}

func TestConcurrentSyncsActivateNoOlderRevision(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	one := f.replica("one", defaults)
	var log activated
	two := f.replica("two", func(pc *policy.Config, _ *rollout.Config) { pc.Log = slog.New(&log) })
	const rounds = 30
	var syncing sync.WaitGroup
	stop := make(chan struct{})
	for range 6 {
		syncing.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := two.Sync(ctx); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for n := range rounds {
		f.ok(one.engine.Submit(ctx, candidate(fmt.Sprintf("v%02d", n))))
	}
	close(stop)
	syncing.Wait()
	f.ok(two.Sync(ctx))
	names := log.names()
	if !slices.IsSorted(names) || two.name() != fmt.Sprintf("v%02d", rounds-1) {
		t.Errorf("activated were %v, and now %q is active", names, two.name())
	}
}

// activated is a log that collects the names of activated revisions, and all messages.
type activated struct {
	slog.Handler
	mu       sync.Mutex
	all      []string
	messages []string
}

func (*activated) Enabled(context.Context, slog.Level) bool { return true }
func (a *activated) Handle(_ context.Context, r slog.Record) error {
	a.mu.Lock()
	a.messages = append(a.messages, r.Message)
	a.mu.Unlock()
	if r.Message == "policy activated" {
		r.Attrs(func(attr slog.Attr) bool {
			if attr.Key == "name" {
				a.mu.Lock()
				a.all = append(a.all, attr.Value.String())
				a.mu.Unlock()
			}
			return true
		})
	}
	return nil
}

func (a *activated) count(message string) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, m := range a.messages {
		if m == message {
			n++
		}
	}
	return n
}

func (a *activated) names() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.all
}

// A replica that cannot activate the shared revision reports that, and keeps its active one.
func TestAReplicaThatCannotFollowReportsIt(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	one := f.replica("one", defaults)
	two := f.replica("two", func(pc *policy.Config, rc *rollout.Config) {
		pc.Headers, rc.Patience = []string{"X-Tenant-ID", "X-User-ID"}, time.Nanosecond
	})
	f.ok(one.engine.Submit(ctx, candidate("v1")))
	f.ok(two.Sync(ctx))
	f.ok(two.Behind())
	other := candidate("v2")
	other.Data = map[string]any{"iam": map[string]any{"config": map[string]any{"headers": []any{"X-User-ID", "X-User-Roles"}}}}
	f.ok(one.engine.Submit(ctx, other))
	if err := two.Sync(ctx); err == nil || !strings.Contains(err.Error(), "X-User-Roles is missing from GATEWAY_HEADERS") {
		t.Errorf("got %v", err)
	}
	if two.Behind() == nil {
		t.Error("it is ready although it decides by another policy")
	}
	two.Prepare(ctx)
	if two.name() != "v1" || two.engine.Status().Rejected == nil || two.engine.Status().Rejected.Digest == "" {
		t.Errorf("%q is active, %+v", two.name(), two.engine.Status().Rejected)
	}
	var seen []iam.PolicyReplica
	f.ok(one.admin.Do(ctx, admin.Caller{Operator: "test"}, admin.Task{Action: "policy:read"}, func(ctx context.Context, w *admin.Work) (err error) {
		seen, err = w.PolicyReplicas(ctx)
		return err
	}))
	for _, r := range seen {
		if r.Replica == "two" && !bytes.Contains(r.Refused, []byte("GATEWAY_HEADERS")) {
			t.Errorf("it does not report the reason: %+v", r)
		}
	}
}

// The embedded policy was active before the first other one. It can be activated again although it is not signed,
// on replicas that embed the same one.
func TestTheEmbeddedPolicyCanBeRolledBackTo(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	_, public := f.key(t.TempDir(), "key")
	state := t.TempDir()
	replaced := filepath.Join(state, "policy.tar.gz")
	f.ok(os.WriteFile(replaced, []byte("replaced"), 0o600))
	with := func(embedded *policy.Candidate) *replica {
		embedded.Source = "embedded"
		return f.replica(embedded.Name, func(pc *policy.Config, rc *rollout.Config) {
			key, err := policy.ParseKey([]byte(public))
			f.ok(err)
			pc.Key, pc.SignedOnly, rc.Unsigned, rc.Embedded, rc.StateDir = key, true, false, embedded, state
		})
	}
	ours := candidate("ours")
	ours.Embedded = true
	one, newer := with(ours), with(candidate("newer"))
	f.ok(one.engine.Submit(ctx, ours))
	f.ok(one.Sync(ctx)) // it reports its active revision
	service := admin.New(admin.Config{DB: f.db, Log: slog.New(slog.DiscardHandler), Embedded: func() (iam.PolicyRevision, []byte, error) {
		c := candidate("ours")
		packed, err := c.Pack()
		return iam.PolicyRevision{Digest: c.Digest(), Name: c.Name, Source: "embedded", Verified: iam.VerifiedByNobody}, packed, err
	}})
	var activations []iam.PolicyActivation
	f.ok(service.Do(ctx, admin.Caller{Operator: "test"}, admin.Task{Action: "policy:rollback", Writes: true}, func(ctx context.Context, w *admin.Work) error {
		c := candidate("v1")
		packed, err := c.Pack()
		f.ok(err)
		first, _, err := w.AddPolicyRevision(ctx, iam.PolicyRevision{Digest: c.Digest(), Name: "v1", Source: "test", Verified: iam.VerifiedByKey}, packed)
		f.ok(err)
		_, err = w.ActivatePolicy(ctx, first.Digest, admin.Activation{Force: true})
		return err
	}))
	back := func() error {
		return service.Do(ctx, admin.Caller{Operator: "test"}, admin.Task{Action: "policy:rollback", Writes: true}, func(ctx context.Context, w *admin.Work) (err error) {
			if _, err = w.RollBackPolicy(ctx, "", ""); err == nil {
				activations, err = w.PolicyActivations(ctx, 10)
			}
			return err
		})
	}
	// A revision that no replica has prepared may run on none.
	if err := back(); iam.CodeOf(err) != "policy_not_prepared" {
		t.Errorf("got %v", err)
	}
	_ = newer.Sync(ctx) // as below
	newer.Prepare(ctx)
	if r := newer.engine.Status().Rejected; r == nil || r.Digest == ours.Digest() {
		t.Errorf("a revision that is not to be activated is rejected: %+v", r)
	}
	_ = one.Sync(ctx) // v1 is not signed, so it is not active here, and its predecessor is to be prepared
	one.Prepare(ctx)
	f.ok(back())
	var names []string
	for _, a := range activations {
		names = append(names, a.Kind+" "+a.Name)
	}
	if got := strings.Join(names, ", "); got != "rollback ours, activate v1, source ours" {
		t.Errorf("the activations are, newest first, %s", got)
	}
	f.ok(one.Sync(ctx))
	one.Prepare(ctx)
	if one.name() != "ours" {
		t.Errorf("%q is active", one.name())
	}
	if _, err := os.Stat(replaced); err == nil {
		t.Error("a start would find the replaced policy")
	}
	// Another version of the program reports that it cannot activate it.
	if err := newer.Sync(ctx); err == nil || !strings.Contains(err.Error(), "embedded in another version of the program") {
		t.Errorf("got %v", err)
	}
	if r := newer.engine.Status().Rejected; newer.name() != "" || r == nil {
		t.Errorf("%q is active, rejected is %+v", newer.name(), r)
	}
}
