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

	"github.com/jackc/pgx/v5"

	"iam-service/internal/admin"
	"iam-service/internal/dev/pgtest"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/policyops/rollout"
	"iam-service/internal/postgres"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

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

// replica is one with a name; change its settings before it is made.
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

func usual(*policy.Config, *rollout.Config) {}

// candidate is a policy that differs from others by what it says.
func candidate(says string) *policy.Candidate {
	return &policy.Candidate{
		Source: "test", Name: says, Roots: []string{"iam"}, Modules: map[string]string{
			"iam/claims/p.rego": "package iam.claims\n\ndecision := {\"allow\": false, \"reasons\": [{\"code\": \"" + says + "\", \"title\": \"t\"}]}\n",
		}, Data: map[string]any{"iam": map[string]any{"config": map[string]any{"headers": []any{"X-User-ID"}}}},
	}
}

func (r *replica) name() string {
	if now := r.engine.Revision(); now != nil {
		return now.Name
	}
	return ""
}

func TestAllReplicasFollowWhatOneHasTaken(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	one, two := f.replica("one", usual), f.replica("two", usual)
	f.ok(one.engine.Submit(ctx, candidate("v1")))
	f.ok(two.Sync(ctx))
	if one.name() != "v1" || two.name() != "v1" {
		t.Errorf("one has %q in force, two %q", one.name(), two.name())
	}
	f.ok(two.engine.Submit(ctx, candidate("v2")))
	f.ok(one.Sync(ctx))
	if one.name() != "v2" || two.name() != "v2" {
		t.Errorf("one has %q in force, two %q", one.name(), two.name())
	}
	// What was replaced is not taken again, by none of them.
	for _, r := range []*replica{one, two, f.replica("three", usual)} {
		if err := r.engine.Submit(ctx, candidate("v1")); err == nil || !strings.Contains(err.Error(), "only a rollback activates it again") {
			t.Errorf("it is taken again: %v", err)
		}
	}
	f.ok(f.rollback(one))
	f.ok(one.Sync(ctx))
	f.ok(two.Sync(ctx))
	if one.name() != "v1" || two.name() != "v1" {
		t.Errorf("after the rollback one has %q in force, two %q", one.name(), two.name())
	}
	if err := one.engine.Submit(ctx, candidate("v2")); err == nil {
		t.Error("what was rolled back is taken again")
	}
}

func (f *fleet) rollback(r *replica) error {
	return r.admin.Do(ctx, admin.Caller{Operator: "test", Via: "command"}, admin.Task{Action: "policy:rollback", Writes: true}, func(ctx context.Context, w *admin.Work) error {
		_, err := w.RollBackPolicy(ctx, "", "")
		return err
	})
}

// Who asks may leave: what was cut off by that is no fault of the policy's.
func TestALookThatWasCutOffIsNotRemembered(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.ok(f.replica("one", usual).engine.Submit(ctx, candidate("v1")))
	two := f.replica("two", usual)
	gone, leave := context.WithCancel(ctx)
	leave()
	if err := two.Sync(gone); err == nil {
		t.Error("a look that was cut off has seen something")
	}
	if r, err := two.Revision(gone, f.inForce()); err != nil || r.Name != "v1" {
		t.Errorf("%v, %v: who asks for it has left, and it is prepared all the same", r, err)
	}
	f.ok(two.Sync(ctx))
	if two.name() != "v1" || two.engine.Status().Rejected != nil {
		t.Errorf("%q is in force, %+v", two.name(), two.engine.Status().Rejected)
	}
}

func (f *fleet) inForce() string {
	f.Helper()
	orders, err := f.db.PolicyOrders(ctx)
	f.ok(err)
	return orders.InForce
}

// What is kept under a digest must be what has it, whoever has changed the row.
func TestWhatIsKeptUnderAnotherNameIsNotTaken(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.ok(f.replica("one", usual).engine.Submit(ctx, candidate("v1")))
	other, err := candidate("v2").Pack()
	f.ok(err)
	conn, err := pgx.Connect(ctx, f.url)
	f.ok(err)
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, `UPDATE policy_revisions SET bundle = $1`, other)
	f.ok(err)
	two := f.replica("two", usual)
	if err := two.Sync(ctx); err == nil || two.name() != "" {
		t.Errorf("%q is in force, %v", two.name(), err)
	}
}

// A restore or a failover can lose an activation. Replicas that have seen it keep its policy and
// say so, until the next activation, whose sequence is above all that they have seen.
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
	two := f.replica("two", usual)
	f.ok(two.Sync(ctx)) // it knows what the database knows
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

// What the database has lost can be submitted again.
func TestALostActivationCanBeMadeAgain(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	one := f.replica("one", usual)
	f.ok(one.engine.Submit(ctx, candidate("v1")))
	f.ok(one.engine.Submit(ctx, candidate("v2")))
	f.forgetLastActivation()
	two := f.replica("two", usual)
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

// Looks overlap: what an older one has seen does not replace what a newer one has.
func TestALookThatWasOvertakenPutsNothingBack(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	one, two := f.replica("one", usual), f.replica("two", func(_ *policy.Config, rc *rollout.Config) { rc.Patience = time.Nanosecond })
	f.ok(one.engine.Submit(ctx, candidate("v1")))
	f.ok(two.Sync(ctx))
	f.ok(one.engine.Submit(ctx, candidate("v2")))
	f.ok(two.Sync(ctx)) // both are prepared: what follows is a swap of pointers
	f.ok(f.rollback(one))
	seen, proceed := make(chan struct{}), make(chan struct{})
	var later atomic.Bool
	two.AfterRead(func() error {
		if !later.Swap(true) {
			close(seen)
			<-proceed
		}
		return nil
	})
	overtaken := make(chan error)
	go func() { overtaken <- two.Sync(ctx) }() // it sees v1, of the rollback
	<-seen
	f.ok(one.engine.Submit(ctx, candidate("v3")))
	f.ok(two.Sync(ctx))
	if two.name() != "v3" {
		t.Fatalf("%q is in force", two.name())
	}
	close(proceed)
	f.ok(<-overtaken)
	if two.name() != "v3" {
		t.Errorf("%q was put back", two.name())
	}
	f.ok(two.Behind())
}

// However many look at once, what is in force only ever goes on.
func TestManyLooksAtOncePutNothingBack(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	one := f.replica("one", usual)
	var log activated
	two := f.replica("two", func(pc *policy.Config, _ *rollout.Config) { pc.Log = slog.New(&log) })
	const rounds = 30
	var looking sync.WaitGroup
	stop := make(chan struct{})
	for range 6 {
		looking.Go(func() {
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
	looking.Wait()
	f.ok(two.Sync(ctx))
	names := log.names()
	if !slices.IsSorted(names) || two.name() != fmt.Sprintf("v%02d", rounds-1) {
		t.Errorf("in force were %v, and now %q", names, two.name())
	}
}

// activated collects the names of what comes into force, and messages.
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

// One that cannot run what is in force says so, and goes on with what it had.
func TestAReplicaThatCannotFollowSaysSo(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	one := f.replica("one", usual)
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
		t.Error("it is ready although it answers by other rules")
	}
	two.Prepare(ctx)
	if two.name() != "v1" || two.engine.Status().Rejected == nil || two.engine.Status().Rejected.Digest == "" {
		t.Errorf("%q is in force, %+v", two.name(), two.engine.Status().Rejected)
	}
	var seen []iam.PolicyReplica
	f.ok(one.admin.Do(ctx, admin.Caller{Operator: "test"}, admin.Task{Action: "policy:read"}, func(ctx context.Context, w *admin.Work) (err error) {
		seen, err = w.PolicyReplicas(ctx)
		return err
	}))
	for _, r := range seen {
		if r.Replica == "two" && !bytes.Contains(r.Refused, []byte("GATEWAY_HEADERS")) {
			t.Errorf("it does not say why: %+v", r)
		}
	}
}

// The policy that is part of the program was in force before the first other one, and can be
// again, though nobody has signed it: on replicas that bring the same one along.
func TestTheEmbeddedPolicyCanBeRolledBackTo(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	_, public := f.key(t.TempDir(), "key")
	state := t.TempDir()
	replaced := filepath.Join(state, "policy.tar.gz")
	f.ok(os.WriteFile(replaced, []byte("what was bad"), 0o600))
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
	f.ok(one.Sync(ctx)) // it says what it has in force
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
	// Where nobody has it ready, nobody may be able to run it.
	if err := back(); iam.CodeOf(err) != "policy_not_prepared" {
		t.Errorf("got %v", err)
	}
	_ = newer.Sync(ctx) // as below
	newer.Prepare(ctx)
	if r := newer.engine.Status().Rejected; r == nil || r.Digest == ours.Digest() {
		t.Errorf("what nobody wants of another version is refused: %+v", r)
	}
	_ = one.Sync(ctx) // v1 is not signed: it is not in force here, and what was before it is to be ready
	one.Prepare(ctx)
	f.ok(back())
	var names []string
	for _, a := range activations {
		names = append(names, a.Kind+" "+a.Name)
	}
	if got := strings.Join(names, ", "); got != "rollback ours, activate v1, source ours" {
		t.Errorf("in force were, the last one first, %s", got)
	}
	f.ok(one.Sync(ctx))
	one.Prepare(ctx)
	if one.name() != "ours" {
		t.Errorf("%q is in force", one.name())
	}
	if _, err := os.Stat(replaced); err == nil {
		t.Error("a start would find what was replaced")
	}
	// Another version says so where it is to be in force.
	if err := newer.Sync(ctx); err == nil || !strings.Contains(err.Error(), "part of another version of the program") {
		t.Errorf("got %v", err)
	}
	if r := newer.engine.Status().Rejected; newer.name() != "" || r == nil {
		t.Errorf("%q is in force, refused is %+v", newer.name(), r)
	}
}
