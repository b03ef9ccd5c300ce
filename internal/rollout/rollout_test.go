package rollout_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/policy/authoring"
	"iam-service/internal/postgres"
	"iam-service/internal/postgres/postgrestest"
	"iam-service/internal/rollout"
)

func TestMain(m *testing.M) { os.Exit(postgrestest.Run(m)) }

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
	f := &fleet{T: t, url: postgrestest.URL(t)}
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
	pc := policy.Config{Log: slog.New(slog.DiscardHandler), OnPassed: func(ctx context.Context, c *policy.Candidate, rev *policy.Revision) (bool, error) {
		return r.Passed(ctx, c, rev)
	}}
	rc := rollout.Config{DB: f.db, Follows: true, Unsigned: true, Replica: name, Log: slog.New(slog.DiscardHandler)}
	change(&pc, &rc)
	var err error
	r.engine, err = policy.NewEngine(pc)
	f.ok(err)
	r.admin = admin.New(admin.Config{DB: f.db, Engine: r.engine, Log: slog.New(slog.DiscardHandler)})
	rc.Engine, rc.Admin = r.engine, r.admin
	r.Service = rollout.New(rc)
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
	f.ok(one.engine.Offer(ctx, candidate("v1")))
	f.ok(two.Sync(ctx))
	if one.name() != "v1" || two.name() != "v1" {
		t.Errorf("one has %q in force, two %q", one.name(), two.name())
	}
	f.ok(two.engine.Offer(ctx, candidate("v2")))
	f.ok(one.Sync(ctx))
	if one.name() != "v2" || two.name() != "v2" {
		t.Errorf("one has %q in force, two %q", one.name(), two.name())
	}
	// What was replaced is not taken again, by none of them.
	for _, r := range []*replica{one, two, f.replica("three", usual)} {
		if err := r.engine.Offer(ctx, candidate("v1")); err == nil || !strings.Contains(err.Error(), "only a rollback brings it back") {
			t.Errorf("it is taken again: %v", err)
		}
	}
	f.ok(f.rollback(one))
	f.ok(one.Sync(ctx))
	f.ok(two.Sync(ctx))
	if one.name() != "v1" || two.name() != "v1" {
		t.Errorf("after the rollback one has %q in force, two %q", one.name(), two.name())
	}
	if err := one.engine.Offer(ctx, candidate("v2")); err == nil {
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
	f.ok(f.replica("one", usual).engine.Offer(ctx, candidate("v1")))
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
	if two.name() != "v1" || two.engine.Status().Refused != nil {
		t.Errorf("%q is in force, %+v", two.name(), two.engine.Status().Refused)
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
	f.ok(f.replica("one", usual).engine.Offer(ctx, candidate("v1")))
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

// A database that is restored from a backup knows nothing of the newest: whoever brings it
// again is heard.
func TestWhatADatabaseHasForgottenIsTakenAgain(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	one := f.replica("one", usual)
	f.ok(one.engine.Offer(ctx, candidate("v1")))
	f.ok(one.engine.Offer(ctx, candidate("v2")))
	conn, err := pgx.Connect(ctx, f.url)
	f.ok(err)
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, `DELETE FROM policy_activations WHERE seq = (SELECT max(seq) FROM policy_activations)`)
	f.ok(err)
	f.ok(one.Sync(ctx))
	if one.name() != "v1" {
		t.Fatalf("%q is in force", one.name())
	}
	f.ok(one.engine.Offer(ctx, candidate("v2")))
	if one.name() != "v2" {
		t.Errorf("%q is in force", one.name())
	}
}

// One that cannot run what is in force says so, and goes on with what it had.
func TestAReplicaThatCannotFollowSaysSo(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	one := f.replica("one", usual)
	two := f.replica("two", func(pc *policy.Config, rc *rollout.Config) {
		pc.Headers, rc.Patience = []string{"X-Tenant-ID", "X-User-ID"}, time.Nanosecond
	})
	f.ok(one.engine.Offer(ctx, candidate("v1")))
	f.ok(two.Sync(ctx))
	f.ok(two.Behind())
	other := candidate("v2")
	other.Data = map[string]any{"iam": map[string]any{"config": map[string]any{"headers": []any{"X-User-ID", "X-User-Roles"}}}}
	f.ok(one.engine.Offer(ctx, other))
	if err := two.Sync(ctx); err == nil || !strings.Contains(err.Error(), "X-User-Roles is absent from GATEWAY_HEADERS") {
		t.Errorf("got %v", err)
	}
	if two.Behind() == nil {
		t.Error("it is ready although it answers by other rules")
	}
	two.Prepare(ctx)
	if two.name() != "v1" || two.engine.Status().Refused == nil || two.engine.Status().Refused.Digest == "" {
		t.Errorf("%q is in force, %+v", two.name(), two.engine.Status().Refused)
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
	f.ok(one.engine.Offer(ctx, ours))
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
	if r := newer.engine.Status().Refused; r == nil || r.Digest == ours.Digest() {
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
	if r := newer.engine.Status().Refused; newer.name() != "" || r == nil {
		t.Errorf("%q is in force, refused is %+v", newer.name(), r)
	}
}

// A key follows another: while both are known either will do, and what is sent again with
// the new one is verified by it alone.
func TestAKeyFollowsAnother(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	dir := t.TempDir()
	oldFile, oldPEM := f.key(dir, "old")
	newFile, newPEM := f.key(dir, "new")
	folder := filepath.Join(dir, "policy")
	for name, text := range candidate("v1").Modules {
		f.ok(os.MkdirAll(filepath.Dir(filepath.Join(folder, name)), 0o755))
		f.ok(os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600))
	}
	f.ok(os.MkdirAll(filepath.Join(folder, "iam", "config"), 0o755))
	f.ok(os.WriteFile(filepath.Join(folder, "iam", "config", "data.json"), []byte(`{"headers": ["X-User-ID"]}`), 0o600))
	f.ok(os.WriteFile(filepath.Join(folder, ".manifest"), []byte(`{"roots": ["iam"], "revision": "v1"}`), 0o600))
	with := func(keys ...string) *replica {
		return f.replica("r", func(pc *policy.Config, rc *rollout.Config) {
			key, err := policy.ParseKey([]byte(strings.Join(keys, "")))
			f.ok(err)
			pc.Key, pc.SignedOnly, rc.Unsigned = key, true, false
		})
	}
	send := func(r *replica, file string) error {
		packed, err := authoring.Build(folder, "v1", &authoring.Signer{File: file, ID: "iam"})
		f.ok(err)
		c, err := r.engine.Unpack("test", packed, false)
		if err != nil {
			return err
		}
		return r.engine.Offer(ctx, c)
	}
	f.ok(send(with(oldPEM), oldFile))
	f.ok(with(oldPEM, newPEM).Sync(ctx))
	f.ok(with(newPEM, oldPEM).Sync(ctx))
	if err := with(newPEM).Sync(ctx); err == nil {
		t.Error("what the old key has signed is taken for signed by the new one")
	}
	if err := send(with(newPEM), oldFile); err == nil {
		t.Error("what the old key has signed is taken with the new one")
	}
	f.ok(send(with(newPEM), newFile))
	last := with(newPEM)
	f.ok(last.Sync(ctx))
	if last.name() != "v1" {
		t.Errorf("%q is in force", last.name())
	}
}

func (f *fleet) key(dir, name string) (file, public string) {
	f.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	f.ok(err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	f.ok(err)
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	f.ok(err)
	file = filepath.Join(dir, name+".pem")
	f.ok(os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	return file, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}
